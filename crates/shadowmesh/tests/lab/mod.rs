//! A lab for tests with real kernels: hosts that are network namespaces, cables between them, daemons and traffic.
//!
//! Nothing in it outlives the test process, however that ends: namespaces have no names, daemons die with the thread
//! that started them, files are in a scratch directory. Tests share nothing, so they run side by side.

#![allow(dead_code, reason = "each test uses what it needs")]

mod capture;
mod node;
mod ping;
mod traffic;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use libtest_mimic::{Arguments, Trial, run};
use os::netns::{Netns, veth_pair};

#[allow(unused_imports, reason = "each test uses what it needs")]
pub(crate) use capture::{Capture, send_raw};
#[allow(unused_imports, reason = "each test uses what it needs")]
pub(crate) use node::{Node, PeerSpec, Spec, Status, secret};
#[allow(unused_imports, reason = "each test uses what it needs")]
pub(crate) use ping::{ping, ping_with};
#[allow(unused_imports, reason = "each test uses what it needs")]
pub(crate) use traffic::{Steady, Stream, transfer};

/// The outer interface of a host.
pub(crate) const WIRE: &str = "wire0";

/// How long anything may take that should happen at once, on a machine that is busy with other tests.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// A name and a function that panics on failure.
pub(crate) type Test = (String, Box<dyn FnOnce() + Send>);

/// Names test functions.
macro_rules! tests {
    ($($test:path),* $(,)?) => {
        vec![$((stringify!($test).replace("::", "_"), Box::new($test) as Box<dyn FnOnce() + Send>)),*]
    };
}
pub(crate) use tests;

/// Tests, and the programs that they need.
pub(crate) type Group = (Vec<Test>, &'static [&'static str]);

/// Runs the tests, `threads` of them at a time: they wait far more than they compute.
///
/// Where namespaces cannot be made, or a program is missing, tests are reported as ignored with the reason; with
/// `SHADOWMESH_REQUIRE_PRIVILEGED=1` they fail instead.
pub(crate) fn main(groups: Vec<Group>, threads: usize) -> ExitCode {
    let required = std::env::var_os("SHADOWMESH_REQUIRE_PRIVILEGED").is_some_and(|value| value == "1");
    let unprivileged = os::netns::privileged().err();
    let mut trials = Vec::new();
    for (tests, programs) in groups {
        let missing = unprivileged.clone().or_else(|| installed(programs).err());
        trials.extend(tests.into_iter().map(|(name, test)| match missing.clone() {
            Some(reason) if required => Trial::test(name, move || Err(reason.into())),
            Some(reason) => Trial::test(name, || Ok(())).with_ignored_flag(true).with_kind(reason),
            None => Trial::test(name, move || {
                test();
                Ok(())
            }),
        }));
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(threads);
    run(&arguments, trials).exit_code()
}

fn installed(programs: &[&str]) -> Result<(), String> {
    let runs = |program: &str| {
        Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    };
    match programs.iter().find(|program| !runs(program)) {
        Some(program) => Err(format!("`{program}` is not installed")),
        None => Ok(()),
    }
}

/// Looks until there is something to see, and fails the test when `limit` has passed.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {limit:?} in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A directory that goes with the test.
pub(crate) struct Scratch {
    pub(crate) path: PathBuf,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("shadowmesh-lab-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self { path }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A machine.
pub(crate) struct Host {
    pub(crate) netns: Netns,
}

impl Host {
    pub(crate) fn new() -> Self {
        let netns = Netns::new().unwrap();
        // Addresses that the tests give are usable at once, and the second one outlives the first.
        netns.sysctl("net.ipv6.conf.all.accept_dad", "0").unwrap();
        netns.sysctl("net.ipv6.conf.default.accept_dad", "0").unwrap();
        netns.sysctl("net.ipv4.conf.all.promote_secondaries", "1").unwrap();
        Self { netns }
    }

    pub(crate) fn add_address(&self, device: &str, net: &str) {
        let mut netlink = self.netns.netlink().unwrap();
        let index = netlink.link_index(device).unwrap();
        netlink.add_address(index, net.parse::<IpNet>().unwrap()).unwrap();
    }

    pub(crate) fn del_address(&self, device: &str, net: &str) {
        let mut netlink = self.netns.netlink().unwrap();
        let index = netlink.link_index(device).unwrap();
        netlink.del_address(index, net.parse::<IpNet>().unwrap()).unwrap();
    }

    pub(crate) fn set_up(&self, device: &str, up: bool) {
        let mut netlink = self.netns.netlink().unwrap();
        let index = netlink.link_index(device).unwrap();
        netlink.set_up(index, up).unwrap();
    }

    pub(crate) fn set_mtu(&self, device: &str, mtu: u32) {
        let mut netlink = self.netns.netlink().unwrap();
        let index = netlink.link_index(device).unwrap();
        netlink.set_mtu(index, mtu).unwrap();
    }

    pub(crate) fn mtu(&self, device: &str) -> u32 {
        self.netns.netlink().unwrap().link(device).unwrap().mtu
    }

    pub(crate) fn delete_link(&self, device: &str) {
        let mut netlink = self.netns.netlink().unwrap();
        let index = netlink.link_index(device).unwrap();
        netlink.delete_link(index).unwrap();
    }

    pub(crate) fn add_route(&self, to: &str, device: &str, gateway: &str) {
        let mut netlink = self.netns.netlink().unwrap();
        let index = netlink.link_index(device).unwrap();
        let route = os::netlink::Route {
            to: to.parse().unwrap(),
            index,
            gateway: Some(gateway.parse().unwrap()),
            source: None,
            mtu: None,
        };
        netlink.add_route(&route).unwrap();
    }
}

/// Two machines and a cable: `192.0.2.1` and `192.0.2.2`, `2001:db8::1` and `2001:db8::2` on [`WIRE`].
pub(crate) fn cable() -> (Host, Host) {
    let (left, right) = (Host::new(), Host::new());
    veth_pair(&left.netns, WIRE, &right.netns, WIRE).unwrap();
    for (host, number) in [(&left, 1), (&right, 2)] {
        host.add_address(WIRE, &format!("192.0.2.{number}/24"));
        host.add_address(WIRE, &format!("2001:db8::{number}/64"));
    }
    (left, right)
}

/// What a program that ran to its end printed; fails the test when it failed.
#[track_caller]
pub(crate) fn output(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{text}{errors}", output.status);
    text
}
