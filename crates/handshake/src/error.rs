//! Why a handshake message was refused.

use crate::crypto::{LowOrderPoint, Unauthentic};

/// Why a handshake message was refused. Every variant is one counted drop: the message had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum HandshakeError {
    /// The datagram is not a message of the kind expected here: wrong type, length or reserved bytes.
    #[error("not a handshake message of the expected kind")]
    Malformed,
    /// The first MAC is wrong: the sender does not know our public key, or the message was damaged.
    #[error("the first MAC does not match: the sender does not know our public key")]
    InvalidMac1,
    /// A field does not decrypt: a wrong static or preshared key at either end, a forgery, or damage.
    #[error("a field does not authenticate: forged, damaged, or made with other keys")]
    Unauthentic,
    /// A public key of the remote's is of low order, so that a Diffie–Hellman result is all zeros.
    #[error("a public key of low order")]
    LowOrderKey,
    /// The remote's ML-KEM key is not a valid one (FIPS 203 §7.2).
    #[error("not a valid ML-KEM-768 encapsulation key")]
    InvalidKemKey,
    /// The message answers another handshake than this one.
    #[error("the message belongs to another handshake")]
    OtherHandshake,
    /// The second part of a split initiation is not the one the first part committed to.
    #[error("part 2 of the initiation is not the one that part 1 announced")]
    OtherPart2,
    /// The sender is not among the known peers.
    #[error("the initiation is from nobody we know")]
    UnknownPeer,
    /// The [`PeerKeys`](crate::PeerKeys) passed in are not those of the initiation's sender, or of another
    /// protocol.
    #[error("the initiation is from another peer, or for another protocol than that peer's")]
    OtherPeer,
    /// This handshake has already been completed.
    #[error("the handshake is already complete")]
    AlreadyComplete,
}

impl From<LowOrderPoint> for HandshakeError {
    fn from(_: LowOrderPoint) -> Self {
        Self::LowOrderKey
    }
}

impl From<Unauthentic> for HandshakeError {
    fn from(_: Unauthentic) -> Self {
        Self::Unauthentic
    }
}
