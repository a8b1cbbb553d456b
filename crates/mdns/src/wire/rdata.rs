//! The data of records: what each type has in it, and where the names in it are.

use std::cmp::Ordering;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::message::LABELS_MAX;
use super::name::{self, Checker, Name};
use super::{ParseError, RecordType, Txt, TypeBitmap, be16};

/// The data of a record. Equality ignores the case of the names in it, and whether they are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RData<'a> {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// The name that this one points to: in DNS-SD an instance, or a type of service.
    Ptr(Name<'a>),
    /// The name that this one is an alias of.
    Cname(Name<'a>),
    /// Where a service is.
    Srv(Srv<'a>),
    /// The attributes of a service.
    Txt(Txt<'a>),
    /// Which types a name has.
    Nsec(Nsec<'a>),
    /// All other types. An NSEC record that is not well-formed is here too, and so is an address of another length than those
    /// have: it is to be ignored, not its message (RFC 6762 §6.1).
    Other(OtherData<'a>),
}

/// Where a service is (RFC 2782).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Srv<'a> {
    /// Lower is to be tried first.
    pub priority: u16,
    /// The share of this one among those of one priority.
    pub weight: u16,
    /// The port.
    pub port: u16,
    /// The host.
    pub target: Name<'a>,
}

/// Which types a name has (RFC 4034 §4, RFC 6762 §6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nsec<'a> {
    /// In multicast DNS the record's own name.
    pub next: Name<'a>,
    /// The types.
    pub types: TypeBitmap<'a>,
}

/// The data of a type that has no variant of its own in [`RData`].
#[derive(Clone, Copy)]
pub struct OtherData<'a> {
    record_type: RecordType,
    layout: Layout,
    /// What the pointers in it count from.
    message: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> OtherData<'a> {
    /// Data of `record_type` without names in it, or with uncompressed ones.
    ///
    /// # Errors
    /// When the type knows names where there are none.
    pub fn new(record_type: RecordType, bytes: &'a [u8]) -> Result<Self, ParseError> {
        check(bytes, record_type, 0, bytes.len(), &mut Checker::new(LABELS_MAX))?;
        let layout = Layout::of(record_type);
        Ok(Self { record_type, layout, message: bytes, at: 0, end: bytes.len() })
    }

    /// The type of the record.
    pub fn record_type(&self) -> RecordType {
        self.record_type
    }

    /// The bytes as they are in the message: where a type has names in it, they may be compressed and mean nothing outside
    /// of it.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.message.get(self.at..self.end).unwrap_or_default()
    }

    /// The bytes before the names, the names, and the bytes after them.
    fn parts(&self) -> Option<Parts<'a>> {
        let mut at = self.at + self.layout.before;
        let before = self.message.get(self.at..at)?;
        let mut names = [None; 2];
        for name in names.iter_mut().take(self.layout.names) {
            *name = Some(Name::checked(self.message, at));
            at = name::skip(self.message, at)?;
        }
        Some(Parts { before, names, after: self.message.get(at..self.end)? })
    }
}

/// Data whose names have been found.
#[derive(PartialEq, Eq)]
struct Parts<'a> {
    before: &'a [u8],
    names: [Option<Name<'a>>; 2],
    after: &'a [u8],
}

impl PartialEq for OtherData<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.record_type == other.record_type && self.parts() == other.parts()
    }
}

impl Eq for OtherData<'_> {}

impl fmt::Debug for OtherData<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Other({} {self})", self.record_type)
    }
}

/// RFC 3597 §5: a backslash, a number sign, the length and the bytes.
impl fmt::Display for OtherData<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, r"\# {}", self.end - self.at)?;
        if self.at < self.end {
            f.write_str(" ")?;
        }
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Where in the data of a type names are, since they may be compressed there (RFC 6762 §18.14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    /// Bytes before the names.
    before: usize,
    /// How many names: at most two.
    names: usize,
    /// What may come after them.
    after: After,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Exactly(usize),
    Anything,
}

impl Layout {
    /// Bytes that mean nothing to us.
    const OPAQUE: Self = Self { before: 0, names: 0, after: After::Anything };

