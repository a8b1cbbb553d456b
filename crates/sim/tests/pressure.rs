//! Too much traffic: full sockets, full queues, no buffers, a TUN device that says no.

use std::time::Duration;

use node::DropReason;
use packet::PoolConfig;
use sim::{LinkConfig, Load, NodeSpec, PeerOptions, Uplink, World};

const SECOND: Duration = Duration::from_secs(1);

/// An uplink of 10 Mbit/s: 1,200 bytes take a millisecond.
fn narrow() -> Uplink {
    Uplink { rate_bps: Some(10_000_000), send_buffer_bytes: 16 * 1024, ..Uplink::default() }
}

fn narrow_pair(seed: u64) -> (World, sim::NodeId, sim::NodeId) {
    let left = NodeSpec { uplink: narrow(), ..NodeSpec::default() };
    World::pair_with(seed, left, NodeSpec::default(), &PeerOptions::default())
}

#[test]
fn a_burst_larger_than_the_socket_waits_and_arrives_in_order() {
    let (mut world, left, right) = narrow_pair(1);
    assert!(world.ping(left, right, SECOND).is_some());
    let tcp = world.tcp(left, right);
    // 60 KB for a socket of 16 KB: the rest waits in the egress queue, and leaves within 50 ms.
    world.send(tcp, 60_000, Some(1_200));
    world.run_for(SECOND);
    assert_eq!(world.flow(tcp).missing(), 0, "{:?}", world.flow(tcp));
    world.settle();
}

#[test]
fn twice_the_rate_for_a_while_fills_the_link_and_counts_every_drop() {
    let (mut world, left, right) = narrow_pair(2);
    assert!(world.ping(left, right, SECOND).is_some());
    let flow = world.udp(left, right);
    let load = Load { bytes: 1_200, segment_bytes: None, every: Duration::from_micros(500), ticks: 20_000 };
    world.generate(flow, load);
    world.run_for(11 * SECOND);
    let report = world.flow(flow);
    assert!(report.refused + report.missing() > 0, "the sender feels it: {report:?}");
    // 10 Mbit/s carry 971 packets of 1,287 bytes a second.
    assert!(report.received > 9_000, "the link is kept full: {report:?}");
    world.settle();
    let counted =
        world.drops(left, DropReason::EgressQueueFull) + world.drops(left, DropReason::EgressSojourn);
    assert_eq!(counted, world.flow(flow).missing());
}

#[test]
fn a_standing_queue_does_not_make_pings_wait_for_seconds() {
    let (mut world, left, right) = narrow_pair(3);
    assert!(world.ping(left, right, SECOND).is_some());
    let flow = world.udp(left, right);
    let load = Load { bytes: 1_200, segment_bytes: None, every: Duration::from_micros(500), ticks: 20_000 };
    world.generate(flow, load);
    world.run_for(5 * SECOND);
    let rtt = world.ping(left, right, 2 * SECOND).expect("an answer under load");
    assert!(rtt < Duration::from_millis(500), "{rtt:?}");
    world.run_for(10 * SECOND);
    world.settle();
}

#[test]
fn peers_share_a_full_link() {
    let mut world = World::new(4);
    let hub = world.add(NodeSpec { uplink: narrow(), ..NodeSpec::default() });
    let (a, b) = (world.add(NodeSpec::default()), world.add(NodeSpec::default()));
    world.peer(hub, a);
    world.peer(hub, b);
    assert!(world.ping(hub, a, SECOND).is_some() && world.ping(hub, b, SECOND).is_some());
    let (greedy, modest) = (world.udp(hub, a), world.udp(hub, b));
    let tick = Duration::from_micros(400);
    world.generate(greedy, Load { bytes: 1_200, segment_bytes: None, every: tick, ticks: 25_000 });
    let slow = Duration::from_millis(10);
    world.generate(modest, Load { bytes: 1_200, segment_bytes: None, every: slow, ticks: 1_000 });
    world.run_for(12 * SECOND);
    let (greedy, modest) = (world.flow(greedy), world.flow(modest));
    assert!(modest.missing() * 10 < modest.sent, "one tenth of the link is within its share: {modest:?}");
    assert!(greedy.received > 7_500, "{greedy:?}");
    world.settle();
}

#[test]
fn the_kernel_out_of_buffers_delays_and_loses_nothing() {
    let (mut world, left, right) = World::pair(5);
    assert!(world.ping(left, right, SECOND).is_some());
    let flow = world.udp(left, right);
    world.exhaust_send_buffers(left, 5);
    for _ in 0..10 {
        world.send(flow, 1_000, None);
    }
    world.run_for(SECOND);
    assert_eq!(world.flow(flow).missing(), 0);
    world.settle();
}

