//! The side of the clients: listeners, each of which carries what comes to a peer.
//!
//! A listener gets its streams from an async closure, the one seam between the proxies and what carries them. Contract:
//! the closure opens a stream to the peer, or fails when there is no session with it; a stream on which `shutdown` was
//! called passes an end on to the other side; one that is dropped without it was cut off.

mod associate;
mod client;
mod forward;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use log::debug;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Sleep, sleep, timeout};

use super::request::{ACCEPTED, Refusal, Request};
use super::shared::{Account, StreamSlot};

pub use client::Socks5;
pub use forward::{TcpForward, UdpForward};

pub(super) use forward::{forward_tcp, forward_udp};

/// A stream on which the other side has accepted our request.
#[derive(Debug)]
pub(super) struct Asked<S> {
    pub(super) stream: S,
    _slot: StreamSlot,
}

/// Opens a stream, asks for something on it and waits for the answer.
pub(super) async fn ask<S, O>(account: &Account, open: &O, request: &Request) -> Result<Asked<S>, Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin,
    O: AsyncFn() -> io::Result<S>,
{
    let exchange = async {
        let mut begun = begin(account, open, request).await?;
        match begun.stream.read_u8().await {
            Ok(ACCEPTED) => Ok(Asked { stream: begun.stream, _slot: begun.slot }),
            Ok(code) => Err(Refusal::from_code(code)),
            Err(error) => {
                debug!("a stream ended before its answer: {error}");
                Err(Refusal::PeerUnreachable)
            }
        }
    };
    timeout(account.shared().settings.answer_timeout, exchange).await.map_err(|_| Refusal::TimedOut)?
}

/// Opens a stream and asks for something on it, and does not wait: what follows the request travels with it, which saves who
/// need not be told the answer first a round trip.
pub(super) async fn begin<S, O>(account: &Account, open: &O, request: &Request) -> Result<Begun<S>, Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin,
    O: AsyncFn() -> io::Result<S>,
{
    let shared = account.shared();
    let slot = account.stream_slot().ok_or_else(|| {
        shared.counters.refused_limit.increment();
        Refusal::TooMany
    })?;
    let asking = async {
        let mut stream = open().await?;
        let mut message = Vec::with_capacity(32);
        request.encode(&mut message);
        stream.write_all(&message).await?;
        stream.flush().await?;
        Ok(stream)
    };
    let stream = timeout(shared.settings.answer_timeout, asking).await.map_err(|_| Refusal::TimedOut)?;
    let stream = stream.map_err(|error: io::Error| {
        debug!("cannot open a stream: {error}");
        Refusal::PeerUnreachable
    })?;
    Ok(Begun { stream, slot, answer_due: Some(Box::pin(sleep(shared.settings.answer_timeout))) })
}

/// A stream on which something was asked for. Reading begins behind the answer; a refusal, or none in time, is an error.
#[derive(Debug)]
pub(super) struct Begun<S> {
    stream: S,
    slot: StreamSlot,
    /// Until the answer is here.
    answer_due: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Begun<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(answer_due) = &mut this.answer_due {
            let mut answer = [0];
            let mut answer = ReadBuf::new(&mut answer);
            match Pin::new(&mut this.stream).poll_read(cx, &mut answer)? {
                Poll::Ready(()) => match answer.filled() {
                    [ACCEPTED] => this.answer_due = None,
                    [code, ..] => return Poll::Ready(Err(io::Error::other(Refusal::from_code(*code)))),
                    [] => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                },
                Poll::Pending => {
                    ready!(answer_due.as_mut().poll(cx));
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, Refusal::TimedOut)));
                }
            }
        }
        Pin::new(&mut this.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Begun<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
