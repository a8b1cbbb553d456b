//! From TOML values to a [`Config`]: every rule of the format, each with the message a person gets.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use handshake::{Identity, PeerKeys, PresharedKey, Protocol, PublicKey, StaticSecret, Suite};
use ipnet::IpNet;
use toml::de::{DeTable, DeValue};

use super::carriers;
use super::discovery;
use super::endpoint::with_brackets;
use super::error::ConfigError;
use super::proxy;
use super::reach;
use super::secrets::{chmod_help, read_text};
use super::source::{Section, Source, Value, type_name};
use super::streams;
use super::{Config, DEFAULT_PORT, Endpoint, MTU_MAX, MTU_MIN, Peer, TunConfig};

const ROOT: &[&str] =
    &["node", "tun", "peer", "socks5", "forward", "exit", "streams", "discovery", "faketcp", "tcp"];
const NODE: &[&str] = &["private_key", "private_key_file", "listen", "name", "workers", "cipher", "offload"];
const TUN: &[&str] = &["name", "address", "mtu"];
pub(super) const PEER: &[&str] = &[
    "name",
    "public_key",
    "endpoint",
    "carriers",
    "faketcp_port",
    "tcp_port",
    "allowed_ips",
    "exit",
    "preshared_key",
    "preshared_key_file",
    "protocol",
    "keepalive_s",
];
const SECTIONS: &[(&str, &[&str])] = &[
    ("[node]", NODE),
    ("[tun]", TUN),
    ("[[peer]]", PEER),
    (proxy::SOCKS5_TITLE, proxy::SOCKS5),
    (proxy::FORWARD_TITLE, proxy::FORWARD),
    (proxy::EXIT_TITLE, proxy::EXIT),
    (streams::STREAMS_TITLE, streams::STREAMS),
    (carriers::FAKE_TCP_TITLE, carriers::FAKE_TCP),
    (carriers::TCP_TITLE, carriers::TCP),
    (discovery::DISCOVERY_TITLE, discovery::DISCOVERY),
];

/// Longest names of nodes and peers, in bytes.
const NAME_LEN_MAX: usize = 64;

/// The longest interface name, in bytes: `IFNAMSIZ` less the final zero.
const INTERFACE_LEN_MAX: usize = 15;

/// A key in base64, to show what one looks like.
const KEY_EXAMPLE: &str = "\"…44 characters of base64…\"";

pub(super) fn config(path: &Path, text: &str, open_to_others: bool) -> Result<Config, ConfigError> {
    let source = Source { path, text };
    let root = parse(&source)?;
    Section::new(&source, "", 0..0, &root, ROOT, SECTIONS)?;

    let node = section(&source, &root, "node", "[node]", NODE)?;
    let tun = match root.get("tun") {
        Some(_) => Some(section(&source, &root, "tun", "[tun]", TUN)?),
        None => None,
    };
    let sections = repeated(&source, &root, "peer", "[[peer]]", PEER)?;

    let name = node_name_in(&source, &node)?;
    let secret = private_key(&source, &node, open_to_others)?;
    let (listen, listen_place) = match node.get("listen") {
        Some(value) => (listen(&value)?, Some(value.place())),
        None => (SocketAddr::from(([0, 0, 0, 0], DEFAULT_PORT)), None),
    };
    let workers = match node.get("workers") {
        Some(value) => Some(value.integer(1..=handshake::LANES as i64)? as usize),
        None => None,
    };
    let cipher = node.get("cipher").map(|value| cipher(&value)).transpose()?;
    let offload = node.get("offload").map_or(Ok(true), |value| value.boolean())?;
    let tun = tun.as_ref().map(tun_config).transpose()?;
    let peers = peers(&source, &sections, open_to_others, &identity(&secret), tun.as_ref())?;
    let carriers = carriers::carriers(&source, &root, &peers, listen)?;
    let proxies = proxy::proxies(&source, &root, &peers)?;
    if tun.is_none() && proxies.is_empty() {
        let error = ConfigError::new(path, "there is nothing to do: no [tun], and no proxy either");
        return Err(error.help(
            "add a section [tun] for a virtual interface, or [[socks5]], [[forward]] or [exit] for streams without one",
        ));
    }
    let streams = streams::streams(&source, &root)?;
    let discovery = discovery::discovery(&source, &root)?;
    let path = path.into();
    Ok(Config {
        path,
        name,
        secret,
        listen,
        listen_place,
        workers,
        cipher,
        offload,
        tun,
        peers,
        carriers,
        proxies,
        streams,
        discovery,
    })
}

