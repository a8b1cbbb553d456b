//! What must hold when nothing is going on: nothing is lost, nothing is kept.

use std::collections::BTreeMap;
use std::time::Duration;

use node::{DropReason, NodeStatus};

use crate::world::{NodeId, World};

/// The longest anything may wait inside a node: a packet for a handshake that never comes about
/// (`REKEY_ATTEMPT_TIME`), and then some.
const SETTLE_MAX: Duration = Duration::from_secs(200);

/// Reasons counted for packets that the node read from its TUN device.
const OUTBOUND: &[DropReason] = &[
    DropReason::TunMalformed,
    DropReason::NoRoute,
    DropReason::NoEndpoint,
    DropReason::HandshakeQueueFull,
    DropReason::HandshakeTimeout,
    DropReason::EgressQueueFull,
    DropReason::EgressSojourn,
    DropReason::TooBig,
    DropReason::PathMtu,
    DropReason::SendFailed,
    DropReason::SessionExhausted,
];

impl World {
    /// Lets all traffic end, waits until every node is at rest, and [checks](Self::check_at_rest).
    #[track_caller]
    pub fn settle(&mut self) {
        let end = self.now() + SETTLE_MAX;
        while !self.is_idle() {
            self.run_for(Duration::from_secs(1));
        }
        loop {
            self.run_for(Duration::from_secs(1));
            if self.unrest().is_empty() || self.now() > end {
                break;
            }
        }
        self.check_at_rest();
    }

    /// Fails unless every node is at rest: TUN queues are empty, all buffers are home, and each packet that was read
    /// from a TUN device was sent or is counted as dropped.
    #[track_caller]
    pub fn check_at_rest(&mut self) {
        let unrest = self.unrest();
        if !unrest.is_empty() {
            self.fail(&format!("not at rest: {}", unrest.join("; ")));
        }
    }

    fn unrest(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (i, machine) in self.machines.iter().enumerate() {
            let at = self.clock(NodeId(i));
            let Some(status) = machine.status(at).filter(|_| machine.is_running()) else { continue };
            let mut here = machine.unrest(at);
            here.extend(unaccounted(&status, machine.tun_counts()));
            found.extend(here.into_iter().map(|what| format!("{}: {what}", machine.spec.name)));
        }
        found
    }
}

/// Packets in = packets out + counted drops, at the two ends of a node that a packet crosses.
fn unaccounted(status: &NodeStatus, (read, written): (u64, u64)) -> Vec<String> {
    let mut found = Vec::new();
    // What was cut shorter on its way through counts as often as it was read.
    let sent: u64 = status.peers.iter().map(|peer| peer.tx_packets).sum();
    let recut: u64 = status.peers.iter().map(|peer| peer.tx_recut).sum();
    let received: u64 = status.peers.iter().map(|peer| peer.rx_packets).sum();
    let drops = all_drops(status);
    let of = |reason: DropReason| drops.get(reason.name()).copied().unwrap_or(0);
    let dropped: u64 = OUTBOUND.iter().copied().map(of).sum();
    // The pool runs dry in either direction, under one name.
    let either = of(DropReason::PoolExhausted);
    if read + recut < sent + dropped || read + recut > sent + dropped + either {
        found.push(format!(
            "{read} packets read from the TUN and {recut} made by cutting, but {sent} sent and {dropped} dropped (and \
             {either} for want of a buffer): {drops:?}"
        ));
    }
    let refused = of(DropReason::TunRefused) + of(DropReason::EcnMarked) + of(DropReason::InnerMalformed);
    if written > received || received > written + refused + of(DropReason::SourceNotAllowed) + either {
        found.push(format!("{received} packets received, but {written} written to the TUN: {drops:?}"));
    }
    found
}

/// Drops of all peers and of none, by reason.
pub(crate) fn all_drops(status: &NodeStatus) -> BTreeMap<String, u64> {
    let mut sum = status.drops.clone();
    for peer in &status.peers {
        for (reason, count) in &peer.drops {
            *sum.entry(reason.clone()).or_default() += count;
        }
    }
    sum
}
