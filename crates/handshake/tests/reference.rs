//! The ShadowMesh protocol once more, written from the crate's documentation with other libraries for ML-KEM
//! and the AEADs, and as straight as possible. It checks the crate in both roles, and pins the protocol:
//! `vectors/shadowmesh-v1.txt` never changes.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "reference/aegis.rs"]
mod aegis;
mod support;

use std::fmt::Write as _;

use aead::{open_chacha, seal_aegis, seal_aes, seal_chacha};
use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use base64ct::{Base64, Encoding};
use blake2::{Blake2s256, Digest};
use handshake::{
    Identity, Incoming, IncomingPart1, Initiation, InitiationOptions, PeerKeys, Protocol, Session, Suite,
    Timestamp,
};
use ml_kem::kem::{Decapsulate, KeyExport};
use ml_kem::ml_kem_768::{DecapsulationKey, EncapsulationKey};
use support::{ALICE_INDEX, BOB_INDEX, at, open, refresh_mac1, rng, seal};

/// The AEADs by other libraries than the crate's where there are any at hand.
mod aead {
    use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
    use chacha20poly1305::aead::{Aead, KeyInit, Payload};
    use chacha20poly1305::{ChaCha20Poly1305, Key};

    fn nonce(counter: u64) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&counter.to_le_bytes());
        nonce
    }

    pub(crate) fn seal_chacha(key: [u8; 32], counter: u64, aad: &[u8], msg: &[u8]) -> Vec<u8> {
        let cipher = ChaCha20Poly1305::new(Key::from_slice(&key));
        cipher.encrypt(&nonce(counter).into(), Payload { msg, aad }).unwrap()
    }

    pub(crate) fn open_chacha(key: [u8; 32], counter: u64, aad: &[u8], msg: &[u8]) -> Vec<u8> {
        let cipher = ChaCha20Poly1305::new(Key::from_slice(&key));
        cipher.decrypt(&nonce(counter).into(), Payload { msg, aad }).unwrap()
    }

    pub(crate) fn seal_aegis(key: [u8; 32], counter: u64, aad: &[u8], msg: &[u8]) -> Vec<u8> {
        let mut long = [0; 32];
        long[..12].copy_from_slice(&nonce(counter));
        super::aegis::seal(key, long, aad, msg)
    }

    pub(crate) fn seal_aes(key: [u8; 32], counter: u64, aad: &[u8], msg: &[u8]) -> Vec<u8> {
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).unwrap());
        let mut text = msg.to_vec();
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce(counter)), Aad::from(aad), &mut text)
            .unwrap();
        text
    }
}

fn hash(parts: &[&[u8]]) -> [u8; 32] {
    Blake2s256::digest(parts.concat()).into()
}

fn hmac(key: [u8; 32], message: &[u8]) -> [u8; 32] {
    let pad = |byte: u8| {
        let mut block = [byte; 64];
        block.iter_mut().zip(key).for_each(|(pad, key)| *pad ^= key);
        block
    };
    hash(&[&pad(0x5c), &hash(&[&pad(0x36), message])])
}

fn hkdf(chaining_key: [u8; 32], input: &[u8]) -> [[u8; 32]; 3] {
    let secret = hmac(chaining_key, input);
    let first = hmac(secret, &[1]);
    let second = hmac(secret, &[&first[..], &[2]].concat());
    [first, second, hmac(secret, &[&second[..], &[3]].concat())]
}

fn x25519(secret: [u8; 32], public: &[u8]) -> [u8; 32] {
    let secret = PrivateKey::from_private_key(&X25519, &secret).unwrap();
    let public = UnparsedPublicKey::new(&X25519, public);
    agree(&secret, public, (), |shared| Ok(<[u8; 32]>::try_from(shared).unwrap())).unwrap()
}

fn public(secret: [u8; 32]) -> [u8; 32] {
    let secret = PrivateKey::from_private_key(&X25519, &secret).unwrap();
    secret.compute_public_key().unwrap().as_ref().try_into().unwrap()
}

const ALICE: [u8; 32] = [0x11; 32];
const BOB: [u8; 32] = [0x22; 32];
const PSK: [u8; 32] = [0x33; 32];
const ALICE_EPHEMERAL: [u8; 32] = [0x44; 32];
const BOB_EPHEMERAL: [u8; 32] = [0x55; 32];
const KEM_SEED: [u8; 64] = [0x66; 64];
const KEM_MESSAGE: [u8; 32] = [0x77; 32];
const COUNTER: u64 = 0x0102_0304_0506_0708;

