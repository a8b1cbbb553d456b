//! Two real daemons that can reach each other by several carriers, and networks that let only some of them pass.
//!
//! Where namespaces cannot be made, or a program is missing, the tests are reported as ignored with the reason; with
//! `SHADOWMESH_REQUIRE_PRIVILEGED=1` they fail instead.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "lab/mod.rs"]
mod lab;

use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use lab::{Host, Node, SOON, Scratch, Spec, Steady, WIRE, cable, output, wait_for};

const SECOND: Duration = Duration::from_secs(1);
const UDP_OR_FAKE_TCP: &[&str] = &["udp", "faketcp"];
const FAKE_TCP: &[&str] = &["faketcp"];
const TCP: &[&str] = &["tcp"];

fn main() -> ExitCode {
    let plain = lab::tests![
        a_mesh_over_crafted_segments_carries_everything,
        crafted_segments_cross_ipv6_and_two_workers,
        a_restart_of_either_side_is_got_over_by_crafted_segments,
        a_mesh_over_connections_carries_everything,
        a_restart_of_either_side_is_got_over_by_connections,
        an_underlay_that_was_down_carries_crafted_segments_again,
        an_address_that_changes_is_followed_by_crafted_segments,
        an_address_that_changes_is_followed_by_connections,
        crafted_segments_fit_a_narrow_underlay,
        a_port_in_use_is_one_clear_error,
        the_status_says_where_each_carrier_is_called,
        a_ping_by_another_carrier_moves_nothing,
        a_carrier_that_is_not_configured_is_refused_in_words,
    ];
    let with_firewall = lab::tests![
        blocked_udp_stops_nobody_for_three_seconds_and_it_goes_back,
        where_udp_is_blocked_from_the_start_crafted_segments_connect,
        where_only_connections_pass_they_are_the_last_resort,
        no_reset_and_no_stranger_segment_leaves_a_silenced_port,
    ];
    lab::main(vec![(plain, &[]), (with_firewall, &["nft"])], 4)
}

/// Two daemons on a cable, the left of which knows where the right one is.
struct Pair {
    left: Host,
    right: Host,
    specs: [Spec; 2],
    left_node: Option<Node>,
    right_node: Option<Node>,
    scratch: Scratch,
}

impl Pair {
    fn new(carriers: &'static [&'static str]) -> Self {
        Self::with(carriers, |_, _| {})
    }

    /// Starts both, after `change` has had its way with hosts and configurations.
    fn with(carriers: &'static [&'static str], change: impl Fn(&mut [Spec; 2], [&Host; 2])) -> Self {
        let (left, right) = cable();
        let mut specs = [Spec::of_pair(1, Some("192.0.2.2:9443")), Spec::of_pair(2, None)];
        for spec in &mut specs {
            spec.peers[0].carriers = carriers;
        }
        change(&mut specs, [&left, &right]);
        let scratch = Scratch::new();
        let right_node = Some(Node::start(&specs[1], &right, &scratch));
        let left_node = Some(Node::start(&specs[0], &left, &scratch));
        Self { left, right, specs, left_node, right_node, scratch }
    }

    fn nodes(&self) -> [&Node; 2] {
        [self.left_node.as_ref().unwrap(), self.right_node.as_ref().unwrap()]
    }

    #[track_caller]
    fn wait_for_carrier(&self, carrier: &str, limit: Duration) {
        for node in self.nodes() {
            wait_for(&format!("a session over {carrier}"), limit, || {
                let status = node.status();
                (status.connected() && status.carrier() == carrier).then_some(())
            });
        }
    }

    /// Pings through the tunnel, one a millisecond, of which some have been answered already.
    fn steady(&self) -> Steady {
        let steady =
            Steady::start(&self.left.netns, &self.right.netns, "10.77.0.2", Duration::from_millis(1));
        steady.wait_for_answers(20, 2 * SOON);
        steady
    }

    fn transfer(&self, bytes: u64) {
        lab::transfer(&self.left.netns, &self.right.netns, "10.77.0.2", bytes);
        lab::transfer(&self.right.netns, &self.left.netns, "10.77.0.1", bytes);
    }

    /// Runs a command of the program on the left and returns how it ended, with all it has printed.
    fn command(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shadowmesh"));
        let socket = self.scratch.path.join("left.sock");
        let output =
            command.args(arguments).arg("--socket").arg(socket).stdin(Stdio::null()).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    }
}

