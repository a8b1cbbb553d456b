//! Multicast DNS (RFC 6762) and DNS-based service discovery (RFC 6763), without sockets, clocks or threads.
//!
//! [`Engine`] is a complete querier and responder: it probes for names, announces them, defends them, answers for them, and
//! says goodbye; it asks, remembers what it hears, asks again before that expires, and tells what came and went. [`wire`] has
//! the messages: read in place, written without allocating.
//!
//! # How to drive it
//!
//! Tell the engine what happens (`handle_interface`, `handle_packet`, `handle_wake`, `handle_timeout`) and what is wanted
//! (`publish`, `browse`, …), each with the time that it is. After each, send what [`Engine::poll_transmit`] returns and
//! look at what [`Engine::poll_event`] returns, both until they return `None`. Then wait for the next packet or for the
//! time that [`Engine::poll_timeout`] tells, whichever comes first. The crate `beacon` does this with real sockets.
//!
//! ```text
//!   packets, interfaces ──► handle_*  ┌────────┐  poll_transmit ──► packets
//!   publish, browse, … ─────────────► │ Engine │  poll_event ─────► services found, names won and lost
//!   time ───────────► handle_timeout  └────────┘  poll_timeout ───► when to call again, and why
//! ```
//!
//! Two hosts on one link, one with a printer, the other in want of one:
//!
//! ```
//! use std::time::Instant;
//!
//! use mdns::{
//!     Browse, Config, Engine, Event, InterfaceAddress, InterfaceChange, PORT, Received, ServiceChange,
//!     ServiceRegistration,
//! };
//!
//! let mut now = Instant::now();
//! let hosts = [("left", [192, 0, 2, 1]), ("right", [192, 0, 2, 2])];
//! let mut engines = Vec::new();
//! for (name, address) in hosts {
//!     let mut engine = Engine::new(Config::new(name.parse()?), [address[3]; 32], now);
//!     let addresses = vec![InterfaceAddress { ip: address.into(), prefix_length: 24 }];
//!     engine.handle_interface(InterfaceChange::Up { index: 1, addresses, ipv4: true, ipv6: false }, now);
//!     engines.push(engine);
//! }
//! let service_type: mdns::ServiceType = "_ipp._tcp".parse()?;
//! engines[0].publish(ServiceRegistration::new("Ink".parse()?, service_type.clone(), 631), now)?;
//! engines[1].browse(Browse { service_type, subtype: None, resolve: true }, now)?;
//!
//! let found = 'found: loop {
//!     for sender in [0, 1] {
//!         let mut buf = [0; 1_440];
//!         while let Some(transmit) = engines[sender].poll_transmit(&mut buf, now) {
//!             let from = (hosts[sender].1, PORT).into();
//!             let to = [224, 0, 0, 251].into();
//!             let meta = Received { interface: 1, from, to, hop_limit: Some(255), truncated: false };
//!             engines[1 - sender].handle_packet(&buf[..transmit.len], &meta, now);
//!         }
//!         while let Some(event) = engines[sender].poll_event() {
//!             if let Event::Service { change: ServiceChange::Added(service), .. } = event {
//!                 break 'found service;
//!             }
//!         }
//!     }
//!     // Nothing is left to do at this time: go on to the next.
//!     now = engines.iter().filter_map(Engine::poll_timeout).map(|(deadline, _)| deadline).min().expect("a timer");
//!     engines.iter_mut().for_each(|engine| engine.handle_timeout(now));
//! };
//! assert_eq!((found.instance.as_str(), &*found.host, found.port), ("Ink", "left.local", 631));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it promises
//!
//! The crate does no I/O, reads no clock, has no randomness but its seed, and holds no `unsafe` code: the same calls give the
//! same results. Whatever arrives, it neither panics nor grows without bound: the cache, the queries, the
//! publications and what is remembered of each sender have limits, and what is dropped is counted by its reason
//! ([`DropReason`]). A packet that is of no interest, or refreshes what is known, costs no allocation.

mod cache;
mod drops;
mod echo;
mod engine;
mod event;
mod hash;
mod io;
mod limits;
mod link;
mod publisher;
mod querier;
mod request;
mod schedule;
mod service;
mod service_name;
pub mod wire;

pub use drops::DropReason;

pub use engine::{Engine, Statistics};
pub use event::{
    Answer, Event, PublicationId, PublishedName, QueryId, ResolvedService, ScopedAddress, ServiceChange,
};
pub use io::{Destination, Family, InterfaceAddress, InterfaceChange, Received, Transmit};
pub use request::{Browse, Config, Error, HostRegistration, Interfaces, QueryLifetime, ServiceRegistration};
use schedule::jitter;
pub use service::{HostName, InstanceName, NameError, Protocol, ServiceType, Subtype, Txt};
pub use service_name::{ServiceName, ShownInstance};

/// The UDP port of Multicast DNS (RFC 6762 §2).
pub const PORT: u16 = 5353;
