//! Machines behind network address translators.

use std::net::IpAddr;
use std::time::Duration;

use sim::{FlowId, Load, NatId, NatMapping, NodeId, NodeSpec, PeerOptions, World};

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A machine behind a translator that calls another one, in the open, that knows it by its key only.
fn behind_nat(seed: u64, mapping: NatMapping, keepalive: Option<Duration>) -> (World, NatId, NodeId, NodeId) {
    let how = PeerOptions { endpoints: (true, false), keepalive, ..PeerOptions::default() };
    let inside = NodeSpec { addresses: vec![ip("10.0.0.2")], ..NodeSpec::default() };
    let open = NodeSpec { addresses: vec![ip("192.0.2.2")], ..NodeSpec::default() };
    let (mut world, inside, open) = World::pair_with(seed, inside, open, &how);
    let nat = world.add_nat(ip("203.0.113.1"), mapping, 30 * SECOND);
    world.put_behind(inside, nat);
    (world, nat, inside, open)
}

fn steady(world: &mut World, from: NodeId, to: NodeId, seconds: u64) -> FlowId {
    let flow = world.udp(from, to);
    world
        .generate(flow, Load { bytes: 500, segment_bytes: None, every: MILLISECOND, ticks: seconds * 1_000 });
    flow
}

#[test]
fn a_rebinding_under_load_costs_one_way_what_was_under_way_and_the_other_nothing() {
    for mapping in [NatMapping::EndpointIndependent, NatMapping::EndpointDependent] {
        let (mut world, nat, inside, open) = behind_nat(1, mapping, None);
        assert!(world.ping(inside, open, SECOND).is_some());
        let before = world.peer_status(open, inside).endpoint;
        let (out, back) = (steady(&mut world, inside, open, 4), steady(&mut world, open, inside, 4));
        world.after(2 * SECOND, move |world| world.rebind(nat));
        world.run_for(5 * SECOND);
        assert_eq!(world.flow(out).missing(), 0);
        let report = world.flow(back);
        // What was sent to the old port until the first packet from the new one came: two times 5 ms, and a little.
        assert!(report.missing() <= 12 && report.gap <= 20 * MILLISECOND, "{report:?}");
        assert_ne!(world.peer_status(open, inside).endpoint, before);
        assert_eq!(world.notices(open).len(), 2, "connected, and moved once: {:?}", world.notices(open));
        world.settle();
    }
}

#[test]
fn a_rebinding_while_only_the_other_side_sends_is_healed_by_the_silence() {
    let (mut world, nat, inside, open) = behind_nat(2, NatMapping::EndpointIndependent, None);
    assert!(world.ping(inside, open, SECOND).is_some());
    let back = steady(&mut world, open, inside, 30);
    world.after(2 * SECOND, move |world| world.rebind(nat));
    world.run_for(31 * SECOND);
    let report = world.flow(back);
    // Nobody outside can find the new port: the machine inside must speak first, and does when it owes a keepalive.
    assert!(report.gap <= 12 * SECOND, "{report:?}");
    assert_eq!(report.last_at.map(|at| at.as_secs()), Some(30), "{report:?}");
    world.settle();
}

#[test]
fn a_keepalive_holds_the_way_in_open_and_without_one_it_closes() {
    for (keepalive, reached) in [(Some(25 * SECOND), 1), (None, 0)] {
        let (mut world, _, inside, open) = behind_nat(3, NatMapping::EndpointDependent, keepalive);
        assert!(world.ping(inside, open, SECOND).is_some());
        world.run_for(90 * SECOND);
        let flow = world.udp(open, inside);
        world.send(flow, 100, None);
        world.run_for(SECOND);
        assert_eq!(world.flow(flow).received, reached, "{keepalive:?}");
        world.settle();
    }
}

#[test]
fn a_translator_that_asks_for_the_called_address_lets_its_answers_in() {
    let how = PeerOptions { endpoints: (false, false), ..PeerOptions::default() };
    let inside = NodeSpec { addresses: vec![ip("10.0.0.2")], ..NodeSpec::default() };
    let open = NodeSpec { addresses: vec![ip("192.0.2.2"), ip("192.0.2.3")], ..NodeSpec::default() };
    let (mut world, inside, open) = World::pair_with(4, inside, open, &how);
    let nat = world.add_nat(ip("203.0.113.1"), NatMapping::EndpointIndependent, 30 * SECOND);
    world.put_behind(inside, nat);
    world.tell_endpoint(inside, open, "192.0.2.3:9443".parse().expect("an address"));
    assert!(world.ping(inside, open, SECOND).is_some(), "the handshake's answer, and the probe's");
    let flow = steady(&mut world, open, inside, 1);
    world.run_for(2 * SECOND);
    assert_eq!(world.flow(flow).missing(), 0);
    world.settle();
}

#[test]
fn two_machines_behind_one_translator_are_told_apart() {
    let mut world = World::new(5);
    let hub = world.add(NodeSpec { addresses: vec![ip("192.0.2.2")], ..NodeSpec::default() });
    let nat = world.add_nat(ip("203.0.113.1"), NatMapping::EndpointDependent, 30 * SECOND);
    let how = PeerOptions { endpoints: (true, false), ..PeerOptions::default() };
    let spokes = ["10.0.0.2", "10.0.0.3"].map(|address| {
        let spoke = world.add(NodeSpec { addresses: vec![ip(address)], ..NodeSpec::default() });
        world.put_behind(spoke, nat);
        world.peer_with(spoke, hub, &how);
        spoke
    });
    for spoke in spokes {
        assert!(world.ping(spoke, hub, SECOND).is_some());
        let flow = world.udp(hub, spoke);
        world.send(flow, 100, None);
        world.run_for(SECOND);
        assert_eq!(world.flow(flow).received, 1);
    }
    let endpoints = spokes.map(|spoke| world.peer_status(hub, spoke).endpoint);
    assert_ne!(endpoints[0], endpoints[1]);
    world.settle();
}
