//! Slow and obvious versions of what is checked, independent of the code under test.

use packet::ip::{TCP, UDP};

/// The Internet checksum's sum of `data`, word by word, folded (RFC 1071 §4.1).
fn sum(data: &[u8]) -> u16 {
    let mut sum = 0_u64;
    for word in data.chunks(2) {
        sum += u64::from(word[0]) << 8 | u64::from(*word.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The transport checksum of a whole TCP or UDP packet is right. `transport`: offset of the transport header.
pub(crate) fn transport_checksum_holds(packet: &[u8], transport: usize, protocol: u8) -> bool {
    let addresses = if packet[0] >> 4 == 4 { &packet[12..20] } else { &packet[8..40] };
    let len = (packet.len() - transport) as u32;
    let mut whole = addresses.to_vec();
    whole.extend_from_slice(&len.to_be_bytes());
    whole.extend_from_slice(&[0, 0, 0, protocol]);
    whole.extend_from_slice(&packet[transport..]);
    debug_assert!(matches!(protocol, TCP | UDP));
    sum(&whole) == 0xffff
}

/// The checksum of an IPv4 header is right; always so for IPv6, which has none.
pub(crate) fn header_checksum_holds(packet: &[u8]) -> bool {
    packet[0] >> 4 != 4 || sum(&packet[..usize::from(packet[0] & 0xf) * 4]) == 0xffff
}
