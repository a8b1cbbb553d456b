//! What the demo does, scene by scene.

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::bad_network::BadNetwork;
use super::failure::{Context, Failure, Outcome};
use super::format;
use super::lan;
use super::pattern::Pattern;
use super::ping::ping;
use super::probes::{Pace, Probed, Probes};
use super::progress::{Stage, Step, say};
use super::report::{
    Allocations, Drops, Finding, Handshake, Note, Ping, Reasons, Rekey, Report, Roaming, StepReport,
    Throughput, millis, seconds,
};
use super::tcp::Flows;
use super::world::{Host, LEFT_MOVED, World};
use crate::control::Status;

const PINGS: u16 = 100;
const PING_INTERVAL: Duration = Duration::from_millis(10);
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
const FLOWS: usize = 4;
const POLL: Duration = Duration::from_millis(2);
/// Between two looks at the clock where something is shown meanwhile.
const TICK: Duration = Duration::from_millis(40);

/// How long roaming is watched; the move is in the middle.
const ROAMING: Duration = Duration::from_secs(2);
/// A probe each millisecond: a gap is known to a millisecond.
const ROAMING_PACE: Pace = Pace { burst: 1, interval: Duration::from_millis(1), size: 64 };
/// What the full link needs to come up to speed is not the link's usual silence.
const SETTLING: Duration = Duration::from_millis(200);

/// How long packets flow while keys change.
const REKEYING: Duration = Duration::from_secs(2);
const REKEYS: u32 = 4;
/// 5,000 packets a second each way, 48 Mbit/s of them.
const REKEY_PACE: Pace = Pace { burst: 5, interval: Duration::from_millis(1), size: 1_200 };
/// How long one change of keys may take.
const REKEY_MAX: Duration = Duration::from_secs(2);

/// Tells the whole story on `stage`; each throughput step lasts for `throughput`.
pub(super) fn tell(stage: Stage, throughput: Duration) -> Report {
    let start = Instant::now();
    let mut story = Story { stage, report: Report::new(), pattern: Arc::new(Pattern::new(0x5AD0_3E54)) };
    stage.title("ShadowMesh demo", "two nodes in namespaces of this machine; nothing leaves it");
    if let Some(mut world) = story.step("namespaces", |_| namespaces()).map(|note| note.value) {
        // The scenes stop where the next cannot be played.
        let _ = story.play(&mut world, throughput);
        if !story.report.all_held() {
            for line in world.into_logs() {
                say(&stage.style().dim(&format!("    {line}")));
            }
        }
    }
    story.report.seconds = seconds(start.elapsed());
    story.report.ok = story.report.all_held();
    story.report
}

struct Story {
    stage: Stage,
    report: Report,
    pattern: Arc<Pattern>,
}

impl Story {
    /// Plays all scenes. `None` when one failed without which the others make no sense.
    fn play(&mut self, world: &mut World, throughput: Duration) -> Option<()> {
        self.step("nodes", |_| nodes(world))?;
        self.report.handshake = self.step("handshake", |_| handshake(world));
        self.report.handshake.as_ref()?;
        self.report.ping = self.step("ping", |step| pings(world, step));
        self.go_on(world)?;

        let before = Moved::of(world);
        self.tcp("tcp →", &world.left, &world.right, 1, throughput);
        self.go_on(world)?;
        self.tcp("tcp ←", &world.right, &world.left, 1, throughput);
        self.go_on(world)?;
        self.tcp("tcp → × 4", &world.left, &world.right, FLOWS, throughput);
        self.go_on(world)?;
        let after = Moved::of(world);

        let pattern = Arc::clone(&self.pattern);
        self.report.roaming = self.step("roaming", |step| roam(world, &pattern, step));
        self.go_on(world)?;
        self.report.rekey = self.step("rekey", |step| rekey(world, &pattern, step));
        self.go_on(world)?;
        self.report.allocations = self.step("allocations", |_| Ok(before?.until(&after?)));
        self.report.drops = self.step("drops", |_| drops(world));
        self.step("stop", |_| stop(world))?;
        self.report.joined = self.step("lan", lan::join);
        self.bad_network();
        Some(())
    }

