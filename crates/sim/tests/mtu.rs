//! Paths that carry less than 1,500 bytes, known and unknown.

use std::time::Duration;

use handshake::Protocol;
use node::DropReason;
use packet::Ecn;
use sim::inner::{TCP, UDP};
use sim::{Kind, LinkConfig, Load, NodeId, NodeSpec, PeerOptions, Uplink, World};

const SECOND: Duration = Duration::from_secs(1);

fn small_path() -> LinkConfig {
    LinkConfig { mtu: 1_280, ..LinkConfig::default() }
}

#[test]
fn a_handshake_crosses_a_path_of_1280_bytes_that_swallows_what_is_larger() {
    for protocol in [Protocol::ShadowMesh, Protocol::WireGuard] {
        let how = PeerOptions { protocol, ..PeerOptions::default() };
        let (mut world, left, right) = World::pair_with(1, NodeSpec::default(), NodeSpec::default(), &how);
        world.set_all_links(small_path());
        let flow = world.udp(left, right);
        world.send(flow, 100, None);
        // One timeout, then the initiation in two parts.
        world.run_for(7 * SECOND);
        assert_eq!(world.flow(flow).received, 1, "{protocol:?}");
        assert_eq!(world.peer_status(left, right).post_quantum, protocol == Protocol::ShadowMesh);
        world.settle();
    }
}

#[test]
fn an_interface_of_1280_bytes_is_known_to_be_small_at_once() {
    let uplink = Uplink { mtu: 1_280, ..Uplink::default() };
    let small = || NodeSpec { uplink, mtu: 1_280 - 28 - 33, ..NodeSpec::default() };
    let (mut world, left, right) = World::pair_with(2, small(), small(), &PeerOptions::default());
    world.set_all_links(small_path());
    let flow = world.udp(left, right);
    world.send(flow, 100, None);
    world.run_for(7 * SECOND);
    assert_eq!(world.flow(flow).received, 1);
    let tcp = world.tcp(left, right);
    world.send(tcp, 50_000, Some(1_280 - 28 - 33 - 40));
    world.run_for(SECOND);
    assert_eq!(world.flow(tcp).missing(), 0);
    world.settle();
}

#[test]
fn either_half_of_a_split_initiation_may_be_lost() {
    for lost in [Kind::InitiationPart1, Kind::InitiationPart2, Kind::Response] {
        let (mut world, left, right) = World::pair(3);
        world.set_all_links(small_path());
        let mut first = true;
        world.set_filter(move |passing| {
            let hit = passing.kind == lost && first;
            first &= !hit;
            !hit
        });
        assert!(world.ping(left, right, 20 * SECOND).is_some(), "{lost:?}");
        world.settle();
    }
}

#[test]
fn the_halves_of_a_split_initiation_may_change_places() {
    let (mut world, left, right) = World::pair(4);
    world.set_all_links(LinkConfig { reorder: 0.5, ..small_path() });
    assert!(world.ping(left, right, 40 * SECOND).is_some());
    world.settle();
}

/// What fits a path of 1,280 bytes over IPv4 in one datagram.
const FITS: u16 = 1_280 - 28 - 33;
/// Payload of a UDP datagram of the device's MTU, in IPv4.
const FULL_UDP: usize = 1_420 - 28;
/// Payload of a TCP segment of the device's MTU, in IPv4.
const FULL_TCP: u16 = 1_420 - 40;

/// Two nodes that have found out how narrow the path between them is.
fn narrow_pair(seed: u64) -> (World, NodeId, NodeId) {
    let (mut world, left, right) = World::pair(seed);
    world.set_all_links(small_path());
    assert!(world.ping(left, right, 7 * SECOND).is_some());
    world.run_for(2 * SECOND);
    for (node, peer) in [(left, right), (right, left)] {
        let status = world.peer_status(node, peer);
        assert_eq!((status.path_mtu, status.packet_max), (1_280, FITS));
    }
    (world, left, right)
}

