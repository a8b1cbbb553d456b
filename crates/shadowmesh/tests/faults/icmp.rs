//! ICMP messages that anybody can send who knows, or guesses, the addresses and ports of a peer.

use std::time::Duration;

use super::Pair;
use crate::lab::{self, SOON, send_raw, wait_for};

/// The flow of the pair's datagrams: from the left one to the right one.
const FROM: [u8; 4] = [192, 0, 2, 1];
const TO: [u8; 4] = [192, 0, 2, 2];
const PORT: u16 = 9_443;

/// What the left one's path passes, and the TUN is made for.
const WIDE: u64 = 1_439;

fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// "Destination unreachable" of that code, with a next-hop MTU (RFC 1191 §4), about a datagram of the flow.
fn forged(code: u8, mtu: u16) -> Vec<u8> {
    let ip = |protocol: u8, len: u16, from: [u8; 4], to: [u8; 4]| {
        let mut header = vec![0x45, 0, 0, 0, 0, 7, 0, 0, 64, protocol, 0, 0];
        header[2..4].copy_from_slice(&len.to_be_bytes());
        header.extend(from);
        header.extend(to);
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    };
    let mut icmp = vec![3, code, 0, 0, 0, 0];
    icmp.extend(mtu.to_be_bytes());
    icmp.extend(ip(17, 1_300, FROM, TO));
    icmp.extend(PORT.to_be_bytes());
    icmp.extend(PORT.to_be_bytes());
    icmp.extend([5, 0, 0, 0]);
    let sum = checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    // From a stranger: nobody looks who says it.
    [ip(1, 20 + icmp.len() as u16, [192, 0, 2, 99], FROM), icmp].concat()
}

/// With `IP_PMTUDISC_DO` one such message made the kernel refuse each form of an initiation for ten minutes.
pub(crate) fn forged_icmp_neither_stops_handshakes_nor_makes_packets_smaller() {
    let mut pair = Pair::connected();
    let steady = pair.steady();
    wait_for("the path's size", SOON, || (pair.left_node.status().count("packet_max") == WIDE).then_some(()));
    // Every code that there is, and for "fragmentation needed" several sizes.
    for (code, mtu) in
        (0..16).filter(|&code| code != 4).map(|code| (code, 0)).chain([(4, 0), (4, 68), (4, 576), (4, 1_200)])
    {
        send_raw(&pair.right.netns, "192.0.2.1", [&forged(code, mtu)[..]]);
    }
    let believed = || os::udp::path_mtu((TO, PORT).into()).unwrap();
    wait_for("the kernel to believe it", SOON, || {
        (pair.left.netns.run(believed).unwrap() < 1_500).then_some(())
    });
    steady.wait_for_answers(100, SOON);
    // An initiation of our own,
    let before = pair.left_node.status().handshake_age();
    pair.left_node.rekey("right");
    wait_for("fresh keys", Duration::from_secs(4), || {
        (pair.left_node.status().handshake_age() < before).then_some(())
    });
    // and one to a peer that has to be found again.
    pair.right_node = None;
    pair.start_right();
    steady.wait_for_answers(100, 2 * SOON);
    // Packets that are 1,439 bytes outside, far more than the 1,200 that the kernel was told of.
    assert_eq!(lab::ping_with(&pair.left, "10.77.0.2", 20, 1_350), 20);
    let status = pair.left_node.status();
    assert_eq!(status.count("packet_max"), WIDE);
    assert_eq!(status.dropped("handshake_send_failed"), 0);
    assert_eq!(status.dropped("path_mtu") + status.dropped("send_failed"), 0);
    steady.finish();
}
