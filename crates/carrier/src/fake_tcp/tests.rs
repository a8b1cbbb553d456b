//! Flows, segment by segment: what is sent is what the other end, or a firewall on the way, would see.
#![allow(clippy::disallowed_methods)] // an origin for the clock that the tests move by hand

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use packet::Ecn;

use super::*;
use crate::guard::MASK_LEN;

const UNIX: Duration = Duration::from_secs(1_700_000_000);
const MS: Duration = Duration::from_millis(1);
const SIZE: usize = 100;

/// A segment on the wire: headers and masked payload.
#[derive(Clone, Debug)]
struct Wire {
    header: Header,
    payload: Vec<u8>,
}

impl Wire {
    fn segment(&self) -> Segment {
        let mut bytes = [0; HEADER_MAX];
        let len = self.header.write(self.payload.len(), &mut bytes);
        Segment::parse(&bytes[..len], len + self.payload.len()).unwrap()
    }

    /// As `tcpdump` would say it, numbers relative to the given ones.
    fn text(&self, sequence: u32, acknowledgment: u32) -> String {
        let relative = |number: u32, base: u32| number.wrapping_sub(base) as i32;
        let (flags, len) = (self.header.flags, self.payload.len());
        let seq = relative(self.header.sequence, sequence);
        let ack = relative(self.header.acknowledgment, acknowledgment);
        format!("{flags} seq {seq} ack {ack} len {len}")
    }
}

fn control(control: Control<u8>) -> Wire {
    Wire { header: control.header, payload: Vec::new() }
}

/// A datagram as a session seals it.
fn datagram(number: u8) -> Vec<u8> {
    let mut bytes = vec![20, 0, 0, 0, number];
    bytes.extend((5..SIZE).map(|i| (i as u8).wrapping_mul(29).wrapping_add(number.wrapping_mul(73))));
    bytes
}

struct End {
    engine: FakeTcp<u8>,
    lane: Lane<u8>,
    got: Vec<Vec<u8>>,
}

impl End {
    fn with(config: Config, now: Instant) -> Self {
        let engine = FakeTcp::new(config, now, UNIX);
        Self { lane: engine.lane(0), engine, got: Vec::new() }
    }

    fn new(port: u16, secret: u8, now: Instant) -> Self {
        Self::with(Config::new(key(), port, [secret; 32]), now)
    }

    fn send(&mut self, now: Instant, to: SocketAddr, numbers: &[u8]) -> Result<Wire, SendError> {
        let mut train: Vec<u8> = numbers.iter().flat_map(|&number| datagram(number)).collect();
        let mut heads = [[0; MASK_LEN]; 64];
        let sending = self.lane.send(now, to, &train, SIZE, Ecn::NotEct, &mut heads)?;
        for (datagram, head) in train.chunks_mut(SIZE).zip(&heads) {
            datagram[..MASK_LEN].copy_from_slice(head);
        }
        Ok(Wire { header: sending.header, payload: train })
    }

    /// Takes a segment and returns what is sent in answer.
    fn receive(&mut self, now: Instant, wire: &Wire) -> Vec<Wire> {
        let mut payload = wire.payload.clone();
        match self.lane.receive(now, &wire.segment(), &mut payload, SIZE) {
            Verdict::Deliver { .. } => {
                self.got.extend(payload.chunks(SIZE).map(<[u8]>::to_vec));
                Vec::new()
            }
            Verdict::Reply(reply) => vec![control(reply)],
            Verdict::Opened(ack) => {
                let to = ack.header.to;
                let held = self.lane.take_held(to);
                let data: Vec<Wire> =
                    held.iter().map(|bytes| self.send(now, to, &[bytes[4]]).unwrap()).collect();
                [vec![control(ack)], data].concat()
            }
            Verdict::Nothing => Vec::new(),
        }
    }

    fn timers(&mut self, now: Instant) -> Vec<Wire> {
        let mut out = Vec::new();
        self.engine.handle_timeout(now, UNIX, &mut out);
        out.into_iter().chain(std::iter::from_fn(|| self.lane.poll_ack(now))).map(control).collect()
    }

    fn counts(&self) -> Counts {
        self.engine.counters().read()
    }
}

fn key() -> GuardKey {
    GuardKey::derive(&[7; 32], None)
}

fn client_address() -> SocketAddr {
    "192.0.2.1:40000".parse().unwrap()
}

fn server_address() -> SocketAddr {
    "192.0.2.2:443".parse().unwrap()
}

fn ends(now: Instant) -> (End, End) {
    let (client, server) = (End::new(0, 1, now), End::new(443, 2, now));
    client.engine.dial(server_address(), client_address(), key(), 1460, 9, now);
    (client, server)
}

