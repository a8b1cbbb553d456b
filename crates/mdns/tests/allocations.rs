//! What arrives all day on a network costs no allocation: packets about things nobody here asked for, refreshes of records
//! that are known, questions about names that are not ours, and garbage. Nor does it cost any to answer the questions about those
//! that are ours.

#![allow(clippy::unwrap_used, reason = "a test may fail")]
#![allow(clippy::disallowed_methods, reason = "an origin for the clock that the tests move by hand")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use mdns::wire::{
    Class, Header, Message, Mode, NameBuf, Question, RData, Record, RecordType, Section, Srv, Txt, Writer,
};
use mdns::{Browse, Config, Engine, Event, InterfaceAddress, InterfaceChange, Received, ServiceRegistration};

const META: Received = Received {
    interface: 1,
    from: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 168, 1, 20)), mdns::PORT),
    to: IpAddr::V4(Ipv4Addr::new(224, 0, 0, 251)),
    hop_limit: Some(255),
    truncated: false,
};

fn name(text: &str) -> NameBuf {
    text.parse().unwrap()
}

/// PTR, SRV, TXT, A and AAAA of an instance.
fn announcement(service_type: &str) -> Vec<u8> {
    let service_type = name(service_type);
    let instance = service_type.with_first_label("An instance").unwrap();
    let host = name("peer.local");
    let mut buf = [0; 1_472];
    let mut writer = Writer::new(&mut buf, Mode::Mdns, Header::RESPONSE);
    let srv = Srv { priority: 0, weight: 0, port: 80, target: host.as_name() };
    for (section, name, cache_flush, ttl, rdata) in [
        (Section::Answer, &service_type, false, 4_500, RData::Ptr(instance.as_name())),
        (Section::Additional, &instance, true, 120, RData::Srv(srv)),
        (Section::Additional, &instance, true, 4_500, RData::Txt(Txt::parse(b"\x03a=b").unwrap())),
        (Section::Additional, &host, true, 120, RData::A([192, 168, 1, 20].into())),
        (Section::Additional, &host, true, 120, RData::Aaaa("fe80::20".parse().unwrap())),
    ] {
        assert!(
            writer.push(section, &Record { name: name.as_name(), class: Class::IN, cache_flush, ttl, rdata })
        );
    }
    writer.finish().to_vec()
}

fn question(text: &str, record_type: RecordType) -> Vec<u8> {
    question_for(text, record_type, false)
}

fn question_for(text: &str, record_type: RecordType, unicast_response: bool) -> Vec<u8> {
    let name = name(text);
    let mut buf = [0; 512];
    let mut writer = Writer::new(&mut buf, Mode::Mdns, Header::QUERY);
    let question = Question { name: name.as_name(), record_type, class: Class::IN, unicast_response };
    assert!(writer.push_question(&question));
    writer.finish().to_vec()
}

struct Host {
    engine: Engine,
    now: Instant,
}

impl Host {
    /// A host that publishes a service, browses for another type, and has settled.
    fn new() -> Self {
        let now = Instant::now();
        let engine = Engine::new(Config::new("nas".parse().unwrap()), [7; 32], now);
        let mut host = Self { engine, now };
        let ip = IpAddr::from([192, 168, 1, 10]);
        let addresses = vec![InterfaceAddress { ip, prefix_length: 24 }];
        let up = InterfaceChange::Up { index: 1, addresses, ipv4: true, ipv6: false };
        host.engine.handle_interface(up, now);
        let service = ServiceRegistration::new("mine".parse().unwrap(), "_ssh._tcp".parse().unwrap(), 22);
        host.engine.publish(service, now).unwrap();
        let browse = Browse { service_type: "_http._tcp".parse().unwrap(), subtype: None, resolve: true };
        host.engine.browse(browse, now).unwrap();
        host.pass(Duration::from_secs(20));
        host
    }

    fn pass(&mut self, time: Duration) -> Vec<Event> {
        let until = self.now + time;
        let mut buf = [0; 9_000];
        let mut events = Vec::new();
        loop {
            while self.engine.poll_transmit(&mut buf, self.now).is_some() {}
            events.extend(std::iter::from_fn(|| self.engine.poll_event()));
            match self.engine.poll_timeout() {
                Some((at, _)) if at <= until => self.now = self.now.max(at),
                _ => break,
            }
            self.engine.handle_timeout(self.now);
        }
        self.now = until;
        events
    }

