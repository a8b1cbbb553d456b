//! Many at once.

use std::cell::Cell;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, spawn_local};

use crate::world::{World, echo, eventually, run, server};

#[test]
fn short_connections_fifty_at_a_time_all_succeed() {
    run(async {
        let world = Rc::new(World::new().await);
        let target = echo().await;
        let mut tasks = JoinSet::new();
        for worker in 0..50_u32 {
            let world = Rc::clone(&world);
            tasks.spawn_local(async move {
                for round in 0..40_u32 {
                    let message = (worker << 16 | round).to_le_bytes();
                    let mut client = world.connect(target).await;
                    client.write_all(&message).await.unwrap();
                    client.shutdown().await.unwrap();
                    let mut back = Vec::new();
                    client.read_to_end(&mut back).await.unwrap();
                    assert_eq!(back, message);
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        assert_eq!(world.shared.counters.clients.value(), 2_000);
        eventually("nothing is left behind", || world.shared.streams() + world.exit.shared.streams() == 0)
            .await;
    });
}

#[test]
fn a_thousand_idle_connections_hold_no_buffers() {
    run(async {
        let world = World::new().await;
        let target = echo().await;
        let mut clients = Vec::new();
        for _ in 0..1_000 {
            let mut client = world.connect(target).await;
            client.write_all(&[1; 1000]).await.unwrap();
            clients.push(client);
        }
        eventually("all have come back", || world.shared.counters.bytes_down.value() == 1_000_000).await;
        assert_eq!(world.shared.buffered() + world.exit.shared.buffered(), 0);
        assert_eq!(world.exit.shared.streams(), 1_000);
    });
}

#[test]
fn fifty_downloads_share_alike() {
    run(async {
        let world = World::new().await;
        let target = server(async |mut connection: TcpStream| {
            let chunk = vec![7; 256 * 1024];
            let _go = connection.read_u8().await;
            while connection.write_all(&chunk).await.is_ok() {}
        })
        .await;
        let received: Rc<[Cell<u64>; 50]> = Rc::new(std::array::from_fn(|_| Cell::new(0)));
        let mut clients = Vec::new();
        for _ in 0..received.len() {
            clients.push(world.connect(target).await);
        }
        for (index, mut client) in clients.into_iter().enumerate() {
            let received = Rc::clone(&received);
            spawn_local(async move {
                client.write_u8(1).await.unwrap();
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(len @ 1..) = client.read(&mut buffer).await {
                    received[index].set(received[index].get() + len as u64);
                }
            });
        }
        let all = || received.iter().map(Cell::get).sum::<u64>();
        eventually("128 MiB have come", || all() > 128 << 20).await;
        let squares: f64 = received.iter().map(|bytes| (bytes.get() as f64).powi(2)).sum();
        let jain = (all() as f64).powi(2) / (received.len() as f64 * squares);
        assert!(jain >= 0.9, "Jain's index is {jain:.3}");
    });
}
