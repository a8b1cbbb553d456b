//! Where a peer may be reached, and which of these places is in use.
//!
//! A peer with one address and one carrier has one place, and nothing here ever happens. With more, the best that answers
//! is used:
//!
//! - When the place in use does not answer a probe, it is *doubted*: it is asked again and again, then all others are tried,
//!   and if one of them has answered and it has not, that one is used. What comes from there unasked says only that one
//!   direction is open.
//! - A better place than the one in use is tried now and then, and used once it has answered twice in a row.
//!
//! A trial moves nobody's path. Whoever finds a place better uses it, and the peer follows the first packet from there. One
//! who has a choice itself does not follow to another place of its choice as long as the one in use answers: what is still
//! under way on the old path would move it back, and two ends of different taste would move each other forever.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use carrier::{Carrier, Endpoint};

/// How a peer may be reached at its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The carrier.
    pub carrier: Carrier,
    /// The port of this carrier, where it is another one than that of the peer's address.
    pub port: Option<u16>,
}

impl Way {
    /// By UDP, on the port of the address.
    pub const UDP: Self = Self { carrier: Carrier::Udp, port: None };
}

/// Addresses of a host name that are used.
const ADDRESSES_MAX: usize = 8;
/// Places on the local network that are remembered for a peer.
const OFFERED_MAX: usize = 8;
/// A place that was just moved to has this long to prove itself.
const SETTLING: Duration = Duration::from_secs(1);
/// Between two trials of better places.
const UPGRADE_EVERY: Duration = Duration::from_secs(5);
/// As long as a better place is found and lost again, up to this.
const UPGRADE_EVERY_MAX: Duration = Duration::from_mins(5);
/// One that has lasted so long was no mistake.
const SETTLED: Duration = Duration::from_secs(30);
/// A better place has to answer once more, so much later.
const CONFIRM_AFTER: Duration = Duration::from_millis(300);
/// While the place in use is doubted, the others are tried so often at first, each time half as often, and down to this.
const TRY_EVERY: Duration = Duration::from_millis(500);
const TRY_EVERY_MAX: Duration = Duration::from_secs(8);
/// They are not tried before the place in use had this long to answer.
const TRY_AFTER: Duration = Duration::from_millis(150);
/// So long it is asked with every poll; then, the peer is likely gone, only when the others are.
const ASK_FOR: Duration = Duration::from_secs(2);
/// The place in use has at least this long to dispel a doubt.
const DOUBT_MIN: Duration = Duration::from_millis(450);

/// The places of one peer.
#[derive(Debug)]
pub(crate) struct Places {
    ways: Vec<Way>,
    /// Its address from the configuration, or those of its host name. Which of them works only trying tells (RFC 8305), so by the
    /// same carrier none is better than another.
    configured: Vec<SocketAddr>,
    /// On the local network, newest last.
    offered: Vec<SocketAddr>,
    /// All of them, best first.
    all: Vec<Endpoint>,
    /// The place in use has answered since it is in use.
    proven: bool,
    moved_at: Option<Instant>,
    doubt: Option<Doubt>,
    upgrade: Upgrade,
}

/// The place in use does not answer.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    since: Instant,
    try_at: Instant,
    try_every: Duration,
    /// The best place that has answered meanwhile.
    answered: Option<Endpoint>,
}

/// The search for something better.
#[derive(Clone, Copy, Debug)]
struct Upgrade {
    try_at: Option<Instant>,
    every: Duration,
    /// What has answered once.
    promising: Option<Endpoint>,
    /// When it was last successful.
    done_at: Option<Instant>,
}

/// What is to be done about a peer's places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing.
    Rest,
    /// Ask the place in use whether it is alive.
    Ask,
    /// Try these; if the place in use is doubted, ask it as well.
    Try(Vec<Endpoint>),
    /// Use this one from now on.
    Use(Endpoint),
}

impl Places {
    pub(crate) fn new(ways: Vec<Way>, configured: Option<SocketAddr>) -> Self {
        let upgrade = Upgrade { try_at: None, every: UPGRADE_EVERY, promising: None, done_at: None };
        let mut places = Self {
            ways,
            configured: configured.into_iter().collect(),
            offered: Vec::new(),
            all: Vec::new(),
            proven: false,
            moved_at: None,
            doubt: None,
            upgrade,
        };
        places.list();
        places
    }

