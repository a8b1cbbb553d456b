//! How a sealed datagram looks on the wire outside: which carrier takes it, what that costs in bytes, and how large a
//! datagram a path passes.
//!
//! Sans-IO: time comes in as `now`, probes go out as sizes.

pub mod fake_tcp;
pub mod guard;
mod path_mtu;
pub mod tcp_frame;

use std::net::IpAddr;

pub use packet::{Carrier, Endpoint, UnknownCarrier};
pub use path_mtu::PathMtu;

/// Bytes of outer headers before each datagram on the way to `to`: IP (without options) and transport. Of TCP, which puts
/// datagrams into segments as it likes, this is what one takes that has a segment to itself.
///
/// ```
/// use carrier::{Carrier, overhead};
///
/// let (v4, v6) = ("192.0.2.1".parse().expect("IPv4"), "2001:db8::1".parse().expect("IPv6"));
/// assert_eq!((overhead(Carrier::Udp, v4), overhead(Carrier::Udp, v6)), (28, 48));
/// assert_eq!((overhead(Carrier::FakeTcp, v4), overhead(Carrier::FakeTcp, v6)), (52, 72));
/// ```
pub fn overhead(carrier: Carrier, to: IpAddr) -> u16 {
    let ip = if to.is_ipv4() { 20 } else { 40 };
    match carrier {
        Carrier::Udp => ip + 8,
        Carrier::FakeTcp => ip + fake_tcp::DATA_HEADER as u16,
        Carrier::Tcp => ip + (fake_tcp::DATA_HEADER + tcp_frame::FRAME_HEADER) as u16,
    }
}
