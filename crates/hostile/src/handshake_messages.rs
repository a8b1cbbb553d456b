//! Handshake messages: made up, made up by somebody who knows the public keys, or authentic ones that were changed.
//!
//! ```text
//!  input:  kind 1 · form 1 · …          kind: bits 0..1 protocol and cipher, bit 2 split
//!
//!  form    …
//!  0       message                      to every parser, as it is
//!  1       message                      the same, after its first MAC was made right
//!  2       (which 1 · where 2 · xor 1)… changes to an authentic handshake; which: 0 part 1, 1 part 2, 2 the response
//! ```

use std::net::SocketAddr;

use blake2::digest::{Digest, FixedOutput, KeyInit, Update};
use blake2::{Blake2s256, Blake2sMac};
use handshake::{
    COOKIE_REPLY_LEN, CookieChecker, CookieJar, Incoming, IncomingPart1, MessageKind, Protocol, classify,
    first_mac, receiver_index, sender_index,
};

use crate::bytes::Bytes;
use crate::pair::{NOW, Pair, rng};

const MAC_LEN: usize = 16;

/// # Panics
/// When a changed message is accepted, a refused one does damage, or an answer is larger than what it answers.
pub fn run(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    let kind = bytes.u8();
    let (pair, _) = Pair::chosen_by(kind);
    match bytes.u8() % 3 {
        0 => parse(pair, kind, bytes.rest()),
        1 => {
            let mut message = bytes.rest().to_vec();
            // The right MAC for an initiation, then for a response.
            for response in [false, true] {
                write_mac1(pair, &mut message, response);
                parse(pair, kind, &message);
            }
        }
        _ => changed(pair, kind, &mut bytes),
    }
}

/// Gives a message to everything that reads messages.
fn parse(pair: &Pair, kind: u8, message: &[u8]) {
    let class = classify(message);
    if class.is_none() {
        assert_eq!((sender_index(message), receiver_index(message)), (None, None));
    }
    let mut rng = rng(2);
    let from = SocketAddr::from(([192, 0, 2, 1], 9443));
    let mut checker = CookieChecker::new(&pair.responder, &mut rng);
    if checker.verify_mac1(message) {
        assert!(!checker.verify_mac2(*NOW, message, from), "a cookie nobody was given");
        assert_eq!(checker.reply(*NOW, message, from, &mut rng).len(), COOKIE_REPLY_LEN);
        assert!(COOKIE_REPLY_LEN <= message.len(), "the cookie reply is larger than what it answers");
    }
    if checker.verify_response_mac1(&pair.to_initiator, message) {
        assert!(matches!(class, Some(MessageKind::Response(_))), "a MAC of a response on something else");
        let reply = checker.reply_to_response(*NOW, &pair.to_initiator, message, from, &mut rng);
        assert!(reply.len() <= message.len(), "the cookie reply is larger than what it answers");
        let mut jar = CookieJar::new(&pair.to_responder);
        let mac1 = first_mac(message).expect("a response has one");
        assert!(
            jar.consume_for_response(*NOW, &reply, &mac1).is_ok(),
            "whoever responded can take the cookie"
        );
    }
    if let Ok(incoming) = Incoming::receive(&pair.responder, message)
        && incoming.remote() == pair.initiator.public_key()
    {
        let answer = incoming.respond(&pair.to_initiator, 1, None, *NOW, &mut rng);
        if let Ok((response, _)) = answer {
            assert!(response.len() <= message.len(), "the response is larger than what it answers");
        }
    }
    if let Ok(part1) = IncomingPart1::receive(&pair.responder, message) {
        assert!(!part1.matches(message), "part 1 is not its own part 2");
        assert!(part1.complete(message).is_err());
    }
    let (_, suite) = Pair::chosen_by(kind);
    let (mut initiation, _) = pair.initiate(suite, kind & 4 != 0, &mut rng);
    let finished = initiation.finish(&pair.initiator, &pair.to_responder, message, *NOW);
    assert!(finished.is_err(), "a response to a handshake that nobody answered");
    let mut jar = CookieJar::new(&pair.to_responder);
    assert!(jar.consume(*NOW, message, initiation.last_mac1()).is_err(), "a cookie that nobody gave");
    assert!(jar.consume_for_response(*NOW, message, initiation.last_mac1()).is_err(), "nor for a response");
}

