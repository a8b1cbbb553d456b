//! What a conversation promises, over links that break each promise of theirs.
#![allow(clippy::unwrap_used)]

mod link;

use std::time::Duration;

use link::{LinkConfig, World};
use stream::kcp::segment::{Command, Header};
use stream::kcp::{Congestion, Kcp, KcpConfig, Mode, Reason};

const SECOND: Duration = Duration::from_secs(1);
const MEGABIT: u64 = 125_000;

fn none(mode: Mode) -> KcpConfig {
    KcpConfig { mode, congestion: Congestion::None, send_window: 1_024, ..KcpConfig::default() }
}

/// Sends `left` and `right` bytes in the two directions at once; everything must arrive, and every byte is checked.
fn exchange(mut world: World, left: u64, right: u64) -> World {
    world.left().to_write = left;
    world.right().to_write = right;
    let done =
        world.run_until(600 * SECOND, |world| world.right().read == left && world.left().read == right);
    let (got, back) = (world.right().read, world.left().read);
    assert!(done, "{got} of {left} and {back} of {right} bytes after {:?}", world.now);
    // Whatever is still on its way is a repetition: nothing may come after the end.
    world.run_for(5 * SECOND);
    assert_eq!((world.right().read, world.left().read), (left, right));
    assert_eq!(world.left().kcp.unacknowledged() + world.right().kcp.unacknowledged(), 0);
    world
}

#[test]
fn every_byte_arrives_whatever_the_link_does() {
    let delay = Duration::from_millis(15);
    let perfect = LinkConfig { delay, ..LinkConfig::default() };
    let links = [
        LinkConfig { loss: 0.3, ..perfect },
        LinkConfig { reorder: 0.25, ..perfect },
        LinkConfig { duplicate: 0.1, ..perfect },
        LinkConfig { corrupt: 0.01, ..perfect },
        LinkConfig { loss: 0.3, reorder: 0.25, duplicate: 0.1, corrupt: 0.01, ..perfect },
        LinkConfig { rate: 5 * MEGABIT, queue: 20_000, loss: 0.02, ..perfect },
        LinkConfig { delay: Duration::ZERO, loss: 0.1, ..perfect },
    ];
    let configs = [
        KcpConfig::default(),
        KcpConfig { ack_no_delay: true, mtu: 576, ..KcpConfig::default() },
        none(Mode::NORMAL),
        none(Mode::FAST3),
        none(Mode { resend: 0, ..Mode::FAST2 }),
        none(Mode { no_congestion_window: false, ..Mode::FAST }),
    ];
    for (seed, link) in links.into_iter().enumerate() {
        for config in &configs {
            exchange(World::pair(seed as u64, link, config), 200_000, 50_000);
        }
    }
}

#[test]
fn many_seeds_of_the_worst_link_lose_nothing() {
    let delay = Duration::from_millis(5);
    let worst =
        LinkConfig { delay, loss: 0.3, reorder: 0.25, duplicate: 0.1, corrupt: 0.01, ..Default::default() };
    for seed in 100..120 {
        exchange(World::pair(seed, worst, &KcpConfig::default()), 100_000, 30_000);
    }
}

#[test]
fn sequence_numbers_and_timestamps_pass_their_end() {
    let link = LinkConfig { loss: 0.05, reorder: 0.1, ..LinkConfig::default() };
    for (sequence, timestamp) in
        [(u32::MAX - 200, 0), (0, u32::MAX - 50_000), (i32::MAX as u32 - 99, u32::MAX)]
    {
        let mut world = World::new(3, link);
        world.add_starting_at(&KcpConfig::default(), sequence, timestamp);
        let world = exchange(world, 1_000_000, 1_000_000);
        let statistics = world.flows[0][0].kcp.statistics();
        assert!(statistics.rtt.unwrap() < Duration::from_millis(80), "{statistics:?}");
        assert_eq!(statistics.timeouts, 0, "the wrap looks like silence: {statistics:?}");
    }
}

#[test]
fn a_reader_that_stops_stops_the_writer_and_bounds_memory() {
    for config in [KcpConfig::default(), none(Mode::FAST2)] {
        let mut world = World::pair(1, LinkConfig::default(), &config);
        world.left().to_write = 100_000_000;
        world.right().reads = false;
        world.run_for(20 * SECOND);
        let window = u64::from(KcpConfig::RECEIVE_WINDOW_START) * 1_326;
        let readable = world.right().kcp.readable() as u64;
        assert!((window * 9 / 10..=window).contains(&readable), "{readable}");
        assert_eq!(world.left().kcp.statistics().remote_window, 0);
        assert!(world.right().kcp.memory() < 1_200_000, "{}", world.right().kcp.memory());
        // A closed window is asked about, not retransmitted into.
        let before = world.links[0].offered[0];
        world.run_for(60 * SECOND);
        assert!(world.links[0].offered[0] - before < 60 * 100);
        assert!(!world.left().kcp.is_dead(), "a slow reader is not a dead peer");

        world.right().reads = true;
        let soon = Duration::from_millis(200);
        assert!(
            world.run_until(soon, |world| world.right().read > 2 * window),
            "{} bytes",
            world.right().read
        );
    }
}

