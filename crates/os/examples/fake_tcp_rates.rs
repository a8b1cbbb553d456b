//! What crafted TCP segments cost beside UDP datagrams: trains from one network namespace to another, over a cable.
//!
//! `cargo run --release -p os --example fake_tcp_rates`; needs root.

#![expect(clippy::print_stdout, reason = "a program for the terminal")]

use std::error::Error;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use carrier::fake_tcp::FlagCycle;
use carrier::guard::GuardKey;
use os::fake_tcp::{FakeTcpConfig, FakeTcpHandle, FakeTcpLink};
use os::netns::{Netns, veth_pair};
use os::udp::{UdpConfig, UdpLink};
use packet::{Ecn, Link, MAX_PACKET, RecvSlot, Transmit};

const TIME: Duration = Duration::from_millis(700);
const ROUNDS: usize = 3;
const BUFFER_BYTES: usize = 8 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let [left, right] = [Netns::new()?, Netns::new()?];
    veth_pair(&left, "eth0", &right, "eth0")?;
    for (host, number) in [(&left, 1), (&right, 2)] {
        let mut netlink = host.netlink()?;
        let index = netlink.link_index("eth0")?;
        netlink.add_address(index, format!("10.1.0.{number}/24").parse()?)?;
    }
    let port = 9443;
    let to = SocketAddr::from(([10, 1, 0, 2], port));
    let mut udp = [udp(&left, 0)?, udp(&right, port)?];
    let (client, handle) = fake_tcp(&left, None)?;
    let (server, _handle) = fake_tcp(&right, Some(SocketAddr::from(([0; 4], port))))?;
    let mut fake = [client, server];
    connect(&mut fake, &handle, to)?;

    for (segments, size) in [(45, 1_400), (1, 1_400), (64, 64), (1, 64)] {
        let mut rates = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            let [a, b] = &mut udp;
            rates[0].push(measure(a, b, to, segments, size)?);
            let [a, b] = &mut fake;
            rates[1].push(measure(a, b, to, segments, size)?);
        }
        let [udp, fake] = rates.map(|mut rates| {
            rates.sort_by(|a, b| a.gbit_s.total_cmp(&b.gbit_s));
            rates[ROUNDS / 2]
        });
        println!(
            "{segments:2} × {size:4} bytes: UDP {udp}, fake TCP {fake}: {:.0} %",
            fake.gbit_s / udp.gbit_s * 100.0
        );
    }
    Ok(())
}

fn udp(host: &Netns, port: u16) -> Result<UdpLink, Box<dyn Error>> {
    let config = UdpConfig {
        listen: SocketAddr::from(([0; 4], port)),
        workers: 1,
        send_buffer_bytes: BUFFER_BYTES,
        receive_buffer_bytes: BUFFER_BYTES,
        offload: true,
    };
    Ok(host.run(|| os::udp::bind(&config))??.remove(0))
}

fn fake_tcp(
    host: &Netns,
    listen: Option<SocketAddr>,
) -> Result<(FakeTcpLink, FakeTcpHandle), Box<dyn Error>> {
    let config = FakeTcpConfig {
        listen,
        workers: 1,
        send_buffer_bytes: BUFFER_BYTES,
        receive_buffer_bytes: BUFFER_BYTES,
        offload: true,
        listen_key: GuardKey::derive(&[7; 32], None),
        secret: [listen.is_some().into(); 32],
        local_flags: FlagCycle::default(),
        remote_flags: FlagCycle::default(),
    };
    let (mut links, handle) = host.run(|| os::fake_tcp::bind(config))??;
    Ok((links.remove(0), handle))
}

fn connect(
    links: &mut [FakeTcpLink; 2],
    handle: &FakeTcpHandle,
    to: SocketAddr,
) -> Result<(), Box<dyn Error>> {
    handle.dial(to, GuardKey::derive(&[7; 32], None))?;
    let mut slots = [RecvSlot::new(MAX_PACKET)];
    while !handle.is_open(to) {
        for link in links.iter_mut() {
            link.handle_timeout(Instant::now());
            let _ = link.recv(&mut slots);
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Rate {
    gbit_s: f64,
    send_ns: f64,
    receive_ns: f64,
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { gbit_s, send_ns, receive_ns } = self;
        write!(f, "{gbit_s:5.2} Gbit/s ({send_ns:5.0} ns to send, {receive_ns:5.0} ns to receive a datagram)")
    }
}

/// Sends and receives in turn, so that nothing is lost. One core does both ends' work.
fn measure(
    from: &mut impl Link,
    into: &mut impl Link,
    to: SocketAddr,
    segments: usize,
    size: usize,
) -> Result<Rate, Box<dyn Error>> {
    let mut contents = vec![0x5a; segments * size];
    // What a sealed datagram begins with; the masks are made from its second 16 bytes.
    contents.chunks_mut(size).enumerate().for_each(|(n, datagram)| {
        datagram[..4].copy_from_slice(&[20, 0, 0, 0]);
        datagram[16..18].copy_from_slice(&(n as u16).to_le_bytes());
    });
    let transmit = Transmit { to, ecn: Ecn::NotEct, segment_size: size, contents: &contents };
    let mut slots: Vec<RecvSlot> = (0..64).map(|_| RecvSlot::new(MAX_PACKET + 193)).collect();
    let (mut sending, mut receiving) = (Duration::ZERO, Duration::ZERO);
    let (mut datagrams, mut bytes) = (0, 0);
    let burst = if segments == 1 { 32 } else { 1 };
    let start = Instant::now();
    while start.elapsed() < TIME {
        let before = Instant::now();
        for _ in 0..burst {
            from.send(&transmit)?;
        }
        let between = Instant::now();
        while let Ok(count) = into.recv(&mut slots) {
            bytes += slots[..count].iter().map(|slot| slot.len).sum::<usize>();
        }
        sending += between - before;
        receiving += between.elapsed();
        datagrams += burst * segments;
    }
    let elapsed = start.elapsed();
    // Nothing that was not received counts.
    let received = bytes as f64 / size as f64;
    if received < datagrams as f64 * 0.99 {
        return Err(format!("only {received} of {datagrams} datagrams arrived").into());
    }
    Ok(Rate {
        gbit_s: bytes as f64 * 8.0 / elapsed.as_secs_f64() / 1e9,
        send_ns: sending.as_secs_f64() * 1e9 / received,
        receive_ns: receiving.as_secs_f64() * 1e9 / received,
    })
}