/// An IPv4 packet of UDP that its sender allows to be fragmented.
fn may_be_fragmented(len: u16) -> Vec<u8> {
    let mut packet = vec![0x5a; usize::from(len)];
    packet[..20].copy_from_slice(&[0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0, 10, 77, 0, 1, 10, 77, 0, 2]);
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    let sum: u32 = packet[..20].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

#[test]
fn a_narrow_path_to_one_peer_leaves_the_others_alone() {
    let mut world = World::new(5);
    let [hub, near, far] = [0, 1, 2].map(|_| world.add(NodeSpec::default()));
    world.peer(hub, near);
    world.peer(hub, far);
    world.set_link(hub, far, small_path());
    for peer in [near, far] {
        assert!(world.ping(hub, peer, 7 * SECOND).is_some());
    }
    world.run_for(2 * SECOND);
    assert_eq!(world.status(hub).mtu, 1_420, "of the device");
    assert_eq!(world.peer_status(hub, near).packet_max, 1_420);
    assert_eq!(world.peer_status(hub, far).packet_max, FITS);
    let [to_near, to_far] = [near, far].map(|peer| world.udp(hub, peer));
    for flow in [to_near, to_far] {
        world.send(flow, FULL_UDP, None);
    }
    world.run_for(SECOND);
    assert_eq!(world.flow(to_near).received, 1);
    let told = world.flow(to_far);
    assert_eq!((told.received, told.told_mtu), (0, Some(FITS.into())), "the sender learns what fits");
    world.send(to_far, usize::from(FITS) - 28, None);
    world.run_for(SECOND);
    assert_eq!(world.flow(to_far).received, 1);
    assert_eq!(world.drops(hub, DropReason::TooBig), 1);
    world.settle();
}

#[test]
fn tcp_is_cut_to_fit_and_nobody_needs_to_be_told() {
    for address in [0, 1] {
        let (mut world, left, right) = narrow_pair(6);
        let flow = world.open(left, right, TCP, address, Ecn::NotEct);
        let mss = FULL_TCP - 20 * address as u16;
        for bytes in [60_000, 10 * usize::from(mss), usize::from(mss), 1, 50_001] {
            world.send(flow, bytes, Some(mss));
            world.run_for(Duration::from_millis(20));
        }
        world.run_for(SECOND);
        let report = world.flow(flow);
        assert_eq!((report.missing(), report.told), (0, 0), "{report:?}");
        assert!(world.peer_status(left, right).tx_recut > 0);
        world.settle();
    }
}

#[test]
fn what_no_answer_could_help_crosses_in_parts() {
    let (mut world, left, right) = narrow_pair(7);
    // The least that every IPv6 link must pass, over UDP.
    let six = world.open(left, right, UDP, 1, Ecn::Ect0);
    let sent: Vec<Vec<u8>> = (FITS + 1..1_420).step_by(20).map(may_be_fragmented).collect();
    for packet in &sent {
        world.send_packet(left, packet);
        world.send(six, 1_280 - 48, None);
        world.run_for(Duration::from_millis(10));
    }
    world.run_for(SECOND);
    let received: Vec<_> = world.received(right).iter().map(|received| received.packet.clone()).collect();
    assert!(received == sent, "{} of {} packets, as they were", received.len(), sent.len());
    let report = world.flow(six);
    assert_eq!((report.missing(), report.told), (0, 0), "{report:?}");
    assert_eq!(world.peer_status(left, right).loss, Some(0.0), "parts are not taken for packets");
    world.settle();
}

#[test]
fn an_ipv6_sender_is_told_of_1280_bytes_at_least() {
    let (mut world, left, right) = narrow_pair(8);
    let flow = world.open(left, right, UDP, 1, Ecn::NotEct);
    world.send(flow, 1_281 - 48, None);
    world.run_for(SECOND);
    assert_eq!(world.flow(flow).told_mtu, Some(1_280));
    assert_eq!(world.flow(flow).received, 0);
    world.send(flow, 1_280 - 48, None);
    world.run_for(SECOND);
    assert_eq!(world.flow(flow).received, 1);
    world.settle();
}

#[test]
fn parts_survive_what_a_network_does_to_them() {
    let (mut world, left, right) = narrow_pair(9);
    world.set_link(
        left,
        right,
        LinkConfig {
            loss: 0.1,
            duplicate: 0.1,
            reorder: 0.1,
            corrupt: 0.05,
            jitter: Duration::from_millis(3),
            ..small_path()
        },
    );
    let flow = world.open(left, right, UDP, 1, Ecn::NotEct);
    for _ in 0..500 {
        world.send(flow, 1_280 - 48, None);
        world.run_for(Duration::from_millis(5));
    }
    world.run_for(2 * SECOND);
    let report = world.flow(flow);
    // Both of two parts must come.
    assert!((300..450).contains(&report.received), "{report:?}");
    assert!(world.drops(right, DropReason::Incomplete) > 20, "what misses a part is given up, and counted");
    world.settle();
}

#[test]
fn a_super_packet_of_datagrams_that_are_too_large_is_answered_once() {
    let (mut world, left, right) = narrow_pair(10);
    let flow = world.udp(left, right);
    world.send(flow, 20 * FULL_UDP, Some(FULL_UDP as u16));
    world.run_for(SECOND);
    let report = world.flow(flow);
    assert_eq!((report.received, report.told, report.told_mtu), (0, 1, Some(FITS.into())));
    assert_eq!(world.drops(left, DropReason::TooBig), 20);
    world.settle();
}

#[test]
fn a_sender_that_does_not_listen_is_not_answered_for_ever() {
    let (mut world, left, right) = narrow_pair(11);
    let flow = world.udp(left, right);
    for _ in 0..1_000 {
        world.send(flow, FULL_UDP, None);
        world.run_for(Duration::from_millis(1));
    }
    let report = world.flow(flow);
    assert!((100..130).contains(&report.told), "100 a second and a few at once: {report:?}");
    assert_eq!(world.drops(left, DropReason::TooBig), 1_000);
    world.settle();
}

#[test]
fn packets_that_waited_for_the_handshake_fit_the_path_too() {
    let (mut world, left, right) = narrow_pair(12);
    world.partition(left, right);
    // Long enough for the session to end.
    world.run_for(200 * SECOND);
    let (six, tcp) = (world.open(left, right, UDP, 1, Ecn::NotEct), world.tcp(left, right));
    world.send(six, 1_280 - 48, None);
    world.send(tcp, 20_000, Some(FULL_TCP));
    world.heal(left, right);
    world.run_for(20 * SECOND);
    assert_eq!((world.flow(six).missing(), world.flow(tcp).missing()), (0, 0));
    world.settle();
}

#[test]
fn a_path_that_becomes_narrow_without_a_word_is_noticed_within_seconds() {
    for both_ways in [false, true] {
        let (mut world, left, right) = World::pair(13);
        assert!(world.ping(left, right, SECOND).is_some());
        let flow = world.tcp(left, right);
        let back = world.udp(right, left);
        let run = |world: &mut World, ticks: u32| {
            for _ in 0..ticks {
                world.send(flow, 5 * usize::from(FULL_TCP), Some(FULL_TCP));
                if both_ways {
                    world.send(back, 100, None);
                }
                world.run_for(Duration::from_millis(100));
            }
        };
        run(&mut world, 50);
        assert_eq!(world.flow(flow).missing(), 0);
        // A tunnel came up somewhere on the way, and its ICMP is filtered.
        world.set_all_links(small_path());
        run(&mut world, 50);
        let lost = world.flow(flow).missing();
        assert!(lost > 0);
        assert_eq!(world.peer_status(left, right).path_mtu, 1_280, "after 5 s");
        run(&mut world, 50);
        world.run_for(SECOND);
        assert_eq!(world.flow(flow).missing(), lost, "nothing more");
        world.settle();
    }
}

#[test]
fn a_lossy_path_is_not_taken_for_a_narrow_one() {
    let (mut world, left, right) = World::pair(14);
    assert!(world.ping(left, right, SECOND).is_some());
    world.set_all_links(LinkConfig { loss: 0.2, ..LinkConfig::default() });
    let flow = world.udp(left, right);
    let mut narrow = 0;
    for _ in 0..600 {
        world.send(flow, FULL_UDP, None);
        world.run_for(Duration::from_millis(500));
        narrow += u32::from(world.peer_status(left, right).packet_max < 1_420);
    }
    assert!(narrow < 10, "{narrow} of 600 times");
    world.set_all_links(LinkConfig::default());
    world.settle();
}

#[test]
fn a_path_that_has_grown_is_used_again_in_time() {
    let (mut world, left, right) = narrow_pair(15);
    world.set_all_links(LinkConfig::default());
    let flow = world.udp(left, right);
    world.generate(flow, Load { bytes: 100, segment_bytes: None, every: SECOND, ticks: 700 });
    world.run_for(700 * SECOND);
    assert_eq!(world.peer_status(left, right).packet_max, 1_420);
    world.settle();
}

#[test]
fn an_interface_that_is_narrower_than_configured_is_known_at_once_for_either_protocol() {
    for (protocol, fits) in [(Protocol::ShadowMesh, 1_339), (Protocol::WireGuard, 1_328)] {
        let how = PeerOptions { protocol, ..PeerOptions::default() };
        let (mut world, left, right) = World::pair_with(16, NodeSpec::default(), NodeSpec::default(), &how);
        world.set_uplink(left, Uplink { mtu: 1_400, ..Uplink::default() });
        // It was narrowed after the start, so that the first packet finds out.
        let (udp, tcp) = (world.udp(left, right), world.tcp(left, right));
        world.send(udp, 100, None);
        world.run_for(SECOND);
        world.send(udp, FULL_UDP, None);
        world.run_for(SECOND);
        world.send(udp, FULL_UDP, None);
        world.send(tcp, 50_000, Some(FULL_TCP));
        world.run_for(SECOND);
        assert_eq!(world.flow(udp).told_mtu, Some(fits), "{protocol:?}");
        assert_eq!(world.flow(tcp).missing(), 0, "{protocol:?}");
        world.settle();
    }
}

#[test]
fn a_forged_word_of_a_narrow_path_changes_nothing_for_longer_than_a_second() {
    for believed in [68, 576, 1_200] {
        let forged = || Uplink { believed_mtu: Some(believed), ..Uplink::default() };
        // Before the first handshake,
        let deceived = NodeSpec { uplink: forged(), ..NodeSpec::default() };
        let (mut world, left, right) =
            World::pair_with(17, deceived, NodeSpec::default(), &PeerOptions::default());
        assert!(world.ping(left, right, SECOND).is_some(), "handshakes are not concerned");
        world.run_for(2 * SECOND);
        assert_eq!(world.peer_status(left, right).packet_max, 1_420);
        // and while the path is in use, whenever the kernel is asked.
        let flow = world.udp(left, right);
        world
            .generate(flow, Load { bytes: FULL_UDP, segment_bytes: None, every: SECOND / 10, ticks: 13_000 });
        for second in 0..1_300 {
            world.set_uplink(left, if second % 2 == 0 { forged() } else { Uplink::default() });
            world.run_for(SECOND);
            assert_eq!(world.peer_status(left, right).packet_max, 1_420, "after {second} s");
        }
        assert_eq!((world.flow(flow).missing(), world.flow(flow).told), (0, 0));
        world.settle();
    }
}

#[test]
fn a_wireguard_peer_that_a_forger_calls_narrow_keeps_1280_bytes() {
    let how = PeerOptions { protocol: Protocol::WireGuard, ..PeerOptions::default() };
    let uplink = Uplink { believed_mtu: Some(576), ..Uplink::default() };
    let deceived = NodeSpec { uplink, ..NodeSpec::default() };
    let (mut world, left, right) = World::pair_with(18, deceived, NodeSpec::default(), &how);
    let flow = world.udp(left, right);
    world.send(flow, 100, None);
    world.run_for(2 * SECOND);
    assert_eq!(world.flow(flow).received, 1);
    assert_eq!(world.peer_status(left, right).path_mtu, 1_280);
    world.settle();
}

#[test]
fn an_ipv4_path_of_576_to_1252_bytes_connects_and_carries_everything() {
    for mtu in [576, 800, 1_006, 1_252] {
        let (mut world, left, right) = World::pair(19);
        world.set_all_links(LinkConfig { mtu, fragments: true, ..LinkConfig::default() });
        assert!(world.ping(left, right, SECOND).is_some(), "{mtu}");
        world.run_for(3 * SECOND);
        let fits = world.peer_status(left, right).packet_max;
        assert!(usize::from(fits) + 28 + 33 <= mtu, "{fits} bytes on a path of {mtu}");
        let (six, tcp) = (world.open(left, right, UDP, 1, Ecn::NotEct), world.tcp(left, right));
        world.send(six, 1_280 - 48, None);
        world.send(tcp, 50_000, Some(FULL_TCP));
        world.run_for(SECOND);
        assert_eq!((world.flow(six).missing(), world.flow(tcp).missing()), (0, 0), "{mtu}");
        world.settle();
    }
}

#[test]
fn a_handshake_that_cannot_be_sent_is_counted() {
    let (mut world, left, right) = World::pair(20);
    world.move_to(left, &["2001:db8::77".parse().unwrap()]);
    world.rekey(left, right);
    world.run_for(3 * SECOND);
    assert!(world.drops(left, DropReason::HandshakeSendFailed) > 0);
}
