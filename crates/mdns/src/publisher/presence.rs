//! A name on a link: probing for it, announcing it, defending it or giving it up (RFC 6762 §8, §9).

use std::time::{Duration, Instant};

use super::{Context, GAP, GroupId, OwnRecord, Publisher};
use crate::event::Event;
use crate::jitter;
use crate::link::{LinkId, Links};
use crate::wire::{Message, Name, Record, RecordType};

/// RFC 6762 §8.1: three probes, 250 ms apart, the first after up to 250 ms.
const PROBES: u8 = 3;
const PROBE_INTERVAL: Duration = Duration::from_millis(250);
const PROBE_DELAY_MS_MAX: u32 = 250;
/// RFC 6762 §8.3: at least two announcements, a second apart.
const ANNOUNCEMENTS: u8 = 2;
const ANNOUNCEMENT_INTERVAL: Duration = Duration::from_secs(1);
/// RFC 6762 §8.2: who loses against another probe tries again after a second.
const DEFERRAL: Duration = Duration::from_secs(1);
/// RFC 6762 §8.1: after fifteen conflicts within ten seconds, five seconds before each further attempt.
const CONFLICTS_MAX: usize = 15;
const CONFLICTS_IN: Duration = Duration::from_secs(10);
const CONFLICT_DELAY: Duration = Duration::from_secs(5);

/// The slot of a presence.
pub(super) type PresenceId = usize;

/// How far a name is on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// So many probes were sent. Nobody is told of the records yet.
    Probing { sent: u8 },
    /// So many announcements were sent.
    Announcing { sent: u8 },
    /// Known to all, and not mentioned again unless asked for (RFC 6762 §8.3).
    Established,
}

impl Phase {
    /// Whether the name is ours: queries are answered and probes of others fended off.
    pub(super) fn is_ours(self) -> bool {
        !matches!(self, Self::Probing { .. })
    }
}

/// A group on a link.
#[derive(Debug)]
pub(super) struct Presence {
    pub(super) group: GroupId,
    pub(super) link: LinkId,
    pub(super) phase: Phase,
    /// Whether it is in the list of those that are to probe at once.
    pub(super) ready: bool,
}

impl Publisher {
    /// How far a group is on a link, if it is there at all.
    pub(super) fn phase(&self, group: GroupId, link: LinkId) -> Option<Phase> {
        self.presence_on(group, link).map(|id| self.presences[id].phase)
    }

    fn presence_on(&self, group: GroupId, link: LinkId) -> Option<PresenceId> {
        let group = self.groups.get(group)?;
        group.presences.iter().copied().find(|&id| self.presences.get(id).is_some_and(|p| p.link == link))
    }

    /// A group comes to a link, if it is to be there.
    pub(super) fn appear(&mut self, group: GroupId, link: LinkId, cx: &mut Context<'_>) {
        let Some(interface) = cx.links.get(link).map(|link| link.interface) else { return };
        if !self.is_on(group, interface) || self.presence_on(group, link).is_some() {
            return;
        }
        self.make_room(link);
        let presence = Presence { group, link, phase: Phase::Probing { sent: 0 }, ready: false };
        let id = self.presences.insert(presence);
        self.groups[group].presences.push(id);
        self.begin(id, cx);
    }

    pub(super) fn remove_presence(&mut self, id: PresenceId) {
        let Some(presence) = self.presences.try_remove(id) else { return };
        self.presence_schedule.clear(id);
        if presence.ready {
            self.probes[presence.link].retain(|other| *other != id);
        }
        if let Some(group) = self.groups.get_mut(presence.group) {
            group.presences.retain(|other| *other != id);
        }
    }

    /// Begins at the beginning: with probes for a name that must be ours alone, else with announcements.
    pub(super) fn begin(&mut self, id: PresenceId, cx: &mut Context<'_>) {
        let (group, link) = (self.presences[id].group, self.presences[id].link);
        if !self.groups[group].is_unique() {
            // It follows from services, which have been probed for.
            self.presences[id].phase = Phase::Announcing { sent: 0 };
            self.presence_schedule.set(id, cx.now);
            return;
        }
        // RFC 6762 §8.1: a random delay, the same for names that come up together, so that they share packets.
        let at = match self.probe_batches[link] {
            Some(at) if at > cx.now => at,
            _ => *self.probe_batches[link].insert(cx.now + jitter(cx.rng, 0, PROBE_DELAY_MS_MAX)),
        };
        self.probe_from(id, at, cx);
    }

