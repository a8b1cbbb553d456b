//! A session as its streams see it: shared between the driver of the socket, which moves datagrams, and one task for each
//! stream, which moves bytes.

use std::cell::{Cell, Ref, RefCell, RefMut};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Waker;
use std::time::Instant;

use stream::session::Session;
use stream::smux::StreamId;

/// Who waits for a stream.
#[derive(Debug, Default)]
struct Waiting {
    readable: Option<Waker>,
    writable: Option<Waker>,
}

/// One session, and the tasks that wait for its streams.
#[derive(Debug)]
pub(super) struct Link {
    /// Where its datagrams go.
    pub(super) peer: SocketAddr,
    session: RefCell<Session>,
    waiting: RefCell<BTreeMap<StreamId, Waiting>>,
    /// In [`Ready::links`].
    queued: Cell<bool>,
    /// The deadline that the driver has noted.
    pub(super) deadline: Cell<Option<Instant>>,
    closed: Cell<bool>,
    ready: Rc<Ready>,
}

/// Sessions that may have something to send or to tell.
#[derive(Debug, Default)]
pub(super) struct Ready {
    links: RefCell<VecDeque<Rc<Link>>>,
    driver: RefCell<Option<Waker>>,
}

impl Ready {
    pub(super) fn pop(&self) -> Option<Rc<Link>> {
        let link = self.links.borrow_mut().pop_front()?;
        link.queued.set(false);
        Some(link)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.links.borrow().is_empty()
    }

    /// Notes whom to wake when a session becomes ready.
    pub(super) fn set_driver(&self, waker: &Waker) {
        let mut driver = self.driver.borrow_mut();
        if !driver.as_ref().is_some_and(|driver| driver.will_wake(waker)) {
            *driver = Some(waker.clone());
        }
    }

    /// Wakes the driver.
    pub(super) fn wake(&self) {
        if let Some(waker) = &*self.driver.borrow() {
            waker.wake_by_ref();
        }
    }
}

impl Link {
    pub(super) fn new(peer: SocketAddr, session: Session, ready: Rc<Ready>) -> Rc<Self> {
        Rc::new(Self {
            peer,
            session: RefCell::new(session),
            waiting: RefCell::default(),
            queued: Cell::new(false),
            deadline: Cell::new(None),
            closed: Cell::new(false),
            ready,
        })
    }

    pub(super) fn session(&self) -> RefMut<'_, Session> {
        self.session.borrow_mut()
    }

    pub(super) fn peek_session(&self) -> Ref<'_, Session> {
        self.session.borrow()
    }

    /// Something was done to the session: the driver shall look at it.
    pub(super) fn mark_ready(self: &Rc<Self>) {
        if !self.closed.get() && !self.queued.replace(true) {
            self.ready.links.borrow_mut().push_back(Rc::clone(self));
            self.ready.wake();
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Nothing will come of it any more. Whoever waits learns it, and the driver forgets it.
    pub(super) fn close(self: &Rc<Self>) {
        self.mark_ready();
        self.closed.set(true);
        for (_, waiting) in std::mem::take(&mut *self.waiting.borrow_mut()) {
            waiting.readable.into_iter().chain(waiting.writable).for_each(Waker::wake);
        }
    }

    pub(super) fn wait_readable(&self, stream: StreamId, waker: &Waker) {
        self.waiting.borrow_mut().entry(stream).or_default().readable = Some(waker.clone());
    }

    pub(super) fn wait_writable(&self, stream: StreamId, waker: &Waker) {
        self.waiting.borrow_mut().entry(stream).or_default().writable = Some(waker.clone());
    }

    /// Wakes the tasks that wait for what has happened; gives `opened` the streams that the other end has opened.
    pub(super) fn tell(&self, mut opened: impl FnMut(StreamId)) {
        loop {
            let Some(event) = self.session().streams().poll_event() else { return };
            if event.changes.opened {
                opened(event.stream);
            }
            let mut waiting = self.waiting.borrow_mut();
            let Some(waiting) = waiting.get_mut(&event.stream) else { continue };
            let readable = if event.changes.readable { waiting.readable.take() } else { None };
            let writable = if event.changes.writable { waiting.writable.take() } else { None };
            readable.into_iter().chain(writable).for_each(Waker::wake);
        }
    }

    /// The task of a stream ends.
    pub(super) fn forget(&self, stream: StreamId) {
        self.waiting.borrow_mut().remove(&stream);
    }
}
