//! Consecutive segments of one flow, put together into a super-packet for the TUN: what GRO does in a kernel.
//!
//! ```text
//!  opened: IP · TCP │ payload 0   IP · TCP │ payload 1   IP · TCP │ payload 2
//!                         │                      │                      │
//!  TUN:    vnet header │ IP · TCP │ payload 0 · payload 1 · payload 2
//! ```
//!
//! No payload is copied: a [`Group`] holds the rewritten header, the caller the packets, and one vectored write
//! brings them together. A group only ever accepts what a segmentation would have made, so that cutting the
//! super-packet again yields the packets that came in.

use crate::ip::{IPV4_HEADER, IPV6_HEADER, InvalidPacket, Ip, TCP, UDP, Version, be16, be32, put16};
use crate::segment::{
    HEADER_MAX, TCP_CHECKSUM, TCP_FLAGS, TCP_HEADER, UDP_CHECKSUM, UDP_HEADER, flag, partial_place,
};
use crate::{GsoType, MAX_PACKET, VnetHeader, checksum};

/// Which super-packets the TUN takes. By default none: then every packet passes by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoalesceLimits {
    /// TCP over IPv4 (`TUN_F_TSO4`).
    pub tso4: bool,
    /// TCP over IPv6 (`TUN_F_TSO6`).
    pub tso6: bool,
    /// UDP over IPv4 (`TUN_F_USO4`).
    pub uso4: bool,
    /// UDP over IPv6 (`TUN_F_USO6`).
    pub uso6: bool,
}

impl CoalesceLimits {
    /// All super-packets.
    pub const ALL: Self = Self { tso4: true, tso6: true, uso4: true, uso6: true };

    fn allow(self, version: Version, protocol: u8) -> bool {
        match (version, protocol) {
            (Version::V4, TCP) => self.tso4,
            (Version::V6, TCP) => self.tso6,
            (Version::V4, UDP) => self.uso4,
            (Version::V6, UDP) => self.uso6,
            _ => false,
        }
    }
}

/// One or more packets that are written to the TUN at once: [`finish`](Self::finish)'s virtio-net header and packet
/// header, then the [`payload`](Self::payload) of each packet in order.
///
/// ```
/// use packet::coalesce::{CoalesceLimits, Group};
/// # fn packets() -> Vec<Vec<u8>> { Vec::new() }
/// # fn write(_: packet::VnetHeader, _: &[u8], _: &[&[u8]]) {}
///
/// let packets: Vec<Vec<u8>> = packets();
/// let mut rest = packets.iter().peekable();
/// while let Some(first) = rest.next() {
///     let partial = true;
///     let Ok(mut group) = Group::start(first, partial, CoalesceLimits::ALL) else { continue };
///     let mut payloads = vec![group.payload(first)];
///     while let Some(next) = rest.next_if(|next| group.try_push(next, partial)) {
///         payloads.push(group.payload(next));
///     }
///     let (vnet, header) = group.finish();
///     write(vnet, header, &payloads);
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Group {
    header: [u8; HEADER_MAX],
    /// Bytes of header; 0 for a packet that is not understood and passes as it is.
    header_len: usize,
    /// Offset of the transport header.
    transport: usize,
    /// Bytes of all packets put together.
    total_len: usize,
    /// Payload bytes of each packet but the last.
    gso_size: usize,
    count: usize,
    /// Nothing more may be added.
    closed: bool,
    version: Version,
    protocol: u8,
    /// Where the first packet has its partial checksum, if it has.
    partial_at: Option<usize>,
    /// TCP flags that only the last packet may have.
    last_flags: u8,
    /// Sum of the pseudo-header's words but its length.
    pseudo_sum: u64,
}

/// The lengths of a packet that may be merged.
struct Segment {
    header_len: usize,
    total_len: usize,
}

impl Group {
    /// No group has more packets than this, so neither need the caller's lists.
    pub const MAX_SEGMENTS: usize = 128;

    /// No UDP group has more datagrams than this (`UDP_MAX_SEGMENTS` of kernels before 6.9).
    pub const MAX_UDP_SEGMENTS: usize = 64;

    /// Begins with `packet`, which may be followed by padding. `partial`: its transport checksum is partial.
    ///
    /// # Errors
    /// When it is no IP packet, or `partial` without a place for the checksum: drop it.
    #[inline]
    pub fn start(packet: &[u8], partial: bool, limits: CoalesceLimits) -> Result<Self, InvalidPacket> {
        let ip = Ip::parse(packet)?;
        let partial_at = if partial { Some(partial_place(&ip)?) } else { None };
        let packet = &packet[..ip.total_len];
        let mut group = Self {
            header: [0; HEADER_MAX],
            header_len: 0,
            transport: ip.header_len,
            total_len: ip.total_len,
            gso_size: 0,
            count: 1,
            closed: true,
            version: ip.version,
            protocol: ip.protocol,
            partial_at,
            last_flags: 0,
            pseudo_sum: 0,
        };
        if limits.allow(ip.version, ip.protocol) && !ip.fragment {
            group.open(packet, &ip, partial);
        }
        Ok(group)
    }

