//! Our node in its `wireguard` protocol against Debian's wireguard-go, which nobody here wrote, set up by `wg` of
//! wireguard-tools and loaded by iperf3.
//!
//! Where namespaces cannot be made, or one of those programs is missing, the tests are reported as ignored with the
//! reason; with `SHADOWMESH_REQUIRE_PRIVILEGED=1` they fail instead.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "lab/mod.rs"]
mod lab;
#[path = "wireguard/peer.rs"]
mod peer;

use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use lab::{Host, Node, PeerSpec, SOON, Scratch, Spec, Steady, Test, WIRE, cable, ping, wait_for};
use peer::{Setup, WireguardGo};
use serde_json::Value;

fn main() -> ExitCode {
    let mut tests: Vec<Test> = Vec::new();
    // The longest first: it waits for two minutes while the others run.
    tests.extend(lab::tests![its_own_rekey_after_two_minutes_loses_nothing]);
    for outer in [Outer::V4, Outer::V6] {
        for initiator in [Initiator::We, Initiator::It] {
            for preshared in [false, true] {
                let name = format!(
                    "{}_over_{}_{}_a_preshared_key",
                    if initiator == Initiator::We { "we_initiate" } else { "it_initiates" },
                    if outer == Outer::V4 { "ipv4" } else { "ipv6" },
                    if preshared { "with" } else { "without" },
                );
                let case = Case { outer, initiator, preshared };
                tests.push((name, Box::new(move || both_talk(case))));
            }
        }
    }
    tests.extend(lab::tests![
        a_wrong_preshared_key_never_connects,
        a_thousand_pings_a_millisecond_apart_are_all_answered,
        iperf3_moves_bytes_both_ways,
        a_rekey_that_we_force_loses_nothing,
        we_move_and_it_follows,
        it_moves_and_we_follow,
        keepalives_alone_tell_where_we_are,
        keepalives_alone_tell_us_where_it_is,
        a_killed_node_comes_back_while_it_holds_the_old_session,
        when_it_is_restarted_we_find_it_again,
    ]);
    lab::main(vec![(tests, &["wireguard-go", "wg", "iperf3"])], 4)
}

/// The family of the outer addresses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outer {
    V4,
    V6,
}

impl Outer {
    fn endpoint(self, host: u8) -> String {
        match self {
            Self::V4 => format!("192.0.2.{host}:9443"),
            Self::V6 => format!("[2001:db8::{host}]:9443"),
        }
    }
}

/// Who knows where the other is, and so calls it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Initiator {
    We,
    It,
}

#[derive(Clone, Copy)]
struct Case {
    outer: Outer,
    initiator: Initiator,
    preshared: bool,
}

impl Case {
    const WE: Self = Self { outer: Outer::V4, initiator: Initiator::We, preshared: false };
    const IT: Self = Self { outer: Outer::V4, initiator: Initiator::It, preshared: false };
}

/// Our node on the left (`10.77.0.1`, `fd77::1`), wireguard-go on the right (`10.77.0.2`, `fd77::2`).
struct Pair {
    left: Host,
    right: Host,
    spec: Spec,
    setup: Setup,
    node: Option<Node>,
    it: WireguardGo,
    scratch: Scratch,
}

impl Pair {
    fn start(case: Case) -> Self {
        Self::start_with(case, |_, _| {})
    }

    /// Starts both, after `change` has had its way with their configurations.
    fn start_with(case: Case, change: impl FnOnce(&mut PeerSpec, &mut Setup)) -> Self {
        let (left, right) = cable();
        let scratch = Scratch::new();
        let endpoint = |initiator, host| (case.initiator == initiator).then(|| case.outer.endpoint(host));
        let preshared = case.preshared.then(|| lab::secret(7).to_base64().to_string());
        let mut spec = Spec::of_pair(1, endpoint(Initiator::We, 2).as_deref());
        let ours = &mut spec.peers[0];
        ours.protocol = "wireguard";
        ours.preshared_key.clone_from(&preshared);
        let mut setup =
            Setup { endpoint: endpoint(Initiator::It, 1), preshared_key: preshared, keepalive_s: 0 };
        change(ours, &mut setup);
        let it = WireguardGo::start(&right, &setup);
        let node = Some(Node::start(&spec, &left, &scratch));
        Self { left, right, spec, setup, node, it, scratch }
    }

    /// Starts both and returns once packets pass.
    fn connected(case: Case) -> Self {
        let pair = Self::start(case);
        pair.connect(case.initiator);
        pair
    }

    /// Whoever knows the other's address sends until it is answered.
    fn connect(&self, initiator: Initiator) {
        wait_for("a first answer", SOON, || match initiator {
            Initiator::We => (ping(&self.left, "10.77.0.2", 1) == 1).then_some(()),
            Initiator::It => (ping(&self.right, "10.77.0.1", 1) == 1).then_some(()),
        });
    }

    fn node(&self) -> &Node {
        self.node.as_ref().unwrap()
    }

