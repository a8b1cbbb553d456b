//! The answering half: own records, from the probe for their name to their goodbye.
//!
//! Records come in *groups*: what one host name, or one instance of a service, has. A group has a *presence* on each
//! link, which probes for its name, announces it and then defends it. What is to be multicast is *pending* on a link until
//! it is due, so that answers to several queries share packets and each record keeps its distance from the last time.
//!
//! ```text
//!  publish ─► group ─► presence on each link:  probing ─► announcing ─► established
//!                                                 ▲ │ conflict: another name      │ conflict
//!                                                 └─┴──────◄──────────────────────┘
//!  query ─► own records ─► known to the asker? ─┬─► pending on the link ──► multicast response
//!                                               ├─► collecting (TC) ──┘
//!                                               └─► reply ────────────────► unicast response
//! ```

mod groups;
mod presence;
mod records;
mod responder;
mod write;

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::time::{Duration, Instant};

use slab::Slab;

use crate::event::Event;
use crate::hash::{AlreadyHashed, Keyed, mix};
use crate::link::{LinkId, Links};
use crate::schedule::Schedule;
use crate::wire::{Class, NameBuf, RData, Record, RecordData, RecordType};
use groups::{Group, GroupId};
use presence::{Phase, Presence, PresenceId};
pub(crate) use responder::Asker;
use responder::{Collecting, Reply};
pub(crate) use write::Room;

pub(crate) use crate::querier::Context;

/// RFC 6762 §10: of records that name a host, in their name or their data, in seconds.
const TTL_HOST: u32 = 120;
/// RFC 6762 §10: of all others.
const TTL_OTHER: u32 = 4_500;
/// At least so long between two multicasts of one record on one link (RFC 6762 §6).
const GAP: Duration = Duration::from_secs(1);
/// The same when the second defends the name against a probe (RFC 6762 §6).
const GAP_DEFENCE: Duration = Duration::from_millis(250);

/// The slot of an own record.
type RecordId = usize;

type ListsByHash = HashMap<u64, Vec<RecordId>, BuildHasherDefault<AlreadyHashed>>;

/// A multicast that is to come.
#[derive(Clone, Copy, Debug)]
struct Pending {
    /// When it is to be sent at the latest.
    due: Instant,
    /// When it may be sent together with something else.
    not_before: Instant,
    /// Whether it is one of the announcements.
    announces: bool,
}

/// What a record has to do with a link.
#[derive(Clone, Copy, Debug, Default)]
struct OnLink {
    /// When it was multicast last.
    multicast: Option<Instant>,
    pending: Option<Pending>,
    /// How often it was announced.
    announced: u8,
}

/// A record of ours.
#[derive(Debug)]
struct OwnRecord {
    group: GroupId,
    name: NameBuf,
    name_hash: u64,
    data: RecordData,
    ttl: u32,
    unique: bool,
    /// The interface to which it is confined: addresses are (RFC 6762 §6.2).
    interface: Option<u32>,
    /// It has been taken back; what is pending is its goodbye.
    leaving: bool,
    /// The query in which it was a known answer last.
    known_in: u64,
    /// The query that asked for it last.
    asked_in: u64,
    /// The packet in which it was written last.
    written_in: u64,
    /// By link.
    links: Vec<OnLink>,
}

impl OwnRecord {
    fn record_type(&self) -> RecordType {
        self.data.record_type()
    }

    /// Says which types the name has; stands aside of the records of its group.
    fn is_negative(&self) -> bool {
        self.record_type() == RecordType::NSEC
    }

    fn on(&self, link: LinkId) -> OnLink {
        self.links.get(link).copied().unwrap_or_default()
    }

    fn on_mut(&mut self, link: LinkId) -> &mut OnLink {
        if self.links.len() <= link {
            self.links.resize(link + 1, OnLink::default());
        }
        &mut self.links[link]
    }

    /// The record as it is sent (RFC 6762 §10.1, §10.2).
    fn as_record(&self) -> Record<'_> {
        Record {
            name: self.name.as_name(),
            class: Class::IN,
            cache_flush: self.unique,
            ttl: if self.leaving { 0 } else { self.ttl },
            rdata: self.data.as_rdata(),
        }
    }

    /// No less than it takes in a packet.
    fn len_max(&self) -> usize {
        self.name.as_wire().len() + 10 + self.data.as_bytes().len()
    }
}

