//! Handshakes, cookies and sessions.

mod cookie;
mod crypto;
mod error;
mod identity;
mod initiator;
mod kem;
mod keys;
pub mod limits;
mod message;
mod noise;
mod replay;
mod responder;
mod session;
mod timestamp;
#[cfg(test)]
mod vectors;

pub use cookie::{Cookie, CookieChecker, CookieJar};
pub use error::HandshakeError;
pub use identity::{Identity, PeerKeys, Protocol, Suite, preferred_suite};
pub use initiator::{Datagrams, Initiation, InitiationOptions};
pub use keys::{InvalidKey, PresharedKey, PublicKey, StaticSecret};
pub use message::{COOKIE_REPLY_LEN, MessageKind, classify, receiver_index, sender_index};
pub use replay::{ReplayWindow, StaleCounter};
pub use responder::{Incoming, IncomingPart1};
pub use session::{DataHeader, Exhausted, OpenError, Opened, Opener, Sealer, Session};
pub use timestamp::Timestamp;

/// Bytes of the header of a data packet, in both protocols.
pub const HEADER_LEN: usize = 16;

/// Bytes of the authentication tag of every AEAD in use.
pub const TAG_LEN: usize = 16;

/// Lanes of a ShadowMesh session. A WireGuard session has one.
pub const LANES: usize = 16;
