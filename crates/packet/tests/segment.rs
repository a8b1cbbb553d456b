//! What a super-packet must be like, and what happens to one that is not.

mod support;

use packet::segment::HEADER_MAX;
use packet::{GsoType, InvalidPacket, InvalidSuperPacket, SuperPacket, VnetHeader};
use support::{ACK, CWR, FIN, PSH, RST, SYN, Sketch, URG, checksums_are_valid, cut, pattern};

fn parse(vnet: &VnetHeader, packet: &[u8]) -> Result<SuperPacket, InvalidSuperPacket> {
    SuperPacket::parse(vnet, packet, packet.len())
}

#[test]
fn a_tcp_train_advances_sequence_and_identification_and_ends_with_the_push() {
    let sketch = Sketch {
        payload: pattern(2_500),
        sequence: u32::MAX - 999,
        id: u16::MAX,
        flags: ACK | PSH | FIN | CWR,
        ..Sketch::tcp()
    };
    let packet = sketch.partial();
    let plan = parse(&sketch.vnet(1_000), &packet).unwrap();
    let segments = cut(&plan, &packet);
    let field = |at: usize| segments.iter().map(move |segment| segment[at]).collect::<Vec<_>>();
    let word = |at: usize| {
        segments.iter().map(|segment| u16::from_be_bytes([segment[at], segment[at + 1]])).collect::<Vec<_>>()
    };
    assert_eq!(word(2), [1_052, 1_052, 552], "total length");
    assert_eq!(word(4), [0xffff, 0, 1], "identification");
    assert_eq!(word(24), [0xffff, 0, 0], "sequence number, high half");
    assert_eq!(word(26), [0xfc18, 0, 1_000], "sequence number, low half");
    assert_eq!(field(33), [ACK | CWR, ACK, ACK | PSH | FIN]);
}

#[test]
fn a_udp_train_has_lengths_of_its_own() {
    let sketch = Sketch { payload: pattern(2_500), ..Sketch::udp().v6() };
    let packet = sketch.partial();
    let plan = parse(&sketch.vnet(1_000), &packet).unwrap();
    let lengths: Vec<_> = cut(&plan, &packet)
        .iter_mut()
        .map(|segment| {
            plan.complete_checksum(segment);
            assert!(checksums_are_valid(segment));
            (u16::from_be_bytes([segment[4], segment[5]]), u16::from_be_bytes([segment[44], segment[45]]))
        })
        .collect();
    assert_eq!(lengths, [(1_008, 1_008), (1_008, 1_008), (508, 508)]);
}

#[test]
fn the_largest_super_packet_is_cut() {
    let mut sketch = Sketch::tcp();
    sketch.payload = pattern(65_535 - sketch.header_len());
    let packet = sketch.partial();
    let plan = parse(&sketch.vnet(1_448), &packet).unwrap();
    assert_eq!(plan.segment_count(), 46);
    assert!(cut(&plan, &packet).iter_mut().all(|segment| {
        plan.complete_checksum(segment);
        checksums_are_valid(segment)
    }));
}

#[test]
fn only_the_headers_need_to_be_at_hand() {
    let sketch = Sketch { payload: pattern(5_000), ..Sketch::tcp().v6() };
    let packet = sketch.partial();
    let headers = &packet[..sketch.header_len()];
    let plan = SuperPacket::parse(&sketch.vnet(1_000), headers, packet.len());
    assert_eq!(plan, parse(&sketch.vnet(1_000), &packet));
    let one_short = SuperPacket::parse(&sketch.vnet(1_000), &headers[..headers.len() - 1], packet.len());
    assert_eq!(one_short, Err(InvalidSuperPacket::HeaderTruncated));
}

#[test]
fn the_kernels_hint_of_the_header_length_is_not_believed() {
    let sketch = Sketch::tcp();
    let packet = sketch.partial();
    let vnet = VnetHeader { hdr_len: 9_000, ..sketch.vnet(10) };
    assert_eq!(parse(&vnet, &packet).unwrap().header_len(), sketch.header_len());
}

#[test]
fn an_ordinary_packet_is_one_segment_that_stays_as_it_is() {
    let packet = Sketch::udp().full();
    let plan = parse(&VnetHeader::default(), &packet).unwrap();
    assert_eq!((plan.segment_count(), plan.segment_len(0)), (1, packet.len()));
    assert!(!plan.is_partial());
    let mut segments = cut(&plan, &packet);
    plan.complete_checksum(&mut segments[0]);
    assert_eq!(segments, [packet]);
}

