//! smux between two of our ends, against what the wire must look like, and against ends that do not play by the rules.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::time::{Duration, Instant};

use stream::smux::{
    CAPABILITIES_ID, HalfClose, OpenError, ReadError, Role, Smux, SmuxConfig, SmuxError, StreamId, WhenFull,
    WriteError,
};

fn config(version: u8) -> SmuxConfig {
    SmuxConfig { version, ..SmuxConfig::default() }
}

/// A session towards an implementation that closes a stream with its first FIN.
fn towards_xtaci(version: u8) -> SmuxConfig {
    SmuxConfig { half_close: HalfClose::Negotiated, ..config(version) }
}

fn start() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "a test begins now")]
    Instant::now()
}

/// Everything that a session wants to send now.
fn output(smux: &mut Smux) -> Vec<u8> {
    let mut bytes = Vec::new();
    while smux.poll_output(65_536, |piece| bytes.extend_from_slice(piece)) > 0 {}
    bytes
}

fn frame(version: u8, command: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![version, command];
    bytes.extend((payload.len() as u16).to_le_bytes());
    bytes.extend(stream.to_le_bytes());
    bytes.extend(payload);
    bytes
}

/// Two sessions with a transport between them that never holds anything back.
struct Pair {
    client: Smux,
    server: Smux,
    now: Instant,
}

impl Pair {
    fn new(config: &SmuxConfig) -> Self {
        let now = start();
        let [client, server] = [Role::Client, Role::Server].map(|role| Smux::new(role, config.clone(), now));
        Self { client, server, now }
    }

    /// Carries bytes both ways until both are silent, or do not take any more.
    fn exchange(&mut self) {
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        loop {
            to_server.extend(output(&mut self.client));
            to_client.extend(output(&mut self.server));
            let up = self.server.handle_bytes(&to_server, self.now).unwrap();
            let down = self.client.handle_bytes(&to_client, self.now).unwrap();
            to_server.drain(..up);
            to_client.drain(..down);
            if up + down == 0 {
                assert!(to_server.is_empty() && to_client.is_empty(), "the other end takes no more");
                return;
            }
        }
    }

    /// A stream that the server has accepted.
    fn stream(&mut self) -> StreamId {
        let id = self.client.open(self.now).unwrap();
        self.exchange();
        let event = self.server.poll_event().unwrap();
        assert!(event.stream == id && event.changes.opened);
        id
    }
}

fn read_all(smux: &mut Smux, id: StreamId) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut buf = [0; 5000];
    while let Ok(count @ 1..) = smux.read(id, &mut buf) {
        bytes.extend_from_slice(&buf[..count]);
    }
    bytes
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 253 + seed * 7) as u8).collect()
}

#[test]
fn the_frames_of_a_stream_are_those_of_xtaci_smux() {
    let now = start();
    let mut client = Smux::new(Role::Client, config(1), now);
    let id = client.open(now).unwrap();
    client.write(id, b"hello").unwrap();
    client.finish(id, now);
    let expected = [frame(1, 0, 3, b""), frame(1, 2, 3, b"hello"), frame(1, 1, 3, b"")].concat();
    assert_eq!(output(&mut client), expected);
    assert_eq!(expected[8..21], [1, 2, 5, 0, 3, 0, 0, 0, b'h', b'e', b'l', b'l', b'o']);
    assert_eq!(client.open(now).unwrap().get(), 5, "a client's ids are odd");
    let mut server = Smux::new(Role::Server, config(1), now);
    assert_eq!(server.open(now).unwrap().get(), 2, "a server's are even");
}

#[test]
fn version_2_grants_a_window_when_bytes_are_read() {
    let now = start();
    let mut server = Smux::new(Role::Server, config(2), now);
    server.handle_bytes(&[frame(2, 0, 3, b""), frame(2, 2, 3, b"hello")].concat(), now).unwrap();
    let id = server.poll_event().unwrap().stream;
    assert_eq!(output(&mut server), b"", "nothing was read yet");
    assert_eq!(read_all(&mut server, id), b"hello");
    let mut update = frame(2, 4, 3, &[5, 0, 0, 0]);
    update.extend((2_u32 << 20).to_le_bytes());
    update[2] = 8;
    assert_eq!(output(&mut server), update);
}

