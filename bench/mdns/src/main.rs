//! Measures Multicast DNS, peers in the same run, and writes down what it finds: `bench/mdns/run`.
#![allow(clippy::print_stdout, reason = "a command-line program")]

mod measure;
mod report;

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use mdns_bench::roles;

const USAGE: &str = "usage: mdns-bench [--rounds N] [--flood SECONDS] DIRECTORY";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["publish", who] => roles::publish(who),
        ["browse", who] => roles::browse(who),
        ["look-up"] => roles::look_up(),
        _ => run(&arguments),
    }
}

fn run(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let (mut rounds, mut flood, mut directory) = (3, Duration::from_mins(1), None);
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--rounds" => rounds = arguments.next().ok_or(USAGE)?.parse()?,
            "--flood" => flood = Duration::from_secs(arguments.next().ok_or(USAGE)?.parse()?),
            _ if argument.starts_with('-') => return Err(USAGE.into()),
            _ => directory = Some(PathBuf::from(argument)),
        }
    }
    let directory = directory.ok_or(USAGE)?;
    os::netns::privileged()?;
    let load = report::load();
    let figures = measure::all(rounds, flood)?;
    report::write(&figures, rounds, [flood, measure::flood_time_of_peer(flood)], load, &directory)
}
