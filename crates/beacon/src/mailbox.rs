//! Events on their way to a reader that may be slow.
//!
//! For each thing only the newest is kept: a reader that comes late learns the state of things, not each step that led there.
//! So what waits is bounded by the number of things there are, and no event is ever dropped.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// An event about one thing, of which only the newest matters: those that [`Events`](crate::Events) tells.
pub trait Coalesce: Sized {
    /// What the event is about.
    type Key: Clone + Eq + Hash;

    /// What this event is about.
    fn key(&self) -> Self::Key;

    /// What is left to say to somebody who has seen neither this event nor the `newer` one; `None` for nothing at all.
    fn followed_by(self, newer: Self) -> Option<Self>;
}

struct Waiting<T: Coalesce> {
    /// By order of arrival.
    events: BTreeMap<u64, T>,
    places: HashMap<T::Key, u64>,
    next_place: u64,
    reader: Option<Waker>,
    closed: bool,
}

impl<T: Coalesce> Waiting<T> {
    fn push(&mut self, event: T) {
        let key = event.key();
        let Some(&place) = self.places.get(&key) else {
            self.places.insert(key, self.next_place);
            self.events.insert(self.next_place, event);
            self.next_place += 1;
            return;
        };
        match self.events.remove(&place).and_then(|older| older.followed_by(event)) {
            Some(event) => {
                self.events.insert(place, event);
            }
            None => {
                self.places.remove(&key);
            }
        }
    }

    fn pop(&mut self) -> Option<T> {
        let (_, event) = self.events.pop_first()?;
        self.places.remove(&event.key());
        Some(event)
    }
}

/// The end that events are put in; when it is dropped, nothing follows.
pub(crate) struct Sender<T: Coalesce>(Arc<Mutex<Waiting<T>>>);

/// The end that events are taken from.
pub(crate) struct Receiver<T: Coalesce>(Arc<Mutex<Waiting<T>>>);

pub(crate) fn mailbox<T: Coalesce>() -> (Sender<T>, Receiver<T>) {
    let waiting = Arc::new(Mutex::new(Waiting {
        events: BTreeMap::new(),
        places: HashMap::new(),
        next_place: 0,
        reader: None,
        closed: false,
    }));
    (Sender(Arc::clone(&waiting)), Receiver(waiting))
}

/// What panics in between is nobody's own state: the map is whole at every step.
fn lock<T: Coalesce>(waiting: &Mutex<Waiting<T>>) -> MutexGuard<'_, Waiting<T>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Coalesce> Sender<T> {
    pub(crate) fn send_some(&self, event: Option<T>) {
        if let Some(event) = event {
            self.send(event);
        }
    }

    pub(crate) fn send(&self, event: T) {
        let reader = {
            let mut waiting = lock(&self.0);
            waiting.push(event);
            waiting.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl<T: Coalesce> Drop for Sender<T> {
    fn drop(&mut self) {
        let reader = {
            let mut waiting = lock(&self.0);
            waiting.closed = true;
            waiting.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl<T: Coalesce> Receiver<T> {
    pub(crate) fn poll(&self, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut waiting = lock(&self.0);
        if let Some(event) = waiting.pop() {
            return Poll::Ready(Some(event));
        }
        if waiting.closed {
            return Poll::Ready(None);
        }
        waiting.reader = Some(context.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    enum Door {
        Opens(u8),
        Shuts(u8),
    }

    impl Coalesce for Door {
        type Key = u8;

        fn key(&self) -> u8 {
            match self {
                Self::Opens(number) | Self::Shuts(number) => *number,
            }
        }

        fn followed_by(self, newer: Self) -> Option<Self> {
            (self == newer).then_some(newer)
        }
    }

    fn taken(receiver: &Receiver<Door>) -> Vec<Door> {
        let mut context = Context::from_waker(Waker::noop());
        std::iter::from_fn(|| match receiver.poll(&mut context) {
            Poll::Ready(event) => event,
            Poll::Pending => None,
        })
        .collect()
    }

    #[test]
    fn what_was_undone_before_anybody_looked_was_never_there() {
        let (sender, receiver) = mailbox();
        for _ in 0..1_000 {
            sender.send(Door::Opens(1));
            sender.send(Door::Opens(2));
            sender.send(Door::Shuts(1));
        }
        assert_eq!(taken(&receiver), [Door::Opens(2)]);
        sender.send(Door::Opens(1));
        assert_eq!(taken(&receiver), [Door::Opens(1)]);
        assert_eq!(lock(&receiver.0).places.len(), 0);
    }

    #[test]
    fn what_was_said_before_the_end_is_still_read() {
        let (sender, receiver) = mailbox();
        sender.send(Door::Opens(1));
        drop(sender);
        let mut context = Context::from_waker(Waker::noop());
        assert_eq!(receiver.poll(&mut context), Poll::Ready(Some(Door::Opens(1))));
        assert_eq!(receiver.poll(&mut context), Poll::Ready(None));
    }
}
