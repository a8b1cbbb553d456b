//! What streams of a [`Beacon`](crate::Beacon) tell.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use mdns::wire::{NameBuf, RecordType};
use mdns::{Answer, InstanceName, ResolvedService, ScopedAddress, ServiceChange, ServiceType};

use crate::command::Subscription;
use crate::mailbox::{Coalesce, Receiver};

/// A stream of what happens to whatever was asked for, for as long as it is held. Dropping it ends the search.
///
/// It does not end while its [`Beacon`](crate::Beacon) runs, unless that has 16,384 searches already and refuses one more: then
/// it ends at once. To a reader that is slow, steps that cancel each other out are not told: of a service that came and went
/// meanwhile it hears nothing, and of one that changed twice only the last.
#[must_use = "dropping the stream ends the search"]
pub struct Events<T: Coalesce> {
    pub(crate) receiver: Receiver<T>,
    /// Ends the search when it is dropped.
    pub(crate) _subscription: Subscription,
}

impl<T: Coalesce> Events<T> {
    /// The next event; `None` at the end. Nothing is lost when the future is dropped before it is ready.
    pub async fn next(&mut self) -> Option<T> {
        poll_fn(|context| self.receiver.poll(context)).await
    }
}

impl<T: Coalesce> Stream for Events<T> {
    type Item = T;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        self.receiver.poll(context)
    }
}

impl<T: Coalesce> fmt::Debug for Events<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}

/// One instance of a service on one interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instance {
    /// Its name.
    pub name: InstanceName,
    /// Its type.
    pub service_type: ServiceType,
    /// The index of the interface on which it was seen.
    pub interface: u32,
}

impl Instance {
    /// Which one a service is.
    pub fn of(service: &ResolvedService) -> Self {
        Self {
            name: service.instance.clone(),
            service_type: service.service_type.clone(),
            interface: service.interface,
        }
    }
}

/// What [`browse`](crate::Beacon::browse) tells. An instance that is seen on two interfaces is told twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceEvent {
    /// There is a service, and this is how to reach it.
    Added(ResolvedService),
    /// Its host, port, attributes or addresses are now these.
    Changed(ResolvedService),
    /// It is gone: it said goodbye, or has not been heard of for too long.
    Removed(Instance),
}

impl ServiceEvent {
    /// `None` for a step that has no meaning to somebody who wants to reach the service.
    pub(crate) fn from_change(change: ServiceChange) -> Option<Self> {
        match change {
            ServiceChange::Discovered { .. } => None,
            ServiceChange::Added(service) => Some(Self::Added(service)),
            ServiceChange::Changed(service) => Some(Self::Changed(service)),
            ServiceChange::Removed { instance, service_type, interface } => {
                Some(Self::Removed(Instance { name: instance, service_type, interface }))
            }
        }
    }
}

impl Coalesce for ServiceEvent {
    type Key = Instance;

    fn key(&self) -> Instance {
        match self {
            Self::Added(service) | Self::Changed(service) => Instance::of(service),
            Self::Removed(instance) => instance.clone(),
        }
    }

    fn followed_by(self, newer: Self) -> Option<Self> {
        match (self, newer) {
            (Self::Added(_), Self::Changed(service) | Self::Added(service)) => Some(Self::Added(service)),
            (Self::Added(_), Self::Removed(_)) => None,
            (Self::Removed(_), Self::Added(service)) => Some(Self::Changed(service)),
            (Self::Changed(_) | Self::Removed(_), newer) => Some(newer),
        }
    }
}

/// What [`browse_names`](crate::Beacon::browse_names) tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameEvent {
    /// There is such an instance.
    Added(Instance),
    /// It is gone.
    Removed(Instance),
}

impl NameEvent {
    pub(crate) fn from_change(change: ServiceChange) -> Option<Self> {
        match change {
            ServiceChange::Discovered { instance, service_type, interface } => {
                Some(Self::Added(Instance { name: instance, service_type, interface }))
            }
            ServiceChange::Removed { instance, service_type, interface } => {
                Some(Self::Removed(Instance { name: instance, service_type, interface }))
            }
            ServiceChange::Added(_) | ServiceChange::Changed(_) => None,
        }
    }
}

impl Coalesce for NameEvent {
    type Key = Instance;

    fn key(&self) -> Instance {
        match self {
            Self::Added(instance) | Self::Removed(instance) => instance.clone(),
        }
    }

    fn followed_by(self, newer: Self) -> Option<Self> {
        (self == newer).then_some(newer)
    }
}

/// What [`browse_types`](crate::Beacon::browse_types) tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TypeEvent {
    /// Somebody offers services of this type, on the interface of this index.
    Added(ServiceType, u32),
    /// Nobody does any more.
    Removed(ServiceType, u32),
}

impl Coalesce for TypeEvent {
    type Key = (ServiceType, u32);

    fn key(&self) -> Self::Key {
        match self {
            Self::Added(service_type, interface) | Self::Removed(service_type, interface) => {
                (service_type.clone(), *interface)
            }
        }
    }

    fn followed_by(self, newer: Self) -> Option<Self> {
        (self == newer).then_some(newer)
    }
}

/// What [`query`](crate::Beacon::query) tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordEvent {
    /// There is such a record.
    Added(Answer),
    /// There is no longer.
    Removed(Answer),
}

impl Coalesce for RecordEvent {
    type Key = (u32, NameBuf, RecordType, Box<[u8]>);

    fn key(&self) -> Self::Key {
        match self {
            Self::Added(answer) | Self::Removed(answer) => {
                (answer.interface, answer.name.clone(), answer.record_type(), answer.data.as_bytes().into())
            }
        }
    }

    fn followed_by(self, newer: Self) -> Option<Self> {
        match (&self, &newer) {
            (Self::Added(_), Self::Removed(_)) | (Self::Removed(_), Self::Added(_)) => None,
            _ => Some(newer),
        }
    }
}

/// All addresses of a host that are known; none when the last one has gone.
pub type Addresses = Vec<ScopedAddress>;

impl Coalesce for Addresses {
    type Key = ();

    fn key(&self) {}

    fn followed_by(self, newer: Self) -> Option<Self> {
        Some(newer)
    }
}
