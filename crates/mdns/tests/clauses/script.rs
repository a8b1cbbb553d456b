//! One engine, packets in and out, and a clock that the test moves.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use mdns::wire::{
    Class, Header, Message, Mode, NameBuf, Question, RData, Record, RecordData, RecordType, Section, Srv,
    Txt, Writer,
};
use mdns::{
    Browse, Config, Destination, Engine, Event, InterfaceAddress, InterfaceChange, Received, ResolvedService,
    ServiceChange, ServiceRegistration, Transmit,
};

/// The interface that a script begins with: 192.168.1.10/24, over IPv4.
pub(crate) const ETH: u32 = 1;
/// Another host on the link.
pub(crate) const PEER: &str = "192.168.1.20:5353";
/// A third host on the link.
pub(crate) const OTHER: &str = "192.168.1.30:5353";

/// A packet to hand to the engine.
#[derive(Clone)]
pub(crate) struct Packet {
    header: Header,
    questions: Vec<(NameBuf, RecordType, bool)>,
    records: Vec<(Section, NameBuf, bool, u32, RecordData)>,
}

pub(crate) fn query() -> Packet {
    Packet { header: Header::QUERY, questions: Vec::new(), records: Vec::new() }
}

pub(crate) fn response() -> Packet {
    Packet { header: Header::RESPONSE, questions: Vec::new(), records: Vec::new() }
}

impl Packet {
    pub(crate) fn header(mut self, change: impl FnOnce(&mut Header)) -> Self {
        change(&mut self.header);
        self
    }

    /// The TC bit: more known answers follow.
    pub(crate) fn truncated(self) -> Self {
        self.header(|header| header.truncated = true)
    }

    pub(crate) fn ask(mut self, name: &str, record_type: RecordType) -> Self {
        self.questions.push((name.parse().unwrap(), record_type, false));
        self
    }

    /// Asks for a unicast response.
    pub(crate) fn ask_unicast(mut self, name: &str, record_type: RecordType) -> Self {
        self.questions.push((name.parse().unwrap(), record_type, true));
        self
    }

    fn record(mut self, section: Section, name: &str, flush: bool, ttl: u32, data: RecordData) -> Self {
        self.records.push((section, name.parse().unwrap(), flush, ttl, data));
        self
    }

    /// A unique answer: with the cache-flush bit.
    pub(crate) fn unique(self, name: &str, ttl: u32, data: RecordData) -> Self {
        self.record(Section::Answer, name, true, ttl, data)
    }

    /// A shared answer, or a known one.
    pub(crate) fn shared(self, name: &str, ttl: u32, data: RecordData) -> Self {
        self.record(Section::Answer, name, false, ttl, data)
    }

    /// What a probe proposes.
    pub(crate) fn propose(self, name: &str, data: RecordData) -> Self {
        self.record(Section::Authority, name, false, 120, data)
    }

    pub(crate) fn additional(self, name: &str, ttl: u32, data: RecordData) -> Self {
        self.record(Section::Additional, name, true, ttl, data)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut buf = [0; 9_000];
        let mut writer = Writer::new(&mut buf, Mode::Mdns, self.header);
        for (name, record_type, unicast_response) in &self.questions {
            assert!(writer.push_question(&Question {
                name: name.as_name(),
                record_type: *record_type,
                class: Class::IN,
                unicast_response: *unicast_response,
            }));
        }
        for (section, name, cache_flush, ttl, data) in &self.records {
            let rdata = data.as_rdata();
            let record = Record {
                name: name.as_name(),
                class: Class::IN,
                cache_flush: *cache_flush,
                ttl: *ttl,
                rdata,
            };
            assert!(writer.push(*section, &record));
        }
        writer.finish().to_vec()
    }
}

pub(crate) fn a(ip: &str) -> RecordData {
    RecordData::new(&RData::A(ip.parse().unwrap()))
}

pub(crate) fn aaaa(ip: &str) -> RecordData {
    RecordData::new(&RData::Aaaa(ip.parse().unwrap()))
}

pub(crate) fn ptr(name: &str) -> RecordData {
    let name: NameBuf = name.parse().unwrap();
    RecordData::new(&RData::Ptr(name.as_name()))
}

pub(crate) fn srv(port: u16, host: &str) -> RecordData {
    let target: NameBuf = host.parse().unwrap();
    RecordData::new(&RData::Srv(Srv { priority: 0, weight: 0, port, target: target.as_name() }))
}

pub(crate) fn txt(strings: &[&str]) -> RecordData {
    let bytes: Vec<u8> =
        strings.iter().flat_map(|string| [&[string.len() as u8], string.as_bytes()].concat()).collect();
    RecordData::new(&RData::Txt(Txt::parse(&bytes).unwrap()))
}

/// The engine's packet, as text.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    /// When, in milliseconds from the beginning of the script.
    pub(crate) ms: u64,
    pub(crate) transmit: Transmit,
    pub(crate) header: Header,
    pub(crate) questions: Vec<String>,
    pub(crate) answers: Vec<String>,
    pub(crate) authorities: Vec<String>,
    pub(crate) additionals: Vec<String>,
    pub(crate) bytes: Vec<u8>,
}

