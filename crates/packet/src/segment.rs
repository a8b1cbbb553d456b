//! A super-packet from the TUN (TSO or USO), cut into the segments of a train.
//!
//! ```text
//!  TUN:    vnet header │ IP · TCP │ payload 0 · payload 1 · payload 2
//!                            │
//!  train:              IP · TCP │ payload 0   IP · TCP │ payload 1   IP · TCP │ payload 2
//! ```
//!
//! A [`SuperPacket`] is the plan of that cut. It owns no bytes: the caller places each payload where it is to be
//! sealed, copies the header before it, and has it patched. The transport checksum of a segment stays partial, which
//! costs nothing; [`SuperPacket::complete_checksum`] makes it full for a peer that needs that.

use std::ops::Range;

use thiserror::Error;

use crate::ip::{InvalidPacket, Ip, TCP, UDP, Version, be16, be32, put16, put32};
use crate::{GsoType, VnetHeader, checksum};

/// The longest header of a super-packet, and so of any of its segments: IPv6 and TCP with all options, and room for
/// a few extension headers. Whoever copies headers needs no more.
pub const HEADER_MAX: usize = 128;

pub(crate) const TCP_HEADER: usize = 20;
pub(crate) const UDP_HEADER: usize = 8;
/// Offset of the checksum in a TCP header.
pub(crate) const TCP_CHECKSUM: usize = 16;
/// Offset of the checksum in a UDP header.
pub(crate) const UDP_CHECKSUM: usize = 6;
/// Offset of the flags in a TCP header.
pub(crate) const TCP_FLAGS: usize = 13;

/// TCP flags (RFC 9293 §3.1, RFC 3168 §6.1).
pub(crate) mod flag {
    pub(crate) const FIN: u8 = 0x01;
    pub(crate) const SYN: u8 = 0x02;
    pub(crate) const RST: u8 = 0x04;
    pub(crate) const PSH: u8 = 0x08;
    pub(crate) const URG: u8 = 0x20;
    pub(crate) const CWR: u8 = 0x80;
}

/// Why a super-packet cannot be cut.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum InvalidSuperPacket {
    /// It is no IP packet.
    #[error(transparent)]
    Ip(#[from] InvalidPacket),
    /// The slice that should hold the headers ends before they do.
    #[error("shorter than its transport header")]
    HeaderTruncated,
    /// The IP header tells of fewer bytes than the kernel handed over.
    #[error("IP header claims {total_len} of {packet_len} bytes")]
    Length {
        /// What the IP header says.
        total_len: usize,
        /// What the kernel handed over.
        packet_len: usize,
    },
    /// A fragment, which no offload may touch.
    #[error("offload asked for a fragment")]
    Fragment,
    /// The IP version or protocol is not that of the GSO type.
    #[error("{gso_type:?} announced for IP version {version:?}, protocol {protocol}")]
    Protocol {
        /// What the virtio-net header says.
        gso_type: GsoType,
        /// What the IP header says.
        version: Version,
        /// What the IP header says.
        protocol: u8,
    },
    /// Segments of no bytes.
    #[error("segment size 0")]
    SegmentSize,
    /// A super-packet without a partial checksum (virtio 1.2 §5.1.6.2 demands one).
    #[error("segmentation without checksum offload")]
    NoChecksum,
    /// The checksum is not where the headers put it, or not inside the packet.
    #[error("checksum at {start} + {offset}")]
    ChecksumPlace {
        /// `csum_start` of the virtio-net header.
        start: u16,
        /// `csum_offset` of the virtio-net header.
        offset: u16,
    },
    /// A TCP header that is shorter than 20 bytes or longer than the packet.
    #[error("TCP data offset of {0} bytes")]
    TcpDataOffset(usize),
    /// Headers, with IPv6 extension headers, that are longer than [`HEADER_MAX`].
    #[error("{0} bytes of headers")]
    HeaderTooLong(usize),
    /// The UDP length is not the rest of the packet.
    #[error("UDP length of {0} bytes")]
    UdpLength(u16),
}

/// How to cut one packet from the TUN. An ordinary packet is one segment, which stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuperPacket {
    gso_type: GsoType,
    version: Version,
    /// Offset of the transport header; `csum_start` where there is a partial checksum.
    transport: usize,
    /// Offset of the transport checksum, if it is partial.
    partial_at: Option<usize>,
    /// The partial checksum is where [`finish_partial`] looks for it.
    travels: bool,
    header_len: usize,
    total_len: usize,
    gso_size: usize,
    segments: usize,
    /// IPv4 identification of the first segment.
    id: u16,
    /// TCP sequence number of the first segment.
    sequence: u32,
    /// TCP flags of the whole.
    flags: u8,
    /// Sum of the IPv4 header's words that are the same in each segment.
    ip_sum: u64,
    /// Sum of the pseudo-header's words that are the same in each segment.
    pseudo_sum: u64,
}

