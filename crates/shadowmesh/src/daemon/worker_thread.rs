//! A data-plane thread: one worker, its TUN queues, its carriers' sockets, one epoll.

use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Duration, Instant};

use node::{Ready, Worker};
use os::poll::{Events, Interest, Poller, Waker};
use os::tun::TunPort;
use packet::Tun;

use super::carriers::{CarrierLink, TOKENS};
use super::handle::Input;
use crate::streams::Inbox;

/// Rounds of work after which the kernel is asked for news even though there is more to do at once.
const ROUNDS_BETWEEN_POLLS: u32 = 4;

/// When to offer an event again that the node's channel did not take.
const HELD_RETRY: Duration = Duration::from_millis(1);

/// Behind those of the carriers.
const WAKER: u64 = TOKENS;
/// The first TUN queue; the others follow.
const TUN: u64 = TOKENS + 1;

/// What a worker's thread tells about itself. Each is written by that thread alone.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Heap allocations since the loop began.
    pub(super) allocations: AtomicU64,
    /// Rounds of the loop.
    pub(super) rounds: AtomicU64,
    /// Times that an event for the node found its channel full, and had to wait.
    pub(super) events_held: AtomicU64,
}

/// A data-plane thread's belongings.
#[derive(Debug)]
pub(super) struct WorkerThread {
    pub(super) worker: Worker,
    pub(super) tun: WatchedTun,
    pub(super) link: CarrierLink,
    pub(super) waker: Arc<Waker>,
    pub(super) inputs: SyncSender<Input>,
    /// Where datagrams of streams go, if anybody runs streams.
    pub(super) streams: Option<Arc<Inbox>>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) counters: Arc<Counters>,
}

impl WorkerThread {
    /// Works until it is told to stop.
    ///
    /// # Errors
    /// When the TUN device is gone, or the kernel refuses to poll.
    pub(super) fn run(mut self) -> Result<(), String> {
        let failed = |error: io::Error| format!("cannot wait for packets: {error}");
        let poller = Poller::new().map_err(failed)?;
        // Edge-triggered, the waker too: each wake is an edge, and nobody needs to drain it.
        let edge = |interest| Interest { edge: true, ..interest };
        for (token, queue) in (TUN..).zip(self.tun.port.queues()) {
            poller.add(queue, token, edge(Interest::READ)).map_err(failed)?;
        }
        self.link.watch(&poller).map_err(failed)?;
        poller.add(&*self.waker, WAKER, edge(Interest::READ)).map_err(failed)?;
        let mut events = Events::with_capacity(self.tun.port.queues().len() + TOKENS as usize + 1);

        // What became ready before we watched makes no edge: try everything once.
        let mut ready = Ready { tun: true, link: true, writable: true };
        let allocations_before = os::alloc::thread_allocations();
        let mut held = None;
        let mut more = true;
        let mut rounds = 0;
        while !self.stop.load(Relaxed) {
            if !more || rounds % ROUNDS_BETWEEN_POLLS == 0 {
                let timeout = if more { Some(Duration::ZERO) } else { self.until_deadline(held.is_some()) };
                poller.wait(&mut events, timeout).map_err(failed)?;
                for event in events.iter() {
                    match event.token {
                        ..TOKENS => {
                            self.link.handle_event(&event, &mut ready);
                        }
                        WAKER => {}
                        queue => {
                            self.tun.port.set_ready((queue - TUN) as usize);
                            ready.tun = true;
                        }
                    }
                }
            }
            rounds = rounds.wrapping_add(1);
            let now = Instant::now();
            if self.link.poll_timeout().is_some_and(|(at, _)| at <= now) {
                self.link.handle_timeout(now);
            }
            more = self.worker.step(now, &mut self.tun, &mut self.link, &mut ready);
            if self.tun.gone {
                return Err("the TUN device is gone".into());
            }
            self.hand_over_streams();
            if !self.tell(&mut held) {
                return Ok(());
            }
            bump(&self.counters.rounds);
            self.counters.allocations.store(os::alloc::thread_allocations() - allocations_before, Relaxed);
        }
        Ok(())
    }

    /// Hands the worker's events to the node, as far as its channel takes them; what it does not take now is held. The
    /// worker's own queue then fills, and what does not fit there it counts as dropped. Returns whether there is still
    /// a node.
    fn tell(&mut self, held: &mut Option<Input>) -> bool {
        while let Some(input) = held.take().or_else(|| self.worker.poll_event().map(Input::Event)) {
            match self.inputs.try_send(input) {
                Ok(()) => {}
                Err(TrySendError::Full(input)) => {
                    bump(&self.counters.events_held);
                    *held = Some(input);
                    return true;
                }
                Err(TrySendError::Disconnected(_)) => return false,
            }
        }
        true
    }

    fn hand_over_streams(&mut self) {
        if let Some(inbox) = &self.streams {
            while let Some(batch) = self.worker.poll_streams() {
                inbox.push(batch);
            }
        }
    }

    fn until_deadline(&self, held: bool) -> Option<Duration> {
        let deadline = self.worker.poll_timeout().into_iter().chain(self.link.poll_timeout()).min();
        let deadline = deadline.map(|(at, _)| at.saturating_duration_since(Instant::now()));
        [deadline, held.then_some(HELD_RETRY)].into_iter().flatten().min()
    }
}

/// Adds one to a counter that nobody else writes: no locked instruction needed.
fn bump(counter: &AtomicU64) {
    counter.store(counter.load(Relaxed) + 1, Relaxed);
}

/// TUN queues that remember when its device was deleted: the worker counts a drop and goes on, but no packet will
/// ever come again, and its thread must end.
#[derive(Debug)]
pub(super) struct WatchedTun {
    port: TunPort,
    gone: bool,
}

impl WatchedTun {
    pub(super) fn new(port: TunPort) -> Self {
        Self { port, gone: false }
    }

    fn watch<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result
            && error.kind() == io::ErrorKind::BrokenPipe
        {
            self.gone = true;
        }
        result
    }
}

impl Tun for WatchedTun {
    #[inline]
    fn recv(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let result = self.port.recv(bufs);
        self.watch(result)
    }

    #[inline]
    fn send(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<()> {
        let result = self.port.send(bufs);
        self.watch(result)
    }
}