impl Sent {
    fn new(ms: u64, transmit: Transmit, bytes: &[u8]) -> Self {
        let message = Message::parse(bytes).expect("the engine writes well-formed messages");
        let lines = |section| message.section(section).map(|record| show(&record)).collect();
        Self {
            ms,
            transmit,
            header: message.header(),
            questions: message.questions().map(|question| question.to_string()).collect(),
            answers: lines(Section::Answer),
            authorities: lines(Section::Authority),
            additionals: lines(Section::Additional),
            bytes: bytes.to_vec(),
        }
    }

    pub(crate) fn is_probe(&self) -> bool {
        !self.authorities.is_empty()
    }

    pub(crate) fn is_multicast(&self) -> bool {
        matches!(self.transmit.to, Destination::Multicast(_))
    }

    /// Whether a record that begins so is in any section.
    pub(crate) fn has(&self, start: &str) -> bool {
        [&self.answers, &self.authorities, &self.additionals]
            .iter()
            .any(|s| s.iter().any(|l| l.starts_with(start)))
    }

    pub(crate) fn answers(&self, start: &str) -> bool {
        self.answers.iter().any(|line| line.starts_with(start))
    }

    /// Whether there is a question that begins with those words.
    pub(crate) fn asks(&self, words: &str) -> bool {
        let begins = |line: &String| {
            line.strip_prefix(words).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        };
        self.questions.iter().any(begins)
    }
}

/// `nas.local 120 IN A 192.168.1.10 flush`
fn show(record: &Record<'_>) -> String {
    format!("{record}{}", if record.cache_flush { " flush" } else { "" })
}

/// One engine and its clock.
pub(crate) struct Script {
    pub(crate) engine: Engine,
    start: Instant,
    pub(crate) now: Instant,
    sent: VecDeque<Sent>,
    pub(crate) events: Vec<Event>,
}

impl Script {
    /// A host called `nas` that publishes its name, on [`ETH`]. The clock is at zero; nothing was sent.
    pub(crate) fn host() -> Self {
        Self::with(Config::new("nas".parse().unwrap()))
    }

    /// The same, with its name established: what that took is over and forgotten. The clock is at 10 s.
    pub(crate) fn established() -> Self {
        let mut script = Self::host();
        script.to(10_000);
        script.sent();
        script.events.clear();
        script
    }

    /// A host that publishes nothing. The clock is at zero; the link is up.
    pub(crate) fn asker() -> Self {
        Self::with(Config { publish_host: false, ..Config::new("asker".parse().unwrap()) })
    }

    /// The same, with a link that came up long ago.
    pub(crate) fn settled_asker() -> Self {
        let mut script = Self::asker();
        script.to(10_000);
        script
    }

    pub(crate) fn with(config: Config) -> Self {
        let mut script = Self::without_interface(config, 1);
        script.up(ETH, &["192.168.1.10/24"]);
        script
    }

    pub(crate) fn without_interface(config: Config, seed: u8) -> Self {
        let start = Instant::now();
        let engine = Engine::new(config, [seed; 32], start);
        Self { engine, start, now: start, sent: VecDeque::new(), events: Vec::new() }
    }

    pub(crate) fn up(&mut self, index: u32, addresses: &[&str]) {
        self.up_with(index, addresses, true, false);
    }

    pub(crate) fn up_with(&mut self, index: u32, addresses: &[&str], ipv4: bool, ipv6: bool) {
        let addresses = addresses.iter().map(|text| address(text)).collect();
        self.engine.handle_interface(InterfaceChange::Up { index, addresses, ipv4, ipv6 }, self.now);
        self.drain();
    }

    pub(crate) fn down(&mut self, index: u32) {
        self.engine.handle_interface(InterfaceChange::Down { index }, self.now);
        self.drain();
    }

    pub(crate) fn addresses(&mut self, index: u32, addresses: &[&str]) {
        let addresses = addresses.iter().map(|text| address(text)).collect();
        self.engine.handle_interface(InterfaceChange::Addresses { index, addresses }, self.now);
        self.drain();
    }

    pub(crate) fn ms(&self) -> u64 {
        self.now.duration_since(self.start).as_millis() as u64
    }

    /// Lets time pass until so many milliseconds from the beginning, and does everything at its time.
    pub(crate) fn to(&mut self, ms: u64) {
        let until = self.start + Duration::from_millis(ms);
        assert!(until >= self.now, "time does not go back");
        let mut stuck = 0;
        while let Some((at, reason)) = self.engine.poll_timeout().filter(|(at, _)| *at <= until) {
            stuck = if at <= self.now { stuck + 1 } else { 0 };
            assert!(stuck < 100, "a deadline that does not move: {reason}");
            self.now = self.now.max(at);
            self.engine.handle_timeout(self.now);
            self.drain();
        }
        self.now = until;
    }

    pub(crate) fn pass(&mut self, ms: u64) {
        self.to(self.ms() + ms);
    }

