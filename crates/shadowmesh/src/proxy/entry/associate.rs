//! UDP ASSOCIATE (RFC 1928 §7): a client's datagrams on one stream.

use std::cell::Cell;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::rc::Rc;

use log::debug;
use socket2::{SockAddr, SockRef};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UdpSocket};

use crate::proxy::frames::{Frame, FrameQueue, carry, receive};
use crate::proxy::listener::until_closed;
use crate::proxy::shared::Account;
use crate::proxy::socks5::{self, DATAGRAM_PREFIX};
use crate::proxy::stop::Stop;

/// Carries datagrams between the client, at `socket`, and the exit until the client's connection or the stream ends, or
/// nothing has come or gone for long.
///
/// Datagrams are the client's when they come from the address of its connection, and from `port` if it named one; else
/// the first one's port is taken.
pub(super) async fn associate<S>(
    account: &Rc<Account>,
    connection: &mut TcpStream,
    client: SocketAddr,
    port: u16,
    socket: &UdpSocket,
    stream: &mut S,
    stop: &Stop,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let shared = account.shared();
    let queue = FrameQueue::new(account);
    let sender = Cell::new((port != 0).then(|| SocketAddr::new(client.ip(), port)));
    let to_exit = receive(shared, socket, |datagram, from| {
        let known = sender.get().map_or(from.ip() == client.ip(), |sender| sender == from);
        match socks5::datagram(datagram) {
            Ok((target, data)) if known => {
                sender.set(Some(from));
                queue.push(Frame { target, data });
            }
            _ => shared.counters.datagrams_dropped.increment(),
        }
    });
    let to_client = carry(stream, &queue, Vec::new(), |frame| {
        let sent = sender.get().is_some_and(|sender| {
            let parts = [&DATAGRAM_PREFIX, frame.target, frame.data].map(IoSlice::new);
            // Not through the runtime, which would have us wait: a full socket drops, as UDP does.
            SockRef::from(socket).send_to_vectored(&parts, &SockAddr::from(sender)).is_ok()
        });
        if !sent {
            shared.counters.datagrams_dropped.increment();
        }
    });
    tokio::select! {
        biased;
        () = stop.requested() => {}
        () = until_closed(connection) => {}
        ended = to_client => {
            if let Err(error) = ended {
                debug!("association of {client}: {error}");
            }
        }
        () = to_exit => {}
        () = queue.unused(shared.settings.association_timeout) => {}
    }
}
