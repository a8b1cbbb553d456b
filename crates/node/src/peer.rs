//! The slow path's view of one peer: its sessions, the handshake in progress, what its path is like.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use carrier::{Endpoint, PathMtu};
use handshake::{CookieJar, Initiation, PeerKeys, Session, Timestamp, limits};
use ipnet::IpNet;

use crate::places::Places;
use crate::table::PeerState;
use crate::unconfirmed::UnconfirmedSet;

/// Probes sent and not yet answered or given up; older ones give way.
const OUTSTANDING_MAX: usize = 64;
/// Sessions kept for what the peer still sends on them. When both ends always begin handshakes at the same time, each
/// sends on the one it began: the peer's last, our last, and the peer's new one are then all behind our new one.
const PREVIOUS_MAX: usize = 3;
/// The bounds of an egress queue, packets.
pub(crate) const QUEUE_PACKETS: std::ops::RangeInclusive<u32> = 256..=8_192;

/// One peer.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) keys: PeerKeys,
    pub(crate) allowed_ips: Vec<IpNet>,
    pub(crate) keepalive: Option<Duration>,
    /// Where it is: what is sent to it goes there.
    pub(crate) endpoint: Option<Endpoint>,
    /// Where else it may be.
    pub(crate) places: Places,
    /// Which of our addresses the peer uses, if it came to us: what we send it leaves from there, or a NAT or firewall on
    /// its side might not let it in. `None` where the operating system may choose.
    pub(crate) local: Option<IpAddr>,
    pub(crate) state: Arc<PeerState>,
    /// What we send on.
    pub(crate) current: Option<Arc<Session>>,
    /// What the peer may still send on, oldest first.
    pub(crate) previous: VecDeque<Arc<Session>>,
    /// What we have answered, or half received: ours to send on once the peer has used it.
    pub(crate) unconfirmed: UnconfirmedSet,
    pub(crate) attempt: Option<Attempt>,
    /// The timestamp of the newest initiation that has come to a session in use: older ones are replays.
    pub(crate) confirmed: Timestamp,
    /// Initiations to it since the start.
    pub(crate) initiations: u64,
    /// Each initiation from an address not proved pays for a little time; beyond that a cookie is asked for (GCRA).
    pub(crate) initiations_paid_until: Option<Instant>,
    /// When it was last told that it asks for a cipher we do not use.
    pub(crate) cipher_refused_at: Option<Instant>,
    /// When it was last told that its counters are old.
    pub(crate) stale_told_at: Option<Instant>,
    pub(crate) cookies: CookieJar,
    /// The path is known, or suspected, not to pass a whole initiation.
    pub(crate) split: bool,
    /// Since when the peer owes us an answer.
    pub(crate) unanswered_since: Option<Instant>,
    pub(crate) handshake_took: Option<Duration>,
    /// A session stands, as far as people were told.
    pub(crate) connected: bool,
    pub(crate) path: Path,
    pub(crate) path_mtu: PathMtu,
    /// The largest inner packet that goes to it in one piece, bytes.
    pub(crate) packet_max: u16,
    /// When the program is asked what the operating system knows of the path.
    pub(crate) ask_path_mtu_at: Instant,
    /// Pings that wait for a session.
    pub(crate) pings: Vec<Waiting>,
    pub(crate) queue_packets_max: u32,
}

/// A ping that waits for a session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    pub(crate) id: u64,
    pub(crate) deadline: Instant,
    /// Where it is to go, if not to where the peer is.
    pub(crate) place: Option<Endpoint>,
}

/// A handshake that we have begun.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) initiation: Initiation,
    pub(crate) to: Endpoint,
    /// It went elsewhere than the peer was thought to be: an answer tells that it is there.
    pub(crate) elsewhere: bool,
    pub(crate) sent_at: Instant,
    pub(crate) retry_at: Instant,
    pub(crate) tries: u32,
    /// When the first try was made.
    pub(crate) since: Instant,
    /// A cookie was already taken for this try.
    pub(crate) cookie_taken: bool,
    /// Responses to this try that cost us a Diffie–Hellman operation and were none.
    pub(crate) false_responses: u32,
}

/// A probe on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outstanding {
    pub(crate) id: u64,
    pub(crate) sent_at: Instant,
    pub(crate) deadline: Instant,
    /// The datagrams that had been sent before it.
    pub(crate) tx_datagrams: u64,
    pub(crate) purpose: Purpose,
    /// Where it went.
    pub(crate) to: Endpoint,
}

/// What a probe is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    /// Somebody waits for its round-trip time until then.
    Ping { id: u64, deadline: Instant },
    /// The figures of the path. It follows right behind the probe `confirms` of so many bytes: when this one is answered,
    /// that one should have been.
    Path { confirms: Option<(u64, u16)> },
    /// Whether an outer packet of so many bytes passes.
    Mtu(u16),
    /// Whether the peer can be reached at another place.
    Trial,
}

