//! The records that a group ought to have.

use std::net::IpAddr;

use super::groups::{Group, Kind};
use super::{Publisher, TTL_HOST, TTL_OTHER};
use crate::link::Links;
use crate::request::ServiceRegistration;
use crate::wire::{NameBuf, Nsec, RData, RecordData, RecordType, Srv, TYPE_BITMAP_LEN_MAX, TypeBitmap};

/// A record that a group ought to have.
pub(super) struct Wanted {
    pub(super) name: NameBuf,
    pub(super) data: RecordData,
    pub(super) ttl: u32,
    pub(super) unique: bool,
    pub(super) interface: Option<u32>,
}

impl Publisher {
    /// The name that this host has, or probes for.
    fn host_target(&self, service: &ServiceRegistration) -> NameBuf {
        match (&service.host, self.this_host.and_then(|host| self.groups.get(host))) {
            (Some(host), _) => host.to_name(),
            (None, Some(group)) => group.name.clone(),
            // Nothing is published of this host: the name of the service has no address either.
            (None, None) => service.service_type.instance_name(&service.instance),
        }
    }

    /// The records that a group ought to have now.
    pub(super) fn wanted_records(&self, group: &Group, links: &Links) -> Vec<Wanted> {
        let unique = |data: RData<'_>, ttl, interface| Wanted {
            name: group.name.clone(),
            data: RecordData::new(&data),
            ttl,
            unique: true,
            interface,
        };
        let shared = |name: NameBuf, target: &NameBuf| Wanted {
            name,
            data: RecordData::new(&RData::Ptr(target.as_name())),
            ttl: TTL_OTHER,
            unique: false,
            interface: None,
        };
        match &group.kind {
            Kind::Host { addresses: Some(addresses), .. } => host_records(&group.name, addresses, None),
            Kind::Host { addresses: None, .. } => links
                .indexes()
                .filter(|interface| group.is_on(*interface))
                .flat_map(|interface| {
                    let addresses: Vec<IpAddr> =
                        links.addresses(interface).iter().map(|address| address.ip).collect();
                    host_records(&group.name, &addresses, Some(interface))
                })
                .collect(),
            Kind::Service(service) => {
                let target = self.host_target(service);
                let srv = Srv { priority: 0, weight: 0, port: service.port, target: target.as_name() };
                let txt = RData::Txt(service.txt.as_wire());
                let mut wanted = vec![
                    unique(RData::Srv(srv), TTL_HOST, None),
                    unique(txt, TTL_OTHER, None),
                    negative(&group.name, &[RecordType::TXT, RecordType::SRV], None),
                    shared(service.service_type.to_name(), &group.name),
                ];
                wanted.extend(
                    service
                        .subtypes
                        .iter()
                        .map(|subtype| shared(service.service_type.subtype_name(subtype), &group.name)),
                );
                wanted
            }
            Kind::Type { service_type, .. } => vec![shared(group.name.clone(), &service_type.to_name())],
        }
    }
}

/// The records of a host on an interface, or on all.
fn host_records(name: &NameBuf, addresses: &[IpAddr], interface: Option<u32>) -> Vec<Wanted> {
    let mut types = Vec::new();
    let mut wanted: Vec<Wanted> = Vec::new();
    for address in addresses {
        let data = match address {
            IpAddr::V4(ip) => RData::A(*ip),
            IpAddr::V6(ip) => RData::Aaaa(*ip),
        };
        types.push(data.record_type());
        let data = RecordData::new(&data);
        if !wanted.iter().any(|wanted| wanted.data == data) {
            wanted.push(Wanted { name: name.clone(), data, ttl: TTL_HOST, unique: true, interface });
        }
    }
    if !wanted.is_empty() {
        wanted.push(negative(name, &types, interface));
    }
    wanted
}

/// What says that a name has these types and no others (RFC 6762 §6.1): its own name, and the types in one bitmap, in which NSEC
/// itself is not.
fn negative(name: &NameBuf, types: &[RecordType], interface: Option<u32>) -> Wanted {
    let mut buf = [0; TYPE_BITMAP_LEN_MAX];
    let nsec = Nsec { next: name.as_name(), types: TypeBitmap::of(types, &mut buf) };
    let data = RecordData::new(&RData::Nsec(nsec));
    Wanted { name: name.clone(), data, ttl: TTL_HOST, unique: true, interface }
}
