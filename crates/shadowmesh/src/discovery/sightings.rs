//! What is seen on the network, and which peers are found in it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use beacon::{Instance, Txt};
use node::PeerId;

use super::Change;
use super::tags::Tags;

/// Advertisements remembered. Those that nobody is recognised in are forgotten first.
const SIGHTINGS_MAX: usize = 1_024;

/// Addresses offered for one peer. What is there stays: whoever repeats a peer's tags shall not displace it.
const ADDRESSES_MAX: usize = 8;

/// In the long run a peer is offered somewhere no more often than that, and so many times in a row (GCRA): whoever repeats its
/// tags from ever new places shall fill neither the log nor the network with attempts.
const OFFER_SPACING: Duration = Duration::from_secs(10);
const OFFER_BURST: u32 = 16;

/// One advertisement.
#[derive(Debug)]
struct Sighting {
    /// Kept, because a day later, or when the clock has been set, it may be recognised, or no longer.
    txt: Txt,
    /// Where it is, if that is on our network.
    address: Option<SocketAddr>,
    peer: Option<PeerId>,
}

/// All advertisements that are there.
#[derive(Debug, Default)]
pub(super) struct Sightings {
    seen: BTreeMap<Instance, Sighting>,
    offered: Vec<(PeerId, SocketAddr)>,
    /// Until when the offers so far have used up a peer's share.
    used_until: BTreeMap<PeerId, Instant>,
}

impl Sightings {
    /// Takes an advertisement, new or changed.
    pub(super) fn see(
        &mut self,
        instance: Instance,
        txt: Txt,
        address: Option<SocketAddr>,
        tags: &Tags,
        now: Instant,
    ) -> Vec<Change> {
        let peer = tags.recognise(&txt);
        if self.seen.len() >= SIGHTINGS_MAX && !self.seen.contains_key(&instance) && !self.make_room(peer) {
            return Vec::new();
        }
        let before = self.seen.insert(instance, Sighting { txt, address, peer });
        // Strangers' are many, and change nothing.
        if peer.is_none() && before.is_none_or(|before| before.peer.is_none()) {
            return Vec::new();
        }
        self.settle(now)
    }

    /// Forgets an advertisement of a stranger, if the new one is of a peer.
    fn make_room(&mut self, newcomer: Option<PeerId>) -> bool {
        let stranger = self.seen.iter().find(|(_, sighting)| sighting.peer.is_none());
        match (newcomer, stranger.map(|(instance, _)| instance.clone())) {
            (Some(_), Some(stranger)) => self.seen.remove(&stranger).is_some(),
            _ => false,
        }
    }

    /// An advertisement is gone.
    pub(super) fn lose(&mut self, instance: &Instance, now: Instant) -> Vec<Change> {
        match self.seen.remove(instance) {
            Some(Sighting { peer: Some(_), .. }) => self.settle(now),
            _ => Vec::new(),
        }
    }

    /// Looks at all of them anew, because it is another day.
    pub(super) fn recognise_anew(&mut self, tags: &Tags, now: Instant) -> Vec<Change> {
        for sighting in self.seen.values_mut() {
            sighting.peer = tags.recognise(&sighting.txt);
        }
        self.settle(now)
    }

    /// All are gone.
    pub(super) fn lose_all(&mut self, now: Instant) -> Vec<Change> {
        self.seen.clear();
        self.settle(now)
    }

    /// Which peers may be where.
    pub(super) fn found(&self) -> &[(PeerId, SocketAddr)] {
        &self.offered
    }

    /// Brings what is offered in line with what is seen; to be called now and then for what had to wait. One address may stand in
    /// several advertisements, as at midnight.
    pub(super) fn settle(&mut self, now: Instant) -> Vec<Change> {
        let wanted: Vec<(PeerId, SocketAddr)> =
            self.seen.values().filter_map(|sighting| Some((sighting.peer?, sighting.address?))).collect();
        let mut changes = Vec::new();
        self.offered.retain(|&(peer, address)| {
            let stays = wanted.contains(&(peer, address));
            if !stays {
                changes.push(Change::Withdraw { peer, address });
            }
            stays
        });
        for (peer, address) in wanted {
            let offered = self.offered.iter().filter(|(other, _)| *other == peer).count();
            let is_new = !self.offered.contains(&(peer, address));
            if is_new && offered < ADDRESSES_MAX && self.take_share(peer, now) {
                self.offered.push((peer, address));
                changes.push(Change::Offer { peer, address });
            }
        }
        changes
    }