    #[inline]
    const fn of(record_type: RecordType) -> Self {
        let (before, names, after) = match record_type {
            RecordType::NS | RecordType::CNAME | RecordType::PTR | RecordType::DNAME => (0, 1, 0),
            RecordType::MX | RecordType::AFSDB | RecordType::RT | RecordType::KX => (2, 1, 0),
            RecordType::SRV => (6, 1, 0),
            RecordType::RP => (0, 2, 0),
            RecordType::PX => (2, 2, 0),
            RecordType::SOA => (0, 2, 20),
            _ => return Self::OPAQUE,
        };
        Self { before, names, after: After::Exactly(after) }
    }
}

/// Checks the data of a record, which is at `at..end`. What is wrong with data that no pointer leads into is no reason to drop its
/// message, which may have all that is needed to reach an old printer beside a TXT record that is cut off.
#[inline]
pub(super) fn check(
    message: &[u8],
    record_type: RecordType,
    at: usize,
    end: usize,
    names: &mut Checker,
) -> Result<(), ParseError> {
    match record_type {
        RecordType::TXT | RecordType::A | RecordType::AAAA => {
            return message.get(at..end).map(drop).ok_or(ParseError::Truncated);
        }
        RecordType::NSEC => {
            return match names.check(message, at, end) {
                Err(ParseError::Labels) => Err(ParseError::Labels),
                _ => Ok(()),
            };
        }
        _ => {}
    }
    let layout = Layout::of(record_type);
    let mut at = at + layout.before;
    for _ in 0..layout.names {
        at = names.check(message, at, end)?;
    }
    let fits = match layout.after {
        After::Exactly(after) => at + after == end,
        After::Anything => at <= end,
    };
    if fits { Ok(()) } else { Err(ParseError::Rdata) }
}

/// What takes the data of a record piece by piece. Each method says whether it wants the next piece.
pub(super) trait Sink {
    /// Bytes that are on the wire as they are.
    fn bytes(&mut self, bytes: &[u8]) -> bool;

    /// A name that may be compressed; uncompressed by default.
    #[inline]
    fn name(&mut self, name: Name<'_>) -> bool {
        name.labels().all(|label| self.bytes(&[label.len() as u8]) && self.bytes(label)) && self.bytes(&[0])
    }
}

impl Sink for Vec<u8> {
    fn bytes(&mut self, bytes: &[u8]) -> bool {
        self.extend_from_slice(bytes);
        true
    }
}

/// Compares the bytes it is given with others.
struct Comparison<'a> {
    ordering: Ordering,
    /// What is to come on the other side.
    rest: &'a [u8],
}

impl Sink for Comparison<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> bool {
        let (theirs, rest) = self.rest.split_at(bytes.len().min(self.rest.len()));
        self.ordering = bytes.cmp(theirs);
        self.rest = rest;
        self.ordering.is_eq()
    }
}

