//! How a sealed datagram looks on the wire outside: which carrier takes it, what that costs in bytes, and how large a
//! datagram a path passes.
//!
//! Sans-IO: time comes in as `now`, probes go out as sizes.

mod path_mtu;

use std::net::IpAddr;

pub use path_mtu::PathMtu;

/// What carries a peer's datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Carrier {
    /// One UDP datagram each.
    #[default]
    Udp,
}

impl Carrier {
    /// The name that people use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
        }
    }

    /// Bytes of outer headers before each datagram on the way to `to`: IP (without options) and transport.
    ///
    /// ```
    /// use carrier::Carrier;
    ///
    /// assert_eq!(Carrier::Udp.overhead("192.0.2.1".parse().expect("IPv4")), 28);
    /// assert_eq!(Carrier::Udp.overhead("2001:db8::1".parse().expect("IPv6")), 48);
    /// ```
    pub fn overhead(self, to: IpAddr) -> u16 {
        let ip = if to.is_ipv4() { 20 } else { 40 };
        match self {
            Self::Udp => ip + 8,
        }
    }
}
