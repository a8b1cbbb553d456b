//! One worker's link.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use packet::{Link, RecvSlot, Transmit};

use super::connection::{Connection, Refusal, STALLED, Taken};
use super::receiver::Receiver;
use super::{Common, DATAGRAM_MAX, End, lock, normal};
use crate::poll::Waker;

/// A link that has sent to one connection only for so long is taken to serve that one alone.
const ALONE: Duration = Duration::from_secs(10);

/// Carries datagrams over TCP connections; used as a [`UdpLink`](crate::udp::UdpLink) is.
///
/// Addresses are those of the far ends of connections: what was [dialled](super::TcpHandle::dial), and what has called us. What
/// is sent goes out with the kernel's choice of source address, and without ECN bits of its own.
///
/// # When a connection is full
/// A link that serves one peer pushes back: `send` is `WouldBlock`, and an edge comes when the connection takes more. A link that has
/// sent to others as well within the last 10 s must not make those wait. It refuses what a full connection does not take with
/// `ResourceBusy`, to be dropped and counted by whoever sends, and the link stays writable; so does one that serves a single peer which
/// has taken nothing for a second. At most 128 kB wait in the kernel for a window to open, so what is dropped is dropped early.
#[derive(Debug)]
pub struct TcpLink {
    common: Arc<Common>,
    lane: usize,
    /// Makes an edge when a connection that was full takes more.
    waker: Arc<Waker>,
    /// `None` in a link that only sends.
    receiver: Option<Receiver>,
    /// The connection that was sent to last: found without the table.
    last: Option<Arc<Connection>>,
    /// The far end that last took something.
    last_to: Option<SocketAddr>,
    /// When the link has last turned from one far end to another.
    turned_at: Option<Instant>,
    /// When to be woken for a connection that has refused something.
    look_again_at: Option<Instant>,
    /// Whoever sends by this link serves others as well.
    shared: bool,
}

impl TcpLink {
    pub(super) fn new(common: Arc<Common>, lane: usize) -> Self {
        let waker = Arc::clone(&common.lanes[lane].waker);
        let receiver = Some(Receiver::new());
        Self {
            common,
            lane,
            waker,
            receiver,
            last: None,
            last_to: None,
            turned_at: None,
            look_again_at: None,
            shared: false,
        }
    }

