//! Recognising our own packets when they come back.

use std::time::{Duration, Instant};

/// Packets that are remembered.
const PACKETS: usize = 256;
/// How long a packet is remembered: a loop or a bridge brings it back at once or not at all.
const AGE_MAX: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug)]
struct Sent {
    hash: u64,
    at: Instant,
    /// Queries only: the link on which its copy has come back. A second one may be of another program of this host that
    /// asks the very same, and deserves an answer.
    returned_on: Option<usize>,
}

/// Hashes of the packets that were multicast last (RFC 6762 §14: a packet may return through another interface).
#[derive(Debug)]
pub(crate) struct Echoes {
    sent: Vec<Sent>,
    next: usize,
}

impl Echoes {
    pub(crate) fn new() -> Self {
        Self { sent: Vec::with_capacity(PACKETS), next: 0 }
    }

    /// Remembers a packet.
    pub(crate) fn remember(&mut self, hash: u64, now: Instant) {
        let sent = Sent { hash, at: now, returned_on: None };
        if self.sent.len() < PACKETS {
            self.sent.push(sent);
        } else {
            self.sent[self.next] = sent;
        }
        self.next = (self.next + 1) % PACKETS;
    }

    /// Whether the packet that arrived on `link` is one of ours. Each copy of a query is taken for ours once a link.
    pub(crate) fn recognise(&mut self, hash: u64, link: usize, is_query: bool, now: Instant) -> bool {
        let fresh = |sent: &&mut Sent| {
            sent.hash == hash
                && now.saturating_duration_since(sent.at) <= AGE_MAX
                && sent.returned_on != Some(link)
        };
        let Some(sent) = self.sent.iter_mut().find(fresh) else { return false };
        if is_query {
            sent.returned_on = Some(link);
        }
        true
    }
}