    /// The scenes on a network that is not on the nodes' side.
    fn bad_network(&mut self) {
        let (pattern, mut network) = (Arc::clone(&self.pattern), None);
        self.report.blocked =
            self.step("udp blocked", |step| network.insert(BadNetwork::new(step)?).block_udp(&pattern, step));
        if let Some(network) = &network {
            self.report.lossy = self.step("lossy link", |step| network.lose(&pattern, step));
        }
    }

    fn tcp(&mut self, name: &'static str, from: &Host, to: &Host, flows: usize, duration: Duration) {
        let direction = if from.name == "left" { "left_to_right" } else { "right_to_left" };
        let pattern = Arc::clone(&self.pattern);
        let throughput = self.step(name, |step| {
            let transferred = Flows::open(&from.netns, &to.netns, to.overlay, flows)?.run(
                &pattern,
                duration,
                |elapsed, bytes| {
                    let rate = bytes as f64 * 8.0 / elapsed.as_secs_f64();
                    step.progress(elapsed.div_duration_f64(duration), &format::rate(rate));
                },
            )?;
            Ok(Throughput::new(direction, flows, &transferred))
        });
        self.report.throughput.extend(throughput);
    }

    /// `None` when a daemon is gone: what follows would only fail for that.
    fn go_on(&mut self, world: &mut World) -> Option<()> {
        match world.check_alive() {
            Ok(()) => Some(()),
            Err(failure) => self.step("nodes", |_| Err::<Note<()>, _>(failure)).map(drop),
        }
    }

    /// Plays one scene, shows it and takes it down. `None` when it could not be played to its end.
    fn step<F: Finding>(
        &mut self,
        name: &'static str,
        scene: impl FnOnce(&mut Step) -> Outcome<F>,
    ) -> Option<F> {
        let mut step = self.stage.step(name);
        let outcome = scene(&mut step);
        let (ok, detail) = match &outcome {
            Ok(finding) => (finding.held(), finding.detail()),
            Err(failure) => (false, failure.to_string()),
        };
        let seconds = seconds(step.end(ok, &detail));
        self.report.steps.push(StepReport { name, ok, seconds, detail });
        outcome.ok()
    }
}

fn namespaces() -> Outcome<Note<World>> {
    let world = World::new()?;
    let detail = format!("left {} ═══ veth ═══ {} right", world.left.underlay, world.right.underlay);
    Ok(Note { value: world, detail })
}

fn nodes(world: &mut World) -> Outcome<Note<()>> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    // Both nodes and the traffic share one machine.
    world.start_daemons((cores / 2).clamp(1, 4))?;
    let status = world.left.status()?;
    Ok(Note { value: (), detail: describe(&status) })
}

