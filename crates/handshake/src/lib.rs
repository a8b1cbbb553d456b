//! Handshakes, cookies and sessions: how two nodes come to share keys, and how packets are sealed with them.
//!
//! Two protocols share one state machine. Which one is spoken with a peer is configured ([`PeerKeys::new`]);
//! it is never negotiated, so nobody on the way can talk two nodes out of the better one.
//!
//! - [`Protocol::WireGuard`] is byte-compatible with WireGuard
//!   ([whitepaper](https://www.wireguard.com/papers/wireguard.pdf)).
//! - [`Protocol::ShadowMesh`] is the same Noise pattern with an ephemeral ML-KEM-768 (FIPS 203) mixed in:
//!   what is recorded of it today stays closed to whoever has a quantum computer later, and it is as strong
//!   as X25519 should ML-KEM fall.
//!
//! # Calling contract
//!
//! The crate does no I/O and reads no clock: datagrams, `now` and a random number generator come in as
//! arguments. (One exception: AWS-LC draws the randomness of ML-KEM itself. Nothing but the bytes of two
//! fields depends on it.)
//!
//! ```
//! use std::time::Instant;
//! use handshake::{
//!     HEADER_LEN, Identity, Incoming, Initiation, InitiationOptions, PeerKeys, PresharedKey, Protocol,
//!     StaticSecret, TAG_LEN, Timestamp, preferred_suite,
//! };
//! # use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
//! # let mut rng = ChaCha20Rng::seed_from_u64(1);
//! # let now = Instant::now();
//! let alice = Identity::new(StaticSecret::generate(&mut rng));
//! let bob = Identity::new(StaticSecret::generate(&mut rng));
//! let to_bob = PeerKeys::new(&alice, bob.public_key(), PresharedKey::default(), Protocol::ShadowMesh)?;
//! let to_alice = PeerKeys::new(&bob, alice.public_key(), PresharedKey::default(), Protocol::ShadowMesh)?;
//!
//! // Alice begins.
//! let options = InitiationOptions {
//!     local_index: 1,
//!     timestamp: Timestamp::from_counter(1),
//!     suite: preferred_suite(),
//!     split: false,
//!     cookie: None,
//! };
//! let (mut initiation, datagrams) = Initiation::start(&alice, &to_bob, options, &mut rng);
//! let datagram = datagrams.iter().next().expect("an initiation has at least one datagram");
//!
//! // Bob finds out who it is, checks that the timestamp is new, and answers. (`receive_from` is quicker.)
//! let incoming = Incoming::receive(&bob, datagram)?;
//! assert_eq!(incoming.remote(), alice.public_key());
//! let (response, bobs_session) = incoming.respond(&to_alice, 2, None, now, &mut rng)?;
//!
//! // Alice has a session, too, and sends in it; Bob may send after he has opened her first packet.
//! let alices_session = initiation.finish(&alice, &to_bob, &response, now)?;
//! let mut packet = [&[0; HEADER_LEN], b"an IP packet".as_slice(), &[0; TAG_LEN]].concat();
//! let sealer = alices_session.sealer(0);
//! sealer.seal(sealer.reserve(1)?, &mut packet);
//!
//! bobs_session.opener(0)?.open(&mut packet)?;
//! assert_eq!(&packet[HEADER_LEN..packet.len() - TAG_LEN], b"an IP packet");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What is left to the caller: looking peers up, refusing timestamps that are not new (and believing none before the session is
//! confirmed, or a single forgery by a stolen responder key would shut the initiator out), retransmission, the
//! age of sessions ([`limits`]), and when to ask for cookies.
//!
//! # Messages of the ShadowMesh protocol
//!
//! Integers are little-endian. `AEAD(x)` is ChaCha20-Poly1305 of `x`, 16 bytes longer than `x`. The sizes in
//! brackets are those of WireGuard's message of the same role, which lacks the fields marked `*` and has zero
//! for the suite.
//!
//! ```text
//! Initiation, type 17 [1]: 1,348 [148] bytes
//!     0       1        2     4          8       40         88          1288             1316    1332    1348
//!    +-------+--------+-----+----------+-------+----------+-----------+----------------+-------+-------+
//!    | type  | suite  | 0 0 | sender   | e     | AEAD(s)  | AEAD(e1)* | AEAD(counter)  | mac1  | mac2  |
//!    | u8    | u8     |     | index u32| 32    | 32+16    | 1184+16   | 12+16          | 16    | 16    |
//!    +-------+--------+-----+----------+-------+----------+-----------+----------------+-------+-------+
//!
//! Split initiation, part 1, type 21: 180 bytes
//!    | type  | suite  | 0 0 | sender   | e     | AEAD(s)  | H(AEAD(e1)) 32 | AEAD(counter) | mac1 | mac2 |
//! Split initiation, part 2, type 22: 1,224 bytes
//!    | type  | 0      | 0 0 | sender   | AEAD(e1) 1200 | mac1 |
//!
//! Response, type 18 [2]: 1,196 [92] bytes
//!     0       1       4          8           12      44                  1148       1164    1180    1196
//!    +-------+-------+----------+-----------+-------+-------------------+----------+-------+-------+
//!    | type  | 0 0 0 | sender   | receiver  | e     | AEAD(ciphertext)* | AEAD("") | mac1  | mac2  |
//!    | u8    |       | index u32| index u32 | 32    | 1088+16           | 16       | 16    | 16    |
//!    +-------+-------+----------+-----------+-------+-------------------+----------+-------+-------+
//!
//! Cookie reply, type 19 [3]: 64 bytes
//!     0       1       4           8        32                64
//!    +-------+-------+-----------+--------+-----------------+
//!    | type  | 0 0 0 | receiver  | nonce  | XAEAD(cookie)   |
//!    | u8    |       | index u32 | 24     | 16+16           |
//!    +-------+-------+-----------+--------+-----------------+
//!
//! Data, type 20 [4]: 32 bytes and more
//!     0       1       2     4           8          16
//!    +-------+-------+-----+-----------+----------+------------------------+
//!    | type  | lane  | 0 0 | receiver  | counter  | suite(plaintext)       |
//!    | u8    | u8    |     | index u32 | u64      | n+16                   |
//!    +-------+-------+-----+-----------+----------+------------------------+
//! ```
//!
//! - `e`: an ephemeral X25519 key; `s`: the initiator's static key; `e1`: an ephemeral ML-KEM-768 key and
//!   `ciphertext` a secret encapsulated to it. `suite` is 1 for AES-256-GCM, 2 for ChaCha20-Poly1305, 3 for
//!   AEGIS-256X4 with a tag of 16 bytes, and is about data packets only. The nonce is 4 zero bytes and the counter; for
//!   AEGIS 20 zero bytes follow.
//! - `counter`: a [`Timestamp`], by which the responder tells a new initiation from a replayed one.
//! - An index names a session at the end that chose it.
//! - A whole initiation does not fit a path of 1,280 bytes, the least IPv6 allows. Both parts of a split one
//!   do, and so does the response: 1,280 less 40 of IPv6 and 8 of UDP leaves 1,232.
//!
//! # Key schedule
//!
//! `H` is BLAKE2s-256, `HKDF` Noise's over HMAC-BLAKE2s, `S` the responder's static key. `MixHash`, `MixKey`,
//! `MixKeyAndHash`, `EncryptAndHash` are Noise's (revision 34, §5.2): `h` collects all that is sent, `ck` all
//! that is secret, and `AEAD` takes its key from the last `MixKey`, its nonce from the number of messages
//! encrypted with that key, and `h` as associated data.
//!
//! ```text
//! ck = H("ShadowMesh_IKpsk2+ekem_25519+MLKEM768_ChaChaPoly_BLAKE2s")
//! h  = H(ck ‖ "ShadowMesh v1");  MixHash(S)
//!
//! initiation   MixHash(header)                     the 8 bytes before e: type, suite, index
//!    e         MixHash(e), MixKey(e)
//!    es        MixKey(X25519(e, S))
//!    s         EncryptAndHash(s)
//!    ss        MixKey(X25519(s, S))
//!    e1        c = AEAD(e1);  MixHash(H(c))        its digest, not c itself
//!              EncryptAndHash(counter)
//!
//! response     MixHash(header)                     the 12 bytes before e: type, both indices
//!    e         MixHash(e), MixKey(e)
//!    ee        MixKey(X25519(e, e))
//!    se        MixKey(X25519(s, e))
//!    ekem1     EncryptAndHash(ciphertext), MixKey(shared secret)
//!    psk       MixKeyAndHash(preshared key, or 32 zeros)
//!              EncryptAndHash("")
//!
//! session      secret = HKDF(ck, h)[1]
//!    lane n    (initiator to responder, responder to initiator) = HKDF(secret, u8 n)[1, 2]
//! ```
//!
//! WireGuard's is that without the two headers, `e1` and `ekem1`, with its own names, and with `HKDF(ck, "")`
//! for the keys of its only lane.
//!
//! A data packet is sealed with the key of its lane and direction, four zero bytes and the counter as nonce,
//! and the 16-byte header as associated data. (WireGuard: no associated data.) Lanes have counters and replay
//! windows of their own, so threads that work on different lanes share nothing.
//!
//! ```text
//! mac1   = BLAKE2s-128(key, message before mac1)
//!          of an initiation or a part of one: key = H("ShadowMesh v1 mac1" ‖ responder's static key)
//!          of a response:                     key = H("ShadowMesh v1 response mac1" ‖ X25519(s, S))
//! mac2   = BLAKE2s-128(key = cookie, message before mac2), or zeros
//! cookie = BLAKE2s-128(key = secret that changes every 2 minutes, IP address as 16 bytes ‖ port, big-endian)
//! XAEAD  = XChaCha20-Poly1305(key, nonce of the reply, associated data = mac1 of the message answered)
//!          to an initiation: key = H("ShadowMesh v1 cookie" ‖ responder's static key)
//!          to a response:    key = H("ShadowMesh v1 response cookie" ‖ X25519(s, S))
//! ```
//!
//! WireGuard's labels are `mac1----` and `cookie--`, and its keys for a response and for a cookie that answers one are those of
//! the initiator's static key, as for any message to it.
//!
//! # What a reviewer may want to know
//!
//! - **Why the digest of `AEAD(e1)` is hashed in its place.** The transcript then does not depend on whether
//!   `e1` comes along or later (but for the type byte). Part 1 can be authenticated and its counter read
//!   without part 2, and fixes what part 2 must be: one hash tells. `H` is collision-resistant, so the digest
//!   binds as the ciphertext would.
//! - **Split or whole, suite, indices** are in the headers, which are hashed first. Changing any of them
//!   makes the first decryption fail. There are no other options, and no version to roll back to: another
//!   version is another name.
//! - **Cross-protocol attacks.** A static key may serve both protocols. Names, MAC labels and message types
//!   differ, so no message or cookie of one is valid in the other.
//! - **Identity misbinding.** Both static keys are in `h`, and `h` is in every AEAD and in the session's
//!   secret.
//! - **Key-compromise impersonation.** As in every IK pattern, whoever has stolen the responder's private key
//!   can make *initiations* in anyone's name, since `es` and `ss` can both be computed with that key. They
//!   cannot complete them: `se` needs the initiator's private key. Hence the responder sends nothing in a
//!   session, nor gives up the one before, until a packet in it has opened. The other way round, a stolen
//!   initiator key does not let anyone answer in a responder's name.
//! - **Forward secrecy** against the theft of both static keys comes with `ee`, against a quantum computer
//!   with `ekem1`. The initiation itself (the initiator's identity, the counter) is protected by the
//!   responder's static X25519 key alone. A preshared key, if configured, protects the session against a
//!   quantum computer, too, in either protocol. ML-KEM only protects against one that comes later:
//!   authentication rests on X25519.
//! - **Who calls.** An initiation names the initiator to the responder alone, and the response names it to nobody: its mac1,
//!   and a cookie that answers it, take a key from X25519(s, S), which both ends have before the handshake. Were they keyed by
//!   the initiator's public key, as in WireGuard, whoever has a list of public keys could try each. Whom a node calls, its
//!   mac1 tells to whoever knows that public key: a responder must be able to refuse junk before it knows who asks.
//! - **A response is found by its receiver index.** Only a handshake under way is asked for the key of the first MAC, so junk
//!   that names none costs a table look-up.
//! - **Strangers get no answer.** Without the responder's public key there is no mac1, and without mac1 no
//!   other field is read. Public keys of low order, which make every result zero, are refused.
//! - **Amplification** is at most one: a response is shorter than the datagram it answers, a cookie reply
//!   shorter than anything.
//! - **Part 2 has no mac2**, for it costs a comparison to refuse unless it names a part 1 that authenticated, and two hashes
//!   unless it is what that part announced. A mac2 would not fit the path, either.
//! - **A cookie is bound to address and port**, of IPv6 to all 128 bits. It proves that its bearer receives there, and nothing about
//!   its neighbours; what a proved sender may cost is counted by network (/64), which one host can have to itself.
//! - **State before authentication**: none. An authenticated part 1 costs a few hundred bytes; the caller
//!   keeps a few a peer. The keys of a lane are kept once a packet on it has authenticated.
//! - **Replay**: of an initiation by its counter, of a packet by [`ReplayWindow`], of a response or cookie
//!   reply by what they are bound to.
//! - **Nonces** never repeat: counters are reserved atomically, end at [`limits::REJECT_AFTER_MESSAGES`], and
//!   start anew only under new keys.
//! - **How much one key encrypts**: a session ends after 180 s, by when a lane at 100 Gbit/s has sent 2³⁷
//!   blocks of AES-GCM. The advantage of telling that from noise is 2⁻⁵⁴ (2 · 37 bits off the block's 128).
//! - **The static keys' X25519** is also used, under a label of its own, for [`DiscoveryKey`], which leaves this crate
//!   only as 64 bits of a MAC at a time.
//! - **Keys are cleared** when what holds them is dropped: by `zeroize`, by AWS-LC for what it allocates, and
//!   by overwriting expanded AEAD keys.

