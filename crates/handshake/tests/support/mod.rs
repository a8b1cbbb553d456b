//! Two peers and what they do, for every test of this crate.

#![allow(dead_code, unreachable_pub, reason = "each test uses its part of this")]

use std::time::{Duration, Instant};

use handshake::{
    Cookie, Datagrams, HEADER_LEN, HandshakeError, Identity, Incoming, IncomingPart1, Initiation,
    InitiationOptions, OpenError, Opened, PeerKeys, PresharedKey, Protocol, Session, StaticSecret, Suite,
    TAG_LEN, Timestamp,
};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

pub const ALICE_INDEX: u32 = 0x0a0b_0c0d;
pub const BOB_INDEX: u32 = 0x1a1b_1c1d;

pub fn rng(seed: u64) -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(seed)
}

/// Some fixed moment, and `seconds` after it.
pub fn at(seconds: u64) -> Instant {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    #[expect(
        clippy::disallowed_methods,
        reason = "an Instant can only be had from the clock; its value does not matter"
    )]
    let start = *START.get_or_init(Instant::now);
    start + Duration::from_secs(seconds)
}

/// Alice initiates, Bob responds. Each knows the other.
pub struct Pair {
    pub alice: Identity,
    pub bob: Identity,
    /// What Alice knows of Bob.
    pub to_bob: PeerKeys,
    /// What Bob knows of Alice.
    pub to_alice: PeerKeys,
    /// X25519 of their static keys.
    pub static_static: [u8; 32],
    pub suite: Suite,
    pub split: bool,
    pub rng: ChaCha20Rng,
}

impl Pair {
    pub fn new(protocol: Protocol) -> Self {
        let psk = PresharedKey::generate(&mut rng(100));
        Self::with_psks(protocol, psk.clone(), psk)
    }

    pub fn with_psks(protocol: Protocol, alices: PresharedKey, bobs: PresharedKey) -> Self {
        let alice = StaticSecret::generate(&mut rng(1));
        let bob = Identity::new(StaticSecret::generate(&mut rng(2)));
        let static_static = x25519(&alice, &bob.public_key());
        let alice = Identity::new(alice);
        let to_bob = PeerKeys::new(&alice, bob.public_key(), alices, protocol).unwrap();
        let to_alice = PeerKeys::new(&bob, alice.public_key(), bobs, protocol).unwrap();
        let suite = Suite::Aegis256X4;
        Self { alice, bob, to_bob, to_alice, static_static, suite, split: false, rng: rng(3) }
    }

    /// One pair for each form a handshake can take.
    pub fn every_form() -> Vec<(&'static str, Self)> {
        let shadowmesh = || Self::new(Protocol::ShadowMesh);
        vec![
            ("WireGuard", Self::new(Protocol::WireGuard)),
            ("ShadowMesh, AEGIS-256X4", shadowmesh()),
            ("ShadowMesh, AES-256-GCM", Self { suite: Suite::Aes256Gcm, ..shadowmesh() }),
            ("ShadowMesh, ChaCha20-Poly1305", Self { suite: Suite::ChaCha20Poly1305, ..shadowmesh() }),
            ("ShadowMesh, split", Self { split: true, ..shadowmesh() }),
        ]
    }

    pub fn initiate(&mut self) -> (Initiation, Vec<Vec<u8>>) {
        self.initiate_with(None)
    }

    pub fn initiate_with(&mut self, cookie: Option<&Cookie>) -> (Initiation, Vec<Vec<u8>>) {
        let options = InitiationOptions {
            local_index: ALICE_INDEX,
            timestamp: Timestamp::from_counter(7),
            suite: self.suite,
            split: self.split,
            cookie,
        };
        let (initiation, datagrams) = Initiation::start(&self.alice, &self.to_bob, options, &mut self.rng);
        (initiation, to_vecs(&datagrams))
    }

    /// What Bob makes of the datagrams of an initiation.
    pub fn receive(&self, datagrams: &[Vec<u8>]) -> Result<Incoming, HandshakeError> {
        match datagrams {
            [whole] => Incoming::receive(&self.bob, whole),
            [part1, part2] => IncomingPart1::receive(&self.bob, part1)?.complete(part2),
            other => panic!("an initiation has one or two datagrams, not {}", other.len()),
        }
    }

