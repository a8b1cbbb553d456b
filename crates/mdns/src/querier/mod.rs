//! The asking half: questions, the cache, and what the program wants to know.
//!
//! ```text
//!  response ─► record ─► wanted? ─► cache ─► new / gone ─► subscribers ─► dirty instances, hosts ─► events
//!                          │          │                        │
//!                          ▼          └─ refresh at 80 … 95 %  └─ further questions (SRV, TXT, addresses)
//!                      forgotten             │                        │
//!                                            └────────► questions ◄───┘ ─► query packets
//! ```
//!
//! Only records that somebody wants are kept: what passes by on the network costs no memory.

mod instances;
mod questions;
mod subscriptions;
mod write;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Instant;

use rand_chacha::ChaCha8Rng;
use slab::Slab;

use crate::cache::{Cache, Due, Entry, EntryId, Limits, Origin, Stored};
use crate::event::Event;
use crate::hash::{Keyed, SlotsByHash};
use crate::link::{Link, LinkId, Links};
use crate::schedule::Schedule;
use crate::wire::{Class, Message, Name, NameBuf, RData, Record, RecordType};
use instances::Instance;
pub(crate) use questions::QuestionId;
use questions::Questions;
use subscriptions::Subscription;

/// Types of which a name's NSEC record may say that there is none.
const NEGATIVE: [RecordType; 4] = [RecordType::A, RecordType::AAAA, RecordType::SRV, RecordType::TXT];

/// Who wants the answers to a question: slots of [`Querier::instances`] and [`Querier::subscriptions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subscriber {
    /// One instance of a service, to resolve it.
    Instance(usize),
    /// Something the program asked for.
    Subscription(usize),
}

/// What every step needs to know.
pub(crate) struct Context<'a> {
    pub(crate) links: &'a Links,
    pub(crate) rng: &'a mut ChaCha8Rng,
    pub(crate) now: Instant,
}

/// The asking half of the engine.
#[derive(Debug)]
pub(crate) struct Querier {
    cache: Cache,
    questions: Questions,
    subscriptions: Slab<Subscription>,
    /// By slot of a subscription: when it ends by itself.
    endings: Schedule,
    /// Subscriptions that were ever made: makes the number of each unique.
    serial: u32,
    instances: Slab<Instance>,
    instances_by_key: SlotsByHash,
    dirty_instances: Vec<usize>,
    dirty_hosts: Vec<usize>,
    /// When to go on with the dirty ones, if there were too many for one go.
    settle_at: Option<Instant>,
    events: VecDeque<Event>,
    keyed: Keyed,
    /// Known answers that did not fit in the packet of their question (RFC 6762 §7.2).
    more_known: VecDeque<(LinkId, EntryId)>,
    /// The questions of the packet that is being written; kept for its room.
    asked_now: Vec<QuestionId>,
}

impl Querier {
    pub(crate) fn new(limits: Limits, keyed: Keyed) -> Self {
        Self {
            cache: Cache::new(limits, keyed),
            questions: Questions::default(),
            subscriptions: Slab::new(),
            endings: Schedule::default(),
            serial: 0,
            instances: Slab::new(),
            instances_by_key: SlotsByHash::default(),
            dirty_instances: Vec::new(),
            dirty_hosts: Vec::new(),
            settle_at: None,
            events: VecDeque::new(),
            keyed,
            more_known: VecDeque::new(),
            asked_now: Vec::new(),
        }
    }

    pub(crate) fn cache(&self) -> &Cache {
        &self.cache
    }

    pub(crate) fn subscriptions(&self) -> usize {
        self.subscriptions.len()
    }

    /// Whether nothing is asked for, and nothing known.
    pub(crate) fn is_idle(&self) -> bool {
        self.subscriptions.is_empty() && self.cache.len() == 0
    }

    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next deadline and its reason.
    pub(crate) fn poll_timeout(&self) -> impl Iterator<Item = (Instant, &'static str)> {
        [
            (self.cache.next_deadline(), "a record is to be refreshed or expires"),
            (self.questions.next_deadline(), "a question is to be asked"),
            (self.endings.next(), "a query ends"),
            (self.settle_at, "more changes are to be told"),
        ]
        .into_iter()
        .filter_map(|(at, reason)| Some((at?, reason)))
    }

    /// Takes the records of a response. Returns how many the cache had no room for.
    pub(crate) fn handle_response(
        &mut self,
        link: LinkId,
        source: IpAddr,
        message: &Message<'_>,
        cx: &mut Context<'_>,
    ) -> u32 {
        let mut full = 0;
        let Some(interface) = cx.links.get(link).map(|link| link.interface) else { return 0 };
        // One draw a packet: what came together is refreshed together, in few packets (RFC 6762 §5.2).
        let jitter = jitter_thousandths(cx.rng);
        let origin = Origin { link, interface, source };
        // What is wanted follows from what is known: an instance from its PTR, a host from its SRV.
        for pass in [Pass::Pointers, Pass::Services, Pass::Addresses] {
            for record in message.records().filter(|record| Pass::of(record.record_type()) == pass) {
                full += u32::from(!self.handle_record(origin, &record, jitter, cx));
            }
        }
        self.settle(cx);
        full
    }

