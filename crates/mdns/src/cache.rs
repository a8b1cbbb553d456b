//! The records of others, for as long as they hold.
//!
//! A record is kept by the link on which it arrived (RFC 6762 §14), in the set of those with the same name, type and
//! class. Two indexes lead to it, by set and by record, both by keyed hash, so that neither a look-up nor a refresh
//! allocates or walks a large set.

use std::collections::{BTreeMap, HashMap, btree_map};
use std::hash::BuildHasherDefault;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use slab::Slab;

use crate::hash::{AlreadyHashed, Keyed, SlotsByHash, mix};
use crate::link::LinkId;
use crate::schedule::Schedule;
use crate::wire::{Class, Name, NameBuf, Record, RecordData, RecordType};

/// A record that expires at once would be asked for at once: what a sender gives less than this, gets this.
const TTL_MIN: u32 = 15;
/// The longest a record is kept unconfirmed: 75 minutes, the longest TTL that RFC 6762 §10 recommends.
const TTL_MAX: u32 = 4_500;
/// How long what was taken back, or replaced, is kept (RFC 6762 §10.1, §10.2).
const GRACE: Duration = Duration::from_secs(1);
/// How long a record may stay that is being verified (RFC 6762 §10.4, §10.5).
pub(crate) const DOUBT: Duration = Duration::from_secs(10);
/// Refreshes are asked for at 80, 85, 90 and 95 % of the TTL (RFC 6762 §5.2).
const REFRESHES: u32 = 4;
/// Bytes counted for a record beside its name and data: its entry, its place in two indexes and in the schedule.
const OVERHEAD: usize = 224;
/// Records of one name and type on one link.
const SET_MAX: u32 = 8_192;
/// One source has this part of an interface's records at most: alone it cannot keep the others out.
const SOURCE_SHARE: usize = 4;

const NONE: u32 = u32::MAX;

/// The slot of a record.
pub(crate) type EntryId = usize;

/// A record.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) link: LinkId,
    pub(crate) interface: u32,
    source: IpAddr,
    pub(crate) name: NameBuf,
    pub(crate) class: Class,
    pub(crate) data: RecordData,
    /// Whether its sender says that there are no others of its set.
    pub(crate) unique: bool,
    /// In seconds, within the limits.
    pub(crate) ttl: u32,
    pub(crate) received: Instant,
    pub(crate) expires: Instant,
    /// How many of the four refreshes are past; all of them when it must go anyway.
    refreshes: u32,
    /// Up to 2 % of the TTL, in thousandths (RFC 6762 §5.2).
    jitter: u32,
    /// When somebody else first asked for it and nobody answered, and how often since (RFC 6762 §10.5).
    unanswered: Option<(Instant, u32)>,
    set_key: u64,
    data_key: u64,
    older: u32,
    newer: u32,
}

impl Entry {
    pub(crate) fn record_type(&self) -> RecordType {
        self.data.record_type()
    }

    /// The record, with its whole TTL.
    pub(crate) fn as_record(&self) -> Record<'_> {
        Record {
            name: self.name.as_name(),
            class: self.class,
            cache_flush: self.unique,
            ttl: self.ttl,
            rdata: self.data.as_rdata(),
        }
    }

    /// Whether nothing speaks against it: it is neither doubted, replaced, taken back nor near its end.
    pub(crate) fn is_certain(&self) -> bool {
        self.refreshes < REFRESHES
    }

    /// What is left of its time, rounded down to seconds.
    pub(crate) fn ttl_left(&self, now: Instant) -> u32 {
        self.expires.saturating_duration_since(now).as_secs() as u32
    }

    /// The record as a known answer: with what is left of its TTL, without the cache-flush bit (RFC 6762 §10.2). `None`
    /// when less than half is left, so that it is refreshed (§7.1).
    pub(crate) fn known_answer(&self, now: Instant) -> Option<Record<'_>> {
        let ttl = self.ttl_left(now);
        (u64::from(ttl) * 2 >= u64::from(self.ttl)).then(|| Record {
            cache_flush: false,
            ttl,
            ..self.as_record()
        })
    }

    /// When something is next to be done about it.
    fn next_deadline(&self) -> Instant {
        if self.refreshes >= REFRESHES {
            return self.expires;
        }
        let thousandths = 800 + 50 * self.refreshes + self.jitter;
        self.expires.min(self.received + Duration::from_millis(u64::from(self.ttl) * u64::from(thousandths)))
    }

    fn bytes(&self) -> usize {
        OVERHEAD + self.name.as_wire().len() + self.data.as_bytes().len()
    }
}

