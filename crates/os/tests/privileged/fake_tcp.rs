//! Crafted TCP segments past real kernels: cables, NATs, restarts, changing routes.

use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use carrier::fake_tcp::{FlagCycle, Flags, Segment};
use carrier::guard::GuardKey;
use os::capture::Capture;
use os::fake_tcp::{BindError, FakeTcpConfig, FakeTcpHandle, FakeTcpLink, bind};
use os::netlink::Route;
use os::netns::{Netns, veth_pair};
use os::tun::{TunConfig, TunDevice, TunQueue};
use packet::{Ecn, Link, MAX_PACKET, RecvSlot, Transmit, Tun};

#[path = "fake_tcp/networks.rs"]
mod networks;
use networks::{
    fake_tcp_answers_by_the_uplink_that_was_called,
    fake_tcp_on_a_router_leaves_other_peoples_connections_alone,
    fake_tcp_works_behind_the_source_nat_of_its_own_host,
};

crate::tests!(
    fake_tcp_trains_cross_a_cable_byte_exact,
    fake_tcp_works_without_offloads,
    fake_tcp_works_on_one_machine,
    fake_tcp_passes_a_masquerading_router_that_drops_what_is_invalid,
    fake_tcp_looks_like_tcp_to_tcpdump,
    fake_tcp_kernels_send_no_reset_and_strangers_no_state,
    fake_tcp_a_second_instance_is_told_who_has_the_port,
    fake_tcp_a_restarted_listener_is_met_again_without_a_new_call,
    fake_tcp_a_link_that_was_down_goes_on,
    fake_tcp_a_changed_route_is_followed,
    fake_tcp_lanes_reach_their_worker,
    fake_tcp_devices_without_ethernet_carry_it_too,
    fake_tcp_what_is_too_large_or_has_no_flow_is_refused,
    fake_tcp_a_full_queue_pushes_back,
    fake_tcp_works_behind_the_source_nat_of_its_own_host,
    fake_tcp_answers_by_the_uplink_that_was_called,
    fake_tcp_on_a_router_leaves_other_peoples_connections_alone,
    a_capture_shows_trains_whole_in_both_directions,
);

const PORT: u16 = 9443;
const PATIENCE: Duration = Duration::from_secs(20);

struct End {
    links: Vec<FakeTcpLink>,
    handle: FakeTcpHandle,
    slots: Vec<RecvSlot>,
    /// Payloads received, by link, and who sent the last.
    got: Vec<Vec<u8>>,
    /// Trains received in one piece.
    trains: usize,
    from: Option<SocketAddr>,
}

fn key(number: u8) -> GuardKey {
    GuardKey::derive(&[number; 32], None)
}

fn config(listen: Option<SocketAddr>, number: u8, workers: usize, offload: bool) -> FakeTcpConfig {
    FakeTcpConfig {
        listen,
        workers,
        send_buffer_bytes: 4 << 20,
        receive_buffer_bytes: 8 << 20,
        offload,
        listen_key: key(number),
        secret: [number; 32],
        local_flags: FlagCycle::default(),
        remote_flags: FlagCycle::default(),
    }
}

impl End {
    fn with(host: &Netns, config: FakeTcpConfig) -> Self {
        let workers = config.workers;
        let (links, handle) = host.run(|| bind(config).unwrap()).unwrap();
        let slots = (0..16).map(|_| RecvSlot::new(MAX_PACKET + 193)).collect();
        Self { links, handle, slots, got: vec![Vec::new(); workers], trains: 0, from: None }
    }

    fn listening(host: &Netns) -> Self {
        Self::with(host, config(Some(SocketAddr::from(([0; 4], PORT))), 2, 1, true))
    }

    fn dialling(host: &Netns) -> Self {
        Self::with(host, config(None, 1, 1, true))
    }

    fn send(
        &mut self,
        link: usize,
        to: SocketAddr,
        train: &[u8],
        segment_size: usize,
    ) -> std::io::Result<usize> {
        self.links[link].send(&Transmit { to, ecn: Ecn::NotEct, segment_size, contents: train })
    }

