//! A host with two addresses on one network, listening on all of them.

use std::time::Duration;

use crate::lab::{self, Capture, Node, SOON, Scratch, Spec, Steady, WIRE, cable, wait_for};

/// Whether an IPv4 packet, or an IPv6 one, comes from UDP port 9443; what it says of its source.
fn source(packet: &[u8]) -> Option<&[u8]> {
    let (source, udp, protocol) = match packet.first()? >> 4 {
        4 => (packet.get(12..16)?, packet.get(20..)?, packet.get(9)?),
        6 => (packet.get(8..24)?, packet.get(40..)?, packet.get(6)?),
        _ => return None,
    };
    (*protocol == 17 && udp.get(..2)? == 9_443_u16.to_be_bytes()).then_some(source)
}

/// Answers, probes and packets leave with the address that the peer has called, of either family.
pub(crate) fn answers_leave_with_the_address_that_was_called() {
    for (called, octets) in [
        ("192.0.2.22:9443", vec![192, 0, 2, 22]),
        ("[2001:db8::22]:9443", vec![0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x22]),
    ] {
        let (left, right) = cable();
        right.add_address(WIRE, "192.0.2.22/24");
        right.add_address(WIRE, "2001:db8::22/64");
        let scratch = Scratch::new();
        // The tunnel's own packets of the other side, and nothing that is in the tunnel.
        let others =
            Capture::start(&left.netns, |packet| source(packet).is_some_and(|from| from.last() != Some(&1)));
        let server = Spec { workers: 2, ..Spec::of_pair(2, None) };
        let right_node = Node::start(&server, &right, &scratch);
        let left_node = Node::start(&Spec::of_pair(1, Some(called)), &left, &scratch);
        for node in [&left_node, &right_node] {
            wait_for("a session", SOON, || node.status().connected().then_some(()));
        }
        lab::transfer(&right.netns, &left.netns, "10.77.0.1", 5_000_000);
        left_node.rekey("right");
        let steady = Steady::start(&right.netns, &left.netns, "10.77.0.1", Duration::from_millis(5));
        steady.wait_for_answers(200, SOON);
        right_node.rekey("left");
        steady.wait_for_answers(100, SOON);
        assert_eq!(steady.finish().lost(), 0);
        assert_eq!(
            left_node.status().endpoint().as_deref(),
            Some(called),
            "it was never called back from elsewhere"
        );
        let packets = others.packets();
        assert!(packets.len() > 50, "{}", packets.len());
        assert!(packets.iter().all(|packet| source(packet) == Some(&octets[..])));

        // The address goes: the other one answers, and the session goes on.
        let (address, other) = if called.starts_with('[') {
            ("2001:db8::22/64", "[2001:db8::2]:9443")
        } else {
            ("192.0.2.22/24", "192.0.2.2:9443")
        };
        right.del_address(WIRE, address);
        let steady = Steady::start(&right.netns, &left.netns, "10.77.0.1", Duration::from_millis(5));
        steady.wait_for_answers(100, SOON);
        assert_eq!(left_node.status().endpoint().as_deref(), Some(other));
    }
}
