//! The `virtio_net_hdr` of a TUN device opened with `IFF_VNET_HDR` (virtio 1.2 §5.1.6, `linux/virtio_net.h`).

use thiserror::Error;

/// What a super-packet is to be cut into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GsoType {
    /// An ordinary packet.
    #[default]
    None,
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP datagrams of equal size (USO), over either IP version.
    UdpL4,
}

/// The header before each packet of a TUN queue: 10 bytes, in native byte order.
///
/// ```text
///  0      1          2..3      4..5       6..7         8..9
///  flags  gso_type   hdr_len   gso_size   csum_start   csum_offset
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// The transport checksum holds the pseudo-header's sum only; the rest, from `csum_start` to the packet's end,
    /// is still to be added (`VIRTIO_NET_HDR_F_NEEDS_CSUM`).
    pub needs_checksum: bool,
    /// How to cut the packet.
    pub gso_type: GsoType,
    /// The congestion window was reduced: CWR belongs to the first segment only (`VIRTIO_NET_HDR_GSO_ECN`).
    pub gso_ecn: bool,
    /// Bytes of IP and transport header. The kernel gives a hint that may be larger; do not trust it.
    pub hdr_len: u16,
    /// Payload bytes of each segment but the last.
    pub gso_size: u16,
    /// Offset of the transport header in the packet.
    pub csum_start: u16,
    /// Offset of the checksum field in the transport header: 16 for TCP, 6 for UDP.
    pub csum_offset: u16,
}

/// A virtio-net header with a GSO type that was not asked for.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("virtio-net header with unknown GSO type {0}")]
pub struct InvalidVnetHeader(pub u8);

const F_NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

impl VnetHeader {
    /// Bytes on the wire.
    pub const LEN: usize = 10;

    /// Reads a header.
    ///
    /// # Errors
    /// When the GSO type is none of ours.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<Self, InvalidVnetHeader> {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let gso_type = match bytes[1] & !GSO_ECN {
            GSO_NONE => GsoType::None,
            GSO_TCPV4 => GsoType::TcpV4,
            GSO_TCPV6 => GsoType::TcpV6,
            GSO_UDP_L4 => GsoType::UdpL4,
            _ => return Err(InvalidVnetHeader(bytes[1])),
        };
        Ok(Self {
            needs_checksum: bytes[0] & F_NEEDS_CSUM != 0,
            gso_type,
            gso_ecn: bytes[1] & GSO_ECN != 0,
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
        })
    }

    /// The header as the kernel reads it.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0] = if self.needs_checksum { F_NEEDS_CSUM } else { 0 };
        bytes[1] = match self.gso_type {
            GsoType::None => GSO_NONE,
            GsoType::TcpV4 => GSO_TCPV4,
            GsoType::TcpV6 => GSO_TCPV6,
            GsoType::UdpL4 => GSO_UDP_L4,
        } | if self.gso_ecn { GSO_ECN } else { 0 };
        for (at, word) in [(2, self.hdr_len), (4, self.gso_size), (6, self.csum_start), (8, self.csum_offset)]
        {
            bytes[at..at + 2].copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_the_wire() {
        let header = VnetHeader {
            needs_checksum: true,
            gso_type: GsoType::TcpV6,
            gso_ecn: true,
            hdr_len: 72,
            gso_size: 1348,
            csum_start: 40,
            csum_offset: 16,
        };
        assert_eq!(VnetHeader::parse(&header.to_bytes()), Ok(header));
        assert_eq!(VnetHeader::default().to_bytes(), [0; VnetHeader::LEN]);
    }

    #[test]
    fn a_gso_type_nobody_asked_for_is_refused() {
        let mut bytes = [0; VnetHeader::LEN];
        bytes[1] = 3; // VIRTIO_NET_HDR_GSO_UDP: IP fragments, long gone from the kernel
        assert_eq!(VnetHeader::parse(&bytes), Err(InvalidVnetHeader(3)));
    }
}
