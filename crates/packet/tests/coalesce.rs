//! Which packets become one, and which must not.

mod support;

use packet::{CoalesceLimits, Group, GsoType, InvalidPacket, VnetHeader};
use support::{ACK, CWR, ECE, FIN, PSH, RST, SYN, Sketch, URG, Written, coalesce, naive, pattern};

const ALL: CoalesceLimits = CoalesceLimits::ALL;

/// The packet that follows `sketch` in its flow.
fn next(sketch: &Sketch) -> Sketch {
    Sketch {
        id: sketch.id.wrapping_add(1),
        sequence: sketch.sequence.wrapping_add(sketch.payload.len() as u32),
        flags: sketch.flags & !CWR,
        ..sketch.clone()
    }
}

fn partial(sketches: &[Sketch]) -> Vec<(Vec<u8>, bool)> {
    sketches.iter().map(|sketch| (sketch.partial(), true)).collect()
}

fn full(sketches: &[Sketch]) -> Vec<(Vec<u8>, bool)> {
    sketches.iter().map(|sketch| (sketch.full(), false)).collect()
}

fn counts(written: &[Written]) -> Vec<usize> {
    written.iter().map(|written| written.count).collect()
}

/// Both packets, with `change` made to the second, pass by themselves and untouched.
#[track_caller]
fn stay_apart(first: &Sketch, change: impl Fn(&mut Sketch)) {
    let mut second = next(first);
    assert_eq!(
        counts(&coalesce(&full(&[first.clone(), second.clone()]), ALL)),
        [2],
        "they merge without the change"
    );
    change(&mut second);
    let packets = full(&[first.clone(), second]);
    let written = coalesce(&packets, ALL);
    assert_eq!(counts(&written), [1, 1]);
    for (written, (packet, _)) in written.iter().zip(packets) {
        assert_eq!((written.vnet, &written.packet), (VnetHeader::default(), &packet));
    }
}

#[test]
fn segments_of_another_flow_or_with_other_headers_stay_apart() {
    for first in [Sketch::tcp(), Sketch::udp(), Sketch::tcp().v6(), Sketch::udp().v6()] {
        stay_apart(&first, |second| second.src = 9);
        stay_apart(&first, |second| second.dst = 9);
        stay_apart(&first, |second| second.src_port = 9);
        stay_apart(&first, |second| second.dst_port = 9);
        stay_apart(&first, |second| second.tos = 2);
        stay_apart(&first, |second| second.ttl = 9);
        stay_apart(&first, |second| second.payload.push(0));
        stay_apart(&first, |second| second.payload.clear());
        stay_apart(&first, |second| second.tcp = !second.tcp);
        stay_apart(&first, |second| second.v6 = !second.v6);
    }
    stay_apart(&Sketch::tcp(), |second| second.dont_fragment = false);
}

#[test]
fn tcp_segments_that_say_different_things_stay_apart() {
    for first in [Sketch::tcp(), Sketch::tcp().v6()] {
        stay_apart(&first, |second| second.sequence += 1);
        stay_apart(&first, |second| second.sequence -= 100);
        stay_apart(&first, |second| second.acknowledgement += 1);
        stay_apart(&first, |second| second.window += 1);
        stay_apart(&first, |second| second.options[7] = 2);
        stay_apart(&first, |second| second.options.truncate(8));
        stay_apart(&first, |second| {
            // The whole packet is shorter than the first one's header.
            second.options.clear();
            second.payload.truncate(3);
        });
        for flag in [SYN, RST, URG, ECE, CWR] {
            stay_apart(&first, |second| second.flags |= flag);
        }
        stay_apart(&first, |second| second.flags &= !ACK);
    }
}

#[test]
fn identifications_count_up_unless_the_packets_may_not_be_fragmented() {
    let first = Sketch { dont_fragment: false, ..Sketch::udp() };
    stay_apart(&first, |second| second.id = first.id);
    stay_apart(&first, |second| second.id += 1);
    let same_id = Sketch { id: 7, ..next(&Sketch::udp()) };
    assert_eq!(counts(&coalesce(&full(&[Sketch::udp(), same_id]), ALL)), [2]);
}

#[test]
fn a_push_or_a_fin_ends_the_group_and_is_kept() {
    for flag in [PSH, FIN] {
        let first = Sketch::tcp();
        let second = Sketch { flags: ACK | flag, ..next(&first) };
        let third = Sketch { flags: ACK, ..next(&second) };
        let written = coalesce(&partial(&[first, second, third]), ALL);
        assert_eq!(counts(&written), [2, 1]);
        assert_eq!(written[0].packet[33], ACK | flag);
    }
}

