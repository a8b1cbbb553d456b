//! Two nodes with streams between them, and what happens when one of them is restarted.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use stream::association::{Association, Ended, Refused};
use stream::fec::FecConfig;
use stream::kcp::KcpConfig;
use stream::session::SessionConfig;
use stream::smux::{Role, SmuxConfig, StreamId};

const CLIENT: usize = 0;
const SERVER: usize = 1;

fn association(role: Role, seed: u32) -> Association {
    let config = SessionConfig {
        kcp: KcpConfig { mtu: 1_200, ..KcpConfig::default() },
        smux: SmuxConfig::default(),
        fec: FecConfig::Off,
        compress: false,
        any_datagram_is_life: true,
    };
    Association::new(role, config, seed)
}

struct World {
    ends: [Association; 2],
    now: Instant,
    /// Datagrams sent so far.
    sent: usize,
    /// Whether the next datagram with this first byte is lost.
    lose: Option<u8>,
}

impl World {
    fn new() -> Self {
        #[expect(clippy::disallowed_methods, reason = "a test begins now")]
        let now = Instant::now();
        Self { ends: [association(Role::Client, 7), association(Role::Server, 0)], now, sent: 0, lose: None }
    }

    /// Lets everything that is sent now arrive now, and what that brings about.
    fn settle(&mut self) {
        let mut buf = [0; 1_200];
        let mut quiet = 0;
        while quiet < 2 {
            for from in [CLIENT, SERVER] {
                quiet += 1;
                while let Some(len) = self.ends[from].poll_transmit(self.now, &mut buf) {
                    quiet = 0;
                    self.sent += 1;
                    if self.lose.is_some_and(|kind| kind == buf[0]) {
                        self.lose = None;
                        continue;
                    }
                    let _ = self.ends[1 - from].handle_datagram(&buf[..len], self.now);
                }
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        self.settle();
        while let Some((at, _)) = self.ends.iter().filter_map(Association::poll_timeout).min() {
            if at > end {
                break;
            }
            self.now = self.now.max(at);
            self.ends.iter_mut().for_each(|end| end.handle_timeout(self.now));
            self.settle();
        }
        self.now = end;
    }

    fn open(&mut self, end: usize) -> StreamId {
        let now = self.now;
        let streams = self.ends[end].session().unwrap().streams();
        let id = streams.open(now).unwrap();
        streams.write(id, b"hello").unwrap();
        id
    }

    /// What the first stream that the other end opened says.
    fn accept(&mut self, end: usize) -> Vec<u8> {
        let streams = self.ends[end].session().unwrap().streams();
        let opened = std::iter::from_fn(|| streams.poll_event()).find(|event| event.changes.opened).unwrap();
        let mut buf = [0; 100];
        let len = streams.read(opened.stream, &mut buf).unwrap();
        buf[..len].to_vec()
    }
}

#[test]
fn either_end_can_ask_for_a_session_and_open_streams() {
    for end in [CLIENT, SERVER] {
        let mut world = World::new();
        let now = world.now;
        world.ends[end].want(now);
        world.settle();
        assert_eq!(world.ends[CLIENT].session_id(), Some(7));
        assert_eq!(world.ends[SERVER].session_id(), Some(7));
        world.open(end);
        world.pass(Duration::from_millis(100));
        assert_eq!(world.accept(1 - end), b"hello");
    }
}

#[test]
fn lost_signals_are_repeated() {
    for kind in 1..=3 {
        let mut world = World::new();
        world.lose = Some(kind);
        let now = world.now;
        world.ends[SERVER].want(now);
        world.pass(Duration::from_millis(500));
        assert!(world.lose.is_none(), "a datagram of kind {kind} was sent");
        assert_eq!(world.ends[SERVER].session_id(), Some(7), "without the first of kind {kind}");
        assert_eq!(world.ends[CLIENT].session_id(), Some(7), "without the first of kind {kind}");
    }
}

#[test]
fn a_restart_of_either_end_ends_the_streams_and_new_ones_work_at_once() {
    for restarted in [CLIENT, SERVER] {
        let mut world = World::new();
        let now = world.now;
        world.ends[CLIENT].want(now);
        world.settle();
        world.open(1 - restarted);
        world.pass(Duration::from_millis(100));
        let role = if restarted == CLIENT { Role::Client } else { Role::Server };
        world.ends[restarted] = association(role, 1_000);

        // The survivor notices by its own keepalive, at the latest.
        world.pass(Duration::from_secs(2));
        assert_eq!(world.ends[1 - restarted].poll_ended(), Some(Ended::Restarted));
        let now = world.now;
        world.ends[1 - restarted].want(now);
        world.settle();
        let id = world.ends[1 - restarted].session_id().unwrap();
        assert_ne!(id, 7);
        assert_eq!(world.ends[restarted].session_id(), Some(id));
        world.open(1 - restarted);
        world.pass(Duration::from_millis(100));
        assert_eq!(world.accept(restarted), b"hello");
    }
}

#[test]
fn a_restarted_client_that_begins_anew_ends_the_servers_old_streams() {
    let mut world = World::new();
    let now = world.now;
    world.ends[CLIENT].want(now);
    world.settle();
    world.open(SERVER);
    world.pass(Duration::from_millis(100));
    world.ends[CLIENT] = association(Role::Client, 1_000);
    let now = world.now;
    world.ends[CLIENT].want(now);
    world.settle();
    assert_eq!(world.ends[SERVER].poll_ended(), Some(Ended::Restarted));
    assert_eq!(world.ends[SERVER].session_id(), Some(1_000));
}

#[test]
fn a_session_without_streams_is_let_go_and_then_nothing_is_sent() {
    let mut world = World::new();
    let now = world.now;
    world.ends[CLIENT].want(now);
    world.pass(Duration::from_mins(1));
    assert_eq!(world.ends[CLIENT].session_id(), None);
    assert_eq!(world.ends[CLIENT].poll_ended(), None, "nobody lost anything");
    let sent = world.sent;
    world.pass(Duration::from_mins(10));
    assert_eq!(world.sent, sent);
}

#[test]
fn asking_in_vain_ends() {
    let mut world = World::new();
    let now = world.now;
    world.ends[SERVER].want(now);
    // The client is not there at all.
    let mut buf = [0; 1_200];
    let mut asked = 0;
    while let Some((at, _)) = world.ends[SERVER].poll_timeout() {
        world.now = world.now.max(at);
        let now = world.now;
        world.ends[SERVER].handle_timeout(now);
        asked += std::iter::from_fn(|| world.ends[SERVER].poll_transmit(now, &mut buf)).count();
    }
    assert!(world.now - now <= Duration::from_secs(10));
    assert!((3..=10).contains(&asked), "asked {asked} times");
}

#[test]
fn what_is_no_datagram_of_an_association_is_refused() {
    let mut world = World::new();
    let now = world.now;
    let mut refused =
        |end: usize, datagram: &[u8]| world.ends[end].handle_datagram(datagram, now).unwrap_err();
    assert_eq!(refused(SERVER, &[0, 1, 0, 0]), Refused::Malformed);
    assert_eq!(refused(SERVER, &[5, 1, 0, 0, 0]), Refused::Malformed);
    assert_eq!(refused(SERVER, &[1, 1, 0, 0, 0, 0]), Refused::Malformed);
    assert_eq!(refused(SERVER, &[2, 1, 0, 0, 0]), Refused::Malformed);
    assert_eq!(refused(CLIENT, &[1, 1, 0, 0, 0]), Refused::Malformed);
    assert_eq!(refused(CLIENT, &[0, 1, 0, 0, 0]), Refused::UnknownSession);
}

#[test]
fn a_flood_of_an_unknown_session_is_answered_rarely() {
    let mut world = World::new();
    let (now, mut buf, mut answers) = (world.now, [0; 1_200], 0);
    for _ in 0..1_000 {
        let _ = world.ends[SERVER].handle_datagram(&[0, 1, 0, 0, 0, 1], now);
        answers += std::iter::from_fn(|| world.ends[SERVER].poll_transmit(now, &mut buf)).count();
    }
    assert_eq!(answers, 1);
}
