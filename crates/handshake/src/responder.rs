//! The responder's side of a handshake.

use std::fmt;
use std::time::Instant;

use rand_core::CryptoRng;

use crate::cookie::Cookie;
use crate::crypto::{KeyPair, MAC_LEN, Secret};
use crate::initiator::{append_encrypted, header};
use crate::kem;
use crate::message::{
    KEM_CIPHERTEXT_LEN, KEM_KEY_LEN, MacView, MessageKind, SEALED_KEM_KEY_LEN, initiation, read_key,
    read_u32, write_macs,
};
use crate::noise::{ExpectedKemKey, SymmetricState};
use crate::session::{Established, Session};
use crate::{HandshakeError, Identity, PeerKeys, Protocol, PublicKey, Suite, TAG_LEN, Timestamp};

/// What has been read of an initiation apart from its KEM key.
#[derive(Clone)]
struct Opened {
    state: SymmetricState,
    protocol: Protocol,
    suite: Suite,
    remote: PublicKey,
    remote_ephemeral: [u8; 32],
    remote_index: u32,
    timestamp: Timestamp,
}

impl Opened {
    /// `e, es, s, ss, e1` and the timestamp. `body` is everything the first MAC covers; `digest` that of the
    /// KEM key, if there is one. `static_static` has the X25519 of our static key with the remote's, or a
    /// reason to go no further.
    fn read(
        identity: &Identity,
        protocol: Protocol,
        body: &[u8],
        digest: Option<[u8; 32]>,
        static_static: impl StaticStatic,
    ) -> Result<(Self, Option<ExpectedKemKey>), HandshakeError> {
        let mut state = SymmetricState::new(protocol, &identity.public_key());
        let suite = match protocol {
            Protocol::WireGuard => Suite::ChaCha20Poly1305,
            Protocol::ShadowMesh => {
                state.mix_hash(&body[initiation::HEADER]);
                Suite::from_wire(body[1]).ok_or(HandshakeError::Malformed)?
            }
        };
        let remote_ephemeral = read_key(body, initiation::EPHEMERAL.start);
        state.mix_ephemeral(&remote_ephemeral);
        state.mix_key(identity.key_pair.agree(&remote_ephemeral)?.as_slice());

        let mut sealed_static = [0; 32 + TAG_LEN];
        sealed_static.copy_from_slice(&body[initiation::STATIC]);
        state.decrypt_and_hash(&mut sealed_static)?;
        let remote = PublicKey::from_bytes(read_key(&sealed_static, 0));
        state.mix_key(static_static(&remote)?.as_slice());

        let expected = digest.map(|digest| state.expect_kem_key(&digest));
        let mut sealed_timestamp = [0; initiation::TIMESTAMP_LEN];
        sealed_timestamp.copy_from_slice(&body[body.len() - initiation::TIMESTAMP_LEN..]);
        state.decrypt_and_hash(&mut sealed_timestamp)?;
        let mut timestamp = Timestamp::default();
        timestamp.0.copy_from_slice(&sealed_timestamp[..Timestamp::LEN]);

        let remote_index = read_u32(body, initiation::SENDER.start);
        Ok((Self { state, protocol, suite, remote, remote_ephemeral, remote_index, timestamp }, expected))
    }
}

/// What knows the X25519 of our static key with the one given.
trait StaticStatic: FnOnce(&PublicKey) -> Result<Secret, HandshakeError> {}

impl<F: FnOnce(&PublicKey) -> Result<Secret, HandshakeError>> StaticStatic for F {}

/// Computes it, for whoever asks.
fn computed(identity: &Identity) -> impl StaticStatic {
    |remote| Ok(identity.key_pair.agree(remote.as_bytes())?)
}

/// Takes it from the keys of a peer, and refuses everybody else.
fn known<'a>(find: impl FnOnce(&PublicKey) -> Option<&'a PeerKeys>) -> impl StaticStatic {
    |remote| match find(remote) {
        Some(peer) if peer.public_key() == *remote => Ok(peer.static_static.clone()),
        _ => Err(HandshakeError::UnknownPeer),
    }
}

