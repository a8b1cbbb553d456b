//! What must hold whatever a peer, the network, the kernel or a file on disk hands over.
//!
//! Each [`Target`] takes arbitrary bytes, gives them to the code that would meet them, and panics when a property
//! does not hold; that the code does not panic by itself is the first of them. The same functions are called twice:
//!
//! - by `fuzz/fuzz_targets/*.rs`, where libFuzzer looks for inputs that reach new code (`cargo fuzz run NAME`);
//! - by `tests/corpus.rs`, which replays the corpora in `fuzz/corpus/NAME/` and mutations of them on every
//!   `cargo test`, with the stable toolchain.
//!
//! To add one: write the function in a module here, list it in [`TARGETS`], add a file of five lines to
//! `fuzz/fuzz_targets/` and seeds to `examples/seeds.rs`.
//!
//! ```
//! let target = hostile::target("super_packet").expect("listed");
//! (target.run)(b"no packet at all");
//! ```

mod bytes;
pub mod coalescing;
pub mod config;
pub mod data_packets;
pub mod handshake_messages;
mod pair;
mod reference;
pub mod super_packet;

pub use pair::sample_messages;

/// One function to fuzz.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: that of the fuzz target, of its corpus directory and of its module here.
    pub name: &'static str,
    /// Takes any bytes; panics when what must hold does not.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "coalescing", run: coalescing::run },
    Target { name: "config", run: config::run },
    Target { name: "data_packets", run: data_packets::run },
    Target { name: "handshake_messages", run: handshake_messages::run },
    Target { name: "super_packet", run: super_packet::run },
];

/// The target with that name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
