//! `status`: a running node, for a person or as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;

use node::PeerStatus;

use super::output::{Paint, print};
use super::target::Target;
use super::units::{bytes, count, duration, millis, percent};
use crate::control::Status;
use crate::control::types::{DiscoveryStatus, PeerStreamsStatus, StreamsStatus, TunStatus};
use crate::failure::Failure;

/// Options of `status`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit code 4 when a peer that should be connected is not: one with keepalive_s, or one that traffic waits \
                        for and that does not answer. docs/status.md explains every key of the JSON."
)]
pub(super) struct Args {
    /// Print everything as one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    target: Target,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let status = args.target.client()?.status()?;
    if args.json {
        let json = serde_json::to_string_pretty(&status);
        print(&(json.map_err(|error| Failure::Runtime(error.to_string()))? + "\n"))?;
    } else {
        print(&table(&status, Paint::stdout()))?;
    }
    if status.degraded.is_empty() { Ok(()) } else { Err(Failure::Degraded) }
}

fn table(status: &Status, paint: Paint) -> String {
    let mut out = String::new();
    let uptime = duration(status.uptime_s);
    // Writing to a string cannot fail, here and below.
    let _ = writeln!(out, "{}  up {uptime}, process {}", paint.bold(&status.name), status.pid);
    let mut line = |key: &str, value: &str| {
        let _ = writeln!(out, "  {}{value}", paint.dim(&format!("{key:<12}")));
    };
    line("public key", &status.public_key);
    let listen: Vec<_> = status.listen.iter().map(ToString::to_string).collect();
    let udp = status.offloads.udp;
    let mut listening = format!("UDP {}{}", listen.join(", "), on(&[(udp.gso, "GSO"), (udp.gro, "GRO")]));
    for (carrier, address) in &status.listen_carriers {
        let _ = write!(listening, ", {carrier} {address}");
    }
    line("listening", &listening);
    let tun = status.offloads.tun;
    let offloads = on(&[
        (tun.csum, "checksum"),
        (tun.tso4, "TSO4"),
        (tun.tso6, "TSO6"),
        (tun.uso4, "USO4"),
        (tun.uso6, "USO6"),
    ]);
    if let Some(TunStatus { name, mtu, address }) = &status.tun {
        line("interface", &format!("{name}, {}, MTU {mtu}{offloads}", address.join(", ")));
    }
    let allocations: u64 = status.workers.iter().map(|worker| worker.allocations).sum();
    let held: u64 = status.workers.iter().map(|worker| worker.events_held).sum();
    let mut workers = format!("{}, heap allocations: {}", status.workers.len(), count(allocations));
    if held > 0 {
        let _ = write!(workers, ", the slow path was full {} times", count(held));
    }
    line("workers", &workers);
    let (large, small) = (status.pool.large, status.pool.small);
    let pool = format!(
        "{} of {} train buffers and {} of {} message buffers in use",
        large.in_use, large.capacity, small.in_use, small.capacity
    );
    line("memory", &pool);
    if let Some(streams) = &status.streams {
        line("streams", &streams_summary(streams));
        for peer in &streams.peers {
            line("", &streams_with(peer));
        }
    }
    if status.discovery.enabled {
        line("discovery", &discovery(&status.discovery));
    }
    if !status.drops.is_empty() {
        line("drops", &drops(&status.drops));
    }
    out.push('\n');
    peers(&mut out, status, paint);
    out
}

/// `found on the local network: right at 192.0.2.2:9443`.
fn discovery(discovery: &DiscoveryStatus) -> String {
    if let Some(error) = &discovery.error {
        return format!("failing: {error}");
    }
    let found: Vec<_> =
        discovery.found.iter().map(|found| format!("{} at {}", found.peer, found.address)).collect();
    let found = if found.is_empty() { "nobody yet".into() } else { found.join(", ") };
    format!("found on the local network: {found}")
}

