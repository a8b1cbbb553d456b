//! TCP segments: read as they come, written as a Linux host would write them.
//!
//! ```text
//!  0..1     2..3          4..7       8..11            12              13      14..15   16..17     18..19   20..
//!  source   destination   sequence   acknowledgment   data offset·4   flags   window   checksum   urgent   options
//!
//!  options of a SYN:         MSS 4 · SACK permitted 2 · timestamps 10 · no-op 1 · window scale 3
//!  options of all others:    no-op 1 · no-op 1 · timestamps 10
//! ```

use std::net::{IpAddr, SocketAddr};

use packet::ip::{IPV4_HEADER, IPV6_HEADER, TCP};
use packet::{Ecn, InvalidPacket, Ip, checksum};
use thiserror::Error;

use super::Flags;

/// Bytes of a TCP header without options.
const TCP_HEADER: usize = 20;
/// Bytes of the options in all segments but a SYN.
const OPTIONS: usize = 12;
/// Bytes of the options in a SYN.
const SYN_OPTIONS: usize = 20;
/// Offset of the checksum in a TCP header.
pub const TCP_CHECKSUM: usize = 16;
/// Bytes of TCP header before each datagram.
pub const DATA_HEADER: usize = TCP_HEADER + OPTIONS;
/// Room for the longest header that [`Header::write`] makes.
pub const HEADER_MAX: usize = IPV6_HEADER + TCP_HEADER + SYN_OPTIONS;

/// Why a packet is no segment.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum InvalidSegment {
    /// It is no IP packet.
    #[error(transparent)]
    Ip(#[from] InvalidPacket),
    /// A fragment.
    #[error("a fragment")]
    Fragment,
    /// Another protocol than TCP.
    #[error("IP protocol {0}, not TCP")]
    Protocol(u8),
    /// A TCP header that is shorter than 20 bytes, or longer than the packet.
    #[error("TCP data offset of {0} bytes")]
    DataOffset(usize),
    /// The bytes at hand end before the TCP header does.
    #[error("shorter than its TCP header")]
    HeaderTruncated,
}

/// What a segment's headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it comes from.
    pub from: SocketAddr,
    /// Where it goes to.
    pub to: SocketAddr,
    /// Number of its first byte.
    pub sequence: u32,
    /// Number of the byte that its sender expects next.
    pub acknowledgment: u32,
    /// The flags.
    pub flags: Flags,
    /// The window field as it stands there, unscaled.
    pub window: u16,
    /// Its sender's clock, and the newest of ours that it has seen (`TSval`, `TSecr`: RFC 7323 §3.2).
    pub timestamps: Option<(u32, u32)>,
    /// The largest segment its sender takes; in a SYN.
    pub mss: Option<u16>,
    /// How far windows are shifted; in a SYN.
    pub window_scale: Option<u8>,
    /// Selective acknowledgments may be sent; in a SYN.
    pub sack_permitted: bool,
    /// The ECN bits of the IP header.
    pub ecn: Ecn,
    /// Bytes of IP and TCP header.
    pub header_len: usize,
    /// Bytes behind them.
    pub payload_len: usize,
}

impl Segment {
    /// Reads the headers of a packet of `packet_len` bytes of which the first ones, `prefix`, are at hand. Checksums are not
    /// looked at: what matters of a segment is authenticated by the session, the rest is believed by nobody.
    ///
    /// # Errors
    /// When it is no whole TCP segment over IP.
    pub fn parse(prefix: &[u8], packet_len: usize) -> Result<Self, InvalidSegment> {
        let ip = Ip::parse_prefix(prefix, packet_len)?;
        if ip.fragment {
            return Err(InvalidSegment::Fragment);
        }
        if ip.protocol != TCP {
            return Err(InvalidSegment::Protocol(ip.protocol));
        }
        let tcp = prefix.get(ip.header_len..).ok_or(InvalidSegment::HeaderTruncated)?;
        let fixed: &[u8; TCP_HEADER] = tcp.first_chunk().ok_or(InvalidSegment::HeaderTruncated)?;
        let tcp_header_len = usize::from(fixed[12] >> 4) * 4;
        if tcp_header_len < TCP_HEADER || ip.header_len + tcp_header_len > ip.total_len {
            return Err(InvalidSegment::DataOffset(tcp_header_len));
        }
        let options = tcp.get(TCP_HEADER..tcp_header_len).ok_or(InvalidSegment::HeaderTruncated)?;
        let header_len = ip.header_len + tcp_header_len;
        let mut segment = Self {
            from: SocketAddr::new(ip.src, be16(fixed, 0)),
            to: SocketAddr::new(ip.dst, be16(fixed, 2)),
            sequence: be32(fixed, 4),
            acknowledgment: be32(fixed, 8),
            flags: Flags(fixed[13]),
            window: be16(fixed, 14),
            timestamps: None,
            mss: None,
            window_scale: None,
            sack_permitted: false,
            ecn: ip.ecn,
            header_len,
            payload_len: ip.total_len - header_len,
        };
        // What established flows of ours, and of everybody else's today, send: no need to walk.
        if let Some([1, 1, 8, 10, rest @ ..]) = options.first_chunk::<OPTIONS>() {
            segment.timestamps = Some((be32(rest, 0), be32(rest, 4)));
        } else {
            segment.read_options(options);
        }
        Ok(segment)
    }

