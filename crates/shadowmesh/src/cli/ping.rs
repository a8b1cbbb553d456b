//! `ping`: round trips through the tunnel, line by line, then the sum.

use std::fmt::Write;
use std::thread;
use std::time::{Duration, Instant};

use packet::Carrier;

use super::output::print;
use super::target::Target;
use super::units::percent;
use crate::failure::Failure;

/// Options of `ping`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It measures the tunnel itself, daemon to daemon: no packet goes through the far kernel. It makes a handshake \
                        if there is none. Exit code 1 when nothing was answered."
)]
pub(super) struct Args {
    /// Name or public key of the peer
    peer: String,

    /// Probes to send
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,

    /// Seconds between probes
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    interval: Duration,

    /// Seconds to wait for an answer
    #[arg(short = 'W', long, value_name = "SECONDS", default_value = "2", value_parser = timeout)]
    timeout: Duration,

    /// By this carrier, whichever is in use: udp, faketcp, tcp
    #[arg(long, value_name = "CARRIER")]
    carrier: Option<Carrier>,

    #[command(flatten)]
    target: Target,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let client = args.target.client()?;
    let mut round_trips = Vec::new();
    for sequence in 1..=args.count {
        let sent = Instant::now();
        let report = client.ping(&args.peer, args.carrier, 1, args.timeout)?;
        match report.rtt_ms.first().copied().flatten() {
            Some(rtt) => {
                round_trips.push(rtt);
                print(&format!("{}: seq={sequence} time={rtt:.3} ms\n", report.peer))?;
            }
            None => print(&format!("{}: seq={sequence} no answer\n", report.peer))?,
        }
        if sequence < args.count {
            thread::sleep(args.interval.saturating_sub(sent.elapsed()));
        }
    }
    print(&summary(&args.peer, args.count, &round_trips))?;
    if round_trips.is_empty() { Err(Failure::Silent) } else { Ok(()) }
}

fn summary(peer: &str, sent: u32, round_trips: &[f64]) -> String {
    let received = round_trips.len();
    let loss = percent(1.0 - received as f64 / f64::from(sent));
    let mut out = format!("\n{peer}: {sent} sent, {received} answered, {loss} lost\n");
    if !round_trips.is_empty() {
        let count = received as f64;
        let average = round_trips.iter().sum::<f64>() / count;
        let deviation = (round_trips.iter().map(|rtt| (rtt - average).powi(2)).sum::<f64>() / count).sqrt();
        let min = round_trips.iter().copied().fold(f64::INFINITY, f64::min);
        let max = round_trips.iter().copied().fold(0.0, f64::max);
        // Writing to a string cannot fail.
        let _ = writeln!(out, "rtt min/avg/max/mdev = {min:.3}/{average:.3}/{max:.3}/{deviation:.3} ms");
    }
    out
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    if (0.0..=3_600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("from 0 to 3600 seconds are possible".into())
    }
}

fn timeout(text: &str) -> Result<Duration, String> {
    let timeout = seconds(text)?;
    if (Duration::from_millis(1)..=Duration::from_secs(10)).contains(&timeout) {
        Ok(timeout)
    } else {
        Err("from 0.001 to 10 seconds are possible".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_counts_what_was_lost_and_measures_the_rest() {
        let text = summary("right", 4, &[1.0, 2.0, 3.0]);
        assert_eq!(
            text,
            "\nright: 4 sent, 3 answered, 25 % lost\nrtt min/avg/max/mdev = 1.000/2.000/3.000/0.816 ms\n"
        );
        assert_eq!(summary("right", 2, &[]), "\nright: 2 sent, 0 answered, 100 % lost\n");
    }
}
