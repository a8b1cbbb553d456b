//! The tags by which peers recognise each other on a local network.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use base64ct::{Base64, Encoding};
use handshake::{Identity, InvalidKey, PeerKeys, PresharedKey, Protocol, PublicKey, StaticSecret};

fn key<T: std::str::FromStr<Err = InvalidKey>>(byte: u8) -> T {
    Base64::encode_string(&[byte; 32]).parse().unwrap()
}

fn public(byte: u8) -> PublicKey {
    key::<StaticSecret>(byte).public_key()
}

fn peer(ours: u8, theirs: u8, preshared: u8, protocol: Protocol) -> PeerKeys {
    PeerKeys::new(&Identity::new(key(ours)), public(theirs), key(preshared), protocol).unwrap()
}

#[test]
fn tags_are_those_of_another_implementation() {
    // Made by the formula in the documentation with Python's hashlib.blake2s and the X25519 of its `cryptography`.
    for (preshared, sender, day, tag) in [
        (0x33, 0x11, 20_777, 0x7274_8ad8_2d62_f4a6_u64),
        (0x33, 0x22, 20_777, 0x45d8_24d9_7102_d8c7),
        (0x33, 0x11, 20_778, 0xfc85_408c_a74c_f13c),
        (0x33, 0x22, 20_778, 0x0719_ac1b_20d0_2d08),
        (0, 0x11, 20_777, 0x1c59_e5fa_220c_c4c5),
        (0, 0x22, 20_777, 0x3b41_4341_92a9_4c8b),
    ] {
        for (ours, theirs) in [(0x11, 0x22), (0x22, 0x11)] {
            for protocol in [Protocol::ShadowMesh, Protocol::WireGuard] {
                let key = peer(ours, theirs, preshared, protocol).discovery_key();
                assert_eq!(key.tag(day, &public(sender)), tag.to_be_bytes());
            }
        }
    }
}

#[test]
fn nobody_else_has_the_tag_of_a_pair_and_a_day() {
    let tag = |ours, theirs, preshared, day, sender| {
        peer(ours, theirs, preshared, Protocol::ShadowMesh).discovery_key().tag(day, &public(sender))
    };
    let ours = tag(0x11, 0x22, 0, 1, 0x11);
    let others = [
        tag(0x11, 0x22, 0, 2, 0x11), // another day
        tag(0x11, 0x22, 0, 1, 0x22), // the other direction
        tag(0x11, 0x22, 1, 1, 0x11), // another preshared key
        tag(0x11, 0x44, 0, 1, 0x11), // another peer of the sender
        tag(0x44, 0x22, 0, 1, 0x11), // somebody else who knows both public keys
    ];
    assert!(!others.contains(&ours));
}

#[test]
fn the_key_is_not_printed() {
    let key = PeerKeys::new(&Identity::new(key(1)), public(2), PresharedKey::default(), Protocol::ShadowMesh);
    assert_eq!(format!("{:?}", key.unwrap().discovery_key()), "DiscoveryKey(redacted)");
}
