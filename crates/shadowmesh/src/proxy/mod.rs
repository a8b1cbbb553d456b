//! Proxies and forwards: connections and datagrams of this host's clients, carried on streams to a peer, and from there
//! to their targets.
//!
//! ```text
//!                  ┌───────────── entry ─────────────┐             ┌───────────── exit ─────────────┐
//!  curl, ssh, … ──►│ SOCKS5 · HTTP CONNECT · forward │── stream ──►│ rules · look-up · connect      │──► target
//!                  └─────────────────────────────────┘  request,   └────────────────────────────────┘
//!                                                       then bytes or frames
//! ```
//!
//! Everything here runs in one thread, in a tokio `LocalSet`, over whatever streams it is given ([`entry`] says what they
//! must do). Parsers are functions from bytes to values, so that they are tested and fuzzed by themselves: [`socks5`],
//! [`http`], [`request`] (what crosses a stream), [`Frame`] (datagrams on a stream).
//!
//! Invariants:
//!
//! - A connection at rest holds no buffer, a connection whose receiver is slow one chunk each way; all together hold no
//!   more than [`Settings::buffered_max`] and 2 KiB each.
//! - Every wait ends at once when [`Stop`] says so; what was read is still written, and ends are passed on.
//! - An end one way never cuts the other; an error is never passed on as an end.
//! - An exit connects only to addresses that its rules allow, whatever name led to them ([`Acl`]).

mod acl;
mod credentials;
pub mod entry;
pub mod exit;
mod frames;
pub mod http;
mod listener;
mod pump;
pub mod request;
mod shared;
pub mod socks5;
mod stop;
mod target;

pub use acl::{Acl, Rule, Verdict, may_listen};
pub use credentials::Credentials;
pub use frames::{Frame, FrameError};
pub(crate) use listener::{bind_tcp, listen_address};
pub use shared::{Counter, Counters, Settings, Shared};
pub use stop::{Stop, StopHandle};
pub use target::{Target, TargetError};
