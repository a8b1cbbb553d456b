//! What smux, FEC and kcptun's datagrams look like when all is well, and nearly so.

use shadowmesh::kcptun::crypt::{Cipher, CipherKind};
use stream::smux::{CAPABILITIES_ID, Command, Header};
use stream::snappy::Compressor;

use super::Seeds;

fn prefixed(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

fn frame(version: u8, command: Command, stream: u32, payload: &[u8]) -> Vec<u8> {
    let header = Header { version, command, length: payload.len() as u16, stream };
    [&header.encode()[..], payload].concat()
}

pub(super) fn smux() -> Seeds {
    let session = |settings: u8, operations: &[Vec<u8>]| [vec![settings], operations.concat()].concat();
    let told = |bytes: &[u8]| [vec![0], prefixed(bytes)].concat();
    let wrote = |stream: u8, bytes: &[u8]| [vec![stream << 4 | 5], prefixed(bytes)].concat();
    let output = vec![15, 4, 0];
    let syn = frame(1, Command::Syn, 3, b"");
    let push = frame(1, Command::Push, 3, &[7; 600]);
    let fin = frame(1, Command::Fin, 3, b"");
    let update = [frame(2, Command::Update, 3, &[0; 8])].concat();
    vec![
        (
            "server-reads-and-answers",
            session(
                2,
                &[
                    told(&syn),
                    told(&push),
                    vec![9],
                    vec![10],
                    wrote(0, b"answer"),
                    vec![6],
                    output.clone(),
                    told(&fin),
                    vec![7],
                    output.clone(),
                ],
            ),
        ),
        (
            "client-asks",
            session(
                5,
                &[
                    vec![4],
                    wrote(0, &[1; 900]),
                    vec![6],
                    output.clone(),
                    told(&frame(2, Command::Push, 3, b"answer")),
                    told(&update),
                    vec![10],
                    vec![11, 200],
                    output.clone(),
                ],
            ),
        ),
        (
            "negotiated",
            session(
                6,
                &[
                    told(&frame(1, Command::Nop, CAPABILITIES_ID, b"")),
                    told(&syn),
                    told(&fin),
                    output.clone(),
                    vec![8],
                    output.clone(),
                ],
            ),
        ),
        (
            "many-streams",
            session(
                2,
                &[
                    (0..12)
                        .map(|id| told(&frame(1, Command::Syn, 3 + 2 * id, b"")))
                        .collect::<Vec<_>>()
                        .concat(),
                    vec![12],
                    output.clone(),
                ],
            ),
        ),
        (
            "cut-in-a-header",
            session(
                2,
                &[told(&syn[..3]), told(&syn[3..]), told(&push[..100]), told(&push[100..]), vec![9], output],
            ),
        ),
    ]
}

pub(super) fn fec() -> Seeds {
    let data = |number: u8, payload: &[u8]| {
        prefixed(&[&[number, 0, 0, 0, 0xf1, 0, payload.len() as u8 + 2, 0], payload].concat())
    };
    let parity = |number: u8| prefixed(&[number, 0, 0, 0, 0xf2, 0, 9, 9, 9, 9, 9]);
    let adaptive =
        |kind: u8, index: u8, total: u8| prefixed(&[1, 0, 0, 0, kind, index, total, 0, 5, 0, 1, 2, 3]);
    vec![
        (
            "told-groups-of-two-and-one",
            [vec![0], data(0, b"abc"), data(1, b"defg"), parity(2), data(3, b"x"), parity(5)].concat(),
        ),
        (
            "told-adaptive",
            [vec![0], adaptive(0xf3, 0, 0), adaptive(0xf4, 0, 2), adaptive(0xf4, 1, 2)].concat(),
        ),
        ("link-fixed", [vec![0x80, 3, 1], [0_u8, 0, 100, 4, 0, 90, 0, 1, 44, 0, 0, 0].repeat(12)].concat()),
        ("link-adaptive", [vec![0x81, 0, 0], [2_u8, 0, 88, 6, 0, 88, 0, 4, 0, 10, 3, 7].repeat(12)].concat()),
    ]
}

pub(super) fn datagrams() -> Seeds {
    let mut compressed = Vec::new();
    Compressor::default().compress(&[b"compressible ".repeat(50), (0..200).collect()].concat(), |piece| {
        compressed.extend_from_slice(piece);
    });
    let sealed = |at: usize| {
        let cipher = Cipher::new(CipherKind::NAMES[at].1, "key");
        let mut datagram = [vec![0; cipher.header_len()], b"what a KCP datagram would be".to_vec()].concat();
        let len = datagram.len();
        cipher.seal(&mut datagram, len, |nonce| nonce.fill(9));
        [vec![at as u8, 6], prefixed(&datagram), compressed.clone()].concat()
    };
    let names = ["aes-256", "aes-128", "aes-192", "salsa20", "xor", "none", "null"];
    let mut seeds: Seeds = names.into_iter().enumerate().map(|(at, name)| (name, sealed(at))).collect();
    let padding = b"\xff\x06\0\0sNaPpY\xfe\x03\0\0abc\x01\x05\0\0\0\0\0\0x";
    seeds.push(("padding-and-a-wrong-checksum", [&[0, 2, 0, 0][..], padding].concat()));
    seeds
}