    /// Whether a peer may be offered somewhere once more.
    fn take_share(&mut self, peer: PeerId, now: Instant) -> bool {
        let used_until = self.used_until.entry(peer).or_insert(now);
        *used_until = now.max(*used_until);
        let has_share = *used_until <= now + OFFER_SPACING * (OFFER_BURST - 1);
        if has_share {
            *used_until += OFFER_SPACING;
        }
        has_share
    }
}

/// The address to try of those that an advertisement has. All lead to the same host over the same network, so one is enough: an
/// IPv4 one, for its shorter header; else a link-local one, which is there on every network and stays when prefixes change;
/// else any.
///
/// `is_neighbour` tells whether an address belongs to somebody else on the network that it was heard on. Others are not
/// tried: an advertisement is no reason to send anything beyond that network.
pub(super) fn address_to_try(
    advertised: impl Iterator<Item = SocketAddr>,
    is_neighbour: impl Fn(IpAddr) -> bool,
) -> Option<SocketAddr> {
    let preference = |address: &SocketAddr| match address.ip() {
        IpAddr::V4(_) => 0,
        IpAddr::V6(ip) if ip.is_unicast_link_local() => 1,
        IpAddr::V6(_) => 2,
    };
    advertised.filter(|address| address.port() != 0 && is_neighbour(address.ip())).min_by_key(preference)
}

#[cfg(test)]
mod tests {
    use super::super::tags::tests::{peers, published};
    use super::*;