    /// Takes what has come, and does what is due.
    fn turn(&mut self) {
        for (link, got) in self.links.iter_mut().zip(&mut self.got) {
            let now = Instant::now();
            if link.poll_timeout().is_some_and(|(at, _)| at <= now) {
                link.handle_timeout(now);
            }
            match link.recv(&mut self.slots) {
                Ok(count) => {
                    for slot in &self.slots[..count] {
                        got.extend_from_slice(&slot.buf[..slot.len]);
                        self.trains += usize::from(slot.segment_size < slot.len);
                        self.from = Some(slot.from);
                    }
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
        }
    }
}

/// Lets both ends work until there is what was waited for.
#[track_caller]
fn until(ends: &mut [&mut End], what: &str, mut done: impl FnMut(&mut [&mut End]) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done(ends) {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        for end in ends.iter_mut() {
            // Timers that are not due sleep in the engine; looking often is what an event loop's tick does.
            end.turn();
        }
        std::thread::yield_now();
    }
}

/// A train as a session seals it.
fn train(count: usize, size: usize, last: usize, seed: u8) -> Vec<u8> {
    let datagram = |number: usize, len: usize| {
        let noise =
            move |i: usize| ((i * 31 + number * 17) as u8).wrapping_mul(seed | 1).wrapping_add(i as u8 >> 3);
        [20, 0, 0, 0].into_iter().chain((4..len).map(noise)).collect::<Vec<u8>>()
    };
    (0..count).flat_map(|number| datagram(number, if number + 1 == count { last } else { size })).collect()
}

fn address(host: &Netns, device: &str, net: &str) {
    let mut netlink = host.netlink().unwrap();
    let index = netlink.link_index(device).unwrap();
    netlink.add_address(index, net.parse().unwrap()).unwrap();
}

fn route(host: &Netns, device: &str, to: &str, gateway: &str) {
    let mut netlink = host.netlink().unwrap();
    let index = netlink.link_index(device).unwrap();
    let gateway = Some(gateway.parse().unwrap());
    netlink.add_route(&Route { to: to.parse().unwrap(), index, gateway, source: None, mtu: None }).unwrap();
}

/// Two hosts and a cable: 10.1.0.1 and 10.1.0.2, fd01::1 and fd01::2.
fn cable() -> (Netns, Netns) {
    let (a, b) = (Netns::new().unwrap(), Netns::new().unwrap());
    for host in [&a, &b] {
        host.sysctl("net.ipv6.conf.default.accept_dad", "0").unwrap();
    }
    veth_pair(&a, "eth0", &b, "eth0").unwrap();
    for (host, number) in [(&a, 1), (&b, 2)] {
        address(host, "eth0", &format!("10.1.0.{number}/24"));
        address(host, "eth0", &format!("fd01::{number}/64"));
    }
    (a, b)
}

/// Dials, and sends trains both ways until all of them have arrived as they were.
fn exchange(client: &mut End, server: &mut End, to: SocketAddr) {
    client.handle.dial(to, key(2)).unwrap();
    let mut expected = train(1, 148, 148, 3);
    client.send(0, to, &expected, 148).unwrap();
    let len = expected.len();
    until(&mut [client, server], "the first datagram", |ends| ends[1].got[0].len() >= len);
    assert!(server.got[0] == expected, "the first datagram is not what was sent");
    let caller = server.from.unwrap();

    let mut answer = Vec::new();
    for (count, size, last, seed) in
        [(45, 1_400, 700, 5), (1, 32, 32, 7), (64, 100, 33, 9), (128, 64, 64, 11)]
    {
        let there = train(count, size, last, seed);
        let back = train(count, size, last, seed + 1);
        assert_eq!(client.send(0, to, &there, size).unwrap(), there.len());
        assert_eq!(server.send(0, caller, &back, size).unwrap(), back.len());
        expected.extend(there);
        answer.extend(back);
        let (there, back) = (expected.len(), answer.len());
        until(&mut [client, server], "a train each way", |ends| {
            ends[0].got[0].len() >= back && ends[1].got[0].len() >= there
        });
    }
    assert!(server.got[0] == expected, "what arrived there is not what was sent");
    assert!(client.got[0] == answer, "what came back is not what was sent");
    assert_eq!(client.from, Some(to));
    server.got[0].clear();
    client.got[0].clear();
}

fn fake_tcp_trains_cross_a_cable_byte_exact() {
    for to in ["10.1.0.2:9443", "[fd01::2]:9443"] {
        let (a, b) = cable();
        let (mut client, mut server) = (End::dialling(&a), End::listening(&b));
        exchange(&mut client, &mut server, to.parse().unwrap());
        assert!(client.links[0].gso() && server.links[0].gso());
        assert!(server.trains >= 3 && client.trains >= 3, "trains arrive in one piece");
        let (client, server) = (client.handle.counts(), server.handle.counts());
        assert_eq!((client.flows_opened, server.flows_accepted), (1, 1));
        for counts in [client, server] {
            assert_eq!((counts.guard_failures, counts.malformed, counts.strangers), (0, 0, 0), "{counts:?}");
        }
    }
}

fn fake_tcp_works_without_offloads() {
    for to in ["10.1.0.2:9443", "[fd01::2]:9443"] {
        let (a, b) = cable();
        let mut client = End::with(&a, config(None, 1, 1, false));
        let mut server = End::with(&b, config(Some(SocketAddr::from(([0; 4], PORT))), 2, 1, false));
        exchange(&mut client, &mut server, to.parse().unwrap());
        assert!(!client.links[0].gso());
    }
}

fn fake_tcp_works_on_one_machine() {
    let host = Netns::new().unwrap();
    let (mut client, mut server) = (End::dialling(&host), End::listening(&host));
    exchange(&mut client, &mut server, "127.0.0.1:9443".parse().unwrap());
}

/// A client behind a router that hides it, and that knows TCP: what does not look like a connection is dropped.
fn masquerade() -> [Netns; 3] {
    let [client, router, server] = [(); 3].map(|()| Netns::new().unwrap());
    for host in [&client, &router, &server] {
        host.sysctl("net.ipv6.conf.default.accept_dad", "0").unwrap();
    }
    veth_pair(&client, "eth0", &router, "in0").unwrap();
    veth_pair(&router, "out0", &server, "eth0").unwrap();
    for (host, device, nets) in [
        (&client, "eth0", ["10.1.0.1/24", "fd01::1/64"]),
        (&router, "in0", ["10.1.0.254/24", "fd01::fe/64"]),
        (&router, "out0", ["10.2.0.254/24", "fd02::fe/64"]),
        (&server, "eth0", ["10.2.0.1/24", "fd02::1/64"]),
    ] {
        nets.into_iter().for_each(|net| address(host, device, net));
    }
    route(&client, "eth0", "0.0.0.0/0", "10.1.0.254");
    route(&client, "eth0", "::/0", "fd01::fe");
    router.sysctl("net.ipv4.ip_forward", "1").unwrap();
    router.sysctl("net.ipv6.conf.all.forwarding", "1").unwrap();
    // Strict: no connection is picked up in its middle.
    let rules = "table inet nat {
        chain post { type nat hook postrouting priority srcnat; oifname out0 masquerade; }
        chain forward { type filter hook forward priority filter; policy drop;
            ct state invalid counter name invalid drop
            ct state established counter name established accept
            iifname in0 tcp flags syn / syn,ack ct state new accept
        }
        counter invalid {}
        counter established {}
    }";
    let rules = rules.replace("counter name invalid", "counter name \"invalid\"");
    let rules = rules.replace("counter name established", "counter name \"established\"");
    run(&router, "nft", &[&rules]);
    [client, router, server]
}

#[track_caller]
fn run(host: &Netns, program: &str, arguments: &[&str]) -> String {
    let output = host.command(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn is_missing(program: &str) -> bool {
    // `tc` knows no `--version`, and says so, which is enough.
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err()
}

/// Packets that a named nftables counter has seen.
fn counted(router: &Netns, name: &str) -> u64 {
    let text = run(router, "nft", &["list", "counter", "inet", "nat", name]);
    let (_, rest) = text.split_once("packets ").unwrap();
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

fn fake_tcp_passes_a_masquerading_router_that_drops_what_is_invalid() {
    if is_missing("nft") {
        return;
    }
    for (to, router_address) in [("10.2.0.1:9443", "10.2.0.254"), ("[fd02::1]:9443", "fd02::fe")] {
        let [a, router, b] = masquerade();
        let (mut client, mut server) = (End::dialling(&a), End::listening(&b));
        exchange(&mut client, &mut server, to.parse().unwrap());
        assert_eq!(
            server.from.unwrap().ip(),
            router_address.parse::<IpAddr>().unwrap(),
            "the client is hidden"
        );
        // As much as fills the window several times, one way: without acknowledgments the router would drop it.
        let to = to.parse().unwrap();
        let big = train(45, 1_400, 1_400, 13);
        let mut sent = 0;
        while sent < 200 << 20 {
            sent += client.send(0, to, &big, 1_400).unwrap_or(0);
            server.turn();
            client.turn();
            server.got[0].clear();
        }
        exchange(&mut client, &mut server, to);
        assert_eq!(counted(&router, "invalid"), 0, "all of it looks like TCP to conntrack");
        assert!(counted(&router, "established") > 1_000);
    }
}

/// Every packet that a host sends or receives.
struct Tap {
    socket: std::net::UdpSocket,
}

impl Tap {
    fn start(host: &Netns) -> Self {
        use std::os::fd::{FromRawFd, OwnedFd};
        let open = || {
            let protocol = i32::from((libc::ETH_P_ALL as u16).to_be());
            // SAFETY: no pointers.
            let fd =
                unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_NONBLOCK, protocol) };
            assert!(fd >= 0);
            // SAFETY: the kernel has just made this descriptor for us.
            std::net::UdpSocket::from(unsafe { OwnedFd::from_raw_fd(fd) })
        };
        Self { socket: host.run(open).unwrap() }
    }

    fn packets(&self) -> Vec<Vec<u8>> {
        let mut buf = vec![0; MAX_PACKET];
        std::iter::from_fn(|| self.socket.recv(&mut buf).ok().map(|len| buf[..len].to_vec())).collect()
    }
}

/// A pcap file of IP packets (`pcap-savefile(5)`, LINKTYPE_RAW).
fn pcap(packets: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 4 << 16 | 2, 0, 0, 65_535, 101] {
        file.extend_from_slice(&word.to_ne_bytes());
    }
    for packet in packets {
        for word in [0, 0, packet.len() as u32, packet.len() as u32] {
            file.extend_from_slice(&u32::to_ne_bytes(word));
        }
        file.extend_from_slice(packet);
    }
    file
}

fn fake_tcp_looks_like_tcp_to_tcpdump() {
    if is_missing("tcpdump") || is_missing("ethtool") {
        return;
    }
    for to in ["10.1.0.2:9443", "[fd01::2]:9443"] {
        let (a, b) = cable();
        // Without checksum offload the kernel completes what we leave partial, and the capture has what a wire has.
        for host in [&a, &b] {
            run(host, "ethtool", &["-K", "eth0", "tx", "off"]);
        }
        let capture = Tap::start(&b);
        let (mut client, mut server) = (End::dialling(&a), End::listening(&b));
        let to = to.parse().unwrap();
        client.handle.dial(to, key(2)).unwrap();
        let data = train(3, 1_000, 500, 3);
        client.send(0, to, &data, 1_000).unwrap();
        until(&mut [&mut client, &mut server], "a train", |ends| ends[1].got[0].len() == data.len());
        let caller = server.from.unwrap();
        server.send(0, caller, &data, 1_000).unwrap();
        until(&mut [&mut client, &mut server], "a train back", |ends| ends[0].got[0].len() == data.len());

        let packets: Vec<Vec<u8>> = capture
            .packets()
            .into_iter()
            .filter(|packet| Segment::parse(packet, packet.len()).is_ok())
            .collect();
        let file =
            std::env::temp_dir().join(format!("fake-tcp-{}-{}.pcap", std::process::id(), to.is_ipv4()));
        std::fs::write(&file, pcap(&packets)).unwrap();
        let text = run(&b, "tcpdump", &["-r", file.to_str().unwrap(), "-nn", "-vv"]);
        std::fs::remove_file(&file).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| line.contains("Flags [")).collect();
        assert!(lines.len() >= 5, "{text}");
        assert!(lines.iter().all(|line| line.contains("(correct)")), "{text}");
        assert!(!text.contains("incorrect") && !text.contains("bad"), "{text}");
        assert!(lines[0].contains("Flags [S], ") && lines[0].contains("[mss 14"), "{text}");
        assert!(lines[0].contains("sackOK,TS val ") && lines[0].contains("nop,wscale 10]"), "{text}");
        let first = |mark: &str| {
            *lines.iter().find(|line| line.contains(mark)).unwrap_or_else(|| panic!("{mark}: {text}"))
        };
        assert!(first("Flags [S.], ").contains("wscale 10]"), "{text}");
        assert!(first("Flags [.], ").contains("ack 1, "), "{text}");
        assert!(
            first("Flags [P.], ").contains("seq 1:") && first("Flags [P.], ").contains("ack 1, "),
            "{text}"
        );
        assert!(lines.iter().filter(|line| line.contains("seq 1:")).count() == 2, "one each way: {text}");
    }
}

