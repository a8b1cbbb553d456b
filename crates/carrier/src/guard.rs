//! The guard: what a crafted segment must show before anybody looks at it, and why its payload has no constant bytes.
//!
//! A sealed datagram starts with 16 bytes of header in clear, the same ones over and over. On the wire they are covered
//! by a *mask* that only those can compute who know the listener's public key (as QUIC's header protection does,
//! RFC 9001 §5.4):
//!
//! ```text
//!             0      1             2..3   4..15                     16..31   32..
//!  datagram   type   lane, suite   zero   index, counter …          sample   the rest
//!               ⊕      ⊕             ⊕      ⊕                         │        │
//!  mask       ──────────────── AES-128(window key, sample) ◄──────────┤        │
//!               =      =             =      =                         ▼        ▼
//!  wire       ────────────── looks random ──────────────────────── sample   the rest
//!
//!  window key = BLAKE2s-128(key = guard key, "shadowmesh guard" · direction u8 · window number u64, little-endian)
//! ```
//!
//! The sample is the beginning of a ciphertext or of an ephemeral key, so no two masks are alike. What comes out from
//! under a wrong mask is random: [`Guard::unmask`] demands a type from 1 to 31, a lane below 16 and two zero bytes, which chance
//! meets once in 8 million tries. So the guard takes no byte of a packet's room, covers a datagram by one AES block, and is
//! checked before anything else is done with it. What it does not do is authenticate: that is the session's work.
//!
//! Windows are ten minutes long and numbered from the Unix epoch. The one before and the one after are accepted too, so
//! clocks may be apart by at least ten minutes, and a link may be idle for as long as it likes: the keys depend on the time alone.
//! Where clocks are further apart, a flow has a key of its own instead, of the listener's random sequence number, which both ends have
//! from the handshake:
//!
//! ```text
//!  flow key   = BLAKE2s-128(key = guard key, "shadowmesh flow guard" · direction u8 · sequence number of the SYN-ACK u32, little-endian)
//! ```

use std::fmt;
use std::time::Duration;

use aes::cipher::{Array, BlockCipherEncrypt, KeyInit};
use aes::{Aes128, Block};
use blake2::Blake2sMac;
use blake2::digest::consts::{U16, U32};
use blake2::digest::{FixedOutput, Update};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// How long a window key is used for sending.
pub const WINDOW: Duration = Duration::from_mins(10);
/// Bytes from the front of a datagram that are covered.
pub const MASK_LEN: usize = 16;
/// The shortest datagram that has a whole sample: an empty data packet has exactly that.
pub const DATAGRAM_MIN: usize = 2 * MASK_LEN;
/// Blocks that are encrypted at once.
const BATCH: usize = 64;
/// The bits that are zero in the first four bytes of every datagram, least significant byte first: type, lane or suite, two zeros.
const ZERO_BITS: u32 = u32::from_le_bytes([0xe0, 0xf0, 0xff, 0xff]);

/// What both ends of a flow make their window keys from.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct GuardKey([u8; 32]);

impl GuardKey {
    /// The key for flows to the listener that has `public_key`. A configured `secret`, the same at both ends, also keeps those
    /// out who know the public key.
    ///
    /// ```text
    /// guard key = BLAKE2s-256(key = public key, "shadowmesh guard key" · secret 32, or nothing)
    /// ```
    pub fn derive(public_key: &[u8; 32], secret: Option<&[u8; 32]>) -> Self {
        let mut state =
            Blake2sMac::<U32>::new_from_slice(public_key).expect("BLAKE2s takes keys of 32 bytes");
        state.update(b"shadowmesh guard key");
        state.update(secret.map_or(&[][..], |secret| secret));
        Self(state.finalize_fixed().into())
    }
}

impl GuardKey {
    /// A sequence number to open a flow with: half noise, and half a MAC of it that shows a listener, at the cost of one hash, that
    /// the caller knows its key. To everybody else the number is as random as that of any connection. NATs change addresses and
    /// ports, so it says nothing of them, and one that was seen can be sent again: it is a claim to be answered before strangers,
    /// within a limit, and no more.
    pub(crate) fn opening_number(&self, noise: u32) -> u32 {
        noise & !0xffff | u32::from(self.opening_mac(noise))
    }

    /// Whether a flow is opened with a number of this key's.
    pub(crate) fn is_opening_number(&self, number: u32) -> bool {
        self.opening_mac(number) == number as u16
    }

    fn opening_mac(&self, noise: u32) -> u16 {
        let mut state = Blake2sMac::<U16>::new_from_slice(&self.0).expect("BLAKE2s takes keys of 32 bytes");
        state.update(b"shadowmesh opening");
        state.update(&(noise >> 16).to_le_bytes());
        let mac = state.finalize_fixed();
        u16::from_le_bytes([mac[0], mac[1]])
    }
}

