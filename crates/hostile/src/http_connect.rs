//! A client of the HTTP proxy, or a browser that takes it for a web server.

use shadowmesh::proxy::http::{self, HEAD_LEN_MAX};

use crate::incremental::check;

/// # Panics
/// When a head is understood in two ways, is longer than the limit, or a refusal is no HTTP response.
pub fn run(input: &[u8]) {
    if let Some((_, len)) = check(input, http::connect) {
        assert!(len <= HEAD_LEN_MAX, "a head of {len} bytes");
        assert!(input[..len].ends_with(b"\n"), "a head that does not end");
    }
    let Err(status) = http::connect(input) else { return };
    let response = String::from_utf8(status.response()).expect("a response is text");
    let (head, body) = response.split_once("\r\n\r\n").expect("a response has a head and a body");
    assert!(head.starts_with("HTTP/1.1 4"), "a client's mistake is one of 4xx: {head}");
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{response}");
}
