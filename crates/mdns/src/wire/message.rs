//! Whole messages: checked once, then walked without a way to fail.

use std::fmt;

use super::name::{self, Checker, Name};
use super::{
    Class, HEADER_LEN, Header, MESSAGE_LEN_MAX, ParseError, Question, RData, Record, RecordType, Section,
    be16, rdata,
};

/// Bytes of the shortest question: the root, type, class.
const QUESTION_LEN_MIN: usize = 5;
/// Bytes of the shortest record: the root, type, class, TTL, length.
const RECORD_LEN_MIN: usize = 11;
/// Bytes of a record between its name and its data.
const RECORD_FIXED: usize = 10;

/// The most labels in all names of a message, pointers followed. Known answers of usual services have three labels a name, so
/// that a message of 9,000 bytes has 3,000; reverse names of IPv6 have 34, but come one or two in a message.
pub(super) const LABELS_MAX: usize = 16_384;

/// The bit that shares its 16 bits with the class.
pub(super) const TOP_BIT: u16 = 0x8000;

/// A message in its buffer.
///
/// ```
/// use mdns::wire::{Message, ParseError, RecordType};
///
/// let query = b"\0\0\0\0\0\x01\0\0\0\0\0\0\x03nas\x05local\0\0\x1c\x80\x01";
/// let message = Message::parse(query)?;
/// let question = message.questions().next().expect("one question");
/// assert_eq!((question.record_type, question.unicast_response), (RecordType::AAAA, true));
/// assert_eq!(question.to_string(), "nas.local IN AAAA QU");
///
/// assert_eq!(Message::parse(&query[..20]).err(), Some(ParseError::Truncated));
/// # Ok::<(), ParseError>(())
/// ```
#[derive(Clone, Copy)]
pub struct Message<'a> {
    bytes: &'a [u8],
    header: Header,
    /// Questions, answers, authorities, additionals.
    counts: [u16; 4],
    /// Where the records of each section begin.
    records_at: [usize; 3],
}

impl<'a> Message<'a> {
    /// Checks all of `bytes` but what follows the last record, which is ignored.
    ///
    /// # Errors
    /// The first thing that is wrong.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        if bytes.len() > MESSAGE_LEN_MAX {
            return Err(ParseError::TooLong);
        }
        let (header, counts) = Self::parse_header(bytes)?;
        let [questions, sections @ ..] = counts;
        let records: usize = sections.into_iter().map(usize::from).sum();
        if HEADER_LEN + usize::from(questions) * QUESTION_LEN_MIN + records * RECORD_LEN_MIN > bytes.len() {
            return Err(ParseError::Counts);
        }
        let (mut at, mut names) = (HEADER_LEN, Checker::new(LABELS_MAX));
        for _ in 0..questions {
            at = names.check(bytes, at, bytes.len())? + 4;
        }
        let mut records_at = [0; 3];
        for (start, count) in records_at.iter_mut().zip(sections) {
            *start = at;
            for _ in 0..count {
                at = check_record(bytes, at, &mut names)?;
            }
        }
        // The last question may have been cut off.
        let bytes = bytes.get(..at).ok_or(ParseError::Truncated)?;
        Ok(Self { bytes, header, counts, records_at })
    }

    #[inline]
    fn parse_header(bytes: &[u8]) -> Result<(Header, [u16; 4]), ParseError> {
        let header = Header::read(bytes).ok_or(ParseError::Header)?;
        let mut counts = [0; 4];
        for (index, count) in counts.iter_mut().enumerate() {
            *count = be16(bytes, 4 + 2 * index).ok_or(ParseError::Header)?;
        }
        Ok((header, counts))
    }

    /// The header.
    #[inline]
    pub fn header(&self) -> Header {
        self.header
    }

    /// The bytes of the message, without what followed it.
    #[inline]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The questions.
    #[inline]
    pub fn questions(&self) -> Questions<'a> {
        Questions { message: self.bytes, at: HEADER_LEN, left: self.counts[0] }
    }

    /// The records of one section.
    #[inline]
    pub fn section(&self, section: Section) -> Records<'a> {
        let index = section as usize;
        Records { message: self.bytes, at: self.records_at[index], left: u32::from(self.counts[index + 1]) }
    }

    /// What was asked for; in a query, the answers that are known already.
    #[inline]
    pub fn answers(&self) -> Records<'a> {
        self.section(Section::Answer)
    }

    /// In a probe, the records that are to become unique.
    #[inline]
    pub fn authorities(&self) -> Records<'a> {
        self.section(Section::Authority)
    }

    /// What the asker will want next.
    #[inline]
    pub fn additionals(&self) -> Records<'a> {
        self.section(Section::Additional)
    }

    /// The records of all sections, in their order.
    #[inline]
    pub fn records(&self) -> Records<'a> {
        let left = self.counts[1..].iter().map(|count| u32::from(*count)).sum();
        Records { message: self.bytes, at: self.records_at[0], left }
    }
}

