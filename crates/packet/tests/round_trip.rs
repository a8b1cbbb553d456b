//! A super-packet that is cut, and its segments put together again, is the super-packet that was.

mod support;

use packet::segment::finish_partial;
use packet::{CoalesceLimits, Group, Ip, SuperPacket};
use proptest::prelude::*;
use support::{ACK, CWR, ECE, FIN, PSH, Sketch, checksums_are_valid, coalesce, cut, pattern};

prop_compose! {
    fn sketch()(
        (v6, tcp, dont_fragment) in any::<(bool, bool, bool)>(),
        (src, dst, tos, ttl) in any::<(u8, u8, u8, u8)>(),
        (src_port, dst_port, id, window) in any::<(u16, u16, u16, u16)>(),
        (sequence, acknowledgement) in any::<(u32, u32)>(),
        flags in prop::sample::subsequence(vec![FIN, PSH, ECE, CWR], 0..=4),
        options in prop::collection::vec(any::<[u8; 4]>(), 0..=10),
        payload_len in 1_usize..9_000,
        salt: u8,
    ) -> Sketch {
        let flags = flags.into_iter().fold(ACK, |flags, flag| flags | flag);
        let payload = pattern(payload_len).into_iter().map(|byte| byte ^ salt).collect();
        let options = if tcp { options.concat() } else { Vec::new() };
        Sketch {
            v6, tcp, src, dst, src_port, dst_port, tos, ttl, id, dont_fragment, sequence, acknowledgement,
            flags: if tcp { flags } else { 0 }, window, options, payload,
        }
    }
}

/// A segment size that gives at least two segments and at most as many as a group holds.
fn gso_size(payload_len: usize, tcp: bool, choice: usize) -> u16 {
    let max = if tcp { Group::MAX_SEGMENTS } else { Group::MAX_UDP_SEGMENTS };
    let smallest = payload_len.div_ceil(max);
    (smallest + choice % (payload_len - smallest).max(1)) as u16
}

