//! How inner packets are wrapped, and so what fits a path.

use std::net::IpAddr;

use carrier::{Carrier, overhead};
use handshake::{HEADER_LEN, Protocol, TAG_LEN};

use crate::inner::CONTENT_LEN;

/// WireGuard pads to a multiple of 16 bytes (whitepaper §5.4.6).
const WIREGUARD_PADDING: usize = 16;

/// How the packets of a protocol are wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Framing {
    /// Bytes before the inner packet.
    pub(crate) prefix: usize,
    pub(crate) protocol: Protocol,
}

impl Framing {
    pub(crate) const fn of(protocol: Protocol) -> Self {
        let prefix = match protocol {
            Protocol::WireGuard => HEADER_LEN,
            Protocol::ShadowMesh => HEADER_LEN + CONTENT_LEN,
        };
        Self { prefix, protocol }
    }

    /// Bytes of the datagram with an inner packet of `len` bytes.
    pub(crate) const fn sealed_len(self, len: usize) -> usize {
        let padded = match self.protocol {
            Protocol::WireGuard => len.next_multiple_of(WIREGUARD_PADDING),
            Protocol::ShadowMesh => len,
        };
        self.prefix + padded + TAG_LEN
    }

    /// Bytes of the largest inner packet that a datagram of `len` bytes has room for.
    const fn packet_max(self, len: usize) -> usize {
        let room = len.saturating_sub(self.prefix + TAG_LEN);
        match self.protocol {
            Protocol::WireGuard => room - room % WIREGUARD_PADDING,
            Protocol::ShadowMesh => room,
        }
    }
}

/// The largest inner packet, in bytes, that reaches `to` in one datagram of `carrier` on a path that passes IP packets of `path_mtu`
/// bytes.
///
/// ```
/// use carrier::Carrier;
/// use handshake::Protocol;
/// use node::packet_max;
///
/// let to = "192.0.2.1".parse().expect("an address");
/// assert_eq!(packet_max(Protocol::ShadowMesh, Carrier::Udp, to, 1_500), 1_500 - 20 - 8 - 33);
/// assert_eq!(packet_max(Protocol::WireGuard, Carrier::Udp, to, 1_500), 1_440);
/// ```
pub fn packet_max(protocol: Protocol, carrier: Carrier, to: IpAddr, path_mtu: u16) -> u16 {
    let datagram = path_mtu.saturating_sub(overhead(carrier, to));
    Framing::of(protocol).packet_max(datagram.into()) as u16
}

/// Bytes of the outer IP packet in which an inner packet of `len` bytes reaches `to`; 65,535 when it is more.
pub(crate) fn outer_len(protocol: Protocol, carrier: Carrier, to: IpAddr, len: u16) -> u16 {
    let sealed = Framing::of(protocol).sealed_len(len.into());
    u16::try_from(sealed).unwrap_or(u16::MAX).saturating_add(overhead(carrier, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_packet_fits_and_one_byte_more_does_not() {
        for protocol in [Protocol::ShadowMesh, Protocol::WireGuard] {
            let to = ["192.0.2.1", "2001:db8::1"].map(|to| to.parse().unwrap());
            for (carrier, to) in Carrier::ALL.into_iter().flat_map(|carrier| to.map(|to| (carrier, to))) {
                for path in 1_280..1_501 {
                    let fits = packet_max(protocol, carrier, to, path);
                    assert!(outer_len(protocol, carrier, to, fits) <= path);
                    assert!(outer_len(protocol, carrier, to, fits + 1) > path);
                }
            }
        }
    }

    #[test]
    fn a_path_too_narrow_for_anything_has_room_for_nothing() {
        assert_eq!(packet_max(Protocol::ShadowMesh, Carrier::Udp, "2001:db8::1".parse().unwrap(), 60), 0);
    }
}
