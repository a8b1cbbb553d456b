//! Questions and records, borrowed from a message or from what is to be written; data that owns its bytes.

use std::fmt;
use std::sync::Arc;

use super::{Class, Name, RData, RecordType};

/// What somebody wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question<'a> {
    /// About which name.
    pub name: Name<'a>,
    /// Which type of record; [`RecordType::ANY`] for all.
    pub record_type: RecordType,
    /// Which class; [`Class::ANY`] for all.
    pub class: Class,
    /// The QU bit: a unicast response is welcome (RFC 6762 §5.4).
    pub unicast_response: bool,
}

/// What somebody says about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Whose record it is.
    pub name: Name<'a>,
    /// Which class.
    pub class: Class,
    /// This and the other records of the message are all that there are of this name, type and class (RFC 6762 §10.2).
    pub cache_flush: bool,
    /// For how long it holds, in seconds; 0 takes it back (RFC 6762 §10.1).
    pub ttl: u32,
    /// What it says. The type is in it.
    pub rdata: RData<'a>,
}

impl Record<'_> {
    /// The type of the record.
    #[inline]
    pub fn record_type(&self) -> RecordType {
        self.rdata.record_type()
    }
}

impl fmt::Display for Question<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, record_type, class, .. } = self;
        write!(f, "{name} {class} {record_type}{}", if self.unicast_response { " QU" } else { "" })
    }
}

/// As zone files have it (RFC 1035 §5.1).
impl fmt::Display for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, class, ttl, rdata, .. } = self;
        write!(f, "{name} {ttl} {class} {} {rdata}", self.record_type())
    }
}

/// The data of a record that outlives the message, or was never in one: uncompressed, in shared memory. Equality is that
/// of [`RData`].
#[derive(Clone)]
pub struct RecordData {
    record_type: RecordType,
    bytes: Arc<[u8]>,
}

impl RecordData {
    /// A copy of `rdata`. It allocates.
    pub fn new(rdata: &RData<'_>) -> Self {
        let mut bytes = Vec::new();
        rdata.write_to(&mut bytes);
        Self { record_type: rdata.record_type(), bytes: bytes.into() }
    }

    /// The type of a record with this data.
    #[inline]
    pub fn record_type(&self) -> RecordType {
        self.record_type
    }

    /// The uncompressed bytes: what [`RData::cmp_uncompressed`] compares with.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What the data says.
    #[inline]
    pub fn as_rdata(&self) -> RData<'_> {
        RData::read_own(&self.bytes, self.record_type)
    }
}

impl From<RData<'_>> for RecordData {
    fn from(rdata: RData<'_>) -> Self {
        Self::new(&rdata)
    }
}

impl PartialEq for RecordData {
    fn eq(&self, other: &Self) -> bool {
        self.record_type == other.record_type
            && (self.bytes == other.bytes || self.as_rdata() == other.as_rdata())
    }
}

impl PartialEq<RData<'_>> for RecordData {
    fn eq(&self, other: &RData<'_>) -> bool {
        self.as_rdata() == *other
    }
}

impl Eq for RecordData {}

impl fmt::Display for RecordData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_rdata().fmt(f)
    }
}

impl fmt::Debug for RecordData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordData({} {self})", self.record_type)
    }
}