fn kem_key() -> DecapsulationKey {
    DecapsulationKey::from_seed(KEM_SEED.into())
}

fn kem_public() -> [u8; 1_184] {
    kem_key().encapsulation_key().to_bytes().into()
}

/// Chaining key, hash, key and nonce of a Noise handshake.
#[derive(Clone)]
struct Noise {
    ck: [u8; 32],
    h: [u8; 32],
    k: [u8; 32],
    n: u64,
}

impl Noise {
    fn new() -> Self {
        let ck = hash(&[b"ShadowMesh_IKpsk2+ekem_25519+MLKEM768_ChaChaPoly_BLAKE2s"]);
        let mut noise = Self { ck, h: hash(&[&ck, b"ShadowMesh v1"]), k: [0; 32], n: 0 };
        noise.mix_hash(&public(BOB));
        noise
    }

    fn mix_hash(&mut self, data: &[u8]) {
        self.h = hash(&[&self.h, data]);
    }

    fn mix_key(&mut self, input: &[u8]) {
        [self.ck, self.k, _] = hkdf(self.ck, input);
        self.n = 0;
    }

    fn mix_ephemeral(&mut self, key: &[u8]) {
        self.mix_hash(key);
        self.mix_key(key);
    }

    fn mix_psk(&mut self) {
        let [ck, extra, k] = hkdf(self.ck, &PSK);
        (self.ck, self.k, self.n) = (ck, k, 0);
        self.mix_hash(&extra);
    }

    fn encrypt(&mut self, text: &[u8]) -> Vec<u8> {
        let sealed = seal_chacha(self.k, self.n, &self.h, text);
        self.n += 1;
        self.mix_hash(&sealed);
        sealed
    }

    fn decrypt(&mut self, sealed: &[u8]) -> Vec<u8> {
        let text = open_chacha(self.k, self.n, &self.h, sealed);
        self.n += 1;
        self.mix_hash(sealed);
        text
    }

    /// The keys of a lane, from initiator to responder first.
    fn lane(&self, lane: u8) -> [[u8; 32]; 2] {
        let [secret, ..] = hkdf(self.ck, &self.h);
        let [to_responder, to_initiator, _] = hkdf(secret, &[lane]);
        [to_responder, to_initiator]
    }
}

fn with_mac1(mut message: Vec<u8>, receiver: [u8; 32]) -> Vec<u8> {
    message.extend(if message[0] == 22 { vec![0; 16] } else { vec![0; 32] });
    refresh_mac1(&mut message, &handshake::PublicKey::from_bytes(receiver));
    message
}

/// Alice's datagrams, and her state after them.
fn initiation(suite: u8, split: bool, kem_public: &[u8]) -> (Vec<Vec<u8>>, Noise) {
    let mut noise = Noise::new();
    let mut message = vec![if split { 21 } else { 17 }, suite, 0, 0];
    message.extend(ALICE_INDEX.to_le_bytes());
    noise.mix_hash(&message);
    let ephemeral = public(ALICE_EPHEMERAL);
    noise.mix_ephemeral(&ephemeral);
    message.extend(ephemeral);
    noise.mix_key(&x25519(ALICE_EPHEMERAL, &public(BOB)));
    message.extend(noise.encrypt(&public(ALICE)));
    noise.mix_key(&x25519(ALICE, &public(BOB)));

    let sealed_kem = seal_chacha(noise.k, noise.n, &noise.h, kem_public);
    noise.n += 1;
    let digest = hash(&[&sealed_kem]);
    noise.mix_hash(&digest);
    message.extend(if split { digest.to_vec() } else { sealed_kem.clone() });

    message.extend(noise.encrypt(&[&COUNTER.to_be_bytes()[..], &[0; 4]].concat()));
    let mut datagrams = vec![with_mac1(message, public(BOB))];
    if split {
        let part2 = [&[22, 0, 0, 0][..], &ALICE_INDEX.to_le_bytes(), &sealed_kem].concat();
        datagrams.push(with_mac1(part2, public(BOB)));
    }
    (datagrams, noise)
}

