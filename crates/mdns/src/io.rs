//! What passes between an engine and the links: packets, and what becomes of interfaces.

use std::net::{IpAddr, SocketAddr};

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Group 224.0.0.251.
    V4,
    /// Group `ff02::fb`.
    V6,
}

/// An address of an interface and how many of its leading bits name the subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceAddress {
    /// The address.
    pub ip: IpAddr,
    /// Bits of the subnet.
    pub prefix_length: u8,
}

/// What happened to an interface.
#[derive(Clone, Debug)]
pub enum InterfaceChange {
    /// It is there, or is there again, and its groups are joined. Names are probed and announced on it, queries asked.
    Up {
        /// Its index.
        index: u32,
        /// Its addresses of both families.
        addresses: Vec<InterfaceAddress>,
        /// Whether Multicast DNS over IPv4 runs on it.
        ipv4: bool,
        /// Whether Multicast DNS over IPv6 runs on it.
        ipv6: bool,
    },
    /// Its addresses are now these.
    Addresses {
        /// Its index.
        index: u32,
        /// Its addresses of both families.
        addresses: Vec<InterfaceAddress>,
    },
    /// It is gone. What was learnt on it is forgotten.
    Down {
        /// Its index.
        index: u32,
    },
}

/// Where a packet came from and how.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// The interface on which it arrived.
    pub interface: u32,
    /// Its sender.
    pub from: SocketAddr,
    /// Its destination address: the group, or one of ours.
    pub to: IpAddr,
    /// Its TTL or hop limit, if known.
    pub hop_limit: Option<u8>,
    /// Whether the buffer was too small for it (`MSG_TRUNC`).
    pub truncated: bool,
}

/// A packet to send, from port 5353, with TTL or hop limit 255 (RFC 6762 §11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// The interface to send it on.
    pub interface: u32,
    /// The address to send it from; any of the interface's if `None`. A question that was sent to one address of this host is
    /// answered by that, or the asker takes the answer for a forgery.
    pub source: Option<IpAddr>,
    /// Where to.
    pub to: Destination,
    /// How many bytes of the buffer it has.
    pub len: usize,
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To the group of that family, port 5353.
    Multicast(Family),
    /// To one host.
    Unicast(SocketAddr),
}