    fn instance(name: &str) -> Instance {
        Instance {
            name: name.parse().unwrap(),
            service_type: super::super::SERVICE.parse().unwrap(),
            interface: 2,
        }
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn offer(peer: u32, text: &str) -> Change {
        Change::Offer { peer: PeerId(peer), address: address(text) }
    }

    fn withdraw(peer: u32, text: &str) -> Change {
        Change::Withdraw { peer: PeerId(peer), address: address(text) }
    }

    /// We are number 1, and know 2 and 3.
    fn tags(day: u32) -> Tags {
        Tags::around(day, &peers(1, &[2, 3]))
    }

    fn of(number: u64, day: u32) -> Txt {
        published(number, &[1], day, number).remove(0)
    }

    #[test]
    fn a_peer_is_offered_where_it_is_and_withdrawn_when_it_is_gone() {
        let (mut sightings, tags, now) = (Sightings::default(), tags(100), Instant::now());
        let mut see = |name: &str, txt: Txt, at: &str| {
            sightings.see(instance(name), txt, Some(address(at)), &tags, now)
        };
        assert_eq!(see("x", of(2, 100), "10.0.0.2:9"), [offer(0, "10.0.0.2:9")]);
        assert_eq!(see("y", of(3, 100), "10.0.0.3:9"), [offer(1, "10.0.0.3:9")]);
        assert_eq!(see("x", of(2, 100), "10.0.0.2:9"), [], "no news");
        assert_eq!(see("z", of(4, 100), "10.0.0.4:9"), [], "a stranger");
        assert_eq!(see("x", of(2, 100), "10.0.0.5:9"), [withdraw(0, "10.0.0.2:9"), offer(0, "10.0.0.5:9")]);
        assert_eq!(sightings.lose(&instance("z"), now), []);
        assert_eq!(sightings.lose(&instance("x"), now), [withdraw(0, "10.0.0.5:9")]);
        assert_eq!(sightings.lose(&instance("x"), now), []);
        assert_eq!(sightings.found(), [(PeerId(1), address("10.0.0.3:9"))]);
        assert_eq!(sightings.lose_all(now), [withdraw(1, "10.0.0.3:9")]);
    }

    #[test]
    fn at_midnight_nobody_is_lost() {
        let (mut sightings, now) = (Sightings::default(), Instant::now());
        let at = || Some(address("10.0.0.2:9"));
        assert_eq!(sightings.see(instance("old"), of(2, 100), at(), &tags(100), now).len(), 1);
        assert_eq!(sightings.recognise_anew(&tags(101), now), []);
        assert_eq!(sightings.see(instance("new"), of(2, 101), at(), &tags(101), now), []);
        assert_eq!(sightings.lose(&instance("old"), now), []);
        assert_eq!(sightings.found().len(), 1);
    }

    #[test]
    fn a_clock_that_is_set_finds_who_was_there_all_along() {
        let (mut sightings, now) = (Sightings::default(), Instant::now());
        assert_eq!(sightings.see(instance("x"), of(2, 100), Some(address("10.0.0.2:9")), &tags(0), now), []);
        assert_eq!(sightings.recognise_anew(&tags(100), now), [offer(0, "10.0.0.2:9")]);
    }

    #[test]
    fn tags_that_are_repeated_are_good_for_another_day_and_no_longer() {
        let (mut sightings, now) = (Sightings::default(), Instant::now());
        sightings.see(instance("forged"), of(2, 100), Some(address("10.0.0.66:9")), &tags(100), now);
        assert_eq!(sightings.recognise_anew(&tags(101), now), []);
        assert_eq!(sightings.recognise_anew(&tags(102), now), [withdraw(0, "10.0.0.66:9")]);
    }

    #[test]
    fn whoever_repeats_a_peers_tags_displaces_nobody_and_memory_is_bounded() {
        let (mut sightings, tags, now) = (Sightings::default(), tags(100), Instant::now());
        let at = |number: usize| Some(SocketAddr::from(([10, 1, (number >> 8) as u8, number as u8], 9)));
        sightings.see(instance("peer"), of(2, 100), Some(address("10.0.0.2:9")), &tags, now);
        for number in 0..2 * SIGHTINGS_MAX {
            sightings.see(instance(&format!("forged {number}")), of(2, 100), at(number), &tags, now);
        }
        assert_eq!(sightings.found().len(), ADDRESSES_MAX);
        assert_eq!(sightings.found()[0].1, address("10.0.0.2:9"));
        assert_eq!(sightings.seen.len(), SIGHTINGS_MAX);
    }

    #[test]
    fn whoever_is_ever_somewhere_else_is_tried_now_and_then() {
        let (mut sightings, tags, now) = (Sightings::default(), tags(100), Instant::now());
        let mut offers_in = |second: u64| {
            let now = now + Duration::from_secs(second);
            let moves = (0..100_u8).map(|number| Some(SocketAddr::from(([10, 2, second as u8, number], 9))));
            let changes = moves.flat_map(|at| sightings.see(instance("forged"), of(2, 100), at, &tags, now));
            changes.filter(|change| matches!(change, Change::Offer { .. })).count()
        };
        assert_eq!([0, 1, 9, 10, 20, 200].map(&mut offers_in), [16, 0, 0, 1, 1, 16]);
        // Who had to wait has its turn when there is a share again, without being heard anew.
        let later = now + Duration::from_secs(211);
        assert_eq!(sightings.found(), []);
        assert_eq!(sightings.settle(later), [offer(0, "10.2.200.99:9")]);
    }

    #[test]
    fn strangers_make_room_for_peers() {
        let (mut sightings, tags, now) = (Sightings::default(), tags(100), Instant::now());
        for number in 0..2 * SIGHTINGS_MAX {
            sightings.see(instance(&format!("{number}")), Txt::default(), None, &tags, now);
        }
        assert_eq!(sightings.seen.len(), SIGHTINGS_MAX);
        let changes = sightings.see(instance("peer"), of(2, 100), Some(address("10.0.0.2:9")), &tags, now);
        assert_eq!(changes, [offer(0, "10.0.0.2:9")]);
        assert_eq!(sightings.seen.len(), SIGHTINGS_MAX);
    }

    #[test]
    fn of_the_addresses_of_neighbours_the_best_is_tried() {
        let is_neighbour = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => ip.octets()[0] == 10,
            IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.segments()[0] == 0xfd00,
        };
        let to_try = |advertised: &[&str]| {
            address_to_try(advertised.iter().map(|text| address(text)), is_neighbour).map(|it| it.to_string())
        };
        assert_eq!(to_try(&["192.0.2.1:9", "10.0.0.1:9", "10.0.0.2:9"]).as_deref(), Some("10.0.0.1:9"));
        assert_eq!(to_try(&["[fd00::1]:9", "[fe80::1%2]:9", "10.0.0.1:9"]).as_deref(), Some("10.0.0.1:9"));
        assert_eq!(to_try(&["[fd00::1]:9", "[fe80::1%2]:9"]).as_deref(), Some("[fe80::1%2]:9"));
        assert_eq!(to_try(&["[2001:db8::1]:9", "[fd00::1]:9"]).as_deref(), Some("[fd00::1]:9"));
        assert_eq!(to_try(&["10.0.0.1:0", "192.0.2.1:9"]), None);
    }
}
