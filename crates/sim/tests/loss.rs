//! What a bad network does, and that the tunnel adds nothing to it.

use std::time::Duration;

use node::DropReason;
use sim::{LinkConfig, Load, NodeId, World};

const SECOND: Duration = Duration::from_secs(1);

/// A connected pair, and then 2,000 packets over a bad link.
fn send_over(seed: u64, link: LinkConfig) -> (World, NodeId, NodeId, sim::FlowReport) {
    let (mut world, left, right) = World::pair(seed);
    assert!(world.ping(left, right, SECOND).is_some());
    world.set_link(left, right, link);
    let flow = world.udp(left, right);
    world.generate(
        flow,
        Load { bytes: 500, segment_bytes: None, every: Duration::from_micros(500), ticks: 2_000 },
    );
    world.run_for(2 * SECOND);
    let report = world.flow(flow);
    assert_eq!(report.sent, 2_000);
    (world, left, right, report)
}

#[test]
fn lost_datagrams_cost_one_packet_each() {
    let (mut world, left, right, report) = send_over(1, LinkConfig { loss: 0.1, ..LinkConfig::default() });
    assert!((150..250).contains(&report.missing()), "{report:?}");
    world.settle();
    assert!(world.peer_status(left, right).connected);
}

#[test]
fn duplicates_come_out_once() {
    let (mut world, _, right, report) = send_over(2, LinkConfig { duplicate: 0.3, ..LinkConfig::default() });
    assert_eq!(report.missing(), 0);
    assert!(world.drops(right, DropReason::Replayed) > 400);
    world.settle();
}

#[test]
fn reordering_loses_nothing() {
    let (mut world, _, right, report) = send_over(3, LinkConfig { reorder: 0.2, ..LinkConfig::default() });
    assert_eq!(report.missing(), 0);
    assert_eq!(world.drops(right, DropReason::TooOld), 0);
    world.settle();
}

#[test]
fn a_flipped_bit_costs_its_packet_and_is_counted() {
    let (mut world, left, right, report) = send_over(4, LinkConfig { corrupt: 0.1, ..LinkConfig::default() });
    assert!((150..250).contains(&report.missing()), "{report:?}");
    world.settle();
    assert!(world.drops(right, DropReason::Forged) > 100);
    assert!(world.peer_status(left, right).connected);
}

#[test]
fn jitter_keeps_order_and_loses_nothing() {
    let jitter = LinkConfig { jitter: Duration::from_millis(30), ..LinkConfig::default() };
    let (mut world, _, _, report) = send_over(5, jitter);
    assert_eq!(report.missing(), 0);
    world.settle();
}

#[test]
fn everything_at_once_still_delivers_most() {
    let link = LinkConfig {
        jitter: Duration::from_millis(5),
        loss: 0.05,
        duplicate: 0.05,
        reorder: 0.05,
        corrupt: 0.05,
        ..LinkConfig::default()
    };
    let (mut world, _, _, report) = send_over(6, link);
    assert!(report.received > 1_700, "{report:?}");
    world.settle();
}

#[test]
fn the_measured_loss_is_that_of_the_path() {
    let (mut world, left, right) = World::pair(7);
    assert!(world.ping(left, right, SECOND).is_some());
    world.set_path(left, right, LinkConfig { loss: 0.2, ..LinkConfig::default() });
    let flow = world.udp(left, right);
    world.generate(
        flow,
        Load { bytes: 500, segment_bytes: None, every: Duration::from_millis(2), ticks: 20_000 },
    );
    world.run_for(Duration::from_secs(40));
    let loss = world.peer_status(left, right).loss.expect("a measured loss");
    assert!((0.1..0.3).contains(&loss), "{loss}");
}

#[test]
fn a_partition_ends_and_traffic_goes_on_by_itself() {
    for length in [1, 20, 100, 250] {
        let (mut world, left, right) = World::pair(8);
        let flow = world.udp(left, right);
        world.generate(
            flow,
            Load { bytes: 200, segment_bytes: None, every: Duration::from_millis(100), ticks: 6_000 },
        );
        world.run_for(5 * SECOND + Duration::from_millis(50));
        assert_eq!(world.flow(flow).missing(), 0);
        world.partition(left, right);
        world.run_for(Duration::from_secs(length));
        world.heal(left, right);
        // REKEY_TIMEOUT is 5 s: by then the next initiation has gone out.
        world.run_for(6 * SECOND);
        let before = world.flow(flow);
        world.run_for(5 * SECOND);
        let after = world.flow(flow);
        assert_eq!(after.received - before.received, 50, "after {length} s of partition");
        world.settle();
    }
}

#[test]
fn a_dead_first_path_is_tried_until_it_lives() {
    let (mut world, left, right) = World::pair(9);
    world.partition(left, right);
    let flow = world.udp(left, right);
    world.send(flow, 100, None);
    world.run_for(Duration::from_secs(30));
    assert_eq!(world.flow(flow).received, 0);
    world.heal(left, right);
    world.send(flow, 100, None);
    world.run_for(6 * SECOND);
    assert!(world.flow(flow).received >= 1, "{:?}", world.flow(flow));
    world.settle();
}