    /// Makes the group one that others may join, if its first packet allows that.
    #[inline]
    fn open(&mut self, packet: &[u8], ip: &Ip, partial: bool) {
        // What passes alone most often is told first: a segment that ends something, or one without data.
        let ends = flag::SYN | flag::RST | flag::URG | flag::FIN | flag::PSH;
        if self.protocol == TCP
            && packet.get(self.transport + TCP_FLAGS).is_none_or(|flags| flags & ends != 0)
        {
            return;
        }
        let Some(segment) = mergeable(packet, self.version, self.protocol) else { return };
        if segment.header_len == segment.total_len {
            return;
        }
        self.pseudo_sum = checksum::pseudo_header(ip.src, ip.dst, self.protocol, 0);
        if !self.checksum_holds(packet, partial) {
            return;
        }
        self.header_len = segment.header_len;
        self.header[..segment.header_len].copy_from_slice(&packet[..segment.header_len]);
        self.gso_size = segment.total_len - segment.header_len;
        self.closed = false;
    }

    /// Adds `packet`, which may be followed by padding, if it continues the group. `false`: it does not, or it could
    /// not be told from the others afterwards; it begins the next group.
    ///
    /// A checksum that is not partial is verified here, so that a corrupted packet is never given a valid one.
    #[inline]
    pub fn try_push(&mut self, packet: &[u8], partial: bool) -> bool {
        if self.closed {
            return false;
        }
        let Some(packet) = self.same_shape(packet) else { return false };
        let payload_len = packet.len() - self.header_len;
        let total_len = self.total_len + payload_len;
        if payload_len == 0 || payload_len > self.gso_size || total_len > MAX_PACKET {
            return false;
        }
        let continues = match self.protocol {
            TCP => self.continues_tcp(packet),
            _ => self.continues_udp(packet),
        };
        if !continues || !self.checksum_holds(packet, partial) {
            return false;
        }
        self.total_len = total_len;
        self.count += 1;
        let max = if self.protocol == TCP { Self::MAX_SEGMENTS } else { Self::MAX_UDP_SEGMENTS };
        if self.protocol == TCP {
            self.last_flags = packet[self.transport + TCP_FLAGS] & (flag::FIN | flag::PSH);
        }
        self.closed = payload_len < self.gso_size || self.last_flags != 0 || self.count == max;
        true
    }