    fn list(&mut self) {
        let Self { ways, configured, offered, all, .. } = self;
        let by_way = |mut address: SocketAddr, way: &Way| {
            // What else an address has, the scope of a link-local one, it keeps (RFC 4007 §11).
            address.set_port(way.port.unwrap_or(address.port()));
            Endpoint { carrier: way.carrier, address }
        };
        all.clear();
        all.extend(offered.iter().rev().copied().map(Endpoint::udp));
        all.extend(ways.iter().flat_map(|way| configured.iter().map(|address| by_way(*address, way))));
    }

    /// The carriers that the peer may be reached by.
    pub(crate) fn carriers(&self) -> impl ExactSizeIterator<Item = Carrier> {
        self.ways.iter().map(|way| way.carrier)
    }

    /// All places, best first.
    pub(crate) fn all(&self) -> &[Endpoint] {
        &self.all
    }

    /// Those that were configured, or belong to the host name, best first.
    pub(crate) fn configured(&self) -> &[Endpoint] {
        &self.all[self.offered.len()..]
    }

    /// Sets the configured addresses, the one to try first at the front. Returns the places that are none any more.
    pub(crate) fn configure(&mut self, addresses: &[SocketAddr]) -> Vec<Endpoint> {
        let mut before = self.all.clone();
        self.configured.clear();
        for &address in addresses {
            if self.configured.len() < ADDRESSES_MAX && !self.configured.contains(&address) {
                self.configured.push(address);
            }
        }
        self.list();
        before.retain(|place| !self.all.contains(place));
        before
    }

    /// Remembers a place on the local network, and tries it soon.
    pub(crate) fn offer(&mut self, now: Instant, address: SocketAddr) {
        self.offered.retain(|&offered| offered != address);
        if self.offered.len() == OFFERED_MAX {
            self.offered.remove(0);
        }
        self.offered.push(address);
        self.upgrade.try_at = Some(now);
        self.list();
    }

    /// Forgets a place on the local network.
    pub(crate) fn withdraw(&mut self, address: SocketAddr) {
        self.offered.retain(|&offered| offered != address);
        self.list();
    }

    /// How good a place is: 0 is best. One that the peer has moved to by itself is as good as those of its carrier, and so are all
    /// addresses of a host name.
    fn rank(&self, place: Endpoint) -> usize {
        let exactly = self.all.iter().position(|&known| known == place);
        let alike = || self.all.iter().rposition(|known| known.carrier == place.carrier);
        let Some(position) = exactly.or_else(alike) else { return self.all.len() };
        match position.checked_sub(self.offered.len()) {
            Some(configured) => self.offered.len() + configured / self.configured.len().max(1),
            None => position,
        }
    }

    /// The place for the `tries`-th handshake in a row with a peer that is thought to be at `current`: in turn, if there is
    /// no sign of life from there. Also how often all places have had their turn before.
    pub(crate) fn turn(&self, tries: u32, current: Option<Endpoint>, alive: bool) -> Option<(Endpoint, u32)> {
        let others = self.all.iter().copied().filter(|&place| Some(place) != current);
        let places: Vec<Endpoint> = match current {
            Some(current) if alive => vec![current],
            _ => current.into_iter().chain(others).collect(),
        };
        let count = u32::try_from(places.len()).ok().filter(|&count| count > 0)?;
        Some((places[(tries % count) as usize], tries / count))
    }

    /// Whether the place in use may be dead.
    pub(crate) fn is_doubted(&self) -> bool {
        self.doubt.is_some()
    }

    /// What is to be done now; to be asked every 100 ms. `overdue`: the place in use should have answered by now. `in_use`:
    /// somebody would notice a better place.
    pub(crate) fn poll(
        &mut self,
        now: Instant,
        current: Endpoint,
        overdue: bool,
        rtt: Duration,
        in_use: bool,
    ) -> Step {
        if self.all.iter().all(|&place| place == current) {
            self.doubt = None;
            return Step::Rest;
        }
        let Some(doubt) = &mut self.doubt else {
            if overdue {
                self.doubt = Some(Doubt {
                    since: now,
                    try_at: now + TRY_AFTER.max(rtt * 3 / 2),
                    try_every: TRY_EVERY,
                    answered: None,
                });
                return Step::Ask;
            }
            return self.look_for_better(now, current, in_use);
        };
        if let Some(place) = doubt.answered.filter(|_| now >= doubt.since + DOUBT_MIN.max(rtt * 2)) {
            return Step::Use(place);
        }
        if now < doubt.try_at {
            return if now < doubt.since + ASK_FOR { Step::Ask } else { Step::Rest };
        }
        doubt.try_at = now + doubt.try_every;
        doubt.try_every = (doubt.try_every * 2).min(TRY_EVERY_MAX);
        Step::Try(self.all.iter().copied().filter(|&place| place != current).collect())
    }

