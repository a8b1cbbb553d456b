//! Connecting to whichever of a host's addresses answers first.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::proxy::acl::{Acl, Verdict};
use crate::proxy::listener::tune;
use crate::proxy::request::Refusal;

/// How long an address may take before the next one is tried beside it (RFC 8305 §5).
const NEXT_AFTER: Duration = Duration::from_millis(250);

/// Addresses of one host that are tried.
const ADDRESSES_MAX: usize = 8;

/// Whether an address is one of this host's: only to those can a socket be bound.
pub(super) fn is_ours(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// Whether the rules let us connect to that address, or send to it.
pub(super) fn is_allowed(acl: &Acl, address: SocketAddr) -> bool {
    match acl.verdict(address) {
        Verdict::Denied => false,
        Verdict::Allowed => true,
        Verdict::AllowedIfForeign => !is_ours(address.ip().to_canonical()),
    }
}

/// Connects to the first of `addresses` that answers. The families take turns, the name server's first choice first
/// (RFC 8305 §4).
pub(super) async fn connect(addresses: Vec<SocketAddr>) -> Result<TcpStream, Refusal> {
    if let [address] = addresses[..] {
        return connect_to(address).await.map_err(|error| refusal(&error));
    }
    let mut waiting = in_turns(addresses).into_iter();
    let mut attempts = JoinSet::new();
    let mut last = Refusal::Failed;
    loop {
        match waiting.next() {
            Some(address) => drop(attempts.spawn_local(connect_to(address))),
            None if attempts.is_empty() => return Err(last),
            None => {}
        }
        let more = waiting.len() > 0;
        tokio::select! {
            biased;
            Some(attempt) = attempts.join_next() => match attempt {
                Ok(Ok(socket)) => return Ok(socket),
                Ok(Err(error)) => last = refusal(&error),
                Err(_) => {}
            },
            () = sleep(NEXT_AFTER), if more => {}
        }
    }
}

/// First one of each family, then the second ones, and so on.
fn in_turns(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|a| a.is_ipv6() == first_is_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut ordered = Vec::new();
    while ordered.len() < ADDRESSES_MAX {
        let before = ordered.len();
        ordered.extend(first.next());
        ordered.extend(second.next());
        if ordered.len() == before {
            break;
        }
    }
    ordered
}

async fn connect_to(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    tune(&SockRef::from(&socket))?;
    socket.connect(address).await
}

fn refusal(error: &io::Error) -> Refusal {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable, TimedOut};
    match error.kind() {
        ConnectionRefused => Refusal::ConnectionRefused,
        HostUnreachable => Refusal::HostUnreachable,
        NetworkUnreachable => Refusal::NetworkUnreachable,
        TimedOut => Refusal::TimedOut,
        _ => Refusal::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_this_host_are_told_from_others() {
        assert!(is_ours("127.0.0.1".parse().unwrap()) && is_ours("::1".parse().unwrap()));
        assert!(!is_ours("192.0.2.1".parse().unwrap()) && !is_ours("2001:db8::1".parse().unwrap()));
    }

    #[test]
    fn families_take_turns_and_their_number_is_bounded() {
        let of = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let given = of(&["[::1]:1", "[::2]:1", "[::3]:1", "192.0.2.1:1", "192.0.2.2:1"]);
        assert_eq!(in_turns(given), of(&["[::1]:1", "192.0.2.1:1", "[::2]:1", "192.0.2.2:1", "[::3]:1"]));
        let many = vec!["192.0.2.1:1".parse().unwrap(); 100];
        assert_eq!(in_turns(many).len(), ADDRESSES_MAX);
    }

    fn run<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, test)
    }

    /// An address that answers nothing: the queue of its listener is full.
    fn silent() -> (SocketAddr, Vec<socket2::Socket>) {
        let new = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let listener = new();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut sockets = vec![listener];
        for _ in 0..4 {
            let socket = new();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&address);
            sockets.push(socket);
        }
        (address.as_socket().unwrap(), sockets)
    }

    #[test]
    fn an_address_that_does_not_answer_does_not_keep_the_next_from_being_tried() {
        run(async {
            let (silent, _sockets) = silent();
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let good = listener.local_addr().unwrap();
            let connected = connect(vec![silent, good]).await.unwrap();
            assert_eq!(connected.peer_addr().unwrap(), good);
        });
    }

    #[test]
    fn when_every_address_refuses_so_does_the_host() {
        run(async {
            let nobody = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let refused = connect(vec![nobody(), nobody(), nobody()]).await.unwrap_err();
            assert_eq!(refused, Refusal::ConnectionRefused);
        });
    }
}
