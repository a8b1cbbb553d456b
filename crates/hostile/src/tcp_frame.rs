//! Bytes of a TCP connection from anybody, in pieces of any size.
//!
//! ```text
//!  input:  piece 2 · stream…        piece: bytes that each read brings, at most
//! ```

use carrier::tcp_frame::{FrameDecoder, frame_header};

use crate::bytes::Bytes;

/// # Panics
/// When what comes out is not what a slow reading of the stream gives.
pub fn run(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    let piece = usize::from(bytes.u16()).max(1);
    let stream = bytes.rest();
    let mut expected = stream;
    let mut decoder = FrameDecoder::new();
    let mut rest = stream;
    while !rest.is_empty() {
        let space = decoder.space();
        let len = piece.min(rest.len()).min(space.len());
        assert!(len > 0, "a decoder that was emptied has room");
        space[..len].copy_from_slice(&rest[..len]);
        decoder.filled(len);
        rest = &rest[len..];
        loop {
            match decoder.poll() {
                Ok(Some(datagram)) => {
                    let header = frame_header(datagram).expect("what was framed can be framed");
                    let (front, after) = expected.split_at(header.len() + datagram.len());
                    assert!(front[..2] == header && front[2..] == *datagram);
                    expected = after;
                }
                Ok(None) => break,
                Err(_) => {
                    assert_eq!(expected[..2], [0, 0]);
                    return;
                }
            }
        }
    }
    let complete = expected
        .split_first_chunk()
        .is_some_and(|(len, datagram)| datagram.len() >= usize::from(u16::from_be_bytes(*len)));
    assert!(!complete, "a whole frame was kept back");
}
