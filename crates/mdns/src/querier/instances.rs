//! Instances of services, from their discovery to their end.

use std::time::Duration;

use super::{Context, Querier, QuestionId, Subscriber};
use crate::cache::{Entry, EntryId};
use crate::event::{Event, ResolvedService, ScopedAddress, ServiceChange};
use crate::hash::mix;
use crate::link::Links;
use crate::querier::subscriptions::Kind;
use crate::service::{InstanceName, ServiceType, Txt};
use crate::wire::{Class, Name, NameBuf, RData, Record, RecordType};

/// After a TXT question was asked so often in vain, a service counts as one without attributes.
const TXT_ASKED: u32 = 2;
/// Instances that are looked at in one go. Thousands can depend on one host, which may change its address in every packet.
const SETTLED_MAX: usize = 256;
/// How long the others wait.
const SETTLE_INTERVAL: Duration = Duration::from_millis(5);

/// What the program knows of an instance.
#[derive(Debug)]
enum Told {
    Nothing,
    Discovered,
    Resolved(Box<ResolvedService>),
    /// It was resolved once, and then its records went, except the PTR.
    Removed,
}

/// One instance of a service, on one interface, of one subscription.
#[derive(Debug)]
pub(super) struct Instance {
    /// The slot of the browse, or of the look-up.
    pub(super) subscription: usize,
    pub(super) interface: u32,
    pub(super) dirty: bool,
    label: InstanceName,
    service_type: ServiceType,
    name: NameBuf,
    name_hash: u64,
    /// SRV and TXT, if it is to be resolved.
    questions: Vec<QuestionId>,
    /// The host of the SRV record, and the questions for its addresses.
    host: Option<(NameBuf, Vec<QuestionId>)>,
    told: Told,
}

fn key(subscription: usize, interface: u32, name_hash: u64) -> u64 {
    mix([name_hash, subscription as u64, u64::from(interface)])
}

impl Querier {
    fn find_instance(&self, subscription: usize, interface: u32, name: Name<'_>) -> Option<usize> {
        let slot = *self.instances_by_key.get(&key(subscription, interface, self.keyed.name(name)))? as usize;
        let found = self.instances.get(slot)?;
        (found.subscription == subscription && found.interface == interface && found.name == name)
            .then_some(slot)
    }

    /// A record says that there is an instance.
    pub(super) fn found_instance(
        &mut self,
        subscription: usize,
        interface: u32,
        label: InstanceName,
        service_type: ServiceType,
        name: &NameBuf,
        cx: &mut Context<'_>,
    ) {
        if let Some(slot) = self.find_instance(subscription, interface, name.as_name()) {
            self.mark(slot);
            return;
        }
        let name_hash = self.keyed.name(name.as_name());
        let slot = self.instances.insert(Instance {
            subscription,
            interface,
            dirty: false,
            label,
            service_type,
            name: name.clone(),
            name_hash,
            questions: Vec::new(),
            host: None,
            told: Told::Nothing,
        });
        self.instances_by_key.insert(key(subscription, interface, name_hash), slot as u32);
        self.mark(slot);
        if self.resolves(subscription) {
            for record_type in [RecordType::SRV, RecordType::TXT] {
                let question =
                    self.subscribe(name, record_type, Some(interface), Subscriber::Instance(slot), cx);
                self.instances[slot].questions.push(question);
            }
        }
    }

    fn resolves(&self, subscription: usize) -> bool {
        match self.subscriptions.get(subscription).map(|subscription| &subscription.kind) {
            Some(Kind::Browse { resolve, .. }) => *resolve,
            Some(Kind::Service { .. }) => true,
            _ => false,
        }
    }

    fn mark(&mut self, slot: usize) {
        if let Some(found) = self.instances.get_mut(slot)
            && !std::mem::replace(&mut found.dirty, true)
        {
            self.dirty_instances.push(slot);
        }
    }

    /// Something about an instance is different, if there is such an instance.
    pub(super) fn mark_instance(&mut self, subscription: usize, interface: u32, name: Name<'_>) {
        if let Some(slot) = self.find_instance(subscription, interface, name) {
            self.mark(slot);
        }
    }

    pub(super) fn instance_record_appeared(&mut self, slot: usize, id: EntryId, cx: &mut Context<'_>) {
        self.mark(slot);
        if self.cache.get(id).is_some_and(|entry| entry.record_type() == RecordType::SRV) {
            self.follow_host(slot, cx);
        }
    }

    pub(super) fn instance_record_expired(&mut self, slot: usize, entry: &Entry, cx: &mut Context<'_>) {
        self.mark(slot);
        if entry.record_type() == RecordType::SRV {
            self.follow_host(slot, cx);
        }
    }

