//! Steady state allocates nothing: counted by the daemons' own allocator while real packets flow.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "lab/mod.rs"]
mod lab;

use std::net::UdpSocket;
use std::process::ExitCode;

use lab::{Node, SOON, Scratch, Spec, cable, wait_for};

const PACKETS: u64 = 100_000;

fn main() -> ExitCode {
    let tests = lab::tests![
        a_hundred_thousand_segments_of_tcp_allocate_nothing,
        a_hundred_thousand_small_datagrams_allocate_nothing,
        a_hundred_thousand_packets_to_a_wireguard_peer_allocate_nothing,
    ];
    lab::main(vec![(tests, &[])], 1)
}

/// Runs `traffic` from left to right, which must be [`PACKETS`] or more, after `warm_up` has met everything that is
/// made once.
fn allocates_nothing(
    protocol: &'static str,
    warm_up: impl Fn(&lab::Host, &lab::Host),
    traffic: impl Fn(&lab::Host, &lab::Host),
) {
    let (left, right) = cable();
    let scratch = Scratch::new();
    let mut specs = [Spec::of_pair(1, Some("192.0.2.2:9443")), Spec::of_pair(2, None)];
    for spec in &mut specs {
        spec.peers[0].protocol = protocol;
    }
    let nodes = [Node::start(&specs[1], &right, &scratch), Node::start(&specs[0], &left, &scratch)];
    for node in &nodes {
        wait_for("a session", SOON, || node.status().connected().then_some(()));
    }
    warm_up(&left, &right);
    let allocations = || nodes.each_ref().map(|node| node.status().workers("allocations"));
    let received = || nodes[0].status().count("rx_packets");
    let before = (allocations(), received());
    traffic(&left, &right);
    let forwarded = received() - before.1;
    assert!(forwarded >= PACKETS, "{forwarded} packets");
    assert_eq!(allocations(), before.0, "after {forwarded} packets");
}

fn tcp(bytes: u64) -> impl Fn(&lab::Host, &lab::Host) {
    move |left, right| {
        lab::transfer(&left.netns, &right.netns, "10.77.0.2", bytes);
    }
}

/// Datagrams of 100 bytes, until the far end's tunnel has delivered `count`.
fn datagrams(count: u64) -> impl Fn(&lab::Host, &lab::Host) {
    move |left, right| {
        let sink = right.netns.run(|| UdpSocket::bind("10.77.0.2:0").unwrap()).unwrap();
        let socket = left.netns.run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
        socket.connect(sink.local_addr().unwrap()).unwrap();
        sink.set_read_timeout(Some(std::time::Duration::from_millis(100))).unwrap();
        let mut buf = [0; 256];
        for _ in 0..count.div_ceil(64) {
            for _ in 0..64 {
                socket.send(&[1; 100]).unwrap();
            }
            // Whatever comes back in time paces the sender; it need not be all.
            for _ in 0..64 {
                if sink.recv(&mut buf).is_err() {
                    break;
                }
            }
        }
    }
}

fn a_hundred_thousand_segments_of_tcp_allocate_nothing() {
    allocates_nothing("shadowmesh", tcp(5_000_000), tcp(PACKETS * 1_500));
}

fn a_hundred_thousand_small_datagrams_allocate_nothing() {
    allocates_nothing("shadowmesh", datagrams(1_000), datagrams(PACKETS + PACKETS / 10));
}

fn a_hundred_thousand_packets_to_a_wireguard_peer_allocate_nothing() {
    allocates_nothing("wireguard", tcp(5_000_000), tcp(PACKETS * 1_500));
}
