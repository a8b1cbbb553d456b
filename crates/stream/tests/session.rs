//! Whole sessions over a bad network: whatever it does, every stream arrives byte for byte.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::time::{Duration, Instant};

use stream::fec::FecConfig;
use stream::kcp::{Congestion, KcpConfig};
use stream::session::{Session, SessionConfig, SessionError};
use stream::smux::{HalfClose, ReadError, Role, SmuxConfig, StreamId};

/// What the network does to datagrams, as one in so many; 0 is never.
#[derive(Clone, Copy, Default)]
struct Faults {
    lost: u32,
    doubled: u32,
    late: u32,
}

const ONE_WAY: Duration = Duration::from_millis(20);

/// Two sessions and the network between them.
struct World {
    ends: [Session; 2],
    /// Datagrams on their way: when and to whom, in order.
    flying: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
    faults: Faults,
    seed: u32,
    sent: u64,
    now: Instant,
    cut: bool,
}

impl World {
    fn new(config: &SessionConfig, faults: Faults) -> Self {
        #[expect(clippy::disallowed_methods, reason = "a test begins now")]
        let now = Instant::now();
        let ends = [Role::Client, Role::Server].map(|role| Session::new(role, 77, config.clone(), now));
        Self { ends, flying: BTreeMap::new(), faults, seed: 1, sent: 0, now, cut: false }
    }

    fn one_in(&mut self, count: u32) -> bool {
        self.seed = self.seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        count > 0 && (self.seed >> 8).is_multiple_of(count)
    }

    fn transmit(&mut self) {
        let mut buf = [0; 1_500];
        for from in 0..2 {
            while let Some(len) = self.ends[from].poll_transmit(self.now, &mut buf) {
                assert!(len <= 1_350, "a datagram of {len} bytes");
                self.sent += 1;
                let copies = 1 + usize::from(self.one_in(self.faults.doubled));
                for copy in 0..copies {
                    let late = if self.one_in(self.faults.late) { ONE_WAY / 2 } else { Duration::ZERO };
                    if !self.one_in(self.faults.lost) && !self.cut {
                        let at = self.now + ONE_WAY + late;
                        self.flying
                            .insert((at, self.sent * 2 + copy as u64), (1 - from, buf[..len].to_vec()));
                    }
                }
            }
        }
    }

    /// Sends what is to be sent, then moves on to whatever happens next.
    fn step(&mut self) {
        self.transmit();
        let arrival = self.flying.keys().next().map(|(at, _)| *at);
        let deadlines = self.ends.iter().filter_map(|end| end.poll_timeout().map(|(at, _)| at));
        self.now = self.now.max(arrival.into_iter().chain(deadlines).min().unwrap());
        while let Some(entry) = self.flying.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let (to, datagram) = entry.remove();
            self.ends[to].handle_datagram(&datagram, self.now).unwrap();
        }
        for end in &mut self.ends {
            if end.poll_timeout().is_some_and(|(at, _)| at <= self.now) {
                end.handle_timeout(self.now);
            }
        }
    }
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 253 + seed * 7) as u8).collect()
}

