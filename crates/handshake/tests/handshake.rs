//! What both protocols promise to whoever uses them, and to whoever attacks them.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use handshake::{
    HandshakeError, Identity, Incoming, IncomingPart1, InvalidKey, MessageKind, OpenError, PeerKeys,
    PresharedKey, Protocol, PublicKey, StaticSecret, Suite, Timestamp, classify, receiver_index,
    sender_index,
};
use support::{ALICE_INDEX, BOB_INDEX, Pair, at, flip, open, rng, seal};

#[test]
fn both_ends_can_talk_after_a_handshake() {
    for (form, mut pair) in Pair::every_form() {
        let (alice, bob) = pair.sessions();
        for round in 0..3u8 {
            let (opened, text) = open(&bob, &seal(&alice, 0, &[round; 100])).unwrap();
            assert_eq!(
                (opened.counter, opened.newest, text),
                (round.into(), true, vec![round; 100]),
                "{form}"
            );
            assert_eq!(open(&alice, &seal(&bob, 0, b"")).unwrap().1, b"", "{form}: a keepalive");
        }
    }
}

#[test]
fn both_ends_agree_on_what_the_session_is() {
    for (form, mut pair) in Pair::every_form() {
        let protocol = pair.to_bob.protocol();
        let (alice, bob) = pair.sessions();
        assert_eq!((alice.local_index(), alice.remote_index()), (ALICE_INDEX, BOB_INDEX), "{form}");
        assert_eq!((bob.local_index(), bob.remote_index()), (ALICE_INDEX, BOB_INDEX).swap(), "{form}");
        assert_eq!(
            (alice.remote(), bob.remote()),
            (pair.bob.public_key(), pair.alice.public_key()),
            "{form}"
        );
        assert!(alice.is_initiator() && !bob.is_initiator(), "{form}");
        for session in [&alice, &bob] {
            assert_eq!((session.protocol(), session.established()), (protocol, at(0)), "{form}");
            assert_eq!(session.post_quantum(), protocol == Protocol::ShadowMesh, "{form}");
            let suite = if protocol == Protocol::WireGuard { Suite::ChaCha20Poly1305 } else { pair.suite };
            assert_eq!(session.suite(), suite, "{form}");
        }
    }
}

trait Swap {
    fn swap(self) -> Self;
}

impl<T> Swap for (T, T) {
    fn swap(self) -> Self {
        (self.1, self.0)
    }
}

#[test]
fn the_responder_learns_who_asks_and_when() {
    for (form, mut pair) in Pair::every_form() {
        let (_, datagrams) = pair.initiate();
        let incoming = pair.receive(&datagrams).unwrap();
        assert_eq!(incoming.remote(), pair.alice.public_key(), "{form}");
        assert_eq!(incoming.timestamp(), Timestamp::from_counter(7), "{form}");
        assert_eq!(incoming.protocol(), pair.to_bob.protocol(), "{form}");
        assert_eq!(incoming.remote_index(), ALICE_INDEX, "{form}");
    }
}

#[test]
fn messages_are_recognised_and_find_their_handshake() {
    for (form, mut pair) in Pair::every_form() {
        let protocol = pair.to_bob.protocol();
        let (_, datagrams) = pair.initiate();
        let kinds: Vec<_> = datagrams.iter().map(|datagram| classify(datagram).unwrap()).collect();
        if pair.split {
            assert_eq!(kinds, [MessageKind::InitiationPart1, MessageKind::InitiationPart2]);
        } else {
            assert_eq!(kinds, [MessageKind::Initiation(protocol)], "{form}");
        }
        assert!(datagrams.iter().all(|datagram| sender_index(datagram) == Some(ALICE_INDEX)), "{form}");
        let incoming = pair.receive(&datagrams).unwrap();
        let (response, bob) = pair.respond(incoming).unwrap();
        assert_eq!(classify(&response), Some(MessageKind::Response(protocol)), "{form}");
        assert_eq!(receiver_index(&response), Some(ALICE_INDEX), "{form}");
        let packet = seal(&bob, 0, b"text");
        assert_eq!(classify(&packet), Some(MessageKind::Data(protocol)), "{form}");
        assert_eq!(receiver_index(&packet), Some(ALICE_INDEX), "{form}");
    }
}

