//! Packets that are rare, and must arrive as they were.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::thread;

use super::Pair;
use crate::lab::{self, Capture, SOON, Stream, send_raw, wait_for};

const UDP: u8 = 17;
/// RFC 3692: for experiments.
const EXPERIMENT: u8 = 253;
const HOP_BY_HOP: u8 = 0;
const ROUTING_NONE: u8 = 59;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

pub(crate) fn datagrams_of_every_size_arrive_whole() {
    let pair = Pair::connected();
    let stream = Stream::new(1);
    for (from, to, largest) in [("10.77.0.1", "10.77.0.2", 65_507), ("fd77::1", "fd77::2", 65_527)] {
        let bind = |host: &lab::Host, address: &str| {
            let address: IpAddr = address.parse().unwrap();
            host.netns.run(|| UdpSocket::bind((address, 0)).unwrap()).unwrap()
        };
        let (left, right) = (bind(&pair.left, from), bind(&pair.right, to));
        right.set_read_timeout(Some(SOON)).unwrap();
        let mut buf = vec![0; 1 << 16];
        // The MTU is 1,439: what just fits, and what does not, with an IPv4 or IPv6 header and one of UDP.
        for len in [0, 1, 1_391, 1_392, 1_411, 1_412, 2_000, 9_000, 30_000, largest] {
            let sent = &stream.at(len as u64)[..len];
            left.send_to(sent, right.local_addr().unwrap()).unwrap();
            let (received, source) =
                right.recv_from(&mut buf).unwrap_or_else(|error| panic!("{to}, {len}: {error}"));
            assert!(&buf[..received] == sent, "{len} bytes to {to}");
            assert_eq!(source, left.local_addr().unwrap());
        }
    }
    assert_eq!(pair.left_node.status().drops() + pair.right_node().status().drops(), 0);
}

fn ipv4(flags_and_offset: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let total = (20 + payload.len()) as u16;
    let mut packet = vec![0x45, 0x28];
    packet.extend(total.to_be_bytes());
    packet.extend([0xbe, 0xef]);
    packet.extend(flags_and_offset.to_be_bytes());
    packet.extend([37, protocol, 0, 0, 10, 77, 0, 1, 10, 77, 0, 2]);
    packet.extend(payload);
    packet
}

fn ipv6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let address = |number| Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number).octets();
    let mut packet = vec![0x62, 0x81, 0x23, 0x45];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next_header, 37]);
    packet.extend(address(1));
    packet.extend(address(2));
    packet.extend(payload);
    packet
}

/// A UDP datagram whose checksum is what `checksum` says.
fn udp(checksum: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = [7_001_u16, 7_002, 8 + payload.len() as u16, checksum].map(u16::to_be_bytes).concat();
    datagram.extend(payload);
    datagram
}

