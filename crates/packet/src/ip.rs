//! IPv4 and IPv6 headers: read once into an [`Ip`], or one field at a time on the hot path.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;

use crate::{Ecn, checksum};

/// The protocol number of TCP.
pub const TCP: u8 = 6;
/// The protocol number of UDP.
pub const UDP: u8 = 17;

/// Bytes of an IPv4 header without options.
pub const IPV4_HEADER: usize = 20;
/// Bytes of an IPv6 header without extension headers.
pub const IPV6_HEADER: usize = 40;

/// More extension headers than any real packet has; the walk ends there (RFC 8200 §4.1 lists six).
const EXTENSION_HEADERS_MAX: usize = 8;

/// Which IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

/// Why bytes are not an IP packet.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum InvalidPacket {
    /// No bytes at all. An empty data packet is WireGuard's keepalive.
    #[error("no bytes")]
    Empty,
    /// A version nibble that is neither 4 nor 6.
    #[error("IP version {0}")]
    Version(u8),
    /// The bytes end before the IP header does.
    #[error("shorter than its IP header")]
    HeaderTruncated,
    /// An IPv4 header that claims to be shorter than 20 bytes.
    #[error("IPv4 header length below 20 bytes")]
    HeaderLength,
    /// An IPv4 total length that does not even cover the header.
    #[error("total length shorter than the header")]
    TotalLength,
    /// The packet claims more bytes than are there.
    #[error("claims {total_len} bytes, {available} are there")]
    Truncated {
        /// What the header says.
        total_len: usize,
        /// What is there.
        available: usize,
    },
    /// A partial checksum is announced, but there is no TCP or UDP header to hold it.
    #[error("partial checksum without a TCP or UDP header")]
    PartialChecksum,
}

/// What an IP header says, with all lengths checked against the bytes.
///
/// ```
/// use packet::ip::{Ip, InvalidPacket, Version};
///
/// let mut packet = [0; 28];
/// packet[..4].copy_from_slice(&[0x45, 0, 0, 28]);
/// packet[9] = 17;
/// packet[16..20].copy_from_slice(&[10, 0, 0, 2]);
/// let ip = Ip::parse(&packet).expect("well-formed");
/// assert_eq!((ip.version, ip.protocol, ip.total_len), (Version::V4, 17, 28));
/// assert_eq!(ip.dst.to_string(), "10.0.0.2");
/// assert_eq!(Ip::parse(&packet[..27]), Err(InvalidPacket::Truncated { total_len: 28, available: 27 }));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    /// Which IP.
    pub version: Version,
    /// The source address.
    pub src: IpAddr,
    /// The destination address.
    pub dst: IpAddr,
    /// What follows `header_len` bytes: the transport protocol, or an extension header that is truncated or one too
    /// many, which leaves the packet opaque but forwardable.
    pub protocol: u8,
    /// Bytes before the transport header: IPv4 options and IPv6 extension headers included.
    pub header_len: usize,
    /// Bytes of the whole packet. The slice may be longer: WireGuard pads what it seals.
    pub total_len: usize,
    /// The packet is a fragment, or carries an IPv6 fragment header.
    pub fragment: bool,
    /// The ECN bits.
    pub ecn: Ecn,
}

impl Ip {
    /// Reads the header of `packet`, which may be followed by padding.
    ///
    /// # Errors
    /// When the version is unknown or a length contradicts another or the slice.
    #[inline]
    pub fn parse(packet: &[u8]) -> Result<Self, InvalidPacket> {
        Self::parse_prefix(packet, packet.len())
    }

    /// Reads the header of a packet of `packet_len` bytes of which only the first ones, `prefix`, are at hand.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), and when the IP header is not wholly inside `prefix`.
    #[inline]
    pub fn parse_prefix(prefix: &[u8], packet_len: usize) -> Result<Self, InvalidPacket> {
        let ip = match prefix.first().ok_or(InvalidPacket::Empty)? >> 4 {
            4 => Self::parse_v4(prefix)?,
            6 => Self::parse_v6(prefix)?,
            other => return Err(InvalidPacket::Version(other)),
        };
        if ip.total_len > packet_len {
            return Err(InvalidPacket::Truncated { total_len: ip.total_len, available: packet_len });
        }
        Ok(ip)
    }

