//! Handshakes while somebody forges, repeats and floods: what he can must not keep a peer out.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::net::SocketAddr;
use std::time::Duration;

use handshake::{
    COOKIE_REPLY_LEN, Identity, Initiation, InitiationOptions, PeerKeys, PresharedKey, Protocol, PublicKey,
    StaticSecret, Suite, Timestamp,
};
use node::{DropReason, Notice};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng;
use sim::{Captured, Kind, NodeId, NodeSpec, PeerOptions, World};

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Initiations as anybody can make them who knows the public key they are for: all but the sender is right.
struct Stranger {
    identity: Identity,
    to: PeerKeys,
    rng: ChaCha12Rng,
}

impl Stranger {
    fn new(to: PublicKey, protocol: Protocol) -> Self {
        let mut rng = ChaCha12Rng::seed_from_u64(66);
        let identity = Identity::new(StaticSecret::generate(&mut rng));
        let to = PeerKeys::new(&identity, to, PresharedKey::default(), protocol).unwrap();
        Self { identity, to, rng }
    }

    fn initiation(&mut self, number: u64, split: bool) -> Vec<Vec<u8>> {
        let options = InitiationOptions {
            local_index: number as u32,
            timestamp: Timestamp::from_counter(number),
            suite: Suite::ChaCha20Poly1305,
            split,
            cookie: None,
        };
        let (_, datagrams) = Initiation::start(&self.identity, &self.to, options, &mut self.rng);
        datagrams.iter().map(<[u8]>::to_vec).collect()
    }
}

/// An initiation in the name of `claimed`, by somebody who has stolen `stolen`, the private key of the node it is for. X25519 of the
/// static keys is the same from both ends, so the node's own key makes it; only the claimed public key has to be sealed in it.
/// That needs no other code than a node that calls itself by a key that it does not have, which this crate offers to nobody:
/// it is written out here.
mod forge {
    use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
    use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
    use base64ct::{Base64, Encoding};
    use blake2::digest::consts::U16;
    use blake2::digest::{FixedOutput, KeyInit, Update};
    use blake2::{Blake2s256, Blake2sMac, Digest};
    use handshake::{PublicKey, StaticSecret};

    fn hash(parts: &[&[u8]]) -> [u8; 32] {
        Blake2s256::digest(parts.concat()).into()
    }

    fn hmac(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
        let pad = |byte: u8| {
            let mut block = [byte; 64];
            block.iter_mut().zip(key).for_each(|(pad, key)| *pad ^= key);
            block
        };
        hash(&[&pad(0x5c), &hash(&[&pad(0x36), message])])
    }

    fn hkdf(chaining_key: &[u8; 32], input: &[u8]) -> [[u8; 32]; 2] {
        let secret = hmac(chaining_key, input);
        let first = hmac(&secret, &[1]);
        [first, hmac(&secret, &[&first[..], &[2]].concat())]
    }

    fn x25519(secret: &[u8], public: &[u8]) -> [u8; 32] {
        let secret = PrivateKey::from_private_key(&X25519, secret).unwrap();
        agree(&secret, UnparsedPublicKey::new(&X25519, public), (), |shared| Ok(shared.try_into().unwrap()))
            .unwrap()
    }

    fn public(secret: &[u8]) -> Vec<u8> {
        PrivateKey::from_private_key(&X25519, secret).unwrap().compute_public_key().unwrap().as_ref().to_vec()
    }

