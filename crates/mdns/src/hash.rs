//! Hashing under a secret, so that nobody on the network can choose names that collide.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash, Hasher};

use crate::wire::{NAME_LEN_MAX, Name, RData, RecordData};

/// Makes hashers that all begin with the same secret.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keyed {
    secret: [u64; 2],
}

impl Keyed {
    pub(crate) fn new(secret: [u64; 2]) -> Self {
        Self { secret }
    }
}

impl BuildHasher for Keyed {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.secret[0]);
        hasher.write_u64(self.secret[1]);
        hasher
    }
}

/// Passes on a key that is a hash already.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A map from keyed hashes to slots.
pub(crate) type SlotsByHash = HashMap<u64, u32, BuildHasherDefault<AlreadyHashed>>;

impl Keyed {
    /// The hash of a name, the same for all ways to write it.
    pub(crate) fn name(self, name: Name<'_>) -> u64 {
        // In one piece: a hasher takes it faster than label by label.
        let mut folded = [0; NAME_LEN_MAX];
        let mut len = 0;
        for label in name.labels() {
            let Some(room) = folded.get_mut(len..=len + label.len()) else { break };
            room[0] = label.len() as u8;
            room[1..].copy_from_slice(label);
            len += room.len();
        }
        // No length is a letter.
        folded[..len].make_ascii_lowercase();
        let mut hasher = self.build_hasher();
        hasher.write(&folded[..len]);
        hasher.finish()
    }

    /// The hash of the data of a record, the same for all ways to write it.
    pub(crate) fn data(self, data: &RData<'_>) -> u64 {
        let mut hasher = self.build_hasher();
        match data {
            RData::A(address) => address.hash(&mut hasher),
            RData::Aaaa(address) => address.hash(&mut hasher),
            RData::Ptr(name) | RData::Cname(name) => name.hash(&mut hasher),
            RData::Srv(srv) => {
                (srv.priority, srv.weight, srv.port).hash(&mut hasher);
                srv.target.hash(&mut hasher);
            }
            RData::Txt(txt) => hasher.write(txt.as_bytes()),
            RData::Nsec(nsec) => {
                nsec.next.hash(&mut hasher);
                hasher.write(nsec.types.as_bytes());
            }
            // There may be compressed names in it. Records of such types are rare; they cost a copy.
            RData::Other(_) => hasher.write(RecordData::new(data).as_bytes()),
        }
        hasher.finish()
    }
}

/// One hash of several, in their order.
pub(crate) fn mix(hashes: impl IntoIterator<Item = u64>) -> u64 {
    // The finaliser of SplitMix64. The secret is in the hashes of names that are mixed.
    hashes.into_iter().fold(0, |mixed, hash| {
        let mut z = mixed.rotate_left(25) ^ hash.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}
