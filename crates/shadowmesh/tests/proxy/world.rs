//! Two nodes, targets and clients.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::process::{Command, Output};
use std::rc::Rc;
use std::time::Duration;

use node::PeerId;
use shadowmesh::proxy::entry::{Socks5, TcpForward, UdpForward};
use shadowmesh::proxy::exit::{Exit, Rules};
use shadowmesh::proxy::{Credentials, Settings, Shared, Stop, StopHandle, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::{JoinHandle, LocalSet, spawn_local};

/// Long for a test, short for a person who waits for a failing one.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const LOOPBACK: &str = "127.0.0.1:0";

/// Runs a test as the daemon runs its proxies: one thread, one `LocalSet`.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    // A thousand connections are six thousand descriptors, since all their ends are here.
    os::files::raise_open_files().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let done = LocalSet::new().block_on(&runtime, async { soon(test).await });
    runtime.shutdown_background();
    done
}

/// Fails when something takes far too long.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it happens soon")
}

/// A node: it takes streams at an address, and serves them as an exit.
pub(crate) struct Node {
    pub(crate) shared: Rc<Shared>,
    pub(crate) exit: Rc<Exit>,
    pub(crate) address: SocketAddr,
    pub(crate) stop: Stop,
    pub(crate) handle: StopHandle,
}

impl Node {
    /// Takes streams. What it opens itself, for listeners, goes to `back`.
    pub(crate) async fn start(
        settings: Settings,
        rules: impl Into<Option<Rules>>,
        back: Option<SocketAddr>,
    ) -> Self {
        let shared = Shared::new(settings);
        let exit = Exit::new(&shared, rules.into(), &[]);
        let listener = TcpListener::bind(LOOPBACK).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (handle, stop) = StopHandle::new();
        let (serving, task_stop) = (Rc::clone(&exit), stop.clone());
        spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let open = async move || to(back.expect("nothing to open streams to")).await;
                spawn_local(Rc::clone(&serving).serve(PeerId(0), stream, open, task_stop.clone()));
            }
        });
        Self { shared, exit, address, stop, handle }
    }

    /// The peer's end of a stream that `peer` opens.
    pub(crate) async fn connect_as(&self, peer: PeerId) -> TcpStream {
        let listener = TcpListener::bind(LOOPBACK).await.unwrap();
        let ours = to(listener.local_addr().unwrap()).await.unwrap();
        let (theirs, _) = listener.accept().await.unwrap();
        let none = async || Err(io::ErrorKind::NotConnected.into());
        spawn_local(Rc::clone(&self.exit).serve(peer, theirs, none, self.stop.clone()));
        ours
    }

    /// Opens streams to this node.
    pub(crate) fn opener(&self) -> impl AsyncFn() -> io::Result<TcpStream> + Clone + 'static {
        let address = self.address;
        async move || to(address).await
    }
}

async fn to(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The rules of an exit whose targets are this machine's own.
pub(crate) fn loopback_allowed() -> Rules {
    let allow = ["127.0.0.0/8", "::1/128"].map(|text| text.parse().unwrap()).to_vec();
    let listen = ["127.0.0.1:0"].map(|text| text.parse().unwrap()).to_vec();
    Rules { allow, deny: Vec::new(), listen }
}

/// An entry with a SOCKS5 listener, and its exit.
pub(crate) struct World {
    pub(crate) exit: Node,
    pub(crate) shared: Rc<Shared>,
    pub(crate) stop: Stop,
    pub(crate) handle: StopHandle,
    pub(crate) proxy: SocketAddr,
    pub(crate) serving: JoinHandle<()>,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(Settings::default(), loopback_allowed(), None).await
    }

    /// With a listener there.
    pub(crate) async fn listening_on(address: &str) -> Self {
        Self::with_all(address, Settings::default(), loopback_allowed(), None).await
    }

    pub(crate) async fn with(
        settings: Settings,
        rules: impl Into<Option<Rules>>,
        login: Option<(&str, &str)>,
    ) -> Self {
        Self::with_all(LOOPBACK, settings, rules, login).await
    }

    async fn with_all(
        address: &str,
        settings: Settings,
        rules: impl Into<Option<Rules>>,
        login: Option<(&str, &str)>,
    ) -> Self {
        let exit = Node::start(settings.clone(), rules, None).await;
        let shared = Shared::new(settings);
        let (handle, stop) = StopHandle::new();
        let credentials =
            login.map(|(name, password)| Credentials::new(name.as_bytes(), password.as_bytes()));
        let listener = Socks5::bind(&shared, address.parse().unwrap(), credentials).unwrap();
        let proxy = listener.local_addr().unwrap();
        let serving = spawn_local(listener.run(exit.opener(), stop.clone()));
        Self { exit, shared, stop, handle, proxy, serving }
    }

    /// A port that leads to `target`.
    pub(crate) fn tcp_forward(&self, target: SocketAddr) -> SocketAddr {
        let forward = TcpForward::bind(&self.shared, LOOPBACK.parse().unwrap(), target.into()).unwrap();
        let address = forward.local_addr().unwrap();
        spawn_local(forward.run(self.exit.opener(), self.stop.clone()));
        address
    }

    /// A port whose datagrams lead to `target`.
    pub(crate) fn udp_forward(&self, target: Target) -> SocketAddr {
        let forward = UdpForward::bind(&self.shared, LOOPBACK.parse().unwrap(), target).unwrap();
        let address = forward.local_addr().unwrap();
        spawn_local(forward.run(self.exit.opener(), self.stop.clone()));
        address
    }

    /// A connection through SOCKS5 to `target`.
    pub(crate) async fn connect(&self, target: SocketAddr) -> TcpStream {
        let (client, reply) = self.socks5(1, &target.into()).await;
        assert_eq!(reply, 0, "the connection is made");
        client
    }

    /// A SOCKS5 client's connection after the reply, and the reply's code.
    pub(crate) async fn socks5(&self, command: u8, target: &Target) -> (TcpStream, u8) {
        let (client, reply) = socks5(self.proxy, command, target).await;
        (client, reply[1])
    }
}

