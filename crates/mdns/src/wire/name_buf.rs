//! Names that own their bytes.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use super::text::read_labels;
use super::{InvalidName, LABEL_LEN_MAX, NAME_LEN_MAX, Name};

/// A name of its own: uncompressed wire format in shared memory, so that a clone costs no allocation.
///
/// Reads from text as [`Name`] is shown, with or without the dot at the end; compares as [`Name`] does, whose methods it
/// lends through [`as_name`](Self::as_name).
///
/// ```
/// use mdns::wire::NameBuf;
///
/// // A label may hold anything, dots included: RFC 6763 §4.1.1.
/// let name: NameBuf = r#"Café "C\. Noir"._http._tcp.local"#.parse()?;
/// assert_eq!(name, NameBuf::from_labels(["Café \"C. Noir\"", "_http", "_tcp", "local"])?);
/// assert_eq!(name.to_string(), r#"Café "C\. Noir"._http._tcp.local"#);
/// # Ok::<(), mdns::wire::InvalidName>(())
/// ```
#[derive(Clone)]
pub struct NameBuf {
    /// Labels with their lengths before them, and a zero: a whole name at offset 0.
    wire: Arc<[u8]>,
}

impl NameBuf {
    /// The name with these labels, from the most specific to the least; none of them is the root.
    ///
    /// # Errors
    /// When a label is empty or too long, or all are too long together.
    pub fn from_labels<L: AsRef<[u8]>>(labels: impl IntoIterator<Item = L>) -> Result<Self, InvalidName> {
        let mut wire = WireName::default();
        for label in labels {
            wire.push(label.as_ref())?;
        }
        Ok(wire.finish())
    }

    /// The name one below this: `label`, then this one's labels.
    ///
    /// # Errors
    /// When the label is empty or too long, or the name gets too long.
    pub fn with_first_label(&self, label: impl AsRef<[u8]>) -> Result<Self, InvalidName> {
        let mut wire = WireName::default();
        wire.push(label.as_ref())?;
        for label in self.as_name().labels() {
            wire.push(label)?;
        }
        Ok(wire.finish())
    }

    /// A copy of `name`.
    pub(super) fn copy(name: Name<'_>) -> Self {
        let mut wire = WireName::default();
        for label in name.labels() {
            // Whoever made the name has seen that it is one.
            let pushed = wire.push(label);
            debug_assert_eq!(pushed, Ok(()));
        }
        wire.finish()
    }

    /// A view of it.
    #[inline]
    pub fn as_name(&self) -> Name<'_> {
        Name::checked(&self.wire, 0)
    }

    /// The uncompressed bytes, the last zero included.
    pub fn as_wire(&self) -> &[u8] {
        &self.wire
    }
}

/// A name while it grows.
struct WireName {
    bytes: [u8; NAME_LEN_MAX],
    len: usize,
}

impl Default for WireName {
    fn default() -> Self {
        Self { bytes: [0; NAME_LEN_MAX], len: 0 }
    }
}

impl WireName {
    fn push(&mut self, label: &[u8]) -> Result<(), InvalidName> {
        if label.is_empty() {
            return Err(InvalidName::EmptyLabel);
        }
        if label.len() > LABEL_LEN_MAX {
            return Err(InvalidName::LabelTooLong);
        }
        let end = self.len + 1 + label.len();
        // One byte is for the zero at the end.
        if end >= NAME_LEN_MAX {
            return Err(InvalidName::TooLong);
        }
        self.bytes[self.len] = label.len() as u8;
        self.bytes[self.len + 1..end].copy_from_slice(label);
        self.len = end;
        Ok(())
    }

    /// The bytes from `len` on are zero still, the first of them ends the name.
    fn finish(self) -> NameBuf {
        NameBuf { wire: Arc::from(&self.bytes[..=self.len]) }
    }
}

/// The root.
impl Default for NameBuf {
    fn default() -> Self {
        WireName::default().finish()
    }
}

impl FromStr for NameBuf {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let mut wire = WireName::default();
        read_labels(text, |label| wire.push(label))?;
        Ok(wire.finish())
    }
}

impl From<Name<'_>> for NameBuf {
    fn from(name: Name<'_>) -> Self {
        Self::copy(name)
    }
}

impl PartialEq for NameBuf {
    fn eq(&self, other: &Self) -> bool {
        // No length is a letter: the whole names may be compared as one text.
        self.wire.eq_ignore_ascii_case(&other.wire)
    }
}

impl PartialEq<Name<'_>> for NameBuf {
    fn eq(&self, other: &Name<'_>) -> bool {
        self.as_name() == *other
    }
}

impl Eq for NameBuf {}

impl Hash for NameBuf {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_name().hash(state);
    }
}

impl Ord for NameBuf {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_name().cmp(&other.as_name())
    }
}

impl PartialOrd for NameBuf {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for NameBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_name().fmt(f)
    }
}

impl fmt::Debug for NameBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NameBuf({self})")
    }
}
