//! A third node joins a LAN of two. Nobody has been told where anybody is: all find each other.
//!
//! ```text
//!   left 192.0.2.1 ──┐
//!  right 192.0.2.2 ──┼── bridge
//!  third 192.0.2.3 ──┘
//! ```

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use os::netns::Netns;
use serde::Serialize;

use super::failure::{Context, Failure, Outcome};
use super::format;
use super::ping::ping;
use super::progress::Step;
use super::report::{Finding, millis};
use super::world::{Host, WIRE};

/// How long finding may take: a second and a half of probing and announcing a name (RFC 6762 §8), on a machine that does other things
/// as well.
const FIND_MAX: Duration = Duration::from_secs(15);
/// How often somebody is looked for.
const POLL: Duration = Duration::from_millis(5);
/// Echo requests from each of the first two.
const PINGS: u16 = 20;
const PING_INTERVAL: Duration = Duration::from_millis(5);

/// A node that joined.
#[derive(Debug, Serialize)]
pub(super) struct Joined {
    /// From its start until both others had a session with it, ms.
    pub(super) found_ms: f64,
    /// Echo requests that the others sent to it.
    pub(super) pings_sent: usize,
    pub(super) pings_lost: usize,
}

impl Finding for Joined {
    fn held(&self) -> bool {
        self.pings_sent > 0 && self.pings_lost == 0
    }

    fn detail(&self) -> String {
        let Self { found_ms, pings_sent, pings_lost } = self;
        let found = format::millis(*found_ms);
        format!("third found in {found} · {pings_lost} of {pings_sent} pings lost")
    }
}

/// Plays the scene, in namespaces of its own.
pub(super) fn join(step: &mut Step) -> Outcome<Joined> {
    let host =
        |name, number| Host::new(name, Ipv4Addr::new(192, 0, 2, number), Ipv4Addr::new(10, 77, 0, number));
    let mut hosts = [host("left", 1)?, host("right", 2)?, host("third", 3)?];
    let ends = hosts.each_ref().map(|host| (&host.netns, WIRE));
    // As long as the hub lives, so does the LAN.
    let _hub = Netns::bridge(&ends)
        .context("cannot join the namespaces (if the kernel has no bridges: sudo modprobe bridge)")?;
    for host in &hosts {
        host.add_address(host.underlay)?;
    }
    let configs = [0, 1, 2].map(|own| config(&hosts, own));

    step.progress(0.1, "two nodes");
    for (host, config) in hosts.iter_mut().zip(&configs).take(2) {
        host.start(config)?;
    }
    await_sessions(&hosts[..2], &hosts[..2])?;

    step.progress(0.5, "a third one");
    let joined = Instant::now();
    hosts[2].start(&configs[2])?;
    await_sessions(&hosts[..2], &hosts[2..])?;
    let found_ms = millis(joined.elapsed());

    let (mut pings_sent, mut pings_lost) = (0, 0);
    for host in &hosts[..2] {
        let echoes = ping(&host.netns, hosts[2].overlay, PINGS, PING_INTERVAL, |_| {})?;
        pings_sent += echoes.sent;
        pings_lost += echoes.lost();
    }
    Ok(Joined { found_ms, pings_sent, pings_lost })
}

/// A node that knows the keys of the others, and not where they are.
fn config(hosts: &[Host; 3], own: usize) -> String {
    let mut config = hosts[own].own_config(1);
    for (_, peer) in hosts.iter().enumerate().filter(|(number, _)| *number != own) {
        config += &peer.as_peer(None);
    }
    config
}

/// Waits until each of `who` has a session with each of `whom` but itself.
fn await_sessions(who: &[Host], whom: &[Host]) -> Outcome<()> {
    let deadline = Instant::now() + FIND_MAX;
    let has_all = |host: &Host| {
        // It may not have got as far as to answer.
        let Ok(status) = host.status() else { return false };
        let is_connected = |name: &str| status.peers.iter().any(|peer| peer.name == name && peer.connected);
        whom.iter().all(|other| other.name == host.name || is_connected(other.name))
    };
    while !who.iter().all(has_all) {
        if Instant::now() > deadline {
            return Err(Failure::new(format!("not all found each other within {} s", FIND_MAX.as_secs())));
        }
        thread::sleep(POLL);
    }
    Ok(())
}