#[test]
fn bytes_arrive_exactly_however_the_transport_cuts_them() {
    for version in [1, 2] {
        for cut in [1, 7, 8, 9, 1_350, 65_536] {
            let now = start();
            let mut client = Smux::new(Role::Client, config(version), now);
            let mut server = Smux::new(Role::Server, config(version), now);
            let data = pattern(100_000, cut);
            let id = client.open(now).unwrap();
            assert_eq!(client.write(id, &data), Ok(data.len()));
            client.finish(id, now);
            for piece in output(&mut client).chunks(cut) {
                assert_eq!(server.handle_bytes(piece, now), Ok(piece.len()));
            }
            assert_eq!(server.poll_event().unwrap().stream, id);
            assert_eq!(read_all(&mut server, id), data, "version {version}, cut {cut}");
            assert_eq!(server.read(id, &mut [0; 8]), Ok(0), "and then the end");
        }
    }
}

#[test]
fn half_a_stream_can_end_and_the_other_half_goes_on() {
    for half_close in [HalfClose::Always, HalfClose::Negotiated] {
        let mut pair = Pair::new(&SmuxConfig { half_close, ..config(2) });
        let id = pair.stream();
        pair.client.write(id, b"question").unwrap();
        pair.client.finish(id, pair.now);
        pair.exchange();
        assert_eq!(read_all(&mut pair.server, id), b"question");
        assert_eq!(pair.server.read(id, &mut [0; 8]), Ok(0), "{half_close:?}: the question has ended");
        let answer = pattern(200_000, 1);
        pair.server.write(id, &answer).unwrap();
        pair.server.close(id, pair.now);
        pair.exchange();
        assert_eq!(read_all(&mut pair.client, id), answer, "{half_close:?}");
        assert_eq!(pair.client.read(id, &mut [0; 8]), Ok(0));
        pair.client.close(id, pair.now);
        assert_eq!((pair.client.streams(), pair.server.streams()), (0, 0));
    }
}

#[test]
fn a_reader_that_leaves_stops_the_writer_at_once() {
    let mut pair = Pair::new(&config(2));
    let id = pair.stream();
    pair.server.write(id, &pattern(100_000, 2)).unwrap();
    pair.client.close(id, pair.now);
    pair.exchange();
    assert_eq!(pair.server.write(id, b"more"), Err(WriteError::Closed));
    assert!(pair.server.poll_event().unwrap().changes.writable, "a writer that waits is told");
    pair.server.close(id, pair.now);
    pair.exchange();
    assert_eq!((pair.client.streams(), pair.server.streams()), (0, 0));
}

#[test]
fn the_other_implementation_sees_nothing_but_a_nop_of_what_ours_can_do() {
    let now = start();
    let mut client = Smux::new(Role::Client, towards_xtaci(1), now);
    assert_eq!(output(&mut client), frame(1, 3, CAPABILITIES_ID, b""));
    let mut server = Smux::new(Role::Server, towards_xtaci(1), now);
    assert_eq!(output(&mut server), b"", "a server says it only to a client that has");
    server.handle_bytes(&frame(1, 3, CAPABILITIES_ID, b""), now).unwrap();
    assert_eq!(output(&mut server), frame(1, 3, CAPABILITIES_ID, b""));
}

#[test]
fn a_fin_of_the_other_implementation_closes_the_stream() {
    let now = start();
    let mut server = Smux::new(Role::Server, towards_xtaci(1), now);
    let frames = [frame(1, 0, 3, b""), frame(1, 2, 3, b"last words"), frame(1, 1, 3, b"")].concat();
    server.handle_bytes(&frames, now).unwrap();
    let id = server.poll_event().unwrap().stream;
    assert_eq!(read_all(&mut server, id), b"last words", "what came before it still counts");
    assert_eq!(server.write(id, b"a download that nobody reads"), Err(WriteError::Closed));
    server.close(id, now);
    assert_eq!(output(&mut server), frame(1, 1, 3, b""));
    assert_eq!(server.streams(), 0);
}

