//! Finding peers on the local network, by Multicast DNS, without telling anybody else who is there.
//!
//! ```text
//!  handshake::DiscoveryKey ─► tags ─► announcements ─► beacon ═══► LAN
//!  wall clock ─► days ───────▲                           │
//!                            └─► which tag is whose ─► sightings ─► Change: a peer is there, or is no more ─► node
//! ```
//!
//! A node offers one instance of [`SERVICE`], whose attributes hold a tag for each of its peers (`handshake::DiscoveryKey`). It
//! looks for the same of others, and for the tags by which its peers would be known to it. Where a tag fits, the address is
//! offered to the node, which tries it: what counts is the handshake, not the advertisement.
//!
//! What an outsider on the network sees: that somebody with this address runs ShadowMesh, on which port, and about how many
//! peers it has (tags are padded to a power of two). The names of instance and host are random, new each day and each start; the
//! tags are new each day. So no two days' advertisements have anything in common by which they could be told to be of one node,
//! but what is outside them: hardware and network addresses, and a port that nobody else uses. For [`OVERLAP`] after midnight
//! (UTC) both days' are there, so that nobody is lost and found again.
//!
//! What an outsider can do: repeat tags with an address of its own, until the day after theirs is over. That costs an unanswered
//! handshake for each address on our own networks, at most eight a peer at a time and one more each 10 s, and what is found already
//! goes on. Or drown what is announced, as anybody can who shares a network without authentication; then peers are not found.
//!
//! `tags`, `days` and `sightings` are pure: time and randomness are passed in. `task` has the sockets.

mod days;
mod sightings;
mod tags;
mod task;

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use beacon::Interfaces;
use handshake::{DiscoveryKey, PublicKey};
use node::PeerId;
use tokio::sync::mpsc::{Sender, UnboundedReceiver};
use tokio::sync::oneshot;

use crate::proxy::Stop;

pub use task::run;

/// The type of service that nodes offer (RFC 6763 §7).
pub const SERVICE: &str = "_shadowmesh._udp";

/// How long both days' advertisements are there.
pub const OVERLAP: Duration = Duration::from_mins(10);

/// A peer to be found, and to be found by.
#[derive(Debug)]
pub struct Acquaintance {
    /// Its number.
    pub peer: PeerId,
    /// Its public key.
    pub public_key: PublicKey,
    /// What both know each other's tags by.
    pub key: DiscoveryKey,
}

/// What [`run`] needs.
pub struct Setup {
    /// Our own public key.
    pub own: PublicKey,
    /// Everybody to be found.
    pub peers: Vec<Acquaintance>,
    /// The UDP port that we listen on.
    pub port: u16,
    /// Whether we listen on IPv4.
    pub ipv4: bool,
    /// Whether we listen on IPv6.
    pub ipv6: bool,
    /// Where to look and be seen.
    pub interfaces: Interfaces,
    /// The time since 1970 (UTC), now.
    pub unix_time: Box<dyn Fn() -> Duration + Send>,
    /// How long both days' advertisements are there: [`OVERLAP`].
    pub overlap: Duration,
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup").field("peers", &self.peers).finish_non_exhaustive()
    }
}

/// A peer was found, or is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It may be there.
    Offer {
        /// Who.
        peer: PeerId,
        /// Where.
        address: SocketAddr,
    },
    /// It is there no more.
    Withdraw {
        /// Who.
        peer: PeerId,
        /// Where.
        address: SocketAddr,
    },
}

/// How it goes.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Why nothing is found or offered, if so.
    pub error: Option<String>,
    /// Instances of [`SERVICE`] that are ours now.
    pub instances: usize,
    /// Which peers may be where.
    pub found: Vec<(PeerId, SocketAddr)>,
}

/// What happens around [`run`].
#[derive(Debug)]
pub struct Surroundings {
    /// When to end.
    pub stop: Stop,
    /// Who wants to know how it goes.
    pub asked: UnboundedReceiver<oneshot::Sender<Snapshot>>,
    /// Where changes go.
    pub changes: Sender<Change>,
}
