//! What a conversation counts and measures.

use std::time::Duration;

/// Figures of one conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// The smoothed round-trip time, once measured.
    pub rtt: Option<Duration>,
    /// Its mean deviation.
    pub rtt_variation: Duration,
    /// The least round-trip time measured.
    pub rtt_min: Option<Duration>,
    /// Data segments sent, retransmissions included.
    pub segments_sent: u64,
    /// Data segments sent again.
    pub retransmissions: u64,
    /// Data segments that were sent again although an earlier transmission was only late.
    pub spurious_retransmissions: u64,
    /// Times that the path was silent for longer than the retransmission timeout.
    pub timeouts: u64,
    /// Data segments that arrived, repeated ones included.
    pub segments_received: u64,
    /// Data segments that had arrived before.
    pub duplicates_received: u64,
    /// Data segments beyond the window.
    pub beyond_window: u64,
    /// Datagrams given to send.
    pub datagrams_sent: u64,
    /// Bytes of those datagrams.
    pub bytes_sent: u64,
    /// Payload written that has arrived at the far end, headers of its segments included.
    pub bytes_delivered: u64,
    /// Bytes on their way now, headers included.
    pub in_flight: u64,
    /// The most that may be on its way, in bytes; `None` when only the windows bound it.
    pub congestion_window: Option<u64>,
    /// Bytes a second that are sent at most; `None` without pacing.
    pub pacing_rate: Option<u64>,
    /// The bandwidth of the path as far as known, in bytes a second; `None` without a model.
    pub bandwidth: Option<u64>,
    /// The window that the far end said, in segments.
    pub remote_window: u32,
}
