//! A byte stream that costs nothing to make and nearly nothing to check.
//!
//! The stream is a sequence of chunks. Each is a window into one block of pseudo-random bytes, and where the
//! window starts depends on the flow and on the number of the chunk:
//!
//! ```text
//! block    ├──────────────────────────────────────────────┤   CHUNK + SHIFTS bytes
//! chunk 0       ├─────────── CHUNK ──────────┤
//! chunk 1                ├─────────── CHUNK ──────────┤
//! chunk 2     ├─────────── CHUNK ──────────┤
//! ```
//!
//! So a sender hands slices of the block to the kernel without touching a byte, and a receiver compares
//! slices, which is a `memcmp`. A byte that is missing, doubled, damaged, out of order or of another flow
//! makes the comparison fail: the block does not repeat, and a flow starts two chunks at the same place only
//! after `SHIFTS` of them (16 GiB).

use std::ops::Range;

/// The source of all bytes that the demo sends, and the judge of those that it receives.
pub(super) struct Pattern {
    block: Box<[u8]>,
}

impl Pattern {
    /// Bytes between two jumps: also a good size for one write.
    pub(super) const CHUNK: usize = 256 * 1024;
    /// Places where a chunk may start.
    const SHIFTS: usize = 64 * 1024;

    /// The pattern of a seed.
    pub(super) fn new(seed: u64) -> Self {
        let mut state = seed;
        let words = (Self::CHUNK + Self::SHIFTS) / size_of::<u64>();
        Self { block: (0..words).flat_map(|_| split_mix_64(&mut state).to_le_bytes()).collect() }
    }

    /// What a flow sends from `offset` on, up to the end of that chunk. Never empty.
    pub(super) fn at(&self, flow: u64, offset: u64) -> &[u8] {
        let within = (offset % Self::CHUNK as u64) as usize;
        &self.block[Self::window(flow, offset / Self::CHUNK as u64)][within..]
    }

    /// Compares `received`, which a flow delivered from `offset` on, with what was sent.
    ///
    /// # Errors
    /// The offset in the flow of the first byte that is wrong.
    pub(super) fn verify(&self, flow: u64, offset: u64, received: &[u8]) -> Result<(), u64> {
        let (mut offset, mut rest) = (offset, received);
        while !rest.is_empty() {
            let expected = self.at(flow, offset);
            let len = expected.len().min(rest.len());
            let (now, later) = rest.split_at(len);
            if now != &expected[..len] {
                let right = now.iter().zip(expected).take_while(|(got, sent)| got == sent).count();
                return Err(offset + right as u64);
            }
            offset += len as u64;
            rest = later;
        }
        Ok(())
    }

    fn window(flow: u64, chunk: u64) -> Range<usize> {
        // An odd multiplier visits every shift once before any comes again.
        const STEP: u64 = 40_503;
        const FLOW_STEP: u64 = 25_717;
        let start = chunk.wrapping_mul(STEP).wrapping_add(flow.wrapping_mul(FLOW_STEP)) % Self::SHIFTS as u64;
        start as usize..start as usize + Self::CHUNK
    }
}

/// The `SplitMix64` generator (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
pub(super) fn split_mix_64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: u64 = Pattern::CHUNK as u64;

    /// The first `len` bytes of a flow.
    fn stream(pattern: &Pattern, flow: u64, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < len {
            bytes.extend_from_slice(pattern.at(flow, bytes.len() as u64));
        }
        bytes.truncate(len);
        bytes
    }

    #[test]
    fn a_stream_verifies_however_it_is_cut() {
        let pattern = Pattern::new(1);
        let sent = stream(&pattern, 3, 3 * Pattern::CHUNK + 1000);
        for size in [1 + sent.len() / 7, 1448, Pattern::CHUNK, Pattern::CHUNK + 1, sent.len()] {
            let mut offset = 0;
            for piece in sent.chunks(size) {
                assert_eq!(pattern.verify(3, offset, piece), Ok(()));
                offset += piece.len() as u64;
            }
        }
    }

    #[test]
    fn one_wrong_bit_is_found_where_it_is() {
        let pattern = Pattern::new(1);
        let sent = stream(&pattern, 0, 2 * Pattern::CHUNK);
        for place in [0, 1, Pattern::CHUNK - 1, Pattern::CHUNK, 2 * Pattern::CHUNK - 1] {
            let mut received = sent.clone();
            received[place] ^= 0x10;
            assert_eq!(pattern.verify(0, 0, &received), Err(place as u64));
        }
    }

    #[test]
    fn a_lost_a_doubled_and_a_swapped_piece_are_found() {
        let pattern = Pattern::new(1);
        let sent = stream(&pattern, 0, 4 * Pattern::CHUNK);
        for len in [1, 8, 1448, 64 * 1024, Pattern::CHUNK] {
            let at = Pattern::CHUNK / 2;
            let lost = [&sent[..at], &sent[at + len..]].concat();
            let doubled = [&sent[..at + len], &sent[at..]].concat();
            let swapped = [&sent[..at], &sent[at + len..at + 2 * len], &sent[at..at + len]].concat();
            assert_eq!(pattern.verify(0, 0, &sent), Ok(()));
            for received in [lost, doubled, swapped] {
                let first_wrong = pattern.verify(0, 0, &received).unwrap_err();
                assert!(first_wrong >= at as u64, "the bytes before the damage are right");
            }
        }
    }

    #[test]
    fn flows_and_chunks_differ_from_each_other() {
        let pattern = Pattern::new(1);
        for other in 1..64 {
            assert_ne!(pattern.at(0, 0)[..16], pattern.at(other, 0)[..16], "flow {other}");
            assert_ne!(pattern.at(0, 0)[..16], pattern.at(0, other * CHUNK)[..16], "chunk {other}");
        }
    }
}
