//! Queries, and what is answered to whom and when (RFC 6762 §6, §7).

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::{Context, GAP, Publisher, RecordId};
use crate::drops::DropReason;
use crate::jitter;
use crate::link::LinkId;
use crate::wire::{Class, Message, NameBuf, RecordType};

/// Unicast responses that may wait.
const REPLIES_MAX: usize = 256;
/// Truncated queries that may wait for the rest of their known answers.
const COLLECTING_MAX: usize = 64;
/// How long one may wait altogether, however many packets follow.
const COLLECTING_MAX_TIME: Duration = Duration::from_secs(2);
/// Own records that one query may make us look at: a query can name the largest set hundreds of times.
const VISITS_MAX: usize = 10_000;
/// Shared answers are delayed by 20 to 120 ms (RFC 6762 §6).
const SHARED_DELAY_MS: (u32, u32) = (20, 120);
/// Answers to truncated queries by 400 to 500 ms (RFC 6762 §7.2).
const TRUNCATED_DELAY_MS: (u32, u32) = (400, 500);

/// A question as a legacy querier wants it back.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) name: NameBuf,
    pub(super) record_type: RecordType,
    pub(super) class: Class,
}

/// A unicast response that is to come.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) link: LinkId,
    pub(super) to: SocketAddr,
    pub(super) due: Instant,
    pub(super) records: Vec<RecordId>,
    /// The address of ours that was asked.
    pub(super) source: Option<IpAddr>,
    pub(super) legacy: Option<Legacy>,
}

/// What a legacy querier wants back (RFC 6762 §6.7), and how much it can take.
#[derive(Debug)]
pub(super) struct Legacy {
    pub(super) id: u16,
    pub(super) asked: Vec<Asked>,
    /// The most bytes that it says it can take (RFC 6891 §6.2.3).
    pub(super) payload_max: Option<usize>,
}

impl Legacy {
    /// Bytes that each resolver can take (RFC 1035 §2.3.4).
    const PAYLOAD_MIN: usize = 512;

    fn new(message: &Message<'_>) -> Self {
        let asked = message.questions().map(|question| Asked {
            name: question.name.to_owned(),
            record_type: question.record_type,
            class: question.class,
        });
        // RFC 6891 §6.1.2: the class of an OPT record is a length.
        let options = message.additionals().find(|record| record.record_type() == RecordType(41));
        let payload_max = options.map(|options| usize::from(options.class.0).max(Self::PAYLOAD_MIN));
        Self { id: message.header().id, asked: asked.collect(), payload_max }
    }
}

/// A truncated query, the rest of whose known answers are to come (RFC 6762 §7.2).
#[derive(Debug)]
pub(super) struct Collecting {
    pub(super) link: LinkId,
    source: SocketAddr,
    pub(super) until: Instant,
    at_the_latest: Instant,
    pub(super) records: Vec<RecordId>,
}

/// Where a query came from, and how it may be answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker {
    pub(crate) link: LinkId,
    pub(crate) from: SocketAddr,
    /// It was sent to us alone: so is the answer (RFC 6762 §5.5).
    pub(crate) directly: bool,
    /// The address of ours that it was sent to, if that is one.
    pub(crate) asked: Option<IpAddr>,
    /// It may be sent a unicast response: it is on the link.
    pub(crate) reachable: bool,
    /// No router can have passed it on.
    pub(crate) from_link: bool,
}

impl Asker {
    /// It does not speak Multicast DNS (RFC 6762 §6.7).
    fn is_legacy(&self) -> bool {
        self.from.port() != crate::PORT
    }
}

/// What is to be answered to one query, by way.
struct Answers {
    multicast: Vec<RecordId>,
    unicast: Vec<RecordId>,
}

impl Publisher {
    /// Takes a query. Returns why it is not answered, if that is for a reason worth counting.
    pub(crate) fn handle_query(
        &mut self,
        message: &Message<'_>,
        asker: Asker,
        cx: &mut Context<'_>,
    ) -> Result<(), DropReason> {
        // RFC 6762 §11: nothing is sent to hosts that only claim to be on the link.
        if (asker.is_legacy() || asker.directly) && !asker.reachable {
            return Err(DropReason::OffLink);
        }
        // A plain resolver may ask us directly whatever hop limit it has. A probe makes us give way, so it is only taken from the
        // link.
        let probes = message.authorities().len() > 0 && asker.from_link;
        if probes {
            self.handle_probe(message, asker.link, cx.links.is_own(asker.from.ip()), cx);
        }
        self.query_serial += 1;
        self.mark_known_answers(message);
        if message.questions().len() == 0 {
            self.continue_collecting(asker, message.header().truncated, cx);
            return Ok(());
        }
        let mut answers = Answers { multicast: self.lists.take(), unicast: self.lists.take() };
        self.find_answers(message, asker, &mut answers, cx);
        self.schedule_unicast(message, asker, answers.unicast, cx)?;
        self.schedule_multicast(message, asker, answers.multicast, probes, cx)
    }

