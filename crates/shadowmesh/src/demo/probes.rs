//! Numbered UDP packets at an even pace: what is lost, and how long nothing comes.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use os::netns::Netns;
use socket2::SockRef;

use super::failure::{Context, Failure, Outcome};
use super::pattern::Pattern;

/// How long the receiver waits for packets under way once the last was sent.
const LINGER: Duration = Duration::from_millis(500);
/// Room for half a second of packets while the receiving thread is not scheduled: the demo measures the
/// tunnel, not its own socket. The kernel may give less.
const RECEIVE_BUFFER: usize = 4 << 20;

/// How densely probes follow each other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Packets sent at once, each time.
    pub(super) burst: u64,
    /// Between two times.
    pub(super) interval: Duration,
    /// UDP payload of each, bytes; at least eight.
    pub(super) size: usize,
}

/// A pair of sockets, one in each namespace.
pub(super) struct Probes {
    sender: UdpSocket,
    receiver: UdpSocket,
}

/// What became of the probes in one direction.
#[derive(Clone, Debug)]
pub(super) struct Probed {
    /// How many were sent.
    pub(super) sent: u64,
    /// How many never arrived.
    pub(super) lost: u64,
    /// When the first was sent, then when each arrived, then when the last was sent.
    moments: Vec<Instant>,
}

impl Probed {
    /// The longest time between `from` and `to` in which nothing arrived, the two edges counting as arrivals.
    pub(super) fn longest_gap(&self, from: Instant, to: Instant) -> Duration {
        let inside = self.moments.iter().copied().filter(|moment| (from..to).contains(moment));
        let mut last = from;
        let mut longest = Duration::ZERO;
        for moment in inside.chain([to.max(from)]) {
            longest = longest.max(moment.saturating_duration_since(last));
            last = moment;
        }
        longest
    }
}

impl Probes {
    /// Opens a pair of sockets; `address` belongs to `to`.
    pub(super) fn open(from: &Netns, to: &Netns, address: Ipv4Addr) -> Outcome<Self> {
        let bind = |netns: &Netns, address: Ipv4Addr| netns.run(|| UdpSocket::bind((address, 0)))?;
        let receiver = bind(to, address).context(format_args!("cannot receive UDP on {address}"))?;
        SockRef::from(&receiver)
            .set_recv_buffer_size(RECEIVE_BUFFER)
            .context("cannot size a socket buffer")?;
        let sender = bind(from, Ipv4Addr::UNSPECIFIED).context("cannot make a UDP socket")?;
        let target = receiver.local_addr().context("cannot receive UDP")?;
        sender.connect(target).context(format_args!("no route to {target}"))?;
        Ok(Self { sender, receiver })
    }

    /// Sends probes for `duration` and accounts for each.
    pub(super) fn run(&self, pattern: &Pattern, pace: Pace, duration: Duration) -> Outcome<Probed> {
        let times = (duration.as_secs_f64() / pace.interval.as_secs_f64()).ceil() as u64;
        let total = times * pace.burst;
        let start = Instant::now();
        thread::scope(|scope| {
            let sender = scope.spawn(|| self.send(pattern, pace, times, start));
            let mut account = Account::new(total, start);
            self.receive(pattern, pace.size, &mut account, || sender.is_finished())?;
            let end = sender.join().map_err(|_| Failure::new("the sender of probes panicked"))?;
            account.moments.push(end);
            account.moments.sort_unstable();
            Ok(Probed { sent: total, lost: account.missing, moments: account.moments })
        })
    }

    /// Sends everything and returns when the last left.
    fn send(&self, pattern: &Pattern, pace: Pace, times: u64, start: Instant) -> Instant {
        let mut packet = vec![0; pace.size];
        let mut due = start;
        for number in 0..times * pace.burst {
            if number % pace.burst == 0 {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                due += pace.interval;
            }
            write_probe(pattern, number, &mut packet);
            // A probe that the kernel refuses is one that does not arrive: the receiver will miss it.
            let _ = self.sender.send(&packet);
        }
        Instant::now()
    }

    /// Receives until all have arrived, or nothing can be under way any more.
    fn receive(
        &self,
        pattern: &Pattern,
        size: usize,
        account: &mut Account,
        sender_done: impl Fn() -> bool,
    ) -> Outcome<()> {
        self.receiver.set_read_timeout(Some(LINGER)).context("cannot receive probes")?;
        let mut buffer = vec![0; size + 1];
        loop {
            // Asked before the wait: so a full wait has passed since the last was sent when nothing came.
            let last_was_sent = sender_done();
            match self.receiver.recv(&mut buffer) {
                Ok(len) => account.take(read_probe(pattern, size, &buffer[..len])?, Instant::now())?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if last_was_sent {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error).context("cannot receive probes"),
            }
            if account.missing == 0 {
                return Ok(());
            }
        }
    }
}

