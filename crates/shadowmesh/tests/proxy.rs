//! The proxies as their users see them: curl, datagrams, half-closed connections, targets and clients that misbehave.
//!
//! Entry and exit run in the test's thread. The streams between them are TCP connections on loopback, so that all of the
//! product's code runs but for the session below it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "proxy/faults.rs"]
mod faults;
#[path = "proxy/forwards.rs"]
mod forwards;
#[path = "proxy/http.rs"]
mod http;
#[path = "proxy/load.rs"]
mod load;
#[path = "proxy/socks5.rs"]
mod socks5;
#[path = "proxy/streams.rs"]
mod streams;
#[path = "proxy/udp.rs"]
mod udp;
#[path = "proxy/world.rs"]
mod world;
