//! Peers that can be reached in more than one way: by other carriers, or at a place on the local network.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use node::Notice;
use packet::Carrier::{self, FakeTcp, Tcp, Udp};
use sim::{FlowId, LinkConfig, Load, NodeId, NodeSpec, PeerOptions, World};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// Two nodes of which only the left one calls.
fn caller_and_listener(seed: u64, carriers: &[Carrier]) -> (World, NodeId, NodeId) {
    let how = PeerOptions { carriers: carriers.to_vec(), endpoints: (true, false), ..PeerOptions::default() };
    World::pair_with(seed, NodeSpec::default(), NodeSpec::default(), &how)
}

fn block(world: &mut World, blocked: &'static [Carrier]) {
    world.set_filter(move |passing| !blocked.contains(&passing.carrier));
}

fn steady(world: &mut World, from: NodeId, to: NodeId, seconds: u64) -> FlowId {
    let flow = world.udp(from, to);
    let load = Load { bytes: 500, segment_bytes: None, every: 5 * MS, ticks: seconds * 200 };
    world.generate(flow, load);
    flow
}

fn carrier(world: &mut World, node: NodeId, peer: NodeId) -> String {
    world.peer_status(node, peer).carrier
}

/// How often a node was told that its peer is elsewhere.
fn moves(world: &World, node: NodeId) -> usize {
    world.notices(node).iter().filter(|(_, notice)| matches!(notice, Notice::Roamed { .. })).count()
}

#[test]
fn blocked_udp_stops_traffic_for_less_than_three_seconds_and_it_goes_back() {
    for seed in 0..5 {
        let (mut world, left, right) = caller_and_listener(seed, &[Udp, FakeTcp, Tcp]);
        let (there, back) = (steady(&mut world, left, right, 60), steady(&mut world, right, left, 60));
        world.run_for(5 * SECOND + 137 * MS * seed as u32);
        assert_eq!(carrier(&mut world, left, right), "udp");
        block(&mut world, &[Udp]);
        world.run_for(20 * SECOND);
        assert_eq!(
            (carrier(&mut world, left, right), carrier(&mut world, right, left)),
            ("faketcp".into(), "faketcp".into())
        );
        for flow in [there, back] {
            assert!(world.flow(flow).gap < 3 * SECOND, "{:?}", world.flow(flow));
        }
        let before = (world.flow(there).missing(), world.flow(back).missing());
        world.clear_filter();
        world.run_for(12 * SECOND);
        assert_eq!(
            (carrier(&mut world, left, right), carrier(&mut world, right, left)),
            ("udp".into(), "udp".into())
        );
        world.run_for(30 * SECOND);
        let after = (world.flow(there).missing(), world.flow(back).missing());
        assert!(after.0 <= before.0 && after.1 <= before.1, "the way back costs nothing");
        assert_eq!(moves(&world, left), 2);
        assert!(!world.notices(left).iter().any(|(_, notice)| matches!(notice, Notice::Disconnected { .. })));
        world.settle();
    }
}

#[test]
fn one_direction_blocked_is_enough_to_move() {
    for blocked_sender in 0..2 {
        let (mut world, left, right) = caller_and_listener(7, &[Udp, FakeTcp]);
        let (there, back) = (steady(&mut world, left, right, 30), steady(&mut world, right, left, 30));
        world.run_for(5 * SECOND);
        let silenced = [left, right][blocked_sender];
        world.set_filter(move |passing| passing.from != silenced || passing.carrier != Udp);
        world.run_for(10 * SECOND);
        assert_eq!(carrier(&mut world, left, right), "faketcp");
        for flow in [there, back] {
            assert!(world.flow(flow).gap < 3 * SECOND, "{:?}", world.flow(flow));
        }
        world.run_for(20 * SECOND);
        world.settle();
    }
}

