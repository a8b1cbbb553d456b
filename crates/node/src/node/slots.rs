//! Local indices of sessions: a slot number in the low bits, chance in the high ones.

use rand_core::Rng;

use crate::config::PeerId;
use crate::table::{SLOT_BITS, slot_of};

/// Which indices are in use, and whose they are.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    owners: Vec<Option<(u32, PeerId)>>,
    free: Vec<usize>,
}

impl Slots {
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
        let local_index = rng.next_u32() << SLOT_BITS | slot as u32;
        self.owners[slot] = Some((local_index, peer));
        Some(local_index)
    }

    /// Whose index that is.
    pub(crate) fn owner(&self, local_index: u32) -> Option<PeerId> {
        let (index, peer) = (*self.owners.get(slot_of(local_index))?)?;
        (index == local_index).then_some(peer)
    }

    pub(crate) fn release(&mut self, local_index: u32) {
        if self.owner(local_index).is_some() {
            self.owners[slot_of(local_index)] = None;
            self.free.push(slot_of(local_index));
        }
    }
}
