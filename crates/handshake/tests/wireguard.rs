//! The WireGuard protocol against an independent Noise implementation, byte for byte.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use chacha20poly1305::aead::{Aead, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use handshake::{HEADER_LEN, Incoming, Initiation, InitiationOptions, Protocol, Suite, TAG_LEN, Timestamp};
use rand_chacha::rand_core::Rng;
use snow::{Builder, HandshakeState};
use support::{ALICE_INDEX, BOB_INDEX, Pair, at, open, refresh_mac1, rng, seal};

/// The keys of [`Pair::new`] once more, as bytes.
struct Oracle {
    secret: [u8; 32],
    remote: [u8; 32],
    psk: [u8; 32],
    ephemeral: [u8; 32],
}

impl Oracle {
    /// `seeds`: of our static key, of the ephemeral key.
    fn new(seeds: [u64; 2], remote: [u8; 32]) -> Self {
        let bytes = |seed| {
            let mut bytes = [0; 32];
            rng(seed).fill_bytes(&mut bytes);
            bytes
        };
        Self { secret: bytes(seeds[0]), remote, psk: bytes(100), ephemeral: bytes(seeds[1]) }
    }

    fn builder(&self) -> Builder<'_> {
        Builder::new("Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s".parse().unwrap())
            .prologue(b"WireGuard v1 zx2c4 Jason@zx2c4.com")
            .and_then(|builder| builder.psk(2, &self.psk))
            .and_then(|builder| builder.local_private_key(&self.secret))
            .unwrap()
            .fixed_ephemeral_key_for_testing_only(&self.ephemeral)
    }

    fn initiator(&self) -> HandshakeState {
        self.builder().remote_public_key(&self.remote).unwrap().build_initiator().unwrap()
    }

    fn responder(&self) -> HandshakeState {
        self.builder().build_responder().unwrap()
    }
}

fn write(state: &mut HandshakeState, payload: &[u8]) -> Vec<u8> {
    let mut message = [0; 256];
    let len = state.write_message(payload, &mut message).unwrap();
    message[..len].to_vec()
}

fn read(state: &mut HandshakeState, message: &[u8]) -> Vec<u8> {
    let mut payload = [0; 256];
    let len = state.read_message(message, &mut payload).unwrap();
    payload[..len].to_vec()
}

const TIMESTAMP: [u8; 12] = *b"TAI64N label";

fn options() -> InitiationOptions<'static> {
    InitiationOptions {
        local_index: ALICE_INDEX,
        timestamp: Timestamp(TIMESTAMP),
        suite: Suite::Aes256Gcm,
        split: true,
        cookie: None,
    }
}

/// Checks that a data packet is laid out as whitepaper §5.4.6 has it.
fn check_data_packet(packet: &[u8], key: [u8; 32], receiver: u32, counter: u64, text: &[u8]) {
    assert_eq!(packet[..4], [4, 0, 0, 0]);
    assert_eq!(packet[4..8], receiver.to_le_bytes());
    assert_eq!(packet[8..16], counter.to_le_bytes());
    assert_eq!(packet.len(), HEADER_LEN + text.len() + TAG_LEN);
    let nonce = [&[0; 4][..], &counter.to_le_bytes()].concat();
    let opened =
        ChaCha20Poly1305::new(Key::from_slice(&key)).decrypt(Nonce::from_slice(&nonce), &packet[16..]);
    assert_eq!(opened.unwrap(), text, "with no associated data");
}

