//! A Multicast DNS engine between a program that does as it likes and a link on which everybody does.
//!
//! The input is a list of steps: packets from strangers, its own packets come back changed, time, interfaces, and calls. Whatever
//! they are, the engine writes well-formed packets of allowed size, sends nothing to hosts beyond the link, and never
//! leaves a deadline in the past.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use mdns::wire::{Message, RecordType};
use mdns::{
    Browse, Config, Destination, Engine, HostRegistration, InstanceName, InterfaceAddress, InterfaceChange,
    Interfaces, PublicationId, QueryId, QueryLifetime, Received, ServiceRegistration, ServiceType, Txt,
};

use crate::bytes::Bytes;

/// Steps of one input; what follows is not looked at.
const STEPS_MAX: usize = 96;
/// RFC 6762 §17, without the headers of IPv4.
const PACKET_LEN_MAX: usize = 9_000 - 28;
const ENTRIES_MAX: usize = 64;
const OWN: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 10);
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);

/// # Panics
/// When the engine breaks one of the rules above.
pub fn run(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    let mut world = World::new();
    for _ in 0..STEPS_MAX {
        if bytes.is_empty() {
            break;
        }
        world.step(&mut bytes);
        world.drain();
        let statistics = world.engine.statistics();
        assert!(statistics.cache_entries <= ENTRIES_MAX, "more records than there may be");
    }
    world.engine.shutdown(world.now);
    world.drain();
    world.pass(Duration::from_secs(1));
}

