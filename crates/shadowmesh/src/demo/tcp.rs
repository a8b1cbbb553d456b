//! TCP through the overlay: a generator that checks every byte it receives.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use os::netns::Netns;

use super::failure::{Context, Failure, Outcome};
use super::pattern::Pattern;

/// How long a connection may be silent before the transfer counts as broken.
const STALL_MAX: Duration = Duration::from_secs(5);
/// How often the caller of [`Flows::run`] hears how far it is.
const TICK: Duration = Duration::from_millis(80);

/// Connected TCP flows from one namespace to another.
pub(super) struct Flows {
    /// The sending and the receiving end of each.
    ends: Vec<(TcpStream, TcpStream)>,
}

/// What was transferred.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transferred {
    /// Bytes received, all of them as they were sent.
    pub(super) bytes: u64,
    /// From the first write to the last read.
    pub(super) elapsed: Duration,
    /// The longest time a receiver waited for more.
    pub(super) gap: Duration,
}

impl Transferred {
    /// Payload bits a second.
    pub(super) fn bits_per_second(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.elapsed.as_secs_f64()
    }
}

impl Flows {
    /// Connects `count` flows from `from` to `address`, an address of `to`.
    pub(super) fn open(from: &Netns, to: &Netns, address: Ipv4Addr, count: usize) -> Outcome<Self> {
        let listener = to
            .run(|| TcpListener::bind((address, 0)))
            .and_then(|bound| bound)
            .context(format_args!("cannot listen on {address}"))?;
        let target = listener.local_addr().context("cannot listen")?;
        let ends = (0..count).map(|_| connect(from, &listener, target)).collect::<io::Result<_>>();
        Ok(Self { ends: ends.context(format_args!("cannot connect to {target}"))? })
    }

    /// One flow, from the first of these connected ends to the second.
    pub(super) fn of(sender: TcpStream, receiver: TcpStream) -> io::Result<Self> {
        sender.set_write_timeout(Some(STALL_MAX))?;
        receiver.set_read_timeout(Some(STALL_MAX))?;
        Ok(Self { ends: vec![(sender, receiver)] })
    }

    /// Sends on all flows for `duration` and checks what arrives. Meanwhile `tick` hears the time passed and
    /// the bytes received so far.
    pub(super) fn run(
        self,
        pattern: &Pattern,
        duration: Duration,
        mut tick: impl FnMut(Duration, u64),
    ) -> Outcome<Transferred> {
        let (stop, verified) = (&AtomicBool::new(false), &AtomicU64::new(0));
        let start = Instant::now();
        thread::scope(|scope| {
            let flows: Vec<_> = (0..)
                .zip(&self.ends)
                .map(|(flow, (sender, receiver))| {
                    let sender = scope.spawn(move || send(sender, pattern, flow, stop));
                    let receiver = scope.spawn(move || receive(receiver, pattern, flow, verified));
                    (sender, receiver)
                })
                .collect();
            while start.elapsed() < duration && !flows.iter().any(|(_, receiver)| receiver.is_finished()) {
                thread::sleep(TICK.min(duration.saturating_sub(start.elapsed())));
                tick(start.elapsed(), verified.load(Relaxed));
            }
            stop.store(true, Relaxed);

            let mut gap = Duration::ZERO;
            for (flow, (sender, receiver)) in flows.into_iter().enumerate() {
                // The receiver's account comes first: when it gives up, the sender only sees a closed
                // connection.
                let received = receiver.join().map_err(|_| Failure::new("the receiver panicked"))??;
                let sent = sender
                    .join()
                    .map_err(|_| Failure::new("the sender panicked"))?
                    .context("sending failed")?;
                if sent != received.bytes {
                    return Err(Failure::new(format!(
                        "flow {flow}: {sent} bytes were sent, {} arrived",
                        received.bytes
                    )));
                }
                gap = gap.max(received.gap);
            }
            Ok(Transferred { bytes: verified.load(Relaxed), elapsed: start.elapsed(), gap })
        })
    }
}

fn connect(from: &Netns, listener: &TcpListener, target: SocketAddr) -> io::Result<(TcpStream, TcpStream)> {
    let sender = from.run(|| TcpStream::connect_timeout(&target, STALL_MAX))??;
    // The last segment of the TCP handshake may be lost, so that there is nothing to accept yet.
    socket2::SockRef::from(listener).set_read_timeout(Some(STALL_MAX))?;
    let (receiver, _) = listener.accept()?;
    sender.set_write_timeout(Some(STALL_MAX))?;
    receiver.set_read_timeout(Some(STALL_MAX))?;
    Ok((sender, receiver))
}