fn fake_tcp_kernels_send_no_reset_and_strangers_no_state() {
    let (a, b) = cable();
    let captures = [Tap::start(&a), Tap::start(&b)];
    let (mut client, mut server) = (End::dialling(&a), End::listening(&b));
    let to: SocketAddr = "10.1.0.2:9443".parse().unwrap();
    // A kernel's own TCP knocks at the port: it gets an answer to its SYN, and no more whatever it says.
    let knock = a.run(|| {
        let stream = std::net::TcpStream::connect_timeout(
            &"10.1.0.2:9443".parse().unwrap(),
            Duration::from_millis(200),
        );
        stream.map(drop)
    });
    until(&mut [&mut client, &mut server], "the knock", |ends| ends[1].handle.counts().syns_answered > 0);
    let _ = knock;
    assert!(server.handle.flows().is_empty());
    exchange(&mut client, &mut server, to);
    // Segments for a port that only our client uses.
    let dialled_from = client.handle.dial_port();
    let stray = b.run(move || {
        let stray = SocketAddr::from(([10, 1, 0, 1], dialled_from));
        std::net::TcpStream::connect_timeout(&stray, Duration::from_millis(200)).map(drop)
    });
    assert!(stray.unwrap().is_err());
    until(&mut [&mut client, &mut server], "the stray SYN", |ends| ends[0].handle.counts().strangers > 0);
    exchange(&mut client, &mut server, to);

    for (capture, ours) in captures.iter().zip(["10.1.0.1", "10.1.0.2"]) {
        let ours: IpAddr = ours.parse().unwrap();
        let segments = capture.packets();
        let segments = segments.iter().filter_map(|packet| Segment::parse(packet, packet.len()).ok());
        let sent: Vec<Segment> = segments.filter(|segment| segment.from.ip() == ours).collect();
        assert!(sent.len() >= 5);
        let ports = [PORT, dialled_from];
        let resets = sent.iter().filter(|s| s.flags.has(Flags::RST) && ports.contains(&s.from.port()));
        assert_eq!(resets.count(), 0);
    }
}

