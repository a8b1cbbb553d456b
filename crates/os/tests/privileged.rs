//! TUN devices, netlink and namespaces, with the kernel of this machine.
//!
//! All of it happens in network namespaces made for each test. Where they cannot be made, the tests are reported as
//! ignored with the reason; with `SHADOWMESH_REQUIRE_PRIVILEGED=1` they fail instead.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "privileged/fake_tcp.rs"]
mod fake_tcp;
#[path = "privileged/multicast.rs"]
mod multicast;
#[path = "privileged/netns.rs"]
mod netns;
#[path = "privileged/tcp.rs"]
mod tcp;
#[path = "privileged/tun.rs"]
mod tun;
#[path = "privileged/udp.rs"]
mod udp;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial, run};

fn main() -> ExitCode {
    if let Some(exit_code) = netns::unprivileged_child() {
        return exit_code;
    }
    let required = std::env::var_os("SHADOWMESH_REQUIRE_PRIVILEGED").is_some_and(|value| value == "1");
    let missing = os::netns::privileged().err();
    let tests =
        [fake_tcp::TESTS, multicast::TESTS, netns::TESTS, tcp::TESTS, tun::TESTS, udp::TESTS].concat();
    let trials = tests.into_iter().map(|(name, test)| {
        let trial = match &missing {
            Some(reason) if required => {
                let reason = reason.clone();
                Trial::test(name, move || Err(reason.into()))
            }
            _ => Trial::test(name, move || {
                test();
                Ok(())
            }),
        };
        match &missing {
            Some(reason) if !required => trial.with_ignored_flag(true).with_kind(reason.clone()),
            _ => trial,
        }
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
