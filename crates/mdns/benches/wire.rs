//! The codec beside those of others, on one machine and in one run: `cargo bench -p mdns`.
//!
//! Allocations are counted: a row without an `alloc` line made none.

use divan::{AllocProfiler, Bencher, black_box};
use mdns::wire::{
    Class, Header, Message, Mode, NameBuf, Nsec, RData, Record, RecordData, RecordType, Section, Srv,
    TYPE_BITMAP_LEN_MAX, TypeBitmap, Writer,
};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

/// The answer of a printer: PTR, SRV, TXT, A, AAAA in 166 bytes.
fn response() -> Vec<u8> {
    let parts: [&[u8]; 6] = [
        b"\0\0\x84\0\0\0\0\x01\0\0\0\x04",
        b"\x04_ipp\x04_tcp\x05local\0\0\x0c\0\x01\0\0\x11\x94\0\x0c\x09My.Print!\xc0\x0c",
        b"\xc0\x27\0\x21\x80\x01\0\0\0\x78\0\x14\0\0\0\0\x02\x77\x0bcellar-nas1\xc0\x16",
        b"\xc0\x27\0\x10\x80\x01\0\0\x11\x94\0\x1b\x09txtvers=1\x08qtotal=1\x07rp=fast",
        b"\xc0\x45\0\x01\x80\x01\0\0\0\x78\0\x04\xc0\xa8\x01\x0a",
        b"\xc0\x45\0\x1c\x80\x01\0\0\0\x78\0\x10\xfe\x80\0\0\0\0\0\0\x02\x11\x22\xff\xfe\x33\x44\x55",
    ];
    let bytes = parts.concat();
    assert_eq!(bytes.len(), 166);
    bytes
}

/// Reads the response and every record in it. Each reader returns the sum of TTLs and the port, and so shows that it has.
mod parse_and_walk {
    use super::{Bencher, Message, RData, black_box, response};

    const EXPECTED: (u32, u16) = (4_500 + 120 + 4_500 + 120 + 120, 631);

    fn compare(bencher: Bencher<'_, '_>, read: impl Fn(&[u8]) -> (u32, u16)) {
        let bytes = response();
        assert_eq!(read(&bytes), EXPECTED);
        bencher.bench_local(|| read(black_box(&bytes)));
    }

    #[divan::bench]
    fn ours(bencher: Bencher<'_, '_>) {
        compare(bencher, |bytes| {
            let message = Message::parse(bytes).expect("well-formed");
            message.records().fold((0, 0), |(ttl, port), record| {
                let port = if let RData::Srv(srv) = record.rdata { srv.port } else { port };
                (ttl + record.ttl, port)
            })
        });
    }

    /// Every label of every name, too.
    #[divan::bench]
    fn ours_with_all_labels(bencher: Bencher<'_, '_>) {
        let bytes = response();
        bencher.bench_local(|| {
            let message = Message::parse(black_box(&bytes)).expect("well-formed");
            message
                .records()
                .map(|record| {
                    let target = match record.rdata {
                        RData::Ptr(target) => target.labels().count(),
                        RData::Srv(srv) => srv.target.labels().count(),
                        _ => 0,
                    };
                    record.name.labels().count() + target
                })
                .sum::<usize>()
        });
    }

    #[divan::bench]
    fn ours_parse_only(bencher: Bencher<'_, '_>) {
        let bytes = response();
        bencher.bench_local(|| Message::parse(black_box(&bytes)).map(|message| message.records().len()));
    }

