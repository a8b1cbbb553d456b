//! `carriers` of peers, and the sections `[faketcp]` and `[tcp]`: what carries datagrams beside UDP.

use std::net::SocketAddr;

use carrier::Carrier;
use carrier::fake_tcp::FlagCycle;
use carrier::guard::GuardKey;
use handshake::{PresharedKey, Protocol, PublicKey};
use node::Way;
use toml::de::DeTable;

use super::check::{key, listen, section};
use super::error::{ConfigError, Place};
use super::source::{Section, Source};
use super::{Endpoint, Peer};

pub(super) const FAKE_TCP_TITLE: &str = "[faketcp]";
pub(super) const FAKE_TCP: &[&str] = &["listen", "secret_file", "local_flags", "remote_flags"];
pub(super) const TCP_TITLE: &str = "[tcp]";
pub(super) const TCP: &[&str] = &["listen"];

/// The carriers that some peer may use, and how.
#[derive(Clone, Debug)]
pub struct Carriers {
    /// Crafted TCP segments; `None` when no peer may use them.
    pub fake_tcp: Option<FakeTcp>,
    /// Connections of the kernel's TCP; `None` when no peer may use them.
    pub tcp: Option<Tcp>,
}

/// The `[faketcp]` section.
#[derive(Clone)]
pub struct FakeTcp {
    /// Where calls are answered; `None` when the system chooses UDP's port, so that nobody could know it.
    pub listen: Option<SocketAddr>,
    /// Where `listen` stands in the file, or what else asks for this carrier.
    pub listen_place: Option<Place>,
    /// Keeps those out who know a node's public key only.
    secret: Option<PresharedKey>,
    /// Flags on flows that we dial, in turn.
    pub local_flags: FlagCycle,
    /// Flags on flows that call us, in turn.
    pub remote_flags: FlagCycle,
}

impl std::fmt::Debug for FakeTcp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeTcp").field("listen", &self.listen).finish_non_exhaustive()
    }
}

impl FakeTcp {
    fn new(listen: Option<SocketAddr>, listen_place: Option<Place>) -> Self {
        let flags = FlagCycle::default();
        Self { listen, listen_place, secret: None, local_flags: flags.clone(), remote_flags: flags }
    }

    /// The guard of flows to the node that has `public_key`.
    pub fn guard_key(&self, public_key: &PublicKey) -> GuardKey {
        GuardKey::derive(public_key.as_bytes(), self.secret.as_ref().map(PresharedKey::as_bytes))
    }
}

/// The `[tcp]` section.
#[derive(Clone, Debug)]
pub struct Tcp {
    /// Where calls are answered, as above.
    pub listen: Option<SocketAddr>,
    /// Where `listen` stands in the file, or what else asks for this carrier.
    pub listen_place: Option<Place>,
}

impl Carriers {
    /// What the `ways` to a peer ask for, to call it and to answer nobody.
    pub fn to_dial(ways: &[Way]) -> Self {
        let asked = |carrier| ways.iter().any(|way| way.carrier == carrier);
        let fake_tcp = asked(Carrier::FakeTcp).then(|| FakeTcp::new(None, None));
        let tcp = asked(Carrier::Tcp).then_some(Tcp { listen: None, listen_place: None });
        Self { fake_tcp, tcp }
    }

    /// UDP listens elsewhere: so do those that were to listen beside it.
    pub(super) fn follow(&mut self, from: SocketAddr, to: SocketAddr) {
        if let Some(fake_tcp) = self.fake_tcp.as_mut().filter(|fake_tcp| fake_tcp.listen == beside(from, 0)) {
            fake_tcp.listen = beside(to, 0);
        }
        if let Some(tcp) = self.tcp.as_mut().filter(|tcp| tcp.listen == beside(from, 1)) {
            tcp.listen = beside(to, 1);
        }
    }
}

