//! The front of a stream that a peer has opened, and the datagrams on it.

use shadowmesh::proxy::Frame;
use shadowmesh::proxy::request::Request;

use crate::incremental::check;
use crate::socks5::same_target;

/// # Panics
/// When a request or a frame is understood in two ways, or is not written as it was read.
pub fn run(input: &[u8]) {
    if let Some((request, len)) = check(input, Request::decode) {
        assert!(len <= Request::LEN_MAX, "a request of {len} bytes");
        let mut written = Vec::new();
        request.encode(&mut written);
        assert_eq!(Request::decode(&written), Ok(Some((request.clone(), written.len()))));
        match &request {
            Request::Connect(target) => same_target(target, &input[2..len]),
            Request::Listen { address, .. } => same_target(&(*address).into(), &input[6..len]),
            Request::Datagrams | Request::Incoming(_) => assert_eq!(written, input[..len]),
        }
    }
    let mut rest = input;
    while let Some((body, len)) = check(rest, |bytes| {
        Ok::<_, shadowmesh::proxy::FrameError>(
            Frame::decode(bytes)?.map(|(frame, len)| ((frame.target.to_vec(), frame.data.to_vec()), len)),
        )
    }) {
        let mut written = Vec::new();
        assert!(Frame { target: &body.0, data: &body.1 }.encode(&mut written), "a frame that is too long");
        assert_eq!(written, rest[..len]);
        rest = &rest[len..];
    }
}