impl From<[u8; 32]> for GuardKey {
    fn from(key: [u8; 32]) -> Self {
        Self(key)
    }
}

impl fmt::Debug for GuardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GuardKey(redacted)")
    }
}

/// Which way a segment goes. Each has keys of its own, so nothing can be sent back to where it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the end that dialled.
    ToListener = 0,
    /// To the end that dialled.
    FromListener = 1,
}

/// The number of the window at a time since the Unix epoch.
pub fn window_number(unix_time: Duration) -> u64 {
    unix_time.as_secs() / WINDOW.as_secs()
}

/// The masks of one key for one window and its neighbours.
pub struct Guard {
    number: u64,
    /// By direction; in each: the window itself, the one before, the one after.
    ciphers: [[Aes128; 3]; 2],
}

impl Guard {
    /// The masks for window `number`; see [`window_number`].
    pub fn new(key: &GuardKey, number: u64) -> Self {
        let windows = [number, number.wrapping_sub(1), number.wrapping_add(1)];
        let directions = [Direction::ToListener, Direction::FromListener];
        let ciphers = directions.map(|direction| windows.map(|window| window_cipher(key, direction, window)));
        Self { number, ciphers }
    }

    /// The masks of one flow, whose SYN-ACK had that sequence number, whatever the time.
    pub(crate) fn of_flow(key: &GuardKey, sequence: u32) -> Self {
        let directions = [Direction::ToListener, Direction::FromListener];
        let ciphers = directions.map(|direction| {
            let cipher = cipher(key, b"shadowmesh flow guard", direction, &sequence.to_le_bytes());
            [cipher.clone(), cipher.clone(), cipher]
        });
        Self { number: u64::MAX, ciphers }
    }

    /// The window that [`mask`](Self::mask) is for.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Covers a train: writes to `heads` what goes on the wire instead of the first [`MASK_LEN`] bytes of each datagram, and
    /// returns how many datagrams that were. `None` when one of them is shorter than [`DATAGRAM_MIN`], or there
    /// are more than `heads`.
    pub fn mask(
        &self,
        direction: Direction,
        train: &[u8],
        segment_size: usize,
        heads: &mut [[u8; MASK_LEN]],
    ) -> Option<usize> {
        let [cipher, ..] = &self.ciphers[direction as usize];
        let mut count = 0;
        for batch in train.chunks(segment_size.max(1).saturating_mul(BATCH)) {
            let mut masks = [Block::default(); BATCH];
            let mut filled = 0;
            for (mask, datagram) in masks.iter_mut().zip(batch.chunks(segment_size.max(1))) {
                *mask = sample(datagram)?;
                filled += 1;
            }
            cipher.encrypt_blocks(&mut masks[..filled]);
            let heads = heads.get_mut(count..count + filled)?;
            for ((head, mask), datagram) in
                heads.iter_mut().zip(&masks).zip(batch.chunks(segment_size.max(1)))
            {
                head.copy_from_slice(&datagram[..MASK_LEN]);
                cover(head, mask);
            }
            count += filled;
        }
        Some(count)
    }

    /// Uncovers the datagrams of a train in place and returns how many of them are valid. Those that are not stay as they came.
    pub fn unmask(&self, direction: Direction, train: &mut [u8], segment_size: usize) -> usize {
        let ciphers = &self.ciphers[direction as usize];
        let segment_size = segment_size.max(1);
        let mut valid = 0;
        for batch in train.chunks_mut(segment_size.saturating_mul(BATCH)) {
            let mut masks = [Block::default(); BATCH];
            let mut filled = 0;
            for (mask, datagram) in masks.iter_mut().zip(batch.chunks(segment_size)) {
                *mask = sample(datagram).unwrap_or_default();
                filled += 1;
            }
            ciphers[0].encrypt_blocks(&mut masks[..filled]);
            for (mask, datagram) in masks.iter().zip(batch.chunks_mut(segment_size)) {
                valid += usize::from(uncover(datagram, mask) || uncover_by(&ciphers[1..], datagram));
            }
        }
        valid
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("number", &self.number).finish_non_exhaustive()
    }
}

fn window_cipher(key: &GuardKey, direction: Direction, number: u64) -> Aes128 {
    cipher(key, b"shadowmesh guard", direction, &number.to_le_bytes())
}

