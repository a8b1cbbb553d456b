//! What was counted.

use std::net::IpAddr;

/// Counters since the start, and how things are now.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Statistics {
    /// Of the engine: packets, cache, drops by reason.
    pub engine: mdns::Statistics,
    /// Of the sockets.
    pub sockets: SocketStatistics,
    /// The interfaces in use.
    pub interfaces: Vec<InterfaceStatus>,
    /// Whether another program has port 5353 too: Avahi, systemd-resolved, a browser. Looked at with the interfaces.
    pub shares_port: bool,
    /// How often the machine has been suspended and has woken up again meanwhile.
    pub wakes: u64,
    /// How often the network interfaces could not be listed.
    pub failed_scans: u64,
    /// How often a name could not be kept in the [file of names](crate::Builder::names_file).
    pub unsaved_names: u64,
}

/// Counters of the sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SocketStatistics {
    /// Packets that the kernel has dropped because they were not taken in time.
    pub receive_drops: u64,
    /// Packets that the kernel refused to send: the interface had just gone, or no route led to the host.
    pub failed_sends: u64,
    /// Failures to receive.
    pub failed_receives: u64,
    /// Packets that a slow [`Monitor`](crate::Monitor) was not shown.
    pub not_monitored: u64,
}

/// An interface in use.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InterfaceStatus {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether it is used over IPv4.
    pub ipv4: bool,
    /// Whether it is used over IPv6.
    pub ipv6: bool,
    /// Why the kernel refused the last packet to the group over IPv4, if it did.
    pub ipv4_send_error: Option<String>,
    /// The same over IPv6.
    pub ipv6_send_error: Option<String>,
}
