//! Messages that others really send, and what we read in them.

use mdns::wire::{Class, Header, Message, NameBuf, ParseError, RData, RecordType, Srv};

/// Bytes from labels, strings and numbers, so that a message can be read beside its meaning.
macro_rules! bytes {
    ($($part:expr),* $(,)?) => { [$(AsRef::<[u8]>::as_ref(&$part)),*].concat() };
}
pub(crate) use bytes;

/// The response to `_ipp._tcp.local PTR` of a printer, as Apple's responder and Avahi write it: 166 bytes.
pub(crate) fn printer() -> Vec<u8> {
    bytes![
        b"\0\0\x84\0\0\0\0\x01\0\0\0\x04",
        b"\x04_ipp\x04_tcp\x05local\0\0\x0c\0\x01\0\0\x11\x94\0\x0c\x09My.Print!\xc0\x0c",
        b"\xc0\x27\0\x21\x80\x01\0\0\0\x78\0\x14\0\0\0\0\x02\x77\x0bcellar-nas1\xc0\x16",
        b"\xc0\x27\0\x10\x80\x01\0\0\x11\x94\0\x1b\x09txtvers=1\x08qtotal=1\x07rp=fast",
        b"\xc0\x45\0\x01\x80\x01\0\0\0\x78\0\x04\xc0\xa8\x01\x0a",
        b"\xc0\x45\0\x1c\x80\x01\0\0\0\x78\0\x10\xfe\x80\0\0\0\0\0\0\x02\x11\x22\xff\xfe\x33\x44\x55",
    ]
}

#[test]
fn a_whole_answer_of_a_printer() {
    let bytes = printer();
    assert_eq!(bytes.len(), 166);
    let message = Message::parse(&bytes).expect("well-formed");
    assert_eq!(message.header(), Header::RESPONSE);
    assert_eq!(
        (message.answers().len(), message.authorities().len(), message.additionals().len()),
        (1, 0, 4)
    );

    let instance: NameBuf = r"My\.Print!._ipp._tcp.local".parse().unwrap();
    let host: NameBuf = "cellar-nas1.local".parse().unwrap();
    let records: Vec<_> = message.records().collect();
    assert_eq!(records[0].name, "_ipp._tcp.local".parse::<NameBuf>().unwrap());
    assert_eq!(records[0].rdata, RData::Ptr(instance.as_name()));
    let target = host.as_name();
    assert_eq!(records[1].rdata, RData::Srv(Srv { priority: 0, weight: 0, port: 631, target }));
    let shown: Vec<String> = records.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            r"_ipp._tcp.local 4500 IN PTR My\.Print!._ipp._tcp.local",
            r"My\.Print!._ipp._tcp.local 120 IN SRV 0 0 631 cellar-nas1.local",
            r#"My\.Print!._ipp._tcp.local 4500 IN TXT "txtvers=1" "qtotal=1" "rp=fast""#,
            "cellar-nas1.local 120 IN A 192.168.1.10",
            "cellar-nas1.local 120 IN AAAA fe80::211:22ff:fe33:4455",
        ]
    );
    let flush: Vec<bool> = records.iter().map(|record| record.cache_flush).collect();
    assert_eq!(flush, [false, true, true, true, true]);
}

#[test]
fn a_probe_with_a_qu_question_and_the_options_of_a_sleep_proxy_client() {
    let bytes = bytes![
        b"\0\0\0\0\0\x01\0\0\0\x01\0\x01",
        b"\x03nas\x05local\0\0\xff\x80\x01",
        b"\xc0\x0c\0\x01\0\x01\0\0\0\x78\0\x04\x0a\0\0\x02",
        b"\0\0\x29\x05\xa0\0\0\x11\x94\0\x0c\0\x04\0\x08\x00\x41\x02\x11\x22\x33\x44\x55",
    ];
    let message = Message::parse(&bytes).expect("well-formed");
    let question = message.questions().next().expect("one question");
    assert_eq!((question.record_type, question.class), (RecordType::ANY, Class::IN));
    assert!(question.unicast_response);
    let proposed = message.authorities().next().expect("one record");
    assert_eq!((proposed.name, proposed.cache_flush), (question.name, false));
    // The class of an OPT record is a size, its TTL holds flags: RFC 6891 §6.1.2.
    let options = message.additionals().next().expect("one record");
    assert_eq!((options.record_type(), options.class.0, options.ttl), (RecordType::OPT, 1_440, 4_500));
    assert!(options.name.is_root());
}

#[test]
fn a_negative_answer() {
    let bytes = bytes![
        b"\0\0\x84\0\0\0\0\x01\0\0\0\0",
        b"\x03nas\x05local\0\0\x2f\x80\x01\0\0\0\x78\0\x08\xc0\x0c\0\x04\x40\0\0\x08",
    ];
    let message = Message::parse(&bytes).expect("well-formed");
    let record = message.answers().next().expect("one answer");
    let RData::Nsec(nsec) = record.rdata else { panic!("{record}") };
    assert_eq!(nsec.next, record.name);
    assert!(nsec.types.contains(RecordType::A) && nsec.types.contains(RecordType::AAAA));
    assert!(!nsec.types.contains(RecordType::SRV));
}

