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
//! The request carries zeros where the answer carries figures, and any amount of padding: an answer is never larger. A
//! *trial* asks by a place that is not in use whether the peer can be reached there; unlike everything else that is
//! authentic it moves no path, and neither does its answer: who asked decides.
//!
//! A part of an IP packet that is larger than the path, its total length little-endian:
//!
//! ```text
//!  0     1        2      3      4..5    6..
//!  Part  content  index  count  total   bytes of the packet
//! ```
//!
//! `content` is what the packet would have had whole. The parts of a packet follow each other in one lane, so that part
//! `index` with the counter `n` belongs to the packet whose first part has the counter `n − index`: no other number is
//! needed. All parts but the last are equally long, `⌈total / count⌉` bytes. There is no padding.

use std::ops::Range;

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
    /// A part of an IP packet.
    Part = 3,
    /// A probe.
    Control = 4,
    /// A datagram of a stream engine.
    Stream = 5,
}

impl Content {
    #[inline]
    pub(crate) fn parse(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Padding),
            1 => Some(Self::Ip),
            2 => Some(Self::IpPartial),
            3 => Some(Self::Part),
            4 => Some(Self::Control),
            5 => Some(Self::Stream),
            _ => None,
        }
    }
}

/// Bytes of content type before the payload.
pub(crate) const CONTENT_LEN: usize = 1;

/// How one part of a packet relates to the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// The transport checksum of the packet is partial.
    pub(crate) partial: bool,
    /// Its place: 0 for the first.
    pub(crate) index: u8,
    /// How many there are: from 2 to [`Part::COUNT_MAX`].
    pub(crate) count: u8,
    /// Bytes of the whole packet; at least `count`.
    pub(crate) total: u16,
}

impl Part {
    /// Bytes before those of the packet, content type included.
    pub(crate) const HEADER_LEN: usize = 6;
    /// As many as one send carries.
    pub(crate) const COUNT_MAX: usize = 64;

    /// Into how many parts a packet of `total` bytes goes when each may carry `room` of them; `None` when that is too
    /// many, or the packet is too large for any.
    pub(crate) fn count(total: usize, room: usize) -> Option<u8> {
        let count = total.div_ceil(room.max(1)).max(2);
        (count <= Self::COUNT_MAX && u16::try_from(total).is_ok()).then_some(count as u8)
    }

    /// Reads a plaintext whose content is [`Content::Part`]: what it is a part of, and its bytes.
    pub(crate) fn parse(plaintext: &[u8]) -> Option<(Self, &[u8])> {
        let (&[_, content, index, count, low, high], bytes) = plaintext.split_first_chunk()?;
        let partial = match Content::parse(content)? {
            Content::Ip => false,
            Content::IpPartial => true,
            _ => return None,
        };
        let part = Self { partial, index, count, total: u16::from_le_bytes([low, high]) };
        let sound = (2..=Self::COUNT_MAX).contains(&usize::from(count)) && index < count;
        let range = part.range();
        (sound && !range.is_empty() && range.len() == bytes.len()).then_some((part, bytes))
    }

    /// The beginning of the plaintext.
    pub(crate) fn to_bytes(self) -> [u8; Self::HEADER_LEN] {
        let content = if self.partial { Content::IpPartial } else { Content::Ip };
        let [low, high] = self.total.to_le_bytes();
        [Content::Part as u8, content as u8, self.index, self.count, low, high]
    }

    /// Which bytes of the packet it carries.
    pub(crate) fn range(self) -> Range<usize> {
        let total = usize::from(self.total);
        let step = total.div_ceil(usize::from(self.count).max(1));
        let start = (usize::from(self.index) * step).min(total);
        start..(start + step).min(total)
    }
}

/// A probe or its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    ProbeRequest {
        id: u64,
    },
    ProbeReply(ProbeReply),
    /// A probe by a place that is not in use: it moves no path and counts nowhere, nor does its answer.
    TrialRequest {
        id: u64,
    },
    TrialReply(ProbeReply),
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
const KIND_TRIAL_REQUEST: u8 = 3;
const KIND_TRIAL_REPLY: u8 = 4;

impl Control {
    /// Bytes of the shortest probe, content type included.
    pub(crate) const LEN: usize = 34;