/// Plays an authentic handshake in which some bytes are changed on the way, then the same one unchanged.
fn changed(pair: &Pair, kind: u8, bytes: &mut Bytes<'_>) {
    let mut rng = rng(3);
    let (_, suite) = Pair::chosen_by(kind);
    let (mut initiation, authentic) = pair.initiate(suite, kind & 4 != 0, &mut rng);
    let incoming = pair.receive(&authentic).expect("an authentic initiation");
    let (response, theirs) = pair.respond(incoming, &mut rng);
    let sent: usize = authentic.iter().map(Vec::len).sum();
    assert!(response.len() <= sent, "the response is larger than what it answers");

    let (mut datagrams, mut answer) = (authentic.clone(), response.clone());
    while !bytes.is_empty() {
        let message = match bytes.u8() % 3 {
            2 => &mut answer,
            which => {
                let last = datagrams.len() - 1;
                &mut datagrams[usize::from(which).min(last)]
            }
        };
        let at = usize::from(bytes.u16()) % message.len();
        message[at] ^= bytes.u8();
    }
    if datagrams.iter().zip(&authentic).any(|(a, b)| covered(a) != covered(b)) {
        assert!(pair.receive(&datagrams).is_none(), "a changed initiation was accepted");
    }
    if covered(&answer) != covered(&response) {
        let finished = initiation.finish(&pair.initiator, &pair.to_responder, &answer, *NOW);
        assert!(finished.is_err(), "a changed response was accepted");
    }
    let ours = initiation
        .finish(&pair.initiator, &pair.to_responder, &response, *NOW)
        .expect("a forged response does not end a handshake");
    assert_eq!((ours.local_index(), ours.remote_index()), (theirs.remote_index(), theirs.local_index()));
    assert_eq!((ours.suite(), ours.protocol()), (theirs.suite(), theirs.protocol()));
    assert_eq!((theirs.remote(), ours.remote()), (pair.initiator.public_key(), pair.responder.public_key()));
}

/// All of a message but its second MAC, which counts under load only. A message that is no longer recognised counts
/// whole: it is refused for that.
fn covered(message: &[u8]) -> &[u8] {
    match classify(message) {
        Some(MessageKind::Initiation(_) | MessageKind::InitiationPart1 | MessageKind::Response(_)) => {
            &message[..message.len() - MAC_LEN]
        }
        _ => message,
    }
}

/// Makes the first MAC right: that of a message to the responder, as anybody who knows its key can, or that of a response, which in
/// the native protocol only the two of them can.
fn write_mac1(pair: &Pair, message: &mut [u8], response: bool) {
    let Some(kind) = classify(message) else { return };
    let macs = match kind {
        MessageKind::Initiation(_) | MessageKind::InitiationPart1 | MessageKind::Response(_) => 2,
        MessageKind::InitiationPart2 => 1,
        MessageKind::CookieReply(_) | MessageKind::Data(_) => return,
    };
    let (label, of): (&[u8], [u8; 32]) = match (kind.protocol(), response) {
        (Protocol::WireGuard, false) => (b"mac1----", *pair.responder.public_key().as_bytes()),
        (Protocol::WireGuard, true) => (b"mac1----", *pair.initiator.public_key().as_bytes()),
        (Protocol::ShadowMesh, false) => (b"ShadowMesh v1 mac1", *pair.responder.public_key().as_bytes()),
        (Protocol::ShadowMesh, true) => (b"ShadowMesh v1 response mac1", pair.static_static),
    };
    let key = Blake2s256::new().chain(label).chain(of).finalize_fixed();
    let (body, tail) = message.split_at_mut(message.len() - macs * MAC_LEN);
    let mac = Blake2sMac::<blake2::digest::consts::U16>::new_from_slice(&key).expect("32 bytes are a key");
    tail[..MAC_LEN].copy_from_slice(&mac.chain(&*body).finalize_fixed());
}
