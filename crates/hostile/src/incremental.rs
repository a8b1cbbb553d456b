//! What must hold of every parser that is given the front of a stream, as much of it as has arrived.

use std::fmt::Debug;

/// Prefixes of one input that are tried.
const PREFIXES: usize = 300;

/// Checks a parser that returns a value and the bytes it took, or `None` when more must arrive, and returns what it made
/// of the whole of `bytes`.
///
/// # Panics
/// When what it takes depends on what follows, a part of a message is taken for the whole, or more bytes heal an error.
pub(crate) fn check<T: PartialEq + Debug, E: PartialEq + Debug>(
    bytes: &[u8],
    parse: impl Fn(&[u8]) -> Result<Option<(T, usize)>, E>,
) -> Option<(T, usize)> {
    let parsed = parse(bytes);
    // Up to there, nothing may be decided; from there on, all is.
    let decided = match &parsed {
        Ok(Some((_, len))) => {
            assert!(*len <= bytes.len(), "{len} bytes taken of {}", bytes.len());
            assert_eq!(parse(&bytes[..*len]), parsed, "what follows a message changes it");
            *len
        }
        Ok(None) | Err(_) => bytes.len(),
    };
    for cut in (0..decided).step_by(decided / PREFIXES + 1) {
        match (parse(&bytes[..cut]), &parsed) {
            (Ok(None), _) => {}
            (Err(early), Err(late)) => assert_eq!(&early, late, "more bytes change an error"),
            (early, late) => panic!("after {cut} bytes {early:?}, after all {late:?}"),
        }
    }
    parsed.ok().flatten()
}
