//! What the program wants to know.

use std::time::Instant;

use super::{Context, Querier, QuestionId, Subscriber};
use crate::cache::{Entry, EntryId};
use crate::event::{Answer, Event, QueryId, ScopedAddress};
use crate::service::{InstanceName, ServiceType, Subtype};
use crate::wire::{NameBuf, RData, RecordType};

/// Something the program asked for.
#[derive(Debug)]
pub(super) struct Subscription {
    /// Makes its number different from that of others that had this slot before.
    serial: u32,
    pub(super) kind: Kind,
    questions: Vec<QuestionId>,
}

/// What it is.
#[derive(Debug)]
pub(super) enum Kind {
    /// The instances of a type.
    Browse {
        service_type: ServiceType,
        /// What the PTR records are at: the type, or a subtype of it.
        name: NameBuf,
        resolve: bool,
    },
    /// One instance.
    Service { instance: InstanceName, service_type: ServiceType },
    /// The types of services.
    Types,
    /// The addresses of a host.
    Host {
        name: NameBuf,
        /// What the program was told last.
        reported: Vec<ScopedAddress>,
        dirty: bool,
    },
    /// Records.
    Records {
        /// When it ends.
        ends: Option<Instant>,
    },
}

impl Subscription {
    pub(super) fn id(&self, slot: usize) -> QueryId {
        QueryId(u64::from(self.serial) << 32 | slot as u64)
    }

    /// When it ends by itself.
    pub(super) fn ends(&self) -> Option<Instant> {
        match self.kind {
            Kind::Records { ends } => ends,
            _ => None,
        }
    }
}

impl Querier {
    fn add_subscription(
        &mut self,
        kind: Kind,
        asked: &[(NameBuf, RecordType)],
        cx: &mut Context<'_>,
    ) -> QueryId {
        self.serial = self.serial.wrapping_add(1);
        let slot =
            self.subscriptions.insert(Subscription { serial: self.serial, kind, questions: Vec::new() });
        if let Some(ends) = self.subscriptions[slot].ends() {
            self.endings.set(slot, ends);
        }
        for (name, record_type) in asked {
            let question = self.subscribe(name, *record_type, None, Subscriber::Subscription(slot), cx);
            self.subscriptions[slot].questions.push(question);
        }
        self.settle(cx);
        self.subscriptions[slot].id(slot)
    }

    pub(crate) fn browse(
        &mut self,
        service_type: ServiceType,
        subtype: Option<&Subtype>,
        resolve: bool,
        cx: &mut Context<'_>,
    ) -> QueryId {
        let name = match subtype {
            Some(subtype) => service_type.subtype_name(subtype),
            None => service_type.to_name(),
        };
        let asked = [(name.clone(), RecordType::PTR)];
        self.add_subscription(Kind::Browse { service_type, name, resolve }, &asked, cx)
    }

    pub(crate) fn browse_types(&mut self, cx: &mut Context<'_>) -> QueryId {
        self.add_subscription(Kind::Types, &[(ServiceType::enumeration_name(), RecordType::PTR)], cx)
    }

    pub(crate) fn resolve_service(
        &mut self,
        instance: &InstanceName,
        service_type: &ServiceType,
        cx: &mut Context<'_>,
    ) -> QueryId {
        let asked = [(service_type.instance_name(instance), RecordType::SRV)];
        let kind = Kind::Service { instance: instance.clone(), service_type: service_type.clone() };
        self.add_subscription(kind, &asked, cx)
    }

    pub(crate) fn resolve_host(&mut self, name: NameBuf, cx: &mut Context<'_>) -> QueryId {
        let asked = [(name.clone(), RecordType::A), (name.clone(), RecordType::AAAA)];
        self.add_subscription(Kind::Host { name, reported: Vec::new(), dirty: false }, &asked, cx)
    }

    pub(crate) fn query(
        &mut self,
        name: NameBuf,
        record_type: RecordType,
        ends: Option<Instant>,
        cx: &mut Context<'_>,
    ) -> QueryId {
        self.add_subscription(Kind::Records { ends }, &[(name, record_type)], cx)
    }

    /// Ends a subscription. Its events that were not fetched yet go with it.
    pub(crate) fn cancel(&mut self, id: QueryId) {
        let slot = (id.0 & u64::from(u32::MAX)) as usize;
        if self.subscriptions.get(slot).is_none_or(|subscription| subscription.id(slot) != id) {
            return;
        }
        let subscription = self.subscriptions.remove(slot);
        self.endings.clear(slot);
        for question in subscription.questions {
            self.questions.unsubscribe(question, Subscriber::Subscription(slot));
        }
        let instances: Vec<usize> =
            self.instances.iter().filter(|(_, found)| found.subscription == slot).map(|(id, _)| id).collect();
        for instance in instances {
            self.drop_instance(instance);
        }
        self.dirty_hosts.retain(|host| *host != slot);
        self.events.retain(|event| event.query() != Some(id));
    }

