//! A byte stream compressed with Snappy, in Snappy's framing format, as kcptun does without `--nocomp`.
//!
//! ```text
//!  0      1..3            4..7                      8..
//!  0xff   6               "sNaPpY"                               once, at the beginning
//!  0x00   length (LE)     masked CRC-32C of the plain bytes (LE)  Snappy block
//!  0x01   length (LE)     masked CRC-32C of the plain bytes (LE)  plain bytes
//! ```
//!
//! A chunk holds at most 64 KiB of plain bytes, so both directions need a bounded buffer only. Each call of
//! [`Compressor::compress`] makes whole chunks: what is written can be read at the other end at once.

use thiserror::Error;

/// Most plain bytes of a chunk.
const PLAIN_MAX: usize = 65_536;
/// Most bytes of a chunk behind its header: a checksum, and a block that could not be compressed.
const CHUNK_MAX: usize = 4 + 76_490;
const HEADER_LEN: usize = 4;
const CHECKSUM_LEN: usize = 4;
const IDENTIFIER: &[u8; 10] = b"\xff\x06\0\0sNaPpY";

const COMPRESSED: u8 = 0x00;
const UNCOMPRESSED: u8 = 0x01;
const IDENTIFIED: u8 = 0xff;
/// From here on, unknown chunks are to be skipped.
const SKIPPABLE: u8 = 0x80;

/// What is wrong with a compressed stream. It cannot be read any further.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SnappyError {
    /// It does not begin as the format demands. The other end probably does not compress.
    #[error("the stream is not compressed with Snappy")]
    NotIdentified,
    /// A chunk that may not be skipped.
    #[error("unknown chunk type {kind:#04x}")]
    UnknownChunk {
        /// Its type.
        kind: u8,
    },
    /// A chunk of an impossible length.
    #[error("a chunk of {length} bytes")]
    Length {
        /// Its length.
        length: usize,
    },
    /// The block cannot be decompressed.
    #[error("a damaged block")]
    Block,
    /// The bytes are others than those that were compressed.
    #[error("a wrong checksum")]
    Checksum,
}

/// The sending direction.
#[derive(Debug)]
pub struct Compressor {
    identified: bool,
    encoder: snap::raw::Encoder,
    block: Vec<u8>,
}

impl Default for Compressor {
    fn default() -> Self {
        Self { identified: false, encoder: snap::raw::Encoder::new(), block: Vec::new() }
    }
}

impl Compressor {
    /// Most bytes that compressing adds to `plain` bytes.
    pub fn overhead(plain: usize) -> usize {
        IDENTIFIER.len() + plain.div_ceil(PLAIN_MAX) * (HEADER_LEN + CHECKSUM_LEN)
    }

    /// Gives `sink` chunks with all of `plain`.
    pub fn compress(&mut self, plain: &[u8], mut sink: impl FnMut(&[u8])) {
        if !self.identified && !plain.is_empty() {
            self.identified = true;
            sink(IDENTIFIER);
        }
        for plain in plain.chunks(PLAIN_MAX) {
            self.block.resize(snap::raw::max_compress_len(plain.len()), 0);
            // Fails only when the output has too little room.
            let len = self.encoder.compress(plain, &mut self.block).unwrap_or(usize::MAX);
            // As the reference implementation decides: an eighth must be gained.
            let (kind, body) = if len < plain.len() - plain.len() / 8 {
                (COMPRESSED, &self.block[..len])
            } else {
                (UNCOMPRESSED, plain)
            };
            let length = ((body.len() + CHECKSUM_LEN) as u32).to_le_bytes();
            sink(&[kind, length[0], length[1], length[2]]);
            sink(&masked_checksum(plain).to_le_bytes());
            sink(body);
        }
    }
}

/// The receiving direction.
#[derive(Debug, Default)]
pub struct Decompressor {
    identified: bool,
    /// The beginning of a chunk, its header included.
    chunk: Vec<u8>,
    /// Bytes to skip.
    skip: usize,
    decoder: snap::raw::Decoder,
    plain: Vec<u8>,
    taken: usize,
}

impl Decompressor {
    /// Plain bytes to take.
    pub fn plain(&self) -> &[u8] {
        &self.plain[self.taken..]
    }

    /// Forgets the first `count` plain bytes.
    pub fn consume(&mut self, count: usize) {
        self.taken = (self.taken + count).min(self.plain.len());
    }

