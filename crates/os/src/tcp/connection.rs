//! One connection: what all links share of it, and how a train goes into it.

use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use carrier::tcp_frame::{FRAME_HEADER, frame_header};
use packet::Transmit;

use super::{
    CONNECT_WITHIN, DATAGRAM_MAX, End, FIRST_DATAGRAM_WITHIN, HELD_MAX, IDLE, RESENT, UNHEARD, lock, socket,
};
use crate::poll::Waker;

/// Datagrams in one system call.
const FRAMES_MAX: usize = 64;
/// A connection that has taken nothing for so long is not waited for.
pub(super) const STALLED: Duration = Duration::from_secs(1);

/// Who opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We.
    Dialled,
    /// The other end.
    Accepted,
}

/// A connection, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionStatus {
    /// The far end.
    pub remote: SocketAddr,
    /// Who opened it.
    pub role: Role,
    /// It carries datagrams: the TCP handshake is over.
    pub open: bool,
    /// Some datagram has come on it.
    pub delivered: bool,
    /// Somebody has said that the far end is authenticated.
    pub vouched: bool,
    /// Since something has last come on it, or it was opened.
    pub idle: Duration,
    /// It has been full for so long, without taking anything.
    pub full: Option<Duration>,
}

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Connecting,
    Open,
    Ended,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: TcpStream,
    pub(super) remote: SocketAddr,
    pub(super) role: Role,
    /// Never used again for another one.
    pub(super) token: u64,
    pub(super) since: Instant,
    /// Milliseconds after `since` when something last came.
    heard_ms: AtomicU64,
    /// A datagram has come.
    pub(super) delivered: AtomicBool,
    pub(super) vouched: AtomicBool,
    /// It waits for its turn to be read. Of the receiving link alone.
    pub(super) queued: AtomicBool,
    /// The beginning of a frame whose end has not come. Of the receiving link alone.
    pub(super) partial: Mutex<Vec<u8>>,
    /// Something waits for the socket to be writable.
    waits: AtomicBool,
    sending: Mutex<Sending>,
}

#[derive(Debug)]
struct Sending {
    state: State,
    /// What goes before all else: while connecting, up to [`HELD_MAX`] frames; later the end of a frame of which the socket has
    /// taken the beginning. At most that, whatever the other end does not read.
    pending: Vec<u8>,
    /// Bytes of `pending` that the socket has taken.
    pending_sent: usize,
    /// Frames in `pending`, one that is begun included.
    pending_frames: u64,
    /// Whom to tell when the socket is writable. No more of them than there are links.
    waiting: Vec<Arc<Waker>>,
    /// It has taken nothing since.
    full_since: Option<Instant>,
}

/// Why a train, or its rest, was not taken.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The connection is full, for so long already. Whoever asked is woken when it is writable.
    Full(Duration),
    /// It has ended.
    Ended,
    /// It is being opened, and enough waits for that.
    Connecting,
    /// The kernel is out of buffers; nobody will be woken.
    NoBuffers,
}

/// What became of a train: the bytes of whole datagrams that were taken, and why not more.
pub(super) type Taken = (usize, Option<Refusal>);

impl Connection {
    pub(super) fn new(socket: TcpStream, remote: SocketAddr, role: Role, token: u64, now: Instant) -> Self {
        let state = if role == Role::Dialled { State::Connecting } else { State::Open };
        Self {
            socket,
            remote,
            role,
            token,
            since: now,
            heard_ms: AtomicU64::new(0),
            delivered: AtomicBool::new(false),
            vouched: AtomicBool::new(false),
            queued: AtomicBool::new(false),
            partial: Mutex::default(),
            waits: AtomicBool::new(state == State::Connecting),
            sending: Mutex::new(Sending {
                state,
                pending: Vec::new(),
                pending_sent: 0,
                pending_frames: 0,
                waiting: Vec::new(),
                full_since: None,
            }),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        lock(&self.sending).state == State::Open
    }

    pub(super) fn state(&self) -> State {
        lock(&self.sending).state
    }

    pub(super) fn status(&self, now: Instant) -> ConnectionStatus {
        let (open, full_since) = {
            let sending = lock(&self.sending);
            (sending.state == State::Open, sending.full_since)
        };
        ConnectionStatus {
            remote: self.remote,
            role: self.role,
            open,
            delivered: self.delivered.load(Relaxed),
            vouched: self.vouched.load(Relaxed),
            idle: now.saturating_duration_since(self.heard_at()),
            full: full_since.map(|since| now.saturating_duration_since(since)),
        }
    }

    /// Something has come.
    pub(super) fn heard(&self, now: Instant) {
        self.heard_ms.store(now.saturating_duration_since(self.since).as_millis() as u64, Relaxed);
    }

    pub(super) fn heard_at(&self) -> Instant {
        self.since + Duration::from_millis(self.heard_ms.load(Relaxed))
    }

    /// Whether it passes nothing now: the kernel sends the same bytes again and again, or nothing has come for long.
    pub(super) fn is_stalled(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.heard_at()) >= UNHEARD
            || socket::resent(&self.socket).is_ok_and(|times| times >= RESENT)
    }

