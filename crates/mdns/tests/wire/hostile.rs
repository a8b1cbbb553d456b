//! What nobody sends who means well: refused with its reason, or harmless.

use mdns::wire::{MESSAGE_LEN_MAX, Message, Mode, ParseError, RData, RecordData};
use proptest::collection::vec;
use proptest::prelude::{any, proptest};

use super::described::{any_message, config, describe, write};
use super::mdns_message::run as survives;
use super::reading::{bytes, printer};

/// A response whose one answer has this name; the message goes on with a type and an address.
fn named(name: &[u8]) -> Vec<u8> {
    bytes![b"\0\0\x84\0\0\0\0\x01\0\0\0\0", name, b"\0\x01\0\x01\0\0\0\x78\0\x04\x0a\0\0\x02"]
}

fn error_of(bytes: &[u8]) -> Option<ParseError> {
    Message::parse(bytes).err()
}

#[test]
fn pointers_that_do_not_lead_back_are_refused() {
    // To itself, forward, to the labels before it (which would come again and again), into the header.
    for name in [
        &b"\xc0\x0c"[..],
        b"\xc0\x0e",
        b"\xff\xff",
        b"\x01a\xc0\x0c",
        b"\x01a\xc0\x0d",
        b"\xc0\x00",
        b"\xc0\x0b",
    ] {
        assert_eq!(error_of(&named(name)), Some(ParseError::Pointer), "{name:02x?}");
    }
}

#[test]
fn a_loop_of_pointers_is_refused() {
    let looped = bytes![
        b"\0\0\x84\0\0\0\0\x02\0\0\0\0",
        b"\x01a\xc0\x20\0\x10\0\x01\0\0\0\x78\0\x04\0\0\0\0",
        b"\x01b\xc0\x0c\0\x10\0\x01\0\0\0\x78\0\x04\0\0\0\0",
    ];
    assert_eq!(error_of(&looped), Some(ParseError::Pointer));
}

#[test]
fn a_chain_of_pointers_that_leads_on_and_on_is_refused() {
    let chained = |links: usize| {
        let questions = (links + 1) as u16;
        let mut bytes = bytes![b"\0\0\0\0", questions.to_be_bytes(), b"\0\0\0\0\0\0", b"\x01a\0\0\x01\0\x01"];
        let mut last = 12_u16;
        for _ in 0..links {
            let at = bytes.len() as u16;
            bytes.extend(bytes![(0xc000 | last).to_be_bytes(), b"\0\x01\0\x01"]);
            last = at;
        }
        bytes
    };
    assert_eq!(error_of(&chained(32)), None);
    assert_eq!(error_of(&chained(33)), Some(ParseError::Hops));
}

#[test]
fn names_of_more_than_255_bytes_are_refused_and_those_of_255_are_not() {
    let longest = bytes![[b"\x3f".as_slice(), &[b'a'; 63]].concat().repeat(3), b"\x3d", [b'b'; 61], b"\0"];
    assert_eq!(longest.len(), 255);
    let message = named(&longest);
    let record = Message::parse(&message).expect("255 bytes are allowed").answers().next().expect("one");
    assert_eq!(record.name.wire_len(), 255);
    assert_eq!(record.name.to_owned().as_wire(), longest);

    let too_long = bytes![[b"\x3f".as_slice(), &[b'a'; 63]].concat().repeat(3), b"\x3e", [b'b'; 62], b"\0"];
    assert_eq!(error_of(&named(&too_long)), Some(ParseError::NameTooLong));
    // The same by a pointer, and with labels of one byte.
    let pointed =
        bytes![b"\0\0\0\0\0\x02\0\0\0\0\0\0", longest, b"\0\x01\0\x01", b"\x01c\xc0\x0c\0\x01\0\x01",];
    assert_eq!(error_of(&pointed), Some(ParseError::NameTooLong));
    assert_eq!(error_of(&named(&bytes![b"\x01a".repeat(128), b"\0"])), Some(ParseError::NameTooLong));
    assert_eq!(error_of(&named(&bytes![b"\x01a".repeat(127), b"\0"])), None);
}

#[test]
fn kinds_of_labels_that_nobody_uses_are_refused() {
    for kind in [0x40, 0x41, 0x80, 0xbf] {
        assert_eq!(error_of(&named(&[kind, b'a', 0])), Some(ParseError::LabelType), "{kind:#x}");
    }
}

#[test]
fn counts_that_lie_are_refused_before_anything_is_looked_at() {
    for at in [4, 6, 8, 10] {
        let mut lying = printer();
        lying[at] = 0xff;
        assert_eq!(error_of(&lying), Some(ParseError::Counts));
        // One more than there are fits by the shortest record, but is not there.
        let mut lying = printer();
        lying[at + 1] += 1;
        assert!(matches!(error_of(&lying), Some(ParseError::Truncated | ParseError::Pointer)));
    }
    assert_eq!(error_of(b"\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff"), Some(ParseError::Counts));
}