    /// Probes from the first on, at `at`.
    fn probe_from(&mut self, id: PresenceId, at: Instant, cx: &mut Context<'_>) {
        let (group, link) = (self.presences[id].group, self.presences[id].link);
        self.presences[id].phase = Phase::Probing { sent: 0 };
        self.presence_schedule.set(id, at.max(cx.now));
        // What was to be said under the name is not said until it is ours again.
        for record in self.groups[group].records.clone() {
            self.forget_pending(record, link);
        }
    }

    /// The next step of a presence is due.
    pub(super) fn advance(&mut self, id: PresenceId, cx: &mut Context<'_>) {
        let Some(presence) = self.presences.get_mut(id) else { return };
        let (group, link) = (presence.group, presence.link);
        match presence.phase {
            Phase::Probing { sent } if sent < PROBES => {
                if !std::mem::replace(&mut presence.ready, true) {
                    self.probes[link].push_back(id);
                }
            }
            Phase::Probing { .. } => {
                presence.phase = Phase::Announcing { sent: 0 };
                self.groups[group].slow = false;
                self.advance(id, cx);
                if let Some(of_type) = self.type_of(group) {
                    self.appear(of_type, link, cx);
                }
            }
            Phase::Announcing { sent } => {
                let sent = sent + 1;
                if sent < ANNOUNCEMENTS {
                    presence.phase = Phase::Announcing { sent };
                    self.presence_schedule.set(id, cx.now + ANNOUNCEMENT_INTERVAL);
                } else {
                    presence.phase = Phase::Established;
                }
                self.announce(group, link, cx);
                self.tell_when_ours(group);
            }
            Phase::Established => {}
        }
    }

    /// A probe was written: the next step is due a quarter of a second later.
    pub(super) fn probed(&mut self, id: PresenceId, now: Instant) {
        let Some(presence) = self.presences.get_mut(id) else { return };
        presence.ready = false;
        if let Phase::Probing { sent } = presence.phase {
            presence.phase = Phase::Probing { sent: sent + 1 };
            self.presence_schedule.set(id, now + PROBE_INTERVAL);
        }
    }

    /// RFC 6762 §8.3: everything that was not announced often enough.
    fn announce(&mut self, group: GroupId, link: LinkId, cx: &mut Context<'_>) {
        for record in self.groups[group].records.clone() {
            let own = &self.records[record];
            let announces = !own.is_negative()
                && own.on(link).announced < ANNOUNCEMENTS
                && Self::is_valid_on(own, link, cx.links);
            if announces {
                self.pend_set(record, link, cx.now, cx.now, GAP, true);
            }
        }
    }

    /// Tells the program once no link has doubts any more.
    fn tell_when_ours(&mut self, id: GroupId) {
        let group = &self.groups[id];
        if group.told || group.presences.iter().any(|presence| !self.presences[*presence].phase.is_ours()) {
            return;
        }
        if let (Some(publication), Some(name)) = (self.publication(id), group.published_name()) {
            self.events.push_back(Event::Published { id: publication, name });
        }
        self.groups[id].told = true;
    }

    /// The service or host that claims that name: one that has records.
    fn claimed(&self, hash: u64, name: Name<'_>) -> Option<GroupId> {
        self.group_named(hash, name).filter(|id| !self.groups[*id].records.is_empty())
    }

    /// Looks whether a record of somebody else contradicts one of ours (RFC 6762 §8.1, §9). `record` is not the same as any
    /// of ours, and no goodbye. Another program of this host (`from_here`) may speak for the host, and know other
    /// addresses of it, but not for a service of ours.
    pub(super) fn handle_foreign_record(
        &mut self,
        hash: u64,
        record: &Record<'_>,
        link: LinkId,
        from_here: bool,
        cx: &mut Context<'_>,
    ) {
        let Some(group) = self.claimed(hash, record.name) else { return };
        let Some(presence) = self.presence_on(group, link) else { return };
        let expected = from_here && self.groups[group].is_this_host();
        if expected || record.record_type() == RecordType::NSEC {
            return;
        }
        match self.presences[presence].phase {
            // RFC 6762 §8.1: what is heard before the first probe may be an old packet of our own.
            Phase::Probing { sent: 0 } => {}
            // Any record of that name: the probe asks for all types.
            Phase::Probing { .. } => {
                self.count_conflict(group, cx.now);
                self.rename(group, cx);
                for presence in self.groups[group].presences.clone() {
                    self.begin_after_conflict(presence, cx);
                }
            }
            // RFC 6762 §9: back to probing, which shows who gives way.
            Phase::Announcing { .. } | Phase::Established => {
                let contradicts = self.groups[group].records.iter().any(|id| {
                    let own = &self.records[*id];
                    own.unique
                        && own.record_type() == record.record_type()
                        && Self::is_valid_on(own, link, cx.links)
                });
                if contradicts {
                    self.count_conflict(group, cx.now);
                    self.begin_after_conflict(presence, cx);
                }
            }
        }
    }

