//! A configuration file: somebody's, some script's, or half of one.
//!
//! The input is the file's text. A key in it may be [`SECRET`], which must never come back in an error.

use std::collections::HashSet;
use std::path::Path;

use shadowmesh::config::{Config, ConfigError, MTU_MAX, MTU_MIN, Overrides};

/// A private key of nobody's. Errors end up on terminals, in logs and in bug reports: it must not be in any.
pub const SECRET: &str = "mFHiSjDgnSNRRe2LVZBBqGGUuMrTJ8XyvcnbDdtnqUI=";

/// Bytes of the longest name of an interface (`IFNAMSIZ` without the final zero).
const INTERFACE_LEN_MAX: usize = 15;

/// # Panics
/// When what comes out is not what was promised, an error names no place that exists, or tells a secret.
pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    // A file that the text names would be read: keep to names inside a directory that does not exist.
    if text.contains("_file") && text.contains(['/', '\\']) {
        return;
    }
    match parse(text) {
        Ok(config) => check(&config),
        Err(error) => {
            let shown = error.to_string();
            assert!(shown.starts_with("nowhere/node.toml:"), "an error that names no file: {shown}");
            assert!(!shown.contains(SECRET), "an error that tells a secret: {shown}");
            assert_eq!(parse(text).err(), Some(error), "the same text, another error");
        }
    }
}

fn parse(text: &str) -> Result<Config, Box<ConfigError>> {
    Config::parse(Path::new("nowhere/node.toml"), text, false, &Overrides::default()).map_err(Box::new)
}

fn check(config: &Config) {
    assert!(!config.name.is_empty() && !config.name.contains('/'), "a name that is no file name");
    if let Some(tun) = &config.tun {
        assert!(!tun.name.is_empty() && tun.name.len() <= INTERFACE_LEN_MAX);
        assert!(tun.mtu.is_none_or(|mtu| (MTU_MIN..=MTU_MAX).contains(&mtu)));
    }
    assert!(config.workers.is_none_or(|workers| (1..=handshake::LANES).contains(&workers)));
    let (mut names, mut keys, mut prefixes) = (HashSet::new(), HashSet::new(), HashSet::new());
    for peer in &config.peers {
        assert!(names.insert(&peer.name), "two peers of one name");
        assert!(keys.insert(peer.public_key), "two peers of one key");
        assert_ne!(peer.public_key, config.secret.public_key(), "a node that is its own peer");
        assert!(peer.keepalive.is_none_or(|interval| !interval.is_zero()));
        for prefix in &peer.allowed_ips {
            assert!(prefixes.insert(prefix.trunc()), "a prefix that belongs to two peers");
        }
    }
    for proxy in &config.proxies.socks5 {
        assert!(proxy.via < config.peers.len(), "a proxy that leads to no peer");
        assert!(proxy.login.is_some() || proxy.listen.ip().is_loopback(), "a proxy open to everyone");
    }
    for forward in &config.proxies.forwards {
        assert!(forward.via < config.peers.len(), "a forward that leads to no peer");
        assert!(forward.listen.port() != 0 && forward.target.port() != 0);
    }
}