#[test]
fn no_answer_is_longer_than_the_question() {
    for (form, mut pair) in Pair::every_form() {
        let (_, datagrams) = pair.initiate();
        let question = datagrams.last().unwrap().len();
        let incoming = pair.receive(&datagrams).unwrap();
        let (response, _) = pair.respond(incoming).unwrap();
        assert!(response.len() <= question, "{form}: {} > {question}", response.len());
    }
}

#[test]
fn every_flipped_bit_of_an_initiation_is_refused() {
    for (form, mut pair) in Pair::every_form() {
        let (_, datagrams) = pair.initiate();
        for (part, datagram) in datagrams.iter().enumerate() {
            // The second MAC is the cookie checker's business; the second part of a split initiation has
            // none.
            let without_mac2 = if part == 0 { datagram.len() - 16 } else { datagram.len() };
            for bit in 0..without_mac2 * 8 {
                let mut damaged = datagrams.clone();
                damaged[part] = flip(datagram, bit);
                assert!(pair.receive(&damaged).is_err(), "{form}: bit {bit} of part {part}");
            }
        }
        assert!(pair.receive(&datagrams).is_ok(), "{form}: undamaged");
    }
}

#[test]
fn damage_behind_a_correct_mac1_is_refused_too() {
    // An attacker who knows Bob's public key can make a correct first MAC for anything.
    for (form, mut pair) in Pair::every_form() {
        let (_, datagrams) = pair.initiate();
        for (part, datagram) in datagrams.iter().enumerate() {
            let macs = if part == 0 { 32 } else { 16 };
            for byte in 0..datagram.len() - macs {
                let mut damaged = datagrams.clone();
                damaged[part] = flip(datagram, byte * 8 + byte % 8);
                support::refresh_mac1(&mut damaged[part], &pair.bob.public_key());
                match pair.receive(&damaged) {
                    Err(HandshakeError::InvalidMac1) => {
                        panic!("{form}: byte {byte} of part {part}: the MAC is right")
                    }
                    Err(_) => {}
                    // WireGuard authenticates the sender's index only by the first MAC.
                    Ok(_) => assert!(
                        pair.to_bob.protocol() == Protocol::WireGuard && (4..8).contains(&byte),
                        "{form}"
                    ),
                }
            }
        }
    }
}

#[test]
fn every_flipped_bit_of_a_response_is_refused_and_does_not_end_the_handshake() {
    for (form, mut pair) in Pair::every_form() {
        let (mut initiation, datagrams) = pair.initiate();
        let incoming = pair.receive(&datagrams).unwrap();
        let (response, bob) = pair.respond(incoming).unwrap();
        for bit in 0..(response.len() - 16) * 8 {
            let damaged = flip(&response, bit);
            assert!(
                initiation.finish(&pair.alice, &pair.to_bob, &damaged, at(0)).is_err(),
                "{form}: bit {bit}"
            );
        }
        for byte in 0..response.len() - 32 {
            let mut damaged = flip(&response, byte * 8 + byte % 8);
            support::refresh_response_mac1(&mut damaged, &pair);
            // WireGuard authenticates the sender's index only by the first MAC.
            if pair.to_bob.protocol() == Protocol::ShadowMesh || !(4..8).contains(&byte) {
                assert!(
                    initiation.finish(&pair.alice, &pair.to_bob, &damaged, at(0)).is_err(),
                    "{form}: byte {byte}"
                );
            }
        }
        let alice = initiation.finish(&pair.alice, &pair.to_bob, &response, at(0)).unwrap();
        assert!(open(&bob, &seal(&alice, 0, b"still works")).is_ok(), "{form}");
    }
}

