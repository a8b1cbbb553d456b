//! Messages written into a buffer, record by record, names compressed.

use super::message::TOP_BIT;
use super::name::Name;
use super::rdata::Sink;
use super::{HEADER_LEN, Header, Question, Record, RecordType, Section};

/// The most suffixes that names can be compressed with; later ones are written in full.
const SUFFIXES_MAX: usize = 128;

/// Offsets that a pointer of 14 bits can hold.
const POINTER_OFFSET_MAX: usize = 0x3fff;

/// The longest a legacy querier may keep a record, in seconds (RFC 6762 §6.7).
const LEGACY_TTL_MAX: u32 = 10;

/// For whom a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// For those who speak multicast DNS: names are compressed in the data of SRV and NSEC records too (RFC 6762 §18.14).
    Mdns,
    /// For a legacy querier, who speaks plain DNS (RFC 6762 §6.7): no cache-flush bit, no TTL above 10 s, names in data
    /// compressed only where RFC 1035 §4.1.4 and RFC 3597 §4 allow it.
    Legacy,
}

/// Writes a message into a buffer, without allocating. What does not fit is not written in part: `push` says so and the
/// message is as before.
///
/// ```
/// use mdns::wire::{Class, Header, Mode, NameBuf, Question, RecordType, Writer};
///
/// let name: NameBuf = "_http._tcp.local".parse()?;
/// let question = Question {
///     name: name.as_name(),
///     record_type: RecordType::PTR,
///     class: Class::IN,
///     unicast_response: false,
/// };
/// let mut buf = [0; 40];
/// let mut writer = Writer::new(&mut buf, Mode::Mdns, Header::QUERY);
/// assert!(writer.push_question(&question)); // 12 bytes of header, 18 of name, 4 of type and class
/// assert!(writer.push_question(&question)); // 2 of pointer, 4 of type and class
/// assert!(!writer.push_question(&question));
/// assert_eq!(writer.finish().len(), 40);
/// # Ok::<(), mdns::wire::InvalidName>(())
/// ```
#[derive(Debug)]
pub struct Writer<'b> {
    output: Output<'b>,
    mode: Mode,
    header: Header,
    /// Questions, answers, authorities, additionals.
    counts: [u16; 4],
}

impl<'b> Writer<'b> {
    /// A message that has nothing but a header yet. In a buffer shorter than that nothing fits, not even the header:
    /// [`finish`](Self::finish) returns no bytes.
    #[inline]
    pub fn new(buf: &'b mut [u8], mode: Mode, header: Header) -> Self {
        let output = Output { buf, len: HEADER_LEN, suffixes: Suffixes::default() };
        Self { output, mode, header, counts: [0; 4] }
    }

    /// Writes a question; returns whether it fitted. Questions come before all records.
    #[inline]
    pub fn push_question(&mut self, question: &Question<'_>) -> bool {
        debug_assert_eq!(self.counts[1..], [0; 3], "questions come before records");
        let class = question.class.0 & !TOP_BIT | if question.unicast_response { TOP_BIT } else { 0 };
        let [a, b] = question.record_type.0.to_be_bytes();
        let [c, d] = class.to_be_bytes();
        self.push_whole(0, |output| output.compressed(question.name) && output.bytes(&[a, b, c, d]))
    }

    /// Writes a record; returns whether it fitted. Sections come in the order of [`Section`].
    #[inline]
    pub fn push(&mut self, section: Section, record: &Record<'_>) -> bool {
        let index = section as usize + 1;
        debug_assert!(self.counts[index + 1..].iter().all(|count| *count == 0), "{section:?} comes earlier");
        let (mut class, mut ttl) = (record.class.0 & !TOP_BIT, record.ttl);
        match self.mode {
            Mode::Mdns if record.cache_flush => class |= TOP_BIT,
            Mode::Mdns => {}
            Mode::Legacy => ttl = ttl.min(LEGACY_TTL_MAX),
        }
        let record_type = record.record_type();
        let compress = self.mode == Mode::Mdns || is_compressed_everywhere(record_type);
        self.push_whole(index, |output| {
            output.compressed(record.name)
                && output.bytes(&record_type.0.to_be_bytes())
                && output.bytes(&class.to_be_bytes())
                && output.bytes(&ttl.to_be_bytes())
                // The length of the data, until that is known.
                && output.bytes(&[0; 2])
                && output.data(|output| record.rdata.write_to(&mut Data { output, compress }))
        })
    }