/// Two ends with an open flow: the client has sent datagram 1.
fn connected(now: Instant) -> (End, End) {
    let (mut client, mut server) = ends(now);
    assert_eq!(client.send(now, server_address(), &[1]).unwrap_err(), SendError::Opening(SIZE));
    let syn = client.timers(now).remove(0);
    let syn_ack = server.receive(now, &syn).remove(0);
    for wire in client.receive(now, &syn_ack) {
        server.receive(now, &wire);
    }
    assert_eq!(server.got, [datagram(1)]);
    (client, server)
}

#[test]
fn a_flow_opens_as_the_rfc_says_and_what_waited_follows() {
    let now = Instant::now();
    let (mut client, mut server) = ends(now);
    for number in 1..=2 {
        assert_eq!(client.send(now, server_address(), &[number]).unwrap_err(), SendError::Opening(SIZE));
    }
    let syn = client.timers(now).remove(0);
    let x = syn.header.sequence;
    assert_eq!(syn.text(x, 0), "S seq 0 ack 0 len 0");
    assert_eq!(syn.segment().mss, Some(1460));

    let syn_ack = server.receive(now, &syn).remove(0);
    let y = syn_ack.header.sequence;
    assert_eq!(syn_ack.text(y, x), "SA seq 0 ack 1 len 0");
    assert_eq!(
        syn_ack.header.timestamps.unwrap().1,
        syn.header.timestamps.unwrap().0,
        "the timestamp is echoed"
    );
    assert!(server.engine.flows().is_empty(), "a SYN costs no memory");

    let answers = client.receive(now, &syn_ack);
    let texts: Vec<String> = answers.iter().map(|wire| wire.text(x, y)).collect();
    assert_eq!(texts, ["A seq 1 ack 1 len 0", "PA seq 1 ack 1 len 100", "PA seq 101 ack 1 len 100"]);
    server.receive(now, &answers[0]);
    assert!(server.engine.flows().is_empty(), "neither does an acknowledgment");
    assert_eq!(server.counts().strangers, 0, "it is in order, though");
    server.receive(now, &answers[1]);
    server.receive(now, &answers[2]);
    assert_eq!(server.got, [datagram(1), datagram(2)]);
    assert_eq!(server.counts().flows_accepted, 1);

    let reply = server.send(now + MS, client_address(), &[3, 4, 5]).unwrap();
    assert_eq!(reply.text(y, x), "PA seq 1 ack 201 len 300");
    assert_eq!(reply.header.timestamps.unwrap().1, answers[2].header.timestamps.unwrap().0);
    assert!(
        reply.header.timestamps.unwrap().0.wrapping_sub(syn_ack.header.timestamps.unwrap().0) == 16,
        "a millisecond later"
    );
    client.receive(now, &reply);
    assert_eq!(client.got.len(), 3);
    let next = client.send(now, server_address(), &[6]).unwrap();
    assert_eq!(next.text(x, y), "PA seq 201 ack 301 len 100");
}

#[test]
fn a_syn_is_repeated_with_back_off_until_it_is_answered() {
    let start = Instant::now();
    let (mut client, mut server) = ends(start);
    let mut sent = Vec::new();
    for tick in 0..1_300 {
        let now = start + tick * 10 * MS;
        if client.engine.poll_timeout() <= now {
            sent.extend(client.timers(now).into_iter().map(|wire| (tick * 10, wire)));
        }
    }
    let times: Vec<u32> = sent.iter().map(|(at, _)| *at).collect();
    assert_eq!(times, [0, 1_000, 3_000, 7_000, 11_000]);
    assert!(sent.iter().all(|(_, wire)| wire.header.sequence == sent[0].1.header.sequence));
    let syn_ack = server.receive(start, &sent[4].1).remove(0);
    assert_eq!(client.receive(start, &syn_ack).len(), 1);
    assert_eq!(client.receive(start, &syn_ack).len(), 0, "the second answer to one SYN is old news");
    assert_eq!(client.counts().strangers, 0, "and in order");
}

#[test]
fn acknowledgments_never_go_back_when_segments_overtake_each_other() {
    let now = Instant::now();
    let (mut client, mut server) = connected(now);
    let first = client.send(now, server_address(), &[2, 3]).unwrap();
    let second = client.send(now, server_address(), &[4]).unwrap();
    server.receive(now, &second);
    let after = server.send(now, client_address(), &[9]).unwrap();
    server.receive(now, &first);
    let last = server.send(now, client_address(), &[10]).unwrap();
    assert_eq!(after.header.acknowledgment, second.segment().end());
    assert_eq!(last.header.acknowledgment, second.segment().end());
    assert_eq!(server.got.len(), 4, "all of it is delivered");
}