    /// When it is to be closed, and why, if nothing happens until then.
    pub(super) fn closes_at(&self) -> Option<(Instant, End)> {
        if self.state() == State::Connecting {
            return Some((self.since + CONNECT_WITHIN, End::NotOpened));
        }
        if self.role == Role::Dialled || self.vouched.load(Relaxed) {
            return None;
        }
        Some(if self.delivered.load(Relaxed) {
            (self.heard_at() + IDLE, End::Idle)
        } else {
            (self.since + FIRST_DATAGRAM_WITHIN, End::Silent)
        })
    }

    /// Sends a train. Datagrams are taken whole: what the socket does not take of the last is kept and goes first.
    pub(super) fn send(&self, transmit: &Transmit<'_>, waker: &Arc<Waker>, now: Instant) -> Taken {
        let mut sending = lock(&self.sending);
        match sending.state {
            State::Ended => return (0, Some(Refusal::Ended)),
            State::Connecting => {
                let held = sending.hold(transmit);
                return (held, (held < transmit.contents.len()).then_some(Refusal::Connecting));
            }
            State::Open => {}
        }
        let mut taken = 0;
        loop {
            let result = sending.send(&self.socket, transmit, &mut taken);
            if taken > 0 {
                sending.full_since = None;
            }
            match result {
                Ok(()) => return (taken, None),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // The receiving link may look between the refusal and this store, see nobody waiting, and never look again. So try once
                    // more: if that is refused too, the edge is still to come.
                    let first = !self.waits.swap(true, SeqCst);
                    // All taken, but the end of the last frame: that waits by itself.
                    let all = taken == transmit.contents.len();
                    if !all && !sending.waiting.iter().any(|waiting| Arc::ptr_eq(waiting, waker)) {
                        sending.waiting.push(Arc::clone(waker));
                    }
                    if !first && all {
                        return (taken, None);
                    }
                    if !first {
                        let since = *sending.full_since.get_or_insert(now);
                        let refusal = Refusal::Full(now.saturating_duration_since(since));
                        return (taken, Some(refusal));
                    }
                }
                Err(error) => {
                    let no_buffers = matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM));
                    return (taken, Some(if no_buffers { Refusal::NoBuffers } else { Refusal::Ended }));
                }
            }
        }
    }

    /// The socket is writable, perhaps: sends what goes first, and wakes who waits. Returns whether the connection has just been opened.
    ///
    /// # Errors
    /// The connection could not be opened, or has ended.
    pub(super) fn writable(&self) -> io::Result<bool> {
        if !self.waits.load(SeqCst) {
            return Ok(false);
        }
        let mut sending = lock(&self.sending);
        let mut opened = false;
        if sending.state == State::Connecting {
            if let Some(error) = self.socket.take_error()? {
                return Err(error);
            }
            // Without an error and without a far end the handshake is still on its way.
            match self.socket.peer_addr() {
                Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(false),
                _ => {}
            }
            // TCP connects a socket to itself where nobody listens on a port that it has just drawn (RFC 9293 §3.5).
            if self.socket.local_addr()? == self.socket.peer_addr()? {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            sending.state = State::Open;
            opened = true;
        }
        if sending.state == State::Open {
            match sending.flush(&self.socket) {
                Ok(()) => sending.full_since = None,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(opened);
                }
                Err(error) => return Err(error),
            }
        }
        self.waits.store(false, SeqCst);
        for waker in sending.waiting.drain(..) {
            waker.wake();
        }
        Ok(opened)
    }

    /// Ends it: returns how many datagrams are lost and who waited for it. `None` when it has ended before.
    pub(super) fn end(&self) -> Option<(u64, Vec<Arc<Waker>>)> {
        let mut sending = lock(&self.sending);
        if sending.state == State::Ended {
            return None;
        }
        sending.state = State::Ended;
        sending.pending = Vec::new();
        Some((std::mem::take(&mut sending.pending_frames), std::mem::take(&mut sending.waiting)))
    }
}

impl Sending {
    /// Keeps datagrams until the connection is open. Returns the bytes taken.
    fn hold(&mut self, transmit: &Transmit<'_>) -> usize {
        let mut taken = 0;
        for datagram in transmit.contents.chunks(transmit.segment_size) {
            let Some(header) = frame_header(datagram).filter(|_| self.pending_frames < HELD_MAX as u64)
            else {
                break;
            };
            self.pending.extend_from_slice(&header);
            self.pending.extend_from_slice(datagram);
            self.pending_frames += 1;
            taken += datagram.len();
        }
        taken
    }