    /// RFC 9293 §3.2: kind, length, data; kinds 0 and 1 are alone. Ends at the first option that is malformed.
    fn read_options(&mut self, mut options: &[u8]) {
        while let [kind, rest @ ..] = options {
            if *kind == 1 {
                options = rest;
                continue;
            }
            let Some(len) = rest.first().map(|&len| usize::from(len)).filter(|&len| len >= 2) else { return };
            let Some((option, after)) = options.split_at_checked(len) else { return };
            match *option {
                [2, 4, high, low] => self.mss = Some(u16::from_be_bytes([high, low])),
                [3, 3, scale] => self.window_scale = Some(scale),
                [4, 2] => self.sack_permitted = true,
                [8, 10, ref stamps @ ..] => self.timestamps = Some((be32(stamps, 0), be32(stamps, 4))),
                [0, ..] => return,
                _ => {}
            }
            options = after;
        }
    }

    /// The number behind its last byte. SYN and FIN count as one each (RFC 9293 §3.4).
    pub fn end(&self) -> u32 {
        let flags = u32::from(self.flags.has(Flags::SYN)) + u32::from(self.flags.has(Flags::FIN));
        self.sequence.wrapping_add(self.payload_len as u32).wrapping_add(flags)
    }
}

/// The options that only a SYN has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SynOptions {
    /// The largest segment we take.
    pub mss: u16,
    /// How far our windows are shifted.
    pub window_scale: u8,
}

/// The headers of a segment, or of a super-segment, to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Where it comes from.
    pub from: SocketAddr,
    /// Where it goes to; of the same family.
    pub to: SocketAddr,
    /// Number of its first byte.
    pub sequence: u32,
    /// Number of the byte expected next.
    pub acknowledgment: u32,
    /// The flags.
    pub flags: Flags,
    /// The window field, unscaled.
    pub window: u16,
    /// Our clock, and the newest of theirs that we have seen; `None` on flows that speak no timestamps.
    pub timestamps: Option<(u32, u32)>,
    /// In a SYN.
    pub syn: Option<SynOptions>,
    /// The ECN bits of the IP header.
    pub ecn: Ecn,
    /// IPv4 identification; of a super-segment, that of its first segment.
    pub identification: u16,
}

impl Header {
    /// Hops that a packet may make: what Linux starts with.
    const HOP_LIMIT: u8 = 64;

    /// Bytes of IP header.
    pub fn ip_len(&self) -> usize {
        if self.to.is_ipv4() { IPV4_HEADER } else { IPV6_HEADER }
    }

    /// Bytes that [`write`](Self::write) writes.
    pub fn header_len(&self) -> usize {
        self.ip_len() + if self.syn.is_some() { TCP_HEADER + SYN_OPTIONS } else { DATA_HEADER }
    }