#[test]
fn truncation_at_every_length_is_refused() {
    for (form, mut pair) in Pair::every_form() {
        let (mut initiation, datagrams) = pair.initiate();
        for (part, datagram) in datagrams.iter().enumerate() {
            for len in 0..datagram.len() {
                let mut damaged = datagrams.clone();
                damaged[part].truncate(len);
                assert_eq!(
                    pair.receive(&damaged).err(),
                    Some(HandshakeError::Malformed),
                    "{form}: {len} bytes"
                );
            }
        }
        let incoming = pair.receive(&datagrams).unwrap();
        let (response, bob) = pair.respond(incoming).unwrap();
        for len in 0..response.len() {
            let result = initiation.finish(&pair.alice, &pair.to_bob, &response[..len], at(0));
            assert_eq!(result.err(), Some(HandshakeError::Malformed), "{form}: {len} bytes");
        }
        let alice = initiation.finish(&pair.alice, &pair.to_bob, &response, at(0)).unwrap();
        let packet = seal(&alice, 0, b"text");
        for len in 0..packet.len() {
            assert!(open(&bob, &packet[..len]).is_err(), "{form}: {len} bytes");
        }
    }
}

#[test]
fn a_response_completes_its_handshake_once() {
    for (form, mut pair) in Pair::every_form() {
        let (mut initiation, datagrams) = pair.initiate();
        let incoming = pair.receive(&datagrams).unwrap();
        let (response, _) = pair.respond(incoming).unwrap();
        assert!(initiation.finish(&pair.alice, &pair.to_bob, &response, at(0)).is_ok(), "{form}");
        let again = initiation.finish(&pair.alice, &pair.to_bob, &response, at(0));
        assert_eq!(again.err(), Some(HandshakeError::AlreadyComplete), "{form}");
    }
}

#[test]
fn a_response_to_another_handshake_is_refused() {
    for (form, mut pair) in Pair::every_form() {
        let (_, first) = pair.initiate();
        let (mut second, _) = pair.initiate();
        let incoming = pair.receive(&first).unwrap();
        let (response, _) = pair.respond(incoming).unwrap();
        // Both use the same index, so only the cryptography tells them apart.
        let result = second.finish(&pair.alice, &pair.to_bob, &response, at(0));
        assert_eq!(result.err(), Some(HandshakeError::Unauthentic), "{form}");
    }
}

#[test]
fn a_replayed_initiation_shows_its_old_timestamp_and_gives_the_replayer_nothing() {
    for (form, mut pair) in Pair::every_form() {
        let (mut initiation, datagrams) = pair.initiate();
        let first = pair.receive(&datagrams).unwrap();
        let replayed = pair.receive(&datagrams).unwrap();
        assert_eq!(first.timestamp(), replayed.timestamp(), "{form}: the caller can tell");
        let (response, bob) = pair.respond(first).unwrap();
        let (_, other) = pair.respond(replayed).unwrap();
        let alice = initiation.finish(&pair.alice, &pair.to_bob, &response, at(0)).unwrap();
        let packet = seal(&alice, 0, b"text");
        assert_eq!(
            open(&other, &packet),
            Err(OpenError::Forged),
            "{form}: sessions of one initiation share no keys"
        );
        assert!(open(&bob, &packet).is_ok(), "{form}");
    }
}

#[test]
fn different_preshared_keys_are_found_out_by_the_initiator() {
    for protocol in [Protocol::WireGuard, Protocol::ShadowMesh] {
        let mut pair =
            Pair::with_psks(protocol, PresharedKey::default(), PresharedKey::generate(&mut rng(9)));
        let (mut initiation, datagrams) = pair.initiate();
        let incoming = pair.receive(&datagrams).unwrap();
        let (response, _) = pair.respond(incoming).unwrap();
        let result = initiation.finish(&pair.alice, &pair.to_bob, &response, at(0));
        assert_eq!(result.err(), Some(HandshakeError::Unauthentic), "{protocol:?}");
    }
}

#[test]
fn an_initiation_for_somebody_else_is_not_even_looked_at() {
    for (form, mut pair) in Pair::every_form() {
        let (_, datagrams) = pair.initiate();
        pair.bob = Identity::new(StaticSecret::generate(&mut rng(5)));
        assert_eq!(pair.receive(&datagrams).err(), Some(HandshakeError::InvalidMac1), "{form}");
    }
}

