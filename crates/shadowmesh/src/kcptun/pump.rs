//! Carrying bytes between a TCP connection and a stream, each way ended by itself.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use stream::smux::{ReadError, StreamId};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::Connection;
use super::link::Link;

/// Bytes read from a connection at once.
const READ_MAX: usize = 64 << 10;
/// Pieces written to a connection at once.
const SLICES: usize = 32;
/// Reads and writes of one connection before it is another's turn.
const CHUNKS_PER_TURN: usize = 4;
/// How long what a connection sends to a stream that has ended is read, and thrown away: closed at once, the kernel would
/// reset it, and what is on its way to the client would be lost.
const DISCARD_MAX: Duration = Duration::from_secs(5);

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_MAX]);
}

/// A stream that is let go of when its task ends, however that ends.
struct Owned {
    link: Rc<Link>,
    id: StreamId,
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.link.forget(self.id);
        self.link.session().streams().close(self.id, Instant::now());
        self.link.mark_ready();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Up {
    Open,
    /// Nobody wants it any more: what comes is thrown away.
    Discarding,
    Ended,
}

/// Carries bytes until both directions have ended.
///
/// # Errors
/// The connection failed, or the session: then the connection is reset, so that nobody takes a part for the whole.
pub(super) async fn pump(link: Rc<Link>, id: StreamId, mut tcp: Connection) -> io::Result<()> {
    let stream = Owned { link, id };
    tcp.set_nodelay();
    let (mut up, mut down_ended) = (Up::Open, false);
    let carried = poll_fn(|cx| {
        if !down_ended && poll_down(cx, &stream, &mut tcp)?.is_ready() {
            down_ended = true;
        }
        if up != Up::Ended
            && let Poll::Ready(next) = poll_up(cx, &stream, &mut tcp, up)?
        {
            up = next;
        }
        match (down_ended, up) {
            (true, Up::Ended | Up::Discarding) => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    });
    let outcome = carried.await;
    if outcome.is_err() {
        tcp.cut_off();
    } else if up == Up::Discarding {
        let discarded = poll_fn(|cx| poll_discard(cx, &mut tcp));
        let _ = tokio::time::timeout(DISCARD_MAX, discarded).await;
    }
    outcome
}

/// From the stream to the connection. Ready when that has ended.
fn poll_down(cx: &mut Context<'_>, stream: &Owned, tcp: &mut Connection) -> Poll<io::Result<()>> {
    for _ in 0..CHUNKS_PER_TURN {
        let mut session = stream.link.session();
        let mut slices = [IoSlice::new(&[]); SLICES];
        let written = match session.streams().peek(stream.id, &mut slices) {
            Ok(0) => return Pin::new(tcp).poll_shutdown(cx),
            Ok(count) => ready!(Pin::new(&mut *tcp).poll_write_vectored(cx, &slices[..count]))?,
            Err(ReadError::Blocked) if !stream.link.is_closed() => {
                stream.link.wait_readable(stream.id, cx.waker());
                return Poll::Pending;
            }
            Err(_) => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        };
        session.streams().consume(stream.id, written);
        drop(session);
        // There is room again, and perhaps the other end is to learn it.
        stream.link.mark_ready();
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// From the connection to the stream. Ready when that has ended, one way or the other.
fn poll_up(cx: &mut Context<'_>, stream: &Owned, tcp: &mut Connection, up: Up) -> Poll<io::Result<Up>> {
    if up == Up::Discarding {
        return poll_discard(cx, tcp).map(|()| Ok(Up::Ended));
    }
    for _ in 0..CHUNKS_PER_TURN {
        if stream.link.is_closed() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let mut session = stream.link.session();
        let room = session.streams().writable(stream.id);
        if room == 0 {
            if session.streams().is_stopped(stream.id) {
                return Poll::Ready(Ok(Up::Discarding));
            }
            stream.link.wait_writable(stream.id, cx.waker());
            return Poll::Pending;
        }
        let ended = SCRATCH.with_borrow_mut(|scratch| {
            let mut buf = ReadBuf::new(&mut scratch[..room.min(READ_MAX)]);
            ready!(Pin::new(&mut *tcp).poll_read(cx, &mut buf))?;
            // There is room for all of it.
            let _ = session.streams().write(stream.id, buf.filled());
            Poll::Ready(io::Result::Ok(buf.filled().is_empty()))
        });
        let Poll::Ready(ended) = ended else {
            // Also to be woken when nobody wants it any more.
            stream.link.wait_writable(stream.id, cx.waker());
            return Poll::Pending;
        };
        let ended = ended?;
        if ended {
            session.streams().finish(stream.id, Instant::now());
        }
        drop(session);
        stream.link.mark_ready();
        if ended {
            return Poll::Ready(Ok(Up::Ended));
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// Reads and throws away, to the end.
fn poll_discard(cx: &mut Context<'_>, tcp: &mut Connection) -> Poll<()> {
    SCRATCH.with_borrow_mut(|scratch| {
        loop {
            let mut buf = ReadBuf::new(scratch);
            let read = ready!(Pin::new(&mut *tcp).poll_read(cx, &mut buf));
            if read.is_err() || buf.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    })
}
