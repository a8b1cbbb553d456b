//! The initiator's side of a handshake.

use std::fmt;
use std::time::Instant;

use rand_core::CryptoRng;

use crate::cookie::Cookie;
use crate::crypto::{KeyPair, MAC_LEN};
use crate::kem::KemKeyPair;
use crate::message::{MacView, MessageKind, initiation, read_key, read_u32, response, write_macs};
use crate::noise::SymmetricState;
use crate::session::{Established, Session};
use crate::{HandshakeError, Identity, PeerKeys, Protocol, Suite, TAG_LEN, Timestamp};

/// What the caller decides about an initiation.
#[derive(Clone, Copy, Debug)]
pub struct InitiationOptions<'a> {
    /// Our index for the session to be: the remote puts it into everything it sends us.
    pub local_index: u32,
    /// Must be greater than that of any earlier initiation to this peer.
    pub timestamp: Timestamp,
    /// The suite of the session. WireGuard has only one, and ignores this.
    pub suite: Suite,
    /// Whether to send two datagrams that fit a path of 1,280 bytes instead of one that does not. WireGuard's
    /// initiation is small, and ignores this.
    pub split: bool,
    /// The cookie this peer has given us, if it is still fresh.
    pub cookie: Option<&'a Cookie>,
}

/// The datagrams of an initiation, to be sent in this order: one, or two if it is split.
#[derive(Clone, Debug)]
pub struct Datagrams {
    bytes: Vec<u8>,
    /// Where the second datagram begins.
    first_len: usize,
}

impl Datagrams {
    /// The datagrams in the order in which they are to be sent.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let (first, second) = self.bytes.split_at(self.first_len);
        [first, second].into_iter().filter(|datagram| !datagram.is_empty())
    }
}

/// A handshake that waits for its response. Its secrets are cleared when it is dropped.
pub struct Initiation {
    /// `None` once the handshake is complete.
    pending: Option<Pending>,
    local_index: u32,
    suite: Suite,
    last_mac1: [u8; 16],
}

struct Pending {
    state: SymmetricState,
    ephemeral: KeyPair,
    kem: Option<KemKeyPair>,
}

impl Initiation {
    /// Begins a handshake with `peer`.
    ///
    /// The result is sent at once; if no response comes within
    /// [`limits::REKEY_TIMEOUT`](crate::limits::REKEY_TIMEOUT), drop it and start another one with a greater
    /// timestamp.
    pub fn start(
        identity: &Identity,
        peer: &PeerKeys,
        options: InitiationOptions<'_>,
        rng: &mut impl CryptoRng,
    ) -> (Self, Datagrams) {
        let kem = match peer.protocol() {
            Protocol::WireGuard => None,
            Protocol::ShadowMesh => Some(KemKeyPair::generate()),
        };
        Self::start_with(identity, peer, options, KeyPair::generate(rng), kem)
    }

    /// [`start`](Self::start) with given ephemeral keys; `kem` is there exactly if the protocol has one.
    pub(crate) fn start_with(
        identity: &Identity,
        peer: &PeerKeys,
        options: InitiationOptions<'_>,
        ephemeral: KeyPair,
        kem: Option<KemKeyPair>,
    ) -> (Self, Datagrams) {
        let InitiationOptions { local_index, timestamp, cookie, .. } = options;
        let (kind, suite) = match (peer.protocol(), options.split) {
            (Protocol::WireGuard, _) => {
                (MessageKind::Initiation(Protocol::WireGuard), Suite::ChaCha20Poly1305)
            }
            (Protocol::ShadowMesh, false) => (MessageKind::Initiation(Protocol::ShadowMesh), options.suite),
            (Protocol::ShadowMesh, true) => (MessageKind::InitiationPart1, options.suite),
        };
        let mut state = SymmetricState::new(peer.protocol(), &peer.public_key());
        let mut first = header(kind, local_index);
        if peer.protocol() == Protocol::ShadowMesh {
            first[1] = suite.to_wire();
            state.mix_hash(&first);
        }

        // e, es, s, ss
        state.mix_ephemeral(&ephemeral.public);
        first.extend_from_slice(&ephemeral.public);
        let shared = ephemeral.agree(peer.public_key().as_bytes());
        state.mix_key(shared.expect("`PeerKeys` holds no key of low order").as_slice());
        append_encrypted(&mut first, identity.public_key().as_bytes(), |text| state.encrypt_and_hash(text));
        state.mix_key(peer.static_static.as_slice());

        // e1
        let mut second = Vec::new();
        if let Some(kem) = &kem {
            if kind == MessageKind::InitiationPart1 {
                second = header(MessageKind::InitiationPart2, local_index);
                let mut digest = [0; 32];
                append_encrypted(&mut second, kem.public.as_slice(), |text| {
                    digest = state.encrypt_kem_key(text);
                });
                first.extend_from_slice(&digest);
            } else {
                append_encrypted(&mut first, kem.public.as_slice(), |text| {
                    state.encrypt_kem_key(text);
                });
            }
        }

        // The timestamp is the payload.
        append_encrypted(&mut first, &timestamp.0, |text| state.encrypt_and_hash(text));

        let mac1_key = peer.mac_keys.mac1(peer.protocol());
        first.resize(first.len() + 2 * MAC_LEN, 0);
        let last_mac1 = write_macs(&mut first, 2, mac1_key, cookie.map(Cookie::as_bytes));
        let first_len = first.len();
        if !second.is_empty() {
            second.resize(second.len() + MAC_LEN, 0);
            write_macs(&mut second, 1, mac1_key, None);
            first.append(&mut second);
        }
        let pending = Some(Pending { state, ephemeral, kem });
        (Self { pending, local_index, suite, last_mac1 }, Datagrams { bytes: first, first_len })
    }

