//! Remote forwards: a peer listens for us, or we listen for a peer.
//!
//! ```text
//!  the side that asks                        the side that listens
//!  Listen(7, address)                  ─►    binds
//!                                      ◄─    0, the address bound
//!                                            a client comes
//!                                      ◄─    Incoming(7), on a stream of its own
//!  connects to its own target: 0       ─►
//!                  bytes, or frames, both ways
//! ```
//!
//! The listener lives as long as the stream that asked for it. A peer that asks again for the same address, as after a
//! restart, gets it: its earlier listener ends first.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use log::{info, warn};
use node::PeerId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use super::{Exit, Failure};
use crate::proxy::entry::{ask, forward_tcp, forward_udp};
use crate::proxy::listener::{bind_tcp, bind_udp, until_closed};
use crate::proxy::request::{ACCEPTED, ListenerId, Refusal, Request, Transport};
use crate::proxy::stop::{Stop, StopHandle};
use crate::proxy::target::Target;

/// What a peer is to listen for on our behalf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteForward {
    /// Which of our listeners at that peer.
    pub listener: ListenerId,
    /// Connections or datagrams.
    pub transport: Transport,
    /// Where the peer is to listen.
    pub listen: SocketAddr,
    /// Where what comes there is to go, from here.
    pub target: Target,
}

impl Exit {
    /// Has `peer` listen, and again whenever that ends, until `stop`. `listening` is told the address each time.
    pub async fn forward_from<S, O>(
        &self,
        peer: PeerId,
        forward: RemoteForward,
        open: O,
        stop: Stop,
        listening: impl Fn(SocketAddr),
    ) where
        S: AsyncRead + AsyncWrite + Unpin,
        O: AsyncFn() -> io::Result<S>,
    {
        let RemoteForward { listener, transport, listen: address, target } = forward;
        self.remote.borrow_mut().insert((peer, listener), (transport, target));
        let request = Request::Listen { listener, transport, address };
        let (first, longest) = self.shared.settings.retry;
        let mut wait = first;
        let mut refused_before = None;
        let asking = async {
            loop {
                match self.ask_to_listen(&open, &request).await {
                    Ok((mut stream, bound)) => {
                        info!("the peer listens on {bound} for us");
                        (wait, refused_before) = (first, None);
                        listening(bound);
                        until_closed(&mut stream).await;
                    }
                    // Said once; the peer may come back, or be given other rules, at any time.
                    Err(refusal) if refused_before != Some(refusal) => {
                        warn!("the peer does not listen on {address} for us: {refusal}; trying again");
                        refused_before = Some(refusal);
                    }
                    Err(_) => {}
                }
                sleep(with_jitter(wait)).await;
                wait = (wait * 2).min(longest);
            }
        };
        tokio::select! {
            biased;
            () = stop.requested() => {}
            () = asking => {}
        }
        self.remote.borrow_mut().remove(&(peer, listener));
    }

    async fn ask_to_listen<S, O>(&self, open: &O, request: &Request) -> Result<(S, SocketAddr), Refusal>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        O: AsyncFn() -> io::Result<S>,
    {
        let mut asked = ask(&self.own_account, open, request).await?;
        let mut bytes = Vec::with_capacity(Target::ENCODED_LEN_MAX);
        let bound = async {
            loop {
                match Target::decode(&bytes) {
                    Ok(Some((Target::Address(bound), _))) => return Ok(bound),
                    Ok(None) if !matches!(asked.stream.read_buf(&mut bytes).await, Ok(0) | Err(_)) => {}
                    _ => return Err(Refusal::Failed),
                }
            }
        };
        let bound =
            timeout(self.shared.settings.answer_timeout, bound).await.unwrap_or(Err(Refusal::TimedOut))?;
        Ok((asked.stream, bound))
    }

    /// Listens for `peer` as long as it keeps `stream` open.
    #[expect(clippy::too_many_arguments, reason = "one call, of all that a request to listen has")]
    pub(super) async fn listen<S, O>(
        &self,
        peer: PeerId,
        listener: ListenerId,
        transport: Transport,
        address: SocketAddr,
        stream: &mut S,
        open: O,
        stop: &Stop,
    ) -> Result<(), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
        O: AsyncFn() -> io::Result<S> + 'static,
    {
        let key = (peer, transport, address);
        let earlier = self.listeners.borrow_mut().remove(&key);
        if let Some(earlier) = earlier {
            earlier.stop();
            earlier.stopped().await;
        }
        let (handle, replaced) = StopHandle::new();
        let handle = Rc::new(handle);
        let request = Request::Incoming(listener);
        let bound = |bound: io::Result<SocketAddr>| {
            let mut answer = vec![ACCEPTED];
            Target::Address(bound?).encode(&mut answer);
            Ok::<_, io::Error>(answer)
        };
        let refused = |error: io::Error| {
            Failure::Refused(match error.kind() {
                io::ErrorKind::AddrInUse => Refusal::AddressInUse,
                _ => Refusal::Failed,
            })
        };
        let account = &self.account(peer);
        self.listeners.borrow_mut().insert(key, Rc::clone(&handle));
        let listening = async {
            match transport {
                Transport::Tcp => {
                    let socket = bind_tcp(address).map_err(refused)?;
                    stream.write_all(&bound(socket.local_addr())?).await?;
                    let forward = forward_tcp(account, socket, open, request, &replaced);
                    until_any(stop, &handle, stream, forward).await;
                }
                Transport::Udp => {
                    let socket = bind_udp(address).map_err(refused)?;
                    stream.write_all(&bound(socket.local_addr())?).await?;
                    let forward =
                        forward_udp(account, socket, open, request, &Target::UNSPECIFIED, &replaced);
                    until_any(stop, &handle, stream, forward).await;
                }
            }
            Ok(())
        };
        let ended = listening.await;
        let mut listeners = self.listeners.borrow_mut();
        if listeners.get(&key).is_some_and(|current| Rc::ptr_eq(current, &handle)) {
            listeners.remove(&key);
        }
        ended
    }
}

/// Runs `forward`; has it end, and waits for it, when it is time to stop or the peer closes its stream.
async fn until_any<S: AsyncRead + Unpin>(
    stop: &Stop,
    handle: &StopHandle,
    stream: &mut S,
    forward: impl Future<Output = ()>,
) {
    let mut forward = std::pin::pin!(forward);
    tokio::select! {
        biased;
        () = stop.requested() => {}
        () = until_closed(stream) => {}
        () = &mut forward => return,
    }
    handle.stop();
    forward.await;
}

/// Between three quarters and five quarters of a wait: peers that lost the same session do not all come back at once.
fn with_jitter(wait: Duration) -> Duration {
    let random = getrandom::u32().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX));
    wait.mul_f64(0.75 + random / 2.0)
}
