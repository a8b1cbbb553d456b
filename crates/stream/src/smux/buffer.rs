//! Byte queues made of chunks that all streams of a session share, so that an idle stream holds no memory.

use std::collections::VecDeque;
use std::io::IoSlice;

/// Bytes of a chunk.
const CHUNK: usize = 4096;
/// Chunks kept for the next use; the rest goes back to the allocator.
const SPARE_MAX: usize = 256;

type Chunk = Box<[u8; CHUNK]>;

/// Where chunks come from and go to.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    spare: Vec<Chunk>,
    in_use: usize,
}

impl Chunks {
    fn take(&mut self) -> Chunk {
        self.in_use += 1;
        self.spare.pop().unwrap_or_else(|| Box::new([0; CHUNK]))
    }

    fn give(&mut self, chunk: Chunk) {
        self.in_use -= 1;
        if self.spare.len() < SPARE_MAX {
            self.spare.push(chunk);
        }
    }

    /// Bytes of memory that queues hold.
    pub(super) fn held(&self) -> usize {
        self.in_use * CHUNK
    }

    /// Bytes of memory in all.
    pub(super) fn memory(&self) -> usize {
        (self.in_use + self.spare.len()) * CHUNK
    }
}

/// Bytes, first in, first out. Must be [`clear`](Self::clear)ed before it is dropped: its chunks are accounted for.
#[derive(Debug, Default)]
pub(super) struct ByteQueue {
    chunks: VecDeque<Chunk>,
    /// Bytes of the first chunk that were consumed.
    head: usize,
    len: usize,
}

impl ByteQueue {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that still fit into the last chunk.
    pub(super) fn slack(&self) -> usize {
        self.chunks.len() * CHUNK - self.head - self.len
    }

    pub(super) fn push(&mut self, chunks: &mut Chunks, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.slack() == 0 {
                self.chunks.push_back(chunks.take());
            }
            let from = (self.head + self.len) % CHUNK;
            let count = bytes.len().min(CHUNK - from);
            let (front, rest) = bytes.split_at(count);
            if let Some(last) = self.chunks.back_mut() {
                last[from..from + count].copy_from_slice(front);
            }
            self.len += count;
            bytes = rest;
        }
    }

    /// The next bytes, as one piece of at most `max`; empty when there are none.
    pub(super) fn front(&self, max: usize) -> &[u8] {
        match self.chunks.front() {
            Some(chunk) => &chunk[self.head..CHUNK.min(self.head + self.len.min(max))],
            None => &[],
        }
    }

    /// Fills `slices` with the next bytes and returns how many slices were filled.
    pub(super) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let (mut left, mut head, mut filled) = (self.len, self.head, 0);
        for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
            let end = CHUNK.min(head + left);
            *slice = IoSlice::new(&chunk[head..end]);
            left -= end - head;
            head = 0;
            filled += 1;
            if left == 0 {
                break;
            }
        }
        filled
    }

    /// Forgets the first `count` bytes, or all when there are fewer.
    pub(super) fn consume(&mut self, chunks: &mut Chunks, count: usize) {
        let mut count = count.min(self.len);
        while count > 0 {
            let step = count.min(CHUNK - self.head);
            self.head += step;
            self.len -= step;
            count -= step;
            if self.head == CHUNK {
                self.head = 0;
                self.chunks.pop_front().into_iter().for_each(|chunk| chunks.give(chunk));
            }
        }
        if self.len == 0 {
            self.clear(chunks);
        }
    }

    pub(super) fn clear(&mut self, chunks: &mut Chunks) {
        self.chunks.drain(..).for_each(|chunk| chunks.give(chunk));
        (self.head, self.len) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_as_they_went_in_whatever_the_steps() {
        let mut chunks = Chunks::default();
        let mut queue = ByteQueue::default();
        let (mut sent, mut received) = (0_u64, 0_u64);
        for round in 1_usize..4_000 {
            let piece: Vec<u8> = (0..round * 37 % 9_001).map(|at| ((sent + at as u64) % 251) as u8).collect();
            queue.push(&mut chunks, &piece);
            sent += piece.len() as u64;
            let mut want = round * 61 % 9_100;
            while want > 0 && !queue.is_empty() {
                let front = queue.front(want);
                assert!(!front.is_empty());
                let count = front.len();
                assert!(
                    front.iter().enumerate().all(|(at, byte)| *byte == ((received + at as u64) % 251) as u8)
                );
                queue.consume(&mut chunks, count);
                received += count as u64;
                want -= count;
            }
            assert_eq!(queue.len() as u64, sent - received);
            let mut slices = [IoSlice::new(&[]); 3];
            let filled = queue.slices(&mut slices);
            let seen: usize = slices[..filled].iter().map(|slice| slice.len()).sum();
            assert_eq!(seen == queue.len(), queue.len() <= seen, "slices hold a prefix");
            assert_eq!(chunks.held() % CHUNK, 0);
            assert!(chunks.held() < queue.len() + 2 * CHUNK);
        }
        queue.clear(&mut chunks);
        assert_eq!(chunks.held(), 0);
    }
}