    #[divan::bench]
    fn domain(bencher: Bencher<'_, '_>) {
        use domain::base::{Message, ParsedName, message::RecordSection};
        use domain::rdata::AllRecordData;
        compare(bencher, |bytes| {
            let message = Message::from_octets(bytes).expect("well-formed");
            let walk = |section: RecordSection<'_, &[u8]>, sum: (u32, u16)| {
                section.limit_to::<AllRecordData<&[u8], ParsedName<&[u8]>>>().fold(
                    sum,
                    |(ttl, port), record| {
                        let record = record.expect("well-formed");
                        let port =
                            if let AllRecordData::Srv(srv) = record.data() { srv.port() } else { port };
                        (ttl + record.ttl().as_secs(), port)
                    },
                )
            };
            let sum = walk(message.answer().expect("well-formed"), (0, 0));
            walk(message.additional().expect("well-formed"), sum)
        });
    }

    #[divan::bench]
    fn simple_dns(bencher: Bencher<'_, '_>) {
        use simple_dns::{Packet, rdata::RData};
        compare(bencher, |bytes| {
            let packet = Packet::parse(bytes).expect("well-formed");
            packet.answers.iter().chain(&packet.additional_records).fold((0, 0), |(ttl, port), record| {
                let port = if let RData::SRV(srv) = &record.rdata { srv.port } else { port };
                (ttl + record.ttl, port)
            })
        });
    }

    #[divan::bench]
    fn hickory(bencher: Bencher<'_, '_>) {
        use hickory_proto::{op::Message, rr::RData};
        compare(bencher, |bytes| {
            let message = Message::from_vec(bytes).expect("well-formed");
            message.answers.iter().chain(&message.additionals).fold((0, 0), |(ttl, port), record| {
                let port = if let RData::SRV(srv) = &record.data { srv.port } else { port };
                (ttl + record.ttl, port)
            })
        });
    }
}

/// What a responder does for each query of a service: PTR, SRV, TXT, NSEC for both names, A, AAAA.
mod answer_a_service_query {
    use super::{
        Bencher, Class, Header, Mode, NameBuf, Nsec, RData, Record, RecordData, RecordType, Section, Srv,
        TYPE_BITMAP_LEN_MAX, TypeBitmap, Writer, black_box,
    };

    struct Own {
        section: Section,
        name: NameBuf,
        cache_flush: bool,
        ttl: u32,
        data: RecordData,
    }

    fn own_records() -> Vec<Own> {
        let name = |text: &str| -> NameBuf { text.parse().expect("a name") };
        let (service, instance) = (name("_ipp._tcp.local"), name(r"My\.Print!._ipp._tcp.local"));
        let host = name("cellar-nas1.local");
        let srv = RData::Srv(Srv { priority: 0, weight: 0, port: 631, target: host.as_name() });
        let txt = mdns::wire::Txt::parse(b"\x09txtvers=1\x08qtotal=1\x07rp=fast").expect("well-formed");
        let (mut first, mut second) = ([0; TYPE_BITMAP_LEN_MAX], [0; TYPE_BITMAP_LEN_MAX]);
        let nsec = |owner: &NameBuf, types: TypeBitmap<'_>| {
            RecordData::new(&RData::Nsec(Nsec { next: owner.as_name(), types }))
        };
        let of_instance = nsec(&instance, TypeBitmap::of(&[RecordType::SRV, RecordType::TXT], &mut first));
        let of_host = nsec(&host, TypeBitmap::of(&[RecordType::A, RecordType::AAAA], &mut second));
        let own = |section, name: &NameBuf, cache_flush, ttl, data| Own {
            section,
            name: name.clone(),
            cache_flush,
            ttl,
            data,
        };
        let (answer, more) = (Section::Answer, Section::Additional);
        vec![
            own(answer, &service, false, 4_500, RData::Ptr(instance.as_name()).into()),
            own(more, &instance, true, 120, srv.into()),
            own(more, &instance, true, 4_500, RData::Txt(txt).into()),
            own(more, &host, true, 120, RData::A([192, 168, 1, 10].into()).into()),
            own(
                more,
                &host,
                true,
                120,
                RData::Aaaa([0xfe80, 0, 0, 0, 0x211, 0x22ff, 0xfe33, 0x4455].into()).into(),
            ),
            own(more, &instance, true, 4_500, of_instance),
            own(more, &host, true, 120, of_host),
        ]
    }

    #[divan::bench(args = [5, 7])]
    fn ours(bencher: Bencher<'_, '_>, records: usize) {
        let own = own_records();
        let mut buf = [0; 1_440];
        bencher.bench_local(|| {
            let mut writer = Writer::new(black_box(&mut buf), Mode::Mdns, Header::RESPONSE);
            for Own { section, name, cache_flush, ttl, data } in black_box(&own).iter().take(records) {
                let (name, class, rdata) = (name.as_name(), Class::IN, data.as_rdata());
                let record = Record { name, class, cache_flush: *cache_flush, ttl: *ttl, rdata };
                assert!(writer.push(*section, &record));
            }
            writer.finish().len()
        });
    }

    /// The five records of the response above, built by Domain with its compressor for small messages.
    #[divan::bench]
    fn domain(bencher: Bencher<'_, '_>) {
        use domain::base::iana::Class;
        use domain::base::{MessageBuilder, Name, StaticCompressor, Ttl};
        use domain::rdata::{A, Aaaa, Ptr, Srv, Txt};
        let name = |wire: &NameBuf| Name::from_octets(wire.as_wire().to_vec()).expect("a name");
        let own = own_records();
        let (service, instance, host) = (name(&own[0].name), name(&own[1].name), name(&own[3].name));
        let txt = Txt::from_octets(b"\x09txtvers=1\x08qtotal=1\x07rp=fast".as_slice()).expect("well-formed");
        let (flush, address) =
            (Class::from_int(0x8001), "fe80::211:22ff:fe33:4455".parse().expect("an address"));
        bencher.bench_local(|| {
            let target = StaticCompressor::new(Vec::with_capacity(1_440));
            let mut message = MessageBuilder::from_target(target).expect("room").answer();
            let ttl = Ttl::from_secs;
            message.push((&service, Class::IN, ttl(4_500), Ptr::new(&instance))).expect("room");
            let mut message = message.additional();
            message.push((&instance, flush, ttl(120), Srv::new(0, 0, 631, &host))).expect("room");
            message.push((&instance, flush, ttl(4_500), &txt)).expect("room");
            message.push((&host, flush, ttl(120), A::from_octets(192, 168, 1, 10))).expect("room");
            message.push((&host, flush, ttl(120), Aaaa::new(address))).expect("room");
            message.finish().into_target().len()
        });
    }
}

