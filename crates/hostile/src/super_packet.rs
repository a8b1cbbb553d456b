//! A super-packet from the TUN: cut, completed, and put together again.
//!
//! ```text
//!  input:  vnet header 10 · packet
//! ```

use packet::coalesce::CoalesceLimits;
use packet::ip::{TCP, UDP};
use packet::{Group, GsoType, Ip, MAX_PACKET, SuperPacket, VnetHeader};

use crate::bytes::Bytes;
use crate::reference::{header_checksum_holds, transport_checksum_holds};

/// Enough to see each kind of segment: the first, one in the middle, the last.
const SEGMENTS_MAX: usize = 80;

/// # Panics
/// When a segment is not a packet, payload is lost, a completed checksum is wrong, or coalescing the segments and
/// cutting the result yields others.
pub fn run(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    let Ok(vnet) = VnetHeader::parse(&bytes.array()) else { return };
    let packet = bytes.rest();
    let packet = &packet[..packet.len().min(MAX_PACKET)];
    let Ok(plan) = SuperPacket::parse(&vnet, packet, packet.len()) else { return };
    assert!(plan.segment_count() > 0);
    assert!(plan.header_len() <= plan.total_len() && plan.total_len() <= packet.len());
    if plan.segment_count() > SEGMENTS_MAX {
        return;
    }
    let segments = cut(&plan, packet);
    let payload: usize = (0..plan.segment_count()).map(|index| plan.payload_len(index)).sum();
    assert_eq!(payload, plan.total_len() - plan.header_len(), "payload lost or made up");
    if vnet.gso_type != GsoType::None {
        for segment in &segments {
            let ip = Ip::parse(segment).expect("a segment is a packet");
            assert_eq!(ip.total_len, segment.len());
            assert!(header_checksum_holds(segment), "IPv4 header checksum of a segment");
        }
    }
    check_completed(&plan, &segments, vnet.gso_type);
    if plan.is_partial() && plan.partial_travels() {
        check_coalesced(&segments, true);
    }
}

/// The segments, each with a partial checksum if the whole has one.
pub(crate) fn cut(plan: &SuperPacket, packet: &[u8]) -> Vec<Vec<u8>> {
    (0..plan.segment_count())
        .map(|index| {
            let mut segment = packet[..plan.header_len()].to_vec();
            plan.patch_header(index, &mut segment);
            segment.extend_from_slice(&packet[plan.payload_range(index)]);
            assert_eq!(segment.len(), plan.segment_len(index));
            segment
        })
        .collect()
}

/// What [`SuperPacket::complete_checksum`] makes of the segments is right, and may be coalesced as well.
fn check_completed(plan: &SuperPacket, segments: &[Vec<u8>], gso_type: GsoType) {
    let mut completed = segments.to_vec();
    for segment in &mut completed {
        plan.complete_checksum(segment);
        if gso_type != GsoType::None {
            let ip = Ip::parse(segment).expect("still a packet");
            assert!(matches!(ip.protocol, TCP | UDP));
            assert!(transport_checksum_holds(segment, ip.header_len, ip.protocol), "completed checksum");
        }
    }
    check_coalesced(&completed, false);
}

/// Coalesces packets, cuts each group again, and compares with what went in.
pub(crate) fn check_coalesced(packets: &[Vec<u8>], partial: bool) {
    let mut rest = packets.iter().peekable();
    while let Some(first) = rest.next() {
        let Ok(mut group) = Group::start(first, partial, CoalesceLimits::ALL) else { continue };
        let mut members = vec![first];
        while let Some(next) = rest.next_if(|next| group.try_push(next, partial)) {
            members.push(next);
        }
        assert_eq!(group.count(), members.len());
        assert!(group.count() <= Group::MAX_SEGMENTS);
        let mut whole = Vec::new();
        let payloads: Vec<&[u8]> = members.iter().map(|member| group.payload(member)).collect();
        let total_len = group.total_len();
        let (vnet, header) = group.finish();
        whole.extend_from_slice(header);
        whole.extend(payloads.concat());
        assert_eq!(whole.len(), total_len);
        assert!(whole.len() <= MAX_PACKET);
        if members.len() == 1 {
            assert_eq!(vnet.gso_type, GsoType::None);
            assert_eq!(whole[..], members[0][..whole.len()], "a lone packet passes as it is");
            continue;
        }
        let again = SuperPacket::parse(&vnet, &whole, whole.len()).expect("a group is a super-packet");
        assert_eq!(again.segment_count(), members.len());
        for (mut cut, member) in cut(&again, &whole).into_iter().zip(members) {
            if !partial {
                assert!(header_checksum_holds(member), "a corrupted header was mended");
                again.complete_checksum(&mut cut);
            }
            same_packet(&cut, &member[..cut.len()]);
        }
    }
}

/// Equal, but for what may differ: the identification of an IPv4 packet that must not be fragmented (RFC 6864 §4.1),
/// with the checksum that covers it; and which of the two zeros a checksum is.
fn same_packet(a: &[u8], b: &[u8]) {
    let normal = |packet: &[u8]| {
        let mut packet = packet.to_vec();
        let (v4, transport) = (packet[0] >> 4 == 4, if packet[0] >> 4 == 4 { 20 } else { 40 });
        if v4 {
            if packet[6] & 0x40 != 0 {
                packet[4..6].fill(0);
            }
            packet[10..12].fill(0);
        }
        let protocol = if v4 { packet[9] } else { packet[6] };
        let checksum = transport + if protocol == TCP { 16 } else { 6 };
        if packet[checksum..checksum + 2] == [0, 0] {
            packet[checksum..checksum + 2].fill(0xff);
        }
        packet
    };
    assert_eq!(normal(a), normal(b), "coalesced and cut again");
}
