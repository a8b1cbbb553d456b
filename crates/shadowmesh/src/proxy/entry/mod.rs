//! The side of the clients: listeners, each of which carries what comes to a peer.
//!
//! A listener gets its streams from an async closure, the one seam between the proxies and what carries them. Contract:
//! the closure opens a stream to the peer, or fails when there is no session with it; a stream on which `shutdown` was
//! called passes an end on to the other side; one that is dropped without it was cut off.

mod associate;
mod client;
mod forward;

use std::io;

use log::debug;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::request::{ACCEPTED, Refusal, Request};
use super::shared::{Shared, Slot};

pub use client::Socks5;
pub use forward::{TcpForward, UdpForward};

pub(super) use forward::{forward_tcp, forward_udp};

/// A stream on which the other side has accepted our request.
#[derive(Debug)]
pub(super) struct Asked<S> {
    pub(super) stream: S,
    _slot: Slot,
}

/// Opens a stream and asks for something on it.
pub(super) async fn ask<S, O>(shared: &Shared, open: &O, request: &Request) -> Result<Asked<S>, Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin,
    O: AsyncFn() -> io::Result<S>,
{
    let slot = shared.stream_slot().ok_or_else(|| {
        shared.counters.refused_limit.increment();
        Refusal::TooMany
    })?;
    let exchange = async {
        let mut stream = open().await.map_err(|error| {
            debug!("cannot open a stream: {error}");
            Refusal::PeerUnreachable
        })?;
        let mut message = Vec::with_capacity(32);
        request.encode(&mut message);
        let answer = async {
            stream.write_all(&message).await?;
            stream.flush().await?;
            stream.read_u8().await
        };
        match answer.await {
            Ok(ACCEPTED) => Ok(stream),
            Ok(code) => Err(Refusal::from_code(code)),
            Err(error) => {
                debug!("a stream ended before its answer: {error}");
                Err(Refusal::PeerUnreachable)
            }
        }
    };
    let stream = timeout(shared.settings.answer_timeout, exchange).await.map_err(|_| Refusal::TimedOut)??;
    Ok(Asked { stream, _slot: slot })
}
