//! Machines that change their address while they talk.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use sim::{Load, NodeId, NodeSpec, PeerOptions, World};

const SECOND: Duration = Duration::from_secs(1);

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn steady(world: &mut World, from: NodeId, to: NodeId, seconds: u64) -> sim::FlowId {
    let flow = world.udp(from, to);
    let load =
        Load { bytes: 500, segment_bytes: None, every: Duration::from_millis(1), ticks: seconds * 1_000 };
    world.generate(flow, load);
    flow
}

#[test]
fn a_sender_that_moves_loses_nothing() {
    let (mut world, left, right) = World::pair(1);
    let flow = steady(&mut world, left, right, 4);
    world.run_for(2 * SECOND);
    world.move_to(left, &[ip("203.0.113.7")]);
    world.run_for(3 * SECOND);
    let report = world.flow(flow);
    assert_eq!(report.missing(), 0, "{report:?}");
    assert_eq!(world.peer_status(right, left).endpoint.unwrap().ip(), ip("203.0.113.7"));
    world.settle();
}

#[test]
fn traffic_both_ways_follows_a_move_within_a_round_trip() {
    let (mut world, left, right) = World::pair(2);
    let (there, back) = (steady(&mut world, left, right, 6), steady(&mut world, right, left, 6));
    world.run_for(3 * SECOND);
    world.move_to(left, &[ip("203.0.113.7")]);
    world.run_for(5 * SECOND);
    assert_eq!(world.flow(there).missing(), 0);
    // What was under way, and sent before the first packet from the new address arrived, is gone: 10 ms of it.
    assert!((5..=15).contains(&world.flow(back).missing()), "{:?}", world.flow(back));
    assert!(world.flow(back).gap < Duration::from_millis(20), "{:?}", world.flow(back));
    world.settle();
}

#[test]
fn a_move_from_ipv4_to_ipv6_and_back_is_a_move_like_any_other() {
    let both = |n: u16| NodeSpec {
        addresses: vec![IpAddr::from([192, 0, 2, n as u8]), IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, n])],
        ..NodeSpec::default()
    };
    let (mut world, left, right) = World::pair_with(3, both(1), both(2), &PeerOptions::default());
    let flow = steady(&mut world, left, right, 9);
    world.run_for(2 * SECOND);
    let four = ip("203.0.113.7");
    world.move_to(left, &[four]);
    world.run_for(2 * SECOND);
    assert_eq!(world.peer_status(right, left).endpoint.unwrap().ip(), four);
    // The peer has not told us its IPv6 address; the program does, as a resolver would.
    world.move_to(left, &[ip("2001:db8::77")]);
    world.set_endpoint(left, right);
    world.run_for(SECOND);
    assert_eq!(world.peer_status(right, left).endpoint.unwrap().ip(), ip("2001:db8::77"));
    world.run_for(6 * SECOND);
    assert_eq!(world.flow(flow).missing(), 0);
    world.settle();
}

#[test]
fn both_sides_move_at_once_and_a_host_name_brings_them_together() {
    let how = PeerOptions { host_names: true, ..PeerOptions::default() };
    let (mut world, left, right) = World::pair_with(4, NodeSpec::default(), NodeSpec::default(), &how);
    let flow = steady(&mut world, left, right, 120);
    world.run_for(2 * SECOND);
    world.move_to(left, &[ip("203.0.113.7")]);
    world.move_to(right, &[ip("203.0.113.8")]);
    world.run_for(60 * SECOND);
    let before = world.flow(flow).received;
    world.run_for(10 * SECOND);
    assert_eq!(world.flow(flow).received - before, 10_000, "it flows again");
    world.settle();
}

#[test]
fn a_silent_listener_learns_of_a_move_by_the_keepalive() {
    let how = PeerOptions { keepalive: Some(5 * SECOND), ..PeerOptions::default() };
    let (mut world, left, right) = World::pair_with(5, NodeSpec::default(), NodeSpec::default(), &how);
    assert!(world.ping(left, right, SECOND).is_some());
    world.run_for(20 * SECOND);
    world.move_to(left, &[ip("203.0.113.7")]);
    world.run_for(11 * SECOND);
    assert_eq!(world.peer_status(right, left).endpoint.unwrap().ip(), ip("203.0.113.7"));
    let back = world.udp(right, left);
    world.send(back, 100, None);
    world.run_for(SECOND);
    assert_eq!(world.flow(back).received, 1);
    world.settle();
}

#[test]
fn a_machine_without_any_address_goes_on_when_it_has_one_again() {
    let (mut world, left, right) = World::pair(6);
    let flow = steady(&mut world, left, right, 30);
    world.run_for(5 * SECOND);
    world.move_to(left, &[]);
    world.run_for(5 * SECOND);
    let away = world.flow(flow);
    assert!(away.received <= 5_001, "{away:?}");
    world.move_to(left, &[ip("203.0.113.7")]);
    world.run_for(6 * SECOND);
    let before = world.flow(flow).received;
    world.run_for(5 * SECOND);
    assert_eq!(world.flow(flow).received - before, 5_000);
    world.settle();
}

