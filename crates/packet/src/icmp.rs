//! The one ICMP message that a tunnel has to say itself: a packet is too large for what lies behind it.
//!
//! IPv4, "fragmentation needed and DF set" (RFC 792, RFC 1191 §4):
//!
//! ```text
//!  0        1        2..3       4..5    6..7           8..
//!  type 3   code 4   checksum   zero    next-hop MTU   the packet, from its IP header on
//! ```
//!
//! IPv6, "packet too big" (RFC 4443 §3.2):
//!
//! ```text
//!  0        1        2..3       4..7    8..
//!  type 2   code 0   checksum   MTU     the packet, from its IP header on
//! ```
//!
//! The answer seems to come from the packet's destination. A tunnel has no router's address of its own to use: those of
//! its device are the sender's own where the packet comes from this machine, and a kernel takes no packet from outside
//! that claims to come from itself. The destination is routed through the tunnel, so a reverse-path filter takes it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::checksum;
use crate::ip::{IPV4_HEADER, IPV6_HEADER, Ip, Version, be16, put16, put32};

/// The smallest MTU that IPv6 allows: no sender heeds an answer that names a smaller one (RFC 8201 §4).
pub const IPV6_MTU_MIN: u16 = 1_280;

/// Bytes of the longest answer: one to an IPv6 packet must itself fit the smallest MTU (RFC 4443 §2.4 c).
pub const TOO_BIG_MAX: usize = IPV6_MTU_MIN as usize;

/// Bytes of the longest answer to an IPv4 packet (RFC 1812 §4.3.2.3).
const TOO_BIG_MAX_V4: usize = 576;

/// Bytes before the quoted packet.
const ICMP_HEADER: usize = 8;

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// "Internetwork control" (RFC 1812 §4.3.2.5), as the TOS byte or traffic class of an answer.
const TRAFFIC_CLASS: u8 = 0xc0;
const HOP_LIMIT: u8 = 64;
const DONT_FRAGMENT: u16 = 0x4000;

/// Writes the answer to `packet`, which is too large for a path of `mtu` bytes, to the front of `out`, and returns how
/// many bytes it takes. `None` where no answer may be given: to an error message, to a fragment but the first, from or
/// to an address that is not one machine's (RFC 1122 §3.2.2, RFC 4443 §2.4 e), or to what is no IP packet.
pub fn too_big(packet: &[u8], mtu: u16, out: &mut [u8; TOO_BIG_MAX]) -> Option<usize> {
    let ip = Ip::parse_prefix(packet, usize::MAX).ok()?;
    if !is_one_machine(ip.src) || !is_one_machine(ip.dst) || is_later_fragment(packet, &ip) {
        return None;
    }
    if is_error_message(packet, &ip) {
        return None;
    }
    let quoted = &packet[..packet.len().min(ip.total_len)];
    match (ip.src, ip.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => Some(fragmentation_needed(dst, src, quoted, mtu, out)),
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            Some(packet_too_big(dst, src, quoted, mtu.max(IPV6_MTU_MIN), out))
        }
        _ => None,
    }
}

/// Whether a packet may be cut into fragments on its way: an IPv4 packet whose sender did not forbid it.
#[inline]
pub fn may_fragment(packet: &[u8]) -> bool {
    packet
        .first_chunk::<IPV4_HEADER>()
        .is_some_and(|header| header[0] >> 4 == 4 && be16(header, 6) & DONT_FRAGMENT == 0)
}

fn is_one_machine(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !address.is_unspecified() && !address.is_multicast() && !address.is_loopback() && !broadcast
}

fn is_later_fragment(packet: &[u8], ip: &Ip) -> bool {
    // An IPv6 fragment header stands before the transport header, which a later fragment does not have: its first bytes
    // would be taken for ICMP's, so no fragment is answered there.
    match ip.version {
        Version::V4 => be16(packet, 6) & 0x1fff != 0,
        Version::V6 => ip.fragment,
    }
}

fn is_error_message(packet: &[u8], ip: &Ip) -> bool {
    let kind = packet.get(ip.header_len).copied();
    match (ip.protocol, kind) {
        // Unreachable, source quench, redirect, time exceeded, parameter problem; a message without a type is no better.
        (ICMP, kind) => kind.is_none_or(|kind| matches!(kind, 3 | 4 | 5 | 11 | 12)),
        (ICMPV6, kind) => kind.is_none_or(|kind| kind < 128),
        _ => false,
    }
}

