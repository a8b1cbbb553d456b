//! A fixed set of fixed-size buffers, handed out as guards that come home by themselves.

use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam_queue::ArrayQueue;

/// The two sizes of buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A train: [`Class::LARGE_BYTES`] bytes.
    Large,
    /// A single control or mDNS datagram: [`Class::SMALL_BYTES`] bytes.
    Small,
}

impl Class {
    /// Room for a super-packet of 64 KiB with the overhead of sealing each of its segments, and then some.
    pub const LARGE_BYTES: usize = 72 * 1024;
    /// The largest mDNS message (RFC 6762 §17).
    pub const SMALL_BYTES: usize = 9_000;

    fn bytes(self) -> usize {
        match self {
            Self::Large => Self::LARGE_BYTES,
            Self::Small => Self::SMALL_BYTES,
        }
    }
}

/// How many buffers of each class a pool owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// Buffers of [`Class::Large`].
    pub large: usize,
    /// Buffers of [`Class::Small`].
    pub small: usize,
}

/// How much of one class is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassUse {
    /// Buffers that exist.
    pub capacity: usize,
    /// Buffers that are out now.
    pub in_use: usize,
    /// How often [`Pool::take`] found none left.
    pub exhausted: u64,
}

/// A pool of buffers. Clones share the same buffers.
///
/// All memory is reserved when the pool is made (the kernel backs it with pages as they are first written) and there
/// is never more: an empty pool is a counted refusal, not a hidden allocation.
///
/// ```
/// use packet::{Class, Pool, PoolConfig};
///
/// let pool = Pool::new(PoolConfig { large: 1, small: 0 });
/// let mut buf = pool.take(Class::Large).expect("one was free");
/// buf.storage_mut()[..5].copy_from_slice(b"hello");
/// buf.commit(0..5);
/// assert_eq!(&buf[..], b"hello");
/// assert!(pool.take(Class::Large).is_none());
/// drop(buf);
/// assert!(pool.take(Class::Large).is_some());
/// ```
#[derive(Clone)]
pub struct Pool {
    large: Arc<Shelf>,
    small: Arc<Shelf>,
}

struct Shelf {
    free: ArrayQueue<Box<[u8]>>,
    capacity: usize,
    exhausted: AtomicU64,
}

impl Shelf {
    fn new(class: Class, capacity: usize) -> Arc<Self> {
        let free = ArrayQueue::new(capacity.max(1));
        for _ in 0..capacity {
            // A fresh zeroed vector comes straight from the kernel's zero pages: nothing is touched yet.
            let _ = free.push(vec![0; class.bytes()].into_boxed_slice());
        }
        Arc::new(Self { free, capacity, exhausted: AtomicU64::new(0) })
    }
}

impl Pool {
    /// A pool with that many buffers.
    pub fn new(config: PoolConfig) -> Self {
        Self { large: Shelf::new(Class::Large, config.large), small: Shelf::new(Class::Small, config.small) }
    }

    /// Takes an empty buffer; `None`, counted, when all are out.
    pub fn take(&self, class: Class) -> Option<Buf> {
        let home = self.shelf(class);
        let Some(storage) = home.free.pop() else {
            home.exhausted.fetch_add(1, Relaxed);
            return None;
        };
        Some(Buf { storage, filled: 0..0, dirty: 0, home: Arc::clone(home) })
    }

    /// Takes an empty buffer while at least half of all are there: for what anybody can send, lest that use up what others need.
    pub fn take_spare(&self, class: Class) -> Option<Buf> {
        let home = self.shelf(class);
        if home.free.len() * 2 < home.capacity { None } else { self.take(class) }
    }

    /// How much of a class is in use. `capacity` is 0 for a class the pool was made without.
    pub fn usage(&self, class: Class) -> ClassUse {
        let shelf = self.shelf(class);
        ClassUse {
            capacity: shelf.capacity,
            in_use: shelf.capacity - shelf.free.len().min(shelf.capacity),
            exhausted: shelf.exhausted.load(Relaxed),
        }
    }

    fn shelf(&self, class: Class) -> &Arc<Shelf> {
        match class {
            Class::Large => &self.large,
            Class::Small => &self.small,
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("large", &self.usage(Class::Large))
            .field("small", &self.usage(Class::Small))
            .finish()
    }
}

/// A buffer of a [`Pool`]: derefs to its filled part, and goes home when dropped, on every path.
///
/// On its way home every byte that was committed is cleared, so what one peer sent is never there when the next
/// user takes the buffer.
pub struct Buf {
    storage: Box<[u8]>,
    filled: Range<usize>,
    /// Bytes from the front that may have been written.
    dirty: usize,
    home: Arc<Shelf>,
}

impl Buf {
    /// The whole storage, to write into. Say with [`commit`](Self::commit) what was written.
    pub fn storage_mut(&mut self) -> &mut [u8] {
        &mut self.storage
    }

    /// Declares `range` to be the filled part. Everything before its end counts as written.
    ///
    /// # Panics
    /// When the range is not inside the storage: a bug of the caller, never of the network.
    pub fn commit(&mut self, range: Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.storage.len(), "commit outside the buffer");
        self.dirty = self.dirty.max(range.end);
        self.filled = range;
    }

    /// Bytes of storage.
    pub fn capacity(&self) -> usize {
        self.storage.len()
    }
}

impl Deref for Buf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.storage[self.filled.clone()]
    }
}

impl DerefMut for Buf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.filled.clone()]
    }
}

impl fmt::Debug for Buf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The contents are somebody's traffic: not for logs.
        write!(f, "Buf({} of {} bytes)", self.filled.len(), self.storage.len())
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        let mut storage = std::mem::take(&mut self.storage);
        storage[..self.dirty].fill(0);
        // There is a place for each buffer that was taken.
        let _ = self.home.free.push(storage);
    }
}
