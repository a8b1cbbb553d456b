//! Multicast DNS (RFC 6762) and DNS-based service discovery (RFC 6763): find services on the local network, and be found.
//!
//! ```
//! use beacon::{Beacon, Interfaces, Service, ServiceEvent};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // All suitable interfaces are used if nothing is said; this example stays on this machine.
//! let beacon = Beacon::builder().interfaces(Interfaces::only(["lo"])).host_name("beacon-example").start().await?;
//!
//! // Offer a service: its name is probed, then announced. Dropping `printer` says goodbye.
//! let service = Service::new("My printer", "_ipp._tcp", 631).txt("rp", "ipp/print");
//! let printer = beacon.publish(service).await?;
//!
//! // Find services: a stream of `Added`, `Changed`, `Removed`.
//! let mut found = beacon.browse("_ipp._tcp")?;
//! while let Some(event) = found.next().await {
//!     if let ServiceEvent::Added(service) = event
//!         && service.instance == printer.name()
//!     {
//!         assert_eq!(service.port, 631);
//!         assert_eq!(service.txt.value("rp"), Some(Some(&b"ipp/print"[..])));
//!         break;
//!     }
//! }
//!
//! // Find a host: IPv4 and IPv6 addresses, with the interface on which each is valid.
//! let addresses = beacon.resolve_host("beacon-example.local").await?;
//! assert!(!addresses.is_empty());
//!
//! beacon.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! # How it works
//!
//! One task owns everything: the engine of the crate [`mdns`], which decides, and one socket a family, which serve all
//! interfaces. [`Beacon`] and all that it hands out are ways to that task; none of them blocks another, and thousands of
//! searches go on at once. It runs in the Tokio runtime of its caller.
//!
//! Interfaces that come and go, addresses that change, and a machine that wakes up are noticed by themselves, through netlink
//! and a look at all interfaces every 20 s. It works beside Avahi and systemd-resolved on the same host.
//!
//! Packets are received in batches, into buffers made at the start; one that is of no interest, and one that only
//! refreshes what is known, cost no allocation.

mod budget;
mod builder;
mod command;
mod condition;
mod driver;
mod error;
mod event;
mod interfaces;
mod mailbox;
mod monitor;
mod names;
mod publications;
mod ready;
mod searches;
mod service;
mod sockets;
mod statistics;
mod suspension;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

pub use builder::Builder;
pub use condition::{Condition, Conditions, Unsent};
pub use error::{Error, StartError};
pub use event::{Addresses, Events, Instance, NameEvent, RecordEvent, ServiceEvent, TypeEvent};
pub use interfaces::Interfaces;
pub use mailbox::Coalesce;
pub use mdns::wire::{NameBuf, RecordData, RecordType};
pub use mdns::{
    Answer, HostName, InstanceName, NameError, Protocol, ResolvedService, ScopedAddress, ServiceName,
    ServiceType, ShownInstance, Subtype, Txt,
};
pub use monitor::{Monitor, Packet};
pub use service::{Publication, Service};
pub use statistics::{InterfaceStatus, SocketStatistics, Statistics};

use command::{Command, Commands, Outbox, Question, Subscription};
use error::parse;
use mailbox::{Sender, mailbox};
use mdns::{Browse, QueryLifetime};

/// How long a look-up waits for its answer: three questions, at once, after one second and after three (RFC 6762 §5.2), and
/// time to answer the last one.
pub const LOOKUP_TIME: Duration = Duration::from_secs(4);

/// How long a look-up goes on after the first answer: for those of other interfaces, and in packets of their own.
const SETTLING: Duration = Duration::from_millis(50);

/// How long a look-up of a service goes on after addresses of one family, for those of the other: its question waits for up to
/// 120 ms (RFC 6762 §5.2), and so may the answer.
const OTHER_FAMILY: Duration = Duration::from_millis(500);

/// A querier and responder. Clones are handles on the same one.
///
/// It ends, and says goodbye for all that it has published, when it is [shut down](Self::shutdown), or when it and all its
/// clones, [`Events`] and [`Publication`]s have been dropped, or when its runtime ends.
#[derive(Clone)]
pub struct Beacon {
    commands: Commands,
    next_id: Arc<AtomicU64>,
    publishes_host: bool,
    conditions: Conditions,
}

impl Beacon {
    /// How it is to be.
    pub fn builder() -> Builder {
        Builder::new()
    }

    fn new(commands: Commands, publishes_host: bool, conditions: Conditions) -> Self {
        Self { commands, next_id: Arc::new(AtomicU64::new(0)), publishes_host, conditions }
    }

    // ---- searching -------------------------------------------------------------------------------------------

    /// Searches for the services of a type (`_ipp._tcp`), or of a subtype (`_printer._sub._ipp._tcp`), and finds out how to
    /// reach each.
    ///
    /// # Errors
    /// [`Error::Invalid`] when that is no type.
    pub fn browse(&self, service_type: &str) -> Result<Events<ServiceEvent>, Error> {
        let browse = parse_browse(service_type, true)?;
        Ok(self.search(Question::Services(browse), Outbox::Services).0)
    }