/// Where a record came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub(crate) link: LinkId,
    pub(crate) interface: u32,
    pub(crate) source: IpAddr,
}

/// What became of a record that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// It was not known.
    New(EntryId),
    /// It was known, and holds longer now.
    Refreshed,
    /// A goodbye: of a known record, which goes in a second, or of an unknown one.
    Goodbye,
    /// There is no room for it.
    Full,
}

/// What is to be done about a record.
#[derive(Debug)]
pub(crate) enum Due {
    /// Ask for it again, if anybody is interested.
    Refresh(EntryId),
    /// It is gone.
    Expired(Box<Entry>),
}

/// How much is kept at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) entries: usize,
    pub(crate) bytes: usize,
    pub(crate) entries_per_interface: usize,
}

#[derive(Clone, Copy, Debug)]
struct Set {
    newest: u32,
    len: u32,
    /// When a record with the cache-flush bit last took the others out.
    flushed: Option<Instant>,
}

/// All records.
#[derive(Debug)]
pub(crate) struct Cache {
    entries: Slab<Entry>,
    sets: HashMap<u64, Set, BuildHasherDefault<AlreadyHashed>>,
    records: SlotsByHash,
    schedule: Schedule,
    limits: Limits,
    bytes: usize,
    by_interface: BTreeMap<u32, usize>,
    by_source: BTreeMap<(u32, IpAddr), usize>,
    keyed: Keyed,
}

/// One less; what is at zero goes.
fn decrement<K: Ord>(counts: &mut BTreeMap<K, usize>, key: K) {
    if let btree_map::Entry::Occupied(mut count) = counts.entry(key) {
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
        }
    }
}

fn set_key(link: LinkId, name_hash: u64, record_type: RecordType, class: Class) -> u64 {
    mix([name_hash, link as u64, u64::from(record_type.0) << 16 | u64::from(class.0)])
}

