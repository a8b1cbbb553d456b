//! The kernel refuses what the daemon asks for.

use std::fs;
use std::net::UdpSocket;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::Pair;
use crate::lab::{self, SOON, WIRE, output, wait_for};

fn limit_open_files(pid: u32, soft: u64) {
    output(Command::new("prlimit").arg(format!("--pid={pid}")).arg(format!("--nofile={soft}:")));
}

pub(crate) fn without_descriptors_the_data_plane_goes_on() {
    let pair = Pair::connected();
    let steady = pair.steady();
    let pid = pair.left_node.pid();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64;
    let cpu = pair.left_node.cpu_time();
    let start = Instant::now();
    limit_open_files(pid, open.min(4));

    thread::scope(|scope| {
        // It is not answered yet, nor refused: it waits until there are descriptors again.
        let question = scope.spawn(|| pair.left_node.request("GET", "/v1/status", None));
        let line = pair.left_node.wait_for_log("Too many open files", SOON);
        assert!(line.contains("warn  control socket: cannot take connections for now"), "{line}");
        steady.wait_for_answers(1_000, SOON);
        assert!(!question.is_finished());
        limit_open_files(pid, 1_024);
        assert!(question.join().unwrap().is_ok());
    });
    let report = steady.finish();
    assert_eq!(report.lost(), 0, "{report:?}");
    let used = pair.left_node.cpu_time().saturating_sub(cpu);
    assert!(used < start.elapsed() / 2, "it spins: {used:?}");
    let log = pair.left_node.log();
    let warnings = log.iter().filter(|line| line.contains("warn ") && line.contains("Too many open files"));
    assert_eq!(warnings.count(), 1, "it says so once: {log:?}");
}

pub(crate) fn a_send_that_a_firewall_forbids_is_counted_and_later_sends_work() {
    let pair = Pair::connected();
    let steady = pair.steady();
    let rules = "add table ip forbid; add chain ip forbid out { type filter hook output priority 0; }; \
                 add rule ip forbid out udp sport 9443 drop";
    output(pair.left.netns.command("nft").arg(rules));
    wait_for("refused sends", SOON, || (pair.left_node.status().dropped("send_failed") > 100).then_some(()));
    output(pair.left.netns.command("nft").arg("delete table ip forbid"));
    steady.wait_for_answers(100, SOON);

    // Not one is unaccounted for: what was not answered was counted by our side, and nothing by the other.
    let report = steady.finish();
    let status = pair.left_node.status();
    assert!(report.lost() <= status.dropped("send_failed"), "{report:?} {status:?}");
    assert_eq!(pair.right_node().status().drops(), 0);
}

/// Linux gives UDP sockets `ENOBUFS` only when memory is short, which nobody can make for a test: strace gives it in the kernel's
/// place to the first `sendmsg`s of each thread of the daemon.
///
/// It stops by itself, and strace goes only after that: a call that it turned into none, and did not live to give its error to,
/// would fail with `ENOSYS`, as no kernel ever does.
pub(crate) fn a_kernel_out_of_buffers_delays_packets_and_they_go_on_by_themselves() {
    // Each is a millisecond or more: enough of them for a machine that is busy.
    const REFUSED: usize = 1_500;
    let pair = Pair::connected();
    let steady = pair.steady();
    let pid = pair.left_node.pid();
    let trace = pair.scratch.path.join("trace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-e", "trace=sendmsg,sendmmsg", "-o"]).arg(&trace);
    strace.arg(format!("--inject=sendmsg,sendmmsg:error=ENOBUFS:when=1..{REFUSED}"));
    strace.arg(format!("--attach={pid}")).stderr(std::process::Stdio::null());
    let mut strace = os::netns::die_with_parent(&mut strace).spawn().unwrap();
    let refused = || fs::read_to_string(&trace).map_or(0, |text| text.matches("ENOBUFS").count());
    wait_for("refused sends", SOON, || (refused() > 100).then_some(()));
    let cpu = pair.left_node.cpu_time();
    let start = Instant::now();
    let before = refused();
    wait_for("more of them", SOON, || (refused() > before + 100).then_some(()));
    let used = pair.left_node.cpu_time().saturating_sub(cpu);
    assert!(used < start.elapsed() / 2, "it spins: {used:?}");

    steady.wait_for_answers(200, SOON);
    os::netns::terminate(&mut strace).unwrap();
    strace.wait().unwrap();
    let report = steady.finish();
    let status = pair.left_node.status();
    assert!(report.lost() <= status.drops(), "what did not arrive is counted: {report:?} {status:?}");
    assert_eq!(status.dropped("send_failed"), 0, "no buffers is no failure: {status:?}");
    assert_eq!(pair.right_node().status().drops(), 0);
}

