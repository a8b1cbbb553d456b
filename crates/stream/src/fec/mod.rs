//! Forward error correction: datagrams that can be computed from others when they are lost, instead of being sent
//! again a round trip later.
//!
//! [`FecConfig::Fixed`] is byte-compatible with kcp-go: after every `data` datagrams follow `parity` ones, and any
//! `data` of them all suffice. [`FecConfig::Adaptive`] is for two ends of ours. It protects what a retransmission
//! would delay, thin flows and the ends of bursts, by as many parities as the measured loss asks for, and leaves bulk
//! to retransmission, which costs fewer bytes.
//!
//! ```text
//!  kcp-go, and FecConfig::Fixed; integers little-endian
//!  0..3                        4..5             6..7           8..
//!  sequence number             0x00f1  data     size + 2       KCP datagram
//!  sequence number             0x00f2  parity   coded size     coded datagrams
//!
//!  FecConfig::Adaptive
//!  0..3      4        5        6        7        8..9          10..
//!  group     0xf3     index    0        0        size + 2      KCP datagram
//!  group     0xf4     index    data     0        coded size    coded datagrams
//! ```
//!
//! Numbers of the first kind count all datagrams, so number modulo `data + parity` is the place in the group. The
//! fifth byte of a bare KCP segment is its command, 81 to 84: the receiver can tell the kinds apart.
//!
//! [`Encoder::protect`] writes the header of an outgoing datagram, then [`Encoder::poll_parity`] gives the parities
//! that are due. [`Decoder::handle`] takes a header off; [`Decoder::poll_recovered`] gives what could be computed.

mod code;
mod decoder;
mod encoder;
mod galois;
mod tuner;

use thiserror::Error;

pub use decoder::{Decoder, DecoderStats};
pub use encoder::Encoder;

/// The longest datagram, its header included: kcp-go's limit.
pub const DATAGRAM_MAX: usize = 1500;
/// Most shards of a group.
pub const SHARDS_MAX: usize = 255;

const TYPE_DATA: u8 = 0xf1;
const TYPE_PARITY: u8 = 0xf2;
const TYPE_ADAPTIVE_DATA: u8 = 0xf3;
const TYPE_ADAPTIVE_PARITY: u8 = 0xf4;

/// Bytes of the size field, which is coded together with the datagram.
const SIZE_LEN: usize = 2;
/// Bytes before the coded part.
const FIXED_HEADER: usize = 6;
const ADAPTIVE_HEADER: usize = 8;

/// Most data datagrams of an adaptive group.
const ADAPTIVE_DATA_MAX: usize = 16;
/// Most parities of an adaptive group.
const ADAPTIVE_PARITY_MAX: usize = 6;

/// What to protect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FecConfig {
    /// Nothing. What the other end protects is still understood.
    #[default]
    Off,
    /// Thin flows and the ends of bursts, as the loss demands. Only where the other end is ours.
    Adaptive,
    /// Everything, in groups of `data` and `parity`, as kcp-go does.
    Fixed {
        /// Datagrams of a group.
        data: usize,
        /// Parities that follow them.
        parity: usize,
    },
}

impl FecConfig {
    /// Groups of `data` and `parity`; [`Off`](Self::Off) when either is 0.
    ///
    /// # Errors
    /// Together they are more than [`SHARDS_MAX`].
    pub fn fixed(data: usize, parity: usize) -> Result<Self, FecError> {
        match (data, parity) {
            (0, _) | (_, 0) => Ok(Self::Off),
            _ if data.saturating_add(parity) > SHARDS_MAX => Err(FecError::TooManyShards { data, parity }),
            _ => Ok(Self::Fixed { data, parity }),
        }
    }

    /// Bytes that are put before a protected datagram.
    pub fn header_len(self) -> usize {
        match self {
            Self::Off => 0,
            Self::Fixed { .. } => FIXED_HEADER + SIZE_LEN,
            Self::Adaptive => ADAPTIVE_HEADER + SIZE_LEN,
        }
    }
}

/// What is wrong with a datagram, or with a configuration.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum FecError {
    /// Shorter than its header.
    #[error("shorter than a FEC header")]
    Truncated,
    /// Longer than [`DATAGRAM_MAX`].
    #[error("longer than {DATAGRAM_MAX} bytes")]
    TooLong,
    /// An index or a count outside of a group.
    #[error("no such place in a FEC group")]
    OutOfRange,
    /// More shards than the field has elements.
    #[error("{data} data and {parity} parity shards are more than {SHARDS_MAX}")]
    TooManyShards {
        /// Data shards asked for.
        data: usize,
        /// Parity shards asked for.
        parity: usize,
    },
}

/// Whether a datagram has a FEC header; it is a bare KCP datagram otherwise.
pub fn is_protected(datagram: &[u8]) -> bool {
    match datagram.get(4..6) {
        Some([TYPE_DATA | TYPE_PARITY, 0]) => true,
        Some([TYPE_ADAPTIVE_DATA, index]) => usize::from(*index) < ADAPTIVE_DATA_MAX,
        Some([TYPE_ADAPTIVE_PARITY, index]) => usize::from(*index) < ADAPTIVE_PARITY_MAX,
        _ => false,
    }
}

/// What a protected datagram carries, without decoding anything: a parity carries none.
pub fn unprotected(datagram: &[u8]) -> Option<&[u8]> {
    match *datagram.get(4)? {
        TYPE_DATA => datagram.get(FIXED_HEADER + SIZE_LEN..),
        TYPE_ADAPTIVE_DATA => datagram.get(ADAPTIVE_HEADER + SIZE_LEN..),
        _ => None,
    }
}