fn fake_tcp_a_second_instance_is_told_who_has_the_port() {
    let host = Netns::new().unwrap();
    let first = End::listening(&host);
    let again = || bind(config(Some(SocketAddr::from(([0; 4], PORT))), 2, 1, true)).map(drop);
    let error = host.run(again).unwrap().unwrap_err();
    assert!(matches!(error, BindError::AddressInUse(address) if address.port() == PORT));
    assert_eq!(
        error.to_string(),
        "TCP 0.0.0.0:9443 is in use already, perhaps by another instance (see `ss -tlnp`)"
    );
    drop(first);
    host.run(again).unwrap().unwrap();
    let elsewhere = || bind(config(Some("192.0.2.9:9443".parse().unwrap()), 2, 1, true)).map(drop);
    assert!(matches!(host.run(elsewhere).unwrap(), Err(BindError::AddressNotAvailable(_))));
}

fn fake_tcp_a_restarted_listener_is_met_again_without_a_new_call() {
    let (a, b) = cable();
    let (mut client, mut server) = (End::dialling(&a), End::listening(&b));
    let to = "10.1.0.2:9443".parse().unwrap();
    exchange(&mut client, &mut server, to);
    drop(server);
    let mut server = End::listening(&b);
    let opened = client.handle.counts().flows_opened;
    exchange(&mut client, &mut server, to);
    assert_eq!(server.handle.counts().flows_resumed, 1);
    assert_eq!(client.handle.counts().flows_opened, opened);
}