#[test]
fn a_fin_that_would_cut_off_the_answer_waits_while_the_answer_flows() {
    let mut now = start();
    let mut client = Smux::new(Role::Client, towards_xtaci(1), now);
    let id = client.open(now).unwrap();
    client.write(id, b"question").unwrap();
    client.finish(id, now);
    let without_fin =
        [frame(1, 3, CAPABILITIES_ID, b""), frame(1, 0, 3, b""), frame(1, 2, 3, b"question")].concat();
    assert_eq!(output(&mut client), without_fin);
    for _ in 0..5 {
        now += Duration::from_secs(2);
        client.handle_bytes(&frame(1, 2, 3, b"part of the answer"), now).unwrap();
        client.handle_timeout(now);
        assert!(!output(&mut client).ends_with(&frame(1, 1, 3, b"")));
    }
    client.handle_bytes(&frame(1, 1, 3, b""), now).unwrap();
    assert!(
        output(&mut client).ends_with(&frame(1, 1, 3, b"")),
        "the answer has ended: so does the question"
    );
}

#[test]
fn a_fin_that_would_cut_off_an_answer_waits_no_longer_than_twice_the_linger_time() {
    let mut now = start();
    let mut client = Smux::new(Role::Client, towards_xtaci(1), now);
    let id = client.open(now).unwrap();
    client.finish(id, now);
    output(&mut client);
    let deadline = now + 2 * towards_xtaci(1).linger;
    let mut fin = false;
    while now < deadline && !fin {
        now = client.poll_timeout().unwrap().0.max(now);
        client.handle_timeout(now);
        fin = output(&mut client).ends_with(&frame(1, 1, 3, b""));
    }
    assert!(fin);
}

#[test]
fn a_reader_that_does_not_read_bounds_memory_and_holds_up_nobody_else() {
    let mut pair = Pair::new(&config(2));
    let (stuck, lively) = (pair.stream(), pair.stream());
    let data = pattern(100_000, 3);
    let mut stuck_taken = 0;
    for _ in 0..100 {
        stuck_taken += pair.client.write(stuck, &data).unwrap_or(0);
        assert_eq!(pair.client.write(lively, &data), Ok(data.len()));
        pair.exchange();
        assert_eq!(read_all(&mut pair.server, lively), data);
    }
    let limits = config(2);
    assert!(stuck_taken <= 262_144 + limits.stream_send_bytes_max, "the window and the send buffer");
    assert!(pair.server.memory() < 2 << 20 && pair.client.memory() < 2 << 20);
    let got = read_all(&mut pair.server, stuck);
    assert!(got.len() == 262_144 && got[..data.len()] == data, "and what was taken arrives");
}

#[test]
fn version_1_pushes_back_on_the_transport_instead() {
    let now = start();
    let limit = 64 << 10;
    let mut server = Smux::new(Role::Server, SmuxConfig { receive_bytes_max: limit, ..config(1) }, now);
    let mut bytes = frame(1, 0, 3, b"");
    let data = pattern(100_000, 4);
    data.chunks(8192).for_each(|piece| bytes.extend(frame(1, 2, 3, piece)));
    let mut offered = server.handle_bytes(&bytes, now).unwrap();
    assert!(offered < bytes.len(), "it takes no more than it has room for");
    assert!(server.memory() <= limit);
    let id = server.poll_event().unwrap().stream;
    let mut received = Vec::new();
    while offered < bytes.len() {
        received.extend(read_all(&mut server, id));
        offered += server.handle_bytes(&bytes[offered..], now).unwrap();
    }
    received.extend(read_all(&mut server, id));
    assert_eq!(received, data);
}

