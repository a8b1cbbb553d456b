//! The running node: sockets, device and threads around the sans-IO node, from start to a clean end.
//!
//! ```text
//!   main        signals, control socket ──┐
//!   sm-worker-0 ┐                         │ Command
//!   sm-worker-1 ├── Event ──► bounded channel ──► sm-node ──► UDP (handshakes, probes)
//!   …           ┘                                    │
//!        ▲──────────────── wake: new table ──────────┘
//! ```
//!
//! The TUN device lives as long as its queues' descriptors, so however the process ends, the kernel removes the
//! interface, its addresses and its routes.

mod carriers;
mod confirmed;
mod discovery;
mod epoch;
mod flips;
mod handle;
mod key_lock;
mod mtu;
mod node_thread;
mod open;
mod resolver;
mod send_errors;
mod streams;
mod worker_thread;

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use handshake::Protocol;
use log::{debug, error, info, warn};
use node::PeerId;
use os::poll::{Events, Interest, Poller, Waker};
use os::signal::{Signal, Signals};
use os::tun::TunDevice;
use tokio::sync::mpsc;

pub(crate) use epoch::STATE_DIR;
pub(crate) use handle::{Input, NodeHandle};
pub(crate) use key_lock::{About, Holder, KeyLock};

use crate::config::{Config, Peer, routes_into_tunnel};
use crate::control::SocketName;
use crate::control::server;
use crate::control::socket::Bound;
use crate::control::types::{Status, TunStatus};
use crate::failure::Failure;
use crate::proxy::StopHandle;
use crate::streams::StreamsThread;
pub(crate) use carriers::CarrierLink;
use confirmed::Confirmed;
use discovery::DiscoveryThread;
use handle::Command;
use node_thread::{NodeThread, PeerNotes};
use resolver::{Family, Resolver};
use send_errors::SendErrors;
use worker_thread::{Counters, WatchedTun, WorkerThread};

/// What workers may have to tell the node before it listens. A handshake is the largest of it, in a pooled buffer.
const INPUTS_MAX: usize = 1_024;

/// What `up` was told.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) config: Config,
    pub(crate) socket: SocketName,
    pub(crate) state_dir: PathBuf,
    /// The lock of the node's key, where it was taken already.
    pub(crate) lock: Option<KeyLock>,
    pub(crate) on_hangup: OnHangup,
}

/// What SIGHUP means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnHangup {
    /// The terminal has gone, and so does what was started in it.
    End,
    /// A service is told to read its configuration again.
    Stay,
}

/// Runs a node until a signal ends it.
pub(crate) fn run(mut options: Options) -> Result<(), Failure> {
    // Before any thread is started, so that all of them have the signals blocked.
    let unwatched = |error| Failure::Runtime(format!("cannot watch signals: {error}"));
    let signals = Signals::block().map_err(unwatched)?;
    let (ended, ends) = mpsc::unbounded_channel();
    watch_signals(signals, ended.clone()).map_err(unwatched)?;
    if let Err(error) = os::files::raise_open_files() {
        debug!("cannot raise the limit of open files: {error}");
    }
    let bound = open::bind_control(&options.socket, &options.config.name)?;
    let key = options.config.secret.public_key();
    let _lock = match options.lock.take() {
        Some(lock) => lock,
        None => KeyLock::take(&options.state_dir, &key, About::default()).map_err(|holder| {
            Failure::Runtime(format!(
                "{holder} uses the key of node `{}` already: two programs with one key take each other's sessions away. Stop \
                 that one, or give this node a key of its own",
                options.config.name
            ))
        })?,
    };
    let on_hangup = options.on_hangup;
    let running = Running::start(options, &ended)?;
    if let Err(error) = os::files::sd_notify("READY=1") {
        warn!("cannot tell systemd that the node is ready: {error}");
    }
    let outcome = serve(&running, &bound, on_hangup, ended, ends);
    // A failing notification leaves systemd to notice by itself.
    let _ = os::files::sd_notify("STOPPING=1");
    drop(bound);
    running.stop();
    outcome.map_err(|reason| {
        error!("{reason}");
        Failure::Silent
    })
}