#[test]
fn flags_take_their_turns_on_each_side() {
    let now = Instant::now();
    let config = |port, secret| Config {
        local_flags: FlagCycle::parse(&["PA", "A"]).unwrap(),
        remote_flags: FlagCycle::parse(&["A", "A", "PA"]).unwrap(),
        ..Config::new(key(), port, [secret; 32])
    };
    let (mut client, mut server) = (End::with(config(0, 1), now), End::with(config(443, 2), now));
    client.engine.dial(server_address(), client_address(), key(), 1460, 9, now);
    let syn = client.timers(now).remove(0);
    let syn_ack = server.receive(now, &syn).remove(0);
    client.receive(now, &syn_ack);
    let flags = |end: &mut End, to| -> Vec<String> {
        (0..4).map(|number| end.send(now, to, &[number]).unwrap().header.flags.to_string()).collect()
    };
    assert_eq!(flags(&mut client, server_address()), ["PA", "A", "PA", "A"]);
    let data = client.send(now, server_address(), &[1]).unwrap();
    server.receive(now, &data);
    assert_eq!(flags(&mut server, client_address()), ["A", "A", "PA", "A"]);
}

#[test]
fn forged_resets_ends_and_openings_change_nothing() {
    let now = Instant::now();
    let (mut client, mut server) = connected(now);
    let genuine = client.send(now, server_address(), &[2]).unwrap();
    for (flags, times) in [(Flags::RST, 3), (Flags::RST | Flags::ACK, 1), (Flags::FIN | Flags::ACK, 2)] {
        for _ in 0..times {
            let forged = Wire { header: Header { flags, ..genuine.header }, payload: Vec::new() };
            assert!(server.receive(now, &forged).is_empty());
        }
    }
    // Data with FIN is no data of ours either.
    let header = Header { flags: Flags::FIN | Flags::ACK | Flags::PSH, ..genuine.header };
    server.receive(now, &Wire { header, payload: genuine.payload.clone() });
    let counts = server.counts();
    assert_eq!((counts.resets_ignored, counts.fins_ignored), (4, 3));

    // A SYN from the same address and port: answered, but the flow goes on with its numbers.
    let syn = Some(SynOptions { mss: 1460, window_scale: 7 });
    let forged = Wire {
        header: Header { flags: Flags::SYN, sequence: 77, syn, ..genuine.header },
        payload: Vec::new(),
    };
    assert_eq!(server.receive(now, &forged).len(), 1);
    server.receive(now, &genuine);
    assert_eq!(server.got, [datagram(1), datagram(2)]);
    let reply = server.send(now, client_address(), &[3]).unwrap();
    assert_eq!(reply.header.acknowledgment, genuine.segment().end());
    assert_eq!(server.counts().flows_renewed, 0);
}

#[test]
fn a_flood_of_syns_and_noise_keeps_no_state_and_is_counted() {
    let now = Instant::now();
    let mut server = End::new(443, 2, now);
    let mut client = ends(now).0;
    let syn = client.timers(now).remove(0);
    for port in 1..=10_000 {
        let from = SocketAddr::new([198, 51, 100, (port % 250) as u8].into(), port);
        let flood =
            Wire { header: Header { from, sequence: u32::from(port) * 7_919, ..syn.header }, ..syn.clone() };
        for answer in server.receive(now, &flood) {
            assert!(
                answer.header.header_len() <= flood.header.header_len(),
                "the answer is not larger than the question"
            );
        }
        let noise: Vec<u8> = (0..SIZE).map(|i| (i as u16 * 31 + port) as u8 | 1).collect();
        let header = Header { flags: Flags::ACK, syn: None, ..flood.header };
        assert!(server.receive(now, &Wire { header, payload: noise }).is_empty());
        let scan = Header { flags: Flags::ACK, syn: None, ..flood.header };
        assert!(server.receive(now, &Wire { header: scan, payload: Vec::new() }).is_empty());
    }
    let counts = server.counts();
    assert_eq!((counts.guard_failures, counts.strangers), (10_000, 10_000));
    assert_eq!(counts.syns_answered + counts.syns_limited, 10_000);
    assert!(counts.syns_answered < 200, "{} of a flood were answered", counts.syns_answered);
    assert!(server.engine.flows().is_empty());
    // Who has our key is answered all the same.
    let (to, from) = (server_address(), client_address());
    for port in 1..=500 {
        let mut caller = End::new(0, 3, now);
        caller.engine.dial(to, SocketAddr::new(from.ip(), port), key(), 1460, 9, now);
        assert_eq!(server.receive(now, &caller.timers(now).remove(0)).len(), 1, "caller {port}");
    }
}

