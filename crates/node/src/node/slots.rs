//! Local indices of sessions: a slot number and chance, made to look like nothing but chance.

use rand_core::Rng;

use crate::config::PeerId;
use crate::table::{IndexCipher, SLOT_BITS};

/// Which indices are in use, and whose they are.
#[derive(Debug)]
pub(crate) struct Slots {
    cipher: IndexCipher,
    owners: Vec<Option<(u32, PeerId)>>,
    free: Vec<usize>,
}

impl Slots {
    pub(crate) fn new(cipher: IndexCipher) -> Self {
        Self { cipher, owners: Vec::new(), free: Vec::new() }
    }

    /// What an index says to those who hold the key.
    pub(crate) fn cipher(&self) -> IndexCipher {
        self.cipher
    }

    /// Slots that exist, in use or not.
    pub(crate) fn len(&self) -> usize {
        self.owners.len()
    }

    /// A fresh local index; `None` when there are a million already.
    pub(crate) fn allocate(&mut self, peer: PeerId, rng: &mut impl Rng) -> Option<u32> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.owners.len() < 1 << SLOT_BITS => {
                self.owners.push(None);
                self.owners.len() - 1
            }
            None => return None,
        };
        let local_index = self.cipher.index_of(rng.next_u32() << SLOT_BITS | slot as u32);
        self.owners[slot] = Some((local_index, peer));
        Some(local_index)
    }

    /// Whose index that is.
    pub(crate) fn owner(&self, local_index: u32) -> Option<PeerId> {
        let (index, peer) = (*self.owners.get(self.cipher.slot_of(local_index))?)?;
        (index == local_index).then_some(peer)
    }

    pub(crate) fn release(&mut self, local_index: u32) {
        if self.owner(local_index).is_some() {
            let slot = self.cipher.slot_of(local_index);
            self.owners[slot] = None;
            self.free.push(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    use super::*;

    #[test]
    fn an_index_is_found_again_and_shows_no_slot() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let mut slots = Slots::new(IndexCipher::new(&mut rng));
        let indices: Vec<u32> = (0..5_000).map(|n| slots.allocate(PeerId(n), &mut rng).unwrap()).collect();
        for (n, &index) in indices.iter().enumerate() {
            assert_eq!(slots.owner(index), Some(PeerId(n as u32)));
            assert_eq!(slots.cipher().slot_of(index), n);
        }
        // Of slots in order every bit is set half of the time, and changes half of the time.
        for bit in 0..32 {
            let ones = indices.iter().filter(|&&index| index >> bit & 1 == 1).count();
            let changes = indices.windows(2).filter(|pair| (pair[0] ^ pair[1]) >> bit & 1 == 1).count();
            assert!((2_300..2_700).contains(&ones), "bit {bit}: {ones} of 5,000");
            assert!((2_300..2_700).contains(&changes), "bit {bit}: {changes} of 4,999");
        }
        slots.release(indices[7]);
        assert_eq!(slots.owner(indices[7]), None);
        let again = slots.allocate(PeerId(9), &mut rng).unwrap();
        assert_eq!((slots.cipher().slot_of(again), slots.owner(indices[7])), (7, None));
    }
}
