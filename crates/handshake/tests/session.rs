//! Data packets: order, replay, lanes, limits and damage.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use std::collections::HashSet;

use handshake::{
    DataHeader, Exhausted, HEADER_LEN, LANES, OpenError, Protocol, ReplayWindow, Session, Suite, TAG_LEN,
    limits,
};
use support::{ALICE_INDEX, BOB_INDEX, Pair, flip, open, seal};

/// Alice's session and Bob's, for every form of handshake.
fn every_session() -> impl Iterator<Item = (&'static str, Session, Session)> {
    Pair::every_form().into_iter().map(|(form, mut pair)| {
        let (alice, bob) = pair.sessions();
        (form, alice, bob)
    })
}

fn shadowmesh() -> (Session, Session) {
    Pair::new(Protocol::ShadowMesh).sessions()
}

fn lanes(session: &Session) -> u8 {
    if session.protocol() == Protocol::WireGuard { 1 } else { LANES as u8 }
}

#[test]
fn the_header_says_which_session_lane_and_packet() {
    for (form, alice, _) in every_session() {
        let lane = lanes(&alice) - 1;
        let packets = [seal(&alice, lane, b"one"), seal(&alice, lane, b"two")];
        for (counter, packet) in (0..).zip(&packets) {
            let protocol = alice.protocol();
            let expected = DataHeader { protocol, lane, receiver: BOB_INDEX, counter };
            assert_eq!(DataHeader::parse(packet), Some(expected), "{form}");
            let type_byte = if protocol == Protocol::WireGuard { 4 } else { 20 };
            let [r0, r1, r2, r3] = BOB_INDEX.to_le_bytes();
            assert_eq!(packet[..9], [type_byte, lane, 0, 0, r0, r1, r2, r3, counter as u8], "{form}");
            assert_eq!(packet.len(), HEADER_LEN + 3 + TAG_LEN, "{form}");
        }
    }
}

#[test]
fn packets_are_accepted_once_and_in_any_order() {
    for (form, alice, bob) in every_session() {
        let packets: Vec<_> = (0..5u8).map(|number| seal(&alice, 0, &[number])).collect();
        for (index, newest) in [(2, true), (0, false), (4, true), (3, false), (1, false)] {
            let (opened, text) = open(&bob, &packets[index]).unwrap();
            assert_eq!(
                (opened.counter, opened.newest, text),
                (index as u64, newest, vec![index as u8]),
                "{form}"
            );
        }
        for packet in &packets {
            assert_eq!(open(&bob, packet), Err(OpenError::Replayed), "{form}");
        }
    }
}

#[test]
fn a_packet_that_is_too_late_is_refused() {
    let (alice, bob) = shadowmesh();
    let late = seal(&alice, 0, b"late");
    let just_in_time = seal(&alice, 0, b"just in time");
    alice.sealer(0).reserve(ReplayWindow::SIZE - 2).unwrap();
    assert!(open(&bob, &seal(&alice, 0, b"newest")).is_ok());
    assert_eq!(open(&bob, &late), Err(OpenError::TooOld));
    assert!(open(&bob, &just_in_time).is_ok());
}

#[test]
fn a_forged_packet_does_not_use_up_its_counter() {
    for (form, alice, bob) in every_session() {
        let packet = seal(&alice, 0, b"text");
        let mut from_the_future = packet.clone();
        from_the_future[8..16].copy_from_slice(&100_000u64.to_le_bytes());
        assert_eq!(open(&bob, &from_the_future), Err(OpenError::Forged), "{form}");
        assert_eq!(open(&bob, &flip(&packet, 20 * 8)), Err(OpenError::Forged), "{form}");
        assert!(open(&bob, &packet).unwrap().0.newest, "{form}");
    }
}

#[test]
fn every_flipped_bit_of_a_packet_is_refused() {
    for (form, alice, bob) in every_session() {
        let packet = seal(&alice, 0, &[0x55; 60]);
        for bit in 0..packet.len() * 8 {
            assert!(open(&bob, &flip(&packet, bit)).is_err(), "{form}: bit {bit}");
        }
        assert!(open(&bob, &packet).is_ok(), "{form}: undamaged");
    }
}

#[test]
fn nothing_can_be_reflected_to_its_sender() {
    for (form, alice, bob) in every_session() {
        let mut packet = seal(&alice, 0, b"text");
        packet[4..8].copy_from_slice(&ALICE_INDEX.to_le_bytes());
        assert_eq!(open(&alice, &packet), Err(OpenError::Forged), "{form}");
        drop(bob);
    }
}

#[test]
fn lanes_have_counters_windows_and_keys_of_their_own() {
    let (alice, bob) = shadowmesh();
    let mut ciphertexts = HashSet::new();
    for lane in 0..LANES as u8 {
        let packet = seal(&alice, lane, b"text");
        assert_eq!(DataHeader::parse(&packet).unwrap().counter, 0, "counters start anew in lane {lane}");
        assert!(open(&bob, &packet).unwrap().0.newest, "lane {lane}");
        ciphertexts.insert(packet[HEADER_LEN..HEADER_LEN + 4].to_vec());
        let mut moved = packet;
        moved[1] = (lane + 1) % LANES as u8;
        assert!(open(&bob, &moved).is_err(), "a packet of lane {lane} in the next one");
    }
    // The tag aside, the ciphertext depends on key, nonce and plaintext, and the latter two are the same in
    // all lanes.
    assert_eq!(ciphertexts.len(), LANES);
}