/// `12 clients, 3 requests served, 1.2 GB up, 3.4 GB down`.
fn streams_summary(streams: &StreamsStatus) -> String {
    let StreamsStatus { clients, exit_requests, bytes_up, bytes_down, .. } = streams;
    let mut out = format!(
        "{} clients, {} requests served, {} up, {} down",
        count(*clients),
        count(*exit_requests),
        bytes(*bytes_up),
        bytes(*bytes_down)
    );
    for (number, what) in
        [(streams.clients_refused, "clients refused"), (streams.exit_denied, "requests denied")]
    {
        if number > 0 {
            let _ = write!(out, ", {} {what}", count(number));
        }
    }
    out
}

/// `right: 3 open, 40.2 ms, 1 of 2,000 segments sent again, paced at 190 Mbit/s`.
fn streams_with(peer: &PeerStreamsStatus) -> String {
    let mut out = format!("{}: {} open", peer.name, count(peer.open));
    if let Some(rtt) = peer.rtt_ms {
        let _ = write!(out, ", {}", millis(rtt));
    }
    let _ =
        write!(out, ", {} of {} segments sent again", count(peer.retransmissions), count(peer.segments_sent));
    if let Some(bps) = peer.pacing_bps {
        let _ = write!(out, ", paced at {} Mbit/s", count(bps / 1_000_000));
    }
    if peer.fec_recovered > 0 {
        let _ = write!(out, ", {} recovered", count(peer.fec_recovered));
    }
    out
}

fn on(words: &[(bool, &str)]) -> String {
    let on: Vec<_> = words.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect();
    if on.is_empty() { ", no offloads".into() } else { format!(" ({})", on.join(" ")) }
}

fn drops(drops: &BTreeMap<String, u64>) -> String {
    drops
        .iter()
        .map(|(reason, packets)| format!("{reason} {}", count(*packets)))
        .collect::<Vec<_>>()
        .join(", ")
}

const COLUMNS: [&str; 8] = ["PEER", "STATE", "ENDPOINT", "HANDSHAKE", "RTT", "LOSS", "RECEIVED", "SENT"];

fn peers(out: &mut String, status: &Status, paint: Paint) {
    if status.peers.is_empty() {
        let _ = writeln!(out, "No peers are configured.");
        return;
    }
    let rows: Vec<_> = status.peers.iter().map(|peer| row(peer, &status.degraded)).collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([COLUMNS[column].len()]).max().unwrap_or_default()
    };
    let widths: Vec<_> = (0..COLUMNS.len()).map(width).collect();
    let line = |cells: &[String]| {
        let cells = cells.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            // Numbers align at their ends.
            if column >= 4 { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let _ = writeln!(out, "{}", paint.dim(&line(&COLUMNS.map(String::from))));
    for (peer, row) in status.peers.iter().zip(&rows) {
        let line = line(row);
        // Painted as a whole, after alignment: escape codes have no width.
        let code = match (peer.connected, status.degraded.contains(&peer.name)) {
            (true, _) => "32",
            (false, true) => "31",
            (false, false) => "2",
        };
        let _ = writeln!(out, "{}", paint.with(code, &line));
        if !peer.drops.is_empty() {
            let _ = writeln!(out, "  {} {}", paint.dim("drops"), drops(&peer.drops));
        }
    }
}

fn row(peer: &PeerStatus, degraded: &[String]) -> [String; 8] {
    let unknown = || "–".to_owned();
    let state = match (peer.connected, degraded.contains(&peer.name)) {
        (true, _) => "connected",
        (false, true) => "unreachable",
        (false, false) => "idle",
    };
    let handshake = peer.latest_handshake_s.map_or_else(
        || "never".into(),
        |age| {
            let kind = if peer.post_quantum { ", post-quantum" } else { "" };
            format!("{} ago{kind}", duration(age))
        },
    );
    [
        peer.name.clone(),
        state.into(),
        peer.endpoint.map_or_else(unknown, |endpoint| match peer.carrier.as_str() {
            "udp" => endpoint.to_string(),
            carrier => format!("{endpoint} over {carrier}"),
        }),
        handshake,
        peer.rtt_ms.map_or_else(unknown, millis),
        peer.loss.map_or_else(unknown, percent),
        bytes(peer.rx_bytes),
        bytes(peer.tx_bytes),
    ]
}
