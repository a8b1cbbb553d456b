//! Seeing everything that arrives.

use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use tokio::sync::mpsc;

/// A packet as it arrived. What this machine multicasts arrives as well, because multicast loops back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// When it was taken from the socket.
    pub time: SystemTime,
    /// The index of the interface by which it came.
    pub interface: u32,
    /// Who sent it.
    pub from: SocketAddr,
    /// Where it was sent to: the group, or an address of this machine.
    pub to: IpAddr,
    /// The hop limit it arrived with, when the kernel told it.
    pub hop_limit: Option<u8>,
    /// It was longer than 9,000 bytes: the end is missing.
    pub truncated: bool,
    /// What it says.
    pub contents: Box<[u8]>,
}

/// Every packet that arrives on port 5353, until this is dropped. When the reader is slow, packets are left out: the
/// statistics count them.
#[derive(Debug)]
pub struct Monitor {
    pub(crate) packets: mpsc::Receiver<Packet>,
}

impl Monitor {
    /// Packets that wait for a reader.
    pub(crate) const WAITING_MAX: usize = 1_024;

    /// The next packet; `None` when the [`Beacon`](crate::Beacon) has been shut down.
    pub async fn next(&mut self) -> Option<Packet> {
        self.packets.recv().await
    }
}
