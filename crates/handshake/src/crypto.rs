//! The primitives, under the names the Noise and WireGuard papers give them.
//!
//! AWS-LC provides X25519, AES-256-GCM and ChaCha20-Poly1305, the `aegis` crate (libaegis) AEGIS-256X4, the `blake2` crate
//! BLAKE2s. HMAC, HKDF and HChaCha20 are small compositions of those and live here.

use std::fmt;

use aegis::aegis256x4::Aegis256X4;
use aws_lc_rs::aead::{AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, X25519};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput, KeyInit, Update};
use blake2::{Blake2s256, Blake2sMac, Digest};
use rand_core::CryptoRng;
use zeroize::{Zeroize, Zeroizing};

use crate::{Suite, TAG_LEN};

/// 32 secret bytes, cleared when dropped.
pub(crate) type Secret = Zeroizing<[u8; 32]>;

/// Bytes of a truncated BLAKE2s MAC, which is also the length of a cookie.
pub(crate) const MAC_LEN: usize = 16;

/// The block of BLAKE2s, to which HMAC pads its key (RFC 2104 §2).
const BLAKE2S_BLOCK_LEN: usize = 64;

/// BLAKE2s-256 over the concatenation of `parts`.
pub(crate) fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut state = Blake2s256::new();
    for part in parts {
        Digest::update(&mut state, part);
    }
    state.finalize().into()
}

/// Keyed BLAKE2s with 16 bytes of output over the concatenation of `parts`: the whitepaper's `Mac`.
///
/// `key` is at most 32 bytes: a key of this protocol or a cookie.
pub(crate) fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; MAC_LEN] {
    let mut state = Blake2sMac::<U16>::new_from_slice(key)
        .expect("BLAKE2s takes keys of up to 32 bytes; ours are 16 or 32");
    for part in parts {
        Update::update(&mut state, part);
    }
    state.finalize_fixed().into()
}

/// Whether two MACs are the same, in time that does not depend on where they differ.
pub(crate) fn mac_eq(a: &[u8], b: &[u8]) -> bool {
    verify_slices_are_equal(a, b).is_ok()
}

/// HMAC-BLAKE2s-256 (RFC 2104) over the concatenation of `parts`.
fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> Secret {
    let mut pad = Zeroizing::new([0x36; BLAKE2S_BLOCK_LEN]);
    pad.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
    let mut inner = Blake2s256::new();
    Digest::update(&mut inner, pad.as_slice());
    for part in parts {
        Digest::update(&mut inner, part);
    }
    pad.iter_mut().for_each(|byte| *byte ^= 0x36 ^ 0x5c);
    let mut outer = Blake2s256::new();
    Digest::update(&mut outer, pad.as_slice());
    Digest::update(&mut outer, inner.finalize());
    Zeroizing::new(outer.finalize().into())
}

/// HKDF with `N` outputs of 32 bytes (Noise §4.3): the whitepaper's `Kdf1`, `Kdf2` and `Kdf3`.
pub(crate) fn hkdf<const N: usize>(chaining_key: &[u8; 32], input: &[u8]) -> [Secret; N] {
    let extracted = hmac(chaining_key, &[input]);
    let mut outputs: [Secret; N] = std::array::from_fn(|_| Zeroizing::new([0; 32]));
    for index in 0..N {
        // Each output is chained to the one before, the first to nothing.
        let (before, rest) = outputs.split_at_mut(index);
        let previous: &[u8] = before.last().map_or(&[], |output| output.as_slice());
        rest[0] = hmac(&extracted, &[previous, &[index as u8 + 1]]);
    }
    outputs
}

/// A Diffie–Hellman result was all zeros: the remote's public key is of low order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LowOrderPoint;

/// A private X25519 key in the form AWS-LC works with, and its public key.
pub(crate) struct KeyPair {
    private: PrivateKey,
    pub(crate) public: [u8; 32],
}

impl KeyPair {
    pub(crate) fn from_secret(secret: &[u8; 32]) -> Self {
        let private =
            PrivateKey::from_private_key(&X25519, secret).expect("any 32 bytes are an X25519 private key");
        let computed =
            private.compute_public_key().expect("the public key was computed with the private key");
        let public = computed.as_ref().try_into().expect("an X25519 public key has 32 bytes");
        Self { private, public }
    }

