//! Looking up the host names of endpoints, away from the threads that must not wait for it.

use std::collections::HashSet;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use log::{debug, warn};
use node::PeerId;

use super::handle::{Command, Input};
use crate::config::{Endpoint, canonical, is_routed};

/// The first wait after a look-up that failed; doubled each time.
const RETRY_FIRST: Duration = Duration::from_secs(1);

/// The longest wait.
const RETRY_MAX: Duration = Duration::from_mins(1);

/// Look-ups under way at once: each is a thread, which a dead name server can hold for half a minute.
const LOOKUPS_MAX: usize = 4;

/// The names of the peers' endpoints, and how their look-ups stand.
#[derive(Debug)]
pub(super) struct Resolver {
    names: Vec<Name>,
    /// Which family our socket speaks, when only one.
    family: Option<Family>,
    under_way: usize,
    inputs: SyncSender<Input>,
    /// What is routed into the tunnel, where no endpoint can be reached.
    tunnelled: Vec<IpNet>,
    /// Peers of whom it was said that their endpoint is there.
    told: HashSet<PeerId>,
}

#[derive(Debug)]
struct Name {
    peer: PeerId,
    host: String,
    port: u16,
    state: State,
    retry_after: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    /// To be looked up from then on.
    Due(Instant),
    UnderWay,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Resolver {
    /// All names are due at once.
    pub(super) fn new<'a>(
        endpoints: impl Iterator<Item = (PeerId, &'a Endpoint)>,
        family: Option<Family>,
        tunnelled: Vec<IpNet>,
        inputs: SyncSender<Input>,
        now: Instant,
    ) -> Self {
        let names = endpoints.filter_map(|(peer, endpoint)| match endpoint {
            Endpoint::Address(_) => None,
            Endpoint::Name { host, port } => {
                let state = State::Due(now);
                Some(Name { peer, host: host.clone(), port: *port, state, retry_after: RETRY_FIRST })
            }
        });
        Self { names: names.collect(), family, under_way: 0, inputs, tunnelled, told: HashSet::new() }
    }

    /// What to say, once a peer, of an address that was found for it and cannot be reached: a route leads it into the tunnel.
    pub(super) fn complaint(&mut self, peer: PeerId, found: SocketAddr) -> Option<String> {
        let address = found.ip().to_canonical();
        let route = self.tunnelled.iter().find(|route| is_routed(address) && route.contains(&address))?;
        let host = self.names.iter().find(|name| name.peer == peer).map_or("its name", |name| &name.host);
        self.told.insert(peer).then(|| {
            format!(
                "its endpoint {host} is {address}, which {route} routes into the tunnel itself: it cannot be reached there; \
                 leave that address out of `allowed_ips` and `address`"
            )
        })
    }

    /// Looks a peer's name up again, if it has one and no look-up is planned.
    pub(super) fn request(&mut self, now: Instant, peer: PeerId) {
        if let Some(name) = self.names.iter_mut().find(|name| name.peer == peer)
            && name.state == State::Idle
        {
            name.state = State::Due(now);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        if self.under_way >= LOOKUPS_MAX {
            return None;
        }
        self.names
            .iter()
            .filter_map(|name| if let State::Due(at) = name.state { Some(at) } else { None })
            .min()
    }

    /// Starts the look-ups that are due.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        for name in &mut self.names {
            if self.under_way >= LOOKUPS_MAX {
                return;
            }
            if !matches!(name.state, State::Due(at) if at <= now) {
                continue;
            }
            let (peer, host, port) = (name.peer, name.host.clone(), name.port);
            let (family, inputs) = (self.family, self.inputs.clone());
            // Never joined: at exit the process does not wait for a name server.
            let started = thread::Builder::new().name("sm-resolve".into()).spawn(move || {
                let found = look_up(&host, port, family);
                let _ = inputs.send(Input::Command(Command::Resolved { peer, found }));
            });
            match started {
                Ok(_) => {
                    name.state = State::UnderWay;
                    self.under_way += 1;
                }
                Err(_) => name.state = State::Due(now + RETRY_FIRST),
            }
        }
    }

    /// Takes the outcome of a look-up. A name that was not found is tried again, ever less often.
    pub(super) fn resolved(&mut self, now: Instant, peer: PeerId, found: &Result<Vec<SocketAddr>, String>) {
        let Some(name) = self.names.iter_mut().find(|name| name.peer == peer) else { return };
        self.under_way -= 1;
        match found {
            Ok(addresses) => {
                debug!("{} is {addresses:?}", name.host);
                name.state = State::Idle;
                name.retry_after = RETRY_FIRST;
            }
            Err(error) => {
                // Once in full; repeating it would only fill the log.
                if name.retry_after == RETRY_FIRST {
                    warn!("cannot look up {}: {error}; trying again", name.host);
                }
                name.state = State::Due(now + name.retry_after);
                name.retry_after = (name.retry_after * 2).min(RETRY_MAX);
            }
        }
    }
}

