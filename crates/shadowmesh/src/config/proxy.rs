//! The sections `[[socks5]]`, `[[forward]]` and `[exit]`, and `exit` of a `[[peer]]`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;

use handshake::Protocol;
use toml::de::DeTable;

use super::Peer;
use super::check::{PEER, listen, repeated, section};
use super::error::{ConfigError, Place};
use super::secrets::{chmod_help, read_text};
use super::source::{Section, Source, Value};
use crate::proxy::exit::Rules;
use crate::proxy::request::Transport;
use crate::proxy::{Credentials, Rule, Target, listen_address};

pub(super) const SOCKS5_TITLE: &str = "[[socks5]]";
pub(super) const SOCKS5: &[&str] = &["listen", "via", "username", "password_file"];
pub(super) const FORWARD_TITLE: &str = "[[forward]]";
pub(super) const FORWARD: &[&str] = &["listen", "target", "protocol", "via", "direction"];
pub(super) const EXIT_TITLE: &str = "[exit]";
pub(super) const EXIT: &[&str] = &["allow", "deny", "listen"];

/// The longest username and password, in bytes (RFC 1929 §2).
const LOGIN_LEN_MAX: usize = 255;

/// What this node offers to the programs of its host, and to its peers.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    /// `[[socks5]]`: listeners for SOCKS5 and HTTP CONNECT.
    pub socks5: Vec<Socks5>,
    /// `[[forward]]`: ports that lead to one target.
    pub forwards: Vec<Forward>,
    /// `[exit]`: the rules for peers that go out from here; `None` when they may not.
    pub exit: Option<Rules>,
    /// `exit` of a `[[peer]]`: other rules for that peer, or none. By its place among
    /// [`Config::peers`](super::Config::peers).
    pub exit_of_peers: Vec<(usize, Option<Rules>)>,
}

/// A `[[socks5]]` section.
#[derive(Clone, Debug)]
pub struct Socks5 {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where `listen` stands in the file, for the error of an address in use.
    pub listen_place: Option<Place>,
    /// The peer that clients go out from: its place among [`Config::peers`](super::Config::peers).
    pub via: usize,
    /// Who may use it; `None` for everyone who can reach it.
    pub login: Option<Login>,
}

/// Who may use a listener.
#[derive(Clone, Debug)]
pub struct Login {
    /// The username.
    pub username: String,
    /// The username and password, to compare with.
    pub credentials: Credentials,
}

/// A `[[forward]]` section.
#[derive(Clone, Debug)]
pub struct Forward {
    /// Where to listen, here or at the peer.
    pub listen: SocketAddr,
    /// Where `listen` stands in the file, for the error of an address in use.
    pub listen_place: Option<Place>,
    /// Where what comes goes, from the peer or from here.
    pub target: Target,
    /// Connections or datagrams.
    pub transport: Transport,
    /// Which of the two sides listens.
    pub direction: Direction,
    /// The peer: its place among [`Config::peers`](super::Config::peers).
    pub via: usize,
}

/// Which side of a forward listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// This node listens, the peer connects to the target.
    Local,
    /// The peer listens, this node connects to the target.
    Remote,
}

impl Proxies {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        let exits = self.exit.is_some() || self.exit_of_peers.iter().any(|(_, rules)| rules.is_some());
        self.socks5.is_empty() && self.forwards.is_empty() && !exits
    }
}

pub(super) fn proxies(
    source: &Source<'_>,
    root: &DeTable<'_>,
    peers: &[Peer],
) -> Result<Proxies, ConfigError> {
    let mut claims = Claims::default();
    let socks5 = repeated(source, root, "socks5", SOCKS5_TITLE, SOCKS5)?;
    let socks5 = socks5.iter().map(|section| socks5_from(source, section, peers, &mut claims));
    let socks5 = socks5.collect::<Result<_, _>>()?;
    let forwards = repeated(source, root, "forward", FORWARD_TITLE, FORWARD)?;
    let forwards = forwards.iter().map(|section| forward(section, peers, &mut claims));
    let forwards = forwards.collect::<Result<_, _>>()?;
    let exit = match root.get("exit") {
        Some(_) => Some(exit(&section(source, root, "exit", EXIT_TITLE, EXIT)?)?),
        None => None,
    };
    let exit_of_peers = exit_of_peers(source, root, peers)?;
    Ok(Proxies { socks5, forwards, exit, exit_of_peers })
}

