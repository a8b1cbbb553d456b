//! Taking connections: bounded, and alive whatever the kernel says.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use log::{debug, warn};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::shared::Shared;
use super::stop::{STOP_TIMEOUT, Stop};

/// Connections that wait in the kernel to be taken.
const BACKLOG: i32 = 1_024;

/// Clients above the limit that are told so at a time; more are cut off.
const TURNED_AWAY_MAX: usize = 64;

/// The first and the longest wait after the kernel had no connection to give.
const RETRY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Finds a connection dead whose other end is gone without a word, in two minutes.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_mins(1))
    .with_interval(Duration::from_secs(15))
    .with_retries(4);

/// Whether a client may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Yes.
    Welcome,
    /// No: tell it that there are too many.
    TooMany,
}

/// Listens for connections. Those that are taken inherit what is set here. `[::]` is every address of both families, as far
/// as the host has them.
pub(crate) fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    either_family(address, |address| {
        let socket = open(address, Type::STREAM, Protocol::TCP)?;
        // An earlier listener's connections may still be closing.
        socket.set_reuse_address(true)?;
        tune(&SockRef::from(&socket))?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    })
}

/// Receives datagrams. `[::]` is every address of both families, as far as the host has them.
pub(super) fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    either_family(address, |address| {
        let socket = open(address, Type::DGRAM, Protocol::UDP)?;
        socket.bind(&address.into())?;
        UdpSocket::from_std(socket.into())
    })
}

fn open(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        // Whatever net.ipv6.bindv6only says.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    Ok(socket)
}

/// Opens a socket on `address`; on every IPv4 address where it is `[::]` and the host has no IPv6.
fn either_family<T>(address: SocketAddr, open: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    let opened = open(address);
    match &opened {
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() && has_no_ipv6(error) => {
            open((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        _ => opened,
    }
}

/// The kernel was built without IPv6, or it is disabled.
fn has_no_ipv6(error: &io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(EAFNOSUPPORT)
}

/// Sends at once what is written, and notices when the other end is gone.
pub(super) fn tune(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&KEEPALIVE)
}

/// Takes connections and serves each in a task of its own, until `stop`; then waits, not long, for those to end.
pub(super) async fn accept<F>(shared: &Shared, listener: TcpListener, stop: &Stop, serve: F)
where
    F: AsyncFn(TcpStream, SocketAddr, Admission) + 'static,
{
    let serve = Rc::new(serve);
    let mut clients = JoinSet::new();
    let mut retry_after = None;
    let mut failing = false;
    let clients_max = shared.settings.clients_max;
    let mut stopping = std::pin::pin!(stop.requested());
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stopping => break,
            Some(_) = clients.join_next(), if !clients.is_empty() => {
                // Its descriptor is free again, so that taking another is worth a try.
                retry_after = None;
                continue;
            }
            accepted = async {
                if let Some(wait) = retry_after {
                    sleep(wait).await;
                }
                listener.accept().await
            } => accepted,
        };
        match accepted {
            Ok((client, from)) => {
                // A client that came by IPv4 has an IPv4 address, whatever family the listener is of.
                let from = canonical(from);
                (retry_after, failing) = (None, false);
                shared.counters.clients.increment();
                let admission = match clients.len() {
                    count if count < clients_max => Admission::Welcome,
                    count => {
                        shared.counters.refused_limit.increment();
                        if count >= clients_max + TURNED_AWAY_MAX {
                            continue;
                        }
                        Admission::TooMany
                    }
                };
                let serve = Rc::clone(&serve);
                clients.spawn_local(async move { serve(client, from, admission).await });
            }
            Err(error) if is_of_the_connection(&error) => {
                debug!("a connection was gone before it was taken: {error}");
            }
            Err(error) => {
                shared.counters.accept_errors.increment();
                // Said once; EMFILE and its kin pass, and until then connections wait in the kernel.
                if !std::mem::replace(&mut failing, true) {
                    warn!("cannot take connections for now: {error}");
                }
                retry_after = Some(retry_after.map_or(RETRY.0, |wait| (wait * 2).min(RETRY.1)));
            }
        }
    }
    drop(listener);
    join_all(clients).await;
}

/// Waits for tasks that know that it is time to stop; ends those that cannot.
pub(super) async fn join_all(mut tasks: JoinSet<()>) {
    // What has not ended by then is aborted by dropping the set.
    let _ = timeout(STOP_TIMEOUT, async { while tasks.join_next().await.is_some() {} }).await;
}

/// The same address, as IPv4 where it is an IPv4 address in an IPv6 one (RFC 4291 §2.5.5.2).
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => (ip, address.port()).into(),
        // With its scope.
        IpAddr::V6(_) => address,
    }
}

/// An address to listen on as people write it: with `localhost` for this host only, and `*` or nothing for every address.
pub(crate) fn listen_address(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok()?;
    match host {
        "localhost" => Some((Ipv4Addr::LOCALHOST, port).into()),
        "*" | "" => Some((Ipv6Addr::UNSPECIFIED, port).into()),
        _ => None,
    }
}

/// Whether an error of `accept` is about the one connection, and says nothing about the next.
fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, PermissionDenied};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | PermissionDenied)
}

/// Reads and forgets what a connection still sends; ends when it does.
pub(super) async fn until_closed<S: tokio::io::AsyncRead + Unpin>(stream: &mut S) {
    use tokio::io::AsyncReadExt;
    let mut discarded = [0; 64];
    while !matches!(stream.read(&mut discarded).await, Ok(0) | Err(_)) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_every_ipv4_address_where_there_is_no_ipv6() {
        // What a kernel says that has no IPv6, and one in which it is disabled.
        for error in [97, 99] {
            let open = |address: SocketAddr| match address {
                SocketAddr::V4(_) => Ok(address),
                SocketAddr::V6(_) => Err(io::Error::from_raw_os_error(error)),
            };
            let any = either_family("[::]:80".parse().unwrap(), open).unwrap();
            assert_eq!(any, "0.0.0.0:80".parse().unwrap());
            assert!(
                either_family("[::1]:80".parse().unwrap(), open).is_err(),
                "that very address was asked for"
            );
        }
    }

    #[test]
    fn an_address_to_listen_on_may_have_a_name_for_this_host_or_for_all_addresses() {
        let of = |text| listen_address(text).map(|address| address.to_string());
        assert_eq!(of("localhost:80").as_deref(), Some("127.0.0.1:80"));
        assert_eq!(of("*:80").as_deref(), Some("[::]:80"));
        assert_eq!(of(":80").as_deref(), Some("[::]:80"));
        assert_eq!(of("[::1]:80").as_deref(), Some("[::1]:80"));
        assert_eq!([of("80"), of("a.example:80"), of("localhost:http")], [None, None, None]);
    }
}