mod cookie;
mod crypto;
mod discovery;
mod error;
mod identity;
mod initiator;
mod kem;
mod keys;
pub mod limits;
mod message;
mod noise;
mod replay;
mod responder;
mod session;
mod timestamp;
#[cfg(test)]
mod vectors;

pub use cookie::{Cookie, CookieChecker, CookieJar};
pub use discovery::{DISCOVERY_TAG_LEN, DiscoveryKey};
pub use error::HandshakeError;
pub use identity::{Identity, PeerKeys, Protocol, Suite, preferred_suite};
pub use initiator::{Datagrams, Initiation, InitiationOptions};
pub use keys::{InvalidKey, PresharedKey, PublicKey, StaticSecret};
pub use message::{COOKIE_REPLY_LEN, MessageKind, classify, first_mac, receiver_index, sender_index};
pub use replay::{ReplayWindow, StaleCounter};
pub use responder::{Incoming, IncomingPart1};
pub use session::{DataHeader, Exhausted, OpenError, Opened, Opener, Sealer, Session};
pub use timestamp::Timestamp;

/// Bytes of the header of a data packet, in both protocols.
pub const HEADER_LEN: usize = 16;

/// Bytes of the authentication tag of every AEAD in use.
pub const TAG_LEN: usize = 16;

/// Lanes of a ShadowMesh session. A WireGuard session has one.
pub const LANES: usize = 16;