/// Which sockets are asked for, and in which line; those of a peer apart from our own.
type Claims = HashMap<(Option<usize>, Transport, SocketAddr), usize>;

fn socks5_from(
    source: &Source<'_>,
    section: &Section<'_, '_>,
    peers: &[Peer],
    claims: &mut Claims,
) -> Result<Socks5, ConfigError> {
    let value = section.require("listen", "\"127.0.0.1:1080\"")?;
    let listen = claim(&value, None, Transport::Tcp, claims)?;
    let login = login(source, section)?;
    if login.is_none() && !listen.ip().is_loopback() {
        let message =
            format!("others can reach {listen}: a proxy there needs `username` and `password_file`");
        let help =
            format!("or let it listen where only this host reaches it: \"127.0.0.1:{}\"", listen.port());
        return Err(value.error(message).help(help));
    }
    Ok(Socks5 { listen, listen_place: Some(value.place()), via: via(section, peers)?, login })
}

fn login(source: &Source<'_>, section: &Section<'_, '_>) -> Result<Option<Login>, ConfigError> {
    let (username, file) = match (section.get("username"), section.get("password_file")) {
        (None, None) => return Ok(None),
        (Some(username), Some(file)) => (username, file),
        (Some(one), None) => return Err(one.error("a `username` needs a `password_file`")),
        (None, Some(one)) => return Err(one.error("a `password_file` needs a `username`")),
    };
    let name = username.string()?;
    // In HTTP a colon ends the username (RFC 7617 §2).
    if name.is_empty() || name.len() > LOGIN_LEN_MAX || name.contains(|c: char| c == ':' || c.is_control()) {
        let message = format!("a username has 1 to {LOGIN_LEN_MAX} bytes and no colon");
        return Err(username.error(message));
    }
    let directory = source.path.parent().unwrap_or(Path::new(""));
    let path = directory.join(file.string()?);
    let text = read_text(&path, source.path, Some(file.place()))?;
    let shown = path.display();
    if text.open_to_others {
        let message = format!("password file `{shown}` can be read by other users");
        return Err(file.error(message).help(chmod_help(&path)));
    }
    let password = text.contents.trim_end_matches(['\r', '\n']);
    if password.is_empty() || password.len() > LOGIN_LEN_MAX || password.contains('\n') {
        let message =
            format!("password file `{shown}`: a password is one line of 1 to {LOGIN_LEN_MAX} bytes");
        return Err(file.error(message));
    }
    let credentials = Credentials::new(name.as_bytes(), password.as_bytes());
    Ok(Some(Login { username: name.into(), credentials }))
}

fn forward(section: &Section<'_, '_>, peers: &[Peer], claims: &mut Claims) -> Result<Forward, ConfigError> {
    let via = via(section, peers)?;
    let choose = |key: &'static str, default: &'static str| {
        section.get(key).map_or(Ok((default, None)), |value| Ok((value.string()?, Some(value))))
    };
    let transport = match choose("protocol", "tcp")? {
        ("tcp", _) => Transport::Tcp,
        ("udp", _) => Transport::Udp,
        (other, value) => {
            return Err(unknown(section, value, &format!("unknown protocol `{other}`: \"tcp\" or \"udp\"")));
        }
    };
    let direction = match choose("direction", "local")? {
        ("local", _) => Direction::Local,
        ("remote", _) => Direction::Remote,
        (other, value) => {
            let message = format!(
                "unknown direction `{other}`: \"local\", where this node listens, or \"remote\", where the peer does"
            );
            return Err(unknown(section, value, &message));
        }
    };
    let value = section.require("listen", "\"127.0.0.1:8080\"")?;
    let at = (direction == Direction::Remote).then_some(via);
    let listen = claim(&value, at, transport, claims)?;
    let target = section.require("target", "\"192.0.2.7:80\"")?;
    let text = target.string()?;
    let target = match text.parse::<Target>() {
        Ok(parsed) if parsed.port() != 0 => parsed,
        Ok(_) => return Err(target.error("port 0 cannot be reached")),
        Err(error) => return Err(target.error(format!("`{text}` is no target: {error}"))),
    };
    Ok(Forward { listen, listen_place: Some(value.place()), target, transport, direction, via })
}

fn unknown(section: &Section<'_, '_>, value: Option<Value<'_, '_>>, message: &str) -> ConfigError {
    value.map_or_else(|| section.error(message), |value| value.error(message))
}

