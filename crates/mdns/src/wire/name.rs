//! Names where they are: a view into a message, compressed or not.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use super::text::write_label;
use super::{HEADER_LEN, NAME_LEN_MAX, NameBuf, ParseError};

/// The most pointers in one name. A writer that points at the longest known suffix needs one for each name that another
/// extends: three or four. This is the fuse against names that cost more to follow than to send.
const HOPS_MAX: usize = 32;

/// A name in a message, or in a [`NameBuf`]: labels from the most specific to the least, the root not counted.
///
/// Equality, hash and order ignore the case of ASCII letters and nothing else (RFC 6762 §16), and do not depend on compression.
/// The order is that of the uncompressed lower-case bytes, lengths included.
///
/// ```
/// use mdns::wire::NameBuf;
///
/// let name: NameBuf = "Living room._airplay._tcp.local".parse()?;
/// assert_eq!(name, "LIVING ROOM._AirPlay._TCP.Local.".parse::<NameBuf>()?);
/// assert_eq!(name.as_name().labels().next(), Some(b"Living room".as_slice()));
/// assert_eq!(name.as_name().parent().map(|parent| parent.to_string()).as_deref(), Some("_airplay._tcp.local"));
/// # Ok::<(), mdns::wire::InvalidName>(())
/// ```
#[derive(Clone, Copy)]
pub struct Name<'a> {
    /// What offsets count from: the whole message.
    message: &'a [u8],
    /// Where the name begins. From here on every label is inside `message`, and all of them together are at most
    /// [`NAME_LEN_MAX`] bytes: whoever makes a `Name` has seen to it.
    at: usize,
}

impl<'a> Name<'a> {
    /// The name at `at`, which a [`Checker`] has found to be one.
    #[inline]
    pub(super) fn checked(message: &'a [u8], at: usize) -> Self {
        Self { message, at }
    }

    /// The labels, from the most specific to the least, without the empty one of the root.
    #[inline]
    pub fn labels(&self) -> Labels<'a> {
        Labels { message: self.message, at: self.at }
    }

    /// The name that remains without the first label; `None` for the root.
    #[inline]
    pub fn parent(&self) -> Option<Name<'a>> {
        let mut labels = self.labels();
        labels.next()?;
        Some(labels.rest())
    }

    /// Whether this is the root, which has no label.
    #[inline]
    pub fn is_root(&self) -> bool {
        self.labels().next().is_none()
    }

    /// Whether this is `ancestor` or below it.
    pub fn is_within(&self, ancestor: Name<'_>) -> bool {
        let mut name = Some(*self);
        while let Some(candidate) = name {
            if candidate == ancestor {
                return true;
            }
            name = candidate.parent();
        }
        false
    }

    /// Bytes that the name takes uncompressed, the last zero included: 1 to [`NAME_LEN_MAX`].
    #[inline]
    pub fn wire_len(&self) -> usize {
        self.labels().map(|label| 1 + label.len()).sum::<usize>() + 1
    }

    /// An owned copy. It allocates.
    pub fn to_owned(&self) -> NameBuf {
        NameBuf::copy(*self)
    }

    /// Whether the labels are the same byte by byte, case and all.
    #[inline]
    pub(super) fn is_identical(&self, other: Name<'_>) -> bool {
        self.eq_by(other, |left, right| left == right)
    }

    #[inline]
    fn eq_by(&self, other: Name<'_>, same: impl Fn(&[u8], &[u8]) -> bool) -> bool {
        let (mut left, mut right) = (*self, other);
        loop {
            // Names of one message often end in the same bytes.
            if left.is_same_place(&right) {
                return true;
            }
            let (mut left_labels, mut right_labels) = (left.labels(), right.labels());
            match (left_labels.next(), right_labels.next()) {
                (Some(l), Some(r)) if same(l, r) => (left, right) = (left_labels.rest(), right_labels.rest()),
                (None, None) => return true,
                _ => return false,
            }
        }
    }

    /// Whether two names are one place in memory: equal without a look at a label.
    #[inline]
    fn is_same_place(&self, other: &Name<'_>) -> bool {
        self.at == other.at && std::ptr::eq(self.message, other.message)
    }
}

/// The labels of a [`Name`].
#[derive(Clone, Debug)]
pub struct Labels<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Labels<'a> {
    /// The name that the labels to come are.
    #[inline]
    pub(super) fn rest(&self) -> Name<'a> {
        Name { message: self.message, at: self.at }
    }
}

impl<'a> Iterator for Labels<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let rest = self.message.get(self.at..)?;
            let (&length, rest) = rest.split_first()?;
            match length {
                0 => return None,
                0xc0.. => self.at = pointer(length, *rest.first()?),
                _ => {
                    self.at += 1 + usize::from(length);
                    return rest.get(..usize::from(length));
                }
            }
        }
    }
}

/// Where a pointer of these two bytes leads.
#[inline]
fn pointer(high: u8, low: u8) -> usize {
    usize::from(u16::from_be_bytes([high & 0x3f, low]))
}

