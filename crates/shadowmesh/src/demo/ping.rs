//! ICMP echo through the overlay (RFC 792), without an installed tool.

use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::thread;
use std::time::{Duration, Instant};

use os::netns::Netns;
use packet::checksum;
use socket2::{Domain, Protocol, Socket, Type};

use super::failure::{Context, Failure, Outcome};

/// After this long without an answer, an echo request counts as lost.
const TIMEOUT: Duration = Duration::from_secs(1);

/// After this many in a row without an answer, the rest need not be tried.
const UNANSWERED_MAX: u32 = 3;

const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;
const HEADER_LEN: usize = 8;
/// As much as `ping` sends.
const PAYLOAD_LEN: usize = 56;

/// The round-trip times of the echo requests that were answered.
#[derive(Clone, Debug, Default)]
pub(super) struct Echoes {
    /// How many were sent.
    pub(super) sent: usize,
    /// From the shortest to the longest.
    pub(super) round_trips: Vec<Duration>,
}

impl Echoes {
    /// How many were not answered.
    pub(super) fn lost(&self) -> usize {
        self.sent - self.round_trips.len()
    }

    /// The mean; `None` without any answer.
    pub(super) fn average(&self) -> Option<Duration> {
        let count = u32::try_from(self.round_trips.len()).ok().filter(|&count| count > 0)?;
        Some(self.round_trips.iter().sum::<Duration>() / count)
    }

    /// The shortest time that is not exceeded by `percent` of all; `None` without any answer.
    pub(super) fn percentile(&self, percent: usize) -> Option<Duration> {
        let rank = (self.round_trips.len() * percent).div_ceil(100).max(1);
        self.round_trips.get(rank - 1).copied()
    }
}

/// Pings `target` from a namespace `count` times, one after the other and `interval` apart. `tick` hears how
/// many are done.
pub(super) fn ping(
    from: &Netns,
    target: Ipv4Addr,
    count: u16,
    interval: Duration,
    mut tick: impl FnMut(u16),
) -> Outcome<Echoes> {
    let socket = from
        .run(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)))
        .and_then(|socket| socket)
        .context("cannot make an ICMP socket")?;
    socket.connect(&SocketAddrV4::new(target, 0).into()).context(format_args!("no route to {target}"))?;

    let identifier = std::process::id() as u16;
    let mut echoes = Echoes::default();
    let mut unanswered = 0;
    for sequence in 1..=count {
        let sent_at = Instant::now();
        echoes.sent += 1;
        // What cannot be sent is as lost as what is not answered.
        if socket.send(&echo_request(identifier, sequence)).is_ok()
            && await_reply(&socket, identifier, sequence, sent_at + TIMEOUT).context("cannot receive")?
        {
            echoes.round_trips.push(sent_at.elapsed());
            unanswered = 0;
        } else {
            unanswered += 1;
        }
        if unanswered == UNANSWERED_MAX {
            return Err(Failure::new(format!("{target} did not answer {UNANSWERED_MAX} pings in a row")));
        }
        tick(sequence);
        thread::sleep((sent_at + interval).saturating_duration_since(Instant::now()));
    }
    echoes.round_trips.sort_unstable();
    Ok(echoes)
}

/// Waits for the answer to one request, and says whether it came in time.
fn await_reply(socket: &Socket, identifier: u16, sequence: u16, deadline: Instant) -> std::io::Result<bool> {
    let mut buffer = [0; 2048];
    let mut reader = socket;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        socket.set_read_timeout(Some(left))?;
        match reader.read(&mut buffer) {
            Ok(len) if is_reply(&buffer[..len], identifier, sequence) => return Ok(true),
            // A raw socket sees all ICMP of its namespace.
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
}

/// ```text
///  0       1       2..3       4..5         6..7       8..
///  type    code    checksum   identifier   sequence   payload
/// ```
fn echo_request(identifier: u16, sequence: u16) -> [u8; HEADER_LEN + PAYLOAD_LEN] {
    let mut message = [0; HEADER_LEN + PAYLOAD_LEN];
    message[0] = ECHO_REQUEST;
    message[4..6].copy_from_slice(&identifier.to_be_bytes());
    message[6..8].copy_from_slice(&sequence.to_be_bytes());
    message[HEADER_LEN..].copy_from_slice(&payload(sequence));
    let sum = checksum::sum(&message, 0);
    message[2..4].copy_from_slice(&(!checksum::fold(sum)).to_be_bytes());
    message
}

/// Whether an IPv4 packet is the answer to the request with that identifier and sequence number.
fn is_reply(packet: &[u8], identifier: u16, sequence: u16) -> bool {
    let header_len = packet.first().map_or(0, |first| usize::from(first & 0x0f) * 4);
    let Some(message) = packet.get(header_len..).filter(|message| message.len() == HEADER_LEN + PAYLOAD_LEN)
    else {
        return false;
    };
    message[0] == ECHO_REPLY
        && message[4..6] == identifier.to_be_bytes()
        && message[6..8] == sequence.to_be_bytes()
        && message[HEADER_LEN..] == payload(sequence)
}

/// Different in each request, so that an answer with another's payload does not pass.
fn payload(sequence: u16) -> [u8; PAYLOAD_LEN] {
    std::array::from_fn(|index| (sequence as u8).wrapping_mul(31).wrapping_add(index as u8))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echoes(sent: usize, micros: &[u64]) -> Echoes {
        Echoes { sent, round_trips: micros.iter().copied().map(Duration::from_micros).collect() }
    }

    #[test]
    fn percentiles_take_the_nearest_rank() {
        let hundred: Vec<u64> = (1..=100).collect();
        let echoes = echoes(100, &hundred);
        assert_eq!(echoes.percentile(50), Some(Duration::from_micros(50)));
        assert_eq!(echoes.percentile(99), Some(Duration::from_micros(99)));
        assert_eq!(echoes.percentile(100), Some(Duration::from_micros(100)));
        assert_eq!(echoes.average(), Some(Duration::from_nanos(50_500)));
        assert_eq!(echoes.lost(), 0);
    }

    #[test]
    fn without_an_answer_there_is_no_time() {
        let echoes = echoes(3, &[]);
        assert_eq!((echoes.lost(), echoes.average(), echoes.percentile(99)), (3, None, None));
        assert_eq!(Echoes { sent: 1, ..echoes }.lost(), 1);
    }

    #[test]
    fn one_answer_is_every_percentile() {
        let echoes = echoes(2, &[70]);
        assert_eq!(echoes.percentile(1), Some(Duration::from_micros(70)));
        assert_eq!(echoes.percentile(99), Some(Duration::from_micros(70)));
        assert_eq!(echoes.lost(), 1);
    }

    #[test]
    fn a_request_has_a_valid_checksum_and_only_its_own_reply_is_taken() {
        let request = echo_request(7, 300);
        assert_eq!(checksum::fold(checksum::sum(&request, 0)), 0xffff);

        let mut reply = vec![0x45; 20];
        reply.extend_from_slice(&request);
        assert!(!is_reply(&reply, 7, 300), "our own request is no answer");
        reply[20] = ECHO_REPLY;
        assert!(is_reply(&reply, 7, 300));
        assert!(!is_reply(&reply, 8, 300));
        assert!(!is_reply(&reply, 7, 301));
        *reply.last_mut().unwrap() ^= 1;
        assert!(!is_reply(&reply, 7, 300));
        for len in 0..reply.len() {
            assert!(!is_reply(&reply[..len], 7, 300));
        }
    }
}