    /// Another link that sends, for instance for the slow path of the node. It receives nothing, and has an edge of its own.
    ///
    /// # Errors
    /// `EMFILE`: out of descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            common: Arc::clone(&self.common),
            lane: self.lane,
            waker: Arc::new(Waker::new()?),
            receiver: None,
            last: None,
            last_to: None,
            turned_at: None,
            look_again_at: None,
            shared: false,
        })
    }

    /// Whoever sends by this link serves others as well, by other carriers perhaps: a full connection never makes it wait.
    pub fn share(&mut self) {
        self.shared = true;
    }

    /// What to poll, edge-triggered, for reading and writing; how many there are does not depend on the number of connections. Any edge may mean
    /// both that something waits to be received and that what was full takes more.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let lane = self.receiver.as_ref().map(|_| self.common.lanes[self.lane].poller.as_fd());
        lane.into_iter().chain([self.wakeups()])
    }

    /// The one descriptor that becomes writable, edge-triggered, when a connection that was full takes more: all that a link that only sends
    /// has to poll.
    pub fn wakeups(&self) -> BorrowedFd<'_> {
        (*self.waker).as_fd()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called next.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let full = self.look_again_at.map(|at| (at, "full TCP connection"));
        let Some(receiver) = &self.receiver else { return full };
        let accept = receiver.accept_at.map(|at| (at, "TCP connection waiting for a descriptor"));
        let look_at = lock(&self.common.lanes[self.lane].members).look_at;
        let members = look_at.map(|at| (at, "idle TCP connections"));
        [full, accept, members].into_iter().flatten().min()
    }

    /// Does what is due: closes connections that bring nothing, accepts again after a shortage of descriptors, and makes an edge
    /// when a full connection has been waited for long enough.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.look_again_at.is_some_and(|at| now >= at) {
            self.look_again_at = None;
            self.waker.wake();
        }
        // An ended connection keeps its descriptor for as long as somebody knows it.
        self.last.take_if(|connection| !connection.is_open());
        let Some(receiver) = &mut self.receiver else { return };
        if receiver.end_pause(now) {
            self.waker.wake();
        }
        let lane = &self.common.lanes[self.lane];
        let due = lock(&lane.members).look_at.is_some_and(|at| now >= at);
        if due {
            self.common.close_late(lane, now);
        }
    }

    /// Gives a train to the connection to `to`, which is opened anew if it has ended and it is time. Returns what became of it.
    fn hand_over(&mut self, to: SocketAddr, transmit: &Transmit<'_>, now: Instant) -> io::Result<Taken> {
        if let Some(last) = self.last.take_if(|last| last.remote == to) {
            let (taken, refusal) = last.send(transmit, &self.waker, now);
            if !matches!(refusal, Some(Refusal::Ended)) {
                self.last = Some(last);
                return Ok((taken, refusal));
            }
            self.common.close(&last, End::Closed);
            if taken > 0 {
                return Ok((taken, refusal));
            }
        }
        let connection = self.common.connection_to_send_on(to, now)?;
        let (taken, refusal) = connection.send(transmit, &self.waker, now);
        if matches!(refusal, Some(Refusal::Ended)) {
            self.common.close(&connection, End::Closed);
        } else {
            self.last = Some(connection);
        }
        Ok((taken, refusal))
    }

    /// Whether a connection that is full would hold others up.
    fn serves_others(&self, now: Instant) -> bool {
        self.shared || self.turned_at.is_some_and(|at| now.saturating_duration_since(at) < ALONE)
    }

    /// Remembers who was sent to.
    fn sent_to(&mut self, to: SocketAddr, now: Instant) {
        if self.last_to != Some(to) {
            if self.last_to.is_some() {
                self.turned_at = Some(now);
            }
            self.last_to = Some(to);
        }
    }

    /// What to say of a train of which only the first `taken` bytes were taken. Whoever is told of a part waits for an edge before the next
    /// attempt: it comes at once, unless it is the connection's to make.
    fn refuse(&mut self, refusal: &Refusal, taken: usize, now: Instant) -> io::Result<usize> {
        let waits = match refusal {
            Refusal::Full(full) if *full < STALLED && !self.serves_others(now) => {
                let at = now + (STALLED - *full);
                self.look_again_at = Some(self.look_again_at.map_or(at, |earlier| earlier.min(at)));
                true
            }
            _ => false,
        };
        if taken > 0 {
            if !waits {
                self.waker.wake();
            }
            return Ok(taken);
        }
        Err(match refusal {
            Refusal::Full(_) if waits => io::ErrorKind::WouldBlock,
            Refusal::Full(_) => io::ErrorKind::ResourceBusy,
            Refusal::NoBuffers => io::ErrorKind::OutOfMemory,
            Refusal::Ended | Refusal::Connecting => io::ErrorKind::NotConnected,
        }
        .into())
    }
}

impl Link for TcpLink {
    /// # Errors
    /// As [`Link::send`], where `InvalidInput` is a datagram longer than [`DATAGRAM_MAX`]. `ResourceBusy`: this destination is full, others may not
    /// be. `NotConnected`: nobody has dialled it, or the connection has ended, or enough waits for it to be opened.
    fn send(&mut self, transmit: &Transmit<'_>) -> io::Result<usize> {
        let (segment_size, total) = (transmit.segment_size, transmit.contents.len());
        if total == 0 {
            return Ok(0);
        }
        if segment_size == 0 || segment_size.min(total) > DATAGRAM_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let datagrams = |bytes: usize| bytes.div_ceil(segment_size) as u64;
        let now = Instant::now();
        let to = normal(transmit.to);
        let result = self.hand_over(to, transmit, now).and_then(|(taken, refusal)| {
            if taken > 0 {
                self.common.counters.sent.fetch_add(datagrams(taken), Relaxed);
                self.sent_to(to, now);
            }
            refusal.map_or(Ok(taken), |refusal| self.refuse(&refusal, taken, now))
        });
        if let Err(error) = &result {
            let counters = &self.common.counters;
            match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory => {}
                io::ErrorKind::ResourceBusy => {
                    counters.full.fetch_add(datagrams(total), Relaxed);
                }
                _ => {
                    counters.not_connected.fetch_add(datagrams(total), Relaxed);
                }
            }
        }
        result
    }

    fn recv(&mut self, slots: &mut [RecvSlot]) -> io::Result<usize> {
        match &mut self.receiver {
            Some(receiver) => receiver.recv(&self.common, self.lane, slots),
            None => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}
