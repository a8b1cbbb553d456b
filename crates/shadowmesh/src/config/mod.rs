//! The configuration file: TOML in, a checked [`Config`] out, or one [`ConfigError`] that says where and what to do.
//!
//! After [`Config::load`] there are only valid values: keys decode, names fit, no prefix belongs to two peers. What
//! only the operating system can know (an address in use, an interface that exists) is found by `up`.

mod carriers;
mod check;
mod discovery;
mod endpoint;
mod error;
mod proxy;
mod reach;
mod secrets;
mod source;
mod streams;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use handshake::{Identity, PresharedKey, Protocol, PublicKey, StaticSecret, Suite};
use ipnet::IpNet;
use node::Way;

pub use carriers::{Carriers, FakeTcp, Tcp};
pub use discovery::Discovery;
pub use endpoint::Endpoint;
pub(crate) use endpoint::canonical;
pub use error::{ConfigError, Place};
pub use proxy::{Direction, Forward, Login, Proxies, Socks5};
pub(crate) use reach::{is_routed, routes_into_tunnel};
pub use streams::Streams;

/// The UDP port when the configuration names none.
pub const DEFAULT_PORT: u16 = 9443;

/// The smallest MTU of the TUN device, in bytes: what IPv6 requires of every link (RFC 8200 §5).
pub const MTU_MIN: u16 = 1_280;

/// The largest MTU of the TUN device, in bytes.
pub const MTU_MAX: u16 = 9_000;

/// What a node is told by its file, its environment and its command line.
#[derive(Debug)]
pub struct Config {
    /// The file it came from, as the user wrote its path.
    pub path: PathBuf,
    /// The node's name: names the control socket and the state file.
    pub name: String,
    /// Our static secret key.
    pub secret: StaticSecret,
    /// Where to receive datagrams.
    pub listen: SocketAddr,
    /// Where `listen` stands in the file, for the error of an address in use.
    pub listen_place: Option<Place>,
    /// Data-plane threads; `None` to choose from the cores.
    pub workers: Option<usize>,
    /// The only cipher of sessions with native peers; `None` for the fastest on this CPU, and for whatever a peer asks for.
    pub cipher: Option<Suite>,
    /// Whether to use the kernel's segmentation and checksum offloads where it has them.
    pub offload: bool,
    /// The TUN device; `None` for a node with nothing but streams, which needs no privileges.
    pub tun: Option<TunConfig>,
    /// The peers, in the order of the file.
    pub peers: Vec<Peer>,
    /// What carries datagrams beside UDP.
    pub carriers: Carriers,
    /// The proxies.
    pub proxies: Proxies,
    /// How the streams behave that the proxies run on.
    pub streams: Streams,
    /// How peers are found.
    pub discovery: Discovery,
}

/// The `[tun]` section.
#[derive(Clone, Debug)]
pub struct TunConfig {
    /// Interface name, at most 15 bytes; `%d` stands for the first free number.
    pub name: String,
    /// Where the name stands in the file.
    pub name_place: Option<Place>,
    /// Addresses with their prefix lengths.
    pub addresses: Vec<IpNet>,
    /// Where they stand in the file.
    pub addresses_place: Option<Place>,
    /// MTU in bytes; `None` to derive it from the path.
    pub mtu: Option<u16>,
}

/// A `[[peer]]` section.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The name that people use.
    pub name: String,
    /// Its static public key.
    pub public_key: PublicKey,
    /// A symmetric key mixed into the handshake.
    pub preshared_key: Option<PresharedKey>,
    /// Which handshake to speak.
    pub protocol: Protocol,
    /// Where to reach it; `None` for a peer that calls us.
    pub endpoint: Option<Endpoint>,
    /// Where that stands in the file, if it does.
    pub endpoint_place: Option<Place>,
    /// What may carry its datagrams, best first.
    pub ways: Vec<Way>,
    /// Where that stands in the file, if it does.
    pub ways_place: Option<Place>,
    /// The inner addresses that are its own.
    pub allowed_ips: Vec<IpNet>,
    /// Where they stand in the file, if they do.
    pub allowed_ips_place: Option<Place>,
    /// Send something at least this often.
    pub keepalive: Option<Duration>,
}