fn sharing(receive_bytes_max: usize) -> SmuxConfig {
    SmuxConfig {
        receive_bytes_max,
        when_full: WhenFull::CutOff,
        stream_receive_bytes_max: 16 << 20,
        stream_first_window: 64 << 10,
        ..config(2)
    }
}

/// A stream, whatever has happened to others.
fn another(pair: &mut Pair) -> StreamId {
    while pair.server.poll_event().is_some() {}
    pair.stream()
}

/// Carries bytes on a stream whose reader keeps up.
fn carry(pair: &mut Pair, id: StreamId, data: &[u8]) {
    let (mut written, mut got) = (0, Vec::new());
    while got.len() < data.len() {
        let before = (written, got.len());
        written += pair.client.write(id, &data[written..]).unwrap_or(0);
        pair.exchange();
        got.extend(read_all(&mut pair.server, id));
        assert!((written, got.len()) > before, "it stands still at {} of {}", got.len(), data.len());
    }
    assert!(got == data);
}

/// Writes all that a stream takes, until the other end lets it send no more.
fn stuff(pair: &mut Pair, id: StreamId) {
    let data = pattern(256 << 10, 6);
    while pair.client.write(id, &data).is_ok_and(|taken| taken > 0) {
        pair.exchange();
    }
}

#[test]
fn readers_that_read_a_little_and_no_more_hold_no_other_stream_up() {
    let mut pair = Pair::new(&sharing(8 << 20));
    for _ in 0..20 {
        let stuck = another(&mut pair);
        pair.client.write(stuck, &pattern(10_000, 7)).unwrap();
        pair.exchange();
        // What was read widens the window.
        read_all(&mut pair.server, stuck);
        stuff(&mut pair, stuck);
    }
    let lively = another(&mut pair);
    for round in 0..200 {
        carry(&mut pair, lively, &pattern(100_000, round));
    }
    assert_eq!(pair.server.stats().streams_cut_off, 0, "there is room for all that was granted");
    assert!(pair.server.memory() <= 8 << 20, "{}", pair.server.memory());
}

#[test]
fn more_silent_readers_than_there_is_memory_for_are_cut_off_and_nobody_waits_for_them() {
    let limit = 2 << 20;
    let mut pair = Pair::new(&sharing(limit));
    let lively = pair.stream();
    let stuck: Vec<StreamId> = (0..100).map(|_| another(&mut pair)).collect();
    for (round, id) in stuck.iter().enumerate() {
        stuff(&mut pair, *id);
        carry(&mut pair, lively, &pattern(100_000, round));
        assert!(pair.server.memory() <= limit + (2 << 20), "{}", pair.server.memory());
    }
    let is_cut = |pair: &mut Pair, id: StreamId| {
        let mut buf = [0; 4_096];
        loop {
            match pair.server.read(id, &mut buf) {
                Ok(_) => {}
                Err(error) => return error == ReadError::CutOff,
            }
        }
    };
    let cut: Vec<StreamId> = stuck.into_iter().filter(|id| is_cut(&mut pair, *id)).collect();
    assert_eq!(pair.server.stats().streams_cut_off, cut.len() as u64);
    assert!((50..=90).contains(&cut.len()), "{}", cut.len());
    // Whoever writes to them learns it when the reader lets go of them.
    pair.server.reset(cut[0], pair.now);
    pair.exchange();
    assert_eq!(pair.client.write(cut[0], b"more"), Err(WriteError::Closed));
}

#[test]
fn a_window_that_shrinks_stops_no_stream_whose_reader_keeps_up() {
    let mut pair = Pair::new(&sharing(64 << 20));
    let id = pair.stream();
    carry(&mut pair, id, &pattern(20 << 20, 1));
    pair.server.set_memory(256 << 10, usize::MAX);
    carry(&mut pair, id, &pattern(20 << 20, 2));
}