/// Lets no UDP pass between the daemons, neither way.
fn block_udp(host: &Host) {
    let rules = "add table ip blocked; add chain ip blocked in { type filter hook input priority 0; }; \
                 add chain ip blocked out { type filter hook output priority 0; }; \
                 add rule ip blocked in udp dport 9443 drop; add rule ip blocked out udp dport 9443 drop";
    output(host.netns.command("nft").arg(rules));
}

fn unblock_udp(host: &Host) {
    output(host.netns.command("nft").arg("delete table ip blocked"));
}

fn a_mesh_over_crafted_segments_carries_everything() {
    let pair = Pair::new(FAKE_TCP);
    pair.wait_for_carrier("faketcp", SOON);
    let steady = pair.steady();
    pair.transfer(200_000_000);
    let report = steady.finish();
    assert_eq!((report.lost(), report.twice), (0, 0), "{report:?}");
    assert_eq!(lab::ping_with(&pair.left, "fd77::2", 3, 1_232), 3);
    // More than one segment takes: it goes in parts.
    assert_eq!(lab::ping_with(&pair.left, "10.77.0.2", 3, 1_400), 3);
    for node in pair.nodes() {
        assert_eq!(node.status().buffers_in_use(), 0);
    }
}

fn crafted_segments_cross_ipv6_and_two_workers() {
    let pair = Pair::with(FAKE_TCP, |specs, _| {
        for spec in &mut *specs {
            spec.listen = "[::]:9443";
            spec.workers = 2;
        }
        specs[0].peers[0].endpoint = Some("[2001:db8::2]:9443".into());
    });
    pair.wait_for_carrier("faketcp", SOON);
    let steady = pair.steady();
    pair.transfer(100_000_000);
    let report = steady.finish();
    assert_eq!((report.lost(), report.twice), (0, 0), "{report:?}");
}

fn a_mesh_over_connections_carries_everything() {
    let pair = Pair::new(TCP);
    pair.wait_for_carrier("tcp", SOON);
    let steady = pair.steady();
    pair.transfer(100_000_000);
    let report = steady.finish();
    assert_eq!((report.lost(), report.twice), (0, 0), "{report:?}");
    assert_eq!(lab::ping_with(&pair.left, "fd77::2", 3, 1_232), 3);
    for node in pair.nodes() {
        assert_eq!(node.status().buffers_in_use(), 0);
    }
}

fn a_restart_of_either_side_is_got_over_by_crafted_segments() {
    restarts(FAKE_TCP);
}

fn a_restart_of_either_side_is_got_over_by_connections() {
    restarts(TCP);
}

fn restarts(carrier: &'static [&'static str]) {
    let mut pair = Pair::new(carrier);
    pair.wait_for_carrier(carrier[0], SOON);
    let steady = pair.steady();
    pair.right_node.take().unwrap().kill();
    pair.right_node = Some(Node::start(&pair.specs[1], &pair.right, &pair.scratch));
    steady.wait_for_answers(100, 2 * SOON);
    pair.left_node.take().unwrap().kill();
    pair.left_node = Some(Node::start(&pair.specs[0], &pair.left, &pair.scratch));
    steady.wait_for_answers(100, 2 * SOON);
    pair.left_node.take().unwrap().stop();
    pair.left_node = Some(Node::start(&pair.specs[0], &pair.left, &pair.scratch));
    steady.wait_for_answers(100, 2 * SOON);
    assert_eq!(steady.finish().twice, 0);
}