impl Cache {
    pub(crate) fn new(limits: Limits, keyed: Keyed) -> Self {
        Self {
            entries: Slab::new(),
            sets: HashMap::default(),
            records: SlotsByHash::default(),
            schedule: Schedule::default(),
            limits,
            bytes: 0,
            by_interface: BTreeMap::new(),
            by_source: BTreeMap::new(),
            keyed,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn get(&self, id: EntryId) -> Option<&Entry> {
        self.entries.get(id)
    }

    /// When [`Cache::pop_due`] has something next.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.schedule.next()
    }

    /// Takes in a record from the network. `jitter` is from 0 to 20.
    pub(crate) fn store(
        &mut self,
        origin: Origin,
        name_hash: u64,
        record: &Record<'_>,
        jitter: u32,
        now: Instant,
    ) -> Stored {
        let Origin { link, interface, source } = origin;
        let set_key = set_key(link, name_hash, record.record_type(), record.class);
        let data_key = mix([set_key, self.keyed.data(&record.rdata)]);
        if record.cache_flush && record.ttl > 0 {
            self.flush_others(set_key, now);
        }
        let known = self.records.get(&data_key).map(|&id| id as usize);
        let ttl = record.ttl.clamp(TTL_MIN, TTL_MAX);
        if let Some(entry) = known.and_then(|id| self.entries.get_mut(id)) {
            let id = known.unwrap_or_default();
            if entry.data != record.rdata || entry.name != record.name {
                return Stored::Full; // two records of one 64-bit hash: there is room for one
            }
            if record.ttl == 0 {
                // RFC 6762 §10.1
                entry.expires = entry.expires.min(now + GRACE);
                entry.refreshes = REFRESHES;
            } else {
                entry.ttl = ttl;
                entry.received = now;
                entry.expires = now + Duration::from_secs(u64::from(ttl));
                entry.refreshes = 0;
                entry.jitter = jitter;
                entry.unique = record.cache_flush;
                entry.unanswered = None;
            }
            self.schedule.set(id, entry.next_deadline());
            return if record.ttl == 0 { Stored::Goodbye } else { Stored::Refreshed };
        }
        if record.ttl == 0 {
            return Stored::Goodbye;
        }
        let entry = Entry {
            link,
            interface,
            source,
            name: record.name.to_owned(),
            class: record.class,
            data: RecordData::new(&record.rdata),
            unique: record.cache_flush,
            ttl,
            received: now,
            expires: now + Duration::from_secs(u64::from(ttl)),
            refreshes: 0,
            jitter,
            unanswered: None,
            set_key,
            data_key,
            older: NONE,
            newer: NONE,
        };
        self.insert(entry).map_or(Stored::Full, Stored::New)
    }

    fn insert(&mut self, mut entry: Entry) -> Option<EntryId> {
        let on_interface = self.by_interface.get(&entry.interface).copied().unwrap_or(0);
        let of_source = self.by_source.get(&(entry.interface, entry.source)).copied().unwrap_or(0);
        let set = self.sets.get(&entry.set_key);
        let full = self.entries.len() >= self.limits.entries
            || self.bytes + entry.bytes() > self.limits.bytes
            || on_interface >= self.limits.entries_per_interface
            || of_source >= self.limits.entries_per_interface.div_ceil(SOURCE_SHARE)
            || set.is_some_and(|set| set.len >= SET_MAX);
        if full {
            return None;
        }
        *self.by_interface.entry(entry.interface).or_insert(0) += 1;
        *self.by_source.entry((entry.interface, entry.source)).or_insert(0) += 1;
        self.bytes += entry.bytes();
        entry.older = set.map_or(NONE, |set| set.newest);
        let (deadline, set_key, data_key, older) =
            (entry.next_deadline(), entry.set_key, entry.data_key, entry.older);
        let id = self.entries.insert(entry);
        if let Some(older) = self.entries.get_mut(older as usize) {
            older.newer = id as u32;
        }
        let set = self.sets.entry(set_key).or_insert(Set { newest: NONE, len: 0, flushed: None });
        set.newest = id as u32;
        set.len += 1;
        self.records.insert(data_key, id as u32);
        self.schedule.set(id, deadline);
        Some(id)
    }

    fn remove(&mut self, id: EntryId) -> Option<Entry> {
        let entry = self.entries.try_remove(id)?;
        self.schedule.clear(id);
        self.records.remove(&entry.data_key);
        if let Some(older) = self.entries.get_mut(entry.older as usize) {
            older.newer = entry.newer;
        }
        if let Some(newer) = self.entries.get_mut(entry.newer as usize) {
            newer.older = entry.older;
        }
        if let Some(set) = self.sets.get_mut(&entry.set_key) {
            set.len -= 1;
            if set.newest == id as u32 {
                set.newest = entry.older;
            }
            if set.len == 0 {
                self.sets.remove(&entry.set_key);
            }
        }
        self.bytes -= entry.bytes();
        decrement(&mut self.by_interface, entry.interface);
        decrement(&mut self.by_source, (entry.interface, entry.source));
        Some(entry)
    }

    /// RFC 6762 §10.2: what is older than a second goes in a second, unless it comes again.
    fn flush_others(&mut self, set_key: u64, now: Instant) {
        let Some(set) = self.sets.get_mut(&set_key) else { return };
        // Once a packet is enough: all its records arrive at the same time.
        if set.flushed.replace(now) == Some(now) {
            return;
        }
        let mut next = set.newest;
        while let Some(entry) = self.entries.get_mut(next as usize) {
            if now.saturating_duration_since(entry.received) > GRACE {
                entry.expires = entry.expires.min(now + GRACE);
                entry.refreshes = REFRESHES;
                self.schedule.set(next as usize, entry.expires);
            }
            next = entry.older;
        }
    }

    /// The records of one name and type on one link, of class IN, the newest first.
    pub(crate) fn set<'c>(
        &'c self,
        link: LinkId,
        name_hash: u64,
        name: Name<'c>,
        record_type: RecordType,
    ) -> impl Iterator<Item = (EntryId, &'c Entry)> {
        let first =
            self.sets.get(&set_key(link, name_hash, record_type, Class::IN)).map_or(NONE, |set| set.newest);
        std::iter::successors(
            self.entries.get(first as usize).map(|entry| (first as usize, entry)),
            |(_, entry)| self.entries.get(entry.older as usize).map(|older| (entry.older as usize, older)),
        )
        .filter(move |(_, entry)| entry.name == name && entry.record_type() == record_type)
    }

