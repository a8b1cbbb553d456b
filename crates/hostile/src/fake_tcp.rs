//! Packets from anybody, at both ends of fake TCP: a listener, and one who has dialled it.
//!
//! ```text
//!  input:  (flags 1 · length 2 · packet)…
//!  flags:  bit 0 for the dialling end; bit 1 its payload is masked with a valid guard first; bits 4..7 datagrams in the packet
//! ```
//!
//! The packet's addresses and ports are made those of the flow, or nothing would get beyond them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use carrier::fake_tcp::{Config, Control, FakeTcp, HEADER_MAX, Lane, Role, Segment, Verdict};
use carrier::guard::{Guard, GuardKey, MASK_LEN, window_number};

use crate::bytes::Bytes;

const UNIX_TIME: Duration = Duration::from_secs(1_700_000_000);
const FLOWS_MAX: usize = 4;
const LISTENER: &str = "192.0.2.2:9443";
const CALLER: &str = "192.0.2.1:40000";

/// # Panics
/// When a packet is read beyond its end, an answer is larger than its question, a payload without a valid guard is
/// delivered, or flows grow beyond their bound.
#[allow(clippy::disallowed_methods)] // an origin for the clock that the target moves by hand
pub fn run(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    let mut now = Instant::now();
    let key = GuardKey::derive(&[7; 32], None);
    let [listener, caller]: [SocketAddr; 2] =
        [LISTENER, CALLER].map(|text| text.parse().expect("an address"));
    let config = |port| Config { flows_max: FLOWS_MAX, ..Config::new(key.clone(), port, [3; 32]) };
    let engines: [FakeTcp<u8>; 2] =
        [FakeTcp::new(config(listener.port()), now, UNIX_TIME), FakeTcp::new(config(0), now, UNIX_TIME)];
    let mut lanes = [engines[0].lane(0), engines[1].lane(0)];
    engines[1].dial(listener, caller, key.clone(), 1_460, 1, now);
    let mut controls = Vec::new();
    let guard = Guard::new(&key, window_number(UNIX_TIME));

    while !bytes.is_empty() {
        let flags = bytes.u8();
        let packet = bytes.prefixed();
        let at = usize::from(flags & 1);
        now += Duration::from_millis(7);
        let Some(mut segment) = parse(packet) else { continue };
        let (from, to) = if at == 0 { (caller, listener) } else { (listener, caller) };
        segment.to = to;
        segment.from = SocketAddr::new(from.ip(), from.port() ^ segment.from.port() & 7);
        let mut payload = packet[segment.header_len..][..segment.payload_len].to_vec();
        let segment_size = payload.len().div_ceil(usize::from(flags >> 4) + 1).max(1);
        if flags & 2 != 0 {
            mask(&guard, if at == 0 { Role::Dialled } else { Role::Accepted }, &mut payload, segment_size);
        }
        check(&mut lanes[at], now, &segment, payload, segment_size);
        assert!(engines[at].flows().len() <= FLOWS_MAX + 1);
        engines[at].handle_timeout(now, UNIX_TIME, &mut controls);
        while let Some(control) = lanes[at].poll_ack(now) {
            controls.push(control);
        }
        for control in controls.drain(..) {
            assert!(parse(&written(&control)).is_some(), "what we send is a segment");
        }
    }
}

/// Reads a packet, and whatever part of it is at hand.
fn parse(packet: &[u8]) -> Option<Segment> {
    for len in [0, 1, 20, 39, 40, 52, 60] {
        let prefix = &packet[..len.min(packet.len())];
        if let Ok(segment) = Segment::parse(prefix, packet.len()) {
            assert!(segment.header_len <= prefix.len());
        }
    }
    let segment = Segment::parse(packet, packet.len()).ok()?;
    assert!(segment.header_len + segment.payload_len <= packet.len());
    Some(segment)
}

fn mask(guard: &Guard, sender: Role, payload: &mut [u8], segment_size: usize) {
    // What a sealed datagram begins with.
    for datagram in payload.chunks_mut(segment_size).filter(|datagram| datagram.len() >= 4) {
        datagram[..4].copy_from_slice(&[20, 0, 0, 0]);
    }
    let mut heads = vec![[0; MASK_LEN]; payload.len().div_ceil(segment_size)];
    if guard.mask(sender.outgoing(), payload, segment_size, &mut heads).is_some() {
        for (datagram, head) in payload.chunks_mut(segment_size).zip(&heads) {
            datagram[..MASK_LEN].copy_from_slice(head);
        }
    }
}

fn check(lane: &mut Lane<u8>, now: Instant, segment: &Segment, mut payload: Vec<u8>, segment_size: usize) {
    let before = payload.clone();
    match lane.receive(now, segment, &mut payload, segment_size) {
        Verdict::Deliver { .. } => {
            let uncovered = payload.chunks(segment_size).zip(before.chunks(segment_size));
            let valid = uncovered.filter(|(after, before)| after != before).count();
            assert!(valid > 0, "delivered, and nothing was under a guard");
            for (after, before) in payload.chunks(segment_size).zip(before.chunks(segment_size)) {
                assert!(after.get(MASK_LEN..) == before.get(MASK_LEN..), "more than the head has changed");
                assert!(after == before || (after[0] & 0xe0, after[2], after[3]) == (0, 0, 0));
            }
        }
        Verdict::Reply(control) => {
            // A SYN-ACK has the options of the SYN, an answered keepalive those of data.
            assert!(control.header.header_len() <= segment.header_len.max(60), "larger than the question");
            assert_eq!((control.header.to, control.header.from), (segment.from, segment.to));
            assert!(payload == before);
        }
        Verdict::Opened(control) => {
            assert_eq!(control.header.to, segment.from);
            let _ = lane.take_held(segment.from);
        }
        Verdict::Nothing => assert!(payload == before, "dropped, but changed"),
    }
}

fn written(control: &Control<u8>) -> Vec<u8> {
    let mut bytes = [0; HEADER_MAX];
    let len = control.header.write(0, &mut bytes);
    bytes[..len].to_vec()
}