fn cipher(key: &GuardKey, label: &[u8], direction: Direction, of: &[u8]) -> Aes128 {
    let mut state = Blake2sMac::<U16>::new_from_slice(&key.0).expect("BLAKE2s takes keys of 32 bytes");
    state.update(label);
    state.update(&[direction as u8]);
    state.update(of);
    let mut derived = state.finalize_fixed();
    let cipher = Aes128::new(&derived);
    derived.zeroize();
    cipher
}

#[inline]
fn sample(datagram: &[u8]) -> Option<Block> {
    let sample: &[u8; MASK_LEN] = datagram.get(MASK_LEN..)?.first_chunk()?;
    Some(Array(*sample))
}

#[inline]
fn cover(head: &mut [u8; MASK_LEN], mask: &Block) {
    let covered = u128::from_ne_bytes(*head) ^ u128::from_ne_bytes(mask.0);
    *head = covered.to_ne_bytes();
}

/// Uncovers a datagram if that makes sense of it. Nothing here depends on where it does not.
#[inline]
fn uncover(datagram: &mut [u8], mask: &Block) -> bool {
    if datagram.len() < DATAGRAM_MIN {
        return false;
    }
    let Some(head) = datagram.first_chunk_mut::<MASK_LEN>() else { return false };
    let mut plain = *head;
    cover(&mut plain, mask);
    let start = u32::from_le_bytes([plain[0], plain[1], plain[2], plain[3]]);
    let valid = start & ZERO_BITS == 0 && plain[0] != 0;
    if valid {
        *head = plain;
    }
    valid
}

