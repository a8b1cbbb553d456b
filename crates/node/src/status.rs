//! A snapshot of everything a person or a program may want to know about a node.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// A node at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Our public key, base64.
    pub public_key: String,
    /// Data-plane threads.
    pub workers: usize,
    /// MTU of the TUN device, bytes.
    pub mtu: u16,
    /// Packet memory.
    pub pool: PoolStatus,
    /// Packets dropped that belong to no known peer, by reason.
    pub drops: BTreeMap<String, u64>,
    /// The peers, in the order of the configuration.
    pub peers: Vec<PeerStatus>,
}

/// Use of the packet pool.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct PoolStatus {
    /// Buffers for trains.
    pub large: ClassStatus,
    /// Buffers for single control messages.
    pub small: ClassStatus,
}

/// Use of one class of buffers.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ClassStatus {
    /// Buffers that exist.
    pub capacity: usize,
    /// Buffers in use.
    pub in_use: usize,
    /// How often none was left.
    pub exhausted: u64,
}

/// A peer at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its name.
    pub name: String,
    /// Its public key, base64.
    pub public_key: String,
    /// `shadowmesh` or `wireguard`.
    pub protocol: String,
    /// Whether the present session is safe against a quantum computer; `false` without a session.
    pub post_quantum: bool,
    /// The AEAD of the present session.
    pub cipher: Option<String>,
    /// Where it is.
    pub endpoint: Option<SocketAddr>,
    /// How its datagrams look outside.
    pub carrier: String,
    /// What is routed to it.
    pub allowed_ips: Vec<String>,
    /// Whether there is a session that can carry data now.
    pub connected: bool,
    /// Seconds since the present session was made.
    pub latest_handshake_s: Option<f64>,
    /// Milliseconds the last handshake we initiated took.
    pub handshake_ms: Option<f64>,
    /// Smoothed round-trip time, milliseconds.
    pub rtt_ms: Option<f64>,
    /// Part of what we lately sent that did not arrive, 0 to 1.
    pub loss: Option<f64>,
    /// Delivery rate lately measured, bits per second.
    pub rate_bps: Option<f64>,
    /// The largest IP packet that its path passes, outer headers included, as far as is known, bytes.
    pub path_mtu: u16,
    /// The largest inner packet that goes to it in one datagram, bytes.
    pub packet_max: u16,
    /// Egress queue limit, packets.
    pub queue_packets_max: u32,
    /// Inner bytes received.
    pub rx_bytes: u64,
    /// Inner packets received.
    pub rx_packets: u64,
    /// Inner bytes sent.
    pub tx_bytes: u64,
    /// Inner packets sent.
    pub tx_packets: u64,
    /// How many of them came of cutting TCP segments shorter for the peer's path, beyond those that were to be sent.
    pub tx_recut: u64,
    /// Packets dropped, by reason.
    pub drops: BTreeMap<String, u64>,
}
