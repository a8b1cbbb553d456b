//! Forwards of connections, and remote ones: the other side listens.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use node::PeerId;
use shadowmesh::proxy::entry::TcpForward;
use shadowmesh::proxy::exit::RemoteForward;
use shadowmesh::proxy::request::{ListenerId, Transport};
use shadowmesh::proxy::{Settings, Shared, StopHandle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::{JoinHandle, spawn_local};

use crate::world::{
    LOOPBACK, Node, World, curl, echo, eventually, loopback_allowed, page, run, soon, stdout, udp_echo,
};

#[test]
fn a_port_leads_to_its_target() {
    run(async {
        let world = World::new().await;
        let forward = world.tcp_forward(page("behind the exit").await);
        let output = curl(&[&format!("http://{forward}/")]).await;
        assert_eq!(stdout(&output), "behind the exit", "{output:?}");
    });
}

#[test]
fn a_forward_whose_target_refuses_resets_its_client() {
    run(async {
        let world = World::new().await;
        let nobody = TcpListener::bind(LOOPBACK).await.unwrap().local_addr().unwrap();
        let mut client = TcpStream::connect(world.tcp_forward(nobody)).await.unwrap();
        let end = soon(client.read(&mut [0])).await.unwrap_err();
        assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn what_a_client_of_a_forward_says_travels_with_the_request_and_waits_for_no_answer() {
    run(async {
        let peer = TcpListener::bind(LOOPBACK).await.unwrap();
        let address = peer.local_addr().unwrap();
        let shared = Shared::new(Settings::default());
        let target: SocketAddr = "192.0.2.1:80".parse().unwrap();
        let forward = TcpForward::bind(&shared, LOOPBACK.parse().unwrap(), target.into()).unwrap();
        let mut client = TcpStream::connect(forward.local_addr().unwrap()).await.unwrap();
        let (_handle, stop) = StopHandle::new();
        spawn_local(forward.run(async move || TcpStream::connect(address).await, stop));
        client.write_all(b"question").await.unwrap();
        let (mut stream, _) = peer.accept().await.unwrap();
        let mut asked = [0; 9 + 8];
        soon(stream.read_exact(&mut asked)).await.unwrap();
        assert_eq!(asked, *b"\x01\x01\x01\xc0\x00\x02\x01\x00\x50question");
        // Now the answer, in two pieces, and what the target says behind it.
        stream.write_all(&[0]).await.unwrap();
        stream.write_all(b"answer").await.unwrap();
        let mut answer = [0; 6];
        soon(client.read_exact(&mut answer)).await.unwrap();
        assert_eq!(&answer, b"answer");
    });
}

#[test]
fn a_forward_whose_peer_never_answers_resets_its_client_in_time() {
    run(async {
        let peer = TcpListener::bind(LOOPBACK).await.unwrap();
        let address = peer.local_addr().unwrap();
        let settings = Settings { answer_timeout: Duration::from_millis(50), ..Settings::default() };
        let shared = Shared::new(settings);
        let forward = TcpForward::bind(&shared, LOOPBACK.parse().unwrap(), address.into()).unwrap();
        let mut client = TcpStream::connect(forward.local_addr().unwrap()).await.unwrap();
        let (_handle, stop) = StopHandle::new();
        spawn_local(forward.run(async move || TcpStream::connect(address).await, stop));
        let _stream = peer.accept().await.unwrap();
        let end = soon(client.read(&mut [0])).await.unwrap_err();
        assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
        eventually("its place is free again", || shared.streams() == 0).await;
    });
}

/// The side that asks, the side that listens, and where.
struct Remote {
    near: Node,
    far: Node,
    bound: Rc<RefCell<Vec<SocketAddr>>>,
    asking: JoinHandle<()>,
}

impl Remote {
    async fn new(transport: Transport, listen: SocketAddr, target: SocketAddr) -> Self {
        let settings =
            Settings { retry: (Duration::from_millis(10), Duration::from_millis(50)), ..Settings::default() };
        // What comes back is not asked of the exit's rules: the configuration of this side named the target.
        let near = Node::start(settings.clone(), None, None).await;
        let far = Node::start(settings, loopback_allowed(), Some(near.address)).await;
        let bound = Rc::new(RefCell::new(Vec::new()));
        let forward = RemoteForward { listener: ListenerId(7), transport, listen, target: target.into() };
        let (exit, open, stop, told) =
            (Rc::clone(&near.exit), far.opener(), near.stop.clone(), Rc::clone(&bound));
        let asking = spawn_local(async move {
            exit.forward_from(PeerId(0), forward, open, stop, |address| told.borrow_mut().push(address))
                .await;
        });
        Self { near, far, bound, asking }
    }

    async fn listening(&self) -> SocketAddr {
        eventually("the other side listens", || !self.bound.borrow().is_empty()).await;
        self.bound.borrow()[0]
    }
}

#[test]
fn the_other_side_listens_and_this_side_connects() {
    run(async {
        let remote =
            Remote::new(Transport::Tcp, LOOPBACK.parse().unwrap(), page("from this side").await).await;
        let address = remote.listening().await;
        let output = curl(&[&format!("http://{address}/")]).await;
        assert_eq!(stdout(&output), "from this side", "{output:?}");
    });
}

#[test]
fn the_other_side_takes_datagrams_for_this_side() {
    run(async {
        let remote = Remote::new(Transport::Udp, LOOPBACK.parse().unwrap(), udp_echo().await).await;
        let socket = UdpSocket::bind(LOOPBACK).await.unwrap();
        socket.connect(remote.listening().await).await.unwrap();
        socket.send(b"hello").await.unwrap();
        let mut buffer = [0; 9];
        let len = soon(socket.recv(&mut buffer)).await.unwrap();
        assert_eq!(&buffer[..len], b"hello");
    });
}

#[test]
fn a_peer_listens_only_where_its_configuration_lets_it() {
    run(async {
        let refused: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let remote = Remote::new(Transport::Tcp, refused, echo().await).await;
        eventually("it is asked, and asked again", || remote.far.shared.counters.exit_denied.value() >= 2)
            .await;
        assert!(remote.bound.borrow().is_empty());
    });
}

#[test]
fn nobody_can_claim_to_come_from_a_listener_that_was_not_asked_for() {
    run(async {
        let node = Node::start(Settings::default(), loopback_allowed(), None).await;
        let mut stream = TcpStream::connect(node.address).await.unwrap();
        stream.write_all(&[1, 5, 0, 0, 0, 7]).await.unwrap();
        assert_eq!(soon(stream.read_u8()).await.unwrap(), 1, "not allowed");
    });
}

#[test]
fn a_listener_ends_with_the_side_that_asked_and_is_there_again_when_it_asks_again() {
    run(async {
        let remote = Remote::new(Transport::Tcp, LOOPBACK.parse().unwrap(), echo().await).await;
        let address = remote.listening().await;
        let mut live = TcpStream::connect(address).await.unwrap();
        live.write_all(b"hello").await.unwrap();
        let mut back = [0; 5];
        soon(live.read_exact(&mut back)).await.unwrap();

        remote.near.handle.stop();
        soon(remote.asking).await.unwrap();
        let ended = soon(live.read(&mut back)).await.map_err(|error| error.kind());
        assert_eq!(ended, Err(std::io::ErrorKind::ConnectionReset), "what was live is cut off");
        eventually("the port is closed", || std::net::TcpStream::connect(address).is_err()).await;
    });
}

#[test]
fn a_restarted_peer_gets_the_address_that_its_earlier_self_still_holds() {
    run(async {
        let free = TcpListener::bind(LOOPBACK).await.unwrap().local_addr().unwrap();
        let mut rules = loopback_allowed();
        rules.listen = vec![format!("127.0.0.1:{}", free.port()).parse().unwrap()];
        let far = Node::start(Settings::default(), rules, None).await;
        let mut ask = vec![1, 3, 0, 0, 0, 1];
        shadowmesh::proxy::Target::Address(free).encode(&mut ask);
        let mut earlier = TcpStream::connect(far.address).await.unwrap();
        earlier.write_all(&ask).await.unwrap();
        assert_eq!(soon(earlier.read_u8()).await.unwrap(), 0);
        let mut later = TcpStream::connect(far.address).await.unwrap();
        later.write_all(&ask).await.unwrap();
        assert_eq!(soon(later.read_u8()).await.unwrap(), 0, "the earlier listener made room");
        TcpStream::connect(free).await.unwrap();
        drop(far.handle);
    });
}

#[test]
fn an_address_that_somebody_else_has_is_refused_with_the_reason() {
    run(async {
        let taken = TcpListener::bind(LOOPBACK).await.unwrap();
        let address = taken.local_addr().unwrap();
        let mut rules = loopback_allowed();
        rules.listen = vec![format!("127.0.0.1:{}", address.port()).parse().unwrap()];
        let far = Node::start(Settings::default(), rules, None).await;
        let mut ask = vec![1, 3, 0, 0, 0, 1];
        shadowmesh::proxy::Target::Address(address).encode(&mut ask);
        let mut stream = TcpStream::connect(far.address).await.unwrap();
        stream.write_all(&ask).await.unwrap();
        assert_eq!(soon(stream.read_u8()).await.unwrap(), 9, "in use");
    });
}