    pub(crate) fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut secret = Zeroizing::new([0; 32]);
        rng.fill_bytes(secret.as_mut_slice());
        Self::from_secret(&secret)
    }

    /// X25519 (RFC 7748 §6.1), with the check for an all-zero result that the RFC leaves optional.
    pub(crate) fn agree(&self, public: &[u8; 32]) -> Result<Secret, LowOrderPoint> {
        let public = UnparsedPublicKey::new(&X25519, public);
        agreement::agree(&self.private, public, LowOrderPoint, |shared| {
            let mut secret = Zeroizing::new([0; 32]);
            secret.copy_from_slice(shared);
            Ok(secret)
        })
        .and_then(|shared| if mac_eq(shared.as_slice(), &[0; 32]) { Err(LowOrderPoint) } else { Ok(shared) })
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair").field("public", &self.public).finish_non_exhaustive()
    }
}

/// An AEAD key, ready to be used for many messages.
pub(crate) enum AeadKey {
    /// Expanded once: AES-256-GCM and ChaCha20-Poly1305.
    Expanded(LessSafeKey),
    /// AEGIS-256X4 has no key schedule: the key goes into the state of each message as it is.
    Aegis(Secret),
}

impl Drop for AeadKey {
    /// AWS-LC clears what it has on its heap, but an expanded AEAD key is in our memory, and is not cleared. So another key
    /// is put in its place. This reaches the place where the key spent its life, not copies a move may have left behind.
    fn drop(&mut self) {
        if let Self::Expanded(key) = self
            && let Ok(blank) = UnboundKey::new(key.algorithm(), &[0; 32])
        {
            *key = LessSafeKey::new(blank);
            // The value is read as far as the compiler knows, so the assignment has to happen.
            std::hint::black_box(key);
        }
    }
}

/// A message did not authenticate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unauthentic;

impl AeadKey {
    pub(crate) fn new(suite: Suite, key: &[u8; 32]) -> Self {
        let algorithm: &'static Algorithm = match suite {
            Suite::Aes256Gcm => &AES_256_GCM,
            Suite::ChaCha20Poly1305 => &CHACHA20_POLY1305,
            Suite::Aegis256X4 => return Self::Aegis(Zeroizing::new(*key)),
        };
        let key = UnboundKey::new(algorithm, key).expect("both algorithms take keys of 32 bytes");
        Self::Expanded(LessSafeKey::new(key))
    }

    /// Encrypts `text` in place and writes the tag to `tag`, which has room for exactly [`TAG_LEN`] bytes.
    #[inline]
    pub(crate) fn seal(&self, nonce: [u8; 12], associated_data: &[u8], text: &mut [u8], tag: &mut [u8]) {
        match self {
            Self::Expanded(key) => key
                .seal_in_place_scatter(
                    Nonce::assume_unique_for_key(nonce),
                    Aad::from(associated_data),
                    text,
                    &[],
                    tag,
                )
                .expect("the tag has its length, and no message comes near the 64 GiB an AEAD allows"),
            Self::Aegis(key) => {
                let aegis = Aegis256X4::<TAG_LEN>::new(key, &aegis_nonce(nonce));
                tag.copy_from_slice(&aegis.encrypt_in_place(text, associated_data));
            }
        }
    }

    /// Decrypts `text` in place. What does not authenticate leaves nothing of use in `text`.
    #[inline]
    pub(crate) fn open(
        &self,
        nonce: [u8; 12],
        associated_data: &[u8],
        text: &mut [u8],
        tag: &[u8],
    ) -> Result<(), Unauthentic> {
        match self {
            Self::Expanded(key) => {
                let nonce = Nonce::assume_unique_for_key(nonce);
                match key.open_in_place_separate_tag(nonce, Aad::from(associated_data), tag, text) {
                    Ok(_) => Ok(()),
                    Err(_) => Err(Unauthentic),
                }
            }
            Self::Aegis(key) => {
                let tag: &[u8; TAG_LEN] = tag.try_into().map_err(|_| Unauthentic)?;
                let aegis = Aegis256X4::<TAG_LEN>::new(key, &aegis_nonce(nonce));
                aegis.decrypt_in_place(text, tag, associated_data).map_err(|_| Unauthentic)
            }
        }
    }
}