fn fragmentation_needed(
    src: Ipv4Addr,
    dst: Ipv4Addr,
    quoted: &[u8],
    mtu: u16,
    out: &mut [u8; TOO_BIG_MAX],
) -> usize {
    let quoted = &quoted[..quoted.len().min(TOO_BIG_MAX_V4 - IPV4_HEADER - ICMP_HEADER)];
    let len = IPV4_HEADER + ICMP_HEADER + quoted.len();
    let (header, message) = out[..len].split_at_mut(IPV4_HEADER);
    header.fill(0);
    header[0] = 0x45;
    header[1] = TRAFFIC_CLASS;
    put16(header, 2, len as u16);
    put16(header, 6, DONT_FRAGMENT); // never fragmented, so it needs no identification (RFC 6864 §4.1)
    header[8] = HOP_LIMIT;
    header[9] = ICMP;
    header[12..16].copy_from_slice(&src.octets());
    header[16..20].copy_from_slice(&dst.octets());
    let sum = !checksum::fold(checksum::sum(header, 0));
    put16(header, 10, sum);

    message[..ICMP_HEADER].copy_from_slice(&[3, 4, 0, 0, 0, 0, 0, 0]);
    put16(message, 6, mtu);
    message[ICMP_HEADER..].copy_from_slice(quoted);
    let sum = !checksum::fold(checksum::sum(message, 0));
    put16(message, 2, sum);
    len
}

