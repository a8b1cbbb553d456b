//! What we write, byte by byte, and what happens when it does not fit.

use mdns::wire::InvalidName::{EmptyLabel, Escape, LabelTooLong, TooLong};
use mdns::wire::{
    Class, Header, Message, Mode, NameBuf, Nsec, Question, RData, Record, RecordData, RecordType, Section,
    Srv, TYPE_BITMAP_LEN_MAX, Txt, TypeBitmap, Writer,
};

use super::reading::{bytes, printer};

fn name(text: &str) -> NameBuf {
    text.parse().expect("a name")
}

fn record<'a>(name: &'a NameBuf, cache_flush: bool, ttl: u32, rdata: RData<'a>) -> Record<'a> {
    Record { name: name.as_name(), class: Class::IN, cache_flush, ttl, rdata }
}

/// Writes the answer of the printer again.
fn write_printer(buf: &mut [u8], mode: Mode) -> &[u8] {
    let bytes = printer();
    let message = Message::parse(&bytes).expect("well-formed");
    let mut writer = Writer::new(buf, mode, message.header());
    for section in [Section::Answer, Section::Additional] {
        assert!(message.section(section).all(|record| writer.push(section, &record)));
    }
    writer.finish()
}

#[test]
fn the_answer_of_a_printer_is_written_in_the_bytes_that_others_use() {
    assert_eq!(write_printer(&mut [0; 200], Mode::Mdns), printer());
}

/// RFC 6762 §18.14: SRV and NSEC data is compressed too, but not for those who do not know of it.
#[test]
fn names_in_srv_and_nsec_data_are_compressed_except_for_legacy_queriers() {
    let (instance, host) = (name("P._ipp._tcp.local"), name("nas.local"));
    let mut types = [0; TYPE_BITMAP_LEN_MAX];
    let types = TypeBitmap::of(&[RecordType::TXT, RecordType::SRV], &mut types);
    let written = |mode| {
        let mut buf = [0; 300];
        let mut writer = Writer::new(&mut buf, mode, Header::RESPONSE);
        let target = host.as_name();
        let srv = RData::Srv(Srv { priority: 1, weight: 2, port: 3, target });
        let nsec = RData::Nsec(Nsec { next: instance.as_name(), types });
        assert!(writer.push(Section::Answer, &record(&instance, true, 120, srv)));
        assert!(writer.push(Section::Answer, &record(&instance, true, 120, nsec)));
        writer.finish().to_vec()
    };
    let head = b"\0\0\x84\0\0\0\0\x02\0\0\0\0\x01P\x04_ipp\x04_tcp\x05local\0";
    assert_eq!(
        written(Mode::Mdns),
        bytes![
            head,
            b"\0\x21\x80\x01\0\0\0\x78\0\x0c\0\x01\0\x02\0\x03\x03nas\xc0\x18",
            b"\xc0\x0c\0\x2f\x80\x01\0\0\0\x78\0\x09\xc0\x0c\0\x05\0\0\x80\0\x40",
        ]
    );
    assert_eq!(
        written(Mode::Legacy),
        bytes![
            head,
            b"\0\x21\0\x01\0\0\0\x0a\0\x11\0\x01\0\x02\0\x03\x03nas\x05local\0",
            b"\xc0\x0c\0\x2f\0\x01\0\0\0\x0a\0\x1a\x01P\x04_ipp\x04_tcp\x05local\0\0\x05\0\0\x80\0\x40",
        ]
    );
}

#[test]
fn a_legacy_response_echoes_the_id_and_the_question_and_holds_ten_seconds_at_most() {
    let (service, instance) = (name("_ipp._tcp.local"), name("P._ipp._tcp.local"));
    let mut buf = [0; 200];
    let mut writer = Writer::new(&mut buf, Mode::Legacy, Header::legacy_response(0x1234));
    assert!(writer.push_question(&Question {
        name: service.as_name(),
        record_type: RecordType::PTR,
        class: Class::IN,
        unicast_response: false,
    }));
    assert!(writer.push(Section::Answer, &record(&service, true, 4_500, RData::Ptr(instance.as_name()))));
    assert!(writer.push(Section::Additional, &record(&instance, true, 5, RData::Txt(Txt::EMPTY))));
    let message = Message::parse(writer.finish()).expect("well-formed");
    assert_eq!(message.header().id, 0x1234);
    assert_eq!(message.questions().len(), 1);
    assert!(message.records().all(|record| !record.cache_flush));
    assert!(message.records().map(|record| record.ttl).eq([10, 5]));
}

/// A writer that ran out of room in the middle of a record goes on as if it had not begun it.
#[test]
fn what_does_not_fit_is_not_written_in_part_wherever_the_room_ends() {
    let whole = printer();
    let message = Message::parse(&whole).expect("well-formed");
    let service = name("_ipp._tcp.local");
    let small = record(&service, false, 4_500, RData::A([10, 0, 0, 2].into()));
    for capacity in 0..whole.len() {
        let mut buf = vec![0xa5; capacity];
        let mut writer = Writer::new(&mut buf, Mode::Mdns, Header::RESPONSE);
        let fitted = message.records().take_while(|record| writer.push(Section::Answer, record)).count();
        assert!(fitted < message.records().len());
        let len = writer.len();
        let more = writer.push(Section::Answer, &small);
        let written = writer.finish();
        if capacity < 12 {
            assert!(written.is_empty() && !more);
            continue;
        }
        let read = Message::parse(written).expect("what fitted is a message");
        assert!(read.answers().take(fitted).eq(message.records().take(fitted)), "{capacity} bytes");
        assert_eq!(read.answers().nth(fitted), more.then_some(small), "{capacity} bytes");
        assert!(len <= written.len() && written.len() <= capacity);
    }
}

