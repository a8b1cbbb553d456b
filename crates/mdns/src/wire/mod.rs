//! DNS messages as they are on the wire (RFC 1035 §4, RFC 6762 §18), read in place and written without allocating.
//!
//! [`Message::parse`] checks a whole datagram in one pass: names, pointers, counts, lengths and the data of the types it
//! knows. What comes out borrows from the datagram and cannot fail any more: iterators of [`Question`]s and [`Record`]s,
//! with [`Name`]s that are views even where they are compressed. [`NameBuf`] and [`RecordData`] own what outlives it.
//! [`Writer`] builds a message in a buffer, record by record, compressing names as it goes.
//!
//! ```text
//!  0..2   2                3               4..6        6..8      8..10         10..12
//!  ID     QR opcode4 AA TC RD   RA Z AD CD rcode4   questions   answers   authorities   additionals
//!
//!  question   name · type 2 · QU 1 bit, class 15 bits                                      (RFC 6762 §5.4)
//!  record     name · type 2 · cache flush 1 bit, class 15 bits · TTL 4 · length 2 · data   (RFC 6762 §10.2)
//!  name       length 1 (0..=63) · label …, ended by length 0 or by a pointer: 0b11 2 bits, offset 14 bits
//! ```
//!
//! A response that announces a printer, written and read again:
//!
//! ```
//! use mdns::wire::{Class, Header, Message, Mode, NameBuf, RData, Record, RecordType, Section, Srv, Writer};
//!
//! let service: NameBuf = "_ipp._tcp.local".parse()?;
//! let instance = service.with_first_label("Mr. Ink's printer")?;
//! let host: NameBuf = "ink.local".parse()?;
//!
//! let mut buf = [0; 1_440];
//! let mut writer = Writer::new(&mut buf, Mode::Mdns, Header::RESPONSE);
//! let class = Class::IN;
//! let rdata = RData::Ptr(instance.as_name());
//! assert!(writer.push(
//!     Section::Answer,
//!     &Record { name: service.as_name(), class, cache_flush: false, ttl: 4_500, rdata }
//! ));
//! let rdata = RData::Srv(Srv { priority: 0, weight: 0, port: 631, target: host.as_name() });
//! assert!(writer.push(
//!     Section::Additional,
//!     &Record { name: instance.as_name(), class, cache_flush: true, ttl: 120, rdata }
//! ));
//! let bytes = writer.finish();
//!
//! let message = Message::parse(bytes)?;
//! let answer = message.answers().next().expect("one answer");
//! assert_eq!(answer.record_type(), RecordType::PTR);
//! let RData::Ptr(target) = answer.rdata else { panic!("a PTR record holds a name") };
//! assert_eq!(target.to_string(), r"Mr\. Ink's printer._ipp._tcp.local");
//! assert_eq!(message.additionals().next().map(|record| record.name), Some(target));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod bitmap;
mod error;
mod header;
mod message;
mod name;
mod name_buf;
mod rdata;
mod record;
pub(crate) mod text;
mod txt;
mod types;
mod writer;

pub use bitmap::{TYPE_BITMAP_LEN_MAX, TypeBitmap};
pub use error::{InvalidName, InvalidTxt, ParseError};
pub use header::{HEADER_LEN, Header};
pub use message::{Message, Questions, Records};
pub use name::{Labels, Name};
pub use name_buf::NameBuf;
pub use rdata::{Nsec, OtherData, RData, Srv};
pub use record::{Question, Record, RecordData};
pub use text::{Shown, is_control};
pub use txt::{Attribute, Txt, TxtStrings};
pub use types::{Class, RecordType, Section};
pub use writer::{Mode, Writer};

/// The most bytes of a message that is read. RFC 6762 §17 allows 9,000 with the IP and UDP headers.
pub const MESSAGE_LEN_MAX: usize = 9_000;

/// The most bytes of a name on the wire, its length bytes and the last zero included (RFC 1035 §2.3.4).
pub const NAME_LEN_MAX: usize = 255;

/// The most bytes of a label (RFC 1035 §2.3.4).
pub const LABEL_LEN_MAX: usize = 63;

/// The big-endian number at `at`.
#[inline]
fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}