pub(crate) fn whatever_is_an_ip_packet_arrives_as_it_was() {
    let pair = Pair::connected();
    let stream = Stream::new(2);
    let payload = |len: usize| stream.at(len as u64)[..len].to_vec();
    // Each extension header is `next header, length, padding`.
    let option = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    let with_options = |inner: &[u8]| [&option(DESTINATION), &option(UDP), inner].concat();
    let fragment = |offset: u16, more: u8, inner: &[u8]| {
        let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
        [&[UDP, 0, high, low, 1, 2, 3, 4], inner].concat()
    };
    let mut ipv4_with_options = ipv4(0, EXPERIMENT, &[]);
    ipv4_with_options[0] = 0x47;
    ipv4_with_options[3] = 28 + 5;
    ipv4_with_options.extend([1, 1, 1, 1, 1, 1, 1, 0, 9, 8, 7, 6, 5]);

    let v4 = vec![
        ipv4(0x4000, UDP, &udp(0, &payload(100))),
        ipv4(0, UDP, &udp(0, &[])),
        ipv4(0, UDP, &udp(0xdead, &payload(33))),
        ipv4(0x2000, UDP, &udp(0, &payload(64))),
        ipv4(0x2009, UDP, &payload(80)),
        ipv4(0x0013, UDP, &payload(5)),
        ipv4(0, EXPERIMENT, &[]),
        ipv4(0, EXPERIMENT, &payload(1_419)),
        ipv4(0, 6, &payload(3)),
        ipv4(0, 6, &payload(60)),
        ipv4(0, 1, &payload(1)),
        ipv4_with_options,
    ];
    let v6 = vec![
        ipv6(UDP, &udp(0, &payload(100))),
        ipv6(UDP, &udp(0xbeef, &payload(11))),
        ipv6(HOP_BY_HOP, &with_options(&udp(0xbeef, &payload(50)))),
        ipv6(FRAGMENT, &fragment(0, 1, &udp(0xbeef, &payload(64)))),
        ipv6(FRAGMENT, &fragment(9, 0, &payload(21))),
        ipv6(ROUTING_NONE, &[]),
        ipv6(EXPERIMENT, &payload(1_399)),
        ipv6(6, &payload(7)),
    ];

    let of_ours = |packet: &[u8]| match packet.first().map(|first| first >> 4) {
        Some(4) => packet.len() >= 20 && packet[12..16] == Ipv4Addr::new(10, 77, 0, 1).octets(),
        Some(6) => packet.len() >= 40 && packet[8..10] == [0xfd, 0x77] && packet[7] == 37,
        _ => false,
    };
    let arrivals = Capture::start(&pair.right.netns, of_ours);
    send_raw(&pair.left.netns, "10.77.0.2", v4.iter().map(Vec::as_slice));
    send_raw(&pair.left.netns, "fd77::2", v6.iter().map(Vec::as_slice));
    let count = v4.len() + v6.len();
    let arrived =
        wait_for("all packets", SOON, || Some(arrivals.packets()).filter(|packets| packets.len() >= count));
    assert_eq!(arrived.len(), count);
    // Different flows may overtake each other: each of these packets is one of its own.
    let mut arrived = arrived;
    for packet in arrived.iter_mut().filter(|packet| packet[0] >> 4 == 4) {
        packet[10..12].fill(0); // the sender's kernel filled it in
    }
    for (number, sent) in v4.iter().chain(&v6).enumerate() {
        let place = arrived.iter().position(|received| received == sent);
        assert!(place.is_some(), "packet {number} did not arrive as it was: {sent:x?}");
        arrived.swap_remove(place.unwrap());
    }
    assert_eq!(pair.left_node.status().drops() + pair.right_node().status().drops(), 0);
}

pub(crate) fn two_workers_share_the_flows() {
    let pair = Pair::connected_with(|spec| spec.workers = 2);
    let rounds = || [&pair.left_node, pair.right_node()].map(|node| node.status().workers("rounds"));
    let before = rounds();
    thread::scope(|scope| {
        // Which lane a flow takes depends on its ports: of sixteen some meet on each.
        for number in 0..16 {
            let (address, from, to) = match number % 4 {
                0 => ("10.77.0.2", &pair.left, &pair.right),
                1 => ("fd77::2", &pair.left, &pair.right),
                2 => ("10.77.0.1", &pair.right, &pair.left),
                _ => ("fd77::1", &pair.right, &pair.left),
            };
            scope.spawn(|| lab::transfer(&from.netns, &to.netns, address, 5_000_000));
        }
    });
    for (before, after) in before.iter().zip(rounds()) {
        assert_eq!(after.len(), 2);
        for (before, after) in before.iter().zip(after) {
            assert!(after > before + 100, "a worker had nothing to do: {before} rounds, then {after}");
        }
    }
    for node in [&pair.left_node, pair.right_node()] {
        let status = node.status();
        assert_eq!(status.dropped("unknown_lane") + status.dropped("replayed") + status.dropped("forged"), 0);
    }
}
