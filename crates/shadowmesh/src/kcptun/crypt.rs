//! kcptun's datagram encryption, as kcp-go does it.
//!
//! ```text
//!  0..15     16..19                     20..
//!  nonce     CRC-32 of the rest (LE)    KCP datagram, with its FEC header if it has one
//! ```
//!
//! All of it is encrypted: AES in CFB mode with one initial vector for everything, so that the nonce, the first
//! block, takes that vector's place; Salsa20 with the first eight bytes as its nonce, in clear; or an exclusive-or
//! with a table. `none` has the header but no encryption, `null` not even the header.
//!
//! None of these authenticates: whoever can send datagrams can damage a connection unseen. It is what kcptun does,
//! for its users; links between nodes of a mesh are sealed otherwise.
//!
//! CFB encrypts each block with the one before it, so a single datagram leaves most of the processor's AES unit idle.
//! [`Cipher::seal`] takes a whole train and encrypts its datagrams in step.

use std::num::NonZeroU32;

use aes::cipher::consts::U16;
use aes::cipher::{BlockCipherEncrypt, KeyInit, KeyIvInit, StreamCipher};
use aes::{Aes128, Aes192, Aes256, Block};
use aws_lc_rs::pbkdf2;
use salsa20::Salsa20;

/// Bytes before the KCP datagram.
const HEADER_LEN: usize = NONCE_LEN + CHECKSUM_LEN;
const NONCE_LEN: usize = 16;
const CHECKSUM_LEN: usize = 4;
const BLOCK: usize = 16;
/// Blocks encrypted at once: the widest AES unit takes as many, and the call costs the more the fewer they are.
const LANES: usize = 64;
/// From so many datagrams on, encrypting [`LANES`] blocks costs less than encrypting theirs one by one.
const LANES_WORTH_FILLING: usize = 12;
/// Bytes of the table of `xor`: kcp-go's longest datagram.
const XOR_TABLE_LEN: usize = 1500;

/// kcp-go's initial vector.
const INITIAL_VECTOR: [u8; BLOCK] =
    [167, 115, 79, 156, 18, 172, 27, 1, 164, 21, 242, 193, 252, 120, 230, 107];
const KEY_SALT: &[u8] = b"kcp-go";
const KEY_ROUNDS: u32 = 4096;
const XOR_SALT: &[u8] = b"sH3CIVoF#rWLtJo6";
const XOR_ROUNDS: u32 = 32;

/// What `--crypt` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CipherKind {
    /// `null`: datagrams as they are.
    Null,
    /// `none`: the header, not encrypted.
    None,
    /// `xor`.
    Xor,
    /// `aes`: AES-256.
    Aes256,
    /// `aes-192`.
    Aes192,
    /// `aes-128`.
    Aes128,
    /// `salsa20`.
    Salsa20,
}

impl CipherKind {
    /// The names of kcptun, and what they mean.
    pub const NAMES: [(&'static str, Self); 7] = [
        ("aes", Self::Aes256),
        ("aes-128", Self::Aes128),
        ("aes-192", Self::Aes192),
        ("salsa20", Self::Salsa20),
        ("xor", Self::Xor),
        ("none", Self::None),
        ("null", Self::Null),
    ];
}

/// A cipher with its key.
#[derive(Debug)]
pub enum Cipher {
    /// No header.
    Null,
    /// A header, no encryption.
    None,
    /// An exclusive-or with a table.
    Xor(Box<[u8; XOR_TABLE_LEN]>),
    /// AES-128 in CFB mode.
    Aes128(Box<Aes128>),
    /// AES-192 in CFB mode.
    Aes192(Box<Aes192>),
    /// AES-256 in CFB mode.
    Aes256(Box<Aes256>),
    /// Salsa20.
    Salsa20([u8; 32]),
}

impl Cipher {
    /// Derives the key from `--key`, which takes some milliseconds.
    pub fn new(kind: CipherKind, passphrase: &str) -> Self {
        let mut key = [0; 32];
        derive(KEY_ROUNDS, KEY_SALT, passphrase.as_bytes(), &mut key);
        let [k16, k24] = [16, 24].map(|len| key[..len].to_vec());
        match kind {
            CipherKind::Null => Self::Null,
            CipherKind::None => Self::None,
            CipherKind::Xor => {
                let mut table = Box::new([0; XOR_TABLE_LEN]);
                derive(XOR_ROUNDS, XOR_SALT, &key, &mut *table);
                Self::Xor(table)
            }
            CipherKind::Aes128 => Self::Aes128(Box::new(new_aes(&k16))),
            CipherKind::Aes192 => Self::Aes192(Box::new(new_aes(&k24))),
            CipherKind::Aes256 => Self::Aes256(Box::new(new_aes(&key))),
            CipherKind::Salsa20 => Self::Salsa20(key),
        }
    }

