//! The figures as JSON, and as a table beside the goals.

use std::error::Error;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::measure::{Figures, OURS, PEER};

/// Between these lines of RESULTS.md is the table.
const BEGIN: &str = "<!-- bench/mdns/run: begin -->";
const END: &str = "<!-- bench/mdns/run: end -->";

/// How busy the machine is: the processes that wanted to run in the last minute, on average.
pub(crate) fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(f64::NAN)
}

/// What a figure is to be.
#[derive(Clone, Copy)]
enum Goal {
    /// The median is at most this, which is written so.
    AtMost(f64, &'static str),
    /// In every round exactly this: all of the work was done.
    Exactly(f64),
    /// In every round what the figure of that key is.
    All(&'static str),
}

impl Goal {
    fn text(self) -> String {
        match self {
            Self::AtMost(_, text) => text.into(),
            Self::Exactly(figure) => digits(figure),
            Self::All(_) => "all".into(),
        }
    }

    /// A round that gave no figure misses every goal.
    fn is_met(self, figures: &Figures, rounds: &[f64]) -> bool {
        rounds.iter().all(|figure| figure.is_finite())
            && match self {
                Self::AtMost(most, _) => summary(rounds).is_some_and(|[median, ..]| median <= most),
                Self::Exactly(wanted) => {
                    !rounds.is_empty() && rounds.iter().all(|&figure| is(figure, wanted))
                }
                Self::All(of) => figures.get(&(of, OURS)).is_some_and(|all| {
                    all.len() == rounds.len() && all.iter().zip(rounds).all(|(&a, &b)| is(a, b))
                }),
            }
    }
}

/// Whether two counts are the same.
fn is(count: f64, other: f64) -> bool {
    (count - other).abs() < 0.5
}

/// A line of the table.
struct Line {
    what: &'static str,
    key: &'static str,
    unit: &'static str,
    goal: Option<Goal>,
    peers: &'static [&'static str],
}

const fn line(
    what: &'static str,
    key: &'static str,
    unit: &'static str,
    goal: Option<Goal>,
    peers: &'static [&'static str],
) -> Line {
    Line { what, key, unit, goal, peers }
}

const CODECS: &[&str] = &["domain", "simple-dns", "hickory-proto"];
const STACKS: &[&str] = &[PEER];

const LINES: &[Line] = &[
    line(
        "receive and parse, real socket: allocations a packet",
        "receive_allocations",
        "",
        Some(Goal::AtMost(0.0, "0")),
        STACKS,
    ),
    line("the same: bytes allocated a packet", "receive_bytes", "", Some(Goal::AtMost(0.0, "0")), STACKS),
    line("parse a response of 166 bytes", "parse_ns", "ns", Some(Goal::AtMost(200.0, "≤ 200")), CODECS),
    line("build that response", "build_ns", "ns", Some(Goal::AtMost(1_000.0, "≤ 1,000")), CODECS),
    line("the same: allocations", "build_allocations", "", Some(Goal::AtMost(0.0, "0")), &[]),
    line(
        "question in, answer out, whole engine",
        "engine_answer_ns",
        "ns",
        Some(Goal::AtMost(1_000.0, "≤ 1,000")),
        &[],
    ),
    line("the same: allocations", "engine_answer_allocations", "", Some(Goal::AtMost(0.0, "0")), &[]),
    line("publish 4,095 services, engine alone", "engine_publish_ms", "ms", None, &[]),
    line("buffer: take and return", "pool_take_ns", "ns", Some(Goal::AtMost(25.0, "≤ 25")), &[]),
    line("buffer: clear 1,472 bytes", "pool_clear_ns", "ns", Some(Goal::AtMost(10.0, "≤ 10")), &[]),
    line("unique answer in a quiet network, on the wire: median", "answer_median_ms", "ms", None, STACKS),
    line("the same: p99", "answer_p99_ms", "ms", Some(Goal::AtMost(10.0, "< 10")), STACKS),
    line("the same: answered, of 500", "answered", "", Some(Goal::Exactly(500.0)), STACKS),
    line("1,000 services: published after", "publish_s", "s", None, STACKS),
    line(
        "1,000 services: all found and resolved after",
        "browse_s",
        "s",
        Some(Goal::AtMost(5.0, "≤ 5")),
        STACKS,
    ),
    line("the same: found", "found", "", Some(Goal::Exactly(1_000.0)), STACKS),
    line("the same: told", "told", "", Some(Goal::Exactly(1_000.0)), STACKS),
    line("the same: resident, publisher", "publisher_mb", "MB", Some(Goal::AtMost(40.0, "≤ 40")), STACKS),
    line("the same: resident, browser", "browser_mb", "MB", Some(Goal::AtMost(40.0, "≤ 40")), STACKS),
    line("one look-up", "look_up_one_s", "s", None, &[]),
    line("999 look-ups at once: median", "look_up_median_s", "s", None, &[]),
    line("the same: the last one", "look_up_all_s", "s", None, &[]),
    line("the same: found", "looked_up", "", Some(Goal::Exactly(999.0)), &[]),
    line("flood: packets a second", "flood_packets_per_s", "", None, STACKS),
    line("flood: share of a core", "flood_core_percent", "%", Some(Goal::AtMost(20.0, "≤ 20")), STACKS),
    line("flood: resident before", "flood_mb_before", "MB", None, STACKS),
    line("flood: resident after", "flood_mb_after", "MB", Some(Goal::AtMost(40.0, "≤ 40")), STACKS),
    line("flood: packets dropped at the full socket", "flood_kernel_drops", "", None, STACKS),
    line("flood: questions", "flood_asked", "", None, STACKS),
    line("flood: answered", "flood_answered", "", Some(Goal::All("flood_asked")), STACKS),
    line("flood: answer on the wire, median", "flood_answer_median_ms", "ms", None, STACKS),
    line("flood: answer on the wire, p99", "flood_answer_p99_ms", "ms", None, STACKS),
];

