//! The memory of payload: chunks of one size that are used again and again.

/// Chunks larger than this are never kept for reuse: a peer with jumbo segments pays for them itself.
const CHUNK_MAX: usize = 2_048;

/// Chunks kept at least, so that a quiet conversation need not ask the allocator for each segment.
const KEEP_MIN: usize = 8;

/// Some bytes of the stream.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    memory: Box<[u8]>,
    start: u16,
    end: u16,
}

impl Chunk {
    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.memory[usize::from(self.start)..usize::from(self.end)]
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        usize::from(self.end - self.start)
    }

    /// Adds as many of `bytes` as there is room for within `limit` bytes in all; says how many.
    #[inline]
    pub(super) fn append(&mut self, bytes: &[u8], limit: usize) -> usize {
        let end = usize::from(self.end);
        let room = self.memory.len().min(limit).saturating_sub(end);
        let taken = bytes.len().min(room);
        self.memory[end..end + taken].copy_from_slice(&bytes[..taken]);
        self.end = (end + taken) as u16;
        taken
    }

    /// Forgets the first `count` bytes, or all.
    #[inline]
    pub(super) fn consume(&mut self, count: usize) {
        self.start += count.min(self.len()) as u16;
    }
}

/// Chunks of one conversation: those in use, and those that wait to be used again.
#[derive(Debug)]
pub(super) struct Pool {
    free: Vec<Box<[u8]>>,
    chunk_size: usize,
    /// Bytes of all chunks, free ones included.
    held: usize,
    in_use: usize,
    /// The most chunks in use since the last [`Pool::trim`], and before it.
    peak: usize,
    peak_before: usize,
}

impl Pool {
    pub(super) fn new(chunk_size: usize) -> Self {
        Self { free: Vec::new(), chunk_size, held: 0, in_use: 0, peak: 0, peak_before: 0 }
    }

    /// An empty chunk with room for `size` bytes, at most 65,535.
    #[inline]
    pub(super) fn take(&mut self, size: usize) -> Chunk {
        self.in_use += 1;
        self.peak = self.peak.max(self.in_use);
        if size <= self.chunk_size
            && let Some(memory) = self.free.pop()
        {
            return Chunk { memory, start: 0, end: 0 };
        }
        self.allocate(size)
    }

    #[cold]
    fn allocate(&mut self, size: usize) -> Chunk {
        if size > self.chunk_size && size <= CHUNK_MAX {
            // The peer's segments are larger than ours: from now on, chunks are for both.
            self.chunk_size = size;
            self.release(0);
        }
        let size = size.max(self.chunk_size);
        self.held += size;
        Chunk { memory: vec![0; size].into_boxed_slice(), start: 0, end: 0 }
    }

    #[inline]
    pub(super) fn give(&mut self, chunk: Chunk) {
        if chunk.memory.is_empty() {
            return;
        }
        self.in_use -= 1;
        if chunk.memory.len() == self.chunk_size && self.free.len() + self.in_use < self.keep() {
            self.free.push(chunk.memory);
        } else {
            self.held -= chunk.memory.len();
        }
    }

    fn keep(&self) -> usize {
        self.peak.max(self.peak_before).max(KEEP_MIN)
    }

    /// Gives back to the allocator what has not been needed since the last call but one.
    pub(super) fn trim(&mut self) {
        self.peak_before = self.peak;
        self.peak = self.in_use;
        self.release(self.keep().saturating_sub(self.in_use));
    }

    /// Whether [`Pool::trim`] could still give something back, now or at its next call.
    pub(super) fn trimmable(&self) -> bool {
        self.free.len() > KEEP_MIN
    }

    fn release(&mut self, keep: usize) {
        while self.free.len() > keep {
            self.held -= self.free.pop().map_or(0, |memory| memory.len());
        }
        if self.free.capacity() > 4 * keep.max(KEEP_MIN) {
            self.free.shrink_to(keep.max(KEEP_MIN));
        }
    }

    /// Bytes held from the allocator.
    pub(super) fn memory(&self) -> usize {
        self.held + self.free.capacity() * size_of::<Box<[u8]>>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_used_again() {
        let mut pool = Pool::new(100);
        let chunks: Vec<Chunk> = (0..20).map(|_| pool.take(100)).collect();
        let held = pool.held;
        for chunk in chunks {
            pool.give(chunk);
        }
        let chunks: Vec<Chunk> = (0..20).map(|_| pool.take(10)).collect();
        assert_eq!((held, pool.held), (2_000, 2_000));
        for chunk in chunks {
            pool.give(chunk);
        }
    }

    #[test]
    fn what_is_not_needed_any_more_goes_back_to_the_allocator() {
        let mut pool = Pool::new(100);
        let chunks: Vec<Chunk> = (0..1_000).map(|_| pool.take(100)).collect();
        for chunk in chunks {
            pool.give(chunk);
        }
        pool.trim();
        assert_eq!(pool.held, 100_000, "it was needed just now");
        assert!(pool.trimmable());
        pool.trim();
        assert_eq!(pool.held, 100 * KEEP_MIN);
        assert!(!pool.trimmable());
    }

    #[test]
    fn a_peer_with_larger_segments_does_not_cost_an_allocation_each() {
        let mut pool = Pool::new(100);
        let small = pool.take(100);
        let large = pool.take(150);
        pool.give(large);
        pool.give(small);
        assert_eq!((pool.held, pool.free.len()), (150, 1));
        let jumbo = pool.take(9_000);
        assert_eq!(pool.held, 9_150);
        pool.give(jumbo);
        assert_eq!(pool.held, 150, "a jumbo segment is not kept");
    }

    #[test]
    fn a_chunk_is_filled_to_its_limit_and_read_in_pieces() {
        let mut chunk = Pool::new(8).take(8);
        assert_eq!(chunk.append(b"abcdef", 4), 4);
        assert_eq!(chunk.append(b"ef", 8), 2);
        chunk.consume(3);
        assert_eq!(chunk.bytes(), b"def");
        chunk.consume(99);
        assert_eq!(chunk.len(), 0);
    }
}