#[test]
fn calls_are_answered_again_after_a_flood_and_never_faster_than_the_limit() {
    let start = Instant::now();
    let mut server = End::new(443, 2, start);
    let syn = ends(start).0.timers(start).remove(0);
    let flood = |server: &mut End, now| {
        let answered = server.counts().syns_answered;
        for number in 0..1_000_u32 {
            let sequence = number.wrapping_mul(0x9e37_79b9);
            server.receive(now, &Wire { header: Header { sequence, ..syn.header }, ..syn.clone() });
        }
        server.counts().syns_answered - answered
    };
    let first = flood(&mut server, start);
    assert!((100..150).contains(&first), "the allowance of a second: {first}");
    assert!(flood(&mut server, start) < 5, "is used up");
    let later = flood(&mut server, start + Duration::from_hours(1));
    assert!(later < 150, "and does not pile up: {later}");
}

#[test]
fn what_a_router_forwards_to_the_port_is_left_alone() {
    let now = Instant::now();
    let (mut client, mut server) = ends(now);
    let own: std::net::IpAddr = "192.0.2.9".parse().unwrap();
    server.engine.set_own_addresses([own]);
    let syn = client.timers(now).remove(0);
    assert!(server.receive(now, &syn).is_empty(), "the far server's to answer");
    let (mut other, mut reached) = connected(now);
    let data = other.send(now, server_address(), &[2]).unwrap();
    server.receive(now, &data);
    assert!(server.got.is_empty() && server.engine.flows().is_empty());
    assert_eq!((server.counts().elsewhere, server.counts().strangers), (2, 0));
    reached.receive(now, &data);
    assert_eq!(reached.got.len(), 2);
    // An address that the machine gets later is one to answer on.
    server.engine.set_own_addresses([own, server_address().ip()]);
    assert_eq!(server.receive(now, &syn).len(), 1);
}

/// Calls `server` from `from` and sends one datagram. Returns whether it arrived.
fn call(server: &mut End, from: SocketAddr, now: Instant) -> bool {
    let mut caller = End::new(0, 5, now);
    let to = SocketAddr::new(
        if from.is_ipv4() { server_address().ip() } else { "2001:db8::2".parse().unwrap() },
        443,
    );
    caller.engine.dial(to, from, key(), 1460, 9, now);
    let syn = caller.timers(now).remove(0);
    let syn_ack = server.receive(now, &syn).remove(0);
    caller.receive(now, &syn_ack);
    let before = server.got.len();
    server.receive(now, &caller.send(now, to, &[1]).unwrap());
    server.got.len() > before
}

#[test]
fn one_source_does_not_fill_the_table_and_a_slash_64_is_one_source() {
    let now = Instant::now();
    let mut server = End::new(443, 2, now);
    for port in 1..=200 {
        call(&mut server, SocketAddr::new(client_address().ip(), port), now);
        let host = format!("[2001:db8:0:7::{port:x}]:4000");
        call(&mut server, host.parse().unwrap(), now);
    }
    assert_eq!(server.engine.flows().len(), 2 * shared::UNVALIDATED_PER_SOURCE_MAX);
    assert!(call(&mut server, "192.0.2.77:4000".parse().unwrap(), now), "others find room");
    assert!(call(&mut server, "[2001:db8:0:8::1]:4000".parse().unwrap(), now));
    // Peers behind one NAT are no flood.
    for flow in server.engine.flows() {
        server.engine.validate(flow.remote);
    }
    assert!(call(&mut server, SocketAddr::new(client_address().ip(), 4_000), now));
}

#[test]
fn flows_that_a_session_was_proved_on_outlive_all_others() {
    let start = Instant::now();
    let config = Config { flows_max: 8, ..Config::new(key(), 443, [2; 32]) };
    let mut server = End::with(config, start);
    let peer: SocketAddr = "192.0.2.77:4000".parse().unwrap();
    assert!(call(&mut server, peer, start));
    server.engine.validate(peer);
    // A minute of silence later, more callers than there is room for, each of them younger.
    let later = start + Duration::from_mins(2);
    for number in 1..=50 {
        assert!(call(&mut server, SocketAddr::new([198, 51, 100, number].into(), 4_000), later), "{number}");
    }
    assert!(server.engine.flows().iter().any(|flow| flow.remote == peer));
    assert_eq!(server.engine.flows().len(), 8);
}