/// Only the node's name, from a file that need not be otherwise right.
pub(super) fn name_only(path: &Path, text: &str) -> Result<String, ConfigError> {
    let source = Source { path, text };
    let root = parse(&source)?;
    let node = section(&source, &root, "node", "[node]", NODE)?;
    node_name_in(&source, &node)
}

fn parse<'i>(source: &Source<'i>) -> Result<DeTable<'i>, ConfigError> {
    DeTable::parse(source.text).map(toml::Spanned::into_inner).map_err(|error| {
        let message = error.message().lines().collect::<Vec<_>>().join(", ");
        let duplicate = message.contains("duplicate key");
        let error = source.error(error.span().unwrap_or(0..0), format!("not TOML: {message}"));
        error.help(if duplicate {
            "a key may be there once in its section"
        } else {
            "lines are `key = value`; text stands in double quotes, lists in [ ]; the rest is at https://toml.io"
        })
    })
}

pub(super) fn section<'a, 'i>(
    source: &'a Source<'a>,
    root: &'a DeTable<'i>,
    key: &str,
    title: &'static str,
    known: &[&str],
) -> Result<Section<'a, 'i>, ConfigError> {
    let Some(value) = root.get(key) else {
        return Err(ConfigError::new(source.path, format!("there is no {title} section"))
            .help("`shadowmesh --help` shows a configuration to start from"));
    };
    match value.get_ref() {
        DeValue::Table(table) => Section::new(source, title, value.span(), table, known, SECTIONS),
        other => {
            let message = format!("`{key}` must be a section {title}, not {}", type_name(other));
            Err(source.error(value.span(), message))
        }
    }
}

/// The sections `[[key]]`, of which there may be any number.
pub(super) fn repeated<'a, 'i>(
    source: &'a Source<'a>,
    root: &'a DeTable<'i>,
    key: &str,
    title: &'static str,
    known: &[&str],
) -> Result<Vec<Section<'a, 'i>>, ConfigError> {
    let Some(value) = root.get(key) else { return Ok(Vec::new()) };
    let wrong = |span| {
        let message =
            format!("`{key}` is written as sections {title}, in double brackets, any number of them");
        source.error(span, message)
    };
    let DeValue::Array(list) = value.get_ref() else { return Err(wrong(value.span())) };
    list.iter()
        .map(|item| match item.get_ref() {
            DeValue::Table(table) => Section::new(source, title, item.span(), table, known, SECTIONS),
            _ => Err(wrong(item.span())),
        })
        .collect()
}

fn node_name_in(source: &Source<'_>, node: &Section<'_, '_>) -> Result<String, ConfigError> {
    if let Some(value) = node.get("name") {
        let name = value.string()?;
        return node_name(name).map(|()| name.into()).map_err(|message| value.error(message));
    }
    let stem = source.path.file_stem().and_then(OsStr::to_str).unwrap_or_default();
    node_name(stem).map(|()| stem.into()).map_err(|message| {
        ConfigError::new(source.path, format!("the file's name gives no node name: {message}"))
            .help("set `name` in [node]")
    })
}

/// Whether a node may have that name: it becomes part of file names.
pub(super) fn node_name(name: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > NAME_LEN_MAX {
        Err(format!("a node name has 1 to {NAME_LEN_MAX} characters"))
    } else if name.starts_with(['.', '-']) || !name.chars().all(allowed) {
        Err(format!(
            "node name `{name}`: letters, digits, `-`, `_` and `.` only, and a letter or digit first"
        ))
    } else {
        Ok(())
    }
}