/// The answering half of the engine.
#[derive(Debug)]
pub(crate) struct Publisher {
    groups: Slab<Group>,
    /// Services and hosts by the hash of their name; types by that of the type.
    groups_by_name: ListsByHash,
    /// The group of this host's own name and addresses.
    this_host: Option<GroupId>,
    /// Services and hosts among the groups.
    publications: usize,
    /// Groups that were ever made: makes the number of each unique.
    serial: u32,
    records: Slab<OwnRecord>,
    by_name: ListsByHash,
    by_data: ListsByHash,
    presences: Slab<Presence>,
    presence_schedule: Schedule,
    /// By group: when a change that came too soon is announced.
    updates: Schedule,
    /// By link: when the probes begin of names that came up together, so that they share packets.
    probe_batches: Vec<Option<Instant>>,
    /// By link: presences that are to probe at once.
    probes: Vec<VecDeque<PresenceId>>,
    /// By link: when each record that has something pending there is due.
    pending: Vec<Schedule>,
    replies: VecDeque<Reply>,
    collecting: Vec<Collecting>,
    /// Queries looked at: the number of the one whose known answers are marked.
    query_serial: u64,
    /// Packets written.
    packet_serial: u64,
    events: VecDeque<Event>,
    keyed: Keyed,
    lists: Lists,
}

/// Lists of records that were used and will be again: answering allocates only until they are long enough.
#[derive(Debug, Default)]
struct Lists(Vec<Vec<RecordId>>);

impl Lists {
    /// As many as unicast replies to one batch of received packets wait, and then some.
    const KEPT_MAX: usize = 64;
    /// Records that each has room for from the start: those of one packet.
    const ROOM: usize = 128;

    /// An empty one.
    fn take(&mut self) -> Vec<RecordId> {
        self.0.pop().unwrap_or_else(|| Vec::with_capacity(Self::ROOM))
    }

    fn give_back(&mut self, mut list: Vec<RecordId>) {
        if self.0.len() < Self::KEPT_MAX {
            list.clear();
            self.0.push(list);
        }
    }
}

impl Publisher {
    pub(crate) fn new(keyed: Keyed) -> Self {
        Self {
            groups: Slab::new(),
            groups_by_name: ListsByHash::default(),
            this_host: None,
            publications: 0,
            serial: 0,
            records: Slab::new(),
            by_name: ListsByHash::default(),
            by_data: ListsByHash::default(),
            presences: Slab::new(),
            presence_schedule: Schedule::default(),
            updates: Schedule::default(),
            probe_batches: Vec::new(),
            probes: Vec::new(),
            pending: Vec::new(),
            replies: VecDeque::new(),
            collecting: Vec::new(),
            query_serial: 0,
            packet_serial: 0,
            events: VecDeque::new(),
            keyed,
            lists: Lists::default(),
        }
    }

    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next deadlines and their reasons.
    pub(crate) fn poll_timeout(&self) -> impl Iterator<Item = (Instant, &'static str)> {
        [
            (self.presence_schedule.next(), "a name is to be probed or announced"),
            (self.pending.iter().filter_map(Schedule::next).min(), "a response is due"),
            (self.replies.iter().map(|reply| reply.due).min(), "a unicast response is due"),
            (
                self.collecting.iter().map(|collecting| collecting.until).min(),
                "known answers have had their time",
            ),
            (self.updates.next(), "a change may be announced"),
        ]
        .into_iter()
        .filter_map(|(at, reason)| Some((at?, reason)))
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, cx: &mut Context<'_>) {
        self.announce_delayed_updates(cx);
        while let Some(id) = self.presence_schedule.pop_due(cx.now) {
            self.advance(id, cx);
        }
        self.end_collecting(cx);
    }

    /// Makes room in what is kept by link.
    fn make_room(&mut self, link: LinkId) {
        if self.pending.len() <= link {
            self.pending.resize_with(link + 1, Schedule::default);
            self.probes.resize_with(link + 1, VecDeque::new);
            self.probe_batches.resize(link + 1, None);
        }
    }

    fn insert_record(&mut self, record: OwnRecord) -> RecordId {
        let (name_hash, data_key) =
            (record.name_hash, self.data_key(record.name_hash, &record.data.as_rdata()));
        let id = self.records.insert(record);
        self.by_name.entry(name_hash).or_default().push(id);
        self.by_data.entry(data_key).or_default().push(id);
        id
    }

    fn remove_record(&mut self, id: RecordId) {
        let Some(record) = self.records.try_remove(id) else { return };
        let data_key = self.data_key(record.name_hash, &record.data.as_rdata());
        remove_from(&mut self.by_name, record.name_hash, id);
        remove_from(&mut self.by_data, data_key, id);
        for (link, on) in record.links.iter().enumerate() {
            if on.pending.is_some() {
                self.pending[link].clear(id);
            }
        }
        for reply in &mut self.replies {
            reply.records.retain(|other| *other != id);
        }
        for collecting in &mut self.collecting {
            collecting.records.retain(|other| *other != id);
        }
    }

    fn data_key(&self, name_hash: u64, data: &RData<'_>) -> u64 {
        mix([name_hash, u64::from(data.record_type().0), self.keyed.data(data)])
    }

