//! Datagrams over ordinary TCP connections of the kernel, framed as in [`carrier::tcp_frame`]: for networks that pass nothing else.
//! No privileges are needed.
//!
//! ```text
//!                    TcpLink (one a worker)                            the kernel
//!  train ──► lengths before datagrams ──► one sendmsg ──► connection, any lane's (a lock a train)
//!  train ◄── cut at the lengths ◄── one read ◄────────── connections of this lane ◄── their epoll ◄── accept, connect
//! ```
//!
//! [`bind`] gives a link a worker and a [`TcpHandle`] to dial with. A link is used as a UDP link is: poll its
//! [`descriptors`](TcpLink::descriptors), edge-triggered, and besides call [`TcpLink::handle_timeout`] when
//! [`TcpLink::poll_timeout`] is due. Every connection belongs to one lane, whose link receives from it; every link sends on all of them.
//!
//! Anybody can connect, and nobody is authenticated here. So a connection costs little (some 20 kB at most), has to bring a datagram within
//! [`FIRST_DATAGRAM_WITHIN`], and one that breaks the framing is closed. There are at most [`ACCEPTED_MAX`] of them; then the one that is
//! idle longest makes room, first among those that never brought anything, and last among those that somebody has
//! [vouched](TcpHandle::vouch_for) for. Who is not vouched for must bring something every [`IDLE`]; of the others the kernel asks every few
//! seconds whether they are there.

mod connection;
mod counters;
mod link;
mod receiver;
mod socket;
mod window;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use thiserror::Error;

pub use connection::{ConnectionStatus, Role};
pub use counters::Counts;
pub use link::TcpLink;

use crate::poll::{Interest, Poller, Waker};
use connection::Connection;
use counters::Counters;

/// The longest datagram, in bytes, that a connection carries.
pub const DATAGRAM_MAX: usize = 9_216;
/// Connections that others have opened, at most.
pub const ACCEPTED_MAX: usize = 512;
/// Connections from one IPv4 address, or one IPv6 /64, that have brought no datagram yet, at most.
pub const SILENT_PER_SOURCE_MAX: usize = 16;
/// A connection that has brought no datagram this long after it was accepted is closed.
pub const FIRST_DATAGRAM_WITHIN: Duration = Duration::from_secs(10);
/// A connection that others have opened, and nobody has vouched for, is closed when nothing has come for so long.
pub const IDLE: Duration = Duration::from_secs(180);
/// Datagrams that wait for a connection that is being opened, at most.
pub const HELD_MAX: usize = 8;
/// Addresses that are dialled at one time, at most.
pub const DIALLED_MAX: usize = 1_024;

/// Opening a connection may take this long.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// A connection that ended is opened again at most this often.
const REDIAL: Duration = Duration::from_secs(1);
/// A connection that has brought nothing for so long, though an answer is due, is as good as dead.
const UNHEARD: Duration = Duration::from_secs(2);
/// So are times in a row that the kernel has sent the same bytes again: the path is dead, or does not pass their size (RFC 4821 §7.7).
const RESENT: u8 = 2;
/// A connection that was in order for so long has shown that the path passes its segments.
const PROVED: Duration = Duration::from_mins(1);
/// The token of the listener in the epoll of the first lane.
const LISTENER: u64 = 0;

/// How to [`bind`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpConfig {
    /// The local address and port to answer calls on; `None` to dial only. The wildcard is both families where the kernel has IPv6.
    /// Port 0 takes a free one.
    pub listen: Option<SocketAddr>,
    /// Links to make; each is a lane.
    pub workers: usize,
    /// Bytes of kernel buffer for sending, each connection, as far as the system allows; 0 lets the kernel tune it.
    pub send_buffer_bytes: usize,
    /// Bytes of kernel buffer for receiving, each connection, as far as the system allows; 0 lets the kernel tune it.
    pub receive_buffer_bytes: usize,
}

