//! The engine: what goes in, what comes out.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::net::Ipv4Addr;
use std::time::Instant;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::PORT;
use crate::cache::Limits;
use crate::drops::{DropReason, Drops};
use crate::echo::Echoes;
use crate::event::{Answer, Event, PublicationId, QueryId};
use crate::hash::Keyed;
use crate::io::{Destination, Family, InterfaceChange, Received, Transmit};
use crate::limits::SourceLimits;
use crate::link::{LinkId, Links};
use crate::publisher::{Asker, Context, Publisher, Room};
use crate::querier::Querier;
use crate::request::{
    Browse, Config, Error, HostRegistration, Interfaces, QueryLifetime, ServiceRegistration,
};
use crate::service::{HostName, InstanceName, ServiceType, Subtype, Txt};
use crate::wire::{Message, NameBuf, ParseError, RecordType};

/// Publications that one engine has at most.
const PUBLICATIONS_MAX: usize = 4_096;
/// Queries that one engine has at most.
const QUERIES_MAX: usize = 16_384;

/// The hop limit of what was sent on the link itself (RFC 6762 §11).
const HOP_LIMIT: u8 = 255;

/// A complete Multicast DNS querier and responder.
#[derive(Debug)]
pub struct Engine {
    links: Links,
    querier: Querier,
    publisher: Publisher,
    limits: SourceLimits,
    echoes: Echoes,
    rng: ChaCha8Rng,
    keyed: Keyed,
    host: Option<PublicationId>,
    wanted_host_name: HostName,
    exclusive_port: bool,
    monitors: bool,
    shutting_down: bool,
    heard: VecDeque<Event>,
    drops: Drops,
    packets_received: u64,
    packets_sent: u64,
}

impl Engine {
    /// An engine that knows no interface yet. `seed` is the source of all its randomness.
    pub fn new(config: Config, seed: [u8; 32], now: Instant) -> Self {
        let mut rng = ChaCha8Rng::from_seed(seed);
        let keyed = Keyed::new([rng.next_u64(), rng.next_u64()]);
        let limits = Limits {
            entries: config.cache_entries_max,
            bytes: config.cache_bytes_max,
            entries_per_interface: config.cache_entries_per_interface_max,
        };
        let mut engine = Self {
            links: Links::default(),
            querier: Querier::new(limits, keyed),
            publisher: Publisher::new(keyed),
            limits: SourceLimits::new(keyed, now),
            echoes: Echoes::new(),
            rng,
            keyed,
            host: None,
            wanted_host_name: config.host_name.clone(),
            exclusive_port: config.exclusive_port,
            monitors: false,
            shutting_down: false,
            heard: VecDeque::new(),
            drops: Drops::default(),
            packets_received: 0,
            packets_sent: 0,
        };
        if config.publish_host {
            let (publisher, mut cx) = engine.publisher(now);
            engine.host = Some(publisher.publish_host(config.host_name, None, Interfaces::All, &mut cx));
        }
        engine
    }

    fn querier(&mut self, now: Instant) -> (&mut Querier, Context<'_>) {
        (&mut self.querier, Context { links: &self.links, rng: &mut self.rng, now })
    }

    fn publisher(&mut self, now: Instant) -> (&mut Publisher, Context<'_>) {
        (&mut self.publisher, Context { links: &self.links, rng: &mut self.rng, now })
    }

    /// Takes note of a change of an interface (RFC 6762 §8.1, §10.3).
    pub fn handle_interface(&mut self, change: InterfaceChange, now: Instant) {
        match change {
            InterfaceChange::Up { index, addresses, ipv4, ipv6 } => {
                self.interface_down(index, now);
                let families = [(ipv4, Family::V4), (ipv6, Family::V6)];
                let families = families.into_iter().filter_map(|(on, family)| on.then_some(family));
                self.links.add(index, addresses, families, now);
                for link in self.links.of_interface(index) {
                    self.link_up(link, now);
                }
            }
            InterfaceChange::Addresses { index, addresses } => {
                let Some(before) = self.links.set_addresses(index, addresses) else { return };
                let after = self.links.addresses(index);
                let moved = !before.is_empty() && !before.iter().any(|address| after.contains(address));
                if *before == *after {
                    return;
                }
                if moved {
                    // Another network: what was learnt on the last one means nothing here (RFC 6762 §10.3).
                    for link in self.links.of_interface(index) {
                        self.link_down(link, now);
                        if let Some(link) = self.links.get_mut(link) {
                            link.renew(now);
                        }
                        self.link_up(link, now);
                    }
                }
                let (publisher, mut cx) = self.publisher(now);
                publisher.addresses_changed(&mut cx);
            }
            InterfaceChange::Down { index } => {
                self.interface_down(index, now);
            }
        }
    }

