//! One UDP socket and its sessions: a server has one with a session for each client, a client one for each
//! connection.
//!
//! ```text
//!  socket ─► open ─► session ─► wake the streams' tasks        every datagram that has arrived first,
//!  socket ◄─ seal ◄─ trains  ◄─ sessions that are ready        then what there is to send, as trains
//! ```
//!
//! The tasks of streams change sessions and mark them ready; the driver runs after them, so that what many of them
//! wrote leaves together.

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use log::{debug, info};
use os::udp::UdpLink;
use packet::{Link as _, RecvSlot};
use rand_chacha::ChaCha12Rng;
use rand_core::SeedableRng;
use stream::fec;
use stream::kcp::segment::{Command, Header};
use stream::session::{Session, SessionConfig};
use stream::smux::{Role, StreamId};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::Sleep;

use super::crypt::Cipher;
use super::link::{Link, Ready};
use super::train::{Sent, Train};

/// Trains received in one system call.
const SLOTS: usize = 8;
/// System calls before what was received is acted upon.
const RECEIVES_PER_TURN: usize = 4;
/// Trains of one session before it is another's turn.
const TRAINS_PER_TURN: usize = 4;
/// How long to wait when the kernel is out of buffers.
const NO_BUFFERS_RETRY: Duration = Duration::from_millis(1);
/// Segments that a new client may have sent before the server has answered: kcp-go's first window.
const FIRST_WINDOW: u32 = 32;
/// Clients of one server.
const CLIENTS_MAX: usize = 4096;

/// What happens to streams that the other end opens.
pub(super) type OnOpened = Box<dyn Fn(&Rc<Link>, StreamId)>;

/// What was dropped, and how much passed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    pub(super) datagrams_received: u64,
    pub(super) trains_sent: u64,
    /// A wrong checksum: damaged on its way, or another key or cipher.
    pub(super) not_opened: u64,
    /// Of a session that this end knows nothing of, and that is no new one.
    pub(super) unknown: u64,
    /// Opened, but no sense in it.
    pub(super) malformed: u64,
}

/// One socket and what belongs to it.
pub(super) struct Driver {
    link: UdpLink,
    /// Another handle of the same socket, which tells when it is readable and writable.
    readiness: UdpSocket,
    cipher: Rc<Cipher>,
    rng: ChaCha12Rng,
    ready: Rc<Ready>,
    sessions: HashMap<SocketAddr, Rc<Link>>,
    deadlines: BTreeMap<(Instant, SocketAddr), Rc<Link>>,
    /// The server's: what new sessions are to be like.
    accept: Option<SessionConfig>,
    on_opened: OnOpened,
    slots: Vec<RecvSlot>,
    train: Train,
    /// Whose train could not leave.
    interrupted: Option<Rc<Link>>,
    counters: Counters,
    quiet: bool,
}

impl Driver {
    /// A driver without sessions.
    ///
    /// # Errors
    /// Out of descriptors.
    pub(super) fn new(
        link: UdpLink,
        cipher: Rc<Cipher>,
        mtu: usize,
        on_opened: OnOpened,
    ) -> io::Result<Self> {
        let readiness = UdpSocket::from_std(link.as_fd().try_clone_to_owned()?.into())?;
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(io::Error::other)?;
        Ok(Self {
            link,
            readiness,
            cipher,
            rng: ChaCha12Rng::from_seed(seed),
            ready: Rc::default(),
            sessions: HashMap::new(),
            deadlines: BTreeMap::new(),
            accept: None,
            on_opened,
            slots: (0..SLOTS).map(|_| RecvSlot::new(65_535)).collect(),
            train: Train::new(mtu),
            interrupted: None,
            counters: Counters::default(),
            quiet: false,
        })
    }

    /// Accepts sessions from anybody.
    pub(super) fn accepting(mut self, config: SessionConfig, quiet: bool) -> Self {
        (self.accept, self.quiet) = (Some(config), quiet);
        self
    }

    /// Adds a session.
    pub(super) fn add(&mut self, peer: SocketAddr, session: Session) -> Rc<Link> {
        let link = Link::new(peer, session, Rc::clone(&self.ready));
        if let Some(before) = self.sessions.insert(peer, Rc::clone(&link)) {
            self.forget_deadline(&before);
            before.close();
        }
        link.mark_ready();
        link
    }

    /// Runs until the last session is over, or forever when it accepts sessions.
    pub(super) async fn run(&mut self) {
        let mut sleep = pin!(tokio::time::sleep(Duration::ZERO));
        poll_fn(|cx| self.poll(cx, sleep.as_mut())).await;
        debug!("socket closed: {:?}", self.counters);
    }