#[test]
fn our_initiator_and_the_oracle_understand_each_other() {
    let pair = Pair::new(Protocol::WireGuard);
    let (mut ours, datagrams) = Initiation::start(&pair.alice, &pair.to_bob, options(), &mut rng(40));
    let message = datagrams.iter().next().unwrap();
    assert_eq!((datagrams.iter().count(), message.len()), (1, 148), "WireGuard knows no split initiation");

    // Byte for byte what the oracle sends with the same keys.
    let twin = Oracle::new([1, 40], *pair.bob.public_key().as_bytes());
    assert_eq!(message[..8], [1, 0, 0, 0, 0x0d, 0x0c, 0x0b, 0x0a]);
    assert_eq!(message[8..116], write(&mut twin.initiator(), &TIMESTAMP));
    assert_eq!(message[132..], [0; 16], "no cookie");

    let oracle = Oracle::new([2, 41], *pair.alice.public_key().as_bytes());
    let mut responder = oracle.responder();
    assert_eq!(read(&mut responder, &message[8..116]), TIMESTAMP);
    assert_eq!(responder.get_remote_static(), Some(pair.alice.public_key().as_bytes().as_slice()));

    let mut response = [&[2, 0, 0, 0][..], &BOB_INDEX.to_le_bytes(), &ALICE_INDEX.to_le_bytes()].concat();
    response.extend(write(&mut responder, &[]));
    response.extend([0; 32]);
    refresh_mac1(&mut response, &pair.alice.public_key());
    let session = ours.finish(&pair.alice, &pair.to_bob, &response, at(0)).unwrap();
    assert_eq!(session.suite(), Suite::ChaCha20Poly1305, "WireGuard knows no other suite");

    let (to_responder, _) = responder.dangerously_get_raw_split();
    for counter in 0..3 {
        check_data_packet(
            &seal(&session, 0, b"from initiator"),
            to_responder,
            BOB_INDEX,
            counter,
            b"from initiator",
        );
    }
}

#[test]
fn our_responder_and_the_oracle_understand_each_other() {
    let pair = Pair::new(Protocol::WireGuard);
    let oracle = Oracle::new([1, 40], *pair.bob.public_key().as_bytes());
    let mut initiator = oracle.initiator();
    let mut initiation = [&[1, 0, 0, 0][..], &ALICE_INDEX.to_le_bytes()].concat();
    initiation.extend(write(&mut initiator, &TIMESTAMP));
    initiation.extend([0; 32]);
    refresh_mac1(&mut initiation, &pair.bob.public_key());

    let incoming = Incoming::receive(&pair.bob, &initiation).unwrap();
    assert_eq!((incoming.remote(), incoming.timestamp()), (pair.alice.public_key(), Timestamp(TIMESTAMP)));
    let (response, session) = incoming.respond(&pair.to_alice, BOB_INDEX, None, at(0), &mut rng(41)).unwrap();

    // Byte for byte what the oracle sends with the same keys.
    let mut twin = Oracle::new([2, 41], *pair.alice.public_key().as_bytes()).responder();
    read(&mut twin, &initiation[8..116]);
    assert_eq!(response[..4], [2, 0, 0, 0]);
    assert_eq!(response[4..12], [BOB_INDEX.to_le_bytes(), ALICE_INDEX.to_le_bytes()].concat());
    assert_eq!(response[12..60], write(&mut twin, &[]));
    assert_eq!((response.len(), &response[76..]), (92, &[0; 16][..]));

    assert_eq!(read(&mut initiator, &response[12..60]), b"");
    let (to_responder, to_initiator) = initiator.dangerously_get_raw_split();
    check_data_packet(&seal(&session, 0, b"from responder"), to_initiator, ALICE_INDEX, 0, b"from responder");

    let nonce = [&[0; 4][..], &9u64.to_le_bytes()].concat();
    let cipher = ChaCha20Poly1305::new(Key::from_slice(&to_responder));
    let sealed = cipher.encrypt(Nonce::from_slice(&nonce), &b"from initiator"[..]).unwrap();
    let packet = [&[4, 0, 0, 0][..], &BOB_INDEX.to_le_bytes(), &9u64.to_le_bytes(), &sealed].concat();
    assert_eq!(open(&session, &packet).unwrap().1, b"from initiator");
}

#[test]
fn all_of_this_holds_without_a_preshared_key() {
    let none = handshake::PresharedKey::default();
    let pair = Pair::with_psks(Protocol::WireGuard, none.clone(), none);
    let (_, datagrams) = Initiation::start(&pair.alice, &pair.to_bob, options(), &mut rng(40));
    let message = datagrams.iter().next().unwrap();
    let incoming = Incoming::receive(&pair.bob, message).unwrap();
    let (response, session) = incoming.respond(&pair.to_alice, BOB_INDEX, None, at(0), &mut rng(41)).unwrap();
    let oracle = Oracle { psk: [0; 32], ..Oracle::new([1, 40], *pair.bob.public_key().as_bytes()) };
    let mut initiator = oracle.initiator();
    assert_eq!(write(&mut initiator, &TIMESTAMP), message[8..116]);
    assert_eq!(read(&mut initiator, &response[12..60]), b"");
    let (_, to_initiator) = initiator.dangerously_get_raw_split();
    check_data_packet(&seal(&session, 0, b"text"), to_initiator, ALICE_INDEX, 0, b"text");
}