    fn count_conflict(&mut self, group: GroupId, now: Instant) {
        let conflicts = &mut self.groups[group].conflicts;
        if conflicts.len() >= CONFLICTS_MAX {
            conflicts.pop_front();
        }
        conflicts.push_back(now);
        let many = conflicts.len() >= CONFLICTS_MAX
            && conflicts.front().is_some_and(|first| now.saturating_duration_since(*first) <= CONFLICTS_IN);
        self.groups[group].slow |= many;
    }

    fn begin_after_conflict(&mut self, id: PresenceId, cx: &mut Context<'_>) {
        self.begin(id, cx);
        if self.groups[self.presences[id].group].slow {
            self.probe_from(id, cx.now + CONFLICT_DELAY, cx);
        }
    }

    /// A probe of somebody else for a name that we probe for at the same time (RFC 6762 §8.2).
    pub(super) fn handle_probe(
        &mut self,
        message: &Message<'_>,
        link: LinkId,
        from_here: bool,
        cx: &mut Context<'_>,
    ) {
        let mut compared = Vec::new();
        for question in message.questions() {
            let Some(group) = self.claimed(self.keyed.name(question.name), question.name) else { continue };
            if compared.contains(&group) || (from_here && self.groups[group].is_this_host()) {
                continue;
            }
            compared.push(group);
            let Some(id) = self.presence_on(group, link) else { continue };
            if !matches!(self.presences[id].phase, Phase::Probing { sent: 1.. }) {
                continue;
            }
            let theirs: Vec<Record<'_>> =
                message.authorities().filter(|record| record.name == question.name).collect();
            if !theirs.is_empty() && self.loses_against(group, link, theirs, cx.links) {
                self.probe_from(id, cx.now + DEFERRAL, cx);
            }
        }
    }

    /// RFC 6762 §8.2.1: both sides sort their records by class, type and data; the first that differs decides, the greater
    /// wins, and so does who has more.
    fn loses_against(
        &self,
        group: GroupId,
        link: LinkId,
        mut theirs: Vec<Record<'_>>,
        links: &Links,
    ) -> bool {
        let mut ours: Vec<&OwnRecord> = self.proposed(group, link, links).collect();
        ours.sort_by_key(|own| (own.record_type(), own.data.as_bytes()));
        let uncompressed = |record: &Record<'_>| crate::wire::RecordData::new(&record.rdata);
        theirs.sort_by_cached_key(|record| {
            (record.class, record.record_type(), uncompressed(record).as_bytes().to_vec())
        });
        for (own, their) in ours.iter().zip(&theirs) {
            let ordering = crate::wire::Class::IN
                .cmp(&their.class)
                .then_with(|| own.record_type().cmp(&their.record_type()))
                .then_with(|| their.rdata.cmp_uncompressed(own.data.as_bytes()).reverse());
            if ordering.is_ne() {
                return ordering.is_lt();
            }
        }
        ours.len() < theirs.len()
    }

    /// The records that a probe proposes (RFC 6762 §8.2).
    pub(super) fn proposed<'p>(
        &'p self,
        group: GroupId,
        link: LinkId,
        links: &'p Links,
    ) -> impl Iterator<Item = &'p OwnRecord> + 'p {
        let records = self.groups.get(group).map(|group| group.records.as_slice()).unwrap_or_default();
        records
            .iter()
            .filter_map(|id| self.records.get(*id))
            .filter(move |own| own.unique && !own.is_negative() && Self::is_valid_on(own, link, links))
    }
}
