//! What a kcptun peer sends: encrypted datagrams, and the compressed stream in them.
//!
//! ```text
//!  input:  cipher 1 · cut 1 · length 2 · datagram · compressed stream
//! ```

use std::sync::LazyLock;

use shadowmesh::kcptun::crypt::{Cipher, CipherKind};
use stream::snappy::{Compressor, Decompressor, SnappyError};

use crate::bytes::Bytes;

/// Deriving a key takes milliseconds.
static CIPHERS: LazyLock<Vec<Cipher>> =
    LazyLock::new(|| CipherKind::NAMES.iter().map(|(_, kind)| Cipher::new(*kind, "key")).collect());

/// # Panics
/// When what was sealed does not open, or how a compressed stream is cut changes what it says.
pub fn run(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    let cipher = &CIPHERS[usize::from(bytes.u8()) % CIPHERS.len()];
    let cut = 1 + usize::from(bytes.u8());
    let datagram = bytes.prefixed();
    let _ = cipher.open(&mut datagram.to_vec());
    let mut sealed = [vec![0; cipher.header_len()], datagram.to_vec()].concat();
    let len = sealed.len();
    if len > 0 {
        cipher.seal(&mut sealed, len, |nonce| nonce.fill(cut as u8));
    }
    assert_eq!(cipher.open(&mut sealed), Some(datagram));

    let rest = bytes.rest();
    assert_eq!(decompress(rest, rest.len().max(1)), decompress(rest, cut));
    let (mut compressor, mut compressed) = (Compressor::default(), Vec::new());
    compressor.compress(rest, |piece| compressed.extend_from_slice(piece));
    assert!(compressed.len() <= rest.len() + Compressor::overhead(rest.len()));
    assert_eq!(decompress(&compressed, cut), (rest.to_vec(), None));
}

/// What a stream says that arrives in pieces of `cut` bytes, and how it ends if not well.
fn decompress(stream: &[u8], cut: usize) -> (Vec<u8>, Option<SnappyError>) {
    let (mut decompressor, mut plain) = (Decompressor::default(), Vec::new());
    for mut piece in stream.chunks(cut) {
        while !piece.is_empty() {
            match decompressor.decompress(piece) {
                Ok(taken) => piece = &piece[taken..],
                Err(error) => return (plain, Some(error)),
            }
            let count = decompressor.plain().len();
            plain.extend_from_slice(decompressor.plain());
            decompressor.consume(count);
        }
    }
    (plain, None)
}