    pub fn respond(&mut self, incoming: Incoming) -> Result<(Vec<u8>, Session), HandshakeError> {
        incoming.respond(&self.to_alice, BOB_INDEX, None, at(0), &mut self.rng)
    }

    /// A complete handshake: Alice's session and Bob's.
    pub fn sessions(&mut self) -> (Session, Session) {
        let (mut initiation, datagrams) = self.initiate();
        let incoming = self.receive(&datagrams).unwrap();
        let (response, bobs) = self.respond(incoming).unwrap();
        let alices = initiation.finish(&self.alice, &self.to_bob, &response, at(0)).unwrap();
        (alices, bobs)
    }
}

pub fn to_vecs(datagrams: &Datagrams) -> Vec<Vec<u8>> {
    datagrams.iter().map(<[u8]>::to_vec).collect()
}

/// Seals `plaintext` as the next packet of a lane.
pub fn seal(session: &Session, lane: u8, plaintext: &[u8]) -> Vec<u8> {
    let sealer = session.sealer(lane);
    let counter = sealer.reserve(1).unwrap();
    let mut packet = vec![0; HEADER_LEN + plaintext.len() + TAG_LEN];
    packet[HEADER_LEN..][..plaintext.len()].copy_from_slice(plaintext);
    sealer.seal(counter, &mut packet);
    packet
}

/// Opens a packet on the lane it names.
pub fn open(session: &Session, packet: &[u8]) -> Result<(Opened, Vec<u8>), OpenError> {
    let lane = packet.get(1).copied().unwrap_or(0);
    let mut packet = packet.to_vec();
    let opened = session.opener(lane)?.open(&mut packet)?;
    Ok((opened, packet[HEADER_LEN..packet.len() - TAG_LEN].to_vec()))
}

/// A copy of `datagram` with one bit flipped.
pub fn flip(datagram: &[u8], bit: usize) -> Vec<u8> {
    let mut flipped = datagram.to_vec();
    flipped[bit / 8] ^= 1 << (bit % 8);
    flipped
}

/// Makes the first MAC of a handshake message right again, as anyone can who knows the receiver's public key.
/// Written against the documentation, not the code: labels and offsets are repeated here on purpose.
pub fn refresh_mac1(message: &mut [u8], receiver: &handshake::PublicKey) {
    let label: &[u8] = if message[0] < 16 { b"mac1----" } else { b"ShadowMesh v1 mac1" };
    write_mac1(message, label, receiver.as_bytes());
}

/// The same for Bob's response to Alice: of the native protocol only the two of them can.
pub fn refresh_response_mac1(message: &mut [u8], pair: &Pair) {
    match pair.to_bob.protocol() {
        Protocol::WireGuard => refresh_mac1(message, &pair.alice.public_key()),
        Protocol::ShadowMesh => write_mac1(message, b"ShadowMesh v1 response mac1", &pair.static_static),
    }
}

fn x25519(secret: &StaticSecret, public: &handshake::PublicKey) -> [u8; 32] {
    use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
    use base64ct::{Base64, Encoding};

    let secret = Base64::decode_vec(&secret.to_base64()).unwrap();
    let secret = PrivateKey::from_private_key(&X25519, &secret).unwrap();
    let public = UnparsedPublicKey::new(&X25519, public.as_bytes());
    agree(&secret, public, (), |shared| Ok(<[u8; 32]>::try_from(shared).unwrap())).unwrap()
}

pub fn write_mac1(message: &mut [u8], label: &[u8], of: &[u8; 32]) {
    use blake2::digest::{FixedOutput, KeyInit, Update, consts::U16};
    use blake2::{Blake2s256, Blake2sMac, Digest};

    let key = Blake2s256::new().chain_update(label).chain_update(of).finalize();
    let start = message.len() - if message[0] == 22 { 16 } else { 32 };
    let (body, macs) = message.split_at_mut(start);
    let mut mac = Blake2sMac::<U16>::new_from_slice(&key).unwrap();
    mac.update(body);
    macs[..16].copy_from_slice(&mac.finalize_fixed());
}