    /// Takes bytes of the compressed stream until there are plain ones, and returns how many it took. Takes none
    /// while there still are plain ones.
    ///
    /// # Errors
    /// [`SnappyError`]: it is not such a stream.
    pub fn decompress(&mut self, bytes: &[u8]) -> Result<usize, SnappyError> {
        let mut rest = bytes;
        while !rest.is_empty() && self.plain().is_empty() {
            if self.skip > 0 {
                let count = self.skip.min(rest.len());
                self.skip -= count;
                rest = &rest[count..];
                continue;
            }
            let want = match self.chunk.first_chunk() {
                None => HEADER_LEN,
                Some(&[kind, l0, l1, l2]) => {
                    let length = u32::from_le_bytes([l0, l1, l2, 0]) as usize;
                    if self.is_padding(kind) {
                        self.skip = length;
                        self.chunk.clear();
                        continue;
                    }
                    HEADER_LEN + self.checked_length(kind, length)?
                }
            };
            let count = rest.len().min(want - self.chunk.len());
            self.chunk.extend_from_slice(&rest[..count]);
            rest = &rest[count..];
            if self.chunk.len() == want && want > HEADER_LEN {
                self.chunk_complete()?;
                self.chunk.clear();
            }
        }
        Ok(bytes.len() - rest.len())
    }

    /// Whether a chunk says nothing that matters.
    fn is_padding(&self, kind: u8) -> bool {
        self.identified && (SKIPPABLE..IDENTIFIED).contains(&kind)
    }

    /// The length of a chunk, if it makes sense.
    fn checked_length(&self, kind: u8, length: usize) -> Result<usize, SnappyError> {
        let possible = match kind {
            IDENTIFIED => 6..=6,
            _ if !self.identified => return Err(SnappyError::NotIdentified),
            COMPRESSED => CHECKSUM_LEN + 1..=CHUNK_MAX,
            UNCOMPRESSED => CHECKSUM_LEN + 1..=CHECKSUM_LEN + PLAIN_MAX,
            kind => return Err(SnappyError::UnknownChunk { kind }),
        };
        if possible.contains(&length) { Ok(length) } else { Err(SnappyError::Length { length }) }
    }

    fn chunk_complete(&mut self) -> Result<(), SnappyError> {
        let (header, body) = self.chunk.split_at(HEADER_LEN);
        if header[0] == IDENTIFIED {
            self.identified = true;
            return if body == &IDENTIFIER[HEADER_LEN..] { Ok(()) } else { Err(SnappyError::NotIdentified) };
        }
        let (checksum, body) = body.split_at(CHECKSUM_LEN);
        self.taken = 0;
        self.plain.clear();
        if header[0] == COMPRESSED {
            let len = snap::raw::decompress_len(body).map_err(|_| SnappyError::Block)?;
            if len > PLAIN_MAX {
                return Err(SnappyError::Length { length: len });
            }
            self.plain.resize(len, 0);
            self.decoder.decompress(body, &mut self.plain).map_err(|_| SnappyError::Block)?;
        } else {
            self.plain.extend_from_slice(body);
        }
        if masked_checksum(&self.plain).to_le_bytes() == checksum {
            Ok(())
        } else {
            Err(SnappyError::Checksum)
        }
    }
}

/// CRC-32C (Castagnoli, reflected), eight table look-ups for each eight bytes.
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLES: [[u32; 256]; 8] = {
        let mut tables = [[0; 256]; 8];
        let mut byte = 0;
        while byte < 256 {
            let (mut crc, mut bit) = (byte as u32, 0);
            while bit < 8 {
                crc = (crc >> 1) ^ if crc & 1 != 0 { 0x82f6_3b78 } else { 0 };
                bit += 1;
            }
            tables[0][byte] = crc;
            byte += 1;
        }
        let mut at = 0;
        while at < 7 * 256 {
            let before = tables[at / 256][at % 256];
            tables[at / 256 + 1][at % 256] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            at += 1;
        }
        tables
    };
    let (words, tail) = bytes.as_chunks::<8>();
    let crc = words.iter().fold(u32::MAX, |crc, word| {
        let word = u64::from_le_bytes(*word) ^ u64::from(crc);
        (0..8).fold(0, |sum, at| sum ^ TABLES[7 - at][(word >> (8 * at) & 0xff) as usize])
    });
    !tail.iter().fold(crc, |crc, byte| (crc >> 8) ^ TABLES[0][((crc as u8) ^ byte) as usize])
}

/// The framing format's checksum: so that a checksum of checksums says something.
fn masked_checksum(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_is_that_of_rfc_3720() {
        // RFC 3720 §B.4
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&ascending), 0x46dd_794e);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