struct World {
    engine: Engine,
    now: Instant,
    publications: Vec<PublicationId>,
    queries: Vec<QueryId>,
    /// The last packet that the engine sent.
    sent: Vec<u8>,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let config = Config {
            cache_entries_max: ENTRIES_MAX,
            ..Config::new("nas".parse().expect("a label is a host name"))
        };
        let mut world = Self {
            engine: Engine::new(config, [1; 32], now),
            now,
            publications: Vec::new(),
            queries: Vec::new(),
            sent: Vec::new(),
        };
        world.up(1, 10);
        world
    }

    fn up(&mut self, index: u32, last: u8) {
        let ip = IpAddr::from([192, 168, index as u8, last]);
        let addresses = vec![InterfaceAddress { ip, prefix_length: 24 }];
        let up = InterfaceChange::Up { index, addresses, ipv4: true, ipv6: last % 2 == 1 };
        self.engine.handle_interface(up, self.now);
    }

    fn step(&mut self, bytes: &mut Bytes<'_>) {
        let now = self.now;
        match bytes.u8() % 16 {
            0..=3 => {
                let source = bytes.u8();
                let packet = bytes.prefixed();
                self.receive(source, packet);
            }
            4 | 5 => self.pass(Duration::from_millis(u64::from(bytes.u16()))),
            6 => {
                // What was sent comes back from somebody else, with a few bits turned.
                let source = bytes.u8();
                let mut packet = std::mem::take(&mut self.sent);
                for _ in 0..bytes.u8() % 4 {
                    let at = usize::from(bytes.u16()) % packet.len().max(1);
                    let bits = bytes.u8();
                    packet.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= bits);
                }
                self.receive(source, &packet);
                self.sent = packet;
            }
            7 => self.publish(bytes),
            8 => {
                if let Some(id) = self.publications.pop() {
                    self.engine.unpublish(id, now);
                }
            }
            9 => self.ask(bytes),
            10 => {
                if let Some(id) = self.queries.pop() {
                    self.engine.cancel(id);
                }
            }
            11 => self.up(1 + u32::from(bytes.u8() % 2), 10 + bytes.u8() % 4),
            12 => {
                let index = 1 + u32::from(bytes.u8() % 2);
                self.engine.handle_interface(InterfaceChange::Down { index }, now);
            }
            13 => self.engine.handle_wake(now),
            14 => {
                let txt = Txt::default().with("k", Some(bytes.take(8))).expect("a short attribute");
                if let Some(id) = self.publications.last() {
                    let _ = self.engine.update_txt(*id, txt, now);
                }
            }
            _ => {
                let (instance, service_type) = (name(bytes), service_type(bytes));
                self.engine.reconfirm(&instance, &service_type, 1, now);
            }
        }
    }

    fn receive(&mut self, source: u8, packet: &[u8]) {
        let from = match source % 8 {
            0 => SocketAddr::new([203, 0, 113, 9].into(), mdns::PORT),
            1 => SocketAddr::new([192, 168, 1, source].into(), 40_000),
            2 => SocketAddr::new(OWN.into(), mdns::PORT),
            _ => SocketAddr::new([192, 168, 1, source].into(), mdns::PORT),
        };
        let to = if source & 0x40 == 0 { GROUP } else { OWN };
        let meta = Received {
            interface: 1 + u32::from(source >> 7),
            from,
            to: to.into(),
            hop_limit: Some(255),
            truncated: false,
        };
        self.engine.handle_packet(packet, &meta, self.now);
    }

    fn publish(&mut self, bytes: &mut Bytes<'_>) {
        let interfaces = if bytes.u8().is_multiple_of(4) {
            Interfaces::Only(vec![u32::from(bytes.u8() % 3)])
        } else {
            Interfaces::All
        };
        let made = if bytes.u8().is_multiple_of(4) {
            let (name, addresses) = ("virtual".parse().expect("a host name"), vec![OWN.into()]);
            self.engine.publish_host(HostRegistration { name, addresses, interfaces }, self.now)
        } else {
            let service = ServiceRegistration {
                subtypes: vec!["_sub".parse().expect("a label")],
                interfaces,
                ..ServiceRegistration::new(name(bytes), service_type(bytes), bytes.u16())
            };
            self.engine.publish(service, self.now)
        };
        self.publications.extend(made);
    }

    fn ask(&mut self, bytes: &mut Bytes<'_>) {
        let now = self.now;
        let made = match bytes.u8() % 5 {
            0 => self.engine.browse_types(now),
            1 => self.engine.resolve_host(&"peer".parse().expect("a host name"), now),
            2 => {
                let lifetime = QueryLifetime::Once(Duration::from_millis(u64::from(bytes.u16())));
                self.engine.query("nas.local", RecordType(bytes.u16()), lifetime, now)
            }
            3 => self.engine.resolve_service(&name(bytes), &service_type(bytes), now),
            _ => {
                let subtype = (bytes.u8().is_multiple_of(2)).then(|| "_sub".parse().expect("a label"));
                let browse = Browse {
                    service_type: service_type(bytes),
                    subtype,
                    resolve: !bytes.u8().is_multiple_of(4),
                };
                self.engine.browse(browse, now)
            }
        };
        self.queries.extend(made);
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        let mut in_vain = 0;
        while let Some((at, reason)) = self.engine.poll_timeout().filter(|(at, _)| *at <= until) {
            in_vain = if at > self.now { 0 } else { in_vain + 1 };
            assert!(in_vain < 100, "a deadline that stays in the past: {reason}");
            self.now = self.now.max(at);
            self.engine.handle_timeout(self.now);
            self.drain();
        }
        self.now = until;
    }

    fn drain(&mut self) {
        let mut buf = [0; 9_000];
        for round in 0.. {
            let Some(transmit) = self.engine.poll_transmit(&mut buf, self.now) else { break };
            assert!(round < 1_000, "packets without end");
            assert!(transmit.len <= PACKET_LEN_MAX, "a packet of {} bytes", transmit.len);
            let message = Message::parse(&buf[..transmit.len]).expect("what we write can be read");
            match transmit.to {
                Destination::Multicast(_) => {
                    assert!(!message.header().response || message.questions().len() == 0, "RFC 6762 §6");
                }
                Destination::Unicast(to) => assert!(
                    matches!(to.ip(), IpAddr::V4(ip) if matches!(ip.octets(), [192, 168, 1 | 2, _])),
                    "a reply to {to}, beyond the link"
                ),
            }
            self.sent = buf[..transmit.len].to_vec();
        }
        while self.engine.poll_event().is_some() {}
    }
}

/// One of a few names, so that they meet.
fn name(bytes: &mut Bytes<'_>) -> InstanceName {
    ["site", "Site (2)", "a.b"][usize::from(bytes.u8()) % 3].parse().expect("a label")
}

fn service_type(bytes: &mut Bytes<'_>) -> ServiceType {
    ["_http._tcp", "_ssh._tcp"][usize::from(bytes.u8()) % 2].parse().expect("a service type")
}
