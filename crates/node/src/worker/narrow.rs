//! Packets that are larger than their peer's path passes in one datagram.
//!
//! The TUN device has one MTU, paths have many. Whatever the device lets through that is too large for one path is, in
//! this order:
//!
//! 1. cut into shorter segments, if it is TCP whose checksum is ours to complete: nobody notices;
//! 2. sealed in parts, which the peer puts together again, if no answer could help: an IPv4 packet that may be
//!    fragmented, an IPv6 packet of no more than the 1,280 bytes that every link must pass (RFC 8200 §5);
//! 3. dropped, and its sender told the size that fits (RFC 1191, RFC 8201).

use std::io::IoSlice;
use std::ops::Range;
use std::time::{Duration, Instant};

use handshake::Protocol;
use packet::icmp::{self, IPV6_MTU_MIN, TOO_BIG_MAX};
use packet::{SuperPacket, Tun, VnetHeader};

use super::Context;
use crate::config::PeerId;
use crate::inner::{CONTENT_LEN, Part};
use crate::table::PeerRow;

/// The least time between two answers about one peer's path, in the long run (RFC 4443 §2.4 f): each new flow needs one.
const ANSWER_SPACING: Duration = Duration::from_millis(10);
/// So many may come at once.
const ANSWER_BURST: u32 = 20;

/// What is to be done with a packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// Seal it, perhaps by another plan than the one it came with.
    Whole(SuperPacket),
    /// Seal each of its segments in so many parts at most.
    Parts,
    /// Drop it, and say so.
    TooBig,
}

/// Decides about a packet of which some segment is longer than `row.packet_max`.
#[cold]
pub(super) fn fit(row: &PeerRow, packet: &[u8], plan: &SuperPacket) -> Fit {
    if let Some(narrower) = plan.recut(packet, row.packet_max) {
        return Fit::Whole(narrower);
    }
    let len = plan.segment_len(0);
    let nobody_to_tell =
        icmp::may_fragment(packet) || (packet[0] >> 4 == 6 && len <= usize::from(IPV6_MTU_MIN));
    let can_be_parted = row.protocol == Protocol::ShadowMesh && Part::count(len, part_room(row)).is_some();
    if nobody_to_tell && can_be_parted { Fit::Parts } else { Fit::TooBig }
}

/// Bytes of a packet that one part carries.
pub(super) fn part_room(row: &PeerRow) -> usize {
    (row.packet_max + CONTENT_LEN).saturating_sub(Part::HEADER_LEN)
}

/// The answers given to senders of packets that are too large, and when: indexed by peer.
#[derive(Debug)]
pub(super) struct Answers {
    /// Each answer pays for a little time; who is too far ahead gets none (GCRA).
    paid_until: Vec<Option<Instant>>,
}

impl Answers {
    pub(super) fn new(peers: usize) -> Self {
        Self { paid_until: vec![None; peers] }
    }

    /// Tells the sender of `packet`, read from the TUN device by `plan`, what would fit.
    #[cold]
    pub(super) fn tell<T: Tun>(
        &mut self,
        cx: &Context<'_>,
        tun: &mut T,
        peer: PeerId,
        packet: &mut [u8],
        plan: &SuperPacket,
    ) {
        let mtu = cx.table.peers[peer.0 as usize].packet_max.min(usize::from(u16::MAX)) as u16;
        if plan.segment_count() > 1 {
            // The sender knows of segments only.
            plan.patch_header(0, packet);
        }
        let mut answer = [0; TOO_BIG_MAX];
        let Some(len) = icmp::too_big(&packet[..plan.segment_len(0)], mtu, &mut answer) else { return };
        if self.may_answer(cx.now, peer) {
            let vnet = VnetHeader::default().to_bytes();
            // A device that does not take it is down: then nobody waits for the answer.
            let _ = tun.send(&[IoSlice::new(&vnet), IoSlice::new(&answer[..len])]);
        }
    }

    fn may_answer(&mut self, now: Instant, peer: PeerId) -> bool {
        let paid_until = &mut self.paid_until[peer.0 as usize];
        let until = paid_until.map_or(now, |until| until.max(now));
        let may = until <= now + ANSWER_SPACING * (ANSWER_BURST - 1);
        if may {
            *paid_until = Some(until + ANSWER_SPACING);
        }
        may
    }
}

/// Places the segment `index` of a packet, complete with its header, in the packet itself, and returns where. The
/// segments before it must be done with: the header takes the end of the last one's payload. `header` is the packet's
/// own, which the first segment's replaces; the only segment has its header already.
pub(super) fn lay_out(plan: &SuperPacket, index: usize, header: &[u8], packet: &mut [u8]) -> Range<usize> {
    let mut segment = 0..plan.total_len();
    if plan.segment_count() > 1 {
        let payload = plan.payload_range(index);
        segment = payload.start - header.len()..payload.end;
        packet[segment.start..payload.start].copy_from_slice(header);
        plan.patch_header(index, &mut packet[segment.clone()]);
    }
    if plan.is_partial() && !plan.partial_travels() {
        plan.complete_checksum(&mut packet[segment.clone()]);
    }
    segment
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // an origin for the clock that the test moves by hand
mod tests {
    use super::*;

    #[test]
    fn answers_come_in_a_burst_and_then_one_at_a_time() {
        let now = Instant::now();
        let mut answers = Answers::new(2);
        let burst = (0..100).filter(|_| answers.may_answer(now, PeerId(0))).count();
        assert_eq!(burst, ANSWER_BURST as usize);
        assert!(answers.may_answer(now, PeerId(1)), "each peer's path has its own");
        assert!(!answers.may_answer(now + ANSWER_SPACING / 2, PeerId(0)));
        assert!(answers.may_answer(now + ANSWER_SPACING, PeerId(0)));
        assert!(!answers.may_answer(now + ANSWER_SPACING, PeerId(0)));
    }
}