/// Checks the names of one message, in their order.
pub(super) struct Checker {
    /// How many more labels its names may have, pointers followed.
    labels_left: usize,
    /// The name that the last pointer led to: most of the next ones lead there too.
    known: Tail,
}

/// What a name that has been checked adds to one that ends in it.
#[derive(Clone, Copy, Default)]
struct Tail {
    /// Where it is; 0, which is in the header, if there is none yet.
    at: usize,
    /// Bytes of its labels with their lengths.
    len: usize,
    labels: usize,
    pointers: usize,
}

impl Checker {
    /// For names that have so many labels together at most.
    #[inline]
    pub(super) fn new(labels_max: usize) -> Self {
        Self { labels_left: labels_max, known: Tail::default() }
    }

    /// Checks the name at `start` and returns where the bytes after it begin. Its own labels may not go past `end`; a
    /// pointer leads to before the labels that it ends, so that there is an end.
    #[inline]
    pub(super) fn check(&mut self, message: &[u8], start: usize, end: usize) -> Result<usize, ParseError> {
        let bytes = message.get(..end).ok_or(ParseError::Truncated)?;
        // `at` is where we are, `run` where the labels begin that are not separated from it by a pointer.
        let (mut at, mut run) = (start, start);
        let mut seen = Tail::default();
        // Where the first pointer is, and what was seen before it.
        let mut first: Option<(usize, Tail)> = None;
        loop {
            let length = *bytes.get(at).ok_or(ParseError::Truncated)?;
            match length {
                0 => break,
                1..0x40 => {
                    at += 1 + usize::from(length);
                    seen.len += 1 + usize::from(length);
                    seen.labels += 1;
                }
                0xc0.. => {
                    let target = pointer(length, *bytes.get(at + 1).ok_or(ParseError::Truncated)?);
                    if target >= run || target < HEADER_LEN {
                        return Err(ParseError::Pointer);
                    }
                    first = first.or(Some((at, Tail { at: target, ..seen })));
                    seen.pointers += 1;
                    if target == self.known.at {
                        seen.len += self.known.len;
                        seen.labels += self.known.labels;
                        seen.pointers += self.known.pointers;
                        break;
                    }
                    (at, run) = (target, target);
                }
                _ => return Err(ParseError::LabelType),
            }
            seen.check()?;
        }
        seen.check()?;
        self.labels_left = self.labels_left.checked_sub(seen.labels).ok_or(ParseError::Labels)?;
        let Some((pointer_at, before)) = first else { return Ok(at + 1) };
        self.known = Tail {
            at: before.at,
            len: seen.len - before.len,
            labels: seen.labels - before.labels,
            pointers: seen.pointers - before.pointers - 1,
        };
        Ok(pointer_at + 2)
    }
}

impl Tail {
    /// Whether what was seen of a name is not too much already.
    #[inline]
    fn check(&self) -> Result<(), ParseError> {
        if self.len >= NAME_LEN_MAX {
            return Err(ParseError::NameTooLong);
        }
        if self.pointers > HOPS_MAX { Err(ParseError::Hops) } else { Ok(()) }
    }
}

/// Where the bytes after the name at `at` begin. The name has been checked.
#[inline]
pub(super) fn skip(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            0xc0.. => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

impl PartialEq<Name<'_>> for Name<'_> {
    #[inline]
    fn eq(&self, other: &Name<'_>) -> bool {
        self.eq_by(*other, <[u8]>::eq_ignore_ascii_case)
    }
}

impl PartialEq<NameBuf> for Name<'_> {
    fn eq(&self, other: &NameBuf) -> bool {
        *self == other.as_name()
    }
}

impl Eq for Name<'_> {}

impl Hash for Name<'_> {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut folded = [0; 64];
        for label in self.labels() {
            let Some((length, text)) = folded[..=label.len()].split_first_mut() else { continue };
            *length = label.len() as u8;
            text.copy_from_slice(label);
            text.make_ascii_lowercase();
            state.write(&folded[..=label.len()]);
        }
        state.write_u8(0);
    }
}

impl Ord for Name<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let (mut left, mut right) = (self.labels(), other.labels());
        loop {
            let (l, r) = match (left.next(), right.next()) {
                (None, None) => return Ordering::Equal,
                (None, Some(_)) => return Ordering::Less,
                (Some(_), None) => return Ordering::Greater,
                (Some(l), Some(r)) => (l, r),
            };
            let folded = |label: &'_ [u8]| -> [u8; 63] {
                let mut text = [0; 63];
                text[..label.len()].copy_from_slice(label);
                text.make_ascii_lowercase();
                text
            };
            let ordering = l.len().cmp(&r.len()).then_with(|| folded(l).cmp(&folded(r)));
            if ordering.is_ne() {
                return ordering;
            }
        }
    }
}

impl PartialOrd for Name<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// As people write names: labels with dots between them, no dot at the end but for the root. A dot or a backslash in a label
/// has a backslash before it (RFC 6763 §4.3); control characters and what is not UTF-8 are `\DDD` (RFC 1035 §5.1).
impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str(".");
        }
        for (index, label) in self.labels().enumerate() {
            if index > 0 {
                f.write_str(".")?;
            }
            write_label(f, label)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({self})")
    }
}