    /// Keeps a record if somebody wants it. Returns whether there was room.
    fn handle_record(
        &mut self,
        origin: Origin,
        record: &Record<'_>,
        jitter: u32,
        cx: &mut Context<'_>,
    ) -> bool {
        let hash = self.keyed.name(record.name);
        let interface = origin.interface;
        let record = &Record { cache_flush: record.cache_flush && !is_shared_by_nature(record), ..*record };
        if record.class != Class::IN || !self.is_wanted(hash, record.name, record.record_type(), interface) {
            return true;
        }
        let stored = self.cache.store(origin, hash, record, jitter, cx.now);
        if matches!(stored, Stored::New(_) | Stored::Refreshed) && record.ttl > 0 {
            self.park_answered(hash, record, interface, cx.links);
        }
        if let Stored::New(id) = stored {
            self.appeared(id, hash, cx);
        }
        stored != Stored::Full
    }

    fn is_wanted(&self, hash: u64, name: Name<'_>, record_type: RecordType, interface: u32) -> bool {
        let mut matching =
            |record_type| self.questions.matching(hash, name, record_type, interface).next().is_some();
        if record_type == RecordType::NSEC {
            NEGATIVE.into_iter().any(&mut matching) || matching(record_type)
        } else {
            matching(record_type)
        }
    }

    /// RFC 6762 §5.2: a record of which there is only one, or the word that there is none, ends the asking.
    fn park_answered(&mut self, hash: u64, record: &Record<'_>, interface: u32, links: &Links) {
        if let RData::Nsec(nsec) = record.rdata {
            for record_type in NEGATIVE.into_iter().filter(|record_type| !nsec.types.contains(*record_type)) {
                for question in self.questions.matching(hash, record.name, record_type, interface) {
                    self.park(question, links, interface);
                    self.mark_subscribers(question, interface);
                }
            }
        } else if record.cache_flush {
            for question in self.questions.matching(hash, record.name, record.record_type(), interface) {
                self.park(question, links, interface);
            }
        }
    }

    fn park(&mut self, question: QuestionId, links: &Links, interface: u32) {
        // One answer of type ANY says nothing of the others.
        if self.questions.get(question).is_some_and(|question| question.record_type != RecordType::ANY) {
            self.questions.park(question, links, interface);
        }
    }

    /// Whether everything that a question can be answered with on an interface is in the cache.
    fn is_answered(
        &self,
        name: &NameBuf,
        hash: u64,
        record_type: RecordType,
        interface: u32,
        links: &Links,
    ) -> bool {
        record_type != RecordType::ANY
            && links.of_interface(interface).any(|link| {
                let unique = self.cache.set(link, hash, name.as_name(), record_type);
                let mut negative = self.cache.set(link, hash, name.as_name(), RecordType::NSEC);
                unique.into_iter().any(|(_, entry)| entry.unique && entry.is_certain())
                    || negative.any(|(_, entry)| {
                        matches!(entry.data.as_rdata(), RData::Nsec(nsec) if !nsec.types.contains(record_type))
                    })
            })
    }

    /// Subscribes, asks on all links if the question is new, and tells what is known already.
    fn subscribe(
        &mut self,
        name: &NameBuf,
        record_type: RecordType,
        scope: Option<u32>,
        subscriber: Subscriber,
        cx: &mut Context<'_>,
    ) -> QuestionId {
        let hash = self.keyed.name(name.as_name());
        let (id, is_new) = self.questions.subscribe(name, hash, record_type, scope, subscriber);
        if is_new {
            for (link, Link { interface, .. }) in cx.links.iter() {
                let answered = self.is_answered(name, hash, record_type, *interface, cx.links);
                self.questions.ask(id, link, *interface, answered, cx.rng, cx.now);
            }
        }
        let known: Vec<EntryId> = if record_type == RecordType::ANY {
            self.cache.iter().filter(|(_, entry)| entry.name == *name).map(|(id, _)| id).collect()
        } else {
            cx.links
                .iter()
                .filter(|(_, link)| scope.is_none_or(|scope| scope == link.interface))
                .flat_map(|(link, _)| {
                    self.cache.set(link, hash, name.as_name(), record_type).map(|(id, _)| id)
                })
                .collect()
        };
        for entry in known {
            self.tell_new(subscriber, entry, cx);
        }
        id
    }