/// What the command line and the environment say in place of the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// For `node.name`.
    pub name: Option<String>,
    /// For `node.listen`.
    pub listen: Option<SocketAddr>,
    /// For `node.workers`.
    pub workers: Option<usize>,
    /// For `tun.name`.
    pub tun_name: Option<String>,
    /// For `tun.mtu`, in bytes.
    pub mtu: Option<u16>,
}

/// Why the command line cannot change the interface.
const NO_TUN: &str = "the file has no [tun] section";

impl Config {
    /// Reads and checks a configuration file and the key files it names.
    ///
    /// # Errors
    /// The first mistake, with its line and column.
    pub fn load(path: &Path, overrides: &Overrides) -> Result<Self, ConfigError> {
        let text = secrets::read_text(path, path, None)?;
        Self::parse(path, &text.contents, text.open_to_others, overrides)
    }

    /// Checks the text of a configuration file. Key files are looked up relative to `path`'s directory.
    ///
    /// `open_to_others` tells whether other users can read that text, in which case it must not hold a key itself.
    ///
    /// # Errors
    /// The first mistake, with its line and column.
    pub fn parse(
        path: &Path,
        text: &str,
        open_to_others: bool,
        overrides: &Overrides,
    ) -> Result<Self, ConfigError> {
        let mut config = check::config(path, text, open_to_others)?;
        config.apply(overrides)?;
        // After the overrides: what cannot work together may come from both.
        reach::check(&config)?;
        Ok(config)
    }

    /// Whether to find peers on the local network, and be found: as configured, or else where a peer has no endpoint and the node
    /// can be reached from that network.
    pub fn discovers(&self) -> bool {
        let missing = self.peers.iter().any(|peer| peer.endpoint.is_none());
        self.discovery.mdns.unwrap_or(missing && !self.listen.ip().is_loopback())
    }

    /// Our own keys once more, for whoever needs them beside the node.
    pub(crate) fn identity(&self) -> Identity {
        check::identity(&self.secret)
    }

    fn apply(&mut self, overrides: &Overrides) -> Result<(), ConfigError> {
        let path = self.path.clone();
        let invalid = |key: &str, reason: String| {
            ConfigError::new(&path, format!("{key} from the command line or the environment: {reason}"))
        };
        if let Some(name) = &overrides.name {
            check::node_name(name).map_err(|reason| invalid("node.name", reason))?;
            self.name.clone_from(name);
        }
        if let Some(name) = &overrides.tun_name {
            check::interface_name(name).map_err(|reason| invalid("tun.name", reason))?;
            let tun = self.tun.as_mut().ok_or_else(|| invalid("tun.name", NO_TUN.into()))?;
            tun.name.clone_from(name);
            tun.name_place = None;
        }
        if let Some(mtu) = overrides.mtu {
            if !(MTU_MIN..=MTU_MAX).contains(&mtu) {
                return Err(invalid("tun.mtu", format!("{mtu} is not from {MTU_MIN} to {MTU_MAX}")));
            }
            self.tun.as_mut().ok_or_else(|| invalid("tun.mtu", NO_TUN.into()))?.mtu = Some(mtu);
        }
        if let Some(workers) = overrides.workers {
            if !(1..=handshake::LANES).contains(&workers) {
                let lanes = handshake::LANES;
                return Err(invalid("node.workers", format!("{workers} is not from 1 to {lanes}")));
            }
            self.workers = Some(workers);
        }
        if let Some(listen) = overrides.listen {
            self.carriers.follow(self.listen, listen);
            self.listen = listen;
            self.listen_place = None;
        }
        Ok(())
    }
}

/// Reads a private key from a file of its own.
///
/// # Errors
/// When it cannot be read, is no key, or other users can read it too.
pub fn private_key(path: &Path) -> Result<StaticSecret, ConfigError> {
    let text = secrets::read_text(path, Path::new("the command line"), None)?;
    if text.open_to_others {
        let error = ConfigError::new(path, "other users can read this private key");
        return Err(error.help(secrets::chmod_help(path)));
    }
    text.contents
        .trim()
        .parse()
        .map_err(|error: handshake::InvalidKey| ConfigError::new(path, error.to_string()))
}

/// The name of the node that a configuration file describes, without reading its keys: what `status -c FILE` needs.
///
/// # Errors
/// When the file cannot be read, is not TOML, or its name is unusable.
pub fn name_of(path: &Path) -> Result<String, ConfigError> {
    let text = secrets::read_text(path, path, None)?;
    check::name_only(path, &text.contents)
}
