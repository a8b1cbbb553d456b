//! What a worker has to tell the node, until it is fetched.

use std::collections::VecDeque;

use crate::drops::{DropReason, Drops};
use crate::event::Event;

/// What the node is to be told, bounded: what is lost is counted, or reported again.
///
/// Handshakes come from anybody, reports are of authenticated peers and of our own packets. Each has room of its own, and
/// reports go first: a flood of handshakes delays no peer that moves, and no session that is confirmed.
#[derive(Debug)]
pub(super) struct Events {
    reports: VecDeque<Event>,
    handshakes: VecDeque<Event>,
}

const REPORTS_MAX: usize = 256;
const HANDSHAKES_MAX: usize = 256;

impl Events {
    pub(super) fn new() -> Self {
        Self {
            reports: VecDeque::with_capacity(REPORTS_MAX),
            handshakes: VecDeque::with_capacity(HANDSHAKES_MAX),
        }
    }

    pub(super) fn push(&mut self, drops: &Drops, event: Event) {
        if !matches!(event, Event::Handshake { .. }) {
            if self.reports.len() < REPORTS_MAX {
                self.reports.push_back(event);
            }
        } else if self.handshakes.len() < HANDSHAKES_MAX {
            self.handshakes.push_back(event);
        } else {
            drops.add(DropReason::HandshakeBacklog, 1);
        }
    }

    pub(super) fn poll(&mut self) -> Option<Event> {
        self.reports.pop_front().or_else(|| self.handshakes.pop_front())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use packet::{Carrier, Class, Endpoint, Pool, PoolConfig};

    use super::*;
    use crate::config::PeerId;

    #[test]
    fn a_flood_of_handshakes_keeps_nothing_back_that_concerns_a_peer() {
        let (pool, drops, mut events) =
            (Pool::new(PoolConfig { large: 1, small: 2 * HANDSHAKES_MAX }), Drops::default(), Events::new());
        let address = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 9443));
        let from = Endpoint { carrier: Carrier::Udp, address };
        let handshake =
            || Event::Handshake { from, local: None, message: pool.take(Class::Small).expect("room") };
        for _ in 0..HANDSHAKES_MAX + 10 {
            events.push(&drops, handshake());
        }
        events.push(&drops, Event::NeedSession { peer: PeerId(7) });

        assert!(matches!(events.poll(), Some(Event::NeedSession { peer: PeerId(7) })), "first, and not lost");
        let handshakes = std::iter::from_fn(|| events.poll()).count();
        assert_eq!(handshakes, HANDSHAKES_MAX);
        assert_eq!(drops.count(DropReason::HandshakeBacklog), 10);
    }
}