fn fake_tcp_a_link_that_was_down_goes_on() {
    let (a, b) = cable();
    let (mut client, mut server) = (End::dialling(&a), End::listening(&b));
    let to = "10.1.0.2:9443".parse().unwrap();
    exchange(&mut client, &mut server, to);
    let mut netlink = a.netlink().unwrap();
    let index = netlink.link_index("eth0").unwrap();
    netlink.set_up(index, false).unwrap();
    let datagram = train(1, 100, 100, 3);
    let error = client.send(0, to, &datagram, 100).unwrap_err();
    assert_ne!(error.kind(), ErrorKind::WouldBlock, "{error}");
    netlink.set_up(index, true).unwrap();
    until(&mut [&mut client, &mut server], "a datagram after the link is back", |ends| {
        let _ = ends[0].send(0, to, &datagram, 100);
        !ends[1].got[0].is_empty()
    });
}

/// Two ways to one server; the first goes away. The source address changes with the way, so the flow is opened anew.
fn fake_tcp_a_changed_route_is_followed() {
    let [client, server] = [(); 2].map(|()| Netns::new().unwrap());
    veth_pair(&client, "eth0", &server, "eth0").unwrap();
    veth_pair(&client, "eth1", &server, "eth1").unwrap();
    for number in 0..2 {
        address(&client, &format!("eth{number}"), &format!("10.{number}.0.1/24"));
        address(&server, &format!("eth{number}"), &format!("10.{number}.0.2/24"));
    }
    address(&server, "lo", "10.9.0.1/32");
    route(&client, "eth0", "0.0.0.0/0", "10.0.0.2");
    let (mut dialling, mut listening) = (End::dialling(&client), End::listening(&server));
    let to = "10.9.0.1:9443".parse().unwrap();
    exchange(&mut dialling, &mut listening, to);
    assert_eq!(listening.from.unwrap().ip().to_string(), "10.0.0.1");

    let mut netlink = client.netlink().unwrap();
    let index = netlink.link_index("eth0").unwrap();
    netlink.set_up(index, false).unwrap();
    route(&client, "eth1", "0.0.0.0/0", "10.1.0.2");
    let datagram = train(1, 100, 100, 3);
    until(&mut [&mut dialling, &mut listening], "a datagram by the other way", |ends| {
        let _ = ends[0].send(0, to, &datagram, 100);
        ends[1].from.is_some_and(|from| from.ip().to_string() == "10.1.0.1")
    });
}

