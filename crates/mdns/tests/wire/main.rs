//! The wire codec from outside: what it reads and writes, what others make of it, and what it refuses.

mod allocations;
mod described;
mod hostile;
/// What a fuzzer asks of any message: here of mutations of good ones.
#[allow(unreachable_pub, reason = "in its own crate it is reached")]
#[path = "../../../hostile/src/mdns_message.rs"]
mod mdns_message;
mod oracles;
mod reading;
mod writing;