    /// RFC 6762 §7.1: what the asker knows for at least half its time is not said.
    fn mark_known_answers(&mut self, message: &Message<'_>) {
        for record in message.answers() {
            let hash = self.keyed.name(record.name);
            if !self.by_name.contains_key(&hash) {
                continue;
            }
            let key = self.data_key(hash, &record.rdata);
            for &id in self.by_data.get(&key).map(Vec::as_slice).unwrap_or_default() {
                if let Some(own) = self.records.get_mut(id)
                    && own.name == record.name
                    && own.data == record.rdata
                    && u64::from(record.ttl) * 2 >= u64::from(own.ttl)
                {
                    own.known_in = self.query_serial;
                }
            }
        }
    }

    fn find_answers(&mut self, message: &Message<'_>, asker: Asker, answers: &mut Answers, cx: &Context<'_>) {
        let mut visits = 0;
        let mut answering = self.lists.take();
        for question in message.questions() {
            if question.class != Class::IN && question.class != Class::ANY {
                continue;
            }
            let hash = self.keyed.name(question.name);
            let Some(named) = self.by_name.get(&hash) else { continue };
            visits += named.len();
            if visits > VISITS_MAX {
                break;
            }
            let live = || {
                named
                    .iter()
                    .filter_map(|id| Some((*id, self.records.get(*id)?)))
                    .filter(|(_, own)| own.name == question.name && self.is_live(own, asker.link, cx.links))
            };
            let asked =
                |record_type| question.record_type == RecordType::ANY || question.record_type == record_type;
            // ANY is all there is, without the record that says what there is not (RFC 6762 §6.5).
            let mut found = live()
                .filter(|(_, own)| !own.is_negative() || question.record_type == RecordType::NSEC)
                .filter(|(_, own)| asked(own.record_type()))
                .peekable();
            let negative =
                if found.peek().is_none() { live().find(|(_, own)| own.is_negative()) } else { None };
            answering.extend(found.chain(negative).map(|(id, _)| id));
            for id in answering.drain(..) {
                if std::mem::replace(&mut self.records[id].asked_in, self.query_serial) == self.query_serial {
                    continue;
                }
                let own = &self.records[id];
                let known = self.siblings(id).all(|id| self.records[id].known_in == self.query_serial);
                if known {
                    continue;
                }
                // RFC 6762 §5.4: by unicast, unless the others have not heard it for a quarter of its time.
                let lately = own.on(asker.link).multicast.is_some_and(|at| {
                    cx.now.saturating_duration_since(at) < Duration::from_secs(u64::from(own.ttl)) / 4
                });
                let unicast = asker.is_legacy()
                    || asker.directly
                    || (question.unicast_response && asker.reachable && lately);
                if unicast { answers.unicast.push(id) } else { answers.multicast.push(id) }
            }
        }
        self.lists.give_back(answering);
    }

    fn schedule_unicast(
        &mut self,
        message: &Message<'_>,
        asker: Asker,
        records: Vec<RecordId>,
        cx: &mut Context<'_>,
    ) -> Result<(), DropReason> {
        if records.is_empty() {
            self.lists.give_back(records);
            return Ok(());
        }
        if self.replies.len() >= REPLIES_MAX {
            return Err(DropReason::RepliesFull);
        }
        let shared = records.iter().any(|id| !self.records[*id].unique);
        let (from, to) = SHARED_DELAY_MS;
        let due = if shared && !asker.is_legacy() { cx.now + jitter(cx.rng, from, to) } else { cx.now };
        let legacy = asker.is_legacy().then(|| Legacy::new(message));
        let (link, to, source) = (asker.link, asker.from, asker.asked);
        self.replies.push_back(Reply { link, to, due, records, source, legacy });
        Ok(())
    }

    fn schedule_multicast(
        &mut self,
        message: &Message<'_>,
        asker: Asker,
        records: Vec<RecordId>,
        probes: bool,
        cx: &mut Context<'_>,
    ) -> Result<(), DropReason> {
        if message.header().truncated && !probes {
            // Also when nothing is to be answered yet: the questions are in this packet only.
            return self.begin_collecting(asker, records, cx);
        }
        let shared = records.iter().any(|id| !self.records[*id].unique);
        let (from, to) = SHARED_DELAY_MS;
        let delay = jitter(cx.rng, from, to);
        for &id in &records {
            // RFC 6762 §6: only the owner of unique records knows that nobody else answers at the same moment.
            let (not_before, due) = if shared {
                (cx.now + Duration::from_millis(u64::from(from)), cx.now + delay)
            } else {
                (cx.now, cx.now)
            };
            self.pend_set(id, asker.link, not_before, due, Self::gap(probes), false);
        }
        self.lists.give_back(records);
        Ok(())
    }

