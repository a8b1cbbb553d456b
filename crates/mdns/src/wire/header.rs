//! The first twelve bytes of a message.

/// Bytes of the header of a message.
pub const HEADER_LEN: usize = 12;

const RESPONSE: u16 = 1 << 15;
const AUTHORITATIVE: u16 = 1 << 10;
const TRUNCATED: u16 = 1 << 9;

/// What the header says but the counts. The bits that RFC 6762 §18 has ignored on reception are not here, and are sent as zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Zero, except in what a legacy querier sends and is sent (RFC 6762 §18.1).
    pub id: u16,
    /// A response, not a query.
    pub response: bool,
    /// Zero in every message that multicast DNS knows; others are to be ignored (RFC 6762 §18.3). Four bits.
    pub opcode: u8,
    /// Set in responses (RFC 6762 §18.4).
    pub authoritative: bool,
    /// In a query: more known answers follow (RFC 6762 §18.5).
    pub truncated: bool,
    /// Zero in every message that multicast DNS knows; others are to be ignored (RFC 6762 §18.11). Four bits.
    pub rcode: u8,
}

impl Header {
    /// What begins a query.
    pub const QUERY: Self =
        Self { id: 0, response: false, opcode: 0, authoritative: false, truncated: false, rcode: 0 };

    /// What begins a response.
    pub const RESPONSE: Self = Self { response: true, authoritative: true, ..Self::QUERY };

    /// What begins the response to a legacy query with that ID (RFC 6762 §6.7).
    pub const fn legacy_response(id: u16) -> Self {
        Self { id, ..Self::RESPONSE }
    }

    /// Reads the header of `message`; `None` if not even that is there.
    #[inline]
    pub fn read(message: &[u8]) -> Option<Self> {
        let &[id_high, id_low, flags_high, flags_low, ..] = message.first_chunk::<HEADER_LEN>()?;
        let flags = u16::from_be_bytes([flags_high, flags_low]);
        Some(Self {
            id: u16::from_be_bytes([id_high, id_low]),
            response: flags & RESPONSE != 0,
            opcode: (flags >> 11 & 0xf) as u8,
            authoritative: flags & AUTHORITATIVE != 0,
            truncated: flags & TRUNCATED != 0,
            rcode: (flags & 0xf) as u8,
        })
    }

    /// The first four bytes.
    #[inline]
    pub(super) fn to_bytes(self) -> [u8; 4] {
        let mut flags = u16::from(self.opcode & 0xf) << 11 | u16::from(self.rcode & 0xf);
        for (set, bit) in
            [(self.response, RESPONSE), (self.authoritative, AUTHORITATIVE), (self.truncated, TRUNCATED)]
        {
            flags |= if set { bit } else { 0 };
        }
        let ([a, b], [c, d]) = (self.id.to_be_bytes(), flags.to_be_bytes());
        [a, b, c, d]
    }
}
