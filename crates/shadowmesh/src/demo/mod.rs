//! `shadowmesh demo`: two real nodes on one machine, and proof that the link between them works and how fast.
//!
//! It needs no configuration, installs nothing, writes no file and touches no interface of the machine.
//! [`story`] tells what happens in order; [`world`] builds the machines it happens on; [`tcp`], [`probes`]
//! and [`ping`] make traffic and check each byte of it; [`lan`] is a scene with a third node, [`bad_network`] two on a [`middlebox`] that blocks
//! and loses; [`report`] says what came out, [`progress`] what goes
//! on; [`requirements`] what a machine must allow.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

mod bad_network;
mod failure;
mod format;
mod interrupt;
mod lan;
mod middlebox;
mod pattern;
mod ping;
mod probes;
mod progress;
mod report;
mod requirements;
mod story;
mod table;
mod tcp;
mod world;

use progress::{Stage, Style};
use report::Report;
use requirements::Missing;

/// The options of `shadowmesh demo`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_long_help = MORE_HELP)]
pub(crate) struct Args {
    /// Print the results as one JSON object on standard output, and nothing else there
    #[arg(long)]
    json: bool,

    /// How long each of the three throughput steps lasts
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = seconds)]
    seconds: Duration,
}

/// Paragraphs are wrapped to the terminal; the lines of the list fit on 80 columns.
const MORE_HELP: &str = "\
For exit code 0 all of this has to hold: the handshake is post-quantum; no ping is lost; every TCP byte \
arrives as it was sent; when a node changes its address, the link is silent for 500 ms at most; while keys \
change no packet is lost; none ever arrives damaged or twice; forwarding allocates no heap memory (0.00 times a \
packet); a third node that joins a LAN is found, though nobody has an endpoint; where UDP is blocked, the session goes on over crafted TCP after \
3 s of silence at most; both nodes stop within a second and leave nothing behind.

The JSON object; a part that was not reached is null:
  version          1
  ok, seconds      whether every step held; how long all took
  steps[]          name, ok, seconds, detail: the lines shown meanwhile; only
                   `requirements` on a machine that cannot run the demo
  handshake        ms, protocol, post_quantum, cipher
  ping             sent, lost, avg_ms, p99_ms, max_ms
  throughput[]     direction (left_to_right or right_to_left), flows, bytes,
                   seconds, bits_per_second
  roaming          from, to, gap_ms, gap_before_ms (the longest silence in 1,000
                   probes a second each way, after and before the move),
                   probes_sent, probes_lost, tcp_bytes, tcp_gap_ms
  rekey            rekeys, packets_sent, packets_lost
  allocations      packets, count, per_packet: by the data-plane threads during
                   the throughput steps
  blocked          carrier, gap_ms, probes_sent, probes_lost: UDP is blocked while
                   500 probes a second flow each way
  lossy            loss, rtt_ms, socks5_bits_per_second, tcp_bits_per_second,
                   tcp_congestion: a download through SOCKS5, and by the
                   kernel's TCP outside of the mesh, at 100 Mbit/s with 20 ms
                   and 5 % of the packets lost each way
  joined           found_ms: until both others had a session with the third node;
                   pings_sent, pings_lost
  drops            left, right: packets dropped, by the reasons that
                   `shadowmesh status --json` has; sent, received: inner
                   packets of both nodes; socket_overruns: trains that the
                   kernel dropped because a node's socket was full";

/// Runs the demo. Exit code 0 means that every step held, 1 that one did not or that the machine cannot run
/// it.
///
/// Call it while the process has one thread: without root it moves the process into a user namespace.
pub(crate) fn run(args: &Args) -> ExitCode {
    let stage = Stage::new();
    let report = match prepare(stage) {
        Ok(()) => story::tell(stage, args.seconds),
        Err(missing) => {
            progress::say(&format!("{} the demo cannot run here: {missing}", stage.style().mark(false)));
            Report::not_begun(missing.what())
        }
    };
    if let Err(error) = print(&report, args.json) {
        progress::say(&format!("cannot write the results: {error}"));
        return ExitCode::FAILURE;
    }
    if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Gets the rights that are needed, from then on answers Ctrl-C, and checks that the rights suffice.
fn prepare(stage: Stage) -> Result<(), Missing> {
    requirements::gain()?;
    if let Err(error) = interrupt::watch(stage) {
        // It works without: a signal then ends the demo just as surely, only less politely.
        progress::say(&format!("signals cannot be received: {error}"));
    }
    requirements::check()
}

fn print(report: &Report, json: bool) -> io::Result<()> {
    let stdout = io::stdout();
    let text = if json {
        serde_json::to_string_pretty(report)? + "\n"
    } else {
        report.table(Style::of(&stdout)).map_or_else(String::new, |table| format!("\n{table}\n"))
    };
    let mut stdout = stdout.lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    if (0.1..=3600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("from 0.1 to 3600 seconds are possible".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_step_is_a_sane_number_of_seconds() {
        assert_eq!(seconds("3"), Ok(Duration::from_secs(3)));
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["", "x", "0", "-1", "3601", "NaN", "inf"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
