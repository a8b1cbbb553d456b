//! Messages read and written, by us and by others, in one process without any network.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use mdns::wire::{Message, RData, RecordType};
use mdns::{Config, Engine, InterfaceAddress, InterfaceChange, Received, ServiceRegistration};
use packet::{Class, Pool, PoolConfig};

use crate::packets::{own_records, question, response, write};

/// How long each function is run for one figure.
const TIME_EACH: Duration = Duration::from_millis(60);
/// The figure is that of the fastest of so many parts of that time: whatever else the machine does only adds.
const PARTS: usize = 15;

/// Nanoseconds that one call takes.
pub fn nanoseconds(mut call: impl FnMut()) -> f64 {
    let part = TIME_EACH / PARTS as u32;
    let (mut calls, begin) = (0_u32, Instant::now());
    while begin.elapsed() < part {
        call();
        calls += 1;
    }
    let part = |_| {
        let begin = Instant::now();
        (0..calls).for_each(|_| call());
        begin.elapsed().as_nanos() as f64 / f64::from(calls)
    };
    (0..PARTS).map(part).fold(f64::INFINITY, f64::min)
}

/// The sum of TTLs and the port: who has read all records knows them.
const EXPECTED: (u32, u16) = (4_500 + 120 + 4_500 + 120 + 120, 631);

fn reading(read: impl Fn(&[u8]) -> (u32, u16)) -> f64 {
    let bytes = response();
    assert_eq!(read(&bytes), EXPECTED);
    nanoseconds(|| {
        black_box(read(black_box(&bytes)));
    })
}

/// Nanoseconds to parse the response of 166 bytes and walk all its records.
#[must_use]
pub fn parse(who: &str) -> f64 {
    match who {
        "domain" => reading(parse_domain),
        "simple-dns" => reading(|bytes| {
            use simple_dns::{Packet, rdata::RData};
            let packet = Packet::parse(bytes).expect("well-formed");
            packet.answers.iter().chain(&packet.additional_records).fold((0, 0), |(ttl, port), record| {
                let port = if let RData::SRV(srv) = &record.rdata { srv.port } else { port };
                (ttl + record.ttl, port)
            })
        }),
        "hickory-proto" => reading(|bytes| {
            use hickory_proto::{op::Message, rr::RData};
            let message = Message::from_vec(bytes).expect("well-formed");
            message.answers.iter().chain(&message.additionals).fold((0, 0), |(ttl, port), record| {
                let port = if let RData::SRV(srv) = &record.data { srv.port } else { port };
                (ttl + record.ttl, port)
            })
        }),
        _ => reading(|bytes| {
            let message = Message::parse(bytes).expect("well-formed");
            message.records().fold((0, 0), |(ttl, port), record| {
                let port = if let RData::Srv(srv) = record.rdata { srv.port } else { port };
                (ttl + record.ttl, port)
            })
        }),
    }
}

fn parse_domain(bytes: &[u8]) -> (u32, u16) {
    use domain::base::{Message, ParsedName, message::RecordSection};
    use domain::rdata::AllRecordData;
    let message = Message::from_octets(bytes).expect("well-formed");
    let walk = |section: RecordSection<'_, &[u8]>, sum: (u32, u16)| {
        section.limit_to::<AllRecordData<&[u8], ParsedName<&[u8]>>>().fold(sum, |(ttl, port), record| {
            let record = record.expect("well-formed");
            let port = if let AllRecordData::Srv(srv) = record.data() { srv.port() } else { port };
            (ttl + record.ttl().as_secs(), port)
        })
    };
    let sum = walk(message.answer().expect("well-formed"), (0, 0));
    walk(message.additional().expect("well-formed"), sum)
}

/// Nanoseconds to write that response from records that are at hand.
#[must_use]
pub fn build(who: &str) -> f64 {
    let bytes = response();
    match who {
        "domain" => build_domain(),
        "simple-dns" => {
            let packet = simple_dns::Packet::parse(&bytes).expect("well-formed");
            nanoseconds(|| {
                black_box(black_box(&packet).build_bytes_vec_compressed().expect("room"));
            })
        }
        "hickory-proto" => {
            let message = hickory_proto::op::Message::from_vec(&bytes).expect("well-formed");
            nanoseconds(|| {
                black_box(black_box(&message).to_vec().expect("room"));
            })
        }
        _ => {
            let own = own_records();
            let mut buf = [0; 1_440];
            assert_eq!(write(&own, &mut buf), bytes.len());
            nanoseconds(|| {
                black_box(write(black_box(&own), black_box(&mut buf)));
            })
        }
    }
}

