//! Groups of records: what is published under one name.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::records::Wanted;
use super::{Context, GAP, OwnRecord, Publisher, RecordId, remove_from};
use crate::event::{Event, PublicationId, PublishedName};
use crate::publisher::presence::{Phase, PresenceId};
use crate::request::{Error, HostRegistration, Interfaces, ServiceRegistration};
use crate::service::{HostName, ServiceType, Subtype, Txt};
use crate::wire::{Name, NameBuf, RData};

/// Changes in [`UPDATES_IN`] at most (RFC 6762 §8.4).
const UPDATES_MAX: usize = 10;
const UPDATES_IN: Duration = Duration::from_mins(1);

/// The slot of a group.
pub(crate) type GroupId = usize;

/// What a group is of.
#[derive(Debug)]
pub(super) enum Kind {
    /// A host. Without addresses it is this one, which has on each interface the addresses of that.
    Host { wanted: HostName, current: HostName, addresses: Option<Vec<IpAddr>> },
    /// An instance of a service.
    Service(Box<ServiceRegistration>),
    /// That there are services of a type (RFC 6763 §9); so many publications say so.
    Type { service_type: ServiceType, users: usize },
}

impl Kind {
    /// The name is that of attempt `number` now.
    fn set_number(&mut self, number: u32) {
        if let Self::Host { wanted, current, .. } = self {
            *current = wanted.numbered(number);
        }
    }
}

/// Records under one name.
#[derive(Debug)]
pub(crate) struct Group {
    serial: u32,
    pub(super) kind: Kind,
    interfaces: Interfaces,
    /// Which attempt at a name this is: 1 is the name that was wanted.
    number: u32,
    pub(super) name: NameBuf,
    pub(super) records: Vec<RecordId>,
    pub(super) presences: Vec<PresenceId>,
    /// The times of the last conflicts.
    pub(super) conflicts: VecDeque<Instant>,
    /// There were so many that each further attempt waits, until one succeeds.
    pub(super) slow: bool,
    /// The times of the last changes.
    updates: VecDeque<Instant>,
    /// Whether the program was told that the name is ours.
    pub(super) told: bool,
}

impl Group {
    /// Whether its name must be ours alone.
    pub(super) fn is_unique(&self) -> bool {
        !matches!(self.kind, Kind::Type { .. })
    }

    /// Whether it is the name and the addresses of this host.
    pub(super) fn is_this_host(&self) -> bool {
        matches!(self.kind, Kind::Host { addresses: None, .. })
    }

    pub(super) fn published_name(&self) -> Option<PublishedName> {
        match &self.kind {
            Kind::Host { current, .. } => Some(PublishedName::Host(current.clone())),
            Kind::Service(service) => Some(PublishedName::Service(
                service.instance.numbered(self.number),
                service.service_type.clone(),
            )),
            Kind::Type { .. } => None,
        }
    }

    pub(super) fn is_on(&self, interface: u32) -> bool {
        match &self.interfaces {
            Interfaces::All => true,
            Interfaces::Only(indexes) => indexes.contains(&interface),
        }
    }
}

impl Publisher {
    pub(super) fn publication(&self, id: GroupId) -> Option<PublicationId> {
        Some(PublicationId(u64::from(self.groups.get(id)?.serial) << 32 | id as u64))
    }

    fn group_of(&self, id: PublicationId) -> Option<GroupId> {
        let slot = (id.0 & u64::from(u32::MAX)) as usize;
        (self.publication(slot) == Some(id) && self.groups.get(slot)?.is_unique()).then_some(slot)
    }

    /// How many services and hosts there are.
    pub(crate) fn publications(&self) -> usize {
        self.publications
    }

    fn insert_group(&mut self, mut kind: Kind, interfaces: Interfaces) -> GroupId {
        self.serial = self.serial.wrapping_add(1);
        let (number, name) = self.free_name(&kind, 1);
        kind.set_number(number);
        let (is_this_host, hash) =
            (matches!(kind, Kind::Host { addresses: None, .. }), self.group_hash(&kind, &name));
        self.publications += usize::from(!matches!(kind, Kind::Type { .. }));
        let id = self.groups.insert(Group {
            serial: self.serial,
            kind,
            interfaces,
            number,
            name,
            records: Vec::new(),
            presences: Vec::new(),
            conflicts: VecDeque::new(),
            slow: false,
            updates: VecDeque::new(),
            told: false,
        });
        self.groups_by_name.entry(hash).or_default().push(id);
        if is_this_host {
            self.this_host = Some(id);
        }
        id
    }

    /// Under which hash a group of that kind and name is found.
    fn group_hash(&self, kind: &Kind, name: &NameBuf) -> u64 {
        match kind {
            // All types have the same name.
            Kind::Type { service_type, .. } => self.keyed.name(service_type.to_name().as_name()),
            Kind::Host { .. } | Kind::Service(_) => self.keyed.name(name.as_name()),
        }
    }

