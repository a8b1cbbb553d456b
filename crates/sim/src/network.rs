//! Everything between two machines: delay, rate, queues, loss and the other faults of a path.
//!
//! A path is directed and joins two outer addresses: of machines, or of the translators before them (`nat.rs`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use packet::Ecn;

use crate::dice::Dice;

/// What a path does to datagrams. All probabilities are from 0 to 1, one draw a datagram.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkConfig {
    /// Time from the last bit sent to the last bit received.
    pub latency: Duration,
    /// Up to this much more, evenly distributed; order is kept, as in a queue that is now and then longer.
    pub jitter: Duration,
    /// Bits a second, IP headers included; `None` for no limit.
    pub rate_bps: Option<u64>,
    /// Bytes that may wait for the rate; more is lost. Without a rate nothing waits.
    pub queue_bytes: usize,
    /// The largest outer IP packet, in bytes. Larger ones vanish, as where ICMP is filtered.
    pub mtu: usize,
    /// Handshake messages over IPv4, which may be fragmented, cross in fragments instead of vanishing.
    pub fragments: bool,
    /// Probability of being lost.
    pub loss: f64,
    /// Probability of arriving twice, the copy a little later.
    pub duplicate: f64,
    /// Probability of being overtaken by what was sent after it.
    pub reorder: f64,
    /// Probability of one flipped bit.
    pub corrupt: f64,
    /// Mark ECN-capable packets as congested when more than so many bytes wait; `None` for never.
    pub mark_above_bytes: Option<usize>,
}

impl Default for LinkConfig {
    /// A faultless path of 1,500 bytes and 5 ms one way, without a rate limit.
    fn default() -> Self {
        Self {
            latency: Duration::from_millis(5),
            jitter: Duration::ZERO,
            rate_bps: None,
            queue_bytes: 256 * 1024,
            mtu: 1_500,
            fragments: false,
            loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            corrupt: 0.0,
            mark_above_bytes: None,
        }
    }
}

impl LinkConfig {
    /// Whether something sent on this path may fail to arrive, or arrive broken.
    pub fn is_lossy(&self) -> bool {
        self.loss > 0.0 || self.corrupt > 0.0 || self.rate_bps.is_some()
    }
}

/// A datagram on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    /// When it arrives, world time.
    pub(crate) at: Duration,
    /// What arrives.
    pub(crate) bytes: Vec<u8>,
    /// The outer ECN bits.
    pub(crate) ecn: Ecn,
    /// Whether a bit was flipped.
    pub(crate) corrupted: bool,
}

/// What a path has to know of a datagram besides its payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// Bytes of its outer headers.
    pub(crate) headers: usize,
    /// Routers may fragment it.
    pub(crate) may_fragment: bool,
}

/// What became of one datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It arrives, perhaps twice.
    Arrives(Vec<Delivery>),
    /// It does not, for this reason.
    Lost(&'static str),
}

#[derive(Clone, Debug)]
struct Path {
    config: LinkConfig,
    /// When the rate limiter will have sent all that waits.
    busy_until: Duration,
    /// The latest arrival planned so far.
    last_arrival: Duration,
}

/// All paths.
#[derive(Debug, Default)]
pub(crate) struct Network {
    default: LinkConfig,
    paths: BTreeMap<(IpAddr, IpAddr), Path>,
}

impl Network {
    /// Sets what paths do that were never set themselves.
    pub(crate) fn set_default(&mut self, config: LinkConfig) {
        self.default = config;
        for path in self.paths.values_mut() {
            path.config = config;
        }
    }

    /// Sets one path. What waits or is under way is not touched.
    pub(crate) fn set(&mut self, from: IpAddr, to: IpAddr, config: LinkConfig) {
        self.path(from, to).config = config;
    }

    /// What a path does.
    pub(crate) fn get(&self, from: IpAddr, to: IpAddr) -> LinkConfig {
        self.paths.get(&(from, to)).map_or(self.default, |path| path.config)
    }

    fn path(&mut self, from: IpAddr, to: IpAddr) -> &mut Path {
        let config = self.default;
        self.paths.entry((from, to)).or_insert_with(|| Path {
            config,
            busy_until: Duration::ZERO,
            last_arrival: Duration::ZERO,
        })
    }

