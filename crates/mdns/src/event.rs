//! What the engine has to tell the program.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use crate::cache::Entry;
use crate::service::{HostName, InstanceName, ServiceType, Txt};
use crate::wire::{Class, NameBuf, Record, RecordData, RecordType};

/// A service or host that this engine publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicationId(pub(crate) u64);

/// Something the program asked for: a browse, a look-up, a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueryId(pub(crate) u64);

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A name is ours: it was probed and is announced, on every interface that is up.
    Published {
        /// The publication.
        id: PublicationId,
        /// The name it has.
        name: PublishedName,
    },
    /// Somebody else has the name: ours is another one now. The program should keep it, and ask for it next time
    /// (RFC 6762 §9). A [`Event::Published`] follows when the new name is ours.
    Renamed {
        /// The publication.
        id: PublicationId,
        /// The new name.
        name: PublishedName,
    },
    /// What a browse found, or lost.
    Service {
        /// The browse.
        id: QueryId,
        /// What changed.
        change: ServiceChange,
    },
    /// The addresses of a host that is looked up: all that are known now.
    Host {
        /// The look-up.
        id: QueryId,
        /// All addresses; empty when the last one is gone.
        addresses: Vec<ScopedAddress>,
    },
    /// A service type appeared or went.
    Type {
        /// The enumeration.
        id: QueryId,
        /// The type.
        service_type: ServiceType,
        /// The interface it is on.
        interface: u32,
        /// Whether it appeared.
        present: bool,
    },
    /// A record that a query asked for appeared, or went.
    Answer {
        /// The query.
        id: QueryId,
        /// The record.
        answer: Answer,
        /// Whether it appeared.
        present: bool,
    },
    /// The time of a query that was to be asked once is over: nothing follows.
    Finished {
        /// The query.
        id: QueryId,
    },
    /// A record of a packet that arrived, when the monitor is on.
    Heard {
        /// The interface on which it arrived.
        interface: u32,
        /// Who sent it.
        from: SocketAddr,
        /// Whether it stood in a response.
        response: bool,
        /// The record.
        answer: Answer,
    },
}

/// The name under which something is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishedName {
    /// A host.
    Host(HostName),
    /// An instance of a service.
    Service(InstanceName, ServiceType),
}

/// What a browse has to say about one instance on one interface. `Discovered` comes first and once; then `Added`, any number of
/// `Changed`, and `Removed`. An instance that was removed because its host fell silent may be added again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceChange {
    /// There is such an instance. Of a browse that does not resolve, this is all there is to know.
    Discovered {
        /// The instance.
        instance: InstanceName,
        /// Its type.
        service_type: ServiceType,
        /// The interface on which it was seen.
        interface: u32,
    },
    /// It is resolved: host, port, attributes and at least one address are known.
    Added(ResolvedService),
    /// Something about it is different now.
    Changed(ResolvedService),
    /// It is gone.
    Removed {
        /// The instance.
        instance: InstanceName,
        /// Its type.
        service_type: ServiceType,
        /// The interface on which it was seen.
        interface: u32,
    },
}

/// An instance of a service, and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedService {
    /// The instance.
    pub instance: InstanceName,
    /// Its type.
    pub service_type: ServiceType,
    /// The interface on which it was seen.
    pub interface: u32,
    /// The host it runs on, as a name without a final dot, escaped where needed.
    pub host: String,
    /// The port, in host byte order.
    pub port: u16,
    /// Of several instances the one with the lowest priority is to be preferred (RFC 2782).
    pub priority: u16,
    /// How to spread load among those of one priority (RFC 2782).
    pub weight: u16,
    /// Its attributes.
    pub txt: Txt,
    /// Its addresses on that interface, IPv4 first.
    pub addresses: Vec<ScopedAddress>,
}

/// An address, and the interface on which it means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScopedAddress {
    /// The address.
    pub ip: IpAddr,
    /// The index of the interface: the scope of a link-local address.
    pub interface: u32,
}

impl ScopedAddress {
    /// Where to connect to reach `port` there.
    pub fn with_port(self, port: u16) -> SocketAddr {
        match self.ip {
            IpAddr::V6(ip) if ip.is_unicast_link_local() => {
                std::net::SocketAddrV6::new(ip, port, 0, self.interface).into()
            }
            ip => SocketAddr::new(ip, port),
        }
    }
}

/// A record as it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The interface on which it was received.
    pub interface: u32,
    /// Its name.
    pub name: NameBuf,
    /// Its class.
    pub class: Class,
    /// Whether its sender says that there are no others of that name and type: the cache-flush bit.
    pub unique: bool,
    /// How long it is valid, in seconds, from now.
    pub ttl: u32,
    /// Its type and data.
    pub data: RecordData,
}

impl Answer {
    pub(crate) fn of_entry(entry: &Entry, now: Instant) -> Self {
        Self {
            interface: entry.interface,
            name: entry.name.clone(),
            class: entry.class,
            unique: entry.unique,
            ttl: entry.ttl_left(now),
            data: entry.data.clone(),
        }
    }

    pub(crate) fn of_record(interface: u32, record: &Record<'_>) -> Self {
        Self {
            interface,
            name: record.name.to_owned(),
            class: record.class,
            unique: record.cache_flush,
            ttl: record.ttl,
            data: RecordData::new(&record.rdata),
        }
    }

    /// The type of the record.
    pub fn record_type(&self) -> RecordType {
        self.data.record_type()
    }
}

impl Event {
    /// The query that it is about.
    pub fn query(&self) -> Option<QueryId> {
        match self {
            Self::Service { id, .. }
            | Self::Host { id, .. }
            | Self::Type { id, .. }
            | Self::Answer { id, .. }
            | Self::Finished { id } => Some(*id),
            Self::Published { .. } | Self::Renamed { .. } | Self::Heard { .. } => None,
        }
    }

    /// The publication that it is about.
    pub fn publication(&self) -> Option<PublicationId> {
        match self {
            Self::Published { id, .. } | Self::Renamed { id, .. } => Some(*id),
            _ => None,
        }
    }
}
