//! A LAN for tests: hosts that are network namespaces, joined by bridges.
//!
//! Nothing in it outlives the test process, however that ends: namespaces have no names. Tests share nothing, so they run side
//! by side.

#![allow(dead_code, reason = "each test uses what it needs")]

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use beacon::{Beacon, Builder};
use libtest_mimic::{Arguments, Trial, run};
use os::netns::Netns;
use tokio::runtime::Runtime;
use tokio::time::{sleep, timeout};

/// How long anything may take that should happen at once, on a machine that is busy with other tests.
pub(crate) const SOON: Duration = Duration::from_secs(15);

/// A name and a function that panics on failure.
pub(crate) type Test = (&'static str, fn());

/// Names test functions.
macro_rules! tests {
    ($($test:path),* $(,)?) => {
        &[$((stringify!($test), $test as fn())),*]
    };
}
pub(crate) use tests;

/// Runs the tests, `threads` of them at a time: they wait far more than they compute.
///
/// Where namespaces cannot be made, tests are reported as ignored with the reason; with `SHADOWMESH_REQUIRE_PRIVILEGED=1` they fail
/// instead.
pub(crate) fn main(tests: &[Test], threads: usize) -> ExitCode {
    main_needing(tests, threads, || None)
}

/// As [`main`], for tests that need more than namespaces: `missing` says what of it is not there.
pub(crate) fn main_needing(
    tests: &[Test],
    threads: usize,
    missing: impl FnOnce() -> Option<String>,
) -> ExitCode {
    let required = std::env::var_os("SHADOWMESH_REQUIRE_PRIVILEGED").is_some_and(|value| value == "1");
    let missing = os::netns::privileged().err().or_else(missing);
    let trials = tests.iter().map(|&(name, test)| match missing.clone() {
        Some(reason) if required => Trial::test(name, move || Err(reason.into())),
        Some(reason) => Trial::test(name, || Ok(())).with_ignored_flag(true).with_kind(reason),
        None => Trial::test(name, move || {
            test();
            Ok(())
        }),
    });
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(threads);
    run(&arguments, trials.collect()).exit_code()
}

/// A machine, with a runtime of its own.
pub(crate) struct Host {
    pub(crate) netns: Netns,
    pub(crate) runtime: Option<Runtime>,
    name: String,
}

impl Host {
    pub(crate) fn new(name: &str) -> Self {
        let netns = Netns::new().unwrap();
        // Addresses that the tests give are usable at once, and the second one outlives the first.
        netns.sysctl("net.ipv6.conf.all.accept_dad", "0").unwrap();
        netns.sysctl("net.ipv6.conf.default.accept_dad", "0").unwrap();
        netns.sysctl("net.ipv4.conf.all.promote_secondaries", "1").unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Self { netns, runtime: Some(runtime), name: name.into() }
    }

    /// Runs a future to its end; sockets that it opens are this machine's.
    pub(crate) fn run<T: Send>(&self, future: impl Future<Output = T> + Send) -> T {
        self.netns.run(|| self.runtime.as_ref().unwrap().block_on(future)).unwrap()
    }

    /// A Beacon that calls this machine by its name.
    pub(crate) fn beacon(&self) -> Beacon {
        self.beacon_with(|builder| builder)
    }

    pub(crate) fn beacon_with(&self, set_up: impl FnOnce(Builder) -> Builder) -> Beacon {
        let builder = set_up(Beacon::builder().host_name(&self.name));
        self.run(builder.start()).unwrap()
    }

    pub(crate) fn index(&self, device: &str) -> u32 {
        self.netns.netlink().unwrap().link_index(device).unwrap()
    }

    pub(crate) fn add_address(&self, device: &str, net: &str) {
        let index = self.index(device);
        self.netns.netlink().unwrap().add_address(index, net.parse().unwrap()).unwrap();
    }

    pub(crate) fn del_address(&self, device: &str, net: &str) {
        let index = self.index(device);
        self.netns.netlink().unwrap().del_address(index, net.parse().unwrap()).unwrap();
    }

    pub(crate) fn set_up(&self, device: &str, up: bool) {
        let index = self.index(device);
        self.netns.netlink().unwrap().set_up(index, up).unwrap();
    }
}

/// A LAN of machines with the interface `wire0` and the addresses `192.0.2.1`, `.2`, …; and `fe80::1`, `::2`, … beside the one
/// that the kernel makes.
pub(crate) fn lan<const N: usize>(names: [&str; N]) -> (Netns, [Host; N]) {
    let hosts = names.map(Host::new);
    let ends = hosts.each_ref().map(|host| (&host.netns, "wire0"));
    let hub = Netns::bridge(&ends).unwrap();
    for (number, host) in hosts.iter().enumerate() {
        host.add_address("wire0", &format!("192.0.2.{}/24", number + 1));
        host.add_address("wire0", &format!("fe80::{}/64", number + 1));
    }
    (hub, hosts)
}

/// What comes within [`SOON`].
#[track_caller]
pub(crate) fn soon<T>(host: &Host, what: &str, future: impl Future<Output = T> + Send) -> T
where
    T: Send,
{
    match host.run(async { timeout(SOON, future).await }) {
        Ok(value) => value,
        Err(elapsed) => panic!("waited {SOON:?} in vain: {what}: {elapsed}"),
    }
}

/// Looks until there is something to see.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(mut look: impl FnMut() -> F) -> T {
    loop {
        if let Some(found) = look().await {
            return found;
        }
        sleep(Duration::from_millis(10)).await;
    }
}
