//! What one system call costs here: trains and single datagrams over loopback, by UDP and TCP, packets into a TUN device.
//!
//! `cargo run --release -p os --example rates`; the TUN part needs root.

#![expect(clippy::print_stdout, reason = "a program for the terminal")]

use std::error::Error;
use std::io::IoSlice;
use std::time::{Duration, Instant};

use os::netns::Netns;
use os::tcp::TcpConfig;
use os::tun::{TunConfig, TunDevice};
use os::udp::{UdpConfig, bind};
use packet::{Ecn, Link, RecvSlot, Transmit, Tun, VnetHeader};

fn main() -> Result<(), Box<dyn Error>> {
    for (offload, segments, size) in [(true, 45, 1400), (false, 45, 1400), (true, 1, 1400), (true, 1, 64)] {
        udp(offload, segments, size)?;
    }
    for (segments, size) in [(45, 1400), (1, 1400), (1, 64)] {
        tcp(segments, size)?;
    }
    tun()
}

/// Sends what the connection takes, and receives it, in turn.
fn tcp(segments: usize, size: usize) -> Result<(), Box<dyn Error>> {
    let config = TcpConfig {
        listen: Some("127.0.0.1:0".parse()?),
        workers: 1,
        send_buffer_bytes: 0,
        receive_buffer_bytes: 0,
    };
    let (mut there, listener) = os::tcp::bind(config.clone())?;
    let (mut here, handle) = os::tcp::bind(config)?;
    let (a, b) = (&mut here[0], &mut there[0]);
    let to = listener.listen_address().ok_or("no address")?;
    handle.dial(to)?;
    let mut slots: Vec<RecvSlot> = (0..4).map(|_| RecvSlot::new(65_729)).collect();
    while !handle.is_open(to) || listener.connections().is_empty() {
        let _ = (a.recv(&mut slots), b.recv(&mut slots));
    }
    let contents = vec![7; segments * size];
    let transmit = Transmit { to, ecn: Ecn::NotEct, segment_size: size, contents: &contents };
    let (mut sending, mut receiving) = (Duration::ZERO, Duration::ZERO);
    let mut bytes = 0_usize;
    let burst = if segments == 1 { 32 } else { 1 };
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(1) {
        let before = Instant::now();
        for _ in 0..burst {
            let _ = a.send(&transmit);
        }
        let between = Instant::now();
        while let Ok(count) = b.recv(&mut slots) {
            bytes += slots[..count].iter().map(|slot| slot.len).sum::<usize>();
        }
        receiving += between.elapsed();
        sending += between - before;
        // Where the sender learns that there is room again.
        let _ = a.recv(&mut slots);
    }
    let nanos = |time: Duration| time.as_secs_f64() * 1e9 / (bytes as f64 / size as f64);
    println!(
        "TCP, {segments:2} × {size:4} bytes: {:5.0} ns to send and {:5.0} ns to receive a datagram, {:5.1} Gbit/s",
        nanos(sending),
        nanos(receiving),
        bytes as f64 * 8.0 / start.elapsed().as_secs_f64() / 1e9,
    );
    Ok(())
}

/// Sends and receives in turn, so that nothing is lost.
fn udp(offload: bool, segments: usize, size: usize) -> Result<(), Box<dyn Error>> {
    let listen = "127.0.0.1:0".parse()?;
    let config =
        UdpConfig { listen, workers: 1, send_buffer_bytes: 8 << 20, receive_buffer_bytes: 8 << 20, offload };
    let (mut a, mut b) = (bind(&config)?.remove(0), bind(&config)?.remove(0));
    let contents = vec![7; segments * size];
    let transmit =
        Transmit { to: b.local_addr()?, ecn: Ecn::NotEct, segment_size: size, contents: &contents };
    let mut slots: Vec<RecvSlot> = (0..64).map(|_| RecvSlot::new(65_535)).collect();
    let (mut sending, mut receiving) = (Duration::ZERO, Duration::ZERO);
    let (mut trains, mut bytes) = (0_u32, 0_usize);
    let burst = if segments == 1 { 32 } else { 1 };
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(1) {
        let before = Instant::now();
        for _ in 0..burst {
            a.send(&transmit)?;
        }
        let between = Instant::now();
        while let Ok(count) = b.recv(&mut slots) {
            bytes += slots[..count].iter().map(|slot| slot.len).sum::<usize>();
        }
        sending += between - before;
        receiving += between.elapsed();
        trains += burst;
    }
    let packets = f64::from(trains) * segments as f64;
    let nanos = |time: Duration| time.as_secs_f64() * 1e9 / packets;
    println!(
        "UDP, offload {offload:5}, {segments:2} × {size:4} bytes: {:5.0} ns to send and {:5.0} ns to receive a datagram, \
         {:5.1} Gbit/s, {:.1} % received",
        nanos(sending),
        nanos(receiving),
        bytes as f64 * 8.0 / start.elapsed().as_secs_f64() / 1e9,
        bytes as f64 / (packets * size as f64) * 100.0,
    );
    Ok(())
}

/// Writes packets that the kernel drops at once (no such port), to see the driver's cost alone.
fn tun() -> Result<(), Box<dyn Error>> {
    let namespace = Netns::new()?;
    let config = TunConfig {
        name: "rates0".into(),
        queues: 1,
        mtu: 1420,
        addresses: vec!["10.77.0.1/24".parse()?],
        routes: Vec::new(),
        offload: true,
        gso_max_bytes: None,
    };
    let (_device, mut queues) = namespace.run(|| TunDevice::create(&config))??;
    let mut packet = vec![0; 1400];
    packet[0] = 4 << 4 | 5;
    packet[2..4].copy_from_slice(&1400u16.to_be_bytes());
    packet[8..10].copy_from_slice(&[64, 253]); // TTL, an experimental protocol (RFC 3692)
    packet[12..20].copy_from_slice(&[10, 77, 0, 2, 10, 77, 0, 9]);
    let header = VnetHeader::default().to_bytes();
    let start = Instant::now();
    let mut packets = 0_u32;
    while start.elapsed() < Duration::from_secs(1) {
        for _ in 0..64 {
            queues[0].send(&[IoSlice::new(&header), IoSlice::new(&packet)])?;
        }
        packets += 64;
    }
    println!(
        "TUN: {:.0} ns to write a packet of 1400 bytes",
        start.elapsed().as_secs_f64() * 1e9 / f64::from(packets)
    );
    Ok(())
}
