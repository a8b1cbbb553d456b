//! UDP ASSOCIATE and UDP forwards.

use std::net::SocketAddr;
use std::time::Duration;

use shadowmesh::proxy::{Settings, Target};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::spawn_local;

use crate::world::{LOOPBACK, World, eventually, loopback_allowed, run, socks5, soon, udp_echo};

/// A client's connection, its socket and the relay's address.
async fn associate(world: &World) -> (TcpStream, UdpSocket, SocketAddr) {
    let (control, reply) = socks5(world.proxy, 3, &Target::UNSPECIFIED).await;
    assert_eq!(reply[1], 0);
    let relay = SocketAddr::from((
        [reply[4], reply[5], reply[6], reply[7]],
        u16::from_be_bytes([reply[8], reply[9]]),
    ));
    assert!(relay.ip().is_loopback() && relay.port() != 0, "{relay}");
    (control, UdpSocket::bind(LOOPBACK).await.unwrap(), relay)
}

fn datagram(target: &Target, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0];
    target.encode(&mut bytes);
    bytes.extend_from_slice(data);
    bytes
}

async fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_535];
    let len = soon(socket.recv(&mut buffer)).await.unwrap();
    buffer.truncate(len);
    buffer
}

#[test]
fn datagrams_of_any_size_go_to_an_address_and_their_answers_come_back() {
    run(async {
        let world = World::new().await;
        let (_control, socket, relay) = associate(&world).await;
        let target = Target::Address(udp_echo().await);
        for len in [0, 1, 1_200, 9_000, 65_497] {
            let sent = datagram(&target, &vec![len as u8; len]);
            socket.send_to(&sent, relay).await.unwrap();
            assert!(receive(&socket).await == sent, "{len} bytes come back with their source before them");
        }
    });
}

#[test]
fn a_client_that_came_by_ipv4_to_a_listener_of_both_families_gets_an_ipv4_relay() {
    run(async {
        let world = World::listening_on("[::]:0").await;
        let proxy = SocketAddr::from(([127, 0, 0, 1], world.proxy.port()));
        // `socks5` checks that the reply has an IPv4 address.
        let (_control, reply) = socks5(proxy, 3, &Target::UNSPECIFIED).await;
        assert_eq!(reply[..8], [5, 0, 0, 1, 127, 0, 0, 1]);
        let relay = SocketAddr::from(([127, 0, 0, 1], u16::from_be_bytes([reply[8], reply[9]])));
        let socket = UdpSocket::bind(LOOPBACK).await.unwrap();
        let sent = datagram(&Target::Address(udp_echo().await), b"question");
        socket.send_to(&sent, relay).await.unwrap();
        assert_eq!(receive(&socket).await, sent);
    });
}

#[test]
fn where_a_client_wants_to_send_to_is_not_taken_for_where_it_sends_from() {
    run(async {
        let world = World::new().await;
        let target = Target::Address(udp_echo().await);
        for named in ["192.0.2.1:53", "a.example:53", "[2001:db8::1]:53"] {
            let (_control, reply) = socks5(world.proxy, 3, &named.parse().unwrap()).await;
            let relay = SocketAddr::from(([127, 0, 0, 1], u16::from_be_bytes([reply[8], reply[9]])));
            let socket = UdpSocket::bind(LOOPBACK).await.unwrap();
            let sent = datagram(&target, named.as_bytes());
            socket.send_to(&sent, relay).await.unwrap();
            assert_eq!(receive(&socket).await, sent, "{named}");
        }
    });
}

#[test]
fn a_name_is_looked_up_by_the_exit_and_ipv6_works() {
    run(async {
        let world = World::new().await;
        let (_control, socket, relay) = associate(&world).await;
        let echo = udp_echo().await;
        let name = Target::new("localhost", echo.port()).unwrap();
        // `localhost` may be ::1 first, where nobody answers.
        let v6 = UdpSocket::bind(("::1", echo.port())).await.unwrap();
        spawn_local(async move {
            let mut buffer = [0; 100];
            while let Ok((len, from)) = v6.recv_from(&mut buffer).await {
                v6.send_to(&buffer[..len], from).await.unwrap();
            }
        });
        let on_v6 = Target::Address(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], echo.port())));
        for target in [&name, &name, &on_v6] {
            socket.send_to(&datagram(target, b"hello"), relay).await.unwrap();
            assert!(receive(&socket).await.ends_with(b"hello"), "{target}");
        }
    });
}