    /// RFC 791 §3.1.
    ///
    /// ```text
    ///  0            1      2..3    4..5   6..7                 8     9          10..11     12..15   16..19
    ///  4 · IHL      TOS    total   ID     · DF MF · offset     TTL   protocol   checksum   source   destination
    /// ```
    #[inline]
    fn parse_v4(prefix: &[u8]) -> Result<Self, InvalidPacket> {
        let header: &[u8; IPV4_HEADER] = prefix.first_chunk().ok_or(InvalidPacket::HeaderTruncated)?;
        let header_len = usize::from(header[0] & 0xf) * 4;
        let total_len = usize::from(be16(header, 2));
        if header_len < IPV4_HEADER {
            return Err(InvalidPacket::HeaderLength);
        }
        if prefix.len() < header_len {
            return Err(InvalidPacket::HeaderTruncated);
        }
        if total_len < header_len {
            return Err(InvalidPacket::TotalLength);
        }
        Ok(Self {
            version: Version::V4,
            src: Ipv4Addr::from_bits(be32(header, 12)).into(),
            dst: Ipv4Addr::from_bits(be32(header, 16)).into(),
            protocol: header[9],
            header_len,
            total_len,
            fragment: is_v4_fragment(header),
            ecn: Ecn::from_bits(header[1]),
        })
    }

    /// RFC 8200 §3.
    ///
    /// ```text
    ///  0..3                                 4..5             6             7           8..23    24..39
    ///  6 · traffic class · flow label       payload length   next header   hop limit   source   destination
    /// ```
    ///
    /// A jumbogram (RFC 2675) has a payload length of 0 and reads as a packet without payload.
    #[inline]
    fn parse_v6(prefix: &[u8]) -> Result<Self, InvalidPacket> {
        let header: &[u8; IPV6_HEADER] = prefix.first_chunk().ok_or(InvalidPacket::HeaderTruncated)?;
        let total_len = IPV6_HEADER + usize::from(be16(header, 4));
        let reach = &prefix[..prefix.len().min(total_len)];
        let (protocol, header_len, fragment) = walk_extension_headers(reach, header[6]);
        Ok(Self {
            version: Version::V6,
            src: Ipv6Addr::from_bits(be128(header, 8)).into(),
            dst: Ipv6Addr::from_bits(be128(header, 24)).into(),
            protocol,
            header_len,
            total_len,
            fragment,
            ecn: Ecn::from_bits(header[1] >> 4),
        })
    }
}

/// Follows the chain of extension headers (RFC 8200 §4) to the transport header: its protocol, its offset, and
/// whether a fragment header came by.
#[inline]
fn walk_extension_headers(packet: &[u8], first: u8) -> (u8, usize, bool) {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;

    let (mut next, mut at, mut fragment) = (first, IPV6_HEADER, false);
    for _ in 0..EXTENSION_HEADERS_MAX {
        if !matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION) {
            break;
        }
        // Every extension header is at least 8 bytes long.
        let Some(header) = packet.get(at..).and_then(|rest| rest.first_chunk::<8>()) else { break };
        let len = match next {
            FRAGMENT => 8,
            AUTHENTICATION => (usize::from(header[1]) + 2) * 4, // RFC 4302 §2.2
            _ => (usize::from(header[1]) + 1) * 8,
        };
        if at + len > packet.len() {
            break;
        }
        let later_fragment = next == FRAGMENT && be16(header, 2) & 0xfff8 != 0;
        fragment |= next == FRAGMENT;
        next = header[0];
        at += len;
        if later_fragment {
            break; // What follows is the middle of something.
        }
    }
    (next, at, fragment)
}

/// The destination address, without any other check; `None` when the bytes are no IP header.
#[inline]
pub fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(Ipv4Addr::from_bits(be32(packet.first_chunk::<IPV4_HEADER>()?, 16)).into()),
        6 => Some(Ipv6Addr::from_bits(be128(packet.first_chunk::<IPV6_HEADER>()?, 24)).into()),
        _ => None,
    }
}

/// The source address, without any other check; `None` when the bytes are no IP header.
#[inline]
pub fn source(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(Ipv4Addr::from_bits(be32(packet.first_chunk::<IPV4_HEADER>()?, 12)).into()),
        6 => Some(Ipv6Addr::from_bits(be128(packet.first_chunk::<IPV6_HEADER>()?, 8)).into()),
        _ => None,
    }
}

/// The ECN bits; [`Ecn::NotEct`] when the bytes are no IP header.
#[inline]
pub fn ecn(packet: &[u8]) -> Ecn {
    match packet {
        [first, second, ..] if first >> 4 == 4 => Ecn::from_bits(*second),
        [first, second, ..] if first >> 4 == 6 => Ecn::from_bits(second >> 4),
        _ => Ecn::NotEct,
    }
}