    /// Steady pings from our side to its side.
    fn steady(&self, pace: Duration) -> Steady {
        Steady::start(&self.left.netns, &self.right.netns, "10.77.0.2", pace)
    }
}

fn both_talk(case: Case) {
    let pair = Pair::connected(case);
    for (from, to) in [
        (&pair.left, "10.77.0.2"),
        (&pair.left, "fd77::2"),
        (&pair.right, "10.77.0.1"),
        (&pair.right, "fd77::1"),
    ] {
        assert_eq!(ping(from, to, 50), 50, "pings to {to}");
    }

    let status = pair.node().status();
    assert_eq!(status.peer()["protocol"], "wireguard");
    assert_eq!(status.peer()["post_quantum"], false);
    assert_eq!(status.peer()["cipher"], "ChaCha20-Poly1305");
    assert_eq!(status.endpoint(), Some(case.outer.endpoint(2)));
    assert_eq!(status.peer()["handshake_ms"].is_number(), case.initiator == Initiator::We, "who initiated");
    assert_eq!(status.drops(), 0, "{status:?}");

    // 200 echoes crossed in each direction, of 84 bytes (IPv4) and 104 (IPv6) and more for whatever made the session.
    assert!(status.count("rx_packets") >= 200 && status.count("tx_packets") >= 200);
    assert_eq!(pair.it.endpoint(), case.outer.endpoint(1));
    assert!(pair.it.handshake_age() < SOON, "it has a session, and a fresh one");
    let (received, sent) = pair.it.transfer();
    assert!(received >= 100 * 84 + 100 * 104 && sent >= 100 * 84 + 100 * 104, "{received} {sent}");
}

fn a_wrong_preshared_key_never_connects() {
    let pair = Pair::start_with(Case { preshared: true, ..Case::WE }, |ours, _| {
        ours.preshared_key = Some(lab::secret(8).to_base64().to_string());
    });
    // It answers every initiation; its answers do not authenticate.
    let forged = || (pair.node().status().dropped("handshake_forged") > 0).then_some(());
    wait_for("an answer that does not authenticate", SOON, forged);
    assert!(!pair.node().status().connected());
    assert_eq!(ping(&pair.left, "10.77.0.2", 1), 0);
}

fn a_thousand_pings_a_millisecond_apart_are_all_answered() {
    let pair = Pair::connected(Case::WE);
    assert_eq!(ping(&pair.left, "10.77.0.2", 1_000), 1_000);
    assert_eq!(ping(&pair.right, "10.77.0.1", 1_000), 1_000);
    assert_eq!(ping(&pair.left, "fd77::2", 1_000), 1_000);
    assert_eq!(pair.node().status().drops(), 0);
}