#[test]
fn nothing_joins_a_first_segment_with_a_flag_that_ends_or_starts_something() {
    for flag in [SYN, RST, URG, FIN, PSH] {
        let first = Sketch { flags: ACK | flag, ..Sketch::tcp() };
        assert_eq!(counts(&coalesce(&partial(&[first.clone(), next(&first)]), ALL)), [1, 1]);
    }
}

#[test]
fn congestion_marks_of_a_whole_train_survive() {
    let first = Sketch { flags: ACK | ECE | CWR, tos: 0b10, ..Sketch::tcp() };
    let written = coalesce(&partial(&[first.clone(), next(&first)]), ALL);
    assert_eq!(counts(&written), [2]);
    assert!(written[0].vnet.gso_ecn);
    assert_eq!((written[0].packet[1], written[0].packet[33]), (0b10, ACK | ECE | CWR));
}

#[test]
fn a_shorter_segment_ends_the_group() {
    for first in [Sketch::tcp(), Sketch::udp()] {
        let second = Sketch { payload: pattern(60), ..next(&first) };
        let third = next(&second);
        assert_eq!(counts(&coalesce(&partial(&[first, second, third]), ALL)), [2, 1]);
    }
}

#[test]
fn acknowledgements_without_data_pass_one_by_one() {
    let first = Sketch { payload: Vec::new(), ..Sketch::tcp() };
    assert_eq!(counts(&coalesce(&full(&[first.clone(), next(&first)]), ALL)), [1, 1]);
}

#[test]
fn a_corrupted_segment_is_never_given_a_valid_checksum() {
    for first in [Sketch::tcp(), Sketch::udp(), Sketch::tcp().v6(), Sketch::udp().v6()] {
        let sketches = [first.clone(), next(&first), next(&next(&first))];
        for bad in 0..3 {
            for at in [first.header_len(), first.header_len() + 99, first.ip_len() + first.checksum_offset()]
            {
                let mut packets = full(&sketches);
                packets[bad].0[at] ^= 0x10;
                let written = coalesce(&packets, ALL);
                let alone = written.iter().find(|written| written.packet == packets[bad].0);
                assert_eq!(alone.map(|alone| (alone.count, alone.vnet)), Some((1, VnetHeader::default())));
            }
        }
    }
}

#[test]
fn a_wrong_ipv4_header_checksum_or_a_wrong_partial_one_is_not_mended_either() {
    let first = Sketch::tcp();
    for at in [10, 36] {
        let mut packets = partial(&[first.clone(), next(&first)]);
        packets[1].0[at] ^= 1;
        let written = coalesce(&packets, ALL);
        assert_eq!(counts(&written), [1, 1]);
        assert_eq!(written[1].packet, packets[1].0);
    }
}

#[test]
fn udp_without_checksum_stays_without() {
    for mut first in [Sketch::udp(), Sketch::udp().v6()] {
        // Contents whose checksum would come out as zero: only the rule of RFC 768 tells this from a valid one.
        let at = first.ip_len() + first.checksum_offset();
        first.payload[..2].fill(0);
        let word = first.full()[at..at + 2].to_vec();
        first.payload[..2].copy_from_slice(&word);
        let mut packets = full(&[first.clone(), next(&first)]);
        assert_eq!(counts(&coalesce(&packets, ALL)), [2]);
        for (packet, _) in &mut packets {
            packet[at..at + 2].fill(0);
        }
        let written = coalesce(&packets, ALL);
        assert_eq!(counts(&written), [1, 1]);
        assert_eq!(written[0].packet, packets[0].0);
    }
}

#[test]
fn a_single_packet_with_a_partial_checksum_says_where_it_is() {
    for (sketch, csum_start, csum_offset) in [
        (Sketch::tcp(), 20, 16),
        (Sketch::udp().v6(), 40, 6),
        (Sketch { payload: vec![], ..Sketch::tcp() }, 20, 16),
    ] {
        let written = coalesce(&partial(std::slice::from_ref(&sketch)), ALL);
        let vnet = VnetHeader { needs_checksum: true, csum_start, csum_offset, ..VnetHeader::default() };
        assert_eq!(written, [Written { vnet, packet: sketch.partial(), count: 1 }]);
    }
}

#[test]
fn a_partial_checksum_without_a_place_is_refused() {
    let mut icmp = Sketch::udp().partial();
    icmp[9] = 1;
    let mut fragment = Sketch::udp().partial();
    fragment[6] = 0x20;
    let mut stub = Sketch::tcp().partial();
    stub[2..4].copy_from_slice(&39_u16.to_be_bytes());
    for packet in [icmp, fragment, stub] {
        assert_eq!(Group::start(&packet, true, ALL).map(|_| ()), Err(InvalidPacket::PartialChecksum));
        assert!(Group::start(&packet, false, ALL).is_ok());
    }
}

