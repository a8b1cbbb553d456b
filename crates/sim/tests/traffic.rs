//! On a faultless network everything arrives: every shape of packet, both IP versions, both protocols, any number of
//! lanes and nodes.

use std::net::IpAddr;
use std::time::Duration;

use handshake::Protocol;
use node::DropReason;
use packet::Ecn;
use sim::inner::{TCP, UDP};
use sim::{Load, NodeId, NodeSpec, PeerOptions, UDP_PAYLOAD_MIN, World};

const SECOND: Duration = Duration::from_secs(1);

/// Packets of every shape both ways, over IPv4 and IPv6; all must arrive.
fn exchange_everything(world: &mut World, left: NodeId, right: NodeId) {
    let mut flows = Vec::new();
    for (from, to) in [(left, right), (right, left)] {
        for address in 0..2 {
            let tcp = world.open(from, to, TCP, address, Ecn::Ect0);
            let udp = world.open(from, to, UDP, address, Ecn::NotEct);
            world.send(tcp, 60_000, Some(1_300));
            world.send(tcp, 1, Some(1_300));
            world.send(tcp, 5_201, Some(1_300));
            world.send(udp, UDP_PAYLOAD_MIN, None);
            world.send(udp, 1_340, None);
            world.send(udp, 20 * 200, Some(200));
            world.send(udp, 2 * 1_000 + 16, Some(1_000));
            flows.extend([tcp, udp]);
        }
    }
    world.run_for(2 * SECOND);
    for flow in flows {
        let report = world.flow(flow);
        assert!(report.sent > 20, "{report:?}");
        assert_eq!(report.missing(), 0, "{report:?}");
    }
}

#[test]
fn every_shape_of_packet_arrives_both_ways() {
    let (mut world, left, right) = World::pair(1);
    exchange_everything(&mut world, left, right);
    assert!(world.peer_status(left, right).post_quantum);
    world.settle();
}

#[test]
fn wireguard_peers_exchange_the_same_packets() {
    let how = PeerOptions { protocol: Protocol::WireGuard, preshared_key: true, ..PeerOptions::default() };
    let (mut world, left, right) = World::pair_with(2, NodeSpec::default(), NodeSpec::default(), &how);
    exchange_everything(&mut world, left, right);
    let status = world.peer_status(right, left);
    assert!(status.connected && !status.post_quantum);
    world.settle();
}

#[test]
fn a_tun_without_offloads_gets_packet_after_packet() {
    let plain = NodeSpec { offloads: false, ..NodeSpec::default() };
    let (mut world, left, right) = World::pair_with(3, NodeSpec::default(), plain, &PeerOptions::default());
    let tcp = world.tcp(left, right);
    world.send(tcp, 50_000, Some(1_300));
    world.run_for(SECOND);
    assert_eq!(world.flow(tcp).missing(), 0);
    assert_eq!(world.drops(right, DropReason::TunRefused), 0);
    world.settle();
}

#[test]
fn without_gro_datagrams_come_one_by_one_and_nothing_else_changes() {
    let single = || NodeSpec { gro: false, ..NodeSpec::default() };
    let (mut world, left, right) = World::pair_with(4, single(), single(), &PeerOptions::default());
    exchange_everything(&mut world, left, right);
    world.settle();
}

#[test]
fn many_lanes_carry_many_flows_and_each_keeps_its_order() {
    // Lanes share one 4-tuple, so GRO joins datagrams of several into one train, steered by the first.
    let wide = |workers| NodeSpec { workers, ..NodeSpec::default() };
    for (left_workers, right_workers) in [(4, 4), (4, 1), (1, 3), (3, 2)] {
        let how = PeerOptions::default();
        let (mut world, left, right) = World::pair_with(5, wide(left_workers), wide(right_workers), &how);
        assert!(world.ping(left, right, SECOND).is_some());
        let flows: Vec<_> = (0..8).map(|_| world.udp(left, right)).collect();
        let load =
            Load { bytes: 4_000, segment_bytes: Some(500), every: Duration::from_millis(1), ticks: 100 };
        for &flow in &flows {
            world.generate(flow, load);
        }
        world.run_for(SECOND);
        for flow in flows {
            assert_eq!((world.flow(flow).sent, world.flow(flow).missing()), (800, 0));
        }
        world.settle();
    }
}

#[test]
fn nodes_find_each_other_over_ipv6() {
    let six = |number: u16| NodeSpec {
        addresses: vec![IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, number])],
        ..NodeSpec::default()
    };
    let (mut world, left, right) = World::pair_with(6, six(1), six(2), &PeerOptions::default());
    exchange_everything(&mut world, left, right);
    world.settle();
}