    /// The record with just these data.
    pub(crate) fn find(&self, link: LinkId, name_hash: u64, record: &Record<'_>) -> Option<EntryId> {
        let set_key = set_key(link, name_hash, record.record_type(), record.class);
        let id = *self.records.get(&mix([set_key, self.keyed.data(&record.rdata)]))? as usize;
        let entry = self.entries.get(id)?;
        (entry.data == record.rdata && entry.name == record.name).then_some(id)
    }

    /// All records of a name, whatever their type: a walk over everything, for the rare question of type ANY.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (EntryId, &Entry)> {
        self.entries.iter()
    }

    /// Doubts a record: it goes in ten seconds unless it comes again (RFC 6762 §10.4).
    pub(crate) fn doubt(&mut self, id: EntryId, now: Instant) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.expires = entry.expires.min(now + DOUBT);
            entry.refreshes = REFRESHES;
            self.schedule.set(id, entry.expires);
        }
    }

    /// Somebody else asked for a record that we know, without knowing it. After the second time that nobody answers it
    /// is doubted, counted from the first (RFC 6762 §10.5). Returns whether it is doubted from now on.
    pub(crate) fn asked_by_others(&mut self, id: EntryId, now: Instant) -> bool {
        let Some(entry) = self.entries.get_mut(id) else { return false };
        let (first, count) = match entry.unanswered {
            Some((first, count)) if now.saturating_duration_since(first) <= DOUBT => (first, count),
            _ => {
                entry.unanswered = Some((now, 1));
                return false;
            }
        };
        // A question is repeated after a second at the earliest; what comes faster is another copy of the first.
        if now.saturating_duration_since(first) < Duration::from_secs(1) || count >= 2 {
            return false;
        }
        entry.unanswered = Some((first, count + 1));
        let doubted = first + DOUBT < entry.expires;
        if doubted {
            entry.expires = first + DOUBT;
            entry.refreshes = REFRESHES;
            self.schedule.set(id, entry.expires);
        }
        doubted
    }

    /// What is due next.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Due> {
        let id = self.schedule.pop_due(now)?;
        let entry = self.entries.get_mut(id)?;
        if entry.expires <= now {
            return self.remove(id).map(|entry| Due::Expired(Box::new(entry)));
        }
        entry.refreshes += 1;
        self.schedule.set(id, entry.next_deadline());
        Some(Due::Refresh(id))
    }

    /// Forgets what came over a link (RFC 6762 §10.3).
    pub(crate) fn forget_link(&mut self, link: LinkId) -> Vec<Entry> {
        let ids: Vec<EntryId> =
            self.entries.iter().filter(|(_, entry)| entry.link == link).map(|(id, _)| id).collect();
        ids.into_iter().filter_map(|id| self.remove(id)).collect()
    }
}
