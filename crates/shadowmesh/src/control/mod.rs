//! The control socket: HTTP/1.1 and JSON over a unix socket, one per node.
//!
//! ```text
//! GET  /v1/status                          → Status
//! POST /v1/ping   {"peer":…, "count":…}    → PingReport     (count is 1 by default, at most 100; "carrier" for another one)
//! POST /v1/rekey  {"peer":…}               → {}
//! ```
//!
//! An error is `{"error": "…"}` with the status that fits it. Only root and the user that runs the daemon may
//! connect: the socket file has mode 0600, and the daemon checks the peer's credentials, because abstract sockets
//! have no mode.

pub(crate) mod client;
pub(crate) mod server;
pub(crate) mod socket;
pub(crate) mod types;

pub(crate) use client::{Client, ClientError};
pub(crate) use socket::SocketName;
pub(crate) use types::Status;