impl SuperPacket {
    /// Plans the cut of a packet of `packet_len` bytes of which at least the headers are at hand.
    ///
    /// Nothing in `vnet` is believed before the bytes agree; its `hdr_len`, a mere hint, is not looked at.
    /// IPv6 jumbograms are refused: a TUN whose `gso_max_size` is 65,536 or less never sees one.
    ///
    /// # Errors
    /// When the headers contradict `vnet`, each other or `packet_len`.
    #[inline]
    pub fn parse(
        vnet: &VnetHeader,
        packet_header: &[u8],
        packet_len: usize,
    ) -> Result<Self, InvalidSuperPacket> {
        let ip = Ip::parse_prefix(packet_header, packet_len)?;
        let plain = Self {
            gso_type: GsoType::None,
            version: ip.version,
            transport: ip.header_len,
            partial_at: None,
            travels: false,
            header_len: ip.header_len,
            total_len: ip.total_len,
            gso_size: ip.total_len - ip.header_len,
            segments: 1,
            id: 0,
            sequence: 0,
            flags: 0,
            ip_sum: 0,
            pseudo_sum: 0,
        };
        match vnet.gso_type {
            GsoType::None if !vnet.needs_checksum => Ok(plain),
            GsoType::None => plain.with_partial_checksum(vnet, &ip),
            _ => plain.with_segments(vnet, &ip, packet_header, packet_len),
        }
    }

    /// An ordinary packet with a partial checksum, which may be anywhere: that of an inner packet, if the packet
    /// comes from a tunnel.
    fn with_partial_checksum(self, vnet: &VnetHeader, ip: &Ip) -> Result<Self, InvalidSuperPacket> {
        let start = usize::from(vnet.csum_start);
        let at = start + usize::from(vnet.csum_offset);
        if start < ip.header_len || at + 2 > ip.total_len {
            return Err(checksum_place(vnet));
        }
        let expected = checksum_offset(ip.protocol).map(|offset| ip.header_len + offset);
        let travels = !ip.fragment && start == ip.header_len && expected == Some(at);
        Ok(Self { transport: start, partial_at: Some(at), travels, ..self })
    }

    /// A super-packet.
    fn with_segments(
        self,
        vnet: &VnetHeader,
        ip: &Ip,
        packet_header: &[u8],
        packet_len: usize,
    ) -> Result<Self, InvalidSuperPacket> {
        let protocol = match (vnet.gso_type, ip.version, ip.protocol) {
            (GsoType::TcpV4, Version::V4, TCP) | (GsoType::TcpV6, Version::V6, TCP) => TCP,
            (GsoType::UdpL4, _, UDP) => UDP,
            (gso_type, version, protocol) => {
                return Err(InvalidSuperPacket::Protocol { gso_type, version, protocol });
            }
        };
        if ip.fragment {
            return Err(InvalidSuperPacket::Fragment);
        }
        if ip.total_len != packet_len {
            return Err(InvalidSuperPacket::Length { total_len: ip.total_len, packet_len });
        }
        if vnet.gso_size == 0 {
            return Err(InvalidSuperPacket::SegmentSize);
        }
        if !vnet.needs_checksum {
            return Err(InvalidSuperPacket::NoChecksum);
        }
        let offset = if protocol == TCP { TCP_CHECKSUM } else { UDP_CHECKSUM };
        if usize::from(vnet.csum_start) != ip.header_len || usize::from(vnet.csum_offset) != offset {
            return Err(checksum_place(vnet));
        }
        let reach = &packet_header[..packet_header.len().min(packet_len)];
        let transport = reach.get(ip.header_len..).ok_or(InvalidSuperPacket::HeaderTruncated)?;
        let transport_len = ip.total_len - ip.header_len;
        let transport_header_len = match protocol {
            TCP => tcp_header_len(transport, transport_len)?,
            _ => udp_header_len(transport, transport_len)?,
        };
        let header_len = ip.header_len + transport_header_len;
        if header_len > HEADER_MAX {
            return Err(InvalidSuperPacket::HeaderTooLong(header_len));
        }
        let gso_size = usize::from(vnet.gso_size);
        let (sequence, flags) = match protocol {
            TCP => (be32(transport, 4), transport[TCP_FLAGS]),
            _ => (0, 0),
        };
        let (id, ip_sum) = match ip.version {
            Version::V4 => ipv4_constants(&packet_header[..ip.header_len]),
            Version::V6 => (0, 0),
        };
        Ok(Self {
            gso_type: vnet.gso_type,
            partial_at: Some(ip.header_len + offset),
            travels: true,
            header_len,
            gso_size,
            // A packet that has only headers is a segment all the same.
            segments: (packet_len - header_len).div_ceil(gso_size).max(1),
            id,
            sequence,
            flags,
            ip_sum,
            pseudo_sum: checksum::pseudo_header(ip.src, ip.dst, protocol, 0),
            ..self
        })
    }

