//! Telling an ordinary morning from a flood of handshakes.
//!
//! What a sender can make up is never charged to anybody: a flood of made-up initiations makes the node ask for cookies, and
//! no more. Only whoever has shown a cookie, and so receives where it says, is counted there.

use std::time::{Duration, Instant};

use crate::unconfirmed::Network;

/// Initiations in one window beyond which senders must show a cookie: about an eighth of what a core can answer.
const WINDOW_MAX: u32 = 100;
const WINDOW: Duration = Duration::from_millis(100);
/// Once under load, stay so at least this long.
const CALM: Duration = Duration::from_secs(1);
/// Handshakes that one network may begin each second, its address proved.
const PER_NETWORK: u8 = 20;
/// The same, once the second's budget is half used.
const PER_NETWORK_BUSY: u8 = 2;
/// Handshakes of proved senders in a second, from places where no peer is known to be.
const ADMITTED_MAX: u32 = 2_000;
/// Counters of networks. Two may share one by chance, and chance changes every second: none is refused because others came first.
const COUNTERS: usize = 4_096;
/// Cookie replies in a window: to anywhere, and beyond that to where a peer is known to be.
const REPLIES_MAX: u32 = 5_000;
const REPLIES_TO_PEERS_MAX: u32 = 1_000;

/// How busy the node is with handshakes.
#[derive(Debug)]
pub(crate) struct Load {
    window: Instant,
    count: u32,
    replies: u32,
    replies_to_peers: u32,
    loaded_until: Option<Instant>,
    second: Instant,
    admitted: u32,
    networks: Box<[u8]>,
    /// Unknown outside, so that nobody can choose networks that share a counter.
    key: u64,
}

impl Load {
    pub(crate) fn new(now: Instant, key: u64) -> Self {
        Self {
            window: now,
            count: 0,
            replies: 0,
            replies_to_peers: 0,
            loaded_until: None,
            second: now,
            admitted: 0,
            networks: vec![0; COUNTERS].into(),
            key,
        }
    }

    fn turn(&mut self, now: Instant) {
        if now.saturating_duration_since(self.window) >= WINDOW {
            self.window = now;
            (self.count, self.replies, self.replies_to_peers) = (0, 0, 0);
        }
    }

    /// Counts an initiation with a valid first MAC. Returns whether we are under load.
    pub(crate) fn arrived(&mut self, now: Instant) -> bool {
        self.turn(now);
        self.count = self.count.saturating_add(1);
        if self.count > WINDOW_MAX {
            self.loaded_until = Some(now + CALM);
        }
        self.loaded_until.is_some_and(|until| now < until)
    }

    /// Counts a handshake whose sender has proved its address. Returns whether it may go on. `peer`: a peer is known to be there.
    pub(crate) fn admit(&mut self, now: Instant, from: Network, peer: bool) -> bool {
        if now.saturating_duration_since(self.second) >= Duration::from_secs(1) {
            self.second = now;
            self.admitted = 0;
            self.networks.fill(0);
            self.key = mix(self.key);
        }
        if !peer && self.admitted >= ADMITTED_MAX {
            return false;
        }
        let at = (mix(from.number() ^ self.key) % COUNTERS as u64) as usize;
        let busy = !peer && self.admitted >= ADMITTED_MAX / 2;
        let most = if busy { PER_NETWORK_BUSY } else { PER_NETWORK };
        if self.networks[at] >= most {
            return false;
        }
        self.networks[at] += 1;
        self.admitted += u32::from(!peer);
        true
    }

    /// Whether one more cookie reply may be sent. `peer`: to where a peer is known to be.
    pub(crate) fn may_reply(&mut self, now: Instant, peer: impl FnOnce() -> bool) -> bool {
        self.turn(now);
        if self.replies < REPLIES_MAX {
            self.replies += 1;
            return true;
        }
        let may = self.replies_to_peers < REPLIES_TO_PEERS_MAX && peer();
        self.replies_to_peers += u32::from(may);
        may
    }
}

/// The finalizer of `SplitMix64`.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // an origin for the clock that the tests move by hand
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn network(text: &str) -> Network {
        Network::of(text.parse().unwrap())
    }

    #[test]
    fn a_flood_means_load_and_calm_ends_it() {
        let start = Instant::now();
        let mut load = Load::new(start, 1);
        assert!((0..WINDOW_MAX).all(|_| !load.arrived(start)));
        assert!(load.arrived(start));
        assert!(load.arrived(start + CALM / 2));
        assert!(!load.arrived(start + CALM * 2));
    }

    #[test]
    fn each_network_has_its_share_of_a_second() {
        let now = Instant::now();
        let mut load = Load::new(now, 1);
        let one = network("192.0.2.1");
        assert!((0..PER_NETWORK).all(|_| load.admit(now, one, false)));
        assert!(!load.admit(now, one, false));
        assert!(load.admit(now, network("192.0.2.2"), false));
        assert!(load.admit(now + Duration::from_secs(1), one, false));
    }

    #[test]
    fn a_host_has_no_more_with_all_addresses_of_its_ipv6_network() {
        let now = Instant::now();
        let mut load = Load::new(now, 1);
        let taken = (0..1_000).filter(|n| load.admit(now, network(&format!("2001:db8::{n:x}")), false));
        assert_eq!(taken.count(), usize::from(PER_NETWORK));
        assert!(load.admit(now, network("2001:db8:0:1::1"), false));
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
        assert_ne!(network("0.0.0.1"), network("0:0:0:1::"));
    }

    #[test]
    fn proved_strangers_from_everywhere_do_not_keep_a_peer_out() {
        let now = Instant::now();
        let mut load = Load::new(now, 1);
        let taken = (0..40_000u32)
            .filter(|n| load.admit(now, Network::of(IpAddr::from((0x0a00_0000 + n).to_be_bytes())), false));
        assert_eq!(taken.count(), ADMITTED_MAX as usize);
        // One in 4,096 shares its counter with 20 others, and not for longer than a second.
        let admitted = (0..3).any(|s| load.admit(now + Duration::from_secs(s), network("192.0.2.1"), true));
        assert!(admitted);
    }

    #[test]
    fn cookie_replies_are_limited_and_some_are_kept_for_peers() {
        let now = Instant::now();
        let mut load = Load::new(now, 1);
        assert_eq!((0..20_000).filter(|_| load.may_reply(now, || false)).count(), REPLIES_MAX as usize);
        assert_eq!(
            (0..20_000).filter(|_| load.may_reply(now, || true)).count(),
            REPLIES_TO_PEERS_MAX as usize
        );
        assert!(load.may_reply(now + WINDOW, || false));
    }
}
