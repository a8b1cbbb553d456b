//! The header of a KCP segment, and nothing else.
//!
//! ```text
//!  0        4     5     6        8        12       16       20       24
//!  conv 4   cmd 1 frg 1 wnd 2    ts 4     sn 4     una 4    len 4    payload (len bytes)
//! ```
//!
//! All integers are little-endian. A datagram holds one segment or several, one after the other.

use super::Reason;

/// The bytes before each segment's payload.
pub const OVERHEAD: usize = 24;

/// What a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Payload, numbered `sn`.
    Push,
    /// Segment `sn`, sent at `ts`, has arrived.
    Ack,
    /// "How large is your window?"
    WindowAsk,
    /// "It is `wnd`."
    WindowTell,
}

impl Command {
    fn from_wire(byte: u8) -> Option<Self> {
        Some(match byte {
            81 => Self::Push,
            82 => Self::Ack,
            83 => Self::WindowAsk,
            84 => Self::WindowTell,
            _ => return None,
        })
    }

    fn to_wire(self) -> u8 {
        match self {
            Self::Push => 81,
            Self::Ack => 82,
            Self::WindowAsk => 83,
            Self::WindowTell => 84,
        }
    }
}

/// The meaning of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The conversation, the same at both ends.
    pub conversation: u32,
    /// What the segment is.
    pub command: Command,
    /// How many more fragments of the same message follow: 0 in stream mode.
    pub fragment: u8,
    /// How many segments from `unacknowledged` on the sender of this one would take.
    pub window: u16,
    /// When it was sent, on the sender's clock; in an [`Command::Ack`], when what it acknowledges was.
    pub timestamp: u32,
    /// The number of the segment.
    pub sequence: u32,
    /// All segments before this number have arrived.
    pub unacknowledged: u32,
    /// The bytes of payload that follow.
    pub length: u32,
}

impl Header {
    /// Splits a segment from the front of a datagram: its header, its payload, and the rest of the datagram.
    ///
    /// # Errors
    ///
    /// [`Reason::Short`], [`Reason::Command`], [`Reason::Length`].
    #[inline]
    pub fn parse(datagram: &[u8]) -> Result<(Self, &[u8], &[u8]), Reason> {
        let (head, rest) = datagram.split_first_chunk::<OVERHEAD>().ok_or(Reason::Short)?;
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let header = Self {
            conversation: word(0),
            command: Command::from_wire(head[4]).ok_or(Reason::Command)?,
            fragment: head[5],
            window: u16::from_le_bytes([head[6], head[7]]),
            timestamp: word(8),
            sequence: word(12),
            unacknowledged: word(16),
            length: word(20),
        };
        if header.length > u32::from(u16::MAX) {
            return Err(Reason::Length);
        }
        let (payload, rest) = rest.split_at_checked(header.length as usize).ok_or(Reason::Length)?;
        Ok((header, payload, rest))
    }

    /// The header as it travels.
    #[inline]
    pub fn encode(&self) -> [u8; OVERHEAD] {
        let mut head = [0; OVERHEAD];
        head[0..4].copy_from_slice(&self.conversation.to_le_bytes());
        head[4] = self.command.to_wire();
        head[5] = self.fragment;
        head[6..8].copy_from_slice(&self.window.to_le_bytes());
        head[8..12].copy_from_slice(&self.timestamp.to_le_bytes());
        head[12..16].copy_from_slice(&self.sequence.to_le_bytes());
        head[16..20].copy_from_slice(&self.unacknowledged.to_le_bytes());
        head[20..24].copy_from_slice(&self.length.to_le_bytes());
        head
    }
}

/// The conversation that a datagram belongs to, for whoever must find it; `None` when it is too short to say.
pub fn conversation(datagram: &[u8]) -> Option<u32> {
    (datagram.len() >= OVERHEAD).then(|| datagram.first_chunk().map(|bytes| u32::from_le_bytes(*bytes)))?
}

/// How far `a` is ahead of `b` in the circle of 2³² numbers: negative when it is behind.
#[inline]
pub(super) fn distance(a: u32, b: u32) -> i32 {
    a.wrapping_sub(b) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUSH: [u8; 29] = [
        0x78, 0x56, 0x34, 0x12, 81, 2, 0x00, 0x02, 0xef, 0xbe, 0xad, 0xde, 7, 0, 0, 0, 5, 0, 0, 0, 5, 0, 0,
        0, b'h', b'e', b'l', b'l', b'o',
    ];

    fn push() -> Header {
        Header {
            conversation: 0x1234_5678,
            command: Command::Push,
            fragment: 2,
            window: 512,
            timestamp: 0xdead_beef,
            sequence: 7,
            unacknowledged: 5,
            length: 5,
        }
    }

    #[test]
    fn a_segment_has_the_bytes_of_kcp_go() {
        assert_eq!(push().encode(), PUSH[..OVERHEAD]);
        let (header, payload, rest) = Header::parse(&PUSH).unwrap();
        assert_eq!((header, payload, rest), (push(), &b"hello"[..], &b""[..]));
    }

    #[test]
    fn every_cut_of_a_segment_is_refused_with_its_reason() {
        for cut in 0..PUSH.len() {
            let reason = if cut < OVERHEAD { Reason::Short } else { Reason::Length };
            assert_eq!(Header::parse(&PUSH[..cut]), Err(reason), "{cut} bytes");
        }
    }

    #[test]
    fn an_unknown_command_is_refused() {
        for command in (0..=255).filter(|command| !(81..=84).contains(command)) {
            let mut segment = PUSH;
            segment[4] = command;
            assert_eq!(Header::parse(&segment), Err(Reason::Command));
        }
    }

    #[test]
    fn the_conversation_is_known_without_parsing() {
        assert_eq!(conversation(&PUSH), Some(0x1234_5678));
        assert_eq!(conversation(&PUSH[..23]), None);
    }

    #[test]
    fn distance_crosses_the_end_of_the_numbers() {
        assert_eq!(distance(3, u32::MAX), 4);
        assert_eq!(distance(u32::MAX, 3), -4);
    }
}
