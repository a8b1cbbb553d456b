//! Control messages of `sendmsg` and `recvmsg`, written and read as bytes.
//!
//! ```text
//!  0..7           8..11        12..15       16..
//!  length (ne)    level (ne)   type (ne)    data, padded to the next multiple of 8
//! ```
//!
//! The length covers header and data without the padding (`cmsg(3)`). On 32-bit machines it takes 4 bytes and
//! everything is aligned to 4: hence `usize` throughout.

use std::mem::size_of;
use std::net::IpAddr;

use libc::c_int;

const WORD: usize = size_of::<usize>();
const HEADER: usize = WORD + 2 * size_of::<c_int>();

/// Room for the control messages of one datagram, aligned as the kernel wants it.
///
/// The largest set received is GRO size (`int`), traffic class (`int`) and TOS (`u8`), of 24 bytes each, with interface and
/// destination of an IPv6 datagram (20 bytes), which take 40.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(crate) struct Control {
    bytes: [u8; Self::CAPACITY],
    len: usize,
}

impl Control {
    pub(crate) const CAPACITY: usize = 128;
    pub(crate) const EMPTY: Self = Self { bytes: [0; Self::CAPACITY], len: 0 };

    /// Adds a message. Nobody adds more than two of at most 8 bytes of data and one of 20.
    pub(crate) fn push(&mut self, level: c_int, kind: c_int, data: &[u8]) {
        let end = self.len + HEADER + data.len().next_multiple_of(WORD);
        let space = &mut self.bytes[self.len..end];
        space[..WORD].copy_from_slice(&(HEADER + data.len()).to_ne_bytes());
        space[WORD..WORD + 4].copy_from_slice(&level.to_ne_bytes());
        space[WORD + 4..HEADER].copy_from_slice(&kind.to_ne_bytes());
        space[HEADER..HEADER + data.len()].copy_from_slice(data);
        space[HEADER + data.len()..].fill(0);
        self.len = end;
    }

    /// Adds the source address, for a socket of IPv6 or of IPv4: `in6_pktinfo` or `in_pktinfo`, whose interface 0 means any. An
    /// IPv6 socket takes IPv4 addresses mapped.
    pub(crate) fn push_source(&mut self, v6: bool, source: IpAddr) {
        let mapped = match source {
            IpAddr::V4(source) if !v6 => {
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&source.octets());
                return self.push(libc::SOL_IP, libc::IP_PKTINFO, &info);
            }
            IpAddr::V4(source) => source.to_ipv6_mapped(),
            IpAddr::V6(source) => source,
        };
        let mut info = [0; 20];
        info[..16].copy_from_slice(&mapped.octets());
        self.push(libc::SOL_IPV6, libc::IPV6_PKTINFO, &info);
    }

    /// The messages in the first `len` bytes: level, type, data. Stops at the first malformed one.
    pub(crate) fn messages(&self, len: usize) -> impl Iterator<Item = (c_int, c_int, &[u8])> {
        let mut rest = &self.bytes[..len.min(Self::CAPACITY)];
        std::iter::from_fn(move || {
            let size = usize::from_ne_bytes(*rest.first_chunk()?);
            let level = c_int::from_ne_bytes(*rest.get(WORD..)?.first_chunk()?);
            let kind = c_int::from_ne_bytes(*rest.get(WORD + 4..)?.first_chunk()?);
            let data = rest.get(HEADER..size)?;
            rest = rest.get(size.next_multiple_of(WORD)..).unwrap_or_default();
            Some((level, kind, data))
        })
    }

    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.bytes.as_mut_ptr()
    }
}

/// An integer of a control message, which the kernel writes as `int`, `u16` or `u8` depending on its type.
pub(crate) fn integer(data: &[u8]) -> Option<u32> {
    match *data {
        [a] => Some(u32::from(a)),
        [a, b] => Some(u32::from(u16::from_ne_bytes([a, b]))),
        [a, b, c, d, ..] => Some(u32::from_ne_bytes([a, b, c, d])),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_back_as_written() {
        let mut control = Control::EMPTY;
        control.push(libc::SOL_UDP, libc::UDP_SEGMENT, &1200u16.to_ne_bytes());
        control.push(libc::SOL_IP, libc::IP_TOS, &2i32.to_ne_bytes());
        let read: Vec<_> = control.messages(control.len()).map(|(l, k, d)| (l, k, integer(d))).collect();
        assert_eq!(
            read,
            [(libc::SOL_UDP, libc::UDP_SEGMENT, Some(1200)), (libc::SOL_IP, libc::IP_TOS, Some(2))]
        );
    }

    #[test]
    fn a_length_beyond_the_buffer_ends_the_messages() {
        let mut control = Control::EMPTY;
        control.push(libc::SOL_UDP, libc::UDP_GRO, &1200i32.to_ne_bytes());
        control.bytes[..WORD].copy_from_slice(&usize::MAX.to_ne_bytes());
        assert_eq!(control.messages(control.len()).count(), 0);
        control.bytes[..WORD].copy_from_slice(&3usize.to_ne_bytes());
        assert_eq!(control.messages(control.len()).count(), 0);
    }
}