    /// Ends all streams and runs until the other ends know, or `limit` has passed.
    pub(super) async fn drain(&mut self, limit: Duration) {
        self.accept = None;
        let now = Instant::now();
        for link in self.sessions.values() {
            // Behind what was written: nobody is to take what has come so far for the whole.
            link.session().streams().cut_off_all_behind(now);
            link.mark_ready();
        }
        let mut sleep = pin!(tokio::time::sleep(Duration::ZERO));
        let flushed = poll_fn(|cx| {
            let outcome = self.poll(cx, sleep.as_mut());
            let flushed = self.sessions.values().all(|link| link.peek_session().is_flushed());
            if flushed && self.train.is_empty() { Poll::Ready(()) } else { outcome }
        });
        if tokio::time::timeout(limit, flushed).await.is_err() {
            debug!("some peers did not learn that their streams have ended");
        }
        self.sessions.drain().for_each(|(_, link)| link.close());
    }

    fn poll(&mut self, cx: &mut Context<'_>, mut sleep: Pin<&mut Sleep>) -> Poll<()> {
        self.ready.set_driver(cx.waker());
        let now = Instant::now();
        self.receive(cx, now);
        self.expire(now);
        let retry = self.transmit(cx, now);
        if self.accept.is_none() && self.sessions.is_empty() {
            return Poll::Ready(());
        }
        let next = self.deadlines.first_key_value().map(|((at, _), _)| *at);
        if let Some(at) = next.into_iter().chain(retry).min() {
            if sleep.deadline().into_std() != at {
                sleep.as_mut().reset(at.into());
            }
            if sleep.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        Poll::Pending
    }

    /// Takes what has arrived to its sessions.
    fn receive(&mut self, cx: &mut Context<'_>, now: Instant) {
        for _ in 0..RECEIVES_PER_TURN {
            if self.readiness.poll_recv_ready(cx).is_pending() {
                return;
            }
            let (link, slots) = (&mut self.link, &mut self.slots);
            match self.readiness.try_io(Interest::READABLE, || link.recv(slots)) {
                Ok(count) => {
                    let mut slots = std::mem::take(&mut self.slots);
                    for slot in &mut slots[..count] {
                        self.handle_train(slot, now);
                    }
                    self.slots = slots;
                }
                // Readiness was cleared: ask for it again, to be woken.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // What an ICMP message said about an earlier datagram, or a lack of memory.
                Err(_) => break,
            }
        }
        cx.waker().wake_by_ref();
    }

    fn handle_train(&mut self, slot: &mut RecvSlot, now: Instant) {
        let (size, from) = (slot.segment_size.max(1), slot.from);
        for datagram in slot.buf[..slot.len].chunks_mut(size) {
            self.counters.datagrams_received += 1;
            let Some(datagram) = self.cipher.open(datagram) else {
                self.counters.not_opened += 1;
                continue;
            };
            let Some(link) =
                find(&self.sessions, from, datagram).cloned().or_else(|| self.accept(from, datagram, now))
            else {
                self.counters.unknown += 1;
                continue;
            };
            if link.session().handle_datagram(datagram, now).is_err() {
                self.counters.malformed += 1;
            }
            link.mark_ready();
        }
    }

    /// Makes a session for a client that this is the first datagram of.
    fn accept(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) -> Option<Rc<Link>> {
        let config = self.accept.clone()?;
        let header = first_segment(datagram).filter(is_first_flight)?;
        let replaces = self.sessions.contains_key(&from);
        if self.sessions.len() >= CLIENTS_MAX || (replaces && header.sequence != 0) {
            return None;
        }
        if !self.quiet {
            info!("{from} connected");
        }
        Some(self.add(from, Session::new(Role::Server, header.conversation, config, now)))
    }

    fn expire(&mut self, now: Instant) {
        while let Some(entry) = self.deadlines.first_entry().filter(|entry| entry.key().0 <= now) {
            let link = entry.remove();
            link.deadline.set(None);
            link.session().handle_timeout(now);
            link.mark_ready();
        }
    }

    /// Sends what there is to send. Gives when to try again, if not when the socket is writable or a session ready.
    fn transmit(&mut self, cx: &mut Context<'_>, now: Instant) -> Option<Instant> {
        if !self.train.is_empty() {
            match self.train.send(&mut self.link, &self.cipher, &mut self.rng) {
                Sent::All => {}
                Sent::Blocked => return self.wait_writable(cx),
                Sent::NoBuffers => return Some(now + NO_BUFFERS_RETRY),
            }
        }
        let mut turns = self.sessions.len() + 1;
        while let Some(link) = self.interrupted.take().or_else(|| self.ready.pop()) {
            match self.serve(&link, now) {
                Sent::All => self.settle(&link),
                Sent::Blocked => {
                    self.interrupted = Some(link);
                    return self.wait_writable(cx);
                }
                Sent::NoBuffers => {
                    self.interrupted = Some(link);
                    return Some(now + NO_BUFFERS_RETRY);
                }
            }
            turns -= 1;
            if turns == 0 {
                // The streams' tasks have their turn.
                if !self.ready.is_empty() {
                    cx.waker().wake_by_ref();
                }
                break;
            }
        }
        None
    }

    /// Tells a session's streams what has happened, and sends some trains.
    fn serve(&mut self, link: &Rc<Link>, now: Instant) -> Sent {
        link.tell(|stream| (self.on_opened)(link, stream));
        let header_len = self.cipher.header_len();
        let mut trains = 0;
        // A datagram that did not fit a train belongs to this session: it must leave before another one's.
        while trains < TRAINS_PER_TURN || self.train.has_next() {
            let mut session = link.session();
            let more = trains < TRAINS_PER_TURN;
            let poll = |buf: &mut [u8]| if more { session.poll_transmit(now, buf) } else { None };
            if !self.train.fill(link.peer, header_len, poll) {
                break;
            }
            trains += 1;
            self.counters.trains_sent += 1;
            match self.train.send(&mut self.link, &self.cipher, &mut self.rng) {
                Sent::All => {}
                blocked => return blocked,
            }
        }
        if trains >= TRAINS_PER_TURN {
            link.mark_ready();
        }
        // What has left may have made room for those who write.
        link.tell(|stream| (self.on_opened)(link, stream));
        Sent::All
    }

    /// Notes a session's next deadline, or forgets a session that is over.
    fn settle(&mut self, link: &Rc<Link>) {
        let error = link.peek_session().error();
        if link.is_closed() || error.is_some() {
            if let (Some(error), false) = (error, self.quiet) {
                info!("{}: {error}", link.peer);
            }
            self.forget_deadline(link);
            link.close();
            if self.sessions.get(&link.peer).is_some_and(|known| Rc::ptr_eq(known, link)) {
                self.sessions.remove(&link.peer);
            }
            return;
        }
        let deadline = link.peek_session().poll_timeout().map(|(at, _)| at);
        if deadline != link.deadline.get() {
            self.forget_deadline(link);
            link.deadline.set(deadline);
            if let Some(at) = deadline {
                self.deadlines.insert((at, link.peer), Rc::clone(link));
            }
        }
    }

    fn forget_deadline(&mut self, link: &Rc<Link>) {
        if let Some(at) = link.deadline.take() {
            self.deadlines.remove(&(at, link.peer));
        }
    }

    fn wait_writable(&mut self, cx: &mut Context<'_>) -> Option<Instant> {
        // A wait for what is no longer true: the socket was full a moment ago.
        let _ = self
            .readiness
            .try_io(Interest::WRITABLE, || io::Result::<()>::Err(io::ErrorKind::WouldBlock.into()));
        if self.readiness.poll_send_ready(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        None
    }
}

/// The session that a datagram from `from` belongs to.
fn find<'a>(
    sessions: &'a HashMap<SocketAddr, Rc<Link>>,
    from: SocketAddr,
    datagram: &[u8],
) -> Option<&'a Rc<Link>> {
    let link = sessions.get(&from)?;
    // A parity belongs to whatever session there is; a client that was restarted has the same address and another
    // number.
    match first_segment(datagram) {
        Some(header) if header.conversation != link.peek_session().conversation() => None,
        _ => Some(link),
    }
}

/// The first KCP segment of a datagram; a parity has none.
fn first_segment(datagram: &[u8]) -> Option<Header> {
    let kcp = if fec::is_protected(datagram) { fec::unprotected(datagram)? } else { datagram };
    Header::parse(kcp).ok().map(|(header, _, _)| header)
}

/// Whether it belongs to what a client sends before it has had an answer. Of a session that this end has forgotten it
/// would not, and such a client must notice.
fn is_first_flight(header: &Header) -> bool {
    header.command == Command::Push && header.sequence < FIRST_WINDOW && header.unacknowledged == 0
}
