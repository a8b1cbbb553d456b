//! Cookies: what a responder under load asks for, and what a cookie proves.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use std::net::SocketAddr;

use handshake::{
    COOKIE_REPLY_LEN, CookieChecker, CookieJar, HandshakeError, Protocol, classify, first_mac, receiver_index,
};
use rand_chacha::ChaCha20Rng;
use support::{ALICE_INDEX, Pair, at, flip, rng};

struct Scene {
    form: &'static str,
    pair: Pair,
    checker: CookieChecker,
    jar: CookieJar,
    rng: ChaCha20Rng,
}

/// Bob, who checks, and Alice, who collects, in every form of handshake.
fn scenes() -> impl Iterator<Item = Scene> {
    Pair::every_form().into_iter().map(|(form, pair)| {
        let mut rng = rng(30);
        let checker = CookieChecker::new(&pair.bob, &mut rng);
        let jar = CookieJar::new(&pair.to_bob);
        Scene { form, pair, checker, jar, rng }
    })
}

impl Scene {
    /// Alice asks at `seconds` from `from`, is given a cookie, and takes it.
    fn obtain_cookie(&mut self, seconds: u64, from: SocketAddr) {
        let (initiation, datagrams) = self.pair.initiate();
        let reply = self.checker.reply(at(seconds), &datagrams[0], from, &mut self.rng);
        self.jar.consume(at(seconds), &reply, initiation.last_mac1()).unwrap();
    }

