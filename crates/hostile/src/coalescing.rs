//! Decrypted packets of a peer, in any order and of any shape: what the receiving side does with them.
//!
//! ```text
//!  input:  flags 1 · ecn 1 · (length 2 · packet)…        flags: bit 0 partial checksums
//! ```

use packet::ip::{decapsulate_ecn, destination, flow_hash, source};
use packet::segment::finish_partial;
use packet::{Ecn, Ip};

use crate::bytes::Bytes;
use crate::super_packet::check_coalesced;

/// More would only be the same again.
const PACKETS_MAX: usize = 160;

/// # Panics
/// When the views of a packet contradict each other, a packet changes its length or addresses on the way, or
/// coalescing loses or mends anything.
pub fn run(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    let partial = bytes.u8() & 1 != 0;
    let outer = Ecn::from_bits(bytes.u8());
    let mut packets = Vec::new();
    while !bytes.is_empty() && packets.len() < PACKETS_MAX {
        let mut packet = bytes.prefixed().to_vec();
        let hash = flow_hash(&packet);
        let keep = decapsulate_ecn(outer, &mut packet);
        if let Ok(ip) = Ip::parse(&packet) {
            assert_eq!(hash, flow_hash(&packet), "congestion marks are no part of a flow");
            assert!(ip.header_len <= ip.total_len && ip.total_len <= packet.len());
            assert_eq!((source(&packet), destination(&packet)), (Some(ip.src), Some(ip.dst)));
            let mut completed = packet.clone();
            if partial && finish_partial(&mut completed).is_ok() {
                assert_eq!(
                    completed[ip.total_len..],
                    packet[ip.total_len..],
                    "bytes behind the packet changed"
                );
            }
        }
        if keep {
            packets.push(packet);
        }
    }
    check_coalesced(&packets, partial);
}