/// Which probes have arrived, and when.
struct Account {
    arrived: Vec<bool>,
    missing: u64,
    moments: Vec<Instant>,
}

impl Account {
    fn new(total: u64, start: Instant) -> Self {
        let mut moments = Vec::with_capacity(total as usize + 2);
        moments.push(start);
        Self { arrived: vec![false; total as usize], missing: total, moments }
    }

    fn take(&mut self, number: u64, now: Instant) -> Outcome<()> {
        let never_sent = || Failure::new(format!("probe {number} arrived, but was never sent"));
        let arrived = self.arrived.get_mut(number as usize).ok_or_else(never_sent)?;
        if std::mem::replace(arrived, true) {
            return Err(Failure::new(format!("probe {number} arrived twice")));
        }
        self.missing -= 1;
        self.moments.push(now);
        Ok(())
    }
}

/// ```text
///  0..7                    8..
///  number (little-endian)  the pattern of the flow with that number
/// ```
fn write_probe(pattern: &Pattern, number: u64, packet: &mut [u8]) {
    let (head, body) = packet.split_at_mut(size_of::<u64>());
    head.copy_from_slice(&number.to_le_bytes());
    body.copy_from_slice(&pattern.at(number, 0)[..body.len()]);
}

fn read_probe(pattern: &Pattern, size: usize, packet: &[u8]) -> Outcome<u64> {
    let (head, body) = packet.split_first_chunk().filter(|_| packet.len() == size).ok_or_else(|| {
        Failure::new(format!("a probe of {} instead of {size} bytes arrived", packet.len()))
    })?;
    let number = u64::from_le_bytes(*head);
    pattern
        .verify(number, 0, body)
        .map_err(|at| Failure::new(format!("probe {number} arrived with a wrong byte at {at}")))?;
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { burst: 4, interval: Duration::from_millis(1), size: 200 };

    fn loopback() -> Probes {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        Probes { sender, receiver }
    }

    #[test]
    fn all_probes_over_a_sound_link_arrive_once() {
        let probed = loopback().run(&Pattern::new(1), PACE, Duration::from_millis(50)).unwrap();
        assert_eq!((probed.sent, probed.lost), (200, 0));
        assert_eq!(probed.moments.len(), 202);
    }

    #[test]
    fn a_dead_link_loses_every_probe_and_gaps_all_the_time() {
        let probes = loopback();
        let deaf = UdpSocket::bind("127.0.0.1:0").unwrap();
        probes.sender.connect(deaf.local_addr().unwrap()).unwrap();
        let probed = probes.run(&Pattern::new(1), PACE, Duration::from_millis(20)).unwrap();
        assert_eq!(probed.lost, probed.sent);
        let [start, end] = probed.moments[..] else { panic!("only the two edges are there") };
        assert_eq!(probed.longest_gap(start, end), end - start);
    }

    #[test]
    fn a_damaged_and_a_cut_probe_are_no_probes() {
        let pattern = Pattern::new(1);
        let now = Instant::now();
        let accepts = |packet: &[u8]| {
            let mut account = Account::new(10_000, now);
            read_probe(&pattern, 100, packet).and_then(|number| account.take(number, now)).is_ok()
        };
        let mut packet = [0; 100];
        write_probe(&pattern, 77, &mut packet);
        assert!(accepts(&packet));
        for place in 0..packet.len() {
            let mut damaged = packet;
            damaged[place] ^= 1;
            assert!(!accepts(&damaged), "byte {place}");
            assert!(!accepts(&packet[..place]), "cut to {place}");
        }
    }

    #[test]
    fn a_probe_that_comes_twice_or_was_never_sent_is_a_failure() {
        let now = Instant::now();
        let mut account = Account::new(2, now);
        assert!(account.take(1, now).is_ok());
        assert_eq!(account.take(1, now).unwrap_err().to_string(), "probe 1 arrived twice");
        assert!(account.take(2, now).is_err());
        assert_eq!(account.missing, 1);
    }

    #[test]
    fn a_gap_reaches_to_the_edges_of_what_is_looked_at() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let probed = Probed { sent: 3, lost: 0, moments: [0, 10, 12, 40, 45].map(at).to_vec() };
        let gap = |from, to| probed.longest_gap(at(from), at(to)).as_millis();
        assert_eq!(gap(0, 45), 28);
        assert_eq!(gap(0, 12), 10);
        assert_eq!(gap(41, 100), 55, "silence at the end counts");
        assert_eq!(gap(50, 60), 10);
    }
}
