//! Two nodes on a network that is not on their side: it blocks UDP, then it loses packets.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::failure::{Context, Failure, Outcome};
use super::format;
use super::middlebox::{DELAY, Middlebox};
use super::pattern::Pattern;
use super::probes::{Pace, Probes};
use super::progress::Step;
use super::report::{Finding, millis};
use super::tcp::Flows;
use super::world::Host;

/// How long the nodes may take to find each other.
const START_MAX: Duration = Duration::from_secs(10);
/// How long traffic is watched; UDP is blocked after a quarter of it.
const WATCHED: Duration = Duration::from_secs(6);
/// How long a change of carriers may silence the link, ms.
const GAP_MS_MAX: f64 = 3_000.0;
const PACE: Pace = Pace { burst: 1, interval: Duration::from_millis(2), size: 64 };
/// Packets lost of a thousand, each way.
const LOST_OF_1000: u32 = 50;
/// How long each of the two downloads lasts.
const DOWNLOAD: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(5);
const PROXY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1080);

/// What came of blocking UDP.
#[derive(Debug, Serialize)]
pub(super) struct Blocked {
    /// What carries the session now.
    pub(super) carrier: String,
    /// The longest silence, either way, from the moment on.
    pub(super) gap_ms: f64,
    pub(super) probes_sent: u64,
    pub(super) probes_lost: u64,
}

impl Finding for Blocked {
    fn held(&self) -> bool {
        self.carrier == "faketcp" && self.gap_ms <= GAP_MS_MAX
    }

    fn detail(&self) -> String {
        let Self { carrier, gap_ms, .. } = self;
        format!("the session goes on over {carrier} · gap {}", format::millis(*gap_ms))
    }
}

/// Two downloads over a link that loses packets.
#[derive(Debug, Serialize)]
pub(super) struct Lossy {
    /// Packets lost, each way, of one.
    pub(super) loss: f64,
    /// Without queues.
    pub(super) rtt_ms: f64,
    /// Through SOCKS5 and the streams of the mesh.
    pub(super) socks5_bits_per_second: f64,
    /// By the TCP of the kernel, outside of the mesh.
    pub(super) tcp_bits_per_second: f64,
    /// How that one controls congestion: as Linux does by default, if it can be had.
    pub(super) tcp_congestion: String,
}

impl Finding for Lossy {
    fn held(&self) -> bool {
        self.socks5_bits_per_second > 0.0
    }

    fn detail(&self) -> String {
        format!(
            "SOCKS5 {} · TCP {} {}",
            format::rate(self.socks5_bits_per_second),
            self.tcp_congestion,
            format::rate(self.tcp_bits_per_second),
        )
    }
}

/// Two nodes with a network between them.
pub(super) struct BadNetwork {
    left: Host,
    right: Host,
    network: Middlebox,
}

impl BadNetwork {
    /// Starts both nodes, and returns once they have a session over UDP.
    pub(super) fn new(step: &mut Step) -> Outcome<Self> {
        let host = |name, number| {
            Host::new(name, Ipv4Addr::new(192, 0, 2, number), Ipv4Addr::new(10, 77, 0, number))
        };
        let (mut left, mut right) = (host("left", 1)?, host("right", 2)?);
        let network = Middlebox::between((&left.netns, left.underlay), (&right.netns, right.underlay))?;
        for host in [&left, &right] {
            let mut netlink = host.netns.netlink().context("no netlink")?;
            let loopback = netlink.link_index("lo").context("no loopback")?;
            netlink.set_up(loopback, true).context("cannot use the loopback")?;
        }
        let carriers = "carriers = [\"udp\", \"faketcp\"]\n";
        let exit = format!("[exit]\nallow = [\"{}\"]\n", right.underlay);
        right.start(&(right.own_config(1) + &left.as_peer(None) + carriers + &exit))?;
        await_status(&right, |_| true)?;
        let proxy = format!("[[socks5]]\nlisten = \"{PROXY}\"\nvia = \"right\"\n");
        left.start(&(left.own_config(1) + &right.as_peer(Some(right.underlay)) + carriers + &proxy))?;
        step.progress(0.1, "a network with 20 ms");
        await_status(&left, |status| status.peers.iter().all(|peer| peer.connected))?;
        await_status(&right, |status| status.peers.iter().all(|peer| peer.connected))?;
        Ok(Self { left, right, network })
    }

