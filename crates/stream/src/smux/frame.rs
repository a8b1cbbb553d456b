//! The eight bytes before each frame.

/// Bytes of a frame's header.
pub const HEADER_LEN: usize = 8;
/// Bytes that follow the header of an [`Command::Update`].
pub(super) const UPDATE_LEN: usize = 8;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Command {
    /// Opens a stream.
    Syn = 0,
    /// Ends a stream.
    Fin = 1,
    /// Carries bytes of a stream.
    Push = 2,
    /// Says that the session lives.
    Nop = 3,
    /// Version 2: how much of a stream was consumed and how much may be on its way.
    Update = 4,
}

impl Command {
    fn from_byte(byte: u8, version: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Syn,
            1 => Self::Fin,
            2 => Self::Push,
            3 => Self::Nop,
            4 if version >= 2 => Self::Update,
            _ => return None,
        })
    }
}

/// A frame's header.
///
/// ```text
///  0        1         2..3             4..7
///  version  command   length (LE)      stream id (LE)
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Protocol version, 1 or 2.
    pub version: u8,
    /// What the frame is for.
    pub command: Command,
    /// Bytes of payload, as [`payload_len`](Self::payload_len) tells; in a [`Command::Fin`] it is no length but may
    /// be [`CUT_OFF`](super::CUT_OFF).
    pub length: u16,
    /// Which stream; 0 is none.
    pub stream: u32,
}

impl Header {
    /// The header's bytes.
    pub fn encode(self) -> [u8; HEADER_LEN] {
        let length = self.length.to_le_bytes();
        let id = self.stream.to_le_bytes();
        [self.version, self.command as u8, length[0], length[1], id[0], id[1], id[2], id[3]]
    }

    /// Bytes that follow the header. Only a push and an update have any: other commands' lengths mean something else,
    /// or nothing.
    pub fn payload_len(self) -> usize {
        match self.command {
            Command::Push => self.length.into(),
            Command::Update => UPDATE_LEN,
            Command::Syn | Command::Fin | Command::Nop => 0,
        }
    }

    /// Reads a header of protocol `version`.
    ///
    /// # Errors
    /// The version or the command is another.
    pub fn decode(bytes: [u8; HEADER_LEN], version: u8) -> Result<Self, super::SmuxError> {
        let [got, command, l0, l1, s0, s1, s2, s3] = bytes;
        if got != version {
            return Err(super::SmuxError::Version { got, expected: version });
        }
        let command =
            Command::from_byte(command, version).ok_or(super::SmuxError::UnknownCommand { command })?;
        let (length, stream) = (u16::from_le_bytes([l0, l1]), u32::from_le_bytes([s0, s1, s2, s3]));
        Ok(Self { version, command, length, stream })
    }
}

/// What follows the header of an [`Command::Update`].
///
/// ```text
///  0..3            4..7
///  consumed (LE)   window (LE)
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Update {
    /// Bytes of the stream that the receiver's application has taken in all, modulo 2^32.
    pub(super) consumed: u32,
    /// Bytes that may be sent beyond those.
    pub(super) window: u32,
}

impl Update {
    pub(super) fn encode(self) -> [u8; UPDATE_LEN] {
        let [c0, c1, c2, c3] = self.consumed.to_le_bytes();
        let [w0, w1, w2, w3] = self.window.to_le_bytes();
        [c0, c1, c2, c3, w0, w1, w2, w3]
    }

    pub(super) fn decode([c0, c1, c2, c3, w0, w1, w2, w3]: [u8; UPDATE_LEN]) -> Self {
        Self { consumed: u32::from_le_bytes([c0, c1, c2, c3]), window: u32::from_le_bytes([w0, w1, w2, w3]) }
    }
}