fn iperf3_moves_bytes_both_ways() {
    const BYTES: u64 = 100_000_000;
    let pair = Pair::connected(Case { preshared: true, ..Case::WE });
    for address in ["10.77.0.2", "fd77::2"] {
        let mut command = pair.right.netns.command("iperf3");
        command.args(["-s", "-B", address]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut server = os::netns::die_with_parent(&mut command).spawn().unwrap();
        for reverse in [false, true] {
            let before = (pair.node().status(), pair.it.transfer());
            let report = wait_for("iperf3's server listens", SOON, || {
                let bytes = BYTES.to_string();
                let mut command = pair.left.netns.command("iperf3");
                command.args(["-J", "-c", address, "-n", &bytes]);
                command.args(reverse.then_some("-R")).stdin(Stdio::null());
                let report: Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
                report["error"].is_null().then_some(report)
            });
            let bytes = |end: &str| report["end"][end]["bytes"].as_u64().unwrap();
            let (sent, received) = (bytes("sum_sent"), bytes("sum_received"));
            assert!(sent >= BYTES && received <= sent, "{sent} {received}");
            // iperf3's receiver stops to count when the sender says it is done, with a window still under way.
            assert!(received * 20 > sent * 19, "sent {sent}, received {received}");

            // Both nodes count what iperf3 counts, and headers on top.
            let after = (pair.node().status(), pair.it.transfer());
            let (ours, theirs) = if reverse {
                ("rx_bytes", after.1.1 - before.1.1)
            } else {
                ("tx_bytes", after.1.0 - before.1.0)
            };
            let ours = after.0.count(ours) - before.0.count(ours);
            assert!(ours >= received && theirs >= received, "{received}: {ours} {theirs}");
            assert!(ours < received * 3 / 2 && theirs < received * 3 / 2, "{received}: {ours} {theirs}");
        }
        let _ = server.kill();
        let _ = server.wait();
    }
    lab::transfer(&pair.left.netns, &pair.right.netns, "10.77.0.2", 20_000_000);
    lab::transfer(&pair.right.netns, &pair.left.netns, "fd77::1", 20_000_000);
}

fn a_rekey_that_we_force_loses_nothing() {
    let pair = Pair::connected(Case::WE);
    let steady = pair.steady(Duration::from_millis(1));
    for _ in 0..10 {
        steady.wait_for_answers(30, SOON);
        pair.node().rekey("right");
    }
    steady.wait_for_answers(30, SOON);
    let report = steady.finish();
    assert_eq!((report.lost(), report.twice), (0, 0), "{report:?}");
    assert!(pair.it.handshake_age() < SOON);
    assert_eq!(pair.node().status().drops(), 0);
}

/// An initiator of WireGuard makes a new session when it sends 120 s after it made the last (whitepaper §6.2).
fn its_own_rekey_after_two_minutes_loses_nothing() {
    let pair = Pair::connected(Case::IT);
    let first = pair.it.latest_handshake();
    let steady = pair.steady(Duration::from_millis(10));
    let fresh = || (pair.it.latest_handshake() > first + 60).then_some(());
    wait_for("its next handshake", Duration::from_secs(140), fresh);
    wait_for("our session with it", SOON, || (pair.node().status().handshake_age()? < 60.0).then_some(()));
    steady.wait_for_answers(200, SOON);
    let report = steady.finish();
    assert_eq!((report.lost(), report.twice), (0, 0), "{report:?}");
    assert!(report.sent > 10_000);
    assert_eq!(pair.node().status().drops(), 0);
}

fn we_move_and_it_follows() {
    let pair = Pair::connected(Case::WE);
    let steady = pair.steady(Duration::from_millis(1));
    steady.wait_for_answers(50, SOON);
    pair.left.add_address(WIRE, "192.0.2.3/24");
    pair.left.del_address(WIRE, "192.0.2.1/24");
    wait_for("it follows", SOON, || (pair.it.endpoint() == "192.0.2.3:9443").then_some(()));
    steady.wait_for_answers(100, SOON);
    let report = steady.finish();
    // What was on its way to the old address is lost.
    assert!(report.gap < Duration::from_secs(1) && report.lost() < 1_000, "{report:?}");
    assert!(pair.node().log().iter().all(|line| !line.contains("does not answer")));
}

/// Its NAT gives it another port, so to speak. (Another address will not do: v0.0.20220316 goes on to send from the one
/// that is gone until its next handshake.)
fn it_moves_and_we_follow() {
    let pair = Pair::connected(Case::IT);
    let steady = Steady::start(&pair.right.netns, &pair.left.netns, "10.77.0.1", Duration::from_millis(1));
    steady.wait_for_answers(50, SOON);
    pair.it.move_to_port(9444);
    wait_for("we follow", SOON, || {
        (pair.node().status().endpoint().as_deref() == Some("192.0.2.2:9444")).then_some(())
    });
    steady.wait_for_answers(100, SOON);
    let report = steady.finish();
    assert!(report.gap < Duration::from_secs(1) && report.lost() < 1_000, "{report:?}");
    pair.node().wait_for_log("moved to 192.0.2.2:9444", SOON);
}

fn keepalives_alone_tell_where_we_are() {
    let pair = Pair::start_with(Case::WE, |ours, _| ours.keepalive_s = 1);
    pair.connect(Initiator::We);
    pair.left.add_address(WIRE, "192.0.2.3/24");
    pair.left.del_address(WIRE, "192.0.2.1/24");
    let packets = pair.node().status().count("tx_packets");
    wait_for("it follows", SOON, || (pair.it.endpoint() == "192.0.2.3:9443").then_some(()));
    assert_eq!(pair.node().status().count("tx_packets"), packets, "a keepalive is no packet of the tunnel");
}

fn keepalives_alone_tell_us_where_it_is() {
    let pair = Pair::start_with(Case::IT, |_, its| its.keepalive_s = 1);
    pair.connect(Initiator::It);
    pair.it.move_to_port(9444);
    let packets = pair.node().status().count("rx_packets");
    wait_for("we follow", SOON, || {
        (pair.node().status().endpoint().as_deref() == Some("192.0.2.2:9444")).then_some(())
    });
    let status = pair.node().status();
    assert_eq!(status.count("rx_packets"), packets, "a keepalive is no packet of the tunnel");
    assert_eq!(status.drops(), 0, "nor a malformed one");
}

fn a_killed_node_comes_back_while_it_holds_the_old_session() {
    let mut pair = Pair::connected(Case::WE);
    let steady = Steady::start(&pair.right.netns, &pair.left.netns, "10.77.0.1", Duration::from_millis(5));
    steady.wait_for_answers(10, SOON);
    drop(steady);
    pair.node.take().unwrap().kill();
    let start = Instant::now();
    pair.node = Some(Node::start(&pair.spec, &pair.left, &pair.scratch));
    pair.connect(Initiator::We);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(ping(&pair.right, "10.77.0.1", 50), 50);
}

fn when_it_is_restarted_we_find_it_again() {
    let mut pair = Pair::connected(Case::WE);
    pair.it = pair.it.restart(&pair.right, &pair.setup);
    // It does not know where we are. We hear nothing for 15 s (KEEPALIVE_TIMEOUT + REKEY_TIMEOUT), then knock.
    let steady = pair.steady(Duration::from_millis(10));
    steady.wait_for_answers(50, Duration::from_secs(30));
    assert_eq!(ping(&pair.right, "10.77.0.1", 50), 50);
}