/// AEGIS-256X4 takes nonces of 32 bytes: ours, and zeros.
#[inline]
fn aegis_nonce(nonce: [u8; 12]) -> [u8; 32] {
    let mut long = [0; 32];
    long[..12].copy_from_slice(&nonce);
    long
}

/// The nonce of message number `counter`: four zero bytes, then the counter, little-endian (whitepaper
/// §5.4.6).
#[inline]
pub(crate) fn counter_nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    nonce
}

/// ChaCha20-Poly1305 under a key that is used for very few messages. `text` ends in room for the tag.
pub(crate) fn seal_once(key: &[u8; 32], counter: u64, associated_data: &[u8], text: &mut [u8]) {
    let (text, tag) = text.split_at_mut(text.len() - TAG_LEN);
    AeadKey::new(Suite::ChaCha20Poly1305, key).seal(counter_nonce(counter), associated_data, text, tag);
}

/// The inverse of [`seal_once`]: on success the plaintext is `text` without its last [`TAG_LEN`] bytes.
pub(crate) fn open_once(
    key: &[u8; 32],
    counter: u64,
    associated_data: &[u8],
    text: &mut [u8],
) -> Result<(), Unauthentic> {
    let (text, tag) = text.split_at_mut(text.len().checked_sub(TAG_LEN).ok_or(Unauthentic)?);
    AeadKey::new(Suite::ChaCha20Poly1305, key).open(counter_nonce(counter), associated_data, text, tag)
}

/// The sub-key and the shortened nonce with which XChaCha20-Poly1305 runs ChaCha20-Poly1305
/// (draft-irtf-cfrg-xchacha-03 §2.3).
fn xchacha_parts(key: &[u8; 32], nonce: &[u8; 24]) -> (Secret, u64) {
    let (head, tail) = nonce.split_first_chunk::<16>().expect("24 bytes are more than 16");
    let tail: [u8; 8] = tail.try_into().expect("24 bytes without the first 16 are 8");
    (hchacha20(key, head), u64::from_le_bytes(tail))
}

/// XChaCha20-Poly1305; `text` ends in room for the tag.
pub(crate) fn xseal(key: &[u8; 32], nonce: &[u8; 24], associated_data: &[u8], text: &mut [u8]) {
    let (subkey, tail) = xchacha_parts(key, nonce);
    seal_once(&subkey, tail, associated_data, text);
}

/// The inverse of [`xseal`].
pub(crate) fn xopen(
    key: &[u8; 32],
    nonce: &[u8; 24],
    associated_data: &[u8],
    text: &mut [u8],
) -> Result<(), Unauthentic> {
    let (subkey, tail) = xchacha_parts(key, nonce);
    open_once(&subkey, tail, associated_data, text)
}

/// HChaCha20 (draft-irtf-cfrg-xchacha-03 §2.2): the ChaCha20 permutation without the final addition, of whose
/// state the first and the last row are the output.
fn hchacha20(key: &[u8; 32], input: &[u8; 16]) -> Secret {
    let word = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let mut state = Zeroizing::new([0u32; 16]);
    // "expand 32-byte k", the constant of RFC 8439 §2.3.
    state[..4].copy_from_slice(&[0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574]);
    state[4..].iter_mut().zip(key.chunks(4).chain(input.chunks(4))).for_each(|(to, from)| *to = word(from));
    for _ in 0..10 {
        for column in 0..4 {
            quarter_round(&mut state, [column, column + 4, column + 8, column + 12]);
        }
        for diagonal in 0..4 {
            let next = |row: usize| row * 4 + (diagonal + row) % 4;
            quarter_round(&mut state, [next(0), next(1), next(2), next(3)]);
        }
    }
    let mut output = Zeroizing::new([0; 32]);
    let rows = state[..4].iter().chain(&state[12..]);
    output.chunks_mut(4).zip(rows).for_each(|(to, from)| to.copy_from_slice(&from.to_le_bytes()));
    state.zeroize();
    output
}

