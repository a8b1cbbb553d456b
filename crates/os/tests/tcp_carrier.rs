//! Datagrams over TCP connections, on loopback, with the kernel of this machine.
//!
//! Every link here is polled edge-triggered and asked only after an edge, as a worker does: a lost edge is a test that never ends well.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use os::poll::{Events, Interest, Poller};
use os::tcp::{
    ACCEPTED_MAX, BindError, DATAGRAM_MAX, FIRST_DATAGRAM_WITHIN, HELD_MAX, IDLE, Role,
    SILENT_PER_SOURCE_MAX, TcpConfig, TcpHandle, TcpLink, bind,
};
use packet::{Ecn, Link, RecvSlot, Transmit};

const PATIENCE: Duration = Duration::from_secs(30);
const EDGE: Interest = Interest { edge: true, ..Interest::READ_WRITE };

fn config(listen: Option<&str>) -> TcpConfig {
    TcpConfig {
        listen: listen.map(|address| address.parse().unwrap()),
        workers: 1,
        send_buffer_bytes: 0,
        receive_buffer_bytes: 0,
    }
}

/// One link and its poller.
struct Port {
    link: TcpLink,
    poller: Poller,
    events: Events,
    readable: bool,
    writable: bool,
    /// Calls `handle_timeout` when it is due. Without, nothing makes up for a lost edge.
    timers: bool,
    slots: Vec<RecvSlot>,
    /// Datagrams received, and from whom.
    got: Vec<(SocketAddr, Vec<u8>)>,
    /// Slots that they came in.
    trains: usize,
}

impl Port {
    fn new(link: TcpLink) -> Self {
        let poller = Poller::new().unwrap();
        for fd in link.descriptors().collect::<Vec<BorrowedFd<'_>>>() {
            poller.add(fd, 0, EDGE).unwrap();
        }
        Self {
            link,
            poller,
            events: Events::with_capacity(4),
            readable: true,
            writable: true,
            timers: true,
            slots: (0..4).map(|_| RecvSlot::new(65_729)).collect(),
            got: Vec::new(),
            trains: 0,
        }
    }

    /// Waits for an edge and does what it asks for.
    fn step(&mut self, timeout: Duration) {
        let now = Instant::now();
        let deadline = self.link.poll_timeout().filter(|_| self.timers).map(|(at, _)| at);
        let timeout = deadline.map_or(timeout, |at| timeout.min(at.saturating_duration_since(now)));
        self.poller.wait(&mut self.events, Some(timeout)).unwrap();
        for event in self.events.iter() {
            self.readable |= event.readable;
            self.writable |= event.writable;
        }
        if deadline.is_some_and(|at| at <= Instant::now()) {
            self.link.handle_timeout(Instant::now());
        }
        while self.readable {
            match self.link.recv(&mut self.slots) {
                Ok(count) => {
                    for slot in self.slots[..count].iter().filter(|slot| slot.len > 0) {
                        self.trains += 1;
                        for datagram in slot.buf[..slot.len].chunks(slot.segment_size) {
                            self.got.push((slot.from, datagram.to_vec()));
                        }
                    }
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    self.readable = false;
                }
            }
        }
    }

    /// Steps until `done`.
    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < PATIENCE, "{what}; {} datagrams came", self.got.len());
            self.step(Duration::from_millis(2));
        }
    }

    /// Sends a whole train, waiting for edges.
    fn send_all(&mut self, to: SocketAddr, segment_size: usize, contents: &[u8]) {
        let mut taken = 0;
        self.until("a train was never taken", |port| {
            while port.writable && taken < contents.len() {
                match port.link.send(&train(to, segment_size, &contents[taken..])) {
                    Ok(bytes) => {
                        assert!(bytes == contents.len() - taken || bytes % segment_size == 0);
                        taken += bytes;
                        port.writable = taken == contents.len();
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::WouldBlock);
                        port.writable = false;
                    }
                }
            }
            taken == contents.len()
        });
    }

    fn bytes(&self) -> usize {
        self.got.iter().map(|(_, datagram)| datagram.len()).sum()
    }
}

