//! What a conversation achieves over an emulated link: `cargo run --release -p stream --example link`.
//!
//! Deterministic: the same figures on every machine. Goodput is payload read; cost is bytes sent (UDP and IP headers,
//! retransmissions, all but the other direction's acknowledgements) by payload. With a word behind it, only what has it in its
//! name.
#![allow(clippy::print_stdout)] // What it is for.

#[path = "../tests/link/mod.rs"]
mod link;

use std::time::Duration;

use link::{LinkConfig, World};
use stream::kcp::{Congestion, KcpConfig, Mode};

const MEGABIT: u64 = 125_000;
/// No echo takes this long.
const LIMIT: Duration = Duration::from_mins(1);

fn path(loss: f64, queue: usize) -> LinkConfig {
    LinkConfig {
        rate: 200 * MEGABIT,
        queue,
        loss,
        jitter: Duration::from_micros(300),
        ..LinkConfig::default()
    }
}

fn bulk(name: &str, config: LinkConfig, kcp: &KcpConfig, flows: usize) {
    if std::env::args().nth(1).is_some_and(|word| !name.contains(&word)) {
        return;
    }
    // As many bytes as the default path carries in twenty seconds, but no longer than that.
    let time = Duration::from_secs_f64(20.0_f64.min(20.0 * 200e6 / (config.rate as f64 * 8.0)));
    let mut world = World::new(1, config);
    world.tick = Duration::from_millis(1);
    for _ in 0..flows {
        world.add(kcp);
    }
    for [left, _] in &mut world.flows {
        left.to_write = u64::MAX;
    }
    let mut shares = vec![Vec::new(); flows];
    let mut before = vec![0; flows];
    for _ in 0..20 {
        world.run_for(time / 20);
        for (flow, [_, right]) in world.flows.iter().enumerate() {
            shares[flow]
                .push((right.read - before[flow]) * 20 / (time.as_secs_f64() * MEGABIT as f64) as u64);
            before[flow] = right.read;
        }
    }
    for (flow, [left, right]) in world.flows.iter().enumerate() {
        let (statistics, received) = (left.kcp.statistics(), right.kcp.statistics());
        println!(
            "{name:32} {:7.1} Mbit/s  cost {:5.3}  back {:5.3}  again {:5.3}  twice {:5.3}  late {:3}  rtt {:5.1} ms \
             (min {:4.1})  rate {:5.1}  memory {:5} KiB",
            right.read as f64 * 8.0 / 1e6 / time.as_secs_f64(),
            world.links[0].offered[flow] as f64 / right.read as f64,
            world.links[1].offered[flow] as f64 / right.read as f64,
            statistics.retransmissions as f64 / statistics.segments_sent as f64,
            received.duplicates_received as f64 / received.segments_received as f64,
            statistics.timeouts,
            statistics.rtt.unwrap_or_default().as_secs_f64() * 1e3,
            statistics.rtt_min.unwrap_or_default().as_secs_f64() * 1e3,
            statistics.bandwidth.unwrap_or(0) as f64 * 8.0 / 1e6,
            (left.kcp.memory() + right.kcp.memory()) / 1024,
        );
        if std::env::var_os("VERBOSE").is_some() {
            println!("    Mbit/s in each twentieth: {:?}", shares[flow]);
        }
    }
    if world.links[0].overflowed > 0 {
        println!("    {} datagrams found the queue full", world.links[0].overflowed);
    }
}

/// 64 bytes there and back, one at a time.
fn echo(name: &str, config: LinkConfig, kcp: &KcpConfig) {
    if std::env::args().nth(1).is_some_and(|word| !name.contains(&word)) {
        return;
    }
    let mut world = World::pair(1, config, kcp);
    world.tick = Duration::from_millis(1);
    let mut times = Vec::new();
    for count in 1..=2_000 {
        let begin = world.now;
        world.left().to_write = count * 64;
        let there = world.run_until(LIMIT, |world| world.right().read == count * 64);
        world.right().to_write = count * 64;
        let back = world.run_until(LIMIT, |world| world.left().read == count * 64);
        assert!(there && back);
        times.push(world.now.saturating_sub(begin));
        world.run_for(Duration::from_millis(7));
    }
    times.sort();
    let percentile = |percent: usize| times[times.len() * percent / 100].as_secs_f64() * 1e3;
    println!(
        "{name:32} p50 {:6.1} ms  p90 {:6.1}  p99 {:6.1}  most {:6.1}",
        percentile(50),
        percentile(90),
        percentile(99),
        times[times.len() - 1].as_secs_f64() * 1e3
    );
}

fn main() {
    let bbr = KcpConfig::default();
    let none = KcpConfig {
        congestion: Congestion::None,
        send_window: 2_048,
        mode: Mode::FAST2,
        ..KcpConfig::default()
    };
    let product = 1_000_000;
    println!("40 ms, 200 Mbit/s, a queue of one bandwidth-delay product (1 MB)");
    for loss in [0.0, 0.01, 0.05, 0.10, 0.20, 0.30] {
        bulk(&format!("bbr, {:2.0} % loss each way", loss * 100.0), path(loss, product), &bbr, 1);
    }
    for loss in [0.0, 0.05] {
        bulk(&format!("none, {:2.0} % loss each way", loss * 100.0), path(loss, product), &none, 1);
    }
    println!("the same, lost before the queue");
    for loss in [0.05, 0.10] {
        let config = LinkConfig { lost_first: true, ..path(loss, product) };
        bulk(&format!("bbr, {:2.0} % lost first each way", loss * 100.0), config, &bbr, 1);
    }
    println!("the same with a short queue (100 kB) and a long one (5 MB)");
    for (queue, word) in [(100_000, "short"), (5_000_000, "long")] {
        for loss in [0.0, 0.05] {
            bulk(&format!("bbr, {word}, {:2.0} % loss", loss * 100.0), path(loss, queue), &bbr, 1);
        }
    }
    println!("other faults, other paths");
    let base = path(0.0, product);
    let worst = LinkConfig { loss: 0.3, reorder: 0.25, duplicate: 0.1, corrupt: 0.01, ..base };
    bulk("bbr, 25 % reordered", LinkConfig { reorder: 0.25, ..base }, &bbr, 1);
    bulk("bbr, 25 % reordered, 5 % loss", LinkConfig { reorder: 0.25, loss: 0.05, ..base }, &bbr, 1);
    bulk("bbr, everything at once", worst, &bbr, 1);
    bulk("bbr, 1 Mbit/s", LinkConfig { rate: MEGABIT, queue: 20_000, ..base }, &bbr, 1);
    let lan = Duration::from_micros(100);
    bulk(
        "bbr, 5 Gbit/s, 0.2 ms, 5 % loss",
        LinkConfig { delay: lan, rate: 5_000 * MEGABIT, loss: 0.05, ..base },
        &bbr,
        1,
    );
    println!("flows that share it");
    for (flows, loss) in [(2, 0.0), (2, 0.05), (4, 0.05)] {
        bulk(&format!("bbr, {flows} flows, {:2.0} % loss", loss * 100.0), path(loss, product), &bbr, flows);
    }
    println!("echo of 64 bytes");
    for loss in [0.0, 0.05, 0.10] {
        echo(&format!("bbr, {:2.0} % loss each way", loss * 100.0), path(loss, product), &bbr);
    }
}