/// Whether Linux takes that name for an interface (`dev_valid_name`).
pub(super) fn interface_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > INTERFACE_LEN_MAX {
        let len = name.len();
        Err(format!("interface name `{name}` has {len} bytes: from 1 to {INTERFACE_LEN_MAX} are possible"))
    } else if matches!(name, "." | "..")
        || name.contains(|c: char| c == '/' || c == ':' || !c.is_ascii_graphic())
    {
        Err(format!("interface name `{}`: no spaces, `/` or `:`", name.escape_debug()))
    } else if name.replacen("%d", "", 1).contains('%') {
        Err(format!("interface name `{name}`: `%` only as one `%d`, which stands for the first free number"))
    } else {
        Ok(())
    }
}

pub(super) fn listen(value: &Value<'_, '_>) -> Result<SocketAddr, ConfigError> {
    let text = value.string()?;
    let listen: SocketAddr = text.parse().map_err(|_| {
        let example = with_brackets(text).unwrap_or_else(|| format!("\"0.0.0.0:{DEFAULT_PORT}\""));
        value
            .error(format!("`{text}` is not an address with a port"))
            .help(format!("for example: listen = {example}"))
    })?;
    reach::listen(listen).map_err(|message| value.error(message))?;
    Ok(listen)
}

fn tun_config(tun: &Section<'_, '_>) -> Result<TunConfig, ConfigError> {
    let (name, name_place) = match tun.get("name") {
        Some(value) => {
            let name = value.string()?;
            interface_name(name).map_err(|message| value.error(message))?;
            (name.into(), Some(value.place()))
        }
        None => ("shadow%d".into(), None),
    };
    let mut addresses = Vec::new();
    let list = tun.require("address", "[\"10.77.0.1/24\"]")?;
    for (value, text) in list.strings()? {
        let address = prefix(&value, text)?;
        reach::own_address(address).map_err(|(message, help)| value.error(message).help(help))?;
        if addresses.contains(&address) {
            return Err(value.error(format!("address {address} is there twice")));
        }
        addresses.push(address);
    }
    let mtu = match tun.get("mtu") {
        Some(value) => Some(value.integer(MTU_MIN.into()..=MTU_MAX.into())? as u16),
        None => None,
    };
    Ok(TunConfig { name, name_place, addresses, addresses_place: Some(list.place()), mtu })
}

/// An address with a prefix length; without one it stands for itself alone.
fn prefix(value: &Value<'_, '_>, text: &str) -> Result<IpNet, ConfigError> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    text.parse::<IpNet>().map_err(|_| {
        let why = match text.split_once('/') {
            Some((address, _)) => match address.parse::<IpAddr>() {
                Ok(IpAddr::V4(_)) => "the prefix length of an IPv4 address is from 0 to 32".into(),
                Ok(IpAddr::V6(_)) => "the prefix length of an IPv6 address is from 0 to 128".into(),
                Err(_) => format!("`{address}` is not an IP address"),
            },
            None => "write ADDRESS/LENGTH, for example 10.77.0.0/24".into(),
        };
        value.error(format!("`{text}` is not an IP prefix: {why}"))
    })
}

fn private_key(
    source: &Source<'_>,
    node: &Section<'_, '_>,
    open_to_others: bool,
) -> Result<StaticSecret, ConfigError> {
    let inline = node.get("private_key");
    let file = node.get("private_key_file");
    key(source, inline, file, open_to_others)?.ok_or_else(|| {
        node.error("[node] has no key").help(
            "make one with (umask 077; shadowmesh genkey > node.key) and set private_key_file = \"node.key\"",
        )
    })
}

/// What the node will be, to try the peers' keys with.
pub(super) fn identity(secret: &StaticSecret) -> Identity {
    let copy = secret.to_base64().parse().expect("what was written as base64 is a key");
    Identity::new(copy)
}