#[test]
fn other_ports_and_strangers_without_timestamps_are_not_answered() {
    let now = Instant::now();
    let mut server = End::new(443, 2, now);
    let (mut client, _) = ends(now);
    let syn = client.timers(now).remove(0);
    let to = SocketAddr::new(server_address().ip(), 444);
    assert!(server.receive(now, &Wire { header: Header { to, ..syn.header }, ..syn.clone() }).is_empty());
    let bare = Segment { timestamps: None, sequence: 12_345, ..syn.segment() };
    assert_eq!(server.lane.receive(now, &bare, &mut [], 0), Verdict::Nothing);
    assert_eq!(server.counts().strangers, 2);
}

#[test]
fn the_room_for_flows_is_bounded_and_its_last_half_is_for_those_who_live_where_they_say() {
    let now = Instant::now();
    let config = Config { flows_max: 8, ..Config::new(key(), 443, [2; 32]) };
    let mut server = End::with(config, now);
    let (mut client, _) = connected(now);
    let genuine = client.send(now, server_address(), &[2]).unwrap();
    // Valid segments that somebody has seen and sends again, from addresses that are not his.
    for port in 1..=100 {
        let from = SocketAddr::new(client_address().ip(), port);
        server.receive(now, &Wire { header: Header { from, ..genuine.header }, ..genuine.clone() });
    }
    assert_eq!(server.engine.flows().len(), 4);
    assert_eq!(server.counts().flows_full, 96);
    // Those who shake hands find room, until there is none that nobody was proved on.
    for flow in server.engine.flows() {
        server.engine.validate(flow.remote);
    }
    let mut joined = 0;
    for port in 1_000..1_010 {
        let from = SocketAddr::new(client_address().ip(), port);
        let caller = End::new(0, 5, now);
        caller.engine.dial(server_address(), from, key(), 1460, 9, now);
        let mut caller = caller;
        let syn = caller.timers(now).remove(0);
        let syn_ack = server.receive(now, &syn).remove(0);
        caller.receive(now, &syn_ack);
        let before = server.got.len();
        server.receive(now, &caller.send(now, server_address(), &[1]).unwrap());
        joined += server.got.len() - before;
        server.engine.validate(from);
    }
    assert_eq!((joined, server.engine.flows().len()), (4, 8));
    // Silent ones make room for them, later.
    let later = now + Duration::from_mins(2);
    let caller_address = SocketAddr::new(client_address().ip(), 2_000);
    let mut caller = End::new(0, 6, now);
    caller.engine.dial(server_address(), caller_address, key(), 1460, 9, later);
    let syn = caller.timers(later).remove(0);
    let syn_ack = server.receive(later, &syn).remove(0);
    caller.receive(later, &syn_ack);
    server.receive(later, &caller.send(later, server_address(), &[1]).unwrap());
    assert!(server.engine.flows().iter().any(|flow| flow.remote == caller_address));
    assert_eq!(server.engine.flows().len(), 8);
}

#[test]
fn a_listener_that_was_restarted_takes_up_the_numbers_it_finds() {
    let now = Instant::now();
    let (mut client, mut server) = connected(now);
    let last = server.send(now, client_address(), &[1]).unwrap();
    client.receive(now, &last);
    let mut restarted = End::new(443, 99, now);
    let data = client.send(now, server_address(), &[2]).unwrap();
    restarted.receive(now, &data);
    assert_eq!(restarted.got, [datagram(2)]);
    assert_eq!(restarted.counts().flows_resumed, 1);
    let reply = restarted.send(now, client_address(), &[3]).unwrap();
    assert_eq!(reply.header.sequence, last.segment().end(), "its numbers go on where the other life ended");
    assert_eq!(reply.header.acknowledgment, data.segment().end());
    client.receive(now, &reply);
    assert_eq!(client.got.last(), Some(&datagram(3)));
}

#[test]
fn a_caller_that_was_restarted_on_the_same_port_is_followed() {
    let now = Instant::now();
    let (_, mut server) = connected(now);
    let mut restarted = End::new(0, 77, now);
    restarted.engine.dial(server_address(), client_address(), key(), 1460, 9, now);
    let syn = restarted.timers(now).remove(0);
    let syn_ack = server.receive(now, &syn).remove(0);
    restarted.receive(now, &syn_ack);
    let data = restarted.send(now, server_address(), &[7]).unwrap();
    server.receive(now, &data);
    assert_eq!(server.counts().flows_renewed, 1);
    let reply = server.send(now, client_address(), &[8]).unwrap();
    assert_eq!(reply.header.sequence, syn_ack.header.sequence.wrapping_add(1));
    assert_eq!(reply.header.acknowledgment, data.segment().end());
}