    /// The plan by which no segment is longer than `segment_max` bytes, headers included. `packet` is the packet itself,
    /// its headers at least.
    ///
    /// Only TCP can be cut elsewhere than its sender said, since what arrives is the same stream of bytes; a packet that
    /// is one segment so far is cut like a super-packet. `None` for everything else, for a checksum that is complete (a
    /// new one would vouch for bytes that nobody has checked), for segments that are not plain data (SYN, RST, URG), and
    /// where there is no room for any.
    pub fn recut(&self, packet: &[u8], segment_max: usize) -> Option<Self> {
        let ip = Ip::parse_prefix(packet, self.total_len).ok()?;
        if !self.travels || ip.protocol != TCP {
            return None;
        }
        let transport = packet.get(ip.header_len..)?;
        let header_len = ip.header_len + tcp_header_len(transport, self.total_len - ip.header_len).ok()?;
        let payload = segment_max.checked_sub(header_len).filter(|&payload| payload > 0)?;
        if transport[TCP_FLAGS] & (flag::SYN | flag::RST | flag::URG) != 0 {
            return None;
        }
        let gso_type = match ip.version {
            Version::V4 => GsoType::TcpV4,
            Version::V6 => GsoType::TcpV6,
        };
        let vnet = VnetHeader {
            needs_checksum: true,
            gso_type,
            gso_size: payload.min(usize::from(u16::MAX)) as u16,
            csum_start: ip.header_len as u16,
            csum_offset: TCP_CHECKSUM as u16,
            ..VnetHeader::default()
        };
        Self::parse(&vnet, packet, self.total_len).ok()
    }

    /// How many segments there are; never 0.
    #[inline]
    pub fn segment_count(&self) -> usize {
        self.segments
    }

    /// Bytes of header that each segment starts with: IP and transport header of a super-packet, at most
    /// [`HEADER_MAX`], or the IP header of an ordinary packet, which has no such bound.
    #[inline]
    pub fn header_len(&self) -> usize {
        self.header_len
    }

    /// Bytes of the packet, without what follows it.
    #[inline]
    pub fn total_len(&self) -> usize {
        self.total_len
    }

    /// Payload bytes of segment `index`; 0 when there is no such segment.
    #[inline]
    pub fn payload_len(&self, index: usize) -> usize {
        self.payload_range(index).len()
    }

    /// Bytes of segment `index`, headers included.
    #[inline]
    pub fn segment_len(&self, index: usize) -> usize {
        self.header_len + self.payload_len(index)
    }

    /// Where the payload of segment `index` is in the super-packet; empty when there is no such segment.
    #[inline]
    pub fn payload_range(&self, index: usize) -> Range<usize> {
        let start = index.saturating_mul(self.gso_size).saturating_add(self.header_len).min(self.total_len);
        start..start.saturating_add(self.gso_size).min(self.total_len)
    }

    /// The segments carry a partial checksum (until [`complete_checksum`](Self::complete_checksum)).
    #[inline]
    pub fn is_partial(&self) -> bool {
        self.partial_at.is_some()
    }

    /// The partial checksum may travel as it is: the far end finds its place from the headers alone
    /// ([`finish_partial`], [`Group`](crate::coalesce::Group)). Otherwise complete it first.
    #[inline]
    pub fn partial_travels(&self) -> bool {
        self.travels
    }

    /// Turns `header`, a copy of the super-packet's or of another segment's first [`header_len`](Self::header_len)
    /// bytes, into the header of segment `index`: lengths, IPv4 identification and checksum, TCP sequence number and
    /// flags, and a partial transport checksum. The header of an ordinary packet is left alone.
    ///
    /// # Panics
    /// When `header` is shorter than [`header_len`](Self::header_len): a bug of the caller, never of the network.
    #[inline]
    pub fn patch_header(&self, index: usize, header: &mut [u8]) {
        let header = &mut header[..self.header_len];
        let segment_len = self.segment_len(index);
        match self.gso_type {
            GsoType::None => return,
            GsoType::TcpV4 | GsoType::TcpV6 => self.patch_tcp(index, header),
            GsoType::UdpL4 => put16(header, self.transport + 4, (segment_len - self.transport) as u16),
        }
        match self.version {
            Version::V4 => {
                let id = self.id.wrapping_add(index as u16);
                put16(header, 2, segment_len as u16);
                put16(header, 4, id);
                let sum = self.ip_sum + segment_len as u64 + u64::from(id);
                put16(header, 10, !checksum::fold(sum));
            }
            Version::V6 => put16(header, 4, (segment_len - crate::ip::IPV6_HEADER) as u16),
        }
        if let Some(at) = self.partial_at {
            let sum = self.pseudo_sum + (segment_len - self.transport) as u64;
            put16(header, at, checksum::fold(sum));
        }
    }

