//! Bytes both ways: exact, each way ended by itself, bounded when nobody reads, and never cut without a word.

use std::io;
use std::time::Duration;

use shadowmesh::proxy::Settings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::world::{World, echo, eventually, loopback_allowed, run, server, soon};

/// Bytes that repeat so late that a lost or doubled piece shows.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).flat_map(|index| index.wrapping_mul(2_654_435_761).to_le_bytes()).take(len).collect()
}

#[test]
fn many_bytes_come_back_exactly() {
    run(async {
        let world = World::new().await;
        let mut client = world.connect(echo().await).await;
        let sent = pattern(8 << 20);
        let (mut read, mut write) = client.split();
        let mut received = Vec::new();
        let (wrote, got) = tokio::join!(
            async {
                write.write_all(&sent).await?;
                write.shutdown().await
            },
            read.read_to_end(&mut received)
        );
        wrote.unwrap();
        got.unwrap();
        assert!(received == sent, "{} of {} bytes came back", received.len(), sent.len());
        let counters = &world.shared.counters;
        assert_eq!((counters.bytes_up.value(), counters.bytes_down.value()), (8 << 20, 8 << 20));
        eventually("nothing is left behind", || world.shared.streams() + world.exit.shared.streams() == 0)
            .await;
        assert_eq!(world.shared.buffered() + world.exit.shared.buffered(), 0);
    });
}

#[test]
fn a_client_that_has_said_all_still_gets_a_late_answer() {
    run(async {
        let target = server(async |mut connection: TcpStream| {
            let mut question = Vec::new();
            connection.read_to_end(&mut question).await.unwrap();
            connection.write_all(&question).await.unwrap();
        })
        .await;
        let world = World::new().await;
        let mut client = world.connect(target).await;
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = String::new();
        soon(client.read_to_string(&mut answer)).await.unwrap();
        assert_eq!(answer, "question");
    });
}

#[test]
fn a_server_that_has_said_all_still_hears_the_client() {
    run(async {
        let (heard, hears) = tokio::sync::oneshot::channel();
        let heard = std::cell::Cell::new(Some(heard));
        let target = server(move |mut connection| {
            let heard = heard.take();
            async move {
                connection.write_all(b"banner").await.unwrap();
                connection.shutdown().await.unwrap();
                let mut all = Vec::new();
                connection.read_to_end(&mut all).await.unwrap();
                heard.unwrap().send(all).unwrap();
            }
        })
        .await;
        let world = World::new().await;
        let mut client = world.connect(target).await;
        let mut banner = String::new();
        soon(client.read_to_string(&mut banner)).await.unwrap();
        assert_eq!(banner, "banner");
        let late = pattern(300_000);
        client.write_all(&late).await.unwrap();
        client.shutdown().await.unwrap();
        assert!(soon(hears).await.unwrap() == late);
    });
}

#[test]
fn half_a_connection_that_stays_silent_is_given_up() {
    run(async {
        let settings = Settings { half_closed_timeout: Duration::from_millis(50), ..Settings::default() };
        let world = World::with(settings, loopback_allowed(), None).await;
        let target = server(async |_connection: TcpStream| std::future::pending().await).await;
        let mut client = world.connect(target).await;
        client.shutdown().await.unwrap();
        let end = soon(client.read(&mut [0])).await;
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset, "it was no orderly end");
    });
}

#[test]
fn a_target_that_breaks_off_is_not_taken_for_one_that_has_finished() {
    run(async {
        let target = server(async |mut connection: TcpStream| {
            connection.write_all(b"half of").await.unwrap();
            let mut go = [0];
            connection.read_exact(&mut go).await.unwrap();
            connection.set_zero_linger().unwrap();
        })
        .await;
        let world = World::new().await;
        // The streams of this test cannot tell a cut from an end: what the exit does with its side is seen here.
        let mut stream = TcpStream::connect(world.exit.address).await.unwrap();
        let mut request = vec![1, 1];
        shadowmesh::proxy::Target::Address(target).encode(&mut request);
        stream.write_all(&request).await.unwrap();
        let mut got = [0; 8];
        soon(stream.read_exact(&mut got)).await.unwrap();
        assert_eq!(&got, b"\0half of");
        stream.write_all(b"!").await.unwrap();
        eventually("the exit gives the stream up", || world.exit.shared.streams() == 0).await;
    });
}