#[test]
fn silence_after_sending_makes_the_caller_shake_hands_again_and_keep_what_it_sends() {
    let start = Instant::now();
    let (mut client, mut server) = connected(start);
    let lost = client.send(start, server_address(), &[2]).unwrap();
    assert!(
        client
            .timers(start + SILENCE.saturating_sub(MS))
            .iter()
            .all(|wire| !wire.header.flags.has(Flags::SYN))
    );
    let now = start + SILENCE + MS;
    let syn = client.timers(now).remove(0);
    assert!(syn.header.flags.has(Flags::SYN));
    assert_ne!(syn.header.sequence, lost.header.sequence);
    assert_eq!(client.send(now, server_address(), &[3]).unwrap_err(), SendError::Opening(SIZE));
    let syn_ack = server.receive(now, &syn).remove(0);
    for wire in client.receive(now, &syn_ack) {
        server.receive(now, &wire);
    }
    assert_eq!(server.got.last(), Some(&datagram(3)));
    let reply = server.send(now, client_address(), &[4]).unwrap();
    client.receive(now, &reply);
    assert_eq!(client.got, [datagram(4)]);
}

#[test]
fn one_way_traffic_is_acknowledged_and_taken_for_no_silence() {
    let start = Instant::now();
    let (mut client, mut server) = connected(start);
    let mut now = start;
    for number in 0..120 {
        now += 100 * MS;
        let data = client.send(now, server_address(), &[number]).unwrap();
        server.receive(now, &data);
        assert!(
            server.lane.poll_ack(now).is_none_or(|ack| ack.header.acknowledgment == data.segment().end())
        );
        for ack in server.timers(now + ACK_DELAY) {
            assert_eq!((ack.header.flags, ack.payload.len()), (Flags::ACK, 0));
            client.receive(now, &ack);
        }
        assert!(client.timers(now).iter().all(|wire| !wire.header.flags.has(Flags::SYN)), "{number}");
    }
}

#[test]
fn much_data_is_acknowledged_at_once() {
    let now = Instant::now();
    let (mut client, mut server) = connected(now);
    server.timers(now + ACK_DELAY);
    let mut received = 0;
    let ack = loop {
        let data = client.send(now, server_address(), &[1; 64]).unwrap();
        server.receive(now, &data);
        received += data.payload.len();
        if let Some(ack) = server.lane.poll_ack(now) {
            assert_eq!(ack.header.acknowledgment, data.segment().end());
            break ack;
        }
    };
    assert!(received < 2 * ACK_BYTES as usize, "{received}");
    assert_eq!(ack.path, None);
}

#[test]
fn an_idle_flow_is_kept_alive_and_the_keepalive_answered() {
    let start = Instant::now();
    let (mut client, mut server) = connected(start);
    server.timers(start + ACK_DELAY);
    let now = start + KEEPALIVE + MS;
    let next = client.send(start, server_address(), &[2]).unwrap().segment().end();
    let reply = server.send(start, client_address(), &[3]).unwrap();
    client.receive(start, &reply);
    let keepalive = client.timers(now).into_iter().find(|wire| wire.header.flags == Flags::ACK).unwrap();
    assert_eq!(keepalive.header.sequence, next.wrapping_sub(1), "the byte before the next");
    // The server has not seen datagram 2 yet, so to it that is no keepalive; bring it up to date.
    assert!(server.receive(now, &keepalive).is_empty());
    let data = client.send(now, server_address(), &[4]).unwrap();
    server.receive(now, &data);
    let later = now + KEEPALIVE + MS;
    let mut unanswered = client.timers(later);
    let again = unanswered.remove(0);
    assert!(again.header.flags.has(Flags::SYN), "by then the silence counts for more");
}

#[test]
fn a_window_change_cuts_no_flow() {
    let start = Instant::now();
    let (mut client, mut server) = connected(start);
    let mut out = Vec::new();
    // The client's clock is in the next window already, the server's is not; then the server's follows.
    client.engine.handle_timeout(start, UNIX + crate::guard::WINDOW, &mut out);
    let data = client.send(start, server_address(), &[2]).unwrap();
    server.receive(start, &data);
    let reply = server.send(start, client_address(), &[3]).unwrap();
    client.receive(start, &reply);
    server.engine.handle_timeout(start, UNIX + crate::guard::WINDOW, &mut out);
    let data = client.send(start, server_address(), &[4]).unwrap();
    server.receive(start, &data);
    assert_eq!(server.got, [datagram(1), datagram(2), datagram(4)]);
    assert_eq!(client.got, [datagram(3)]);
}

