//! The Internet checksum (RFC 1071): the ones' complement of the ones' complement sum of 16-bit words.
//!
//! A running sum is a `u64` that is congruent, modulo 65,535, to the sum of the big-endian 16-bit words so far. It is
//! kept wide so that additions need no carry; [`fold`] brings it back to 16 bits. Folding never turns a sum that is
//! not zero into zero, so the result is the same whatever the order of additions.
//!
//! Three things are called checksum, and this crate keeps them apart:
//!
//! - the *full* checksum: what RFC 791, 793 and 768 put on the wire, `!fold(sum)`;
//! - the *partial* checksum: `fold(pseudo-header sum)`, not complemented, which the kernel leaves in the field of a
//!   packet whose checksum a device is to finish (`CHECKSUM_PARTIAL`);
//! - the *sum*: what adds up.

use std::net::IpAddr;

/// Adds `data` to a running sum. An odd last byte counts as the high byte of a word, so only the last of several
/// pieces may have an odd length.
///
/// ```
/// use packet::checksum::{fold, sum};
///
/// // The example of RFC 1071 §3.
/// assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7], 0)), 0xddf2);
/// ```
#[inline]
pub fn sum(data: &[u8], initial: u64) -> u64 {
    // RFC 1071 §2 (B): sums may be made in the machine's own byte order and swapped once at the end. The halves of
    // each 64-bit word are added apart, so no carry is ever lost: a lane grows by less than 2³³ a step.
    const LANES: usize = 8;
    let (words, mut tail) = data.as_chunks::<8>();
    let (blocks, rest) = words.as_chunks::<LANES>();
    let mut lanes = [0_u64; LANES];
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block) {
            *lane += halves(u64::from_ne_bytes(*word));
        }
    }
    let mut native: u64 = lanes.iter().sum();
    for word in rest {
        native += halves(u64::from_ne_bytes(*word));
    }
    if let Some((word, after)) = tail.split_first_chunk::<4>() {
        native += u64::from(u32::from_ne_bytes(*word));
        tail = after;
    }
    if let Some((word, after)) = tail.split_first_chunk::<2>() {
        native += u64::from(u16::from_ne_bytes(*word));
        tail = after;
    }
    if let [byte] = tail {
        native += u64::from(u16::from_ne_bytes([*byte, 0]));
    }
    initial + u64::from(u16::from_be(fold(native)))
}

#[inline]
fn halves(word: u64) -> u64 {
    (word & 0xffff_ffff) + (word >> 32)
}

/// A running sum as 16 bits, not complemented. Zero only for a sum of zero.
#[inline]
pub fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The pseudo-header's sum (RFC 793 §3.1, RFC 768, RFC 8200 §8.1): addresses, protocol, and `length`, the bytes of
/// transport header and payload.
///
/// Addresses of different families are a bug of the caller; they yield a sum that no packet has.
#[inline]
pub fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: u8, length: u32) -> u64 {
    address(src) + address(dst) + u64::from(protocol) + u64::from(length)
}

#[inline]
fn address(address: IpAddr) -> u64 {
    // 2¹⁶ is 1 modulo 65,535, so 32-bit words sum to the same as their halves.
    match address {
        IpAddr::V4(v4) => u64::from(v4.to_bits()),
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            halves(bits as u64) + halves((bits >> 64) as u64)
        }
    }
}

/// The checksum after one 16-bit word of what it covers has changed from `old` to `new` (RFC 1624 §3, equation 3).
#[inline]
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(u64::from(!checksum) + u64::from(!old) + u64::from(new))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;
    use proptest::test_runner::{Config, RngSeed};

    use super::*;

    /// The definition, word by word, with an end-around carry after each: an oracle that shares no code.
    fn naive(data: &[u8]) -> u16 {
        let mut sum = 0_u16;
        for pair in data.chunks(2) {
            let word = u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]);
            let (added, carry) = sum.overflowing_add(word);
            sum = added + u16::from(carry);
        }
        sum
    }

    #[test]
    fn the_example_of_rfc_1071_sums_to_ddf2() {
        let data = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&data, 0)), 0xddf2);
    }

    #[test]
    fn a_well_known_ipv4_header_sums_to_b861() {
        let header = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0x00, 0x00, 0xc0, 0xa8, 0x00, 0x01,
            0xc0, 0xa8, 0x00, 0xc7,
        ];
        assert_eq!(!fold(sum(&header, 0)), 0xb861);
    }

    #[test]
    fn an_incremental_update_is_right_where_rfc_1141_was_wrong() {
        // RFC 1624 §4: the word 0x5555 becomes 0x3285 under the checksum 0xdd2f.
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn the_ends_of_the_range_fold_without_losing_a_carry() {
        assert_eq!(fold(0), 0);
        assert_eq!(fold(0xffff), 0xffff);
        assert_eq!(fold(0x1_0000), 1);
        assert_eq!(fold(u64::MAX), 0xffff);
        assert_eq!(fold(0x1_ffff_ffff), 1);
        assert_eq!(fold(sum(&vec![0xff; 65_536], 0)), 0xffff);
        assert_eq!(fold(sum(&[0; 1_000], 0)), 0);
    }

    #[test]
    fn pseudo_headers_sum_like_their_bytes() {
        let (src, dst) = (Ipv4Addr::new(192, 168, 255, 1), Ipv4Addr::new(10, 255, 3, 254));
        let mut bytes = [src.octets(), dst.octets()].concat();
        bytes.extend([0, 17, 0x12, 0x34]);
        assert_eq!(fold(pseudo_header(src.into(), dst.into(), 17, 0x1234)), naive(&bytes));

        let src: Ipv6Addr = "fd00:ffff:8000::ffff:1".parse().unwrap();
        let dst: Ipv6Addr = "2001:db8:abcd:ef01:2345:6789:fedc:ba98".parse().unwrap();
        let mut bytes = [src.octets(), dst.octets()].concat();
        bytes.extend([0, 1, 0x12, 0x34, 0, 0, 0, 6]);
        assert_eq!(fold(pseudo_header(src.into(), dst.into(), 6, 0x1_1234)), naive(&bytes));
    }

    proptest! {
        #![proptest_config(Config { rng_seed: RngSeed::Fixed(1071), failure_persistence: None, ..Config::default() })]

        #[test]
        fn any_bytes_sum_as_the_definition_says(data in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert_eq!(fold(sum(&data, 0)), naive(&data));
        }

        #[test]
        fn pieces_sum_to_the_whole(data in prop::collection::vec(any::<u8>(), 0..400), at in 0_usize..200) {
            let at = (at * 2).min(data.len() & !1);
            prop_assert_eq!(fold(sum(&data[at..], sum(&data[..at], 0))), naive(&data));
        }

        #[test]
        fn an_updated_checksum_is_the_recomputed_one(words in prop::array::uniform10(any::<u16>()), new: u16) {
            let bytes = |words: &[u16]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
            // A version nibble, as in any IP header: data of zeros alone has no unique checksum.
            let mut words = words;
            words[0] |= 0x4000;
            let before = !naive(&bytes(&words));
            let updated = update(before, words[3], new);
            words[3] = new;
            prop_assert_eq!(updated, !naive(&bytes(&words)));
        }
    }
}