/// As [`uncover`], by the windows around this one.
#[cold]
fn uncover_by(ciphers: &[Aes128], datagram: &mut [u8]) -> bool {
    let Some(sample) = sample(datagram) else { return false };
    ciphers.iter().any(|cipher| {
        let mut mask = sample;
        cipher.encrypt_block(&mut mask);
        uncover(datagram, &mask)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 2_941_234;

    fn key() -> GuardKey {
        GuardKey::derive(&std::array::from_fn(|i| i as u8), None)
    }

    /// A data packet as a session seals it: the header in clear, then bytes that look random.
    fn datagram(len: usize, counter: u64) -> Vec<u8> {
        let mut bytes = vec![20, 3, 0, 0, 0x78, 0x56, 0x34, 0x12];
        bytes.extend_from_slice(&counter.to_le_bytes());
        let noise =
            |i: usize| (i as u64 + 7).wrapping_mul(counter.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1) >> 23;
        bytes.extend((MASK_LEN..len).map(|i| noise(i) as u8));
        bytes
    }

    fn masked(guard: &Guard, direction: Direction, train: &[u8], segment_size: usize) -> Vec<u8> {
        let mut heads = [[0; MASK_LEN]; 128];
        let count = guard.mask(direction, train, segment_size, &mut heads).unwrap();
        let mut wire = train.to_vec();
        for (head, datagram) in heads[..count].iter().zip(wire.chunks_mut(segment_size)) {
            datagram[..MASK_LEN].copy_from_slice(head);
        }
        wire
    }

    #[test]
    fn a_train_comes_out_as_it_went_in() {
        let guard = Guard::new(&key(), NOW);
        for (count, size, last) in [(1, 32, 32), (1, 1_400, 1_400), (45, 1_400, 77), (130, 100, 40)] {
            let mut train: Vec<u8> = (1..count).flat_map(|i| datagram(size, i)).collect();
            train.extend(datagram(last, count));
            let mut heads = [[0; MASK_LEN]; 130];
            let masked = guard.mask(Direction::ToListener, &train, size, &mut heads).unwrap();
            assert_eq!(masked as u64, count);
            let mut wire = train.clone();
            for (head, datagram) in heads.iter().zip(wire.chunks_mut(size)) {
                datagram[..MASK_LEN].copy_from_slice(head);
            }
            assert_ne!(wire, train);
            assert_eq!(guard.unmask(Direction::ToListener, &mut wire, size) as u64, count);
            assert_eq!(wire, train);
        }
    }

    /// Computed with Python's `hashlib` and `cryptography` from the formula at the top.
    #[test]
    fn the_wire_has_the_bytes_of_the_definition() {
        let public_key = std::array::from_fn(|i| i as u8);
        let secret = [1; 32];
        let mut plain = vec![20, 3, 0, 0, 0x78, 0x56, 0x34, 0x12, 1, 0, 0, 0, 0, 0, 0, 0];
        plain.extend(0x40..0x60);
        let both = [Direction::ToListener, Direction::FromListener];
        for (secret, direction, expected) in [
            (None, both[0], 0xa6cf_d207_101a_7173_72e8_d33a_a2a2_bcf0_u128),
            (None, both[1], 0x82a0_28f1_3be3_b029_dd25_14cb_82f1_9a0b),
            (Some(&secret), both[0], 0xcfe8_ff9d_1625_8e93_8ead_c6e1_e18e_ab52),
            (Some(&secret), both[1], 0x86cd_cc7a_ff42_c65d_5271_615f_9c1a_dad4),
        ] {
            let guard = Guard::new(&GuardKey::derive(&public_key, secret), NOW);
            let mut heads = [[0; MASK_LEN]];
            assert_eq!(guard.mask(direction, &plain, 48, &mut heads), Some(1));
            assert_eq!(u128::from_be_bytes(heads[0]), expected);
        }
    }

    #[test]
    fn clocks_may_be_one_window_apart_and_no_more() {
        let sender = Guard::new(&key(), NOW);
        let plain = datagram(64, 1);
        for (receiver, expected) in [(-2, 0), (-1, 1), (0, 1), (1, 1), (2, 0)] {
            let guard = Guard::new(&key(), NOW.wrapping_add_signed(receiver));
            let mut wire = masked(&sender, Direction::FromListener, &plain, 64);
            assert_eq!(guard.unmask(Direction::FromListener, &mut wire, 64), expected, "{receiver}");
            assert_eq!(wire == plain, expected == 1);
        }
    }

    #[test]
    fn an_idle_link_lives_because_keys_follow_from_the_time_alone() {
        // No packet for a month, then both ends compute the window of today.
        let [then, today] = [Duration::from_secs(1_700_000_000), Duration::from_secs(1_702_592_000)];
        assert!(window_number(today) > window_number(then) + 1);
        let sender = Guard::new(&key(), window_number(today));
        let receiver = Guard::new(&key(), window_number(today));
        let mut wire = masked(&sender, Direction::ToListener, &datagram(64, 1), 64);
        assert_eq!(receiver.unmask(Direction::ToListener, &mut wire, 64), 1);
    }

    #[test]
    fn another_key_another_secret_and_the_other_direction_are_refused() {
        let plain = datagram(64, 1);
        let wire = masked(&Guard::new(&key(), NOW), Direction::ToListener, &plain, 64);
        let public_key = std::array::from_fn(|i| i as u8);
        let strangers = [GuardKey::derive(&[9; 32], None), GuardKey::derive(&public_key, Some(&[1; 32]))];
        for stranger in strangers {
            assert_eq!(Guard::new(&stranger, NOW).unmask(Direction::ToListener, &mut wire.clone(), 64), 0);
        }
        assert_eq!(Guard::new(&key(), NOW).unmask(Direction::FromListener, &mut wire.clone(), 64), 0);
    }

    #[test]
    fn no_byte_of_the_header_stays_the_same_on_the_wire() {
        let guard = Guard::new(&key(), NOW);
        let wires: Vec<Vec<u8>> = (1..=64)
            .map(|counter| masked(&guard, Direction::ToListener, &datagram(64, counter), 64))
            .collect();
        for at in 0..MASK_LEN {
            let mut values: Vec<u8> = wires.iter().map(|wire| wire[at]).collect();
            values.sort_unstable();
            values.dedup();
            assert!(values.len() > 40, "byte {at} takes only {} values in 64 datagrams", values.len());
        }
    }

    #[test]
    fn noise_does_not_pass() {
        let guard = Guard::new(&key(), NOW);
        let mut noise: Vec<u8> = (0..20_000).flat_map(|i| datagram(48, i * 31 + 5)).collect();
        for (i, byte) in noise.iter_mut().enumerate() {
            *byte ^= (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()[7];
        }
        assert_eq!(guard.unmask(Direction::ToListener, &mut noise, 48), 0);
    }

    #[test]
    fn what_is_too_short_for_a_sample_is_neither_sent_nor_taken() {
        let guard = Guard::new(&key(), NOW);
        let mut heads = [[0; MASK_LEN]; 4];
        let short = &datagram(64, 1)[..31];
        assert_eq!(guard.mask(Direction::ToListener, short, 31, &mut heads), None);
        assert_eq!(
            guard.mask(Direction::ToListener, &datagram(64, 1), 40, &mut heads),
            None,
            "the last one is short"
        );
        for len in 0..DATAGRAM_MIN {
            assert_eq!(guard.unmask(Direction::ToListener, &mut vec![0; len], 1_400), 0);
        }
    }

    #[test]
    fn more_datagrams_than_there_is_room_for_are_refused() {
        let guard = Guard::new(&key(), NOW);
        let train: Vec<u8> = (0..5).flat_map(|i| datagram(40, i)).collect();
        assert_eq!(guard.mask(Direction::ToListener, &train, 40, &mut [[0; MASK_LEN]; 4]), None);
    }
}