#[test]
fn a_target_that_is_not_allowed_gets_nothing_and_the_others_go_on() {
    run(async {
        let mut rules = loopback_allowed();
        let (denied, allowed) = (UdpSocket::bind(LOOPBACK).await.unwrap(), udp_echo().await);
        let denied_address = denied.local_addr().unwrap();
        rules.deny = vec![format!("127.0.0.1:{}", denied_address.port()).parse().unwrap()];
        let world = World::with(Settings::default(), rules, None).await;
        let (_control, socket, relay) = associate(&world).await;
        for target in [denied_address, allowed] {
            socket.send_to(&datagram(&target.into(), b"hello"), relay).await.unwrap();
        }
        assert_eq!(receive(&socket).await, datagram(&allowed.into(), b"hello"));
        assert_eq!(world.exit.shared.counters.exit_denied.value(), 1);
        assert!(denied.try_recv(&mut [0; 9]).is_err(), "nothing came to it");
    });
}

#[test]
fn fragments_malformed_datagrams_and_strangers_are_dropped_and_counted() {
    run(async {
        let world = World::new().await;
        let (_control, socket, relay) = associate(&world).await;
        let target = Target::Address(udp_echo().await);
        let mut fragment = datagram(&target, b"part");
        fragment[2] = 1;
        for bad in [&fragment[..], b"", b"\0\0\0", &[0, 0, 0, 1, 127], &[0, 0, 0, 9, 1, 2, 3]] {
            socket.send_to(bad, relay).await.unwrap();
        }
        socket.send_to(&datagram(&target, b"good"), relay).await.unwrap();
        assert!(receive(&socket).await.ends_with(b"good"));
        let stranger = UdpSocket::bind(LOOPBACK).await.unwrap();
        stranger.send_to(&datagram(&target, b"mine"), relay).await.unwrap();
        eventually("six are dropped", || world.shared.counters.datagrams_dropped.value() == 6).await;
    });
}

#[test]
fn only_those_who_were_sent_something_can_answer() {
    run(async {
        let world = World::new().await;
        let (_control, socket, relay) = associate(&world).await;
        let target = UdpSocket::bind(LOOPBACK).await.unwrap();
        socket.send_to(&datagram(&target.local_addr().unwrap().into(), b"hello"), relay).await.unwrap();
        let mut buffer = [0; 100];
        let (_, exit) = soon(target.recv_from(&mut buffer)).await.unwrap();
        let stranger = UdpSocket::bind("127.0.0.2:0").await.unwrap();
        stranger.send_to(b"unasked", ("127.0.0.1", exit.port())).await.unwrap();
        eventually("it is dropped", || world.exit.shared.counters.datagrams_dropped.value() == 1).await;
        target.send_to(b"asked", ("127.0.0.1", exit.port())).await.unwrap();
        assert!(receive(&socket).await.ends_with(b"asked"));
    });
}

#[test]
fn an_error_of_one_target_ends_nothing() {
    run(async {
        let world = World::new().await;
        let (_control, socket, relay) = associate(&world).await;
        let nobody = UdpSocket::bind(LOOPBACK).await.unwrap().local_addr().unwrap();
        let good = Target::Address(udp_echo().await);
        for round in 0..20 {
            // The kernel answers the first with an error, and refuses to send the second at all.
            socket.send_to(&datagram(&nobody.into(), b"?"), relay).await.unwrap();
            socket.send_to(&datagram(&"255.255.255.255:9".parse().unwrap(), b"?"), relay).await.unwrap();
            socket.send_to(&datagram(&good, &[round]), relay).await.unwrap();
            assert!(receive(&socket).await.ends_with(&[round]));
        }
    });
}