    /// Calls `write`; takes back what it wrote if it did not all fit.
    #[inline]
    fn push_whole(&mut self, index: usize, write: impl FnOnce(&mut Output<'b>) -> bool) -> bool {
        let (len, suffixes) = (self.output.len, self.output.suffixes.count);
        let Some(count) = self.counts[index].checked_add(1) else { return false };
        let fitted = write(&mut self.output);
        if fitted {
            self.counts[index] = count;
        } else {
            self.output.len = len;
            self.output.suffixes.count = suffixes;
        }
        fitted
    }

    /// Says in the header that more known answers follow (RFC 6762 §7.2).
    pub fn set_truncated(&mut self) {
        self.header.truncated = true;
    }

    /// Bytes written, the header included.
    #[inline]
    pub fn len(&self) -> usize {
        self.output.len
    }

    /// Whether there is neither a question nor a record.
    pub fn is_empty(&self) -> bool {
        self.counts == [0; 4]
    }

    /// Completes the header and returns the message.
    #[inline]
    pub fn finish(self) -> &'b [u8] {
        let Output { buf, len, .. } = self.output;
        let Some(written) = buf.get_mut(..len) else { return &[] };
        let (flags, counts) = written[..HEADER_LEN].split_at_mut(4);
        flags.copy_from_slice(&self.header.to_bytes());
        counts.copy_from_slice(self.counts.map(u16::to_be_bytes).as_flattened());
        written
    }
}

/// Whether even a reader of 1987 expects compressed names in the data of that type (RFC 3597 §4).
fn is_compressed_everywhere(record_type: RecordType) -> bool {
    matches!(
        record_type,
        RecordType::NS | RecordType::CNAME | RecordType::SOA | RecordType::PTR | RecordType::MX
    )
}

/// The bytes so far.
#[derive(Debug)]
struct Output<'b> {
    buf: &'b mut [u8],
    len: usize,
    suffixes: Suffixes,
}

impl Output<'_> {
    /// Writes what `data` writes after the two zero bytes that were written last, and its length into them.
    #[inline]
    fn data(&mut self, data: impl FnOnce(&mut Self) -> bool) -> bool {
        let start = self.len;
        if !data(self) {
            return false;
        }
        let Ok(length) = u16::try_from(self.len - start) else { return false };
        self.buf[start - 2..start].copy_from_slice(&length.to_be_bytes());
        true
    }

    /// Writes the labels of `name` up to a suffix that is in the message already, and a pointer to that.
    #[inline]
    fn compressed(&mut self, name: Name<'_>) -> bool {
        let mut suffix = name;
        let mut suffix_len = name.wire_len();
        loop {
            let mut labels = suffix.labels();
            let Some(label) = labels.next() else { return self.bytes(&[0]) };
            if let Some(offset) = self.suffixes.find(self.buf, suffix, suffix_len) {
                return self.bytes(&(0xc000 | offset).to_be_bytes());
            }
            let offset = self.len;
            if !self.bytes(&[label.len() as u8]) || !self.bytes(label) {
                return false;
            }
            self.suffixes.add(offset, suffix_len);
            suffix_len -= 1 + label.len();
            suffix = labels.rest();
        }
    }
}

impl Sink for Output<'_> {
    #[inline]
    fn bytes(&mut self, bytes: &[u8]) -> bool {
        let Some(room) = self.buf.get_mut(self.len..self.len + bytes.len()) else { return false };
        room.copy_from_slice(bytes);
        self.len += bytes.len();
        true
    }
}

/// The data of one record on its way out.
struct Data<'o, 'b> {
    output: &'o mut Output<'b>,
    compress: bool,
}

impl Sink for Data<'_, '_> {
    #[inline]
    fn bytes(&mut self, bytes: &[u8]) -> bool {
        self.output.bytes(bytes)
    }

    #[inline]
    fn name(&mut self, name: Name<'_>) -> bool {
        if self.compress { self.output.compressed(name) } else { self.output.name(name) }
    }
}

/// Where in the message names begin that later ones may end in. Few have the same length, so the length is looked for and
/// only what has it is compared, case included: what one wrote `Printer` is not to reach others as `PRINTER`.
#[derive(Debug)]
struct Suffixes {
    /// Bytes of each when uncompressed.
    lens: [u8; SUFFIXES_MAX],
    offsets: [u16; SUFFIXES_MAX],
    count: usize,
}

impl Default for Suffixes {
    fn default() -> Self {
        Self { lens: [0; SUFFIXES_MAX], offsets: [0; SUFFIXES_MAX], count: 0 }
    }
}

impl Suffixes {
    #[inline]
    fn find(&self, message: &[u8], suffix: Name<'_>, suffix_len: usize) -> Option<u16> {
        self.lens[..self.count].iter().zip(&self.offsets).find_map(|(len, offset)| {
            let same = usize::from(*len) == suffix_len
                && Name::checked(message, usize::from(*offset)).is_identical(suffix);
            same.then_some(*offset)
        })
    }

    #[inline]
    fn add(&mut self, offset: usize, len: usize) {
        if offset <= POINTER_OFFSET_MAX && self.count < SUFFIXES_MAX {
            self.lens[self.count] = len as u8;
            self.offsets[self.count] = offset as u16;
            self.count += 1;
        }
    }
}