#[test]
fn a_client_that_breaks_off_resets_the_target() {
    run(async {
        let (ended, end) = tokio::sync::oneshot::channel();
        let ended = std::cell::Cell::new(Some(ended));
        let target = server(move |mut connection| {
            let ended = ended.take().unwrap();
            async move {
                let mut all = Vec::new();
                ended.send(connection.read_to_end(&mut all).await).unwrap();
            }
        })
        .await;
        let world = World::new().await;
        let mut stream = TcpStream::connect(world.exit.address).await.unwrap();
        let mut request = vec![1, 1];
        shadowmesh::proxy::Target::Address(target).encode(&mut request);
        stream.write_all(&request).await.unwrap();
        assert_eq!(soon(stream.read_u8()).await.unwrap(), 0);
        stream.write_all(b"half of").await.unwrap();
        eventually("half has arrived", || world.exit.shared.counters.bytes_up.value() == 7).await;
        stream.set_zero_linger().unwrap();
        drop(stream);
        let end = soon(end).await.unwrap();
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn an_early_answer_reaches_a_client_that_is_still_sending() {
    run(async {
        let target = server(async |mut connection: TcpStream| {
            let mut some = [0; 1000];
            connection.read_exact(&mut some).await.unwrap();
            connection.write_all(b"413 too large").await.unwrap();
            connection.shutdown().await.unwrap();
        })
        .await;
        let world = World::new().await;
        let mut client = world.connect(target).await;
        let (mut read, mut write) = client.split();
        let upload = vec![0; 64 << 20];
        let mut answer = [0; 13];
        let (_, got) = tokio::join!(write.write_all(&upload), read.read_exact(&mut answer));
        got.unwrap();
        assert_eq!(&answer, b"413 too large");
    });
}

#[test]
fn a_client_that_reads_nothing_holds_little_and_hinders_nobody() {
    run(async {
        let size = 32 << 20;
        let target = server(move |mut connection| async move {
            let _ = connection.write_all(&pattern(size)).await;
        })
        .await;
        let world = World::new().await;
        let mut lazy = Vec::new();
        for _ in 0..20 {
            lazy.push(world.connect(target).await);
        }
        let carried = || world.shared.counters.bytes_down.value();
        eventually("bytes flow", || carried() > 1 << 20).await;
        let mut other = world.connect(echo().await).await;
        for _ in 0..100 {
            other.write_all(b"ping").await.unwrap();
            let mut pong = [0; 4];
            soon(other.read_exact(&mut pong)).await.unwrap();
        }
        let held = world.shared.buffered() + world.exit.shared.buffered();
        assert!(held <= 2 * 20 * 64 * 1024, "{held} bytes are held for 20 clients that read nothing");

        let mut received = Vec::new();
        soon(lazy.swap_remove(0).read_to_end(&mut received)).await.unwrap();
        assert!(received == pattern(size), "what waited is all there");
        drop(lazy);
        eventually("nothing is held any more", || {
            world.shared.buffered() + world.exit.shared.buffered() == 0
        })
        .await;
    });
}

#[test]
fn the_memory_of_all_connections_together_is_bounded() {
    run(async {
        let settings = Settings { buffered_max: 256 * 1024, ..Settings::default() };
        let world = World::with(settings, loopback_allowed(), None).await;
        let target = server(async |mut connection: TcpStream| {
            let _ = connection.write_all(&vec![7; 16 << 20]).await;
        })
        .await;
        let mut lazy = Vec::new();
        for _ in 0..50 {
            lazy.push(world.connect(target).await);
        }
        let (mut carried, mut same) = (0, 0);
        while same < 50 {
            let held = world.shared.buffered();
            assert!(held <= 256 * 1024 + 50 * 2048, "{held} bytes held");
            let now = world.shared.counters.bytes_down.value();
            same = if now == carried { same + 1 } else { 0 };
            carried = now;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut received = Vec::new();
        soon(lazy.swap_remove(7).read_to_end(&mut received)).await.unwrap();
        assert_eq!(received.len(), 16 << 20, "and still all of it arrives");
    });
}