    /// Bytes before the KCP datagram.
    pub fn header_len(&self) -> usize {
        if matches!(self, Self::Null) { 0 } else { HEADER_LEN }
    }

    /// Writes the headers of a train, datagrams of `size` bytes one after the other, the last of which may be
    /// shorter, and encrypts them. Each begins with [`header_len`](Self::header_len) bytes of room. `fill_nonce`
    /// fills in nonces, which need be different, no more.
    pub fn seal(&self, train: &mut [u8], size: usize, mut fill_nonce: impl FnMut(&mut [u8])) {
        if matches!(self, Self::Null) {
            return;
        }
        for datagram in train.chunks_mut(size) {
            let (header, body) = datagram.split_at_mut(HEADER_LEN);
            fill_nonce(&mut header[..NONCE_LEN]);
            header[NONCE_LEN..].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
        }
        match self {
            Self::Null | Self::None => {}
            Self::Xor(table) => train.chunks_mut(size).for_each(|datagram| xor(datagram, &**table)),
            Self::Aes128(aes) => encrypt_cfb(&**aes, train, size),
            Self::Aes192(aes) => encrypt_cfb(&**aes, train, size),
            Self::Aes256(aes) => encrypt_cfb(&**aes, train, size),
            Self::Salsa20(key) => train.chunks_mut(size).for_each(|datagram| salsa20(key, datagram)),
        }
    }

    /// Decrypts a datagram in place and returns what is behind the header; `None` when the checksum is wrong, so that
    /// it was damaged, or encrypted with another key.
    pub fn open<'a>(&self, datagram: &'a mut [u8]) -> Option<&'a [u8]> {
        if matches!(self, Self::Null) {
            return Some(datagram);
        }
        if datagram.len() < HEADER_LEN {
            return None;
        }
        match self {
            Self::Null | Self::None => {}
            Self::Xor(table) => xor(datagram, &**table),
            Self::Aes128(aes) => decrypt_cfb(&**aes, datagram),
            Self::Aes192(aes) => decrypt_cfb(&**aes, datagram),
            Self::Aes256(aes) => decrypt_cfb(&**aes, datagram),
            Self::Salsa20(key) => salsa20(key, datagram),
        }
        let (header, body) = datagram.split_at(HEADER_LEN);
        (header[NONCE_LEN..] == crc32fast::hash(body).to_le_bytes()).then_some(body)
    }
}

fn derive(rounds: u32, salt: &[u8], secret: &[u8], out: &mut [u8]) {
    let rounds = NonZeroU32::new(rounds).unwrap_or(NonZeroU32::MIN);
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA1, rounds, salt, secret, out);
}

fn new_aes<A: KeyInit>(key: &[u8]) -> A {
    A::new_from_slice(key).expect("the caller cuts the key to the cipher's length")
}

fn xor(datagram: &mut [u8], table: &[u8]) {
    datagram.iter_mut().zip(table).for_each(|(byte, key)| *byte ^= key);
}

fn salsa20(key: &[u8; 32], datagram: &mut [u8]) {
    if let Some((nonce, rest)) = datagram.split_first_chunk_mut::<8>() {
        Salsa20::new(key.into(), (&*nonce).into()).apply_keystream(rest);
    }
}

/// CFB over each datagram of a train, up to [`LANES`] datagrams in step.
fn encrypt_cfb(aes: &impl BlockCipherEncrypt<BlockSize = U16>, train: &mut [u8], size: usize) {
    let mut first = Block::from(INITIAL_VECTOR);
    aes.encrypt_block(&mut first);
    for lanes in train.chunks_mut(size * LANES) {
        let mut masks = [first; LANES];
        let count = lanes.len().div_ceil(size);
        let filled = if count < LANES_WORTH_FILLING { count } else { LANES };
        // Only the last datagram of a train may be shorter: then it falls behind at its end.
        for at in (0..size).step_by(BLOCK) {
            for (datagram, mask) in lanes.chunks_mut(size).zip(&mut masks) {
                if let Some(block) = datagram.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<BLOCK>) {
                    *block = add(*block, mask.0);
                    mask.0 = *block;
                } else if let Some(tail) = datagram.get_mut(at..) {
                    xor(tail, mask);
                }
            }
            aes.encrypt_blocks(&mut masks[..filled]);
        }
    }
}

/// CFB the other way round: every mask is known beforehand.
fn decrypt_cfb(aes: &impl BlockCipherEncrypt<BlockSize = U16>, datagram: &mut [u8]) {
    let mut before = Block::from(INITIAL_VECTOR);
    for bytes in datagram.chunks_mut(LANES * BLOCK) {
        let mut masks = [before; LANES];
        let (blocks, tail) = bytes.as_chunks_mut::<BLOCK>();
        for (mask, block) in masks[1..].iter_mut().zip(&*blocks) {
            mask.0 = *block;
        }
        if let Some(last) = blocks.last() {
            before.0 = *last;
        }
        let count = blocks.len() + usize::from(!tail.is_empty());
        let filled = if count < LANES_WORTH_FILLING { count } else { LANES };
        aes.encrypt_blocks(&mut masks[..filled]);
        for (block, mask) in blocks.iter_mut().zip(&masks) {
            *block = add(*block, mask.0);
        }
        if !tail.is_empty() {
            xor(tail, &masks[count - 1]);
        }
    }
}

