//! Whatever arrives, the answer is an error, never a panic.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use handshake::{
    CookieChecker, CookieJar, DataHeader, Incoming, IncomingPart1, LANES, Protocol, classify, receiver_index,
    sender_index,
};
use proptest::prelude::*;
use support::{Pair, at, refresh_mac1, refresh_response_mac1, rng};

/// Datagrams that get past the cheap checks more often than chance would have it: with a known type, that
/// type's length, or both.
fn datagram() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![
        prop::sample::select(vec![32usize, 64, 92, 148, 180, 1_196, 1_224, 1_348]),
        0usize..1_500
    ];
    let type_byte =
        prop_oneof![8 => prop::sample::select(vec![1u8, 2, 3, 4, 17, 18, 19, 20, 21, 22]), 1 => any::<u8>()];
    (length, type_byte, 0u8..3, any::<u8>(), any::<u64>()).prop_map(|(len, type_byte, second, fill, seed)| {
        use rand_chacha::rand_core::Rng;
        let mut bytes = vec![fill; len];
        if seed % 2 == 0 {
            rng(seed).fill_bytes(&mut bytes);
        }
        bytes.iter_mut().zip([type_byte, second, 0, 0]).for_each(|(byte, value)| *byte = value);
        bytes
    })
}

/// Hands a datagram to everything that takes one. Nothing of it may be accepted.
fn feed(pair: &mut Pair, datagram: &[u8]) {
    let kind = classify(datagram);
    assert_eq!(kind.is_none(), receiver_index(datagram).is_none() && sender_index(datagram).is_none());
    assert!(Incoming::receive(&pair.bob, datagram).is_err());
    assert!(Incoming::receive_from(&pair.bob, datagram, |_| Some(&pair.to_alice)).is_err());
    assert!(IncomingPart1::receive(&pair.bob, datagram).is_err());

    let (mut initiation, _) = pair.initiate();
    assert!(initiation.finish(&pair.alice, &pair.to_bob, datagram, at(0)).is_err());

    let mut checker = CookieChecker::new(&pair.bob, &mut pair.rng);
    let from = "192.0.2.1:1000".parse().unwrap();
    checker.verify_mac1(datagram);
    checker.verify_mac2(at(0), datagram, from);
    checker.reply(at(0), datagram, from, &mut pair.rng);
    checker.verify_response_mac1(&pair.to_alice, datagram);
    checker.reply_to_response(at(0), &pair.to_alice, datagram, from, &mut pair.rng);
    let mut jar = CookieJar::new(&pair.to_bob);
    assert!(jar.consume(at(0), datagram, initiation.last_mac1()).is_err());
    assert!(jar.consume_for_response(at(0), datagram, initiation.last_mac1()).is_err());
}

fn feed_to_session(protocol: Protocol, datagram: &[u8]) {
    let (_, bob) = Pair::new(protocol).sessions();
    for lane in (0..LANES as u8 + 2).chain([u8::MAX]) {
        if let Ok(mut opener) = bob.opener(lane) {
            assert!(opener.open(&mut datagram.to_vec()).is_err());
        }
    }
    if let Some(header) = DataHeader::parse(datagram) {
        assert_eq!(classify(datagram).map(handshake::MessageKind::protocol), Some(header.protocol));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn garbage_is_refused(mut datagram in datagram()) {
        let mut pair = Pair::new(Protocol::ShadowMesh);
        feed(&mut pair, &datagram);
        if datagram.len() >= 64 {
            match datagram.first() {
                Some(2 | 18) => refresh_response_mac1(&mut datagram, &pair),
                _ => refresh_mac1(&mut datagram, &pair.bob.public_key()),
            }
            feed(&mut pair, &datagram);
            feed(&mut Pair::new(Protocol::WireGuard), &datagram);
        }
        feed_to_session(Protocol::ShadowMesh, &datagram);
        feed_to_session(Protocol::WireGuard, &datagram);
    }
}