    /// Blocks UDP while packets flow.
    pub(super) fn block_udp(&self, pattern: &Pattern, step: &mut Step) -> Outcome<Blocked> {
        let (left, right) = (&self.left, &self.right);
        let probes = [
            Probes::open(&left.netns, &right.netns, right.overlay)?,
            Probes::open(&right.netns, &left.netns, left.overlay)?,
        ];
        let start = Instant::now();
        let (blocked, probed) = thread::scope(|scope| -> Outcome<_> {
            let probes = probes.each_ref().map(|probes| scope.spawn(|| probes.run(pattern, PACE, WATCHED)));
            watch(step, start, WATCHED / 4, "over UDP");
            self.network.block_udp(true);
            let blocked = Instant::now();
            watch(step, start, WATCHED, "UDP is blocked");
            let [out, back] = probes.map(|run| run.join().map_err(|_| Failure::new("the probes panicked")));
            Ok((blocked, [out??, back??]))
        })?;
        let end = start + WATCHED.saturating_sub(2 * PACE.interval);
        let gaps = probed.iter().map(|probed| probed.longest_gap(blocked, end));
        let status = left.status()?;
        Ok(Blocked {
            carrier: status.peers.first().map_or_else(String::new, |peer| peer.carrier.clone()),
            gap_ms: millis(gaps.max().unwrap_or_default()),
            probes_sent: probed.iter().map(|probed| probed.sent).sum(),
            probes_lost: probed.iter().map(|probed| probed.lost).sum(),
        })
    }

    /// Downloads by both ways while packets are lost.
    pub(super) fn lose(&self, pattern: &Pattern, step: &mut Step) -> Outcome<Lossy> {
        let (left, right) = (&self.left, &self.right);
        let server = right.netns.run(|| TcpListener::bind((right.underlay, 0))).and_then(|bound| bound);
        let server = server.context("cannot listen")?;
        let target = server.local_addr().context("cannot listen")?;
        self.network.lose(LOST_OF_1000);
        let mut congestion = String::new();
        let mut rate = |client: TcpStream, what: &str, done: f64| -> Outcome<f64> {
            let (serving, _) = server.accept().context("nobody came")?;
            congestion = use_cubic(&serving).context("TCP has no congestion control")?;
            let flows = Flows::of(serving, client).context("cannot use a connection")?;
            let transferred = flows.run(pattern, DOWNLOAD, |elapsed, _| {
                step.progress(done + elapsed.div_duration_f64(2 * DOWNLOAD), what);
            })?;
            Ok(transferred.bits_per_second().round())
        };
        let client = left.netns.run(|| through_proxy(target)).and_then(|made| made);
        let socks5 = rate(client.context("no stream through SOCKS5")?, "through SOCKS5", 0.0)?;
        let client = left.netns.run(|| TcpStream::connect_timeout(&target, START_MAX)).and_then(|made| made);
        let tcp = rate(client.context("no connection")?, "the kernel's TCP", 0.5)?;
        self.network.lose(0);
        Ok(Lossy {
            loss: f64::from(LOST_OF_1000) / 1_000.0,
            rtt_ms: millis(2 * DELAY),
            socks5_bits_per_second: socks5,
            tcp_bits_per_second: tcp,
            tcp_congestion: congestion,
        })
    }
}

/// Has a connection control congestion as Linux does by default, and says how it does.
fn use_cubic(connection: &TcpStream) -> std::io::Result<String> {
    let connection = socket2::SockRef::from(connection);
    // A machine that has not got it, or gives it to root only, uses what it has.
    let _ = connection.set_tcp_congestion(b"cubic");
    let name = connection.tcp_congestion()?;
    let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// Waits until a node says that it is so.
fn await_status(host: &Host, is_so: impl Fn(&crate::control::Status) -> bool) -> Outcome<()> {
    let deadline = Instant::now() + START_MAX;
    loop {
        match host.status() {
            Ok(status) if is_so(&status) => return Ok(()),
            Err(failure) if Instant::now() > deadline => return Err(failure),
            Ok(_) if Instant::now() > deadline => {
                let seconds = START_MAX.as_secs();
                return Err(Failure::new(format!("{} has no session after {seconds} s", host.name)));
            }
            _ => thread::sleep(POLL),
        }
    }
}

/// A connection by SOCKS5 (RFC 1928 §3 to §6).
fn through_proxy(target: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(PROXY)?;
    stream.set_read_timeout(Some(START_MAX))?;
    let SocketAddr::V4(target) = target else { return Err(std::io::ErrorKind::Unsupported.into()) };
    stream.write_all(&[5, 1, 0])?;
    stream.read_exact(&mut [0; 2])?;
    let request = [&[5, 1, 0, 1], &target.ip().octets()[..], &target.port().to_be_bytes()].concat();
    stream.write_all(&request)?;
    let mut reply = [0; 10];
    stream.read_exact(&mut reply)?;
    if reply[1] == 0 { Ok(stream) } else { Err(std::io::ErrorKind::ConnectionRefused.into()) }
}

/// Shows how the scene goes on, until `until` of it has passed.
fn watch(step: &mut Step, start: Instant, until: Duration, note: &str) {
    const TICK: Duration = Duration::from_millis(40);
    while let Some(left) = until.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) {
        step.progress(start.elapsed().div_duration_f64(WATCHED), note);
        thread::sleep(left.min(TICK));
    }
}
