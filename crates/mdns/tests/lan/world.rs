//! A small LAN: engines, segments, and packets that get lost, doubled and overtaken, all from one seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use mdns::wire::Message;
use mdns::{
    Browse, Config, Destination, Engine, Event, InterfaceAddress, InterfaceChange, QueryId, Received,
    ServiceChange, ServiceRegistration,
};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

/// What links do to packets.
#[derive(Clone, Copy)]
pub(crate) struct Faults {
    /// Packets lost, of a thousand, for each receiver.
    pub(crate) lost: u32,
    /// Packets that arrive twice, of a thousand.
    pub(crate) doubled: u32,
    /// The longest a packet is under way, in milliseconds; the shortest is nothing, so packets overtake each other.
    pub(crate) delay_ms: u32,
}

impl Faults {
    pub(crate) const NONE: Self = Self { lost: 0, doubled: 0, delay_ms: 0 };
    pub(crate) const WIRELESS: Self = Self { lost: 100, doubled: 30, delay_ms: 20 };
}

/// One host.
pub(crate) struct Host {
    pub(crate) engine: Engine,
    /// Its interfaces: index, segment, address.
    interfaces: Vec<(u32, u32, Ipv4Addr)>,
    pub(crate) events: Vec<Event>,
    pub(crate) alive: bool,
}

/// A packet under way.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Flight {
    at: Instant,
    order: u64,
    host: usize,
    interface: u32,
    from: SocketAddr,
    to: IpAddr,
    bytes: Vec<u8>,
}

pub(crate) struct Lan {
    pub(crate) hosts: Vec<Host>,
    pub(crate) faults: Faults,
    /// Pairs of segments between which packets are carried both ways.
    pub(crate) bridges: BTreeSet<(u32, u32)>,
    start: Instant,
    pub(crate) now: Instant,
    flights: BinaryHeap<Reverse<Flight>>,
    order: u64,
    pub(crate) packets: u64,
    rng: ChaCha8Rng,
    trace: DefaultHasher,
}

