//! Handshakes: lost, crossed, replayed, and from strangers.

use std::net::SocketAddr;
use std::time::Duration;

use handshake::Protocol;
use node::DropReason;
use sim::{Captured, Kind, LinkConfig, NodeSpec, PeerOptions, World};

const SECOND: Duration = Duration::from_secs(1);

/// Loses the first `count` datagrams of one kind.
fn lose_first(world: &mut World, kind: Kind, count: u32) {
    let mut left = count;
    world.set_filter(move |passing| {
        let hit = passing.kind == kind && left > 0;
        left -= u32::from(hit);
        !hit
    });
}

#[test]
fn a_lost_handshake_message_is_sent_again_and_the_packet_still_arrives() {
    for kind in [Kind::Initiation, Kind::Response] {
        let (mut world, left, right) = World::pair(1);
        lose_first(&mut world, kind, 1);
        let flow = world.udp(left, right);
        world.send(flow, 100, None);
        // REKEY_TIMEOUT, at most a third of a second of jitter, and the round trips.
        world.run_for(Duration::from_millis(5_500));
        assert_eq!(world.flow(flow).received, 1, "{kind:?} lost");
        world.settle();
    }
}

#[test]
fn the_datagrams_that_confirm_a_session_may_be_lost() {
    for count in [1, 2, 5] {
        let how = PeerOptions { endpoints: (true, false), ..PeerOptions::default() };
        let (mut world, left, right) = World::pair_with(2, NodeSpec::default(), NodeSpec::default(), &how);
        lose_first(&mut world, Kind::Data, count);
        let (there, back) = (world.udp(left, right), world.udp(right, left));
        for _ in 0..8 {
            world.send(there, 100, None);
            world.run_for(Duration::from_millis(100));
        }
        // Whoever answered may not send on a session that the other side has not used yet.
        world.send(back, 100, None);
        world.run_for(6 * SECOND);
        assert!(world.flow(there).missing() <= u64::from(count), "only what was lost is missing");
        assert_eq!(world.flow(back).received, 1);
        world.settle();
    }
}

#[test]
fn simultaneous_initiations_end_in_one_session_that_works_both_ways() {
    for latency in [0, 1, 50, 300] {
        let (mut world, left, right) = World::pair(3);
        let slow = LinkConfig { latency: Duration::from_millis(latency), ..LinkConfig::default() };
        world.set_link(left, right, slow);
        let (there, back) = (world.udp(left, right), world.udp(right, left));
        world.send(there, 100, None);
        world.send(back, 100, None);
        world.run_for(3 * SECOND);
        for _ in 0..20 {
            world.send(there, 100, None);
            world.send(back, 100, None);
            world.run_for(Duration::from_millis(100));
        }
        world.run_for(SECOND);
        assert_eq!(world.flow(there).received, 21, "{latency} ms");
        assert_eq!(world.flow(back).received, 21, "{latency} ms");
        world.settle();
    }
}

#[test]
fn the_side_that_was_told_no_address_waits_to_be_called() {
    let how = PeerOptions { endpoints: (true, false), ..PeerOptions::default() };
    let (mut world, left, right) = World::pair_with(4, NodeSpec::default(), NodeSpec::default(), &how);
    let mut from_right = 0;
    world.set_filter(move |passing| {
        from_right += u32::from(passing.from == right);
        assert_eq!(from_right, 0, "it does not know where to");
        false
    });
    let (there, back) = (world.udp(left, right), world.udp(right, left));
    world.send(back, 100, None);
    world.run_for(SECOND);
    world.clear_filter();
    world.send(there, 100, None);
    world.run_for(5 * SECOND);
    assert_eq!((world.flow(there).received, world.flow(back).received), (1, 1));
    world.settle();
}

/// What a stranger who has recorded everything may send.
fn recorded(world: &mut World, kind: Kind) -> Vec<Captured> {
    world.take_captured().into_iter().filter(|captured| captured.kind == kind).collect()
}