fn an_underlay_that_was_down_carries_crafted_segments_again() {
    let pair = Pair::new(FAKE_TCP);
    pair.wait_for_carrier("faketcp", SOON);
    let steady = pair.steady();
    pair.left.set_up(WIRE, false);
    let mut seen = (steady.answered(), Instant::now());
    wait_for("silence", SOON, || {
        if steady.answered() != seen.0 {
            seen = (steady.answered(), Instant::now());
        }
        (seen.1.elapsed() > Duration::from_millis(100)).then_some(())
    });
    pair.left.set_up(WIRE, true);
    steady.wait_for_answers(100, 2 * SOON);
    assert_eq!(steady.finish().twice, 0);
}

fn an_address_that_changes_is_followed_by_crafted_segments() {
    moves(FAKE_TCP);
}

fn an_address_that_changes_is_followed_by_connections() {
    moves(TCP);
}

fn moves(carrier: &'static [&'static str]) {
    let pair = Pair::new(carrier);
    pair.wait_for_carrier(carrier[0], SOON);
    let steady = pair.steady();
    pair.left.add_address(WIRE, "192.0.2.3/24");
    pair.left.del_address(WIRE, "192.0.2.1/24");
    wait_for("the peer follows", 3 * SOON, || {
        let endpoint = pair.nodes()[1].status().endpoint()?;
        endpoint.starts_with("192.0.2.3:").then_some(())
    });
    steady.wait_for_answers(100, 2 * SOON);
    assert_eq!(steady.finish().twice, 0);
}

fn crafted_segments_fit_a_narrow_underlay() {
    let pair = Pair::with(FAKE_TCP, |_, hosts| hosts.iter().for_each(|host| host.set_mtu(WIRE, 1_400)));
    pair.wait_for_carrier("faketcp", SOON);
    pair.transfer(20_000_000);
    let room = pair.nodes()[0].status().peer()["packet_max"].as_u64();
    assert!(room.is_some_and(|room| room <= 1_400 - 20 - 32 - 33), "{room:?}");
}

fn a_port_in_use_is_one_clear_error() {
    let pair = Pair::new(FAKE_TCP);
    let mut second = pair.specs[1].clone();
    second.name = "second";
    second.listen = "0.0.0.0:9500";
    second.interface = false;
    second.sections = "[faketcp]\nlisten = \"0.0.0.0:9443\"\n[exit]\nallow = [\"127.0.0.0/8\"]\n".into();
    let (status, log) = Node::fail_to_start(&second, &pair.right, &pair.scratch);
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("TCP 0.0.0.0:9443 is in use already"), "{log}");
    assert!(log.contains("second.toml:") && log.contains("`listen` in [faketcp]"), "{log}");
}

fn the_status_says_where_each_carrier_is_called() {
    let pair = Pair::new(&["udp", "faketcp", "tcp"]);
    let listens = pair.nodes()[0].status().0["listen_carriers"].clone();
    assert_eq!(listens["faketcp"], "[::]:9443");
    assert_eq!(listens["tcp"], "[::]:9444");
    let (_, text) = pair.command(&["status"]);
    assert!(text.contains("faketcp [::]:9443, tcp [::]:9444"), "{text}");
}

