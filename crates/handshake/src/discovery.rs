//! How two peers recognise each other on a local network without telling anybody else who they are.

use std::fmt;

use crate::crypto::{Secret, hash, mac};
use crate::{PeerKeys, PublicKey};

/// What is hashed before the secrets, so that the result is good for nothing else.
const LABEL: &[u8] = b"shadowmesh mdns v1";

/// Bytes of a tag. Two are the same by chance once in 2⁶⁴ times, and then cost a handshake that nobody answers.
pub const DISCOVERY_TAG_LEN: usize = 8;

/// What two peers know each other's tags by, on a local network. It is cleared when dropped and never printed.
///
/// ```text
/// key = H("shadowmesh mdns v1" ‖ X25519(s, S) ‖ preshared key, or 32 zeros)
/// tag = BLAKE2s-128(key, day ‖ sender's static key), the first 8 bytes
/// ```
///
/// `day` counts days of UTC since 1970, u32, little-endian. Only the two can compute the key, from what they have before any
/// handshake, so only they recognise a tag, or can tell that the tags of two days are of the same node. To everybody else a tag
/// is eight random bytes. It proves nothing: a tag that was heard can be repeated by anybody for as long as it is recognised.
#[derive(Clone)]
pub struct DiscoveryKey(Secret);

impl DiscoveryKey {
    /// The tag by which `sender`, one of the two, is known to the other on a day (UTC, since 1970).
    pub fn tag(&self, day: u32, sender: &PublicKey) -> [u8; DISCOVERY_TAG_LEN] {
        let mac = mac(self.0.as_slice(), &[&day.to_le_bytes(), sender.as_bytes()]);
        *mac.first_chunk().expect("a MAC has 16 bytes")
    }
}

impl fmt::Debug for DiscoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DiscoveryKey(redacted)")
    }
}

impl PeerKeys {
    /// The key to recognise this peer by on a local network, and to be recognised. Both protocols have the same.
    pub fn discovery_key(&self) -> DiscoveryKey {
        let key = hash(&[LABEL, self.static_static.as_slice(), self.preshared.as_bytes()]);
        DiscoveryKey(Secret::new(key))
    }
}
