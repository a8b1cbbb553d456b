//! Paths that carry less than 1,500 bytes, known and unknown.

use std::time::Duration;

use handshake::Protocol;
use sim::{Kind, LinkConfig, NodeSpec, PeerOptions, Uplink, World};

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

#[test]
fn nothing_larger_than_the_path_allows_is_sent_for_long() {
    let (mut world, left, right) = World::pair(5);
    assert!(world.ping(left, right, SECOND).is_some());
    // The path shrinks while in use: a tunnel came up somewhere on the way.
    world.set_all_links(small_path());
    let flow = world.udp(left, right);
    for _ in 0..300 {
        let mtu = world.status(left).mtu;
        world.send(flow, usize::from(mtu) - 28, None);
        world.run_for(Duration::from_millis(100));
    }
    let before = world.flow(flow);
    for _ in 0..50 {
        let mtu = world.status(left).mtu;
        world.send(flow, usize::from(mtu) - 28, None);
        world.run_for(Duration::from_millis(100));
    }
    world.run_for(SECOND);
    let after = world.flow(flow);
    assert_eq!(after.received - before.received, 50, "the MTU has come down to what passes: {after:?}");
    world.settle();
}