/// Why [`bind`] failed.
#[derive(Debug, Error)]
pub enum BindError {
    /// Somebody has the port, perhaps another instance of this program.
    #[error("TCP {0} is in use already, perhaps by another instance (see `ss -tlnp`)")]
    AddressInUse(SocketAddr),
    /// The address belongs to no interface of this machine.
    #[error("TCP {0} cannot be listened on: this machine has no such address (see `ip address`)")]
    AddressNotAvailable(SocketAddr),
    /// A port below 1024.
    #[error("TCP {0} may not be listened on: ports below 1024 need CAP_NET_BIND_SERVICE")]
    PermissionDenied(SocketAddr),
    /// Anything else.
    #[error("cannot listen on TCP")]
    Other(#[from] io::Error),
}

impl BindError {
    fn new(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::AddressInUse(address),
            io::ErrorKind::AddrNotAvailable => Self::AddressNotAvailable(address),
            io::ErrorKind::PermissionDenied => Self::PermissionDenied(address),
            _ => Self::Other(source),
        }
    }
}

/// What the links of one [`bind`] have in common.
///
/// Locks are taken in the order `table`, a lane's `members`, a connection's own; most often one at a time.
#[derive(Debug)]
struct Common {
    listener: Option<(TcpListener, SocketAddr)>,
    config: TcpConfig,
    lanes: Vec<Lane>,
    table: Mutex<Table>,
    counters: Counters,
    /// Connections that there have ever been; each has its number as token.
    tokens: AtomicU64,
}

/// What is known of one link by all threads.
#[derive(Debug)]
struct Lane {
    /// Watches the lane's connections, edge-triggered.
    poller: Poller,
    /// Of the link that receives.
    waker: Arc<Waker>,
    members: Mutex<Members>,
}

#[derive(Debug, Default)]
struct Members {
    by_token: HashMap<u64, Arc<Connection>>,
    /// When to look whether one of them has to be closed.
    look_at: Option<Instant>,
}

/// Connections by their far end.
#[derive(Debug, Default)]
struct Table {
    entries: HashMap<SocketAddr, Entry>,
}

#[derive(Debug)]
struct Entry {
    connection: Option<Arc<Connection>>,
    /// Opened again when it ends and something is sent.
    dialled: bool,
    /// Not before.
    redial_at: Instant,
    /// What the path is thought to pass.
    segments: Segments,
}

/// How long the segments of a connection may be, both ways: its maximum segment size (RFC 9293 §3.7.1) as the one who dials announces
/// and keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Segments {
    /// As the kernel finds right for the interface.
    #[default]
    Kernel,
    /// For paths of 1,280 bytes.
    Narrow,
    /// For what IPv4 has at the least, 576 bytes.
    Narrowest,
}

impl Segments {
    /// The maximum segment size, TCP's options included.
    fn size(self, to: SocketAddr) -> Option<i32> {
        let headers = if to.is_ipv4() { 20 + 20 } else { 40 + 20 };
        match self {
            Self::Kernel => None,
            Self::Narrowest if to.is_ipv4() => Some(576 - headers),
            // IPv6 has no narrower paths (RFC 8200 §5).
            Self::Narrow | Self::Narrowest => Some(1_280 - headers),
        }
    }

    fn shorter(self) -> Self {
        match self {
            Self::Kernel => Self::Narrow,
            Self::Narrow | Self::Narrowest => Self::Narrowest,
        }
    }
}

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The other end has closed it, or the kernel has given it up.
    Closed,
    /// It could not be opened.
    NotOpened,
    /// It broke the framing.
    Malformed,
    /// It never brought a datagram.
    Silent,
    /// Nothing came for a long time.
    Idle,
    /// It made room for another one.
    Evicted,
    /// We want no more of it.
    HungUp,
}

/// Dials, hangs up and tells, from any thread. Clones are handles on the same links.
#[derive(Clone, Debug)]
pub struct TcpHandle(Arc<Common>);

