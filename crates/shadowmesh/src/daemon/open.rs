//! Opening what a node needs, each failure with the words that help.

use std::collections::BTreeMap;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use handshake::{PublicKey, Timestamp};
use log::{info, warn};
use node::{Node, PeerConfig, Worker};
use os::fake_tcp::{FakeTcpHandle, FakeTcpLink};
use os::tcp::{TcpHandle, TcpLink};
use os::tun::{TunDevice, TunPort};
use os::udp::UdpLink;
use packet::coalesce::CoalesceLimits;
use packet::{Carrier, PoolConfig};

use super::carriers::{CarrierLink, Dialler, FakeTcpDialler};
use super::mtu;
use crate::config::{self, Config, ConfigError, Endpoint};
use crate::control::SocketName;
use crate::control::socket::{BindError, Bound};
use crate::failure::{Failure, with_causes};

/// Kernel buffer for sending, of each UDP socket, in bytes: some 16 ms at 1 Gbit/s. More would only hide congestion from
/// the egress queues, which measure it.
const SEND_BUFFER_BYTES: usize = 2 << 20;

/// Kernel buffer for receiving, of each UDP socket, in bytes. It holds what arrives while the worker does not run: more
/// than one TCP flow has in flight at most (`net.ipv4.tcp_rmem` lets it have 6 MiB), or the flow would lose whole trains
/// whenever another program has the core. The memory is the kernel's, and in use only then.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;

/// The most data-plane threads that are chosen without being asked for.
const DEFAULT_WORKERS_MAX: usize = 8;

/// Train buffers for each worker; its peers' egress queues hold them when a path is full.
const LARGE_BUFFERS_PER_WORKER: usize = 128;

/// Buffers for handshakes on their way to the node.
const SMALL_BUFFERS: usize = 512;

/// The control socket.
pub(super) fn bind_control(socket: &SocketName, node: &str) -> Result<Bound, Failure> {
    Bound::bind(socket).map_err(|error| match error {
        BindError::AlreadyRunning => Failure::Runtime(format!(
            "node `{node}` is already running (it answers at {socket}): see `shadowmesh status`, or stop it first"
        )),
        BindError::Io(error) => {
            let help = match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    ": run as root, or name another place with --socket or --run-dir"
                }
                _ => "",
            };
            Failure::Runtime(format!("cannot create the control socket {socket}: {error}{help}"))
        }
    })
}

/// The sockets of all carriers for each worker, and what calls others by them.
pub(super) fn bind_links(config: &Config, workers: usize) -> Result<(Vec<CarrierLink>, Dialler), Failure> {
    let udp = bind_udp(config, workers)?;
    let mut dialler = Dialler { fake_tcp: None, tcp: None };
    let (mut fake_tcp, mut tcp) = (Vec::new(), Vec::new());
    if let Some(wanted) = &config.carriers.fake_tcp {
        let (links, handle) = bind_fake_tcp(config, wanted, workers)?;
        let keys = config.peers.iter().map(|peer| wanted.guard_key(&peer.public_key)).collect();
        (fake_tcp, dialler.fake_tcp) = (links, Some(FakeTcpDialler { handle, keys }));
    }
    if let Some(wanted) = &config.carriers.tcp {
        let (mut links, handle) = bind_tcp(config, wanted, workers)?;
        if config.peers.len() > 1 {
            links.iter_mut().for_each(TcpLink::share);
        }
        (tcp, dialler.tcp) = (links, Some(handle));
    }
    let (mut fake_tcp, mut tcp) = (fake_tcp.into_iter(), tcp.into_iter());
    let links = udp.into_iter().map(|udp| CarrierLink::new(udp, fake_tcp.next(), tcp.next()));
    Ok((links.collect(), dialler))
}

fn bind_tcp(
    config: &Config,
    wanted: &config::Tcp,
    workers: usize,
) -> Result<(Vec<TcpLink>, TcpHandle), Failure> {
    let tcp = os::tcp::TcpConfig {
        listen: wanted.listen,
        workers,
        // The kernel knows best what a connection needs.
        send_buffer_bytes: 0,
        receive_buffer_bytes: 0,
    };
    os::tcp::bind(tcp).map_err(|error| {
        let error = ConfigError::new(&config.path, with_causes(&error)).at(wanted.listen_place);
        Failure::Runtime(error.help("choose another address or port for `listen` in [tcp]").to_string())
    })
}

