//! IP headers, congestion marks and flow hashes.

mod support;

use packet::Ecn;
use packet::ip::{self, InvalidPacket, Ip, Version};
use support::{Sketch, naive};

#[test]
fn an_ipv4_header_is_read() {
    let sketch = Sketch { tos: 0b1011_1001, ..Sketch::tcp() };
    let packet = sketch.full();
    let expected = Ip {
        version: Version::V4,
        src: [10, 0, 0, 1].into(),
        dst: [10, 0, 0, 2].into(),
        protocol: ip::TCP,
        header_len: 20,
        total_len: packet.len(),
        fragment: false,
        ecn: Ecn::Ect1,
    };
    assert_eq!(Ip::parse(&packet), Ok(expected));
}

#[test]
fn an_ipv6_header_is_read() {
    let packet = Sketch { tos: 0b1011_1001, ..Sketch::udp().v6() }.full();
    let expected = Ip {
        version: Version::V6,
        src: "fd00:1234:0:0:ffff::1".parse().unwrap(),
        dst: "fd00:1234:0:0:ffff::2".parse().unwrap(),
        protocol: ip::UDP,
        header_len: 40,
        total_len: packet.len(),
        fragment: false,
        ecn: Ecn::Ect1,
    };
    assert_eq!(Ip::parse(&packet), Ok(expected));
}

#[test]
fn each_way_of_being_no_packet_has_its_own_error() {
    let v4 = Sketch::udp().full();
    let with = |at: usize, value: u8| {
        let mut packet = v4.clone();
        packet[at] = value;
        Ip::parse(&packet)
    };
    assert_eq!(Ip::parse(&[]), Err(InvalidPacket::Empty));
    assert_eq!(with(0, 0x05), Err(InvalidPacket::Version(0)));
    assert_eq!(with(0, 0x44), Err(InvalidPacket::HeaderLength));
    assert_eq!(with(3, 19), Err(InvalidPacket::TotalLength));
    assert_eq!(with(2, 1), Err(InvalidPacket::Truncated { total_len: 256 + 128, available: 128 }));
    assert_eq!(Ip::parse(&v4[..19]), Err(InvalidPacket::HeaderTruncated));
    assert_eq!(Ip::parse(&[0x46; 21]), Err(InvalidPacket::HeaderTruncated));
    assert_eq!(Ip::parse(&Sketch::udp().v6().full()[..39]), Err(InvalidPacket::HeaderTruncated));
}

#[test]
fn a_fragment_is_known_by_either_sign() {
    for (at, value) in [(6, 0x20), (6, 0x01), (7, 1)] {
        let mut packet = Sketch::udp().full();
        packet[at] |= value;
        assert!(Ip::parse(&packet).unwrap().fragment);
    }
}

/// An IPv6 UDP packet with `headers` between.
fn extended(first: u8, headers: &[u8]) -> Vec<u8> {
    let mut packet = Sketch::udp().v6().full();
    packet[6] = first;
    packet.splice(40..40, headers.iter().copied());
    let payload_len = (packet.len() - 40) as u16;
    packet[4..6].copy_from_slice(&payload_len.to_be_bytes());
    packet
}

