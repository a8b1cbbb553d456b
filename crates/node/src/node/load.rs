//! Telling an ordinary morning from a flood of handshakes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Handshakes in one window beyond which senders must show a cookie: about an eighth of what a core can answer.
const WINDOW_MAX: u32 = 100;
const WINDOW: Duration = Duration::from_millis(100);
/// Once under load, stay so at least this long.
const CALM: Duration = Duration::from_secs(1);
/// Handshakes that one address may begin each second while we are under load.
const PER_SOURCE: u32 = 20;
/// Addresses that are counted; what comes from others beyond that is refused until the next second.
const SOURCES_MAX: usize = 4_096;

/// How busy the node is with handshakes.
#[derive(Debug)]
pub(crate) struct Load {
    window: Instant,
    count: u32,
    loaded_until: Option<Instant>,
    second: Instant,
    sources: HashMap<IpAddr, u32>,
}

impl Load {
    pub(crate) fn new(now: Instant) -> Self {
        Self { window: now, count: 0, loaded_until: None, second: now, sources: HashMap::new() }
    }

    /// Counts a handshake message with a valid first MAC. Returns whether we are under load.
    pub(crate) fn arrived(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.window) >= WINDOW {
            self.window = now;
            self.count = 0;
        }
        self.count += 1;
        if self.count > WINDOW_MAX {
            self.loaded_until = Some(now + CALM);
        }
        self.loaded_until.is_some_and(|until| now < until)
    }

    /// Counts a handshake whose sender has proved its address. Returns whether it may go on.
    pub(crate) fn admit(&mut self, now: Instant, from: IpAddr) -> bool {
        if now.saturating_duration_since(self.second) >= Duration::from_secs(1) {
            self.second = now;
            self.sources.clear();
        }
        if self.sources.len() >= SOURCES_MAX && !self.sources.contains_key(&from) {
            return false;
        }
        let count = self.sources.entry(from).or_insert(0);
        *count += 1;
        *count <= PER_SOURCE
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // an origin for the clock that the tests move by hand
mod tests {
    use super::*;

    #[test]
    fn a_flood_means_load_and_calm_ends_it() {
        let start = Instant::now();
        let mut load = Load::new(start);
        assert!((0..WINDOW_MAX).all(|_| !load.arrived(start)));
        assert!(load.arrived(start));
        assert!(load.arrived(start + CALM / 2));
        assert!(!load.arrived(start + CALM * 2));
    }

    #[test]
    fn each_source_has_its_share_and_the_table_is_bounded() {
        let now = Instant::now();
        let mut load = Load::new(now);
        let one = IpAddr::from([192, 0, 2, 1]);
        assert!((0..PER_SOURCE).all(|_| load.admit(now, one)));
        assert!(!load.admit(now, one));
        assert!(load.admit(now, IpAddr::from([192, 0, 2, 2])));
        for n in 0..10_000u32 {
            load.admit(now, IpAddr::from((0x0a00_0000 + n).to_be_bytes()));
        }
        assert!(load.sources.len() <= SOURCES_MAX);
        assert!(load.admit(now + Duration::from_secs(1), one));
    }
}
