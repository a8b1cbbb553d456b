//! Runs hot functions one at a time: `bench/instructions` counts their instructions, `hot time` measures them.
//!
//! ```text
//! hot list                    names, units, what each does
//! hot run NAME BATCH          prepares a batch, runs it once, prints how many units that was
//! hot time [--json] [NAME…]   nanoseconds a unit on this machine's CPU
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program")]

mod crypto;
mod forward;
mod packets;

use std::any::Any;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// A batch that is ready to run.
type Batch = Box<dyn FnOnce() -> Done>;

/// What a batch leaves behind.
struct Done {
    /// How many units of work it did.
    units: u64,
    /// What it worked with: to take that down is no part of the work.
    _state: Box<dyn Any>,
}

fn done(units: u64, state: impl Any) -> Done {
    Done { units, _state: Box::new(state) }
}

/// A function to measure.
struct Hot {
    name: &'static str,
    /// What the figures are given for.
    unit: &'static str,
    what: &'static str,
    /// Prepares that many repetitions. What this costs is not counted.
    prepare: fn(usize) -> Batch,
}

const HOT: &[&[Hot]] = &[packets::HOT, crypto::HOT, forward::HOT];

/// Repetitions timed at once: few enough that their data stays in the cache.
const TIMED_BATCH: usize = 64;
/// Time to spend on each function, preparations included.
const TIME_EACH: Duration = Duration::from_millis(500);
/// However long preparations take.
const BATCHES_MIN: usize = 3;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["list"] => all().for_each(|hot| println!("{:24} {:10} {}", hot.name, hot.unit, hot.what)),
        ["run", name, batch] => {
            let (Some(hot), Ok(batch)) = (find(name), batch.parse()) else { return usage() };
            println!("{}", measured((hot.prepare)(batch)).units);
        }
        ["time", "--json"] => println!("{}", times(&[])),
        ["time", ref names @ ..] => print_times(names),
        _ => return usage(),
    }
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("usage: hot list | hot run NAME BATCH | hot time [--json] [NAME…]");
    ExitCode::from(2)
}

fn all() -> impl Iterator<Item = &'static Hot> {
    HOT.iter().copied().flatten()
}

fn find(name: &str) -> Option<&'static Hot> {
    all().find(|hot| hot.name == name)
}

/// The function whose instructions callgrind counts (`--toggle-collect`): it must stay one.
#[inline(never)]
fn measured(batch: Batch) -> Done {
    batch()
}

/// Nanoseconds a unit: the least of many batches, which is the one that nothing disturbed.
fn nanoseconds(hot: &Hot) -> f64 {
    let mut least = f64::INFINITY;
    let begin = Instant::now();
    let mut batches = 0;
    while batches < BATCHES_MIN || begin.elapsed() < TIME_EACH {
        let batch = (hot.prepare)(TIMED_BATCH);
        let begin = Instant::now();
        let done = measured(batch);
        least = least.min(begin.elapsed().as_nanos() as f64 / done.units as f64);
        batches += 1;
    }
    least
}

fn times(names: &[&str]) -> serde_json::Value {
    all()
        .filter(|hot| names.is_empty() || names.contains(&hot.name))
        .map(|hot| {
            let ns = nanoseconds(hot);
            let row = serde_json::json!({ "unit": hot.unit, "ns": ns, "per_second": 1e9 / ns });
            (hot.name.to_owned(), row)
        })
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn print_times(names: &[&str]) {
    for hot in all().filter(|hot| names.is_empty() || names.contains(&hot.name)) {
        let ns = nanoseconds(hot);
        println!("{:24} {ns:10.1} ns a {:10} {:14.0}/s", hot.name, hot.unit, 1e9 / ns);
    }
}