fn a_ping_by_another_carrier_moves_nothing() {
    let pair = Pair::new(UDP_OR_FAKE_TCP);
    pair.wait_for_carrier("udp", SOON);
    let (code, text) =
        pair.command(&["ping", "right", "--carrier", "faketcp", "-n", "3", "-i", "0.05", "-W", "5"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("3 sent, 3 answered"), "{text}");
    for node in pair.nodes() {
        assert_eq!(node.status().carrier(), "udp");
    }
}

fn a_carrier_that_is_not_configured_is_refused_in_words() {
    let pair = Pair::new(UDP_OR_FAKE_TCP);
    pair.wait_for_carrier("udp", SOON);
    let (code, text) = pair.command(&["ping", "right", "--carrier", "tcp", "-n", "1"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("`tcp` among its `carriers`"), "{text}");
}

fn blocked_udp_stops_nobody_for_three_seconds_and_it_goes_back() {
    let pair = Pair::new(UDP_OR_FAKE_TCP);
    pair.wait_for_carrier("udp", SOON);
    let steady = pair.steady();
    thread::scope(|scope| {
        // Enough that it is still under way when UDP is blocked and when it is free again.
        let bulk = scope.spawn(|| pair.transfer(3_000_000_000));
        steady.wait_for_answers(300, SOON);
        block_udp(&pair.right);
        pair.wait_for_carrier("faketcp", SOON);
        steady.wait_for_answers(1_000, SOON);
        unblock_udp(&pair.right);
        pair.wait_for_carrier("udp", 3 * SOON);
        bulk.join().unwrap();
    });
    steady.wait_for_answers(300, SOON);
    let report = steady.finish();
    assert!(report.gap < 3 * SECOND, "{report:?}");
    for node in pair.nodes() {
        assert!(!node.log().iter().any(|line| line.contains("disconnected")), "the session is the same");
    }
}

fn where_udp_is_blocked_from_the_start_crafted_segments_connect() {
    let pair = Pair::with(UDP_OR_FAKE_TCP, |_, [_, right]| block_udp(right));
    pair.wait_for_carrier("faketcp", SOON);
    pair.transfer(10_000_000);
    unblock_udp(&pair.right);
    let steady = pair.steady();
    pair.wait_for_carrier("udp", 3 * SOON);
    assert_eq!(steady.finish().lost(), 0, "the way back costs nothing");
}

fn where_only_connections_pass_they_are_the_last_resort() {
    let pair = Pair::with(&["udp", "faketcp", "tcp"], |_, [_, right]| {
        block_udp(right);
        let rules = "add rule ip blocked in tcp dport 9443 drop";
        output(right.netns.command("nft").arg(rules));
        // The packet sockets of crafted segments see what comes before the firewall does: their answers are stopped.
        output(right.netns.command("nft").arg(
            "add table netdev late; add chain netdev late in { type filter hook egress device wire0 priority 0; }; \
             add rule netdev late in tcp sport 9443 drop",
        ));
    });
    pair.wait_for_carrier("tcp", 2 * SOON);
    pair.transfer(10_000_000);
}

fn no_reset_and_no_stranger_segment_leaves_a_silenced_port() {
    // Counted by the firewall: what the kernel itself sends from the port.
    let counted = |host: &Host| {
        let listing = output(host.netns.command("nft").args(["list", "chain", "ip", "watch", "out"]));
        let packets = listing.split("packets ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
        packets.parse::<u64>().unwrap()
    };
    let pair = Pair::with(FAKE_TCP, |_, hosts| {
        for host in hosts {
            // On the wire: what goes into the tunnel is of connections that the kernel may reset.
            let rules = format!(
                "add table ip watch; add chain ip watch out {{ type filter hook output priority 0; }}; \
                 add rule ip watch out oifname {WIRE} tcp flags & rst == rst counter"
            );
            output(host.netns.command("nft").arg(rules));
        }
    });
    pair.wait_for_carrier("faketcp", SOON);
    pair.transfer(20_000_000);
    // A stranger's handshake is answered as a listener would, what follows is not refused either.
    let stranger = pair.left.netns.run(|| {
        let address = "192.0.2.2:9443".parse().unwrap();
        std::net::TcpStream::connect_timeout(&address, SOON)
    });
    let mut stranger = stranger.unwrap().unwrap();
    std::io::Write::write_all(&mut stranger, &[7; 1_000]).unwrap();
    let guarded = || pair.nodes()[1].status().0["carriers"]["faketcp"]["guard_failures"].as_u64();
    wait_for("what it said is counted", SOON, || guarded().filter(|&count| count > 0));
    assert_eq!((counted(&pair.left), counted(&pair.right)), (0, 0));
    pair.transfer(1_000_000);
}