#[test]
fn a_suffix_is_pointed_at_only_in_the_case_it_is_written_in() {
    let (lower, upper) = (name("printer.local"), name("PRINTER.local"));
    let mut buf = [0; 100];
    let mut writer = Writer::new(&mut buf, Mode::Mdns, Header::RESPONSE);
    assert!(writer.push(Section::Answer, &record(&lower, false, 120, RData::Ptr(upper.as_name()))));
    let message = Message::parse(writer.finish()).expect("well-formed");
    let answer = message.answers().next().expect("one answer");
    assert_eq!(answer.rdata.to_string(), "PRINTER.local");
    assert_eq!(message.as_bytes().len(), 12 + 15 + 10 + 10, "but the rest of it is pointed at");
}

/// Offsets above 16,383 do not fit into a pointer; more suffixes than the table holds are written in full.
#[test]
fn a_message_with_more_names_than_can_be_pointed_at_is_still_right() {
    let service = name("_ipp._tcp.local");
    let instances: Vec<NameBuf> =
        (0..700).map(|index| service.with_first_label(format!("Printer number {index}")).unwrap()).collect();
    let mut buf = vec![0; 60_000];
    let mut writer = Writer::new(&mut buf, Mode::Mdns, Header::RESPONSE);
    for instance in &instances {
        assert!(
            writer.push(Section::Answer, &record(&service, false, 4_500, RData::Ptr(instance.as_name())))
        );
    }
    for instance in &instances {
        assert!(writer.push(Section::Additional, &record(instance, true, 4_500, RData::Txt(Txt::EMPTY))));
    }
    let written = writer.finish();
    assert!(written.len() > 0x4000, "{} bytes", written.len());
    let simple = simple_dns::Packet::parse(written).expect("others read it");
    let targets = simple.answers.iter().map(|record| match &record.rdata {
        simple_dns::rdata::RData::PTR(target) => target.0.to_string(),
        other => panic!("{other:?}"),
    });
    assert!(targets.eq(instances.iter().map(ToString::to_string)));
    let owners = simple.additional_records.iter().map(|record| record.name.to_string());
    assert!(owners.eq(instances.iter().map(ToString::to_string)));
}

#[test]
fn the_tc_bit_says_that_more_known_answers_follow() {
    let mut buf = [0; 12];
    let mut writer = Writer::new(&mut buf, Mode::Mdns, Header::QUERY);
    assert!(writer.is_empty());
    writer.set_truncated();
    assert_eq!(writer.finish(), b"\0\0\x02\0\0\0\0\0\0\0\0\0");
}

/// The examples of RFC 6762 §8.2.1 and what surrounds them.
#[test]
fn data_is_compared_uncompressed_and_unsigned() {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let address = |last: [u8; 4]| RecordData::new(&RData::A(last.into()));
    let (lower, higher) = (address([169, 254, 99, 200]), address([169, 254, 200, 50]));
    assert_eq!(lower.as_rdata().cmp_uncompressed(higher.as_bytes()), Less);
    assert_eq!(higher.as_rdata().cmp_uncompressed(lower.as_bytes()), Greater);
    assert_eq!(higher.as_rdata().cmp_uncompressed(higher.as_bytes()), Equal);

    // A record that runs out first is lower: §8.2.
    let txt = |bytes: &'static [u8]| RecordData::new(&RData::Txt(Txt::parse(bytes).unwrap()));
    assert_eq!(txt(b"\x01a").as_rdata().cmp_uncompressed(txt(b"\x01a\x01b").as_bytes()), Less);
    assert_eq!(txt(b"\x01a\x01b").as_rdata().cmp_uncompressed(txt(b"\x01a").as_bytes()), Greater);

    // In a message the target is a pointer, here it is not: the same data.
    let bytes = printer();
    let message = Message::parse(&bytes).expect("well-formed");
    let compressed = message.additionals().next().expect("the SRV record").rdata;
    let owned = RecordData::new(&compressed);
    assert_eq!(owned.as_bytes(), b"\0\0\0\0\x02\x77\x0bcellar-nas1\x05local\0");
    assert_eq!(compressed.cmp_uncompressed(owned.as_bytes()), Equal);
    let target = name("CELLAR-NAS1.local");
    let shouted = RData::Srv(Srv { priority: 0, weight: 0, port: 631, target: target.as_name() });
    assert_eq!((owned == shouted, shouted.cmp_uncompressed(owned.as_bytes())), (true, Less));
}

#[test]
fn names_are_read_as_they_are_shown() {
    for text in [".", "local", r"a\.b.local", r"back\\slash.local", "Café \u{1f5a8}.local", r"\007\195.local"]
    {
        assert_eq!(name(text).to_string(), text);
    }
    assert_eq!(name("nas.local.").to_string(), "nas.local");
    assert_eq!(name(r"\110as.local"), name("nas.local"));
    let long = "x".repeat(64);
    let longer = "x.".repeat(128);
    let wrong =
        [("", EmptyLabel), ("..", EmptyLabel), ("a..b", EmptyLabel), (".a", EmptyLabel), (r"a\", Escape)];
    let more =
        [(r"\25", Escape), (r"\256", Escape), (r"\1x2", Escape), (&*long, LabelTooLong), (&*longer, TooLong)];
    for (text, error) in wrong.into_iter().chain(more) {
        assert_eq!(text.parse::<NameBuf>().err(), Some(error), "{text}");
    }
}