#[test]
fn known_peers_can_be_told_from_strangers_while_an_initiation_is_read() {
    for (form, mut pair) in Pair::every_form() {
        let (mut initiation, datagrams) = pair.initiate();
        let alice = pair.alice.public_key();
        let receive = |peer: Option<&PeerKeys>| {
            let mut claimed = None;
            let find = |key: &PublicKey| {
                claimed = Some(*key);
                peer
            };
            let result = match &datagrams[..] {
                [part1, part2] => IncomingPart1::receive_from(&pair.bob, part1, find)
                    .and_then(|part1| part1.complete(part2)),
                whole => Incoming::receive_from(&pair.bob, &whole[0], find),
            };
            assert_eq!(claimed, Some(alice), "{form}");
            result
        };
        assert_eq!(receive(None).err(), Some(HandshakeError::UnknownPeer), "{form}");
        let carol = Identity::new(StaticSecret::generate(&mut rng(5)));
        let carol =
            PeerKeys::new(&pair.bob, carol.public_key(), PresharedKey::default(), pair.to_bob.protocol())
                .unwrap();
        assert_eq!(receive(Some(&carol)).err(), Some(HandshakeError::UnknownPeer), "{form}");
        let incoming = receive(Some(&pair.to_alice)).unwrap();
        let (response, _) = pair.respond(incoming).unwrap();
        assert!(initiation.finish(&pair.alice, &pair.to_bob, &response, at(0)).is_ok(), "{form}");
    }
}

#[test]
fn an_initiation_is_answered_only_with_its_senders_keys_and_protocol() {
    for (form, mut pair) in Pair::every_form() {
        let protocol = pair.to_bob.protocol();
        let (_, datagrams) = pair.initiate();
        let carol = Identity::new(StaticSecret::generate(&mut rng(5)));
        let keys =
            |public, protocol| PeerKeys::new(&pair.bob, public, PresharedKey::default(), protocol).unwrap();
        let other_protocol = match protocol {
            Protocol::WireGuard => Protocol::ShadowMesh,
            Protocol::ShadowMesh => Protocol::WireGuard,
        };
        for wrong in [keys(carol.public_key(), protocol), keys(pair.alice.public_key(), other_protocol)] {
            let incoming = pair.receive(&datagrams).unwrap();
            let result = incoming.respond(&wrong, BOB_INDEX, None, at(0), &mut rng(6));
            assert_eq!(result.err(), Some(HandshakeError::OtherPeer), "{form}");
        }
    }
}

#[test]
fn a_response_from_somebody_else_is_refused() {
    // Carol answers in Bob's place: she has read his initiation, but not his private key.
    for (form, mut pair) in Pair::every_form() {
        let (mut initiation, _) = pair.initiate();
        let carol = Identity::new(StaticSecret::generate(&mut rng(5)));
        let to_carol =
            PeerKeys::new(&pair.alice, carol.public_key(), PresharedKey::default(), pair.to_bob.protocol())
                .unwrap();
        let mut carols = Pair { bob: carol, to_bob: to_carol, ..Pair::new(pair.to_bob.protocol()) };
        carols.split = pair.split;
        let (_, datagrams) = carols.initiate();
        let incoming = carols.receive(&datagrams).unwrap();
        let (response, _) = carols.respond(incoming).unwrap();
        let result = initiation.finish(&pair.alice, &pair.to_bob, &response, at(0));
        assert_eq!(result.err(), Some(HandshakeError::Unauthentic), "{form}");
    }
}

#[test]
fn the_parts_of_different_split_initiations_do_not_fit_together() {
    let mut pair = Pair { split: true, ..Pair::new(Protocol::ShadowMesh) };
    let (_, first) = pair.initiate();
    let (_, second) = pair.initiate();
    let part1 = IncomingPart1::receive(&pair.bob, &first[0]).unwrap();
    assert!(part1.matches(&second[1]), "both use the same index");
    assert_eq!(part1.complete(&second[1]).err(), Some(HandshakeError::OtherPart2));
    assert_eq!(part1.complete(&first[0]).err(), Some(HandshakeError::Malformed));
    assert!(part1.complete(&first[1]).is_ok(), "the right part still completes it");
    assert!(part1.complete(&first[1]).is_ok(), "a duplicate is the same initiation");

    let mut other_index = first[1].clone();
    other_index[4] ^= 1;
    support::refresh_mac1(&mut other_index, &pair.bob.public_key());
    assert!(!part1.matches(&other_index));
    assert_eq!(part1.complete(&other_index).err(), Some(HandshakeError::OtherHandshake));
}

