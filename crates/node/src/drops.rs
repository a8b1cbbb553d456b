//! Every packet that does not get through is counted here, by reason.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a packet was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason { $($(#[doc = $doc])+ $variant,)+ }

        impl DropReason {
            /// All reasons.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name under which the reason stands in `status --json`; stable.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

reasons! {
    // From the TUN
    /// Outbound: not an IP packet, or one with impossible lengths.
    TunMalformed = "tun_malformed",
    /// Outbound: no peer's allowed IPs cover the destination.
    NoRoute = "no_route",
    /// Outbound: the peer has no known endpoint.
    NoEndpoint = "no_endpoint",
    /// Outbound: waited for a handshake in a queue that was full; the oldest went.
    HandshakeQueueFull = "handshake_queue_full",
    /// Outbound: no handshake came about in time.
    HandshakeTimeout = "handshake_timeout",
    /// Outbound: the link was full and so was the peer's egress queue.
    EgressQueueFull = "egress_queue_full",
    /// Outbound: waited too long in the egress queue (CoDel, RFC 8289).
    EgressSojourn = "egress_sojourn",
    /// Outbound: larger than the path to the peer allows; the sender was told so.
    TooBig = "too_big",
    /// Outbound: the operating system refused it as larger than the path, which was not known before.
    PathMtu = "path_mtu",
    /// Outbound: the operating system refused the send.
    SendFailed = "send_failed",
    /// Outbound: the session has used up its counters.
    SessionExhausted = "session_exhausted",
    /// Either way: no buffer left in the pool.
    PoolExhausted = "pool_exhausted",
    // From the link
    /// Inbound: no message of a protocol we speak.
    UnknownMessage = "unknown_message",
    /// Inbound: no session has that receiver index.
    UnknownSession = "unknown_session",
    /// Inbound: the session is past its life.
    SessionExpired = "session_expired",
    /// Inbound: a lane that the session does not have.
    UnknownLane = "unknown_lane",
    /// Inbound: did not authenticate.
    Forged = "forged",
    /// Inbound: seen before.
    Replayed = "replayed",
    /// Inbound: older than the replay window reaches.
    TooOld = "too_old",
    /// Inbound: authentic, but neither an IP packet nor a message we know.
    InnerMalformed = "inner_malformed",
    /// Inbound: came in parts, and one of them did not come in time.
    Incomplete = "incomplete",
    /// Inbound: the inner source address is not among the peer's allowed IPs.
    SourceNotAllowed = "source_not_allowed",
    /// Inbound: marked as congested on the way, but its flow does not speak ECN (RFC 6040 §4.2).
    EcnMarked = "ecn_marked",
    /// Inbound: the TUN device refused the packet, or is down.
    TunRefused = "tun_refused",
    /// Inbound: of a stream, but this node runs none.
    StreamsOff = "streams_off",
    /// Inbound: of a stream, and those who run the streams are too slow.
    StreamBacklog = "stream_backlog",
    /// Inbound: of a stream, and no sense in it, or of a peer with which streams cannot be had.
    StreamRefused = "stream_refused",
    // Handshakes
    /// A handshake message whose first MAC is wrong: its sender does not know our public key.
    HandshakeMac = "handshake_mac",
    /// A handshake message that did not authenticate.
    HandshakeForged = "handshake_forged",
    /// A handshake from a key that is no peer's, or in a protocol that peer does not use.
    HandshakeUnknownPeer = "handshake_unknown_peer",
    /// A handshake seen before, or overtaken by a newer one.
    HandshakeReplayed = "handshake_replayed",
    /// A handshake of a peer that sends too many.
    HandshakeRate = "handshake_rate",
    /// A handshake without a valid cookie while we are under load, or while more initiations of its peer wait than are likely to be
    /// genuine; answered with a cookie, unless too many were.
    HandshakeNoCookie = "handshake_no_cookie",
    /// A response, cookie reply or second part that nobody waits for.
    HandshakeUnexpected = "handshake_unexpected",
    /// A handshake message of ours that the operating system refused to send.
    HandshakeSendFailed = "handshake_send_failed",
    /// An initiation that asks for another cipher than the configuration allows.
    HandshakeCipher = "handshake_cipher",
    /// More handshake messages than the slow path could take.
    HandshakeBacklog = "handshake_backlog",
}

const COUNT: usize = DropReason::ALL.len();

/// A counter for each [`DropReason`].
#[derive(Debug)]
pub struct Drops([AtomicU64; COUNT]);

impl Default for Drops {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; COUNT])
    }
}

impl Drops {
    /// Counts `packets` dropped for `reason`.
    #[inline]
    pub fn add(&self, reason: DropReason, packets: u64) {
        self.0[reason as usize].fetch_add(packets, Relaxed);
    }

    /// How many packets were dropped for `reason`.
    pub fn count(&self, reason: DropReason) -> u64 {
        self.0[reason as usize].load(Relaxed)
    }

    /// All reasons that were ever counted, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|&reason| (reason, self.count(reason))).filter(|&(_, count)| count > 0)
    }

    /// The sum over all reasons.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|count| count.load(Relaxed)).sum()
    }
}
