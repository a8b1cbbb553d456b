//! Every packet and record that is not used is counted here, by reason.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a packet, or a record in one, was not used.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason { $($(#[doc = $doc])+ $variant,)+ }

        impl DropReason {
            /// All reasons.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name under which the reason stands in statistics; stable.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

reasons! {
    /// More than 9,000 bytes with headers (RFC 6762 §17).
    TooLong = "too_long",
    /// The receive buffer was too small for it.
    Truncated = "truncated",
    /// It arrived on an interface that the engine was not told of.
    UnknownInterface = "unknown_interface",
    /// Sent to us alone, by a host outside the link's subnets (RFC 6762 §5.5, §11).
    OffLink = "off_link",
    /// Its source sends more than it may.
    RateLimited = "rate_limited",
    /// One of our own packets, come back over a loop or a bridge.
    Echo = "echo",
    /// Not a DNS message.
    Malformed = "malformed",
    /// An operation code other than QUERY (RFC 6762 §18.3).
    Opcode = "opcode",
    /// A response code other than NOERROR (RFC 6762 §18.11).
    ResponseCode = "response_code",
    /// A response from a port other than 5353 (RFC 6762 §6).
    ResponsePort = "response_port",
    /// A unicast response while no answer to a QU question was expected (RFC 6762 §6).
    UnicastResponse = "unicast_response",
    /// A unicast response whose hop limit is not 255: a router may have passed it on, whatever source it bears. The question is
    /// repeated, and the next answer is asked for by multicast.
    HopLimit = "hop_limit",
    /// A record that the cache had no room for.
    CacheFull = "cache_full",
    /// The engine has said goodbye.
    ShuttingDown = "shutting_down",
    /// A query for which no reply could be kept waiting: too many are.
    RepliesFull = "replies_full",
}

const COUNT: usize = DropReason::ALL.len();

/// A counter for each [`DropReason`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Drops([u64; COUNT]);

impl Drops {
    /// Counts one.
    pub(crate) fn add(&mut self, reason: DropReason) {
        self.0[reason as usize] += 1;
    }

    /// Counts `count`.
    pub(crate) fn add_many(&mut self, reason: DropReason, count: u32) {
        self.0[reason as usize] += u64::from(count);
    }

    /// All reasons that were ever counted, with their counts.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL
            .iter()
            .map(|&reason| (reason, self.0[reason as usize]))
            .filter(|&(_, count)| count > 0)
    }
}
