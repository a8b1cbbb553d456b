//! All streams of a node: an [`Association`] with each peer that has any, driven by what arrives, by time, and by those who read
//! and write.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::io;
use std::rc::Rc;
use std::sync::mpsc::SyncSender;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use node::{Event as NodeEvent, PeerId, Reach, Sent, StreamBatch, StreamPort};
use stream::association::{Association, Ended};
use stream::session::{Session, SessionConfig};
use stream::smux::{OpenError, ReadError, Role, Smux, StreamId, WriteError};
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

use super::PeerStream;
use crate::control::types::PeerStreamsStatus;
use crate::daemon::{CarrierLink, Input};

/// How long opening a stream may take, a handshake included.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the node is reminded that a session is needed.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// What the hub is made with.
pub(crate) struct Setup {
    pub(crate) port: StreamPort,
    /// A handle on a socket of the node, to send by.
    pub(crate) link: CarrierLink,
    /// What people call the peers.
    pub(crate) names: Vec<String>,
    /// For each peer, how long it may be silent before its streams end.
    pub(crate) patience: Vec<Duration>,
    /// For each peer, which role this end has.
    pub(crate) roles: Vec<Role>,
    pub(crate) config: SessionConfig,
    /// Bytes that all sessions together may hold before writers have to wait.
    pub(crate) memory_max: usize,
    pub(crate) node: SyncSender<Input>,
    pub(crate) seed: u32,
}

/// All streams of a node. See the [module](self).
pub(crate) struct Hub {
    inner: RefCell<Inner>,
    /// Somebody has read or written: there may be something to send.
    work: Notify,
}

struct Inner {
    port: StreamPort,
    link: CarrierLink,
    config: SessionConfig,
    seed: u32,
    node: SyncSender<Input>,
    peers: Vec<Peer>,
    /// Peers that have an association.
    active: Vec<PeerId>,
    /// Peers for which there may be something to do now.
    dirty: VecDeque<PeerId>,
    /// When there is something to do for which of the others.
    timers: BTreeSet<(Instant, PeerId)>,
    /// Peers that something waits for but that cannot be sent to.
    unreachable: Vec<PeerId>,
    /// Associations that have a session, among which memory is shared.
    sessions: usize,
    /// Peers with which somebody waits for a session, and when those look again.
    wanting: Vec<PeerId>,
    look_again: Option<Instant>,
    /// Bytes that all sessions hold.
    memory: usize,
    memory_max: usize,
    /// Writers that wait because this is too much: one a stream, which is known by its peer, its session and its number.
    starved: HashMap<(PeerId, u32, StreamId), Waker>,
    accepted: mpsc::UnboundedSender<(PeerId, StreamId, u32)>,
}

struct Peer {
    name: String,
    role: Role,
    patience: Duration,
    association: Option<Association>,
    /// The longest datagram now, and the longest ever.
    mtu: usize,
    room: usize,
    memory: usize,
    has_session: bool,
    /// The one in `timers`.
    timer: Option<Instant>,
    dirty: bool,
    /// Who waits for a session.
    opening: Vec<Waker>,
    asked_at: Option<Instant>,
    waiting: HashMap<StreamId, Waiting>,
    /// Why the last session ended.
    ended: Option<Ended>,
}

#[derive(Default)]
struct Waiting {
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Waiting {
    fn wake(self) {
        self.reader.into_iter().chain(self.writer).for_each(Waker::wake);
    }
}

/// The streams that peers open.
#[derive(Debug)]
pub(crate) struct Accepted(mpsc::UnboundedReceiver<(PeerId, StreamId, u32)>);

impl Accepted {
    /// The next one; `None` when the hub is gone.
    pub(crate) async fn next(&mut self, hub: &Rc<Hub>) -> Option<(PeerId, PeerStream)> {
        let (peer, stream, session) = self.0.recv().await?;
        Some((peer, PeerStream::new(Rc::clone(hub), peer, session, stream)))
    }
}

impl Hub {
    pub(crate) fn new(setup: Setup) -> (Rc<Self>, Accepted) {
        let Setup { port, link, names, patience, roles, config, memory_max, node, seed } = setup;
        // Bounded by the limit on streams of each session.
        let (accepted, receiver) = mpsc::unbounded_channel();
        let peers = names.into_iter().zip(roles).zip(patience);
        let peers = peers.map(|((name, role), patience)| Peer::new(name, role, patience)).collect();
        let inner = Inner {
            port,
            link,
            config,
            seed,
            node,
            peers,
            active: Vec::new(),
            dirty: VecDeque::new(),
            timers: BTreeSet::new(),
            unreachable: Vec::new(),
            sessions: 0,
            wanting: Vec::new(),
            look_again: None,
            memory: 0,
            memory_max,
            starved: HashMap::new(),
            accepted,
        };
        (Rc::new(Self { inner: RefCell::new(inner), work: Notify::new() }), Accepted(receiver))
    }