mod names {
    use std::hash::{BuildHasher, RandomState};

    use super::{Bencher, Message, black_box, response};

    #[divan::bench]
    fn hash(bencher: Bencher<'_, '_>) {
        let bytes = response();
        let message = Message::parse(&bytes).expect("well-formed");
        let name = message.additionals().next().expect("the SRV record").name;
        let state = RandomState::new();
        bencher.bench_local(|| state.hash_one(black_box(name)));
    }

    #[divan::bench]
    fn equal(bencher: Bencher<'_, '_>) {
        let bytes = response();
        let message = Message::parse(&bytes).expect("well-formed");
        let name = message.additionals().next().expect("the SRV record").name;
        let owned = name.to_owned();
        assert!(name == owned);
        bencher.bench_local(|| black_box(name) == *black_box(&owned));
    }
}

/// What a message can cost whoever reads it.
mod worst {
    use super::{Bencher, Message, black_box};

    /// 16,384 labels are the most that are read: a name of 126 labels, and 129 records that point at it.
    #[divan::bench]
    fn parse_and_walk_16384_labels(bencher: Bencher<'_, '_>) {
        let mut bytes = [b"\0\0\x84\0\0\0\0\x82\0\0\0\0".as_slice(), &b"\x01a".repeat(126), b"\0"].concat();
        bytes.extend(b"\0\x0a\0\x01\0\0\0\x78\0\0");
        bytes.extend(b"\xc0\x0c\0\x0a\0\x01\0\0\0\x78\0\0".repeat(129));
        bencher.bench_local(|| {
            Message::parse(black_box(&bytes)).expect("well-formed").records().map(|record| record.ttl).max()
        });
    }

    /// 450 known answers of one service fill a message of 9,000 bytes.
    #[divan::bench]
    fn parse_and_walk_450_known_answers(bencher: Bencher<'_, '_>) {
        let mut bytes = b"\0\0\0\0\0\x01\x01\xc2\0\0\0\0\x04_ipp\x04_tcp\x05local\0\0\x0c\0\x01".to_vec();
        bytes.extend(b"\xc0\x0c\0\x0c\0\x01\0\0\x11\x94\0\x07\x04ink1\xc0\x0c".repeat(450));
        bencher.bench_local(|| {
            Message::parse(black_box(&bytes)).expect("well-formed").records().map(|record| record.ttl).max()
        });
    }
}
