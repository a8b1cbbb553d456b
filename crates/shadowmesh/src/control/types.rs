//! What crosses the control socket, as JSON. `docs/status.md` documents every key of [`Status`] for its users.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use node::{PeerStatus, PoolStatus};
use serde::{Deserialize, Serialize};

/// The version of [`Status`]; grows when a key is removed or changes its meaning, not when one is added.
pub(crate) const STATUS_VERSION: u32 = 1;

/// A running node at one moment: what `status --json` prints.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    /// [`STATUS_VERSION`].
    pub(crate) version: u32,
    /// The node's name.
    pub(crate) name: String,
    /// Our public key, base64.
    pub(crate) public_key: String,
    /// The daemon's process.
    pub(crate) pid: u32,
    /// Seconds since the daemon started.
    pub(crate) uptime_s: f64,
    /// Names of the peers that should be connected and are not.
    pub(crate) degraded: Vec<String>,
    /// Where datagrams are received.
    pub(crate) listen: Vec<SocketAddr>,
    /// Where the carriers over TCP are called, by carrier.
    #[serde(default)]
    pub(crate) listen_carriers: BTreeMap<String, SocketAddr>,
    /// The TUN device; null for a node without one.
    pub(crate) tun: Option<TunStatus>,
    /// What the kernel does for us.
    pub(crate) offloads: Offloads,
    /// Packet memory.
    pub(crate) pool: PoolStatus,
    /// What the sockets of carriers over TCP have seen, and dropped, by carrier and name.
    #[serde(default)]
    pub(crate) carriers: BTreeMap<String, BTreeMap<String, u64>>,
    /// Packets dropped that belong to no known peer, by reason.
    pub(crate) drops: BTreeMap<String, u64>,
    /// The peers, in the order of the configuration.
    pub(crate) peers: Vec<PeerStatus>,
    /// The data-plane threads.
    pub(crate) workers: Vec<WorkerStatus>,
    /// Streams, and the proxies on them; null for a node that runs none.
    pub(crate) streams: Option<StreamsStatus>,
    /// Peers on the local network.
    #[serde(default)]
    pub(crate) discovery: DiscoveryStatus,
}

/// What becomes of finding peers on the local network.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct DiscoveryStatus {
    /// Whether it is wanted.
    pub(crate) enabled: bool,
    /// Why it does not work, if so.
    pub(crate) error: Option<String>,
    /// Advertisements of ours that others can see.
    pub(crate) instances: usize,
    /// Which peers were seen where.
    pub(crate) found: Vec<FoundPeer>,
}

/// A peer on the local network.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct FoundPeer {
    /// Its name.
    pub(crate) peer: String,
    /// Where its advertisement says it is.
    pub(crate) address: SocketAddr,
}

/// Streams, and the proxies on them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StreamsStatus {
    /// Bytes that all sessions of streams hold, and the proxies on them.
    pub(crate) memory_bytes: u64,
    /// Connections taken by listeners.
    pub(crate) clients: u64,
    /// Clients turned away at a limit, for a wrong login, or not understood.
    pub(crate) clients_refused: u64,
    /// Requests of peers served as their exit.
    pub(crate) exit_requests: u64,
    /// Requests of peers that `[exit]` does not allow.
    pub(crate) exit_denied: u64,
    /// Bytes of connections towards the target.
    pub(crate) bytes_up: u64,
    /// Bytes of connections back.
    pub(crate) bytes_down: u64,
    /// Datagrams carried, either way.
    pub(crate) datagrams: u64,
    /// Datagrams that were not.
    pub(crate) datagrams_dropped: u64,
    /// Peers with a session of streams now.
    pub(crate) peers: Vec<PeerStreamsStatus>,
}

/// The session of streams with one peer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PeerStreamsStatus {
    /// The peer's name.
    pub(crate) name: String,
    /// Streams open now.
    pub(crate) open: u64,
    /// Smoothed round-trip time of the session, ms.
    pub(crate) rtt_ms: Option<f64>,
    /// Segments sent, those sent again included.
    pub(crate) segments_sent: u64,
    /// Segments sent again.
    pub(crate) retransmissions: u64,
    /// Bytes on their way now.
    pub(crate) in_flight_bytes: u64,
    /// Bits a second that are sent at most; null without pacing.
    pub(crate) pacing_bps: Option<u64>,
    /// Datagrams that were lost, and computed from others.
    pub(crate) fec_recovered: u64,
}

/// The TUN device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TunStatus {
    /// Interface name.
    pub(crate) name: String,
    /// The largest inner packet, bytes.
    pub(crate) mtu: u16,
    /// Its addresses, each with its prefix length.
    pub(crate) address: Vec<String>,
}

/// Offloads in use.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Offloads {
    /// Of the TUN device.
    pub(crate) tun: TunOffloads,
    /// Of the UDP sockets.
    pub(crate) udp: UdpOffloads,
}

/// Offloads of the TUN device.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct TunOffloads {
    /// Partial checksums.
    pub(crate) csum: bool,
    /// TCP super-packets, IPv4.
    pub(crate) tso4: bool,
    /// TCP super-packets, IPv6.
    pub(crate) tso6: bool,
    /// UDP super-packets, IPv4.
    pub(crate) uso4: bool,
    /// UDP super-packets, IPv6.
    pub(crate) uso6: bool,
    /// One queue a worker.
    pub(crate) multi_queue: bool,
}

/// Offloads of the UDP sockets.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct UdpOffloads {
    /// Trains leave in one send.
    pub(crate) gso: bool,
    /// Trains arrive in one receive.
    pub(crate) gro: bool,
}

/// A data-plane thread.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct WorkerStatus {
    /// Heap allocations this thread has made since its loop began. It stays still while packets flow.
    pub(crate) allocations: u64,
    /// Rounds of its loop.
    pub(crate) rounds: u64,
    /// Times that a message for the slow path found its queue full and had to wait.
    pub(crate) events_held: u64,
}

/// What `POST /v1/ping` takes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PingRequest {
    /// Name or public key of the peer.
    pub(crate) peer: String,
    /// The carrier to send them by, in use or not; that in use when it is not named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) carrier: Option<String>,
    /// Probes to send, one after the other.
    #[serde(default = "one")]
    pub(crate) count: u32,
    /// Milliseconds to wait for each answer.
    #[serde(default = "two_seconds")]
    pub(crate) timeout_ms: u64,
}

fn one() -> u32 {
    1
}

fn two_seconds() -> u64 {
    2_000
}

/// What `POST /v1/ping` answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PingReport {
    /// The peer's name.
    pub(crate) peer: String,
    /// For each probe the round-trip time in milliseconds, or null when no answer came in time.
    pub(crate) rtt_ms: Vec<Option<f64>>,
}

/// What `POST /v1/rekey` takes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RekeyRequest {
    /// Name or public key of the peer.
    pub(crate) peer: String,
}

/// What every failed request answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ErrorReport {
    /// What went wrong.
    pub(crate) error: String,
}
