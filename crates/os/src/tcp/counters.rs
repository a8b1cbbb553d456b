//! What happened to connections and datagrams, counted.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counters that all threads write.
        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $($(#[$doc])* pub(super) $name: AtomicU64,)*
        }

        /// What happened to connections and datagrams so far.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            pub(super) fn read(&self) -> Counts {
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
    /// Connections accepted.
    accepted,
    /// Connections closed at once: too many silent ones from that source, one from here to there exists, or the kernel
    /// has no memory for it.
    refused,
    /// Times that the kernel had no descriptor or memory for a connection that waited; tried again a second later.
    accept_failed,
    /// Times that a connection was dialled, repeated ones included.
    dialled,
    /// Connections that we have opened.
    opened,
    /// Connections that could not be opened: refused, unreachable, or no answer in time.
    not_opened,
    /// Connections ended by the other end, or by the kernel because it does not answer.
    closed,
    /// Connections closed because a length was 0 or too large.
    malformed,
    /// Connections closed because no datagram came on them in time.
    silent,
    /// Connections closed because nothing came on them for a long time.
    idle,
    /// Connections closed to make room for others, or because the other end has begun anew.
    evicted,
    /// Connections that we have hung up.
    hung_up,
    /// Datagrams taken to be sent, those included that were lost with their connection later.
    sent,
    /// Datagrams received.
    received,
    /// Dropped: datagrams to a connection that takes nothing, while others wait.
    full,
    /// Dropped: datagrams to where there is no connection, or too many for one that is being opened.
    not_connected,
    /// Lost: datagrams that the kernel had not taken, wholly, when their connection ended.
    lost_with_connection,
    /// Lost: datagrams of which only the beginning came before their connection ended.
    cut_short,
    /// Dropped: datagrams longer than the receiver has room for.
    too_long,
);