    fn link_up(&mut self, link: LinkId, now: Instant) {
        let (publisher, mut cx) = self.publisher(now);
        publisher.link_up(link, &mut cx);
        let (querier, mut cx) = self.querier(now);
        querier.link_up(link, &mut cx);
    }

    fn link_down(&mut self, link: LinkId, now: Instant) {
        self.publisher.link_down(link);
        let (querier, mut cx) = self.querier(now);
        querier.link_down(link, &mut cx);
    }

    fn interface_down(&mut self, index: u32, now: Instant) {
        for link in self.links.of_interface(index) {
            self.link_down(link, now);
        }
        self.links.remove(index);
        let (publisher, mut cx) = self.publisher(now);
        publisher.addresses_changed(&mut cx);
    }

    /// The host has woken, or its link is up again under the same addresses: everything is probed, announced and
    /// asked for again, and what is known is verified (RFC 6762 §8, §10.3).
    pub fn handle_wake(&mut self, now: Instant) {
        for link in self.links.ids() {
            if let Some(link) = self.links.get_mut(link) {
                link.renew(now);
            }
            let (publisher, mut cx) = self.publisher(now);
            publisher.verify_link(link, &mut cx);
            let (querier, mut cx) = self.querier(now);
            querier.verify_link(link, &mut cx);
        }
    }

    /// What was sent to the group on an interface did not leave: its names are probed for and announced again, and its questions
    /// asked again (RFC 6762 §8).
    pub fn handle_unsent(&mut self, interface: u32, now: Instant) {
        for link in self.links.of_interface(interface) {
            let (publisher, mut cx) = self.publisher(now);
            publisher.verify_link(link, &mut cx);
            let (querier, mut cx) = self.querier(now);
            querier.ask_again(link, &mut cx);
        }
    }

    /// Another program of this host took, or gave up, port 5353 (see [`Config::exclusive_port`]).
    pub fn handle_port_sharing(&mut self, exclusive: bool) {
        self.exclusive_port = exclusive;
    }

    /// Takes a packet that arrived.
    pub fn handle_packet(&mut self, packet: &[u8], meta: &Received, now: Instant) {
        self.packets_received += 1;
        if let Err(reason) = self.try_packet(packet, meta, now) {
            self.drops.add(reason);
        }
    }

    fn try_packet(&mut self, packet: &[u8], meta: &Received, now: Instant) -> Result<(), DropReason> {
        if self.shutting_down {
            return Err(DropReason::ShuttingDown);
        }
        if meta.truncated {
            return Err(DropReason::Truncated);
        }
        let family = if meta.to.is_ipv4() { Family::V4 } else { Family::V6 };
        let link = self.links.find(meta.interface, family).ok_or(DropReason::UnknownInterface)?;
        // RFC 6762 §11: what was sent to the group is from the link, whatever address it bears.
        let reachable = self.links.is_on_link(meta.interface, meta.from.ip());
        let multicast = meta.to.is_multicast();
        // No router passes on what is sent to the group, and none can pass on 255. A source address proves nothing by itself.
        let from_link = multicast || meta.hop_limit.is_none_or(|hops| hops == HOP_LIMIT);
        if !multicast && !reachable {
            return Err(DropReason::OffLink);
        }
        if !self.limits.admit(meta.from.ip(), meta.interface, now) {
            return Err(DropReason::RateLimited);
        }
        let message = Message::parse(packet).map_err(|error| match error {
            ParseError::TooLong => DropReason::TooLong,
            _ => DropReason::Malformed,
        })?;
        let header = message.header();
        if header.opcode != 0 {
            return Err(DropReason::Opcode);
        }
        if header.rcode != 0 {
            return Err(DropReason::ResponseCode);
        }
        // A plain query of somebody else can be the same as ours to the bit, a response or a probe cannot.
        let is_plain_query = !header.response && message.authorities().len() == 0;
        if (!is_plain_query || self.links.is_own(meta.from.ip()))
            && self.echoes.recognise(self.keyed.hash_one(packet), link, is_plain_query, now)
        {
            return Err(DropReason::Echo);
        }
        if self.monitors {
            self.monitor(&message, meta);
        }
        if header.response {
            if meta.from.port() != PORT {
                return Err(DropReason::ResponsePort);
            }
            if !multicast && !self.links.get(link).is_some_and(|link| link.expects_unicast(now)) {
                return Err(DropReason::UnicastResponse);
            }
            if !from_link {
                if let Some(link) = self.links.get_mut(link) {
                    link.distrust_unicast();
                }
                return Err(DropReason::HopLimit);
            }
            let mut cx = Context { links: &self.links, rng: &mut self.rng, now };
            self.publisher.handle_response(&message, link, meta.from.ip(), multicast, &mut cx);
            let full = self.querier.handle_response(link, meta.from.ip(), &message, &mut cx);
            self.drops.add_many(DropReason::CacheFull, full);
            Ok(())
        } else {
            let asked = (!multicast && self.links.is_own(meta.to)).then_some(meta.to);
            let asker = Asker { link, from: meta.from, directly: !multicast, asked, reachable, from_link };
            let mut cx = Context { links: &self.links, rng: &mut self.rng, now };
            // What only we were asked, or is answered by unicast, says nothing of who answers (RFC 6762 §7.3, §10.5).
            if multicast && meta.from.port() == PORT {
                self.querier.handle_foreign_query(link, &message, &mut cx);
            }
            self.publisher.handle_query(&message, asker, &mut cx)
        }
    }