fn build_domain() -> f64 {
    use domain::base::iana::Class;
    use domain::base::{MessageBuilder, Name, StaticCompressor, Ttl};
    use domain::rdata::{A, Aaaa, Ptr, Srv, Txt};
    let own = own_records();
    let name = |at: usize| Name::from_octets(own[at].name.as_wire().to_vec()).expect("a name");
    let (service, instance, host) = (name(0), name(1), name(3));
    let txt = Txt::from_octets(b"\x09txtvers=1\x08qtotal=1\x07rp=fast".as_slice()).expect("well-formed");
    let (flush, address) = (Class::from_int(0x8001), "fe80::1".parse().expect("an address"));
    nanoseconds(|| {
        let target = StaticCompressor::new(Vec::with_capacity(1_440));
        let mut message = MessageBuilder::from_target(target).expect("room").answer();
        let ttl = Ttl::from_secs;
        message.push((&service, Class::IN, ttl(4_500), Ptr::new(&instance))).expect("room");
        let mut message = message.additional();
        message.push((&instance, flush, ttl(120), Srv::new(0, 0, 631, &host))).expect("room");
        message.push((&instance, flush, ttl(4_500), &txt)).expect("room");
        message.push((&host, flush, ttl(120), A::from_octets(192, 0, 2, 1))).expect("room");
        message.push((&host, flush, ttl(120), Aaaa::new(address))).expect("room");
        black_box(message.finish().into_target().len());
    })
}

/// A whole engine that publishes one service, and a clock that is moved by hand.
pub struct Responder {
    engine: Engine,
    now: Instant,
    buf: Box<[u8]>,
    question: Vec<u8>,
}

impl Default for Responder {
    fn default() -> Self {
        let now = Instant::now();
        let engine = Engine::new(Config::new("cellar-nas1".parse().expect("a name")), [7; 32], now);
        let question = question(&own_records()[1].name, RecordType::SRV);
        let mut responder = Self { engine, now, buf: vec![0; 9_000].into(), question };
        let addresses = vec![
            InterfaceAddress { ip: Ipv4Addr::new(192, 0, 2, 1).into(), prefix_length: 24 },
            InterfaceAddress { ip: "fe80::1".parse().expect("an address"), prefix_length: 64 },
        ];
        let up = InterfaceChange::Up { index: 1, addresses, ipv4: true, ipv6: false };
        responder.engine.handle_interface(up, now);
        let (instance, service_type) = ("My.Print!".parse(), "_ipp._tcp".parse());
        let service = ServiceRegistration::new(instance.expect("a name"), service_type.expect("a type"), 631);
        responder.engine.publish(service, now).expect("there is room");
        while let Some((at, _)) = responder.engine.poll_timeout() {
            responder.now = responder.now.max(at);
            responder.engine.handle_timeout(responder.now);
            while responder.engine.poll_transmit(&mut responder.buf, responder.now).is_some() {}
            while responder.engine.poll_event().is_some() {}
        }
        responder
    }
}

impl Responder {
    /// The question for the SRV record arrives, two seconds after the last time; returns the length of the answer.
    pub fn answer(&mut self) -> usize {
        self.now += Duration::from_secs(2);
        let meta = Received {
            interface: 1,
            from: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), mdns::PORT),
            to: IpAddr::V4(Ipv4Addr::new(224, 0, 0, 251)),
            hop_limit: Some(255),
            truncated: false,
        };
        self.engine.handle_packet(black_box(&self.question), &meta, self.now);
        let transmit = self.engine.poll_transmit(&mut self.buf, self.now).expect("an answer");
        transmit.len
    }
}

/// Nanoseconds from a question for one service to the packet that answers it, in the engine.
#[must_use]
pub fn engine_answer() -> f64 {
    let mut responder = Responder::default();
    nanoseconds(|| {
        black_box(responder.answer());
    })
}

/// Services that one engine publishes at most, besides its host.
const PUBLICATIONS_MAX: u32 = 4_095;

/// Milliseconds until as many services as there may be have been published, probed for and announced, in the engine.
#[must_use]
pub fn publish_ms() -> f64 {
    let mut now = Instant::now();
    let mut engine = Engine::new(Config::new("cellar-nas1".parse().expect("a name")), [7; 32], now);
    let addresses = vec![InterfaceAddress { ip: Ipv4Addr::new(192, 0, 2, 1).into(), prefix_length: 24 }];
    engine.handle_interface(InterfaceChange::Up { index: 1, addresses, ipv4: true, ipv6: false }, now);
    let mut buf = vec![0; 9_000];
    let begin = Instant::now();
    for number in 0..PUBLICATIONS_MAX {
        let instance = format!("Service number {number}").parse().expect("a name");
        let service = ServiceRegistration::new(instance, "_http._tcp".parse().expect("a type"), 80);
        engine.publish(service, now).expect("there is room");
    }
    while let Some((at, _)) = engine.poll_timeout() {
        now = now.max(at);
        engine.handle_timeout(now);
        while engine.poll_transmit(&mut buf, now).is_some() {}
        while engine.poll_event().is_some() {}
    }
    begin.elapsed().as_secs_f64() * 1e3
}

/// Nanoseconds to take a buffer from the pool and return it, nothing written; and what it takes longer when a whole Ethernet frame was
/// written and must be cleared.
#[must_use]
pub fn pool() -> (f64, f64) {
    let pool = Pool::new(PoolConfig { large: 0, small: 64 });
    let empty = nanoseconds(|| {
        black_box(pool.take(Class::Small));
    });
    let written = nanoseconds(|| {
        let mut buf = pool.take(Class::Small).expect("one is free");
        buf.commit(0..1_472);
        black_box(&mut buf);
    });
    (empty, (written - empty).max(0.0))
}