/// The quarter round of ChaCha (RFC 8439 §2.1) on four words of the state.
fn quarter_round(state: &mut [u32; 16], [a, b, c, d]: [usize; 4]) {
    let mut step = |sum: usize, addend: usize, xored: usize, bits: u32| {
        state[sum] = state[sum].wrapping_add(state[addend]);
        state[xored] = (state[xored] ^ state[sum]).rotate_left(bits);
    };
    step(a, b, d, 16);
    step(c, d, b, 12);
    step(a, b, d, 8);
    step(c, d, b, 7);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unhex<const N: usize>(hex: &str) -> [u8; N] {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        assert_eq!(digits.len(), 2 * N);
        std::array::from_fn(|i| {
            u8::from_str_radix(std::str::from_utf8(&digits[2 * i..2 * i + 2]).unwrap(), 16).unwrap()
        })
    }

    #[test]
    fn hchacha20_matches_the_drafts_test_vector() {
        // draft-irtf-cfrg-xchacha-03 §2.2.1
        let key = std::array::from_fn(|i| i as u8);
        let input = unhex("000000090000004a0000000031415927");
        let expected: [u8; 32] = unhex("82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc");
        assert_eq!(*hchacha20(&key, &input), expected);
    }

    #[test]
    fn xchacha20_poly1305_agrees_with_another_implementation() {
        use chacha20poly1305::aead::{Aead, KeyInit, Payload};
        use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};

        let (key, nonce, aad) = ([3; 32], std::array::from_fn(|i| i as u8), b"bound to");
        let mut text = *b"a cookie of 16 b................";
        xseal(&key, &nonce, aad, &mut text);
        let cipher = XChaCha20Poly1305::new(Key::from_slice(&key));
        let payload = Payload { msg: &b"a cookie of 16 b"[..], aad };
        assert_eq!(text.as_slice(), cipher.encrypt(XNonce::from_slice(&nonce), payload).unwrap());
        assert_eq!(xopen(&key, &nonce, b"another", &mut text.clone()), Err(Unauthentic));
        assert_eq!(xopen(&key, &nonce, aad, &mut text), Ok(()));
        assert_eq!(&text[..16], b"a cookie of 16 b");
    }

    #[test]
    fn aegis_256x4_matches_the_drafts_test_vectors() {
        // draft-irtf-cfrg-aegis-aead, "AEGIS-256X4 Test Vectors", the two with tags of 128 bits
        let key: [u8; 32] = std::array::from_fn(|i| i as u8);
        let nonce: [u8; 32] = std::array::from_fn(|i| i as u8 + 0x10);
        let aegis = Aegis256X4::<TAG_LEN>::new(&key, &nonce);
        assert_eq!(aegis.encrypt_in_place(&mut [], &[]), unhex::<16>("3b7fee6cee7bf17888ad11ed2397beb4"));
        let mut text: [u8; 120] = std::array::from_fn(|i| i as u8 % 4 + 4);
        let tag = aegis.encrypt_in_place(&mut text, &[1, 2, 3, 4, 1, 2, 3, 4]);
        assert_eq!(text[..16], unhex::<16>("bfc2085b7e8017da99b0b6d646ae4d01"));
        assert_eq!(text[104..], unhex::<16>("813808b81748a490dd656465fed61f09"));
        assert_eq!(tag, unhex::<16>("b63b611b13975e2f3dc3cb6c2397bfcd"));
    }

    #[test]
    fn a_low_order_public_key_is_refused() {
        let pair = KeyPair::from_secret(&[7; 32]);
        assert_eq!(pair.agree(&[0; 32]).err(), Some(LowOrderPoint));
        let mut one = [0; 32];
        one[0] = 1;
        assert_eq!(pair.agree(&one).err(), Some(LowOrderPoint));
    }

    #[test]
    fn a_mac_differs_with_key_and_message() {
        let reference = mac(&[1; 32], &[b"message"]);
        assert_eq!(reference, mac(&[1; 32], &[b"mess", b"age"]));
        assert_ne!(reference, mac(&[2; 32], &[b"message"]));
        assert_ne!(reference, mac(&[1; 32], &[b"massage"]));
    }
}