/// Checks everything about an initiation message that needs no Diffie–Hellman.
fn admit<'a>(identity: &Identity, message: &'a [u8]) -> Result<MacView<'a>, HandshakeError> {
    let view = MacView::parse(message).ok_or(HandshakeError::Malformed)?;
    if view.verify_mac1(identity.mac_keys.mac1(view.kind.protocol())) {
        Ok(view)
    } else {
        Err(HandshakeError::InvalidMac1)
    }
}

/// An initiation that has authenticated: whoever sent it holds the private key of [`remote`](Self::remote)
/// (or ours: see the crate documentation on key-compromise impersonation).
///
/// It may still be a replay. The caller looks the remote up, refuses a [`timestamp`](Self::timestamp) not
/// greater than the greatest it has seen from that peer, and only then responds.
pub struct Incoming {
    opened: Opened,
    kem_key: Option<Box<[u8; KEM_KEY_LEN]>>,
}

impl Incoming {
    /// Reads an initiation that came in one datagram. Two Diffie–Hellman operations: under load, let the
    /// [`CookieChecker`](crate::CookieChecker) see it first.
    ///
    /// # Errors
    ///
    /// Why it is refused.
    pub fn receive(identity: &Identity, initiation: &[u8]) -> Result<Self, HandshakeError> {
        Self::read(identity, initiation, computed(identity))
    }

