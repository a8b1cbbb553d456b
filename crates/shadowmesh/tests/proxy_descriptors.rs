//! A process that has run out of file descriptors takes no connections for a while, and then takes them again.
//!
//! In a test program of its own: the limit is that of the whole process.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::process::Command;
use std::time::Duration;

use shadowmesh::proxy::entry::Socks5;
use shadowmesh::proxy::{Settings, Shared, StopHandle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{sleep, timeout};

/// Descriptors that are left.
const LEFT: usize = 3;

/// Lets this process have no descriptors but those it has, and `left` more.
fn limit_descriptors(left: usize) {
    let open = fs::read_dir("/proc/self/fd").unwrap();
    let open: BTreeSet<u32> =
        open.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
    // The kernel gives the lowest free number, and none from the limit on.
    let limit = (0..).filter(|number| !open.contains(number)).nth(left).unwrap();
    let (process, limit) = (std::process::id().to_string(), format!("--nofile={limit}:"));
    assert!(Command::new("prlimit").args(["--pid", &process, &limit]).status().unwrap().success());
}

/// Whether the listener has taken this client and answered its greeting.
async fn is_served(client: &mut TcpStream) -> bool {
    let mut method = [0; 2];
    matches!(timeout(Duration::from_secs(10), client.read_exact(&mut method)).await, Ok(Ok(_)))
        && method == [5, 0]
}

#[test]
fn a_listener_survives_the_lack_of_descriptors_without_spinning() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let shared = Shared::new(Settings::default());
        let listener = Socks5::bind(&shared, "127.0.0.1:0".parse().unwrap(), None).unwrap();
        let address = listener.local_addr().unwrap();
        let (_handle, stop) = StopHandle::new();
        let sockets: Vec<_> = (0..12).map(|_| TcpSocket::new_v4().unwrap()).collect();
        limit_descriptors(LEFT);
        spawn_local(listener.run(async || Ok(tokio::io::duplex(64).0), stop));

        let mut clients = VecDeque::new();
        for socket in sockets {
            let mut client = socket.connect(address).await.unwrap();
            client.write_all(&[5, 1, 0]).await.unwrap();
            clients.push_back(client);
        }
        let errors = &shared.counters.accept_errors;
        sleep(Duration::from_millis(300)).await;
        assert!((1..=10).contains(&errors.value()), "{} attempts in 300 ms", errors.value());
        let taken = shared.counters.clients.value();
        // What listed the descriptors had one as well.
        assert!(taken <= LEFT as u64 + 1, "{taken} clients with {LEFT} descriptors");

        // Each that goes gives back two descriptors: its own and the listener's.
        while let Some(mut client) = clients.pop_front() {
            assert!(is_served(&mut client).await, "with {} more waiting", clients.len());
        }
    });
}
