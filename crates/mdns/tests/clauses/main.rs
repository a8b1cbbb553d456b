//! What the engine does on the wire, clause by clause: each test is named after the item of the table in `CLAUSES.md`.

#![allow(clippy::unwrap_used, reason = "a test may fail")]
#![allow(clippy::disallowed_methods, reason = "an origin for the clock that the tests move by hand")]

mod cache;
mod link_and_format;
mod names;
mod query;
mod respond;
mod robustness;
mod script;
mod services;
mod sufferings;
mod table;
mod traffic;