/// Checks the record at `at` and returns where the next one is.
#[inline]
fn check_record(bytes: &[u8], at: usize, names: &mut Checker) -> Result<usize, ParseError> {
    let fixed = names.check(bytes, at, bytes.len())?;
    let at = fixed + RECORD_FIXED;
    let (Some(record_type), Some(length)) = (be16(bytes, fixed), be16(bytes, fixed + 8)) else {
        return Err(ParseError::Truncated);
    };
    let end = at + usize::from(length);
    if end > bytes.len() {
        return Err(ParseError::Truncated);
    }
    rdata::check(bytes, RecordType(record_type), at, end, names)?;
    Ok(end)
}

/// Two messages are equal if they say the same in the same order, however they are compressed.
impl PartialEq for Message<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.header == other.header
            && self.counts == other.counts
            && self.questions().eq(other.questions())
            && self.records().eq(other.records())
    }
}

impl Eq for Message<'_> {}

impl fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = |records: Records<'_>| records.map(|record| record.to_string()).collect::<Vec<_>>();
        f.debug_struct("Message")
            .field("header", &self.header)
            .field("questions", &self.questions().map(|question| question.to_string()).collect::<Vec<_>>())
            .field("answers", &lines(self.answers()))
            .field("authorities", &lines(self.authorities()))
            .field("additionals", &lines(self.additionals()))
            .finish()
    }
}

/// The questions of a [`Message`].
#[derive(Clone, Debug)]
pub struct Questions<'a> {
    message: &'a [u8],
    at: usize,
    left: u16,
}

impl<'a> Iterator for Questions<'a> {
    type Item = Question<'a>;

    #[inline]
    fn next(&mut self) -> Option<Question<'a>> {
        self.left = self.left.checked_sub(1)?;
        let fixed = name::skip(self.message, self.at)?;
        let class = be16(self.message, fixed + 2)?;
        let question = Question {
            name: Name::checked(self.message, self.at),
            record_type: RecordType(be16(self.message, fixed)?),
            class: Class(class & !TOP_BIT),
            unicast_response: class & TOP_BIT != 0,
        };
        self.at = fixed + 4;
        Some(question)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for Questions<'_> {}

/// Records of a [`Message`].
#[derive(Clone, Debug)]
pub struct Records<'a> {
    message: &'a [u8],
    at: usize,
    left: u32,
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    #[inline]
    fn next(&mut self) -> Option<Record<'a>> {
        self.left = self.left.checked_sub(1)?;
        let fixed_at = name::skip(self.message, self.at)?;
        let fixed: &[u8; RECORD_FIXED] = self.message.get(fixed_at..)?.first_chunk()?;
        let &[type_high, type_low, class_high, class_low, ttl @ .., length_high, length_low] = fixed;
        let class = u16::from_be_bytes([class_high, class_low]);
        let rdata_at = fixed_at + RECORD_FIXED;
        let end = rdata_at + usize::from(u16::from_be_bytes([length_high, length_low]));
        let record_type = RecordType(u16::from_be_bytes([type_high, type_low]));
        let record = Record {
            name: Name::checked(self.message, self.at),
            class: Class(class & !TOP_BIT),
            cache_flush: class & TOP_BIT != 0,
            ttl: u32::from_be_bytes(ttl),
            rdata: RData::read(self.message, record_type, rdata_at, end)?,
        };
        self.at = end;
        Some(record)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl ExactSizeIterator for Records<'_> {}
