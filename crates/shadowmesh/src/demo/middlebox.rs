//! A network between two machines, in this process: it delays packets, loses some, has a rate, and may block UDP.
//!
//! ```text
//!  namespace "left"          this thread            namespace "right"
//!  192.0.2.1 on wire0 ══► rate, queue, delay, loss ══► 192.0.2.2 on wire0
//! ```
//!
//! The wires are TUN devices, so it needs no firewall and no traffic control of the kernel.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net};
use os::netns::Netns;
use os::poll::{Events, Interest, Poller};
use os::tun::{TunConfig, TunDevice, TunQueue};
use packet::{Tun, VnetHeader};

use super::failure::{Context, Failure, Outcome};
use super::world::WIRE;

/// Bits a second, each way.
pub(super) const RATE_BPS: u64 = 100_000_000;
/// One way.
pub(super) const DELAY: Duration = Duration::from_millis(10);
/// What waits for the rate takes at most this long to leave; more is dropped.
const QUEUE_MAX: Duration = Duration::from_millis(50);
const MTU: u16 = 1_500;
/// `IPPROTO_UDP`, and where an IPv4 header says so.
const UDP: u8 = 17;
const PROTOCOL_AT: usize = VnetHeader::LEN + 9;

/// The network; it ends when this is dropped, and its wires with it.
pub(super) struct Middlebox {
    knobs: Arc<Knobs>,
    relay: Option<JoinHandle<()>>,
    _wires: [TunDevice; 2],
}

/// What can be changed while packets flow.
#[derive(Default)]
struct Knobs {
    stop: AtomicBool,
    udp_blocked: AtomicBool,
    /// Packets lost of a thousand, each way.
    lost_of_1000: AtomicU32,
}

impl Middlebox {
    /// Joins two namespaces, which have these addresses in one /24.
    pub(super) fn between(left: (&Netns, Ipv4Addr), right: (&Netns, Ipv4Addr)) -> Outcome<Self> {
        let (left_wire, left_queue) = wire(left.0, left.1)?;
        let (right_wire, right_queue) = wire(right.0, right.1)?;
        let knobs = Arc::new(Knobs::default());
        let poller = Poller::new().context("cannot wait for packets")?;
        for (queue, token) in [(&left_queue, 0), (&right_queue, 1)] {
            poller.add(queue, token, Interest::READ).context("cannot wait for packets")?;
        }
        let shared = Arc::clone(&knobs);
        let relay = thread::Builder::new()
            .name("demo-network".into())
            .spawn(move || relay(&poller, [left_queue, right_queue], &shared))
            .context("cannot start a thread")?;
        Ok(Self { knobs, relay: Some(relay), _wires: [left_wire, right_wire] })
    }

    pub(super) fn block_udp(&self, blocked: bool) {
        self.knobs.udp_blocked.store(blocked, Relaxed);
    }

    pub(super) fn lose(&self, of_1000: u32) {
        self.knobs.lost_of_1000.store(of_1000, Relaxed);
    }
}

impl Drop for Middlebox {
    fn drop(&mut self) {
        self.knobs.stop.store(true, Relaxed);
        let _ = self.relay.take().map(JoinHandle::join);
    }
}

fn wire(netns: &Netns, address: Ipv4Addr) -> Outcome<(TunDevice, TunQueue)> {
    let config = TunConfig {
        name: WIRE.into(),
        queues: 1,
        mtu: MTU,
        addresses: vec![IpNet::V4(Ipv4Net::new_assert(address, 24))],
        routes: Vec::new(),
        // Single packets: what is lost is one of them, and not a train.
        offload: false,
        gso_max_bytes: None,
    };
    let made = netns.run(|| TunDevice::create(&config)).context("cannot enter a namespace")?;
    let (device, queues) = made.context("cannot make a wire")?;
    match queues.into_iter().next() {
        Some(queue) => Ok((device, queue)),
        None => Err(Failure::new("a wire has no queue")),
    }
}

/// One direction.
#[derive(Default)]
struct Way {
    /// Packets, and when they arrive.
    flying: VecDeque<(Instant, Vec<u8>)>,
    /// When all that waits for the rate will have left.
    busy_until: Option<Instant>,
}

impl Way {
    fn enter(&mut self, now: Instant, packet: &[u8]) {
        let leaves = self.busy_until.map_or(now, |until| until.max(now));
        if leaves > now + QUEUE_MAX {
            return;
        }
        let takes = Duration::from_nanos(packet.len() as u64 * 8 * 1_000_000_000 / RATE_BPS);
        self.busy_until = Some(leaves + takes);
        self.flying.push_back((leaves + takes + DELAY, packet.to_vec()));
    }
}

fn relay(poller: &Poller, mut queues: [TunQueue; 2], knobs: &Knobs) {
    let mut events = Events::with_capacity(2);
    let mut ways = [Way::default(), Way::default()];
    let mut dice: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut packet = vec![0; VnetHeader::LEN + usize::from(MTU)];
    while !knobs.stop.load(Relaxed) {
        let now = Instant::now();
        let due =
            ways.iter().filter_map(|way| way.flying.front()).map(|(at, _)| at.saturating_duration_since(now));
        // To be told to stop, it looks up now and then.
        let timeout = due.min().unwrap_or(DELAY).min(DELAY);
        if poller.wait(&mut events, Some(timeout)).is_err() {
            return;
        }
        let now = Instant::now();
        for (queue, way) in queues.iter_mut().zip(&mut ways) {
            while let Ok(len) = queue.recv(&mut [IoSliceMut::new(&mut packet)]) {
                // xorshift64 (Marsaglia, 2003): nobody wins by guessing it.
                dice ^= dice << 13;
                dice ^= dice >> 7;
                dice ^= dice << 17;
                let blocked = knobs.udp_blocked.load(Relaxed) && packet.get(PROTOCOL_AT) == Some(&UDP);
                if !blocked && dice % 1_000 >= u64::from(knobs.lost_of_1000.load(Relaxed)) {
                    way.enter(now, &packet[..len]);
                }
            }
        }
        let [left, right] = &mut queues;
        for (way, far) in ways.iter_mut().zip([right, left]) {
            while let Some((_, packet)) = way.flying.pop_front_if(|(at, _)| *at <= now) {
                // A machine that takes nothing loses it.
                let _ = far.send(&[IoSlice::new(&packet)]);
            }
        }
    }
}