/// Writes the flow until told to stop, and says how many bytes that was.
fn send(mut socket: &TcpStream, pattern: &Pattern, flow: u64, stop: &AtomicBool) -> io::Result<u64> {
    let mut offset = 0;
    while !stop.load(Relaxed) {
        match socket.write(pattern.at(flow, offset)) {
            Ok(written) => offset += written as u64,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    socket.shutdown(Shutdown::Write)?;
    Ok(offset)
}

struct Received {
    bytes: u64,
    gap: Duration,
}

/// Reads the flow to its end, each byte compared with what was sent.
fn receive(socket: &TcpStream, pattern: &Pattern, flow: u64, verified: &AtomicU64) -> Outcome<Received> {
    let result = receive_all(socket, pattern, flow, verified);
    if result.is_err() {
        // So that the sender does not wait for a reader that is gone. That it is closed already does not
        // matter.
        let _ = socket.shutdown(Shutdown::Both);
    }
    result
}

fn receive_all(
    mut socket: &TcpStream,
    pattern: &Pattern,
    flow: u64,
    verified: &AtomicU64,
) -> Outcome<Received> {
    let mut buffer = vec![0; Pattern::CHUNK];
    let mut received = Received { bytes: 0, gap: Duration::ZERO };
    let mut last = Instant::now();
    loop {
        let len = match socket.read(&mut buffer) {
            Ok(0) => return Ok(received),
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Err(Failure::new(format!(
                    "flow {flow}: nothing arrived for {} s after {} bytes",
                    STALL_MAX.as_secs(),
                    received.bytes
                )));
            }
            Err(error) => return Err(error).context(format_args!("flow {flow}: receiving failed")),
        };
        let now = Instant::now();
        received.gap = received.gap.max(now - last);
        last = now;
        pattern
            .verify(flow, received.bytes, &buffer[..len])
            .map_err(|offset| Failure::new(format!("flow {flow}: byte {offset} is not what was sent")))?;
        received.bytes += len as u64;
        verified.fetch_add(len as u64, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(50);

    fn loopback() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (sender, listener.accept().unwrap().0)
    }

    /// What the receiver says when these bytes arrive as flow 0.
    fn received(bytes: &[u8]) -> Outcome<Received> {
        let (mut sender, receiver) = loopback();
        thread::scope(|scope| {
            let pattern = Pattern::new(1);
            // The receiver may hang up before all is written.
            scope.spawn(move || sender.write_all(bytes));
            receive(&receiver, &pattern, 0, &AtomicU64::new(0))
        })
    }

    #[test]
    fn several_flows_arrive_whole_and_are_shown_on_the_way() {
        let flows = Flows { ends: vec![loopback(), loopback(), loopback()] };
        let mut shown = Vec::new();
        let transferred =
            flows.run(&Pattern::new(1), 4 * SHORT, |elapsed, bytes| shown.push((elapsed, bytes))).unwrap();
        assert!(transferred.elapsed >= 4 * SHORT);
        assert!(shown.is_sorted());
        let (_, last) = *shown.last().unwrap();
        assert!(0 < last && last <= transferred.bytes, "{last} of {}", transferred.bytes);
    }

    #[test]
    fn a_wrong_byte_ends_the_transfer_with_its_place() {
        let pattern = Pattern::new(1);
        let mut bytes = [pattern.at(0, 0), pattern.at(0, Pattern::CHUNK as u64)].concat();
        assert_eq!(received(&bytes).unwrap().bytes, bytes.len() as u64);
        bytes[300_000] ^= 0x80;
        let failure = received(&bytes).err().unwrap();
        assert_eq!(failure.to_string(), "flow 0: byte 300000 is not what was sent");
    }

    #[test]
    fn a_connection_that_loses_its_end_fails_the_transfer() {
        let (sender, receiver) = loopback();
        let other_end = receiver.try_clone().unwrap();
        let flows = Flows { ends: vec![(sender, receiver)] };
        let mut ticks = 0;
        let result = flows.run(&Pattern::new(1), Duration::from_mins(1), |_, _| {
            ticks += 1;
            // Cutting the reading side makes the account of the two ends differ.
            other_end.shutdown(Shutdown::Both).unwrap_or_default();
        });
        assert!(result.is_err());
        assert!(ticks > 0);
    }
}
