//! The thread of the streams: the hub, driven, and the proxies on it.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use log::info;
use node::PeerId;
use os::udp::UdpLink;
use tokio::io::Interest;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot::Sender;
use tokio::task::{LocalSet, spawn_local, yield_now};
use tokio::time::{sleep, sleep_until};

use super::hub::Accepted;
use super::inbox::Watched;
use super::{Hub, Inbox, PeerStream, Setup};
use crate::config::{Direction, Place, Proxies};
use crate::control::types::StreamsStatus;
use crate::proxy::entry::{Socks5, TcpForward, UdpForward};
use crate::proxy::exit::{Exit, RemoteForward};
use crate::proxy::request::{ListenerId, Transport};
use crate::proxy::{Settings, Shared, Stop, StopHandle};

/// Batches taken before what they caused is sent.
const BATCHES_PER_ROUND: usize = 16;
/// How long a node that ends waits for its peers to have everything.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(700);
/// How often it looks.
const FLUSH_POLL: Duration = Duration::from_millis(5);

/// Why a listener could not be had, and where the configuration asks for it.
#[derive(Debug)]
pub(crate) struct CannotListen {
    pub(crate) address: SocketAddr,
    pub(crate) place: Option<Place>,
    pub(crate) error: io::Error,
}

/// Asks the thread how it goes.
pub(crate) type StreamQueries = UnboundedSender<Sender<StreamsStatus>>;

/// The thread's belongings.
pub(crate) struct StreamsThread {
    pub(crate) setup: Setup,
    pub(crate) inbox: Arc<Inbox>,
    /// A handle on the hub's socket, to wait for room in it.
    pub(crate) link: UdpLink,
    pub(crate) proxies: Proxies,
    /// All addresses of the overlay, this node's and the others'.
    pub(crate) overlay: Vec<IpNet>,
    pub(crate) stop: Stop,
    /// Who wants to know how it goes.
    pub(crate) asked: UnboundedReceiver<Sender<StreamsStatus>>,
    /// Told once whether all listeners stand.
    pub(crate) started: mpsc::SyncSender<Result<(), CannotListen>>,
}

impl std::fmt::Debug for StreamsThread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamsThread").finish_non_exhaustive()
    }
}

