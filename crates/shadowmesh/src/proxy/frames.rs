//! Datagrams on a stream, whole or not at all.
//!
//! ```text
//!  0..2     2..
//!  length   target        data
//!           └── length bytes ──┘
//! ```
//!
//! The length is big-endian; the target, encoded as [`Target`] says, is where the datagram is to go, or on the way back
//! where it came from.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::UdpSocket;

use super::shared::{Account, Shared};
use super::target::{Target, TargetError};

/// The bytes of the length.
const PREFIX_LEN: usize = 2;

/// Bytes of datagrams that wait for one stream: two of the largest.
const QUEUE_LEN_MAX: usize = 2 * (PREFIX_LEN + u16::MAX as usize);

/// Bytes of memory that a queue keeps when it is empty.
const QUEUE_LEN_AT_REST: usize = 2 * 1024;

/// Chunks read from a stream before others have their turn.
const CHUNKS_PER_TURN: usize = 4;

/// Datagrams read from a socket before others have their turn.
const DATAGRAMS_PER_TURN: usize = 32;

/// How long a socket that keeps failing is left alone.
const RECEIVE_RETRY: Duration = Duration::from_millis(100);

/// Why bytes are no frame.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum FrameError {
    /// The target is none.
    #[error("the target of a datagram is wrong")]
    Target(#[from] TargetError),
    /// The target does not fit the length.
    #[error("a datagram is shorter than its target")]
    TooShort,
}

/// A frame in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The target, encoded.
    pub target: &'a [u8],
    /// The datagram.
    pub data: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Decodes the frame at the front of `bytes`, and says how many it took. `None` when more must arrive first.
    ///
    /// # Errors
    /// [`FrameError`]; more bytes would not help.
    pub fn decode(bytes: &'a [u8]) -> Result<Option<(Self, usize)>, FrameError> {
        let Some((len, rest)) = bytes.split_first_chunk::<PREFIX_LEN>() else { return Ok(None) };
        let Some(body) = rest.get(..usize::from(u16::from_be_bytes(*len))) else { return Ok(None) };
        let target_len = Target::encoded_len(body)?.ok_or(FrameError::TooShort)?;
        let (target, data) = body.split_at_checked(target_len).ok_or(FrameError::TooShort)?;
        Ok(Some((Self { target, data }, PREFIX_LEN + body.len())))
    }

    /// Appends the encoding, unless it is too long for a frame; then it returns false.
    pub fn encode(self, out: &mut Vec<u8>) -> bool {
        let Ok(len) = u16::try_from(self.target.len() + self.data.len()) else { return false };
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(self.target);
        out.extend_from_slice(self.data);
        true
    }
}

/// Datagrams on their way into one stream: bounded, and dropped when there is no room, as UDP does.
#[derive(Debug)]
pub(super) struct FrameQueue {
    account: Rc<Account>,
    bytes: RefCell<Vec<u8>>,
    written: Cell<usize>,
    writer: RefCell<Option<Waker>>,
    used: Cell<bool>,
}

impl FrameQueue {
    pub(super) fn new(account: &Rc<Account>) -> Rc<Self> {
        Rc::new(Self {
            account: Rc::clone(account),
            bytes: RefCell::default(),
            written: Cell::new(0),
            writer: RefCell::default(),
            used: Cell::new(true),
        })
    }

    /// Puts a datagram in, or drops and counts it.
    pub(super) fn push(&self, frame: Frame<'_>) {
        self.used.set(true);
        let mut bytes = self.bytes.borrow_mut();
        let len = PREFIX_LEN + frame.target.len() + frame.data.len();
        let counters = &self.account.shared().counters;
        let before = bytes.capacity();
        // A buffer that grows may be twice as long as what it holds.
        let growth =
            if bytes.len() + len > before { (bytes.len() + len).max(2 * before) - before } else { 0 };
        let room = bytes.len() + len <= QUEUE_LEN_MAX && growth <= self.account.room();
        if !room || !frame.encode(&mut bytes) {
            counters.datagrams_dropped.increment();
            return;
        }
        self.account.hold(bytes.capacity(), before);
        counters.datagrams.increment();
        if let Some(writer) = self.writer.borrow_mut().take() {
            writer.wake();
        }
    }

