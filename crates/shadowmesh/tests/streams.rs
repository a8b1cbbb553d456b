//! Streams between two real daemons, and the proxies on them: what a client of the proxy on the left sees of a server on the
//! right.
//!
//! Where namespaces cannot be made, or a program is missing, the tests are reported as ignored with the reason; with
//! `SHADOWMESH_REQUIRE_PRIVILEGED=1` they fail instead.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "lab/mod.rs"]
mod lab;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::{ExitCode, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lab::{Host, Node, SOON, Scratch, Spec, cable, output, secret, wait_for};
use os::netns::die_with_parent;

fn main() -> ExitCode {
    let plain = lab::tests![
        a_download_and_an_upload_cross_byte_for_byte,
        a_client_that_has_said_all_it_has_to_say_still_gets_its_answer,
        a_transfer_that_breaks_off_is_no_end,
        a_node_without_an_interface_carries_streams,
        a_restarted_exit_serves_new_streams_without_a_restart_of_the_entry,
        a_restarted_entry_is_served_at_once,
        a_node_that_stops_ends_500_streams_within_a_second_and_nobody_takes_a_part_for_the_whole,
        a_client_that_reads_nothing_holds_nobody_up,
        a_port_of_the_peer_leads_back_to_us,
        an_address_in_use_is_one_clear_error,
    ];
    let with_firewall = lab::tests![
        a_bad_link_loses_no_byte,
        streams_go_on_over_another_carrier_when_udp_is_blocked,
        streams_need_neither_udp_nor_privileges_where_connections_pass,
    ];
    let with_setpriv = lab::tests![a_user_without_privileges_gets_out_by_one_line];
    let with_curl = lab::tests![curl_fetches_through_either_protocol];
    lab::main(
        vec![(plain, &[]), (with_firewall, &["nft"]), (with_setpriv, &["setpriv"]), (with_curl, &["curl"])],
        4,
    )
}

/// Where the entry listens, and the server behind the exit.
const PROXY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1080);
const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7000);

/// Two daemons on a cable: an entry on the left, an exit on the right.
struct Tunnel {
    left: Host,
    right: Host,
    specs: [Spec; 2],
    entry: Option<Node>,
    exit: Option<Node>,
    scratch: Scratch,
}

impl Tunnel {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl Fn(&mut [Spec; 2])) -> Self {
        let (left, right) = cable();
        for host in [&left, &right] {
            host.set_up("lo", true);
        }
        let mut specs = [Spec::of_pair(1, Some("192.0.2.2:9443")), Spec::of_pair(2, None)];
        specs[0].sections = format!("[[socks5]]\nlisten = \"{PROXY}\"\nvia = \"right\"\n");
        specs[1].sections = "[exit]\nallow = [\"127.0.0.0/8\"]\n".into();
        change(&mut specs);
        let scratch = Scratch::new();
        let exit = Some(Node::start(&specs[1], &right, &scratch));
        let entry = Some(Node::start(&specs[0], &left, &scratch));
        Self { left, right, specs, entry, exit, scratch }
    }

    fn entry(&self) -> &Node {
        self.entry.as_ref().unwrap()
    }

    /// What `serve` does with each of `count` connections to the server behind the exit.
    fn server(&self, count: usize, serve: fn(TcpStream)) -> JoinHandle<()> {
        let listener = self.right.netns.run(|| TcpListener::bind(SERVER).unwrap()).unwrap();
        thread::spawn(move || {
            for _ in 0..count {
                let (stream, _) = listener.accept().unwrap();
                thread::spawn(move || serve(stream));
            }
        })
    }

    /// A connection to the server by SOCKS5 (RFC 1928), or the proxy's reason why not.
    fn connect(&self) -> Result<TcpStream, u8> {
        let mut stream = self.left.netns.run(|| TcpStream::connect(PROXY).unwrap()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(&[5, 1, 0]).unwrap();
        let mut greeting = [0; 2];
        stream.read_exact(&mut greeting).unwrap();
        assert_eq!(greeting, [5, 0]);
        let [high, low] = SERVER.port().to_be_bytes();
        stream.write_all(&[5, 1, 0, 1, 127, 0, 0, 1, high, low]).unwrap();
        let mut reply = [0; 10];
        stream.read_exact(&mut reply).unwrap();
        if reply[1] == 0 { Ok(stream) } else { Err(reply[1]) }
    }

    /// As [`connect`](Self::connect), until it succeeds.
    fn connect_soon(&self) -> TcpStream {
        wait_for("a stream through the proxy", SOON, || self.connect().ok())
    }
}

/// Bytes that repeat nowhere near a power of two.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

const LEN: usize = 20_000_000;

