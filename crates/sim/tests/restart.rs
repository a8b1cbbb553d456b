//! Nodes that die, sleep, or lose track of time.

use std::time::Duration;

use handshake::Protocol;
use sim::{Load, NodeId, NodeSpec, PeerOptions, World};

const SECOND: Duration = Duration::from_secs(1);

fn steady(world: &mut World, from: NodeId, to: NodeId) -> sim::FlowId {
    let flow = world.udp(from, to);
    world.generate(
        flow,
        Load { bytes: 200, segment_bytes: None, every: Duration::from_millis(10), ticks: 12_000 },
    );
    flow
}

/// Whether a flow that sends 100 packets a second arrives whole now.
fn flows(world: &mut World, flow: sim::FlowId) -> bool {
    world.run_for(SECOND);
    let before = world.flow(flow).received;
    world.run_for(2 * SECOND);
    world.flow(flow).received - before >= 199
}

#[test]
fn a_restarted_receiver_is_found_again_by_the_sender() {
    for protocol in [Protocol::ShadowMesh, Protocol::WireGuard] {
        let how = PeerOptions { protocol, ..PeerOptions::default() };
        let (mut world, left, right) = World::pair_with(1, NodeSpec::default(), NodeSpec::default(), &how);
        let flow = steady(&mut world, left, right);
        world.run_for(5 * SECOND);
        world.restart(right);
        // KEEPALIVE_TIMEOUT + REKEY_TIMEOUT: 15 s without an answer start a new handshake.
        world.run_for(21 * SECOND);
        assert!(flows(&mut world, flow), "{protocol:?}");
        world.run_for(100 * SECOND);
        world.settle();
    }
}

#[test]
fn a_restarted_sender_is_accepted_at_once() {
    for protocol in [Protocol::ShadowMesh, Protocol::WireGuard] {
        let how = PeerOptions { protocol, ..PeerOptions::default() };
        let (mut world, left, right) = World::pair_with(2, NodeSpec::default(), NodeSpec::default(), &how);
        let flow = steady(&mut world, left, right);
        world.run_for(5 * SECOND);
        world.restart(left);
        assert!(flows(&mut world, flow), "{protocol:?}");
        world.run_for(120 * SECOND);
        world.settle();
    }
}

#[test]
fn a_wrong_wall_clock_does_not_lock_a_native_node_out() {
    let (mut world, left, right) = World::pair(3);
    let flow = steady(&mut world, left, right);
    world.run_for(5 * SECOND);
    world.set_wall_clock_offset(left, -3_600 * 24 * 365);
    world.restart(left);
    assert!(flows(&mut world, flow));
    world.run_for(120 * SECOND);
    world.settle();
}

#[test]
fn both_restart_at_once() {
    let (mut world, left, right) = World::pair(4);
    let flow = steady(&mut world, left, right);
    world.run_for(5 * SECOND);
    world.restart(left);
    world.restart(right);
    world.run_for(6 * SECOND);
    assert!(flows(&mut world, flow));
    world.run_for(120 * SECOND);
    world.settle();
}

#[test]
fn a_node_that_was_dead_for_an_hour_is_found_again() {
    let (mut world, left, right) = World::pair(5);
    let flow = world.udp(left, right);
    let load = Load { bytes: 200, segment_bytes: None, every: SECOND, ticks: 4_000 };
    world.generate(flow, load);
    world.run_for(5 * SECOND);
    world.kill(right);
    world.run_for(3_600 * SECOND);
    world.restart(right);
    world.run_for(10 * SECOND);
    let before = world.flow(flow).received;
    world.run_for(20 * SECOND);
    assert!(world.flow(flow).received - before >= 19);
    world.run_for(400 * SECOND);
    world.settle();
}

#[test]
fn a_frozen_machine_goes_on_when_it_thaws() {
    for length in [3, 60, 200, 4_000] {
        let (mut world, left, right) = World::pair(6);
        let (there, back) = (world.udp(left, right), world.udp(right, left));
        let load = Load { bytes: 200, segment_bytes: None, every: SECOND, ticks: length + 60 };
        world.generate(there, load);
        world.generate(back, load);
        world.run_for(5 * SECOND);
        world.pause(right);
        world.run_for(Duration::from_secs(length));
        world.resume(right);
        world.run_for(20 * SECOND);
        let before = (world.flow(there).received, world.flow(back).received);
        world.run_for(10 * SECOND);
        let after = (world.flow(there).received, world.flow(back).received);
        assert!(after.0 - before.0 >= 9 && after.1 - before.1 >= 9, "after {length} s: {before:?} {after:?}");
        world.settle();
    }
}

#[test]
fn a_clock_that_jumps_costs_at_most_a_handshake() {
    for ahead in [1, 20, 119, 150, 200, 10_000, 100_000_000] {
        for who in 0..2 {
            let (mut world, left, right) = World::pair(7);
            let (there, back) = (steady(&mut world, left, right), steady(&mut world, right, left));
            world.run_for(5 * SECOND);
            world.jump_clock([left, right][who], Duration::from_secs(ahead));
            world.run_for(20 * SECOND);
            assert!(flows(&mut world, there), "{ahead} s, node {who}");
            assert!(flows(&mut world, back), "{ahead} s, node {who}");
            world.run_for(120 * SECOND);
            world.settle();
        }
    }
}

#[test]
fn a_node_restarted_every_few_seconds_always_gets_through() {
    let (mut world, left, right) = World::pair(8);
    for round in 0..20 {
        world.restart(left);
        let rtt = world.ping(left, right, 2 * SECOND);
        assert!(rtt.is_some(), "restart {round}");
        world.run_for(3 * SECOND);
    }
    world.settle();
}