    /// Decides the fate of one datagram that leaves `from` at `now`.
    pub(crate) fn carry(
        &mut self,
        now: Duration,
        (from, to): (IpAddr, IpAddr),
        Size { headers, may_fragment }: Size,
        mut bytes: Vec<u8>,
        mut ecn: Ecn,
        dice: &mut Dice,
    ) -> Fate {
        let path = self.path(from, to);
        let config = path.config;
        let size = bytes.len() + headers;
        if size > config.mtu && !(may_fragment && config.fragments) {
            return Fate::Lost("lost: larger than the path");
        }
        if dice.chance(config.loss) {
            return Fate::Lost("lost");
        }
        let mut sent = now;
        if let Some(rate) = config.rate_bps {
            let waiting = bytes_in(path.busy_until.saturating_sub(now), rate);
            if waiting + size > config.queue_bytes {
                return Fate::Lost("lost: queue full");
            }
            if ecn != Ecn::NotEct && config.mark_above_bytes.is_some_and(|limit| waiting > limit) {
                ecn = Ecn::Ce;
            }
            sent = path.busy_until.max(now) + time_for(size, rate);
            path.busy_until = sent;
        }
        let corrupted = !bytes.is_empty() && dice.chance(config.corrupt);
        if corrupted {
            let bit = dice.below(bytes.len() as u64 * 8) as usize;
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        let arrival = sent + config.latency + dice.up_to(config.jitter);
        let delivery = if dice.chance(config.reorder) {
            // Late enough that what follows within a millisecond passes it; it holds nobody else up.
            let at = arrival + config.latency / 2 + Duration::from_millis(1);
            Delivery { at, bytes, ecn, corrupted }
        } else {
            let at = arrival.max(path.last_arrival);
            path.last_arrival = at;
            Delivery { at, bytes, ecn, corrupted }
        };
        let mut deliveries = vec![delivery];
        if dice.chance(config.duplicate) {
            let mut copy = deliveries[0].clone();
            copy.at += dice.up_to(config.latency);
            deliveries.push(copy);
        }
        Fate::Arrives(deliveries)
    }
}

/// How long `bytes` take at `rate_bps`, rounded up to a nanosecond.
pub(crate) fn time_for(bytes: usize, rate_bps: u64) -> Duration {
    Duration::from_nanos((bytes as u64 * 8_000_000_000).div_ceil(rate_bps.max(1)))
}

/// How many bytes leave in `time` at `rate_bps`.
pub(crate) fn bytes_in(time: Duration, rate_bps: u64) -> usize {
    (time.as_nanos() * u128::from(rate_bps) / 8_000_000_000) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { headers: 28, may_fragment: false };
    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));
    const MS: Duration = Duration::from_millis(1);

    fn carry_all(config: LinkConfig, count: usize, gap: Duration) -> Vec<Fate> {
        let mut network = Network::default();
        network.set(A, B, config);
        let mut dice = Dice::new(1);
        (0..count)
            .map(|i| network.carry(gap * i as u32, (A, B), SIZE, vec![i as u8; 972], Ecn::Ect0, &mut dice))
            .collect()
    }

    fn arrivals(fates: &[Fate]) -> Vec<Duration> {
        fates
            .iter()
            .flat_map(|fate| match fate {
                Fate::Arrives(deliveries) => deliveries.iter().map(|delivery| delivery.at).collect(),
                Fate::Lost(_) => Vec::new(),
            })
            .collect()
    }

    #[test]
    fn a_faultless_path_adds_its_latency_and_nothing_else() {
        assert_eq!(arrivals(&carry_all(LinkConfig::default(), 3, MS)), [5 * MS, 6 * MS, 7 * MS]);
    }

    #[test]
    fn a_rate_spreads_a_burst_and_the_queue_bounds_it() {
        // 1,000 bytes on the wire at 8 Mbit/s: one millisecond each. 5,000 bytes may wait.
        let config = LinkConfig { rate_bps: Some(8_000_000), queue_bytes: 5_000, ..LinkConfig::default() };
        let fates = carry_all(config, 8, Duration::ZERO);
        assert_eq!(arrivals(&fates), [6 * MS, 7 * MS, 8 * MS, 9 * MS, 10 * MS]);
        assert_eq!(fates[5..], vec![Fate::Lost("lost: queue full"); 3]);
    }

    #[test]
    fn a_standing_queue_marks_packets_that_speak_ecn() {
        let config = LinkConfig {
            rate_bps: Some(8_000_000),
            queue_bytes: 50_000,
            mark_above_bytes: Some(2_500),
            ..LinkConfig::default()
        };
        let marks: Vec<bool> = carry_all(config, 6, Duration::ZERO)
            .into_iter()
            .map(|fate| matches!(&fate, Fate::Arrives(deliveries) if deliveries[0].ecn == Ecn::Ce))
            .collect();
        assert_eq!(marks, [false, false, false, true, true, true]);
    }

    #[test]
    fn jitter_keeps_the_order_and_reordering_does_not() {
        let jitter = LinkConfig { jitter: 20 * MS, ..LinkConfig::default() };
        assert!(arrivals(&carry_all(jitter, 200, MS)).is_sorted());
        let reorder = LinkConfig { reorder: 0.2, ..LinkConfig::default() };
        assert!(!arrivals(&carry_all(reorder, 200, MS)).is_sorted());
    }

    #[test]
    fn faults_happen_about_as_often_as_asked() {
        let config = LinkConfig { loss: 0.1, duplicate: 0.1, corrupt: 0.1, ..LinkConfig::default() };
        let fates = carry_all(config, 10_000, MS);
        let lost = fates.iter().filter(|fate| matches!(fate, Fate::Lost(_))).count();
        let twice = fates.iter().filter(|fate| matches!(fate, Fate::Arrives(d) if d.len() == 2)).count();
        let broken = fates
            .iter()
            .enumerate()
            .filter(|(i, fate)| matches!(fate, Fate::Arrives(d) if d[0].bytes != vec![*i as u8; 972]))
            .count();
        for (seen, expected) in [(lost, 1_000), (twice, 900), (broken, 900)] {
            assert!(seen.abs_diff(expected) < 150, "{lost} lost, {twice} twice, {broken} broken");
        }
    }

    #[test]
    fn what_is_larger_than_the_path_vanishes() {
        let config = LinkConfig { mtu: 999, ..LinkConfig::default() };
        assert_eq!(carry_all(config, 1, MS), [Fate::Lost("lost: larger than the path")]);
    }
}
