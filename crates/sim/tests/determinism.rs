//! One seed, one history.

use std::time::Duration;

use sim::{Dice, LinkConfig, Load, NodeSpec, PeerOptions, World};

/// A little of everything.
fn history(seed: u64) -> (u64, u64) {
    let mut dice = Dice::new(seed);
    let wide = NodeSpec { workers: 3, ..NodeSpec::default() };
    let (mut world, left, right) = World::pair_with(seed, wide, NodeSpec::default(), &PeerOptions::default());
    world.set_all_links(LinkConfig {
        latency: dice.up_to(Duration::from_millis(50)),
        jitter: Duration::from_millis(3),
        loss: 0.03,
        duplicate: 0.02,
        reorder: 0.02,
        corrupt: 0.02,
        rate_bps: Some(20_000_000),
        ..LinkConfig::default()
    });
    let load = Load { bytes: 6_000, segment_bytes: Some(700), every: Duration::from_millis(7), ticks: 2_000 };
    let flows = [world.udp(left, right), world.tcp(right, left), world.udp(left, right)];
    for flow in flows {
        world.generate(flow, load);
    }
    world.run_for(Duration::from_secs(10));
    world.restart(left);
    world.run_for(Duration::from_secs(30));
    world.settle();
    (world.trace_hash(), flows.iter().map(|&flow| world.flow(flow).received).sum())
}

#[test]
fn the_same_seed_twice_is_the_same_history() {
    for seed in [1, 2, 0xdead_beef] {
        assert_eq!(history(seed), history(seed), "seed {seed}");
    }
}

#[test]
#[should_panic(expected = "seed=77 at 3.000000s")]
fn a_failure_names_the_seed_that_repeats_it() {
    let (mut world, left, _) = World::pair(77);
    world.run_for(Duration::from_secs(3));
    world.kill(left);
    world.status(left);
}

#[test]
#[should_panic(expected = "not at rest: left: TUN queue 0 still holds")]
fn packets_left_behind_are_noticed() {
    let (mut world, left, right) = World::pair(78);
    world.run_for(Duration::from_secs(1));
    let flow = world.udp(left, right);
    // The device goes down before the worker has read what waits there.
    world.pause(left);
    world.send(flow, 100, None);
    world.set_tun_up(left, false);
    world.resume(left);
    world.check_at_rest();
}

#[test]
fn different_seeds_are_different_histories() {
    assert_ne!(history(1).0, history(2).0);
}