    /// Searches for the services of a type, or of a subtype, by name only: half the questions on the network.
    ///
    /// # Errors
    /// As [`browse`](Self::browse).
    pub fn browse_names(&self, service_type: &str) -> Result<Events<NameEvent>, Error> {
        let browse = parse_browse(service_type, false)?;
        Ok(self.search(Question::Services(browse), Outbox::Names).0)
    }

    /// Searches for the types of services that anybody offers (RFC 6763 §9).
    pub fn browse_types(&self) -> Events<TypeEvent> {
        self.search(Question::Types, Outbox::Types).0
    }

    /// Finds the addresses of a host: `nas`, or `nas.local`; one whose name breaks the rules is written as in a zone file
    /// (`My\.TV.local`), which is how [`ResolvedService::host`] has it.
    ///
    /// # Errors
    /// [`Error::NotFound`] when nobody has answered within [`LOOKUP_TIME`]; [`Error::Invalid`]; [`Error::Closed`].
    pub async fn resolve_host(&self, name: &str) -> Result<Addresses, Error> {
        let host = parse_host(name)?;
        let (mut events, begun) = self.search(Question::Host(host), Outbox::Addresses);
        begun.await.map_err(|_| Error::Closed)??;
        let mut deadline = Instant::now() + LOOKUP_TIME;
        let mut found = Vec::new();
        while let Ok(Some(addresses)) = timeout_at(deadline, events.next()).await {
            if found.is_empty() && !addresses.is_empty() {
                deadline = deadline.min(Instant::now() + SETTLING);
            }
            found = addresses;
        }
        if found.is_empty() { Err(Error::NotFound(name.into())) } else { Ok(found) }
    }