    /// Reads a plaintext whose content is [`Content::Control`].
    pub(crate) fn parse(plaintext: &[u8]) -> Option<Self> {
        let fixed: &[u8; Self::LEN] = plaintext.first_chunk()?;
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| fixed[at + i]));
        let id = word(2);
        let reply = ProbeReply { id, datagrams: word(10), bytes: word(18), clock_us: word(26) };
        match fixed[1] {
            KIND_REQUEST => Some(Self::ProbeRequest { id }),
            KIND_REPLY => Some(Self::ProbeReply(reply)),
            KIND_TRIAL_REQUEST => Some(Self::TrialRequest { id }),
            KIND_TRIAL_REPLY => Some(Self::TrialReply(reply)),
            _ => None,
        }
    }

    /// Whether a plaintext is a trial or the answer to one, if it is sound at all.
    #[inline]
    pub(crate) fn is_trial(plaintext: &[u8]) -> bool {
        const CONTROL: u8 = Content::Control as u8;
        matches!(plaintext, [CONTROL, KIND_TRIAL_REQUEST | KIND_TRIAL_REPLY, ..])
    }

    /// The plaintext, content type included.
    pub(crate) fn to_bytes(self) -> [u8; Self::LEN] {
        let (kind, words) = match self {
            Self::ProbeRequest { id } => (KIND_REQUEST, [id, 0, 0, 0]),
            Self::ProbeReply(r) => (KIND_REPLY, [r.id, r.datagrams, r.bytes, r.clock_us]),
            Self::TrialRequest { id } => (KIND_TRIAL_REQUEST, [id, 0, 0, 0]),
            Self::TrialReply(r) => (KIND_TRIAL_REPLY, [r.id, r.datagrams, r.bytes, r.clock_us]),
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
        let reply = ProbeReply { id: 1, datagrams: 2, bytes: 3, clock_us: u64::MAX };
        let probes = [Control::ProbeRequest { id: 7 }, Control::ProbeReply(reply)];
        let trials = [Control::TrialRequest { id: 7 }, Control::TrialReply(reply)];
        for control in probes.into_iter().chain(trials) {
            let bytes = control.to_bytes();
            assert_eq!(Control::parse(&bytes), Some(control));
            assert_eq!(Control::is_trial(&bytes), trials.contains(&control));
        }
    }

    #[test]
    fn a_short_or_unknown_control_message_is_refused() {
        let mut bytes = Control::ProbeRequest { id: 7 }.to_bytes();
        assert_eq!(Control::parse(&bytes[..Control::LEN - 1]), None);
        bytes[1] = 9;
        assert_eq!(Control::parse(&bytes), None);
    }

    /// The parts of a packet of bytes that count up, as plaintexts.
    fn parts(total: u16, count: u8) -> Vec<Vec<u8>> {
        let packet: Vec<u8> = (0..total).map(|at| at as u8).collect();
        (0..count)
            .map(|index| {
                let part = Part { partial: true, index, count, total };
                [&part.to_bytes()[..], &packet[part.range()]].concat()
            })
            .collect()
    }

    #[test]
    fn the_parts_of_a_packet_are_the_packet() {
        for (total, room) in [(1_280, 1_214), (1_281, 640), (65_535, 1_400), (9, 8)] {
            let count = Part::count(total, room).unwrap();
            let mut whole = Vec::new();
            for (index, plaintext) in parts(total as u16, count).iter().enumerate() {
                let (part, bytes) = Part::parse(plaintext).unwrap();
                assert!(bytes.len() <= room && part.partial);
                assert_eq!((usize::from(part.index), part.range().start), (index, whole.len()));
                whole.extend_from_slice(bytes);
            }
            assert_eq!(whole, (0..total).map(|at| at as u8).collect::<Vec<_>>());
        }
        assert_eq!(Part::count(65_535, 1_000), None, "more parts than one send carries");
        assert_eq!(Part::count(65_536, 60_000), None);
    }

    #[test]
    fn a_part_that_contradicts_itself_is_refused() {
        let good = parts(1_280, 2).remove(0);
        assert!(Part::parse(&good).is_some());
        let changed = |at: usize, value: u8| {
            let mut bad = good.clone();
            bad[at] = value;
            Part::parse(&bad).map(|(part, _)| part)
        };
        assert_eq!(changed(1, Content::Control as u8), None, "of no packet");
        assert_eq!(changed(1, Content::Part as u8), None, "of a part");
        assert_eq!(changed(2, 2), None, "after the last");
        assert_eq!(changed(3, 1), None, "the only one");
        assert_eq!(changed(3, 65), None, "one of too many");
        assert_eq!(changed(5, 0), None, "of a packet of another length");
        assert_eq!(Part::parse(&good[..good.len() - 1]), None, "short");
        assert_eq!(Part::parse(&[&good[..], &[0]].concat()), None, "padded");
        assert_eq!(Part::parse(&good[..5]), None);
        // Three bytes in five parts of one byte each: the last two are empty.
        let empty = Part { partial: false, index: 4, count: 5, total: 3 };
        assert_eq!(Part::parse(&empty.to_bytes()), None);
    }
}