#[test]
fn moving_back_and_forth_every_second_keeps_up() {
    let (mut world, left, right) = World::pair(7);
    let (there, back) = (steady(&mut world, left, right, 20), steady(&mut world, right, left, 20));
    for i in 0..20_u8 {
        world.run_for(SECOND);
        world.move_to(left, &[IpAddr::from([203, 0, 113, 1 + i % 2])]);
    }
    world.run_for(2 * SECOND);
    assert_eq!(world.flow(there).missing(), 0);
    assert!(world.flow(back).missing() < 20 * 15, "{:?}", world.flow(back));
    world.settle();
}

const OTHER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10)), 9_443);
const CALLED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 11)), 9_443);

/// A caller and a node with two addresses on its network, of which the caller knows the second.
fn multi_homed(seed: u64, workers: usize) -> (World, NodeId, NodeId) {
    let addresses = vec![OTHER.ip(), CALLED.ip()];
    let server = NodeSpec { addresses, workers, ..NodeSpec::default() };
    let how = PeerOptions { endpoints: (false, false), ..PeerOptions::default() };
    let caller = NodeSpec { workers, ..NodeSpec::default() };
    let (mut world, caller, server) = World::pair_with(seed, caller, server, &how);
    world.tell_endpoint(caller, server, CALLED);
    (world, caller, server)
}

#[test]
fn answers_leave_with_the_address_that_was_called() {
    for workers in [1, 3] {
        let (mut world, caller, server) = multi_homed(20, workers);
        world.start_capture();
        assert!(world.ping(caller, server, SECOND).is_some());
        let (there, back) = (world.tcp(caller, server), world.tcp(server, caller));
        for flow in [there, back] {
            world
                .generate(flow, Load { bytes: 5_000, segment_bytes: Some(1_300), every: SECOND, ticks: 200 });
        }
        world.run_for(200 * SECOND);
        for flow in [there, back] {
            assert_eq!(world.flow(flow).missing(), 0);
        }
        let captured = world.take_captured();
        let to_caller = || captured.iter().filter(|datagram| datagram.to.ip() == ip("192.0.2.1"));
        assert!(to_caller().count() > 1_000);
        assert!(
            to_caller().all(|datagram| datagram.from == CALLED),
            "handshakes, rekeys, probes and packets alike"
        );
        world.settle();
    }
}

#[test]
fn a_caller_that_turns_to_the_other_address_is_followed() {
    let (mut world, caller, server) = multi_homed(21, 1);
    assert!(world.ping(caller, server, SECOND).is_some());
    world.tell_endpoint(caller, server, OTHER);
    let flow = world.udp(server, caller);
    assert!(world.ping(caller, server, SECOND).is_some());
    world.send(flow, 100, None);
    world.run_for(SECOND);
    assert_eq!(world.flow(flow).received, 1);
    assert_eq!(world.peer_status(caller, server).endpoint, Some(OTHER), "and not called back from the first");
    world.settle();
}

#[test]
fn an_address_that_was_called_and_is_gone_is_replaced() {
    let (mut world, caller, server) = multi_homed(22, 1);
    assert!(world.ping(caller, server, SECOND).is_some());
    world.move_to(server, &[OTHER.ip()]);
    let flow = world.udp(server, caller);
    world.send(flow, 100, None);
    world.run_for(SECOND);
    assert_eq!(world.flow(flow).received, 1);
    assert_eq!(world.peer_status(caller, server).endpoint, Some(OTHER));
    world.settle();
}

#[test]
fn a_dead_address_of_a_host_name_hides_no_other() {
    let how = PeerOptions { endpoints: (false, false), ..PeerOptions::default() };
    let there = NodeSpec { addresses: vec![ip("203.0.113.9")], ..NodeSpec::default() };
    let (mut world, left, right) = World::pair_with(31, NodeSpec::default(), there, &how);
    let works = "203.0.113.9:9443".parse().unwrap();
    let dead = ["[2001:db8:dead::1]:9443", "198.51.100.99:9443"].map(|text| text.parse().unwrap());
    world.tell_endpoints(left, right, &[dead[0], dead[1], works]);
    // A quarter of a second for the one without a route, a second for the one that is silent.
    assert!(world.ping(left, right, 2 * SECOND).is_some());
    // It dies while it is in use, and another one has come to life.
    let flow = steady(&mut world, left, right, 20);
    world.run_for(5 * SECOND);
    world.move_to(right, &[dead[1].ip()]);
    world.run_for(16 * SECOND);
    assert!(world.flow(flow).gap < 3 * SECOND, "{:?}", world.flow(flow));
    world.settle();
}
