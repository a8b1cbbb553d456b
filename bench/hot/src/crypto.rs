//! Sessions and handshakes.

use std::hint::black_box;
use std::time::Instant;

use handshake::{
    HEADER_LEN, Identity, Incoming, Initiation, InitiationOptions, PeerKeys, PresharedKey, Protocol,
    PublicKey, ReplayWindow, Session, StaticSecret, Suite, TAG_LEN, Timestamp,
};
use rand_chacha::ChaCha12Rng;
use rand_core::SeedableRng;

use crate::{Batch, Hot, done};

pub(crate) const HOT: &[Hot] = &[
    Hot {
        name: "seal-aes-gcm",
        unit: "packet",
        what: "1,400 bytes sealed with AES-256-GCM",
        prepare: |batch| seal(batch, Suite::Aes256Gcm),
    },
    Hot {
        name: "open-aes-gcm",
        unit: "packet",
        what: "1,400 bytes opened with AES-256-GCM, replay window included",
        prepare: |batch| open(batch, Suite::Aes256Gcm),
    },
    Hot {
        name: "seal-chacha20-poly1305",
        unit: "packet",
        what: "1,400 bytes sealed with ChaCha20-Poly1305",
        prepare: |batch| seal(batch, Suite::ChaCha20Poly1305),
    },
    Hot {
        name: "open-chacha20-poly1305",
        unit: "packet",
        what: "1,400 bytes opened with ChaCha20-Poly1305, replay window included",
        prepare: |batch| open(batch, Suite::ChaCha20Poly1305),
    },
    Hot {
        name: "replay-window",
        unit: "packet",
        what: "a counter checked and recorded, in order but for every eighth",
        prepare: replay_window,
    },
    Hot {
        name: "handshake-responder",
        unit: "handshake",
        what: "a hybrid initiation authenticated and answered",
        prepare: |batch| respond(batch, Protocol::ShadowMesh),
    },
    Hot {
        name: "handshake-responder-wg",
        unit: "handshake",
        what: "the same of the WireGuard protocol",
        prepare: |batch| respond(batch, Protocol::WireGuard),
    },
];

const PLAINTEXT: usize = 1_400;
const DATAGRAM: usize = HEADER_LEN + PLAINTEXT + TAG_LEN;

/// Two nodes that know each other.
struct Pair {
    initiator: Identity,
    responder: Identity,
    to_responder: PeerKeys,
    to_initiator: PeerKeys,
    rng: ChaCha12Rng,
}

impl Pair {
    fn new(protocol: Protocol) -> Self {
        let mut rng = ChaCha12Rng::seed_from_u64(1);
        let initiator = Identity::new(StaticSecret::generate(&mut rng));
        let responder = Identity::new(StaticSecret::generate(&mut rng));
        let keys = |identity: &Identity, remote| {
            PeerKeys::new(identity, remote, PresharedKey::default(), protocol).expect("a good key")
        };
        let to_responder = keys(&initiator, responder.public_key());
        let to_initiator = keys(&responder, initiator.public_key());
        Self { initiator, responder, to_responder, to_initiator, rng }
    }

    fn initiate(&mut self, counter: u64, suite: Suite) -> (Initiation, Vec<u8>) {
        let options = InitiationOptions {
            local_index: 1,
            timestamp: Timestamp::from_counter(counter),
            suite,
            split: false,
            cookie: None,
        };
        let (initiation, datagrams) =
            Initiation::start(&self.initiator, &self.to_responder, options, &mut self.rng);
        (initiation, datagrams.iter().flatten().copied().collect())
    }

    fn respond(&mut self, initiation: &[u8], now: Instant) -> (Vec<u8>, Session) {
        // As the node does it, which knows its peers.
        let find = |_: &PublicKey| Some(&self.to_initiator);
        let incoming = Incoming::receive_from(&self.responder, initiation, find).expect("authentic");
        incoming.respond(&self.to_initiator, 2, None, now, &mut self.rng).expect("authentic")
    }
}

/// A session, as the initiator and as the responder have it.
fn sessions(suite: Suite) -> (Session, Session) {
    let mut pair = Pair::new(Protocol::ShadowMesh);
    let now = Instant::now();
    let (mut initiation, datagram) = pair.initiate(1, suite);
    let (response, right) = pair.respond(&datagram, now);
    let left = initiation.finish(&pair.initiator, &pair.to_responder, &response, now).expect("authentic");
    (left, right)
}

/// `count` sealed datagrams, one after the other.
fn sealed(session: &Session, count: usize) -> Vec<u8> {
    let mut datagrams = vec![0x5a; count * DATAGRAM];
    let sealer = session.sealer(0);
    for datagram in datagrams.chunks_mut(DATAGRAM) {
        let counter = sealer.reserve(1).expect("counters are left");
        sealer.seal(counter, datagram);
    }
    datagrams
}

fn seal(batch: usize, suite: Suite) -> Batch {
    let (left, _) = sessions(suite);
    let mut datagram = sealed(&left, 1);
    Box::new(move || {
        let sealer = left.sealer(0);
        for _ in 0..batch {
            let counter = sealer.reserve(1).expect("counters are left");
            sealer.seal(counter, black_box(&mut datagram));
        }
        done(batch as u64, datagram)
    })
}

fn open(batch: usize, suite: Suite) -> Batch {
    let (left, right) = sessions(suite);
    let mut datagrams = sealed(&left, batch + 1);
    // The first one makes the lane's keys.
    let mut rest = datagrams.split_off(DATAGRAM);
    right.opener(0).expect("a lane").open(&mut datagrams).expect("authentic");
    Box::new(move || {
        let mut opener = right.opener(0).expect("a lane");
        for datagram in rest.chunks_mut(DATAGRAM) {
            opener.open(black_box(datagram)).expect("authentic");
        }
        done(batch as u64, rest)
    })
}

fn replay_window(batch: usize) -> Batch {
    let mut window = Box::new(ReplayWindow::new());
    Box::new(move || {
        for index in 0..batch as u64 {
            // 1 0 3 2 5 4 … in every eighth pair
            let counter = if index % 16 < 2 { index ^ 1 } else { index };
            assert!(window.check(black_box(counter)).is_ok());
            window.record(counter);
        }
        done(batch as u64, window)
    })
}

fn respond(batch: usize, protocol: Protocol) -> Batch {
    let mut pair = Pair::new(protocol);
    let initiations: Vec<Vec<u8>> =
        (0..batch as u64).map(|counter| pair.initiate(counter, Suite::Aes256Gcm).1).collect();
    let now = Instant::now();
    Box::new(move || {
        for initiation in &initiations {
            black_box(pair.respond(initiation, now));
        }
        done(batch as u64, (initiations, pair))
    })
}
