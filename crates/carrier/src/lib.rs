//! How a sealed datagram looks on the wire outside: which carrier takes it, what that costs in bytes, and how large a
//! datagram a path passes.
//!
//! Sans-IO: time comes in as `now`, probes go out as sizes.

pub mod fake_tcp;
pub mod guard;
mod path_mtu;
pub mod tcp_frame;

use std::net::IpAddr;
use std::str::FromStr;

use thiserror::Error;

pub use path_mtu::PathMtu;

/// What carries a peer's datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Carrier {
    /// One UDP datagram each.
    #[default]
    Udp,
    /// One crafted TCP segment each: [`fake_tcp`].
    FakeTcp,
    /// A frame each on a connection of the kernel's TCP: [`tcp_frame`].
    Tcp,
}

/// A carrier that there is not.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("there is no carrier `{0}`: udp, faketcp and tcp are possible")]
pub struct UnknownCarrier(String);

impl Carrier {
    /// All of them, best first.
    pub const ALL: [Self; 3] = [Self::Udp, Self::FakeTcp, Self::Tcp];

    /// The name that people use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::FakeTcp => "faketcp",
            Self::Tcp => "tcp",
        }
    }

    /// Bytes of outer headers before each datagram on the way to `to`: IP (without options) and transport. Of TCP, which puts
    /// datagrams into segments as it likes, this is what one takes that has a segment to itself.
    ///
    /// ```
    /// use carrier::Carrier;
    ///
    /// let (v4, v6) = ("192.0.2.1".parse().expect("IPv4"), "2001:db8::1".parse().expect("IPv6"));
    /// assert_eq!((Carrier::Udp.overhead(v4), Carrier::Udp.overhead(v6)), (28, 48));
    /// assert_eq!((Carrier::FakeTcp.overhead(v4), Carrier::FakeTcp.overhead(v6)), (52, 72));
    /// ```
    pub fn overhead(self, to: IpAddr) -> u16 {
        let ip = if to.is_ipv4() { 20 } else { 40 };
        match self {
            Self::Udp => ip + 8,
            Self::FakeTcp => ip + fake_tcp::DATA_HEADER as u16,
            Self::Tcp => ip + (fake_tcp::DATA_HEADER + tcp_frame::FRAME_HEADER) as u16,
        }
    }
}

impl FromStr for Carrier {
    type Err = UnknownCarrier;

    fn from_str(name: &str) -> Result<Self, UnknownCarrier> {
        Self::ALL
            .into_iter()
            .find(|carrier| carrier.name() == name)
            .ok_or_else(|| UnknownCarrier(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carriers_are_known_by_their_names() {
        for carrier in Carrier::ALL {
            assert_eq!(carrier.name().parse(), Ok(carrier));
        }
        let error = "icmp".parse::<Carrier>().unwrap_err();
        assert_eq!(error.to_string(), "there is no carrier `icmp`: udp, faketcp and tcp are possible");
    }
}