    /// Opens a stream to a peer, with a handshake and a session of streams first where they are not there.
    ///
    /// # Errors
    /// `TimedOut`, `Unsupported` for a peer that speaks WireGuard, `QuotaExceeded` when there are too many streams.
    pub(crate) async fn open(self: &Rc<Self>, peer: PeerId) -> io::Result<PeerStream> {
        let opened = poll_fn(|cx| self.inner.borrow_mut().poll_open(peer, cx));
        let opened = async {
            let mut opened = std::pin::pin!(opened);
            poll_fn(|cx| {
                let poll = opened.as_mut().poll(cx);
                // Both what was asked for and what was opened has to be sent.
                self.work.notify_one();
                poll
            })
            .await
        };
        let waited = timeout(OPEN_TIMEOUT, opened).await;
        let (session, stream) = waited.map_err(|_| {
            io::Error::new(io::ErrorKind::TimedOut, "no session with the peer came about in time")
        })??;
        Ok(PeerStream::new(Rc::clone(self), peer, session, stream))
    }

    /// Takes what the workers have received.
    pub(super) fn receive(&self, now: Instant, batch: &StreamBatch) {
        self.inner.borrow_mut().receive(now, batch);
    }

    /// Does all there is to do: timers, events, sending. Returns when to come again, and whether the link is full.
    pub(super) fn process(&self, now: Instant) -> (Option<Instant>, bool) {
        self.inner.borrow_mut().process(now)
    }

    /// A session may have come about: whoever waits for one looks again.
    pub(super) fn sessions_changed(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.look_again();
        while let Some(id) = inner.unreachable.pop() {
            inner.touch(id);
        }
    }

    /// Bytes that all sessions hold, and the figures of each.
    pub(super) fn status(&self) -> (usize, Vec<PeerStreamsStatus>) {
        let mut inner = self.inner.borrow_mut();
        let Inner { active, peers, memory, .. } = &mut *inner;
        let figures = active.iter().filter_map(|id| {
            let peer = &mut peers[id.0 as usize];
            let session = peer.association.as_mut()?.session()?;
            let kcp = session.kcp_statistics();
            Some(PeerStreamsStatus {
                name: peer.name.clone(),
                open: session.streams().streams() as u64,
                rtt_ms: kcp.rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
                segments_sent: kcp.segments_sent,
                retransmissions: kcp.retransmissions,
                in_flight_bytes: kcp.in_flight,
                pacing_bps: kcp.pacing_rate.map(|bytes| bytes.saturating_mul(8)),
                fec_recovered: session.fec_statistics().recovered,
            })
        });
        (*memory, figures.collect())
    }

    /// Waits until somebody has read or written.
    pub(super) async fn worked(&self) {
        self.work.notified().await;
    }

    /// Whether all that was written has arrived at the peers, or cannot.
    pub(super) fn is_flushed(&self) -> bool {
        let mut inner = self.inner.borrow_mut();
        let Inner { active, peers, .. } = &mut *inner;
        active.iter().all(|id| {
            let association = peers[id.0 as usize].association.as_mut();
            association.and_then(Association::session).is_none_or(|session| session.is_flushed())
        })
    }