/// Reads to the end, and then sends the pattern.
fn read_then_answer(mut stream: TcpStream) {
    let mut question = Vec::new();
    stream.read_to_end(&mut question).unwrap();
    assert_eq!(question, b"all I have to say");
    stream.write_all(&pattern(LEN)).unwrap();
}

/// Sends back what comes.
fn echo(mut stream: TcpStream) {
    let mut buf = [0; 4096];
    while let Ok(len @ 1..) = stream.read(&mut buf) {
        if stream.write_all(&buf[..len]).is_err() {
            return;
        }
    }
}

/// One line there and back.
fn exchange(stream: &mut TcpStream) {
    stream.write_all(b"hello").unwrap();
    let mut buf = [0; 5];
    stream.read_exact(&mut buf).unwrap();
    assert_eq!(&buf, b"hello");
}

/// Both directions at once, compared byte for byte.
fn both_ways(stream: TcpStream) {
    let mut reading = stream.try_clone().unwrap();
    let reader = thread::spawn(move || {
        let mut all = Vec::with_capacity(LEN);
        reading.read_to_end(&mut all).unwrap();
        all
    });
    let mut writing = stream;
    writing.write_all(&pattern(LEN)).unwrap();
    writing.shutdown(Shutdown::Write).unwrap();
    let got = reader.join().unwrap();
    assert!(got == pattern(LEN), "{} bytes came back of {LEN}, or others", got.len());
}

fn a_download_and_an_upload_cross_byte_for_byte() {
    let tunnel = Tunnel::new();
    let server = tunnel.server(1, echo);
    both_ways(tunnel.connect_soon());
    server.join().unwrap();
    let status = tunnel.entry().status();
    // On a busy machine the thread of the streams may not keep up: what it drops is sent again.
    assert_eq!(status.drops() - status.dropped("stream_backlog"), 0);
    let streams = &status.0["streams"];
    assert_eq!(streams["peers"][0]["name"], "right");
    assert_eq!(
        (streams["bytes_up"].as_u64(), streams["bytes_down"].as_u64()),
        (Some(LEN as u64), Some(LEN as u64))
    );
}

fn a_client_that_has_said_all_it_has_to_say_still_gets_its_answer() {
    let tunnel = Tunnel::new();
    let _server = tunnel.server(1, read_then_answer);
    let mut client = tunnel.connect_soon();
    client.write_all(b"all I have to say").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert!(answer == pattern(LEN), "{} bytes of {LEN}", answer.len());
}

fn a_transfer_that_breaks_off_is_no_end() {
    let tunnel = Tunnel::new();
    let _server = tunnel.server(1, |mut stream| {
        stream.write_all(b"half of it").unwrap();
        // The reset must not overtake what was written before.
        let mut said = [0; 4];
        stream.read_exact(&mut said).unwrap();
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    });
    let mut client = tunnel.connect_soon();
    let mut half = [0; 10];
    client.read_exact(&mut half).unwrap();
    assert_eq!(&half, b"half of it");
    client.write_all(b"more").unwrap();
    let ended = client.read(&mut half);
    let kind = ended.as_ref().map_err(std::io::Error::kind);
    assert_eq!(kind, Err(ErrorKind::ConnectionReset), "a part is not the whole");
}

fn a_node_without_an_interface_carries_streams() {
    let tunnel = Tunnel::with(|specs| specs.iter_mut().for_each(|spec| spec.interface = false));
    let _server = tunnel.server(1, echo);
    exchange(&mut tunnel.connect_soon());
    assert!(tunnel.entry().status().0["tun"].is_null());
    for host in [&tunnel.left, &tunnel.right] {
        assert!(host.netns.netlink().unwrap().link("shadow0").is_err());
    }
}

fn a_bad_link_loses_no_byte() {
    let tunnel = Tunnel::new();
    let server = tunnel.server(1, echo);
    let client = tunnel.connect_soon();
    // Each way, single datagrams: whole trains would be lost as one where the kernel has not cut them yet.
    for host in [&tunnel.left, &tunnel.right] {
        let rules = "add table ip bad; add chain ip bad in { type filter hook input priority 0; }; \
                     add rule ip bad in udp dport 9443 numgen random mod 100 < 10 drop";
        output(host.netns.command("nft").arg(rules));
    }
    both_ways(client);
    server.join().unwrap();
}

/// Lets no UDP pass between the daemons, neither way.
fn block_udp(host: &Host) {
    let rules = "add table ip blocked; add chain ip blocked in { type filter hook input priority 0; }; \
                 add chain ip blocked out { type filter hook output priority 0; }; \
                 add rule ip blocked in udp dport 9443 drop; add rule ip blocked out udp sport 9443 drop";
    output(host.netns.command("nft").arg(rules));
}