    fn look_for_better(&mut self, now: Instant, current: Endpoint, in_use: bool) -> Step {
        let rank = self.rank(current);
        let upgrade = &mut self.upgrade;
        if rank == 0 {
            upgrade.try_at = None;
            return Step::Rest;
        }
        let every = upgrade.every;
        let at = *upgrade.try_at.get_or_insert(now + every);
        if now < at || !in_use {
            return Step::Rest;
        }
        upgrade.try_at = Some(now + every);
        let better = self.all.iter().copied().filter(|&place| self.rank(place) < rank);
        Step::Try(better.collect())
    }

    /// The place in use has answered a probe.
    pub(crate) fn prove(&mut self) {
        self.proven = true;
        self.doubt = None;
    }

    /// Whether to use the place `to` because the peer does.
    pub(crate) fn follow(&self, now: Instant, current: Endpoint, to: Endpoint) -> bool {
        let a_choice = self.all.contains(&to) || to.carrier != current.carrier;
        let settling = self.moved_at.is_some_and(|at| now < at + SETTLING);
        self.all.len() < 2 || !a_choice || self.doubt.is_some() || !(self.proven || settling)
    }

    /// A place has answered a trial. Returns it if it is to be used at once.
    pub(crate) fn answered(
        &mut self,
        now: Instant,
        place: Endpoint,
        current: Option<Endpoint>,
    ) -> Option<Endpoint> {
        let rank = self.rank(place);
        if !self.all.contains(&place) {
            return None;
        }
        let best_so_far = self.doubt.and_then(|doubt| doubt.answered).map(|place| self.rank(place));
        if let Some(doubt) = &mut self.doubt {
            if best_so_far.is_none_or(|best| rank < best) {
                doubt.answered = Some(place);
            }
            return None;
        }
        if current.is_some_and(|current| rank >= self.rank(current)) {
            return None;
        }
        if self.upgrade.promising.replace(place) == Some(place) {
            return Some(place);
        }
        self.upgrade.try_at = Some(now + CONFIRM_AFTER);
        None
    }

