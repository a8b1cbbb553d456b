//! What handles ask of the driver.

use mdns::wire::{NameBuf, RecordType};
use mdns::{Browse, HostName, InstanceName, QueryLifetime, ServiceRegistration, ServiceType, Txt};
use tokio::sync::{mpsc, oneshot, watch};

use crate::event::{Addresses, NameEvent, RecordEvent, ServiceEvent, TypeEvent};
use crate::mailbox::Sender;
use crate::monitor::Packet;
use crate::statistics::Statistics;

/// A way to the driver. The driver says goodbye and ends when the last one is gone.
///
/// Unbounded, because some of its users cannot wait (a guard that is dropped); what is on its way is bounded by what the
/// program holds: each search and publication sends one command to begin and one to end.
pub(crate) type Commands = mpsc::UnboundedSender<Command>;

pub(crate) enum Command {
    Search {
        id: u64,
        question: Question,
        outbox: Outbox,
        begun: Reply<()>,
    },
    EndSearch {
        id: u64,
    },
    Publish {
        id: u64,
        service: Box<ServiceRegistration>,
        name: watch::Sender<Option<OwnName>>,
        begun: Reply<()>,
    },
    UpdateTxt {
        id: u64,
        txt: Txt,
        reply: Reply<()>,
    },
    Withdraw {
        id: u64,
        done: Option<oneshot::Sender<()>>,
    },
    Reconfirm {
        instance: InstanceName,
        service_type: ServiceType,
        interface: u32,
    },
    Monitor(mpsc::Sender<Packet>),
    Statistics(oneshot::Sender<Statistics>),
    HostName(oneshot::Sender<HostName>),
    Shutdown(oneshot::Sender<()>),
}

/// The name that a service is published under, or is to be.
#[derive(Clone, Debug)]
pub(crate) struct OwnName {
    pub(crate) instance: InstanceName,
    /// It has been probed: nobody else has it.
    pub(crate) ours: bool,
}

pub(crate) type Reply<T> = oneshot::Sender<Result<T, mdns::Error>>;

/// What a search is for.
pub(crate) enum Question {
    Services(Browse),
    Types,
    Host(NameBuf),
    Service(InstanceName, ServiceType),
    Records { name: String, record_type: RecordType, lifetime: QueryLifetime },
}

/// Where what a search finds goes.
pub(crate) enum Outbox {
    Services(Sender<ServiceEvent>),
    Names(Sender<NameEvent>),
    Types(Sender<TypeEvent>),
    Addresses(Sender<Addresses>),
    Records(Sender<RecordEvent>),
}

/// A search that goes on until this is dropped.
pub(crate) struct Subscription {
    pub(crate) id: u64,
    pub(crate) commands: Commands,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // The driver has ended already, and the search with it.
        let _ = self.commands.send(Command::EndSearch { id: self.id });
    }
}