#[test]
fn a_made_up_header_makes_no_lane() {
    for (form, mut pair) in Pair::every_form() {
        let (alice, bob) = pair.sessions();
        for lane in 0..lanes(&alice) {
            let mut forged = seal(&alice, 0, b"text");
            let last = forged.len() - 1;
            (forged[1], forged[last]) = (lane, !forged[last]);
            assert!(open(&bob, &forged).is_err(), "{form}");
        }
        assert_eq!(bob.lanes_in_use(), 0, "{form}: nothing authentic was seen");
        // Two packets of a run that begins with a forged one, and what makes the lane is counted as seen.
        let (first, second) = (seal(&alice, 0, b"one"), seal(&alice, 0, b"two"));
        let mut opener = bob.opener(0).unwrap();
        let mut forged = first.clone();
        forged[20] ^= 1;
        assert_eq!(opener.open(&mut forged), Err(OpenError::Forged), "{form}");
        assert!(opener.open(&mut first.clone()).unwrap().newest, "{form}");
        assert_eq!(opener.open(&mut first.clone()), Err(OpenError::Replayed), "{form}");
        assert!(opener.open(&mut second.clone()).unwrap().newest, "{form}");
        drop(opener);
        assert_eq!(bob.lanes_in_use(), 1, "{form}");
    }
}

#[test]
fn a_lane_that_does_not_exist_is_refused() {
    let (alice, bob) = shadowmesh();
    let mut packet = seal(&alice, 0, b"text");
    packet[1] = LANES as u8;
    assert_eq!(DataHeader::parse(&packet).unwrap().lane, 16);
    assert_eq!(open(&bob, &packet), Err(OpenError::UnknownLane));
    let (_, wireguard) = Pair::new(Protocol::WireGuard).sessions();
    assert_eq!(wireguard.opener(1).err(), Some(OpenError::UnknownLane));
}

#[test]
fn a_packet_for_another_session_is_refused() {
    for (form, alice, bob) in every_session() {
        let mut packet = seal(&alice, 0, b"text");
        packet[4] ^= 1;
        assert_eq!(open(&bob, &packet), Err(OpenError::Forged), "{form}");
        packet[4] ^= 1;
        assert!(open(&bob, &packet).is_ok(), "{form}");
    }
}

#[test]
fn counters_end_before_they_could_repeat() {
    for (form, alice, bob) in every_session() {
        let sealer = alice.sealer(0);
        assert_eq!(sealer.reserve(u64::MAX), Err(Exhausted), "{form}");
        assert_eq!(
            sealer.reserve(limits::REJECT_AFTER_MESSAGES - 1),
            Ok(0),
            "{form}: what was refused cost nothing"
        );
        let last = seal(&alice, 0, b"the last one");
        for count in [1, 2, 8_192, 8_193, u64::MAX] {
            for _ in 0..10_000 {
                assert_eq!(sealer.reserve(count), Err(Exhausted), "{form}");
            }
        }
        assert!(open(&bob, &last).is_ok(), "{form}");
        let mut beyond = last;
        for counter in [limits::REJECT_AFTER_MESSAGES, u64::MAX] {
            beyond[8..16].copy_from_slice(&counter.to_le_bytes());
            assert_eq!(open(&bob, &beyond), Err(OpenError::Expired), "{form}");
        }
    }
}

#[test]
fn threads_that_share_a_lane_never_get_the_same_counter() {
    let (alice, _) = shadowmesh();
    let mut counters: Vec<u64> = std::thread::scope(|scope| {
        let reserve = || (0..1_000).map(|_| alice.sealer(2).reserve(3).unwrap()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(reserve)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    counters.sort_unstable();
    assert!(counters.iter().copied().eq((0..4_000).map(|nth| nth * 3)));
}

#[test]
fn a_datagram_without_room_for_header_and_tag_is_no_packet() {
    let (_, bob) = shadowmesh();
    for len in 0..HEADER_LEN + TAG_LEN {
        let mut datagram = vec![0; len];
        assert_eq!(bob.opener(0).unwrap().open(&mut datagram), Err(OpenError::Truncated));
        if let Some(first) = datagram.first_mut() {
            *first = 20;
        }
        assert_eq!(DataHeader::parse(&datagram), None);
    }
}

#[test]
fn the_suite_is_the_one_the_initiator_named() {
    // Suites differ in nothing an outsider sees; only the other end can tell.
    for suite in Suite::ALL {
        let (alice, bob) = Pair { suite, ..Pair::new(Protocol::ShadowMesh) }.sessions();
        assert_eq!((alice.suite(), bob.suite()), (suite, suite));
        assert_eq!(open(&bob, &seal(&alice, 0, b"text")).unwrap().1, b"text");
    }
}

#[test]
fn sessions_can_be_shared_among_threads() {
    fn check<T: Send + Sync>() {}
    check::<Session>();
    check::<handshake::Identity>();
    check::<handshake::PeerKeys>();
}