    /// Follows the addresses of a host.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn watch_host(&self, name: &str) -> Result<Events<Addresses>, Error> {
        Ok(self.search(Question::Host(parse_host(name)?), Outbox::Addresses).0)
    }

    /// Finds out how to reach one service whose name is known: its instance (`My printer`) and its type (`_ipp._tcp`).
    ///
    /// # Errors
    /// As [`resolve_host`](Self::resolve_host).
    pub async fn resolve(&self, name: &str, service_type: &str) -> Result<ResolvedService, Error> {
        let (instance, service_type) = (parse("service name", name)?, parse("service type", service_type)?);
        self.resolve_service(ServiceName { instance, service_type }).await
    }

    /// Finds out how to reach one service, as [`resolve`](Self::resolve) does, also one whose name breaks the rules.
    ///
    /// # Errors
    /// As [`resolve_host`](Self::resolve_host).
    pub async fn resolve_service(&self, name: ServiceName) -> Result<ResolvedService, Error> {
        let question = Question::Service(name.instance.clone(), name.service_type.clone());
        let (mut events, begun) = self.search(question, Outbox::Services);
        begun.await.map_err(|_| Error::Closed)??;
        let latest = Instant::now() + LOOKUP_TIME;
        let (mut deadline, mut found) = (latest, None::<ResolvedService>);
        while let Ok(Some(event)) = timeout_at(deadline, events.next()).await {
            match event {
                ServiceEvent::Added(service) | ServiceEvent::Changed(service) => {
                    // The addresses of one family often come with the service; those of the other are asked for then.
                    let has = |ipv4| service.addresses.iter().any(|address| address.ip.is_ipv4() == ipv4);
                    let wait = if has(true) && has(false) { SETTLING } else { OTHER_FAMILY };
                    deadline = deadline.min(Instant::now() + wait);
                    found = Some(service);
                }
                ServiceEvent::Removed(gone) => {
                    if found.as_ref().is_some_and(|service| service.interface == gone.interface) {
                        (deadline, found) = (latest, None);
                    }
                }
            }
        }
        found.ok_or_else(|| Error::NotFound(format!("{name}.local")))
    }

    /// Follows the records of a name (as in a zone file: dots within a label are written `\.`) and a type;
    /// [`RecordType::ANY`] for all.
    ///
    /// # Errors
    /// [`Error::Refused`] when that is no name, or there are too many searches; [`Error::Closed`].
    pub async fn query(&self, name: &str, record_type: RecordType) -> Result<Events<RecordEvent>, Error> {
        self.query_for(name, record_type, QueryLifetime::Continuous).await
    }

    /// Asks for the records of a name and a type, and returns those that there are after `time`; sooner when the answer is
    /// whole: a record whose owner says that nobody else has any of this name and type.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub async fn query_once(
        &self,
        name: &str,
        record_type: RecordType,
        time: Duration,
    ) -> Result<Vec<Answer>, Error> {
        let mut events = self.query_for(name, record_type, QueryLifetime::Once(time)).await?;
        let mut deadline = Instant::now() + time;
        let mut records: Vec<Answer> = Vec::new();
        while let Ok(Some(event)) = timeout_at(deadline, events.next()).await {
            match event {
                RecordEvent::Added(answer) => {
                    if answer.unique && record_type != RecordType::ANY {
                        deadline = deadline.min(Instant::now() + SETTLING);
                    }
                    records.push(answer);
                }
                RecordEvent::Removed(gone) => {
                    records.retain(|known| (known.interface, &known.data) != (gone.interface, &gone.data));
                }
            }
        }
        Ok(records)
    }

    async fn query_for(
        &self,
        name: &str,
        record_type: RecordType,
        lifetime: QueryLifetime,
    ) -> Result<Events<RecordEvent>, Error> {
        let question = Question::Records { name: name.into(), record_type, lifetime };
        let (events, begun) = self.search(question, Outbox::Records);
        begun.await.map_err(|_| Error::Closed)??;
        Ok(events)
    }

    /// A service could not be reached though it is known: asks again whether it exists. If nobody answers for it, it is
    /// [`Removed`](ServiceEvent::Removed) within 10 s (RFC 6762 §10.4).
    pub fn reconfirm(&self, service: &ResolvedService) {
        // Without a driver nothing is known any more.
        let _ = self.commands.send(Command::Reconfirm {
            instance: service.instance.clone(),
            service_type: service.service_type.clone(),
            interface: service.interface,
        });
    }

    fn search<T: Coalesce>(
        &self,
        question: Question,
        outbox: impl FnOnce(Sender<T>) -> Outbox,
    ) -> (Events<T>, oneshot::Receiver<Result<(), mdns::Error>>) {
        let (sender, receiver) = mailbox();
        let (begun, answer) = oneshot::channel();
        let id = self.next_id.fetch_add(1, Relaxed);
        // Without a driver the sender is dropped at once, and the stream ends before it begins.
        let _ = self.commands.send(Command::Search { id, question, outbox: outbox(sender), begun });
        let subscription = Subscription { id, commands: self.commands.clone() };
        (Events { receiver, _subscription: subscription }, answer)
    }

    // ---- publishing ------------------------------------------------------------------------------------------

    /// Offers a service, and returns when its name is its own: about a second, after nobody has objected to it. Where somebody
    /// has it already, another is found, as `My printer (2)`. Waits for a network if there is none.
    ///
    /// # Errors
    /// [`Error::Invalid`]; [`Error::Refused`] when there are too many; [`Error::NoHost`]; [`Error::Closed`].
    pub async fn publish(&self, service: Service) -> Result<Publication, Error> {
        let registration = service.registration()?;
        if registration.host.is_none() && !self.publishes_host {
            return Err(Error::NoHost);
        }
        let wanted = registration.instance.clone();
        let (name, known) = watch::channel(None);
        let (begun, answer) = oneshot::channel();
        let id = self.next_id.fetch_add(1, Relaxed);
        let command = Command::Publish { id, service: Box::new(registration), name, begun };
        self.commands.send(command).map_err(|_| Error::Closed)?;
        // From here on it is taken back when this future is dropped.
        let mut publication = Publication { id, commands: self.commands.clone(), name: known, wanted };
        answer.await.map_err(|_| Error::Closed)??;
        publication.established().await?;
        Ok(publication)
    }

    /// The name of this host. It changes when somebody else claims it.
    ///
    /// # Errors
    /// [`Error::NoHost`]; [`Error::Closed`].
    pub async fn host_name(&self) -> Result<HostName, Error> {
        if !self.publishes_host {
            return Err(Error::NoHost);
        }
        self.ask(Command::HostName).await
    }

    // ---- operating -------------------------------------------------------------------------------------------

    /// What its user should know: that the host was renamed, or that packets do not leave.
    pub fn conditions(&self) -> Conditions {
        self.conditions.clone()
    }

    /// Shows every packet that arrives from now on.
    pub fn monitor(&self) -> Monitor {
        let (sender, packets) = mpsc::channel(Monitor::WAITING_MAX);
        // Without a driver the sender is dropped at once, and the monitor ends before it begins.
        let _ = self.commands.send(Command::Monitor(sender));
        Monitor { packets }
    }

    /// What was counted so far.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub async fn statistics(&self) -> Result<Statistics, Error> {
        self.ask(Command::Statistics).await
    }

    /// Says goodbye for everything that is published, and ends. All streams end as well. Returns when it is done.
    pub async fn shutdown(self) {
        // It has ended already.
        let _ = self.ask(Command::Shutdown).await;
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)
    }
}

impl fmt::Debug for Beacon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Beacon")
    }
}

/// Reads the name of a host that is to be found.
fn parse_host(text: &str) -> Result<NameBuf, Error> {
    let unusual = || {
        let name: NameBuf = text.parse().ok().filter(|_| text.contains('\\'))?;
        let is_local = name.as_name().labels().skip(1).last()?.eq_ignore_ascii_case(b"local");
        is_local.then_some(name)
    };
    match unusual() {
        Some(name) => Ok(name),
        None => parse("host name", text).map(|host: HostName| host.to_name()),
    }
}

/// Reads `_ipp._tcp` or `_printer._sub._ipp._tcp`.
fn parse_browse(text: &str, resolve: bool) -> Result<Browse, Error> {
    let (subtype, service_type) = match text.split_once("._sub.") {
        Some((subtype, service_type)) => (Some(parse("subtype", subtype)?), service_type),
        None => (None, text),
    };
    Ok(Browse { service_type: parse("service type", service_type)?, subtype, resolve })
}
