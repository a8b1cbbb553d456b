//! Two libraries that share no code with ours read what we write, and write what we read.

use std::net::{Ipv4Addr, Ipv6Addr};

use domain::base::iana::{Class as DomainClass, Rtype};
use domain::base::message::RecordSection;
use domain::base::rdata::{ComposeRecordData, ParseAnyRecordData};
use domain::base::{Message as DomainMessage, MessageBuilder, Name as DomainName, ParsedName, ToName, Ttl};
use domain::base::{Question as DomainQuestion, StaticCompressor};
use domain::dep::octseq::Parser;
use domain::rdata::AllRecordData;
use hickory_proto::op::{Message as HickoryMessage, MessageType, OpCode, Query};
use hickory_proto::rr::{DNSClass, Name as HickoryName, RData as HickoryData, Record as HickoryRecord};
use hickory_proto::rr::{RecordType as HickoryType, rdata};
use mdns::wire::{Message, Mode};
use proptest::prelude::{Strategy, prop_assert_eq, proptest};

use super::described::{
    Described, DescribedQuestion, DescribedRecord, TOP_BIT, any_message, config, describe, wire_name, write,
};

const CAPACITY: usize = 9_000;

fn domain_labels(name: &impl ToName) -> Vec<Vec<u8>> {
    name.iter_labels().filter(|label| !label.is_root()).map(|label| label.as_slice().to_vec()).collect()
}

fn read_with_domain(bytes: &[u8]) -> Described {
    type Data<'a> = AllRecordData<&'a [u8], ParsedName<&'a [u8]>>;
    let message = DomainMessage::from_octets(bytes).expect("domain reads the header");
    let questions = message.question().map(|question| {
        let question = question.expect("domain reads the question");
        DescribedQuestion {
            name: domain_labels(question.qname()),
            record_type: question.qtype().to_int(),
            class: question.qclass().to_int(),
        }
    });
    let records = |section: RecordSection<'_, &[u8]>| {
        let records = section.limit_to::<Data<'_>>().map(|record| {
            let record = record.expect("domain reads the record");
            let mut data = Vec::new();
            record.data().compose_rdata(&mut data).expect("a vector has room");
            DescribedRecord {
                name: domain_labels(record.owner()),
                record_type: record.rtype().to_int(),
                class: record.class().to_int(),
                ttl: record.ttl().as_secs(),
                data,
            }
        });
        records.collect::<Vec<_>>()
    };
    Described {
        questions: questions.collect(),
        sections: [
            records(message.answer().expect("domain finds the answers")),
            records(message.authority().expect("domain finds the authorities")),
            records(message.additional().expect("domain finds the additionals")),
        ],
    }
}

fn write_with_domain(described: &Described) -> Vec<u8> {
    let name = |labels: &[Vec<u8>]| DomainName::from_octets(wire_name(labels)).expect("a name");
    let mut questions =
        MessageBuilder::from_target(StaticCompressor::new(Vec::new())).expect("well-formed").question();
    for question in &described.questions {
        let (record_type, class) =
            (Rtype::from_int(question.record_type), DomainClass::from_int(question.class));
        questions.push(DomainQuestion::new(name(&question.name), record_type, class)).expect("well-formed");
    }
    macro_rules! push {
        ($builder:ident, $records:expr) => {
            for record in $records {
                let mut parser = Parser::from_ref(record.data.as_slice());
                let record_type = Rtype::from_int(record.record_type);
                let data: AllRecordData<&[u8], ParsedName<&[u8]>> =
                    AllRecordData::parse_any_rdata(record_type, &mut parser).expect("domain reads the data");
                let class = DomainClass::from_int(record.class);
                $builder
                    .push((name(&record.name), class, Ttl::from_secs(record.ttl), data))
                    .expect("well-formed");
            }
        };
    }
    let mut answers = questions.answer();
    push!(answers, &described.sections[0]);
    let mut authorities = answers.authority();
    push!(authorities, &described.sections[1]);
    let mut additionals = authorities.additional();
    push!(additionals, &described.sections[2]);
    additionals.finish().into_target()
}