/// Makes a link a worker, all with one listener, and a handle to dial with.
///
/// # Errors
/// [`BindError`]; in particular [`BindError::AddressInUse`] when another instance, or another server, listens on the port.
pub fn bind(config: TcpConfig) -> Result<(Vec<TcpLink>, TcpHandle), BindError> {
    let listener = match config.listen {
        Some(address) => {
            Some(socket::listen(address, &config).map_err(|error| BindError::new(address, error))?)
        }
        None => None,
    };
    let lane = || -> io::Result<Lane> {
        Ok(Lane { poller: Poller::new()?, waker: Arc::new(Waker::new()?), members: Mutex::default() })
    };
    let lanes = (0..config.workers.max(1)).map(|_| lane()).collect::<io::Result<Vec<Lane>>>()?;
    if let Some((listener, _)) = &listener {
        lanes[0].poller.add(listener, LISTENER, Interest { edge: true, ..Interest::READ })?;
    }
    let common = Arc::new(Common {
        listener,
        config,
        lanes,
        table: Mutex::default(),
        counters: Counters::default(),
        tokens: AtomicU64::new(LISTENER + 1),
    });
    let links = (0..common.lanes.len()).map(|lane| TcpLink::new(Arc::clone(&common), lane)).collect();
    Ok((links, TcpHandle(common)))
}

impl TcpHandle {
    /// Opens a connection to the listener at `to`, without waiting for it. What is sent there meanwhile waits, up to [`HELD_MAX`] datagrams.
    /// Dialling again what is open or being opened does nothing. When the connection ends, or cannot be opened, sending
    /// opens it again, at most once a second, until [`hang_up`](Self::hang_up).
    ///
    /// # Errors
    /// What the kernel says at once, `NetworkUnreachable` without a route; sending tries again all the same.
    /// `QuotaExceeded`: [`DIALLED_MAX`] addresses are dialled already.
    pub fn dial(&self, to: SocketAddr) -> io::Result<()> {
        let (to, now) = (normal(to), Instant::now());
        let mut table = lock(&self.0.table);
        if !table.entries.get(&to).is_some_and(|entry| entry.dialled)
            && table.entries.values().filter(|entry| entry.dialled).count() >= DIALLED_MAX
        {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let entry = table.entries.entry(to).or_insert(Entry {
            connection: None,
            dialled: true,
            redial_at: now,
            segments: Segments::default(),
        });
        entry.dialled = true;
        if entry.connection.is_none() && now >= entry.redial_at {
            self.0.connect(entry, to, now)?;
        }
        Ok(())
    }

    /// Says that an answer from `to` is overdue. If the connection to it, dialled and open, has stopped to pass anything, it is closed and
    /// another one opened: at once, where the kernel would wait for the user timeout. One that has done so in its first minute
    /// gets a successor of shorter segments: perhaps the path swallows those that it had (a black hole, RFC 2923 §2.1).
    pub fn redial(&self, to: SocketAddr) {
        let (to, now) = (normal(to), Instant::now());
        let stalled = {
            let mut table = lock(&self.0.table);
            let Some(entry) = table.entries.get_mut(&to) else { return };
            let dialled = entry.dialled && now >= entry.redial_at;
            let Some(connection) = entry.connection.clone().filter(|_| dialled) else { return };
            if connection.role != Role::Dialled || !connection.is_open() || !connection.is_stalled(now) {
                return;
            }
            if now.saturating_duration_since(connection.since) < PROVED {
                entry.segments = entry.segments.shorter();
            }
            connection
        };
        self.0.close(&stalled, End::Closed);
        // If that fails, sending tries again.
        let _ = self.dial(to);
    }

    /// Closes the connection to or from `remote`, behind what was sent already, and dials it no more.
    pub fn hang_up(&self, remote: SocketAddr) {
        let removed = lock(&self.0.table).entries.remove(&normal(remote));
        if let Some(connection) = removed.and_then(|entry| entry.connection) {
            self.0.close(&connection, End::HungUp);
        }
    }

    /// Says that whoever is at the far end of the connection with `remote` has been authenticated: it may be quiet for as long
    /// as it likes, and makes room for strangers only when there is nobody else to.
    pub fn vouch_for(&self, remote: SocketAddr) {
        if let Some(connection) = self.0.connection(remote) {
            connection.vouched.store(true, Relaxed);
        }
    }

    /// Whether there is an open connection to or from `remote`.
    pub fn is_open(&self, remote: SocketAddr) -> bool {
        self.0.connection(remote).is_some_and(|connection| connection.is_open())
    }

    /// All connections, those that are being opened included.
    pub fn connections(&self) -> Vec<ConnectionStatus> {
        let connections: Vec<Arc<Connection>> =
            lock(&self.0.table).entries.values().filter_map(|entry| entry.connection.clone()).collect();
        let now = Instant::now();
        connections.iter().map(|connection| connection.status(now)).collect()
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        self.0.counters.read()
    }

    /// Where calls are answered; the IPv6 wildcard for both families.
    pub fn listen_address(&self) -> Option<SocketAddr> {
        self.0.listener.as_ref().map(|(_, address)| *address)
    }
}

impl Common {
    fn connection(&self, remote: SocketAddr) -> Option<Arc<Connection>> {
        lock(&self.table).entries.get(&normal(remote))?.connection.clone()
    }

