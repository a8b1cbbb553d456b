//! Forwards of connections, and remote ones: the other side listens.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use node::PeerId;
use shadowmesh::proxy::Settings;
use shadowmesh::proxy::exit::RemoteForward;
use shadowmesh::proxy::request::{ListenerId, Transport};
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

/// The side that asks, the side that listens, and where.
struct Remote {
    near: Node,
    far: Node,
    bound: Rc<RefCell<Vec<SocketAddr>>>,
    asking: JoinHandle<()>,
}

impl Remote {
    async fn new(transport: Transport, listen: SocketAddr, target: SocketAddr) -> Self {
        let settings = Settings {
            retry: (std::time::Duration::from_millis(10), std::time::Duration::from_millis(50)),
            ..Settings::default()
        };
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
        assert_eq!(soon(live.read(&mut back)).await.unwrap(), 0, "what was live has ended");
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