    /// The peer is reached elsewhere from now on, by our choice or its own.
    pub(crate) fn moved(&mut self, now: Instant, from: Option<Endpoint>, to: Endpoint) {
        let better = from.is_some_and(|from| self.rank(to) < self.rank(from));
        let worse = from.is_some_and(|from| self.rank(to) > self.rank(from));
        let lasted = self.upgrade.done_at.is_some_and(|at| now >= at + SETTLED);
        if worse && self.upgrade.done_at.take().is_some() && !lasted {
            self.upgrade.every = (self.upgrade.every * 2).min(UPGRADE_EVERY_MAX);
        } else if worse {
            self.upgrade.every = UPGRADE_EVERY;
        }
        if better {
            self.upgrade.done_at = Some(now);
        }
        self.upgrade.promising = None;
        self.upgrade.try_at = None;
        self.proven = false;
        self.moved_at = Some(now);
        self.doubt = None;
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // an origin for the clock that the tests move by hand
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const S: Duration = Duration::from_secs(1);

    fn at(port: u16, carrier: Carrier) -> Endpoint {
        Endpoint { carrier, address: ([192, 0, 2, 1], port).into() }
    }

    const UDP: fn() -> Endpoint = || at(1, Carrier::Udp);
    const FAKE: fn() -> Endpoint = || at(443, Carrier::FakeTcp);

    fn places() -> Places {
        let ways = vec![Way::UDP, Way { carrier: Carrier::FakeTcp, port: Some(443) }];
        Places::new(ways, Some(UDP().address))
    }

    /// Polls for a place that is used all the time.
    fn poll(places: &mut Places, now: Instant, current: Endpoint, overdue: bool) -> Step {
        places.poll(now, current, overdue, 10 * MS, true)
    }

    #[test]
    fn handshakes_take_turns_only_while_the_place_in_use_is_silent() {
        let places = places();
        let turns = |alive| (0..4).map(|tries| places.turn(tries, Some(FAKE()), alive)).collect::<Vec<_>>();
        assert_eq!(turns(false), [(FAKE(), 0), (UDP(), 0), (FAKE(), 1), (UDP(), 1)].map(Some));
        assert_eq!(turns(true), [(FAKE(), 0), (FAKE(), 1), (FAKE(), 2), (FAKE(), 3)].map(Some));
        let roamed = at(7, Carrier::Udp);
        assert_eq!(places.turn(0, Some(roamed), false), Some((roamed, 0)));
        assert_eq!(places.turn(5, Some(roamed), false), Some((FAKE(), 1)));
        assert_eq!(Places::new(vec![Way::UDP], None).turn(0, None, false), None);
    }

    #[test]
    fn a_silent_place_is_left_for_one_that_answers() {
        let (mut places, now) = (places(), Instant::now());
        assert_eq!(poll(&mut places, now, UDP(), true), Step::Ask);
        assert_eq!(poll(&mut places, now + 100 * MS, UDP(), true), Step::Ask);
        assert_eq!(poll(&mut places, now + 200 * MS, UDP(), true), Step::Try(vec![FAKE()]));
        assert_eq!(places.answered(now + 210 * MS, FAKE(), Some(UDP())), None, "not at once");
        assert_eq!(poll(&mut places, now + 300 * MS, UDP(), true), Step::Ask, "it may yet answer");
        assert_eq!(poll(&mut places, now + 500 * MS, UDP(), true), Step::Use(FAKE()));
    }

    #[test]
    fn a_peer_that_is_gone_is_asked_for_ever_less_often() {
        let (mut places, now) = (places(), Instant::now());
        let steps = |places: &mut Places, from: u64, to: u64| {
            let polls =
                (from * 10..to * 10).map(|tick| poll(places, now + 100 * MS * tick as u32, UDP(), true));
            polls.filter(|step| *step != Step::Rest).count()
        };
        assert!(steps(&mut places, 0, 2) == 20);
        assert!(steps(&mut places, 2, 60) <= 10);
    }

    #[test]
    fn a_doubt_that_was_dispelled_moves_nothing() {
        let (mut places, now) = (places(), Instant::now());
        assert_eq!(poll(&mut places, now, UDP(), true), Step::Ask);
        assert!(places.answered(now + 50 * MS, FAKE(), Some(UDP())).is_none());
        places.prove();
        assert_eq!(poll(&mut places, now + S, UDP(), false), Step::Rest);
        assert_eq!(places.answered(now + S, FAKE(), Some(UDP())), None, "it is no better");
    }

    #[test]
    fn a_better_place_is_used_when_it_has_answered_twice() {
        let (mut places, now) = (places(), Instant::now());
        assert_eq!(poll(&mut places, now, FAKE(), false), Step::Rest);
        assert_eq!(poll(&mut places, now + 5 * S, FAKE(), false), Step::Try(vec![UDP()]));
        assert_eq!(places.answered(now + 5 * S, UDP(), Some(FAKE())), None);
        assert_eq!(poll(&mut places, now + 5 * S + CONFIRM_AFTER, FAKE(), false), Step::Try(vec![UDP()]));
        assert_eq!(places.answered(now + 6 * S, UDP(), Some(FAKE())), Some(UDP()));
        assert_eq!(poll(&mut places, now + 20 * S, UDP(), false), Step::Rest, "there is none better");
    }

    #[test]
    fn a_better_place_that_does_not_last_is_tried_ever_less_often() {
        let (mut places, mut now) = (places(), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..8 {
            assert_eq!(poll(&mut places, now, FAKE(), false), Step::Rest);
            let begun = now;
            while poll(&mut places, now, FAKE(), false) == Step::Rest {
                now += S;
            }
            waits.push((now - begun).as_secs());
            places.moved(now, Some(FAKE()), UDP());
            places.moved(now + S, Some(UDP()), FAKE());
        }
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300]);
        places.moved(now, Some(FAKE()), UDP());
        places.moved(now + SETTLED, Some(UDP()), FAKE());
        assert_eq!(places.upgrade.every, UPGRADE_EVERY, "one that has lasted was no mistake");
    }

