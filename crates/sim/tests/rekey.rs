//! Sessions are replaced under load, and nobody notices.

use std::time::Duration;

use handshake::Protocol;
use sim::{Kind, LinkConfig, Load, NodeSpec, PeerOptions, World};

const SECOND: Duration = Duration::from_secs(1);

/// 50 super-packets of two segments a second.
fn load(seconds: u64) -> Load {
    Load { bytes: 2_000, segment_bytes: Some(1_000), every: Duration::from_millis(20), ticks: seconds * 50 }
}

#[test]
fn ten_minutes_of_traffic_cross_several_sessions_without_a_packet_lost() {
    for protocol in [Protocol::ShadowMesh, Protocol::WireGuard] {
        let how = PeerOptions { protocol, ..PeerOptions::default() };
        let (mut world, left, right) = World::pair_with(1, NodeSpec::default(), NodeSpec::default(), &how);
        world.start_capture();
        let (there, back) = (world.udp(left, right), world.udp(right, left));
        world.generate(there, load(600));
        world.generate(back, load(600));
        let mut handshakes = 0;
        for _ in 0..610 {
            world.run_for(SECOND);
            handshakes += world.take_captured().iter().filter(|sent| sent.kind == Kind::Response).count();
        }
        for flow in [there, back] {
            let report = world.flow(flow);
            assert_eq!((report.sent, report.missing()), (60_000, 0), "{protocol:?}");
            // The first packet waits for the handshake, no later one does.
            assert!(report.gap < Duration::from_millis(31), "{protocol:?}: {report:?}");
        }
        // REKEY_AFTER_TIME is 120 s: one at the start, and one about every two minutes; two each time where the first
        // initiations crossed, since each side then renews the session that it began itself.
        assert!((5..=14).contains(&handshakes), "{protocol:?}: {handshakes}");
        world.settle();
    }
}

#[test]
fn a_rekey_by_hand_loses_nothing() {
    let (mut world, left, right) = World::pair(2);
    let (there, back) = (world.udp(left, right), world.udp(right, left));
    world.generate(there, load(10));
    world.generate(back, load(10));
    for second in 0..10 {
        world.run_for(SECOND);
        let (node, peer) = if second % 2 == 0 { (left, right) } else { (right, left) };
        world.rekey(node, peer);
    }
    world.run_for(SECOND);
    assert_eq!((world.flow(there).missing(), world.flow(back).missing()), (0, 0));
    world.settle();
}

#[test]
fn both_sides_rekey_at_once_under_load() {
    for latency in [0, 5, 80] {
        let (mut world, left, right) = World::pair(3);
        let slow = LinkConfig { latency: Duration::from_millis(latency), ..LinkConfig::default() };
        world.set_link(left, right, slow);
        let (there, back) = (world.udp(left, right), world.udp(right, left));
        world.generate(there, load(20));
        world.generate(back, load(20));
        for _ in 0..4 {
            world.run_for(5 * SECOND);
            world.rekey(left, right);
            world.rekey(right, left);
        }
        world.run_for(10 * SECOND);
        assert_eq!((world.flow(there).missing(), world.flow(back).missing()), (0, 0), "{latency} ms");
        world.settle();
    }
}

#[test]
fn many_lanes_change_sessions_together() {
    let wide = || NodeSpec { workers: 4, ..NodeSpec::default() };
    let (mut world, left, right) = World::pair_with(4, wide(), wide(), &PeerOptions::default());
    let flows: Vec<_> =
        (0..8).map(|i| if i % 2 == 0 { world.udp(left, right) } else { world.udp(right, left) }).collect();
    for &flow in &flows {
        world.generate(flow, load(250));
    }
    world.run_for(255 * SECOND);
    for flow in flows {
        assert_eq!(world.flow(flow).missing(), 0);
    }
    world.settle();
}

#[test]
fn a_rekey_whose_messages_are_lost_costs_nothing_while_the_old_session_lives() {
    let (mut world, left, right) = World::pair(5);
    let (there, back) = (world.udp(left, right), world.udp(right, left));
    world.generate(there, load(300));
    world.generate(back, load(300));
    world.run_for(100 * SECOND);
    // From REKEY_AFTER_TIME (120 s) on new handshakes are tried; the session may be used until 180 s.
    world.set_filter(|passing| !passing.kind.is_handshake());
    world.run_for(65 * SECOND);
    world.clear_filter();
    world.run_for(140 * SECOND);
    assert_eq!((world.flow(there).missing(), world.flow(back).missing()), (0, 0));
    world.settle();
}

#[test]
fn a_session_that_cannot_be_replaced_is_not_used_beyond_its_life() {
    let (mut world, left, right) = World::pair(6);
    let flow = world.udp(left, right);
    world.generate(flow, load(260));
    world.run_for(10 * SECOND);
    world.set_filter(|passing| !passing.kind.is_handshake());
    world.run_for(175 * SECOND);
    let at_end_of_life = world.flow(flow).received;
    world.run_for(20 * SECOND);
    assert_eq!(world.flow(flow).received, at_end_of_life, "REJECT_AFTER_TIME is 180 s");
    world.clear_filter();
    world.run_for(60 * SECOND);
    assert!(world.flow(flow).received > at_end_of_life + 4_000);
    world.settle();
}

#[test]
fn an_idle_tunnel_is_silent_and_wakes_up_at_once() {
    let (mut world, left, right) = World::pair(7);
    let flow = world.udp(left, right);
    world.send(flow, 100, None);
    world.run_for(600 * SECOND);
    let quiet = world.counts().sent;
    world.run_for(3_600 * SECOND);
    assert_eq!(world.counts().sent, quiet, "an hour of silence");
    world.send(flow, 100, None);
    world.run_for(SECOND);
    assert_eq!(world.flow(flow).missing(), 0);
    world.settle();
}