#[test]
fn a_lasting_lack_of_buffers_ends_and_traffic_goes_on() {
    let (mut world, left, right) = World::pair(6);
    assert!(world.ping(left, right, SECOND).is_some());
    let flow = world.udp(left, right);
    world.generate(
        flow,
        Load { bytes: 1_000, segment_bytes: None, every: Duration::from_millis(1), ticks: 10_000 },
    );
    world.run_for(SECOND);
    world.exhaust_send_buffers(left, 3_000);
    world.run_for(5 * SECOND);
    world.exhaust_send_buffers(left, 0);
    world.run_for(SECOND);
    let before = world.flow(flow).received;
    world.run_for(2 * SECOND);
    assert_eq!(world.flow(flow).received - before, 2_000);
    world.settle();
}

#[test]
fn a_pool_of_few_buffers_drops_and_counts_and_never_stops() {
    let pool = PoolConfig { large: 4, small: 4 };
    let tight = NodeSpec { pool, uplink: narrow(), ..NodeSpec::default() };
    let (mut world, left, right) = World::pair_with(7, tight.clone(), tight, &PeerOptions::default());
    let (there, back) = (world.udp(left, right), world.udp(right, left));
    // Before there is a session every packet wants a buffer of its own.
    for _ in 0..40 {
        world.send(there, 1_200, None);
        world.send(back, 1_200, None);
    }
    world.run_for(10 * SECOND);
    let load =
        Load { bytes: 12_000, segment_bytes: Some(1_200), every: Duration::from_millis(5), ticks: 400 };
    world.generate(there, load);
    world.generate(back, load);
    world.run_for(10 * SECOND);
    let before = world.flow(there);
    assert!(before.received > 1_000, "{before:?}");
    world.send(there, 100, None);
    world.run_for(SECOND);
    assert_eq!(world.flow(there).received, before.received + 1);
    world.settle();
}

#[test]
fn packets_wait_for_the_handshake_up_to_a_limit_and_the_newest_are_kept() {
    let (mut world, left, right) = World::pair(8);
    let flow = world.udp(left, right);
    for _ in 0..400 {
        world.send(flow, 200, None);
    }
    world.run_for(SECOND);
    let report = world.flow(flow);
    assert!(report.received >= 16, "{report:?}");
    assert_eq!(world.drops(left, DropReason::HandshakeQueueFull), report.missing());
    world.settle();
}

#[test]
fn a_tun_device_that_goes_down_costs_packets_and_comes_back() {
    let (mut world, left, right) = World::pair(9);
    let flow = world.udp(left, right);
    world.generate(
        flow,
        Load { bytes: 200, segment_bytes: None, every: Duration::from_millis(10), ticks: 1_000 },
    );
    world.run_for(2 * SECOND);
    world.set_tun_up(right, false);
    world.run_for(2 * SECOND);
    assert!(world.drops(right, DropReason::TunRefused) >= 190);
    world.set_tun_up(right, true);
    world.set_tun_up(left, false);
    world.run_for(2 * SECOND);
    world.set_tun_up(left, true);
    let before = world.flow(flow).received;
    world.run_for(SECOND);
    assert!(world.flow(flow).received >= before + 99, "{:?}", world.flow(flow));
    world.run_for(5 * SECOND);
    world.settle();
}

#[test]
fn a_tun_device_that_stops_taking_super_packets_still_gets_every_packet() {
    let (mut world, left, right) = World::pair(10);
    let tcp = world.tcp(left, right);
    world.send(tcp, 13_000, Some(1_300));
    world.run_for(SECOND);
    world.set_offloads(right, false);
    world.send(tcp, 13_000, Some(1_300));
    world.run_for(SECOND);
    let report = world.flow(tcp);
    assert_eq!(report.missing(), 0, "{report:?}");
    world.settle();
}

#[test]
fn a_queue_in_the_network_loses_what_it_must_and_the_tunnel_no_more() {
    let (mut world, left, right) = World::pair(11);
    assert!(world.ping(left, right, SECOND).is_some());
    let bottleneck =
        LinkConfig { rate_bps: Some(5_000_000), queue_bytes: 32 * 1024, ..LinkConfig::default() };
    world.set_link(left, right, bottleneck);
    let flow = world.udp(left, right);
    world.generate(
        flow,
        Load { bytes: 1_200, segment_bytes: None, every: Duration::from_millis(1), ticks: 5_000 },
    );
    world.run_for(6 * SECOND);
    let report = world.flow(flow);
    // 5 Mbit/s carry 485 packets of 1,289 bytes a second.
    assert!((2_300..2_550).contains(&report.received), "{report:?}");
    let own = world.status(left).peers[0].drops.values().sum::<u64>();
    assert_eq!(own, 0, "the sender's socket was never full");
    world.settle();
}