fn train(to: SocketAddr, segment_size: usize, contents: &[u8]) -> Transmit<'_> {
    Transmit { to, ecn: Ecn::NotEct, segment_size, contents }
}

fn bound(config: TcpConfig) -> (Port, TcpHandle) {
    let (mut links, handle) = bind(config).unwrap();
    (Port::new(links.remove(0)), handle)
}

/// A port that answers calls, and its address.
fn listening(listen: &str) -> (Port, TcpHandle, SocketAddr) {
    let (port, handle) = bound(config(Some(listen)));
    let address = handle.listen_address().unwrap();
    (port, handle, address)
}

fn dialling() -> (Port, TcpHandle) {
    bound(config(None))
}

/// Steps both until `done`.
fn both(a: &mut Port, b: &mut Port, what: &str, mut done: impl FnMut(&mut Port, &mut Port) -> bool) {
    let start = Instant::now();
    while !done(a, b) {
        assert!(start.elapsed() < PATIENCE, "{what}");
        a.step(Duration::from_millis(1));
        b.step(Duration::from_millis(1));
    }
}

/// Dials and steps both until each has an open connection.
fn connect(a: &mut Port, handle: &TcpHandle, b: &mut Port, to: SocketAddr) {
    handle.dial(to).unwrap();
    both(a, b, "no connection", |_, _| handle.is_open(to));
}

fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251 + seed * 31) as u8).collect()
}

fn frame(datagram: &[u8]) -> Vec<u8> {
    [&(datagram.len() as u16).to_be_bytes()[..], datagram].concat()
}

/// A stranger who has said something; and what the port calls it.
fn caller(port: &mut Port, to: SocketAddr) -> (TcpStream, SocketAddr) {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.write_all(&frame(b"hello")).unwrap();
    let name = stream.local_addr().unwrap();
    port.until("a caller was not heard", |port| port.got.iter().any(|(from, _)| *from == name));
    (stream, name)
}