#[test]
fn extension_headers_are_walked_to_the_transport() {
    let read = |first: u8, headers: &[u8]| {
        let ip = Ip::parse(&extended(first, headers)).unwrap();
        (ip.protocol, ip.header_len, ip.fragment)
    };
    // Hop-by-hop (8 bytes), routing (16), authentication (12), UDP.
    let mut chain = vec![43, 0, 1, 4, 0, 0, 0, 0];
    chain.extend([51, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    chain.extend([17, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(read(0, &chain), (17, 76, false));
    // The first fragment, then the second.
    assert_eq!(read(44, &[17, 0, 0, 1, 0, 0, 0, 9]), (17, 48, true));
    // What the second carries only looks like a header.
    assert_eq!(read(44, &[60, 0, 0, 8, 0, 0, 0, 9, 17, 0, 1, 4, 0, 0, 0, 0]), (60, 48, true));
    // A header that ends behind the packet, and more headers than anybody sends: opaque, but a packet.
    assert_eq!(read(60, &[17, 200, 0, 0, 0, 0, 0, 0]), (60, 40, false));
    assert_eq!(read(60, &[60, 0, 1, 4, 0, 0, 0, 0].repeat(9)), (60, 104, false));
}

#[test]
fn padding_is_not_taken_for_extension_headers() {
    let mut packet = extended(60, &[17, 0, 1, 4, 0, 0, 0, 0]);
    packet[4..6].fill(0);
    let ip = Ip::parse(&packet).unwrap();
    assert_eq!((ip.protocol, ip.header_len, ip.total_len), (60, 40, 40));
}

/// RFC 6040 §4.2, figure 4, row by row; `None` is "drop".
#[test]
fn congestion_marks_leave_the_tunnel_as_rfc_6040_says() {
    use Ecn::{Ce, Ect0, Ect1, NotEct};
    let outer = [NotEct, Ect0, Ect1, Ce];
    let table = [
        (NotEct, [Some(NotEct), Some(NotEct), Some(NotEct), None]),
        (Ect0, [Some(Ect0), Some(Ect0), Some(Ect1), Some(Ce)]),
        (Ect1, [Some(Ect1), Some(Ect1), Some(Ect1), Some(Ce)]),
        (Ce, [Some(Ce), Some(Ce), Some(Ce), Some(Ce)]),
    ];
    for (inner, row) in table {
        for (outer, expected) in outer.into_iter().zip(row) {
            for sketch in [Sketch::udp(), Sketch::udp().v6()] {
                let sketch = Sketch { tos: 0b1010_1100 | inner as u8, ..sketch };
                let mut packet = sketch.full();
                let kept = ip::decapsulate_ecn(outer, &mut packet);
                assert_eq!(kept, expected.is_some(), "{inner:?} in {outer:?}");
                let marked = expected.unwrap_or(inner);
                assert_eq!(packet, Sketch { tos: 0b1010_1100 | marked as u8, ..sketch }.full());
            }
        }
    }
}

#[test]
fn marking_congestion_keeps_the_ipv4_header_checksum_right() {
    for id in 0..=u16::MAX {
        let mut packet = Sketch { id, tos: 0b10, payload: Vec::new(), ..Sketch::udp() }.full();
        ip::set_ecn_ce(&mut packet);
        assert_eq!((naive(&packet[..20]), ip::ecn(&packet)), (0xffff, Ecn::Ce));
    }
}

fn flow_hash(sketch: &Sketch) -> u32 {
    ip::flow_hash(&sketch.full())
}

#[test]
fn both_directions_and_all_packets_of_a_flow_hash_alike() {
    for sketch in [Sketch::tcp(), Sketch::udp(), Sketch::tcp().v6(), Sketch::udp().v6()] {
        let back = Sketch {
            src: sketch.dst,
            dst: sketch.src,
            src_port: sketch.dst_port,
            dst_port: sketch.src_port,
            ..sketch.clone()
        };
        let later = Sketch { id: 99, sequence: 5, payload: vec![1; 999], tos: 3, ttl: 1, ..sketch.clone() };
        assert_eq!(flow_hash(&sketch), flow_hash(&back));
        assert_eq!(flow_hash(&sketch), flow_hash(&later));
        assert_eq!(flow_hash(&sketch), ip::flow_hash(&sketch.full()[..sketch.header_len()]));
    }
}

#[test]
fn all_fragments_of_a_packet_hash_alike() {
    let mut first = Sketch::udp().full();
    first[6] = 0x20;
    let mut second = first.clone();
    second[6..8].copy_from_slice(&[0, 13]);
    second[20..].fill(0xaa);
    assert_eq!(ip::flow_hash(&first), ip::flow_hash(&second));
}

#[test]
fn flows_spread_evenly_over_lanes() {
    for sketch in [Sketch::tcp(), Sketch::udp().v6()] {
        for lanes in [2, 3, 16] {
            let mut load = vec![0; lanes];
            for port in 0..1_600 {
                let flow = Sketch { src_port: 32_768 + port, payload: Vec::new(), ..sketch.clone() };
                load[flow_hash(&flow) as usize % lanes] += 1;
            }
            let even = 1_600 / lanes;
            assert!(load.iter().all(|load| (even * 2 / 3..even * 4 / 3).contains(load)), "{load:?}");
        }
    }
}
