//! Whatever bytes arrive, the answer is a value or an error.

mod support;

use packet::coalesce::CoalesceLimits;
use packet::segment::finish_partial;
use packet::{Ecn, Group, GsoType, Ip, SuperPacket, VnetHeader, ip};
use proptest::prelude::*;
use support::{Sketch, config};

/// Bytes of which many are nearly a packet: a sketch, cut short or grown, with some bytes replaced.
fn nearly_a_packet() -> impl Strategy<Value = Vec<u8>> {
    let mutations = prop::collection::vec((0_usize..120, any::<u8>()), 0..6);
    let kinds = prop::sample::select(vec![
        Sketch::tcp().partial(),
        Sketch::tcp().full(),
        Sketch::udp().partial(),
        Sketch::tcp().v6().partial(),
        Sketch::udp().v6().full(),
    ]);
    let mutated = (kinds, mutations, 0_usize..160).prop_map(|(mut bytes, mutations, len)| {
        bytes.resize(len, 0);
        for (at, value) in mutations {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        bytes
    });
    prop_oneof![mutated, prop::collection::vec(any::<u8>(), 0..120)]
}

fn vnet() -> impl Strategy<Value = VnetHeader> {
    let types = prop::sample::select(vec![GsoType::None, GsoType::TcpV4, GsoType::TcpV6, GsoType::UdpL4]);
    let small = prop_oneof![0_u16..100, any::<u16>()];
    let start = prop_oneof![Just(20_u16), Just(40), any::<u16>()];
    let offset = prop_oneof![Just(16_u16), Just(6), any::<u16>()];
    (any::<(bool, bool, u16)>(), types, small, start, offset).prop_map(
        |((needs_checksum, gso_ecn, hdr_len), gso_type, gso_size, csum_start, csum_offset)| VnetHeader {
            needs_checksum,
            gso_type,
            gso_ecn,
            hdr_len,
            gso_size,
            csum_start,
            csum_offset,
        },
    )
}

proptest! {
    #![proptest_config(config(4_000))]

    #[test]
    fn a_parsed_header_has_lengths_that_fit(bytes in nearly_a_packet()) {
        if let Ok(parsed) = Ip::parse(&bytes) {
            prop_assert!(parsed.header_len <= parsed.total_len);
            prop_assert!(parsed.total_len <= bytes.len());
            prop_assert_eq!(ip::destination(&bytes), Some(parsed.dst));
            prop_assert_eq!(ip::source(&bytes), Some(parsed.src));
            prop_assert_eq!(ip::ecn(&bytes), parsed.ecn);
        }
        let _ = ip::flow_hash(&bytes);
    }

    #[test]
    fn ecn_bits_are_the_only_thing_that_ecn_changes(bytes in nearly_a_packet(), bits: u8) {
        let mut marked = bytes.clone();
        let before = Ip::parse(&bytes);
        let kept = ip::decapsulate_ecn(Ecn::from_bits(bits), &mut marked);
        let after = Ip::parse(&marked);
        prop_assert_eq!(before.map(|ip| Ip { ecn: Ecn::NotEct, ..ip }), after.map(|ip| Ip { ecn: Ecn::NotEct, ..ip }));
        prop_assert!(kept || marked == bytes);
    }

    #[test]
    fn a_planned_cut_covers_the_packet_exactly(bytes in nearly_a_packet(), vnet in vnet(), beyond in 0_usize..3) {
        // The slice may hold less than the packet: its headers only.
        let packet_len = bytes.len() + beyond * 400;
        if let Ok(plan) = SuperPacket::parse(&vnet, &bytes, packet_len) {
            let mut at = plan.header_len();
            prop_assert!(plan.segment_count() > 0 && at <= plan.total_len() && plan.total_len() <= packet_len);
            prop_assert!(at <= bytes.len());
            for index in 0..plan.segment_count() {
                let range = plan.payload_range(index);
                prop_assert_eq!(range.start, at);
                at = range.end;
                let mut segment = bytes[..plan.header_len()].to_vec();
                plan.patch_header(index, &mut segment);
                segment.resize(plan.segment_len(index), 0);
                plan.complete_checksum(&mut segment);
                prop_assert_eq!(Ip::parse(&segment).map(|ip| ip.total_len), Ok(segment.len()));
            }
            prop_assert_eq!(at, plan.total_len());
            prop_assert_eq!(plan.payload_len(plan.segment_count()), 0);
            prop_assert_eq!(plan.payload_len(usize::MAX), 0);
        }
    }

    #[test]
    fn groups_of_anything_stay_within_their_bounds(
        packets in prop::collection::vec((nearly_a_packet(), any::<bool>()), 1..6),
    ) {
        let mut groups: Vec<(Group, Vec<&[u8]>)> = Vec::new();
        for (packet, partial) in &packets {
            if let Some((group, members)) = groups.last_mut()
                && group.try_push(packet, *partial)
            {
                members.push(packet);
            } else if let Ok(group) = Group::start(packet, *partial, CoalesceLimits::ALL) {
                groups.push((group, vec![packet]));
            }
        }
        for (group, members) in &mut groups {
            prop_assert_eq!(group.count(), members.len());
            let payload: usize = members.iter().map(|packet| group.payload(packet).len()).sum();
            let total_len = group.total_len();
            let (vnet, header) = group.finish();
            prop_assert_eq!(header.len() + payload, total_len);
            let written = [header, members[0]].concat();
            let front = if header.is_empty() { members[0] } else { &written };
            prop_assert!(SuperPacket::parse(&vnet, front, total_len).is_ok());
        }
    }

    #[test]
    fn finishing_a_checksum_changes_no_more_than_two_bytes(bytes in nearly_a_packet()) {
        let mut finished = bytes.clone();
        let result = finish_partial(&mut finished);
        let changed = bytes.iter().zip(&finished).filter(|(before, after)| before != after).count();
        prop_assert_eq!(bytes.len(), finished.len());
        let may_change = if result.is_ok() { 2 } else { 0 };
        prop_assert!(changed <= may_change);
    }
}
