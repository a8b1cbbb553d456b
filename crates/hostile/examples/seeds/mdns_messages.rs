//! DNS messages: what responders and queriers send, and what those send who mean harm.

use crate::Seeds;

pub(crate) fn all() -> Seeds {
    vec![
        ("response-printer", printer()),
        ("query-known-answers-tc", known_answers()),
        ("probe-qu-opt", probe()),
        ("nsec-all-windows", nsec()),
        ("nsec-overrun", message([0, 1, 0, 0], &[NAS, b"\0\x2f\x80\x01\0\0\0\x78\0\x04\xc0\x0c\0\x21"])),
        ("old-types-with-names", old_types()),
        ("legacy-query", [b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0", NAS, b"\0\x01\0\x01"].concat()),
        ("goodbye-and-huge-ttl", ttls()),
        ("pointer-to-itself", message([0, 1, 0, 0], &[b"\xc0\x0c", ADDRESS])),
        ("pointer-forward", message([0, 1, 0, 0], &[b"\xc0\x20", ADDRESS, NAS])),
        ("pointer-into-header", message([0, 1, 0, 0], &[b"\xc0\x04", ADDRESS])),
        ("pointer-to-own-label", message([0, 1, 0, 0], &[b"\x01a\xc0\x0c", ADDRESS])),
        ("pointer-chain", chain(40)),
        ("counts-that-lie", message([255, 255, 255, 255], &[NAS, ADDRESS])),
        ("name-of-255-bytes", message([0, 1, 0, 0], &[&name_of(61), ADDRESS])),
        ("name-of-256-bytes", message([0, 1, 0, 0], &[&name_of(62), ADDRESS])),
        ("labels-of-one-byte", labels_of_one_byte()),
        ("label-types", message([1, 0, 0, 0], &[b"\x41a\0\0\x01\0\x01"])),
        ("txt-string-overrun", message([0, 1, 0, 0], &[NAS, b"\0\x10\x80\x01\0\0\0\x78\0\x03\x05ab"])),
        ("record-cut-off", printer()[..100].to_vec()),
        (
            "nine-thousand-and-one-bytes",
            message([0, 1, 0, 0], &[NAS, b"\0\x0a\0\x01\0\0\0\x78\x23\x05", &[7; 8_965]]),
        ),
    ]
}

const NAS: &[u8] = b"\x03nas\x05local\0";
const ADDRESS: &[u8] = b"\0\x01\x80\x01\0\0\0\x78\0\x04\x0a\0\0\x02";

/// A response with these counts.
fn message(counts: [u8; 4], parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0x84, 0];
    bytes.extend(counts.iter().flat_map(|count| [0, *count]));
    bytes.extend(parts.concat());
    bytes
}

fn printer() -> Vec<u8> {
    message(
        [0, 1, 0, 4],
        &[
            b"\x04_ipp\x04_tcp\x05local\0\0\x0c\0\x01\0\0\x11\x94\0\x0c\x09My.Print!\xc0\x0c",
            b"\xc0\x27\0\x21\x80\x01\0\0\0\x78\0\x14\0\0\0\0\x02\x77\x0bcellar-nas1\xc0\x16",
            b"\xc0\x27\0\x10\x80\x01\0\0\x11\x94\0\x1b\x09txtvers=1\x08qtotal=1\x07rp=fast",
            b"\xc0\x45\0\x01\x80\x01\0\0\0\x78\0\x04\xc0\xa8\x01\x0a",
            b"\xc0\x45\0\x1c\x80\x01\0\0\0\x78\0\x10\xfe\x80\0\0\0\0\0\0\x02\x11\x22\xff\xfe\x33\x44\x55",
        ],
    )
}

fn known_answers() -> Vec<u8> {
    [
        b"\0\0\x02\0\0\x01\0\x02\0\0\0\0".as_slice(),
        b"\x05_http\x04_tcp\x05local\0\0\x0c\0\x01",
        b"\xc0\x0c\0\x0c\0\x01\0\0\x11\x94\0\x08\x05Caf\xc3\xa9\xc0\x0c",
        b"\xc0\x0c\0\x0c\0\x01\0\0\x11\x94\0\x06\x03a.b\xc0\x0c",
    ]
    .concat()
}

fn probe() -> Vec<u8> {
    let options = b"\0\0\x29\x05\xa0\0\0\x11\x94\0\x0c\0\x04\0\x08\0\x41\x02\x11\x22\x33\x44\x55";
    let mut bytes = message(
        [1, 0, 1, 1],
        &[NAS, b"\0\xff\x80\x01", b"\xc0\x0c\0\x01\0\x01\0\0\0\x78\0\x04\x0a\0\0\x02", options],
    );
    bytes[2] = 0;
    bytes
}

fn nsec() -> Vec<u8> {
    let restricted = b"\0\x2f\x80\x01\0\0\0\x78\0\x08\xc0\x0c\0\x04\x40\0\0\x08";
    let general = b"\xc0\x0c\0\x2f\x80\x01\0\0\0\x78\0\x0b\xc0\x0c\0\x04\x40\0\0\x08\x01\x01\x80";
    message([0, 2, 0, 0], &[NAS, restricted, general])
}

fn old_types() -> Vec<u8> {
    message(
        [0, 4, 0, 0],
        &[
            b"\x05local\0\0\x06\0\x01\0\0\0\x78\0\x1b\x02ns\xc0\x0c\xc0\x0c",
            &[0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5],
            b"\xc0\x0c\0\x0f\0\x01\0\0\0\x78\0\x04\0\x0a\xc0\x1d",
            b"\xc0\x0c\0\x05\0\x01\0\0\0\x78\0\x02\xc0\x1d",
            b"\xc0\x0c\xff\0\0\x01\0\0\0\x78\0\x02\xc0\x0c",
        ],
    )
}

fn ttls() -> Vec<u8> {
    message(
        [0, 3, 0, 0],
        &[
            NAS,
            b"\0\x01\x80\x01\0\0\0\0\0\x04\x0a\0\0\x02",
            b"\xc0\x0c\0\x01\x80\x01\x80\0\0\0\0\x04\x0a\0\0\x03",
            b"\xc0\x0c\0\x01\x80\x01\xff\xff\xff\xff\0\x04\x0a\0\0\x04",
        ],
    )
}

/// Questions whose names each point at the one before.
fn chain(links: u8) -> Vec<u8> {
    let mut bytes = message([links + 1, 0, 0, 0], &[b"\x01a\0\0\x01\0\x01"]);
    let mut last = 12_u16;
    for _ in 0..links {
        let at = bytes.len() as u16;
        bytes.extend((0xc000 | last).to_be_bytes());
        bytes.extend(b"\0\x01\0\x01");
        last = at;
    }
    bytes
}

/// Three labels of 63 bytes and one of `last`.
fn name_of(last: u8) -> Vec<u8> {
    let label = |length: u8| [vec![length], vec![b'a'; usize::from(length)]].concat();
    [label(63), label(63), label(63), label(last), vec![0]].concat()
}

/// The most labels that a name can have, and hundreds of names that end in it.
fn labels_of_one_byte() -> Vec<u8> {
    let more = b"\xc0\x0c\0\x0a\0\x01\0\0\0\x78\0\0".repeat(99);
    message([0, 100, 0, 0], &[&b"\x01a".repeat(127), b"\0\0\x0a\0\x01\0\0\0\x78\0\0", &more])
}