impl<'a> RData<'a> {
    /// Reads the data at `at..end`, which [`check`] has found to be right.
    #[inline]
    pub(super) fn read(
        message: &'a [u8],
        record_type: RecordType,
        at: usize,
        end: usize,
    ) -> Option<RData<'a>> {
        let bytes = message.get(at..end)?;
        let opaque = || Self::Other(OtherData { record_type, layout: Layout::OPAQUE, message, at, end });
        Some(match record_type {
            RecordType::A => <[u8; 4]>::try_from(bytes).map_or_else(|_| opaque(), |ip| Self::A(ip.into())),
            RecordType::AAAA => {
                <[u8; 16]>::try_from(bytes).map_or_else(|_| opaque(), |ip| Self::Aaaa(ip.into()))
            }
            RecordType::PTR => Self::Ptr(Name::checked(message, at)),
            RecordType::CNAME => Self::Cname(Name::checked(message, at)),
            RecordType::SRV => Self::Srv(Srv {
                priority: be16(bytes, 0)?,
                weight: be16(bytes, 2)?,
                port: be16(bytes, 4)?,
                target: Name::checked(message, at + 6),
            }),
            RecordType::TXT => Self::Txt(Txt::as_received(bytes)),
            RecordType::NSEC => Self::read_nsec(message, at, end),
            _ => {
                let layout = Layout::of(record_type);
                Self::Other(OtherData { record_type, layout, message, at, end })
            }
        })
    }

    /// Reads data that is all of `bytes`, with no pointer in it.
    #[inline]
    pub(super) fn read_own(bytes: &'a [u8], record_type: RecordType) -> RData<'a> {
        let (at, end) = (0, bytes.len());
        let opaque =
            || Self::Other(OtherData { record_type, layout: Layout::OPAQUE, message: bytes, at, end });
        Self::read(bytes, record_type, at, end).unwrap_or_else(opaque)
    }

    /// NSEC data, well-formed or not.
    fn read_nsec(message: &'a [u8], at: usize, end: usize) -> RData<'a> {
        let nsec = || {
            let after = Checker::new(LABELS_MAX).check(message, at, end).ok()?;
            let types = TypeBitmap::parse(message.get(after..end)?)?;
            Some(Self::Nsec(Nsec { next: Name::checked(message, at), types }))
        };
        let (record_type, layout) = (RecordType::NSEC, Layout::OPAQUE);
        nsec().unwrap_or(Self::Other(OtherData { record_type, layout, message, at, end }))
    }

    /// The type of a record with this data.
    #[inline]
    pub fn record_type(&self) -> RecordType {
        match self {
            Self::A(_) => RecordType::A,
            Self::Aaaa(_) => RecordType::AAAA,
            Self::Ptr(_) => RecordType::PTR,
            Self::Cname(_) => RecordType::CNAME,
            Self::Srv(_) => RecordType::SRV,
            Self::Txt(_) => RecordType::TXT,
            Self::Nsec(_) => RecordType::NSEC,
            Self::Other(other) => other.record_type,
        }
    }

    /// Hands the data to `sink`, in its order on the wire; returns whether it took everything.
    #[inline]
    pub(super) fn write_to(&self, sink: &mut impl Sink) -> bool {
        match self {
            Self::A(address) => sink.bytes(&address.octets()),
            Self::Aaaa(address) => sink.bytes(&address.octets()),
            Self::Ptr(target) | Self::Cname(target) => sink.name(*target),
            Self::Srv(srv) => {
                let numbers = [srv.priority, srv.weight, srv.port].map(u16::to_be_bytes);
                sink.bytes(numbers.as_flattened()) && sink.name(srv.target)
            }
            Self::Txt(txt) => sink.bytes(txt.as_bytes()),
            Self::Nsec(nsec) => sink.name(nsec.next) && sink.bytes(nsec.types.as_bytes()),
            Self::Other(other) => other.parts().is_some_and(|Parts { before, names, after }| {
                sink.bytes(before)
                    && names.into_iter().flatten().all(|name| sink.name(name))
                    && sink.bytes(after)
            }),
        }
    }

    /// How the data, uncompressed, compares to `bytes`: as numbers without sign, in the case they are written in. This is
    /// what decides between two hosts that probe for one name (RFC 6762 §8.2).
    pub fn cmp_uncompressed(&self, bytes: &[u8]) -> Ordering {
        let mut comparison = Comparison { ordering: Ordering::Equal, rest: bytes };
        let equal = self.write_to(&mut comparison);
        if equal && !comparison.rest.is_empty() { Ordering::Less } else { comparison.ordering }
    }
}

/// As zone files have it (RFC 1035 §5.1); what has no form there as RFC 3597 §5 says.
impl fmt::Display for RData<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::A(address) => address.fmt(f),
            Self::Aaaa(address) => address.fmt(f),
            Self::Ptr(target) | Self::Cname(target) => target.fmt(f),
            Self::Srv(Srv { priority, weight, port, target }) => {
                write!(f, "{priority} {weight} {port} {target}")
            }
            Self::Txt(txt) => txt.fmt(f),
            Self::Nsec(nsec) => {
                nsec.next.fmt(f)?;
                nsec.types.types().try_for_each(|record_type| write!(f, " {record_type}"))
            }
            Self::Other(other) => other.fmt(f),
        }
    }
}
