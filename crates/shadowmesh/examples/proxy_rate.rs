//! How many short connections a second go through SOCKS5, how many bytes through one connection, and what idle ones hold:
//! `cargo run --release -p shadowmesh --example proxy_rate [CONNECTIONS]`.
//!
//! Entry and exit share one thread, as in a node that is both; the streams between them are TCP connections on loopback.
//! Clients and targets are in another thread.

#![expect(clippy::print_stdout, reason = "it is a program that prints")]

use std::error::Error;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use node::PeerId;
use shadowmesh::proxy::entry::Socks5;
use shadowmesh::proxy::exit::{Exit, Rules};
use shadowmesh::proxy::{Settings, Shared, StopHandle, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::task::{JoinSet, LocalSet, spawn_local};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Connections at a time.
const AT_A_TIME: usize = 50;

/// Connections made without `CONNECTIONS`.
const CONNECTIONS: usize = 10_000;

/// Connections that are open and do nothing.
const IDLE: usize = 2_000;

/// Bytes sent each way through one connection.
const BULK_LEN: usize = 1 << 30;

fn main() -> Outcome<()> {
    os::files::raise_open_files()?;
    let connections = std::env::args().nth(1).map_or(Ok(CONNECTIONS), |text| text.parse())?;
    let (told, address) = mpsc::channel();
    thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        LocalSet::new().block_on(&runtime, async { proxy(&told).await.expect("the proxy runs") });
    });
    let address = address.recv()?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, clients(address, connections))
}

async fn proxy(told: &mpsc::Sender<SocketAddr>) -> Outcome<()> {
    let shared = Shared::new(Settings::default());
    let rules = Rules { allow: vec!["127.0.0.0/8".parse()?], ..Rules::default() };
    let exit = Exit::new(&shared, Some(rules), &[]);
    let (_handle, stop) = StopHandle::new();
    let streams = TcpListener::bind("127.0.0.1:0").await?;
    let to_exit = streams.local_addr()?;
    let open = async move || {
        let stream = TcpStream::connect(to_exit).await?;
        stream.set_nodelay(true).map(|()| stream)
    };
    let socks5 = Socks5::bind(&shared, "127.0.0.1:0".parse()?, None)?;
    told.send(socks5.local_addr()?)?;
    spawn_local(socks5.run(open, stop.clone()));
    loop {
        let (stream, _) = streams.accept().await?;
        stream.set_nodelay(true)?;
        spawn_local(Rc::clone(&exit).serve(PeerId(0), stream, open, stop.clone()));
    }
}

async fn clients(proxy: SocketAddr, connections: usize) -> Outcome<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let target = listener.local_addr()?;
    spawn_local(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            spawn_local(async move {
                let (mut read, mut write) = connection.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    for (what, via) in [("directly", None), ("through SOCKS5", Some(proxy))] {
        let started = Instant::now();
        let mut workers = JoinSet::new();
        for _ in 0..AT_A_TIME {
            workers.spawn_local(async move {
                let mut failures = 0;
                for _ in 0..connections / AT_A_TIME {
                    failures += usize::from(exchange(via, target).await.is_err());
                }
                failures
            });
        }
        let failures: usize = workers.join_all().await.into_iter().sum();
        let rate = connections as f64 / started.elapsed().as_secs_f64();
        println!("{connections} short connections {what}: {rate:.0}/s, {failures} failures");
    }
    for (what, via) in [("directly", None), ("through SOCKS5", Some(proxy))] {
        let mut connection = connect(via, target).await?;
        let started = Instant::now();
        let (mut read, mut write) = connection.split();
        let sending = async {
            let chunk = vec![7; 256 * 1024];
            for _ in 0..BULK_LEN / chunk.len() {
                write.write_all(&chunk).await?;
            }
            write.shutdown().await
        };
        let mut nowhere = tokio::io::sink();
        let (sent, received) = tokio::join!(sending, tokio::io::copy(&mut read, &mut nowhere));
        sent?;
        let gbit_s = received? as f64 * 8.0 / started.elapsed().as_secs_f64() / 1e9;
        println!("1 GiB there and back {what}: {gbit_s:.2} Gbit/s each way");
    }
    let mut idle = Vec::new();
    let before = resident_kib()?;
    for _ in 0..IDLE {
        let mut connection = connect(Some(proxy), target).await?;
        connection.write_all(b"question").await?;
        connection.read_exact(&mut [0; 8]).await?;
        idle.push(connection);
    }
    let each = (resident_kib()? - before) as f64 / IDLE as f64;
    println!("{IDLE} idle connections: {each:.1} KiB each, for client, entry, exit and target");
    Ok(())
}

/// The memory of this process, in KiB.
fn resident_kib() -> Outcome<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("the kernel does not say")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// One short connection.
async fn exchange(via: Option<SocketAddr>, target: SocketAddr) -> Outcome<()> {
    let mut connection = connect(via, target).await?;
    connection.write_all(b"question").await?;
    connection.shutdown().await?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await?;
    if answer == b"question" { Ok(()) } else { Err("not what was sent".into()) }
}

async fn connect(via: Option<SocketAddr>, target: SocketAddr) -> Outcome<TcpStream> {
    let Some(proxy) = via else { return Ok(TcpStream::connect(target).await?) };
    let mut client = TcpStream::connect(proxy).await?;
    client.write_all(&[5, 1, 0]).await?;
    client.read_exact(&mut [0; 2]).await?;
    let mut request = vec![5, 1, 0];
    Target::Address(target).encode(&mut request);
    client.write_all(&request).await?;
    let mut reply = [0; 10];
    client.read_exact(&mut reply).await?;
    if reply[1] == 0 { Ok(client) } else { Err(format!("reply {}", reply[1]).into()) }
}
