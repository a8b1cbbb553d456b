//! `version`: what this program is and can do.

use handshake::preferred_suite;

use super::output::print;
use crate::failure::Failure;

pub(super) fn run() -> Result<(), Failure> {
    print(&format!(
        "shadowmesh {version}\n\
         target     {target}\n\
         features   post-quantum handshake (X25519 + ML-KEM-768), WireGuard handshake, offloads (TSO, USO, GSO, GRO)\n\
         cipher     {suite}, the fastest on this CPU\n",
        version = env!("CARGO_PKG_VERSION"),
        target = env!("SHADOWMESH_TARGET"),
        suite = preferred_suite().name(),
    ))
}