/// Sets the ECN bits and, for IPv4, mends the header checksum (RFC 1624). What is no IP header stays as it is.
#[inline]
pub fn set_ecn(packet: &mut [u8], ecn: Ecn) {
    match packet.first().map(|first| first >> 4) {
        Some(4) => {
            if let Some(header) = packet.first_chunk_mut::<IPV4_HEADER>() {
                let old = be16(header, 0);
                header[1] = header[1] & !0b11 | ecn as u8;
                let mended = checksum::update(be16(header, 10), old, be16(header, 0));
                put16(header, 10, mended);
            }
        }
        Some(6) => {
            if let Some(header) = packet.first_chunk_mut::<IPV6_HEADER>() {
                header[1] = header[1] & !0x30 | (ecn as u8) << 4;
            }
        }
        _ => {}
    }
}

/// Marks a packet as having met congestion. The caller has checked that its transport is ECN-capable.
#[inline]
pub fn set_ecn_ce(packet: &mut [u8]) {
    set_ecn(packet, Ecn::Ce);
}

/// Brings the congestion marks of the outer header to the inner packet as it leaves the tunnel (RFC 6040 §4.2).
/// `false`: the packet must be dropped, because congestion was met and its transport cannot be told otherwise.
///
/// ```text
///                outer  Not-ECT   ECT(0)    ECT(1)    CE
///  inner Not-ECT        Not-ECT   Not-ECT   Not-ECT   drop
///        ECT(0)         ECT(0)    ECT(0)    ECT(1)    CE
///        ECT(1)         ECT(1)    ECT(1)    ECT(1)    CE
///        CE             CE        CE        CE        CE
/// ```
#[inline]
#[must_use]
pub fn decapsulate_ecn(outer: Ecn, packet: &mut [u8]) -> bool {
    if matches!(outer, Ecn::NotEct | Ecn::Ect0) {
        return true;
    }
    match (ecn(packet), outer) {
        (Ecn::NotEct, Ecn::Ce) => return false,
        (Ecn::Ect0, _) | (Ecn::Ect1, Ecn::Ce) => set_ecn(packet, outer),
        _ => {}
    }
    true
}

/// A hash of the flow a packet belongs to, the same in both directions: of addresses, protocol and ports. Fragments
/// have no ports, nor has what is neither TCP, UDP, UDP-Lite, DCCP nor SCTP. 0 when the bytes are no IP header.
///
/// It spreads flows over lanes and keeps each on one; it does not withstand somebody who wants a collision.
#[inline]
pub fn flow_hash(packet: &[u8]) -> u32 {
    let (src, dst, protocol, header_len, fragment) = match packet.first().map(|first| first >> 4) {
        Some(4) => {
            let Some(header) = packet.first_chunk::<IPV4_HEADER>() else { return 0 };
            let header_len = usize::from(header[0] & 0xf) * 4;
            let (src, dst) = (u64::from(be32(header, 12)), u64::from(be32(header, 16)));
            (src, dst, header[9], header_len, is_v4_fragment(header))
        }
        Some(6) => {
            let Some(header) = packet.first_chunk::<IPV6_HEADER>() else { return 0 };
            let (protocol, header_len, fragment) = walk_extension_headers(packet, header[6]);
            (squeeze(be128(header, 8)), squeeze(be128(header, 24)), protocol, header_len, fragment)
        }
        _ => return 0,
    };
    let ports = match protocol {
        TCP | UDP | 33 | 132 | 136 if !fragment => {
            packet.get(header_len..).and_then(|rest| rest.first_chunk::<4>())
        }
        _ => None,
    };
    let (src_port, dst_port) = ports.map_or((0, 0), |ports| (be16(ports, 0), be16(ports, 2)));
    // An addition of the two ends makes the hash symmetric; each end is mixed first so that equal bits do not cancel.
    let ends = mix(src ^ u64::from(src_port) << 40).wrapping_add(mix(dst ^ u64::from(dst_port) << 40));
    (mix(ends ^ u64::from(protocol)) >> 32) as u32
}

fn squeeze(address: u128) -> u64 {
    mix((address >> 64) as u64) ^ address as u64
}

/// A multiply-xorshift mixer: every bit of the input reaches the high half of the output.
fn mix(word: u64) -> u64 {
    let word = (word ^ word >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (word ^ word >> 29).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

/// More fragments follow, or this one is not the first.
#[inline]
pub(crate) fn is_v4_fragment(header: &[u8; IPV4_HEADER]) -> bool {
    be16(header, 6) & 0x3fff != 0
}

#[inline]
pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[inline]
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[inline]
pub(crate) fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[inline]
pub(crate) fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

#[inline]
fn be128(bytes: &[u8; IPV6_HEADER], at: usize) -> u128 {
    let words = [0, 4, 8, 12].map(|word| u128::from(be32(bytes, at + word)));
    words[0] << 96 | words[1] << 64 | words[2] << 32 | words[3]
}