impl Outstanding {
    /// The ping that it is.
    pub(crate) fn ping(&self) -> Option<u64> {
        match self.purpose {
            Purpose::Ping { id, .. } => Some(id),
            Purpose::Path { .. } | Purpose::Mtu(_) | Purpose::Trial => None,
        }
    }
}

/// What probes have told of the path.
#[derive(Debug, Default)]
pub(crate) struct Path {
    pub(crate) outstanding: VecDeque<Outstanding>,
    pub(crate) next_probe: Option<Instant>,
    /// When the latest probe was sent that was answered.
    answered_until: Option<Instant>,
    pub(crate) rtt: Option<Duration>,
    pub(crate) loss: Option<f64>,
    pub(crate) rate_bps: Option<f64>,
    /// Probes for the path's MTU that have arrived: they count as sent only then, since one that is lost was not lost by
    /// chance.
    mtu_probes_arrived: u64,
    /// When the loss of data was last measured.
    sampled_at: Option<Instant>,
    last_reply: Option<LastReply>,
}

#[derive(Clone, Copy, Debug)]
struct LastReply {
    tx_datagrams: u64,
    datagrams: u64,
    bytes: u64,
    clock_us: u64,
}

/// Weight of a new sample in a smoothed figure.
const GAIN: f64 = 1.0 / 8.0;
/// Fewer packets than this say little about loss.
const LOSS_SAMPLE_PACKETS: u64 = 20;

fn smooth(old: Option<f64>, sample: f64) -> f64 {
    old.map_or(sample, |old| old + (sample - old) * GAIN)
}

impl Path {
    /// When the oldest probe was sent that `place` has not answered, nor a later one. One for the path's MTU may be too large
    /// to be.
    pub(crate) fn unanswered(&self, place: Endpoint) -> Option<Instant> {
        let here = self.outstanding.iter().filter(|probe| {
            probe.to == place
                && self.answered_until.is_none_or(|until| probe.sent_at > until)
                && matches!(probe.purpose, Purpose::Path { .. } | Purpose::Ping { .. })
        });
        here.map(|probe| probe.sent_at).min()
    }

    /// The path is another one, and nothing is known of it.
    pub(crate) fn moved(&mut self) {
        self.outstanding.retain(|probe| probe.ping().is_some());
        *self = Self { outstanding: std::mem::take(&mut self.outstanding), ..Self::default() };
    }

    /// Takes the answer to `probe`, which arrived at `at`.
    pub(crate) fn answered(&mut self, probe: &Outstanding, at: Instant, reply: &crate::inner::ProbeReply) {
        self.answered_until = self.answered_until.max(Some(probe.sent_at));
        let sample = at.saturating_duration_since(probe.sent_at);
        self.rtt = Some(match self.rtt {
            None => sample,
            Some(old) => (old * 7 + sample) / 8,
        });
        if matches!(probe.purpose, Purpose::Mtu(_)) {
            self.mtu_probes_arrived += 1;
            return;
        }
        let new = LastReply {
            tx_datagrams: probe.tx_datagrams + self.mtu_probes_arrived,
            datagrams: reply.datagrams,
            bytes: reply.bytes,
            clock_us: reply.clock_us,
        };
        // An answer overtaken by a newer one, or a peer that has started anew, tells nothing about what lies between.
        let Some(last) = self.last_reply.replace(new).filter(|last| {
            new.tx_datagrams >= last.tx_datagrams
                && new.datagrams > last.datagrams
                && new.bytes >= last.bytes
                && new.clock_us > last.clock_us
        }) else {
            return;
        };
        let sent = new.tx_datagrams - last.tx_datagrams;
        let received = new.datagrams - last.datagrams;
        if sent >= LOSS_SAMPLE_PACKETS {
            let lost = (1.0 - received as f64 / sent as f64).clamp(0.0, 1.0);
            self.loss = Some(smooth(self.loss, lost));
            self.sampled_at = Some(at);
            let seconds = (new.clock_us - last.clock_us) as f64 / 1e6;
            let sample = (new.bytes - last.bytes) as f64 * 8.0 / seconds;
            // The most that came through lately, forgotten by and by: a sender that pauses has not shrunk the path.
            self.rate_bps = Some(self.rate_bps.map_or(sample, |old| sample.max(old * 0.95)));
        } else {
            self.loss = Some(smooth(self.loss, 0.0));
        }
    }

    /// Takes probes out that are past their deadline. One that went elsewhere than to `here`, a trial of a better place that is blocked,
    /// says nothing of this path.
    pub(crate) fn expire(&mut self, now: Instant, here: Option<Endpoint>) -> Vec<Outstanding> {
        let (expired, alive): (Vec<_>, Vec<_>) =
            self.outstanding.drain(..).partition(|probe: &Outstanding| now >= probe.deadline);
        self.outstanding = alive.into();
        // Among data, of which it is known how much arrived, one probe more or less says nothing.
        let tells = |probe: &&Outstanding| {
            !matches!(probe.purpose, Purpose::Mtu(_) | Purpose::Trial)
                && Some(probe.to) == here
                && self.sampled_at.is_none_or(|at| at < probe.sent_at)
        };
        for _ in 0..expired.iter().filter(tells).count() {
            self.loss = Some(smooth(self.loss, 1.0));
        }
        expired
    }

