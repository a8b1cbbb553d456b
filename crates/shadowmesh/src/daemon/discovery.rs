//! The thread that finds peers on the local network, `sm-discovery`.

use std::net::SocketAddr;
use std::sync::mpsc::SyncSender;
use std::time::{SystemTime, UNIX_EPOCH};

use beacon::Interfaces;
use handshake::PeerKeys;
use log::{info, warn};
use node::{PeerId, PeerStatus};
use packet::Carrier;
use tokio::sync::mpsc::{Receiver, UnboundedSender, channel, unbounded_channel};
use tokio::sync::oneshot;

use super::handle::{Command, Input, send};
use super::resolver::Family;
use crate::config::Config;
use crate::control::types::{DiscoveryStatus, FoundPeer};
use crate::discovery::{self, Acquaintance, Change, OVERLAP, Setup, Snapshot, Surroundings};
use crate::proxy::StopHandle;

/// Changes on their way to the node.
const CHANGES_MAX: usize = 64;

/// Asks the thread how it goes.
#[derive(Clone, Debug)]
pub(super) struct DiscoveryQueries(UnboundedSender<oneshot::Sender<Snapshot>>);

impl DiscoveryQueries {
    pub(super) async fn status(&self, peers: &[PeerStatus]) -> DiscoveryStatus {
        let (reply, answer) = oneshot::channel();
        let _ = self.0.send(reply);
        // Silence means that the thread is ending.
        let Snapshot { error, instances, found } = answer.await.unwrap_or_default();
        let found = found.into_iter().filter_map(|(peer, address)| {
            let peer = peers.get(peer.0 as usize)?.name.clone();
            Some(FoundPeer { peer, address })
        });
        DiscoveryStatus { enabled: true, error, instances, found: found.collect() }
    }
}

/// What the thread needs.
pub(super) struct DiscoveryThread {
    setup: Setup,
    surroundings: Surroundings,
    changes: Receiver<Change>,
    names: Vec<String>,
    inputs: SyncSender<Input>,
}

/// The thread's work, who can ask how it goes, and its end. `None` where discovery is not wanted.
pub(super) fn plan(
    config: &Config,
    listen: SocketAddr,
    family: Option<Family>,
    tun: Option<&str>,
    inputs: SyncSender<Input>,
) -> Option<(DiscoveryThread, DiscoveryQueries, StopHandle)> {
    if !config.discovers() {
        return None;
    }
    let identity = config.identity();
    let acquaintance = |(id, peer): (usize, &crate::config::Peer)| {
        // What is found is reached by UDP, which not every peer may be.
        if !peer.ways.iter().any(|way| way.carrier == Carrier::Udp) {
            return None;
        }
        let preshared_key = peer.preshared_key.clone().unwrap_or_default();
        // The configuration was checked, so there is a secret to agree on with each.
        let keys = PeerKeys::new(&identity, peer.public_key, preshared_key, peer.protocol).ok()?;
        let peer = PeerId(id as u32);
        Some(Acquaintance { peer, public_key: keys.public_key(), key: keys.discovery_key() })
    };
    let setup = Setup {
        own: identity.public_key(),
        peers: config.peers.iter().enumerate().filter_map(acquaintance).collect(),
        port: listen.port(),
        ipv4: family != Some(Family::V6),
        ipv6: family != Some(Family::V4),
        // What comes through the tunnel is not of the local network, whatever the interface is called.
        interfaces: Interfaces::suitable().except(tun),
        unix_time: Box::new(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()),
        overlap: OVERLAP,
    };
    let (stop, stopped) = StopHandle::new();
    let (queries, asked) = unbounded_channel();
    let (found, changes) = channel(CHANGES_MAX);
    let surroundings = Surroundings { stop: stopped, asked, changes: found };
    let names = config.peers.iter().map(|peer| peer.name.clone()).collect();
    let thread = DiscoveryThread { setup, surroundings, changes, names, inputs };
    Some((thread, DiscoveryQueries(queries), stop))
}

impl DiscoveryThread {
    /// Works until told to stop. A node without discovery is a node, so it never fails.
    pub(super) fn run(self) {
        let Self { setup, surroundings, changes, names, inputs } = self;
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return warn!("peers on the local network are not found: {error}"),
        };
        runtime.block_on(async {
            // The second ends when the first does, which holds the other end of the channel.
            tokio::join!(discovery::run(setup, surroundings), pass_on(changes, &names, &inputs));
        });
    }
}

/// Tells the node, and people.
async fn pass_on(mut changes: Receiver<Change>, names: &[String], inputs: &SyncSender<Input>) {
    let name = |peer: PeerId| names.get(peer.0 as usize).map_or("?", String::as_str);
    while let Some(change) = changes.recv().await {
        let command = match change {
            Change::Offer { peer, address } => {
                info!("{}: found on the local network at {address}", name(peer));
                Command::Offer { peer, address }
            }
            Change::Withdraw { peer, address } => {
                info!("{}: no longer on the local network at {address}", name(peer));
                Command::Withdraw { peer, address }
            }
        };
        // A node that is ending needs to know nothing more.
        if send(inputs, command).await.is_err() {
            return;
        }
    }
}
