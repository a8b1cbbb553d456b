//! The memory of an exit under a peer that begins everything and ends nothing. In a process of its own, whose memory is its own.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "proxy/world.rs"]
#[allow(dead_code, clippy::unused_async, reason = "each test uses what it needs")]
mod world;

use node::PeerId;
use shadowmesh::proxy::{Settings, Target};
use tokio::io::AsyncWriteExt;

use world::{Node, eventually, loopback_allowed, run};

const MEMORY_MAX: usize = 64 << 20;
const ASSOCIATIONS: usize = 2_000;

/// The memory that this process has now, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10
}

#[test]
fn two_thousand_associations_with_half_sent_frames_stay_within_the_memory_that_is_allowed() {
    run(async {
        let exit = Node::start(Settings::within(MEMORY_MAX), loopback_allowed(), None).await;
        let mut half = vec![1, 2];
        half.extend_from_slice(&60_100_u16.to_be_bytes());
        Target::UNSPECIFIED.encode(&mut half);
        half.resize(2 + 60_000, 7);
        let before = resident();
        let mut streams = Vec::new();
        // Two peers, so that all that can be had is had.
        for number in 0..2 * ASSOCIATIONS {
            let mut stream = exit.connect_as(PeerId((number % 2) as u32)).await;
            // Those that are refused are closed.
            let _ = stream.write_all(&half).await;
            streams.push(stream);
        }
        eventually("all that was sent is read", || {
            let counters = &exit.shared.counters;
            counters.exit_requests.value() == 2 * ASSOCIATIONS as u64
                && exit.shared.buffered() > MEMORY_MAX / 8
        })
        .await;
        let (streams_held, memory) = (exit.shared.streams(), exit.shared.memory());
        let grown = resident().saturating_sub(before);
        assert!(memory <= MEMORY_MAX / 2, "{memory} bytes for {streams_held} streams");
        assert!(grown <= MEMORY_MAX / 2, "{grown} bytes are more than the {memory} that are accounted for");
        assert!(exit.shared.counters.datagrams_dropped.value() > 0);
    });
}