    /// What it costs to take a packet a hundred times, five milliseconds apart.
    fn allocations(&mut self, packet: &[u8]) -> allocation_counter::AllocationInfo {
        let mut buf = [0; 9_000];
        allocation_counter::measure(|| {
            for _ in 0..100 {
                self.now += Duration::from_millis(5);
                self.engine.handle_packet(packet, &META, self.now);
                assert!(self.engine.poll_transmit(&mut buf, self.now).is_none());
                assert!(self.engine.poll_event().is_none());
                let _ = self.engine.poll_timeout();
            }
        })
    }
}

#[test]
fn what_nobody_asked_for_costs_nothing() {
    let mut host = Host::new();
    let before = host.engine.statistics();
    for packet in [
        announcement("_ipp._tcp.local"),
        question("_ipp._tcp.local", RecordType::PTR),
        question("peer.local", RecordType::A),
        vec![0xff; 300],
    ] {
        let info = host.allocations(&packet);
        assert_eq!((info.count_total, info.bytes_total), (0, 0));
    }
    let after = host.engine.statistics();
    assert_eq!(after.packets_received - before.packets_received, 400, "they were looked at");
    let dropped: Vec<(&str, u64)> =
        after.drops.iter().map(|(reason, count)| (reason.name(), *count)).collect();
    assert_eq!(dropped, [("malformed", 100)]);
    assert_eq!(after.cache_entries, before.cache_entries);
}

#[test]
fn a_refresh_of_what_is_known_costs_nothing() {
    let mut host = Host::new();
    let packet = announcement("_http._tcp.local");
    host.engine.handle_packet(&packet, &META, host.now);
    assert_eq!(host.pass(Duration::from_mins(1)).len(), 2, "discovered and added");
    let entries = host.engine.statistics().cache_entries;
    assert!(entries >= 5);
    let info = host.allocations(&packet);
    assert_eq!((info.count_total, info.bytes_total), (0, 0));
    // It did refresh: the SRV record would have run out by then.
    let told = host.pass(Duration::from_secs(90));
    assert_eq!((told, host.engine.statistics().cache_entries), (vec![], entries));
}

#[test]
fn an_answer_costs_nothing() {
    let mut host = Host::new();
    let questions: Vec<Vec<u8>> = [false, true]
        .into_iter()
        .flat_map(|unicast| {
            [
                question_for("_ssh._tcp.local", RecordType::PTR, unicast),
                question_for("mine._ssh._tcp.local", RecordType::SRV, unicast),
                question_for("mine._ssh._tcp.local", RecordType::AAAA, unicast),
                question_for("nas.local", RecordType::ANY, unicast),
                question_for("_services._dns-sd._udp.local", RecordType::PTR, unicast),
            ]
        })
        .collect();
    let mut buf = [0; 9_000];
    // Each question, and what there is to send in the two seconds after it.
    let mut ask_all = |host: &mut Host| {
        let mut answers = 0;
        for packet in &questions {
            host.engine.handle_packet(packet, &META, host.now);
            let until = host.now + Duration::from_secs(2);
            loop {
                while let Some(transmit) = host.engine.poll_transmit(&mut buf, host.now) {
                    answers += usize::from(Message::parse(&buf[..transmit.len]).unwrap().header().response);
                }
                match host.engine.poll_timeout() {
                    Some((at, _)) if at <= until => host.now = host.now.max(at),
                    _ => break,
                }
                host.engine.handle_timeout(host.now);
            }
            host.now = until;
        }
        answers
    };
    // Lists grow to the length they need.
    assert_eq!(ask_all(&mut host), questions.len());
    let mut answers = 0;
    let info = allocation_counter::measure(|| {
        for _ in 0..20 {
            answers += ask_all(&mut host);
        }
    });
    assert_eq!(answers, 20 * questions.len());
    assert_eq!((info.count_total, info.bytes_total), (0, 0));
}
