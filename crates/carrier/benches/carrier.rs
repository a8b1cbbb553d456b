//! What fake TCP adds to each train, without the kernel: `cargo bench -p carrier`.
#![allow(clippy::disallowed_methods)] // an origin for the engine's clock

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use carrier::fake_tcp::{Config, FakeTcp, HEADER_MAX, Header, Lane, Segment, Verdict};
use carrier::guard::{Direction, Guard, GuardKey, MASK_LEN};
use divan::{Bencher, black_box};
use packet::Ecn;

const UNIX_TIME: Duration = Duration::from_secs(1_700_000_000);
const SIZE: usize = 1_400;
/// A full train, and a single datagram.
const SEGMENTS: [usize; 2] = [45, 1];

fn main() {
    divan::main();
}

fn train(segments: usize) -> Vec<u8> {
    let datagram =
        |number: usize| (0..SIZE).map(move |i| if i < 4 { [20, 0, 0, 0][i] } else { (i * number) as u8 });
    (1..=segments).flat_map(datagram).collect()
}

#[divan::bench(args = SEGMENTS)]
fn guard_mask(bencher: Bencher<'_, '_>, segments: usize) {
    let guard = Guard::new(&GuardKey::derive(&[7; 32], None), 1);
    let train = train(segments);
    let mut heads = [[0; MASK_LEN]; 64];
    bencher.bench_local(|| guard.mask(Direction::ToListener, black_box(&train), SIZE, &mut heads));
}

/// Of noise: a valid train is uncovered once only. The cost of a stranger, three windows tried.
#[divan::bench(args = SEGMENTS)]
fn guard_refuse(bencher: Bencher<'_, '_>, segments: usize) {
    let guard = Guard::new(&GuardKey::derive(&[7; 32], None), 1);
    let mut noise: Vec<u8> = train(segments);
    bencher.bench_local(|| guard.unmask(Direction::ToListener, black_box(&mut noise), SIZE));
}

/// Numbers, masks and headers of a train, and all that the other end does with it.
#[divan::bench(args = SEGMENTS)]
fn send_and_receive(bencher: Bencher<'_, '_>, segments: usize) {
    let (mut client, mut server, to) = connected();
    let train = train(segments);
    let mut heads = [[0; MASK_LEN]; 64];
    let mut wire = train.clone();
    let now = Instant::now();
    bencher.bench_local(|| {
        let sending = client.send(now, to, &train, SIZE, Ecn::NotEct, &mut heads).expect("the flow is open");
        for (datagram, head) in wire.chunks_mut(SIZE).zip(&heads) {
            datagram[..MASK_LEN].copy_from_slice(head);
        }
        let segment = parsed(&sending.header, wire.len());
        let verdict = server.receive(now, &segment, &mut wire, SIZE);
        assert!(matches!(verdict, Verdict::Deliver { .. }));
        black_box(server.poll_ack(now));
    });
}

fn parsed(header: &Header, payload_len: usize) -> Segment {
    let mut bytes = [0; HEADER_MAX];
    let len = header.write(payload_len, &mut bytes);
    Segment::parse(&bytes[..len], len + payload_len).expect("well-formed")
}

fn connected() -> (Lane<()>, Lane<()>, SocketAddr) {
    let now = Instant::now();
    let key = GuardKey::derive(&[7; 32], None);
    let engine = |port, secret| -> FakeTcp<()> {
        FakeTcp::new(Config::new(key.clone(), port, [secret; 32]), now, UNIX_TIME)
    };
    let (client, server) = (engine(0, 1), engine(9443, 2));
    let to = SocketAddr::from(([192, 0, 2, 2], 9443));
    client.dial(to, SocketAddr::from(([192, 0, 2, 1], 40_000)), key.clone(), 1_460, (), now);
    let (mut client_lane, mut server_lane) = (client.lane(0), server.lane(0));
    let mut out = Vec::new();
    client.handle_timeout(now, UNIX_TIME, &mut out);
    let verdict = server_lane.receive(now, &parsed(&out[0].header, 0), &mut [], 0);
    let Verdict::Reply(syn_ack) = verdict else { panic!("a SYN is answered") };
    client_lane.receive(now, &parsed(&syn_ack.header, 0), &mut [], 0);
    (client_lane, server_lane, to)
}