#[test]
fn a_replayed_initiation_is_not_answered() {
    for protocol in [Protocol::ShadowMesh, Protocol::WireGuard] {
        let how = PeerOptions { protocol, ..PeerOptions::default() };
        let (mut world, left, right) = World::pair_with(5, NodeSpec::default(), NodeSpec::default(), &how);
        world.start_capture();
        assert!(world.ping(left, right, SECOND).is_some() || protocol == Protocol::WireGuard);
        let flow = world.udp(left, right);
        world.send(flow, 100, None);
        world.run_for(SECOND);
        let stranger: SocketAddr = "198.51.100.66:6666".parse().unwrap();
        for initiation in recorded(&mut world, Kind::Initiation) {
            world.inject(stranger, right, initiation.bytes.clone());
            world.inject(initiation.from, right, initiation.bytes);
        }
        world.run_for(SECOND);
        assert!(recorded(&mut world, Kind::Response).is_empty(), "{protocol:?}");
        assert!(world.drops(right, DropReason::HandshakeReplayed) >= 2, "{protocol:?}");
        world.send(flow, 100, None);
        world.run_for(SECOND);
        assert_eq!(world.flow(flow).missing(), 0);
        world.settle();
    }
}

#[test]
fn a_replayed_data_packet_from_elsewhere_moves_nothing() {
    let (mut world, left, right) = World::pair(6);
    world.start_capture();
    let (there, back) = (world.udp(left, right), world.udp(right, left));
    world.send(there, 100, None);
    world.run_for(SECOND);
    let home = world.peer_status(right, left).endpoint;
    let stranger: SocketAddr = "198.51.100.66:6666".parse().unwrap();
    for data in recorded(&mut world, Kind::Data) {
        world.inject(stranger, right, data.bytes);
    }
    world.send(back, 100, None);
    world.run_for(SECOND);
    assert!(world.drops(right, DropReason::Replayed) >= 1);
    assert_eq!(world.peer_status(right, left).endpoint, home);
    assert_eq!((world.flow(there).received, world.flow(back).received), (1, 1));
    world.settle();
}

#[test]
fn a_genuine_handshake_message_sent_on_from_elsewhere_moves_nothing() {
    let how = PeerOptions { endpoints: (true, false), ..PeerOptions::default() };
    let stranger: SocketAddr = "198.51.100.66:6666".parse().unwrap();
    for kind in [Kind::Initiation, Kind::Response] {
        let (mut world, left, right) = World::pair_with(15, NodeSpec::default(), NodeSpec::default(), &how);
        world.start_capture();
        lose_first(&mut world, kind, 1);
        let flow = world.udp(left, right);
        world.send(flow, 100, None);
        world.run_for(SECOND / 10);
        let caught = recorded(&mut world, kind).remove(0);
        let to = if kind == Kind::Initiation { right } else { left };
        let home = world.peer_status(left, right).endpoint;
        world.inject(stranger, to, caught.bytes);
        world.run_for(SECOND / 10);
        assert_eq!(world.peer_status(left, right).endpoint, home, "{kind:?}");
        assert_eq!(world.peer_status(right, left).endpoint.filter(|&to| to == stranger), None, "{kind:?}");
        assert!(world.ping(left, right, 5 * SECOND).is_some(), "{kind:?}");
        assert_eq!(world.flow(flow).received, 1, "{kind:?}");
        world.settle();
    }
}

#[test]
fn garbage_from_strangers_is_counted_and_never_answered() {
    let (mut world, left, right) = World::pair(7);
    assert!(world.ping(left, right, SECOND).is_some());
    world.start_capture();
    let stranger: SocketAddr = "198.51.100.66:6666".parse().unwrap();
    let mut dice = sim::Dice::new(7);
    for kind in [0_u8, 1, 2, 3, 4, 17, 18, 19, 20, 21, 22, 23, 255] {
        for len in [0, 1, 4, 15, 16, 31, 32, 33, 64, 92, 148, 200, 1_196, 1_240, 1_348, 1_472, 9_001, 60_000]
        {
            let mut bytes: Vec<u8> = std::iter::repeat_with(|| dice.below(256) as u8).take(len).collect();
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            if let Some(reserved) = bytes.get_mut(1..4) {
                reserved.fill(0);
            }
            world.inject(stranger, right, bytes);
        }
    }
    world.run_for(SECOND);
    let answered = world.take_captured().into_iter().filter(|sent| sent.to == stranger).count();
    assert_eq!(answered, 0);
    assert!(world.ping(left, right, SECOND).is_some());
    world.settle();
}