#[test]
fn an_association_ends_with_its_connection_or_when_it_is_not_used() {
    run(async {
        let world = World::new().await;
        let (control, ..) = associate(&world).await;
        assert_eq!(world.exit.shared.streams(), 1);
        drop(control);
        eventually("the exit's side ends too", || world.exit.shared.streams() == 0).await;

        let settings = Settings { association_timeout: Duration::from_millis(50), ..Settings::default() };
        let world = World::with(settings, loopback_allowed(), None).await;
        let (mut control, ..) = associate(&world).await;
        let told = soon(control.read(&mut [0])).await.unwrap();
        assert_eq!(told, 0, "the client is told by the end of its connection");
    });
}

#[test]
fn a_user_has_so_many_associations_and_no_more() {
    run(async {
        let settings = Settings { associations_max: 2, ..Settings::default() };
        let world = World::with(settings, loopback_allowed(), None).await;
        let _first = associate(&world).await;
        let (second, ..) = associate(&world).await;
        assert_eq!(world.socks5(3, &Target::UNSPECIFIED).await.1, 1);
        drop(second);
        eventually("one has ended", || world.shared.streams() == 1).await;
        associate(&world).await;
    });
}

/// A name server for one name: answers any question with 192.0.2.99.
async fn name_server() -> SocketAddr {
    let socket = UdpSocket::bind(LOOPBACK).await.unwrap();
    let address = socket.local_addr().unwrap();
    spawn_local(async move {
        let mut buffer = [0; 512];
        loop {
            let (len, from) = socket.recv_from(&mut buffer).await.unwrap();
            let mut answer = buffer[..len].to_vec();
            answer[2..4].copy_from_slice(&[0x81, 0x80]);
            answer[7] = 1;
            answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 99]);
            socket.send_to(&answer, from).await.unwrap();
        }
    });
    address
}

#[test]
fn a_dns_query_goes_through_a_udp_forward() {
    run(async {
        let world = World::new().await;
        let forward = world.udp_forward(name_server().await.into());
        let socket = UdpSocket::bind(LOOPBACK).await.unwrap();
        socket.connect(forward).await.unwrap();
        // A query for the A record of a.example (RFC 1035 §4.1).
        let query = b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0\x01a\x07example\0\0\x01\0\x01";
        socket.send(query).await.unwrap();
        let answer = receive(&socket).await;
        assert_eq!((&answer[..2], &answer[answer.len() - 4..]), (&query[..2], &[192, 0, 2, 99][..]));
    });
}

#[test]
fn senders_of_a_forward_do_not_get_each_others_answers() {
    run(async {
        let world = World::new().await;
        let forward = world.udp_forward(Target::new("localhost", udp_echo().await.port()).unwrap());
        // The name may be ::1 first: what comes back is asserted only of what answers.
        let forward = if tokio::net::lookup_host("localhost:1").await.unwrap().next().unwrap().is_ipv4() {
            forward
        } else {
            world.udp_forward(udp_echo().await.into())
        };
        let mut sockets = Vec::new();
        for index in 0..50_u8 {
            let socket = UdpSocket::bind(LOOPBACK).await.unwrap();
            socket.connect(forward).await.unwrap();
            socket.send(&[index]).await.unwrap();
            sockets.push(socket);
        }
        for (index, socket) in sockets.iter().enumerate() {
            assert_eq!(receive(socket).await, [index as u8]);
        }
    });
}

#[test]
fn the_sender_that_was_silent_longest_makes_room_for_a_new_one() {
    run(async {
        let settings = Settings { associations_max: 2, ..Settings::default() };
        let world = World::with(settings, loopback_allowed(), None).await;
        let forward = world.udp_forward(udp_echo().await.into());
        let mut sockets = Vec::new();
        for index in 0..10_u8 {
            let socket = UdpSocket::bind(LOOPBACK).await.unwrap();
            socket.connect(forward).await.unwrap();
            socket.send(&[index]).await.unwrap();
            assert_eq!(receive(&socket).await, [index], "every new sender is served");
            sockets.push(socket);
        }
        eventually("two are left", || world.shared.streams() == 2).await;
        sockets[0].send(b"again").await.unwrap();
        assert_eq!(receive(&sockets[0]).await, b"again", "and an old one comes in again");
    });
}
