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
use crate::proxy::request::Transport;
use crate::proxy::{Target, listen_address};

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
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:1080", value_parser = to_listen_on)]
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

    /// Listen here; the peer connects to the target. Also as ssh has it: [ADDRESS:]PORT:TARGET:PORT
    #[arg(short = 'L', long, value_name = "[ADDRESS:]PORT=TARGET:PORT")]
    local: Vec<Port>,

    /// Have the peer listen; we connect to the target. Also as ssh has it
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
    /// Written as `*`.
    anywhere: bool,
    target: Target,
}

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('=').or_else(|| as_ssh_has_it(text));
        let (listen, target) = parts.ok_or("write LISTEN=TARGET, as 8080=10.0.0.5:80")?;
        let anywhere = listen.starts_with(['*', ':']);
        let listen = to_listen_on(listen)?;
        let target: Target = target.parse().map_err(|error| format!("target: {error}"))?;
        if target.port() == 0 {
            return Err("target: port 0 cannot be reached".into());
        }
        Ok(Self { listen, anywhere, target })
    }
}

/// An address and a port; a port alone is one of this host only, as with ssh.
fn to_listen_on(text: &str) -> Result<SocketAddr, String> {
    let local = text.parse().ok().map(|port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    local.or_else(|| listen_address(text)).ok_or_else(|| {
        "what to listen on is not [ADDRESS:]PORT, with `localhost`, or `*` for every address".into()
    })
}

/// `[ADDRESS:]PORT:TARGET:PORT`, cut in the middle. An IPv6 address stands in brackets, so that there is one way to read it.
fn as_ssh_has_it(text: &str) -> Option<(&str, &str)> {
    let mut depth = 0;
    let colons: Vec<usize> = text
        .char_indices()
        .filter_map(|(at, c)| {
            depth += i32::from(c == '[') - i32::from(c == ']');
            (c == ':' && depth == 0).then_some(at)
        })
        .collect();
    let ([middle, _] | [_, middle, _]) = colons[..] else { return None };
    Some((&text[..middle], &text[middle + 1..]))
}

impl Port {
    /// What a peer is told to listen on. Its rules call every address 0.0.0.0.
    fn at_the_peer(&self) -> SocketAddr {
        if self.anywhere { (Ipv4Addr::UNSPECIFIED, self.listen.port()).into() } else { self.listen }
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
        move |port: Port| Forward {
            listen: if direction == Direction::Remote { port.at_the_peer() } else { port.listen },
            listen_place: None,
            target: port.target,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forward_is_written_with_an_equals_sign_or_as_ssh_has_it() {
        for (text, listen, target) in [
            ("8080=10.0.0.5:80", "127.0.0.1:8080", "10.0.0.5:80"),
            ("localhost:8080=a.example:80", "127.0.0.1:8080", "a.example:80"),
            ("*:8080=a.example:80", "[::]:8080", "a.example:80"),
            ("[::1]:8080=[2001:db8::1]:80", "[::1]:8080", "[2001:db8::1]:80"),
            ("8080:a.example:80", "127.0.0.1:8080", "a.example:80"),
            ("8080:[2001:db8::1]:80", "127.0.0.1:8080", "[2001:db8::1]:80"),
            ("localhost:8080:10.0.0.5:80", "127.0.0.1:8080", "10.0.0.5:80"),
            ("*:8080:10.0.0.5:80", "[::]:8080", "10.0.0.5:80"),
            ("[::1]:8080:[2001:db8::1]:80", "[::1]:8080", "[2001:db8::1]:80"),
            ("192.0.2.1:8080:10.0.0.5:80", "192.0.2.1:8080", "10.0.0.5:80"),
        ] {
            let port: Port = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(
                (port.listen.to_string().as_str(), port.target.to_string().as_str()),
                (listen, target)
            );
        }
        for text in ["8080", "8080:80", "a.example:8080=10.0.0.5:80", "8080:::1:80", "8080=10.0.0.5:0"] {
            assert!(text.parse::<Port>().is_err(), "{text}");
        }
    }
}
