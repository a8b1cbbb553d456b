//! Descriptors that a Tokio task waits for.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use tokio::io::unix::AsyncFd;

/// Watches a descriptor of `os`, which owns it, keeps it open for as long as it lives, and never exchanges it.
///
/// That is what Tokio's successor of this constructor asks its caller to promise in an `unsafe` block, of which this crate has
/// none.
#[expect(deprecated, reason = "the successor is unsafe; the types of `os` keep its contract")]
pub(crate) fn watched<T: AsFd + AsRawFd>(descriptor: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::new(descriptor)
}