    /// [`receive`](Self::receive) from known peers only: `find` looks up the public key the sender claims to
    /// have. One Diffie–Hellman operation less, and nothing more is read of what a stranger sends.
    ///
    /// # Errors
    ///
    /// Why it is refused; [`HandshakeError::UnknownPeer`] if `find` finds nobody.
    pub fn receive_from<'a>(
        identity: &Identity,
        initiation: &[u8],
        find: impl FnOnce(&PublicKey) -> Option<&'a PeerKeys>,
    ) -> Result<Self, HandshakeError> {
        Self::read(identity, initiation, known(find))
    }

    fn read(
        identity: &Identity,
        initiation: &[u8],
        static_static: impl StaticStatic,
    ) -> Result<Self, HandshakeError> {
        let MacView { kind, body, .. } = admit(identity, initiation)?;
        match kind {
            MessageKind::Initiation(Protocol::WireGuard) => {
                let (opened, _) = Opened::read(identity, Protocol::WireGuard, body, None, static_static)?;
                Ok(Self { opened, kem_key: None })
            }
            MessageKind::Initiation(Protocol::ShadowMesh) => {
                let sealed = &body[initiation::KEM..];
                let sealed = sealed.first_chunk::<SEALED_KEM_KEY_LEN>().ok_or(HandshakeError::Malformed)?;
                let digest = crate::crypto::hash(&[sealed]);
                let (opened, expected) =
                    Opened::read(identity, Protocol::ShadowMesh, body, Some(digest), static_static)?;
                let kem_key = expected.map(|expected| expected.open(sealed)).transpose()?;
                Ok(Self { opened, kem_key })
            }
            _ => Err(HandshakeError::Malformed),
        }
    }

    /// Who sent it.
    pub fn remote(&self) -> PublicKey {
        self.opened.remote
    }

    /// What tells it from a replay.
    pub fn timestamp(&self) -> Timestamp {
        self.opened.timestamp
    }

    /// Which handshake it begins.
    pub fn protocol(&self) -> Protocol {
        self.opened.protocol
    }

    /// The remote's index for the session to be.
    pub fn remote_index(&self) -> u32 {
        self.opened.remote_index
    }

    /// The cipher of the session to be, which the remote has chosen.
    pub fn suite(&self) -> Suite {
        self.opened.suite
    }

    /// Makes the response and, with it, the session.
    ///
    /// Nothing may be *sent* in this session before a packet of the remote's has opened: only that proves
    /// that the remote is alive and holds its private key (whitepaper §5.4.6).
    ///
    /// `peer` must be the keys configured for [`remote`](Self::remote), `local_index` our index for the
    /// session, and `cookie` a fresh one of the remote's, if there is one. The remote may answer the response with a cookie
    /// ([`CookieJar::consume_for_response`](crate::CookieJar::consume_for_response)): remember its
    /// [`first_mac`](crate::first_mac).
    ///
    /// # Errors
    ///
    /// [`HandshakeError::OtherPeer`] if `peer` is not the sender or is configured for the other protocol,
    /// [`HandshakeError::LowOrderKey`] and [`HandshakeError::InvalidKemKey`] if the remote's ephemeral keys
    /// are unusable.
    pub fn respond(
        self,
        peer: &PeerKeys,
        local_index: u32,
        cookie: Option<&Cookie>,
        now: Instant,
        rng: &mut impl CryptoRng,
    ) -> Result<(Vec<u8>, Session), HandshakeError> {
        // Our identity has nothing to add: `ee` and `se` are between our ephemeral key and the remote's keys.
        self.respond_with(peer, local_index, cookie, now, &KeyPair::generate(rng), kem::encapsulate)
    }

    /// [`respond`](Self::respond) with a given ephemeral key and encapsulation.
    pub(crate) fn respond_with(
        self,
        peer: &PeerKeys,
        local_index: u32,
        cookie: Option<&Cookie>,
        now: Instant,
        ephemeral: &KeyPair,
        encapsulate: impl FnOnce(&[u8; KEM_KEY_LEN]) -> Result<([u8; KEM_CIPHERTEXT_LEN], Secret), HandshakeError>,
    ) -> Result<(Vec<u8>, Session), HandshakeError> {
        let Self { opened, kem_key } = self;
        let Opened { mut state, protocol, suite, remote, remote_ephemeral, remote_index, .. } = opened;
        if peer.public_key() != remote || peer.protocol() != protocol {
            return Err(HandshakeError::OtherPeer);
        }
        let mut message = header(MessageKind::Response(protocol), local_index);
        message.extend_from_slice(&remote_index.to_le_bytes());
        if protocol == Protocol::ShadowMesh {
            state.mix_hash(&message);
        }

        // e, ee, se
        state.mix_ephemeral(&ephemeral.public);
        message.extend_from_slice(&ephemeral.public);
        state.mix_chaining_key(ephemeral.agree(&remote_ephemeral)?.as_slice());
        let ephemeral_static = ephemeral.agree(remote.as_bytes())?;

        // ekem1
        if let Some(kem_key) = kem_key {
            state.mix_key(ephemeral_static.as_slice());
            let (ciphertext, shared) = encapsulate(&kem_key)?;
            append_encrypted(&mut message, &ciphertext, |text| state.encrypt_and_hash(text));
            state.mix_chaining_key(shared.as_slice());
        } else {
            state.mix_chaining_key(ephemeral_static.as_slice());
        }

        // psk, and an empty payload that proves all of it
        state.mix_key_and_hash(peer.preshared.as_bytes());
        append_encrypted(&mut message, &[], |text| state.encrypt_and_hash(text));
        message.resize(message.len() + 2 * MAC_LEN, 0);
        write_macs(&mut message, 2, peer.response_mac1(&peer.mac_keys), cookie.map(Cookie::as_bytes));

        let session = Session::new(Established {
            state: &state,
            protocol,
            suite,
            initiator: false,
            local_index,
            remote_index,
            remote,
            now,
        });
        Ok((message, session))
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("remote", &self.opened.remote)
            .field("protocol", &self.opened.protocol)
            .field("remote_index", &self.opened.remote_index)
            .finish_non_exhaustive()
    }
}

/// The first part of a split initiation, which has authenticated. It says which second part may follow: no
/// other will be read. A few hundred bytes; keep one a peer, and only for as long as a second part may
/// reasonably take.
pub struct IncomingPart1 {
    opened: Opened,
    expected: ExpectedKemKey,
    mac_keys: crate::message::MacKeys,
}

