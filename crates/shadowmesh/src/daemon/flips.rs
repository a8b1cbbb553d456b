//! Peers that are at two places by turns: two programs use one key, and each takes the session from the other.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use node::PeerId;
use packet::Endpoint;

/// A device that moves between two networks comes back to the first now and then, but not so soon.
const SOON: Duration = Duration::from_secs(10);

/// Returns in a row, each soon after the one before, until it is no coincidence.
const RETURNS: u32 = 3;

/// How long it is held to go on after the last of them.
const HOLD: Duration = Duration::from_mins(1);

/// The moves of peers.
#[derive(Debug, Default)]
pub(super) struct Flips(HashMap<PeerId, Track>);

#[derive(Debug)]
struct Track {
    now_at: Endpoint,
    before_at: Option<Endpoint>,
    moved: Instant,
    returns: u32,
    told: bool,
}

/// What a move is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Move {
    /// One like any other.
    Plain,
    /// The one by which it is certain that the peer is at two places.
    FirstFlip,
    /// Another of those, of which enough was said.
    Flip,
}

impl Flips {
    /// A peer is at another place than before.
    pub(super) fn moved(&mut self, now: Instant, peer: PeerId, to: Endpoint) -> Move {
        let track = self.0.entry(peer).or_insert(Track {
            now_at: to,
            before_at: None,
            moved: now,
            returns: 0,
            told: false,
        });
        let since = now.duration_since(track.moved);
        if since >= HOLD {
            track.told = false;
        }
        let is_return = track.before_at == Some(to) && since < SOON;
        track.returns = if is_return { track.returns.saturating_add(1) } else { 0 };
        if track.now_at != to {
            track.before_at = Some(track.now_at);
        }
        track.now_at = to;
        track.moved = now;
        match (track.returns >= RETURNS, track.told) {
            (false, _) => Move::Plain,
            (true, true) => Move::Flip,
            (true, false) => {
                track.told = true;
                Move::FirstFlip
            }
        }
    }

    /// Whether a peer was at two places by turns a moment ago.
    pub(super) fn flips(&self, now: Instant, peer: PeerId) -> bool {
        self.0.get(&peer).is_some_and(|track| track.told && now.duration_since(track.moved) < HOLD)
    }
}

#[cfg(test)]
mod tests {
    use packet::Carrier;

    use super::*;

    const PEER: PeerId = PeerId(1);

    fn at(host: u8) -> Endpoint {
        Endpoint { carrier: Carrier::Udp, address: ([192, 0, 2, host], 9443).into() }
    }

    #[test]
    fn a_peer_at_two_places_by_turns_is_told_once_and_is_degraded_until_it_ends() {
        let start = Instant::now();
        let mut flips = Flips::default();
        let second = Duration::from_secs(1);
        let moves: Vec<_> =
            (0..73).map(|turn| flips.moved(start + second * turn, PEER, at((turn % 2) as u8 + 1))).collect();
        let told = moves.iter().filter(|one| **one == Move::FirstFlip).count();
        assert_eq!((told, moves.iter().position(|one| *one == Move::FirstFlip)), (1, Some(4)));
        assert_eq!(moves[5..], [Move::Flip; 68]);
        let last = start + second * 72;
        assert!(flips.flips(last, PEER) && !flips.flips(last, PeerId(2)));
        assert!(!flips.flips(last + HOLD, PEER));
        assert_eq!(flips.moved(last + HOLD, PEER, at(2)), Move::Plain, "it ends, and may be told again");
    }

    #[test]
    fn a_device_that_roams_is_no_second_program() {
        let start = Instant::now();
        let mut flips = Flips::default();
        for turn in 0..20u32 {
            // Between two networks, but slowly; and quickly, but on to new places.
            assert_eq!(flips.moved(start + SOON * turn, PEER, at((turn % 2) as u8)), Move::Plain);
            let soon = start + Duration::from_secs(turn.into());
            assert_eq!(flips.moved(soon, PeerId(2), at(turn as u8)), Move::Plain);
        }
    }
}