/// The other end's FIN, which comes later, was once taken for its second: what it still read was discarded, and the part looked
/// like the whole.
#[test]
fn a_stream_cut_off_for_want_of_memory_still_brings_what_was_written_the_other_way() {
    let mut pair = Pair::new(&sharing(2 << 20));
    let victim = pair.stream();
    let others: Vec<StreamId> = (0..100).map(|_| another(&mut pair)).collect();
    pair.client.write(victim, &pattern(60 << 10, 1)).unwrap();
    pair.exchange();
    for other in others {
        if pair.server.stats().streams_cut_off == 0 {
            stuff(&mut pair, other);
        }
    }
    assert_eq!(pair.server.read(victim, &mut [0; 100]), Err(ReadError::CutOff));
    let reply = pattern(200 << 10, 2);
    assert_eq!(pair.server.write(victim, &reply).unwrap(), reply.len());
    pair.server.finish(victim, pair.now);
    pair.exchange();
    pair.client.finish(victim, pair.now);
    let mut got = Vec::new();
    for _ in 0..100 {
        pair.exchange();
        got.extend(read_all(&mut pair.client, victim));
    }
    assert!(got == reply, "{} of {} bytes", got.len(), reply.len());
    assert_eq!(pair.client.read(victim, &mut [0; 100]), Ok(0), "and that was all");
    assert_eq!(pair.server.read(victim, &mut [0; 100]), Err(ReadError::CutOff), "the reader learns it still");
}

#[test]
fn what_waits_to_be_sent_is_bounded_for_all_streams_together() {
    let limit = 4 << 20;
    let mut pair = Pair::new(&SmuxConfig { send_bytes_max: limit, ..config(2) });
    let ids: Vec<StreamId> = (0..300).map(|_| pair.client.open(pair.now).unwrap()).collect();
    let data = pattern(256 << 10, 8);
    let mut least = usize::MAX;
    for id in &ids {
        least = least.min(pair.client.write(*id, &data).unwrap());
    }
    assert!(least >= 16 << 10, "everybody may write something: {least}");
    let overhead = ids.len() * (16 << 10);
    assert!(pair.client.memory() <= limit + overhead, "{}", pair.client.memory());
}

#[test]
fn streams_share_the_transport_frame_by_frame() {
    let mut pair = Pair::new(&config(1));
    let ids: Vec<StreamId> = (0..10).map(|_| pair.stream()).collect();
    let data = pattern(200_000, 5);
    for id in &ids {
        assert_eq!(pair.client.write(*id, &data), Ok(data.len()));
    }
    let mut transport = Vec::new();
    pair.client.poll_output(400_000, |piece| transport.extend_from_slice(piece));
    pair.server.handle_bytes(&transport, pair.now).unwrap();
    let shares: Vec<usize> = ids.iter().map(|id| read_all(&mut pair.server, *id).len()).collect();
    let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
    assert!(most - least <= 8192, "{shares:?}");
}

#[test]
fn a_keystroke_overtakes_a_download() {
    let mut pair = Pair::new(&config(1));
    let (download, terminal) = (pair.stream(), pair.stream());
    pair.client.write(download, &pattern(250_000, 6)).unwrap();
    pair.client.poll_output(30_000, |_| ());
    pair.client.write(terminal, b"x").unwrap();
    let mut next = Vec::new();
    pair.client.poll_output(100, |piece| next.extend_from_slice(piece));
    assert_eq!(next[..9], frame(1, 2, terminal.get(), b"x"));
}