#[test]
fn three_nodes_talk_pairwise() {
    let mut world = World::new(7);
    let nodes: Vec<NodeId> = (0..3).map(|_| world.add(NodeSpec::default())).collect();
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        world.peer(nodes[a], nodes[b]);
    }
    for (a, b) in [(0, 1), (2, 0), (1, 2)] {
        exchange_everything(&mut world, nodes[a], nodes[b]);
    }
    world.settle();
}

#[test]
fn a_packet_with_somebody_elses_source_address_is_dropped_and_counted() {
    let mut world = World::new(8);
    let nodes: Vec<NodeId> = (0..3).map(|_| world.add(NodeSpec::default())).collect();
    world.peer(nodes[0], nodes[1]);
    world.peer(nodes[1], nodes[2]);
    let [a, b, c]: [IpAddr; 3] = ["10.77.0.1", "10.77.0.2", "10.77.0.3"].map(|ip| ip.parse().unwrap());
    // The first node claims to be the third, which the second knows as another peer.
    let forged = world.open_from(nodes[0], nodes[1], UDP, c, b, Ecn::NotEct);
    let honest = world.open_from(nodes[0], nodes[1], UDP, a, b, Ecn::NotEct);
    world.send(forged, 100, None);
    world.send(honest, 100, None);
    world.run_for(SECOND);
    assert_eq!((world.flow(forged).received, world.flow(honest).received), (0, 1));
    assert_eq!(world.drops(nodes[1], DropReason::SourceNotAllowed), 1);
    world.settle();
}

#[test]
fn a_packet_for_nobody_is_dropped_and_counted() {
    let (mut world, left, right) = World::pair(9);
    world.run_for(SECOND);
    let before = world.counts().sent;
    let (src, dst) = ("10.77.0.1".parse().unwrap(), "10.99.0.1".parse().unwrap());
    let stray = world.open_from(left, right, UDP, src, dst, Ecn::NotEct);
    world.send(stray, 100, None);
    world.send(stray, 5 * 100, Some(100));
    world.run_for(SECOND);
    assert_eq!(world.drops(left, DropReason::NoRoute), 6);
    assert_eq!(world.counts().sent, before, "nothing left the machine");
    world.settle();
}

#[test]
fn what_is_no_ip_packet_is_dropped_and_counted() {
    let (mut world, left, _) = World::pair(10);
    let garbage: [&[u8]; 5] = [&[], &[0x45], &[0x45; 19], &[0xff; 100], &[0x60; 39]];
    for packet in garbage {
        world.send_packet(left, packet);
    }
    world.run_for(SECOND);
    assert_eq!(world.drops(left, DropReason::TunMalformed), garbage.len() as u64);
    world.settle();
}

#[test]
fn a_ping_through_the_tunnel_measures_the_path() {
    let (mut world, left, right) = World::pair(11);
    let first = world.ping(left, right, SECOND).expect("an answer, after a handshake");
    assert_eq!(first, Duration::from_millis(10), "the probe alone is timed, not the handshake before it");
    assert_eq!(world.ping(right, left, SECOND), Some(Duration::from_millis(10)));
    let rtt = world.peer_status(left, right).rtt_ms.expect("a measured path");
    assert!((9.9..10.1).contains(&rtt), "{rtt}");
    world.settle();
}

#[test]
fn a_congestion_mark_of_the_path_reaches_the_flow_that_understands_it() {
    let (mut world, left, right) = World::pair(12);
    let narrow = sim::LinkConfig {
        rate_bps: Some(20_000_000),
        queue_bytes: 1 << 20,
        mark_above_bytes: Some(10_000),
        ..sim::LinkConfig::default()
    };
    let speaks = world.open(left, right, UDP, 0, Ecn::Ect0);
    let deaf = world.open(left, right, UDP, 0, Ecn::NotEct);
    world.send(speaks, 100, None);
    world.run_for(SECOND);
    world.set_link(left, right, narrow);
    for _ in 0..50 {
        world.send(speaks, 1_300, None);
        world.send(deaf, 1_300, None);
    }
    world.run_for(2 * SECOND);
    assert!(world.flow(speaks).marked > 20, "{:?}", world.flow(speaks));
    assert_eq!((world.flow(speaks).missing(), world.flow(deaf).missing()), (0, 0));
    assert_eq!(world.flow(deaf).marked, 0);
    world.settle();
}