/// Only the other places were asked in the end, so one of them was used although the better one lived as well.
#[test]
fn an_idle_peer_is_where_it_was_after_an_outage_of_everything() {
    for seed in 0..5 {
        let (mut world, left, right) = caller_and_listener(seed, &[Udp, FakeTcp]);
        steady(&mut world, left, right, 2);
        world.run_for(10 * SECOND);
        block(&mut world, &[Udp, FakeTcp]);
        // Nobody sends anything but this, so it is not a new handshake that finds the peer again.
        assert_eq!(world.ping(left, right, SECOND), None);
        world.run_for(11 * SECOND);
        world.clear_filter();
        world.run_for(20 * SECOND);
        assert_eq!(carrier(&mut world, left, right), "udp");
        assert_eq!(moves(&world, left), 0);
        world.settle();
    }
}

#[test]
fn a_node_that_starts_where_udp_is_blocked_is_connected_within_two_seconds() {
    let (mut world, left, right) = caller_and_listener(1, &[Udp, FakeTcp]);
    block(&mut world, &[Udp]);
    assert!(world.ping(left, right, 2 * SECOND).is_some());
    assert_eq!(carrier(&mut world, right, left), "faketcp");
    world.settle();
}

#[test]
fn the_last_resort_is_found_when_only_it_passes() {
    let (mut world, left, right) = caller_and_listener(2, &[Udp, FakeTcp, Tcp]);
    block(&mut world, &[Udp, FakeTcp]);
    assert!(world.ping(left, right, 3 * SECOND).is_some());
    let flow = steady(&mut world, left, right, 30);
    world.run_for(10 * SECOND);
    assert_eq!(carrier(&mut world, left, right), "tcp");
    block(&mut world, &[Udp]);
    world.run_for(12 * SECOND);
    assert_eq!(carrier(&mut world, left, right), "faketcp", "better, though not the best");
    world.run_for(8 * SECOND);
    assert_eq!(world.flow(flow).missing(), 0);
    world.settle();
}

#[test]
fn random_loss_moves_a_session_twice_in_five_minutes_at_most() {
    let (mut world, left, right) = caller_and_listener(3, &[Udp, FakeTcp]);
    world.set_link(left, right, LinkConfig { loss: 0.2, ..LinkConfig::default() });
    let _one_way = steady(&mut world, left, right, 300);
    world.run_for(300 * SECOND);
    assert!(moves(&world, left) <= 2, "{} moves", moves(&world, left));
    world.set_link(left, right, LinkConfig::default());
    world.run_for(20 * SECOND);
    assert_eq!(carrier(&mut world, left, right), "udp");
    world.settle();
}

#[test]
fn a_peer_that_was_restarted_while_udp_is_blocked_is_found_again() {
    let (mut world, left, right) = caller_and_listener(4, &[Udp, FakeTcp]);
    let flow = steady(&mut world, left, right, 60);
    world.run_for(5 * SECOND);
    block(&mut world, &[Udp]);
    world.kill(right);
    world.run_for(10 * SECOND);
    world.restart(right);
    world.run_for(10 * SECOND);
    let before = world.flow(flow).received;
    world.run_for(5 * SECOND);
    assert_eq!(world.flow(flow).received - before, 1_000);
    world.settle();
}

#[test]
fn ends_that_prefer_different_carriers_do_not_move_each_other_forever() {
    let (mut world, left, right) = {
        let mut world = World::new(5);
        let (left, right) = (world.add(NodeSpec::default()), world.add(NodeSpec::default()));
        let how = |carriers: &[Carrier], endpoints| PeerOptions {
            carriers: carriers.to_vec(),
            endpoints,
            ..PeerOptions::default()
        };
        world.peer_with(left, right, &how(&[Udp, FakeTcp], (true, true)));
        world.prefer(right, left, &[FakeTcp, Udp]);
        (world, left, right)
    };
    let (there, back) = (steady(&mut world, left, right, 900), steady(&mut world, right, left, 900));
    world.run_for(600 * SECOND);
    let early = moves(&world, left);
    world.run_for(300 * SECOND);
    assert!(moves(&world, left) - early <= 4, "{early} moves in 10 minutes, {} in 15", moves(&world, left));
    assert_eq!((world.flow(there).missing(), world.flow(back).missing()), (0, 0));
    world.settle();
}