    #[test]
    fn a_place_on_the_local_network_is_better_than_the_configured_ones() {
        let (mut places, now) = (places(), Instant::now());
        let lan = at(9, Carrier::Udp);
        places.offer(now, lan.address);
        assert_eq!(poll(&mut places, now, UDP(), false), Step::Try(vec![lan]), "at once");
        places.withdraw(lan.address);
        assert_eq!(poll(&mut places, now + S, lan, false), Step::Rest, "it works as long as it works");
        assert_eq!(poll(&mut places, now + S, lan, true), Step::Ask);
        assert_eq!(poll(&mut places, now + 2 * S, lan, true), Step::Try(vec![UDP(), FAKE()]));
    }

    #[test]
    fn only_so_many_places_on_the_local_network_are_remembered() {
        let (mut places, now) = (places(), Instant::now());
        for port in 1..=20 {
            places.offer(now, at(port, Carrier::Udp).address);
        }
        assert_eq!(places.all().len(), OFFERED_MAX + 2);
        assert_eq!(places.all()[0], at(20, Carrier::Udp), "the newest first");
    }

    #[test]
    fn who_has_a_choice_follows_to_where_it_has_none() {
        let (mut places, roamed, now) = (places(), at(7, Carrier::Udp), Instant::now());
        assert!(places.follow(now, UDP(), FAKE()), "nothing is known of the place in use");
        places.prove();
        assert!(!places.follow(now, UDP(), FAKE()) && !places.follow(now, UDP(), at(7, Carrier::FakeTcp)));
        assert!(places.follow(now, UDP(), roamed), "the peer has another address");
        assert_eq!(poll(&mut places, now, UDP(), true), Step::Ask);
        assert!(places.follow(now, UDP(), FAKE()), "the place in use is silent");
        let mut listener = Places::new(vec![Way::UDP], None);
        listener.prove();
        assert!(listener.follow(now, UDP(), FAKE()), "it has no choice");
    }

    #[test]
    fn a_new_address_replaces_the_old_one() {
        let mut places = places();
        let gone = places.configure(&[([192, 0, 2, 9], 1).into()]);
        assert_eq!(gone, [UDP(), FAKE()]);
        let new = ["192.0.2.9:1".parse().unwrap(), "192.0.2.9:443".parse().unwrap()];
        assert_eq!(places.all().iter().map(|place| place.address).collect::<Vec<_>>(), new);
    }

    #[test]
    fn all_addresses_of_a_name_are_tried_and_none_is_better_than_the_one_that_works() {
        let (mut places, now) = (places(), Instant::now());
        let [six, four]: [SocketAddr; 2] =
            ["[2001:db8::1]:1", "192.0.2.1:1"].map(|text| text.parse().unwrap());
        places.configure(&[six, four, six]);
        let udp = [six, four].map(Endpoint::udp);
        assert_eq!(places.all()[..2], udp);
        assert_eq!(places.all().len(), 4, "by two carriers");
        let turns = (0..4).map(|tries| places.turn(tries, Some(udp[0]), false).unwrap().0);
        assert_eq!(turns.collect::<Vec<_>>(), places.all());
        assert_eq!(poll(&mut places, now, udp[1], false), Step::Rest);
        assert_eq!(poll(&mut places, now + 60 * S, udp[1], false), Step::Rest, "nothing better to look for");
        assert_eq!(poll(&mut places, now + 61 * S, udp[1], true), Step::Ask);
        let others = vec![udp[0], places.all()[2], places.all()[3]];
        assert_eq!(poll(&mut places, now + 62 * S, udp[1], true), Step::Try(others));
        places.configure(&(1..100).map(|port| at(port, Carrier::Udp).address).collect::<Vec<_>>());
        assert_eq!(places.all().len(), 2 * ADDRESSES_MAX);
    }

    #[test]
    fn a_link_local_address_keeps_its_scope_by_every_carrier() {
        let mut places = places();
        places.configure(&["[fe80::1%3]:1".parse().unwrap()]);
        let expected = ["[fe80::1%3]:1", "[fe80::1%3]:443"].map(|text| text.parse().unwrap());
        assert_eq!(places.all().iter().map(|place| place.address).collect::<Vec<_>>(), expected);
    }
}