/// The keys `carriers`, `faketcp_port` and `tcp_port` of a peer.
pub(super) fn ways(
    peer: &Section<'_, '_>,
    protocol: Protocol,
    endpoint: Option<&Endpoint>,
) -> Result<(Vec<Way>, Option<Place>), ConfigError> {
    let mut ways: Vec<Way> = Vec::new();
    let mut place = None;
    if let Some(value) = peer.get("carriers") {
        for (value, name) in value.strings()? {
            let carrier = name.parse::<Carrier>().map_err(|error| value.error(error.to_string()))?;
            if ways.iter().any(|way| way.carrier == carrier) {
                return Err(value.error(format!("carrier `{carrier}` is there twice")));
            }
            if protocol == Protocol::WireGuard && carrier != Carrier::Udp {
                return Err(value.error("WireGuard knows no carrier but udp"));
            }
            ways.push(Way { carrier, port: None });
        }
        if ways.is_empty() {
            return Err(value.error("`carriers` is empty: nothing could reach this peer"));
        }
        place = Some(value.place());
    } else {
        ways.push(Way::UDP);
    }
    for (key, carrier) in [("faketcp_port", Carrier::FakeTcp), ("tcp_port", Carrier::Tcp)] {
        let Some(value) = peer.get(key) else { continue };
        let port = value.integer(1..=65_535)? as u16;
        let Some(way) = ways.iter_mut().find(|way| way.carrier == carrier) else {
            return Err(value.error(format!("`{key}` without `{carrier}` among the `carriers`")));
        };
        way.port = Some(port);
    }
    // Crafted segments have UDP's number in the TCP world, connections the next one.
    if let Some(tcp) = ways.iter_mut().find(|way| way.carrier == Carrier::Tcp && way.port.is_none()) {
        tcp.port = endpoint.and_then(|endpoint| endpoint.port().checked_add(1));
    }
    Ok((ways, place))
}

/// Where a carrier listens that was told nothing: at UDP's address, `above` its port. Nowhere if the system chooses that.
fn beside(mut udp: SocketAddr, above: u16) -> Option<SocketAddr> {
    let port = Some(udp.port()).filter(|&port| port != 0)?.checked_add(above)?;
    udp.set_port(port);
    Some(udp)
}

/// What the peers ask for, with the sections that say how.
pub(super) fn carriers(
    source: &Source<'_>,
    root: &DeTable<'_>,
    peers: &[Peer],
    udp: SocketAddr,
) -> Result<Carriers, ConfigError> {
    let asks = |carrier: Carrier| {
        let asking = |peer: &&Peer| peer.ways.iter().any(|way| way.carrier == carrier);
        peers.iter().find(asking).map(|peer| peer.ways_place)
    };
    let unused = |section: &Section<'_, '_>, carrier: Carrier| {
        section
            .error(format!("no peer has `{carrier}` among its `carriers`"))
            .help(format!("add it to a [[peer]]: carriers = [\"udp\", \"{carrier}\"]"))
    };

    let fake_tcp = match root.get("faketcp") {
        Some(_) => Some(section(source, root, "faketcp", FAKE_TCP_TITLE, FAKE_TCP)?),
        None => None,
    };
    let fake_tcp = match (asks(Carrier::FakeTcp), fake_tcp) {
        (None, Some(section)) => return Err(unused(&section, Carrier::FakeTcp)),
        (None, None) => None,
        (Some(place), section) => {
            let mut wanted = FakeTcp::new(beside(udp, 0), place);
            if let Some(section) = &section {
                if let Some(value) = section.get("listen") {
                    (wanted.listen, wanted.listen_place) = (Some(listen(&value)?), Some(value.place()));
                }
                wanted.secret = key(source, None, section.get("secret_file"), false)?;
                for (name, cycle) in
                    [("local_flags", &mut wanted.local_flags), ("remote_flags", &mut wanted.remote_flags)]
                {
                    let Some(value) = section.get(name) else { continue };
                    let turns: Vec<&str> = value.strings()?.into_iter().map(|(_, turn)| turn).collect();
                    *cycle = FlagCycle::parse(&turns).map_err(|error| value.error(error.to_string()))?;
                }
            }
            Some(wanted)
        }
    };

    let tcp = match root.get("tcp") {
        Some(_) => Some(section(source, root, "tcp", TCP_TITLE, TCP)?),
        None => None,
    };
    let tcp = match (asks(Carrier::Tcp), tcp) {
        (None, Some(section)) => return Err(unused(&section, Carrier::Tcp)),
        (None, None) => None,
        (Some(place), section) => {
            let mut wanted = Tcp { listen: beside(udp, 1), listen_place: place };
            if let Some(value) = section.as_ref().and_then(|section| section.get("listen")) {
                (wanted.listen, wanted.listen_place) = (Some(listen(&value)?), Some(value.place()));
            }
            let clash =
                fake_tcp.as_ref().and_then(|fake| fake.listen).filter(|&fake| Some(fake) == wanted.listen);
            if let Some(clash) = clash {
                let error =
                    ConfigError::new(source.path, format!("both [faketcp] and [tcp] listen on TCP {clash}"));
                return Err(error
                    .at(wanted.listen_place)
                    .help("crafted segments and connections need a port each"));
            }
            Some(wanted)
        }
    };
    Ok(Carriers { fake_tcp, tcp })
}
