//! Real daemons in network namespaces: two nodes, their link, and whatever may happen to them.
//!
//! Where namespaces or TUN devices cannot be made, the tests are reported as ignored with the reason; with
//! `SHADOWMESH_REQUIRE_PRIVILEGED=1` they fail instead.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "mesh/control.rs"]
mod control;
#[path = "mesh/faults.rs"]
mod faults;
#[path = "mesh/link.rs"]
mod link;
#[path = "support/mod.rs"]
mod support;
#[path = "mesh/world.rs"]
mod world;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial, run};

fn main() -> ExitCode {
    let required = std::env::var_os("SHADOWMESH_REQUIRE_PRIVILEGED").is_some_and(|value| value == "1");
    let missing = os::netns::privileged().err();
    let tests = [link::TESTS, control::TESTS, faults::TESTS].concat();
    let trials = tests.into_iter().map(|(name, test)| match &missing {
        None => Trial::test(name, move || {
            test();
            Ok(())
        }),
        Some(reason) if required => {
            let reason = reason.clone();
            Trial::test(name, move || Err(reason.into()))
        }
        Some(reason) => Trial::test(name, || Ok(())).with_ignored_flag(true).with_kind(reason.clone()),
    });
    run(&Arguments::from_args(), trials.collect()).exit_code()
}

/// A name and a function that panics on failure.
type Test = (&'static str, fn());

/// Names the test functions of a module.
macro_rules! tests {
    ($($test:ident),* $(,)?) => {
        pub(crate) const TESTS: &[crate::Test] = &[$((stringify!($test), $test)),*];
    };
}
use tests;