#[test]
fn windows_set_later_bound_the_memory_of_both_ends() {
    let mut world = World::pair(1, bottleneck(1_000_000, 0.05), &KcpConfig::default());
    world.left().to_write = u64::MAX;
    world.run_for(2 * SECOND);
    let before = [world.left().kcp.memory(), world.right().kcp.memory()];
    world.left().kcp.set_send_window(128);
    world.right().kcp.set_receive_window(128);
    world.run_for(4 * SECOND);
    assert!(world.left().kcp.unacknowledged() - world.left().kcp.queued() <= 128 * 1_326);
    assert_eq!(world.left().kcp.statistics().remote_window, 128);
    for (end, before) in world.flows[0].iter().zip(before) {
        assert!(
            end.kcp.memory() < 700_000 && end.kcp.memory() < before / 2,
            "{before}, {}",
            end.kcp.memory()
        );
    }
}

#[test]
fn a_window_that_opened_unheard_is_asked_for() {
    let mut world = World::pair(1, LinkConfig::default(), &KcpConfig::default());
    world.left().to_write = 100_000_000;
    world.right().reads = false;
    world.run_for(20 * SECOND);
    // Everything that the reader says as it begins to read again is lost.
    world.links[1].config.loss = 1.0;
    world.right().reads = true;
    world.run_for(Duration::from_millis(50));
    world.links[1].config.loss = 0.0;
    let before = world.right().read;
    assert!(world.run_until(6 * SECOND, |world| world.right().read > before + 1_000_000));
}

#[test]
fn a_dead_peer_is_found_and_the_conversation_stays_dead() {
    let config = KcpConfig { dead_after: 3 * SECOND, ..KcpConfig::default() };
    let mut world = World::pair(1, LinkConfig::default(), &config);
    world.left().to_write = 1_000_000;
    world.run_for(Duration::from_millis(80));
    for link in &mut world.links {
        link.config.loss = 1.0;
    }
    let cut = world.now;
    world.left().to_write = 50_000_000;
    assert!(world.run_until(60 * SECOND, |world| world.left().kcp.is_dead()));
    let time = world.now.saturating_sub(cut);
    assert!((Duration::from_millis(2_900)..Duration::from_millis(3_200)).contains(&time), "{time:?}");
    assert_eq!(world.left().kcp.writable(), 0);
    for link in &mut world.links {
        link.config.loss = 0.0;
    }
    world.run_for(10 * SECOND);
    assert!(world.left().kcp.is_dead());
}

#[test]
fn a_path_that_swallows_large_datagrams_only_is_dead_too() {
    let mut world =
        World::pair(1, LinkConfig { largest: 1_000, ..LinkConfig::default() }, &KcpConfig::default());
    world.left().to_write = 10_000;
    // The other direction works, so the peer is heard all the time.
    for second in 1..300 {
        world.right().to_write = second * 10;
        world.run_for(SECOND);
        if world.left().kcp.is_dead() {
            return;
        }
    }
    panic!("alive after {:?}", world.now);
}

#[test]
fn a_conversation_with_nothing_to_say_never_dies() {
    let mut world = World::pair(1, LinkConfig::default(), &KcpConfig::default());
    world.left().to_write = 1_000;
    world.run_for(SECOND);
    world.links[0].config.loss = 1.0;
    world.run_for(3_600 * SECOND);
    assert!(!world.left().kcp.is_dead() && !world.right().kcp.is_dead());
}

#[test]
fn a_closed_window_matters_to_nobody_who_has_nothing_to_send() {
    let mut world =
        World::pair(1, LinkConfig::default(), &KcpConfig { receive_window: 128, ..Default::default() });
    world.right().reads = false;
    world.left().to_write = 128 * 1_326;
    world.run_for(5 * SECOND);
    assert_eq!(world.left().kcp.statistics().remote_window, 0);
    assert_eq!(world.left().kcp.unacknowledged(), 0);
    world.run_for(3_600 * SECOND);
    assert!(!world.left().kcp.is_dead());
    assert_eq!(world.left().kcp.poll_timeout(), None);
}

