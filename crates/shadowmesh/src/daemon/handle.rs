//! What reaches the node's thread, and the handle by which the control socket does.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Duration, Instant};

use node::{Event, NodeStatus, PeerId};
use packet::Carrier;
use tokio::sync::oneshot;

use super::discovery::DiscoveryQueries;
use super::worker_thread::Counters;
use crate::control::server::Refusal;
use crate::control::types::{DiscoveryStatus, Offloads, STATUS_VERSION, Status, TunStatus, WorkerStatus};
use crate::streams::StreamQueries;

/// What the node's thread takes from its bounded channel.
#[derive(Debug)]
pub(crate) enum Input {
    /// From a worker.
    Event(Event),
    /// From everybody else.
    Command(Command),
}

/// A request to the node's thread.
#[derive(Debug)]
pub(crate) enum Command {
    /// A snapshot, please.
    Status(oneshot::Sender<Snapshot>),
    /// Send a probe.
    Ping {
        peer: String,
        /// By this carrier, in use or not; `None` for the one in use.
        carrier: Option<Carrier>,
        timeout: Duration,
        reply: oneshot::Sender<Result<Answer, Refusal>>,
    },
    /// Start a fresh handshake.
    Rekey { peer: String, reply: oneshot::Sender<Result<(), Refusal>> },
    /// A look-up has ended.
    Resolved { peer: PeerId, found: Result<Vec<SocketAddr>, String> },
    /// A peer may be at a place on the local network.
    Offer { peer: PeerId, address: SocketAddr },
    /// It is not there any more.
    Withdraw { peer: PeerId, address: SocketAddr },
    /// Come to an end.
    Stop,
}

/// How a probe ended.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The peer's name.
    pub(super) peer: String,
    /// The round-trip time, if an answer came.
    pub(super) rtt: Option<Duration>,
}

/// What only the node's thread knows.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(super) node: NodeStatus,
    pub(super) offloads: Offloads,
    pub(super) degraded: Vec<String>,
    pub(super) carriers: BTreeMap<String, BTreeMap<String, u64>>,
}

/// The running node, as the control socket sees it.
#[derive(Debug)]
pub(crate) struct NodeHandle {
    pub(super) name: String,
    pub(super) started: Instant,
    pub(super) listen: Vec<SocketAddr>,
    pub(super) listen_carriers: BTreeMap<String, SocketAddr>,
    pub(super) tun: Option<TunStatus>,
    pub(super) workers: Vec<Arc<Counters>>,
    pub(super) inputs: SyncSender<Input>,
    /// Who knows of the streams, if anybody runs any.
    pub(super) streams: Option<StreamQueries>,
    /// Who knows what was found on the local network, if anybody looks.
    pub(super) discovery: Option<DiscoveryQueries>,
}

impl NodeHandle {
    /// A snapshot of everything.
    pub(crate) async fn status(&self) -> Result<Status, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Status(reply)).await?;
        let Snapshot { node, offloads, degraded, carriers } =
            answer.await.map_err(|_| Refusal::ShuttingDown)?;
        let streams = match &self.streams {
            Some(queries) => {
                let (reply, answer) = oneshot::channel();
                let _ = queries.send(reply);
                // Silence means that the thread is ending.
                answer.await.ok()
            }
            None => None,
        };
        let discovery = match &self.discovery {
            Some(queries) => queries.status(&node.peers).await,
            None => DiscoveryStatus::default(),
        };
        let workers = self.workers.iter().map(|counters| WorkerStatus {
            allocations: counters.allocations.load(Relaxed),
            rounds: counters.rounds.load(Relaxed),
            events_held: counters.events_held.load(Relaxed),
        });
        Ok(Status {
            version: STATUS_VERSION,
            name: self.name.clone(),
            public_key: node.public_key,
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs_f64(),
            degraded,
            carriers,
            listen: self.listen.clone(),
            listen_carriers: self.listen_carriers.clone(),
            tun: self.tun.clone().map(|tun| TunStatus { mtu: node.mtu, ..tun }),
            offloads,
            pool: node.pool,
            drops: node.drops,
            peers: node.peers,
            workers: workers.collect(),
            streams,
            discovery,
        })
    }

    /// Sends a probe to a peer and waits for its answer, at most `timeout`.
    pub(crate) async fn ping(
        &self,
        peer: &str,
        carrier: Option<Carrier>,
        timeout: Duration,
    ) -> Result<(String, Option<Duration>), Refusal> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Ping { peer: peer.into(), carrier, timeout, reply }).await?;
        let Answer { peer, rtt } = answer.await.map_err(|_| Refusal::ShuttingDown)??;
        Ok((peer, rtt))
    }

    /// Starts a fresh handshake with a peer.
    pub(crate) async fn rekey(&self, peer: &str) -> Result<(), Refusal> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Rekey { peer: peer.into(), reply }).await?;
        answer.await.map_err(|_| Refusal::ShuttingDown)?
    }

    async fn send(&self, command: Command) -> Result<(), Refusal> {
        send(&self.inputs, command).await
    }
}

/// Workers never wait for the channel, so neither may the thread that answers signals, nor one that runs other tasks: it tries
/// again a little later while a flood of handshakes keeps the channel full.
pub(super) async fn send(inputs: &SyncSender<Input>, command: Command) -> Result<(), Refusal> {
    let mut input = Input::Command(command);
    loop {
        match inputs.try_send(input) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Disconnected(_)) => return Err(Refusal::ShuttingDown),
            Err(TrySendError::Full(back)) => input = back,
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