    /// Writes IP and TCP header of a packet with `payload_len` bytes behind them and returns their length. The TCP checksum is
    /// partial: the pseudo-header's sum, for the kernel or [`complete_checksum`] to finish.
    pub fn write(&self, payload_len: usize, out: &mut [u8; HEADER_MAX]) -> usize {
        let (ip_len, len) = (self.ip_len(), self.header_len());
        let tcp_len = len - ip_len + payload_len;
        out.fill(0);
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                out[..2].copy_from_slice(&[4 << 4 | (IPV4_HEADER / 4) as u8, self.ecn as u8]);
                put16(out, 2, (ip_len + tcp_len) as u16);
                put16(out, 4, self.identification);
                out[6] = 0x40; // don't fragment
                out[8..10].copy_from_slice(&[Self::HOP_LIMIT, TCP]);
                out[12..16].copy_from_slice(&from.octets());
                out[16..20].copy_from_slice(&to.octets());
                let full = !checksum::fold(checksum::sum(&out[..IPV4_HEADER], 0));
                put16(out, 10, full);
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                out[..2].copy_from_slice(&[6 << 4, (self.ecn as u8) << 4]);
                put16(out, 4, tcp_len as u16);
                out[6..8].copy_from_slice(&[TCP, Self::HOP_LIMIT]);
                out[8..24].copy_from_slice(&from.octets());
                out[24..40].copy_from_slice(&to.octets());
            }
            // The engine never pairs families; a packet of zeros is dropped by the first who sees it.
            _ => return len,
        }
        let pseudo = checksum::pseudo_header(self.from.ip(), self.to.ip(), TCP, tcp_len as u32);
        let tcp = &mut out[ip_len..len];
        put16(tcp, 0, self.from.port());
        put16(tcp, 2, self.to.port());
        put32(tcp, 4, self.sequence);
        put32(tcp, 8, self.acknowledgment);
        tcp[12] = ((len - ip_len) as u8 / 4) << 4;
        tcp[13] = self.flags.0;
        put16(tcp, 14, self.window);
        put16(tcp, TCP_CHECKSUM, checksum::fold(pseudo));
        let stamps = if let Some(SynOptions { mss, window_scale }) = self.syn {
            let [high, low] = mss.to_be_bytes();
            tcp[20..26].copy_from_slice(&[2, 4, high, low, 4, 2]);
            tcp[36..].copy_from_slice(&[1, 3, 3, window_scale]);
            &mut tcp[26..36]
        } else {
            tcp[20..22].copy_from_slice(&[1, 1]);
            &mut tcp[22..32]
        };
        // No-ops where they are not spoken: the headers of a flow keep their length.
        stamps.fill(1);
        if let Some((value, echo)) = self.timestamps {
            stamps[..2].copy_from_slice(&[8, 10]);
            put32(stamps, 2, value);
            put32(stamps, 6, echo);
        }
        len
    }
}