#[test]
fn after_an_outage_the_flow_goes_on_at_its_rate() {
    let link = LinkConfig { rate: 100 * MEGABIT, queue: 500_000, ..LinkConfig::default() };
    for config in [KcpConfig::default(), none(Mode::FAST2)] {
        let mut world = World::pair(1, link, &config);
        world.left().to_write = u64::MAX;
        world.run_for(3 * SECOND);
        for link in &mut world.links {
            link.config.loss = 1.0;
        }
        let before = world.links[0].offered[0];
        world.run_for(8 * SECOND);
        let wasted = world.links[0].offered[0] - before;
        assert!(wasted < 4_000_000, "{wasted} bytes were sent into nothing");
        for link in &mut world.links {
            link.config.loss = 0.0;
        }
        // The timeout may just have begun; what counts is what follows it.
        world.run_for(6 * SECOND);
        let before = world.right().read;
        world.run_for(SECOND);
        let rate = (world.right().read - before) / MEGABIT;
        assert!(rate > 70, "{rate} Mbit/s");
    }
}

/// 40 ms and 200 Mbit/s.
fn bottleneck(queue: usize, loss: f64) -> LinkConfig {
    LinkConfig {
        rate: 200 * MEGABIT,
        queue,
        loss,
        jitter: Duration::from_micros(300),
        ..LinkConfig::default()
    }
}

/// Goodput in Mbit/s of one flow in 5 s, and bytes sent by payload.
fn goodput(link: LinkConfig) -> (f64, f64) {
    let mut world = World::pair(1, link, &KcpConfig::default());
    world.tick = Duration::from_millis(1);
    world.left().to_write = u64::MAX;
    world.run_for(5 * SECOND);
    let read = world.right().read as f64;
    (read * 8.0 / 5e6, world.links[0].offered[0] as f64 / read)
}

#[test]
fn random_loss_does_not_collapse_the_rate() {
    for (loss, least, cost_max) in
        [(0.0, 175.0, 1.12), (0.05, 146.0, 1.2), (0.1, 129.0, 1.25), (0.3, 70.0, 1.8)]
    {
        let (rate, cost) = goodput(bottleneck(1_000_000, loss));
        assert!(rate >= least && cost <= cost_max, "loss {loss}: {rate:.1} Mbit/s, {cost:.3} bytes a byte");
    }
}

#[test]
fn short_and_long_queues_are_filled_neither_with_loss_nor_with_delay() {
    for queue in [100_000, 5_000_000] {
        let (rate, cost) = goodput(bottleneck(queue, 0.0));
        assert!(rate >= 170.0 && cost <= 1.2, "queue {queue}: {rate:.1} Mbit/s, {cost:.3} bytes a byte");
    }
}

#[test]
fn reordering_is_not_taken_for_loss() {
    let (rate, cost) = goodput(LinkConfig { reorder: 0.25, ..bottleneck(1_000_000, 0.0) });
    assert!(rate >= 170.0 && cost <= 1.1, "{rate:.1} Mbit/s, {cost:.3} bytes a byte");
}

#[test]
fn a_path_that_changes_is_learned_anew() {
    let mut world = World::pair(1, bottleneck(1_000_000, 0.0), &KcpConfig::default());
    world.left().to_write = u64::MAX;
    let mut rate_after = |change: &mut dyn FnMut(&mut LinkConfig), wait: u32| {
        change(&mut world.links[0].config);
        world.run_for(wait * SECOND);
        let before = world.right().read;
        world.run_for(SECOND);
        (world.right().read - before) / MEGABIT
    };
    assert!(rate_after(&mut |_| {}, 1) > 170);
    assert!((30..=40).contains(&rate_after(&mut |link| link.rate = 40 * MEGABIT, 3)));
    assert!(rate_after(&mut |link| link.rate = 200 * MEGABIT, 2) > 170);
    // The old round-trip time is remembered for ten seconds from when it was last seen; then the rate grows.
    assert!(rate_after(&mut |link| link.delay = Duration::from_millis(80), 15) > 170);
}

#[test]
fn two_flows_share_a_bottleneck() {
    for loss in [0.0, 0.05] {
        let mut world = World::new(1, bottleneck(1_000_000, loss));
        for start in 0..2 {
            world.add(&KcpConfig::default());
            world.flows[start][0].to_write = u64::MAX;
            // The second comes when the first has the whole link.
            world.run_for(3 * SECOND);
        }
        world.run_for(5 * SECOND);
        let before = [world.flows[0][1].read, world.flows[1][1].read];
        world.run_for(12 * SECOND);
        let got = [world.flows[0][1].read - before[0], world.flows[1][1].read - before[1]];
        let share = got[0] as f64 / (got[0] + got[1]) as f64;
        assert!((0.3..=0.7).contains(&share), "loss {loss}: {got:?}");
    }
}