/// An address to listen on that nothing before it has.
fn claim(
    value: &Value<'_, '_>,
    at: Option<usize>,
    transport: Transport,
    claims: &mut Claims,
) -> Result<SocketAddr, ConfigError> {
    // `localhost` and `*` too, as on the command line; what is none of that gets the words of any other `listen`.
    let address = value.string().ok().and_then(listen_address).map_or_else(|| listen(value), Ok)?;
    if address.port() == 0 {
        return Err(value.error("port 0 is any port: say which"));
    }
    match claims.insert((at, transport, address), value.place().line) {
        None => Ok(address),
        Some(line) => {
            Err(value.error(format!("{address} is listened on twice; the first is in line {line}")))
        }
    }
}

/// The peer of `via`.
fn via(section: &Section<'_, '_>, peers: &[Peer]) -> Result<usize, ConfigError> {
    let example = peers.first().map_or("\"right\"".into(), |peer| format!("\"{}\"", peer.name));
    let value = section.require("via", &example)?;
    let name = value.string()?;
    let Some(index) = peers.iter().position(|peer| peer.name == name) else {
        let names: Vec<_> = peers.iter().map(|peer| peer.name.as_str()).collect();
        let known = if names.is_empty() {
            "there is no [[peer]] at all".into()
        } else {
            format!("peers: {}", names.join(", "))
        };
        return Err(value.error(format!("there is no peer `{name}`")).help(known));
    };
    if peers[index].protocol == Protocol::WireGuard {
        let message = format!("peer `{name}` speaks the protocol of WireGuard, which carries no streams");
        return Err(value.error(message));
    }
    Ok(index)
}

/// What `exit` of each `[[peer]]` says, where it says something.
fn exit_of_peers(
    source: &Source<'_>,
    root: &DeTable<'_>,
    peers: &[Peer],
) -> Result<Vec<(usize, Option<Rules>)>, ConfigError> {
    let mut rules = Vec::new();
    for (index, section) in repeated(source, root, "peer", "[[peer]]", PEER)?.iter().enumerate() {
        let Some(value) = section.get("exit") else { continue };
        let of_peer = match value.table("`exit` of a [[peer]]", EXIT) {
            Some(table) => Some(exit(&table?)?),
            None if matches!(value.boolean(), Ok(false)) => None,
            None => {
                return Err(value.error("`exit` of a peer is false, or the rules for this peer").help(
                    "for example: exit = { allow = [\"10.1.0.0/16\"], deny = [\"0.0.0.0/0\", \"::/0\"] }",
                ));
            }
        };
        if of_peer.is_some() && peers.get(index).is_some_and(|peer| peer.protocol == Protocol::WireGuard) {
            return Err(
                value.error("a peer that speaks the protocol of WireGuard has no streams to go out on")
            );
        }
        rules.push((index, of_peer));
    }
    Ok(rules)
}

fn exit(section: &Section<'_, '_>) -> Result<Rules, ConfigError> {
    let plain = |key| Ok::<_, ConfigError>(rules(section, key)?.into_iter().map(|(_, rule)| rule).collect());
    let listen = rules(section, "listen")?;
    if let Some((value, rule)) =
        listen.iter().find(|(_, rule)| rule.prefix.prefix_len() != rule.prefix.max_prefix_len())
    {
        return Err(value
            .error(format!("peers may have us listen on an address, not on all of {}", rule.prefix))
            .help(
                "for example \"127.0.0.1:8000-8099\", or \"0.0.0.0:8080\" for every address of this host",
            ));
    }
    let listen = listen.into_iter().map(|(_, rule)| rule).collect();
    Ok(Rules { allow: plain("allow")?, deny: plain("deny")?, listen })
}

/// A list of rules, each with its place.
fn rules<'a, 'i>(
    section: &Section<'a, 'i>,
    key: &'static str,
) -> Result<Vec<(Value<'a, 'i>, Rule)>, ConfigError> {
    let Some(list) = section.get(key) else { return Ok(Vec::new()) };
    let mut rules = Vec::new();
    for (value, text) in list.strings()? {
        let rule = text.parse().map_err(|why| {
            let help = "addresses or prefixes, with ports after a colon: \"10.1.0.0/16\", \"192.0.2.7:22\", \"[2001:db8::/32]:8000-8099\"";
            value.error(format!("`{text}` is no rule: {why}")).help(help)
        })?;
        rules.push((value, rule));
    }
    Ok(rules)
}