/// `1 worker · MTU 1,420 · TUN TSO+USO · UDP GSO+GRO`.
fn describe(status: &Status) -> String {
    let chosen = |offloads: &[(&'static str, bool)]| {
        let names: Vec<_> = offloads.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
        if names.is_empty() { "no offloads".to_owned() } else { names.join("+") }
    };
    let (tun, udp) = (status.offloads.tun, status.offloads.udp);
    format!(
        "{} {} · MTU {} · TUN {} · UDP {}",
        status.workers.len(),
        if status.workers.len() == 1 { "worker" } else { "workers" },
        format::count(status.tun.as_ref().map_or(0, |tun| tun.mtu.into())),
        chosen(&[("TSO", tun.tso4 || tun.tso6), ("USO", tun.uso4 || tun.uso6)]),
        chosen(&[("GSO", udp.gso), ("GRO", udp.gro)]),
    )
}

fn handshake(world: &World) -> Outcome<Handshake> {
    // Traffic is what makes a node shake hands; nobody listens on the discard port (RFC 863), and nobody has
    // to.
    let target = (world.right.overlay, 9);
    let sent = world
        .left
        .netns
        .run(|| -> io::Result<usize> { UdpSocket::bind("0.0.0.0:0")?.send_to(b"knock", target) });
    sent.and_then(|sent| sent).context("cannot send into the overlay")?;

    await_session(world, None)?;
    // The first handshake has waited for the other node to start. A fresh one shows what a handshake takes.
    let asked = Instant::now();
    world.left.rekey()?;
    await_session(world, Some(asked))
}

/// Waits until both nodes have a session, made after `since` if that is given.
fn await_session(world: &World, since: Option<Instant>) -> Outcome<Handshake> {
    let deadline = Instant::now() + HANDSHAKE_MAX;
    loop {
        let [left, right] = [world.left.status()?, world.right.status()?];
        let fresh = |age: Option<f64>| {
            since.is_none_or(|since| age.is_some_and(|age| age < since.elapsed().as_secs_f64()))
        };
        if let ([left], [right]) = (&left.peers[..], &right.peers[..])
            && left.connected
            && right.connected
            && fresh(left.latest_handshake_s)
            && fresh(right.latest_handshake_s)
        {
            return Ok(Handshake {
                ms: left.handshake_ms.map(|ms| (ms * 1e3).round() / 1e3),
                protocol: left.protocol.clone(),
                post_quantum: left.post_quantum && right.post_quantum,
                cipher: left.cipher.clone(),
            });
        }
        if Instant::now() > deadline {
            return Err(Failure::new(format!("no session after {} s", HANDSHAKE_MAX.as_secs())));
        }
        thread::sleep(POLL);
    }
}

fn pings(world: &World, step: &mut Step) -> Outcome<Ping> {
    let echoes = ping(&world.left.netns, world.right.overlay, PINGS, PING_INTERVAL, |done| {
        step.progress(f64::from(done) / f64::from(PINGS), &format!("{done} of {PINGS}"));
    })?;
    Ok(Ping::new(&echoes))
}

fn roam(world: &World, pattern: &Pattern, step: &mut Step) -> Outcome<Roaming> {
    // Towards the node that moves: its peer has to notice before anything arrives again.
    let flows = Flows::open(&world.right.netns, &world.left.netns, world.left.overlay, 1)?;
    let probes = both_ways(world)?;
    let start = Instant::now();
    thread::scope(|scope| {
        let load = scope.spawn(|| flows.run(pattern, ROAMING, |_, _| ()));
        let probes =
            probes.each_ref().map(|probes| scope.spawn(|| probes.run(pattern, ROAMING_PACE, ROAMING)));

        watch(step, start, ROAMING, ROAMING / 2, "link full");
        let moved = Instant::now();
        world.left.move_to(LEFT_MOVED)?;
        watch(step, start, ROAMING, ROAMING, "moved");

        let transferred = load.join().map_err(|_| Failure::new("the load panicked"))??;
        let [out, back] = probes.map(|thread| thread.join().map_err(|_| Failure::new("the probes panicked")));
        let probed = [out??, back??];
        // All probes are on their way by then.
        let end = start + ROAMING.saturating_sub(2 * ROAMING_PACE.interval);
        let gap =
            |from, to| probed.iter().map(|probed| probed.longest_gap(from, to)).max().unwrap_or_default();
        check_endpoint(world)?;
        Ok(Roaming {
            from: world.left.underlay.to_string(),
            to: LEFT_MOVED.to_string(),
            gap_ms: millis(gap(moved, end)),
            gap_before_ms: millis(gap(start + SETTLING, moved)),
            probes_sent: sum(&probed, |probed| probed.sent),
            probes_lost: sum(&probed, |probed| probed.lost),
            tcp_bytes: transferred.bytes,
            tcp_gap_ms: millis(transferred.gap),
        })
    })
}

/// Checks that the right node sends to where the left one is now.
fn check_endpoint(world: &World) -> Outcome<()> {
    let status = world.right.status()?;
    let endpoint = status.peers.first().and_then(|peer| peer.endpoint);
    if endpoint.is_some_and(|endpoint| endpoint.ip() == IpAddr::V4(LEFT_MOVED)) {
        return Ok(());
    }
    let believed = endpoint.map_or("nowhere".to_owned(), |endpoint| endpoint.to_string());
    Err(Failure::new(format!("left moved to {LEFT_MOVED}, but right looks for it at {believed}")))
}

fn rekey(world: &World, pattern: &Pattern, step: &mut Step) -> Outcome<Rekey> {
    let probes = both_ways(world)?;
    let start = Instant::now();
    thread::scope(|scope| {
        let probes =
            probes.each_ref().map(|probes| scope.spawn(|| probes.run(pattern, REKEY_PACE, REKEYING)));
        let mut done = 0;
        for turn in 1..=REKEYS {
            watch(
                step,
                start,
                REKEYING,
                REKEYING * turn / (REKEYS + 1),
                &format!("{done} of {REKEYS} rekeys"),
            );
            // Each side has to be able to.
            rekey_once(if turn % 2 == 1 { &world.left } else { &world.right })?;
            done += 1;
        }
        watch(step, start, REKEYING, REKEYING, &format!("{done} of {REKEYS} rekeys"));
        let [out, back] = probes.map(|thread| thread.join().map_err(|_| Failure::new("the probes panicked")));
        let probed = [out??, back??];
        Ok(Rekey {
            rekeys: done,
            packets_sent: sum(&probed, |probed| probed.sent),
            packets_lost: sum(&probed, |probed| probed.lost),
        })
    })
}

/// Has one node change the keys, and waits until it has.
fn rekey_once(host: &Host) -> Outcome<()> {
    let asked = Instant::now();
    host.rekey()?;
    while asked.elapsed() < REKEY_MAX {
        let status = host.status()?;
        let age = status.peers.first().and_then(|peer| peer.latest_handshake_s);
        if age.is_some_and(|age| age < asked.elapsed().as_secs_f64()) {
            return Ok(());
        }
        thread::sleep(POLL);
    }
    Err(Failure::new(format!("{} has no new keys {} s after being told", host.name, REKEY_MAX.as_secs())))
}

fn both_ways(world: &World) -> Outcome<[Probes; 2]> {
    let (left, right) = (&world.left, &world.right);
    Ok([
        Probes::open(&left.netns, &right.netns, right.overlay)?,
        Probes::open(&right.netns, &left.netns, left.overlay)?,
    ])
}

/// Shows how a step of `whole` length goes on, until `until` of it has passed.
fn watch(step: &mut Step, start: Instant, whole: Duration, until: Duration, note: &str) {
    while let Some(left) = until.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) {
        step.progress(start.elapsed().div_duration_f64(whole), note);
        thread::sleep(left.min(TICK));
    }
}