/// A secret given in place or in a file of its own.
pub(super) fn key<K: FromStr<Err = handshake::InvalidKey>>(
    source: &Source<'_>,
    inline: Option<Value<'_, '_>>,
    file: Option<Value<'_, '_>>,
    open_to_others: bool,
) -> Result<Option<K>, ConfigError> {
    match (inline, file) {
        (None, None) => Ok(None),
        (Some(inline), Some(file)) => Err(inline
            .error("there is both a key and a key file")
            .help(format!("remove one of them: the key, or the key file in line {}", file.place().line))),
        (Some(value), None) => {
            let key = value
                .string()?
                .parse()
                .map_err(|error| value.error(format!("`{}`: {error}", value.key())))?;
            if open_to_others {
                return Err(value
                    .error("the configuration holds a key, and other users can read it")
                    .help(chmod_help(source.path)));
            }
            Ok(Some(key))
        }
        (None, Some(value)) => {
            let name = Path::new(value.string()?);
            let directory = source.path.parent().unwrap_or(Path::new(""));
            let path = directory.join(name);
            let text = read_text(&path, source.path, Some(value.place()))?;
            if text.open_to_others {
                return Err(value
                    .error(format!("key file `{}` can be read by other users", path.display()))
                    .help(chmod_help(&path)));
            }
            let key = text.contents.trim().parse();
            key.map(Some).map_err(|error| value.error(format!("key file `{}`: {error}", path.display())))
        }
    }
}

/// Who has claimed what, to name both when two claim the same.
#[derive(Default)]
struct Claims<'a> {
    names: HashMap<&'a str, usize>,
    keys: HashMap<PublicKey, (&'a str, usize)>,
    prefixes: HashMap<IpNet, (&'a str, usize)>,
}

fn peers(
    source: &Source<'_>,
    sections: &[Section<'_, '_>],
    open_to_others: bool,
    identity: &Identity,
    tun: Option<&TunConfig>,
) -> Result<Vec<Peer>, ConfigError> {
    let mut claims = Claims::default();
    sections.iter().map(|section| peer(source, section, open_to_others, identity, tun, &mut claims)).collect()
}

fn peer<'a>(
    source: &Source<'_>,
    section: &Section<'a, '_>,
    open_to_others: bool,
    identity: &Identity,
    tun: Option<&TunConfig>,
    claims: &mut Claims<'a>,
) -> Result<Peer, ConfigError> {
    let name = peer_name(&section.require("name", "\"right\"")?, claims)?;

    let value = section.require("public_key", KEY_EXAMPLE)?;
    let public_key = PublicKey::from_str(value.string()?)
        .map_err(|error| value.error(format!("public key of peer `{name}`: {error}")))?;
    if public_key == identity.public_key() {
        return Err(value.error(format!("peer `{name}` has this node's own public key")));
    }
    if let Some((other, line)) = claims.keys.insert(public_key, (name, value.place().line)) {
        return Err(
            value.error(format!("peers `{other}` (line {line}) and `{name}` have the same public key"))
        );
    }

    let mut allowed_ips = Vec::new();
    // Without an interface there are no packets to allow.
    let prefixes = match tun {
        Some(_) => Some(section.require("allowed_ips", "[\"10.77.0.2/32\"]")?),
        None => section.get("allowed_ips"),
    };
    let allowed_ips_place = prefixes.as_ref().map(Value::place);
    for (value, text) in prefixes.map_or(Ok(Vec::new()), |prefixes| prefixes.strings())? {
        allowed_ips.push(allowed_ip(name, &value, text, tun, claims)?);
    }

    let protocol = protocol(section)?;
    // Whether a secret can be agreed with the key shows only when one is.
    PeerKeys::new(identity, public_key, PresharedKey::default(), protocol)
        .map_err(|error| value.error(format!("public key of peer `{name}`: {error}")))?;
    let endpoint = match section.get("endpoint") {
        None => None,
        Some(value) => {
            let endpoint = value.string()?.parse::<Endpoint>();
            Some(endpoint.map_err(|message| value.error(format!("endpoint of peer `{name}`: {message}")))?)
        }
    };
    let endpoint_place = section.get("endpoint").map(|value| value.place());
    let (ways, ways_place) = carriers::ways(section, protocol, endpoint.as_ref())?;
    let keepalive = match section.get("keepalive_s") {
        None => None,
        Some(value) => match value.integer(0..=65_535)? {
            0 => None,
            seconds => Some(Duration::from_secs(seconds as u64)),
        },
    };
    let inline = section.get("preshared_key");
    let file = section.get("preshared_key_file");
    let preshared_key = key::<PresharedKey>(source, inline, file, open_to_others)?;
    Ok(Peer {
        name: name.into(),
        public_key,
        preshared_key,
        protocol,
        endpoint,
        endpoint_place,
        ways,
        ways_place,
        allowed_ips,
        allowed_ips_place,
        keepalive,
    })
}

