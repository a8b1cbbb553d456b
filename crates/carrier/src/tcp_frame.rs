//! Datagrams over a kernel TCP connection: each with its length before it.
//!
//! ```text
//!  0..1              2..
//!  length (be)       datagram: `length` bytes, 1 to 65,535
//! ```
//!
//! A stream that breaks this cannot be put in step again: its connection has to be closed.

use std::ops::Range;

use thiserror::Error;

/// Bytes of a frame that are not datagram.
pub const FRAME_HEADER: usize = 2;
/// The longest datagram.
pub const FRAME_DATAGRAM_MAX: usize = u16::MAX as usize;
/// Room for the longest frame, and for as much again that came with its end.
const CAPACITY: usize = 2 * (FRAME_HEADER + FRAME_DATAGRAM_MAX);

/// A frame without a datagram: the other end speaks something else.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("a frame of length 0")]
pub struct InvalidFrame;

/// What goes before a datagram; `None` when it is empty or too long for a frame.
///
/// ```
/// assert_eq!(carrier::tcp_frame::frame_header(&[7; 300]), Some([1, 44]));
/// assert_eq!(carrier::tcp_frame::frame_header(&[]), None);
/// ```
pub fn frame_header(datagram: &[u8]) -> Option<[u8; FRAME_HEADER]> {
    u16::try_from(datagram.len()).ok().filter(|&len| len > 0).map(u16::to_be_bytes)
}

/// Cuts what arrives on a connection into datagrams. Its memory is fixed.
///
/// Read into [`space`](Self::space), tell how much with [`filled`](Self::filled), then take datagrams with
/// [`poll`](Self::poll) until there is none:
///
/// ```
/// use carrier::tcp_frame::FrameDecoder;
///
/// let mut decoder = FrameDecoder::new();
/// let arrived = b"\x00\x05hello\x00\x05wo";
/// decoder.space()[..arrived.len()].copy_from_slice(arrived);
/// decoder.filled(arrived.len());
/// assert_eq!(decoder.poll()?, Some(&mut b"hello"[..].to_vec()[..]));
/// assert_eq!(decoder.poll()?, None);
/// # Ok::<(), carrier::tcp_frame::InvalidFrame>(())
/// ```
#[derive(Debug)]
pub struct FrameDecoder {
    buf: Box<[u8]>,
    /// What has arrived and was not taken.
    waiting: Range<usize>,
}

impl Default for FrameDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameDecoder {
    /// A decoder for a new connection.
    pub fn new() -> Self {
        Self { buf: vec![0; CAPACITY].into_boxed_slice(), waiting: 0..0 }
    }

    /// Where to read to. Never empty once [`poll`](Self::poll) has returned `None`.
    pub fn space(&mut self) -> &mut [u8] {
        // Moving is worth it only when a frame begun here might not fit: then what waits is one incomplete frame.
        if self.waiting.is_empty() {
            self.waiting = 0..0;
        } else if self.buf.len() - self.waiting.start < FRAME_HEADER + FRAME_DATAGRAM_MAX {
            self.buf.copy_within(self.waiting.clone(), 0);
            self.waiting = 0..self.waiting.len();
        }
        &mut self.buf[self.waiting.end..]
    }

    /// `len` bytes were read into [`space`](Self::space).
    pub fn filled(&mut self, len: usize) {
        self.waiting.end = (self.waiting.end + len).min(self.buf.len());
    }

    /// The next whole datagram.
    ///
    /// # Errors
    /// [`InvalidFrame`]; close the connection.
    pub fn poll(&mut self) -> Result<Option<&mut [u8]>, InvalidFrame> {
        let Some(header) = self.buf[self.waiting.clone()].first_chunk::<FRAME_HEADER>() else {
            return Ok(None);
        };
        let len = usize::from(u16::from_be_bytes(*header));
        if len == 0 {
            return Err(InvalidFrame);
        }
        let start = self.waiting.start + FRAME_HEADER;
        if start + len > self.waiting.end {
            return Ok(None);
        }
        self.waiting.start = start + len;
        Ok(Some(&mut self.buf[start..start + len]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(datagram: &[u8]) -> Vec<u8> {
        [&frame_header(datagram).unwrap()[..], datagram].concat()
    }

    /// Feeds `stream` in pieces of at most `piece` bytes, as far as there is room, and collects what comes out.
    fn decode(stream: &[u8], piece: usize) -> Result<Vec<Vec<u8>>, InvalidFrame> {
        let mut decoder = FrameDecoder::new();
        let (mut rest, mut out) = (stream, Vec::new());
        while !rest.is_empty() {
            let space = decoder.space();
            assert!(!space.is_empty(), "a decoder that was emptied has room");
            let len = piece.min(rest.len()).min(space.len());
            space[..len].copy_from_slice(&rest[..len]);
            decoder.filled(len);
            rest = &rest[len..];
            while let Some(datagram) = decoder.poll()? {
                out.push(datagram.to_vec());
            }
        }
        Ok(out)
    }

    #[test]
    fn datagrams_survive_any_cut_of_the_stream() {
        let lens = [1, 2, 1_400, 65_535, 64, 65_535, 65_534, 3, 65_535];
        let datagrams: Vec<Vec<u8>> =
            lens.iter().map(|&len| (0..len).map(|i| (i * 7 + len) as u8).collect()).collect();
        let stream: Vec<u8> = datagrams.iter().flat_map(|datagram| frame(datagram)).collect();
        for piece in [1, 2, 3, 1_000, 65_537, 100_000, usize::MAX] {
            assert!(decode(&stream, piece).unwrap() == datagrams, "in pieces of {piece} bytes");
        }
    }

    #[test]
    fn a_frame_of_no_bytes_ends_the_stream_after_what_was_whole() {
        let mut decoder = FrameDecoder::new();
        let stream = [&frame(b"whole")[..], &[0, 0], &frame(b"never seen")].concat();
        decoder.space()[..stream.len()].copy_from_slice(&stream);
        decoder.filled(stream.len());
        assert_eq!(decoder.poll().unwrap().unwrap(), b"whole");
        assert_eq!(decoder.poll(), Err(InvalidFrame));
        assert_eq!(decoder.poll(), Err(InvalidFrame), "there is no way on");
    }

    #[test]
    fn only_what_fits_a_frame_is_framed() {
        assert_eq!(frame_header(&vec![0; 65_535]), Some([0xff, 0xff]));
        assert_eq!(frame_header(&vec![0; 65_536]), None);
    }
}
