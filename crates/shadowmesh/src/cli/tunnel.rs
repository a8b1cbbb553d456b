//! `proxy` and `forward`: a tunnel to one peer in one line, without a configuration file, an interface or privileges.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use handshake::{Protocol, PublicKey};
use log::{LevelFilter, info};
use node::Way;
use packet::Carrier;

use super::{join, places};
use crate::config::{
    Carriers, Config, Direction, Discovery, Endpoint, Forward, Peer, Proxies, Socks5, Streams,
};
use crate::control::SocketName;
use crate::daemon::{self, About, KeyLock, OnHangup};
use crate::failure::Failure;
use crate::logging;
use crate::proxy::Target;
use crate::proxy::request::Transport;

/// Short enough for every NAT to remember us (RFC 4787 §4.3 has two minutes; many keep thirty seconds).
const KEEPALIVE: Duration = Duration::from_secs(25);

/// The peer to go through, and how to be known to it.
#[derive(Debug, clap::Args)]
struct Through {
    /// This side's private key, as `genkey` made it; the peer knows its public key
    #[arg(short, long, value_name = "FILE")]
    key: PathBuf,

    /// The peer: its public key and where it listens
    #[arg(short, long, value_name = "KEY@HOST:PORT")]
    peer: Remote,

    /// What may carry the tunnel, best first: udp, faketcp (needs root), tcp
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "udp")]
    carriers: Vec<Carrier>,

    /// The directory of control sockets (default: /run/shadowmesh, or the user's own)
    #[arg(long, value_name = "DIR", env = "SHADOWMESH_RUN_DIR", hide_env = true, default_value_os_t = places::run_dir(), hide_default_value = true)]
    run_dir: PathBuf,

    /// The directory of what must survive a restart (default: /var/lib/shadowmesh, or the user's own)
    #[arg(long, value_name = "DIR", env = "SHADOWMESH_STATE_DIR", hide_env = true, default_value_os_t = places::state_dir(), hide_default_value = true)]
    state_dir: PathBuf,

    /// Log more
    #[arg(short, long)]
    verbose: bool,
}

/// A peer on the command line.
#[derive(Clone, Debug)]
struct Remote {
    key: PublicKey,
    endpoint: Endpoint,
}

impl FromStr for Remote {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, endpoint) =
            text.split_once('@').ok_or("write KEY@HOST:PORT: the peer's public key first")?;
        let key = key.parse().map_err(|error| format!("public key: {error}"))?;
        Ok(Self { key, endpoint: endpoint.parse()? })
    }
}

/// Options of `proxy`.
#[derive(Debug, clap::Args)]
pub(super) struct ProxyArgs {
    #[command(flatten)]
    through: Through,

    /// Where to serve SOCKS5 and HTTP CONNECT; this host only
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:1080")]
    socks5: SocketAddr,

    /// Also listen here; the peer connects to the target, over TCP
    #[arg(short = 'L', long, value_name = "[ADDRESS:]PORT=TARGET:PORT")]
    local: Vec<Port>,

    /// Also have the peer listen; we connect to the target, over TCP
    #[arg(short = 'R', long, value_name = "[ADDRESS:]PORT=TARGET:PORT")]
    remote: Vec<Port>,
}

/// Options of `forward`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("ports").required(true).multiple(true).args(["local", "remote"])))]
pub(super) struct ForwardArgs {
    #[command(flatten)]
    through: Through,

    /// Listen here; the peer connects to the target
    #[arg(short = 'L', long, value_name = "[ADDRESS:]PORT=TARGET:PORT")]
    local: Vec<Port>,

    /// Have the peer listen; we connect to the target
    #[arg(short = 'R', long, value_name = "[ADDRESS:]PORT=TARGET:PORT")]
    remote: Vec<Port>,

    /// Forward UDP instead of TCP
    #[arg(short, long)]
    udp: bool,
}

/// A forwarded port on the command line.
#[derive(Clone, Debug)]
struct Port {
    listen: SocketAddr,
    target: Target,
}

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (listen, target) = text.split_once('=').ok_or("write LISTEN=TARGET, as 8080=10.0.0.5:80")?;
        // A port alone is one of this host only, as with ssh.
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listen = listen.parse().map(local).or_else(|_| listen.parse());
        let listen = listen.map_err(|_| "what to listen on is not [ADDRESS:]PORT")?;
        let target = target.parse().map_err(|error| format!("target: {error}"))?;
        Ok(Self { listen, target })
    }
}

