//! Targets, clients and peers that do not do their part; and the end of it all.

use std::time::{Duration, Instant};

use node::PeerId;
use shadowmesh::proxy::{Settings, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::world::{Node, World, echo, eventually, loopback_allowed, run, server, silent, soon};

/// Settings under which a test need not wait.
fn impatient() -> Settings {
    let short = Duration::from_millis(100);
    Settings {
        request_timeout: short,
        connect_timeout: short,
        answer_timeout: 2 * short,
        ..Settings::default()
    }
}

#[test]
fn a_target_that_never_answers_is_given_up_with_the_reason() {
    run(async {
        let world = World::with(impatient(), loopback_allowed(), None).await;
        let (silent, _sockets) = silent().await;
        assert_eq!(world.socks5(1, &silent.into()).await.1, 6, "TTL expired, the nearest word there is");
    });
}

#[test]
fn a_client_that_never_says_what_it_wants_is_dropped() {
    run(async {
        let world = World::with(impatient(), loopback_allowed(), None).await;
        for part in [&b""[..], &[5], &[5, 1, 0, 5], b"CONNECT 192.0"] {
            let mut client = TcpStream::connect(world.proxy).await.unwrap();
            client.write_all(part).await.unwrap();
            let mut got = Vec::new();
            let _ = soon(client.read_to_end(&mut got)).await;
            assert!(got.len() <= 2, "{got:?}");
        }
    });
}

#[test]
fn a_stream_that_never_says_what_it_is_for_is_dropped() {
    run(async {
        let world = World::with(impatient(), loopback_allowed(), None).await;
        let mut stream = TcpStream::connect(world.exit.address).await.unwrap();
        stream.write_all(&[1]).await.unwrap();
        assert_eq!(soon(stream.read(&mut [0])).await.unwrap(), 0);
        assert_eq!(world.exit.shared.streams(), 0);
    });
}

#[test]
fn a_stream_that_makes_no_sense_is_told_so() {
    run(async {
        let world = World::new().await;
        for request in [&[9, 9][..], &[1, 77], &[1, 1, 5]] {
            let mut stream = TcpStream::connect(world.exit.address).await.unwrap();
            stream.write_all(request).await.unwrap();
            assert_eq!(soon(stream.read_u8()).await.unwrap(), 8, "{request:?}");
        }
    });
}

#[test]
fn an_exit_that_never_answers_or_is_not_there_is_given_up() {
    run(async {
        use shadowmesh::proxy::entry::Socks5;
        use shadowmesh::proxy::{Shared, StopHandle};
        let target = Target::Address(([192, 0, 2, 1], 80).into());
        let shared = Shared::new(impatient());
        let (_handle, stop) = StopHandle::new();
        let mute = Socks5::bind(&shared, "127.0.0.1:0".parse().unwrap(), None).unwrap();
        let gone = Socks5::bind(&shared, "127.0.0.1:0".parse().unwrap(), None).unwrap();
        let (mute_at, gone_at) = (mute.local_addr().unwrap(), gone.local_addr().unwrap());
        tokio::task::spawn_local(mute.run(async || Ok(tokio::io::duplex(1024).0), stop.clone()));
        let none = async || Err::<TcpStream, _>(std::io::ErrorKind::NotConnected.into());
        tokio::task::spawn_local(gone.run(none, stop));
        let (_, reply) = crate::world::socks5(mute_at, 1, &target).await;
        assert_eq!(reply[1], 3, "a stream that ends is a peer that is gone");
        let (_, reply) = crate::world::socks5(gone_at, 1, &target).await;
        assert_eq!(reply[1], 3);
        assert_eq!(shared.streams(), 0);
    });
}

#[test]
fn five_hundred_live_streams_end_within_a_second_and_nobody_takes_a_part_for_the_whole() {
    run(async {
        let world = World::new().await;
        let target = echo().await;
        let mut clients = Vec::new();
        for index in 0..500_u32 {
            let mut client = world.connect(target).await;
            client.write_all(&index.to_le_bytes()).await.unwrap();
            clients.push(client);
        }
        eventually("all have come back", || world.shared.counters.bytes_down.value() == 2_000).await;
        let started = Instant::now();
        world.handle.stop();
        soon(world.serving).await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
        for (index, client) in clients.iter_mut().enumerate() {
            let mut got = Vec::new();
            let ended = soon(client.read_to_end(&mut got)).await.expect_err("more may have come");
            assert_eq!(ended.kind(), std::io::ErrorKind::ConnectionReset);
            assert_eq!(got, (index as u32).to_le_bytes(), "nothing that was read is lost");
        }
        eventually("the exit has none left either", || world.exit.shared.streams() == 0).await;
        assert!(TcpStream::connect(world.proxy).await.is_err(), "and nobody new is taken");
    });
}

#[test]
fn one_peer_with_all_streams_it_can_get_leaves_the_exit_to_the_others() {
    run(async {
        let settings = Settings { streams_max: 20, ..Settings::default() };
        let exit = Node::start(settings, loopback_allowed(), None).await;
        let (mut greedy, mut streams) = (Vec::new(), Vec::new());
        for _ in 0..20 {
            let mut stream = exit.connect_as(PeerId(1)).await;
            stream.write_all(&[1, 2]).await.unwrap();
            greedy.push(soon(stream.read_u8()).await.unwrap());
            streams.push(stream);
        }
        assert!(greedy.contains(&7) && greedy.contains(&0), "too many for one: {greedy:?}");
        let mut other = exit.connect_as(PeerId(2)).await;
        other.write_all(&[1, 2]).await.unwrap();
        assert_eq!(soon(other.read_u8()).await.unwrap(), 0, "and not too many for another one");
    });
}

#[test]
fn a_client_that_reads_nothing_does_not_hold_up_the_end() {
    run(async {
        let world = World::new().await;
        let target = server(async |mut connection: TcpStream| {
            let _ = connection.write_all(&vec![7; 64 << 20]).await;
        })
        .await;
        let mut lazy = Vec::new();
        for _ in 0..5 {
            lazy.push(world.connect(target).await);
        }
        eventually("what they do not read is held", || world.shared.buffered() > 0).await;
        let started = Instant::now();
        world.handle.stop();
        world.exit.handle.stop();
        soon(world.serving).await.unwrap();
        eventually("the exit is at rest", || world.exit.shared.streams() == 0).await;
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
        assert_eq!(world.shared.buffered() + world.exit.shared.buffered(), 0);
    });
}

#[test]
fn waits_of_every_kind_end_at_once() {
    run(async {
        let world = World::new().await;
        let (silent, _sockets) = silent().await;
        let mut waiting = Vec::new();
        // One that has said nothing, one whose target does not answer, one with an association.
        waiting.push(TcpStream::connect(world.proxy).await.unwrap());
        let mut dialling = TcpStream::connect(world.proxy).await.unwrap();
        let mut message = vec![5, 1, 0, 5, 1, 0];
        Target::Address(silent).encode(&mut message);
        dialling.write_all(&message).await.unwrap();
        waiting.push(dialling);
        waiting.push(world.socks5(3, &Target::UNSPECIFIED).await.0);
        eventually("both ask the exit", || world.exit.shared.streams() == 2).await;
        let started = Instant::now();
        world.handle.stop();
        world.exit.handle.stop();
        soon(world.serving).await.unwrap();
        eventually("the exit is at rest", || world.exit.shared.streams() == 0).await;
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    });
}
