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

/// A line of the table.
struct Line {
    what: &'static str,
    key: &'static str,
    unit: &'static str,
    /// The most that it may be, and how that is written.
    goal: Option<(f64, &'static str)>,
    peers: &'static [&'static str],
}

const fn line(
    what: &'static str,
    key: &'static str,
    unit: &'static str,
    goal: Option<(f64, &'static str)>,
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
        Some((0.0, "0")),
        STACKS,
    ),
    line("the same: bytes allocated a packet", "receive_bytes", "", Some((0.0, "0")), STACKS),
    line("parse a response of 166 bytes", "parse_ns", "ns", Some((200.0, "≤ 200")), CODECS),
    line("build that response", "build_ns", "ns", Some((1_000.0, "≤ 1,000")), CODECS),
    line("the same: allocations", "build_allocations", "", Some((0.0, "0")), &[]),
    line("question in, answer out, whole engine", "engine_answer_ns", "ns", Some((1_000.0, "≤ 1,000")), &[]),
    line("the same: allocations", "engine_answer_allocations", "", Some((0.0, "0")), &[]),
    line("publish 4,095 services, engine alone", "engine_publish_ms", "ms", None, &[]),
    line("buffer: take and return", "pool_take_ns", "ns", Some((25.0, "≤ 25")), &[]),
    line("buffer: clear 1,472 bytes", "pool_clear_ns", "ns", Some((10.0, "≤ 10")), &[]),
    line("unique answer in a quiet network, on the wire: median", "answer_median_ms", "ms", None, STACKS),
    line("the same: p99", "answer_p99_ms", "ms", Some((10.0, "< 10")), STACKS),
    line("the same: answered, of 500", "answered", "", None, STACKS),
    line("1,000 services: published after", "publish_s", "s", None, STACKS),
    line("1,000 services: all found and resolved after", "browse_s", "s", Some((5.0, "≤ 5")), STACKS),
    line("the same: found", "found", "", None, STACKS),
    line("the same: told", "told", "", Some((1_000.0, "1,000")), STACKS),
    line("the same: resident, publisher", "publisher_mb", "MB", Some((40.0, "≤ 40")), STACKS),
    line("the same: resident, browser", "browser_mb", "MB", Some((40.0, "≤ 40")), STACKS),
    line("one look-up", "look_up_one_s", "s", None, &[]),
    line("999 look-ups at once: median", "look_up_median_s", "s", None, &[]),
    line("the same: the last one", "look_up_all_s", "s", None, &[]),
    line("the same: found", "looked_up", "", None, &[]),
    line("flood: packets a second", "flood_packets_per_s", "", None, STACKS),
    line("flood: share of a core", "flood_core_percent", "%", Some((20.0, "≤ 20")), STACKS),
    line("flood: resident before", "flood_mb_before", "MB", None, STACKS),
    line("flood: resident after", "flood_mb_after", "MB", Some((40.0, "≤ 40")), STACKS),
    line("flood: packets dropped at the full socket", "flood_kernel_drops", "", None, STACKS),
    line("flood: questions", "flood_asked", "", None, STACKS),
    line("flood: answered", "flood_answered", "", None, STACKS),
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
        let median =
            figures.get(&(*key, OURS)).and_then(|figures| summary(figures)).map(|[median, ..]| median);
        let met = match (goal, median) {
            (None, _) => "",
            (Some((most, _)), Some(median)) if median <= *most => "met",
            _ => "**missed**",
        };
        let goal = goal.map_or("", |(_, text)| text);
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
    flood: Duration,
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
        "rounds": rounds, "flood_s": flood.as_secs(), "figures": list,
    });
    std::fs::write(directory.join("results/mdns.json"), serde_json::to_string_pretty(&document)? + "\n")?;
    let table = table(figures);
    println!("{table}");
    let section = format!(
        "{BEGIN}\n{processor}, Linux {kernel}, {date} UTC, commit {commit}, load before {load}. Medians of {rounds} interleaved \
         rounds (least–most); the flood ran once, {} s, and its share of a core is that of each third.\n\n{table}{END}",
        flood.as_secs()
    );
    let path = directory.join("RESULTS.md");
    let results = std::fs::read_to_string(&path)?;
    if let (Some((before, rest)), Some((_, after))) = (results.split_once(BEGIN), results.split_once(END)) {
        debug_assert!(rest.contains(END), "the end comes after the beginning");
        std::fs::write(path, format!("{before}{section}{after}"))?;
    }
    Ok(())
}