fn hickory_labels(name: &HickoryName) -> Vec<Vec<u8>> {
    name.iter().map(<[u8]>::to_vec).collect()
}

fn hickory_name(labels: &[Vec<u8>]) -> HickoryName {
    let mut name = HickoryName::from_labels(labels.iter().map(Vec::as_slice)).expect("a name");
    name.set_fqdn(true);
    name
}

fn read_with_hickory(bytes: &[u8]) -> Described {
    let message = HickoryMessage::from_vec(bytes).expect("hickory reads the message");
    let top_bit = |set: bool| if set { TOP_BIT } else { 0 };
    let questions = message.queries.iter().map(|question| DescribedQuestion {
        name: hickory_labels(&question.name),
        record_type: question.query_type.into(),
        class: u16::from(question.query_class) | top_bit(question.mdns_unicast_response),
    });
    let wire = |name: &HickoryName| wire_name(&hickory_labels(name));
    let record = |record: &HickoryRecord| DescribedRecord {
        name: hickory_labels(&record.name),
        record_type: record.record_type().into(),
        class: u16::from(record.dns_class) | top_bit(record.mdns_cache_flush),
        ttl: record.ttl,
        data: match &record.data {
            HickoryData::A(address) => address.0.octets().to_vec(),
            HickoryData::AAAA(address) => address.0.octets().to_vec(),
            HickoryData::PTR(target) => wire(&target.0),
            HickoryData::CNAME(target) => wire(&target.0),
            HickoryData::NS(target) => wire(&target.0),
            HickoryData::MX(mx) => [mx.preference.to_be_bytes().to_vec(), wire(&mx.exchange)].concat(),
            HickoryData::SRV(srv) => {
                let numbers = [srv.priority, srv.weight, srv.port].map(u16::to_be_bytes);
                [numbers.concat(), wire(&srv.target)].concat()
            }
            HickoryData::TXT(txt) => {
                txt.txt_data.iter().flat_map(|string| [&[string.len() as u8], &**string].concat()).collect()
            }
            HickoryData::Unknown { rdata, .. } => rdata.anything.clone(),
            other => panic!("no strategy makes {other:?}"),
        },
    };
    let records = |section: &[HickoryRecord]| section.iter().map(record).collect::<Vec<_>>();
    Described {
        questions: questions.collect(),
        sections: [records(&message.answers), records(&message.authorities), records(&message.additionals)],
    }
}

fn write_with_hickory(described: &Described) -> Vec<u8> {
    let mut message = HickoryMessage::new(0, MessageType::Response, OpCode::Query);
    for question in &described.questions {
        let mut query = Query::query(hickory_name(&question.name), HickoryType::from(question.record_type));
        query.query_class = DNSClass::from(question.class & !TOP_BIT);
        query.mdns_unicast_response = question.class & TOP_BIT != 0;
        message.add_query(query);
    }
    let [answers, authorities, additionals] = hickory_records(described);
    message.add_answers(answers).add_authorities(authorities).add_additionals(additionals);
    message.to_vec().expect("hickory writes the message")
}

/// The records as Hickory holds them.
fn hickory_records(described: &Described) -> [Vec<HickoryRecord>; 3] {
    described.sections.each_ref().map(|records| {
        let records = records.iter().map(|record| {
            let data = hickory_data(HickoryType::from(record.record_type), &record.data);
            let mut hickory = HickoryRecord::from_rdata(hickory_name(&record.name), record.ttl, data);
            hickory.dns_class = DNSClass::from(record.class & !TOP_BIT);
            hickory.mdns_cache_flush = record.class & TOP_BIT != 0;
            hickory
        });
        records.collect()
    })
}