    pub(crate) fn sent(&mut self, probe: Outstanding) -> Option<Outstanding> {
        let displaced =
            if self.outstanding.len() == OUTSTANDING_MAX { self.outstanding.pop_front() } else { None };
        self.outstanding.push_back(probe);
        displaced
    }

    /// Packets in flight on a full path: rate × RTT, from what was measured.
    pub(crate) fn bandwidth_delay_packets(&self, mtu: u16) -> Option<u32> {
        let bytes = self.rate_bps? / 8.0 * self.rtt?.as_secs_f64();
        Some((bytes / f64::from(mtu)).min(f64::from(u32::MAX)) as u32)
    }
}

impl Peer {
    /// The sessions that data may arrive on.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = &Arc<Session>> {
        let answered = self.unconfirmed.answered().map(|answered| &answered.session);
        self.current.iter().chain(answered).chain(&self.previous)
    }

    /// Makes `session` the one to send on. Returns those that nobody needs any more.
    pub(crate) fn switch_to(&mut self, session: Arc<Session>) -> Vec<Arc<Session>> {
        let replaced = self.current.replace(session);
        replaced.map(|replaced| self.keep_behind(replaced)).unwrap_or_default()
    }

    /// Keeps a session for what the peer still sends on it. Returns those that nobody needs any more.
    pub(crate) fn keep_behind(&mut self, session: Arc<Session>) -> Vec<Arc<Session>> {
        self.previous.push_back(session);
        let excess = self.previous.len().saturating_sub(PREVIOUS_MAX);
        self.previous.drain(..excess).collect()
    }

    /// Takes out the sessions that have outlived their time.
    pub(crate) fn expire_sessions(&mut self, now: Instant) -> Vec<Arc<Session>> {
        let old = |session: &Arc<Session>| {
            now.saturating_duration_since(session.established()) >= limits::REJECT_AFTER_TIME
        };
        let mut expired = self.unconfirmed.expire(now);
        expired.extend(self.current.take_if(|session| old(session)));
        while let Some(session) = self.previous.pop_front_if(|session| old(session)) {
            expired.push(session);
        }
        expired
    }

    /// Sets the egress queue's limit to the bandwidth-delay product. Returns whether it changed so much that the
    /// workers should know.
    pub(crate) fn size_queue(&mut self, mtu: u16) -> bool {
        let Some(packets) = self.path.bandwidth_delay_packets(mtu) else { return false };
        let wanted = packets.clamp(*QUEUE_PACKETS.start(), *QUEUE_PACKETS.end());
        let changed = wanted.abs_diff(self.queue_packets_max) > self.queue_packets_max / 4;
        if changed {
            self.queue_packets_max = wanted;
        }
        changed
    }

    /// Sealed datagrams sent so far.
    pub(crate) fn tx_datagrams(&self) -> u64 {
        self.state.tx_datagrams.load(Relaxed)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // an origin for the clock that the tests move by hand
mod tests {
    use std::net::SocketAddr;

    use carrier::Carrier;

    use super::*;
    use crate::inner::ProbeReply;

    #[test]
    fn figures_that_go_back_or_are_absurd_are_no_news_of_the_path() {
        let start = Instant::now();
        let to = Endpoint { carrier: Carrier::Udp, address: SocketAddr::from(([192, 0, 2, 1], 9_443)) };
        let mut path = Path::default();
        let mut answer = |after: u64, sent: u64, datagrams: u64, bytes: u64, clock_us: u64| {
            let sent_at = start + Duration::from_millis(after);
            let purpose = Purpose::Path { confirms: None };
            let deadline = sent_at + Duration::from_secs(3);
            let probe = Outstanding { id: 1, sent_at, deadline, tx_datagrams: sent, purpose, to };
            let reply = ProbeReply { id: 1, datagrams, bytes, clock_us };
            path.answered(&probe, sent_at + Duration::from_millis(10), &reply);
            (path.loss, path.rate_bps)
        };
        assert_eq!(answer(0, 100, 100, 100_000, 1_000), (None, None));
        let sane = answer(1_000, 200, 200, 200_000, 1_001_000);
        assert_eq!(sane, (Some(0.0), Some(800_000.0)));
        for (after, datagrams, bytes, clock_us) in [
            (2_000, 300, 5, 2_001_000),
            (3_000, 5, 300_000, 3_001_000),
            (4_000, 400, 400_000, 7),
            (5_000, 0, 0, 0),
        ] {
            assert_eq!(answer(after, 300 + after, datagrams, bytes, clock_us), sane, "at {after} ms");
        }
        let (loss, rate) = answer(6_000, 9_000, u64::MAX, u64::MAX, u64::MAX);
        assert!(loss.is_some_and(|loss| (0.0..=1.0).contains(&loss)) && rate.is_some_and(f64::is_finite));
        assert!(path.bandwidth_delay_packets(1_420).is_some());
    }
}