#[test]
fn an_ordinary_packet_keeps_its_partial_checksum_until_it_is_completed() {
    let sketch = Sketch::udp();
    let vnet = VnetHeader { gso_type: GsoType::None, gso_size: 0, ..sketch.vnet(0) };
    let plan = parse(&vnet, &sketch.partial()).unwrap();
    assert!(plan.is_partial() && plan.partial_travels());
    let mut segments = cut(&plan, &sketch.partial());
    assert_eq!(segments, [sketch.partial()]);
    plan.complete_checksum(&mut segments[0]);
    assert_eq!(segments, [sketch.full()]);
}

#[test]
fn a_partial_checksum_inside_a_tunnel_is_completed_here_because_the_far_end_could_not_find_it() {
    // IP · GRE-like wrapper of 4 bytes · an inner TCP packet, whose checksum is the partial one.
    let inner = Sketch::tcp();
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 47, 0, 0, 10, 9, 9, 1, 10, 9, 9, 2, 0, 0, 8, 0];
    packet.extend(inner.partial());
    let total = packet.len() as u16;
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    let vnet = VnetHeader { needs_checksum: true, csum_start: 44, csum_offset: 16, ..VnetHeader::default() };
    let plan = parse(&vnet, &packet).unwrap();
    assert!(plan.is_partial() && !plan.partial_travels());
    plan.complete_checksum(&mut packet);
    assert_eq!(packet[24..], inner.full());
}

#[test]
fn a_partial_checksum_in_an_odd_place_does_not_travel() {
    let ordinary = |sketch: &Sketch| VnetHeader { gso_type: GsoType::None, ..sketch.vnet(0) };
    let travels = |vnet: &VnetHeader, packet: &[u8]| parse(vnet, packet).unwrap().partial_travels();
    let sketch = Sketch::tcp();
    let mut packet = sketch.partial();
    assert!(travels(&ordinary(&sketch), &packet));
    // The field is the right one, but what it covers begins later.
    let later = VnetHeader { csum_start: 24, csum_offset: 12, ..ordinary(&sketch) };
    assert!(!travels(&later, &packet));
    let other_field = VnetHeader { csum_offset: 6, ..ordinary(&sketch) };
    assert!(!travels(&other_field, &packet));
    packet[6] = 0x20;
    assert!(!travels(&ordinary(&sketch), &packet), "a fragment");
}

#[test]
fn a_checksum_that_comes_out_as_zero_is_sent_as_its_other_zero() {
    // RFC 768: zero would say that there is none.
    for mut sketch in [Sketch::udp(), Sketch::udp().v6(), Sketch::tcp()] {
        sketch.payload[..2].fill(0);
        let packet = sketch.full();
        let at = sketch.ip_len() + sketch.checksum_offset();
        sketch.payload[..2].copy_from_slice(&packet[at..at + 2]);
        let mut packet = sketch.partial();
        let plan = parse(&sketch.vnet(1_000), &packet).unwrap();
        plan.complete_checksum(&mut packet);
        assert_eq!(packet[at..at + 2], [0xff, 0xff]);
        assert!(checksums_are_valid(&packet));
    }
}

#[test]
fn a_super_packet_of_headers_alone_is_one_segment() {
    let sketch = Sketch { payload: Vec::new(), ..Sketch::tcp() };
    let packet = sketch.partial();
    let plan = parse(&sketch.vnet(1_000), &packet).unwrap();
    assert_eq!(cut(&plan, &packet), [packet]);
}

/// A super-packet with one thing wrong, and the error it gets.
fn refused(sketch: &Sketch, damage: impl Fn(&mut VnetHeader, &mut Vec<u8>)) -> InvalidSuperPacket {
    let (mut vnet, mut packet) = (sketch.vnet(40), sketch.partial());
    assert!(parse(&vnet, &packet).is_ok());
    damage(&mut vnet, &mut packet);
    parse(&vnet, &packet).expect_err("one thing is wrong")
}