    /// The newest record of a type that an instance has on its interface.
    fn newest<'q>(
        &'q self,
        found: &'q Instance,
        record_type: RecordType,
        links: &Links,
    ) -> Option<&'q Entry> {
        links
            .of_interface(found.interface)
            .flat_map(|link| self.cache.set(link, found.name_hash, found.name.as_name(), record_type))
            .map(|(_, entry)| entry)
            .reduce(|newest, entry| if entry.received > newest.received { entry } else { newest })
    }

    /// Asks for the addresses of the host that the SRV record names now.
    fn follow_host(&mut self, slot: usize, cx: &mut Context<'_>) {
        let Some(found) = self.instances.get(slot) else { return };
        let interface = found.interface;
        let target =
            self.newest(found, RecordType::SRV, cx.links).and_then(|entry| match entry.data.as_rdata() {
                // RFC 2782: the root as a target means that there is no such service; nobody has its addresses.
                RData::Srv(srv) if !srv.target.is_root() => Some(srv.target.to_owned()),
                _ => None,
            });
        // Without an SRV record the host stays that of the last: it probably comes back.
        let Some(target) = target else { return };
        if found.host.as_ref().is_some_and(|(host, _)| *host == target) {
            return;
        }
        let questions = [RecordType::A, RecordType::AAAA].map(|record_type| {
            self.subscribe(&target, record_type, Some(interface), Subscriber::Instance(slot), cx)
        });
        let Some(found) = self.instances.get_mut(slot) else { return };
        if let Some((_, before)) = found.host.replace((target, questions.into())) {
            for question in before {
                self.questions.unsubscribe(question, Subscriber::Instance(slot));
            }
        }
    }

    pub(super) fn drop_instance(&mut self, slot: usize) {
        let Some(found) = self.instances.try_remove(slot) else { return };
        self.instances_by_key.remove(&key(found.subscription, found.interface, found.name_hash));
        self.dirty_instances.retain(|other| *other != slot);
        let host = found.host.map(|(_, questions)| questions).unwrap_or_default();
        for question in found.questions.into_iter().chain(host) {
            self.questions.unsubscribe(question, Subscriber::Instance(slot));
        }
    }

    /// The addresses of a host that are known on an interface, in order, each once.
    pub(super) fn addresses(&self, host: &NameBuf, interface: u32, links: &Links) -> Vec<ScopedAddress> {
        let hash = self.keyed.name(host.as_name());
        let mut addresses: Vec<ScopedAddress> = links
            .of_interface(interface)
            .flat_map(|link| {
                [RecordType::A, RecordType::AAAA]
                    .into_iter()
                    .flat_map(move |record_type| self.cache.set(link, hash, host.as_name(), record_type))
            })
            .filter_map(|(_, entry)| match entry.data.as_rdata() {
                RData::A(ip) => Some(ScopedAddress { ip: ip.into(), interface }),
                RData::Aaaa(ip) => Some(ScopedAddress { ip: ip.into(), interface }),
                _ => None,
            })
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    /// Tells the program what is different about what was marked.
    pub(super) fn settle(&mut self, cx: &mut Context<'_>) {
        if self.settle_at.is_some_and(|at| cx.now < at) {
            return;
        }
        let rest = self.dirty_instances.split_off(self.dirty_instances.len().min(SETTLED_MAX));
        self.settle_at = (!rest.is_empty()).then(|| cx.now + SETTLE_INTERVAL);
        for slot in std::mem::replace(&mut self.dirty_instances, rest) {
            let Some(found) = self.instances.get_mut(slot) else { continue };
            found.dirty = false;
            let Some(found) = self.instances.get(slot) else { continue };
            let present = self.is_present(found, cx.links);
            let resolved = if present { self.resolve(found, cx.links) } else { None };
            self.tell(slot, present, resolved);
            if !present {
                self.drop_instance(slot);
            }
        }
        self.settle_hosts(cx);
    }

    /// Whether a record still says that there is the instance.
    fn is_present(&self, found: &Instance, links: &Links) -> bool {
        match self.subscriptions.get(found.subscription).map(|subscription| &subscription.kind) {
            Some(Kind::Browse { name, .. }) => {
                let rdata = RData::Ptr(found.name.as_name());
                let record =
                    Record { name: name.as_name(), class: Class::IN, cache_flush: false, ttl: 0, rdata };
                let hash = self.keyed.name(name.as_name());
                links.of_interface(found.interface).any(|link| self.cache.find(link, hash, &record).is_some())
            }
            Some(Kind::Service { .. }) => self.newest(found, RecordType::SRV, links).is_some(),
            _ => false,
        }
    }

    /// All about an instance, if all is known.
    fn resolve(&self, found: &Instance, links: &Links) -> Option<ResolvedService> {
        let RData::Srv(srv) = self.newest(found, RecordType::SRV, links)?.data.as_rdata() else {
            return None;
        };
        let txt = match self.newest(found, RecordType::TXT, links).map(|entry| entry.data.as_rdata()) {
            Some(RData::Txt(txt)) => Txt::from_wire(txt.as_bytes()),
            _ if self.has_no_txt(found, links) => Txt::default(),
            _ => return None,
        };
        let (host, _) = found.host.as_ref()?;
        let addresses = self.addresses(host, found.interface, links);
        (!addresses.is_empty()).then(|| ResolvedService {
            instance: found.label.clone(),
            service_type: found.service_type.clone(),
            interface: found.interface,
            host: host.to_string(),
            port: srv.port,
            priority: srv.priority,
            weight: srv.weight,
            txt,
            addresses,
        })
    }

    /// RFC 6763 §6 wants a TXT record of every service, but some have none.
    fn has_no_txt(&self, found: &Instance, links: &Links) -> bool {
        let given_up = found
            .questions
            .get(1)
            .is_some_and(|txt| self.questions.asked(*txt, links, found.interface) >= TXT_ASKED);
        given_up
            || self.newest(found, RecordType::NSEC, links).is_some_and(|entry| {
                matches!(entry.data.as_rdata(), RData::Nsec(nsec) if !nsec.types.contains(RecordType::TXT))
            })
    }

    fn tell(&mut self, slot: usize, present: bool, resolved: Option<ResolvedService>) {
        let Some(found) = self.instances.get_mut(slot) else { return };
        let Some(id) = self.subscriptions.get(found.subscription).map(|s| s.id(found.subscription)) else {
            return;
        };
        let (instance, service_type, interface) =
            (found.label.clone(), found.service_type.clone(), found.interface);
        let events = &mut self.events;
        let mut tell = |change| events.push_back(Event::Service { id, change });
        if matches!(found.told, Told::Nothing) && present {
            let (instance, service_type) = (instance.clone(), service_type.clone());
            tell(ServiceChange::Discovered { instance, service_type, interface });
            found.told = Told::Discovered;
        }
        match (&found.told, resolved) {
            (Told::Resolved(before), Some(after)) if **before == after => {}
            (Told::Resolved(_), Some(after)) => {
                tell(ServiceChange::Changed(after.clone()));
                found.told = Told::Resolved(Box::new(after));
            }
            (_, Some(after)) => {
                tell(ServiceChange::Added(after.clone()));
                found.told = Told::Resolved(Box::new(after));
            }
            (Told::Resolved(_), None) => {
                tell(ServiceChange::Removed { instance, service_type, interface });
                found.told = Told::Removed;
            }
            (Told::Discovered, None) if !present => {
                tell(ServiceChange::Removed { instance, service_type, interface });
                found.told = Told::Removed;
            }
            _ => {}
        }
    }

    /// The program could not reach an instance (RFC 6762 §10.4).
    pub(crate) fn reconfirm(
        &mut self,
        instance: &InstanceName,
        service_type: &ServiceType,
        interface: u32,
        cx: &mut Context<'_>,
    ) {
        let name = service_type.instance_name(instance);
        let hash = self.keyed.name(name.as_name());
        let service = service_type.to_name();
        let mut doubted: Vec<EntryId> = Vec::new();
        for link in cx.links.of_interface(interface) {
            let pointer = RData::Ptr(name.as_name());
            let pointer = Record {
                name: service.as_name(),
                class: Class::IN,
                cache_flush: false,
                ttl: 0,
                rdata: pointer,
            };
            doubted.extend(self.cache.find(link, self.keyed.name(service.as_name()), &pointer));
            for record_type in [RecordType::SRV, RecordType::TXT] {
                for (id, entry) in self.cache.set(link, hash, name.as_name(), record_type) {
                    doubted.push(id);
                    if let RData::Srv(srv) = entry.data.as_rdata() {
                        let host_hash = self.keyed.name(srv.target);
                        for record_type in [RecordType::A, RecordType::AAAA] {
                            let host = self.cache.set(link, host_hash, srv.target, record_type);
                            doubted.extend(host.map(|(id, _)| id));
                        }
                    }
                }
            }
        }
        for id in doubted {
            self.doubt(id, cx);
        }
    }

    /// A TXT question was asked again in vain: what waits for it may have waited long enough.
    pub(super) fn asked(&mut self, question: QuestionId, interface: u32) {
        if self.questions.get(question).is_some_and(|question| question.record_type == RecordType::TXT) {
            self.mark_subscribers(question, interface);
        }
    }
}