/// Sends what RFC 1928 has a client without credentials send, and returns the reply.
pub(crate) async fn socks5(proxy: SocketAddr, command: u8, target: &Target) -> (TcpStream, Vec<u8>) {
    let mut client = TcpStream::connect(proxy).await.unwrap();
    client.write_all(&[5, 1, 0]).await.unwrap();
    let mut method = [0; 2];
    soon(client.read_exact(&mut method)).await.unwrap();
    assert_eq!(method, [5, 0]);
    let mut request = vec![5, command, 0];
    target.encode(&mut request);
    client.write_all(&request).await.unwrap();
    let mut reply = vec![0; 10];
    soon(client.read_exact(&mut reply)).await.unwrap();
    assert_eq!((reply[0], reply[2], reply[3]), (5, 0, 1), "{reply:?}");
    (client, reply)
}

/// A server that hands each connection to `serve`.
pub(crate) async fn server<F>(serve: impl Fn(TcpStream) -> F + 'static) -> SocketAddr
where
    F: Future<Output = ()> + 'static,
{
    server_on(LOOPBACK, serve).await
}

pub(crate) async fn server_on<F>(address: &str, serve: impl Fn(TcpStream) -> F + 'static) -> SocketAddr
where
    F: Future<Output = ()> + 'static,
{
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        loop {
            let (connection, _) = listener.accept().await.unwrap();
            spawn_local(serve(connection));
        }
    });
    address
}

/// A server that sends back what it gets, and an end after an end.
pub(crate) async fn echo() -> SocketAddr {
    server(async |mut connection: TcpStream| {
        let (mut read, mut write) = connection.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
    })
    .await
}

/// A web server with one page.
pub(crate) async fn page(text: &'static str) -> SocketAddr {
    page_on(LOOPBACK, text).await
}

pub(crate) async fn page_on(address: &str, text: &'static str) -> SocketAddr {
    server_on(address, move |mut connection| async move {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            if connection.read_buf(&mut request).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let response =
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}", text.len());
        let _ = connection.write_all(response.as_bytes()).await;
    })
    .await
}

/// A socket that sends datagrams back to whom they came from.
pub(crate) async fn udp_echo() -> SocketAddr {
    let socket = UdpSocket::bind(LOOPBACK).await.unwrap();
    let address = socket.local_addr().unwrap();
    spawn_local(async move {
        let mut buffer = vec![0; 65_535];
        loop {
            let (len, from) = socket.recv_from(&mut buffer).await.unwrap();
            let _ = socket.send_to(&buffer[..len], from).await;
        }
    });
    address
}

/// An address where connections are neither taken nor refused: the queue of a listener that is full.
pub(crate) async fn silent() -> (SocketAddr, Vec<socket2::Socket>) {
    let new = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let listener = new();
    listener.bind(&LOOPBACK.parse::<SocketAddr>().unwrap().into()).unwrap();
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

/// Waits for something that other tasks of this thread bring about.
pub(crate) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let waited = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.unwrap_or_else(|_| panic!("{what}"));
}

/// Runs curl, which knows nothing of us, without its configuration and environment.
pub(crate) async fn curl(args: &[&str]) -> Output {
    let mut command = Command::new("curl");
    command.arg("-q").args(["--silent", "--show-error", "--max-time", "15", "--noproxy", ""]).args(args);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    let output = tokio::task::spawn_blocking(move || command.output());
    soon(output).await.unwrap().expect("curl is installed")
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}