/// All addresses of a name that our socket can send to, in the order in which to try them.
fn look_up(host: &str, port: u16, family: Option<Family>) -> Result<Vec<SocketAddr>, String> {
    let addresses = (host, port).to_socket_addrs().map_err(|error| error.to_string())?;
    let usable = |address: &SocketAddr| match family {
        Some(Family::V4) => address.is_ipv4(),
        Some(Family::V6) => address.is_ipv6(),
        None => true,
    };
    let addresses: Vec<SocketAddr> = addresses.map(canonical).filter(usable).collect();
    if addresses.is_empty() {
        return Err("it has no address of the family we listen on".into());
    }
    Ok(interleave(&addresses))
}

/// The families in turn, that of the first address first (RFC 8305 §4): where one family does not work, it costs one try and not
/// as many as it has addresses.
fn interleave(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut preferred, mut others) = (
        addresses.iter().filter(|a| a.is_ipv6() == first),
        addresses.iter().filter(|a| a.is_ipv6() != first),
    );
    let mut order = Vec::with_capacity(addresses.len());
    while order.len() < addresses.len() {
        order.extend(preferred.next());
        order.extend(others.next());
    }
    order
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    const PEER: PeerId = PeerId(3);
    const SECOND: Duration = Duration::from_secs(1);

    fn resolver(host: &str, now: Instant) -> (Resolver, std::sync::mpsc::Receiver<Input>) {
        let (inputs, received) = sync_channel(4);
        let endpoint = Endpoint::Name { host: host.into(), port: 9 };
        let endpoints = [(PeerId(0), &Endpoint::Address(([192, 0, 2, 1], 9).into())), (PEER, &endpoint)];
        (
            Resolver::new(
                endpoints.into_iter(),
                Some(Family::V4),
                vec!["10.0.0.0/8".parse().unwrap()],
                inputs,
                now,
            ),
            received,
        )
    }

    #[test]
    fn a_name_is_looked_up_at_once_and_again_only_when_asked() {
        let now = Instant::now();
        // The look-up of an address in digits needs no name server.
        let (mut resolver, received) = resolver("127.0.0.1", now);
        assert_eq!(resolver.poll_timeout(), Some(now));
        resolver.handle_timeout(now);
        assert_eq!(resolver.poll_timeout(), None, "under way");
        resolver.request(now, PEER);
        let Ok(Input::Command(Command::Resolved { peer, found })) = received.recv() else {
            panic!("no answer came");
        };
        assert_eq!((peer, &found), (PEER, &Ok(vec![([127, 0, 0, 1], 9).into()])));
        resolver.resolved(now, peer, &found);
        assert_eq!(resolver.poll_timeout(), None, "known");
        resolver.request(now + SECOND, PeerId(0));
        assert_eq!(resolver.poll_timeout(), None, "an address needs no look-up");
        resolver.request(now + SECOND, PEER);
        assert_eq!(resolver.poll_timeout(), Some(now + SECOND));
    }

    #[test]
    fn the_families_of_a_name_are_tried_in_turn() {
        let parse = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let six = ["[2001:db8::1]:9", "[2001:db8::2]:9", "[2001:db8::3]:9"].map(parse);
        let four = ["192.0.2.1:9", "192.0.2.2:9"].map(parse);
        let all = [&six[..], &four[..]].concat();
        assert_eq!(interleave(&all), [six[0], four[0], six[1], four[1], six[2]]);
        assert_eq!(interleave(&[four[0], six[0]]), [four[0], six[0]]);
        assert_eq!(interleave(&six), six);
    }

    #[test]
    fn an_address_with_the_name_of_an_interface_is_looked_up_here() {
        assert_eq!(look_up("fe80::1%lo", 9, None).unwrap(), ["[fe80::1%1]:9".parse().unwrap()]);
        assert!(look_up("fe80::1%nosuchif0", 9, None).is_err());
    }

    #[test]
    fn what_is_not_found_is_tried_again_ever_less_often() {
        let mut now = Instant::now();
        let (mut resolver, received) = resolver("::1", now);
        let mut waits = Vec::new();
        for _ in 0..8 {
            resolver.handle_timeout(now);
            let Ok(Input::Command(Command::Resolved { peer, found })) = received.recv() else {
                panic!("no answer came");
            };
            assert!(found.is_err(), "IPv6 alone is of no use to a socket of IPv4");
            resolver.resolved(now, peer, &found);
            let next = resolver.poll_timeout().unwrap();
            waits.push(next.duration_since(now).as_secs());
            now = next;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn a_name_that_leads_into_the_tunnel_is_told_once() {
        let (mut resolver, _received) = resolver("vpn.example", Instant::now());
        assert_eq!(resolver.complaint(PEER, ([192, 0, 2, 1], 9).into()), None);
        let told = resolver.complaint(PEER, ([10, 0, 0, 1], 9).into()).unwrap();
        assert!(
            told.starts_with("its endpoint vpn.example is 10.0.0.1, which 10.0.0.0/8 routes into"),
            "{told}"
        );
        assert_eq!(resolver.complaint(PEER, ([10, 0, 0, 2], 9).into()), None, "once is enough");
    }
}
