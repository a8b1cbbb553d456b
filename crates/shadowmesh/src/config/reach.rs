//! What is right by itself and cannot work: routes that lead the tunnel into itself, sockets that no datagram to a peer
//! can leave, addresses that no interface may have.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use packet::Carrier;

use super::error::{ConfigError, Place};
use super::{Config, Endpoint, Peer};

/// What `up` routes to the interface: the networks of its own addresses, and what the peers have. Nothing without one.
pub(crate) fn routes_into_tunnel(config: &Config) -> Vec<IpNet> {
    let Some(tun) = &config.tun else { return Vec::new() };
    let connected = tun.addresses.iter().map(IpNet::trunc);
    connected.chain(config.peers.iter().flat_map(|peer| peer.allowed_ips.iter().copied())).collect()
}

/// Whether datagrams to an address are routed by prefixes at all: what is on this host, or on one link, is found before.
pub(crate) fn is_routed(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_loopback(),
        IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
    }
}

/// Whether the parts of a configuration can work together.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    for peer in &config.peers {
        match &peer.endpoint {
            None => {}
            Some(Endpoint::Address(endpoint)) => {
                sockets(config, peer, *endpoint)?;
                routes(config, peer, endpoint.ip().to_canonical())?;
            }
            Some(Endpoint::Name { .. }) => name(config, peer)?,
        }
    }
    Ok(())
}

/// A name may resolve to any address, and is asked from a server at any: no route may cover all of a family.
fn name(config: &Config, peer: &Peer) -> Result<(), ConfigError> {
    if config.tun.is_none() {
        return Ok(());
    }
    let all = |net: &IpNet| net.prefix_len() == 0;
    let Some(covered) = IpNet::aggregate(&routes_into_tunnel(config)).into_iter().find(all) else {
        return Ok(());
    };
    let family = if covered.addr().is_ipv4() { "IPv4" } else { "IPv6" };
    let owner = config.peers.iter().find(|owner| IpNet::aggregate(&owner.allowed_ips).iter().any(all));
    let message = format!(
        "the allowed IPs cover all of {family}, and so whatever the endpoint of peer `{}` resolves to: the tunnel would carry its \
         own datagrams, and the look-up of the name",
        peer.name
    );
    let error = ConfigError::new(&config.path, message).at(owner.unwrap_or(peer).allowed_ips_place);
    Err(error.help("name only the networks behind the peers; with the endpoint's address in place of its name, `check` prints them"))
}

/// No route may cover an endpoint: the tunnel's own datagrams would enter the tunnel.
fn routes(config: &Config, peer: &Peer, endpoint: IpAddr) -> Result<(), ConfigError> {
    let Some(tun) = config.tun.as_ref().filter(|_| is_routed(endpoint)) else { return Ok(()) };
    let name = &peer.name;
    if let Some(own) = tun.addresses.iter().find(|own| own.contains(&endpoint)) {
        let message = format!(
            "the network {} of the interface's address covers {endpoint}, the endpoint of peer `{name}`: the tunnel would \
             carry its own datagrams",
            own.trunc()
        );
        return Err(ConfigError::new(&config.path, message).at(tun.addresses_place).help(format!(
            "the tunnel needs a network of its own, as 10.77.0.0/24; or write \"{}\" for the address without a network",
            IpNet::from(own.addr())
        )));
    }
    for owner in &config.peers {
        let Some(prefix) = owner.allowed_ips.iter().find(|prefix| prefix.contains(&endpoint)) else {
            continue;
        };
        let message = format!(
            "allowed IP {prefix} of peer `{}` covers {endpoint}, the endpoint of peer `{name}`: the tunnel would carry its own \
             datagrams",
            owner.name
        );
        let error = ConfigError::new(&config.path, message).at(owner.allowed_ips_place);
        return Err(error.help(instead(config, *prefix)));
    }
    Ok(())
}

/// What to write for a prefix that covers endpoints.
fn instead(config: &Config, prefix: IpNet) -> String {
    let endpoints = config.peers.iter().filter_map(|peer| match peer.endpoint {
        Some(Endpoint::Address(endpoint)) => Some(endpoint.ip().to_canonical()),
        Some(Endpoint::Name { .. }) | None => None,
    });
    let mut left = vec![prefix];
    let mut names = Vec::new();
    for endpoint in endpoints.filter(|endpoint| is_routed(*endpoint) && prefix.contains(endpoint)) {
        let hole = hole(prefix, endpoint);
        left = left.into_iter().flat_map(|prefix| without(prefix, hole)).collect();
        let hole =
            if hole.prefix_len() == hole.max_prefix_len() { endpoint.to_string() } else { hole.to_string() };
        if !names.contains(&hole) {
            names.push(hole);
        }
    }
    if left.is_empty() {
        return "a peer has other addresses inside the tunnel than outside it: choose another".into();
    }
    let left = left.iter().map(|prefix| format!("\"{prefix}\"")).collect::<Vec<_>>().join(", ");
    format!(
        "name only the networks behind the peer; for all of {prefix} but {}, put in place of \"{prefix}\": {left}",
        names.join(" and ")
    )
}