    /// The service or host of that name, and all of whose unique records have it; `hash` is the name's.
    pub(super) fn group_named(&self, hash: u64, name: Name<'_>) -> Option<GroupId> {
        let is_it = |id: &&GroupId| {
            self.groups.get(**id).is_some_and(|group| group.is_unique() && group.name == name)
        };
        self.groups_by_name.get(&hash)?.iter().find(is_it).copied()
    }

    /// The first name from `number` on that no group here has: our own packets never tell us of such a conflict.
    fn free_name(&self, kind: &Kind, mut number: u32) -> (u32, NameBuf) {
        loop {
            let name = match kind {
                Kind::Host { wanted, .. } => wanted.numbered(number).to_name(),
                Kind::Service(service) => {
                    service.service_type.instance_name(&service.instance.numbered(number))
                }
                Kind::Type { .. } => return (number, ServiceType::enumeration_name()),
            };
            let taken = self.group_named(self.keyed.name(name.as_name()), name.as_name()).is_some();
            if !taken && name != ServiceType::enumeration_name() {
                return (number, name);
            }
            number += 1;
        }
    }

    /// Publishes a host; this one if it has no addresses of its own.
    pub(crate) fn publish_host(
        &mut self,
        wanted: HostName,
        addresses: Option<Vec<IpAddr>>,
        interfaces: Interfaces,
        cx: &mut Context<'_>,
    ) -> PublicationId {
        let current = wanted.clone();
        let group = self.insert_group(Kind::Host { wanted, current, addresses }, interfaces);
        self.start(group, cx)
    }

    pub(crate) fn publish_other_host(
        &mut self,
        host: HostRegistration,
        cx: &mut Context<'_>,
    ) -> PublicationId {
        self.publish_host(host.name, Some(host.addresses), host.interfaces, cx)
    }

    pub(crate) fn publish_service(
        &mut self,
        service: ServiceRegistration,
        cx: &mut Context<'_>,
    ) -> PublicationId {
        let (service_type, interfaces) = (service.service_type.clone(), service.interfaces.clone());
        self.use_type(service_type, interfaces.clone(), cx);
        let group = self.insert_group(Kind::Service(Box::new(service)), interfaces);
        self.start(group, cx)
    }

    fn start(&mut self, group: GroupId, cx: &mut Context<'_>) -> PublicationId {
        self.sync(group, cx);
        for (link, _) in cx.links.iter() {
            self.appear(group, link, cx);
        }
        self.publication(group).unwrap_or(PublicationId(u64::MAX))
    }

    fn find_type(&self, service_type: &ServiceType, interfaces: &Interfaces) -> Option<GroupId> {
        let same = |group: &Group| {
            matches!(&group.kind, Kind::Type { service_type: other, .. } if other == service_type)
                && group.interfaces == *interfaces
        };
        let hash = self.keyed.name(service_type.to_name().as_name());
        let of_name = self.groups_by_name.get(&hash)?;
        of_name.iter().copied().find(|id| self.groups.get(*id).is_some_and(same))
    }

    /// One more service is of a type.
    fn use_type(&mut self, service_type: ServiceType, interfaces: Interfaces, cx: &mut Context<'_>) {
        if let Some(id) = self.find_type(&service_type, &interfaces) {
            if let Kind::Type { users, .. } = &mut self.groups[id].kind {
                *users += 1;
            }
            return;
        }
        // It comes to each link when a service of the type does.
        let group = self.insert_group(Kind::Type { service_type, users: 1 }, interfaces);
        self.sync(group, cx);
    }

    /// The group that says that there are services of the type of this one.
    pub(super) fn type_of(&self, group: GroupId) -> Option<GroupId> {
        match &self.groups.get(group)?.kind {
            Kind::Service(service) => self.find_type(&service.service_type, &service.interfaces),
            _ => None,
        }
    }

    /// One service less is of a type.
    fn leave_type(&mut self, service_type: &ServiceType, interfaces: &Interfaces, cx: &mut Context<'_>) {
        let Some(id) = self.find_type(service_type, interfaces) else { return };
        if let Kind::Type { users, .. } = &mut self.groups[id].kind {
            *users -= 1;
            if *users == 0 {
                self.remove_group(id, cx);
            }
        }
    }

    /// Takes a service or host back.
    pub(crate) fn unpublish(&mut self, id: PublicationId, cx: &mut Context<'_>) {
        let Some(group) = self.group_of(id) else { return };
        let of_type = match &self.groups[group].kind {
            Kind::Service(service) => Some((service.service_type.clone(), service.interfaces.clone())),
            _ => None,
        };
        self.remove_group(group, cx);
        if let Some((service_type, interfaces)) = of_type {
            self.leave_type(&service_type, &interfaces, cx);
        }
    }