fn sum(probed: &[Probed], count: impl Fn(&Probed) -> u64) -> u64 {
    probed.iter().map(count).sum()
}

/// What both nodes have moved, and what it took.
struct Moved {
    packets: u64,
    allocations: u64,
}

impl Moved {
    fn of(world: &World) -> Outcome<Self> {
        let statuses = [world.left.status()?, world.right.status()?];
        let peers = statuses.iter().flat_map(|status| &status.peers);
        Ok(Self {
            packets: peers.map(|peer| peer.rx_packets + peer.tx_packets).sum(),
            allocations: statuses
                .iter()
                .flat_map(|status| &status.workers)
                .map(|worker| worker.allocations)
                .sum(),
        })
    }

    fn until(&self, later: &Self) -> Allocations {
        Allocations::new(
            later.packets.saturating_sub(self.packets),
            later.allocations.saturating_sub(self.allocations),
        )
    }
}

fn drops(world: &World) -> Outcome<Drops> {
    let [left, right] = [world.left.status()?, world.right.status()?];
    let peers = || left.peers.iter().chain(&right.peers);
    Ok(Drops {
        sent: peers().map(|peer| peer.tx_packets).sum(),
        received: peers().map(|peer| peer.rx_packets).sum(),
        socket_overruns: [&left, &right]
            .iter()
            .filter_map(|status| status.drops.get("kernel_socket_full"))
            .sum(),
        left: reasons(&left),
        right: reasons(&right),
    })
}

/// Why a node dropped packets, whoever they belonged to.
fn reasons(status: &Status) -> Reasons {
    let mut reasons = Reasons::new();
    for drops in status.peers.iter().map(|peer| &peer.drops).chain([&status.drops]) {
        for (reason, packets) in drops {
            *reasons.entry(reason.clone()).or_default() += packets;
        }
    }
    reasons
}

fn stop(world: &mut World) -> Outcome<Note<()>> {
    let took = world.stop_daemons()?;
    world.check_nothing_left()?;
    Ok(Note { value: (), detail: format!("ended in {}; nothing is left behind", format::duration(took)) })
}