/// Whether the other end has closed the connection.
fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    match stream.read(&mut [0; 16]) {
        Ok(len) => len == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

/// The trains of the long transfers: all sizes, short ends, single ones.
fn trains() -> impl Iterator<Item = (usize, Vec<u8>)> {
    let shapes = [
        (1_400, 46 * 1_400),
        (1_400, 30 * 1_400 + 7),
        (9, 9 * 300),
        (DATAGRAM_MAX, 60_000),
        (1, 5),
        (333, 333),
    ];
    (0..).map(move |number| {
        let (segment_size, len) = shapes[number % shapes.len()];
        (segment_size, pattern(number, len))
    })
}

/// Sends `count` trains each way at once, from a thread each, and checks every byte.
fn exchange(listen: &str, count: usize, send_buffer_bytes: usize, receive_buffer_bytes: usize) {
    let small = |config| TcpConfig { send_buffer_bytes, receive_buffer_bytes, ..config };
    let (mut a, handle) = bound(small(config(None)));
    let (mut b, there) = bound(small(config(Some(listen))));
    let to = there.listen_address().unwrap();
    handle.dial(to).unwrap();
    a.link.send(&train(to, 5, b"first")).unwrap();
    both(&mut a, &mut b, "no first datagram", |_, b| !b.got.is_empty());
    let back = b.got.remove(0).0;
    assert_eq!(back.is_ipv4(), to.is_ipv4());

    let expected: Vec<Vec<u8>> = trains()
        .take(count)
        .flat_map(|(size, contents)| contents.chunks(size).map(<[u8]>::to_vec).collect::<Vec<_>>())
        .collect();
    let run = |mut port: Port, to: SocketAddr| {
        port.timers = false;
        for (segment_size, contents) in trains().take(count) {
            port.send_all(to, segment_size, &contents);
        }
        port.until("not all datagrams came", |port| port.got.len() >= expected.len());
        assert!(port.got.iter().all(|(from, _)| *from == to));
        let got: Vec<Vec<u8>> = std::mem::take(&mut port.got).into_iter().map(|(_, bytes)| bytes).collect();
        assert!(got == expected, "every datagram whole, once, in order");
        // The link ends only when the other has all.
        port
    };
    let ends = std::thread::scope(|scope| {
        let one = scope.spawn(|| run(a, to));
        let other = scope.spawn(|| run(b, back));
        [one.join().unwrap(), other.join().unwrap()]
    });
    for (port, handle) in ends.iter().zip([&handle, &there]) {
        assert!(port.trains < expected.len(), "datagrams of one size come together");
        let counts = handle.counts();
        let lost = [counts.full, counts.not_connected, counts.lost_with_connection, counts.cut_short];
        assert_eq!(lost, [0; 4]);
        assert!(counts.received >= expected.len() as u64 && counts.sent >= expected.len() as u64);
    }
}

#[test]
fn trains_cross_both_ways_at_once_byte_exact_and_in_order() {
    exchange("127.0.0.1:0", 600, 0, 0);
}

#[test]
fn ipv6_carries_them_too() {
    exchange("[::1]:0", 60, 0, 0);
}

#[test]
fn small_kernel_buffers_cut_frames_anywhere_and_lose_none() {
    // The kernel takes a few kilobytes at least. A window smaller than a segment of loopback would make it wait for timers.
    exchange("127.0.0.1:0", 60, 1, 0);
    exchange("127.0.0.1:0", 60, 1, 96 << 10);
}

#[test]
fn a_wildcard_listener_answers_both_families() {
    let (mut port, handle, address) = listening("[::]:0");
    assert!(address.ip().is_unspecified());
    for ip in ["127.0.0.1", "::1"] {
        let (mut stream, name) = caller(&mut port, SocketAddr::new(ip.parse().unwrap(), address.port()));
        assert_eq!(name.ip(), ip.parse::<std::net::IpAddr>().unwrap(), "IPv4 is IPv4");
        port.send_all(name, 2, b"hi");
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, *b"\0\x02hi");
    }
    assert_eq!(handle.counts().accepted, 2);
}

#[test]
fn connections_are_spread_over_the_links_and_any_link_sends_on_each() {
    let (links, handle) = bind(TcpConfig { workers: 2, ..config(Some("127.0.0.1:0")) }).unwrap();
    let mut ports: Vec<Port> = links.into_iter().map(Port::new).collect();
    let to = handle.listen_address().unwrap();
    let mut callers: Vec<TcpStream> = (0..4).map(|_| TcpStream::connect(to).unwrap()).collect();
    for caller in &mut callers {
        caller.write_all(&frame(b"hello")).unwrap();
    }
    let [a, b] = &mut ports[..] else { panic!("two links") };
    both(a, b, "a datagram was not delivered", |a, b| (a.got.len(), b.got.len()) == (2, 2));
    for (caller, port) in callers.iter_mut().zip([1, 0, 1, 0]) {
        ports[port].send_all(caller.local_addr().unwrap(), 5, b"there");
        let mut answer = [0; 7];
        caller.read_exact(&mut answer).unwrap();
        assert_eq!(answer[2..], *b"there");
    }
}

#[test]
fn two_links_that_send_on_one_connection_tear_no_datagram() {
    let (mut port, _, to) = listening("127.0.0.1:0");
    let (links, handle) = bind(TcpConfig { workers: 2, ..config(None) }).unwrap();
    let ports: Vec<Port> = links.into_iter().map(Port::new).collect();
    handle.dial(to).unwrap();
    const TRAINS: usize = 200;
    const SIZE: usize = 1_300;
    let expected = 2 * TRAINS * 20;
    std::thread::scope(|scope| {
        for (number, mut sender) in ports.into_iter().enumerate() {
            let handle = handle.clone();
            scope.spawn(move || {
                sender.until("no connection", |_| handle.is_open(to));
                for round in 0..TRAINS {
                    let contents: Vec<u8> = (0..20 * SIZE)
                        .map(|at| if at % SIZE == 0 { number as u8 } else { round as u8 })
                        .collect();
                    sender.send_all(to, SIZE, &contents);
                }
                // Its lane may have to send the rest of a frame.
                sender.until("no end", |_| !handle.is_open(to));
            });
        }
        port.until("not all came", |port| port.got.len() == expected);
        handle.hang_up(to);
    });
    let mut last = [0; 2];
    for (_, datagram) in &port.got {
        let [number, rest @ ..] = &datagram[..] else { panic!("an empty datagram") };
        assert_eq!(datagram.len(), SIZE);
        let round = rest[0];
        assert!(rest.iter().all(|&byte| byte == round), "a torn datagram");
        assert!(last[usize::from(*number)] <= round, "in order, each link's");
        last[usize::from(*number)] = round;
    }
}