    /// Takes everything back.
    pub(crate) fn shutdown(&mut self, cx: &mut Context<'_>) {
        let groups: Vec<GroupId> = self.groups.iter().map(|(id, _)| id).collect();
        for group in groups {
            self.remove_group(group, cx);
        }
    }

    fn remove_group(&mut self, id: GroupId, cx: &mut Context<'_>) {
        for record in self.groups[id].records.clone() {
            self.retire(record, true, cx);
        }
        for presence in self.groups[id].presences.clone() {
            self.remove_presence(presence);
        }
        let publication = self.publication(id);
        self.updates.clear(id);
        let group = self.groups.remove(id);
        let hash = self.group_hash(&group.kind, &group.name);
        remove_from(&mut self.groups_by_name, hash, id);
        self.publications -= usize::from(group.is_unique());
        if self.this_host == Some(id) {
            self.this_host = None;
        }
        self.events.retain(|event| event.publication() != publication || publication.is_none());
    }

    /// Takes one record back: with a goodbye where it was announced (RFC 6762 §10.1), or without.
    fn retire(&mut self, id: RecordId, goodbye: bool, cx: &mut Context<'_>) {
        let Some(record) = self.records.get(id) else { return };
        let announced: Vec<usize> = cx
            .links
            .iter()
            .filter(|(link, _)| {
                goodbye && self.is_live(record, *link, cx.links) && record.on(*link).multicast.is_some()
            })
            .map(|(link, _)| link)
            .collect();
        let links = record.links.len();
        for link in 0..links {
            self.forget_pending(id, link);
        }
        self.records[id].leaving = true;
        for link in announced {
            // A goodbye keeps no distance: after it there is nothing left to be flooded with.
            self.pend(id, link, cx.now, cx.now, Duration::ZERO, false);
        }
        self.bury(id);
    }

    /// Brings the records of a group in line with what it ought to have. Returns whether anything was new or had to go.
    pub(super) fn sync(&mut self, id: GroupId, cx: &mut Context<'_>) -> bool {
        let Some(group) = self.groups.get(id) else { return false };
        let mut wanted = self.wanted_records(group, cx.links);
        let is_same = |wanted: &Wanted, own: &OwnRecord| {
            wanted.name == own.name && wanted.data == own.data && wanted.interface == own.interface
        };
        let (mut kept, mut gone) = (Vec::new(), Vec::new());
        for &record in &group.records {
            let own = &self.records[record];
            match wanted.iter().position(|wanted| is_same(wanted, own)) {
                Some(at) => {
                    wanted.swap_remove(at);
                    kept.push(record);
                }
                None => gone.push(record),
            }
        }
        // A unique set that goes on is replaced by its cache-flush bit; all else says goodbye (RFC 6762 §8.4). A name
        // that was lost is another host's now, whose records a goodbye would hit.
        let lost = |own: &OwnRecord| own.unique && own.name != group.name;
        let replaced = |own: &OwnRecord, wanted: &[Wanted]| {
            own.unique
                && wanted.iter().any(|wanted| {
                    wanted.data.record_type() == own.record_type() && wanted.interface == own.interface
                })
        };
        let goodbyes: Vec<bool> = gone
            .iter()
            .map(|record| &self.records[*record])
            .map(|own| {
                !lost(own) && !replaced(own, &wanted) && !own.is_negative() && !points_elsewhere(own, group)
            })
            .collect();
        let changed = !wanted.is_empty() || !gone.is_empty();
        for (record, goodbye) in gone.into_iter().zip(goodbyes) {
            self.retire(record, goodbye, cx);
        }
        for wanted in wanted {
            let name_hash = self.keyed.name(wanted.name.as_name());
            kept.push(self.insert_record(OwnRecord {
                group: id,
                name: wanted.name,
                name_hash,
                data: wanted.data,
                ttl: wanted.ttl,
                unique: wanted.unique,
                interface: wanted.interface,
                leaving: false,
                known_in: 0,
                asked_in: 0,
                written_in: 0,
                links: Vec::new(),
            }));
        }
        self.groups[id].records = kept;
        changed
    }

