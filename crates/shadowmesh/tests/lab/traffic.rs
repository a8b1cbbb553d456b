//! Traffic through the overlay that knows exactly what it has sent.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use os::netns::Netns;

use super::{SOON, wait_for};

/// How often a thread that waits for packets looks whether it should end.
const LOOK: Duration = Duration::from_millis(50);

/// Numbered datagrams at a steady pace, each sent back by the other end.
pub(crate) struct Steady {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    answers: Arc<Mutex<Answers>>,
    sender: Option<JoinHandle<()>>,
    others: Vec<JoinHandle<()>>,
    ended: Arc<AtomicBool>,
}

#[derive(Default)]
struct Answers {
    seen: Vec<bool>,
    count: u64,
    twice: u64,
    last: Option<Instant>,
    gap: Duration,
}

/// How it went.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) sent: u64,
    pub(crate) answered: u64,
    /// Answers that came a second time.
    pub(crate) twice: u64,
    /// The longest time between two answers.
    pub(crate) gap: Duration,
}

impl Report {
    pub(crate) fn lost(&self) -> u64 {
        self.sent - self.answered
    }
}

impl Steady {
    /// Starts to send from `from` to `address`, an address of `to`.
    pub(crate) fn start(from: &Netns, to: &Netns, address: &str, pace: Duration) -> Self {
        let address: IpAddr = address.parse().unwrap();
        let echo = to.run(|| UdpSocket::bind((address, 0)).unwrap()).unwrap();
        let unspecified: SocketAddr = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
        let socket = from.run(|| UdpSocket::bind(unspecified).unwrap()).unwrap();
        let target = echo.local_addr().unwrap();
        echo.set_read_timeout(Some(LOOK)).unwrap();
        socket.set_read_timeout(Some(LOOK)).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let answers = Arc::new(Mutex::new(Answers::default()));

        let until = Arc::clone(&ended);
        let echoer = thread::spawn(move || {
            let mut buf = [0; 64];
            while !until.load(Relaxed) {
                if let Ok((len, from)) = echo.recv_from(&mut buf) {
                    let _ = echo.send_to(&buf[..len], from);
                }
            }
        });
        let (until, sink, receiver) = (Arc::clone(&ended), Arc::clone(&answers), socket.try_clone().unwrap());
        let listener = thread::spawn(move || {
            let mut number = [0; 8];
            while !until.load(Relaxed) {
                if let Ok(8) = receiver.recv(&mut number) {
                    sink.lock().unwrap().note(u64::from_le_bytes(number), Instant::now());
                }
            }
        });
        let (until, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let sender = thread::spawn(move || {
            let start = Instant::now();
            for number in 0_u64.. {
                if until.load(Relaxed) {
                    break;
                }
                // A datagram that our own kernel refuses, for want of a route or of room, is lost like any other.
                let _ = socket.send_to(&number.to_le_bytes(), target);
                count.store(number + 1, Relaxed);
                let next = start + pace * (number as u32 + 1);
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        });
        Self { stop, sent, answers, sender: Some(sender), others: vec![echoer, listener], ended }
    }

    pub(crate) fn answered(&self) -> u64 {
        self.answers.lock().unwrap().count
    }

    /// Returns once `count` more answers have come.
    #[track_caller]
    pub(crate) fn wait_for_answers(&self, count: u64, limit: Duration) {
        let before = self.answered();
        wait_for("answers", limit, || (self.answered() >= before + count).then_some(()));
    }

    /// Stops sending, gives late answers a moment, and reports.
    pub(crate) fn finish(mut self) -> Report {
        self.stop.store(true, Relaxed);
        let _ = self.sender.take().map(JoinHandle::join);
        let sent = self.sent.load(Relaxed);
        let deadline = Instant::now() + Duration::from_secs(1);
        while self.answered() < sent && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        let answers = self.answers.lock().unwrap();
        Report { sent, answered: answers.count, twice: answers.twice, gap: answers.gap }
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.ended.store(true, Relaxed);
        for thread in self.sender.take().into_iter().chain(self.others.drain(..)) {
            let _ = thread.join();
        }
    }
}

impl Answers {
    fn note(&mut self, number: u64, now: Instant) {
        let place = number as usize;
        if self.seen.len() <= place {
            self.seen.resize(place + 1, false);
        }
        if std::mem::replace(&mut self.seen[place], true) {
            self.twice += 1;
            return;
        }
        self.count += 1;
        if let Some(last) = self.last.replace(now) {
            self.gap = self.gap.max(now - last);
        }
    }
}

/// A byte stream that repeats only after a prime number of bytes, so that no lost, doubled or swapped packet can hide.
pub(crate) struct Stream {
    bytes: Vec<u8>,
}

impl Stream {
    const PERIOD: usize = 1_048_573;

    pub(crate) fn new(seed: u64) -> Self {
        let mut state = seed;
        let bytes = (0..Self::PERIOD)
            .map(|_| {
                // A linear congruential generator (Knuth's MMIX); its upper bits are good enough here.
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            })
            .collect();
        Self { bytes }
    }

    /// What follows at `offset`, up to the end of the period.
    pub(crate) fn at(&self, offset: u64) -> &[u8] {
        &self.bytes[(offset % Self::PERIOD as u64) as usize..]
    }

    /// Whether `received` is what follows at `offset`.
    pub(crate) fn matches(&self, mut offset: u64, mut received: &[u8]) -> bool {
        while !received.is_empty() {
            let expected = self.at(offset);
            let len = expected.len().min(received.len());
            if received[..len] != expected[..len] {
                return false;
            }
            offset += len as u64;
            received = &received[len..];
        }
        true
    }
}

/// Sends `bytes` over TCP from one namespace to `address`, an address of the other, and compares every byte that
/// arrives. Returns how long it took.
#[track_caller]
pub(crate) fn transfer(from: &Netns, to: &Netns, address: &str, bytes: u64) -> Duration {
    let address: IpAddr = address.parse().unwrap();
    let listener = to.run(|| TcpListener::bind((address, 0)).unwrap()).unwrap();
    let target = listener.local_addr().unwrap();
    let mut sender = from.run(|| TcpStream::connect_timeout(&target, SOON).unwrap()).unwrap();
    let (mut receiver, _) = listener.accept().unwrap();
    sender.set_write_timeout(Some(SOON)).unwrap();
    receiver.set_read_timeout(Some(SOON)).unwrap();
    let stream = Stream::new(u64::from(target.port()));
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut offset = 0;
            while offset < bytes {
                let next = stream.at(offset);
                let len = next.len().min(256 * 1024).min((bytes - offset) as usize);
                offset += sender.write(&next[..len]).unwrap() as u64;
            }
            sender.shutdown(Shutdown::Write).unwrap();
        });
        let mut buf = vec![0; 256 * 1024];
        let mut offset = 0;
        loop {
            let len = receiver.read(&mut buf).unwrap();
            if len == 0 {
                break;
            }
            assert!(stream.matches(offset, &buf[..len]), "a byte is wrong after {offset} bytes of TCP");
            offset += len as u64;
        }
        assert_eq!(offset, bytes);
    });
    start.elapsed()
}