fn packet_too_big(
    src: Ipv6Addr,
    dst: Ipv6Addr,
    quoted: &[u8],
    mtu: u16,
    out: &mut [u8; TOO_BIG_MAX],
) -> usize {
    let quoted = &quoted[..quoted.len().min(TOO_BIG_MAX - IPV6_HEADER - ICMP_HEADER)];
    let len = IPV6_HEADER + ICMP_HEADER + quoted.len();
    let (header, message) = out[..len].split_at_mut(IPV6_HEADER);
    header.fill(0);
    header[0] = 0x60 | TRAFFIC_CLASS >> 4;
    header[1] = TRAFFIC_CLASS << 4;
    put16(header, 4, message.len() as u16);
    header[6] = ICMPV6;
    header[7] = HOP_LIMIT;
    header[8..24].copy_from_slice(&src.octets());
    header[24..40].copy_from_slice(&dst.octets());

    message[..ICMP_HEADER].copy_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0]);
    put32(message, 4, mtu.into());
    message[ICMP_HEADER..].copy_from_slice(quoted);
    let pseudo = checksum::pseudo_header(src.into(), dst.into(), ICMPV6, message.len() as u32);
    let sum = !checksum::fold(checksum::sum(message, pseudo));
    put16(message, 2, sum);
    len
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ip;

    const V4: [&str; 2] = ["10.0.0.1", "10.0.0.2"];
    const V6: [&str; 2] = ["fd00::1", "fd00::2"];

    /// A packet with `body` after its IP header.
    fn packet([src, dst]: [&str; 2], protocol: u8, body: &[u8]) -> Vec<u8> {
        match (src.parse().unwrap(), dst.parse().unwrap()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut header = [0; IPV4_HEADER];
                header[0] = 0x45;
                put16(&mut header, 2, (IPV4_HEADER + body.len()) as u16);
                put16(&mut header, 6, DONT_FRAGMENT);
                header[9] = protocol;
                header[12..16].copy_from_slice(&src.octets());
                header[16..].copy_from_slice(&dst.octets());
                [&header[..], body].concat()
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let mut header = [0; IPV6_HEADER];
                header[0] = 0x60;
                put16(&mut header, 4, body.len() as u16);
                header[6] = protocol;
                header[8..24].copy_from_slice(&src.octets());
                header[24..].copy_from_slice(&dst.octets());
                [&header[..], body].concat()
            }
            _ => panic!("two families"),
        }
    }

    fn answer(packet: &[u8], mtu: u16) -> Option<Vec<u8>> {
        let mut out = [0xee; TOO_BIG_MAX];
        too_big(packet, mtu, &mut out).map(|len| out[..len].to_vec())
    }

    #[test]
    fn an_ipv4_sender_is_told_the_mtu_and_shown_the_packet() {
        let large = packet(V4, ip::UDP, &[7; 1400]);
        let answer = answer(&large, 1_219).unwrap();
        let ip = Ip::parse(&answer).unwrap();
        assert_eq!((ip.src.to_string(), ip.dst.to_string()), (V4[1].into(), V4[0].into()));
        assert_eq!((ip.protocol, ip.total_len, answer.len()), (ICMP, 576, 576));
        assert_eq!(answer[20..22], [3, 4]);
        assert_eq!(be16(&answer, 26), 1_219);
        assert_eq!(answer[28..], large[..576 - 28]);
        assert_eq!(checksum::fold(checksum::sum(&answer[..20], 0)), 0xffff);
        assert_eq!(checksum::fold(checksum::sum(&answer[20..], 0)), 0xffff);
    }

    #[test]
    fn an_ipv6_sender_is_told_of_no_less_than_1280_bytes() {
        let large = packet(V6, ip::UDP, &[7; 1400]);
        for (mtu, told) in [(1_350, 1_350_u16), (1_100, 1_280)] {
            let answer = answer(&large, mtu).unwrap();
            let ip = Ip::parse(&answer).unwrap();
            assert_eq!((ip.src.to_string(), ip.dst.to_string()), (V6[1].into(), V6[0].into()));
            assert_eq!((ip.protocol, ip.total_len), (ICMPV6, 1_280));
            assert_eq!(answer[40..42], [2, 0]);
            assert_eq!((be16(&answer, 44), be16(&answer, 46)), (0, told));
            assert_eq!(answer[48..], large[..1_280 - 48]);
            let pseudo = checksum::pseudo_header(ip.src, ip.dst, ICMPV6, 1_240);
            assert_eq!(checksum::fold(checksum::sum(&answer[40..], pseudo)), 0xffff);
        }
    }

    #[test]
    fn a_short_packet_is_quoted_whole() {
        let short = packet(V4, ip::UDP, &[7; 20]);
        assert_eq!(answer(&short, 30).unwrap()[28..], short[..]);
        let padded = [&short[..], &[0; 9]].concat();
        assert_eq!(answer(&padded, 30).unwrap()[28..], short[..], "and nothing behind it");
    }

    #[test]
    fn error_messages_are_not_answered_but_pings_are() {
        for kind in [3, 4, 5, 11, 12] {
            assert_eq!(answer(&packet(V4, ICMP, &[kind; 1400]), 1_219), None);
        }
        assert!(answer(&packet(V4, ICMP, &[8; 1400]), 1_219).is_some());
        assert_eq!(answer(&packet(V6, ICMPV6, &[1; 1400]), 1_300), None);
        assert!(answer(&packet(V6, ICMPV6, &[128; 1400]), 1_300).is_some());
        assert_eq!(answer(&packet(V4, ICMP, &[]), 10), None, "of what type, nobody knows");
    }

    #[test]
    fn nobody_is_answered_who_is_not_one_machine() {
        for addresses in [
            ["0.0.0.0", "10.0.0.2"],
            ["224.0.0.1", "10.0.0.2"],
            ["10.0.0.1", "255.255.255.255"],
            ["10.0.0.1", "239.1.1.1"],
            ["127.0.0.1", "10.0.0.2"],
            ["::", "fd00::2"],
            ["fd00::1", "ff02::1"],
        ] {
            assert_eq!(answer(&packet(addresses, ip::UDP, &[7; 1400]), 1_300), None, "{addresses:?}");
        }
    }

    #[test]
    fn only_the_first_fragment_is_answered() {
        let mut fragment = packet(V4, ip::UDP, &[7; 1400]);
        put16(&mut fragment, 6, 0x2000);
        assert!(answer(&fragment, 1_219).is_some());
        put16(&mut fragment, 6, 100);
        assert_eq!(answer(&fragment, 1_219), None);
    }

    #[test]
    fn bytes_that_are_no_packet_are_not_answered() {
        for bytes in [&[][..], &[0x45; 19], &[0x60; 39], &[0x20; 60]] {
            assert_eq!(answer(bytes, 1_300), None);
        }
    }

    #[test]
    fn only_ipv4_without_the_dont_fragment_bit_may_be_fragmented() {
        let mut packet_v4 = packet(V4, ip::UDP, &[7; 100]);
        assert!(!may_fragment(&packet_v4));
        put16(&mut packet_v4, 6, 0);
        assert!(may_fragment(&packet_v4));
        assert!(!may_fragment(&packet(V6, ip::UDP, &[7; 100])));
        assert!(!may_fragment(&[]));
    }
}