/// The underlay takes 40 Mbit/s and queues more than a socket's send buffer, so the kernel says `EAGAIN`: packets wait
/// in the egress queue, and when that is full the daemon stops to read the TUN.
pub(crate) fn a_slow_underlay_pushes_back() {
    let pair = Pair::connected();
    let shape =
        ["qdisc", "add", "dev", WIRE, "root", "tbf", "rate", "40mbit", "burst", "64kb", "limit", "100mb"];
    output(pair.left.netns.command("tc").args(shape));

    // One sender without any manners, for long enough to fill every buffer on the way.
    let sink = pair.right.netns.run(|| UdpSocket::bind("10.77.0.2:7003").unwrap()).unwrap();
    let socket = pair.left.netns.run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    socket.connect(sink.local_addr().unwrap()).unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        socket.send(&[7; 1_400]).unwrap();
    }
    let status = pair.left_node.status();
    assert_eq!(status.dropped("send_failed"), 0, "a full socket is no failure: {status:?}");
    let bits_sent = 8 * status.count("tx_bytes");
    assert!(bits_sent < 2 * 3 * 40_000_000, "far more than the link takes: {bits_sent}");
    let dropped =
        ["kernel_tun_full", "egress_sojourn", "egress_queue_full"].map(|reason| status.dropped(reason));
    assert!(dropped.iter().sum::<u64>() > 0, "the sender was too fast, which must show: {status:?}");
    assert!(pair.left_node.memory() < 64 << 20, "{} bytes", pair.left_node.memory());

    // All that entered left, or was counted.
    wait_for("the queues run dry", 2 * SOON, || {
        (pair.left_node.status().buffers_in_use() == 0).then_some(())
    });
    let sent = || pair.left_node.status().count("tx_packets");
    let received = || pair.right_node().status().count("rx_packets");
    wait_for("everything arrives", 2 * SOON, || (received() == sent()).then_some(()));
    assert_eq!(pair.right_node().status().drops(), 0);

    let took = lab::transfer(&pair.left.netns, &pair.right.netns, "10.77.0.2", 10_000_000);
    assert!(took > Duration::from_secs(1), "it was shaped: {took:?}");
}

/// The underlay's queue holds a dozen packets, and what does not fit is gone without a word: Linux keeps `ENOBUFS` from
/// UDP sockets (`udp_send_skb`). The streams inside see losses, and nothing else.
pub(crate) fn a_tiny_underlay_queue_loses_packets_and_nothing_else() {
    let pair = Pair::connected();
    let shape =
        ["qdisc", "add", "dev", WIRE, "root", "tbf", "rate", "100mbit", "burst", "16kb", "limit", "20kb"];
    output(pair.left.netns.command("tc").args(shape));
    lab::transfer(&pair.left.netns, &pair.right.netns, "10.77.0.2", 5_000_000);
    lab::transfer(&pair.right.netns, &pair.left.netns, "10.77.0.1", 5_000_000);
    let statistics = output(pair.left.netns.command("tc").args(["-s", "qdisc", "show", "dev", WIRE]));
    assert!(!statistics.contains("dropped 0,"), "the queue was never full: {statistics}");
    for node in [&pair.left_node, pair.right_node()] {
        assert!(node.status().connected());
        assert_eq!(node.status().drops(), 0);
    }
}