impl StreamsThread {
    /// Works until told to stop. Streams that are open then are ended in order, as far as peers answer in time.
    ///
    /// # Errors
    /// When the kernel gives no runtime.
    pub(crate) fn run(self) -> Result<(), String> {
        let failed = |error: io::Error| format!("cannot wait for streams: {error}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let outcome = LocalSet::new().block_on(&runtime, self.serve()).map_err(failed);
        // A name look-up that hangs must not hold up the end.
        runtime.shutdown_background();
        outcome
    }

    async fn serve(self) -> io::Result<()> {
        let Self { setup, inbox, link, proxies, overlay, stop, asked, started } = self;
        let shared = Shared::new(Settings::within(setup.memory_max));
        let (hub, accepted) = Hub::new(setup);
        // The proxies end before the hub does, so they are told apart.
        let (proxies_end, proxies_stop) = StopHandle::new();
        match start(&hub, &shared, proxies, &overlay, accepted, &proxies_stop) {
            Ok(()) => {
                let _ = started.send(Ok(()));
            }
            Err(failure) => {
                let _ = started.send(Err(failure));
                return Ok(());
            }
        }
        drop(proxies_stop);
        spawn_local(answer(Rc::clone(&hub), Rc::clone(&shared), asked));
        let ending = async {
            stop.requested().await;
            hub.stop();
            proxies_end.stop();
            let flushed = async {
                proxies_end.stopped().await;
                while !hub.is_flushed() {
                    sleep(FLUSH_POLL).await;
                }
            };
            // Those that do not answer now will notice by themselves.
            let _ = tokio::time::timeout(FLUSH_TIMEOUT, flushed).await;
        };
        tokio::select! {
            driven = drive(&hub, &shared, &inbox, link) => driven,
            () = ending => Ok(()),
        }
    }
}

/// Says how it goes to whoever asks.
async fn answer(hub: Rc<Hub>, shared: Rc<Shared>, mut asked: UnboundedReceiver<Sender<StreamsStatus>>) {
    while let Some(reply) = asked.recv().await {
        let (memory, peers) = hub.status();
        let counters = &shared.counters;
        let refused = [&counters.refused_limit, &counters.refused_login, &counters.refused_protocol];
        // Whoever asked may have gone away.
        let _ = reply.send(StreamsStatus {
            memory_bytes: (memory + shared.memory()) as u64,
            clients: counters.clients.value(),
            clients_refused: refused.iter().map(|counter| counter.value()).sum(),
            exit_requests: counters.exit_requests.value(),
            exit_denied: counters.exit_denied.value(),
            bytes_up: counters.bytes_up.value(),
            bytes_down: counters.bytes_down.value(),
            datagrams: counters.datagrams.value(),
            datagrams_dropped: counters.datagrams_dropped.value(),
            peers,
        });
    }
}

/// Moves everything: what has arrived, what is to be sent, and time.
async fn drive(hub: &Hub, shared: &Shared, inbox: &Arc<Inbox>, link: UdpLink) -> io::Result<()> {
    let waker = Watched::watch(inbox.waker.try_clone()?, Interest::READABLE)?;
    let link = Watched::watch(link, Interest::WRITABLE)?;
    loop {
        let now = Instant::now();
        let mut more = true;
        for _ in 0..BATCHES_PER_ROUND {
            let Some(batch) = inbox.pop() else {
                more = false;
                break;
            };
            inbox.count_refused(hub.receive(now, &batch));
        }
        hub.set_memory_elsewhere(shared.memory());
        let (deadline, blocked) = hub.process(now);
        if more {
            yield_now().await;
            continue;
        }
        tokio::select! {
            ready = waker.readable() => {
                ready?.clear_ready();
                hub.sessions_changed();
            }
            () = hub.worked() => {}
            () = until(deadline) => {}
            ready = link.writable(), if blocked => ready?.clear_ready(),
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Opens all listeners, then starts everything.
fn start(
    hub: &Rc<Hub>,
    shared: &Rc<Shared>,
    proxies: Proxies,
    overlay: &[IpNet],
    accepted: Accepted,
    stop: &Stop,
) -> Result<(), CannotListen> {
    let opener = |peer: usize| {
        let (hub, peer) = (Rc::clone(hub), PeerId(peer as u32));
        async move || hub.open(peer).await
    };
    let of_peers = proxies.exit_of_peers.into_iter();
    let of_peers = of_peers.map(|(peer, rules)| (PeerId(peer as u32), rules)).collect();
    let exit = Exit::with_rules_of_peers(shared, proxies.exit, of_peers, overlay);
    // Nothing is started before all addresses are had: a failure leaves nothing half done.
    let mut socks5 = Vec::new();
    for section in proxies.socks5 {
        let (address, place) = (section.listen, section.listen_place);
        let credentials = section.login.map(|login| login.credentials);
        let bound = Socks5::bind(shared, address, credentials);
        socks5.push((bound.map_err(|error| CannotListen { address, place, error })?, section.via));
    }
    let (mut tcp, mut udp, mut remote) = (Vec::new(), Vec::new(), Vec::new());
    for section in proxies.forwards {
        let (address, place) = (section.listen, section.listen_place);
        let cannot = |error| CannotListen { address, place, error };
        match (section.direction, section.transport) {
            (Direction::Local, Transport::Tcp) => {
                let forward = TcpForward::bind(shared, address, section.target).map_err(cannot)?;
                tcp.push((forward, section.via));
            }
            (Direction::Local, Transport::Udp) => {
                let forward = UdpForward::bind(shared, address, section.target).map_err(cannot)?;
                udp.push((forward, section.via));
            }
            (Direction::Remote, transport) => {
                let listener = ListenerId(remote.len() as u32);
                let forward = RemoteForward { listener, transport, listen: address, target: section.target };
                remote.push((forward, section.via));
            }
        }
    }
    for (listener, via) in socks5 {
        if let Ok(address) = listener.local_addr() {
            info!("SOCKS5 and HTTP CONNECT on {address}");
        }
        spawn_local(listener.run(opener(via), stop.clone()));
    }
    for (forward, via) in tcp {
        if let Ok(address) = forward.local_addr() {
            info!("forwarding TCP from {address}");
        }
        spawn_local(forward.run(opener(via), stop.clone()));
    }
    for (forward, via) in udp {
        if let Ok(address) = forward.local_addr() {
            info!("forwarding UDP from {address}");
        }
        spawn_local(forward.run(opener(via), stop.clone()));
    }
    for (forward, via) in remote {
        let (exit, open, stop) = (Rc::clone(&exit), opener(via), stop.clone());
        let peer = PeerId(via as u32);
        spawn_local(async move { exit.forward_from(peer, forward, open, stop, |_| {}).await });
    }
    spawn_local(accept(Rc::clone(hub), exit, accepted, stop.clone()));
    Ok(())
}

/// Serves the streams that peers open.
async fn accept(hub: Rc<Hub>, exit: Rc<Exit>, mut accepted: Accepted, stop: Stop) {
    loop {
        let (peer, stream) = tokio::select! {
            biased;
            () = stop.requested() => return,
            next = accepted.next(&hub) => match next {
                Some(next) => next,
                None => return,
            },
        };
        let (hub, exit) = (Rc::clone(&hub), Rc::clone(&exit));
        let open = async move || hub.open(peer).await;
        spawn_local(exit.serve::<PeerStream, _>(peer, stream, open, stop.clone()));
    }
}
