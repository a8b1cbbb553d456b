//! Where the workers put what they have received for the streams.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam_queue::ArrayQueue;
use node::StreamBatch;
use os::poll::Waker;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Batches that may wait. Each holds up to 64 KiB.
const BATCHES_MAX: usize = 64;

/// Batches from the workers to the thread of the streams. Bounded, and nobody ever waits for it.
#[derive(Debug)]
pub(crate) struct Inbox {
    queue: ArrayQueue<StreamBatch>,
    pub(crate) waker: Waker,
    /// Datagrams that found it full.
    dropped: AtomicU64,
    /// Datagrams of which the sessions of streams can make nothing.
    refused: AtomicU64,
}

impl Inbox {
    /// An empty one.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            queue: ArrayQueue::new(BATCHES_MAX),
            waker: Waker::new()?,
            dropped: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        })
    }

    /// Puts a batch in, or drops it, counted, when there is no room.
    pub(crate) fn push(&self, batch: StreamBatch) {
        if let Err(batch) = self.queue.push(batch) {
            self.dropped.fetch_add(batch.datagrams().count() as u64, Relaxed);
        }
        self.waker.wake();
    }

    pub(super) fn pop(&self) -> Option<StreamBatch> {
        self.queue.pop()
    }

    /// Counts datagrams of which the sessions of streams can make nothing.
    pub(super) fn count_refused(&self, datagrams: usize) {
        self.refused.fetch_add(datagrams as u64, Relaxed);
    }

    /// Datagrams of which the sessions of streams can make nothing.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// Datagrams that found it full.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

/// Something with a descriptor, in the form that tokio wants.
#[derive(Debug)]
pub(super) struct Watched<T>(T);

impl<T: AsFd> Watched<T> {
    /// Has tokio watch it, for `interest`.
    ///
    /// # Errors
    /// When there is no memory left for that.
    #[expect(
        deprecated,
        reason = "what replaces it is unsafe; a socket or an event keeps its descriptor while it is owned"
    )]
    pub(super) fn watch(descriptor: T, interest: Interest) -> io::Result<AsyncFd<Self>> {
        AsyncFd::with_interest(Self(descriptor), interest)
    }
}

impl<T: AsFd> AsRawFd for Watched<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}
