//! Cryptokey routing: which peer owns an inner address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::config::PeerId;

/// An immutable longest-prefix table.
///
/// All prefixes are flattened into disjoint address ranges when the table is made, so a look-up is one binary search
/// over a dense array, whatever the prefix lengths: 10,000 routes are at most 20,001 ranges, 15 steps.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

impl Routes {
    /// The table of those prefixes. Where two are equal the later one wins; configurations are checked before.
    pub(crate) fn new(prefixes: impl IntoIterator<Item = (IpNet, PeerId)>) -> Self {
        let mut v4 = Vec::new();
        let mut v6 = Vec::new();
        for (prefix, PeerId(peer)) in prefixes {
            match prefix {
                IpNet::V4(net) => v4.push((net.network().to_bits(), net.broadcast().to_bits(), peer)),
                IpNet::V6(net) => v6.push((net.network().to_bits(), net.broadcast().to_bits(), peer)),
            }
        }
        Self { v4: Ranges::new(v4), v6: Ranges::new(v6) }
    }

    /// The peer with the longest prefix that covers `address`.
    #[inline]
    pub(crate) fn lookup(&self, address: IpAddr) -> Option<PeerId> {
        match address {
            IpAddr::V4(address) => self.lookup_v4(address),
            IpAddr::V6(address) => self.lookup_v6(address),
        }
    }

    fn lookup_v4(&self, address: Ipv4Addr) -> Option<PeerId> {
        self.v4.lookup(address.to_bits())
    }

    fn lookup_v6(&self, address: Ipv6Addr) -> Option<PeerId> {
        self.v6.lookup(address.to_bits())
    }
}

const NOBODY: u32 = u32::MAX;

/// Range `i` begins at `starts[i]`, ends before `starts[i + 1]`, and belongs to `owners[i]`.
#[derive(Debug)]
struct Ranges<K> {
    starts: Vec<K>,
    owners: Vec<u32>,
}

impl<K> Default for Ranges<K> {
    fn default() -> Self {
        Self { starts: Vec::new(), owners: Vec::new() }
    }
}

trait Address: Copy + Ord {
    fn successor(self) -> Option<Self>;
}

impl Address for u32 {
    fn successor(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Address for u128 {
    fn successor(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl<K: Address> Ranges<K> {
    /// `prefixes`: first address, last address, owner. Two prefixes are disjoint or one contains the other.
    fn new(mut prefixes: Vec<(K, K, u32)>) -> Self {
        // An outer prefix comes before those inside it.
        prefixes.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
        let mut ranges = Self::default();
        let mut enclosing: Vec<(K, u32)> = Vec::new();
        for (first, last, owner) in prefixes {
            ranges.close(&mut enclosing, Some(first));
            ranges.begin(first, owner);
            enclosing.push((last, owner));
        }
        ranges.close(&mut enclosing, None);
        ranges
    }

    /// Ends the enclosing prefixes that end before `until`; what follows each belongs to the one around it.
    fn close(&mut self, enclosing: &mut Vec<(K, u32)>, until: Option<K>) {
        while let Some(&(last, _)) = enclosing.last() {
            if until.is_some_and(|until| last >= until) {
                break;
            }
            enclosing.pop();
            if let Some(next) = last.successor() {
                self.begin(next, enclosing.last().map_or(NOBODY, |&(_, owner)| owner));
            }
        }
    }

    fn begin(&mut self, start: K, owner: u32) {
        if self.starts.last() == Some(&start) {
            self.starts.pop();
            self.owners.pop();
        }
        if self.owners.last() != Some(&owner) {
            self.starts.push(start);
            self.owners.push(owner);
        }
    }

    #[inline]
    fn lookup(&self, address: K) -> Option<PeerId> {
        let after = self.starts.partition_point(|&start| start <= address);
        let owner = *self.owners.get(after.checked_sub(1)?)?;
        (owner != NOBODY).then_some(PeerId(owner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(prefixes: &[&str]) -> Routes {
        Routes::new((0u32..).zip(prefixes).map(|(peer, prefix)| (prefix.parse().unwrap(), PeerId(peer))))
    }

    fn owner(routes: &Routes, address: &str) -> Option<u32> {
        routes.lookup(address.parse().unwrap()).map(|PeerId(peer)| peer)
    }

    #[test]
    fn the_longest_prefix_wins() {
        let routes =
            table(&["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "10.1.0.0/24", "fd00::/8", "fd00::1/128"]);
        assert_eq!(owner(&routes, "10.9.9.9"), Some(0));
        assert_eq!(owner(&routes, "10.1.9.9"), Some(1));
        assert_eq!(owner(&routes, "10.1.2.3"), Some(2));
        assert_eq!(owner(&routes, "10.1.2.4"), Some(1));
        assert_eq!(owner(&routes, "10.1.0.200"), Some(3));
        assert_eq!(owner(&routes, "10.0.255.255"), Some(0));
        assert_eq!(owner(&routes, "10.2.0.0"), Some(0));
        assert_eq!(owner(&routes, "11.0.0.0"), None);
        assert_eq!(owner(&routes, "9.255.255.255"), None);
        assert_eq!(owner(&routes, "fd00::1"), Some(5));
        assert_eq!(owner(&routes, "fd00::2"), Some(4));
        assert_eq!(owner(&routes, "fe00::"), None);
    }

    #[test]
    fn a_default_route_reaches_the_last_address() {
        let routes = table(&["0.0.0.0/0", "::/0", "255.255.255.255/32"]);
        assert_eq!(owner(&routes, "0.0.0.0"), Some(0));
        assert_eq!(owner(&routes, "255.255.255.254"), Some(0));
        assert_eq!(owner(&routes, "255.255.255.255"), Some(2));
        assert_eq!(owner(&routes, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), Some(1));
    }

    #[test]
    fn an_empty_table_owns_nothing() {
        assert_eq!(owner(&table(&[]), "10.0.0.1"), None);
    }

    #[test]
    fn random_tables_agree_with_a_linear_search() {
        let mut state = 0x9e37_79b9_u32;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state
        };
        for _ in 0..50 {
            let mut prefixes: Vec<IpNet> = (0..100)
                .map(|_| {
                    // A small universe, so that prefixes nest and touch.
                    let address = Ipv4Addr::from_bits(0x0a00_0000 | (random() & 0x3ff));
                    ipnet::Ipv4Net::new(address, 20 + (random() % 13) as u8).unwrap().trunc().into()
                })
                .collect();
            prefixes.sort();
            prefixes.dedup();
            let routes = Routes::new((0u32..).zip(&prefixes).map(|(i, p)| (*p, PeerId(i))));
            for low in 0..0x800 {
                let address = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 | low));
                let expected = (0u32..)
                    .zip(&prefixes)
                    .filter(|(_, p)| p.contains(&address))
                    .max_by_key(|(_, p)| p.prefix_len())
                    .map(|(i, _)| PeerId(i));
                assert_eq!(routes.lookup(address), expected, "{address} in {prefixes:?}");
            }
        }
    }
}
