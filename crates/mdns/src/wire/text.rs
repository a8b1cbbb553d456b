//! Names as people read and write them.

use std::fmt::{self, Write};

use super::{InvalidName, LABEL_LEN_MAX};

/// Whether a terminal or a log would obey a character rather than show it: control characters (escape sequences begin with
/// one, in C0 or C1), and those that end a line or turn the direction of what follows.
pub fn is_control(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Bytes that a stranger has chosen, fit to be shown: control characters (see [`is_control`]) and what is not UTF-8 are `\DDD`, all
/// else is as it is.
///
/// ```
/// assert_eq!(mdns::wire::Shown(b"Caf\xc3\xa9\x1b[31m \xff").to_string(), "Café\\027[31m \\255");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a>(pub &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(f, self.0, |_| false)
    }
}

/// Writes bytes as text: valid UTF-8 as it is, but for what `special` says, which gets a backslash; control characters and
/// all other bytes as `\DDD` (RFC 1035 §5.1).
pub(crate) fn write_escaped(
    f: &mut fmt::Formatter<'_>,
    bytes: &[u8],
    special: impl Fn(char) -> bool,
) -> fmt::Result {
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if is_control(character) {
                write_decimal(f, character.encode_utf8(&mut [0; 4]).as_bytes())?;
            } else {
                if special(character) {
                    f.write_char('\\')?;
                }
                f.write_char(character)?;
            }
        }
        write_decimal(f, chunk.invalid())?;
    }
    Ok(())
}

pub(crate) fn write_decimal(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "\\{byte:03}"))
}

/// Writes one label of a name.
pub(crate) fn write_label(f: &mut fmt::Formatter<'_>, label: &[u8]) -> fmt::Result {
    write_escaped(f, label, |character| matches!(character, '.' | '\\'))
}

/// Hands each label of `text` to `push`, escapes undone.
pub(super) fn read_labels(
    text: &str,
    mut push: impl FnMut(&[u8]) -> Result<(), InvalidName>,
) -> Result<(), InvalidName> {
    if text == "." {
        return Ok(());
    }
    let mut label = Label { bytes: [0; LABEL_LEN_MAX], len: 0 };
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'.' => {
                push(label.take())?;
                if rest.is_empty() {
                    return Ok(());
                }
            }
            b'\\' => {
                let (byte, after) = unescape(rest)?;
                rest = after;
                label.push(byte)?;
            }
            _ => label.push(byte)?,
        }
    }
    push(label.take())
}

/// The byte that what follows a backslash stands for, and what follows that.
pub(crate) fn unescape(rest: &[u8]) -> Result<(u8, &[u8]), InvalidName> {
    match rest {
        [b'0'..=b'9', ..] => {
            let (digits, rest) = rest.split_first_chunk::<3>().ok_or(InvalidName::Escape)?;
            if !digits.iter().all(u8::is_ascii_digit) {
                return Err(InvalidName::Escape);
            }
            let number = digits.iter().fold(0_u16, |number, digit| number * 10 + u16::from(digit - b'0'));
            Ok((u8::try_from(number).map_err(|_| InvalidName::Escape)?, rest))
        }
        // The bytes of a longer character follow by themselves.
        [byte, rest @ ..] => Ok((*byte, rest)),
        [] => Err(InvalidName::Escape),
    }
}

/// A label while it grows.
struct Label {
    bytes: [u8; LABEL_LEN_MAX],
    len: usize,
}

impl Label {
    fn push(&mut self, byte: u8) -> Result<(), InvalidName> {
        *self.bytes.get_mut(self.len).ok_or(InvalidName::LabelTooLong)? = byte;
        self.len += 1;
        Ok(())
    }

    fn take(&mut self) -> &[u8] {
        let len = std::mem::take(&mut self.len);
        &self.bytes[..len]
    }
}