fn cipher(value: &Value<'_, '_>) -> Result<Suite, ConfigError> {
    let wanted = value.string()?;
    // Configuration keys and values are in lower case, like the names of protocols.
    Suite::ALL.into_iter().find(|suite| suite.name().to_ascii_lowercase() == wanted).ok_or_else(|| {
        let names = Suite::ALL.map(|suite| format!("\"{}\"", suite.name().to_ascii_lowercase()));
        value.error(format!("unknown cipher `{wanted}`: {}", names.join(", ")))
    })
}

fn protocol(section: &Section<'_, '_>) -> Result<Protocol, ConfigError> {
    match section.get("protocol") {
        None => Ok(Protocol::ShadowMesh),
        Some(value) => match value.string()? {
            "shadowmesh" => Ok(Protocol::ShadowMesh),
            "wireguard" => Ok(Protocol::WireGuard),
            other => {
                let message = format!("unknown protocol `{other}`: \"shadowmesh\" or \"wireguard\"");
                Err(value.error(message))
            }
        },
    }
}

fn peer_name<'a>(value: &Value<'a, '_>, claims: &mut Claims<'a>) -> Result<&'a str, ConfigError> {
    let name = value.string()?;
    if name.is_empty()
        || name.len() > NAME_LEN_MAX
        || name.contains(|c: char| c.is_control() || c.is_whitespace())
    {
        let message = format!("a peer name has 1 to {NAME_LEN_MAX} characters and no spaces");
        return Err(value.error(message));
    }
    match claims.names.insert(name, value.place().line) {
        None => Ok(name),
        Some(line) => Err(value.error(format!("two peers are called `{name}`; the first is in line {line}"))),
    }
}

fn allowed_ip<'a>(
    name: &'a str,
    value: &Value<'a, '_>,
    text: &str,
    tun: Option<&TunConfig>,
    claims: &mut Claims<'a>,
) -> Result<IpNet, ConfigError> {
    let prefix = prefix(value, text)?;
    if prefix.trunc() != prefix {
        return Err(value.error(format!("allowed IP {prefix} has bits set after its prefix")).help(format!(
            "write {} for the network or {} for the one address",
            prefix.trunc(),
            IpNet::from(prefix.addr())
        )));
    }
    if tun.is_some_and(|tun| tun.addresses.iter().any(|own| IpNet::from(own.addr()) == prefix)) {
        return Err(value.error(format!("allowed IP {prefix} of peer `{name}` is this node's own address")));
    }
    match claims.prefixes.insert(prefix, (name, value.place().line)) {
        None => Ok(prefix),
        Some((other, line)) if other == name => Err(value
            .error(format!("allowed IP {prefix} is given to peer `{name}` twice (first in line {line})"))),
        Some((other, line)) => {
            let here = value.place().line;
            Err(value
                .error(format!(
                    "allowed IP {prefix} is given to both peer `{other}` (line {line}) and peer `{name}` (line {here})"
                ))
                .help("an address can belong to one peer only; a longer prefix inside a shorter one is fine"))
        }
    }
}
