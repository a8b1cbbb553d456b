//! What time brings: retries, rekeys, keepalives, probes, and the end of sessions (WireGuard whitepaper §6).

use std::time::{Duration, Instant};

use handshake::{Protocol, limits};

use super::{Node, PROBE_TIMEOUT};
use crate::config::PeerId;
use crate::event::{Action, Notice, Pong};
use crate::peer::{Purpose, Waiting};

/// Between two probes of a path in use.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// A path is in use this long after the last data.
const IN_USE: Duration = Duration::from_secs(3);
/// A path has shown life this long after anything authentic came: more than the answer to a regular probe needs.
const ALIVE: Duration = Duration::from_millis(2_500);
/// A native peer that has answered no probe for so long has lost its session, or the path is dead: a handshake tells.
const SILENCE_NATIVE: Duration = PROBE_TIMEOUT;
/// A WireGuard peer answers data only after its own keepalive timeout.
const SILENCE_WIREGUARD: Duration =
    Duration::from_secs(limits::KEEPALIVE_TIMEOUT.as_secs() + limits::REKEY_TIMEOUT.as_secs());
/// A receiver of data renews the session a little before it ends, in case nothing is sent that would.
const RENEW_WHEN_RECEIVING: Duration = Duration::from_secs(
    limits::REJECT_AFTER_TIME.as_secs()
        - limits::KEEPALIVE_TIMEOUT.as_secs()
        - limits::REKEY_TIMEOUT.as_secs(),
);

impl Node {
    pub(super) fn tick(&mut self, now: Instant) {
        self.keep_confirmed(now);
        for index in 0..self.peers.len() {
            let peer = PeerId(index as u32);
            self.tick_sessions(now, peer);
            self.tick_probes(now, peer);
            self.tick_places(now, peer);
            self.tick_handshake(now, peer);
            self.tick_keepalive(now, peer);
        }
        self.forget_split();
    }

    fn tick_sessions(&mut self, now: Instant, peer: PeerId) {
        let expired = self.peers[peer.0 as usize].expire_sessions(now);
        self.retire(&expired);
        let p = &mut self.peers[peer.0 as usize];
        if p.connected && p.current.is_none() && p.unconfirmed.answered().next().is_none() {
            p.connected = false;
            self.notice(Notice::Disconnected { peer });
        }
    }

    fn tick_handshake(&mut self, now: Instant, peer: PeerId) {
        let p = &mut self.peers[peer.0 as usize];
        if let Some(attempt) = &p.attempt {
            if now >= attempt.retry_at {
                self.retry_handshake(now, peer);
            }
            return;
        }
        let since = |moment: Option<Instant>| moment.map(|at| now.saturating_duration_since(at));
        let last_sent = p.state.last_data_sent.get(self.start);
        let last_received = p.state.last_received.get(self.start);
        let renew = p.current.as_ref().is_some_and(|session| {
            let age = now.saturating_duration_since(session.established());
            let used =
                |last: Option<Instant>| since(last).is_some_and(|idle| idle < limits::KEEPALIVE_TIMEOUT);
            session.is_initiator()
                && ((age >= limits::REKEY_AFTER_TIME && used(last_sent))
                    || (age >= RENEW_WHEN_RECEIVING && used(last_received)))
        });
        // Data went out, and nothing at all has come back since.
        if p.current.is_none() || last_sent <= last_received {
            p.unanswered_since = None;
        } else if p.unanswered_since.is_none_or(|since| last_received > Some(since)) {
            p.unanswered_since = Some(now);
        }
        let patience = match p.keys.protocol() {
            Protocol::ShadowMesh => SILENCE_NATIVE,
            Protocol::WireGuard => SILENCE_WIREGUARD,
        };
        let silent = since(p.unanswered_since).is_some_and(|silence| silence >= patience);
        if silent {
            p.unanswered_since = Some(now);
            self.actions.push_back(Action::Resolve(peer));
        }
        if renew || silent {
            self.begin_handshake(now, peer);
        }
    }

    fn tick_keepalive(&mut self, now: Instant, peer: PeerId) {
        let p = &self.peers[peer.0 as usize];
        let last_sent = p.state.last_sent.get(self.start);
        let owed = p.state.last_data_received.get(self.start).is_some_and(|received| {
            last_sent.is_none_or(|sent| sent < received) && now >= received + limits::KEEPALIVE_TIMEOUT
        });
        let persistent =
            p.keepalive.is_some_and(|interval| last_sent.is_none_or(|sent| now >= sent + interval));
        if p.current.is_some() {
            if owed || persistent {
                self.send_keepalive(now, peer);
            }
        } else if persistent {
            self.begin_handshake(now, peer);
        }
    }

    fn tick_probes(&mut self, now: Instant, peer: PeerId) {
        let p = &mut self.peers[peer.0 as usize];
        for probe in p.path.expire(now, p.endpoint) {
            if let Some(id) = probe.ping() {
                self.actions.push_back(Action::Pong(Pong { id, peer, rtt: None }));
            }
        }
        let p = &mut self.peers[peer.0 as usize];
        p.pings.retain(|&Waiting { id, deadline, .. }| {
            if now >= deadline {
                self.actions.push_back(Action::Pong(Pong { id, peer, rtt: None }));
            }
            now < deadline
        });
        if p.current.is_none() || p.endpoint.is_none() {
            return;
        }
        self.ask_path_mtu(now, peer);
        let p = &mut self.peers[peer.0 as usize];
        if p.keys.protocol() != Protocol::ShadowMesh {
            return;
        }
        let recent = |at: Option<Instant>| at.is_some_and(|at| now < at + IN_USE);
        let sent = recent(p.state.last_data_sent.get(self.start));
        let in_use = sent || recent(p.state.last_data_received.get(self.start));
        if in_use && p.path.next_probe.is_none_or(|at| now >= at) {
            p.path.next_probe = Some(now + PROBE_INTERVAL);
            self.probe_path(now, peer, sent);
        }
        let p = &mut self.peers[peer.0 as usize];
        // The search for the path's MTU rests while the peer is silent: then every size would seem too large.
        let alive = p.state.last_received.get(self.start).is_some_and(|at| now < at + ALIVE);
        if alive && p.path.rtt.is_some() {
            while let Some(mtu) = self.peers[peer.0 as usize].path_mtu.poll(now) {
                self.probe(now, peer, Purpose::Mtu(mtu));
            }
        }
    }
}