fn bind_fake_tcp(
    config: &Config,
    wanted: &config::FakeTcp,
    workers: usize,
) -> Result<(Vec<FakeTcpLink>, FakeTcpHandle), Failure> {
    let fake_tcp = os::fake_tcp::FakeTcpConfig {
        listen: wanted.listen,
        workers,
        send_buffer_bytes: SEND_BUFFER_BYTES,
        receive_buffer_bytes: RECEIVE_BUFFER_BYTES,
        offload: config.offload,
        listen_key: wanted.guard_key(&config.secret.public_key()),
        secret: random()?,
        local_flags: wanted.local_flags.clone(),
        remote_flags: wanted.remote_flags.clone(),
    };
    os::fake_tcp::bind(fake_tcp).map_err(|error| {
        let help = match error {
            os::fake_tcp::BindError::AddressInUse(_) | os::fake_tcp::BindError::AddressNotAvailable(_) => {
                "choose another address or port for `listen` in [faketcp]"
            }
            _ => "or take `faketcp` out of the `carriers` of all peers",
        };
        let error = ConfigError::new(&config.path, with_causes(&error)).at(wanted.listen_place);
        Failure::Runtime(error.help(help).to_string())
    })
}

/// A UDP socket for each worker.
fn bind_udp(config: &Config, workers: usize) -> Result<Vec<UdpLink>, Failure> {
    let udp = os::udp::UdpConfig {
        listen: config.listen,
        workers,
        send_buffer_bytes: SEND_BUFFER_BYTES,
        receive_buffer_bytes: RECEIVE_BUFFER_BYTES,
        offload: config.offload,
    };
    os::udp::bind(&udp).map_err(|error| {
        let error = ConfigError::new(&config.path, with_causes(&error)).at(config.listen_place);
        Failure::Runtime(error.help("choose another address or port for `listen` in [node]").to_string())
    })
}

/// TUN queues a worker. That many flows, on average, never wait for each other; the kernel allows 256 a device.
const QUEUES_PER_WORKER: usize = 8;

/// The TUN device, up, with a port for each worker. Without `[tun]` there is none, and the ports have no queues.
pub(super) fn create_tun(
    config: &Config,
    workers: usize,
    mtu: u16,
) -> Result<(Option<TunDevice>, Vec<TunPort>), Failure> {
    let Some(wanted) = &config.tun else {
        return Ok((None, (0..workers).map(|_| TunPort::new(Vec::new())).collect()));
    };
    let tun = os::tun::TunConfig {
        name: wanted.name.clone(),
        queues: workers * QUEUES_PER_WORKER,
        mtu,
        addresses: wanted.addresses.clone(),
        routes: config.peers.iter().flat_map(|peer| peer.allowed_ips.iter().copied()).collect(),
        offload: config.offload,
        gso_max_bytes: Some(mtu::gso_bytes_max(mtu)),
    };
    let (device, queues) = TunDevice::create(&tun).map_err(|error| match error {
        os::tun::TunError::NameInUse(_) | os::tun::TunError::BadName(_) => {
            let error = ConfigError::new(&config.path, with_causes(&error)).at(wanted.name_place);
            Failure::Runtime(error.to_string())
        }
        error => Failure::Runtime(with_causes(&error)),
    })?;
    let mut queues = queues.into_iter();
    let ports = (0..workers).map(|_| TunPort::new(queues.by_ref().take(QUEUES_PER_WORKER).collect()));
    Ok((Some(device), ports.collect()))
}

fn random() -> Result<[u8; 32], Failure> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| Failure::Runtime(format!("the kernel gives no random numbers: {error}")))?;
    Ok(bytes)
}