    /// Tells everybody who wants it of a record that is new in the cache.
    fn appeared(&mut self, id: EntryId, hash: u64, cx: &mut Context<'_>) {
        let Some(entry) = self.cache.get(id) else { return };
        let questions =
            self.questions.matching(hash, entry.name.as_name(), entry.record_type(), entry.interface);
        for question in questions {
            let subscribers = self.questions.get(question).map(|question| question.subscribers.clone());
            for subscriber in subscribers.unwrap_or_default() {
                self.tell_new(subscriber, id, cx);
            }
        }
    }

    fn tell_new(&mut self, subscriber: Subscriber, id: EntryId, cx: &mut Context<'_>) {
        match subscriber {
            Subscriber::Instance(instance) => self.instance_record_appeared(instance, id, cx),
            Subscriber::Subscription(subscription) => self.subscribed_record_appeared(subscription, id, cx),
        }
    }

    /// Tells everybody who wanted it of a record that is gone, and asks for it again.
    fn expired(&mut self, entry: &Entry, cx: &mut Context<'_>) {
        let hash = self.keyed.name(entry.name.as_name());
        let questions: Vec<QuestionId> = if let RData::Nsec(nsec) = entry.data.as_rdata() {
            let missing = NEGATIVE.into_iter().filter(|record_type| !nsec.types.contains(*record_type));
            missing
                .flat_map(|record_type| {
                    self.questions.matching(hash, entry.name.as_name(), record_type, entry.interface)
                })
                .collect()
        } else {
            self.questions
                .matching(hash, entry.name.as_name(), entry.record_type(), entry.interface)
                .collect()
        };
        for id in questions {
            let Some(question) = self.questions.get(id) else { continue };
            let (name, record_type) = (question.name.clone(), question.record_type);
            let subscribers = question.subscribers.clone();
            let was_unique = entry.unique || entry.record_type() == RecordType::NSEC;
            if was_unique && !self.is_answered(&name, hash, record_type, entry.interface, cx.links) {
                self.questions.resume(id, cx.links, entry.interface, false, cx.rng, cx.now);
            }
            for subscriber in subscribers {
                match subscriber {
                    Subscriber::Instance(instance) => self.instance_record_expired(instance, entry, cx),
                    Subscriber::Subscription(subscription) => {
                        self.subscribed_record_expired(subscription, entry, cx);
                    }
                }
            }
        }
    }

    /// Marks the instances that have a question, to look at them again.
    fn mark_subscribers(&mut self, question: QuestionId, interface: u32) {
        let Some(question) = self.questions.get(question) else { return };
        for subscriber in &question.subscribers {
            if let Subscriber::Instance(instance) = *subscriber
                && let Some(found) = self.instances.get_mut(instance)
                && found.interface == interface
                && !found.dirty
            {
                found.dirty = true;
                self.dirty_instances.push(instance);
            }
        }
    }

    /// Takes note of a query of somebody else (RFC 6762 §7.3, §10.5).
    pub(crate) fn handle_foreign_query(&mut self, link: LinkId, message: &Message<'_>, cx: &mut Context<'_>) {
        let Some(interface) = cx.links.get(link).map(|link| link.interface) else { return };
        let mut knows_no_more = None;
        let mut visits = 0;
        for question in message.questions().filter(|question| !question.unicast_response) {
            let hash = self.keyed.name(question.name);
            let mut asked =
                self.questions.matching(hash, question.name, question.record_type, interface).peekable();
            if asked.peek().is_none() {
                continue;
            }
            // More known answers follow a truncated query: those are not seen here, so it is not relied on.
            let knows_no_more = *knows_no_more.get_or_insert_with(|| {
                !message.header().truncated
                    && message.answers().all(|record| {
                        let known = self.cache.find(link, self.keyed.name(record.name), &record);
                        known
                            .and_then(|id| self.cache.get(id))
                            .is_some_and(|entry| entry.known_answer(cx.now).is_some())
                    })
            });
            if knows_no_more {
                for id in asked {
                    self.questions.asked_by_others(id, link, cx.now);
                }
            }
            self.observe_failure(link, hash, &question, message, &mut visits, cx);
        }
    }