/// Median, least and most.
fn summary(figures: &[f64]) -> Option<[f64; 3]> {
    let mut sorted: Vec<f64> = figures.iter().copied().filter(|figure| figure.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    Some([*sorted.get(sorted.len() / 2)?, *sorted.first()?, *sorted.last()?])
}

/// As many digits as are worth reading.
fn digits(figure: f64) -> String {
    match figure {
        figure if figure.fract().abs() < f64::EPSILON || figure >= 100.0 => format!("{figure:.0}"),
        figure if figure >= 10.0 => format!("{figure:.1}"),
        figure => format!("{figure:.2}"),
    }
}

fn cell(figures: &Figures, key: &'static str, who: &'static str) -> String {
    match figures.get(&(key, who)).and_then(|figures| summary(figures)) {
        Some([median, least, most]) if digits(least) == digits(most) => digits(median),
        Some([median, least, most]) => format!("{} ({}–{})", digits(median), digits(least), digits(most)),
        None => "not reached".into(),
    }
}

fn table(figures: &Figures) -> String {
    let mut table = String::from("| | goal | beacon | | peers |\n|---|---|---|---|---|\n");
    for Line { what, key, unit, goal, peers } in LINES {
        let rounds = figures.get(&(*key, OURS)).map_or(&[][..], Vec::as_slice);
        let met = match goal {
            None => "",
            Some(goal) if goal.is_met(figures, rounds) => "met",
            Some(_) => "**missed**",
        };
        let goal = goal.map(Goal::text).unwrap_or_default();
        let unit = if unit.is_empty() { String::new() } else { format!(", {unit}") };
        let peers: Vec<String> =
            peers.iter().map(|peer| format!("{peer} {}", cell(figures, key, peer))).collect();
        let ours = cell(figures, key, OURS);
        let _ = writeln!(table, "| {what}{unit} | {goal} | {ours} | {met} | {} |", peers.join("; "));
    }
    table
}

fn command(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output();
    output.map_or_else(|_| String::new(), |output| String::from_utf8_lossy(&output.stdout).trim().into())
}

fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cores = text.lines().filter(|line| line.starts_with("processor")).count();
    format!("{cores} × {}", model.trim_start_matches(['\t', ' ', ':']))
}

/// Writes `results/mdns.json` and the table in `RESULTS.md`, both in `directory`.
pub(crate) fn write(
    figures: &Figures,
    rounds: usize,
    [flood, flood_peer]: [Duration; 2],
    load: f64,
    directory: &Path,
) -> Result<(), Box<dyn Error>> {
    let (date, commit) =
        (command("date", &["-u", "+%F %H:%M"]), command("git", &["describe", "--always", "--dirty"]));
    let (kernel, processor) = (command("uname", &["-r"]), processor());
    let list: Vec<Value> = figures
        .iter()
        .map(|((what, who), rounds)| {
            let middle = summary(rounds).map(|[median, ..]| median);
            json!({ "what": what, "who": who, "median": middle, "rounds": rounds })
        })
        .collect();
    let document = json!({
        "date": date, "commit": commit, "kernel": kernel, "processor": processor, "load_before": load,
        "rounds": rounds, "flood_s": flood.as_secs(), "flood_peer_s": flood_peer.as_secs(), "figures": list,
    });
    std::fs::write(directory.join("results/mdns.json"), serde_json::to_string_pretty(&document)? + "\n")?;
    let table = table(figures);
    println!("{table}");
    let section = format!(
        "{BEGIN}\n{processor}, Linux {kernel}, {date} UTC, commit {commit}, load before {load}. Medians of {rounds} interleaved \
         rounds (least–most); the flood ran once, {} s ({} s for mdns-sd), and its share of a core is that of each third.\n\n{table}{END}",
        flood.as_secs(),
        flood_peer.as_secs()
    );
    let path = directory.join("RESULTS.md");
    let results = std::fs::read_to_string(&path)?;
    if let (Some((before, rest)), Some((_, after))) = (results.split_once(BEGIN), results.split_once(END)) {
        debug_assert!(rest.contains(END), "the end comes after the beginning");
        std::fs::write(path, format!("{before}{section}{after}"))?;
    }
    Ok(())
}