/// What to leave out around an endpoint: itself, or for IPv6 its whole link, which keeps the list short.
fn hole(prefix: IpNet, endpoint: IpAddr) -> IpNet {
    let wanted = if endpoint.is_ipv4() { 32 } else { 64 };
    let own = IpNet::from(endpoint);
    match IpNet::new(endpoint, wanted) {
        Ok(link) if wanted > prefix.prefix_len() => link.trunc(),
        _ => own,
    }
}

/// A prefix without a part of it, as the fewest prefixes, in order.
fn without(prefix: IpNet, hole: IpNet) -> Vec<IpNet> {
    if hole.contains(&prefix) {
        return Vec::new();
    }
    if !prefix.contains(&hole) {
        return vec![prefix];
    }
    // A prefix that contains another is shorter, so it can be halved.
    let halves = prefix.subnets(prefix.prefix_len() + 1).into_iter().flatten();
    halves.flat_map(|half| without(half, hole)).collect()
}

/// Datagrams to the endpoint must be able to leave the sockets of the peer's carriers.
fn sockets(config: &Config, peer: &Peer, endpoint: SocketAddr) -> Result<(), ConfigError> {
    let carriers = &config.carriers;
    let fake_tcp = carriers.fake_tcp.as_ref().and_then(|own| Some((own.listen?, own.listen_place)));
    let tcp = carriers.tcp.as_ref().and_then(|own| Some((own.listen?, own.listen_place)));
    let udp = Some((config.listen, config.listen_place));
    for way in &peer.ways {
        let own = match way.carrier {
            Carrier::Udp => udp,
            Carrier::FakeTcp => fake_tcp,
            Carrier::Tcp => tcp,
        };
        let Some((listen, place)) = own else { continue };
        if let Some((why, help)) = why_unreachable(listen, endpoint, way.carrier) {
            let place: Option<Place> = peer.endpoint_place.or(place);
            let name = &peer.name;
            let message =
                format!("endpoint {endpoint} of peer `{name}` cannot be reached over {}: {why}", way.carrier);
            return Err(ConfigError::new(&config.path, message).at(place).help(help));
        }
    }
    Ok(())
}

fn why_unreachable(listen: SocketAddr, endpoint: SocketAddr, carrier: Carrier) -> Option<(String, String)> {
    let (own, to) = (listen.ip().to_canonical(), endpoint.ip().to_canonical());
    if own.is_unspecified() {
        return None;
    }
    let port = listen.port();
    if own.is_loopback() && !to.is_loopback() {
        let any: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
        return Some((
            format!("`listen` is {listen}, from which only this host can be reached"),
            format!("write listen = \"{}\"", SocketAddr::new(any, port)),
        ));
    }
    // Connections are made from any address where the listening one is of the other family.
    if own.is_ipv4() != to.is_ipv4() && carrier != Carrier::Tcp {
        let (ours, theirs) = if own.is_ipv4() { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
        return Some((
            format!("`listen` is {listen}, an {ours} address, and the endpoint is {theirs}"),
            format!("write listen = \"[::]:{port}\", which is every address of both"),
        ));
    }
    None
}

/// Whether a socket for datagrams of peers can be bound there.
pub(super) fn listen(listen: SocketAddr) -> Result<(), String> {
    let address = listen.ip().to_canonical();
    if address.is_multicast() || address == IpAddr::from([255, 255, 255, 255]) {
        return Err(format!("{address} is no address of one host: nothing can be received there"));
    }
    Ok(())
}

/// Whether an interface may have an address; the error has its help beside it.
pub(super) fn own_address(own: IpNet) -> Result<(), (String, String)> {
    let address = own.addr();
    let help = |example: Option<IpAddr>| {
        let example = example.and_then(|example| IpNet::new(example, own.prefix_len()).ok());
        example.map_or_else(
            || "write an address of this node in the tunnel, as \"10.77.0.1/24\"".into(),
            |example| format!("write an address in that network, as \"{example}\""),
        )
    };
    if address.is_unspecified() || address.is_multicast() || address == IpAddr::from([255, 255, 255, 255]) {
        return Err((format!("{address} is no address that an interface can have"), help(None)));
    }
    // RFC 3021 and RFC 6164: links of two hosts need every address.
    if own.prefix_len() + 2 > own.max_prefix_len() {
        return Ok(());
    }
    if address == own.network() {
        let what = if address.is_ipv4() {
            "the network's own address"
        } else {
            "every router's address in its network"
        };
        return Err((
            format!("{own} is {what} (all bits after the prefix are 0)"),
            help(own.hosts().find(|host| *host != address)),
        ));
    }
    if address.is_ipv4() && address == own.broadcast() {
        return Err((format!("{own} is its network's broadcast address"), help(own.hosts().next())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn a_prefix_without_an_address_covers_all_but_that() {
        let left = without(net("10.0.0.0/8"), net("10.1.2.3/32"));
        assert_eq!(left.len(), 24);
        assert!(left.iter().all(|prefix| !prefix.contains(&IpAddr::from([10, 1, 2, 3]))));
        let addresses: u64 = left.iter().map(|prefix| 1 << (32 - prefix.prefix_len())).sum();
        assert_eq!(addresses, (1 << 24) - 1);
        assert_eq!(without(net("10.0.0.0/8"), net("192.0.2.1/32")), [net("10.0.0.0/8")]);
        assert_eq!(without(net("192.0.2.1/32"), net("192.0.2.1/32")), []);
        assert_eq!(without(net("::/0"), net("2001:db8::/64")).len(), 64);
    }
}
