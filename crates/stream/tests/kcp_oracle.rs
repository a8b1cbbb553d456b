//! The `kcp` crate, another implementation, at the other end: in both roles, with loss.
#![allow(clippy::unwrap_used)]

mod link;

use std::cell::RefCell;
use std::io::{self, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

use link::{Link, LinkConfig, byte_at};
use stream::kcp::{Congestion, Kcp, KcpConfig, Mode};

/// Where the other implementation leaves its datagrams.
#[derive(Clone, Default)]
struct Outbox(Rc<RefCell<Vec<Vec<u8>>>>);

impl Write for Outbox {
    fn write(&mut self, datagram: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().push(datagram.to_vec());
        Ok(datagram.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The other implementation in kcptun's mode `fast2`, and its application.
struct Other {
    kcp: kcp::Kcp<Outbox>,
    outbox: Outbox,
    to_write: u64,
    written: u64,
    read: u64,
}

impl Other {
    fn new(conversation: u32, stream: bool, to_write: u64) -> Self {
        let outbox = Outbox::default();
        let new = if stream { kcp::Kcp::new_stream } else { kcp::Kcp::new };
        let mut kcp = new(conversation, outbox.clone());
        kcp.set_nodelay(true, 20, 2, true);
        kcp.set_wndsize(512, 512);
        kcp.set_mtu(1_350).unwrap();
        Self { kcp, outbox, to_write, written: 0, read: 0 }
    }

    fn run(&mut self, milliseconds: u32) -> Vec<Vec<u8>> {
        while self.written < self.to_write && self.kcp.wait_snd() < 256 {
            let end = (self.written + 10_000).min(self.to_write);
            let bytes: Vec<u8> = (self.written..end).map(byte_at).collect();
            self.written += self.kcp.send(&bytes).unwrap() as u64;
        }
        let mut buf = vec![0; 65_536];
        while let Ok(size) = self.kcp.recv(&mut buf) {
            assert!(buf[..size].iter().zip(self.read..).all(|(&byte, place)| byte == byte_at(place)));
            self.read += size as u64;
        }
        self.kcp.update(milliseconds).unwrap();
        self.outbox.0.take()
    }
}

/// Both directions at once between ours and the other; gives the time that it took.
fn exchange(
    link: LinkConfig,
    config: KcpConfig,
    stream: bool,
    ours_writes: u64,
    other_writes: u64,
) -> Duration {
    #[allow(clippy::disallowed_methods)] // All times are relative to it.
    let epoch = Instant::now();
    let mut there = Link::new(link, 1);
    let mut back = Link::new(link, 2);
    let mut ours = Kcp::new(77, config, epoch);
    let mut other = Other::new(77, stream, other_writes);
    let (mut written, mut read) = (0, 0);
    let mut buf = [0; 1_500];
    for milliseconds in 0..600_000_u32 {
        let time = Duration::from_millis(milliseconds.into());
        let now = epoch + time;
        while let Some((_, datagram)) = there.receive(time) {
            other.kcp.input(&datagram).unwrap();
        }
        while let Some((_, datagram)) = back.receive(time) {
            ours.handle_datagram(&datagram, now).unwrap();
        }
        for datagram in other.run(milliseconds) {
            back.send(time, 0, &datagram);
        }
        ours.handle_timeout(now);
        while written < ours_writes && ours.writable() > 0 {
            let end = (written + 4_096).min(ours_writes);
            let bytes: Vec<u8> = (written..end).map(byte_at).collect();
            written += ours.write(&bytes) as u64;
        }
        while !ours.peek().is_empty() {
            let size = ours.peek().len();
            assert!(ours.peek().iter().zip(read..).all(|(&byte, place)| byte == byte_at(place)));
            read += size as u64;
            ours.consume(size);
        }
        while let Some(size) = ours.poll_transmit(now, &mut buf) {
            there.send(time, 0, &buf[..size]);
        }
        if other.read == ours_writes && read == other_writes && ours.unacknowledged() == 0 {
            return time;
        }
    }
    panic!("{} of {ours_writes} there, {read} of {other_writes} back", other.read);
}

fn links() -> [LinkConfig; 3] {
    let delay = Duration::from_millis(10);
    let perfect = LinkConfig { delay, ..LinkConfig::default() };
    [
        perfect,
        LinkConfig { loss: 0.1, ..perfect },
        LinkConfig { loss: 0.2, reorder: 0.2, duplicate: 0.1, corrupt: 0.01, ..perfect },
    ]
}

fn configs() -> [KcpConfig; 3] {
    let none =
        |mode| KcpConfig { mode, congestion: Congestion::None, send_window: 512, ..KcpConfig::default() };
    [KcpConfig::default(), none(Mode::FAST2), none(Mode { no_congestion_window: false, ..Mode::NORMAL })]
}

#[test]
fn ours_sends_and_another_implementation_receives() {
    for link in links() {
        for config in configs() {
            exchange(link, config, true, 400_000, 0);
        }
    }
}

#[test]
fn another_implementation_sends_and_ours_receives() {
    for link in links() {
        for config in configs() {
            exchange(link, config, true, 0, 400_000);
        }
    }
}

#[test]
fn both_send_at_once() {
    for link in links() {
        for config in configs() {
            exchange(link, config, true, 200_000, 200_000);
        }
    }
}

/// Without stream mode a message comes in fragments that count down.
#[test]
fn messages_of_another_implementation_are_read_as_a_stream() {
    for link in links() {
        exchange(link, KcpConfig::default(), false, 0, 300_000);
    }
}

/// An implementation that acknowledges every 20 ms must not look like a path of little bandwidth.
#[test]
fn a_peer_that_acknowledges_in_bunches_is_sent_to_at_full_rate() {
    let link = LinkConfig {
        delay: Duration::from_millis(1),
        rate: 12_500_000,
        queue: 250_000,
        ..Default::default()
    };
    let time = exchange(link, KcpConfig::default(), true, 10_000_000, 0);
    assert!(time < Duration::from_millis(1_600), "{time:?} for 0.8 s of line rate");
}
