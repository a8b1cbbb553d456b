//! Network address translators, as RFC 4787 describes them.
//!
//! A machine behind one has an address that nobody outside can reach. What it sends leaves with the translator's address and
//! a port that stands for it; what comes to that port reaches the machine if it comes from somewhere the machine has sent
//! to lately (address and port-dependent filtering, RFC 4787 §5: the strictest).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// The first port that stands for anybody.
const FIRST_PORT: u16 = 40_000;

/// A translator of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatId(pub(crate) usize);

/// Which port stands for a machine (RFC 4787 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatMapping {
    /// The same one wherever it sends to.
    EndpointIndependent,
    /// Another one for each address and port that it sends to.
    EndpointDependent,
}

/// A translator.
#[derive(Debug)]
pub(crate) struct Nat {
    pub(crate) public: IpAddr,
    mapping: NatMapping,
    /// How long it remembers that somebody has sent somewhere.
    lifetime: Duration,
    next_port: u16,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    inside: SocketAddr,
    port: u16,
    /// Where it stands for that: each place sent to, and when last.
    remotes: BTreeMap<SocketAddr, Duration>,
}

impl Nat {
    pub(crate) fn new(public: IpAddr, mapping: NatMapping, lifetime: Duration) -> Self {
        Self { public, mapping, lifetime, next_port: FIRST_PORT, entries: Vec::new() }
    }

    /// A datagram leaves: the source that it has outside.
    pub(crate) fn outbound(&mut self, now: Duration, inside: SocketAddr, remote: SocketAddr) -> SocketAddr {
        let Self { mapping, lifetime, entries, .. } = self;
        for entry in entries.iter_mut() {
            entry.remotes.retain(|_, &mut last| now < last + *lifetime);
        }
        entries.retain(|entry| !entry.remotes.is_empty());
        let same = |entry: &&mut Entry| match mapping {
            NatMapping::EndpointIndependent => entry.inside == inside,
            NatMapping::EndpointDependent => entry.inside == inside && entry.remotes.contains_key(&remote),
        };
        if let Some(entry) = entries.iter_mut().find(same) {
            entry.remotes.insert(remote, now);
            return SocketAddr::new(self.public, entry.port);
        }
        let port = self.next_port;
        self.next_port = port.checked_add(1).unwrap_or(FIRST_PORT);
        entries.push(Entry { inside, port, remotes: BTreeMap::from([(remote, now)]) });
        SocketAddr::new(self.public, port)
    }

    /// A datagram arrives at `port`: whom it is for, if it is let in.
    pub(crate) fn inbound(&self, now: Duration, remote: SocketAddr, port: u16) -> Option<SocketAddr> {
        let entry = self.entries.iter().find(|entry| entry.port == port)?;
        let last = *entry.remotes.get(&remote)?;
        (now < last + self.lifetime).then_some(entry.inside)
    }

    /// For whom `port` stands, let in or not.
    pub(crate) fn inside(&self, port: u16) -> Option<SocketAddr> {
        self.entries.iter().find(|entry| entry.port == port).map(|entry| entry.inside)
    }

    /// Forgets everything, as when it is switched off and on: other ports stand for everybody from now on.
    pub(crate) fn rebind(&mut self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn nat(mapping: NatMapping) -> Nat {
        Nat::new(at("203.0.113.1:0").ip(), mapping, 30 * SECOND)
    }

    #[test]
    fn an_endpoint_independent_mapping_uses_one_port_for_all_and_the_other_does_not() {
        let (inside, a, b) = (at("10.0.0.2:9"), at("192.0.2.1:1"), at("192.0.2.2:1"));
        for (mapping, same) in
            [(NatMapping::EndpointIndependent, true), (NatMapping::EndpointDependent, false)]
        {
            let mut nat = nat(mapping);
            let [first, second] = [a, b].map(|remote| nat.outbound(Duration::ZERO, inside, remote));
            assert_eq!(first == second, same);
            assert_eq!(nat.outbound(SECOND, inside, a), first, "as long as it is used");
            assert_ne!(nat.outbound(SECOND, at("10.0.0.3:9"), a), first, "another machine");
        }
    }

    #[test]
    fn only_who_was_sent_to_lately_is_let_in() {
        let (inside, friend) = (at("10.0.0.2:9"), at("192.0.2.1:1"));
        let mut nat = nat(NatMapping::EndpointIndependent);
        let outside = nat.outbound(Duration::ZERO, inside, friend);
        assert_eq!(nat.inbound(29 * SECOND, friend, outside.port()), Some(inside));
        assert_eq!(nat.inbound(29 * SECOND, at("192.0.2.1:2"), outside.port()), None, "another port");
        assert_eq!(nat.inbound(30 * SECOND, friend, outside.port()), None, "too late");
        assert_ne!(nat.outbound(31 * SECOND, inside, friend), outside, "forgotten");
    }

    #[test]
    fn a_rebinding_gives_everybody_another_port() {
        let (inside, friend) = (at("10.0.0.2:9"), at("192.0.2.1:1"));
        let mut nat = nat(NatMapping::EndpointIndependent);
        let before = nat.outbound(Duration::ZERO, inside, friend);
        nat.rebind();
        assert_eq!(nat.inbound(Duration::ZERO, friend, before.port()), None);
        assert_ne!(nat.outbound(Duration::ZERO, inside, friend), before);
    }
}
