//! The committed vectors, byte for byte, with the ephemeral keys fixed. `tests/reference.rs` makes the same
//! ones without this crate's code.

use std::time::Instant;

use aws_lc_rs::kem::{DecapsulationKey, ML_KEM_768};
use base64ct::{Base64, Encoding};
use ml_kem::kem::KeyExport;
use ml_kem::ml_kem_768;
use zeroize::Zeroizing;

use crate::crypto::KeyPair;
use crate::kem::KemKeyPair;
use crate::{
    HEADER_LEN, Identity, Incoming, IncomingPart1, Initiation, InitiationOptions, InvalidKey, PeerKeys,
    Protocol, StaticSecret, Suite, TAG_LEN, Timestamp,
};

/// The vector of that name.
fn vector(name: &str) -> Vec<u8> {
    let file = include_str!("../tests/vectors/shadowmesh-v1.txt");
    let hex = file.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap();
    hex.as_bytes()
        .chunks(2)
        .map(|digits| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap())
        .collect()
}

fn key<T: std::str::FromStr<Err = InvalidKey>>(name: &str) -> T {
    Base64::encode_string(&vector(name)).parse().unwrap()
}

fn key_pair(name: &str) -> KeyPair {
    KeyPair::from_secret(vector(name).as_slice().try_into().unwrap())
}

fn kem_key() -> ml_kem_768::DecapsulationKey {
    ml_kem_768::DecapsulationKey::from_seed(vector("kem_seed").as_slice().try_into().unwrap())
}

/// The key pair that AWS-LC would have generated from the seed of the vectors.
fn kem_key_pair() -> KemKeyPair {
    #[allow(deprecated, reason = "AWS-LC takes a decapsulation key in no other form")]
    let expanded = ml_kem::ExpandedKeyEncoding::to_expanded_bytes(&kem_key());
    let public = Box::new(kem_key().encapsulation_key().to_bytes().into());
    KemKeyPair { private: DecapsulationKey::new(&ML_KEM_768, &expanded).unwrap(), public }
}

fn index(name: &str) -> u32 {
    u32::from_be_bytes(vector(name).try_into().unwrap())
}

fn check(form: &str, suite: Suite, split: bool) {
    let alice = Identity::new(key("initiator_static"));
    let bob = Identity::new(key("responder_static"));
    let peer = |ours: &Identity, theirs: &str| {
        let public = key::<StaticSecret>(theirs).public_key();
        PeerKeys::new(ours, public, key("preshared"), Protocol::ShadowMesh).unwrap()
    };
    let (to_bob, to_alice) = (peer(&alice, "responder_static"), peer(&bob, "initiator_static"));
    #[expect(clippy::disallowed_methods, reason = "the value does not matter")]
    let now = Instant::now();

    let options = InitiationOptions {
        local_index: index("initiator_index"),
        timestamp: Timestamp::from_counter(u64::from_be_bytes(vector("counter").try_into().unwrap())),
        suite,
        split,
        cookie: None,
    };
    let ephemeral = key_pair("initiator_ephemeral");
    let (mut initiation, datagrams) =
        Initiation::start_with(&alice, &to_bob, options, ephemeral, Some(kem_key_pair()));
    for (part, datagram) in (1..).zip(datagrams.iter()) {
        assert_eq!(datagram, vector(&format!("{form}_initiation_{part}")), "{form}");
    }

    let datagrams: Vec<_> = datagrams.iter().collect();
    let incoming = match datagrams[..] {
        [part1, part2] => IncomingPart1::receive(&bob, part1).and_then(|part1| part1.complete(part2)),
        [whole] => Incoming::receive(&bob, whole),
        _ => unreachable!("an initiation has one or two datagrams"),
    };
    let ephemeral = key_pair("responder_ephemeral");
    let encapsulate = |public: &[u8; 1_184]| {
        let public = ml_kem_768::EncapsulationKey::new(public.into()).unwrap();
        let message = vector("kem_message");
        let (ciphertext, shared) = public.encapsulate_deterministic(message.as_slice().try_into().unwrap());
        Ok((ciphertext.into(), Zeroizing::new(shared.into())))
    };
    let (response, _) = incoming
        .unwrap()
        .respond_with(&to_alice, index("responder_index"), None, now, &ephemeral, encapsulate)
        .unwrap();
    assert_eq!(response, vector(&format!("{form}_response")), "{form}");

    let session = initiation.finish(&alice, &to_bob, &response, now).unwrap();
    for lane in [0, 15] {
        let sealer = session.sealer(lane);
        let mut packet = [&[0; HEADER_LEN], b"ShadowMesh".as_slice(), &[0; TAG_LEN]].concat();
        sealer.seal(sealer.reserve(1).unwrap(), &mut packet);
        assert_eq!(packet, vector(&format!("{form}_packet_lane_{lane}")), "{form}");
    }
}

#[test]
fn handshakes_and_packets_are_those_of_the_vectors() {
    check("aes", Suite::Aes256Gcm, false);
    check("chacha", Suite::ChaCha20Poly1305, false);
    check("split", Suite::Aes256Gcm, true);
    check("aegis", Suite::Aegis256X4, false);
}