#[test]
fn part_1_alone_says_who_asks_and_when() {
    let mut pair = Pair { split: true, ..Pair::new(Protocol::ShadowMesh) };
    let (_, datagrams) = pair.initiate();
    let part1 = IncomingPart1::receive(&pair.bob, &datagrams[0]).unwrap();
    assert_eq!(part1.remote(), pair.alice.public_key());
    assert_eq!(part1.timestamp(), Timestamp::from_counter(7));
    assert_eq!(part1.remote_index(), ALICE_INDEX);
}

#[test]
fn each_receiver_takes_only_its_own_kind_of_message() {
    for (form, mut pair) in Pair::every_form() {
        let (mut initiation, datagrams) = pair.initiate();
        for datagram in &datagrams {
            let result = initiation.finish(&pair.alice, &pair.to_bob, datagram, at(0));
            assert_eq!(result.err(), Some(HandshakeError::Malformed), "{form}");
            let whole = Incoming::receive(&pair.bob, datagram);
            let part1 = IncomingPart1::receive(&pair.bob, datagram);
            if pair.split {
                assert_eq!(whole.err(), Some(HandshakeError::Malformed), "{form}");
            } else {
                assert_eq!(part1.err(), Some(HandshakeError::Malformed), "{form}");
            }
        }
    }
}

#[test]
fn an_initiation_cannot_be_turned_into_one_with_another_suite() {
    let mut pair = Pair::new(Protocol::ShadowMesh);
    let (_, datagrams) = pair.initiate();
    let mut downgraded = datagrams[0].clone();
    assert_eq!(downgraded[1], 3, "AEGIS-256X4");
    downgraded[1] = 2;
    support::refresh_mac1(&mut downgraded, &pair.bob.public_key());
    assert_eq!(Incoming::receive(&pair.bob, &downgraded).err(), Some(HandshakeError::Unauthentic));
}

#[test]
fn a_peer_with_a_key_of_low_order_is_refused_when_it_is_configured() {
    let alice = Identity::new(StaticSecret::generate(&mut rng(1)));
    let mut one = [0; 32];
    one[0] = 1;
    for weak in [[0; 32], one] {
        let result =
            PeerKeys::new(&alice, PublicKey::from_bytes(weak), PresharedKey::default(), Protocol::ShadowMesh);
        assert_eq!(result.err(), Some(InvalidKey::LowOrder));
    }
}

#[test]
fn an_ephemeral_key_of_low_order_is_refused() {
    for (form, mut pair) in Pair::every_form() {
        let (mut initiation, mut datagrams) = pair.initiate();
        let incoming = pair.receive(&datagrams).unwrap();
        let (mut response, _) = pair.respond(incoming).unwrap();
        response[12..44].fill(0);
        support::refresh_response_mac1(&mut response, &pair);
        let result = initiation.finish(&pair.alice, &pair.to_bob, &response, at(0));
        assert_eq!(result.err(), Some(HandshakeError::LowOrderKey), "{form}");

        datagrams[0][8..40].fill(0);
        support::refresh_mac1(&mut datagrams[0], &pair.bob.public_key());
        assert_eq!(pair.receive(&datagrams).err(), Some(HandshakeError::LowOrderKey), "{form}");
    }
}

#[test]
fn a_list_of_public_keys_does_not_tell_whom_a_native_response_is_for() {
    for (form, mut pair) in Pair::every_form() {
        let (_, datagrams) = pair.initiate();
        let incoming = pair.receive(&datagrams).unwrap();
        let (response, _) = pair.respond(incoming).unwrap();
        // What anybody can compute who knows Alice's public key.
        let mut guessed = response.clone();
        support::refresh_mac1(&mut guessed, &pair.alice.public_key());
        let named = guessed[response.len() - 32..] == response[response.len() - 32..];
        assert_eq!(named, pair.to_bob.protocol() == Protocol::WireGuard, "{form}");
        // What the two of them can.
        support::refresh_response_mac1(&mut guessed, &pair);
        assert!(guessed == response, "{form}: as documented");
    }
}
