//! Carrying bytes both ways between two connections, each way closed by itself.
//!
//! ```text
//!  client ──read──► scratch ──write──► stream        what does not fit is held, and nothing is read until it has gone
//!         ◄─write── scratch ◄──read───
//! ```
//!
//! - An end one way (a FIN) is passed on once all before it is written, and leaves the other way alone.
//! - A connection at rest holds no buffer: both ways read into one scratch buffer of the thread and write from it at
//!   once. Only what the receiver does not take is copied, at most a chunk, and nothing more is read meanwhile.
//! - An error is no end: the caller then drops both sides without closing them, so that neither takes a part for the
//!   whole.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::shared::{Account, Counter};
use super::stop::{STOP_TIMEOUT, Stop};

/// Chunks that one direction carries before other connections have their turn.
const CHUNKS_PER_TURN: usize = 2;

/// Carries bytes between `client` and `server` until both ways have ended, or `stop` says so; then what is held is still
/// written, if it is taken in time. `early` is what the client has sent already.
///
/// # Errors
/// The first error of either side. A write that fails still lets the other way end, since a server may answer before it
/// has read everything. `ConnectionAborted` when it was time to stop before both had ended: more may have come, and nobody must
/// take what has arrived for the whole.
pub(super) async fn pump<C, S>(
    account: &Account,
    client: &mut C,
    server: &mut S,
    early: Vec<u8>,
    stop: &Stop,
) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let shared = account.shared();
    let mut up = OneWay::new(account, &shared.counters.bytes_up);
    let mut down = OneWay::new(account, &shared.counters.bytes_down);
    up.hold(early);
    let mut stopping = std::pin::pin!(stop.requested());
    let mut last_moment: Option<Pin<Box<Sleep>>> = None;
    let mut silence = Silence::new(shared.settings.half_closed_timeout);
    std::future::poll_fn(|cx| {
        if last_moment.is_none() && stopping.as_mut().poll(cx).is_ready() {
            last_moment = Some(Box::pin(sleep(STOP_TIMEOUT)));
            up.stop();
            down.stop();
        }
        if last_moment.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let up_done = up.poll(cx, client, server).is_ready();
        let down_done = down.poll(cx, server, client).is_ready();
        // When it is time to stop, one way that has written all it holds does not cut the other one short.
        let finishing = last_moment.is_some() && !(up_done && down_done);
        if !finishing && let Some(error) = up.take_read_error().or_else(|| down.take_read_error()) {
            return Poll::Ready(Err(error));
        }
        match (up_done, down_done) {
            (true, true) => Poll::Ready(up.result().and(down.result())),
            (false, false) => Poll::Pending,
            _ => silence.poll(cx, up.moved + down.moved),
        }
    })
    .await
}

#[derive(Debug)]
enum State {
    /// Bytes come, or may come.
    Open,
    /// No more will come; what is held, then the end, is still to be written.
    Ending,
    /// It is time to stop, and more may have come: what is held is still to be written, but no end.
    Stopping,
    /// The end is passed on.
    Ended,
    /// The reader failed: nothing that was sent can be known to be whole.
    ReadFailed(io::Error),
    /// The writer takes no more.
    WriteFailed(io::Error),
}

/// One direction.
struct OneWay<'a> {
    account: &'a Account,
    counter: &'a Counter,
    state: State,
    /// What was read and not yet written, from `held_from` on.
    held: Vec<u8>,
    held_from: usize,
    /// Something was written since the last flush.
    unflushed: bool,
    moved: u64,
}

impl<'a> OneWay<'a> {
    fn new(account: &'a Account, counter: &'a Counter) -> Self {
        Self {
            account,
            counter,
            state: State::Open,
            held: Vec::new(),
            held_from: 0,
            unflushed: false,
            moved: 0,
        }
    }

    fn hold(&mut self, bytes: Vec<u8>) {
        debug_assert!(self.held.is_empty(), "nothing is read while something is held");
        self.account.hold(bytes.capacity(), 0);
        self.held = bytes;
        self.held_from = 0;
    }

    /// No more is to be read, though more may come.
    fn stop(&mut self) {
        if matches!(self.state, State::Open) {
            self.state = State::Stopping;
        }
    }

