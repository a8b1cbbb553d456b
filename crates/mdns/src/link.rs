//! Interfaces and the links on them: Multicast DNS over IPv4 and over IPv6 are two links of one interface.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use slab::Slab;

use crate::io::{Destination, Family, InterfaceAddress, Transmit};

/// How long after it came up a link's first queries ask for unicast responses (RFC 6762 §5.4).
const EAGER: Duration = Duration::from_secs(5);
/// How long after such a query unicast responses are taken (RFC 6762 §6: "two seconds").
const UNICAST_WINDOW: Duration = Duration::from_secs(2);
/// The most links; a host with more interfaces than this does not run Multicast DNS on all of them.
pub(crate) const LINKS_MAX: usize = 256;

/// The slot of a link. Slots are used again: whoever keeps something by link forgets it when the link goes.
pub(crate) type LinkId = usize;

/// One interface and family.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) interface: u32,
    pub(crate) family: Family,
    /// Until when first queries ask for unicast responses.
    eager_until: Instant,
    /// Until when unicast responses are taken.
    unicast_until: Option<Instant>,
    /// Somebody answers by unicast without the hop limit that proves that it is on the link: questions ask for multicast.
    multicast_only: bool,
}

impl Link {
    /// A packet of `len` bytes for its group.
    pub(crate) fn multicast(&self, len: usize) -> Transmit {
        Transmit { interface: self.interface, source: None, to: Destination::Multicast(self.family), len }
    }

    /// The link has come up, or is to be treated as if it had.
    pub(crate) fn renew(&mut self, now: Instant) {
        self.eager_until = now + EAGER;
        self.multicast_only = false;
    }

    /// Whether a question that was never asked on it may ask for a unicast response.
    pub(crate) fn is_eager(&self, now: Instant) -> bool {
        now <= self.eager_until && !self.multicast_only
    }

    /// Whether a probe may ask for unicast responses.
    pub(crate) fn trusts_unicast(&self) -> bool {
        !self.multicast_only
    }

    /// A unicast response could not be told from one that was sent from beyond the link.
    pub(crate) fn distrust_unicast(&mut self) {
        self.multicast_only = true;
    }

    /// A question for unicast responses was sent.
    pub(crate) fn expect_unicast(&mut self, now: Instant) {
        self.unicast_until = Some(now + UNICAST_WINDOW);
    }

    /// Whether a unicast response may be an answer to something we asked (RFC 6762 §6).
    pub(crate) fn expects_unicast(&self, now: Instant) -> bool {
        self.unicast_until.is_some_and(|until| now <= until)
    }
}

#[derive(Debug)]
struct Interface {
    addresses: Vec<InterfaceAddress>,
    links: [Option<LinkId>; 2],
}

/// All interfaces.
#[derive(Debug, Default)]
pub(crate) struct Links {
    interfaces: BTreeMap<u32, Interface>,
    links: Slab<Link>,
}

impl Links {
    /// Adds an interface that is not there, and its links.
    pub(crate) fn add(
        &mut self,
        index: u32,
        addresses: Vec<InterfaceAddress>,
        families: impl IntoIterator<Item = Family>,
        now: Instant,
    ) {
        let mut interface = Interface { addresses, links: [None; 2] };
        for family in families {
            if self.links.len() < LINKS_MAX {
                let link = Link {
                    interface: index,
                    family,
                    eager_until: now + EAGER,
                    unicast_until: None,
                    multicast_only: false,
                };
                interface.links[family as usize] = Some(self.links.insert(link));
            }
        }
        self.interfaces.insert(index, interface);
    }

    /// Takes an interface out.
    pub(crate) fn remove(&mut self, index: u32) {
        for link in self.interfaces.remove(&index).into_iter().flat_map(|interface| interface.links) {
            link.map(|link| self.links.remove(link));
        }
    }

    /// Replaces the addresses of an interface. Returns the old ones if there is such an interface.
    pub(crate) fn set_addresses(
        &mut self,
        index: u32,
        addresses: Vec<InterfaceAddress>,
    ) -> Option<Vec<InterfaceAddress>> {
        let interface = self.interfaces.get_mut(&index)?;
        Some(std::mem::replace(&mut interface.addresses, addresses))
    }

    pub(crate) fn find(&self, interface: u32, family: Family) -> Option<LinkId> {
        self.interfaces.get(&interface)?.links[family as usize]
    }

    /// The links of an interface.
    pub(crate) fn of_interface(&self, interface: u32) -> impl Iterator<Item = LinkId> + use<> {
        self.interfaces.get(&interface).map_or([None; 2], |interface| interface.links).into_iter().flatten()
    }

    pub(crate) fn get(&self, link: LinkId) -> Option<&Link> {
        self.links.get(link)
    }

    pub(crate) fn get_mut(&mut self, link: LinkId) -> Option<&mut Link> {
        self.links.get_mut(link)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (LinkId, &Link)> {
        self.links.iter()
    }

    pub(crate) fn ids(&self) -> Vec<LinkId> {
        self.links.iter().map(|(id, _)| id).collect()
    }

    /// The interfaces there are.
    pub(crate) fn indexes(&self) -> impl Iterator<Item = u32> + '_ {
        self.interfaces.keys().copied()
    }

    /// The addresses of an interface.
    pub(crate) fn addresses(&self, interface: u32) -> &[InterfaceAddress] {
        self.interfaces.get(&interface).map_or(&[], |interface| &interface.addresses)
    }

    /// Whether `ip` is in a subnet of that interface (RFC 6762 §11).
    pub(crate) fn is_on_link(&self, interface: u32, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V6(ip) if ip.is_unicast_link_local() => true,
            ip => self.addresses(interface).iter().any(|address| address.subnet_contains(ip)),
        }
    }

    /// Whether `ip` is an address of this host, on whatever interface.
    pub(crate) fn is_own(&self, ip: IpAddr) -> bool {
        self.interfaces.values().any(|interface| interface.addresses.iter().any(|address| address.ip == ip))
    }
}

impl InterfaceAddress {
    /// Whether `ip` is in the subnet of this address.
    pub(crate) fn subnet_contains(&self, ip: IpAddr) -> bool {
        match (self.ip, ip) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                let host_bits = 32 - u32::from(self.prefix_length.min(32));
                (ours.to_bits() ^ theirs.to_bits()).checked_shr(host_bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                let host_bits = 128 - u32::from(self.prefix_length.min(128));
                (ours.to_bits() ^ theirs.to_bits()).checked_shr(host_bits).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_has_the_addresses_that_share_its_prefix() {
        let address = |ip: &str, prefix_length| InterfaceAddress { ip: ip.parse().unwrap(), prefix_length };
        let cases = [
            (address("192.168.1.7", 24), "192.168.1.200", true),
            (address("192.168.1.7", 24), "192.168.2.200", false),
            (address("10.0.0.1", 32), "10.0.0.1", true),
            (address("10.0.0.1", 32), "10.0.0.2", false),
            (address("10.0.0.1", 0), "8.8.8.8", true),
            (address("10.0.0.1", 99), "10.0.0.1", true),
            (address("2001:db8::1", 64), "2001:db8::2", true),
            (address("2001:db8::1", 64), "2001:db8:0:1::2", false),
            (address("10.0.0.1", 8), "::1", false),
        ];
        for (address, ip, expected) in cases {
            assert_eq!(address.subnet_contains(ip.parse().unwrap()), expected, "{address:?} {ip}");
        }
    }
}