    /// Passive observation of failures (RFC 6762 §10.5).
    fn observe_failure(
        &mut self,
        link: LinkId,
        hash: u64,
        question: &crate::wire::Question<'_>,
        message: &Message<'_>,
        visits: &mut usize,
        cx: &mut Context<'_>,
    ) {
        // Of large sets some records are always missing in somebody's cache; the many are not walked for each query.
        const SET_MAX: usize = 64;
        // A message can ask the same hundreds of times, and name hundreds of known answers.
        const VISITS_MAX: usize = 20_000;
        if message.header().truncated || *visits > VISITS_MAX {
            return;
        }
        let mut expected = [0; SET_MAX];
        let set = self.cache.set(link, hash, question.name, question.record_type).map(|(id, _)| id);
        let mut count = 0;
        for (slot, id) in expected.iter_mut().zip(set) {
            *slot = id;
            count += 1;
        }
        *visits += count * (1 + message.answers().len());
        for &id in &expected[..count] {
            let Some(entry) = self.cache.get(id) else { continue };
            let data = entry.data.as_rdata();
            let known = message.answers().any(|record| record.rdata == data && entry.name == record.name);
            if !known && self.cache.asked_by_others(id, cx.now) {
                self.ask_about(id, true, cx);
            }
        }
    }

    /// Asks for a record again, if somebody wants it: it is in doubt.
    fn ask_about(&mut self, id: EntryId, doubt: bool, cx: &mut Context<'_>) {
        let Some(entry) = self.cache.get(id) else { return };
        let hash = self.keyed.name(entry.name.as_name());
        let interface = entry.interface;
        for question in self.questions.matching(hash, entry.name.as_name(), entry.record_type(), interface) {
            self.questions.resume(question, cx.links, interface, doubt, cx.rng, cx.now);
        }
    }

    /// Doubts a record (RFC 6762 §10.4).
    fn doubt(&mut self, id: EntryId, cx: &mut Context<'_>) {
        self.cache.doubt(id, cx.now);
        self.ask_about(id, true, cx);
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, cx: &mut Context<'_>) {
        while let Some(due) = self.cache.pop_due(cx.now) {
            match due {
                // RFC 6762 §5.2: only as long as somebody is interested, which having a question means.
                Due::Refresh(id) => {
                    let Some(entry) = self.cache.get(id) else { continue };
                    let (link, hash) = (entry.link, self.keyed.name(entry.name.as_name()));
                    let questions = self.questions.matching(
                        hash,
                        entry.name.as_name(),
                        entry.record_type(),
                        entry.interface,
                    );
                    for question in questions {
                        self.questions.refresh(question, link);
                    }
                }
                Due::Expired(entry) => self.expired(&entry, cx),
            }
        }
        self.questions.handle_timeout(cx.now);
        self.end_queries(cx);
        self.settle(cx);
    }

    /// A link has come up: everything is asked on it.
    pub(crate) fn link_up(&mut self, link: LinkId, cx: &mut Context<'_>) {
        let Some(interface) = cx.links.get(link).map(|link| link.interface) else { return };
        for id in self.questions.ids() {
            self.questions.ask(id, link, interface, false, cx.rng, cx.now);
        }
    }

    /// A link is gone, and with it what was learnt on it (RFC 6762 §10.3). Call before it leaves `cx.links`.
    pub(crate) fn link_down(&mut self, link: LinkId, cx: &mut Context<'_>) {
        self.questions.forget_link(link);
        self.more_known.retain(|(of, _)| *of != link);
        for entry in self.cache.forget_link(link) {
            self.expired(&entry, cx);
        }
        self.settle(cx);
    }

    /// What was asked did not leave.
    pub(crate) fn ask_again(&mut self, link: LinkId, cx: &mut Context<'_>) {
        self.questions.restart_link(link, cx.rng, cx.now);
    }

    /// The host slept, or its cable was out: everything is asked again, and what is not confirmed goes (RFC 6762 §10.3).
    pub(crate) fn verify_link(&mut self, link: LinkId, cx: &mut Context<'_>) {
        let known: Vec<EntryId> =
            self.cache.iter().filter(|(_, entry)| entry.link == link).map(|(id, _)| id).collect();
        for id in known {
            self.cache.doubt(id, cx.now);
        }
        self.questions.restart_link(link, cx.rng, cx.now);
    }
}

/// Whether many hosts have records of that name and type whatever one of them claims: instances and types of services, under
/// names that begin with an underscore (RFC 6763 §4.1, §7.1, §9). Devices set the cache-flush bit there, against RFC 6762 §10.2;
/// believed, it would make the services of all others vanish.
fn is_shared_by_nature(record: &Record<'_>) -> bool {
    record.record_type() == RecordType::PTR
        && record.name.labels().next().is_some_and(|label| label.starts_with(b"_"))
}

/// In which order records of one packet are looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    Pointers,
    Services,
    Addresses,
}

impl Pass {
    fn of(record_type: RecordType) -> Self {
        match record_type {
            RecordType::PTR => Self::Pointers,
            RecordType::A | RecordType::AAAA | RecordType::NSEC => Self::Addresses,
            _ => Self::Services,
        }
    }
}

/// Up to 2 % (RFC 6762 §5.2).
fn jitter_thousandths(rng: &mut ChaCha8Rng) -> u32 {
    rand_core::Rng::next_u32(rng) % 21
}
