//! Two nodes that know each other, always with the same keys, so that a corpus stays valid.

use std::sync::LazyLock;
use std::time::Instant;

use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, X25519};
use base64ct::{Base64, Encoding};
use handshake::{
    Identity, Incoming, IncomingPart1, Initiation, InitiationOptions, PeerKeys, PresharedKey, Protocol,
    Session, StaticSecret, Suite, Timestamp,
};
use rand_chacha::ChaCha12Rng;
use rand_core::{Rng, SeedableRng};

/// An initiator and a responder that speak one protocol, and what each knows of the other.
pub(crate) struct Pair {
    pub(crate) initiator: Identity,
    pub(crate) responder: Identity,
    /// The responder, as the initiator knows it.
    pub(crate) to_responder: PeerKeys,
    /// The initiator, as the responder knows it.
    pub(crate) to_initiator: PeerKeys,
    /// X25519 of their static keys.
    pub(crate) static_static: [u8; 32],
}

/// The time of all handshakes here.
pub(crate) static NOW: LazyLock<Instant> = LazyLock::new(Instant::now);

static WIREGUARD: LazyLock<Pair> = LazyLock::new(|| Pair::new(Protocol::WireGuard));
static SHADOWMESH: LazyLock<Pair> = LazyLock::new(|| Pair::new(Protocol::ShadowMesh));

impl Pair {
    fn new(protocol: Protocol) -> Self {
        let mut rng = rng(0);
        let initiator = StaticSecret::generate(&mut rng);
        let responder = Identity::new(StaticSecret::generate(&mut rng));
        let static_static = agree(&initiator, &responder);
        let initiator = Identity::new(initiator);
        let preshared = PresharedKey::generate(&mut rng);
        let keys = |identity: &Identity, remote| {
            PeerKeys::new(identity, remote, preshared.clone(), protocol).expect("not a key of low order")
        };
        let to_responder = keys(&initiator, responder.public_key());
        let to_initiator = keys(&responder, initiator.public_key());
        Self { initiator, responder, to_responder, to_initiator, static_static }
    }

    /// The lowest two bits of `kind` choose protocol and cipher.
    pub(crate) fn chosen_by(kind: u8) -> (&'static Self, Suite) {
        match kind & 3 {
            0 => (&WIREGUARD, Suite::ChaCha20Poly1305),
            1 => (&SHADOWMESH, Suite::ChaCha20Poly1305),
            _ => (&SHADOWMESH, Suite::Aes256Gcm),
        }
    }

    /// Begins a handshake; the datagrams of its initiation are one, or two when split.
    pub(crate) fn initiate(
        &self,
        suite: Suite,
        split: bool,
        rng: &mut ChaCha12Rng,
    ) -> (Initiation, Vec<Vec<u8>>) {
        let options = InitiationOptions {
            local_index: rng.next_u32(),
            timestamp: Timestamp::from_counter(7),
            suite,
            split,
            cookie: None,
        };
        let (initiation, datagrams) = Initiation::start(&self.initiator, &self.to_responder, options, rng);
        (initiation, datagrams.iter().map(<[u8]>::to_vec).collect())
    }

    /// What the responder makes of the datagrams of an initiation.
    pub(crate) fn receive(&self, datagrams: &[Vec<u8>]) -> Option<Incoming> {
        match datagrams {
            [whole] => Incoming::receive(&self.responder, whole).ok(),
            [first, second] => {
                let part1 = IncomingPart1::receive(&self.responder, first).ok()?;
                part1.matches(second).then(|| part1.complete(second).ok())?
            }
            _ => None,
        }
    }

    /// The responder's answer to an authentic initiation.
    pub(crate) fn respond(&self, incoming: Incoming, rng: &mut ChaCha12Rng) -> (Vec<u8>, Session) {
        let index = rng.next_u32();
        incoming.respond(&self.to_initiator, index, None, *NOW, rng).expect("the initiation was authentic")
    }
}

/// X25519 of a private key with a public one.
fn agree(secret: &StaticSecret, public: &Identity) -> [u8; 32] {
    let secret = Base64::decode_vec(&secret.to_base64()).expect("a key is base64");
    let secret = PrivateKey::from_private_key(&X25519, &secret).expect("a key of X25519");
    let public = public.public_key();
    let public = UnparsedPublicKey::new(&X25519, public.as_bytes());
    agreement::agree(&secret, public, (), |shared| Ok(shared.try_into().unwrap_or_default()))
        .expect("not a key of low order")
}

/// Randomness that is the same in every run.
pub(crate) fn rng(seed: u64) -> ChaCha12Rng {
    ChaCha12Rng::seed_from_u64(seed)
}

/// A session, as the initiator and as the responder have it.
pub(crate) fn shake_hands(pair: &Pair, suite: Suite, split: bool) -> (Session, Session) {
    let mut rng = rng(1);
    let (mut initiation, datagrams) = pair.initiate(suite, split, &mut rng);
    let incoming = pair.receive(&datagrams).expect("an authentic initiation");
    let (response, theirs) = pair.respond(incoming, &mut rng);
    let ours = initiation
        .finish(&pair.initiator, &pair.to_responder, &response, *NOW)
        .expect("an authentic response");
    (ours, theirs)
}

/// The messages of one authentic handshake between the two nodes of the handshake targets: the initiation, in one part
/// or two, then the response. `kind` is the first byte of such a target's input.
pub fn sample_messages(kind: u8) -> Vec<Vec<u8>> {
    let (pair, suite) = Pair::chosen_by(kind);
    let mut rng = rng(1);
    let (_, mut messages) = pair.initiate(suite, kind & 4 != 0, &mut rng);
    let incoming = pair.receive(&messages).expect("an authentic initiation");
    messages.push(pair.respond(incoming, &mut rng).0);
    messages
}