impl IncomingPart1 {
    /// Reads the first part of a split initiation, at the same cost as [`Incoming::receive`].
    ///
    /// # Errors
    ///
    /// Why it is refused.
    pub fn receive(identity: &Identity, part1: &[u8]) -> Result<Self, HandshakeError> {
        Self::read(identity, part1, computed(identity))
    }

    /// [`receive`](Self::receive) from known peers only, as [`Incoming::receive_from`] does.
    ///
    /// # Errors
    ///
    /// Why it is refused; [`HandshakeError::UnknownPeer`] if `find` finds nobody.
    pub fn receive_from<'a>(
        identity: &Identity,
        part1: &[u8],
        find: impl FnOnce(&PublicKey) -> Option<&'a PeerKeys>,
    ) -> Result<Self, HandshakeError> {
        Self::read(identity, part1, known(find))
    }

    fn read(
        identity: &Identity,
        part1: &[u8],
        static_static: impl StaticStatic,
    ) -> Result<Self, HandshakeError> {
        let MacView { kind, body, .. } = admit(identity, part1)?;
        if kind != MessageKind::InitiationPart1 {
            return Err(HandshakeError::Malformed);
        }
        let digest = read_key(body, initiation::KEM);
        let (opened, expected) =
            Opened::read(identity, Protocol::ShadowMesh, body, Some(digest), static_static)?;
        let expected = expected.ok_or(HandshakeError::Malformed)?;
        Ok(Self { opened, expected, mac_keys: identity.mac_keys.clone() })
    }

    /// Who sent it.
    pub fn remote(&self) -> PublicKey {
        self.opened.remote
    }

    /// What tells it from a replay.
    pub fn timestamp(&self) -> Timestamp {
        self.opened.timestamp
    }

    /// The cipher of the session to be, which the remote has chosen.
    pub fn suite(&self) -> Suite {
        self.opened.suite
    }

    /// The remote's index for the session to be, which part 2 repeats.
    pub fn remote_index(&self) -> u32 {
        self.opened.remote_index
    }

    /// Whether `part2` is a second part that names the same sender index. Cheap; [`complete`](Self::complete)
    /// decides.
    pub fn matches(&self, part2: &[u8]) -> bool {
        MacView::parse(part2).is_some_and(|view| {
            view.kind == MessageKind::InitiationPart2
                && read_u32(part2, initiation::SENDER.start) == self.opened.remote_index
        })
    }

    /// Puts both parts together. Hashing only, until the second part has proved to be the announced one.
    ///
    /// # Errors
    ///
    /// Why the second part is refused. After [`Malformed`](HandshakeError::Malformed),
    /// [`OtherHandshake`](HandshakeError::OtherHandshake), [`InvalidMac1`](HandshakeError::InvalidMac1) and
    /// [`OtherPart2`](HandshakeError::OtherPart2) the first one can still be completed by the right one; after any other error
    /// this was the announced one, and nothing will come of the handshake.
    pub fn complete(&self, part2: &[u8]) -> Result<Incoming, HandshakeError> {
        let view = MacView::parse(part2).ok_or(HandshakeError::Malformed)?;
        if view.kind != MessageKind::InitiationPart2 {
            return Err(HandshakeError::Malformed);
        }
        if !self.matches(part2) {
            return Err(HandshakeError::OtherHandshake);
        }
        if !view.verify_mac1(self.mac_keys.mac1(Protocol::ShadowMesh)) {
            return Err(HandshakeError::InvalidMac1);
        }
        let sealed = &part2[initiation::PART2_KEM];
        let sealed = sealed.first_chunk::<SEALED_KEM_KEY_LEN>().ok_or(HandshakeError::Malformed)?;
        if !self.expected.is_digest_of(sealed) {
            return Err(HandshakeError::OtherPart2);
        }
        Ok(Incoming { opened: self.opened.clone(), kem_key: Some(self.expected.open(sealed)?) })
    }
}

impl fmt::Debug for IncomingPart1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IncomingPart1")
            .field("remote", &self.opened.remote)
            .field("remote_index", &self.opened.remote_index)
            .finish_non_exhaustive()
    }
}