    fn monitor(&mut self, message: &Message<'_>, meta: &Received) {
        let response = message.header().response;
        for record in message.records() {
            let answer = Answer::of_record(meta.interface, &record);
            let (interface, from) = (meta.interface, meta.from);
            self.heard.push_back(Event::Heard { interface, from, response, answer });
        }
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        let (publisher, mut cx) = self.publisher(now);
        publisher.handle_timeout(&mut cx);
        let (querier, mut cx) = self.querier(now);
        querier.handle_timeout(&mut cx);
    }

    /// When [`Engine::handle_timeout`] is to be called, and what for.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.querier.poll_timeout().chain(self.publisher.poll_timeout()).min()
    }

    /// Writes the next packet to send into `buf`, which should have room for 9,000 bytes. Call until `None`.
    pub fn poll_transmit(&mut self, buf: &mut [u8], now: Instant) -> Option<Transmit> {
        let transmit = self.next_packet(buf, now)?;
        self.packets_sent += 1;
        if let Destination::Multicast(family) = transmit.to
            && let Some(link) = self.links.find(transmit.interface, family)
        {
            let packet = &buf[..transmit.len];
            self.echoes.remember(self.keyed.hash_one(packet), now);
            self.loop_back(link, packet, now);
        }
        Some(transmit)
    }

    /// What this host says and asks is for itself as well: its own services are found by its own browses.
    fn loop_back(&mut self, link: LinkId, packet: &[u8], now: Instant) {
        if self.querier.is_idle() {
            return;
        }
        let Ok(message) = Message::parse(packet) else { return };
        let mut cx = Context { links: &self.links, rng: &mut self.rng, now };
        if message.header().response {
            self.querier.handle_response(link, Ipv4Addr::UNSPECIFIED.into(), &message, &mut cx);
        } else if message.authorities().len() == 0 {
            let from = (Ipv4Addr::UNSPECIFIED, PORT).into();
            let asker = Asker { link, from, directly: false, asked: None, reachable: false, from_link: true };
            // The queries that are answered to ourselves are as bounded as the questions are.
            let _ = self.publisher.handle_query(&message, asker, &mut cx);
        }
    }

    fn next_packet(&mut self, buf: &mut [u8], now: Instant) -> Option<Transmit> {
        let mut cx = Context { links: &self.links, rng: &mut self.rng, now };
        while let Some(reply) = {
            let family =
                self.publisher.due_reply(now).and_then(|link| cx.links.get(link)).map(|link| link.family);
            self.publisher.write_reply(room(buf, family), &mut cx)
        } {
            let interface = cx.links.get(reply.link).map_or(0, |link| link.interface);
            if reply.len > 0 {
                let (source, to) = (reply.source, Destination::Unicast(reply.to));
                return Some(Transmit { interface, source, to, len: reply.len });
            }
        }
        while let Some(link) = self.publisher.due_link(now) {
            let found = cx.links.get(link)?;
            let len = self.publisher.write_response(link, room(buf, Some(found.family)), &mut cx);
            if len > 0 {
                return Some(found.multicast(len));
            }
        }
        if self.shutting_down {
            return None;
        }
        while let Some(link) = self.publisher.probing_link() {
            let found = cx.links.get(link)?;
            let room = room(buf, Some(found.family));
            let unicast = self.exclusive_port && found.trusts_unicast();
            let len = self.publisher.write_probe(link, room, unicast, &mut cx);
            if len > 0 {
                let transmit = found.multicast(len);
                if unicast && let Some(link) = self.links.get_mut(link) {
                    link.expect_unicast(now);
                }
                return Some(transmit);
            }
        }
        let link = self.querier.ready_link()?;
        let found = cx.links.get(link)?;
        let room = room(buf, Some(found.family));
        let usual = room.usual.min(room.buf.len());
        let unicast = self.exclusive_port && found.is_eager(now);
        let (len, asks_unicast) = self.querier.write_query(link, &mut room.buf[..usual], unicast, &mut cx);
        if len == 0 {
            return None;
        }
        let transmit = found.multicast(len);
        if asks_unicast && let Some(link) = self.links.get_mut(link) {
            link.expect_unicast(now);
        }
        Some(transmit)
    }

    /// The next event. Call until `None`, after every other call.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.publisher.poll_event().or_else(|| self.querier.poll_event()).or_else(|| self.heard.pop_front())
    }

    /// The name this host has, or is probing for; when it is not published, the one it was given.
    pub fn host_name(&self) -> &HostName {
        self.publisher.host_name().unwrap_or(&self.wanted_host_name)
    }

    /// The publication of this host's own name, as events name it; `None` when it is not published.
    pub fn host(&self) -> Option<PublicationId> {
        self.host
    }

    fn check_publications(&self) -> Result<(), Error> {
        if self.shutting_down {
            return Err(Error::ShuttingDown);
        }
        let full = self.publisher.publications() >= PUBLICATIONS_MAX;
        if full { Err(Error::TooMany(PUBLICATIONS_MAX)) } else { Ok(()) }
    }

    fn check_queries(&self) -> Result<(), Error> {
        if self.shutting_down {
            return Err(Error::ShuttingDown);
        }
        let full = self.querier.subscriptions() >= QUERIES_MAX;
        if full { Err(Error::TooMany(QUERIES_MAX)) } else { Ok(()) }
    }

    /// Publishes a service. [`Event::Published`] tells when its name is ours.
    ///
    /// # Errors
    /// Too many publications, a name or type that breaks the rules, or the engine is shutting down.
    pub fn publish(&mut self, service: ServiceRegistration, now: Instant) -> Result<PublicationId, Error> {
        self.check_publications()?;
        service.instance.check().and_then(|()| service.service_type.check()).map_err(Error::Unfit)?;
        let (publisher, mut cx) = self.publisher(now);
        Ok(publisher.publish_service(service, &mut cx))
    }

    /// Publishes a host beside this one.
    ///
    /// # Errors
    /// As [`Engine::publish`].
    pub fn publish_host(&mut self, host: HostRegistration, now: Instant) -> Result<PublicationId, Error> {
        self.check_publications()?;
        let (publisher, mut cx) = self.publisher(now);
        Ok(publisher.publish_other_host(host, &mut cx))
    }

    /// Gives a service other attributes, and announces them (at most ten times a minute, RFC 6762 §8.4; the newest
    /// counts).
    ///
    /// # Errors
    /// No such service.
    pub fn update_txt(&mut self, id: PublicationId, txt: Txt, now: Instant) -> Result<(), Error> {
        let (publisher, mut cx) = self.publisher(now);
        publisher.update_txt(id, txt, &mut cx)
    }

    /// Gives a service other subtypes: says goodbye for those that go and announces the new ones (RFC 6762 §8.4), no more
    /// often than [`Engine::update_txt`].
    ///
    /// # Errors
    /// No such service.
    pub fn update_subtypes(
        &mut self,
        id: PublicationId,
        subtypes: Vec<Subtype>,
        now: Instant,
    ) -> Result<(), Error> {
        let (publisher, mut cx) = self.publisher(now);
        publisher.update_subtypes(id, subtypes, &mut cx)
    }

    /// Says goodbye for a service or host. Unknown numbers are ignored.
    pub fn unpublish(&mut self, id: PublicationId, now: Instant) {
        let (publisher, mut cx) = self.publisher(now);
        publisher.unpublish(id, &mut cx);
    }

    /// Searches for services, until cancelled: [`Event::Service`].
    ///
    /// # Errors
    /// Too many queries.
    pub fn browse(&mut self, browse: Browse, now: Instant) -> Result<QueryId, Error> {
        self.check_queries()?;
        let (querier, mut cx) = self.querier(now);
        Ok(querier.browse(browse.service_type, browse.subtype.as_ref(), browse.resolve, &mut cx))
    }

    /// Enumerates the types of services on the network (RFC 6763 §9), until cancelled: [`Event::Type`].
    ///
    /// # Errors
    /// Too many queries.
    pub fn browse_types(&mut self, now: Instant) -> Result<QueryId, Error> {
        self.check_queries()?;
        let (querier, mut cx) = self.querier(now);
        Ok(querier.browse_types(&mut cx))
    }

    /// Looks up the addresses of a host, until cancelled: [`Event::Host`] whenever they change.
    ///
    /// # Errors
    /// Too many queries.
    pub fn resolve_host(&mut self, name: &HostName, now: Instant) -> Result<QueryId, Error> {
        self.check_queries()?;
        let (querier, mut cx) = self.querier(now);
        Ok(querier.resolve_host(name.to_name(), &mut cx))
    }

    /// Looks up the addresses of a host whose name breaks the rules for host names, as that of [`Engine::resolve_host`].
    ///
    /// # Errors
    /// Too many queries.
    pub fn resolve_host_named(&mut self, name: NameBuf, now: Instant) -> Result<QueryId, Error> {
        self.check_queries()?;
        let (querier, mut cx) = self.querier(now);
        Ok(querier.resolve_host(name, &mut cx))
    }

    /// Finds out how to reach one instance whose name is known, until cancelled: [`Event::Service`].
    ///
    /// # Errors
    /// Too many queries.
    pub fn resolve_service(
        &mut self,
        instance: &InstanceName,
        service_type: &ServiceType,
        now: Instant,
    ) -> Result<QueryId, Error> {
        self.check_queries()?;
        let (querier, mut cx) = self.querier(now);
        Ok(querier.resolve_service(instance, service_type, &mut cx))
    }

    /// Asks for the records of a name (written as [`wire::NameBuf`](crate::wire::NameBuf) reads it) and type:
    /// [`Event::Answer`].
    ///
    /// # Errors
    /// Not a name, or too many queries.
    pub fn query(
        &mut self,
        name: &str,
        record_type: RecordType,
        lifetime: QueryLifetime,
        now: Instant,
    ) -> Result<QueryId, Error> {
        self.check_queries()?;
        let name = name.parse()?;
        let ends = match lifetime {
            QueryLifetime::Continuous => None,
            QueryLifetime::Once(time) => Some(now + time),
        };
        let (querier, mut cx) = self.querier(now);
        Ok(querier.query(name, record_type, ends, &mut cx))
    }

    /// Ends a browse, a look-up or a query. Unknown numbers are ignored.
    pub fn cancel(&mut self, id: QueryId) {
        self.querier.cancel(id);
    }

    /// The program could not reach a service: its records are verified, and go within 10 s if nobody answers for them
    /// (RFC 6762 §10.4).
    pub fn reconfirm(
        &mut self,
        instance: &InstanceName,
        service_type: &ServiceType,
        interface: u32,
        now: Instant,
    ) {
        let (querier, mut cx) = self.querier(now);
        querier.reconfirm(instance, service_type, interface, &mut cx);
    }

    /// Whether each record that arrives is to be told as [`Event::Heard`].
    pub fn set_monitor(&mut self, on: bool) {
        self.monitors = on;
    }

    /// Says goodbye for everything. Call [`Engine::poll_transmit`] until `None`, then drop the engine.
    pub fn shutdown(&mut self, now: Instant) {
        let (publisher, mut cx) = self.publisher(now);
        publisher.shutdown(&mut cx);
        self.shutting_down = true;
    }

    /// What was counted so far.
    pub fn statistics(&self) -> Statistics {
        Statistics {
            packets_received: self.packets_received,
            packets_sent: self.packets_sent,
            drops: self.drops.iter().collect(),
            cache_entries: self.querier.cache().len(),
            cache_bytes: self.querier.cache().bytes(),
            queries: self.querier.subscriptions(),
            publications: self.publisher.publications(),
        }
    }
}

/// How much of a buffer a packet of that family may use.
fn room(buf: &mut [u8], family: Option<Family>) -> Room<'_> {
    let headers = match family {
        Some(Family::V4) => 20 + 8,
        Some(Family::V6) | None => 40 + 8,
    };
    // RFC 6762 §17: what an Ethernet frame holds, and the most for a single record.
    let (usual, most) = (1_500 - headers, 9_000 - headers);
    let len = buf.len().min(most);
    Room { buf: &mut buf[..len], usual }
}

/// Counters since the start, and sizes now.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    /// Packets taken.
    pub packets_received: u64,
    /// Packets made.
    pub packets_sent: u64,
    /// Packets and records that were not used, by reason.
    pub drops: Vec<(DropReason, u64)>,
    /// Records in the cache.
    pub cache_entries: usize,
    /// Bytes of names and data in the cache.
    pub cache_bytes: usize,
    /// Queries open.
    pub queries: usize,
    /// Services and hosts published.
    pub publications: usize,
}
