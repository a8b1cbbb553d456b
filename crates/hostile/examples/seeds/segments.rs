//! Seeds of `fake_tcp` and `tcp_frame`.

use carrier::fake_tcp::{Flags, HEADER_MAX, Header, SynOptions, complete_checksum};
use carrier::tcp_frame::frame_header;
use packet::Ecn;

use crate::Seeds;

/// One packet of a `fake_tcp` input, with the flags before it.
fn packet(input_flags: u8, flags: Flags, numbers: (u32, u32), payload: usize, v6: bool) -> Vec<u8> {
    let (from, to) = if v6 { ("[fd01::1]:8", "[fd01::2]:9443") } else { ("192.0.2.1:8", "192.0.2.2:9443") };
    let syn = flags.has(Flags::SYN).then_some(SynOptions { mss: 1_460, window_scale: 10 });
    let header = Header {
        from: from.parse().expect("an address"),
        to: to.parse().expect("an address"),
        sequence: numbers.0,
        acknowledgment: numbers.1,
        flags,
        window: 501,
        timestamps: Some((77, 88)),
        syn,
        ecn: Ecn::NotEct,
        identification: 1,
    };
    let payload: Vec<u8> = (0..payload).map(|i| (i * 37) as u8).collect();
    let mut bytes = [0; HEADER_MAX];
    let len = header.write(payload.len(), &mut bytes);
    complete_checksum(&mut bytes[..len], header.ip_len(), &[&payload]);
    let packet = [&bytes[..len], &payload].concat();
    [&[input_flags][..], &(packet.len() as u16).to_be_bytes(), &packet].concat()
}

pub(crate) fn packets() -> Seeds {
    let data = Flags::PSH | Flags::ACK;
    let opening = [packet(0, Flags::SYN, (1, 0), 0, false), packet(2, data, (2, 9), 148, false)].concat();
    let train = packet(0x32, data, (2, 9), 400, false);
    let jump = [train.clone(), packet(2, data, (0x8000_0000, 0x7000_0000), 64, false)].concat();
    let ends = [Flags::RST, Flags::FIN | Flags::ACK, Flags::RST | Flags::ACK, Flags(0), Flags(0xff)];
    let ends: Vec<u8> = ends.into_iter().flat_map(|flags| packet(0, flags, (5, 6), 0, false)).collect();
    let keepalive = [train.clone(), packet(0, Flags::ACK, (401, 9), 0, false)].concat();
    vec![
        ("opening-and-data", opening),
        ("train", train),
        ("numbers-jump", jump),
        ("every-end", ends),
        ("keepalive", keepalive),
        ("no-guard", packet(0, data, (2, 9), 300, false)),
        ("short-datagram", packet(2, data, (2, 9), 31, false)),
        ("syn-ack-to-the-caller", packet(1, Flags::SYN | Flags::ACK, (9, 2), 0, false)),
        ("ipv6", packet(2, data, (2, 9), 200, true)),
        ("no-packet", vec![0, 0, 3, 1, 2, 3]),
    ]
}

pub(crate) fn streams() -> Seeds {
    let frame = |len: usize| -> Vec<u8> {
        let datagram: Vec<u8> = (0..len).map(|i| i as u8).collect();
        [&frame_header(&datagram).expect("it fits")[..], &datagram].concat()
    };
    let with_piece = |piece: u16, stream: Vec<u8>| [&piece.to_be_bytes()[..], &stream].concat();
    vec![
        ("three-frames", with_piece(7, [frame(1), frame(300), frame(32)].concat())),
        ("byte-by-byte", with_piece(1, [frame(5), frame(2)].concat())),
        ("empty-frame", with_piece(100, [frame(5), vec![0, 0], frame(5)].concat())),
        ("cut-off", with_piece(100, frame(500)[..300].to_vec())),
        ("longest-announced", with_piece(4, vec![0xff, 0xff, 1, 2, 3])),
    ]
}