#[test]
fn callers_that_fall_silent_are_forgotten_and_dialled_ones_are_not() {
    let start = Instant::now();
    let (mut client, mut server) = connected(start);
    let late = start + IDLE + MS;
    server.timers(late);
    client.timers(late);
    assert!(server.engine.flows().is_empty());
    assert_eq!(server.counts().flows_expired, 1);
    assert_eq!(client.engine.flows().len(), 1);
    assert_eq!(server.send(late, client_address(), &[1]).unwrap_err(), SendError::NoFlow);
}

#[test]
fn hanging_up_ends_the_flow_with_a_fin() {
    let now = Instant::now();
    let (mut client, mut server) = connected(now);
    let fin = control(client.engine.hang_up(server_address(), now).unwrap());
    assert_eq!(fin.header.flags, Flags::FIN | Flags::ACK);
    assert!(server.receive(now, &fin).is_empty());
    assert_eq!(client.send(now, server_address(), &[1]).unwrap_err(), SendError::NoFlow);
    assert!(client.engine.hang_up(server_address(), now).is_none());
}

#[test]
fn what_waits_for_a_handshake_is_bounded() {
    let now = Instant::now();
    let (mut client, _) = ends(now);
    for number in 0..HELD_MAX as u8 {
        assert_eq!(client.send(now, server_address(), &[number]).unwrap_err(), SendError::Opening(SIZE));
    }
    assert_eq!(client.send(now, server_address(), &[99]).unwrap_err(), SendError::Opening(0));
}

#[test]
fn lanes_share_the_numbers_of_a_flow_and_can_be_told_apart() {
    let now = Instant::now();
    let (mut client, mut server) = connected(now);
    let mut other = End { lane: client.engine.lane(5), engine: client.engine.clone(), got: Vec::new() };
    let first = client.send(now, server_address(), &[2]).unwrap();
    let second = other.send(now, server_address(), &[3]).unwrap();
    assert_eq!(second.header.sequence, first.segment().end());
    let lane = |wire: &Wire| wire.header.timestamps.unwrap().0 & ((1 << LANE_BITS) - 1);
    assert_eq!((lane(&first), lane(&second)), (0, 5));
    server.receive(now, &second);
    server.receive(now, &first);
    assert_eq!(server.got.len(), 3);
}

#[test]
fn what_was_not_sent_leaves_no_gap() {
    let now = Instant::now();
    let (mut client, _) = connected(now);
    let train = [datagram(1), datagram(2)].concat();
    let mut heads = [[0; MASK_LEN]; 2];
    let mut start = |client: &mut End| {
        client.lane.send(now, server_address(), &train, SIZE, Ecn::NotEct, &mut heads).unwrap()
    };
    let sending = start(&mut client);
    let sequence = sending.header.sequence;
    sending.give_back(SIZE);
    let sending = start(&mut client);
    assert_eq!(sending.header.sequence, sequence.wrapping_add(SIZE as u32));
    assert_eq!((sending.path, sending.count), (Some(9), 2));
}

#[test]
fn datagrams_of_a_train_that_are_not_valid_are_counted_and_the_others_delivered() {
    let now = Instant::now();
    let (mut client, mut server) = connected(now);
    let mut wire = client.send(now, server_address(), &[2, 3, 4]).unwrap();
    wire.payload[SIZE + 2] ^= 0x80;
    server.receive(now, &wire);
    assert_eq!(server.got[1], datagram(2));
    assert_ne!(server.got[2], datagram(3));
    assert_eq!(server.got[3], datagram(4));
    assert_eq!(server.counts().guard_failures, 1);
}

/// Opens a flow through a wire that changes every segment, and returns what the first datagram meets at the server.
fn open_through(client: &mut End, server: &mut End, now: Instant, change: impl Fn(Wire) -> Wire) {
    let syn = change(client.timers(now).into_iter().find(|wire| wire.header.flags.has(Flags::SYN)).unwrap());
    let syn_ack = change(server.receive(now, &syn).remove(0));
    for wire in client.receive(now, &syn_ack) {
        server.receive(now, &change(wire));
    }
}

#[test]
fn a_box_that_takes_timestamps_out_of_all_segments_stops_nobody() {
    let now = Instant::now();
    let (mut client, mut server) = ends(now);
    let strip = |mut wire: Wire| {
        wire.header.timestamps = None;
        wire
    };
    client.send(now, server_address(), &[1]).unwrap_err();
    open_through(&mut client, &mut server, now, strip);
    assert_eq!(server.got, [datagram(1)]);
    let reply = server.send(now, client_address(), &[2]).unwrap();
    assert_eq!(reply.header.timestamps, None, "who was told of none sends none (RFC 7323 §3.2)");
    client.receive(now, &strip(reply));
    assert_eq!(client.got, [datagram(2)]);
}