    /// Waits until no datagram has come or gone for `timeout`, or up to twice as long. Reading the clock for each
    /// datagram would tell more exactly what nobody needs to know.
    pub(super) async fn unused(&self, timeout: Duration) {
        loop {
            self.used.set(false);
            tokio::time::sleep(timeout).await;
            if !self.used.get() {
                return;
            }
        }
    }

    fn poll_write<S: AsyncWrite + Unpin>(
        &self,
        cx: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<io::Result<()>> {
        let mut bytes = self.bytes.borrow_mut();
        if bytes.is_empty() {
            self.writer.replace(Some(cx.waker().clone()));
            return Poll::Ready(Ok(()));
        }
        while self.written.get() < bytes.len() {
            let written = ready!(Pin::new(&mut *stream).poll_write(cx, &bytes[self.written.get()..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written.set(self.written.get() + written);
        }
        ready!(Pin::new(stream).poll_flush(cx))?;
        self.written.set(0);
        let before = bytes.capacity();
        bytes.clear();
        // Enough to carry on without allocating, and little enough for associations at rest.
        bytes.shrink_to(QUEUE_LEN_AT_REST);
        self.account.hold(bytes.capacity(), before);
        self.writer.replace(Some(cx.waker().clone()));
        Poll::Ready(Ok(()))
    }
}

impl Drop for FrameQueue {
    fn drop(&mut self) {
        self.account.hold(0, self.bytes.borrow().capacity());
    }
}

/// Writes what comes into `queue` to `stream` and gives what comes out of it to `deliver`, until the stream ends.
///
/// # Errors
/// Those of the stream; `InvalidData` when it does not carry frames.
pub(super) async fn carry<S>(
    stream: &mut S,
    queue: &FrameQueue,
    early: Vec<u8>,
    deliver: impl FnMut(Frame<'_>),
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut reader = FrameReader { queue, partial: Vec::new(), skip: 0, deliver };
    reader.take(&early).map_err(invalid)?;
    drop(early);
    let ended = std::future::poll_fn(|cx| {
        if let Poll::Ready(Err(error)) = queue.poll_write(cx, stream) {
            return Poll::Ready(Err(error));
        }
        reader.poll(cx, stream)
    })
    .await;
    // The association has ended either way; this tells the other side when it can still be told.
    let _ = stream.shutdown().await;
    ended
}

fn invalid(error: FrameError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

struct FrameReader<'a, D> {
    queue: &'a FrameQueue,
    /// The front of a frame whose rest has not come yet.
    partial: Vec<u8>,
    /// Bytes still to come of a frame for which there was no room.
    skip: usize,
    deliver: D,
}

impl<D: FnMut(Frame<'_>)> FrameReader<'_, D> {
    /// Ready when the stream has ended.
    fn poll<S: AsyncRead + Unpin>(&mut self, cx: &mut Context<'_>, stream: &mut S) -> Poll<io::Result<()>> {
        let shared = Rc::clone(self.queue.account.shared());
        for _ in 0..CHUNKS_PER_TURN {
            let len = shared.with_scratch(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer))?;
                self.take(buffer.filled()).map_err(invalid)?;
                Poll::Ready(Ok::<_, io::Error>(buffer.filled().len()))
            });
            if ready!(len)? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn take(&mut self, mut rest: &[u8]) -> Result<(), FrameError> {
        loop {
            let skipped = self.skip.min(rest.len());
            self.skip -= skipped;
            rest = &rest[skipped..];
            if rest.is_empty() {
                return Ok(());
            }
            if self.partial.is_empty() {
                let used = self.deliver_all(rest)?;
                self.keep(&rest[used..]);
                return Ok(());
            }
            // What is missing of the frame that has begun, and no more: the frames behind it need not be copied.
            let wanted = frame_len(&self.partial, &[]).unwrap_or(PREFIX_LEN) - self.partial.len();
            let (front, behind) = rest.split_at(wanted.min(rest.len()));
            rest = behind;
            self.keep(front);
            if frame_len(&self.partial, &[]) == Some(self.partial.len()) {
                let bytes = std::mem::take(&mut self.partial);
                self.queue.account.hold(0, bytes.capacity());
                self.deliver_all(&bytes)?;
            }
        }
    }

    /// Appends to the frame that has begun. Where there is no room for that the frame is dropped, with the rest that is to
    /// come: a peer that begins many frames and ends none holds what it may hold, and no more.
    fn keep(&mut self, bytes: &[u8]) {
        let account = &self.queue.account;
        let before = self.partial.capacity();
        let len = self.partial.len() + bytes.len();
        let frame_len = frame_len(&self.partial, bytes);
        let capacity = if len <= before { before } else { len.max((2 * before).min(frame_len.unwrap_or(0))) };
        if let Some(frame_len) = frame_len.filter(|_| capacity - before > account.room()) {
            account.shared().counters.datagrams_dropped.increment();
            account.hold(0, before);
            self.partial = Vec::new();
            self.skip = frame_len - len;
            return;
        }
        self.partial.reserve_exact(capacity - self.partial.len());
        self.partial.extend_from_slice(bytes);
        account.hold(self.partial.capacity(), before);
    }

    fn deliver_all(&mut self, bytes: &[u8]) -> Result<usize, FrameError> {
        let mut used = 0;
        while let Some((frame, len)) = Frame::decode(&bytes[used..])? {
            self.queue.used.set(true);
            self.queue.account.shared().counters.datagrams.increment();
            (self.deliver)(frame);
            used += len;
        }
        Ok(used)
    }
}

/// How long the frame is whose front is `front` and then `more`; `None` while that cannot be told.
fn frame_len(front: &[u8], more: &[u8]) -> Option<usize> {
    let mut bytes = front.iter().chain(more);
    let prefix = [*bytes.next()?, *bytes.next()?];
    Some(PREFIX_LEN + usize::from(u16::from_be_bytes(prefix)))
}

impl<D> Drop for FrameReader<'_, D> {
    fn drop(&mut self) {
        self.queue.account.hold(0, self.partial.capacity());
    }
}

/// Gives every datagram that a socket receives to `take`, with its sender. Never ends: one error is one datagram less.
pub(super) async fn receive<T>(
    shared: &Shared,
    socket: &UdpSocket,
    mut take: impl FnMut(&[u8], std::net::SocketAddr) -> T,
) {
    let mut failures = 0;
    loop {
        // An error of the wait itself shows again in the attempt to receive.
        let _ = socket.readable().await;
        for _ in 0..DATAGRAMS_PER_TURN {
            let received = shared.with_scratch(|scratch| {
                let (len, from) = socket.try_recv_from(scratch)?;
                take(&scratch[..len], from);
                io::Result::Ok(())
            });
            match received {
                Ok(()) => failures = 0,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    failures += 1;
                    shared.counters.datagrams_dropped.increment();
                }
            }
            if failures >= DATAGRAMS_PER_TURN {
                tokio::time::sleep(RECEIVE_RETRY).await;
            }
        }
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: &[u8] = &[1, 192, 0, 2, 1, 0, 53];

    #[test]
    fn frames_are_these_bytes() {
        let mut bytes = Vec::new();
        assert!(Frame { target: TARGET, data: b"query" }.encode(&mut bytes));
        assert_eq!(bytes, [&[0, 12], TARGET, b"query"].concat());
        assert_eq!(Frame::decode(&bytes), Ok(Some((Frame { target: TARGET, data: b"query" }, 14))));
        for len in 0..14 {
            assert_eq!(Frame::decode(&bytes[..len]), Ok(None));
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        assert_eq!(Frame::decode(&[0, 0]), Err(FrameError::TooShort));
        assert_eq!(Frame::decode(&[0, 2, 1, 192]), Err(FrameError::TooShort));
        assert_eq!(Frame::decode(&[0, 1, 9]), Err(FrameError::Target(TargetError::UnknownType(9))));
        let mut bytes = Vec::new();
        assert!(!Frame { target: TARGET, data: &vec![0; 65_529] }.encode(&mut bytes));
        assert!(bytes.is_empty());
    }

    #[test]
    fn frames_arrive_whole_however_the_stream_cuts_them() {
        let shared = Shared::new(super::super::Settings::default());
        let queue = FrameQueue::new(&Account::of_this_host(&shared));
        let mut bytes = Vec::new();
        for data in [&b"one"[..], b"", &[7; 3000]] {
            assert!(Frame { target: TARGET, data }.encode(&mut bytes));
        }
        for step in [1, 2, 7, 1000, bytes.len()] {
            let mut lens = Vec::new();
            let mut reader = FrameReader {
                queue: &queue,
                partial: Vec::new(),
                skip: 0,
                deliver: |frame: Frame<'_>| lens.push(frame.data.len()),
            };
            for chunk in bytes.chunks(step) {
                reader.take(chunk).unwrap();
            }
            drop(reader);
            assert_eq!(lens, [3, 0, 3000], "in steps of {step}");
        }
        assert_eq!(shared.buffered(), 0);
    }

    #[test]
    fn a_queue_that_nobody_drains_drops_and_counts() {
        let shared = Shared::new(super::super::Settings::default());
        let queue = FrameQueue::new(&Account::of_this_host(&shared));
        for _ in 0..200 {
            queue.push(Frame { target: TARGET, data: &[0; 1000] });
        }
        let carried = shared.counters.datagrams.value();
        assert_eq!(carried, (QUEUE_LEN_MAX / 1009) as u64);
        assert_eq!(carried + shared.counters.datagrams_dropped.value(), 200);
        let (held, carried) = (shared.buffered() as u64, carried * 1009);
        assert!((carried..=2 * carried).contains(&held), "{held} bytes for {carried}");
        drop(queue);
        assert_eq!(shared.buffered(), 0);
    }

    #[test]
    fn a_thousand_half_sent_frames_hold_no_more_than_the_limit_and_the_frames_behind_them_arrive() {
        let settings = super::super::Settings { buffered_max: 1 << 20, ..Default::default() };
        let shared = Shared::new(settings);
        let account = Account::of_a_peer(&shared);
        let mut frame = Vec::new();
        assert!(Frame { target: TARGET, data: &vec![7; 60_000] }.encode(&mut frame));
        let queues: Vec<_> = (0..1_000).map(|_| FrameQueue::new(&account)).collect();
        let delivered = Cell::new(0);
        let reader = |queue| FrameReader {
            queue,
            partial: Vec::new(),
            skip: 0,
            deliver: |frame: Frame<'_>| delivered.set(delivered.get() + frame.data.len()),
        };
        let mut readers: Vec<_> = queues.iter().map(|queue| reader(queue)).collect();
        for reader in &mut readers {
            reader.take(&frame[..50_000]).unwrap();
        }
        assert!(shared.buffered() <= 1 << 19, "{} bytes are held", shared.buffered());
        let dropped = shared.counters.datagrams_dropped.value();
        assert!(dropped > 980, "{dropped}");
        // The rest of what was dropped is no frame, and what follows it is one.
        let mut small = Vec::new();
        assert!(Frame { target: TARGET, data: b"small" }.encode(&mut small));
        for reader in &mut readers {
            for chunk in [&frame[50_000..], &small].concat().chunks(7_001) {
                reader.take(chunk).unwrap();
            }
        }
        assert_eq!(delivered.get(), 5 * 1_000 + 60_000 * (1_000 - dropped as usize));
        drop(readers);
        assert_eq!(shared.buffered(), 0);
    }
}