/// Two packets of one flow, both changed, pass as they are.
#[track_caller]
fn pass_as_they_are(first: &Sketch, change: impl Fn(&mut Vec<u8>)) {
    let mut packets = full(&[first.clone(), next(first)]);
    for (packet, _) in &mut packets {
        change(packet);
        if !first.v6 {
            let header_len = usize::from(packet[0] & 0xf) * 4;
            packet[10..12].fill(0);
            let checksum = !naive(&packet[..header_len]);
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
    }
    let written = coalesce(&packets, ALL);
    assert_eq!(counts(&written), [1, 1]);
    assert_eq!(written[0].packet, packets[0].0);
    assert_eq!(written[1].packet, packets[1].0);
}

#[test]
fn fragments_pass_as_they_are() {
    for (at, value) in [(6, 0x20), (7, 1)] {
        pass_as_they_are(&Sketch::udp(), |packet| packet[at] |= value);
        pass_as_they_are(&Sketch::tcp(), |packet| packet[at] |= value);
    }
}

#[test]
fn ipv4_options_pass_as_they_are() {
    // The source port is where a header without options would have the UDP length, and agrees with it.
    let look_alike = Sketch { src_port: 112, ..Sketch::udp() };
    for sketch in [Sketch::udp(), Sketch::tcp(), look_alike] {
        pass_as_they_are(&sketch, |packet| {
            packet[0] = 0x46;
            packet[3] += 4;
            packet.splice(20..20, [0; 4]);
        });
    }
}

#[test]
fn extension_headers_pass_as_they_are() {
    // A destination options header, whose padding is where UDP has its length, and agrees with it.
    let look_alike = Sketch { src_port: 0, dst_port: 0, ..Sketch::udp().v6() };
    for sketch in [Sketch::udp().v6(), look_alike] {
        pass_as_they_are(&sketch, |packet| {
            packet[6] = 60;
            packet[5] += 8;
            packet.splice(40..40, [17, 0, 1, 4, 0, packet[5], 0, 0]);
        });
    }
}

#[test]
fn only_super_packets_that_the_tun_takes_are_made() {
    let none = CoalesceLimits::default();
    for (sketch, one) in [
        (Sketch::tcp(), CoalesceLimits { tso4: true, ..none }),
        (Sketch::tcp().v6(), CoalesceLimits { tso6: true, ..none }),
        (Sketch::udp(), CoalesceLimits { uso4: true, ..none }),
        (Sketch::udp().v6(), CoalesceLimits { uso6: true, ..none }),
    ] {
        let pair = full(&[sketch.clone(), next(&sketch)]);
        assert_eq!(counts(&coalesce(&pair, one)), [2]);
        assert_eq!(counts(&coalesce(&pair, none)), [1, 1]);
        let others = CoalesceLimits { tso4: !one.tso4, tso6: !one.tso6, uso4: !one.uso4, uso6: !one.uso6 };
        assert_eq!(counts(&coalesce(&pair, others)), [1, 1]);
    }
}

/// A flow of `count` segments of `payload_len` bytes.
fn flow(first: Sketch, payload_len: usize, count: usize) -> Vec<(Vec<u8>, bool)> {
    let first = Sketch { payload: pattern(payload_len), ..first };
    let sketches: Vec<_> =
        std::iter::successors(Some(first), |sketch| Some(next(sketch))).take(count).collect();
    partial(&sketches)
}

#[test]
fn groups_end_before_they_grow_past_what_a_kernel_takes() {
    assert_eq!(counts(&coalesce(&flow(Sketch::udp(), 10, 130), ALL)), [64, 64, 2]);
    assert_eq!(counts(&coalesce(&flow(Sketch::tcp(), 10, 130), ALL)), [128, 2]);
    let written = coalesce(&flow(Sketch::tcp(), 1_448, 60), ALL);
    assert_eq!(counts(&written), [45, 15]);
    assert!(written[0].packet.len() <= 65_535 && written[0].packet.len() + 1_448 > 65_535);
}

#[test]
fn full_and_partial_checksums_may_share_a_group_once_both_are_known_to_be_right() {
    let first = Sketch::tcp();
    let packets = [(first.full(), false), (next(&first).partial(), true)];
    let written = coalesce(&packets, ALL);
    assert_eq!(counts(&written), [2]);
    assert!(written[0].vnet.needs_checksum);
    assert_eq!(written[0].vnet.gso_type, GsoType::TcpV4);
}

#[test]
fn what_is_no_ip_packet_is_an_error() {
    assert_eq!(Group::start(&[], false, ALL).map(|_| ()), Err(InvalidPacket::Empty));
    assert_eq!(Group::start(&[0x70; 40], false, ALL).map(|_| ()), Err(InvalidPacket::Version(7)));
}
