//! Multicast DNS measured beside its peers: what the two programs of this crate share. `bench/mdns/run` runs them.

pub mod codec;
pub mod lan;
pub mod packets;
pub mod roles;