#[test]
fn what_is_sent_while_connecting_waits_within_bounds() {
    let (mut b, _, to) = listening("127.0.0.1:0");
    let (mut a, handle) = dialling();
    handle.dial(to).unwrap();
    handle.dial(to).unwrap();
    assert_eq!(handle.counts().dialled, 1, "dialling twice is dialling once");
    let taken = a.link.send(&train(to, 10, &pattern(1, 200))).unwrap();
    assert_eq!(taken, 10 * HELD_MAX);
    let error = a.link.send(&train(to, 10, &[7; 10])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotConnected);
    assert_eq!(handle.counts().not_connected, 1);
    a.writable = false;
    both(&mut a, &mut b, "nothing came", |a, b| b.got.len() == HELD_MAX && a.writable);
    let bytes: Vec<u8> = b.got.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
    assert_eq!(bytes, pattern(1, 200)[..10 * HELD_MAX]);
}

#[test]
fn what_cannot_be_sent_is_refused() {
    let (mut a, handle) = dialling();
    let to = "127.0.0.1:9".parse().unwrap();
    let kind = |result: std::io::Result<usize>| result.unwrap_err().kind();
    assert_eq!(kind(a.link.send(&train(to, 5, b"hello"))), ErrorKind::NotConnected, "nobody dialled");
    let long = vec![0; DATAGRAM_MAX + 1];
    assert_eq!(kind(a.link.send(&train(to, long.len(), &long))), ErrorKind::InvalidInput);
    assert_eq!(kind(a.link.send(&train(to, 0, b"hello"))), ErrorKind::InvalidInput);
    assert!(handle.connections().is_empty());
}