    pub(super) fn poll_read(
        &self,
        stream: &PeerStream,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.inner.borrow_mut();
        let result = match inner.streams(stream)?.read(stream.id, buf) {
            Ok(read) => Ok(read),
            Err(ReadError::Blocked) => {
                inner.waiting(stream).reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Err(ReadError::CutOff | ReadError::UnknownStream) => Err(cut_off()),
        };
        inner.touch(stream.peer);
        self.work.notify_one();
        Poll::Ready(result)
    }

    pub(super) fn poll_write(
        &self,
        stream: &PeerStream,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.inner.borrow_mut();
        if inner.over_budget(stream.peer) {
            inner.streams(stream)?;
            inner.starved.insert((stream.peer, stream.session, stream.id), cx.waker().clone());
            return Poll::Pending;
        }
        let result = match inner.streams(stream)?.write(stream.id, bytes) {
            Ok(written) => Ok(written),
            Err(WriteError::Blocked) => {
                inner.waiting(stream).writer = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Err(WriteError::Closed | WriteError::Finished) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(WriteError::UnknownStream) => Err(cut_off()),
        };
        inner.touch(stream.peer);
        self.work.notify_one();
        Poll::Ready(result)
    }

    /// Ends the sending direction.
    pub(super) fn finish(&self, stream: &PeerStream) -> io::Result<()> {
        let mut inner = self.inner.borrow_mut();
        inner.streams(stream)?.finish(stream.id, Instant::now());
        inner.touch(stream.peer);
        self.work.notify_one();
        Ok(())
    }

    /// Lets go of a stream: in order if its sending direction was ended before, cut off otherwise.
    pub(super) fn release(&self, stream: &PeerStream, in_order: bool) {
        let mut inner = self.inner.borrow_mut();
        inner.starved.remove(&(stream.peer, stream.session, stream.id));
        if let Ok(streams) = inner.streams(stream) {
            if in_order {
                streams.close(stream.id, Instant::now());
            } else {
                streams.reset(stream.id, Instant::now());
            }
            inner.peers[stream.peer.0 as usize].waiting.remove(&stream.id);
            inner.touch(stream.peer);
            self.work.notify_one();
        }
    }
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the stream was cut off")
}

impl Peer {
    fn new(name: String, role: Role, patience: Duration) -> Self {
        Self {
            name,
            role,
            patience,
            association: None,
            mtu: 0,
            room: 0,
            memory: 0,
            has_session: false,
            timer: None,
            dirty: false,
            opening: Vec::new(),
            asked_at: None,
            waiting: HashMap::new(),
            ended: None,
        }
    }

    /// Lets go of all streams; whoever waits for one learns why.
    fn end(&mut self, why: Ended) {
        self.ended = Some(why);
        self.waiting.drain().for_each(|(_, waiting)| waiting.wake());
    }
}

impl Inner {
    /// Something may have to be done for the peer.
    fn touch(&mut self, id: PeerId) {
        let peer = &mut self.peers[id.0 as usize];
        if !peer.dirty {
            peer.dirty = true;
            self.dirty.push_back(id);
        }
    }

    fn waiting(&mut self, stream: &PeerStream) -> &mut Waiting {
        self.peers[stream.peer.0 as usize].waiting.entry(stream.id).or_default()
    }

    /// The streams of the session that `stream` belongs to, if it still stands.
    fn streams(&mut self, stream: &PeerStream) -> io::Result<&mut Smux> {
        let peer = &mut self.peers[stream.peer.0 as usize];
        let ended = peer.ended;
        let session = peer.association.as_mut().and_then(Association::session);
        session.filter(|session| session.conversation() == stream.session).map(Session::streams).ok_or_else(
            || match ended {
                Some(ended) => io::Error::new(io::ErrorKind::ConnectionReset, ended),
                None => cut_off(),
            },
        )
    }

    /// Whether all sessions together hold too much, and this one more than its share.
    fn over_budget(&self, id: PeerId) -> bool {
        self.memory > self.memory_max && self.peers[id.0 as usize].memory > self.share()
    }

    /// What each session may hold.
    fn share(&self) -> usize {
        self.memory_max / self.sessions.max(1)
    }

    fn poll_open(&mut self, id: PeerId, cx: &mut Context<'_>) -> Poll<io::Result<(u32, StreamId)>> {
        let now = Instant::now();
        match self.ready(now, id) {
            Ok(true) => {}
            Ok(false) => {
                self.wait_for_session(id, cx);
                return Poll::Pending;
            }
            Err(error) => return Poll::Ready(Err(error)),
        }
        let peer = &mut self.peers[id.0 as usize];
        let Some(association) = &mut peer.association else { return Poll::Ready(Err(cut_off())) };
        let Some(session) = association.session() else {
            association.want(now);
            self.wait_for_session(id, cx);
            return Poll::Pending;
        };
        let opened = session.streams().open(now).map_err(|error| match error {
            OpenError::TooMany { .. } | OpenError::IdsExhausted => {
                io::Error::new(io::ErrorKind::QuotaExceeded, error)
            }
        });
        let number = session.conversation();
        self.touch(id);
        Poll::Ready(opened.map(|stream| (number, stream)))
    }

    fn wait_for_session(&mut self, id: PeerId, cx: &Context<'_>) {
        let peer = &mut self.peers[id.0 as usize];
        if peer.opening.is_empty() {
            self.wanting.push(id);
        }
        peer.opening.push(cx.waker().clone());
        self.look_again.get_or_insert_with(|| Instant::now() + ASK_AGAIN);
        self.touch(id);
    }

    /// Whoever waits for a session looks again, and asks again for what is missing.
    fn look_again(&mut self) {
        self.look_again = None;
        for id in self.wanting.drain(..) {
            self.peers[id.0 as usize].opening.drain(..).for_each(Waker::wake);
        }
    }

    /// Whether there is an association with the peer, over a session of the node. Asks for what is missing.
    fn ready(&mut self, now: Instant, id: PeerId) -> io::Result<bool> {
        let share = self.share();
        let Self { port, peers, node, config, seed, active, .. } = self;
        let peer = peers.get_mut(id.0 as usize).ok_or(io::ErrorKind::NotFound)?;
        match port.reach(now, id) {
            Reach::Never => {
                let message = "the peer speaks WireGuard, which has no streams";
                Err(io::Error::new(io::ErrorKind::Unsupported, message))
            }
            Reach::NoSession => {
                if peer.asked_at.is_none_or(|at| now >= at + ASK_AGAIN) {
                    peer.asked_at = Some(now);
                    // A full channel is no loss: it is asked again.
                    let _ = node.try_send(Input::Event(NodeEvent::NeedSession { peer: id }));
                }
                Ok(false)
            }
            Reach::Ready(datagram_max) => {
                let Some(association) = &mut peer.association else {
                    (peer.mtu, peer.room) = (datagram_max, datagram_max);
                    let mut config = config.clone();
                    config.kcp.mtu = datagram_max;
                    config.smux.keepalive_timeout = peer.patience;
                    *seed = seed.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35f);
                    let mut association = Association::new(peer.role, config, *seed);
                    association.set_memory(share);
                    peer.association = Some(association);
                    active.push(id);
                    return Ok(true);
                };
                if datagram_max != peer.mtu {
                    // Streams go on: only what was sent already stays as it was cut.
                    peer.mtu = datagram_max;
                    peer.room = peer.room.max(datagram_max);
                    association.set_mtu(datagram_max);
                }
                Ok(true)
            }
        }
    }

    fn receive(&mut self, now: Instant, batch: &StreamBatch) {
        let id = batch.peer();
        if !matches!(self.ready(now, id), Ok(true)) {
            return;
        }
        if let Some(association) = &mut self.peers[id.0 as usize].association {
            for datagram in batch.datagrams() {
                // What is refused is the business of whoever sent it: a peer, authenticated.
                let _ = association.handle_datagram(datagram, now);
            }
        }
        self.touch(id);
    }

    fn process(&mut self, now: Instant) -> (Option<Instant>, bool) {
        if self.look_again.is_some_and(|at| at <= now) {
            self.look_again();
        }
        while let Some(&(_, id)) = self.timers.first().filter(|(at, _)| *at <= now) {
            self.set_timer(id, None);
            if let Some(association) = &mut self.peers[id.0 as usize].association {
                association.handle_timeout(now);
            }
            self.touch(id);
        }
        let mut blocked = self.port.flush(now, &mut self.link) == Sent::Blocked;
        while !blocked && let Some(id) = self.dirty.pop_front() {
            self.peers[id.0 as usize].dirty = false;
            self.notify(id);
            let sent = self.transmit(now, id);
            self.notify(id);
            match sent {
                Sent::All => {
                    let association = self.peers[id.0 as usize].association.as_ref();
                    let at = association.and_then(Association::poll_timeout).map(|(at, _)| at);
                    self.set_timer(id, at);
                }
                Sent::Unreachable => {
                    // What is due cannot be done: it is looked at again now and then, or when there is a session. Where nothing
                    // is due nobody wants the peer, and it is left alone.
                    if !self.unreachable.contains(&id) {
                        self.unreachable.push(id);
                    }
                    let association = self.peers[id.0 as usize].association.as_ref();
                    let due = association.is_some_and(|association| association.poll_timeout().is_some());
                    self.set_timer(id, due.then(|| now + ASK_AGAIN));
                }
                Sent::Blocked => {
                    // The rest when there is room again.
                    self.touch(id);
                    blocked = true;
                }
            }
        }
        while let Some(event) = self.port.poll_event() {
            let _ = self.node.try_send(Input::Event(event));
        }
        let timer = self.timers.first().map(|(at, _)| *at);
        (timer.into_iter().chain(self.port.retry_at()).chain(self.look_again).min(), blocked)
    }

    fn set_timer(&mut self, id: PeerId, at: Option<Instant>) {
        let timer = &mut self.peers[id.0 as usize].timer;
        if *timer != at {
            if let Some(before) = timer.take() {
                self.timers.remove(&(before, id));
            }
            *timer = at;
            self.timers.extend(at.map(|at| (at, id)));
        }
    }

    /// Wakes those for whom something has changed.
    fn notify(&mut self, id: PeerId) {
        let Self { peers, wanting, memory, accepted, .. } = self;
        let peer = &mut peers[id.0 as usize];
        let Some(association) = &mut peer.association else { return };
        let held = association.memory();
        *memory = *memory + held - peer.memory;
        peer.memory = held;
        let ended = association.poll_ended();
        let has_session = association.session().is_some();
        if let Some(session) = association.session() {
            let number = session.conversation();
            while let Some(event) = session.streams().poll_event() {
                if event.changes.opened {
                    let _ = accepted.send((id, event.stream, number));
                }
                if let Some(waiting) = peer.waiting.get_mut(&event.stream) {
                    let reader = waiting.reader.take_if(|_| event.changes.readable);
                    let writer = waiting.writer.take_if(|_| event.changes.writable);
                    reader.into_iter().chain(writer).for_each(Waker::wake);
                }
            }
            if !peer.opening.is_empty() {
                peer.opening.drain(..).for_each(Waker::wake);
                wanting.retain(|other| *other != id);
            }
        }
        if let Some(why) = ended {
            peer.end(why);
        }
        if std::mem::replace(&mut peer.has_session, has_session) != has_session {
            self.sessions = if has_session { self.sessions + 1 } else { self.sessions - 1 };
            self.share_memory();
        }
        self.feed_starved();
    }

    /// Tells all sessions how much each may hold now.
    fn share_memory(&mut self) {
        let share = self.share();
        for id in &self.active {
            if let Some(association) = &mut self.peers[id.0 as usize].association {
                association.set_memory(share);
            }
        }
    }

    /// Wakes writers that need not wait any more.
    fn feed_starved(&mut self) {
        for (key, writer) in std::mem::take(&mut self.starved) {
            if self.over_budget(key.0) {
                self.starved.insert(key, writer);
            } else {
                writer.wake();
            }
        }
    }

    fn transmit(&mut self, now: Instant, id: PeerId) -> Sent {
        if self.peers[id.0 as usize].association.is_none() {
            return Sent::All;
        }
        if !matches!(self.ready(now, id), Ok(true)) {
            return Sent::Unreachable;
        }
        let Self { port, link, peers, .. } = self;
        let peer = &mut peers[id.0 as usize];
        let room = peer.room;
        let Some(association) = &mut peer.association else { return Sent::All };
        port.send(now, id, link, room, |buf| association.poll_transmit(now, &mut buf[..room]))
    }
}