/// Bob's response to Alice's `noise` and KEM key, and the final state.
fn response(mut noise: Noise, alice_ephemeral: &[u8], kem_public: &EncapsulationKey) -> (Vec<u8>, Noise) {
    let mut message = [&[18, 0, 0, 0][..], &BOB_INDEX.to_le_bytes(), &ALICE_INDEX.to_le_bytes()].concat();
    noise.mix_hash(&message);
    let ephemeral = public(BOB_EPHEMERAL);
    noise.mix_ephemeral(&ephemeral);
    message.extend(ephemeral);
    noise.mix_key(&x25519(BOB_EPHEMERAL, alice_ephemeral));
    noise.mix_key(&x25519(BOB_EPHEMERAL, &public(ALICE)));
    let (ciphertext, shared) = kem_public.encapsulate_deterministic(&KEM_MESSAGE.into());
    message.extend(noise.encrypt(&ciphertext));
    noise.mix_key(&shared);
    noise.mix_psk();
    message.extend(noise.encrypt(&[]));
    message.extend([0; 32]);
    support::write_mac1(&mut message, b"ShadowMesh v1 response mac1", &x25519(BOB, &public(ALICE)));
    (message, noise)
}

/// Alice's state after reading Bob's response.
fn read_response(mut noise: Noise, message: &[u8]) -> Noise {
    noise.mix_hash(&message[..12]);
    noise.mix_ephemeral(&message[12..44]);
    noise.mix_key(&x25519(ALICE_EPHEMERAL, &message[12..44]));
    noise.mix_key(&x25519(ALICE, &message[12..44]));
    let ciphertext = noise.decrypt(&message[44..1_148]);
    let shared = kem_key().decapsulate(ciphertext.as_slice().try_into().unwrap());
    noise.mix_key(&shared);
    noise.mix_psk();
    assert_eq!(noise.decrypt(&message[1_148..1_164]), b"");
    noise
}

/// A data packet of the protocol.
fn packet(
    keys: [[u8; 32]; 2],
    from_initiator: bool,
    suite: u8,
    lane: u8,
    counter: u64,
    text: &[u8],
) -> Vec<u8> {
    let (key, receiver) = if from_initiator { (keys[0], BOB_INDEX) } else { (keys[1], ALICE_INDEX) };
    let header = [&[20, lane, 0, 0][..], &receiver.to_le_bytes(), &counter.to_le_bytes()].concat();
    let seal = match suite {
        1 => seal_aes,
        2 => seal_chacha,
        _ => seal_aegis,
    };
    let sealed = seal(key, counter, &header, text);
    [header, sealed].concat()
}

fn parse<T: std::str::FromStr<Err = handshake::InvalidKey>>(bytes: [u8; 32]) -> T {
    Base64::encode_string(&bytes).parse().unwrap()
}

fn keys(ours: [u8; 32], theirs: [u8; 32]) -> (Identity, PeerKeys) {
    let identity = Identity::new(parse(ours));
    let public = parse::<handshake::StaticSecret>(theirs).public_key();
    let peer = PeerKeys::new(&identity, public, parse(PSK), Protocol::ShadowMesh).unwrap();
    (identity, peer)
}

/// Every packet of the reference opens in `session`, and the other way round.
fn check_session(session: &Session, noise: &Noise, suite: u8) {
    for lane in [0, 1, 15] {
        let keys = noise.lane(lane);
        let ours = packet(keys, session.is_initiator(), suite, lane, 0, b"ours");
        assert_eq!(seal(session, lane, b"ours"), ours, "lane {lane}");
        let theirs = packet(keys, !session.is_initiator(), suite, lane, 41, b"theirs");
        assert_eq!(open(session, &theirs).unwrap().1, b"theirs", "lane {lane}");
    }
}

#[test]
fn our_responder_understands_the_reference() {
    let (bob, to_alice) = keys(BOB, ALICE);
    for (suite, split) in [(1, false), (2, false), (3, false), (1, true), (2, true), (3, true)] {
        let (datagrams, noise) = initiation(suite, split, &kem_public());
        let incoming = match &datagrams[..] {
            [part1, part2] => IncomingPart1::receive(&bob, part1).and_then(|part1| part1.complete(part2)),
            whole => Incoming::receive(&bob, &whole[0]),
        };
        let incoming = incoming.unwrap();
        assert_eq!(incoming.remote().as_bytes(), &public(ALICE));
        assert_eq!(incoming.timestamp(), Timestamp::from_counter(COUNTER));
        let (response, session) = incoming.respond(&to_alice, BOB_INDEX, None, at(0), &mut rng(1)).unwrap();
        assert_eq!(
            response[..12],
            [[18, 0, 0, 0], BOB_INDEX.to_le_bytes(), ALICE_INDEX.to_le_bytes()].concat()
        );
        check_session(&session, &read_response(noise, &response), suite);
    }
}