/// Makes the partial TCP checksum of `header`, as [`Header::write`] leaves it, a full one over the header and `payload`,
/// which is given in pieces; only the last may have an odd length.
pub fn complete_checksum(header: &mut [u8], ip_len: usize, payload: &[&[u8]]) {
    let Some(tcp) = header.get_mut(ip_len..).filter(|tcp| tcp.len() >= TCP_HEADER) else { return };
    let sum = payload.iter().fold(checksum::sum(tcp, 0), |sum, piece| checksum::sum(piece, sum));
    put16(tcp, TCP_CHECKSUM, !checksum::fold(sum));
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(from: &str, to: &str) -> Header {
        Header {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            sequence: 0xdead_beef,
            acknowledgment: 0x0102_0304,
            flags: Flags::PSH | Flags::ACK,
            window: 501,
            timestamps: Some((0x1111_2222, 0x3333_4444)),
            syn: None,
            ecn: Ecn::Ect0,
            identification: 77,
        }
    }

    fn packet(header: &Header, payload: &[u8]) -> Vec<u8> {
        let mut out = [0; HEADER_MAX];
        let len = header.write(payload.len(), &mut out);
        assert_eq!(len, header.header_len());
        complete_checksum(&mut out[..len], header.ip_len(), &[payload]);
        [&out[..len], payload].concat()
    }

    #[test]
    fn a_segment_reads_back_as_it_was_written() {
        for (from, to) in
            [("192.0.2.1:9443", "198.51.100.7:40000"), ("[2001:db8::1]:9443", "[2001:db8::2]:40000")]
        {
            let data = header(from, to);
            let bytes = packet(&data, b"some payload");
            let read = Segment::parse(&bytes, bytes.len()).unwrap();
            assert_eq!((read.from, read.to), (data.from, data.to));
            assert_eq!((read.sequence, read.acknowledgment), (data.sequence, data.acknowledgment));
            assert_eq!((read.flags, read.window, read.ecn), (data.flags, data.window, data.ecn));
            assert_eq!((read.timestamps, read.payload_len), (data.timestamps, 12));
            assert_eq!(read.end(), data.sequence.wrapping_add(12));
            assert_eq!(&bytes[read.header_len..], b"some payload");

            let syn = SynOptions { mss: 1460, window_scale: 10 };
            let opening = Header { syn: Some(syn), flags: Flags::SYN, ..data };
            let bytes = packet(&opening, b"");
            let read = Segment::parse(&bytes, bytes.len()).unwrap();
            assert_eq!((read.mss, read.window_scale, read.sack_permitted), (Some(1460), Some(10), true));
            assert_eq!(read.timestamps, data.timestamps);
            assert_eq!(read.end(), data.sequence.wrapping_add(1));
        }
    }

    #[test]
    fn both_checksums_are_those_of_the_rfc() {
        for (from, to) in
            [("192.0.2.1:9443", "198.51.100.7:40000"), ("[2001:db8::1]:9443", "[2001:db8::2]:40000")]
        {
            for payload in [&b"even"[..], b"odd", b""] {
                let header = header(from, to);
                let bytes = packet(&header, payload);
                let (ip, tcp) = bytes.split_at(header.ip_len());
                if header.to.is_ipv4() {
                    assert_eq!(checksum::fold(checksum::sum(ip, 0)), 0xffff);
                }
                let pseudo = checksum::pseudo_header(header.from.ip(), header.to.ip(), TCP, tcp.len() as u32);
                assert_eq!(checksum::fold(checksum::sum(tcp, pseudo)), 0xffff);
            }
        }
    }

    #[test]
    fn a_syn_has_the_options_of_linux_in_its_order() {
        let syn = Some(SynOptions { mss: 1460, window_scale: 7 });
        let opening = Header { syn, flags: Flags::SYN, ..header("192.0.2.1:1", "192.0.2.2:2") };
        let bytes = packet(&opening, b"");
        let expected =
            [2, 4, 5, 180, 4, 2, 8, 10, 0x11, 0x11, 0x22, 0x22, 0x33, 0x33, 0x44, 0x44, 1, 3, 3, 7];
        assert_eq!(bytes[40..], expected);
    }

    #[test]
    fn options_in_any_order_are_found_and_malformed_ones_end_the_search() {
        let mut bytes = packet(&header("192.0.2.1:1", "192.0.2.2:2"), b"");
        let mut read = |options: [u8; 12]| {
            bytes[40..52].copy_from_slice(&options);
            Segment::parse(&bytes, bytes.len()).unwrap()
        };
        assert_eq!(read([8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 1]).timestamps, Some((1, 2)));
        assert_eq!(read([1, 4, 2, 2, 4, 1, 2, 0, 0, 0, 0, 0]).mss, Some(258));
        assert_eq!(read([0, 2, 4, 1, 2, 0, 0, 0, 0, 0, 0, 0]).mss, None, "behind the end of options");
        assert_eq!(read([9, 1, 2, 4, 1, 2, 0, 0, 0, 0, 0, 0]).mss, None, "behind a length of 1");
        assert_eq!(
            read([9, 13, 2, 4, 1, 2, 0, 0, 0, 0, 0, 0]).mss,
            None,
            "behind a length beyond the header"
        );
        assert_eq!(read([1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2]).mss, None, "cut off");
    }

    #[test]
    fn what_is_no_segment_is_refused_with_the_reason() {
        let bytes = packet(&header("192.0.2.1:1", "192.0.2.2:2"), b"payload");
        let with = |at: usize, value: u8| {
            let mut changed = bytes.clone();
            changed[at] = value;
            Segment::parse(&changed, changed.len())
        };
        assert_eq!(with(9, 17), Err(InvalidSegment::Protocol(17)));
        assert_eq!(with(6, 0x20), Err(InvalidSegment::Fragment));
        assert_eq!(with(32, 4 << 4), Err(InvalidSegment::DataOffset(16)));
        assert_eq!(with(32, 15 << 4), Err(InvalidSegment::DataOffset(60)));
        assert_eq!(Segment::parse(&bytes[..39], bytes.len()), Err(InvalidSegment::HeaderTruncated));
        assert_eq!(Segment::parse(&bytes[..45], bytes.len()), Err(InvalidSegment::HeaderTruncated));
        assert!(matches!(Segment::parse(&bytes[..39], 39), Err(InvalidSegment::Ip(_))));
    }
}