    /// Has a record and its set multicast, together.
    pub(super) fn pend_set(
        &mut self,
        id: RecordId,
        link: LinkId,
        not_before: Instant,
        due: Instant,
        gap: Duration,
        announces: bool,
    ) {
        let mut siblings = self.lists.take();
        siblings.extend(self.siblings(id));
        let last = siblings.iter().filter_map(|id| self.records.get(*id)?.on(link).multicast).max();
        let not_before = last.map_or(not_before, |last| not_before.max(last + gap));
        for &sibling in &siblings {
            self.pend(sibling, link, not_before, due, gap, announces);
        }
        self.lists.give_back(siblings);
    }

    fn begin_collecting(
        &mut self,
        asker: Asker,
        records: Vec<RecordId>,
        cx: &mut Context<'_>,
    ) -> Result<(), DropReason> {
        if records.is_empty() {
            self.lists.give_back(records);
            return Ok(());
        }
        let (from, to) = TRUNCATED_DELAY_MS;
        let until = cx.now + jitter(cx.rng, from, to);
        let same =
            |collecting: &&mut Collecting| collecting.link == asker.link && collecting.source == asker.from;
        if let Some(collecting) = self.collecting.iter_mut().find(same) {
            for &id in &records {
                if !collecting.records.contains(&id) {
                    collecting.records.push(id);
                }
            }
            self.lists.give_back(records);
            collecting.until = until.min(collecting.at_the_latest);
            return Ok(());
        }
        if self.collecting.len() >= COLLECTING_MAX {
            return Err(DropReason::RepliesFull);
        }
        let at_the_latest = cx.now + COLLECTING_MAX_TIME;
        self.collecting.push(Collecting {
            link: asker.link,
            source: asker.from,
            until,
            at_the_latest,
            records,
        });
        Ok(())
    }

    /// More known answers to a truncated query (RFC 6762 §7.2).
    fn continue_collecting(&mut self, asker: Asker, more: bool, cx: &mut Context<'_>) {
        let (from, to) = TRUNCATED_DELAY_MS;
        let until = cx.now + jitter(cx.rng, from, to);
        let (records, serial) = (&self.records, self.query_serial);
        for collecting in &mut self.collecting {
            if collecting.link == asker.link && collecting.source == asker.from {
                collecting.records.retain(|id| records.get(*id).is_some_and(|own| own.known_in != serial));
                if more {
                    collecting.until = until.min(collecting.at_the_latest);
                }
            }
        }
    }

    /// Answers the truncated queries that have had their time.
    pub(super) fn end_collecting(&mut self, cx: &mut Context<'_>) {
        while let Some(at) = self.collecting.iter().position(|collecting| collecting.until <= cx.now) {
            let Collecting { link, records, .. } = self.collecting.swap_remove(at);
            for &id in &records {
                self.pend_set(id, link, cx.now, cx.now, GAP, false);
            }
            self.lists.give_back(records);
        }
    }

    /// Takes a response of somebody else: it may spare us an answer, contradict us, or need correction.
    pub(crate) fn handle_response(
        &mut self,
        message: &Message<'_>,
        link: LinkId,
        from: IpAddr,
        multicast: bool,
        cx: &mut Context<'_>,
    ) {
        let from_here = cx.links.is_own(from);
        for record in message.records() {
            let hash = self.keyed.name(record.name);
            if !self.by_name.contains_key(&hash) {
                continue;
            }
            let mut same = false;
            let mut correct = None;
            let mut spared = None;
            for id in self.same_records(hash, &record) {
                let own = &self.records[id];
                same |= !own.leaving;
                if !self.is_live(own, link, cx.links) {
                    continue;
                }
                if u64::from(record.ttl) * 2 < u64::from(own.ttl) {
                    correct = Some(id);
                } else if record.ttl >= own.ttl && multicast {
                    spared = Some(id);
                }
            }
            if let Some(id) = correct {
                // RFC 6762 §6.6: otherwise the caches would believe the shorter time, or the goodbye.
                self.pend_set(id, link, cx.now, cx.now, GAP, false);
            }
            if let Some(id) = spared
                && self.records[id].on(link).pending.is_some_and(|pending| !pending.announces)
            {
                // RFC 6762 §7.4
                self.forget_pending(id, link);
            }
            // RFC 6762 §9: the same data are no conflict; nor is a goodbye. Addresses of ours that were bridged from another
            // link are the same data too (§14).
            if !same && record.ttl > 0 && record.class == Class::IN {
                self.handle_foreign_record(hash, &record, link, from_here, cx);
            }
        }
    }
}