fn hickory_data(record_type: HickoryType, data: &[u8]) -> HickoryData {
    let name = |at: usize| {
        let mut labels = Vec::new();
        let mut rest = &data[at..];
        while rest[0] != 0 {
            labels.push(rest[1..=usize::from(rest[0])].to_vec());
            rest = &rest[1 + usize::from(rest[0])..];
        }
        hickory_name(&labels)
    };
    let be16 = |at: usize| u16::from_be_bytes([data[at], data[at + 1]]);
    match record_type {
        HickoryType::A => HickoryData::A(Ipv4Addr::from_octets(data.try_into().expect("well-formed")).into()),
        HickoryType::AAAA => {
            HickoryData::AAAA(Ipv6Addr::from_octets(data.try_into().expect("well-formed")).into())
        }
        HickoryType::PTR => HickoryData::PTR(rdata::PTR(name(0))),
        HickoryType::CNAME => HickoryData::CNAME(rdata::CNAME(name(0))),
        HickoryType::NS => HickoryData::NS(rdata::NS(name(0))),
        HickoryType::MX => HickoryData::MX(rdata::MX::new(be16(0), name(2))),
        HickoryType::SRV => HickoryData::SRV(rdata::SRV::new(be16(0), be16(2), be16(4), name(6))),
        HickoryType::TXT => {
            let mut strings = Vec::new();
            let mut rest = data;
            while let Some((&length, after)) = rest.split_first() {
                strings.push(&after[..usize::from(length)]);
                rest = &after[usize::from(length)..];
            }
            HickoryData::TXT(rdata::TXT::from_bytes(strings))
        }
        code => HickoryData::Unknown { code, rdata: rdata::NULL::with(data.to_vec()) },
    }
}

/// The message in lower case. No length that a strategy makes is a letter.
fn lowercase(mut described: Described) -> Described {
    described
        .questions
        .iter_mut()
        .for_each(|question| question.name.iter_mut().for_each(|l| l.make_ascii_lowercase()));
    for record in described.sections.iter_mut().flatten() {
        record.name.iter_mut().for_each(|label| label.make_ascii_lowercase());
        record.data.make_ascii_lowercase();
    }
    described
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_we_write_domain_and_we_read_the_same(message in any_message(true)) {
        let bytes = write(&message, Mode::Mdns, CAPACITY);
        prop_assert_eq!(&read_with_domain(&bytes), &message);
        prop_assert_eq!(&describe(&Message::parse(&bytes).expect("well-formed")), &message);
    }

    #[test]
    fn what_we_write_hickory_reads_the_same(message in any_message(false)) {
        let bytes = write(&message, Mode::Mdns, CAPACITY);
        prop_assert_eq!(&read_with_hickory(&bytes), &message);
    }

    /// Domain compresses `LOCAL` with `local`, and so loses the case that one of them was written in.
    #[test]
    fn what_domain_writes_we_read_the_same(message in any_message(true).prop_map(lowercase)) {
        let bytes = write_with_domain(&message);
        prop_assert_eq!(&describe(&Message::parse(&bytes).expect("well-formed")), &message);
    }

    #[test]
    fn what_hickory_writes_we_read_the_same(message in any_message(false)) {
        let bytes = write_with_hickory(&message);
        prop_assert_eq!(&describe(&Message::parse(&bytes).expect("well-formed")), &message);
    }

    /// For one that speaks only plain DNS, nothing may be compressed but what RFC 1035 knows: 18.14.
    #[test]
    fn what_we_write_for_legacy_queriers_hickory_reads_without_flush_bits_and_long_ttls(
        message in any_message(false),
    ) {
        let bytes = write(&message, Mode::Legacy, CAPACITY);
        let mut expected = message;
        for record in expected.sections.iter_mut().flatten() {
            record.class &= !TOP_BIT;
            record.ttl = record.ttl.min(10);
        }
        prop_assert_eq!(&read_with_hickory(&bytes), &expected);
    }
}
