//! Why bytes are not a message, a name or a TXT record.

use thiserror::Error;

use super::{LABEL_LEN_MAX, MESSAGE_LEN_MAX, NAME_LEN_MAX};

/// Why a datagram is not a message.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq, Hash)]
pub enum ParseError {
    /// More than [`MESSAGE_LEN_MAX`] bytes.
    #[error("longer than {MESSAGE_LEN_MAX} bytes")]
    TooLong,
    /// Less than a header.
    #[error("shorter than a header")]
    Header,
    /// The counts promise more questions and records than the bytes could hold.
    #[error("counts that the bytes cannot hold")]
    Counts,
    /// A question, a record, its data or a name goes past the end of what it is in.
    #[error("cut off")]
    Truncated,
    /// A length byte of a kind that nobody uses (`0b01`, `0b10`: RFC 6891 §5).
    #[error("unknown kind of label")]
    LabelType,
    /// A name of more than [`NAME_LEN_MAX`] bytes when all its pointers are followed.
    #[error("name longer than {NAME_LEN_MAX} bytes")]
    NameTooLong,
    /// A compression pointer that does not lead back to before the labels that it ends, or leads into the header.
    #[error("compression pointer that does not lead back")]
    Pointer,
    /// More compression pointers in one name than any writer has use for.
    #[error("too many compression pointers in one name")]
    Hops,
    /// More labels in all names together than any honest message has: by pointers a message of 9,000 bytes can have a
    /// hundred thousand, which costs more to read than to send.
    #[error("too many labels")]
    Labels,
    /// The data of a record contradicts its type: an address of five bytes, a string that goes past its end.
    #[error("record data that its type does not allow")]
    Rdata,
}

/// Why a text or a list of labels is not a name.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq, Hash)]
pub enum InvalidName {
    /// Two dots in a row, or no text at all.
    #[error("an empty label")]
    EmptyLabel,
    /// A label of more than [`LABEL_LEN_MAX`] bytes.
    #[error("a label longer than {LABEL_LEN_MAX} bytes")]
    LabelTooLong,
    /// More than [`NAME_LEN_MAX`] bytes on the wire.
    #[error("longer than {NAME_LEN_MAX} bytes")]
    TooLong,
    /// A backslash at the end, or one before digits that are not a number of three up to 255.
    #[error("a backslash that escapes nothing")]
    Escape,
}

/// Why something is not the data of a TXT record.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq, Hash)]
pub enum InvalidTxt {
    /// A string that goes past the end of the data.
    #[error("a string that goes past the end")]
    Truncated,
    /// A `key=value` of more than 255 bytes (RFC 6763 §6.1).
    #[error("an attribute longer than 255 bytes")]
    AttributeTooLong,
    /// A key that is empty, or has an `=` or something other than printable ASCII in it (RFC 6763 §6.4).
    #[error("a key must be printable ASCII without '=', and not empty")]
    Key,
    /// More than 65,535 bytes altogether.
    #[error("longer than 65,535 bytes")]
    TooLong,
}
