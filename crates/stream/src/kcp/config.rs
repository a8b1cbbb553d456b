//! How one KCP conversation behaves.

use std::time::Duration;

use super::segment::OVERHEAD;

/// The four numbers of kcp-go's `SetNoDelay`, and the names kcptun gives to four sets of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// Whether the retransmission timeout may be as short as 30 ms and grows by half, instead of 100 ms and doubling.
    pub nodelay: bool,
    /// How long an acknowledgement may wait for company. kcp-go also sends data at this interval; here data never waits.
    pub interval: Duration,
    /// 0: only the timeout finds losses. Else they are found from what arrived of the segments sent later (kcp-go counts
    /// that many of them; here their time counts, RFC 8985).
    pub resend: u32,
    /// kcp-go's `nc`: with [`Congestion::None`], send as much as the windows allow, whatever is lost.
    pub no_congestion_window: bool,
}

impl Mode {
    /// kcptun's `normal`: 0, 40 ms, 2, 1.
    pub const NORMAL: Self =
        Self { nodelay: false, interval: Duration::from_millis(40), resend: 2, no_congestion_window: true };
    /// kcptun's `fast`: 0, 30 ms, 2, 1.
    pub const FAST: Self = Self { interval: Duration::from_millis(30), ..Self::NORMAL };
    /// kcptun's `fast2`: 1, 20 ms, 2, 1.
    pub const FAST2: Self = Self { nodelay: true, interval: Duration::from_millis(20), ..Self::NORMAL };
    /// kcptun's `fast3`: 1, 10 ms, 2, 1.
    pub const FAST3: Self = Self { interval: Duration::from_millis(10), ..Self::FAST2 };
}

/// What bounds the data in flight, beside the windows of both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Congestion {
    /// Nothing, or the window of classic KCP where [`Mode::no_congestion_window`] is false. Nothing is paced.
    None,
    /// A model of the path's bandwidth and round-trip time, in the manner of BBR, with the datagrams spaced.
    Bbr,
}

/// How one conversation behaves. Both ends need the same conversation number only.
#[derive(Clone, Debug)]
pub struct KcpConfig {
    /// Timeouts and acknowledgement delay.
    pub mode: Mode,
    /// The largest datagram to produce, in bytes: [`KcpConfig::MTU_MIN`] … [`KcpConfig::MTU_MAX`].
    pub mtu: usize,
    /// The most segments in flight: 1 … 32,768.
    pub send_window: u32,
    /// The most segments to hold for a reader, those that wait for a lost one included: 1 … 32,768. What is
    /// advertised begins at [`KcpConfig::RECEIVE_WINDOW_START`] and grows to this while the reader keeps up.
    pub receive_window: u32,
    /// Acknowledge each datagram at once instead of several together.
    pub ack_no_delay: bool,
    /// What bounds the data in flight.
    pub congestion: Congestion,
    /// The conversation is dead when something is outstanding and nothing valid has been heard for this long.
    pub dead_after: Duration,
}

impl KcpConfig {
    /// The smallest MTU: a header and some bytes, 64.
    pub const MTU_MIN: usize = 64;
    /// The largest MTU: 9,000 bytes.
    pub const MTU_MAX: usize = 9_000;
    /// The largest window, in segments: half of what its 16 bits in the header could say.
    pub const WINDOW_MAX: u32 = 32_768;
    /// What a receiver advertises at first, in segments.
    pub const RECEIVE_WINDOW_START: u32 = 512;

    /// The configuration with each number moved into its range.
    pub(super) fn clamped(self) -> Self {
        Self {
            mtu: self.mtu.clamp(Self::MTU_MIN, Self::MTU_MAX),
            send_window: self.send_window.clamp(1, Self::WINDOW_MAX),
            receive_window: self.receive_window.clamp(1, Self::WINDOW_MAX),
            ..self
        }
    }

    /// The most payload of one segment, in bytes.
    pub(super) fn segment_payload_max(&self) -> usize {
        self.mtu - OVERHEAD
    }
}

impl Default for KcpConfig {
    fn default() -> Self {
        Self {
            mode: Mode::FAST2,
            mtu: 1_350,
            send_window: 16_384,
            receive_window: 16_384,
            ack_no_delay: false,
            congestion: Congestion::Bbr,
            dead_after: Duration::from_secs(30),
        }
    }
}
