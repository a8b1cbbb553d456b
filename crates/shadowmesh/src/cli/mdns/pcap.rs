//! A capture file of what a socket has received: the IP and UDP headers, which the kernel has kept, are written anew.
//!
//! ```text
//! file    0..3 magic   4..5 major  6..7 minor   8..15 zero     16..19 longest packet   20..23 link type
//! packet  0..3 seconds  4..7 microseconds  8..11 bytes here  12..15 bytes in all       16.. packet
//! ```
//!
//! Integers are in the writer's order, which the magic number shows (draft-ietf-opsawg-pcap).

use std::io::{self, Write};
use std::net::{IpAddr, Ipv6Addr};
use std::time::UNIX_EPOCH;

use beacon::Packet;
use packet::checksum;

const MAGIC_MICROSECONDS: u32 = 0xa1b2_c3d4;
/// Packets begin with their IP header, IPv4 or IPv6.
const LINK_TYPE_RAW: u32 = 101;
const LONGEST: u32 = 65_535;

const IPV4_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const UDP: u8 = 17;
const PORT: u16 = 5353;

/// Begins a file.
pub(super) fn write_header(file: &mut impl Write) -> io::Result<()> {
    let mut header = [0; 24];
    header[..4].copy_from_slice(&MAGIC_MICROSECONDS.to_ne_bytes());
    header[4..6].copy_from_slice(&2_u16.to_ne_bytes());
    header[6..8].copy_from_slice(&4_u16.to_ne_bytes());
    header[16..20].copy_from_slice(&LONGEST.to_ne_bytes());
    header[20..].copy_from_slice(&LINK_TYPE_RAW.to_ne_bytes());
    file.write_all(&header)
}

/// Adds a packet.
pub(super) fn write(file: &mut impl Write, packet: &Packet) -> io::Result<()> {
    let bytes = ip_packet(packet);
    let since = packet.time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let len = (bytes.len() as u32).to_ne_bytes();
    file.write_all(&(since.as_secs() as u32).to_ne_bytes())?;
    file.write_all(&since.subsec_micros().to_ne_bytes())?;
    file.write_all(&len)?;
    file.write_all(&len)?;
    file.write_all(&bytes)
}

/// The packet as it was on the wire, as far as the kernel has told.
fn ip_packet(packet: &Packet) -> Vec<u8> {
    let (from, to) = match (packet.from.ip(), packet.to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => (IpAddr::V4(from), IpAddr::V4(to)),
        (from, to) => (IpAddr::V6(in_ipv6(from)), IpAddr::V6(in_ipv6(to))),
    };
    let udp_len = UDP_HEADER + packet.contents.len();
    let hop_limit = packet.hop_limit.unwrap_or(255);
    let mut bytes = Vec::with_capacity(40 + udp_len);
    if let (IpAddr::V4(from), IpAddr::V4(to)) = (from, to) {
        bytes.extend_from_slice(&[0x45, 0]);
        bytes.extend_from_slice(&((IPV4_HEADER + udp_len) as u16).to_be_bytes());
        bytes.extend_from_slice(&[0, 0, 0, 0, hop_limit, UDP, 0, 0]);
        bytes.extend_from_slice(&from.octets());
        bytes.extend_from_slice(&to.octets());
        let sum = !checksum::fold(checksum::sum(&bytes, 0));
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        bytes.extend_from_slice(&[0x60, 0, 0, 0]);
        bytes.extend_from_slice(&(udp_len as u16).to_be_bytes());
        bytes.extend_from_slice(&[UDP, hop_limit]);
        bytes.extend_from_slice(&in_ipv6(from).octets());
        bytes.extend_from_slice(&in_ipv6(to).octets());
    }
    let udp = bytes.len();
    bytes.extend_from_slice(&packet.from.port().to_be_bytes());
    bytes.extend_from_slice(&PORT.to_be_bytes());
    bytes.extend_from_slice(&(udp_len as u16).to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes.extend_from_slice(&packet.contents);
    let pseudo = checksum::pseudo_header(from, to, UDP, udp_len as u32);
    // Zero means that there is none (RFC 768).
    let sum = match !checksum::fold(checksum::sum(&bytes[udp..], pseudo)) {
        0 => 0xffff,
        sum => sum,
    };
    bytes[udp + 6..udp + 8].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn in_ipv6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ::packet::Ip;

    use super::*;

    #[test]
    fn a_packet_is_written_with_headers_whose_checksums_hold() {
        for (from, to) in [("192.0.2.1:5353", "224.0.0.251"), ("[fe80::1%2]:5353", "ff02::fb")] {
            let packet = Packet {
                time: UNIX_EPOCH + Duration::from_micros(1_000_002),
                interface: 2,
                from: from.parse().unwrap(),
                to: to.parse().unwrap(),
                hop_limit: Some(255),
                truncated: false,
                contents: b"hello".as_slice().into(),
            };
            let mut file = Vec::new();
            write_header(&mut file).unwrap();
            write(&mut file, &packet).unwrap();
            assert_eq!(file[..4], MAGIC_MICROSECONDS.to_ne_bytes());
            assert_eq!(file[24..32], [1_u32.to_ne_bytes(), 2_u32.to_ne_bytes()].concat());
            let ip = &file[40..];
            let parsed = Ip::parse(ip).unwrap();
            assert_eq!((parsed.src, parsed.dst), (packet.from.ip(), packet.to));
            assert_eq!((parsed.protocol, parsed.total_len), (UDP, ip.len()));
            if packet.to.is_ipv4() {
                assert_eq!(checksum::fold(checksum::sum(&ip[..IPV4_HEADER], 0)), 0xffff);
            }
            let udp = &ip[parsed.header_len..];
            let pseudo = checksum::pseudo_header(packet.from.ip(), packet.to, UDP, udp.len() as u32);
            assert_eq!(checksum::fold(checksum::sum(udp, pseudo)), 0xffff);
            assert_eq!(&udp[UDP_HEADER..], b"hello");
        }
    }
}
