//! Datagrams on their way out: collected into trains, encrypted together, sent in one system call.

use std::io;
use std::net::SocketAddr;

use os::udp::UdpLink;
use packet::{Ecn, Link, MAX_DATAGRAM, Transmit};
use rand_chacha::ChaCha12Rng;
use rand_core::Rng;

use super::crypt::Cipher;

/// Datagrams in one train: what every kernel with GSO takes.
const DATAGRAMS_MAX: usize = 64;

/// What became of a train.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// It has left, or could never have: what KCP misses it sends again.
    All,
    /// The socket is full: try again when it is writable.
    Blocked,
    /// The kernel is out of buffers: try again in a moment.
    NoBuffers,
}

/// One train, and the datagram that did not fit it any more.
#[derive(Debug)]
pub(super) struct Train {
    buf: Vec<u8>,
    to: SocketAddr,
    /// Bytes of the train.
    len: usize,
    /// Bytes of each of its datagrams; the last may be shorter.
    size: usize,
    /// Bytes behind the train that begin the next one.
    next: usize,
    sealed: bool,
    /// Bytes that the socket has taken.
    taken: usize,
    mtu: usize,
}

impl Train {
    /// For datagrams of at most `mtu` bytes.
    pub(super) fn new(mtu: usize) -> Self {
        let to = SocketAddr::from(([0, 0, 0, 0], 0));
        Self { buf: vec![0; MAX_DATAGRAM + mtu], to, len: 0, size: 0, next: 0, sealed: false, taken: 0, mtu }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills the train with datagrams to `to`, as `poll` gives them: it writes one into the room it is given, which
    /// begins behind the header, and returns its length. False when there was nothing.
    pub(super) fn fill(
        &mut self,
        to: SocketAddr,
        header_len: usize,
        mut poll: impl FnMut(&mut [u8]) -> Option<usize>,
    ) -> bool {
        self.to = to;
        (self.len, self.size, self.taken, self.sealed) = (self.next, self.next, 0, false);
        self.next = 0;
        let mut count = usize::from(self.len > 0);
        while count < DATAGRAMS_MAX && self.len.is_multiple_of(self.size.max(1)) {
            if self.len + self.size.max(1) > MAX_DATAGRAM {
                break;
            }
            let from = self.len + header_len;
            let Some(len) = poll(&mut self.buf[from..self.len + self.mtu]) else { break };
            let len = header_len + len;
            if count > 0 && (len > self.size || self.len + len > MAX_DATAGRAM) {
                self.next = len;
                break;
            }
            self.size = self.size.max(len);
            self.len += len;
            count += 1;
        }
        !self.is_empty()
    }

    /// Encrypts what is not encrypted yet and sends what has not been sent yet.
    pub(super) fn send(&mut self, link: &mut UdpLink, cipher: &Cipher, rng: &mut ChaCha12Rng) -> Sent {
        if !self.sealed {
            cipher.seal(&mut self.buf[..self.len], self.size, |nonce| rng.fill_bytes(nonce));
            self.sealed = true;
        }
        while self.taken < self.len {
            let contents = &self.buf[self.taken..self.len];
            match link.send(&Transmit { to: self.to, ecn: Ecn::NotEct, segment_size: self.size, contents }) {
                Ok(taken) => self.taken += taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Sent::Blocked,
                Err(error) if error.kind() == io::ErrorKind::OutOfMemory => return Sent::NoBuffers,
                Err(_) => break,
            }
        }
        // What begins the next train moves to the front.
        self.buf.copy_within(self.len..self.len + self.next, 0);
        self.len = 0;
        Sent::All
    }

    /// Whether a datagram waits for a train of its own: [`fill`](Self::fill) again, for the same destination.
    pub(super) fn has_next(&self) -> bool {
        self.next > 0
    }
}