    /// Whether Bob, at `seconds`, believes that Alice receives at `from`.
    fn believes(&mut self, seconds: u64, from: SocketAddr) -> bool {
        let (_, datagrams) = self.pair.initiate_with(self.jar.current(at(seconds)));
        self.checker.verify_mac2(at(seconds), &datagrams[0], from)
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn home() -> SocketAddr {
    address("192.0.2.1:1000")
}

#[test]
fn without_a_cookie_nothing_is_proved() {
    for mut scene in scenes() {
        assert!(!scene.believes(0, home()), "{}", scene.form);
        scene.obtain_cookie(0, address("192.0.2.9:9"));
        assert!(!scene.believes(0, home()), "{}", scene.form);
    }
}

#[test]
fn a_cookie_proves_address_and_port() {
    for mut scene in scenes() {
        scene.obtain_cookie(0, home());
        assert!(scene.believes(0, home()), "{}", scene.form);
        assert!(scene.believes(0, address("[::ffff:192.0.2.1]:1000")), "{}: the same place", scene.form);
        for elsewhere in ["192.0.2.1:1001", "192.0.2.2:1000", "[2001:db8::1]:1000"] {
            assert!(!scene.believes(0, address(elsewhere)), "{}: {elsewhere}", scene.form);
        }
    }
}

#[test]
fn an_initiator_uses_a_cookie_for_two_minutes() {
    for mut scene in scenes() {
        assert!(scene.jar.current(at(0)).is_none());
        scene.obtain_cookie(0, home());
        assert!(scene.jar.current(at(119)).is_some(), "{}", scene.form);
        assert!(scene.jar.current(at(120)).is_none(), "{}", scene.form);
    }
}

#[test]
fn a_responder_honours_a_cookie_for_as_long_as_it_is_used_and_not_for_ever() {
    for mut scene in scenes() {
        scene.obtain_cookie(0, home());
        scene.obtain_cookie(119, home());
        assert!(scene.believes(238, home()), "{}: given at 119 s, with the secret of 0 s", scene.form);

        let cookie = *scene.jar.current(at(238)).unwrap();
        let (_, datagrams) = scene.pair.initiate_with(Some(&cookie));
        assert!(scene.checker.verify_mac2(at(239), &datagrams[0], home()), "{}", scene.form);
        assert!(!scene.checker.verify_mac2(at(240), &datagrams[0], home()), "{}", scene.form);
    }
}

#[test]
fn a_new_secret_does_not_end_the_cookies_of_the_one_before() {
    for mut scene in scenes() {
        scene.obtain_cookie(0, home());
        scene.obtain_cookie(100, home());
        let (_, with_old) = scene.pair.initiate_with(scene.jar.current(at(100)));
        scene.obtain_cookie(130, home());
        let (_, with_new) = scene.pair.initiate_with(scene.jar.current(at(130)));
        assert!(scene.checker.verify_mac2(at(130), &with_old[0], home()), "{}", scene.form);
        assert!(scene.checker.verify_mac2(at(130), &with_new[0], home()), "{}", scene.form);
        scene.obtain_cookie(260, home());
        assert!(
            !scene.checker.verify_mac2(at(260), &with_old[0], home()),
            "{}: two secrets later",
            scene.form
        );
    }
}

#[test]
fn a_reply_reaches_its_handshake_and_is_shorter_than_any_question() {
    for mut scene in scenes() {
        let (mut initiation, datagrams) = scene.pair.initiate();
        let mut messages = datagrams.clone();
        let incoming = scene.pair.receive(&datagrams).unwrap();
        messages.push(scene.pair.respond(incoming).unwrap().0);
        for message in &messages {
            let reply = scene.checker.reply(at(0), message, home(), &mut scene.rng);
            assert!(reply.len() <= message.len(), "{}", scene.form);
        }
        let reply = scene.checker.reply(at(0), &datagrams[0], home(), &mut scene.rng);
        assert_eq!(receiver_index(&reply), Some(ALICE_INDEX), "{}", scene.form);
        assert_eq!(reply[0], if scene.pair.to_bob.protocol() == Protocol::WireGuard { 3 } else { 19 });
        let result = initiation.finish(&scene.pair.alice, &scene.pair.to_bob, &reply, at(0));
        assert_eq!(result.err(), Some(HandshakeError::Malformed), "{}: a cookie is no response", scene.form);
    }
}

#[test]
fn a_reply_to_another_message_or_from_somebody_else_is_refused() {
    for mut scene in scenes() {
        let form = scene.form;
        let (first, datagrams) = scene.pair.initiate();
        let (second, _) = scene.pair.initiate();
        let reply = scene.checker.reply(at(0), &datagrams[0], home(), &mut scene.rng);
        let other = scene.jar.consume(at(0), &reply, second.last_mac1());
        assert_eq!(other, Err(HandshakeError::Unauthentic), "{form}: bound to the message");
        let mut carols = CookieJar::new(&scene.pair.to_alice);
        assert_eq!(
            carols.consume(at(0), &reply, first.last_mac1()),
            Err(HandshakeError::Unauthentic),
            "{form}"
        );
        assert_eq!(scene.jar.consume(at(0), &reply, first.last_mac1()), Ok(()), "{form}");
    }
}

#[test]
fn a_damaged_reply_is_refused_and_leaves_the_old_cookie() {
    for mut scene in scenes() {
        scene.obtain_cookie(0, home());
        let before = *scene.jar.current(at(0)).unwrap();
        let (initiation, datagrams) = scene.pair.initiate();
        let reply = scene.checker.reply(at(50), &datagrams[0], home(), &mut scene.rng);
        for len in 0..COOKIE_REPLY_LEN {
            let result = scene.jar.consume(at(50), &reply[..len], initiation.last_mac1());
            assert_eq!(result, Err(HandshakeError::Malformed), "{}: {len} bytes", scene.form);
        }
        for bit in 0..COOKIE_REPLY_LEN * 8 {
            // The receiver's index is not covered: whoever is asked by it finds a reply to another message.
            if !(32..64).contains(&bit) {
                let result = scene.jar.consume(at(50), &flip(&reply, bit), initiation.last_mac1());
                assert!(result.is_err(), "{}: bit {bit}", scene.form);
            }
        }
        assert!(scene.jar.current(at(0)) == Some(&before), "{}", scene.form);
    }
}

#[test]
fn a_stranger_is_not_answered() {
    for mut scene in scenes() {
        let (_, datagrams) = scene.pair.initiate();
        let stranger = CookieChecker::new(&scene.pair.alice, &mut scene.rng);
        for datagram in &datagrams {
            assert!(scene.checker.verify_mac1(datagram), "{}", scene.form);
            assert!(!stranger.verify_mac1(datagram), "{}: not for this node", scene.form);
            for len in 0..datagram.len() {
                assert!(!scene.checker.verify_mac1(&datagram[..len]), "{}: {len} bytes", scene.form);
            }
            assert!(!scene.checker.verify_mac1(&flip(datagram, 100)), "{}", scene.form);
        }
        assert!(!scene.checker.verify_mac1(b""));
        assert!(!scene.checker.verify_mac2(at(0), b"", home()));
    }
}

#[test]
fn a_damaged_second_mac_proves_nothing() {
    for mut scene in scenes() {
        scene.obtain_cookie(0, home());
        let cookie = *scene.jar.current(at(0)).unwrap();
        let (_, datagrams) = scene.pair.initiate_with(Some(&cookie));
        let message = &datagrams[0];
        assert!(scene.checker.verify_mac2(at(0), message, home()), "{}", scene.form);
        for bit in message.len() * 8 - 256..message.len() * 8 {
            assert!(
                !scene.checker.verify_mac2(at(0), &flip(message, bit), home()),
                "{}: bit {bit}",
                scene.form
            );
        }
    }
}

#[test]
fn the_second_part_of_a_split_initiation_proves_nothing() {
    let mut scene = scenes().last().unwrap();
    scene.obtain_cookie(0, home());
    let cookie = *scene.jar.current(at(0)).unwrap();
    let (_, datagrams) = scene.pair.initiate_with(Some(&cookie));
    assert!(scene.checker.verify_mac2(at(0), &datagrams[0], home()));
    assert!(!scene.checker.verify_mac2(at(0), &datagrams[1], home()));
}

#[test]
fn a_response_carries_the_cookie_its_sender_was_given() {
    for mut scene in scenes() {
        // Alice is under load, too, and has Bob prove where he is.
        let mut checker = CookieChecker::new(&scene.pair.alice, &mut scene.rng);
        let mut jar = CookieJar::new(&scene.pair.to_alice);
        let (_, datagrams) = scene.pair.initiate();
        let incoming = scene.pair.receive(&datagrams).unwrap();
        let (response, _) = scene.pair.respond(incoming).unwrap();
        assert!(!checker.verify_mac2(at(0), &response, home()), "{}", scene.form);
        let Pair { to_bob, .. } = &scene.pair;
        assert!(checker.verify_response_mac1(to_bob, &response), "{}", scene.form);
        let reply = checker.reply_to_response(at(0), to_bob, &response, home(), &mut scene.rng);
        assert!(reply.len() <= response.len(), "{}", scene.form);
        let mac1 = first_mac(&response).unwrap();
        jar.consume_for_response(at(0), &reply, &mac1).unwrap();
        let for_an_initiation = jar.consume(at(0), &reply, &mac1).is_ok();
        assert_eq!(for_an_initiation, to_bob.protocol() == Protocol::WireGuard, "{}", scene.form);

        let incoming = scene.pair.receive(&datagrams).unwrap();
        let Pair { to_alice, .. } = &scene.pair;
        let cookie = jar.current(at(0));
        let (response, _) = incoming.respond(to_alice, 1, cookie, at(0), &mut scene.rng).unwrap();
        assert!(checker.verify_mac2(at(0), &response, home()), "{}", scene.form);
        assert!(classify(&response).is_some());
    }
}

#[test]
fn cookies_of_the_two_protocols_do_not_mix() {
    let mut wireguard = Pair::new(Protocol::WireGuard);
    let mut rng = rng(30);
    let mut checker = CookieChecker::new(&wireguard.bob, &mut rng);
    let (initiation, datagrams) = wireguard.initiate();
    let mut reply = checker.reply(at(0), &datagrams[0], home(), &mut rng);
    reply[0] = 19;
    let mut jar = CookieJar::new(&wireguard.to_bob);
    assert_eq!(jar.consume(at(0), &reply, initiation.last_mac1()), Err(HandshakeError::Unauthentic));
}