    /// Sends what goes first.
    fn flush(&mut self, socket: &TcpStream) -> io::Result<()> {
        while self.pending_sent < self.pending.len() {
            self.pending_sent += socket::send(socket, &[IoSlice::new(&self.pending[self.pending_sent..])])?;
            self.full_since = None;
        }
        self.pending.clear();
        self.pending_sent = 0;
        self.pending_frames = 0;
        Ok(())
    }

    /// Sends the datagrams behind the first `taken` bytes, and adds to these what was taken.
    fn send(&mut self, socket: &TcpStream, transmit: &Transmit<'_>, taken: &mut usize) -> io::Result<()> {
        while *taken < transmit.contents.len() {
            self.flush(socket)?;
            *taken += self.send_frames(socket, &transmit.contents[*taken..], transmit.segment_size)?;
        }
        self.flush(socket)
    }

    /// Sends up to [`FRAMES_MAX`] datagrams in one call. Returns the bytes of those that the socket has taken, the last
    /// perhaps in part: then its rest is `pending`.
    fn send_frames(&mut self, socket: &TcpStream, train: &[u8], segment_size: usize) -> io::Result<usize> {
        let mut headers = [[0; FRAME_HEADER]; FRAMES_MAX];
        let mut count = 0;
        for (header, datagram) in headers.iter_mut().zip(train.chunks(segment_size)) {
            *header = frame_header(datagram).ok_or(io::ErrorKind::InvalidInput)?;
            count += 1;
        }
        let mut slices = [IoSlice::new(&[]); 2 * FRAMES_MAX];
        let pieces = headers[..count].iter().zip(train.chunks(segment_size));
        for (pair, (header, datagram)) in slices.chunks_exact_mut(2).zip(pieces) {
            pair[0] = IoSlice::new(header);
            pair[1] = IoSlice::new(datagram);
        }
        let sent = socket::send(socket, &slices[..2 * count])?;

        let (mut taken, mut left) = (0, sent);
        for (header, datagram) in headers[..count].iter().zip(train.chunks(segment_size)) {
            if left == 0 {
                break;
            }
            taken += datagram.len();
            let frame = FRAME_HEADER + datagram.len();
            if left < frame {
                self.keep(header, datagram, left);
                break;
            }
            left -= frame;
        }
        Ok(taken)
    }

    /// Keeps what the socket has not taken of a frame, after its first `sent` bytes.
    #[cold]
    fn keep(&mut self, header: &[u8; FRAME_HEADER], datagram: &[u8], sent: usize) {
        // Once a connection; from then on there is room.
        self.pending.reserve_exact(FRAME_HEADER + DATAGRAM_MAX);
        self.pending.extend_from_slice(header.get(sent..).unwrap_or_default());
        self.pending.extend_from_slice(&datagram[sent.saturating_sub(FRAME_HEADER)..]);
        self.pending_sent = 0;
        self.pending_frames = 1;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use packet::Ecn;

    use super::*;
    use crate::poll::{Events, Interest, Poller};

    #[test]
    fn the_end_of_a_frame_follows_although_nothing_more_is_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut reader = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, remote) = listener.accept().unwrap();
        socket.set_nonblocking(true).unwrap();
        let connection = Connection::new(socket, remote, Role::Accepted, 1, Instant::now());
        let poller = Poller::new().unwrap();
        poller.add(&connection.socket, 0, Interest { edge: true, ..Interest::READ_WRITE }).unwrap();
        let mut events = Events::with_capacity(1);
        poller.wait(&mut events, Some(Duration::ZERO)).unwrap();

        let waker = Arc::new(Waker::new().unwrap());
        let datagram = vec![7; DATAGRAM_MAX];
        let transmit =
            Transmit { to: remote, ecn: Ecn::NotEct, segment_size: DATAGRAM_MAX, contents: &datagram };
        let mut frames = 0;
        // Until one is taken of which the socket has only the beginning.
        while lock(&connection.sending).pending.is_empty() {
            let (taken, refusal) = connection.send(&transmit, &waker, Instant::now());
            assert_eq!(taken, DATAGRAM_MAX);
            assert!(refusal.is_none());
            frames += 1;
        }
        let all = std::thread::spawn(move || {
            reader.read_exact(&mut vec![0; frames * (FRAME_HEADER + DATAGRAM_MAX)]).unwrap();
        });
        while !lock(&connection.sending).pending.is_empty() {
            assert_eq!(poller.wait(&mut events, Some(Duration::from_secs(30))).unwrap(), 1, "no edge");
            assert!(!connection.writable().unwrap());
        }
        all.join().unwrap();
        assert!(!waker.drain(), "nobody waited");
    }
}