proptest! {
    #![proptest_config(support::config(400))]

    #[test]
    fn segments_coalesce_into_the_super_packet_they_came_from(
        sketch in sketch().prop_filter("at least two bytes to cut", |sketch| sketch.payload.len() > 1),
        choice: usize,
        travel_partial: bool,
    ) {
        let original = sketch.partial();
        let vnet = sketch.vnet(gso_size(sketch.payload.len(), sketch.tcp, choice));
        let plan = SuperPacket::parse(&vnet, &original, original.len()).unwrap();
        prop_assert!(plan.is_partial() && plan.partial_travels());
        let mut segments = cut(&plan, &original);
        prop_assert!(segments.len() > 1);
        if !travel_partial {
            for segment in &mut segments {
                plan.complete_checksum(segment);
            }
        }
        let packets: Vec<_> = segments.into_iter().map(|segment| (segment, travel_partial)).collect();
        let written = coalesce(&packets, CoalesceLimits::ALL);
        prop_assert_eq!(written.len(), 1);
        prop_assert_eq!(written[0].count, plan.segment_count());
        prop_assert_eq!(written[0].vnet, vnet);
        prop_assert_eq!(&written[0].packet, &original);
    }

    #[test]
    fn each_segment_is_the_packet_a_sender_without_offload_would_have_sent(sketch in sketch(), size in 1_u16..3_000) {
        let original = sketch.partial();
        let plan = SuperPacket::parse(&sketch.vnet(size), &original, original.len()).unwrap();
        let mut at = 0;
        let segments = cut(&plan, &original);
        let last = segments.len() - 1;
        for (index, mut segment) in segments.into_iter().enumerate() {
            let len = usize::from(size).min(sketch.payload.len() - at);
            prop_assert_eq!(plan.payload_len(index), len);
            prop_assert_eq!(plan.segment_len(index), segment.len());
            let mut flags = sketch.flags;
            if index != 0 { flags &= !CWR; }
            if index != last { flags &= !(FIN | PSH); }
            let expected = Sketch {
                id: sketch.id.wrapping_add(index as u16),
                sequence: sketch.sequence.wrapping_add(at as u32),
                flags,
                payload: sketch.payload[at..at + len].to_vec(),
                ..sketch.clone()
            };
            prop_assert_eq!(&segment, &expected.partial());
            plan.complete_checksum(&mut segment);
            prop_assert_eq!(&segment, &expected.full());
            prop_assert!(checksums_are_valid(&segment));
            at += len;
        }
        prop_assert_eq!(at, sketch.payload.len());
    }

    #[test]
    fn a_partial_checksum_is_finished_from_the_packet_alone(sketch in sketch(), padding in 0_usize..16) {
        let mut padded = sketch.partial();
        padded.resize(padded.len() + padding, 0xee);
        finish_partial(&mut padded).unwrap();
        let len = Ip::parse(&padded).unwrap().total_len;
        prop_assert!(checksums_are_valid(&padded[..len]));
        prop_assert_eq!(&padded[..len], &sketch.full());
        prop_assert!(padded[len..].iter().all(|byte| *byte == 0xee));
    }

    #[test]
    fn padding_behind_each_segment_never_reaches_the_tun(sketch in sketch(), padding in 1_usize..16) {
        let original = sketch.partial();
        let size = gso_size(sketch.payload.len(), sketch.tcp, 0).max(1);
        let plan = SuperPacket::parse(&sketch.vnet(size), &original, original.len()).unwrap();
        let packets: Vec<_> = cut(&plan, &original)
            .into_iter()
            .map(|mut segment| {
                segment.resize(segment.len() + padding, 0);
                (segment, true)
            })
            .collect();
        let written = coalesce(&packets, CoalesceLimits::ALL);
        prop_assert_eq!(written.len(), 1);
        prop_assert_eq!(&written[0].packet, &original);
    }

    #[test]
    fn whatever_the_order_every_packet_comes_out_once_and_cuts_back_to_what_came_in(
        sketches in prop::collection::vec(sketch(), 1..4),
        picks in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 1..40),
    ) {
        // Segments of several flows, some missing, some twice, in any order, some with full checksums.
        let segments: Vec<(Vec<u8>, Vec<u8>)> = sketches
            .iter()
            .flat_map(|sketch| {
                let original = sketch.partial();
                let plan = SuperPacket::parse(&sketch.vnet(700), &original, original.len()).unwrap();
                let partial = cut(&plan, &original);
                partial.into_iter().map(move |segment| {
                    let mut full = segment.clone();
                    plan.complete_checksum(&mut full);
                    (segment, full)
                })
            })
            .collect();
        let mut picks: Vec<_> = picks.iter().map(|(pick, partial)| (pick.index(segments.len()), *partial)).collect();
        if picks.len() % 2 == 0 {
            picks.sort_unstable(); // Neighbours meet.
        }
        let packets: Vec<_> = picks
            .iter()
            .map(|(pick, partial)| {
                let (with_partial, full) = &segments[*pick];
                (if *partial { with_partial } else { full }.clone(), *partial)
            })
            .collect();
        let mut back = Vec::new();
        for written in coalesce(&packets, CoalesceLimits::ALL) {
            let plan = SuperPacket::parse(&written.vnet, &written.packet, written.packet.len()).unwrap();
            prop_assert_eq!(plan.segment_count(), written.count);
            for mut segment in cut(&plan, &written.packet) {
                plan.complete_checksum(&mut segment);
                back.push(segment);
            }
        }
        let expected: Vec<_> = picks.iter().map(|(pick, _)| without_free_id(&segments[*pick].1)).collect();
        let back: Vec<_> = back.iter().map(|segment| without_free_id(segment)).collect();
        prop_assert_eq!(back, expected);
    }
}

/// The packet without what may change on the way: the identification of an IPv4 packet with DF (RFC 6864 §4.1).
fn without_free_id(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    packet
}