/// The lines that `up` starts with.
pub(super) fn announce(
    config: &Config,
    link: &UdpLink,
    dialler: &Dialler,
    device: Option<&TunDevice>,
    mtu: u16,
    workers: usize,
) {
    let words = |words: &[(bool, &'static str)]| {
        let on: Vec<_> = words.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect();
        if on.is_empty() { "no offloads".to_owned() } else { on.join(" ") }
    };
    let version = env!("CARGO_PKG_VERSION");
    info!("shadowmesh {version}: node {}, public key {}", config.name, config.secret.public_key());
    let udp = link.offloads();
    let listen = link.local_addr().unwrap_or(config.listen);
    let threads = if workers == 1 { "1 worker".into() } else { format!("{workers} workers") };
    info!("listening on UDP {listen}, {threads} ({})", words(&[(udp.gso, "GSO"), (udp.gro, "GRO")]));
    for (carrier, listen) in dialler.listening() {
        let what = if carrier == Carrier::Tcp { "connections" } else { "crafted segments" };
        info!("listening on TCP {listen} for {what}");
    }
    if !link.is_steered() {
        warn!(
            "the kernel does not steer datagrams by lane: each peer's reach one worker, whichever it chooses"
        );
    }
    let (Some(device), Some(tun)) = (device, &config.tun) else { return };
    let addresses: Vec<_> = tun.addresses.iter().map(ToString::to_string).collect();
    let tun = device.offloads();
    let offloads = words(&[
        (tun.csum, "checksum"),
        (tun.tso4, "TSO4"),
        (tun.tso6, "TSO6"),
        (tun.uso4, "USO4"),
        (tun.uso6, "USO6"),
    ]);
    info!("{} is up with {}, MTU {mtu} ({offloads})", device.name(), addresses.join(" "));
}

/// Half of the cores: the other half runs the kernel's share of the work, and what the traffic is for.
pub(super) fn default_workers() -> usize {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    (cores / 2).clamp(1, DEFAULT_WORKERS_MAX.min(handshake::LANES))
}

/// What a node begins with beside its configuration.
pub(super) struct Beginning {
    pub(super) workers: usize,
    pub(super) mtu: u16,
    pub(super) epoch: u64,
    /// The newest initiation of each peer that has come to a session in use.
    pub(super) confirmed: BTreeMap<PublicKey, Timestamp>,
    pub(super) unix_time: Duration,
    /// Somebody runs streams.
    pub(super) streams: bool,
    pub(super) now: Instant,
}

/// The sans-IO node and its workers.
pub(super) fn create_node(
    config: Config,
    device: Option<&TunDevice>,
    beginning: &Beginning,
) -> Result<(Node, Vec<Worker>), Failure> {
    let &Beginning { workers, mtu, epoch, ref confirmed, unix_time, streams, now } = beginning;
    let seed = random()?;
    let tun = device.map(TunDevice::offloads).unwrap_or_default();
    let peers = config.peers.into_iter().map(|peer| PeerConfig {
        name: peer.name,
        public_key: peer.public_key,
        preshared_key: peer.preshared_key.unwrap_or_default(),
        protocol: peer.protocol,
        endpoint: match peer.endpoint {
            Some(Endpoint::Address(address)) => Some(address),
            Some(Endpoint::Name { .. }) | None => None,
        },
        ways: peer.ways,
        allowed_ips: peer.allowed_ips,
        keepalive: peer.keepalive,
        confirmed: confirmed.get(&peer.public_key).copied().unwrap_or_default(),
    });
    let node = node::Config {
        secret: config.secret,
        suite: config.cipher.unwrap_or_else(handshake::preferred_suite),
        suite_only: config.cipher.is_some(),
        workers,
        mtu,
        peers: peers.collect(),
        epoch,
        unix_time,
        coalesce: CoalesceLimits { tso4: tun.tso4, tso6: tun.tso6, uso4: tun.uso4, uso6: tun.uso6 },
        streams,
        pool: PoolConfig { large: LARGE_BUFFERS_PER_WORKER * workers, small: SMALL_BUFFERS },
    };
    Node::new(node, seed, now)
        .map_err(|error| Failure::Usage(ConfigError::new(&config.path, error.to_string()).to_string()))
}
