//! The data of TXT records: strings, which in DNS-SD are the attributes of a service (RFC 6763 §6).

use std::fmt;

use super::InvalidTxt;
use super::text::write_escaped;

/// The most bytes of one string (RFC 1035 §3.3).
const STRING_LEN_MAX: usize = 255;

/// Strings, each with its length before it. No strings at all mean the same as one empty string (RFC 6763 §6.1).
///
/// ```
/// use mdns::wire::Txt;
///
/// let mut bytes = Vec::new();
/// Txt::append(&mut bytes, "rp", Some(b"ipp/print"))?;
/// Txt::append(&mut bytes, "Duplex", None)?;
/// Txt::append(&mut bytes, "RP", Some(b"a second value of one key is not looked at"))?;
/// let txt = Txt::parse(&bytes)?;
/// assert_eq!(txt.get("rp").and_then(|attribute| attribute.value), Some(b"ipp/print".as_slice()));
/// assert_eq!(txt.get("duplex").map(|attribute| attribute.value), Some(None));
/// # Ok::<(), mdns::wire::InvalidTxt>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Txt<'a> {
    bytes: &'a [u8],
}

/// One attribute of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Its key, as it was written. Keys that differ only in case are one key (RFC 6763 §6.4).
    pub key: &'a [u8],
    /// What follows the first `=`; `None` if there is no `=` (RFC 6763 §6.4 tells "no value" from "an empty one").
    pub value: Option<&'a [u8]>,
}

impl<'a> Txt<'a> {
    /// The data of a service without attributes: one empty string (RFC 6763 §6.1).
    pub const EMPTY: Txt<'static> = Txt { bytes: &[0] };

    /// Reads strings.
    ///
    /// # Errors
    /// When the last one goes past the end.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, InvalidTxt> {
        let mut at = 0;
        while let Some(&length) = bytes.get(at) {
            at += 1 + usize::from(length);
        }
        if at == bytes.len() { Ok(Self { bytes }) } else { Err(InvalidTxt::Truncated) }
    }

    /// The strings in `bytes` as somebody sent them. One that goes past the end, and what follows it, is not looked at.
    #[inline]
    pub(crate) fn as_received(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Writes an attribute after those in `bytes`.
    ///
    /// # Errors
    /// When the key is not one, or the attribute or all of them are too long; `bytes` are as before then.
    pub fn append(bytes: &mut Vec<u8>, key: &str, value: Option<&[u8]>) -> Result<(), InvalidTxt> {
        let printable = |byte: u8| matches!(byte, 0x20..0x7f) && byte != b'=';
        if key.is_empty() || !key.bytes().all(printable) {
            return Err(InvalidTxt::Key);
        }
        let len = key.len() + value.map_or(0, |value| 1 + value.len());
        if len > STRING_LEN_MAX {
            return Err(InvalidTxt::AttributeTooLong);
        }
        if bytes.len() + 1 + len > usize::from(u16::MAX) {
            return Err(InvalidTxt::TooLong);
        }
        bytes.push(len as u8);
        bytes.extend_from_slice(key.as_bytes());
        if let Some(value) = value {
            bytes.push(b'=');
            bytes.extend_from_slice(value);
        }
        Ok(())
    }

    /// The bytes on the wire.
    #[inline]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Every string, empty ones too.
    pub fn strings(&self) -> TxtStrings<'a> {
        TxtStrings { rest: self.bytes }
    }

    /// The attributes in their order. Strings without a key are left out (RFC 6763 §6.4); a key that comes again is here
    /// again, and not to be looked at.
    pub fn attributes(&self) -> impl Iterator<Item = Attribute<'a>> + use<'a> {
        self.strings().filter_map(|string| {
            let (key, value) = match string.iter().position(|byte| *byte == b'=') {
                Some(at) => (&string[..at], Some(&string[at + 1..])),
                None => (string, None),
            };
            (!key.is_empty()).then_some(Attribute { key, value })
        })
    }

    /// The first attribute with that key, in any case.
    pub fn get(&self, key: &str) -> Option<Attribute<'a>> {
        self.attributes().find(|attribute| attribute.key.eq_ignore_ascii_case(key.as_bytes()))
    }

    /// Whether there is nothing in it but empty strings.
    pub fn is_empty(&self) -> bool {
        self.bytes.iter().all(|length| *length == 0)
    }
}

/// Each string in quotation marks.
impl fmt::Display for Txt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, string) in self.strings().enumerate() {
            f.write_str(if index > 0 { " \"" } else { "\"" })?;
            write_escaped(f, string, |character| matches!(character, '"' | '\\'))?;
            f.write_str("\"")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Txt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Txt({self})")
    }
}

/// The strings of a [`Txt`].
#[derive(Clone, Debug)]
pub struct TxtStrings<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for TxtStrings<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let (&length, rest) = self.rest.split_first()?;
        let (string, rest) = rest.split_at_checked(usize::from(length))?;
        self.rest = rest;
        Some(string)
    }
}

#[cfg(test)]
mod tests {
    use super::{Attribute, InvalidTxt, Txt};

    #[test]
    fn the_examples_of_rfc_6763_are_read() {
        // RFC 6763 §6.4: an attribute without a value, with an empty one, and with one; a string without a key is ignored.
        let bytes = b"\x08passreq=\x01x\x0dPlugIns=JPEG,\x02=y\x00\x05a=b=c".map(|byte| byte);
        assert_eq!(Txt::parse(&bytes[..bytes.len() - 1]), Err(InvalidTxt::Truncated));
        let txt = Txt::parse(&bytes).expect("well-formed");
        let found: Vec<Attribute<'_>> = txt.attributes().collect();
        let attribute = |key, value| Attribute { key, value };
        assert_eq!(
            found,
            [
                attribute(b"passreq".as_slice(), Some(b"".as_slice())),
                attribute(b"x", None),
                attribute(b"PlugIns", Some(b"JPEG,")),
                attribute(b"a", Some(b"b=c")),
            ]
        );
        assert_eq!(txt.strings().count(), 6);
        assert_eq!(txt.to_string(), r#""passreq=" "x" "PlugIns=JPEG," "=y" "" "a=b=c""#);
    }

    #[test]
    fn no_string_and_one_empty_string_are_a_service_without_attributes() {
        for bytes in [&[][..], &[0], &[0, 0]] {
            let txt = Txt::parse(bytes).expect("well-formed");
            assert!(txt.is_empty() && txt.attributes().next().is_none());
        }
        assert!(!Txt::parse(b"\x01x").unwrap().is_empty());
    }

    #[test]
    fn an_attribute_that_cannot_be_written_leaves_the_others_alone() {
        let mut bytes = b"\x01x".to_vec();
        let long = [0; 254];
        let wrong = [
            ("", None, InvalidTxt::Key),
            ("a=b", None, InvalidTxt::Key),
            ("é", None, InvalidTxt::Key),
            ("k", Some(long.as_slice()), InvalidTxt::AttributeTooLong),
        ];
        for (key, value, error) in wrong {
            assert_eq!(Txt::append(&mut bytes, key, value), Err(error));
        }
        assert_eq!(bytes, b"\x01x");
        Txt::append(&mut bytes, "k", Some(&long[1..])).expect("255 bytes");
        bytes.resize(65_534, 0);
        assert_eq!(Txt::append(&mut bytes, "k", Some(b"")), Err(InvalidTxt::TooLong));
    }
}