    /// Ends the queries whose time is over.
    pub(super) fn end_queries(&mut self, cx: &mut Context<'_>) {
        while let Some(slot) = self.endings.pop_due(cx.now) {
            let Some(id) = self.subscriptions.get(slot).map(|subscription| subscription.id(slot)) else {
                continue;
            };
            // What it found until now is still to be told.
            let told = std::mem::take(&mut self.events);
            self.cancel(id);
            self.events = told;
            self.events.push_back(Event::Finished { id });
        }
    }

    /// Whether the other link of the interface has the same record: then the program knows it already, or still.
    fn is_on_sibling(&self, entry: &Entry, cx: &Context<'_>) -> bool {
        let hash = self.keyed.name(entry.name.as_name());
        cx.links
            .of_interface(entry.interface)
            .filter(|link| *link != entry.link)
            .any(|link| self.cache.find(link, hash, &entry.as_record()).is_some())
    }

    pub(super) fn subscribed_record_appeared(&mut self, slot: usize, id: EntryId, cx: &mut Context<'_>) {
        let (Some(subscription), Some(entry)) = (self.subscriptions.get(slot), self.cache.get(id)) else {
            return;
        };
        match &subscription.kind {
            Kind::Browse { service_type, .. } => {
                let RData::Ptr(target) = entry.data.as_rdata() else { return };
                let Some(instance) = service_type.instance_of(target) else { return };
                let (service_type, name) = (service_type.clone(), target.to_owned());
                self.found_instance(slot, entry.interface, instance, service_type, &name, cx);
            }
            Kind::Service { instance, service_type } => {
                let (instance, service_type, name) =
                    (instance.clone(), service_type.clone(), entry.name.clone());
                self.found_instance(slot, entry.interface, instance, service_type, &name, cx);
            }
            Kind::Types | Kind::Records { .. } if !self.is_on_sibling(entry, cx) => {
                self.events.extend(subscription.record_event(slot, entry, true, cx.now));
            }
            Kind::Types | Kind::Records { .. } => {}
            Kind::Host { .. } => self.mark_host(slot),
        }
    }

    pub(super) fn subscribed_record_expired(&mut self, slot: usize, entry: &Entry, cx: &mut Context<'_>) {
        let Some(subscription) = self.subscriptions.get(slot) else { return };
        match &subscription.kind {
            Kind::Browse { .. } => {
                let RData::Ptr(target) = entry.data.as_rdata() else { return };
                self.mark_instance(slot, entry.interface, target);
            }
            Kind::Service { .. } => self.mark_instance(slot, entry.interface, entry.name.as_name()),
            Kind::Types | Kind::Records { .. } if !self.is_on_sibling(entry, cx) => {
                self.events.extend(subscription.record_event(slot, entry, false, cx.now));
            }
            Kind::Types | Kind::Records { .. } => {}
            Kind::Host { .. } => self.mark_host(slot),
        }
    }

    fn mark_host(&mut self, slot: usize) {
        if let Some(Kind::Host { dirty, .. }) = self.subscriptions.get_mut(slot).map(|s| &mut s.kind)
            && !std::mem::replace(dirty, true)
        {
            self.dirty_hosts.push(slot);
        }
    }

    /// Tells the addresses of the hosts about which something is new.
    pub(super) fn settle_hosts(&mut self, cx: &Context<'_>) {
        for slot in std::mem::take(&mut self.dirty_hosts) {
            let Some(Kind::Host { name, .. }) = self.subscriptions.get(slot).map(|s| &s.kind) else {
                continue;
            };
            let mut addresses: Vec<ScopedAddress> = cx
                .links
                .indexes()
                .flat_map(|interface| self.addresses(&name.clone(), interface, cx.links))
                .collect();
            addresses.sort_unstable();
            let Some(subscription) = self.subscriptions.get_mut(slot) else { continue };
            let id = subscription.id(slot);
            let Kind::Host { reported, dirty, .. } = &mut subscription.kind else { continue };
            *dirty = false;
            if *reported != addresses {
                reported.clone_from(&addresses);
                self.events.push_back(Event::Host { id, addresses });
            }
        }
    }
}

impl Subscription {
    /// What to tell of a record, if it means something.
    fn record_event(&self, slot: usize, entry: &Entry, present: bool, now: Instant) -> Option<Event> {
        let id = self.id(slot);
        match self.kind {
            Kind::Types => {
                let RData::Ptr(target) = entry.data.as_rdata() else { return None };
                let service_type = ServiceType::of_name(target)?;
                Some(Event::Type { id, service_type, interface: entry.interface, present })
            }
            Kind::Records { .. } => Some(Event::Answer { id, answer: Answer::of_entry(entry, now), present }),
            _ => None,
        }
    }
}