    fn seal(key: &[u8; 32], h: &mut [u8; 32], text: &[u8]) -> Vec<u8> {
        let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).unwrap());
        let mut sealed = text.to_vec();
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        key.seal_in_place_append_tag(nonce, Aad::from(&h[..]), &mut sealed).unwrap();
        *h = hash(&[&h[..], &sealed]);
        sealed
    }

    /// An initiation of `WireGuard` in the name of `claimed`.
    pub(crate) fn wireguard(
        stolen: &StaticSecret,
        claimed: PublicKey,
        timestamp: [u8; 12],
        index: u32,
    ) -> Vec<u8> {
        let stolen = Base64::decode_vec(&stolen.to_base64()).unwrap();
        let receiver = public(&stolen);
        let ephemeral = hash(&[b"an ephemeral key", &index.to_le_bytes()]);
        let mut ck = hash(&[b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"]);
        let mut h = hash(&[&ck, b"WireGuard v1 zx2c4 Jason@zx2c4.com"]);
        h = hash(&[&h, &receiver]);
        let mut message = [&[1, 0, 0, 0][..], &index.to_le_bytes(), &public(&ephemeral)].concat();
        h = hash(&[&h, &public(&ephemeral)]);
        [ck, _] = hkdf(&ck, &public(&ephemeral));
        let mut key;
        [ck, key] = hkdf(&ck, &x25519(&ephemeral, &receiver));
        message.extend(seal(&key, &mut h, claimed.as_bytes()));
        [_, key] = hkdf(&ck, &x25519(&stolen, claimed.as_bytes()));
        message.extend(seal(&key, &mut h, &timestamp));
        let mac_key = hash(&[b"mac1----", &receiver]);
        let mac = Blake2sMac::<U16>::new_from_slice(&mac_key).unwrap().chain(&message).finalize_fixed();
        message.extend(mac);
        message.extend([0; 16]);
        message
    }
}

fn recorded(world: &mut World, kind: Kind) -> Vec<Captured> {
    world.take_captured().into_iter().filter(|captured| captured.kind == kind).collect()
}

/// A client that calls, a server that knows no address of it.
fn client_and_server(seed: u64, protocol: Protocol) -> (World, NodeId, NodeId) {
    let how = PeerOptions { protocol, endpoints: (true, false), ..PeerOptions::default() };
    World::pair_with(seed, NodeSpec::default(), NodeSpec::default(), &how)
}

#[test]
fn one_forged_initiation_with_the_greatest_counter_shuts_nobody_out() {
    let (mut world, left, right) = client_and_server(1, Protocol::WireGuard);
    let flow = world.udp(left, right);
    world.send(flow, 100, None);
    world.run_for(SECOND);
    assert_eq!(world.flow(flow).received, 1);
    let (stolen, claimed) = (world.steal_key(right), world.public_key(left));
    world.inject(address("198.51.100.66:6666"), right, forge::wireguard(&stolen, claimed, [0xff; 12], 1));
    world.run_for(SECOND);
    assert_eq!(world.drops(right, DropReason::HandshakeForged), 0, "the forgery is a good one");
    // What stood still stands, and the next handshake comes about at once.
    world.restart(left);
    world.send(flow, 100, None);
    world.run_for(SECOND);
    assert_eq!(world.flow(flow).missing(), 0);
    assert_eq!(world.drops(right, DropReason::HandshakeReplayed), 0);
    world.run_for(20 * SECOND);
    world.settle();
}

#[test]
fn a_forger_who_never_stops_and_takes_the_peers_address_does_not_keep_it_out() {
    for spoofed in ["198.51.100.66:6666", "192.0.2.1:9443"] {
        let (mut world, left, right) = client_and_server(2, Protocol::WireGuard);
        let (stolen, claimed) = (world.steal_key(right), world.public_key(left));
        let flow = world.udp(left, right);
        for n in 0..3_000_u32 {
            let (forged, from) = (forge::wireguard(&stolen, claimed, [0xff; 12], n), address(spoofed));
            world.after(10 * MILLISECOND * n, move |world| world.inject(from, right, forged));
        }
        world.run_for(5 * SECOND);
        world.restart(left);
        world.send(flow, 100, None);
        world.run_for(8 * SECOND);
        assert_eq!(world.flow(flow).missing(), 0, "forged from {spoofed}");
        world.run_for(20 * SECOND);
        world.settle();
    }
}

#[test]
fn a_forged_initiation_does_not_take_the_place_of_a_genuine_one_that_waits_to_be_used() {
    let (mut world, left, right) = client_and_server(3, Protocol::WireGuard);
    let (stolen, claimed) = (world.steal_key(right), world.public_key(left));
    // The packet that would confirm the session is late by two seconds; meanwhile there is a forgery every 10 ms.
    world.start_capture();
    world.set_filter(|passing| passing.kind != Kind::Data);
    let flow = world.udp(left, right);
    world.send(flow, 100, None);
    world.run_for(SECOND);
    let held = recorded(&mut world, Kind::Data);
    assert!(!held.is_empty());
    for n in 0..200_u32 {
        world.inject(address("192.0.2.1:9443"), right, forge::wireguard(&stolen, claimed, [0xff; 12], n));
        world.run_for(10 * MILLISECOND);
    }
    world.clear_filter();
    for data in held {
        world.inject(data.from, right, data.bytes);
    }
    world.run_for(SECOND);
    let status = world.peer_status(right, left);
    assert!(status.connected && status.latest_handshake_s.unwrap() > 2.9, "the genuine session is in use");
    world.run_for(20 * SECOND);
    world.settle();
}

#[test]
fn a_recorded_initiation_that_came_to_nothing_gets_nobody_in_the_way() {
    for protocol in [Protocol::ShadowMesh, Protocol::WireGuard] {
        let (mut world, left, right) = client_and_server(4, protocol);
        world.start_capture();
        world.set_filter(|passing| !matches!(passing.kind, Kind::Initiation | Kind::InitiationPart1));
        let flow = world.udp(left, right);
        world.send(flow, 100, None);
        world.run_for(30 * SECOND);
        let old: Vec<_> = world.take_captured().into_iter().filter(|sent| sent.kind.is_handshake()).collect();
        assert!(old.len() > 4);
        world.clear_filter();
        // All of them, again and again, while the peer makes another.
        for _ in 0..50 {
            for initiation in &old {
                world.inject(initiation.from, right, initiation.bytes.clone());
            }
            world.run_for(200 * MILLISECOND);
        }
        world.send(flow, 100, None);
        world.run_for(SECOND);
        assert!(world.flow(flow).received >= 1, "{protocol:?}");
        // Confirmed: from now on all of them are replays.
        let before = world.drops(right, DropReason::HandshakeReplayed);
        world.take_captured();
        for initiation in &old {
            world.inject(initiation.from, right, initiation.bytes.clone());
        }
        world.run_for(SECOND);
        assert!(world.drops(right, DropReason::HandshakeReplayed) > before, "{protocol:?}");
        assert!(recorded(&mut world, Kind::Response).is_empty(), "{protocol:?}");
        world.settle();
    }
}

#[test]
fn what_was_confirmed_before_a_restart_is_a_replay_after_it() {
    for protocol in [Protocol::ShadowMesh, Protocol::WireGuard] {
        let (mut world, left, right) = client_and_server(5, protocol);
        world.start_capture();
        let flow = world.udp(left, right);
        world.send(flow, 100, None);
        world.run_for(SECOND);
        let initiation = recorded(&mut world, Kind::Initiation).remove(0);
        world.kill(left);
        world.restart(right);
        world.inject(initiation.from, right, initiation.bytes);
        world.run_for(SECOND);
        assert_eq!(world.drops(right, DropReason::HandshakeReplayed), 1, "{protocol:?}");
        assert!(recorded(&mut world, Kind::Response).is_empty(), "{protocol:?}");
        let told = |world: &World| {
            let notices = world.notices(right).iter();
            notices.filter(|(_, notice)| matches!(notice, Notice::StaleInitiation { .. })).count()
        };
        assert_eq!(told(&world), 1, "{protocol:?}: and the log says so");
        world.restart(left);
        world.send(flow, 100, None);
        world.run_for(SECOND);
        assert_eq!(world.flow(flow).missing(), 0, "{protocol:?}");
        world.settle();
    }
}

/// Keeps a node under load: initiations of strangers, from everywhere, so many every 10 ms.
fn flood(world: &mut World, at: NodeId, protocol: Protocol, seconds: u32, each: u16) {
    let mut stranger = Stranger::new(world.public_key(at), protocol);
    let junk = stranger.initiation(1, false).remove(0);
    for n in 0..seconds * 100 {
        let junk = junk.clone();
        world.after(10 * MILLISECOND * n, move |world| {
            for i in 0..each {
                let [high, low] = (n as u16).to_be_bytes();
                world.inject(SocketAddr::from(([198, 51, high, low], 1_000 + i)), at, junk.clone());
            }
        });
    }
}

#[test]
fn two_nodes_under_load_at_once_find_each_other() {
    for protocol in [Protocol::ShadowMesh, Protocol::WireGuard] {
        let (mut world, left, right) = client_and_server(6, protocol);
        flood(&mut world, left, protocol, 14, 20);
        flood(&mut world, right, protocol, 14, 20);
        let flow = world.udp(left, right);
        world.run_for(2 * SECOND);
        world.restart(left);
        world.send(flow, 100, None);
        world.run_for(11 * SECOND);
        assert!(world.drops(left, DropReason::HandshakeNoCookie) > 1_000, "{protocol:?}: left is under load");
        assert_eq!(world.flow(flow).missing(), 0, "{protocol:?}");
        world.run_for(10 * SECOND);
        world.settle();
    }
}

#[test]
fn a_node_under_load_finishes_what_it_began_at_once() {
    for protocol in [Protocol::ShadowMesh, Protocol::WireGuard] {
        let (mut world, left, right) = client_and_server(7, protocol);
        let flow = world.udp(left, right);
        flood(&mut world, left, protocol, 5, 20);
        world.run_for(2 * SECOND);
        world.rekey(left, right);
        world.send(flow, 100, None);
        world.run_for(SECOND);
        assert_eq!(world.flow(flow).missing(), 0, "{protocol:?}");
        assert!(world.peer_status(left, right).latest_handshake_s.unwrap() < 1.1, "{protocol:?}");
        world.run_for(10 * SECOND);
        world.settle();
    }
}

#[test]
fn junk_that_answers_an_initiation_costs_a_few_attempts_and_no_handshake() {
    let (mut world, left, right) = client_and_server(8, Protocol::WireGuard);
    world.start_capture();
    world.set_filter(|passing| passing.kind != Kind::Response);
    let flow = world.udp(left, right);
    world.send(flow, 100, None);
    world.run_for(SECOND);
    let response = recorded(&mut world, Kind::Response).remove(0);
    // Somebody on the path answers first, as anybody can who knows the public key of the caller.
    for n in 0..100_u32 {
        let mut junk = response.bytes.clone();
        junk[12..16].copy_from_slice(&n.to_le_bytes());
        write_wireguard_mac1(&mut junk, world.public_key(left));
        world.inject(response.from, left, junk);
    }
    world.run_for(SECOND / 2);
    assert_eq!(world.drops(left, DropReason::HandshakeForged), 8, "each of these cost X25519");
    assert_eq!(world.drops(left, DropReason::HandshakeNoCookie), 92);
    let replies = recorded(&mut world, Kind::CookieReply);
    assert!(replies.iter().all(|reply| reply.bytes.len() == COOKIE_REPLY_LEN && reply.to == response.from));
    world.clear_filter();
    world.run_for(5 * SECOND);
    world.send(flow, 100, None);
    world.run_for(SECOND);
    assert!(world.flow(flow).received >= 1, "the next try is another");
    world.settle();
}

fn write_wireguard_mac1(message: &mut [u8], receiver: PublicKey) {
    use blake2::digest::consts::U16;
    use blake2::digest::{FixedOutput, KeyInit, Update};
    use blake2::{Blake2s256, Blake2sMac, Digest};
    let key = Blake2s256::new().chain_update(b"mac1----").chain_update(receiver.as_bytes()).finalize();
    let (body, macs) = message.split_at_mut(message.len() - 32);
    let mac = Blake2sMac::<U16>::new_from_slice(&key).unwrap().chain(&*body).finalize_fixed();
    macs[..16].copy_from_slice(&mac);
}

#[test]
fn second_parts_in_a_clients_name_are_charged_to_nobody() {
    let (mut world, left, right) = client_and_server(9, Protocol::ShadowMesh);
    let mut stranger = Stranger::new(world.public_key(right), Protocol::ShadowMesh);
    let part2 = stranger.initiation(7, true).remove(1);
    flood(&mut world, right, Protocol::ShadowMesh, 14, 15);
    // 1,000 a second with the client's address, and as many from everywhere.
    for n in 0..1_400_u32 {
        let part2 = part2.clone();
        world.after(10 * MILLISECOND * n, move |world| {
            for i in 0..10_u16 {
                let everywhere = SocketAddr::from(([203, (n >> 8) as u8, n as u8, i as u8], 9_443));
                world.inject(address("192.0.2.1:9443"), right, part2.clone());
                world.inject(everywhere, right, part2.clone());
            }
        });
    }
    let flow = world.udp(left, right);
    world.run_for(2 * SECOND);
    world.restart(left);
    world.send(flow, 100, None);
    world.run_for(8 * SECOND);
    assert_eq!(world.flow(flow).missing(), 0);
    world.run_for(10 * SECOND);
    world.settle();
}

#[test]
fn an_older_first_part_does_not_take_the_place_of_the_one_that_waits() {
    let (mut world, left, right) = client_and_server(10, Protocol::ShadowMesh);
    world.start_capture();
    // Only narrow paths, and no second part arrives for a while.
    world.set_filter(|passing| passing.bytes.len() < 1_000);
    let flow = world.udp(left, right);
    world.send(flow, 100, None);
    world.run_for(20 * SECOND);
    let parts: Vec<_> = world.take_captured().into_iter().filter(|sent| sent.kind.is_handshake()).collect();
    let first = |sent: &&Captured| sent.bytes[0] == 21;
    let (old, new) = {
        let mut firsts = parts.iter().filter(first);
        (firsts.next().unwrap().clone(), firsts.next_back().unwrap().clone())
    };
    let second = parts.iter().rfind(|sent| sent.bytes[0] == 22).unwrap().clone();
    world.run_for(6 * SECOND);
    world.take_captured();
    world.inject(new.from, right, new.bytes);
    world.inject(old.from, right, old.bytes);
    // A second part that names the index and is another costs the first nothing.
    let mut stranger = Stranger::new(world.public_key(right), Protocol::ShadowMesh);
    let mut other = stranger.initiation(7, true).remove(1);
    other[4..8].copy_from_slice(&second.bytes[4..8]);
    world.inject(second.from, right, other);
    world.inject(second.from, right, second.bytes);
    world.run_for(MILLISECOND);
    assert_eq!(recorded(&mut world, Kind::Response).len(), 1);
    world.clear_filter();
    world.run_for(20 * SECOND);
    world.settle();
}

#[test]
fn a_flood_beyond_all_cookie_replies_does_not_keep_a_known_peer_out() {
    let (mut world, left, right) = client_and_server(11, Protocol::ShadowMesh);
    let flow = world.udp(left, right);
    world.send(flow, 100, None);
    world.run_for(SECOND);
    let mut stranger = Stranger::new(world.public_key(right), Protocol::WireGuard);
    let junk = stranger.initiation(1, false).remove(0);
    // 100,000 a second.
    for n in 0..4_000_u32 {
        let junk = junk.clone();
        world.after(MILLISECOND * n, move |world| {
            for i in 0..100_u16 {
                let [_, high, middle, low] = n.to_be_bytes();
                let from = SocketAddr::from(([198, high, middle, low], 1_000 + i));
                world.inject(from, right, junk.clone());
            }
        });
    }
    world.run_for(SECOND);
    world.restart(left);
    world.start_capture();
    world.send(flow, 100, None);
    world.run_for(3 * SECOND);
    assert_eq!(world.flow(flow).missing(), 0);
    let replies = recorded(&mut world, Kind::CookieReply).len();
    assert!((30_000..=180_000).contains(&replies), "{replies} cookie replies to 300,000 initiations");
    world.run_for(20 * SECOND);
    world.settle();
}

#[test]
fn junk_does_not_hide_from_a_node_that_a_session_was_used() {
    let (mut world, left, right) = client_and_server(14, Protocol::ShadowMesh);
    let mut stranger = Stranger::new(world.public_key(right), Protocol::WireGuard);
    let junk = stranger.initiation(1, false).remove(0);
    world.start_capture();
    world.set_filter(|passing| passing.kind != Kind::Data);
    let flow = world.udp(left, right);
    world.send(flow, 100, None);
    world.run_for(SECOND);
    let confirms = recorded(&mut world, Kind::Data).remove(0);
    assert!(!world.peer_status(right, left).connected);
    // In one round of the worker: more junk than it can hand over, then the first packet of the session.
    for i in 0..300_u16 {
        world.inject(SocketAddr::from(([198, 51, 100, 66], 1_000 + i)), right, junk.clone());
    }
    world.inject(confirms.from, right, confirms.bytes);
    world.run_for(MILLISECOND);
    assert!(world.drops(right, DropReason::HandshakeBacklog) > 0);
    assert!(world.peer_status(right, left).connected);
    world.clear_filter();
    world.run_for(20 * SECOND);
    world.settle();
}

#[test]
fn a_configured_cipher_holds_for_sessions_that_the_peer_begins() {
    let how = PeerOptions { endpoints: (true, false), ..PeerOptions::default() };
    let strict = NodeSpec { suite: Some(Suite::Aes256Gcm), ..NodeSpec::default() };
    let (mut world, left, right) = World::pair_with(12, NodeSpec::default(), strict.clone(), &how);
    let flow = world.udp(left, right);
    world.send(flow, 100, None);
    world.run_for(SECOND);
    assert_eq!(world.flow(flow).received, 0);
    assert!(world.drops(right, DropReason::HandshakeCipher) > 0);
    assert_eq!(world.notices(right).len(), 1, "the log says why");
    // Where the strict end can call, it does, and the other takes what it asks for.
    let how = PeerOptions::default();
    let (mut world, left, right) = World::pair_with(13, NodeSpec::default(), strict, &how);
    let flow = world.udp(left, right);
    world.send(flow, 100, None);
    world.run_for(5 * SECOND);
    assert_eq!(world.flow(flow).received, 1);
    assert_eq!(world.peer_status(left, right).cipher.as_deref(), Some("AES-256-GCM"));
    world.settle();
}
