//! One stream to a peer, as tokio knows streams.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use node::PeerId;
use stream::smux::StreamId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::hub::Hub;

/// A stream to a peer. `shutdown` ends the direction towards the peer and leaves the other one open; a stream that is dropped
/// without it is cut off.
#[derive(Debug)]
pub(crate) struct PeerStream {
    hub: Rc<Hub>,
    pub(super) peer: PeerId,
    /// The session it lives and dies with.
    pub(super) session: u32,
    pub(super) id: StreamId,
    finished: bool,
}

impl PeerStream {
    pub(super) fn new(hub: Rc<Hub>, peer: PeerId, session: u32, id: StreamId) -> Self {
        Self { hub, peer, session, id, finished: false }
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let room = buf.initialize_unfilled();
        self.hub.poll_read(&self, cx, room).map_ok(|read| buf.advance(read))
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.hub.poll_write(&self, cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What was written is sent without being asked.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.finished {
            self.finished = true;
            self.hub.finish(&self)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for PeerStream {
    fn drop(&mut self) {
        self.hub.release(self, self.finished);
    }
}
