//! `check`: is a configuration right, and what does it say?

use std::fmt::Write;
use std::path::PathBuf;

use handshake::Protocol;
use node::Way;

use super::output::print;
use super::overrides::OverrideArgs;
use crate::config::{Config, Direction, Forward, Peer, Socks5};
use crate::failure::Failure;
use crate::proxy::Rule;
use crate::proxy::request::Transport;

/// Options of `check`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", env = "SHADOWMESH_CONFIG", hide_env = true)]
    config: PathBuf,

    #[command(flatten)]
    overrides: OverrideArgs,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let config = Config::load(&args.config, &args.overrides.clone().into())?;
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
    line("listen", &listen(config));
    let workers = config.workers.map_or("from the cores".into(), |workers| workers.to_string());
    line("workers", &workers);
    match &config.tun {
        Some(tun) => {
            let mtu = tun.mtu.map_or("from the path".into(), |mtu| mtu.to_string());
            line("interface", &format!("{}, {}, MTU {mtu}", tun.name, join(&tun.addresses)));
        }
        None if config.carriers.fake_tcp.is_some() => {
            line("interface", "none: streams only; crafted TCP segments need CAP_NET_RAW");
        }
        None => line("interface", "none: streams only, no privileges needed"),
    }
    if config.peers.is_empty() {
        line("peers", "none");
    }
    for peer in &config.peers {
        line("peer", &peer.name);
        line("  key", &peer.public_key.to_string());
        line("  protocol", &protocol(peer));
        let endpoint = peer.endpoint.as_ref().map_or("it calls us".into(), ToString::to_string);
        line("  endpoint", &endpoint);
        if peer.ways != [Way::UDP] {
            line("  carriers", &peer.ways.iter().copied().map(way).collect::<Vec<_>>().join(", "));
        }
        line("  addresses", &join(&peer.allowed_ips));
        if let Some(keepalive) = peer.keepalive {
            line("  keepalive", &format!("every {} s", keepalive.as_secs()));
        }
    }
    line("discovery", discovery(config));
    let proxies = &config.proxies;
    for proxy in &proxies.socks5 {
        line("socks5", &socks5(proxy, &config.peers));
    }
    for one in &proxies.forwards {
        line("forward", &forward(one, &config.peers));
    }
    let of_all = proxies.exit.iter().map(|rules| ("all peers", Some(rules)));
    let of_peers = proxies.exit_of_peers.iter();
    let of_peers = of_peers.map(|(peer, rules)| (config.peers[*peer].name.as_str(), rules.as_ref()));
    for (who, rules) in of_all.chain(of_peers) {
        let Some(rules) = rules else {
            line("exit", &format!("not for {who}"));
            continue;
        };
        line("exit", &format!("for {who}, to the Internet; by rule to the networks of this host"));
        for (key, rules) in [("  allow", &rules.allow), ("  deny", &rules.deny), ("  listen", &rules.listen)]
        {
            if !rules.is_empty() {
                line(key, &rules.iter().map(Rule::to_string).collect::<Vec<_>>().join(", "));
            }
        }
    }
    out
}

fn listen(config: &Config) -> String {
    let fake_tcp = config.carriers.fake_tcp.as_ref().and_then(|fake_tcp| fake_tcp.listen);
    let tcp = config.carriers.tcp.as_ref().and_then(|tcp| tcp.listen);
    let named = [("UDP", Some(config.listen)), ("crafted TCP", fake_tcp), ("TCP", tcp)];
    let named = named.iter().filter_map(|(name, at)| Some(format!("{name} {}", (*at)?)));
    named.collect::<Vec<_>>().join(", ")
}

fn way(way: Way) -> String {
    match way.port {
        None => way.carrier.to_string(),
        Some(port) => format!("{} (port {port})", way.carrier),
    }
}

fn discovery(config: &Config) -> &'static str {
    match (config.discovers(), config.discovery.mdns) {
        (true, Some(_)) => "on the local network, by Multicast DNS",
        (true, None) => "on the local network, by Multicast DNS, since a peer has no endpoint",
        (false, Some(_)) => "off",
        (false, None) => "off, since all peers have endpoints or none can reach this node",
    }
}

fn socks5(proxy: &Socks5, peers: &[Peer]) -> String {
    let who = match &proxy.login {
        Some(login) => format!("{} with a password", login.username),
        None => "everyone on this host".into(),
    };
    format!("{} via {}, for {who}", proxy.listen, peers[proxy.via].name)
}

fn forward(forward: &Forward, peers: &[Peer]) -> String {
    let Forward { listen, target, transport, direction, via, .. } = forward;
    let transport = match transport {
        Transport::Tcp => "TCP",
        Transport::Udp => "UDP",
    };
    let peer = &peers[*via].name;
    match direction {
        Direction::Local => format!("{transport} {listen} to {target}, from {peer}"),
        Direction::Remote => format!("{transport} {listen} at {peer} to {target}, from here"),
    }
}

fn protocol(peer: &Peer) -> String {
    let name = match peer.protocol {
        Protocol::ShadowMesh => "shadowmesh, post-quantum",
        Protocol::WireGuard => "wireguard",
    };
    format!("{name}{}", if peer.preshared_key.is_some() { ", with a preshared key" } else { "" })
}
