//! Keys as people and config files handle them: 32 bytes, base64.

use std::fmt;
use std::str::FromStr;

use base64ct::{Base64, Encoding};
use rand_core::CryptoRng;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::crypto::KeyPair;

/// Characters of a base64 key, padding included.
const BASE64_LEN: usize = 44;

/// Why a text, or a public key, is not a usable key. It never contains the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// The text has another length than the 44 characters of a key.
    #[error("a key has 44 base64 characters, this has {0}")]
    Length(usize),
    /// The text is not canonical, padded base64 of 32 bytes.
    #[error("not the base64 of a key: a character is wrong, or the end is")]
    Alphabet,
    /// The public key is of low order (all zeros, for example): no secret could be agreed with it.
    #[error(
        "the public key is of low order (all zeros, for example), so nothing could be kept secret with it"
    )]
    LowOrder,
}

/// Decodes the base64 of a key, ignoring white space around it: keys come from files that end in a new line.
fn decode(text: &str) -> Result<Zeroizing<[u8; 32]>, InvalidKey> {
    let text = text.trim_ascii();
    if text.len() != BASE64_LEN {
        return Err(InvalidKey::Length(text.chars().count()));
    }
    let mut key = Zeroizing::new([0; 32]);
    match Base64::decode(text, key.as_mut_slice()) {
        Ok(bytes) if bytes.len() == 32 => Ok(key),
        _ => Err(InvalidKey::Alphabet),
    }
}

/// A node's identity: its X25519 public key. `Display` and `FromStr` speak base64, as `wg` does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// The key with these bytes. Whether it is usable is found out by
    /// [`PeerKeys::new`](crate::PeerKeys::new).
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes of the key, as they travel.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; BASE64_LEN];
        f.pad(Base64::encode(&self.0, &mut text).expect("44 characters are the base64 of 32 bytes"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        decode(text).map(|key| Self(*key))
    }
}

/// A node's X25519 private key. It is cleared when dropped and never printed.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct StaticSecret([u8; 32]);

impl StaticSecret {
    /// A new private key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut secret = Zeroizing::new([0; 32]);
        rng.fill_bytes(secret.as_mut_slice());
        Self::clamped(&secret)
    }

    /// Any 32 bytes are a private key once clamped (RFC 7748 §5), as `wg genkey` stores them.
    fn clamped(bytes: &[u8; 32]) -> Self {
        let mut secret = *bytes;
        secret[0] &= 0b1111_1000;
        secret[31] = (secret[31] & 0b0111_1111) | 0b0100_0000;
        Self(secret)
    }

    /// The public key that belongs to it.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.key_pair().public)
    }

    /// The key in base64, for the file it is kept in.
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(Base64::encode_string(&self.0))
    }

    pub(crate) fn key_pair(&self) -> KeyPair {
        KeyPair::from_secret(&self.0)
    }
}

impl fmt::Debug for StaticSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StaticSecret(redacted)")
    }
}

impl FromStr for StaticSecret {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        decode(text).map(|key| Self::clamped(&key))
    }
}

/// A secret that two peers share beforehand and mix into each handshake (all zeros, the default: none). It is
/// cleared when dropped and never printed.
#[derive(Clone, Default, Zeroize, ZeroizeOnDrop)]
pub struct PresharedKey([u8; 32]);

impl PresharedKey {
    /// A new preshared key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut key = Self::default();
        rng.fill_bytes(&mut key.0);
        key
    }

    /// The key in base64, for the file it is kept in.
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(Base64::encode_string(&self.0))
    }

    /// The secret itself.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(redacted)")
    }
}

impl FromStr for PresharedKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        decode(text).map(|key| Self(*key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    #[test]
    fn a_public_key_is_printed_as_it_was_read() {
        let key: PublicKey = TEXT.parse().unwrap();
        assert_eq!(key.as_bytes()[..4], [0, 1, 2, 3]);
        assert_eq!(key.to_string(), TEXT);
        assert_eq!(format!("{key:?}"), TEXT);
        assert_eq!(format!(" {TEXT}\n").parse(), Ok(key));
    }

    #[test]
    fn a_malformed_key_is_refused_with_what_is_wrong() {
        assert_eq!("".parse::<PublicKey>(), Err(InvalidKey::Length(0)));
        assert_eq!(TEXT[..43].parse::<PublicKey>(), Err(InvalidKey::Length(43)));
        assert_eq!(TEXT.replace('D', "!").parse::<PublicKey>(), Err(InvalidKey::Alphabet));
        assert_eq!(TEXT.replace("8=", "9=").parse::<PublicKey>(), Err(InvalidKey::Alphabet), "trailing bits");
        assert_eq!(TEXT.replace("8=", "8A").parse::<PublicKey>(), Err(InvalidKey::Alphabet), "33 bytes");
    }

    #[test]
    fn a_private_key_is_clamped_and_never_shown() {
        let secret: StaticSecret = "//////////////////////////////////////////8=".parse().unwrap();
        assert_eq!(secret.to_base64().as_str(), "+P///////////////////////////////////////38=");
        assert_eq!(format!("{secret:?}"), "StaticSecret(redacted)");
        let psk: PresharedKey = TEXT.parse().unwrap();
        assert_eq!(psk.to_base64().as_str(), TEXT);
        assert_eq!(format!("{psk:?}"), "PresharedKey(redacted)");
    }
}