fn read_all(session: &mut Session, id: StreamId, into: &mut Vec<u8>) -> bool {
    let mut buf = [0; 4_096];
    loop {
        match session.streams().read(id, &mut buf) {
            Ok(0) => return true,
            Ok(count) => into.extend_from_slice(&buf[..count]),
            Err(ReadError::Blocked) => return false,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Moves `len` bytes each way on each of `streams` streams; returns how long it took.
fn exchange(world: &mut World, streams: usize, len: usize) -> Duration {
    let began = world.now;
    let ids: Vec<StreamId> = (0..streams).map(|_| world.ends[0].streams().open(world.now).unwrap()).collect();
    let data: Vec<Vec<u8>> = (0..streams).map(|seed| pattern(len, seed)).collect();
    let mut written = vec![[0; 2]; streams];
    let mut received = vec![[Vec::new(), Vec::new()]; streams];
    let mut ended = vec![[false; 2]; streams];
    while !ended.as_flattened().iter().all(|ended| *ended) {
        world.step();
        assert!(world.now - began < Duration::from_mins(2), "it takes too long");
        while world.ends[1].streams().poll_event().is_some() {}
        for (at, id) in ids.iter().enumerate() {
            for end in 0..2 {
                let now = world.now;
                let session = &mut world.ends[end];
                assert_eq!(session.error(), None);
                if written[at][end] < len {
                    let taken = session.streams().write(*id, &data[at][written[at][end]..]).unwrap_or(0);
                    written[at][end] += taken;
                    if written[at][end] == len {
                        session.streams().finish(*id, now);
                    }
                }
                if !ended[at][end] && session.streams().read(*id, &mut []).is_ok() {
                    ended[at][end] = read_all(session, *id, &mut received[at][end]);
                }
            }
        }
    }
    for (both, data) in received.iter().zip(&data) {
        assert!(both.iter().all(|received| received == data));
    }
    for id in ids {
        let now = world.now;
        world.ends.iter_mut().for_each(|end| end.streams().close(id, now));
    }
    world.now - began
}

fn config() -> SessionConfig {
    SessionConfig {
        kcp: KcpConfig::default(),
        smux: SmuxConfig::default(),
        fec: FecConfig::Off,
        compress: false,
        any_datagram_is_life: true,
    }
}

fn as_kcptun(fec: FecConfig, compress: bool, version: u8) -> SessionConfig {
    SessionConfig {
        kcp: KcpConfig {
            congestion: Congestion::None,
            send_window: 1_024,
            receive_window: 1_024,
            ..KcpConfig::default()
        },
        smux: SmuxConfig { version, half_close: HalfClose::Negotiated, ..SmuxConfig::default() },
        fec,
        compress,
        any_datagram_is_life: false,
    }
}

#[test]
fn streams_arrive_exactly_in_every_configuration_over_a_bad_network() {
    let faults = Faults { lost: 20, doubled: 25, late: 10 };
    for fec in [FecConfig::Off, FecConfig::Adaptive, FecConfig::Fixed { data: 10, parity: 3 }] {
        for (compress, version) in [(false, 1), (false, 2), (true, 1), (true, 2)] {
            let mut world = World::new(&as_kcptun(fec, compress, version), faults);
            exchange(&mut world, 5, 200_000);
            let mut world = World::new(&SessionConfig { fec, compress, ..config() }, faults);
            exchange(&mut world, 5, 200_000);
        }
    }
}

#[test]
fn a_very_bad_network_is_slow_and_exact() {
    let mut world = World::new(&config(), Faults { lost: 3, doubled: 10, late: 4 });
    exchange(&mut world, 3, 60_000);
}

#[test]
fn a_session_with_nothing_open_is_flushed() {
    let mut world = World::new(&config(), Faults::default());
    exchange(&mut world, 3, 10_000);
    let soon = world.now + Duration::from_secs(1);
    while !world.ends.iter().all(Session::is_flushed) {
        world.step();
        assert!(world.now < soon);
    }
    assert_eq!(world.ends[0].streams().streams() + world.ends[1].streams().streams(), 0);
}

#[test]
fn a_dead_path_is_found_within_three_seconds_though_nothing_is_said() {
    let mut world = World::new(&config(), Faults::default());
    exchange(&mut world, 1, 1_000);
    let quiet = world.now + Duration::from_secs(10);
    while world.now < quiet {
        world.step();
    }
    assert_eq!(world.ends[0].error(), None, "keepalives keep it alive");
    world.cut = true;
    let cut_at = world.now;
    while world.ends[0].error().is_none() {
        world.step();
    }
    assert_eq!(world.ends[0].error(), Some(SessionError::Dead));
    assert!(world.now - cut_at <= Duration::from_secs(3));
}

fn echoes(fec: FecConfig, count: usize) -> Vec<Duration> {
    echoes_of(1, fec, count)
}

fn echoes_of(seed: u32, fec: FecConfig, count: usize) -> Vec<Duration> {
    let mut world = World::new(&SessionConfig { fec, ..config() }, Faults { lost: 20, ..Faults::default() });
    world.seed = seed;
    echo_times(&mut world, count)
}

/// The times from writing 64 bytes to having them back, the shortest first.
fn echo_times(world: &mut World, count: usize) -> Vec<Duration> {
    let id = world.ends[0].streams().open(world.now).unwrap();
    let mut times = Vec::new();
    for round in 0..count {
        let sent_at = world.now;
        world.ends[0].streams().write(id, &pattern(64, round)).unwrap();
        let (mut there, mut back) = (Vec::new(), Vec::new());
        while back.len() < 64 {
            world.step();
            if world.ends[1].streams().peek(id, &mut [IoSlice::new(&[])]).is_ok() && there.len() < 64 {
                read_all(&mut world.ends[1], id, &mut there);
                if there.len() == 64 {
                    world.ends[1].streams().write(id, &there).unwrap();
                }
            }
            read_all(&mut world.ends[0], id, &mut back);
        }
        assert_eq!(back, pattern(64, round));
        times.push(world.now - sent_at);
        let pause = world.now + Duration::from_millis(100);
        while world.now < pause {
            world.step();
        }
    }
    times.sort();
    times
}

#[test]
fn with_adaptive_fec_a_lost_keystroke_does_not_wait_for_its_retransmission() {
    let times = echoes(FecConfig::Adaptive, 1_000);
    // The first few show that something gets lost at all.
    assert!(times[985] <= Duration::from_millis(70), "p98.5 {:?}, median {:?}", times[985], times[500]);
    let without = echoes(FecConfig::Off, 1_000);
    assert!(without[985] > times[985], "without: {:?}", without[985]);
}

#[test]
fn a_new_session_protects_its_keystrokes_before_it_knows_of_any_loss() {
    for seed in 1..=8 {
        let times = echoes_of(seed, FecConfig::Adaptive, 100);
        assert!(times[98] <= Duration::from_millis(70), "p99 {:?}, most {:?}", times[98], times[99]);
    }
}

#[test]
fn keystrokes_are_protected_behind_a_bulk_transfer_as_well() {
    for seed in 1..=4 {
        let faults = Faults { lost: 20, ..Faults::default() };
        let mut world = World::new(&SessionConfig { fec: FecConfig::Adaptive, ..config() }, faults);
        world.seed = seed;
        exchange(&mut world, 1, 3_000_000);
        let times = echo_times(&mut world, 1_000);
        assert!(times[990] <= Duration::from_millis(70), "p99 {:?}, most {:?}", times[990], times[999]);
    }
}

#[test]
fn a_path_without_loss_soon_carries_nothing_twice() {
    let sent = |fec| {
        let mut world = World::new(&SessionConfig { fec, ..config() }, Faults::default());
        echo_times(&mut world, 800);
        let before = world.sent;
        echo_times(&mut world, 100);
        world.sent - before
    };
    assert_eq!(sent(FecConfig::Adaptive), sent(FecConfig::Off));
}

#[test]
fn an_end_that_does_not_compress_is_told_apart() {
    let mut world = World::new(&config(), Faults::default());
    world.ends[1] = Session::new(Role::Server, 77, SessionConfig { compress: true, ..config() }, world.now);
    world.ends[0].streams().open(world.now).unwrap();
    while world.ends[1].error().is_none() {
        world.step();
    }
    assert!(matches!(world.ends[1].error(), Some(SessionError::Snappy(_))));
}