    /// Our index for the session to be.
    pub fn local_index(&self) -> u32 {
        self.local_index
    }

    /// The first MAC of the initiation (of its part 1, if it is split), to which a cookie reply must be
    /// bound.
    pub fn last_mac1(&self) -> &[u8; 16] {
        &self.last_mac1
    }

    /// Completes the handshake with the response to it. `peer` is the one the initiation was made for.
    ///
    /// # Errors
    ///
    /// Why the response is refused. The handshake goes on waiting then: a forged response cannot end it.
    pub fn finish(
        &mut self,
        identity: &Identity,
        peer: &PeerKeys,
        response: &[u8],
        now: Instant,
    ) -> Result<Session, HandshakeError> {
        let pending = self.pending.as_ref().ok_or(HandshakeError::AlreadyComplete)?;
        let protocol = peer.protocol();
        let view = MacView::parse(response).ok_or(HandshakeError::Malformed)?;
        if view.kind != MessageKind::Response(protocol) {
            return Err(HandshakeError::Malformed);
        }
        if read_u32(response, response::RECEIVER.start) != self.local_index {
            return Err(HandshakeError::OtherHandshake);
        }
        if !view.verify_mac1(peer.response_mac1(&identity.mac_keys)) {
            return Err(HandshakeError::InvalidMac1);
        }
        let state = pending.read_response(identity, peer, view.body)?;
        self.pending = None;
        Ok(Session::new(Established {
            state: &state,
            protocol,
            suite: self.suite,
            initiator: true,
            local_index: self.local_index,
            remote_index: read_u32(response, response::SENDER.start),
            remote: peer.public_key(),
            now,
        }))
    }
}

impl Pending {
    /// `e, ee, se, ekem1, psk` on a copy of the state, which is returned if all of it authenticates.
    fn read_response(
        &self,
        identity: &Identity,
        peer: &PeerKeys,
        body: &[u8],
    ) -> Result<SymmetricState, HandshakeError> {
        let mut state = self.state.clone();
        if self.kem.is_some() {
            state.mix_hash(&body[response::HEADER]);
        }
        let remote_ephemeral = read_key(body, response::EPHEMERAL.start);
        state.mix_ephemeral(&remote_ephemeral);
        state.mix_chaining_key(self.ephemeral.agree(&remote_ephemeral)?.as_slice());
        let static_ephemeral = identity.key_pair.agree(&remote_ephemeral)?;
        let payload = if let Some(kem) = &self.kem {
            state.mix_key(static_ephemeral.as_slice());
            let mut sealed = [0; response::KEM.end - response::KEM.start];
            sealed.copy_from_slice(&body[response::KEM]);
            state.decrypt_and_hash(&mut sealed)?;
            let (ciphertext, _tag) = sealed.split_first_chunk().ok_or(HandshakeError::Malformed)?;
            state.mix_chaining_key(kem.decapsulate(ciphertext)?.as_slice());
            &body[response::KEM.end..]
        } else {
            state.mix_chaining_key(static_ephemeral.as_slice());
            &body[response::EPHEMERAL.end..]
        };
        state.mix_key_and_hash(peer.preshared.as_bytes());
        let mut empty = [0; TAG_LEN];
        empty.copy_from_slice(payload);
        state.decrypt_and_hash(&mut empty)?;
        Ok(state)
    }
}

impl fmt::Debug for Initiation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Initiation").field("local_index", &self.local_index).finish_non_exhaustive()
    }
}

/// The first eight bytes of every handshake message: type, three bytes that are mostly zero, the sender's
/// index.
pub(crate) fn header(kind: MessageKind, sender: u32) -> Vec<u8> {
    // The longest message is the whole initiation; one allocation holds any of them.
    let mut message = Vec::with_capacity(initiation::WHOLE_LEN + initiation::PART1_LEN);
    message.extend_from_slice(&[kind.type_byte(), 0, 0, 0]);
    message.extend_from_slice(&sender.to_le_bytes());
    message
}

/// Appends `plaintext` and room for a tag, and has `encrypt` turn both into ciphertext.
pub(crate) fn append_encrypted(message: &mut Vec<u8>, plaintext: &[u8], encrypt: impl FnOnce(&mut [u8])) {
    let start = message.len();
    message.extend_from_slice(plaintext);
    message.extend_from_slice(&[0; TAG_LEN]);
    encrypt(&mut message[start..]);
}
