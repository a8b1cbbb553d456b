//! `check`: is a configuration right, and what does it say?

use std::fmt::Write;
use std::path::PathBuf;

use handshake::Protocol;

use super::output::print;
use crate::config::{Config, Overrides, Peer};
use crate::failure::Failure;

/// Options of `check`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", env = "SHADOWMESH_CONFIG", hide_env = true)]
    config: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let config = Config::load(&args.config, &Overrides::default())?;
    print(&summary(&config))
}

fn summary(config: &Config) -> String {
    let mut out = format!("{} is valid.\n\n", config.path.display());
    let mut line = |key: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "  {key:<12}{value}");
    };
    let join =
        |prefixes: &[ipnet::IpNet]| prefixes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    line("node", &config.name);
    line("public key", &config.secret.public_key().to_string());
    line("listen", &format!("UDP {}", config.listen));
    let workers = config.workers.map_or("from the cores".into(), |workers| workers.to_string());
    line("workers", &workers);
    let mtu = config.tun.mtu.map_or("from the path".into(), |mtu| mtu.to_string());
    line("interface", &format!("{}, {}, MTU {mtu}", config.tun.name, join(&config.tun.addresses)));
    if config.peers.is_empty() {
        line("peers", "none");
    }
    for peer in &config.peers {
        line("peer", &peer.name);
        line("  key", &peer.public_key.to_string());
        line("  protocol", &protocol(peer));
        let endpoint = peer.endpoint.as_ref().map_or("it calls us".into(), ToString::to_string);
        line("  endpoint", &endpoint);
        line("  addresses", &join(&peer.allowed_ips));
        if let Some(keepalive) = peer.keepalive {
            line("  keepalive", &format!("every {} s", keepalive.as_secs()));
        }
    }
    out
}

fn protocol(peer: &Peer) -> String {
    let name = match peer.protocol {
        Protocol::ShadowMesh => "shadowmesh, post-quantum",
        Protocol::WireGuard => "wireguard",
    };
    format!("{name}{}", if peer.preshared_key.is_some() { ", with a preshared key" } else { "" })
}