#[test]
fn clocks_years_apart_cost_one_more_handshake() {
    let start = Instant::now();
    let (mut client, mut server) = ends(start);
    let years = Duration::from_hours(24 * 365 * 3);
    client.send(start, server_address(), &[1]).unwrap_err();
    // The caller's clock stands three years back.
    let timers = |client: &mut End, now: Instant| {
        let mut out = Vec::new();
        client.engine.handle_timeout(now, UNIX.saturating_sub(years), &mut out);
        out.into_iter().map(control).collect::<Vec<_>>()
    };
    for (now, arrives) in [(start, false), (start + SILENCE + MS, true)] {
        let syn = timers(&mut client, now).remove(0);
        let syn_ack = server.receive(now, &syn).remove(0);
        for wire in client.receive(now, &syn_ack) {
            server.receive(now, &wire);
        }
        client.send(now, server_address(), &[2]).into_iter().for_each(|wire| {
            server.receive(now, &wire);
        });
        assert_eq!(!server.got.is_empty(), arrives);
    }
    let now = start + SILENCE + MS;
    let reply = server.send(now, client_address(), &[3]).unwrap();
    client.receive(now, &reply);
    assert_eq!(client.got, [datagram(3)]);
    assert_eq!((client.counts().flows_without_clock, server.counts().flows_without_clock), (1, 1));
    // A handshake anew keeps the guard that was understood.
    let later = now + SILENCE + SILENCE;
    client.send(later, server_address(), &[4]).unwrap();
    let syn = timers(&mut client, later + SILENCE + MS).remove(0);
    let syn_ack = server.receive(later, &syn).remove(0);
    client.receive(later, &syn_ack);
    server.receive(later, &client.send(later, server_address(), &[5]).unwrap());
    assert_eq!(server.got.last(), Some(&datagram(5)));
}

#[test]
fn a_caller_that_comes_to_another_of_our_addresses_is_no_stranger() {
    let now = Instant::now();
    let (mut old, mut server) = connected(now);
    // The name that it calls has another address now; its own port stays.
    let other: SocketAddr = "192.0.2.3:443".parse().unwrap();
    let mut caller = End::new(0, 5, now);
    caller.engine.dial(other, client_address(), key(), 1460, 9, now);
    caller.send(now, other, &[2]).unwrap_err();
    open_through(&mut caller, &mut server, now, |wire| wire);
    assert_eq!(server.got, [datagram(1), datagram(2)]);
    let reply = server.send(now, client_address(), &[3]).unwrap();
    assert_eq!(reply.header.from, other);
    // What somebody has seen on the old flow, and sends again when its handshake is old, does not bring it back.
    let later = now + Duration::from_mins(3);
    let seen = old.send(now, server_address(), &[4]).unwrap();
    server.receive(later, &seen);
    assert_eq!(server.send(later, client_address(), &[5]).unwrap().header.from, other);
}

#[test]
fn who_has_not_shaken_hands_cannot_change_the_guard_of_a_flow() {
    let now = Instant::now();
    let (mut other, mut server) = connected(now);
    // The flow's caller has a clock that is wrong, and so a guard of the flow's own.
    let years = Duration::from_hours(24 * 365 * 3);
    let mut caller = End::new(0, 5, now);
    caller.engine.dial(server_address(), client_address(), key(), 1460, 9, now);
    caller.send(now, server_address(), &[2]).unwrap_err();
    let mut at = now;
    for _ in 0..2 {
        let mut out = Vec::new();
        caller.engine.handle_timeout(at, UNIX.saturating_sub(years), &mut out);
        let syn = control(out.remove(0));
        let syn_ack = server.receive(at, &syn).remove(0);
        for wire in caller.receive(at, &syn_ack) {
            server.receive(at, &wire);
        }
        caller.send(at, server_address(), &[2]).into_iter().for_each(|wire| {
            server.receive(at, &wire);
        });
        at += SILENCE + MS;
    }
    assert_eq!(server.got.last(), Some(&datagram(2)));
    let reply = server.send(at, client_address(), &[3]).unwrap();
    caller.receive(at, &reply);
    // Sent by somebody else in the flow's name: it is valid by the clock's guard, and has the numbers of another handshake.
    let forged = other.send(at + Duration::from_mins(3), server_address(), &[9]).unwrap();
    server.receive(at + Duration::from_mins(3), &forged);
    let later = at + Duration::from_mins(3) + MS;
    server.receive(later, &caller.send(later, server_address(), &[4]).unwrap());
    assert_eq!(server.got.last(), Some(&datagram(4)), "the caller is still understood");
}