#[test]
fn a_peer_that_does_not_read_pushes_back_and_an_edge_comes_when_it_reads_again() {
    let (mut port, handle) = bound(TcpConfig { send_buffer_bytes: 64 << 10, ..config(Some("127.0.0.1:0")) });
    let to = handle.listen_address().unwrap();
    let (mut stream, name) = caller(&mut port, to);
    let mut other = Port::new(port.link.try_clone().unwrap());
    (port.timers, other.timers) = (false, false);
    let contents = pattern(3, 40 * 1_400);
    let mut sent = 0;
    loop {
        match port.link.send(&train(name, 1_400, &contents)) {
            Ok(bytes) => sent += bytes,
            Err(error) => break assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
    let result = other.link.send(&train(name, 1_400, &contents));
    assert_eq!(result.unwrap_err().kind(), ErrorKind::WouldBlock, "full is full for all links");
    (port.writable, other.writable) = (false, false);
    port.poller.wait(&mut port.events, Some(Duration::ZERO)).unwrap();
    other.poller.wait(&mut other.events, Some(Duration::ZERO)).unwrap();

    let reader = std::thread::spawn(move || {
        let mut frames = vec![0; sent + sent / 1_400 * 2];
        stream.read_exact(&mut frames).unwrap();
        (stream, frames)
    });
    port.until("no edge", |port| port.writable);
    other.until("no edge of its own for the clone", |other| other.writable);
    let (_stream, frames) = reader.join().unwrap();
    for (at, frame) in frames.chunks(1_402).enumerate() {
        assert_eq!(frame[..2], 1_400_u16.to_be_bytes());
        let at = at % 40 * 1_400;
        assert!(frame[2..] == contents[at..at + 1_400]);
    }
}

#[test]
fn a_peer_that_never_reads_costs_little_and_holds_nobody_up() {
    let (mut port, handle) = bound(TcpConfig { send_buffer_bytes: 64 << 10, ..config(Some("127.0.0.1:0")) });
    let to = handle.listen_address().unwrap();
    let (_deaf, deaf_name) = caller(&mut port, to);
    let (mut good, good_name) = caller(&mut port, to);
    let contents = pattern(5, 20 * 1_000);
    const ROUNDS: usize = 500;
    let reader = std::thread::spawn(move || {
        let mut frames = vec![0; ROUNDS * 20 * 1_002];
        good.read_exact(&mut frames).unwrap();
        (good, frames)
    });
    let (mut refused, mut deaf_taken) = (0, 0);
    for _ in 0..ROUNDS {
        match port.link.send(&train(deaf_name, 1_000, &contents)) {
            Ok(taken) => deaf_taken += taken,
            Err(error) if error.kind() == ErrorKind::ResourceBusy => refused += 20,
            // The very first time, when the link has not sent to anybody else.
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        // The good one may be full as well, for the moment that its reader takes.
        let mut taken = 0;
        port.until("the good one waits for ever", |port| {
            if let Ok(bytes) = port.link.send(&train(good_name, 1_000, &contents[taken..])) {
                taken += bytes;
            }
            taken == contents.len()
        });
    }
    let (_good, frames) = reader.join().unwrap();
    assert_eq!(frames.len(), ROUNDS * 20 * 1_002);
    assert!(refused > 0, "the deaf one is full");
    assert!(handle.counts().full >= refused, "and what it did not take is counted");
    // Its window and our buffer: what the kernel holds, not we.
    assert!(deaf_taken < 8 << 20, "{deaf_taken} bytes");
    let status = handle.connections().into_iter().find(|status| status.remote == deaf_name).unwrap();
    assert!(status.open && status.full.is_some());
}

#[test]
fn a_single_peer_that_takes_nothing_for_long_is_given_up_waiting_for() {
    let (mut port, handle) = bound(TcpConfig { send_buffer_bytes: 64 << 10, ..config(Some("127.0.0.1:0")) });
    let (_deaf, name) = caller(&mut port, handle.listen_address().unwrap());
    let contents = pattern(5, 20 * 1_000);
    let mut last = ErrorKind::Other;
    port.writable = true;
    // A worker that is told `WouldBlock` does nothing until an edge: that must come although the peer never reads.
    port.until("no edge, or no refusal", |port| {
        if port.writable {
            match port.link.send(&train(name, 1_000, &contents)) {
                Ok(taken) => port.writable = taken == contents.len(),
                Err(error) => {
                    last = error.kind();
                    port.writable = false;
                }
            }
        }
        last == ErrorKind::ResourceBusy
    });
    assert_eq!(handle.counts().full, 20);
}

#[test]
fn a_stranger_who_speaks_something_else_is_shown_out() {
    let (mut port, handle, to) = listening("127.0.0.1:0");
    let too_long = (DATAGRAM_MAX as u16 + 1).to_be_bytes();
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0, 0], &too_long, &[0xff; 3_000]] {
        let mut stream = TcpStream::connect(to).unwrap();
        stream.write_all(garbage).unwrap();
        port.until("still open", |_| is_closed(&mut stream));
    }
    assert_eq!(handle.counts().malformed, 4);
    assert!(handle.connections().is_empty() && port.got.is_empty());
}

#[test]
fn what_came_before_garbage_is_delivered() {
    let (mut port, handle, to) = listening("127.0.0.1:0");
    let mut stream = TcpStream::connect(to).unwrap();
    stream.write_all(&[&frame(b"one")[..], &frame(b"three"), &[0, 0, 1]].concat()).unwrap();
    port.until("still open", |_| is_closed(&mut stream));
    let got: Vec<&[u8]> = port.got.iter().map(|(_, bytes)| &bytes[..]).collect();
    assert_eq!(got, [&b"one"[..], b"three"]);
    assert_eq!(handle.counts().malformed, 1);
}

#[test]
fn a_byte_at_a_time_is_a_datagram_in_the_end() {
    let (mut port, _, to) = listening("127.0.0.1:0");
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_nodelay(true).unwrap();
    let datagram = pattern(1, 700);
    for byte in frame(&datagram) {
        assert!(port.got.is_empty());
        stream.write_all(&[byte]).unwrap();
        port.step(Duration::from_millis(1));
    }
    port.until("the datagram did not come", |port| port.got.len() == 1);
    assert_eq!(port.got[0].1, datagram);
}

#[test]
fn a_stranger_who_says_nothing_or_never_ends_is_closed_in_time() {
    let (mut port, handle, to) = listening("127.0.0.1:0");
    let (mut good, _) = caller(&mut port, to);
    let mut silent = TcpStream::connect(to).unwrap();
    let mut slow = TcpStream::connect(to).unwrap();
    slow.write_all(&[0x10, 0, 1, 2, 3]).unwrap();
    port.until("not accepted", |_| handle.connections().len() == 3);
    let (at, why) = port.link.poll_timeout().unwrap();
    assert_eq!(why, "idle TCP connections");
    assert!(at <= Instant::now() + FIRST_DATAGRAM_WITHIN);
    port.link.handle_timeout(Instant::now() + FIRST_DATAGRAM_WITHIN);
    assert!(is_closed(&mut silent) && is_closed(&mut slow) && !is_closed(&mut good));
    assert_eq!((handle.counts().silent, handle.connections().len()), (2, 1));

    // Whoever brought something may be quiet for longer, not for ever.
    let (at, _) = port.link.poll_timeout().unwrap();
    assert!(at > Instant::now() + FIRST_DATAGRAM_WITHIN);
    port.link.handle_timeout(Instant::now() + IDLE);
    assert!(is_closed(&mut good));
    assert_eq!(handle.counts().idle, 1);
    assert_eq!(port.link.poll_timeout(), None, "nothing to wait for");
}

#[test]
fn one_source_has_few_silent_connections_and_all_it_wants_of_others() {
    let (mut port, handle, to) = listening("127.0.0.1:0");
    let mut talkers: Vec<TcpStream> = (0..3).map(|_| caller(&mut port, to).0).collect();
    let _silent: Vec<TcpStream> =
        (0..SILENT_PER_SOURCE_MAX).map(|_| TcpStream::connect(to).unwrap()).collect();
    port.until("not accepted", |_| handle.counts().accepted == 3 + SILENT_PER_SOURCE_MAX as u64);
    let mut one_more = TcpStream::connect(to).unwrap();
    port.until("still open", |_| is_closed(&mut one_more));
    assert_eq!(handle.counts().refused, 1);
    assert!(!talkers.iter_mut().any(is_closed));
}

#[test]
fn the_one_idle_longest_makes_room_and_those_vouched_for_last() {
    let (mut port, handle, to) = listening("127.0.0.1:0");
    let (mut vouched, name) = caller(&mut port, to);
    handle.vouch_for(name);
    // Times are kept in milliseconds.
    let apart = Instant::now() + Duration::from_millis(3);
    port.until("time stands still", |_| Instant::now() >= apart);
    let (mut idle, _) = caller(&mut port, to);
    let apart = Instant::now() + Duration::from_millis(3);
    port.until("time stands still", |_| Instant::now() >= apart);
    let (mut others, names): (Vec<TcpStream>, Vec<SocketAddr>) =
        (2..ACCEPTED_MAX).map(|_| caller(&mut port, to)).unzip();
    assert_eq!(handle.connections().len(), ACCEPTED_MAX);
    assert_eq!(handle.counts().evicted, 0);

    let (mut last, name) = caller(&mut port, to);
    assert_eq!((handle.connections().len(), handle.counts().evicted), (ACCEPTED_MAX, 1));
    assert!(is_closed(&mut idle), "the longest idle");
    assert!(!is_closed(&mut vouched) && !is_closed(&mut last) && !others.iter_mut().any(is_closed));

    // Where all are vouched for the newest still gets in, and strangers then only make room for each other.
    names.into_iter().chain([name]).for_each(|name| handle.vouch_for(name));
    let (mut stranger, _) = caller(&mut port, to);
    let (mut another, _) = caller(&mut port, to);
    assert_eq!((handle.connections().len(), handle.counts().evicted), (ACCEPTED_MAX, 3));
    assert!(is_closed(&mut vouched) && is_closed(&mut stranger) && !is_closed(&mut another));
    assert!(!is_closed(&mut last) && !others.iter_mut().any(is_closed));
}

#[test]
fn who_was_dialled_or_vouched_for_may_be_quiet() {
    let (mut a, handle) = dialling();
    let (mut b, there, to) = listening("127.0.0.1:0");
    connect(&mut a, &handle, &mut b, to);
    a.send_all(to, 3, b"one");
    both(&mut a, &mut b, "nothing came", |_, b| b.got.len() == 1);
    there.vouch_for(b.got[0].0);
    for port in [&mut a, &mut b] {
        port.link.handle_timeout(Instant::now() + 10 * IDLE);
        assert_eq!(port.link.poll_timeout(), None, "nothing to wait for");
    }
    b.send_all(b.got[0].0, 3, b"two");
    both(&mut a, &mut b, "nothing came back", |a, _| a.got.len() == 1);
}

#[test]
fn a_far_end_that_was_restarted_is_met_again_by_sending() {
    let (mut a, handle) = dialling();
    let (mut b, there, to) = listening("127.0.0.1:0");
    connect(&mut a, &handle, &mut b, to);
    a.send_all(to, 3, b"one");
    both(&mut a, &mut b, "nothing came", |_, b| b.got.len() == 1);
    drop((b, there));
    a.until("the end went unnoticed", |_| !handle.is_open(to));

    let (mut b, _there) = bound(TcpConfig { listen: Some(to), ..config(None) });
    both(&mut a, &mut b, "never met again", |a, b| {
        // At most one attempt a second; until then there is no connection.
        if let Err(error) = a.link.send(&train(to, 3, b"two")) {
            assert_eq!(error.kind(), ErrorKind::NotConnected);
        }
        !b.got.is_empty()
    });
    assert_eq!(b.got[0].1, b"two");
    assert_eq!(handle.counts().dialled, 2);
}

#[test]
fn dialling_nobody_fails_and_works_when_somebody_is_there() {
    let place = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = place.local_addr().unwrap();
    drop(place);
    let (mut a, handle) = dialling();
    // The kernel may say so at once or a moment later.
    let _ = handle.dial(to);
    a.until("no failure", |_| handle.counts().not_opened == 1);
    assert!(!handle.is_open(to) && handle.connections().is_empty());
    let result = a.link.send(&train(to, 5, b"early"));
    assert_eq!(result.unwrap_err().kind(), ErrorKind::NotConnected, "not sooner than a second later");

    let (mut b, _there) = bound(TcpConfig { listen: Some(to), ..config(None) });
    both(&mut a, &mut b, "never met", |a, b| {
        let _ = a.link.send(&train(to, 4, b"late"));
        !b.got.is_empty()
    });
    assert_eq!(b.got[0].1, b"late");
}

#[test]
fn hanging_up_delivers_what_was_sent_and_dials_no_more() {
    let (mut a, handle) = dialling();
    let (mut b, there, to) = listening("127.0.0.1:0");
    connect(&mut a, &handle, &mut b, to);
    a.send_all(to, 1_000, &pattern(1, 30_000));
    handle.hang_up(to);
    both(&mut a, &mut b, "the end did not come", |_, _| there.counts().closed == 1);
    assert_eq!(b.bytes(), 30_000);
    assert!(handle.connections().is_empty() && there.connections().is_empty());
    let result = a.link.send(&train(to, 5, b"hello"));
    assert_eq!(result.unwrap_err().kind(), ErrorKind::NotConnected);
    assert_eq!(handle.counts().hung_up, 1);
}

#[test]
fn a_datagram_whose_end_never_came_is_counted() {
    let (mut port, handle, to) = listening("127.0.0.1:0");
    let (mut stream, _) = caller(&mut port, to);
    stream.write_all(&[0, 9, 1, 2, 3]).unwrap();
    drop(stream);
    port.until("the end went unnoticed", |_| handle.counts().closed == 1);
    assert_eq!(handle.counts().cut_short, 1);
}

#[test]
fn the_handle_tells_who_is_connected() {
    let (mut a, handle) = dialling();
    let (mut b, there, to) = listening("127.0.0.1:0");
    connect(&mut a, &handle, &mut b, to);
    a.send_all(to, 3, b"one");
    both(&mut a, &mut b, "nothing came", |_, b| b.got.len() == 1);
    let [ours] = &handle.connections()[..] else { panic!("one connection") };
    assert_eq!((ours.remote, ours.role, ours.open, ours.delivered), (to, Role::Dialled, true, false));
    let [theirs] = &there.connections()[..] else { panic!("one connection") };
    assert_eq!((theirs.remote, theirs.role, theirs.delivered), (b.got[0].0, Role::Accepted, true));
    assert!(there.is_open(theirs.remote) && handle.is_open(to));
}

#[test]
fn whoever_cannot_have_the_address_is_told_why() {
    let (_port, _handle, address) = listening("127.0.0.1:0");
    let error = bind(config(Some(&address.to_string()))).unwrap_err();
    assert!(matches!(error, BindError::AddressInUse(at) if at == address));
    assert!(error.to_string().contains("in use"), "{error}");
    // 192.0.2.0/24 is nobody's (RFC 5737).
    let error = bind(config(Some("192.0.2.1:4000"))).unwrap_err();
    assert!(matches!(error, BindError::AddressNotAvailable(_)), "{error}");
}

/// A port can be taken again at once after a restart, though connections of before are still closing.
#[test]
fn a_restarted_listener_gets_its_port_back() {
    let (mut port, handle, to) = listening("127.0.0.1:0");
    let (_stream, name) = caller(&mut port, to);
    handle.hang_up(name);
    drop((port, handle));
    bind(config(Some(&to.to_string()))).unwrap();
}

const STARVED: &str = "SHADOWMESH_TEST_STARVED";

#[test]
fn out_of_descriptors_the_listener_waits_and_goes_on() {
    if std::env::var_os(STARVED).is_some() {
        return starved();
    }
    // The limit is the process's: it needs one of its own.
    let own = std::env::current_exe().unwrap();
    let script = r#"ulimit -n 64 && exec "$0" --exact out_of_descriptors_the_listener_waits_and_goes_on"#;
    let output = Command::new("sh").args(["-c", script]).arg(own).env(STARVED, "1").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

fn starved() {
    let (mut port, handle, to) = listening("127.0.0.1:0");
    let mut stream = TcpStream::connect(to).unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let mut hoard = Vec::new();
    let error = loop {
        match null.as_fd().try_clone_to_owned() {
            Ok(fd) => hoard.push(fd),
            Err(error) => break error,
        }
    };
    assert_eq!(error.raw_os_error(), Some(24), "EMFILE");

    port.until("no failure", |_| handle.counts().accept_failed == 1);
    let (at, why) = port.link.poll_timeout().unwrap();
    assert_eq!(why, "TCP connection waiting for a descriptor");
    assert!(at > Instant::now(), "it does not spin");
    port.step(Duration::ZERO);
    assert_eq!(handle.counts().accept_failed, 1);

    hoard.clear();
    stream.write_all(&frame(b"patience")).unwrap();
    port.until("never accepted", |port| port.got.len() == 1);
    assert_eq!(port.got[0].1, b"patience");
}