fn streams_go_on_over_another_carrier_when_udp_is_blocked() {
    let tunnel = Tunnel::with(|specs| {
        for spec in specs {
            spec.interface = false;
            spec.peers[0].carriers = &["udp", "faketcp", "tcp"];
        }
    });
    let server = tunnel.server(2, echo);
    let (mut idle, busy) = (tunnel.connect_soon(), tunnel.connect_soon());
    exchange(&mut idle);
    assert_eq!(tunnel.entry().status().carrier(), "udp");
    let transfer = thread::spawn(move || both_ways(busy));
    wait_for("half of it", SOON, || {
        let status = tunnel.entry().status();
        (status.0["streams"]["bytes_down"].as_u64()? > LEN as u64 / 4).then_some(())
    });
    block_udp(&tunnel.right);
    exchange(&mut idle);
    transfer.join().unwrap();
    server.join().unwrap();
    assert_eq!(tunnel.entry().status().carrier(), "faketcp");
}

fn streams_need_neither_udp_nor_privileges_where_connections_pass() {
    let tunnel = Tunnel::with(|specs| {
        for spec in specs {
            spec.interface = false;
            spec.peers[0].carriers = &["tcp"];
        }
    });
    block_udp(&tunnel.right);
    let server = tunnel.server(1, echo);
    both_ways(tunnel.connect_soon());
    server.join().unwrap();
    assert_eq!(tunnel.entry().status().carrier(), "tcp");
}

fn a_restarted_exit_serves_new_streams_without_a_restart_of_the_entry() {
    let mut tunnel = Tunnel::new();
    let _server = tunnel.server(2, echo);
    let mut old = tunnel.connect_soon();
    exchange(&mut old);
    tunnel.exit.take().unwrap().kill();
    tunnel.exit = Some(Node::start(&tunnel.specs[1], &tunnel.right, &tunnel.scratch));

    let mut new = tunnel.connect_soon();
    exchange(&mut new);
    // The old one's other end is gone: it ends, and does not hang.
    let ended = old.read(&mut [0; 1]);
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
}

fn a_restarted_entry_is_served_at_once() {
    let mut tunnel = Tunnel::new();
    let _server = tunnel.server(2, echo);
    let mut old = tunnel.connect_soon();
    exchange(&mut old);
    tunnel.entry.take().unwrap().kill();
    tunnel.entry = Some(Node::start(&tunnel.specs[0], &tunnel.left, &tunnel.scratch));
    exchange(&mut tunnel.connect_soon());
}

fn a_node_that_stops_ends_500_streams_within_a_second_and_nobody_takes_a_part_for_the_whole() {
    const STREAMS: usize = 500;
    // Both ends of all connections are here.
    os::files::raise_open_files().unwrap();
    for entry_stops in [true, false] {
        let mut tunnel = Tunnel::new();
        let (ended, ends) = mpsc::channel();
        let listener = tunnel.right.netns.run(|| TcpListener::bind(SERVER).unwrap()).unwrap();
        let server = thread::spawn(move || {
            for _ in 0..STREAMS {
                let (mut stream, _) = listener.accept().unwrap();
                let ended = ended.clone();
                thread::spawn(move || {
                    let mut line = [0; 5];
                    stream.read_exact(&mut line).unwrap();
                    stream.write_all(&line).unwrap();
                    let _ = ended.send(stream.read(&mut line).map_err(|error| error.kind()));
                });
            }
        });
        let mut clients = vec![tunnel.connect_soon()];
        clients.extend((1..STREAMS).map(|_| tunnel.connect().unwrap()));
        clients.iter_mut().for_each(exchange);
        server.join().unwrap();
        let stopping = if entry_stops { &mut tunnel.entry } else { &mut tunnel.exit };
        let start = Instant::now();
        stopping.take().unwrap().stop();
        assert!(start.elapsed() < Duration::from_secs(1), "it took {:?}", start.elapsed());
        // Who is connected to the other node learns of the ends from that one: they were delivered.
        for client in &mut clients {
            let ended = client.read(&mut [0; 1]);
            let reset = ended.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset);
            assert!(reset, "{ended:?}");
        }
        for count in 0..STREAMS {
            assert_eq!(ends.recv_timeout(SOON), Ok(Err(ErrorKind::ConnectionReset)), "server {count}");
        }
    }
}

