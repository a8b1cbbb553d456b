//! Packets that came in parts, put together again.

use std::time::{Duration, Instant};

use packet::{Buf, Class, Ecn};

use super::Context;
use crate::config::PeerId;
use crate::drops::DropReason;
use crate::inner::Part;

/// Packets of which parts are missing. The parts of a packet are sent in one go, so these are few.
const UNFINISHED_MAX: usize = 16;
/// So many of them one peer may have: it cannot make the others' worse.
const UNFINISHED_OF_PEER_MAX: usize = 4;
/// How long a packet waits for its parts: more than a path that changes the order of packets delays any.
const PARTS_TIME: Duration = Duration::from_secs(1);

/// Which packet a part belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Whole {
    pub(super) peer: PeerId,
    /// The local index of the session.
    pub(super) receiver: u32,
    pub(super) lane: u8,
    /// The counter of its first part.
    pub(super) first: u64,
}

#[derive(Debug)]
struct Unfinished {
    whole: Whole,
    /// What each part says of the packet; its index does not matter.
    like: Part,
    /// One bit a part.
    have: u64,
    congested: bool,
    since: Instant,
    buf: Buf,
}

/// What is being put together.
#[derive(Debug)]
pub(super) struct Parts(
    /// Oldest first.
    Vec<Unfinished>,
);

impl Parts {
    pub(super) fn new() -> Self {
        Self(Vec::with_capacity(UNFINISHED_MAX))
    }

    /// Takes a part, which the replay window lets come only once. Returns the packet if this was the last part missing,
    /// and the outer ECN bits that stand for those of all its parts.
    ///
    /// # Errors
    /// When it contradicts what came before, or there is no buffer.
    pub(super) fn take(
        &mut self,
        cx: &Context<'_>,
        whole: Whole,
        part: Part,
        bytes: &[u8],
        ecn: Ecn,
    ) -> Result<Option<(Buf, Ecn)>, DropReason> {
        let place = match self.0.iter().position(|unfinished| unfinished.whole == whole) {
            Some(place) => place,
            None => self.begin(cx, whole, part)?,
        };
        let unfinished = &mut self.0[place];
        if unfinished.like != (Part { index: unfinished.like.index, ..part }) {
            return Err(DropReason::InnerMalformed);
        }
        unfinished.buf[part.range()].copy_from_slice(bytes);
        unfinished.have |= 1 << part.index;
        unfinished.congested |= ecn == Ecn::Ce;
        if unfinished.have.count_ones() < part.count.into() {
            return Ok(None);
        }
        let Unfinished { buf, congested, .. } = self.0.remove(place);
        // RFC 3168 §5.3: congestion that one fragment has met was met by the packet.
        Ok(Some((buf, if congested { Ecn::Ce } else { ecn })))
    }

    fn begin(&mut self, cx: &Context<'_>, whole: Whole, like: Part) -> Result<usize, DropReason> {
        let of_peer = |unfinished: &Unfinished| unfinished.whole.peer == whole.peer;
        let oldest_of_peer = self.0.iter().position(of_peer).unwrap_or(0);
        if self.0.iter().filter(|unfinished| of_peer(unfinished)).count() == UNFINISHED_OF_PEER_MAX {
            self.give_up(cx, oldest_of_peer);
        } else if self.0.len() == UNFINISHED_MAX {
            self.give_up(cx, 0);
        }
        let len = usize::from(like.total);
        let class = if len <= Class::SMALL_BYTES { Class::Small } else { Class::Large };
        let mut buf = cx.pool.take(class).ok_or(DropReason::PoolExhausted)?;
        buf.commit(0..len);
        self.0.push(Unfinished { whole, like, have: 0, congested: false, since: cx.now, buf });
        Ok(self.0.len() - 1)
    }

    fn give_up(&mut self, cx: &Context<'_>, place: usize) {
        let peer = self.0.remove(place).whole.peer;
        cx.table.peers[peer.0 as usize].state.drops.add(DropReason::Incomplete, 1);
    }

    /// Gives up what has waited too long.
    pub(super) fn expire(&mut self, cx: &Context<'_>) {
        while self.expires_at().is_some_and(|at| cx.now >= at) {
            self.give_up(cx, 0);
        }
    }

    /// When the oldest is given up.
    pub(super) fn expires_at(&self) -> Option<Instant> {
        self.0.first().map(|unfinished| unfinished.since + PARTS_TIME)
    }
}