#[test]
fn too_many_streams_are_refused_on_both_ends() {
    let mut pair = Pair::new(&config(1));
    pair.server = Smux::new(Role::Server, SmuxConfig { streams_max: 2, ..config(1) }, pair.now);
    let ids: Vec<StreamId> = (0..3).map(|_| pair.client.open(pair.now).unwrap()).collect();
    pair.exchange();
    assert_eq!((pair.server.streams(), pair.server.stats().streams_refused), (2, 1));
    assert_eq!(pair.client.read(ids[2], &mut [0; 8]), Ok(0), "the third has ended");
    assert_eq!(pair.client.write(ids[2], b"x"), Err(WriteError::Closed));
    assert_eq!(pair.client.read(ids[1], &mut [0; 8]), Err(ReadError::Blocked), "the second goes on");
    assert_eq!(pair.server.open(pair.now), Err(OpenError::TooMany { limit: 2 }));
    pair.client.close(ids[0], pair.now);
    pair.exchange();
    let first = std::iter::from_fn(|| pair.server.poll_event()).next().unwrap().stream;
    pair.server.close(first, pair.now);
    pair.exchange();
    assert!(pair.server.open(pair.now).is_ok(), "there is room again");
}

#[test]
fn silence_is_death_unless_we_are_the_ones_who_do_not_listen() {
    let now = start();
    let mut client = Smux::new(Role::Client, config(2), now);
    let mut elapsed = now;
    while !client.is_dead() {
        elapsed = client.poll_timeout().unwrap().0;
        client.handle_timeout(elapsed);
        output(&mut client);
    }
    assert_eq!(elapsed - now, Duration::from_secs(3));

    let mut full = Smux::new(Role::Server, SmuxConfig { receive_bytes_max: 4096, ..config(1) }, now);
    full.handle_bytes(&[frame(1, 0, 3, b""), frame(1, 2, 3, &[7; 8000])].concat(), now).unwrap();
    full.handle_timeout(now + Duration::from_secs(100));
    assert!(!full.is_dead());
}

#[test]
fn keepalives_keep_two_idle_ends_alive() {
    let mut pair = Pair::new(&config(1));
    for _ in 0..100 {
        let next = [&pair.client, &pair.server].iter().filter_map(|smux| smux.poll_timeout()).min().unwrap();
        pair.now = pair.now.max(next.0);
        pair.client.handle_timeout(pair.now);
        pair.server.handle_timeout(pair.now);
        pair.exchange();
    }
    assert!(!pair.client.is_dead() && !pair.server.is_dead());
}

#[test]
fn whoever_breaks_the_rules_ends_the_session_with_a_reason() {
    let now = start();
    let server = || Smux::new(Role::Server, config(2), now);
    let outcome = |bytes: &[u8]| server().handle_bytes(bytes, now).unwrap_err();
    assert_eq!(outcome(&frame(1, 0, 3, b"")), SmuxError::Version { got: 1, expected: 2 });
    assert_eq!(outcome(&frame(2, 5, 3, b"")), SmuxError::UnknownCommand { command: 5 });
    let too_much = [frame(2, 0, 3, b""), frame(2, 2, 3, &pattern(60_000, 0)).repeat(5)].concat();
    assert_eq!(outcome(&too_much), SmuxError::WindowExceeded { stream: 3 });
    let consumed = [frame(2, 0, 3, b""), frame(2, 4, 3, &[1, 0, 0, 0, 0, 0, 1, 0])].concat();
    assert_eq!(outcome(&consumed), SmuxError::ConsumedTooMuch { stream: 3 });
    let mut first_version = Smux::new(Role::Server, config(1), now);
    let unknown = first_version.handle_bytes(&frame(1, 4, 3, b""), now);
    assert_eq!(unknown, Err(SmuxError::UnknownCommand { command: 4 }), "version 1 has no UPD");
}

#[test]
fn bytes_of_unknown_or_closed_streams_are_discarded_and_counted() {
    let now = start();
    let mut server = Smux::new(Role::Server, config(2), now);
    server
        .handle_bytes(&[frame(2, 2, 9, b"nobody"), frame(2, 1, 9, b""), frame(2, 0, 3, b"")].concat(), now)
        .unwrap();
    assert_eq!((server.streams(), server.stats().bytes_discarded), (1, 6));
}

