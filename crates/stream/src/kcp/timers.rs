//! What is due when.

use std::time::{Duration, Instant};

use super::{Control, Kcp};
use crate::rate::{AckBatch, SECOND};

/// The longest interval between questions for a closed window.
const WINDOW_ASK_MAX: u64 = 5 * SECOND;
/// How long a segment that was cut when the path passed more may be on its way: a path that is only held for narrow lets it
/// pass.
const TOO_WIDE_TIMEOUT: u64 = 6 * SECOND;
/// How often memory that is not needed any more is given back.
const TRIM_INTERVAL: u64 = SECOND;

impl Kcp {
    /// When [`Kcp::handle_timeout`] and then [`Kcp::poll_transmit`] should be called next, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        if self.dead {
            return None;
        }
        let paced = match &self.control {
            Control::Bbr(_, pacer) if self.paced => Some((pacer.ready_at(), "pacing")),
            _ => None,
        };
        let silent = self.dead_at().map(|at| (at, "dead path"));
        let quiet = self.trim_at.map(|at| (at, "unused memory"));
        let acks = self.acks_due_at().map(|at| (at, "acknowledgement"));
        let ask = self.ask_at.map(|at| (at, "closed window"));
        let earliest =
            [self.sender.deadline(), paced, acks, ask, silent, quiet].into_iter().flatten().min()?;
        Some((self.began + Duration::from_nanos(earliest.0), earliest.1))
    }

    fn dead_at(&self) -> Option<u64> {
        let since = self.expecting_since?;
        Some(since.max(self.heard_at) + self.config.dead_after.as_nanos() as u64)
    }

    /// Whether the far end has been waiting for long for a segment that is too large for the path.
    fn is_stuck(&mut self, now: u64) -> bool {
        let too_wide = self.sender.oldest().filter(|&(_, len)| len > self.payload_max);
        self.too_wide_since = too_wide.map(|(number, _)| match self.too_wide_since {
            Some((before, since)) if before == number => (before, since),
            _ => (number, now),
        });
        self.too_wide_since.is_some_and(|(_, since)| now >= since + TOO_WIDE_TIMEOUT)
    }

    pub(super) fn arm_trim(&mut self, now: u64) {
        if self.trim_at.is_none() && (self.active || self.pool.trimmable()) {
            self.trim_at = Some(now + TRIM_INTERVAL);
        }
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        let now = self.elapsed(now);
        if self.dead_at().is_some_and(|at| at <= now) || self.sender.exhausted() {
            self.dead = true;
            return;
        }
        if self.is_stuck(now) {
            self.dead = true;
            return;
        }
        if self.sender.deadline().is_some_and(|(at, _)| at <= now) {
            let mut batch = AckBatch::default();
            let silent = self.sender.handle_timeout(now, &mut batch);
            if silent {
                self.on_silence();
            } else if batch.lost > 0 {
                self.steer(now, &batch);
            }
        }
        if self.ask_at.is_some_and(|at| at <= now) {
            self.ask_window(now);
        }
        if self.trim_at.is_some_and(|at| at <= now) {
            self.trim_at = None;
            self.pool.trim();
            if !std::mem::take(&mut self.active) {
                self.sender.trim();
                self.receiver.trim();
            }
            self.arm_trim(now);
        }
    }

    fn on_silence(&mut self) {
        match &mut self.control {
            Control::Unlimited { silent } => *silent = true,
            Control::Classic(classic) => classic.on_timeout(),
            Control::Bbr(model, _) => model.on_timeout(),
        }
    }

    fn ask_window(&mut self, now: u64) {
        self.ask = true;
        self.expecting_since.get_or_insert(now);
        self.ask_interval = (self.ask_interval * 3 / 2).min(WINDOW_ASK_MAX);
        self.ask_at = Some(now + self.ask_interval);
    }
}