    fn patch_tcp(&self, index: usize, header: &mut [u8]) {
        let sequence = self.sequence.wrapping_add((index * self.gso_size) as u32);
        put32(header, self.transport + 4, sequence);
        let mut flags = self.flags;
        if index > 0 {
            flags &= !flag::CWR; // RFC 3168 §6.1.2: told once.
        }
        if index + 1 < self.segments {
            flags &= !(flag::FIN | flag::PSH);
        }
        header[self.transport + TCP_FLAGS] = flags;
    }

    /// Makes the partial checksum of `segment`, which is exactly one segment with its patched header, a full one.
    /// Walks the payload. Without a partial checksum there is nothing to do.
    #[inline]
    pub fn complete_checksum(&self, segment: &mut [u8]) {
        if let Some(at) = self.partial_at
            && at + 2 <= segment.len()
        {
            complete(segment, self.transport, at);
        }
    }
}

/// Sums `packet` from `start` on, the partial checksum at `at` included, and puts the full checksum there.
#[inline]
fn complete(packet: &mut [u8], start: usize, at: usize) {
    let full = !checksum::fold(checksum::sum(&packet[start..], 0));
    // Zero would mean "no checksum" in UDP (RFC 768); both zeros are equal to everybody else.
    put16(packet, at, if full == 0 { 0xffff } else { full });
}

/// Makes the partial checksum of an IP packet a full one; where it is follows from the headers. Bytes behind the
/// packet are left alone.
///
/// # Errors
/// When it is no IP packet, or has no whole TCP or UDP header.
pub fn finish_partial(packet: &mut [u8]) -> Result<(), InvalidPacket> {
    let ip = Ip::parse(packet)?;
    let at = partial_place(&ip)?;
    complete(&mut packet[..ip.total_len], ip.header_len, at);
    Ok(())
}

/// Where the partial checksum of a packet is.
#[inline]
pub(crate) fn partial_place(ip: &Ip) -> Result<usize, InvalidPacket> {
    let header_len = match ip.protocol {
        TCP => TCP_HEADER,
        _ => UDP_HEADER,
    };
    match checksum_offset(ip.protocol) {
        Some(offset) if !ip.fragment && ip.header_len + header_len <= ip.total_len => {
            Ok(ip.header_len + offset)
        }
        _ => Err(InvalidPacket::PartialChecksum),
    }
}

fn checksum_offset(protocol: u8) -> Option<usize> {
    match protocol {
        TCP => Some(TCP_CHECKSUM),
        UDP => Some(UDP_CHECKSUM),
        _ => None,
    }
}

fn checksum_place(vnet: &VnetHeader) -> InvalidSuperPacket {
    InvalidSuperPacket::ChecksumPlace { start: vnet.csum_start, offset: vnet.csum_offset }
}

fn tcp_header_len(transport: &[u8], transport_len: usize) -> Result<usize, InvalidSuperPacket> {
    let data_offset = *transport.get(12).ok_or(InvalidSuperPacket::HeaderTruncated)?;
    let len = usize::from(data_offset >> 4) * 4;
    if len < TCP_HEADER || len > transport_len {
        return Err(InvalidSuperPacket::TcpDataOffset(len));
    }
    if len > transport.len() {
        return Err(InvalidSuperPacket::HeaderTruncated);
    }
    Ok(len)
}

fn udp_header_len(transport: &[u8], transport_len: usize) -> Result<usize, InvalidSuperPacket> {
    if transport.len() < UDP_HEADER {
        return Err(InvalidSuperPacket::HeaderTruncated);
    }
    let len = be16(transport, 4);
    if usize::from(len) != transport_len {
        return Err(InvalidSuperPacket::UdpLength(len));
    }
    Ok(UDP_HEADER)
}

/// The identification, and the sum of all header words but total length, identification and checksum.
fn ipv4_constants(header: &[u8]) -> (u16, u64) {
    let sum = checksum::sum(&header[..2], 0);
    let sum = checksum::sum(&header[6..10], sum);
    (be16(header, 4), checksum::sum(&header[12..], sum))
}