    /// The connection to send to `to` on, opened anew if it has ended and it is time.
    fn connection_to_send_on(&self, to: SocketAddr, now: Instant) -> io::Result<Arc<Connection>> {
        let to = normal(to);
        let mut table = lock(&self.table);
        let entry = table.entries.get_mut(&to).ok_or(io::ErrorKind::NotConnected)?;
        match &entry.connection {
            Some(connection) => Ok(Arc::clone(connection)),
            None if entry.dialled && now >= entry.redial_at => self.connect(entry, to, now),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Begins to open a connection. The caller holds the table.
    fn connect(&self, entry: &mut Entry, to: SocketAddr, now: Instant) -> io::Result<Arc<Connection>> {
        entry.redial_at = now + REDIAL;
        self.counters.dialled.fetch_add(1, Relaxed);
        let connection = socket::connect(to, entry.segments.size(to), &self.config)
            .and_then(|socket| self.register(Connection::new(socket, to, Role::Dialled, self.token(), now)));
        match connection {
            Ok(connection) => {
                entry.connection = Some(Arc::clone(&connection));
                // The lane's link learns of the new deadline.
                self.lane(&connection).waker.wake();
                Ok(connection)
            }
            Err(error) => {
                self.counters.not_opened.fetch_add(1, Relaxed);
                Err(error)
            }
        }
    }

    fn token(&self) -> u64 {
        self.tokens.fetch_add(1, Relaxed)
    }

    /// Lanes take connections in turn.
    fn lane_number(&self, connection: &Connection) -> usize {
        (connection.token % self.lanes.len() as u64) as usize
    }

    fn lane(&self, connection: &Connection) -> &Lane {
        &self.lanes[self.lane_number(connection)]
    }

    /// Makes a new connection known to its lane, whose link is told when it is open, readable, writable.
    fn register(&self, connection: Connection) -> io::Result<Arc<Connection>> {
        let connection = Arc::new(connection);
        let lane = self.lane(&connection);
        {
            let mut members = lock(&lane.members);
            members.by_token.insert(connection.token, Arc::clone(&connection));
            let look_at = connection.since + FIRST_DATAGRAM_WITHIN.min(CONNECT_WITHIN);
            members.look_at = Some(members.look_at.map_or(look_at, |at| at.min(look_at)));
        }
        let interest = Interest { edge: true, ..Interest::READ_WRITE };
        if let Err(error) = lane.poller.add(&connection.socket, connection.token, interest) {
            lock(&lane.members).by_token.remove(&connection.token);
            return Err(error);
        }
        Ok(connection)
    }

    /// Ends a connection, once; whoever waits for it is woken and will find it gone.
    fn close(&self, connection: &Arc<Connection>, end: End) {
        let Some((datagrams_lost, waiting)) = connection.end() else { return };
        self.counters.lost_with_connection.fetch_add(datagrams_lost, Relaxed);
        let counter = match end {
            End::Closed => &self.counters.closed,
            End::NotOpened => &self.counters.not_opened,
            End::Malformed => &self.counters.malformed,
            End::Silent => &self.counters.silent,
            End::Idle => &self.counters.idle,
            End::Evicted => &self.counters.evicted,
            End::HungUp => &self.counters.hung_up,
        };
        counter.fetch_add(1, Relaxed);

        let lane = self.lane(connection);
        lock(&lane.members).by_token.remove(&connection.token);
        // What fails here has happened already: the kernel may have closed it by itself.
        let _ = lane.poller.remove(&connection.socket);
        if end == End::HungUp {
            let _ = connection.socket.shutdown(Shutdown::Write);
        } else {
            // Nobody is to keep what was not sent, nor wait for an answer.
            let _ = socket::set_abort(&connection.socket);
            let _ = connection.socket.shutdown(Shutdown::Both);
        }
        let mut table = lock(&self.table);
        if let Some(entry) = table.entries.get_mut(&connection.remote)
            && entry.connection.as_ref().is_some_and(|current| Arc::ptr_eq(current, connection))
        {
            entry.connection = None;
            if !entry.dialled {
                table.entries.remove(&connection.remote);
            }
        }
        drop(table);
        for waker in waiting {
            waker.wake();
        }
    }

    /// Enters a connection that somebody has opened, if there is room for it, and closes one that has to make room.
    fn admit(&self, stream: std::net::TcpStream, remote: SocketAddr, now: Instant) {
        let mut table = lock(&self.table);
        let accepted = || {
            let connections = table.entries.values().filter_map(|entry| entry.connection.as_ref());
            connections.filter(|connection| connection.role == Role::Accepted)
        };
        let silent = accepted().filter(|c| !c.delivered.load(Relaxed) && source(c.remote) == source(remote));
        // A connection that we have opened to that very address stays: the other end would not call us as well.
        let taken = table.entries.get(&remote).and_then(|entry| entry.connection.clone());
        let dialled = taken.as_ref().is_some_and(|connection| connection.role == Role::Dialled);
        if dialled || silent.count() >= SILENT_PER_SOURCE_MAX {
            self.counters.refused.fetch_add(1, Relaxed);
            return;
        }
        // The same address again: the earlier connection is of a former life of the other end.
        let mut victim = taken;
        if victim.is_none() && accepted().count() >= ACCEPTED_MAX {
            let worth = |connection: &&Arc<Connection>| {
                let Connection { vouched, delivered, .. } = &***connection;
                (vouched.load(Relaxed), delivered.load(Relaxed), connection.heard_at())
            };
            victim = accepted().min_by_key(worth).cloned();
        }
        match self.register(Connection::new(stream, remote, Role::Accepted, self.token(), now)) {
            Ok(connection) => {
                self.counters.accepted.fetch_add(1, Relaxed);
                let segments = Segments::default();
                let entry = Entry { connection: None, dialled: false, redial_at: now, segments };
                table.entries.entry(remote).or_insert(entry).connection = Some(connection);
            }
            Err(_) => {
                self.counters.refused.fetch_add(1, Relaxed);
                return;
            }
        }
        drop(table);
        if let Some(victim) = victim {
            self.close(&victim, End::Evicted);
        }
    }

    /// Closes the connections of a lane whose time is over.
    fn close_late(&self, lane: &Lane, now: Instant) {
        let mut late = Vec::new();
        let mut members = lock(&lane.members);
        members.look_at = None;
        let mut next: Option<Instant> = None;
        for connection in members.by_token.values() {
            let Some((at, end)) = connection.closes_at() else { continue };
            if now >= at {
                late.push((Arc::clone(connection), end));
            } else {
                next = Some(next.map_or(at, |next| next.min(at)));
            }
        }
        members.look_at = next;
        drop(members);
        for (connection, end) in late {
            self.close(&connection, end);
        }
    }
}

impl Drop for Common {
    /// Connections end as if hung up: what the kernel has taken is still delivered.
    fn drop(&mut self) {
        for entry in lock(&self.table).entries.values() {
            if let Some(connection) = &entry.connection {
                let _ = connection.socket.shutdown(Shutdown::Write);
            }
        }
    }
}

/// A lock whose holder has panicked is as good as any: each change under ours is whole at every call in it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An address as the table has it: IPv4 as IPv4, and no flow label.
fn normal(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => address,
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(IpAddr::V4(v4), v6.port()),
            None => std::net::SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id()).into(),
        },
    }
}

/// Who is counted as one: an IPv4 address, or an IPv6 /64, of which one customer has all.
fn source(address: SocketAddr) -> IpAddr {
    match address.ip() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}
