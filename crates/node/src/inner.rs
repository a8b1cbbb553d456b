//! What stands inside a sealed datagram of the native protocol.
//!
//! ```text
//!  0        1..
//!  content  payload, by content; trailing bytes beyond an IP packet's own length are padding
//! ```
//!
//! A probe, request and answer alike, integers little-endian:
//!
//! ```text
//!  0        1     2..9   10..17              18..25          26..33
//!  Control  kind  id     datagrams received  bytes received  receiver's clock, µs
//! ```
//!
//! The request carries zeros where the answer carries figures, and any amount of padding: an answer is never larger.

/// The first byte of the plaintext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Content {
    /// Nothing: keeps a path open.
    Padding = 0,
    /// An IP packet.
    Ip = 1,
    /// An IP packet whose transport checksum holds only the pseudo-header's sum.
    IpPartial = 2,
    /// A probe.
    Control = 4,
}

impl Content {
    #[inline]
    pub(crate) fn parse(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Padding),
            1 => Some(Self::Ip),
            2 => Some(Self::IpPartial),
            4 => Some(Self::Control),
            _ => None,
        }
    }
}

/// Bytes of content type before the payload.
pub(crate) const CONTENT_LEN: usize = 1;

/// A probe or its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    ProbeRequest { id: u64 },
    ProbeReply(ProbeReply),
}

/// The answer to a probe: what the far side has received from us when the probe reached it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeReply {
    pub(crate) id: u64,
    pub(crate) datagrams: u64,
    pub(crate) bytes: u64,
    pub(crate) clock_us: u64,
}

const KIND_REQUEST: u8 = 1;
const KIND_REPLY: u8 = 2;

impl Control {
    /// Bytes of the shortest probe, content type included.
    pub(crate) const LEN: usize = 34;

    /// Reads a plaintext whose content is [`Content::Control`].
    pub(crate) fn parse(plaintext: &[u8]) -> Option<Self> {
        let fixed: &[u8; Self::LEN] = plaintext.first_chunk()?;
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| fixed[at + i]));
        match fixed[1] {
            KIND_REQUEST => Some(Self::ProbeRequest { id: word(2) }),
            KIND_REPLY => Some(Self::ProbeReply(ProbeReply {
                id: word(2),
                datagrams: word(10),
                bytes: word(18),
                clock_us: word(26),
            })),
            _ => None,
        }
    }

    /// The plaintext, content type included.
    pub(crate) fn to_bytes(self) -> [u8; Self::LEN] {
        let (kind, words) = match self {
            Self::ProbeRequest { id } => (KIND_REQUEST, [id, 0, 0, 0]),
            Self::ProbeReply(r) => (KIND_REPLY, [r.id, r.datagrams, r.bytes, r.clock_us]),
        };
        let mut bytes = [0; Self::LEN];
        bytes[0] = Content::Control as u8;
        bytes[1] = kind;
        for (at, word) in bytes[2..].chunks_exact_mut(8).zip(words) {
            at.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_survive_the_wire() {
        let reply = Control::ProbeReply(ProbeReply { id: 1, datagrams: 2, bytes: 3, clock_us: u64::MAX });
        for control in [Control::ProbeRequest { id: 7 }, reply] {
            assert_eq!(Control::parse(&control.to_bytes()), Some(control));
        }
    }

    #[test]
    fn a_short_or_unknown_control_message_is_refused() {
        let mut bytes = Control::ProbeRequest { id: 7 }.to_bytes();
        assert_eq!(Control::parse(&bytes[..Control::LEN - 1]), None);
        bytes[1] = 9;
        assert_eq!(Control::parse(&bytes), None);
    }
}
