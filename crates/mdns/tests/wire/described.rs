//! What a message says, independent of who reads or writes it and of how names are compressed; and a strategy for such
//! messages whose names share suffixes as those of DNS-SD do.

use std::net::{Ipv4Addr, Ipv6Addr};

use mdns::wire::{
    Class, Header, Message, Mode, Name, NameBuf, Nsec, OtherData, Question, RData, Record, RecordData,
    RecordType, Section, Srv, TYPE_BITMAP_LEN_MAX, Txt, TypeBitmap, Writer,
};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::select;
use proptest::test_runner::{Config, RngSeed};

/// The same cases every time.
pub(crate) fn config() -> Config {
    Config { cases: 512, rng_seed: RngSeed::Fixed(6762), failure_persistence: None, ..Config::default() }
}

/// The bit beside the class.
pub(crate) const TOP_BIT: u16 = 0x8000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DescribedQuestion {
    pub(crate) name: Vec<Vec<u8>>,
    pub(crate) record_type: u16,
    /// With the QU bit.
    pub(crate) class: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DescribedRecord {
    pub(crate) name: Vec<Vec<u8>>,
    pub(crate) record_type: u16,
    /// With the cache-flush bit.
    pub(crate) class: u16,
    pub(crate) ttl: u32,
    /// Uncompressed.
    pub(crate) data: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Described {
    pub(crate) questions: Vec<DescribedQuestion>,
    /// Answers, authorities, additionals.
    pub(crate) sections: [Vec<DescribedRecord>; 3],
}

pub(crate) const SECTIONS: [Section; 3] = [Section::Answer, Section::Authority, Section::Additional];

pub(crate) fn labels(name: Name<'_>) -> Vec<Vec<u8>> {
    name.labels().map(<[u8]>::to_vec).collect()
}

fn name_buf(labels: &[Vec<u8>]) -> NameBuf {
    NameBuf::from_labels(labels).expect("a strategy makes only names")
}

/// The uncompressed bytes of a name.
pub(crate) fn wire_name(labels: &[Vec<u8>]) -> Vec<u8> {
    name_buf(labels).as_wire().to_vec()
}

/// What we read.
pub(crate) fn describe(message: &Message<'_>) -> Described {
    let top_bit = |set: bool| if set { TOP_BIT } else { 0 };
    let question = |question: Question<'_>| DescribedQuestion {
        name: labels(question.name),
        record_type: question.record_type.0,
        class: question.class.0 | top_bit(question.unicast_response),
    };
    let record = |record: Record<'_>| DescribedRecord {
        name: labels(record.name),
        record_type: record.record_type().0,
        class: record.class.0 | top_bit(record.cache_flush),
        ttl: record.ttl,
        data: RecordData::new(&record.rdata).as_bytes().to_vec(),
    };
    Described {
        questions: message.questions().map(question).collect(),
        sections: SECTIONS.map(|section| message.section(section).map(record).collect()),
    }
}

/// What a record of that type and with those uncompressed bytes says.
fn rdata(record_type: u16, data: &[u8]) -> RecordData {
    let name = |at: usize| {
        let mut labels = Vec::new();
        let mut rest = &data[at..];
        while rest[0] != 0 {
            labels.push(rest[1..=usize::from(rest[0])].to_vec());
            rest = &rest[1 + usize::from(rest[0])..];
        }
        name_buf(&labels)
    };
    let be16 = |at: usize| u16::from_be_bytes([data[at], data[at + 1]]);
    match RecordType(record_type) {
        RecordType::A => RData::A(Ipv4Addr::from_octets(data.try_into().expect("well-formed"))).into(),
        RecordType::AAAA => RData::Aaaa(Ipv6Addr::from_octets(data.try_into().expect("well-formed"))).into(),
        RecordType::PTR => RData::Ptr(name(0).as_name()).into(),
        RecordType::CNAME => RData::Cname(name(0).as_name()).into(),
        RecordType::SRV => {
            let (priority, weight, port) = (be16(0), be16(2), be16(4));
            RData::Srv(Srv { priority, weight, port, target: name(6).as_name() }).into()
        }
        RecordType::TXT => RData::Txt(Txt::parse(data).expect("well-formed")).into(),
        RecordType::NSEC => {
            let next = name(0);
            let types = TypeBitmap::parse(&data[next.as_wire().len()..]).expect("well-formed");
            RData::Nsec(Nsec { next: next.as_name(), types }).into()
        }
        other => RData::Other(OtherData::new(other, data).expect("well-formed")).into(),
    }
}

