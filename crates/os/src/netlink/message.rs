//! Netlink messages as bytes (`netlink(7)`). All integers are in the machine's own order.
//!
//! ```text
//!  0..3     4..5   6..7    8..11      12..15     16..
//!  length   type   flags   sequence   port       family header, then attributes
//!
//!  attribute:  0..1 length   2..3 type   4.. data, padded to a multiple of 4
//! ```

use std::io;
use std::net::IpAddr;

const HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;
/// The upper two bits of an attribute's type are flags (`NLA_F_NESTED`, `NLA_F_NET_BYTEORDER`).
const TYPE_MASK: u16 = 0x3fff;
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;

/// A request under construction.
#[derive(Debug)]
pub(super) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    fn new(kind: u16, flags: i32, body: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&((flags | libc::NLM_F_REQUEST) as u16).to_ne_bytes());
        bytes.extend_from_slice(body);
        Self { bytes }
    }

    /// Asks for all objects of a kind.
    pub(super) fn dump(kind: u16, body: &[u8]) -> Self {
        Self::new(kind, libc::NLM_F_DUMP, body)
    }

    /// Asks for one object.
    pub(super) fn get(kind: u16, body: &[u8]) -> Self {
        Self::new(kind, libc::NLM_F_ACK, body)
    }

    /// Changes or deletes something.
    pub(super) fn change(kind: u16, flags: i32, body: &[u8]) -> Self {
        Self::new(kind, flags | libc::NLM_F_ACK, body)
    }

    /// Creates something that must not exist yet.
    pub(super) fn create(kind: u16, body: &[u8]) -> Self {
        Self::change(kind, libc::NLM_F_CREATE | libc::NLM_F_EXCL, body)
    }

    /// Adds an attribute.
    pub(super) fn attribute(&mut self, kind: u16, data: &[u8]) {
        self.bytes.extend_from_slice(&((ATTRIBUTE_HEADER + data.len()) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes(data);
    }

    /// Adds bytes without an attribute header, and their padding.
    pub(super) fn bytes(&mut self, data: &[u8]) {
        self.bytes.extend_from_slice(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Adds a zero-terminated string.
    pub(super) fn string(&mut self, kind: u16, text: &str) {
        let mut data = text.as_bytes().to_vec();
        data.push(0);
        self.attribute(kind, &data);
    }

    /// Adds an IP address in network order.
    pub(super) fn address(&mut self, kind: u16, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.attribute(kind, &address.octets()),
            IpAddr::V6(address) => self.attribute(kind, &address.octets()),
        }
    }

    /// Adds an attribute whose data are attributes.
    pub(super) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.attribute(kind | libc::NLA_F_NESTED as u16, &[]);
        fill(self);
        let len = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes());
    }

    /// The finished message.
    pub(super) fn finish(mut self, sequence: u32) -> Vec<u8> {
        let len = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&len.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// A message from the kernel.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) kind: u16,
    pub(super) sequence: u32,
    flags: u16,
    pub(super) body: Vec<u8>,
}

/// The messages in one datagram. Stops at the first malformed one.
pub(super) fn messages(mut rest: &[u8]) -> impl Iterator<Item = Message> {
    std::iter::from_fn(move || {
        let len = read_u32(rest.get(..4)?)? as usize;
        let body = rest.get(HEADER..len)?.to_vec();
        let message = Message {
            kind: read_u16(rest.get(4..6)?)?,
            flags: read_u16(rest.get(6..8)?)?,
            sequence: read_u32(rest.get(8..12)?)?,
            body,
        };
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

impl Message {
    /// The error in an `NLMSG_ERROR` message, with the kernel's explanation; `None` for success.
    ///
    /// ```text
    ///  0..3           4..19                      then
    ///  −errno         the request's header       unless NLM_F_CAPPED: the request's body;  if NLM_F_ACK_TLVS: attributes
    /// ```
    pub(super) fn error(&self) -> Option<(io::Error, Option<String>)> {
        let code = self.body.get(..4).and_then(read_u32).map_or(-libc::EPROTO, |code| code as i32);
        if code == 0 {
            return None;
        }
        Some((io::Error::from_raw_os_error(-code), self.explanation()))
    }

    fn explanation(&self) -> Option<String> {
        if self.flags & NLM_F_ACK_TLVS == 0 {
            return None;
        }
        let repeated =
            if self.flags & NLM_F_CAPPED == 0 { read_u32(self.body.get(4..8)?)? as usize } else { HEADER };
        let attributes = self.body.get(4 + repeated.next_multiple_of(4)..)?;
        let (_, text) = Attributes::new(attributes).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)?;
        Some(String::from_utf8_lossy(text.strip_suffix(&[0]).unwrap_or(text)).into_owned())
    }
}

/// The attributes of a message: type and data. Stops at the first malformed one.
#[derive(Debug)]
pub(super) struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let len = usize::from(read_u16(self.rest.get(..2)?)?);
        let kind = read_u16(self.rest.get(2..4)?)? & TYPE_MASK;
        let data = self.rest.get(ATTRIBUTE_HEADER..len)?;
        self.rest = self.rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, data))
    }
}

/// The first two bytes as an integer.
pub(super) fn read_u16(data: &[u8]) -> Option<u16> {
    data.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

/// The first four bytes as an integer.
pub(super) fn read_u32(data: &[u8]) -> Option<u32> {
    data.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_reads_back_as_a_message() {
        let mut request = Request::create(libc::RTM_NEWLINK, &[7; 16]);
        request.nested(18, |info| info.string(1, "veth"));
        request.attribute(4, &1420u32.to_ne_bytes());
        let bytes = request.finish(9);
        let all: Vec<_> = messages(&bytes).collect();
        assert_eq!((all.len(), all[0].kind, all[0].sequence), (1, libc::RTM_NEWLINK, 9));
        let attributes: Vec<_> = Attributes::new(&all[0].body[16..]).collect();
        assert_eq!(attributes[1], (4, &1420u32.to_ne_bytes()[..]));
        assert_eq!(Attributes::new(attributes[0].1).next(), Some((1, &b"veth\0"[..])));
    }

    #[test]
    fn the_kernels_explanation_is_found_behind_a_capped_and_a_full_request() {
        for flags in [NLM_F_ACK_TLVS | NLM_F_CAPPED, NLM_F_ACK_TLVS] {
            let mut body = (-libc::EINVAL).to_ne_bytes().to_vec();
            body.extend_from_slice(&24u32.to_ne_bytes());
            body.extend_from_slice(&[0; 12]);
            if flags & NLM_F_CAPPED == 0 {
                body.extend_from_slice(&[0; 8]);
            }
            let mut text = Request { bytes: Vec::new() };
            text.string(NLMSGERR_ATTR_MSG, "no such thing");
            body.extend_from_slice(&text.bytes);
            let message = Message { kind: libc::NLMSG_ERROR as u16, sequence: 1, flags, body };
            let (error, explanation) = message.error().unwrap();
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
            assert_eq!(explanation.as_deref(), Some("no such thing"));
        }
    }

    #[test]
    fn lengths_that_lie_end_the_iteration() {
        assert_eq!(messages(&[255; 64]).count(), 0);
        assert_eq!(messages(&[0; 64]).count(), 0);
        assert_eq!(Attributes::new(&[0; 64]).count(), 0);
        assert_eq!(Attributes::new(&[2, 0, 1, 0]).count(), 0);
    }
}