    /// The packet without padding, if its IP header is that of the group but for length, identification and
    /// checksum, which are right.
    #[inline]
    fn same_shape<'p>(&self, packet: &'p [u8]) -> Option<&'p [u8]> {
        let ours = &self.header;
        let same = match self.version {
            Version::V4 => {
                let theirs: &[u8; IPV4_HEADER] = packet.first_chunk()?;
                // Identifications count up, unless DF makes them meaningless (RFC 6864 §4.1).
                let id = be16(ours, 4).wrapping_add(self.count as u16);
                let ids = ours[6] & 0x40 != 0 || be16(theirs, 4) == id;
                ids && theirs[..2] == ours[..2]
                    && theirs[6..10] == ours[6..10]
                    && theirs[12..] == ours[12..20]
            }
            Version::V6 => {
                let theirs: &[u8; IPV6_HEADER] = packet.first_chunk()?;
                theirs[..4] == ours[..4] && theirs[6..] == ours[6..IPV6_HEADER]
            }
        };
        let total_len = total_len(packet, self.version)?;
        let packet = packet.get(..total_len)?;
        if !same {
            return None;
        }
        mergeable(packet, self.version, self.protocol)
            .is_some_and(|segment| segment.header_len == self.header_len)
            .then_some(packet)
    }

    /// Same ports, acknowledgement, window, flags and options, and the next sequence number.
    #[inline]
    fn continues_tcp(&self, packet: &[u8]) -> bool {
        let ours = &self.header[self.transport..self.header_len];
        let theirs = &packet[self.transport..self.header_len];
        let payload_so_far = (self.total_len - self.header_len) as u32;
        let changed = (ours[TCP_FLAGS] & !flag::CWR) ^ theirs[TCP_FLAGS];
        // CWR in a later segment, as it would be told in the first, is a change that must not be.
        changed & !(flag::FIN | flag::PSH) == 0
            && be32(theirs, 4) == be32(ours, 4).wrapping_add(payload_so_far)
            && theirs[..4] == ours[..4]
            && theirs[8..TCP_FLAGS] == ours[8..TCP_FLAGS]
            && theirs[14..TCP_CHECKSUM] == ours[14..TCP_CHECKSUM]
            && theirs[18..] == ours[18..]
    }

    /// Same ports.
    #[inline]
    fn continues_udp(&self, packet: &[u8]) -> bool {
        packet[self.transport..self.transport + 4] == self.header[self.transport..self.transport + 4]
    }

    /// The transport checksum is what it should be. A partial one takes no walk through the payload.
    #[inline]
    fn checksum_holds(&self, packet: &[u8], partial: bool) -> bool {
        let transport = &packet[self.transport..];
        let pseudo_sum = self.pseudo_sum + transport.len() as u64;
        let field = be16(transport, if self.protocol == TCP { TCP_CHECKSUM } else { UDP_CHECKSUM });
        if partial {
            return field == checksum::fold(pseudo_sum);
        }
        // A UDP datagram without checksum (RFC 768) cannot be verified, and would come out with one.
        !(self.protocol == UDP && field == 0)
            && checksum::fold(checksum::sum(transport, pseudo_sum)) == 0xffff
    }

    /// How many packets the group has; never 0.
    #[inline]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes of the packet or super-packet, without the virtio-net header.
    #[inline]
    pub fn total_len(&self) -> usize {
        self.total_len
    }

    /// Bytes at the front of each packet that [`finish`](Self::finish)'s header stands for; 0 when the group is a
    /// packet that passes as it is.
    #[inline]
    pub fn header_len(&self) -> usize {
        self.header_len
    }

    /// What of `packet`, one of those accepted, follows the header: its payload without padding.
    #[inline]
    pub fn payload<'p>(&self, packet: &'p [u8]) -> &'p [u8] {
        let total_len = total_len(packet, self.version).unwrap_or(0);
        packet.get(self.header_len..total_len).unwrap_or_default()
    }

    /// The virtio-net header and the packet header to write before the payloads. A single packet keeps its header.
    #[inline]
    pub fn finish(&mut self) -> (VnetHeader, &[u8]) {
        let vnet = if self.count == 1 { self.lone_vnet() } else { self.merge_headers() };
        (vnet, &self.header[..self.header_len])
    }

    fn lone_vnet(&self) -> VnetHeader {
        let Some(at) = self.partial_at else { return VnetHeader::default() };
        VnetHeader {
            needs_checksum: true,
            csum_start: self.transport as u16,
            csum_offset: (at - self.transport) as u16,
            ..VnetHeader::default()
        }
    }

    /// Makes the header that of the super-packet.
    fn merge_headers(&mut self) -> VnetHeader {
        let transport_len = self.total_len - self.transport;
        let header = &mut self.header[..self.header_len];
        match self.version {
            Version::V4 => {
                put16(header, 2, self.total_len as u16);
                put16(header, 10, 0);
                let sum = checksum::sum(&header[..IPV4_HEADER], 0);
                put16(header, 10, !checksum::fold(sum));
            }
            Version::V6 => put16(header, 4, (self.total_len - IPV6_HEADER) as u16),
        }
        let transport = &mut header[self.transport..];
        let csum_offset = if self.protocol == TCP { TCP_CHECKSUM } else { UDP_CHECKSUM };
        put16(transport, csum_offset, checksum::fold(self.pseudo_sum + transport_len as u64));
        let (gso_type, gso_ecn) = if self.protocol == TCP {
            transport[TCP_FLAGS] |= self.last_flags;
            let gso_type = if self.version == Version::V4 { GsoType::TcpV4 } else { GsoType::TcpV6 };
            (gso_type, transport[TCP_FLAGS] & flag::CWR != 0)
        } else {
            put16(transport, 4, transport_len as u16);
            (GsoType::UdpL4, false)
        };
        VnetHeader {
            needs_checksum: true,
            gso_type,
            gso_ecn,
            hdr_len: self.header_len as u16,
            gso_size: self.gso_size as u16,
            csum_start: self.transport as u16,
            csum_offset: csum_offset as u16,
        }
    }
}

/// The lengths of a TCP or UDP packet that a super-packet can stand for: no IPv4 options, no extension headers, a
/// valid IPv4 header checksum, consistent lengths. `packet` is no fragment and ends where its IP header says.
#[inline]
fn mergeable(packet: &[u8], version: Version, protocol: u8) -> Option<Segment> {
    let transport_at = match version {
        Version::V4 => {
            let header: &[u8; IPV4_HEADER] = packet.first_chunk()?;
            if header[0] != 0x45 || checksum::fold(checksum::sum(header, 0)) != 0xffff {
                return None;
            }
            IPV4_HEADER
        }
        Version::V6 => {
            let header: &[u8; IPV6_HEADER] = packet.first_chunk()?;
            if header[6] != protocol {
                return None;
            }
            IPV6_HEADER
        }
    };
    let transport = packet.get(transport_at..)?;
    let transport_header_len = if protocol == TCP {
        let len = usize::from(*transport.get(12)? >> 4) * 4;
        (len >= TCP_HEADER && len <= transport.len()).then_some(len)?
    } else {
        let len = transport.first_chunk::<UDP_HEADER>().map(|header| usize::from(be16(header, 4)))?;
        (len == transport.len()).then_some(UDP_HEADER)?
    };
    Some(Segment { header_len: transport_at + transport_header_len, total_len: packet.len() })
}

/// What the IP header says of the packet's length.
#[inline]
fn total_len(packet: &[u8], version: Version) -> Option<usize> {
    match version {
        Version::V4 => Some(usize::from(be16(packet.get(..4)?, 2))),
        Version::V6 => Some(IPV6_HEADER + usize::from(be16(packet.get(..6)?, 4))),
    }
}
