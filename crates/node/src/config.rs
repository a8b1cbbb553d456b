//! What a node is told when it starts.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use handshake::{PresharedKey, Protocol, PublicKey, StaticSecret, Suite, Timestamp};
use ipnet::IpNet;
use serde::Serialize;
use thiserror::Error;

use crate::places::Way;

/// A peer's place in [`Config::peers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct PeerId(pub u32);

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "peer #{}", self.0)
    }
}

/// A node's configuration.
#[derive(Debug)]
pub struct Config {
    /// Our static secret key.
    pub secret: StaticSecret,
    /// The cipher of the sessions that this node begins; [`handshake::preferred_suite`] knows the fastest.
    pub suite: Suite,
    /// No other cipher is used with native peers: an initiation that asks for another one is refused.
    pub suite_only: bool,
    /// Data-plane threads, and so lanes in use: 1 to [`handshake::LANES`].
    pub workers: usize,
    /// The largest inner packet, in bytes.
    pub mtu: u16,
    /// The peers, in the order that gives them their [`PeerId`].
    pub peers: Vec<PeerConfig>,
    /// Grows with every start of this identity and is never used twice: the upper part of each handshake's
    /// counter. Persist it, or derive it from a clock where nothing can be persisted.
    pub epoch: u64,
    /// The wall-clock time since the Unix epoch at the `now` that [`Node::new`](crate::Node::new) is given; for the
    /// TAI64N timestamps of WireGuard peers.
    pub unix_time: Duration,
    /// What the far TUN side of our own machine accepts: see [`packet::coalesce::CoalesceLimits`].
    pub coalesce: packet::coalesce::CoalesceLimits,
    /// Somebody runs streams: the workers hand over their datagrams.
    pub streams: bool,
    /// Packet buffers to reserve for queues.
    pub pool: packet::PoolConfig,
}

/// One peer.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// The name that people use.
    pub name: String,
    /// Its static public key: its identity.
    pub public_key: PublicKey,
    /// A symmetric key mixed into the handshake; all zero for none.
    pub preshared_key: PresharedKey,
    /// Which handshake to speak. Never negotiated.
    pub protocol: Protocol,
    /// Where to reach it; `None` for a peer that calls us.
    pub endpoint: Option<SocketAddr>,
    /// How to reach it there, best first. A WireGuard peer knows UDP only.
    pub ways: Vec<Way>,
    /// The inner addresses it may send from, and that are routed to it.
    pub allowed_ips: Vec<IpNet>,
    /// Send something at least this often.
    pub keepalive: Option<Duration>,
    /// What the last [`Action::KeepConfirmed`](crate::Action::KeepConfirmed) of an earlier start said of it: initiations that are
    /// not newer are replays. The default for a peer that it said nothing of.
    pub confirmed: Timestamp,
}

/// Why a configuration is refused.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// Two peers have one key.
    #[error("peers `{0}` and `{1}` have the same public key")]
    DuplicateKey(String, String),
    /// A peer has our own key.
    #[error("peer `{0}` has this node's own public key")]
    OwnKey(String),
    /// Two peers claim one prefix.
    #[error("allowed IP {prefix} is given to both `{first}` and `{second}`")]
    OverlappingAllowedIp {
        /// The prefix in question.
        prefix: IpNet,
        /// Who had it first.
        first: String,
        /// Who wants it too.
        second: String,
    },
    /// A key that cannot be used.
    #[error("peer `{0}`: {1}")]
    Key(String, handshake::InvalidKey),
    /// The number of workers is out of range.
    #[error("{0} workers: from 1 to {max} are possible", max = handshake::LANES)]
    Workers(usize),
}
