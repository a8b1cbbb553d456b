//! The symmetric state of a handshake (Noise §5.2): a chaining key that collects every secret, and a hash
//! that collects every byte both sides have seen.

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::crypto::{self, Secret, Unauthentic, hash, hkdf};
use crate::message::{KEM_KEY_LEN, SEALED_KEM_KEY_LEN};
use crate::{Protocol, PublicKey, TAG_LEN};

/// Names of the construction and of the protocol (whitepaper §5.4), which start the transcript.
const fn names(protocol: Protocol) -> (&'static [u8], &'static [u8]) {
    match protocol {
        Protocol::WireGuard => {
            (b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s", b"WireGuard v1 zx2c4 Jason@zx2c4.com")
        }
        Protocol::ShadowMesh => {
            (b"ShadowMesh_IKpsk2+ekem_25519+MLKEM768_ChaChaPoly_BLAKE2s", b"ShadowMesh v1")
        }
    }
}

/// Chaining key, transcript hash, and the current key with the number of messages it has encrypted.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(crate) struct SymmetricState {
    chaining_key: Secret,
    hash: [u8; 32],
    key: Secret,
    counter: u64,
}

impl SymmetricState {
    /// The state both sides start from: the protocol and the responder's static key, which the initiator
    /// knows.
    pub(crate) fn new(protocol: Protocol, responder: &PublicKey) -> Self {
        let (construction, identifier) = names(protocol);
        let chaining_key = Zeroizing::new(hash(&[construction]));
        let mut state = Self {
            hash: hash(&[chaining_key.as_slice(), identifier]),
            chaining_key,
            key: Zeroizing::new([0; 32]),
            counter: 0,
        };
        state.mix_hash(responder.as_bytes());
        state
    }

    pub(crate) fn mix_hash(&mut self, data: &[u8]) {
        self.hash = hash(&[&self.hash, data]);
    }

    /// Token `e` under the psk modifier (Noise §9.2): the key enters the transcript and the chaining key.
    /// What would be the encryption key is not computed, since another token always follows before anything
    /// is encrypted.
    pub(crate) fn mix_ephemeral(&mut self, public: &[u8; 32]) {
        self.mix_hash(public);
        self.mix_chaining_key(public);
    }

    /// `MixKey` where another `MixKey` follows before anything is encrypted.
    pub(crate) fn mix_chaining_key(&mut self, input: &[u8]) {
        [self.chaining_key] = hkdf(&self.chaining_key, input);
    }

    /// `MixKey`.
    pub(crate) fn mix_key(&mut self, input: &[u8]) {
        [self.chaining_key, self.key] = hkdf(&self.chaining_key, input);
        self.counter = 0;
    }

    /// `MixKeyAndHash`, for the preshared key.
    pub(crate) fn mix_key_and_hash(&mut self, input: &[u8]) {
        let [chaining_key, extra, key] = hkdf(&self.chaining_key, input);
        self.chaining_key = chaining_key;
        self.mix_hash(extra.as_slice());
        self.key = key;
        self.counter = 0;
    }

    /// `EncryptAndHash` in place; `text` ends in room for the tag.
    pub(crate) fn encrypt_and_hash(&mut self, text: &mut [u8]) {
        crypto::seal_once(&self.key, self.counter, &self.hash, text);
        self.counter += 1;
        self.mix_hash(text);
    }

    /// `DecryptAndHash` in place; the tag stays behind the plaintext. After an error the state is of no use.
    pub(crate) fn decrypt_and_hash(&mut self, text: &mut [u8]) -> Result<(), Unauthentic> {
        let associated_data = self.hash;
        self.mix_hash(text);
        crypto::open_once(&self.key, self.counter, &associated_data, text)?;
        self.counter += 1;
        Ok(())
    }

    /// Token `e1`: encrypts the KEM key in place like [`encrypt_and_hash`](Self::encrypt_and_hash), except
    /// that the digest of the ciphertext enters the transcript instead of the ciphertext. So the rest of the
    /// initiation can be read by whoever has the digest only, as the receiver of part 1 does, and both forms
    /// of the initiation share one transcript.
    pub(crate) fn encrypt_kem_key(&mut self, text: &mut [u8]) -> [u8; 32] {
        crypto::seal_once(&self.key, self.counter, &self.hash, text);
        let digest = hash(&[text]);
        self.counter += 1;
        self.mix_hash(&digest);
        digest
    }

    /// Token `e1` at the receiver: takes note of the digest, and returns what opens the ciphertext when it is
    /// there.
    pub(crate) fn expect_kem_key(&mut self, digest: &[u8; 32]) -> ExpectedKemKey {
        let expected = ExpectedKemKey {
            key: self.key.clone(),
            counter: self.counter,
            associated_data: self.hash,
            digest: *digest,
        };
        self.counter += 1;
        self.mix_hash(digest);
        expected
    }

    /// The keys of a WireGuard session, initiator's to responder first (whitepaper §5.4.5), are derived from
    /// this.
    pub(crate) fn chaining_key(&self) -> Secret {
        self.chaining_key.clone()
    }

    /// The secret the lanes of a ShadowMesh session are derived from: every secret and the whole transcript.
    pub(crate) fn session_secret(&self) -> Secret {
        let [secret] = hkdf(&self.chaining_key, &self.hash);
        secret
    }
}

/// What opens the KEM key of an initiation: all that an incomplete split initiation has to remember of it.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(crate) struct ExpectedKemKey {
    key: Secret,
    counter: u64,
    associated_data: [u8; 32],
    digest: [u8; 32],
}

impl ExpectedKemKey {
    /// Whether `sealed` is what the digest was taken of. It costs one hash and needs no secret.
    pub(crate) fn is_digest_of(&self, sealed: &[u8; SEALED_KEM_KEY_LEN]) -> bool {
        crypto::mac_eq(&hash(&[sealed]), &self.digest)
    }

    /// The KEM key, not yet checked to be a valid one.
    pub(crate) fn open(
        &self,
        sealed: &[u8; SEALED_KEM_KEY_LEN],
    ) -> Result<Box<[u8; KEM_KEY_LEN]>, Unauthentic> {
        let mut text = *sealed;
        crypto::open_once(&self.key, self.counter, &self.associated_data, &mut text)?;
        let mut key = Box::new([0; KEM_KEY_LEN]);
        key.copy_from_slice(&text[..text.len() - TAG_LEN]);
        Ok(key)
    }
}