#[test]
fn a_path_narrowed_by_its_carrier_still_passes_full_packets() {
    let (mut world, left, right) = caller_and_listener(6, &[Udp, FakeTcp]);
    block(&mut world, &[Udp]);
    assert!(world.ping(left, right, 2 * SECOND).is_some());
    let flow = world.tcp(left, right);
    world.generate(flow, Load { bytes: 14_000, segment_bytes: Some(1_380), every: 10 * MS, ticks: 500 });
    world.run_for(8 * SECOND);
    assert_eq!(carrier(&mut world, left, right), "faketcp");
    let report = world.flow(flow);
    assert!(report.received > 0 && report.missing() == 0, "{report:?}");
    assert!(world.peer_status(left, right).packet_max < 1_420);
    world.settle();
}

/// A LAN beside the Internet: two nodes that know each other's outer addresses, and the address on the LAN of the right one.
fn neighbours(seed: u64) -> (World, NodeId, NodeId, SocketAddr) {
    let lan: IpAddr = [10, 0, 0, 2].into();
    let right = NodeSpec { addresses: vec![[192, 0, 2, 2].into(), lan], ..NodeSpec::default() };
    let how = PeerOptions { endpoints: (true, false), ..PeerOptions::default() };
    let (world, left, right) = World::pair_with(seed, NodeSpec::default(), right, &how);
    (world, left, right, SocketAddr::new(lan, 9443))
}

#[test]
fn a_peer_found_on_the_local_network_is_reached_there_and_elsewhere_when_it_has_gone() {
    let (mut world, left, right, lan) = neighbours(8);
    let flow = steady(&mut world, left, right, 60);
    world.run_for(5 * SECOND);
    world.offer_endpoint(left, right, lan);
    world.run_for(2 * SECOND);
    assert_eq!(world.peer_status(left, right).endpoint, Some(lan));
    assert!(world.flow(flow).gap < 10 * MS, "{:?}", world.flow(flow));
    world.set_filter(move |passing| passing.address != lan);
    world.run_for(20 * SECOND);
    assert_ne!(world.peer_status(left, right).endpoint, Some(lan));
    assert!(world.flow(flow).gap < 3 * SECOND, "{:?}", world.flow(flow));
    world.run_for(40 * SECOND);
    world.settle();
}

#[test]
fn an_offer_that_leads_nowhere_moves_nothing() {
    let (mut world, left, right, _) = neighbours(9);
    let flow = steady(&mut world, left, right, 60);
    world.run_for(5 * SECOND);
    let before = world.peer_status(left, right).endpoint;
    for host in 1..=20 {
        world.offer_endpoint(left, right, SocketAddr::from(([10, 0, 0, 100 + host], 9443)));
    }
    world.run_for(60 * SECOND);
    assert_eq!(world.peer_status(left, right).endpoint, before);
    assert_eq!((world.flow(flow).missing(), moves(&world, left)), (0, 0));
    world.settle();
}

#[test]
fn a_trial_that_was_captured_and_sent_from_elsewhere_moves_nothing() {
    let (mut world, left, right, lan) = neighbours(10);
    let flow = steady(&mut world, left, right, 20);
    world.run_for(3 * SECOND);
    // The trial itself never arrives, but an attacker has it and sends it on in its own name.
    world.start_capture();
    world.set_filter(move |passing| passing.address != lan);
    world.offer_endpoint(left, right, lan);
    world.run_for(150 * MS);
    let trial = world.take_captured().into_iter().find(|captured| captured.to == lan).expect("a trial");
    let before = world.peer_status(right, left).endpoint;
    world.inject("203.0.113.66:9443".parse().unwrap(), right, trial.bytes);
    world.run_for(2 * SECOND);
    assert_eq!(world.peer_status(right, left).endpoint, before);
    world.run_for(20 * SECOND);
    assert_eq!(world.flow(flow).missing(), 0);
    world.settle();
}

#[test]
fn lost_trials_of_a_blocked_carrier_are_not_the_loss_of_the_path_in_use() {
    let (mut world, left, right) = caller_and_listener(41, &[Udp, FakeTcp]);
    block(&mut world, &[Udp]);
    let flow = world.udp(left, right);
    world.generate(flow, Load { bytes: 500, segment_bytes: None, every: SECOND, ticks: 60 });
    world.run_for(60 * SECOND);
    assert_eq!(carrier(&mut world, left, right), "faketcp");
    assert_eq!(world.peer_status(left, right).loss, Some(0.0));
}