pub(super) fn proxy(args: ProxyArgs) -> Result<(), Failure> {
    if !args.socks5.ip().is_loopback() {
        let message = "others could use this proxy: give it an address of this host only, as 127.0.0.1:1080, or write a \
                       configuration with `username` and `password_file` (see shadowmesh.example.toml)";
        return Err(super::usage(message));
    }
    let socks5 = Socks5 { listen: args.socks5, listen_place: None, via: 0, login: None };
    let forwards = forwards(args.local, args.remote, Transport::Tcp);
    run(args.through, Proxies { socks5: vec![socks5], forwards, ..Proxies::default() })
}

pub(super) fn forward(args: ForwardArgs) -> Result<(), Failure> {
    let transport = if args.udp { Transport::Udp } else { Transport::Tcp };
    let forwards = forwards(args.local, args.remote, transport);
    run(args.through, Proxies { forwards, ..Proxies::default() })
}

fn forwards(local: Vec<Port>, remote: Vec<Port>, transport: Transport) -> Vec<Forward> {
    let forward = |direction| {
        move |Port { listen, target }| Forward {
            listen,
            listen_place: None,
            target,
            transport,
            direction,
            via: 0,
        }
    };
    let local = local.into_iter().map(forward(Direction::Local));
    local.chain(remote.into_iter().map(forward(Direction::Remote))).collect()
}

/// Takes the key's lock. Who finds it taken by a proxy to the same peer goes through that until it ends, where it can.
fn lock(through: &Through, key: &PublicKey, proxies: &Proxies) -> Result<KeyLock, Failure> {
    let peer = through.peer.key;
    let socks5 = proxies.socks5.first().map(|socks5| socks5.listen).filter(|at| at.port() != 0);
    let ours = About { socks5, peer: Some(peer) };
    let by_proxy =
        |forward: &Forward| (forward.direction, forward.transport) == (Direction::Local, Transport::Tcp);
    let joins = proxies.socks5.is_empty() && proxies.forwards.iter().all(by_proxy);
    loop {
        let holder = match KeyLock::take(&through.state_dir, key, ours) {
            Ok(lock) => return Ok(lock),
            Err(holder) => holder,
        };
        let Some(theirs) = holder.socks5.filter(|_| joins && holder.peer == Some(peer)) else {
            return Err(Failure::Runtime(format!(
                "{holder} uses the key of {} already: two programs with one key take each other's sessions away. Stop that one; \
                 or let one program do both (`proxy` takes -L and -R too); or make a key of its own for this one, with \
                 `shadowmesh genkey`, which the peer must know",
                through.key.display()
            )));
        };
        join::run(Arc::from(holder), theirs, &proxies.forwards)?;
        info!("the program with the same key has ended: connecting now");
    }
}

fn run(through: Through, proxies: Proxies) -> Result<(), Failure> {
    logging::start(if through.verbose { LevelFilter::Debug } else { LevelFilter::Info });
    let name = format!("tunnel-{}", std::process::id());
    let socket = SocketName::of_node(&through.run_dir, &name);
    let secret = crate::config::private_key(&through.key)?;
    let lock = lock(&through, &secret.public_key(), &proxies)?;
    // The ports that a listener has who was told nothing else.
    let port = |carrier| match carrier {
        Carrier::Udp | Carrier::FakeTcp => None,
        Carrier::Tcp => through.peer.endpoint.port().checked_add(1),
    };
    let ways = through.carriers.iter().map(|&carrier| Way { carrier, port: port(carrier) });
    let ways: Vec<Way> = ways.collect();
    let carriers = Carriers::to_dial(&ways);
    let peer = Peer {
        name: "peer".into(),
        public_key: through.peer.key,
        preshared_key: None,
        protocol: Protocol::ShadowMesh,
        endpoint: Some(through.peer.endpoint),
        endpoint_place: None,
        ways,
        ways_place: None,
        allowed_ips: Vec::new(),
        allowed_ips_place: None,
        keepalive: Some(KEEPALIVE),
    };
    let config = Config {
        path: "the command line".into(),
        name,
        secret,
        // Any port: it is we who call.
        listen: SocketAddr::from(([0, 0, 0, 0], 0)),
        listen_place: None,
        workers: Some(1),
        cipher: None,
        offload: true,
        tun: None,
        peers: vec![peer],
        carriers,
        proxies,
        streams: Streams::default(),
        discovery: Discovery::default(),
    };
    daemon::run(daemon::Options {
        config,
        socket,
        state_dir: through.state_dir,
        lock: Some(lock),
        on_hangup: OnHangup::End,
    })
}