#[test]
fn our_initiator_understands_the_reference() {
    let (alice, to_bob) = keys(ALICE, BOB);
    for (suite, split) in [(1, false), (2, false), (3, false), (1, true), (2, true), (3, true)] {
        let options = InitiationOptions {
            local_index: ALICE_INDEX,
            timestamp: Timestamp::from_counter(COUNTER),
            suite: [Suite::Aes256Gcm, Suite::ChaCha20Poly1305, Suite::Aegis256X4][usize::from(suite) - 1],
            split,
            cookie: None,
        };
        let (mut ours, datagrams) = Initiation::start(&alice, &to_bob, options, &mut rng(1));
        let datagrams = support::to_vecs(&datagrams);

        // Read it as Bob would.
        let first = &datagrams[0];
        let mut noise = Noise::new();
        noise.mix_hash(&first[..8]);
        noise.mix_ephemeral(&first[8..40]);
        noise.mix_key(&x25519(BOB, &first[8..40]));
        assert_eq!(noise.decrypt(&first[40..88]), public(ALICE));
        noise.mix_key(&x25519(BOB, &public(ALICE)));
        let sealed_kem = if split { &datagrams[1][8..1_208] } else { &first[88..1_288] };
        let kem_public = open_chacha(noise.k, noise.n, &noise.h, sealed_kem);
        noise.n += 1;
        noise.mix_hash(&hash(&[sealed_kem]));
        let sealed_counter = if split { &first[120..148] } else { &first[1_288..1_316] };
        assert_eq!(noise.decrypt(sealed_counter), [&COUNTER.to_be_bytes()[..], &[0; 4]].concat());

        let kem_public = EncapsulationKey::new(kem_public.as_slice().try_into().unwrap()).unwrap();
        let (response, noise) = response(noise, &first[8..40], &kem_public);
        let session = ours.finish(&alice, &to_bob, &response, at(0)).unwrap();
        check_session(&session, &noise, suite);
    }
}

#[test]
fn an_initiation_with_an_invalid_kem_key_gets_no_response() {
    // FIPS 203 §7.2: coefficients of 4,095 are not reduced modulo 3,329.
    let (bob, to_alice) = keys(BOB, ALICE);
    let (datagrams, _) = initiation(1, false, &[0xff; 1_184]);
    let incoming = Incoming::receive(&bob, &datagrams[0]).unwrap();
    let result = incoming.respond(&to_alice, BOB_INDEX, None, at(0), &mut rng(1));
    assert_eq!(result.err(), Some(handshake::HandshakeError::InvalidKemKey));
}

/// All messages of the protocol for the fixed keys above, one `name hex` a line.
fn vectors() -> String {
    let mut text = String::new();
    let mut line = |name: &str, bytes: &[u8]| {
        write!(text, "{name} ").unwrap();
        for byte in bytes {
            write!(text, "{byte:02x}").unwrap();
        }
        text.push('\n');
    };
    line("initiator_static", &ALICE);
    line("responder_static", &BOB);
    line("preshared", &PSK);
    line("initiator_ephemeral", &ALICE_EPHEMERAL);
    line("responder_ephemeral", &BOB_EPHEMERAL);
    line("kem_seed", &KEM_SEED);
    line("kem_message", &KEM_MESSAGE);
    line("initiator_index", &ALICE_INDEX.to_be_bytes());
    line("responder_index", &BOB_INDEX.to_be_bytes());
    line("counter", &COUNTER.to_be_bytes());
    for (form, suite, split) in
        [("aes", 1, false), ("chacha", 2, false), ("split", 1, true), ("aegis", 3, false)]
    {
        let (datagrams, noise) = initiation(suite, split, &kem_public());
        for (part, datagram) in (1..).zip(&datagrams) {
            line(&format!("{form}_initiation_{part}"), datagram);
        }
        let (message, noise) = response(noise, &public(ALICE_EPHEMERAL), kem_key().encapsulation_key());
        line(&format!("{form}_response"), &message);
        for lane in [0, 15] {
            let keys = noise.lane(lane);
            line(&format!("{form}_packet_lane_{lane}"), &packet(keys, true, suite, lane, 0, b"ShadowMesh"));
        }
    }
    text
}

#[test]
fn the_protocol_is_the_one_of_the_committed_vectors() {
    let committed = include_str!("vectors/shadowmesh-v1.txt");
    for (committed, now) in committed.lines().zip(vectors().lines()) {
        assert_eq!(committed, now);
    }
    assert_eq!(committed.lines().count(), vectors().lines().count());
}