    /// Takes what the engine has to send and to tell.
    pub(crate) fn drain(&mut self) {
        let mut buf = [0; 9_000];
        while let Some(transmit) = self.engine.poll_transmit(&mut buf, self.now) {
            self.sent.push_back(Sent::new(self.ms(), transmit, &buf[..transmit.len]));
        }
        self.events.extend(std::iter::from_fn(|| self.engine.poll_event()));
    }

    /// What was sent since the last time.
    pub(crate) fn sent(&mut self) -> Vec<Sent> {
        self.drain();
        self.sent.drain(..).collect()
    }

    /// The only packet that was sent since the last time.
    pub(crate) fn only(&mut self) -> Sent {
        let mut sent = self.sent();
        assert_eq!(sent.len(), 1, "one packet was expected: {sent:#?}");
        sent.remove(0)
    }

    /// A packet arrives by multicast.
    pub(crate) fn hear(&mut self, from: &str, packet: &Packet) {
        self.hear_on(ETH, from, packet);
    }

    pub(crate) fn hear_on(&mut self, interface: u32, from: &str, packet: &Packet) {
        self.receive_on(interface, from, "224.0.0.251", &packet.bytes());
    }

    /// A packet arrives that was sent to this host alone.
    pub(crate) fn hear_directly(&mut self, from: &str, packet: &Packet) {
        self.receive(from, "192.168.1.10", &packet.bytes());
    }

    pub(crate) fn receive(&mut self, from: &str, to: &str, bytes: &[u8]) {
        self.receive_on(ETH, from, to, bytes);
    }

    pub(crate) fn receive_on(&mut self, interface: u32, from: &str, to: &str, bytes: &[u8]) {
        self.receive_with(interface, from, to, Some(255), bytes);
    }

    pub(crate) fn receive_with(
        &mut self,
        interface: u32,
        from: &str,
        to: &str,
        hop_limit: Option<u8>,
        bytes: &[u8],
    ) {
        let meta = Received {
            interface,
            from: from.parse::<SocketAddr>().unwrap(),
            to: to.parse::<IpAddr>().unwrap(),
            hop_limit,
            truncated: false,
        };
        self.engine.handle_packet(bytes, &meta, self.now);
        self.drain();
    }

    /// How many packets or records were dropped for that reason.
    pub(crate) fn dropped(&self, name: &str) -> u64 {
        self.engine
            .statistics()
            .drops
            .iter()
            .find(|(reason, _)| reason.name() == name)
            .map_or(0, |(_, count)| *count)
    }

    /// Publishes `instance` of `_http._tcp`, on port 80.
    pub(crate) fn publish(&mut self, instance: &str) -> mdns::PublicationId {
        self.publish_service(web(instance))
    }

    pub(crate) fn publish_service(&mut self, service: ServiceRegistration) -> mdns::PublicationId {
        let id = self.engine.publish(service, self.now).unwrap();
        self.drain();
        id
    }

    pub(crate) fn browse(&mut self, service_type: &str) -> mdns::QueryId {
        let browse = Browse { service_type: service_type.parse().unwrap(), subtype: None, resolve: true };
        let id = self.engine.browse(browse, self.now).unwrap();
        self.drain();
        id
    }

    /// The services that browses were told of since the last time, as `+name`, `~name`, `-name` and `?name` for those
    /// that are only known to be there.
    pub(crate) fn changes(&mut self) -> Vec<String> {
        self.drain();
        let show = |event: Event| match event {
            Event::Service { change, .. } => Some(match change {
                ServiceChange::Discovered { instance, .. } => format!("?{instance}"),
                ServiceChange::Added(service) => format!("+{}", service.instance),
                ServiceChange::Changed(service) => format!("~{}", service.instance),
                ServiceChange::Removed { instance, .. } => format!("-{instance}"),
            }),
            _ => None,
        };
        self.events.drain(..).filter_map(show).collect()
    }

    /// The service that a browse told of last.
    pub(crate) fn last_service(&mut self) -> ResolvedService {
        self.drain();
        self.events
            .iter()
            .rev()
            .find_map(|event| match event {
                Event::Service { change: ServiceChange::Added(s) | ServiceChange::Changed(s), .. } => {
                    Some(s.clone())
                }
                _ => None,
            })
            .expect("a service was resolved")
    }
}

pub(crate) fn web(instance: &str) -> ServiceRegistration {
    ServiceRegistration::new(instance.parse().unwrap(), "_http._tcp".parse().unwrap(), 80)
}

fn address(text: &str) -> InterfaceAddress {
    let (ip, prefix_length) = text.split_once('/').unwrap();
    InterfaceAddress { ip: ip.parse().unwrap(), prefix_length: prefix_length.parse().unwrap() }
}

/// All that is to be known about a web server of another host.
pub(crate) fn web_server(instance: &str) -> Packet {
    let name = format!("{instance}._http._tcp.local");
    response()
        .shared("_http._tcp.local", 4_500, ptr(&name))
        .unique(&name, 120, srv(80, "peer.local"))
        .unique(&name, 4_500, txt(&["path=/"]))
        .additional("peer.local", 120, a("192.168.1.20"))
}