/// The exclusive-or of two blocks.
fn add(a: [u8; BLOCK], b: [u8; BLOCK]) -> [u8; BLOCK] {
    (u128::from_ne_bytes(a) ^ u128::from_ne_bytes(b)).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = b"what a KCP datagram would be";

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect()
    }

    fn datagram(kind: CipherKind) -> Vec<u8> {
        let cipher = Cipher::new(kind, "it's a secrect");
        let mut datagram = [vec![0; cipher.header_len()], BODY.to_vec()].concat();
        let len = datagram.len();
        cipher.seal(&mut datagram, len, |nonce| (0..).zip(nonce).for_each(|(at, byte)| *byte = at));
        datagram
    }

    /// Computed with other implementations: Python's `hashlib` and `zlib`, and the AES of its `cryptography`.
    #[test]
    fn datagrams_are_those_of_kcp_go() {
        let expected = [
            (
                CipherKind::Aes128,
                "ddd7e0a7981ba3e2a7f6d51f2a2663187c86032e9d70a9a7ee25cb0b17d165d8f7d94de593c9f71f62ef869508ab2c9d",
            ),
            (
                CipherKind::Aes192,
                "b9db59f7dd1bce4922855fb7f8f8e2619d249767101d43f81cff2cd4b436f439474f9a2c70e58d92525d13d150865d76",
            ),
            (
                CipherKind::Aes256,
                "86834343335b168ca911bf584a05f99037ab84b04fff5dfb26ce33591e512b1250d3f128a253c93351add7ae7fd23a67",
            ),
            (
                CipherKind::Xor,
                "0fff8b84a99173765c7011c3f60cb8234268f87fc5fd2167ed331ff75c2a8ce891db075835fa7e6e52cfa59bfa0f5867",
            ),
            (
                CipherKind::Salsa20,
                "00010203040506079aaa6e7faf75365c79139d706f06932752f27b4f3da8ab310b9d4199f84b7ee11a1809c612cc082f",
            ),
            (
                CipherKind::None,
                "000102030405060708090a0b0c0d0e0f29a6f979776861742061204b435020646174616772616d20776f756c64206265",
            ),
        ];
        for (kind, expected) in expected {
            assert_eq!(datagram(kind), bytes(expected), "{kind:?}");
        }
        assert_eq!(datagram(CipherKind::Null), BODY);
    }

    #[test]
    fn a_whole_train_is_encrypted_as_its_datagrams_are() {
        for kind in CipherKind::NAMES.map(|(_, kind)| kind) {
            let cipher = Cipher::new(kind, "key");
            for (size, last, count) in
                [(1350, 1350, 1), (1350, 700, 19), (100, 33, 8), (64, 64, 9), (37, 21, 3)]
            {
                let plain: Vec<u8> =
                    (0..size * (count - 1) + last).map(|at| (at * 7 + at / 256) as u8).collect();
                let seal = |bytes: &[u8]| {
                    let mut sealed = bytes.to_vec();
                    cipher.seal(&mut sealed, size, |nonce| nonce.fill(7));
                    sealed
                };
                let train = seal(&plain);
                let singly: Vec<u8> = plain.chunks(size).flat_map(seal).collect();
                assert!(train == singly, "{kind:?}, {count} of {size}");
                for (sealed, plain) in train.chunks(size).zip(plain.chunks(size)) {
                    let mut sealed = sealed.to_vec();
                    assert_eq!(cipher.open(&mut sealed), Some(&plain[cipher.header_len()..]));
                }
            }
        }
    }

    #[test]
    fn what_was_damaged_or_has_another_key_is_not_opened() {
        for kind in
            CipherKind::NAMES.map(|(_, kind)| kind).into_iter().filter(|kind| *kind != CipherKind::Null)
        {
            let cipher = Cipher::new(kind, "it's a secrect");
            let sealed = datagram(kind);
            for at in HEADER_LEN - CHECKSUM_LEN..sealed.len() {
                let mut damaged = sealed.clone();
                damaged[at] ^= 0x10;
                assert_eq!(cipher.open(&mut damaged), None, "{kind:?}");
            }
            assert_eq!(cipher.open(&mut [0; HEADER_LEN - 1]), None);
            if kind != CipherKind::None {
                assert_eq!(Cipher::new(kind, "another").open(&mut sealed.clone()), None, "{kind:?}");
            }
        }
    }
}