#[test]
fn every_field_that_contradicts_another_is_an_error() {
    use InvalidSuperPacket::{
        ChecksumPlace, Fragment, HeaderTruncated, Ip, Length, NoChecksum, Protocol, SegmentSize,
        TcpDataOffset, UdpLength,
    };
    let (tcp, udp, tcp6) = (Sketch::tcp(), Sketch::udp(), Sketch::tcp().v6());
    let tcp_len = tcp.partial().len();

    assert_eq!(refused(&tcp, |_, packet| packet.clear()), Ip(InvalidPacket::Empty));
    assert_eq!(refused(&tcp, |_, packet| packet[0] = 0x55), Ip(InvalidPacket::Version(5)));
    assert_eq!(refused(&tcp, |_, packet| packet[0] = 0x44), Ip(InvalidPacket::HeaderLength));
    assert_eq!(refused(&tcp, |_, packet| packet.truncate(19)), Ip(InvalidPacket::HeaderTruncated));
    assert_eq!(refused(&tcp6, |_, packet| packet.truncate(39)), Ip(InvalidPacket::HeaderTruncated));
    assert_eq!(refused(&tcp, |_, packet| packet[2..4].fill(0)), Ip(InvalidPacket::TotalLength));
    assert_eq!(
        refused(&tcp, |_, packet| packet.truncate(tcp_len - 1)),
        Ip(InvalidPacket::Truncated { total_len: tcp_len, available: tcp_len - 1 })
    );
    assert_eq!(
        refused(&tcp, |_, packet| packet.push(0)),
        Length { total_len: tcp_len, packet_len: tcp_len + 1 }
    );
    assert_eq!(refused(&tcp6, |_, packet| packet[4..6].fill(0)), {
        // A jumbogram: the length of 0 hides the transport header.
        Length { total_len: 40, packet_len: tcp6.partial().len() }
    });
    assert_eq!(refused(&tcp, |_, packet| packet[6] = 0x20), Fragment);
    assert_eq!(refused(&tcp, |vnet, _| vnet.gso_size = 0), SegmentSize);
    assert_eq!(refused(&tcp, |vnet, _| vnet.needs_checksum = false), NoChecksum);
    assert_eq!(refused(&tcp, |vnet, _| vnet.csum_start = 24), ChecksumPlace { start: 24, offset: 16 });
    assert_eq!(refused(&tcp, |vnet, _| vnet.csum_offset = 6), ChecksumPlace { start: 20, offset: 6 });
    assert_eq!(refused(&udp, |vnet, _| vnet.csum_offset = 16), ChecksumPlace { start: 20, offset: 16 });
    assert_eq!(refused(&tcp, |_, packet| packet[32] = 0x40), TcpDataOffset(16));
    assert_eq!(refused(&udp, |_, packet| packet[25] += 1), UdpLength(109));
    assert!(matches!(refused(&tcp, |_, packet| packet[9] = 17), Protocol { protocol: 17, .. }));
    assert!(matches!(refused(&udp, |vnet, _| vnet.gso_type = GsoType::TcpV4), Protocol { protocol: 17, .. }));
    assert!(matches!(refused(&tcp, |vnet, _| vnet.gso_type = GsoType::TcpV6), Protocol { .. }));
    assert!(matches!(refused(&tcp6, |vnet, _| vnet.gso_type = GsoType::TcpV4), Protocol { .. }));

    let tiny = Sketch { payload: Vec::new(), options: Vec::new(), ..Sketch::tcp() };
    assert_eq!(refused(&tiny, |_, packet| packet[32] = 0x60), TcpDataOffset(24));
    let no_transport = |_: &mut VnetHeader, packet: &mut Vec<u8>| {
        packet.truncate(30);
        packet[2..4].copy_from_slice(&[0, 30]);
    };
    assert_eq!(refused(&tcp, no_transport), HeaderTruncated);
    let half_udp = |_: &mut VnetHeader, packet: &mut Vec<u8>| {
        packet.truncate(27);
        packet[2..4].copy_from_slice(&[0, 27]);
    };
    assert_eq!(refused(&udp, half_udp), HeaderTruncated);

    // Bytes behind the packet are not part of its headers.
    let mut packet = udp.partial();
    packet[2..4].copy_from_slice(&[0, 27]);
    packet[24..26].copy_from_slice(&[0, 7]);
    assert_eq!(SuperPacket::parse(&udp.vnet(40), &packet, 27), Err(HeaderTruncated));
}

#[test]
fn headers_longer_than_any_copy_of_them_are_an_error() {
    // A destination options header of `len` bytes, filled with padding (RFC 8200 §4.2).
    let with_options = |len: usize| {
        let sketch = Sketch::tcp().v6();
        let mut packet = sketch.partial();
        let mut options = vec![0; len];
        options[..4].copy_from_slice(&[6, (len / 8 - 1) as u8, 1, (len - 4) as u8]);
        packet[6] = 60;
        packet.splice(40..40, options);
        packet[5] += len as u8;
        let vnet = VnetHeader { csum_start: 40 + len as u16, ..sketch.vnet(40) };
        parse(&vnet, &packet).map(|plan| plan.header_len())
    };
    let header_len = Sketch::tcp().v6().header_len();
    assert_eq!(with_options(56), Ok(header_len + 56));
    assert!(header_len + 56 <= HEADER_MAX);
    assert_eq!(with_options(64), Err(InvalidSuperPacket::HeaderTooLong(header_len + 64)));
}

