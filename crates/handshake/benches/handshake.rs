//! What a handshake costs, and what a packet costs. `cargo bench -p handshake`.

use std::time::Instant;

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use handshake::{
    HEADER_LEN, Identity, Incoming, Initiation, InitiationOptions, PeerKeys, PresharedKey, Protocol, Session,
    StaticSecret, Suite, TAG_LEN, Timestamp,
};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

fn main() {
    divan::main();
}

const PROTOCOLS: [Protocol; 2] = [Protocol::WireGuard, Protocol::ShadowMesh];
const SUITES: [Suite; 3] = Suite::ALL;
const PLAINTEXT_BYTES: [usize; 3] = [64, 1_400, 8_900];

struct Pair {
    alice: Identity,
    bob: Identity,
    to_bob: PeerKeys,
    to_alice: PeerKeys,
    suite: Suite,
    rng: ChaCha20Rng,
    now: Instant,
}

impl Pair {
    fn new(protocol: Protocol, suite: Suite) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let alice = Identity::new(StaticSecret::generate(&mut rng));
        let bob = Identity::new(StaticSecret::generate(&mut rng));
        let keys = |identity, other: &Identity| {
            PeerKeys::new(identity, other.public_key(), PresharedKey::default(), protocol)
                .expect("a good key")
        };
        let (to_bob, to_alice) = (keys(&alice, &bob), keys(&bob, &alice));
        #[expect(clippy::disallowed_methods, reason = "the value does not matter")]
        let now = Instant::now();
        Self { alice, bob, to_bob, to_alice, suite, rng, now }
    }

    fn initiate(&mut self) -> (Initiation, Vec<u8>) {
        let options = InitiationOptions {
            local_index: 1,
            timestamp: Timestamp::from_counter(1),
            suite: self.suite,
            split: false,
            cookie: None,
        };
        let (initiation, datagrams) = Initiation::start(&self.alice, &self.to_bob, options, &mut self.rng);
        let datagram = datagrams.iter().next().expect("there is a first datagram").to_vec();
        (initiation, datagram)
    }

    fn respond(&mut self, datagram: &[u8]) -> (Vec<u8>, Session) {
        let incoming =
            Incoming::receive_from(&self.bob, datagram, |_| Some(&self.to_alice)).expect("it is authentic");
        incoming.respond(&self.to_alice, 2, None, self.now, &mut self.rng).expect("it is Alice")
    }

    fn sessions(&mut self) -> (Session, Session) {
        let (mut initiation, datagram) = self.initiate();
        let (response, bob) = self.respond(&datagram);
        (initiation.finish(&self.alice, &self.to_bob, &response, self.now).expect("it is authentic"), bob)
    }
}

/// From the arrival of an initiation to the session whose first lane is ready. The goal is 125 µs.
#[divan::bench(args = PROTOCOLS)]
fn responder(bencher: Bencher<'_, '_>, protocol: Protocol) {
    let mut pair = Pair::new(protocol, Suite::Aes256Gcm);
    let (_, datagram) = pair.initiate();
    bencher.bench_local(|| {
        let (response, session) = pair.respond(black_box(&datagram));
        black_box(session.sealer(0).reserve(1).expect("the session is new"));
        (response, session)
    });
}

/// The part of the above that anyone can cause who knows our public key.
#[divan::bench(args = PROTOCOLS)]
fn receive_initiation(bencher: Bencher<'_, '_>, protocol: Protocol) {
    let mut pair = Pair::new(protocol, Suite::Aes256Gcm);
    let (_, datagram) = pair.initiate();
    bencher.bench_local(|| {
        Incoming::receive_from(&pair.bob, black_box(&datagram), |_| Some(&pair.to_alice))
            .expect("it is authentic")
    });
}

#[divan::bench(args = PROTOCOLS)]
fn initiator(bencher: Bencher<'_, '_>, protocol: Protocol) {
    let mut pair = Pair::new(protocol, Suite::Aes256Gcm);
    bencher.bench_local(|| pair.initiate());
}

/// Seals a packet and counts it.
#[divan::bench(args = PLAINTEXT_BYTES, consts = [0, 1])]
fn seal<const SUITE: usize>(bencher: Bencher<'_, '_>, bytes: usize) {
    let (alice, _) = Pair::new(Protocol::ShadowMesh, SUITES[SUITE]).sessions();
    let mut packet = vec![0; HEADER_LEN + bytes + TAG_LEN];
    let sealer = alice.sealer(0);
    bencher.counter(BytesCount::new(bytes)).bench_local(|| {
        let counter = sealer.reserve(1).expect("it does not take that long");
        sealer.seal(counter, black_box(&mut packet));
    });
}

/// Opens packets that come in order, as a run of them does under one opener.
#[divan::bench(args = PLAINTEXT_BYTES, consts = [0, 1])]
fn open<const SUITE: usize>(bencher: Bencher<'_, '_>, bytes: usize) {
    const RUN: usize = 64;
    let (alice, bob) = Pair::new(Protocol::ShadowMesh, SUITES[SUITE]).sessions();
    let run = || -> Vec<Vec<u8>> {
        let sealer = alice.sealer(0);
        let first = sealer.reserve(RUN as u64).expect("it does not take that long");
        let mut packets = vec![vec![0; HEADER_LEN + bytes + TAG_LEN]; RUN];
        (first..).zip(&mut packets).for_each(|(counter, packet)| sealer.seal(counter, packet));
        packets
    };
    bencher.counter(BytesCount::new(bytes * RUN)).with_inputs(run).bench_local_values(|mut packets| {
        let mut opener = bob.opener(0).expect("there is a lane 0");
        for packet in &mut packets {
            opener.open(packet).expect("it is authentic and new");
        }
        packets
    });
}
