//! What the link carries.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use serde_json::json;

use crate::support::{stderr, stdout};
use crate::world::Side::{Left, Right};
use crate::world::World;

crate::tests![
    two_nodes_carry_datagrams_of_both_families_unharmed,
    a_tcp_stream_arrives_byte_for_byte,
    without_offloads_everything_still_works,
    with_several_workers_every_lane_works,
    wireguard_peers_work_and_are_not_called_post_quantum,
    a_side_without_an_endpoint_is_called_and_answers,
    ping_prints_a_line_a_probe_and_the_sum,
    the_data_plane_allocates_nothing_while_packets_flow,
];

fn pair(node: &str, peer: &str) -> (World, crate::world::Daemon, crate::world::Daemon) {
    let world = World::new();
    world.configure(Left, node, peer);
    world.configure(Right, node, peer);
    let (left, right) = (world.start(Left), world.start(Right));
    world.connect(Left);
    (world, left, right)
}

fn two_nodes_carry_datagrams_of_both_families_unharmed() {
    let (world, _left, _right) = pair("", "");
    for v6 in [false, true] {
        // The last just fits the MTU of 1,439 with the headers of IPv6 and UDP.
        for len in [4, 1_200, 1_391] {
            assert_eq!(world.exchange(Left, v6, 20, len), 20, "{len} bytes, v6: {v6}");
            assert_eq!(world.exchange(Right, v6, 20, len), 20, "{len} bytes, v6: {v6}");
        }
    }
    let status = world.status(Left);
    let peer = &status["peers"][0];
    assert_eq!(peer["rx_packets"].as_u64(), Some(120));
    assert_eq!(peer["tx_packets"].as_u64(), Some(120));
    assert_eq!(peer["drops"], json!({}));
}

/// Sends `len` bytes from left to right over TCP and compares all of them.
fn transfer(world: &World, len: usize) {
    let byte = |at: usize| (at ^ (at >> 8) ^ (at >> 16)) as u8;
    let sent: Vec<u8> = (0..len).map(byte).collect();
    // A port of its own: another test's child may hold the last one's listener until it is another program.
    let listener = world.namespace(Right).run(|| TcpListener::bind((Right.inner_v4(), 0)).unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let mut sender = world.namespace(Left).run(|| TcpStream::connect(address).unwrap()).unwrap();
    let (mut receiver, _) = listener.accept().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            sender.write_all(&sent).unwrap();
            drop(sender);
        });
        let mut received = Vec::with_capacity(len);
        receiver.read_to_end(&mut received).unwrap();
        assert!(received == sent, "{} of {len} bytes, or other ones", received.len());
    });
}

fn a_tcp_stream_arrives_byte_for_byte() {
    let (world, _left, _right) = pair("", "");
    transfer(&world, 50_000_000);
}

fn without_offloads_everything_still_works() {
    let (world, _left, _right) = pair("offload = false", "");
    let offloads = &world.status(Left)["offloads"];
    for offload in ["tso4", "tso6", "uso4", "uso6"] {
        assert_eq!(offloads["tun"][offload], json!(false));
    }
    assert_eq!(offloads["udp"], json!({"gso": false, "gro": false}));
    assert_eq!(world.exchange(Left, true, 20, 1_200), 20);
    transfer(&world, 5_000_000);
}

fn with_several_workers_every_lane_works() {
    let (world, _left, _right) = pair("workers = 3", "");
    assert_eq!(world.status(Left)["workers"].as_array().unwrap().len(), 3);
    assert_eq!(world.status(Left)["offloads"]["tun"]["multi_queue"], json!(true));
    // Each stream is a flow of its own, so some of them meet on each lane.
    for _ in 0..6 {
        transfer(&world, 1_000_000);
    }
}

fn wireguard_peers_work_and_are_not_called_post_quantum() {
    let world = World::new();
    for side in [Left, Right] {
        world.configure(side, "", "protocol = \"wireguard\"");
    }
    let (_left, _right) = (world.start(Left), world.start(Right));
    // It has no probes, so a packet makes the first handshake, and waits for it.
    let output = world.run(Left, &["ping", "right", "--node", "left"]);
    assert_eq!(
        stderr(&output),
        "peer `right` speaks WireGuard, which has no probes: try `ping 10.77.0.2` instead\n"
    );
    world.exchange_until_received(Left);
    let status = world.status(Left);
    let peer = &status["peers"][0];
    assert_eq!(peer["protocol"], json!("wireguard"));
    assert_eq!(peer["post_quantum"], json!(false));
    assert_eq!(peer["cipher"], json!("ChaCha20-Poly1305"));
    assert_eq!(world.exchange(Left, false, 20, 1_200), 20);
    transfer(&world, 5_000_000);
}

fn a_side_without_an_endpoint_is_called_and_answers() {
    let world = World::new();
    world.configure(Left, "", "");
    world.configure(Right, "", "# no endpoint");
    let (_left, right) = (world.start(Left), world.start(Right));
    world.connect(Left);
    assert_eq!(world.status(Right)["peers"][0]["endpoint"], json!("192.0.2.1:9443"));
    right.logs("left: connected at 192.0.2.1:9443 (post-quantum handshake, answered)");
    assert_eq!(world.exchange(Right, false, 10, 100), 10);
}

fn ping_prints_a_line_a_probe_and_the_sum() {
    let (world, _left, _right) = pair("", "");
    let output = world.run(Left, &["ping", "right", "--node", "left", "-n", "3", "-i", "0"]);
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 6, "{text}");
    for (index, line) in lines[..3].iter().enumerate() {
        assert!(
            line.starts_with(&format!("right: seq={} time=", index + 1)) && line.ends_with(" ms"),
            "{line}"
        );
    }
    assert_eq!(lines[4], "right: 3 sent, 3 answered, 0 % lost");
    assert!(lines[5].starts_with("rtt min/avg/max/mdev = "));
}

fn the_data_plane_allocates_nothing_while_packets_flow() {
    let (world, _left, _right) = pair("", "");
    // What is made once: the path of the first packets in each direction.
    transfer(&world, 1_000_000);
    let count = || {
        [Left, Right].map(|side| {
            let status = world.status(side);
            let worker = status["workers"][0]["allocations"].as_u64().unwrap();
            let peer = &status["peers"][0];
            (worker, peer["rx_packets"].as_u64().unwrap() + peer["tx_packets"].as_u64().unwrap())
        })
    };
    let before = count();
    transfer(&world, 50_000_000);
    assert_eq!(world.exchange(Left, false, 200, 500), 200);
    for (before, after) in before.into_iter().zip(count()) {
        let (allocations, packets) = (after.0 - before.0, after.1 - before.1);
        assert!(packets > 30_000, "{packets} packets");
        // An egress queue that becomes longer than ever before doubles its room, a few times at most.
        assert!(allocations <= 8, "{allocations} allocations for {packets} packets");
    }
}