/// Why the main thread is woken.
#[derive(Debug)]
enum Wake {
    Signal(Signal),
    /// A thread has ended that should not have.
    Ended(String),
}

/// Serves the control socket until a signal comes or a thread dies.
fn serve(
    running: &Running,
    bound: &Bound,
    on_hangup: OnHangup,
    ended: mpsc::UnboundedSender<Wake>,
    mut ends: mpsc::UnboundedReceiver<Wake>,
) -> Result<(), String> {
    let failed = |error: io::Error| format!("cannot serve the control socket: {error}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let listener = bound.listener().map_err(failed)?;
    let handle = Arc::clone(&running.handle);
    let asked = Arc::clone(&running.handle);
    let outcome = runtime.block_on(async move {
        tokio::spawn(async move {
            if let Err(error) = server::serve(listener, handle).await {
                let _ = ended.send(Wake::Ended(format!("control socket: {error}")));
            }
        });
        loop {
            match ends.recv().await {
                Some(Wake::Signal(Signal::Interrupt | Signal::Terminate)) => {
                    info!("stopping");
                    return Ok(());
                }
                Some(Wake::Signal(Signal::Hangup)) if on_hangup == OnHangup::End => {
                    info!("stopping, as the terminal has gone");
                    return Ok(());
                }
                Some(Wake::Signal(Signal::Hangup)) => {
                    warn!("SIGHUP: reading the configuration again is not supported yet; restart instead");
                }
                Some(Wake::Signal(Signal::User1)) => {
                    if let Ok(status) = asked.status().await {
                        for line in summary(&status) {
                            info!("{line}");
                        }
                    }
                }
                Some(Wake::Ended(reason)) => return Err(reason),
                None => return Err("nobody is left to wait for".into()),
            }
        }
    });
    runtime.shutdown_background();
    outcome
}

/// How a node is, in a line for itself and one for each peer: what SIGUSR1 asks for.
fn summary(status: &Status) -> Vec<String> {
    let dropped: u64 = status.drops.values().sum();
    let connected = status.peers.iter().filter(|peer| peer.connected).count();
    let first = format!(
        "up {:.0} s, {connected} of {} peers connected, {dropped} packets dropped",
        status.uptime_s,
        status.peers.len()
    );
    let peers = status.peers.iter().map(|peer| {
        let state = if peer.connected { "connected" } else { "not connected" };
        let endpoint = peer.endpoint.map_or_else(|| "nowhere".into(), |endpoint| endpoint.to_string());
        let rtt = peer.rtt_ms.map_or_else(String::new, |rtt| format!(", RTT {rtt:.1} ms"));
        let loss = peer.loss.map_or_else(String::new, |loss| format!(", loss {:.1} %", loss * 100.0));
        format!(
            "{}: {state} at {endpoint} over {}{rtt}{loss}, received {} bytes, sent {} bytes",
            peer.name, peer.carrier, peer.rx_bytes, peer.tx_bytes
        )
    });
    std::iter::once(first).chain(peers).collect()
}

/// Passes signals on from a thread of their own, which ends with the process.
fn watch_signals(signals: Signals, wakes: mpsc::UnboundedSender<Wake>) -> io::Result<()> {
    let poller = Poller::new()?;
    poller.add(&signals, 0, Interest::READ)?;
    let mut events = Events::with_capacity(1);
    let watch = move || {
        while poller.wait(&mut events, None).is_ok() {
            while let Ok(Some(signal)) = signals.read() {
                if wakes.send(Wake::Signal(signal)).is_err() {
                    return;
                }
            }
        }
    };
    thread::Builder::new().name("sm-signals".into()).spawn(watch).map(drop)
}

/// The threads of a node.
#[derive(Debug)]
struct Running {
    handle: Arc<NodeHandle>,
    inputs: SyncSender<Input>,
    stop: Arc<AtomicBool>,
    wakers: Vec<Arc<Waker>>,
    /// Ends the search for peers on the local network.
    discovery: Option<StopHandle>,
    /// Ends the streams.
    streams: Option<StopHandle>,
    threads: Vec<JoinHandle<()>>,
}

impl Running {
    /// Opens everything, then starts the threads. When anything fails all of it is closed again.
    fn start(options: Options, ended: &mpsc::UnboundedSender<Wake>) -> Result<Self, Failure> {
        let Options { config, state_dir, .. } = options;
        let now = Instant::now();
        let unix_time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let key = config.secret.public_key();
        let epoch = epoch::next(&state_dir, &key, &config.name, unix_time);
        let confirmed = Confirmed::of(&state_dir, &key);
        let worker_count = config.workers.unwrap_or_else(open::default_workers);
        let mtu = config.tun.as_ref().and_then(|tun| tun.mtu).unwrap_or_else(|| mtu::of_paths(&config));

        let (links, dialler) = open::bind_links(&config, worker_count)?;
        let (device, ports) = open::create_tun(&config, worker_count, mtu)?;
        open::announce(&config, links[0].udp(), &dialler, device.as_ref(), mtu, worker_count);

        let runtime_error = |what: &str, error: io::Error| Failure::Runtime(format!("{what}: {error}"));
        let listen = links[0]
            .udp()
            .local_addr()
            .map_err(|error| runtime_error("cannot read the local address", error))?;
        let node_links = links.iter().map(CarrierLink::sender).collect::<Result<Vec<_>, _>>();
        let node_links = node_links.map_err(|error| runtime_error("cannot share the sockets", error))?;
        let (inputs, node_inputs) = sync_channel(INPUTS_MAX);
        let stop = Arc::new(AtomicBool::new(false));
        let counters: Vec<_> = (0..worker_count).map(|_| Arc::new(Counters::default())).collect();
        let wakers = (0..worker_count).map(|_| Waker::new().map(Arc::new)).collect::<Result<Vec<_>, _>>();
        let wakers = wakers.map_err(|error| runtime_error("cannot create a waker", error))?;
        let streams =
            streams::Plan::of(&config).map_err(|error| runtime_error("cannot run streams", error))?;
        let tun_name = device.as_ref().map(TunDevice::name);
        let discovery = discovery::plan(&config, listen, family(listen), tun_name, inputs.clone());
        let handle = Arc::new(NodeHandle {
            name: config.name.clone(),
            started: now,
            listen: vec![listen],
            listen_carriers: dialler.listening().map(|(carrier, at)| (carrier.to_string(), at)).collect(),
            tun: device.as_ref().zip(config.tun.as_ref()).map(|(device, tun)| TunStatus {
                name: device.name().into(),
                mtu,
                address: tun.addresses.iter().map(ToString::to_string).collect(),
            }),
            workers: counters.clone(),
            inputs: inputs.clone(),
            streams: streams.as_ref().map(|plan| plan.queries.clone()),
            discovery: discovery.as_ref().map(|(_, queries, _)| queries.clone()),
        });
        let endpoints = config.peers.iter().enumerate();
        let endpoints = endpoints.filter_map(|(id, peer)| Some((PeerId(id as u32), peer.endpoint.as_ref()?)));
        let resolver =
            Resolver::new(endpoints, family(listen), routes_into_tunnel(&config), inputs.clone(), now);
        let notes = config.peers.iter().map(notes).collect();
        let beginning = open::Beginning {
            workers: worker_count,
            mtu,
            epoch,
            confirmed: confirmed.read(),
            unix_time,
            streams: streams.is_some(),
            now,
        };
        let (node, workers) = open::create_node(config, device.as_ref(), &beginning)?;

        let inbox = streams.as_ref().map(|plan| Arc::clone(&plan.inbox));
        let streams = match streams {
            Some(plan) => {
                let parts = plan.thread(&node, &links[0], inputs.clone());
                Some(parts.map_err(|error| runtime_error("cannot run streams", error))?)
            }
            None => None,
        };
        let mut running =
            Self { handle, inputs, stop, wakers, discovery: None, streams: None, threads: Vec::new() };
        let parts = workers.into_iter().zip(ports).zip(links).zip(counters).zip(&running.wakers);
        let workers: Vec<_> = parts
            .map(|((((worker, port), link), counters), waker)| WorkerThread {
                worker,
                tun: WatchedTun::new(port),
                link,
                waker: Arc::clone(waker),
                inputs: running.inputs.clone(),
                streams: inbox.clone(),
                stop: Arc::clone(&running.stop),
                counters,
            })
            .collect();
        let mut node_wakers = running.wakers.clone();
        if let Some(inbox) = &inbox {
            let waker =
                inbox.waker.try_clone().map_err(|error| runtime_error("cannot run streams", error))?;
            node_wakers.push(Arc::new(waker));
        }
        let node = NodeThread {
            node,
            inputs: node_inputs,
            links: node_links,
            dialler,
            device,
            wakers: node_wakers,
            streams: inbox.clone(),
            confirmed,
            peers: notes,
            resolver,
            send_errors: SendErrors::default(),
            pings: HashMap::new(),
            unreachable: HashSet::new(),
            flips: flips::Flips::default(),
        };
        let discovery = discovery.map(|(thread, _, stop)| (thread, stop));
        match running.spawn_all(workers, node, discovery, streams, ended) {
            Ok(()) => Ok(running),
            Err(failure) => {
                running.stop();
                Err(failure)
            }
        }
    }

    fn spawn_all(
        &mut self,
        workers: Vec<WorkerThread>,
        node: NodeThread,
        discovery: Option<(DiscoveryThread, StopHandle)>,
        streams: Option<(StreamsThread, streams::Started, StopHandle)>,
        ended: &mpsc::UnboundedSender<Wake>,
    ) -> Result<(), Failure> {
        // The node first: it empties the channel, without which nothing can be told to stop.
        self.spawn("sm-node", ended, move || node.run())?;
        for (index, worker) in workers.into_iter().enumerate() {
            self.spawn(&format!("sm-worker-{index}"), ended, move || worker.run())?;
        }
        if let Some((discovery, stop)) = discovery {
            let run = move || {
                discovery.run();
                Ok(())
            };
            self.spawn("sm-discovery", ended, run)?;
            self.discovery = Some(stop);
        }
        if let Some((streams, started, stop)) = streams {
            self.spawn("sm-streams", ended, move || streams.run())?;
            self.streams = Some(stop);
            started.wait()?;
        }
        Ok(())
    }

    /// Starts a thread whose end, in whatever way, reaches the main thread.
    fn spawn(
        &mut self,
        name: &str,
        ended: &mpsc::UnboundedSender<Wake>,
        run: impl FnOnce() -> Result<(), String> + Send + 'static,
    ) -> Result<(), Failure> {
        let (ended, label) = (ended.clone(), name.to_owned());
        let body = move || {
            let reason = match catch_unwind(AssertUnwindSafe(run)) {
                Ok(Ok(())) => return,
                Ok(Err(reason)) => reason,
                Err(_) => "it panicked: this is a bug, please report it".into(),
            };
            let _ = ended.send(Wake::Ended(format!("{label}: {reason}")));
        };
        match thread::Builder::new().name(name.into()).spawn(body) {
            Ok(thread) => {
                self.threads.push(thread);
                Ok(())
            }
            Err(error) => Err(Failure::Runtime(format!("cannot start thread {name}: {error}"))),
        }
    }

    /// Ends all threads, and with them the device and the sockets. None of them ever blocks for long.
    fn stop(mut self) {
        // Whoever is told that we go has time for it while the streams end.
        if let Some(discovery) = self.discovery.take() {
            discovery.stop();
        }
        // The streams first: what was written still goes out, through everybody else.
        if let Some(streams) = self.streams.take() {
            streams.stop();
            if let Some(thread) = self.threads.pop() {
                let _ = thread.join();
            }
        }
        self.signal_stop();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }

    fn signal_stop(&self) {
        self.stop.store(true, Relaxed);
        for waker in &self.wakers {
            waker.wake();
        }
        // A full channel is being emptied; a channel without a reader has no thread to stop.
        let _ = self.inputs.send(Input::Command(Command::Stop));
    }
}

/// The family of addresses that a socket bound there can reach; `None` for both.
fn family(listen: SocketAddr) -> Option<Family> {
    match listen {
        SocketAddr::V6(address) if address.ip().is_unspecified() => None,
        SocketAddr::V6(_) => Some(Family::V6),
        SocketAddr::V4(address) if address.ip().is_unspecified() => None,
        SocketAddr::V4(_) => Some(Family::V4),
    }
}

fn notes(peer: &Peer) -> PeerNotes {
    let address =
        peer.allowed_ips.first().map_or_else(|| "ADDRESS".into(), |prefix| prefix.addr().to_string());
    PeerNotes {
        name: peer.name.clone(),
        expected: peer.keepalive.is_some(),
        ping_instead: (peer.protocol == Protocol::WireGuard).then(|| format!("ping {address}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node of which nothing runs yet, and what stands for its node's thread.
    fn nothing_running() -> (Running, std::sync::mpsc::Receiver<Input>) {
        let (inputs, node_inputs) = sync_channel(8);
        let handle = NodeHandle {
            name: "test".into(),
            started: Instant::now(),
            listen: Vec::new(),
            listen_carriers: std::collections::BTreeMap::new(),
            tun: None,
            workers: Vec::new(),
            inputs: inputs.clone(),
            streams: None,
            discovery: None,
        };
        let running = Running {
            handle: Arc::new(handle),
            inputs,
            stop: Arc::new(AtomicBool::new(false)),
            wakers: vec![Arc::new(Waker::new().unwrap())],
            streams: None,
            discovery: None,
            threads: Vec::new(),
        };
        (running, node_inputs)
    }

    /// What `serve` says when a thread runs `body`, beside another that works until it is told to stop.
    fn serve_beside(body: impl FnOnce() -> Result<(), String> + Send + 'static) -> Result<(), String> {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let name = format!("shadowmesh-threads-{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
        let bound = Bound::bind(&SocketName::Abstract(name)).expect("nobody else has that name");
        let (mut running, _inputs) = nothing_running();
        let (ended, ends) = mpsc::unbounded_channel();
        let (stop, waker) = (Arc::clone(&running.stop), Arc::clone(&running.wakers[0]));
        let poller = Poller::new().unwrap();
        poller.add(&*waker, 0, Interest::READ).unwrap();
        let works = move || {
            let mut events = Events::with_capacity(1);
            while !stop.load(Relaxed) {
                poller.wait(&mut events, None).map_err(|error| error.to_string())?;
            }
            Ok(())
        };
        assert!(running.spawn("sm-worker-0", &ended, works).is_ok());
        assert!(running.spawn("sm-worker-1", &ended, body).is_ok());
        let outcome = serve(&running, &bound, OnHangup::Stay, ended, ends);
        // Returns only when every thread has ended.
        running.stop();
        outcome
    }

    #[test]
    fn a_thread_that_panics_ends_the_program_which_says_which_and_why() {
        let reason = serve_beside(|| panic!("this panic is part of the test")).unwrap_err();
        assert_eq!(reason, "sm-worker-1: it panicked: this is a bug, please report it");
    }

    #[test]
    fn a_thread_that_fails_ends_the_program_with_its_reason() {
        let reason = serve_beside(|| Err("the TUN device is gone".into())).unwrap_err();
        assert_eq!(reason, "sm-worker-1: the TUN device is gone");
    }
}