#[test]
fn random_traffic_on_many_streams_stays_exact() {
    let mut pair = Pair::new(&SmuxConfig { stream_receive_bytes_max: 100_000, ..config(2) });
    let mut seed = 1_u32;
    let mut chance = move |below: usize| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) as usize % below
    };
    let mut written: BTreeMap<StreamId, Vec<u8>> = BTreeMap::new();
    let mut received: BTreeMap<StreamId, Vec<u8>> = BTreeMap::new();
    for round in 0..3_000 {
        if written.len() < 40 && chance(4) == 0 {
            written.insert(pair.client.open(pair.now).unwrap(), Vec::new());
        }
        if let Some((id, so_far)) = written.iter_mut().nth(chance(40)) {
            let piece = pattern(chance(30_000), round);
            let taken = pair.client.write(*id, &piece).unwrap_or(0);
            so_far.extend_from_slice(&piece[..taken]);
        }
        if chance(3) == 0 {
            pair.exchange();
        }
        while let Some(event) = pair.server.poll_event() {
            received.entry(event.stream).or_default();
        }
        for (id, so_far) in &mut received {
            if chance(3) == 0 {
                let mut slices = [IoSlice::new(&[]); 4];
                let filled = pair.server.peek(*id, &mut slices).unwrap_or(0);
                let bytes: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
                so_far.extend_from_slice(&bytes);
                pair.server.consume(*id, bytes.len());
            }
        }
    }
    for _ in 0..100 {
        pair.exchange();
        for (id, so_far) in &mut received {
            so_far.extend(read_all(&mut pair.server, *id));
        }
    }
    assert_eq!(written.len(), 40);
    assert!(written == received && written.values().map(Vec::len).sum::<usize>() > 5_000_000);
}

#[test]
fn a_stream_that_is_cut_off_ends_in_an_error_behind_its_last_byte() {
    for version in [1, 2] {
        let mut pair = Pair::new(&config(version));
        let id = pair.stream();
        pair.client.write(id, b"half of it").unwrap();
        pair.exchange();
        pair.client.reset(id, pair.now);
        pair.exchange();
        let mut buf = [0; 100];
        assert_eq!(pair.server.read(id, &mut buf), Ok(10));
        assert_eq!(pair.server.read(id, &mut buf), Err(ReadError::CutOff));
        assert!(pair.server.is_stopped(id));
    }
}

#[test]
fn an_end_that_stops_cuts_its_streams_off_behind_all_that_was_written() {
    for version in [1, 2] {
        let mut pair = Pair::new(&config(version));
        let (open, ended) = (pair.stream(), pair.stream());
        pair.client.write(open, b"half of it").unwrap();
        pair.client.write(ended, b"all of it").unwrap();
        pair.client.finish(ended, pair.now);
        pair.client.cut_off_all_behind(pair.now);
        pair.exchange();
        let mut buf = [0; 100];
        assert_eq!(pair.server.read(open, &mut buf), Ok(10), "version {version}");
        assert_eq!(pair.server.read(open, &mut buf), Err(ReadError::CutOff));
        assert_eq!(pair.server.read(ended, &mut buf), Ok(9));
        assert_eq!(pair.server.read(ended, &mut buf), Ok(0), "an end stays an end");
    }
}

#[test]
fn a_stream_that_has_ended_in_order_is_not_cut_off_by_letting_go_of_it() {
    let mut pair = Pair::new(&config(2));
    let id = pair.stream();
    pair.client.write(id, b"all of it").unwrap();
    pair.client.finish(id, pair.now);
    pair.exchange();
    pair.client.reset(id, pair.now);
    pair.exchange();
    let mut buf = [0; 100];
    assert_eq!(pair.server.read(id, &mut buf), Ok(9));
    assert_eq!(pair.server.read(id, &mut buf), Ok(0));
}

#[test]
fn an_implementation_that_knows_no_cut_is_sent_none() {
    let now = start();
    let mut client = Smux::new(Role::Client, towards_xtaci(1), now);
    let id = client.open(now).unwrap();
    client.write(id, b"half of it").unwrap();
    output(&mut client);
    client.reset(id, now);
    assert_eq!(output(&mut client), frame(1, 1, id.get(), &[]));
}