fn a_client_that_reads_nothing_holds_nobody_up() {
    let tunnel = Tunnel::new();
    let _server = tunnel.server(81, |mut stream| {
        // Whether it is read or not.
        let _ = stream.write_all(&pattern(LEN));
    });
    let mut silent = vec![tunnel.connect_soon()];
    silent.extend((1..80).map(|_| tunnel.connect().unwrap()));
    let mut client = tunnel.connect().unwrap();
    let mut got = Vec::new();
    client.read_to_end(&mut got).unwrap();
    assert!(got == pattern(LEN), "{} bytes of {LEN}", got.len());
    for node in [tunnel.entry(), tunnel.exit.as_ref().unwrap()] {
        let held = node.status().0["streams"]["memory_bytes"].as_u64().unwrap();
        assert!(held <= 256 << 20, "{held} bytes are held");
    }
    // And those that wake up get everything.
    for client in &mut silent[..3] {
        got.clear();
        client.read_to_end(&mut got).unwrap();
        assert!(got == pattern(LEN), "{} bytes of {LEN}", got.len());
    }
}

fn a_port_of_the_peer_leads_back_to_us() {
    let tunnel = Tunnel::with(|specs| {
        specs[0].sections = "[[forward]]\nlisten = \"127.0.0.1:7777\"\ntarget = \"127.0.0.1:7000\"\n\
                             via = \"right\"\ndirection = \"remote\"\n"
            .into();
        specs[1].sections = "[exit]\nlisten = [\"127.0.0.1/32\"]\n".into();
    });
    let listener = tunnel.left.netns.run(|| TcpListener::bind(SERVER).unwrap()).unwrap();
    let _server = thread::spawn(move || echo(listener.accept().unwrap().0));
    let mut client = wait_for("the peer listens", SOON, || {
        tunnel.right.netns.run(|| TcpStream::connect("127.0.0.1:7777").ok()).unwrap()
    });
    client.set_read_timeout(Some(SOON)).unwrap();
    exchange(&mut client);
}

fn an_address_in_use_is_one_clear_error() {
    let (left, _right) = cable();
    left.set_up("lo", true);
    let _occupied = left.netns.run(|| TcpListener::bind(PROXY).unwrap()).unwrap();
    let scratch = Scratch::new();
    let mut spec = Spec::of_pair(1, None);
    spec.sections = format!("[[socks5]]\nlisten = \"{PROXY}\"\nvia = \"right\"\n");
    let (status, log) = Node::fail_to_start(&spec, &left, &scratch);
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains(&format!("cannot listen on {PROXY}")), "{log}");
    assert!(log.contains("left.toml:"), "it says where: {log}");
    assert!(left.netns.netlink().unwrap().link("shadow0").is_err(), "nothing is left behind");
}

fn a_user_without_privileges_gets_out_by_one_line() {
    const NOBODY: u32 = 65_534;
    let mut tunnel = Tunnel::new();
    let _server = tunnel.server(1, echo);
    tunnel.entry.take().unwrap().kill();
    // What the user has: a program, a key, and a home.
    let home = &tunnel.scratch.path;
    let (program, key) = (home.join("shadowmesh"), home.join("my.key"));
    fs::copy(env!("CARGO_BIN_EXE_shadowmesh"), &program).unwrap();
    fs::write(&key, secret(1).to_base64().as_str()).unwrap();
    for (path, mode) in [(home, 0o755), (&program, 0o755), (&key, 0o600)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let mut command = tunnel.left.netns.command("setpriv");
    command
        .args([&format!("--reuid={NOBODY}"), &format!("--regid={NOBODY}"), "--clear-groups"])
        .arg(&program);
    command
        .args(["proxy", "--key"])
        .arg(&key)
        .arg("--peer")
        .arg(format!("{}@192.0.2.2:9443", secret(2).public_key()));
    command.env_clear().env("HOME", home).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
    let mut proxy = die_with_parent(&mut command).spawn().unwrap();
    wait_for("the proxy listens", SOON, || tunnel.left.netns.run(|| TcpStream::connect(PROXY).ok()).unwrap());
    exchange(&mut tunnel.connect_soon());
    os::netns::terminate(&mut proxy).unwrap();
    assert!(wait_for("it ends", SOON, || proxy.try_wait().unwrap()).success());
}

fn curl_fetches_through_either_protocol() {
    let tunnel = Tunnel::new();
    let _server = tunnel.server(2, |mut stream| {
        let mut request = [0; 4096];
        let len = stream.read(&mut request).unwrap();
        assert!(request[..len].starts_with(b"GET /file HTTP/1.1\r\n"));
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\nConnection: close\r\n\r\n").unwrap();
        stream.write_all(&pattern(LEN)).unwrap();
    });
    for proxy in ["--socks5-hostname", "--proxytunnel --proxy"] {
        let got = tunnel.scratch.path.join("got");
        let mut curl = tunnel.left.netns.command("curl");
        curl.args(["--silent", "--show-error", "--fail", "--max-time", "20", "--output"]).arg(&got);
        curl.args(proxy.split(' ')).arg(PROXY.to_string()).arg(format!("http://{SERVER}/file"));
        output(&mut curl);
        assert!(fs::read(got).unwrap() == pattern(LEN), "by {proxy}");
    }
}