#[test]
fn small_messages_share_a_datagram() {
    let now = World::new(0, LinkConfig::default()).epoch;
    let mut kcp = Kcp::new(1, KcpConfig::default(), now);
    for _ in 0..10 {
        kcp.write(b"0123456789");
    }
    let mut buf = [0; 1_500];
    assert_eq!(kcp.poll_transmit(now, &mut buf), Some(24 + 100));
    assert_eq!(kcp.poll_transmit(now, &mut buf), None);
}

/// A datagram with one segment, as a peer would send it.
fn segment(command: Command, sequence: u32, una: u32, payload: &[u8]) -> Vec<u8> {
    let header = Header {
        conversation: 1,
        command,
        fragment: 0,
        window: 128,
        timestamp: 0,
        sequence,
        unacknowledged: una,
        length: payload.len() as u32,
    };
    [&header.encode()[..], payload].concat()
}

#[test]
fn fragments_of_messages_are_read_as_a_stream() {
    let now = World::new(0, LinkConfig::default()).epoch;
    let mut kcp = Kcp::new(1, KcpConfig::default(), now);
    for (sequence, payload) in [(2, "three"), (0, "one"), (1, "two")] {
        let mut datagram = segment(Command::Push, sequence, 0, payload.as_bytes());
        datagram[5] = 2 - sequence as u8;
        kcp.handle_datagram(&datagram, now).unwrap();
    }
    let mut buf = [0; 64];
    assert_eq!(kcp.read(&mut buf), 11);
    assert_eq!(&buf[..11], b"onetwothree");
}

#[test]
fn what_cannot_be_right_is_refused_with_its_reason() {
    let now = World::new(0, LinkConfig::default()).epoch;
    let mut kcp = Kcp::new(1, KcpConfig::default(), now);
    let good = segment(Command::Push, 0, 0, b"good");
    let mut foreign = good.clone();
    foreign[0] = 9;
    assert_eq!(kcp.handle_datagram(&[], now), Err(Reason::Short));
    assert_eq!(kcp.handle_datagram(&foreign, now), Err(Reason::Conversation));
    assert_eq!(kcp.handle_datagram(&segment(Command::Ack, 0, 1, b""), now), Err(Reason::Unsent));
    assert_eq!(kcp.handle_datagram(&good[..26], now), Err(Reason::Length));
    // What came before the offence counts.
    let mixed = [&good[..], &foreign[..]].concat();
    assert_eq!(kcp.handle_datagram(&mixed, now), Err(Reason::Conversation));
    assert_eq!(kcp.peek(), b"good");
}

#[test]
fn a_sender_that_ignores_the_window_is_not_stored() {
    let now = World::new(0, LinkConfig::default()).epoch;
    let mut kcp = Kcp::new(1, KcpConfig { receive_window: 256, ..KcpConfig::default() }, now);
    let mut buf = [0; 1_500];
    for sequence in 0..5_000 {
        kcp.handle_datagram(&segment(Command::Push, sequence, 0, &[7; 1_326]), now).unwrap();
        while kcp.poll_transmit(now, &mut buf).is_some() {}
    }
    assert_eq!(kcp.readable(), 256 * 1_326);
    assert_eq!(kcp.statistics().beyond_window, 5_000 - 256);
    assert!(kcp.memory() < 700_000, "{}", kcp.memory());
}

#[test]
fn a_peer_that_acknowledges_with_wrong_times_does_no_harm() {
    let now = World::new(0, LinkConfig::default()).epoch;
    let mut kcp = Kcp::new(1, KcpConfig::default(), now);
    kcp.write(&[1; 5_000]);
    let mut buf = [0; 1_500];
    while kcp.poll_transmit(now, &mut buf).is_some() {}
    let later = now + Duration::from_millis(40);
    for timestamp in [0, 1, 77, i32::MAX as u32, u32::MAX] {
        let mut ack = segment(Command::Ack, 2, 0, b"");
        ack[8..12].copy_from_slice(&u32::to_le_bytes(timestamp));
        kcp.handle_datagram(&ack, later).unwrap();
    }
    assert!(kcp.statistics().rtt.is_none_or(|rtt| rtt <= Duration::from_millis(40)));
    kcp.handle_datagram(&segment(Command::WindowTell, 0, 4, b""), later).unwrap();
    assert_eq!(kcp.unacknowledged(), 0);
}

#[test]
fn an_idle_conversation_gives_its_memory_back() {
    let mut world =
        exchange(World::pair(1, bottleneck(1_000_000, 0.05), &KcpConfig::default()), 20_000_000, 1_000);
    world.run_for(10 * SECOND);
    for end in &world.flows[0] {
        assert!(end.kcp.memory() < 64 * 1024, "{}", end.kcp.memory());
        assert!(end.kcp.poll_timeout().is_none(), "an idle conversation needs no timer");
    }
}