fn fake_tcp_lanes_reach_their_worker() {
    let (a, b) = cable();
    let mut client = End::with(&a, config(None, 1, 3, true));
    let mut server = End::with(&b, config(Some(SocketAddr::from(([0; 4], PORT))), 2, 3, true));
    for to in ["10.1.0.2:9443", "[fd01::2]:9443"] {
        let to = to.parse().unwrap();
        client.handle.dial(to, key(2)).unwrap();
        until(&mut [&mut client, &mut server], "the handshake", |ends| ends[0].handle.is_open(to));
        for lane in 0..3 {
            let data = train(20, 1_000, 1_000, lane as u8 + 3);
            client.send(lane, to, &data, 1_000).unwrap();
            until(&mut [&mut client, &mut server], "a train of a lane", |ends| {
                ends[1].got[lane].len() >= data.len()
            });
            assert!(server.got[lane] == data);
            let caller = server.from.unwrap();
            server.send(lane, caller, &data, 1_000).unwrap();
            until(&mut [&mut client, &mut server], "a train back", |ends| {
                ends[0].got[lane].len() >= data.len()
            });
            assert!(client.got[lane] == data);
            server.got[lane].clear();
            client.got[lane].clear();
        }
    }
}

/// Copies packets between two TUN devices, as PPP's wire does.
struct Wire {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    _devices: [TunDevice; 2],
}

