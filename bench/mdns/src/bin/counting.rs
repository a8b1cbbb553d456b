//! The parts of the benchmark in which every allocation of the process is counted. They are a program of their own, so that
//! counting slows nobody down whose time is measured.

use std::alloc::System;
use std::error::Error;

use mdns_bench::codec::Responder;
use mdns_bench::packets::{own_records, write};
use mdns_bench::roles::{receive, say};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Allocations and bytes so far, those of memory that grew included.
fn counters() -> [f64; 2] {
    let stats = ALLOCATOR.stats();
    let grown = stats.bytes_reallocated.max(0) as f64;
    [(stats.allocations + stats.reallocations) as f64, stats.bytes_allocated as f64 + grown]
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["receive", who] => receive(who, counters),
        ["answer"] => answer(),
        _ => Err("usage: counting receive WHO | counting answer".into()),
    }
}

/// Answers made of each kind.
const ANSWERS: u32 = 10_000;

/// Says what an answer costs: allocations and bytes, of a message from records and of one from the engine.
fn answer() -> Result<(), Box<dyn Error>> {
    let (own, mut buf, mut responder) = (own_records(), [0; 1_440], Responder::default());
    responder.answer();
    let each = |call: &mut dyn FnMut() -> usize| {
        let before = counters();
        let written: usize = (0..ANSWERS).map(|_| call()).sum();
        assert!(written > 0, "something was written");
        let after = counters();
        [0, 1].map(|at| (after[at] - before[at]) / f64::from(ANSWERS))
    };
    let message = each(&mut || write(&own, &mut buf));
    let engine = each(&mut || responder.answer());
    say(&[message, engine].concat())
}