    fn take_read_error(&mut self) -> Option<io::Error> {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::ReadFailed(error) => Some(error),
            state => {
                self.state = state;
                None
            }
        }
    }

    fn result(&mut self) -> io::Result<()> {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::WriteFailed(error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Carries what there is to carry. Ready when this direction has ended, well or not.
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, reader: &mut R, writer: &mut W) -> Poll<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        for _ in 0..CHUNKS_PER_TURN {
            match self.state {
                State::Ended | State::ReadFailed(_) | State::WriteFailed(_) => return Poll::Ready(()),
                State::Open | State::Ending | State::Stopping => {}
            }
            if let Err(error) = ready!(self.poll_held(cx, writer)) {
                self.fail_writing(error);
                continue;
            }
            if matches!(self.state, State::Stopping) {
                self.state = match ready!(Pin::new(&mut *writer).poll_flush(cx)) {
                    Ok(()) => State::ReadFailed(io::ErrorKind::ConnectionAborted.into()),
                    Err(error) => State::WriteFailed(error),
                };
                continue;
            }
            if matches!(self.state, State::Ending) {
                match ready!(Pin::new(&mut *writer).poll_shutdown(cx)) {
                    Ok(()) => self.state = State::Ended,
                    Err(error) => self.fail_writing(error),
                }
                continue;
            }
            ready!(self.poll_chunk(cx, reader, writer));
        }
        // There is more, but others wait.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes what is held.
    fn poll_held<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
    ) -> Poll<io::Result<()>> {
        while self.held_from < self.held.len() {
            let written = ready!(Pin::new(&mut *writer).poll_write(cx, &self.held[self.held_from..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.held_from += written;
            self.count(written);
        }
        self.release();
        Poll::Ready(Ok(()))
    }

    /// Reads a chunk and writes what the writer takes of it; pending only when there was nothing to read.
    fn poll_chunk<R, W>(&mut self, cx: &mut Context<'_>, reader: &mut R, writer: &mut W) -> Poll<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let account = self.account;
        account.shared().with_scratch(|scratch| {
            let mut buffer = ReadBuf::new(&mut scratch[..account.chunk_len()]);
            match Pin::new(reader).poll_read(cx, &mut buffer) {
                Poll::Pending => {
                    // Now that nothing follows at once, nothing may wait in the writer either.
                    if !self.unflushed {
                        return Poll::Pending;
                    }
                    match ready!(Pin::new(writer).poll_flush(cx)) {
                        Ok(()) => {
                            self.unflushed = false;
                            return Poll::Pending;
                        }
                        Err(error) => self.fail_writing(error),
                    }
                }
                Poll::Ready(Err(error)) => self.state = State::ReadFailed(error),
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => self.state = State::Ending,
                Poll::Ready(Ok(())) => self.write_chunk(cx, buffer.filled(), writer),
            }
            Poll::Ready(())
        })
    }

    fn write_chunk<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, mut chunk: &[u8], writer: &mut W) {
        while !chunk.is_empty() {
            match Pin::new(&mut *writer).poll_write(cx, chunk) {
                Poll::Ready(Ok(0)) => return self.fail_writing(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(written)) => {
                    chunk = &chunk[written..];
                    self.count(written);
                }
                Poll::Ready(Err(error)) => return self.fail_writing(error),
                Poll::Pending => return self.hold(chunk.to_vec()),
            }
        }
    }

    fn fail_writing(&mut self, error: io::Error) {
        self.state = State::WriteFailed(error);
        self.release();
    }

    fn release(&mut self) {
        self.account.hold(0, self.held.capacity());
        self.held = Vec::new();
        self.held_from = 0;
    }

    fn count(&mut self, written: usize) {
        self.unflushed = true;
        self.moved += written as u64;
        self.counter.add(written as u64);
    }
}

impl Drop for OneWay<'_> {
    fn drop(&mut self) {
        self.release();
    }
}

/// Ends a half-closed connection in which nothing has moved for long.
struct Silence {
    timeout: Duration,
    /// Runs since the first poll, and what had moved by then.
    timer: Option<(Pin<Box<Sleep>>, u64)>,
}

impl Silence {
    fn new(timeout: Duration) -> Self {
        Self { timeout, timer: None }
    }

    fn poll(&mut self, cx: &mut Context<'_>, moved: u64) -> Poll<io::Result<()>> {
        let timeout = self.timeout;
        let (timer, moved_then) = self.timer.get_or_insert_with(|| (Box::pin(sleep(timeout)), moved));
        loop {
            ready!(timer.as_mut().poll(cx));
            if *moved_then == moved {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            *moved_then = moved;
            timer.as_mut().reset(Instant::now() + timeout);
        }
    }
}
