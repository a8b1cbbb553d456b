//! The receiving half of a link: the connections of its lane, taken in turn.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use packet::RecvSlot;

use super::connection::{Connection, State};
use super::window::{Cut, Slots, Window};
use super::{Common, End, LISTENER, lock, normal, socket};
use crate::poll::Events;

/// Events taken in one call.
const EVENTS: usize = 64;
/// Turns of connections in one call of `recv`: then whoever called does something else in between.
const TURNS_MAX: usize = 64;
/// Connections accepted in one turn.
const ACCEPTS_MAX: usize = 16;
/// When the kernel has no descriptor for a connection that waits, how long to leave it alone.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Of one link, and no other.
#[derive(Debug)]
pub(super) struct Receiver {
    events: Events,
    /// Whose turn it is, in order. A connection is in it once.
    ready: VecDeque<Ready>,
    window: Window,
    /// Whose bytes are in the window.
    current: Option<Arc<Connection>>,
    /// The listener is in `ready`.
    listener_ready: bool,
    /// Nothing is accepted until then.
    pub(super) accept_at: Option<Instant>,
}

#[derive(Debug)]
enum Ready {
    Listener,
    Connection(Arc<Connection>),
}

impl Receiver {
    pub(super) fn new() -> Self {
        Self {
            events: Events::with_capacity(EVENTS),
            ready: VecDeque::with_capacity(EVENTS),
            window: Window::new(),
            current: None,
            listener_ready: false,
            accept_at: None,
        }
    }

    /// Fills slots with what has come. Once this was `WouldBlock`, whatever comes is a new edge of the lane's epoll: every connection has been
    /// read until it had nothing more, and the epoll been asked until it knew no other.
    pub(super) fn recv(&mut self, common: &Common, lane: usize, slots: &mut [RecvSlot]) -> io::Result<usize> {
        if slots.is_empty() {
            return Ok(0);
        }
        let now = Instant::now();
        let mut slots = Slots::new(slots);
        let mut turns = 0;
        self.look(common, lane, now);
        loop {
            if let Some(connection) = self.current.take()
                && self.cut(common, &connection, &mut slots) == Cut::SlotsFull
            {
                self.current = Some(connection);
                break;
            }
            if turns == TURNS_MAX {
                break;
            }
            if self.ready.is_empty() && !self.look(common, lane, now) {
                if slots.filled() == 0 {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                break;
            }
            turns += 1;
            match self.ready.pop_front() {
                Some(Ready::Connection(connection)) => self.read(common, connection, now),
                Some(Ready::Listener) => {
                    self.listener_ready = false;
                    self.accept(common, now);
                }
                None => {}
            }
        }
        common.counters.received.fetch_add(slots.datagrams, Relaxed);
        Ok(slots.or_empty())
    }

    /// Asks the lane's epoll what has happened, and returns whether anything has.
    fn look(&mut self, common: &Common, lane: usize, now: Instant) -> bool {
        let lane = &common.lanes[lane];
        if !lane.poller.wait(&mut self.events, Some(Duration::ZERO)).is_ok_and(|count| count > 0) {
            return false;
        }
        for event in self.events.iter() {
            if event.token == LISTENER {
                if !self.listener_ready && self.accept_at.is_none() {
                    self.listener_ready = true;
                    self.ready.push_back(Ready::Listener);
                }
                continue;
            }
            let found = lock(&lane.members).by_token.get(&event.token).cloned();
            // It ended after the event.
            let Some(connection) = found else { continue };
            if event.writable && !writable(common, &connection, now) {
                continue;
            }
            if event.readable && !connection.queued.swap(true, Relaxed) {
                self.ready.push_back(Ready::Connection(connection));
            }
        }
        true
    }

    /// Moves datagrams from the window to the slots. What is left, unless the slots are full, goes back to the connection.
    fn cut(&mut self, common: &Common, connection: &Arc<Connection>, slots: &mut Slots<'_>) -> Cut {
        let before = slots.datagrams;
        let (cut, too_long) = self.window.cut(connection.remote, slots);
        common.counters.too_long.fetch_add(too_long, Relaxed);
        if slots.datagrams > before {
            connection.delivered.store(true, Relaxed);
        }
        match cut {
            Cut::SlotsFull => {}
            Cut::Malformed => common.close(connection, End::Malformed),
            Cut::Incomplete => {
                let mut partial = lock(&connection.partial);
                partial.clear();
                partial.extend_from_slice(self.window.rest());
            }
        }
        cut
    }

    /// A connection's turn: one read into the window.
    fn read(&mut self, common: &Common, connection: Arc<Connection>, now: Instant) {
        connection.queued.store(false, Relaxed);
        if connection.state() != State::Open {
            return;
        }
        self.window.begin(&lock(&connection.partial));
        let result = loop {
            match (&connection.socket).read(self.window.space()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        match result {
            // As long as it may have more it has a turn after all others.
            Ok(len) if len > 0 => {
                self.window.filled(len);
                connection.heard(now);
                connection.queued.store(true, Relaxed);
                self.ready.push_back(Ready::Connection(Arc::clone(&connection)));
                self.current = Some(connection);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            _ => {
                let cut_short = !lock(&connection.partial).is_empty();
                common.counters.cut_short.fetch_add(cut_short.into(), Relaxed);
                common.close(&connection, End::Closed);
            }
        }
    }

    /// Accepts what waits, as far as it is the listener's turn.
    fn accept(&mut self, common: &Common, now: Instant) {
        let Some((listener, _)) = &common.listener else { return };
        for _ in 0..ACCEPTS_MAX {
            match listener.accept() {
                Ok((stream, remote)) => {
                    let tuned = stream.set_nonblocking(true).and_then(|()| socket::tune(stream.as_fd()));
                    // A connection that has ended already may refuse its options.
                    if tuned.is_ok() {
                        common.admit(stream, normal(remote), now);
                    } else {
                        common.counters.refused.fetch_add(1, Relaxed);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if out_of_room(&error) => {
                    common.counters.accept_failed.fetch_add(1, Relaxed);
                    self.accept_at = Some(now + ACCEPT_PAUSE);
                    return;
                }
                // The connection has failed before it was accepted (accept(2)); the next may be well.
                Err(_) => {}
            }
        }
        self.listener_ready = true;
        self.ready.push_back(Ready::Listener);
    }

    /// After a pause, has the listener's turn come again. Returns whether it has.
    pub(super) fn end_pause(&mut self, now: Instant) -> bool {
        let due = self.accept_at.is_some_and(|at| now >= at);
        if due {
            self.accept_at = None;
            self.listener_ready = true;
            self.ready.push_back(Ready::Listener);
        }
        due
    }
}

/// Has a connection send what waited. Returns whether it lives.
fn writable(common: &Common, connection: &Arc<Connection>, now: Instant) -> bool {
    let connecting = connection.state() == State::Connecting;
    match connection.writable() {
        Ok(opened) => {
            if opened {
                connection.heard(now);
                common.counters.opened.fetch_add(1, Relaxed);
            }
            true
        }
        Err(_) => {
            common.close(connection, if connecting { End::NotOpened } else { End::Closed });
            false
        }
    }
}

/// Whether the kernel has no descriptor or memory for one more connection, which then still waits.
fn out_of_room(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}