impl Lan {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        let start = Instant::now();
        Self {
            hosts: Vec::new(),
            faults,
            bridges: BTreeSet::new(),
            start,
            now: start,
            flights: BinaryHeap::new(),
            order: 0,
            packets: 0,
            rng: ChaCha8Rng::seed_from_u64(seed),
            trace: DefaultHasher::new(),
        }
    }

    pub(crate) fn ms(&self) -> u64 {
        self.now.duration_since(self.start).as_millis() as u64
    }

    /// Adds a host on segment 0 that would like to be called `name`. Returns its number.
    pub(crate) fn host(&mut self, name: &str) -> usize {
        let number = self.hosts.len();
        let host = self.host_without_interface(Config::new(name.parse().unwrap()));
        self.plug(host, 1, 0, [192, 168, 1, 10 + number as u8].into());
        host
    }

    pub(crate) fn host_without_interface(&mut self, config: Config) -> usize {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let engine = Engine::new(config, seed, self.now);
        self.hosts.push(Host { engine, interfaces: Vec::new(), events: Vec::new(), alive: true });
        self.hosts.len() - 1
    }

    /// Gives a host an interface.
    pub(crate) fn plug(&mut self, host: usize, index: u32, segment: u32, ip: Ipv4Addr) {
        self.hosts[host].interfaces.push((index, segment, ip));
        let addresses = vec![InterfaceAddress { ip: ip.into(), prefix_length: 24 }];
        let up = InterfaceChange::Up { index, addresses, ipv4: true, ipv6: false };
        self.hosts[host].engine.handle_interface(up, self.now);
        self.drain(host);
    }

    pub(crate) fn unplug(&mut self, host: usize, index: u32) {
        self.hosts[host].interfaces.retain(|(other, ..)| *other != index);
        self.hosts[host].engine.handle_interface(InterfaceChange::Down { index }, self.now);
        self.drain(host);
    }

    pub(crate) fn publish(&mut self, host: usize, instance: &str) -> mdns::PublicationId {
        let service = ServiceRegistration::new(
            instance.parse().unwrap(),
            "_http._tcp".parse().unwrap(),
            80 + host as u16,
        );
        let id = self.hosts[host].engine.publish(service, self.now).unwrap();
        self.drain(host);
        id
    }

    pub(crate) fn browse(&mut self, host: usize) -> QueryId {
        let browse = Browse { service_type: "_http._tcp".parse().unwrap(), subtype: None, resolve: true };
        let id = self.hosts[host].engine.browse(browse, self.now).unwrap();
        self.drain(host);
        id
    }

    pub(crate) fn goodbye(&mut self, host: usize) {
        self.hosts[host].engine.shutdown(self.now);
        self.drain(host);
    }

    /// Sends what a host has to send, and fetches its events.
    pub(crate) fn drain(&mut self, host: usize) {
        let mut buf = [0; 9_000];
        while let Some(transmit) = self.hosts[host].engine.poll_transmit(&mut buf, self.now) {
            let bytes = &buf[..transmit.len];
            Message::parse(bytes).expect("engines write well-formed messages");
            let Some(&(_, segment, ip)) =
                self.hosts[host].interfaces.iter().find(|(index, ..)| *index == transmit.interface)
            else {
                panic!("a packet for interface {} that is gone", transmit.interface);
            };
            let to = match transmit.to {
                Destination::Multicast(_) => None,
                Destination::Unicast(to) => Some(to),
            };
            self.send(segment, SocketAddr::new(ip.into(), mdns::PORT), to, bytes);
        }
        let events: Vec<Event> = std::iter::from_fn(|| self.hosts[host].engine.poll_event()).collect();
        self.hosts[host].events.extend(events);
    }

    /// Puts a packet on a segment: to all, the sender included, or to one.
    pub(crate) fn send(&mut self, segment: u32, from: SocketAddr, to: Option<SocketAddr>, bytes: &[u8]) {
        self.packets += 1;
        (self.ms(), bytes).hash(&mut self.trace);
        let segments: BTreeSet<u32> = std::iter::once(segment)
            .chain(self.bridges.iter().filter_map(|&(a, b)| match segment {
                segment if segment == a => Some(b),
                segment if segment == b => Some(a),
                _ => None,
            }))
            .collect();
        let receivers: Vec<(usize, u32, Ipv4Addr)> = self
            .hosts
            .iter()
            .enumerate()
            .flat_map(|(number, host)| host.interfaces.iter().map(move |found| (number, *found)))
            .filter(|(_, (_, on, _))| segments.contains(on))
            .map(|(number, (index, _, ip))| (number, index, ip))
            .filter(|(_, _, ip)| to.is_none_or(|to| to.ip() == IpAddr::from(*ip)))
            .collect();
        for (host, interface, _) in receivers {
            let copies = match self.rng.next_u32() % 1_000 {
                roll if roll < self.faults.lost => 0,
                roll if roll < self.faults.lost + self.faults.doubled => 2,
                _ => 1,
            };
            for _ in 0..copies {
                let delay = self.rng.next_u32() % (self.faults.delay_ms + 1);
                self.order += 1;
                self.flights.push(Reverse(Flight {
                    at: self.now + Duration::from_millis(u64::from(delay)),
                    order: self.order,
                    host,
                    interface,
                    from,
                    to: to.map_or(Ipv4Addr::new(224, 0, 0, 251).into(), |to| to.ip()),
                    bytes: bytes.to_vec(),
                }));
            }
        }
    }

    /// Lets time pass.
    pub(crate) fn pass(&mut self, ms: u64) {
        let until = self.now + Duration::from_millis(ms);
        let mut steps_at_once = 0;
        loop {
            let flight = self.flights.peek().map(|Reverse(flight)| flight.at);
            let timeouts = self.hosts.iter().enumerate().filter(|(_, host)| host.alive);
            let timeout =
                timeouts.filter_map(|(number, host)| Some((host.engine.poll_timeout()?.0, number))).min();
            let next = flight.into_iter().chain(timeout.map(|(at, _)| at)).min();
            let Some(next) = next.filter(|next| *next <= until) else { break };
            steps_at_once = if next > self.now { 0 } else { steps_at_once + 1 };
            assert!(steps_at_once < 1_000_000, "time stands still");
            self.now = self.now.max(next);
            if flight == Some(next) {
                let Some(Reverse(flight)) = self.flights.pop() else { break };
                self.deliver(&flight);
            } else if let Some((_, number)) = timeout {
                self.hosts[number].engine.handle_timeout(self.now);
                self.drain(number);
            }
        }
        self.now = until;
    }

    fn deliver(&mut self, flight: &Flight) {
        let host = &mut self.hosts[flight.host];
        if !host.alive || !host.interfaces.iter().any(|(index, ..)| *index == flight.interface) {
            return;
        }
        let meta = Received {
            interface: flight.interface,
            from: flight.from,
            to: flight.to,
            hop_limit: Some(255),
            truncated: false,
        };
        host.engine.handle_packet(&flight.bytes, &meta, self.now);
        self.drain(flight.host);
    }

    /// The instances that a host's browses know now, with how often each was added.
    pub(crate) fn found(&self, host: usize) -> BTreeMap<String, usize> {
        let mut found: BTreeMap<String, usize> = BTreeMap::new();
        for event in &self.hosts[host].events {
            match event {
                Event::Service { change: ServiceChange::Added(service), .. } => {
                    *found.entry(service.instance.to_string()).or_default() += 1;
                }
                Event::Service { change: ServiceChange::Removed { instance, .. }, .. } => {
                    found.remove(instance.as_str());
                }
                _ => {}
            }
        }
        found
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.hosts.iter().map(|host| host.engine.host_name().to_string()).collect()
    }

    /// How often a host took another name.
    pub(crate) fn renamed(&self, host: usize) -> usize {
        self.hosts[host].events.iter().filter(|event| matches!(event, Event::Renamed { .. })).count()
    }

    /// A hash over everything that was sent, and when.
    pub(crate) fn trace(&self) -> u64 {
        self.trace.finish()
    }
}
