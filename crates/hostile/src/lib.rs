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
pub mod fake_tcp;
pub mod fec_groups;
pub mod handshake_messages;
pub mod handshake_sequences;
pub mod http_connect;
mod incremental;
pub mod kcp_segments;
pub mod kcptun_datagrams;
pub mod mdns_engine;
pub mod mdns_message;
pub mod mdns_names;
mod pair;
pub mod proxy_request;
mod reference;
pub mod smux_frames;
pub mod socks5;
pub mod super_packet;
pub mod tcp_frame;

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
    Target { name: "fake_tcp", run: fake_tcp::run },
    Target { name: "fec_groups", run: fec_groups::run },
    Target { name: "handshake_messages", run: handshake_messages::run },
    Target { name: "handshake_sequences", run: handshake_sequences::run },
    Target { name: "http_connect", run: http_connect::run },
    Target { name: "kcp_segments", run: kcp_segments::run },
    Target { name: "kcptun_datagrams", run: kcptun_datagrams::run },
    Target { name: "mdns_engine", run: mdns_engine::run },
    Target { name: "mdns_message", run: mdns_message::run },
    Target { name: "mdns_names", run: mdns_names::run },
    Target { name: "proxy_request", run: proxy_request::run },
    Target { name: "smux_frames", run: smux_frames::run },
    Target { name: "socks5", run: socks5::run },
    Target { name: "super_packet", run: super_packet::run },
    Target { name: "tcp_frame", run: tcp_frame::run },
];

/// The target with that name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
