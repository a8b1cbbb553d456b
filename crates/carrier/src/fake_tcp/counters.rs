//! What happened to segments, counted.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counters that all lanes write.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        /// The counters at one time.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Reads all of them.
            pub fn read(&self) -> Counts {
                Counts { $($name: self.$name.load(Relaxed),)* }
            }
        }

        impl Counts {
            /// Their names and values.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

counters!(
    /// SYNs answered.
    syns_answered,
    /// Dropped: SYNs beyond the rate at which they are answered.
    syns_limited,
    /// Dropped: SYNs and data for an address that is not this machine's, or on which nobody listens: what it forwards as a router.
    elsewhere,
    /// SYNs sent, repeated ones included.
    syns_sent,
    /// Handshakes that we began and that were answered.
    flows_opened,
    /// Flows that called us, with a handshake just before.
    flows_accepted,
    /// Flows that called us with the numbers of an earlier life of ours.
    flows_resumed,
    /// Flows whose numbers jumped: the other end has begun anew.
    flows_renewed,
    /// Flows whose ends have clocks more than ten minutes apart, or whose dialling end has tried whether that is so.
    flows_without_clock,
    /// Flows forgotten because they were idle.
    flows_expired,
    /// Dropped: a new flow, and no room for it: too many in all, or of its source.
    flows_full,
    /// Dropped: datagrams that are not valid under the guard.
    guard_failures,
    /// Dropped: segments without payload of flows that are not ours, scans among them.
    strangers,
    /// Dropped: RSTs.
    resets_ignored,
    /// Dropped: FINs.
    fins_ignored,
    /// Dropped: packets that are no TCP segments, or of unclear size.
    malformed,
);

/// Adds to a counter.
pub(crate) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Relaxed);
}