    /// The group lost its name: the next one.
    pub(super) fn rename(&mut self, id: GroupId, cx: &mut Context<'_>) {
        let Some(group) = self.groups.get(id) else { return };
        let (number, name) = self.free_name(&group.kind, group.number.saturating_add(1));
        let is_own_host = group.is_this_host();
        let hashes = [&group.name, &name].map(|name| self.keyed.name(name.as_name()));
        remove_from(&mut self.groups_by_name, hashes[0], id);
        self.groups_by_name.entry(hashes[1]).or_default().push(id);
        let group = &mut self.groups[id];
        (group.number, group.name, group.told) = (number, name, false);
        group.kind.set_number(number);
        let name = group.published_name();
        self.sync(id, cx);
        if let (Some(id), Some(name)) = (self.publication(id), name) {
            self.events.retain(|event| event.publication() != Some(id));
            self.events.push_back(Event::Renamed { id, name });
        }
        if is_own_host {
            let services: Vec<GroupId> = self
                .groups
                .iter()
                .filter(|(_, group)| matches!(&group.kind, Kind::Service(service) if service.host.is_none()))
                .map(|(id, _)| id)
                .collect();
            for service in services {
                self.update(service, cx);
            }
        }
    }

    /// The addresses of an interface are different.
    pub(crate) fn addresses_changed(&mut self, cx: &mut Context<'_>) {
        if let Some(host) = self.this_host {
            self.update(host, cx);
        }
    }

    pub(crate) fn update_txt(
        &mut self,
        id: PublicationId,
        txt: Txt,
        cx: &mut Context<'_>,
    ) -> Result<(), Error> {
        self.update_service(id, cx, |service| service.txt = txt)
    }

    pub(crate) fn update_subtypes(
        &mut self,
        id: PublicationId,
        subtypes: Vec<Subtype>,
        cx: &mut Context<'_>,
    ) -> Result<(), Error> {
        self.update_service(id, cx, |service| service.subtypes = subtypes)
    }

    fn update_service(
        &mut self,
        id: PublicationId,
        cx: &mut Context<'_>,
        change: impl FnOnce(&mut ServiceRegistration),
    ) -> Result<(), Error> {
        let group = self.group_of(id).ok_or(Error::NoSuchPublication)?;
        let Kind::Service(service) = &mut self.groups[group].kind else {
            return Err(Error::NoSuchPublication);
        };
        change(service);
        self.update(group, cx);
        Ok(())
    }

    /// Makes a change known, now or as soon as it may be (RFC 6762 §8.4: at most ten times a minute).
    fn update(&mut self, id: GroupId, cx: &mut Context<'_>) {
        let Some(group) = self.groups.get_mut(id) else { return };
        while group.updates.front().is_some_and(|at| cx.now.saturating_duration_since(*at) >= UPDATES_IN) {
            group.updates.pop_front();
        }
        if group.updates.len() >= UPDATES_MAX {
            if let Some(oldest) = group.updates.front() {
                self.updates.set(id, *oldest + UPDATES_IN);
            }
            return;
        }
        self.updates.clear(id);
        if !self.sync(id, cx) {
            return;
        }
        let group = &mut self.groups[id];
        group.updates.push_back(cx.now);
        for presence in group.presences.clone() {
            if self.presences[presence].phase.is_ours() {
                self.presences[presence].phase = Phase::Announcing { sent: 0 };
                self.presence_schedule.set(presence, cx.now);
            }
        }
    }

    pub(super) fn announce_delayed_updates(&mut self, cx: &mut Context<'_>) {
        while let Some(group) = self.updates.pop_due(cx.now) {
            self.update(group, cx);
        }
    }

    /// Whether a group is published on an interface.
    pub(super) fn is_on(&self, group: GroupId, interface: u32) -> bool {
        self.groups.get(group).is_some_and(|group| group.is_on(interface))
    }

    /// The name that this host has, or probes for.
    pub(crate) fn host_name(&self) -> Option<&HostName> {
        match &self.groups.get(self.this_host?)?.kind {
            Kind::Host { current, .. } => Some(current),
            _ => None,
        }
    }

    /// The records of a set on a link: those that travel together under one cache-flush bit (RFC 6762 §10.2).
    pub(super) fn siblings(&self, id: RecordId) -> impl Iterator<Item = RecordId> + '_ {
        let set = self
            .records
            .get(id)
            .filter(|record| record.unique && !record.leaving)
            .and_then(|record| Some((record, self.groups.get(record.group)?)));
        let alone = set.is_none().then_some(id);
        let members = set.into_iter().flat_map(move |(record, group)| {
            let is_sibling = |other: &OwnRecord| {
                other.record_type() == record.record_type() && other.interface == record.interface
            };
            group.records.iter().copied().filter(move |other| is_sibling(&self.records[*other]))
        });
        members.chain(alone)
    }

    /// How far a record must stay from its last multicast.
    pub(super) fn gap(defends: bool) -> Duration {
        if defends { super::GAP_DEFENCE } else { GAP }
    }
}

/// Whether a PTR record points to a name that its group does not have any more.
fn points_elsewhere(own: &OwnRecord, group: &Group) -> bool {
    group.is_unique() && matches!(own.data.as_rdata(), RData::Ptr(target) if target != group.name)
}
