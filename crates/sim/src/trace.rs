//! What happened: a hash over all of it, and the last of it to read.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// Entries kept for reading.
const KEPT: usize = 120;

/// One thing that happened.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// World time.
    pub(crate) at: Duration,
    /// Who did it: a node's name, or an address nobody owns.
    pub(crate) from: String,
    /// To whom; empty when it concerns `from` alone.
    pub(crate) to: String,
    /// Bytes.
    pub(crate) len: usize,
    /// What it was.
    pub(crate) kind: &'static str,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>13.6}s  {}", self.at.as_secs_f64(), self.from)?;
        if !self.to.is_empty() {
            write!(f, " → {}", self.to)?;
        }
        write!(f, "  {}", self.kind)?;
        if self.len > 0 {
            write!(f, "  {} B", self.len)?;
        }
        Ok(())
    }
}

/// The history of a world.
///
/// The hash covers times, names, lengths and kinds, and no contents: the KEM draws randomness of its own, so two
/// runs of one seed seal different bytes, of the same lengths at the same times.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    last: VecDeque<Entry>,
}

impl Default for Trace {
    fn default() -> Self {
        Self { hash: FNV_OFFSET, last: VecDeque::with_capacity(KEPT) }
    }
}

impl Trace {
    /// Adds an entry.
    pub(crate) fn push(&mut self, at: Duration, from: &str, to: &str, len: usize, kind: &'static str) {
        for part in [
            &at.as_nanos().to_le_bytes()[..],
            from.as_bytes(),
            &[0xff],
            to.as_bytes(),
            &[0xff],
            &len.to_le_bytes(),
            kind.as_bytes(),
        ] {
            self.hash = fnv1a(self.hash, part);
        }
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(Entry { at, from: from.to_owned(), to: to.to_owned(), len, kind });
    }

    /// The hash over everything so far.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// The last entries, oldest first.
    pub(crate) fn last(&self) -> impl Iterator<Item = &Entry> {
        self.last.iter()
    }
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

/// FNV-1a, 64 bits: it has to tell histories apart, not to resist anybody.
fn fnv1a(mut hash: u64, bytes: &[u8]) -> u64 {
    for &byte in bytes {
        hash = (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME);
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_tells_histories_apart_that_differ_in_one_field() {
        let base = || {
            let mut trace = Trace::default();
            trace.push(Duration::from_secs(1), "left", "right", 100, "data");
            trace
        };
        let reference = base();
        assert_eq!(reference.hash(), base().hash());
        for (at, from, to, len, kind) in [
            (2, "left", "right", 100, "data"),
            (1, "leftr", "ight", 100, "data"),
            (1, "left", "right", 101, "data"),
            (1, "left", "right", 100, "lost"),
        ] {
            let mut other = Trace::default();
            other.push(Duration::from_secs(at), from, to, len, kind);
            assert_ne!(other.hash(), reference.hash());
        }
    }

    #[test]
    fn only_the_last_entries_are_kept() {
        let mut trace = Trace::default();
        for second in 0..1_000 {
            trace.push(Duration::from_secs(second), "left", "", 0, "tick");
        }
        assert_eq!(trace.last().count(), KEPT);
        assert_eq!(trace.last().last().unwrap().at, Duration::from_secs(999));
    }
}