#[test]
fn every_truncation_and_every_flipped_byte_of_a_handshake_is_harmless() {
    let (mut world, left, right) = World::pair(8);
    world.start_capture();
    world.set_filter(|passing| passing.kind != Kind::Response);
    assert!(world.ping(left, right, SECOND).is_none());
    let sent = world.take_captured();
    let initiation = sent.iter().find(|sent| sent.kind == Kind::Initiation).expect("an initiation").clone();
    let response = sent.iter().find(|sent| sent.kind == Kind::Response).expect("a response").clone();
    for (message, to) in [(initiation, right), (response, left)] {
        for len in (0..message.bytes.len()).step_by(7) {
            world.inject(message.from, to, message.bytes[..len].to_vec());
        }
        for at in (0..message.bytes.len()).step_by(3) {
            let mut bytes = message.bytes.clone();
            bytes[at] ^= 0x20;
            world.inject(message.from, to, bytes);
        }
    }
    world.clear_filter();
    world.run_for(10 * SECOND);
    assert!(world.ping(left, right, 10 * SECOND).is_some());
    world.settle();
}

#[test]
fn a_flood_of_initiations_does_not_stop_a_session_that_stands() {
    let (mut world, left, right) = World::pair(9);
    world.start_capture();
    let flow = world.udp(left, right);
    world.send(flow, 100, None);
    world.run_for(SECOND);
    let initiation = recorded(&mut world, Kind::Initiation).remove(0);
    for second in 0..5_u8 {
        for i in 0..400_u16 {
            let stranger = SocketAddr::from(([198, 51, 100, second], 1_000 + i));
            world.inject(stranger, right, initiation.bytes.clone());
        }
        world.send(flow, 100, None);
        world.run_for(SECOND);
    }
    assert_eq!(world.flow(flow).missing(), 0);
    world.settle();
}

#[test]
fn under_a_flood_a_peer_proves_its_address_with_a_cookie_and_gets_in() {
    for protocol in [Protocol::ShadowMesh, Protocol::WireGuard] {
        let how = PeerOptions { protocol, endpoints: (true, false), ..PeerOptions::default() };
        let (mut world, left, right) = World::pair_with(11, NodeSpec::default(), NodeSpec::default(), &how);
        world.start_capture();
        let flow = world.udp(left, right);
        world.send(flow, 100, None);
        world.run_for(SECOND);
        let initiation = recorded(&mut world, Kind::Initiation).remove(0).bytes;
        for burst in 0..600_u64 {
            let bytes = initiation.clone();
            world.after(Duration::from_millis(20 * burst), move |world| {
                for i in 0..40_u16 {
                    let stranger = SocketAddr::from(([198, 51, 100, burst as u8], 1_000 + i));
                    world.inject(stranger, right, bytes.clone());
                }
            });
        }
        world.run_for(2 * SECOND);
        world.restart(left);
        world.send(flow, 100, None);
        world.run_for(11 * SECOND);
        let cookies = recorded(&mut world, Kind::CookieReply);
        assert!(cookies.iter().any(|reply| reply.to.ip().to_string() == "192.0.2.1"), "{protocol:?}");
        assert!(world.drops(right, DropReason::HandshakeNoCookie) > 1_000, "{protocol:?}");
        assert_eq!(world.flow(flow).missing(), 0, "{protocol:?}");
        world.settle();
    }
}

#[test]
fn a_peer_that_never_answers_is_given_up_after_ninety_seconds_and_tried_again_for_new_traffic() {
    let how = PeerOptions { endpoints: (true, false), ..PeerOptions::default() };
    let (mut world, left, right) = World::pair_with(10, NodeSpec::default(), NodeSpec::default(), &how);
    world.set_filter(|passing| !passing.kind.is_handshake());
    let flow = world.udp(left, right);
    world.send(flow, 100, None);
    world.run_for(Duration::from_secs(100));
    let tries = world.counts().sent;
    assert!((17..=40).contains(&tries), "{tries} datagrams in REKEY_ATTEMPT_TIME");
    world.run_for(Duration::from_mins(5));
    assert_eq!(world.counts().sent, tries, "silence: nobody wants anything");
    assert_eq!(world.drops(left, DropReason::HandshakeTimeout), 1);
    world.clear_filter();
    world.send(flow, 100, None);
    world.run_for(SECOND);
    assert_eq!(world.flow(flow).received, 1);
    world.settle();
}