    /// Own records that say the same, on whatever interface.
    fn same_records<'p>(
        &'p self,
        name_hash: u64,
        record: &'p Record<'p>,
    ) -> impl Iterator<Item = RecordId> + 'p {
        let key = self.data_key(name_hash, &record.rdata);
        self.by_data.get(&key).map(Vec::as_slice).unwrap_or_default().iter().copied().filter(|&id| {
            self.records.get(id).is_some_and(|own| {
                own.name == record.name && own.data == record.rdata && record.class == Class::IN
            })
        })
    }

    /// Whether the record may be said on a link: its name is ours there, and it is one of that interface.
    fn is_live(&self, record: &OwnRecord, link: LinkId, links: &Links) -> bool {
        !record.leaving
            && Self::is_valid_on(record, link, links)
            && self.phase(record.group, link).is_some_and(Phase::is_ours)
    }

    fn is_valid_on(record: &OwnRecord, link: LinkId, links: &Links) -> bool {
        record.interface.is_none_or(|index| links.get(link).is_some_and(|link| link.interface == index))
    }

    /// Has a record multicast on a link at `due`, or together with others after `not_before`; in any case `gap` after the
    /// last time.
    fn pend(
        &mut self,
        id: RecordId,
        link: LinkId,
        not_before: Instant,
        due: Instant,
        gap: Duration,
        announces: bool,
    ) {
        self.make_room(link);
        let Some(record) = self.records.get_mut(id) else { return };
        let on = record.on_mut(link);
        let earliest = on.multicast.map_or(not_before, |at| not_before.max(at + gap));
        let due = due.max(earliest);
        if let Some(pending) = &mut on.pending {
            pending.due = pending.due.min(due);
            pending.not_before = pending.not_before.min(earliest);
            pending.announces |= announces;
        } else {
            on.pending = Some(Pending { due, not_before: earliest, announces });
        }
        self.pending[link].set_earlier(id, due);
    }

    /// Nothing of a record is pending on a link any more.
    fn forget_pending(&mut self, id: RecordId, link: LinkId) {
        if let Some(record) = self.records.get_mut(id)
            && record.on_mut(link).pending.take().is_some()
        {
            self.pending[link].clear(id);
        }
    }

    /// A link has come up.
    pub(crate) fn link_up(&mut self, link: LinkId, cx: &mut Context<'_>) {
        self.make_room(link);
        let groups: Vec<GroupId> = self.groups.iter().map(|(id, _)| id).collect();
        for group in groups {
            self.sync(group, cx);
            if self.groups[group].is_unique() {
                self.appear(group, link, cx);
            }
        }
    }

    /// A link is gone: nothing can be said on it any more. Call before it leaves `cx.links`.
    pub(crate) fn link_down(&mut self, link: LinkId) {
        self.make_room(link);
        let gone: Vec<PresenceId> =
            self.presences.iter().filter(|(_, presence)| presence.link == link).map(|(id, _)| id).collect();
        for id in gone {
            self.remove_presence(id);
        }
        self.probe_batches[link] = None;
        while let Some(id) = self.pending[link].pop() {
            if let Some(record) = self.records.get_mut(id) {
                record.on_mut(link).pending = None;
            }
            self.bury(id);
        }
        for (_, record) in &mut self.records {
            if let Some(on) = record.links.get_mut(link) {
                *on = OnLink::default();
            }
        }
        self.replies.retain(|reply| reply.link != link);
        self.collecting.retain(|collecting| collecting.link != link);
    }

    /// Removes a record that has said goodbye everywhere.
    fn bury(&mut self, id: RecordId) {
        let done = self
            .records
            .get(id)
            .is_some_and(|record| record.leaving && record.links.iter().all(|on| on.pending.is_none()));
        if done {
            self.remove_record(id);
        }
    }

    /// The host slept, or its cable was out: every name is probed for and announced again (RFC 6762 §8).
    pub(crate) fn verify_link(&mut self, link: LinkId, cx: &mut Context<'_>) {
        for (_, record) in &mut self.records {
            record.on_mut(link).announced = 0;
        }
        let here: Vec<PresenceId> =
            self.presences.iter().filter(|(_, presence)| presence.link == link).map(|(id, _)| id).collect();
        for id in here {
            if self.groups[self.presences[id].group].is_unique() {
                self.begin(id, cx);
            } else {
                self.remove_presence(id);
            }
        }
    }
}

/// Takes a slot out of the list under a hash.
fn remove_from(lists: &mut ListsByHash, hash: u64, slot: usize) {
    if let Some(list) = lists.get_mut(&hash) {
        list.retain(|other| *other != slot);
        if list.is_empty() {
            lists.remove(&hash);
        }
    }
}