/// Writes it with our writer into a message of at most `capacity` bytes, which it must fit.
pub(crate) fn write(described: &Described, mode: Mode, capacity: usize) -> Vec<u8> {
    let mut buf = vec![0xa5; capacity];
    let mut writer = Writer::new(&mut buf, mode, Header::RESPONSE);
    for question in &described.questions {
        let name = name_buf(&question.name);
        assert!(writer.push_question(&Question {
            name: name.as_name(),
            record_type: RecordType(question.record_type),
            class: Class(question.class & !TOP_BIT),
            unicast_response: question.class & TOP_BIT != 0,
        }));
    }
    for (section, records) in SECTIONS.into_iter().zip(&described.sections) {
        for record in records {
            let (name, data) = (name_buf(&record.name), rdata(record.record_type, &record.data));
            assert!(writer.push(
                section,
                &Record {
                    name: name.as_name(),
                    class: Class(record.class & !TOP_BIT),
                    cache_flush: record.class & TOP_BIT != 0,
                    ttl: record.ttl,
                    rdata: data.as_rdata(),
                }
            ));
        }
    }
    writer.finish().to_vec()
}

/// Labels as they come in DNS-SD, and odd ones: other cases, dots, UTF-8, bytes that are none, the longest.
fn label() -> impl Strategy<Value = Vec<u8>> {
    let usual: Vec<&[u8]> =
        vec![b"Printer", b"PRINTER", b"a.b", b"_sub", b"nas", b"Caf\xc3\xa9", b"x", b"\\"];
    prop_oneof![
        8 => select(usual).prop_map(<[u8]>::to_vec),
        1 => vec(any::<u8>(), 1..=63),
    ]
}

/// Names of which many end alike.
pub(crate) fn name() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let domain = select(vec![
        vec!["local"],
        vec!["_ipp", "_tcp", "local"],
        vec!["_http", "_tcp", "local"],
        vec!["_tcp", "LOCAL"],
        vec![],
    ]);
    (vec(label(), 0..3), domain).prop_map(|(mut labels, domain)| {
        labels.extend(domain.into_iter().map(|label| label.as_bytes().to_vec()));
        labels
    })
}

fn strings() -> impl Strategy<Value = Vec<u8>> {
    vec(vec(any::<u8>(), 0..40), 1..5).prop_map(|strings| {
        strings.into_iter().flat_map(|string| [vec![string.len() as u8], string].concat()).collect()
    })
}

fn bitmap() -> impl Strategy<Value = Vec<u8>> {
    vec((1_u16..256).prop_map(RecordType), 1..6)
        .prop_map(|types| TypeBitmap::of(&types, &mut [0; TYPE_BITMAP_LEN_MAX]).as_bytes().to_vec())
}

/// Type and data. NSEC is separate: not every library knows it.
fn typed_data(nsec: bool) -> impl Strategy<Value = (u16, Vec<u8>)> {
    let wire = || name().prop_map(|labels| wire_name(&labels));
    let after = |bytes: Vec<u8>, name: Vec<u8>| [bytes, name].concat();
    let common = prop_oneof![
        vec(any::<u8>(), 4).prop_map(|data| (RecordType::A, data)),
        vec(any::<u8>(), 16).prop_map(|data| (RecordType::AAAA, data)),
        wire().prop_map(|data| (RecordType::PTR, data)),
        wire().prop_map(|data| (RecordType::CNAME, data)),
        wire().prop_map(|data| (RecordType::NS, data)),
        (vec(any::<u8>(), 6), wire()).prop_map(move |(head, name)| (RecordType::SRV, after(head, name))),
        (vec(any::<u8>(), 2), wire()).prop_map(move |(head, name)| (RecordType::MX, after(head, name))),
        strings().prop_map(|data| (RecordType::TXT, data)),
        vec(any::<u8>(), 1..30).prop_map(|data| (RecordType(65_280), data)),
    ];
    let nsec_data = (wire(), bitmap()).prop_map(move |(name, types)| (RecordType::NSEC, after(name, types)));
    let weight = u32::from(nsec);
    prop_oneof![9 => common, weight => nsec_data].prop_map(|(record_type, data)| (record_type.0, data))
}

fn class() -> impl Strategy<Value = u16> {
    prop_oneof![Just(1), Just(1 | TOP_BIT)]
}

fn record(nsec: bool) -> impl Strategy<Value = DescribedRecord> {
    let ttl = prop_oneof![Just(0), Just(120), Just(4_500), Just(1 << 31), any::<u32>()];
    (name(), typed_data(nsec), class(), ttl).prop_map(|(name, (record_type, data), class, ttl)| {
        DescribedRecord { name, record_type, class, ttl, data }
    })
}

/// Any message that our writer can be asked for.
pub(crate) fn any_message(nsec: bool) -> impl Strategy<Value = Described> {
    let question = (name(), select(vec![1_u16, 12, 16, 28, 33, 255]), class())
        .prop_map(|(name, record_type, class)| DescribedQuestion { name, record_type, class });
    let sections = [8, 3, 8].map(|count| vec(record(nsec), 0..count));
    (vec(question, 0..4), sections).prop_map(|(questions, sections)| Described { questions, sections })
}