#[test]
fn a_partial_checksum_outside_the_packet_is_an_error() {
    let packet = Sketch::udp().partial();
    let len = packet.len() as u16;
    for (start, offset) in [(0, 6), (19, 6), (len - 1, 0), (20, len), (u16::MAX, u16::MAX)] {
        let vnet = VnetHeader {
            needs_checksum: true,
            csum_start: start,
            csum_offset: offset,
            ..VnetHeader::default()
        };
        assert_eq!(parse(&vnet, &packet), Err(InvalidSuperPacket::ChecksumPlace { start, offset }));
    }
}

#[test]
fn a_tcp_super_packet_is_cut_into_shorter_segments_for_a_narrow_path() {
    for sketch in [Sketch::tcp(), Sketch::tcp().v6()] {
        let flags = ACK | PSH | FIN | CWR;
        let sketch = Sketch { payload: pattern(2_500), sequence: u32::MAX - 999, flags, ..sketch };
        let packet = sketch.partial();
        let plan = parse(&sketch.vnet(1_400), &packet).unwrap();
        let narrow = plan.recut(&packet, sketch.header_len() + 1_000).unwrap();
        let mut segments = cut(&narrow, &packet);
        let data: Vec<u8> =
            segments.iter().flat_map(|segment| segment[sketch.header_len()..].to_vec()).collect();
        assert_eq!(data, sketch.payload);
        let tcp = |segment: &[u8], at: usize| segment[sketch.ip_len() + at];
        let flags: Vec<_> = segments.iter().map(|segment| tcp(segment, 13)).collect();
        assert_eq!(flags, [ACK | CWR, ACK, ACK | PSH | FIN]);
        let sequence = |segment: &Vec<u8>| u32::from_be_bytes([4, 5, 6, 7].map(|at| tcp(segment, at)));
        assert_eq!(segments.iter().map(sequence).collect::<Vec<_>>(), [u32::MAX - 999, 0, 1_000]);
        for segment in &mut segments {
            assert!(segment.len() <= sketch.header_len() + 1_000);
            narrow.complete_checksum(segment);
            assert!(checksums_are_valid(segment));
        }
    }
}

#[test]
fn a_single_tcp_segment_with_a_partial_checksum_can_be_cut_too() {
    let sketch = Sketch { payload: pattern(1_400), flags: ACK | PSH, ..Sketch::tcp() };
    let packet = sketch.partial();
    let vnet = VnetHeader { gso_type: GsoType::None, gso_size: 0, ..sketch.vnet(1) };
    let narrow = parse(&vnet, &packet).unwrap().recut(&packet, 1_219).unwrap();
    let lengths: Vec<_> = cut(&narrow, &packet).iter().map(Vec::len).collect();
    assert_eq!(lengths, [1_219, 52 + 1_400 - (1_219 - 52)]);
}

#[test]
fn what_is_not_a_stream_of_checked_bytes_is_not_cut_elsewhere() {
    let single = |sketch: &Sketch| VnetHeader { gso_type: GsoType::None, gso_size: 0, ..sketch.vnet(1) };
    let large = |flags| Sketch { payload: pattern(1_400), flags, ..Sketch::tcp() };
    let recut = |vnet: &VnetHeader, packet: &[u8], room| parse(vnet, packet).unwrap().recut(packet, room);

    let udp = Sketch { payload: pattern(2_500), ..Sketch::udp() };
    assert_eq!(recut(&udp.vnet(1_400), &udp.partial(), 1_219), None, "a datagram is whole or not at all");
    let complete = large(ACK);
    assert_eq!(recut(&VnetHeader::default(), &complete.full(), 1_219), None, "nobody has checked it");
    for flag in [SYN, RST, URG] {
        let sketch = large(ACK | flag);
        assert_eq!(recut(&single(&sketch), &sketch.partial(), 1_219), None);
    }
    let sketch = large(ACK);
    assert_eq!(recut(&single(&sketch), &sketch.partial(), sketch.header_len()), None, "no room for a byte");
}