#[test]
fn data_that_contradicts_its_type_is_refused() {
    let typed = |record_type: u8, data: &[u8]| {
        let length = [0, data.len() as u8];
        bytes![
            b"\0\0\x84\0\0\0\0\x01\0\0\0\0",
            b"\x01a\0\0",
            [record_type],
            b"\0\x01\0\0\0\x78",
            length,
            data
        ]
    };
    let wrong: &[(u8, &[u8])] = &[
        (12, b"\x01a\0\0"),
        (5, b"\xc0\x0c\0"),
        (33, b"\0\0\0\0\0\x50\x01a\0\0"),
        (15, b"\0\x01\xc0\x0c\0"),
        (6, b"\xc0\x0c\xc0\x0c\0\0"),
    ];
    for (record_type, data) in wrong {
        assert_eq!(
            error_of(&typed(*record_type, data)),
            Some(ParseError::Rdata),
            "{record_type} {data:02x?}"
        );
    }
    // The name does not end where the data does: what it would need is not its own.
    for (record_type, data) in [(12, &b"\x01"[..]), (12, b""), (33, b"\0\0\0\0"), (12, b"\xc0")] {
        assert_eq!(
            error_of(&typed(record_type, data)),
            Some(ParseError::Truncated),
            "{record_type} {data:02x?}"
        );
    }
    // RFC 6763 §6.1 has an empty TXT record accepted. Others are read as far as they go; what is no address is none.
    for (data, shown) in [(&b""[..], ""), (b"\x02a", ""), (b"\x01a\x01", "\"a\""), (b"\x01a\xff=", "\"a\"")] {
        let message = typed(16, data);
        let record = Message::parse(&message).unwrap().records().next().unwrap();
        assert_eq!(record.rdata.to_string(), shown);
        assert_eq!(RecordData::new(&record.rdata), record.rdata);
    }
    let wrong: &[(u8, &[u8])] =
        &[(1, b"\x0a\0\0"), (1, b"\x0a\0\0\x02\0"), (1, b""), (28, &[0; 15]), (28, &[0; 17])];
    for (record_type, data) in wrong {
        let message = typed(*record_type, data);
        let record = Message::parse(&message).unwrap().records().next().unwrap();
        assert!(matches!(record.rdata, RData::Other(_)));
        assert_eq!(RecordData::new(&record.rdata), record.rdata);
    }
}

#[test]
fn a_message_of_9001_bytes_is_refused_and_one_of_9000_is_not() {
    let mut bytes = printer();
    bytes.resize(MESSAGE_LEN_MAX, 0);
    assert_eq!(error_of(&bytes), None);
    bytes.push(0);
    assert_eq!(error_of(&bytes), Some(ParseError::TooLong));
}

/// By pointers a message can have more labels than bytes.
#[test]
fn a_message_that_costs_more_to_read_than_to_send_is_refused() {
    let pointing = |records: u16, record_type: &[u8; 2], data: &[u8]| {
        let mut bytes = bytes![b"\0\0\x84\0", [0, 0], b"\0\0\0\0\0\0", b"\x01a".repeat(127), b"\0"];
        bytes.extend(b"\0\x0a\0\x01\0\0\0\x78\0\0");
        for _ in 1..records {
            let length = [0, data.len() as u8];
            bytes.extend(bytes![b"\xc0\x0c", record_type, b"\0\x01\0\0\0\x78", length, data]);
        }
        bytes[6..8].copy_from_slice(&records.to_be_bytes());
        bytes
    };
    assert_eq!(error_of(&pointing(129, b"\0\x0a", b"")), None);
    assert_eq!(error_of(&pointing(130, b"\0\x0a", b"")), Some(ParseError::Labels));
    assert_eq!(error_of(&pointing(65, b"\0\x0c", b"\xc0\x0c")), None);
    assert_eq!(error_of(&pointing(66, b"\0\x0c", b"\xc0\x0c")), Some(ParseError::Labels));
    assert_eq!(error_of(&pointing(66, b"\0\x2f", b"\xc0\x0c")), Some(ParseError::Labels));
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn arbitrary_bytes_are_survived(bytes in vec(any::<u8>(), 0..200), counts in vec(0_u8..3, 4)) {
        survives(&bytes);
        // With counts that can be, the parser gets further.
        if let Some(tail) = bytes.get(12..) {
            let counts: Vec<u8> = counts.into_iter().flat_map(|count| [0, count]).collect();
            survives(&bytes![[0; 4], counts, tail]);
        }
    }

    #[test]
    fn mutated_messages_are_survived_and_written_again_if_they_parse(
        message in any_message(true),
        changes in vec((any::<u16>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = write(&message, Mode::Mdns, MESSAGE_LEN_MAX);
        assert_eq!(describe(&Message::parse(&bytes).unwrap()), message);
        survives(&bytes);
        for (at, value) in changes {
            let at = usize::from(at) % bytes.len();
            bytes[at] = value;
            survives(&bytes);
        }
    }
}
