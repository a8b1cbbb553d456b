//! Who we are and whom we talk to, with everything computed that does not change from handshake to handshake.

use std::fmt;

use zeroize::Zeroizing;

use crate::crypto::{KeyPair, Secret, hash};
use crate::message::MacKeys;
use crate::{InvalidKey, PresharedKey, PublicKey, StaticSecret};

/// Which handshake is spoken with a peer. It is configured and never negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// WireGuard's own, for stock WireGuard peers. Not post-quantum.
    WireGuard = 0,
    /// The hybrid of X25519 and ML-KEM-768 described in the [crate documentation](crate).
    ShadowMesh = 1,
}

/// The AEAD that seals the packets of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Suite {
    /// AES-256-GCM (NIST SP 800-38D).
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 8439): the only one WireGuard knows, and the fastest without AES instructions.
    ChaCha20Poly1305,
    /// AEGIS-256X4 with a tag of 128 bits (draft-irtf-cfrg-aegis-aead): built of AES rounds, with nothing to set up for
    /// each message but its state. Packets are short, so it takes half the time of AES-256-GCM.
    Aegis256X4,
}

impl Suite {
    /// All of them, the fastest with AES instructions first.
    pub const ALL: [Self; 3] = [Self::Aegis256X4, Self::Aes256Gcm, Self::ChaCha20Poly1305];

    /// The name in the specification, as people are shown it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "AES-256-GCM",
            Self::ChaCha20Poly1305 => "ChaCha20-Poly1305",
            Self::Aegis256X4 => "AEGIS-256X4",
        }
    }

    pub(crate) const fn to_wire(self) -> u8 {
        match self {
            Self::Aes256Gcm => 1,
            Self::ChaCha20Poly1305 => 2,
            Self::Aegis256X4 => 3,
        }
    }

    pub(crate) const fn from_wire(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Aes256Gcm),
            2 => Some(Self::ChaCha20Poly1305),
            3 => Some(Self::Aegis256X4),
            _ => None,
        }
    }
}

/// The suite this CPU is fastest at: AEGIS-256X4 where it has AES instructions.
pub fn preferred_suite() -> Suite {
    #[cfg(target_arch = "x86_64")]
    let accelerated = std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    let accelerated = std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let accelerated = false;
    if accelerated { Suite::Aegis256X4 } else { Suite::ChaCha20Poly1305 }
}

/// Our own keys.
pub struct Identity {
    pub(crate) key_pair: KeyPair,
    pub(crate) mac_keys: MacKeys,
}

impl Identity {
    /// Precomputes what depends on our key alone.
    #[expect(clippy::needless_pass_by_value, reason = "the caller's copy is cleared")]
    pub fn new(secret: StaticSecret) -> Self {
        let key_pair = secret.key_pair();
        let mac_keys = MacKeys::new(&key_pair.public);
        Self { key_pair, mac_keys }
    }

    /// The public key that others know us by.
    pub fn public_key(&self) -> PublicKey {
        PublicKey::from_bytes(self.key_pair.public)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("public_key", &self.public_key()).finish_non_exhaustive()
    }
}

/// What we share with one peer.
pub struct PeerKeys {
    public: PublicKey,
    protocol: Protocol,
    /// X25519 of our static key with the peer's.
    pub(crate) static_static: Secret,
    pub(crate) preshared: PresharedKey,
    /// For messages to the peer, and cookies from it, that anyone can check who knows its public key.
    pub(crate) mac_keys: MacKeys,
    /// The same for native responses, either way: a key that only the two of us have, or a list of public keys would tell
    /// whom a response is for, and so who began the handshake.
    pub(crate) response_mac1: Secret,
    pub(crate) response_cookie: Secret,
}

impl PeerKeys {
    /// Precomputes what depends on the two static keys alone.
    ///
    /// # Errors
    ///
    /// [`InvalidKey::LowOrder`] if no secret can be agreed with `public`.
    pub fn new(
        identity: &Identity,
        public: PublicKey,
        preshared: PresharedKey,
        protocol: Protocol,
    ) -> Result<Self, InvalidKey> {
        let static_static = identity.key_pair.agree(public.as_bytes()).map_err(|_| InvalidKey::LowOrder)?;
        let mac_keys = MacKeys::new(public.as_bytes());
        let keyed = |label: &[u8]| Zeroizing::new(hash(&[label, static_static.as_slice()]));
        let response_mac1 = keyed(b"ShadowMesh v1 response mac1");
        let response_cookie = keyed(b"ShadowMesh v1 response cookie");
        Ok(Self { public, protocol, static_static, preshared, mac_keys, response_mac1, response_cookie })
    }

    /// The key of the first MAC of a response between us. `receiver` is the initiator's.
    pub(crate) fn response_mac1<'a>(&'a self, receiver: &'a MacKeys) -> &'a [u8; 32] {
        match self.protocol {
            Protocol::WireGuard => receiver.mac1(Protocol::WireGuard),
            Protocol::ShadowMesh => &self.response_mac1,
        }
    }

    /// What encrypts a cookie that answers a response between us. `giver` is the initiator's.
    pub(crate) fn response_cookie<'a>(&'a self, giver: &'a MacKeys) -> &'a [u8; 32] {
        match self.protocol {
            Protocol::WireGuard => giver.cookie(Protocol::WireGuard),
            Protocol::ShadowMesh => &self.response_cookie,
        }
    }

    /// The peer's public key.
    pub fn public_key(&self) -> PublicKey {
        self.public
    }

    /// The protocol spoken with this peer.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }
}

impl fmt::Debug for PeerKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerKeys")
            .field("public", &self.public)
            .field("protocol", &self.protocol)
            .finish_non_exhaustive()
    }
}