impl Wire {
    fn between(a: (TunDevice, TunQueue), b: (TunDevice, TunQueue)) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&ended);
        let (mut left, mut right) = (a.1, b.1);
        let thread = std::thread::spawn(move || {
            let mut buf = vec![0; MAX_PACKET + 10];
            let mut copy = |from: &mut TunQueue, to: &mut TunQueue| {
                while let Ok(len) = from.recv(&mut [IoSliceMut::new(&mut buf)]) {
                    let _ = to.send(&[IoSlice::new(&buf[..len])]);
                }
            };
            while !until.load(Relaxed) {
                copy(&mut left, &mut right);
                copy(&mut right, &mut left);
                std::thread::yield_now();
            }
        });
        Self { ended, thread: Some(thread), _devices: [a.0, b.0] }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.ended.store(true, Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

fn fake_tcp_devices_without_ethernet_carry_it_too() {
    let hosts = [(); 2].map(|()| Netns::new().unwrap());
    let tun = |number: usize| {
        let addresses = [format!("10.1.0.{number}/24"), format!("fd01::{number}/64")];
        let config = TunConfig {
            name: "ppp0".into(),
            queues: 1,
            mtu: 1492,
            addresses: addresses.iter().map(|net| net.parse().unwrap()).collect(),
            routes: Vec::new(),
            offload: false,
            gso_max_bytes: None,
        };
        let (device, mut queues) = hosts[number - 1].run(|| TunDevice::create(&config).unwrap()).unwrap();
        (device, queues.remove(0))
    };
    let _wire = Wire::between(tun(1), tun(2));
    for to in ["10.1.0.2:9443", "[fd01::2]:9443"] {
        let (mut client, mut server) = (End::dialling(&hosts[0]), End::listening(&hosts[1]));
        exchange(&mut client, &mut server, to.parse().unwrap());
        let path = client.handle.flows()[0].path.unwrap();
        assert_eq!((path.frame, path.mtu), (None, 1492));
    }
}

fn fake_tcp_what_is_too_large_or_has_no_flow_is_refused() {
    let (a, b) = cable();
    let (mut client, mut server) = (End::dialling(&a), End::listening(&b));
    let to = "10.1.0.2:9443".parse().unwrap();
    let kind =
        |client: &mut End, to, size| client.send(0, to, &train(2, size, size, 3), size).unwrap_err().kind();
    assert_eq!(kind(&mut client, to, 100), ErrorKind::NotConnected);
    exchange(&mut client, &mut server, to);
    // 1,500 less 20 of IPv4, 20 of TCP and 12 of timestamps.
    for size in [1_449, 65_484, 70_000] {
        assert_eq!(kind(&mut client, to, size), ErrorKind::InvalidInput);
    }
    let data = train(2, 1_448, 1_448, 3);
    client.send(0, to, &data, 1_448).unwrap();
    until(&mut [&mut client, &mut server], "the largest that fits", |ends| ends[1].got[0] == data);
    let error = client.handle.dial("[fe80::1]:9443".parse().unwrap(), key(2)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let error = client.handle.dial("8.8.8.8:9443".parse().unwrap(), key(2)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NetworkUnreachable);
    client.handle.hang_up(to);
    assert_eq!(kind(&mut client, to, 100), ErrorKind::NotConnected);
}

/// A device that sends slowly: what waits for it fills the socket's buffer, or else the device's queue.
fn fake_tcp_a_full_queue_pushes_back() {
    if is_missing("tc") {
        return;
    }
    for (limit, expected) in [("50mb", ErrorKind::WouldBlock), ("100kb", ErrorKind::OutOfMemory)] {
        let (a, b) = cable();
        let (mut client, mut server) = (End::dialling(&a), End::listening(&b));
        let to = "10.1.0.2:9443".parse().unwrap();
        exchange(&mut client, &mut server, to);
        run(
            &a,
            "tc",
            &[
                "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "1mbit", "burst", "100kb", "limit",
                limit,
            ],
        );
        let data = train(40, 1_400, 1_400, 3);
        let mut taken = 0;
        let error = loop {
            match client.send(0, to, &data, 1_400) {
                Ok(bytes) => taken += bytes,
                Err(error) => break error,
            }
            assert!(taken < 64 << 20, "neither buffer nor queue holds that");
        };
        assert_eq!(error.kind(), expected, "{error}");
    }
}

fn a_capture_shows_trains_whole_in_both_directions() {
    let (a, b) = cable();
    let open = || Capture::open(Some(PORT)).unwrap();
    let mut capture = b.run(open).unwrap();
    let index = b.netlink().unwrap().link_index("eth0").unwrap();
    let (mut client, mut server) = (End::dialling(&a), End::listening(&b));
    exchange(&mut client, &mut server, "10.1.0.2:9443".parse().unwrap());
    let elsewhere = b.run(|| std::net::UdpSocket::bind("10.1.0.2:77").unwrap()).unwrap();
    elsewhere.send_to(b"not this", "10.1.0.1:78").unwrap();
    let mut trains = [0, 0];
    loop {
        match capture.recv() {
            Ok(Some(captured)) => {
                let segment = Segment::parse(captured.packet, captured.packet.len()).unwrap();
                assert!(segment.from.port() == PORT || segment.to.port() == PORT);
                assert_eq!((captured.interface, captured.outgoing), (index, segment.from.port() == PORT));
                trains[usize::from(captured.outgoing)] += usize::from(captured.segment_size == Some(1_400));
            }
            Ok(None) => panic!("a frame of no use"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                break;
            }
        }
    }
    assert_eq!(trains, [1, 1]);
    assert_eq!(capture.missed().unwrap(), 0);
}