/// RFC 6762 §6.1: such a record is ignored, but what else the message says is not.
#[test]
fn a_bad_nsec_record_does_not_hide_the_others() {
    for data in [&b"\xc0\x0c\0\x21"[..], b"\xc0\x0c\0\0", b"\xc0\xff\0\x01\x40", b"\x3f", b"", b"\xc0"] {
        let length = [0, data.len() as u8];
        let bytes = bytes![
            b"\0\0\x84\0\0\0\0\x02\0\0\0\0",
            b"\x03nas\x05local\0\0\x2f\x80\x01\0\0\0\x78",
            length,
            data,
            b"\xc0\x0c\0\x01\x80\x01\0\0\0\x78\0\x04\x0a\0\0\x02",
        ];
        let message = Message::parse(&bytes).expect("only the NSEC record is bad");
        let records: Vec<_> = message.answers().collect();
        let RData::Other(bad) = records[0].rdata else { panic!("{data:?} is read as {}", records[0]) };
        assert_eq!((bad.record_type(), bad.as_bytes()), (RecordType::NSEC, data));
        assert_eq!(records[1].rdata, RData::A([10, 0, 0, 2].into()));
    }
}

#[test]
fn names_in_the_data_of_old_types_are_uncompressed() {
    let bytes = bytes![
        b"\0\0\x84\0\0\0\0\x02\0\0\0\0",
        b"\x05local\0\0\x06\0\x01\0\0\0\x78\0\x1b\x02ns\xc0\x0c\xc0\x0c",
        [0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5],
        b"\xc0\x0c\0\x0f\0\x01\0\0\0\x78\0\x04\0\x0a\xc0\x1d",
    ];
    let message = Message::parse(&bytes).expect("well-formed");
    let uncompressed: Vec<Vec<u8>> = message
        .answers()
        .map(|record| mdns::wire::RecordData::new(&record.rdata).as_bytes().to_vec())
        .collect();
    let numbers = [0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5];
    assert_eq!(uncompressed[0], bytes![b"\x02ns\x05local\0\x05local\0", numbers]);
    assert_eq!(uncompressed[1], b"\0\x0a\x02ns\x05local\0");
}

#[test]
fn what_follows_the_last_record_is_ignored() {
    let whole = printer();
    let message = Message::parse(&whole).expect("well-formed");
    let padded = bytes![whole, [0; 40]];
    let again = Message::parse(&padded).expect("well-formed");
    assert_eq!(again, message);
    assert_eq!(again.as_bytes(), whole);
}

#[test]
fn any_message_cut_off_anywhere_is_refused() {
    let whole = printer();
    for len in 0..whole.len() {
        let error = Message::parse(&whole[..len]).expect_err("a part is no message");
        let expected =
            if len < 12 { &[ParseError::Header][..] } else { &[ParseError::Counts, ParseError::Truncated] };
        assert!(expected.contains(&error), "{len} bytes: {error}");
    }
}

#[test]
fn names_are_equal_hashed_and_ordered_without_regard_to_case_and_compression() {
    use std::collections::HashMap;
    let bytes = printer();
    let message = Message::parse(&bytes).expect("well-formed");
    let records: Vec<_> = message.records().collect();
    let shouted: NameBuf = r"MY\.pRINT!._IPP._tcp.Local".parse().unwrap();
    assert_eq!(records[1].name, shouted);
    assert_eq!(records[1].name.cmp(&shouted.as_name()), std::cmp::Ordering::Equal);
    let map = HashMap::from([(shouted.as_name(), "printer")]);
    assert_eq!(map.get(&records[1].name), Some(&"printer"));
    assert_eq!(map.get(&records[0].name), None);
    assert_eq!(records[1].name.to_owned().to_string(), r"My\.Print!._ipp._tcp.local");
    // Only ASCII letters have two cases: RFC 6762 §16.
    assert_ne!("CAFÉ.local".parse::<NameBuf>().unwrap(), "café.local".parse::<NameBuf>().unwrap());
}

#[test]
fn a_name_knows_what_it_is_within() {
    let name: NameBuf = "Printer._IPP._tcp.local".parse().unwrap();
    for (ancestor, within) in
        [("_ipp._tcp.local", true), ("local", true), (".", true), ("tcp.local", false), ("x.local", false)]
    {
        let ancestor: NameBuf = ancestor.parse().unwrap();
        assert_eq!(name.as_name().is_within(ancestor.as_name()), within, "{ancestor}");
    }
    assert!(name.as_name().is_within(name.as_name()));
}
