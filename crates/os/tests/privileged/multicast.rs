//! The multicast socket, between hosts that are namespaces.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use os::multicast::{Departure, MulticastSocket, Received};
use os::netlink::PortUsers;
use os::netns::{Netns, veth_pair};
use os::poll::{Events, Interest, Poller};
use packet::{Class, Pool, PoolConfig};

crate::tests![
    a_datagram_arrives_with_interface_source_destination_and_hop_limit,
    only_the_interface_that_was_chosen_carries_it,
    nothing_comes_by_an_interface_that_was_left,
    the_source_is_the_address_that_was_chosen,
    every_program_on_the_port_hears_the_group,
    a_port_that_nobody_shares_is_an_error_and_one_that_is_shared_is_told,
    what_does_not_fit_a_buffer_is_marked,
    an_empty_pool_leaves_datagrams_in_the_kernel,
];

const GROUPS: [&str; 2] = ["224.0.0.251:5353", "[ff02::fb]:5353"];

struct Host {
    netns: Netns,
    pool: Pool,
}

impl Host {
    fn new() -> Self {
        let netns = Netns::new().unwrap();
        netns.sysctl("net.ipv6.conf.default.accept_dad", "0").unwrap();
        Self { netns, pool: Pool::new(PoolConfig { large: 0, small: 64 }) }
    }

    fn address(&self, device: &str, net: &str) {
        let index = self.index(device);
        self.netns.netlink().unwrap().add_address(index, net.parse().unwrap()).unwrap();
    }

    fn index(&self, device: &str) -> u32 {
        self.netns.netlink().unwrap().link_index(device).unwrap()
    }

    fn bind(&self, group: &str) -> MulticastSocket {
        let group = group.parse().unwrap();
        self.netns.run(|| MulticastSocket::bind(group)).unwrap().unwrap()
    }

    /// What arrives until there is `wanted` of it.
    fn receive(&self, socket: &mut MulticastSocket, wanted: usize) -> Vec<Received> {
        let poller = Poller::new().unwrap();
        poller.add(&*socket, 0, Interest::READ).unwrap();
        let mut received = Vec::new();
        while received.len() < wanted {
            let ready = poller.wait(&mut Events::with_capacity(1), Some(Duration::from_secs(10))).unwrap();
            assert_eq!(ready, 1, "{} of {wanted} arrived", received.len());
            socket.recv(&self.pool, &mut received).unwrap();
        }
        received
    }

    fn hears_nothing(&self, socket: &mut MulticastSocket) {
        let error = socket.recv(&self.pool, &mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}

/// Two hosts with two cables between them.
fn two_cables() -> (Host, Host) {
    let (left, right) = (Host::new(), Host::new());
    for (number, device) in ["wire0", "wire1"].into_iter().enumerate() {
        veth_pair(&left.netns, device, &right.netns, device).unwrap();
        for (host, last) in [(&left, 1), (&right, 2)] {
            host.address(device, &format!("192.0.{number}.{last}/24"));
            host.address(device, &format!("fe80::{number}:{last}/64"));
        }
    }
    (left, right)
}

fn to_group(host: &Host, device: &str, group: &str) -> Departure {
    Departure { interface: host.index(device), source: None, to: group.parse().unwrap() }
}

fn a_datagram_arrives_with_interface_source_destination_and_hop_limit() {
    let (left, right) = two_cables();
    for (group, source) in GROUPS.into_iter().zip(["192.0.1.1", "fe80::1:1"]) {
        let (mut sender, mut receiver) = (left.bind(group), right.bind(group));
        receiver.join(right.index("wire1")).unwrap();
        sender.send(b"hello", &to_group(&left, "wire1", group)).unwrap();
        let received = right.receive(&mut receiver, 1);
        let group: SocketAddr = group.parse().unwrap();
        assert_eq!(&received[0].buf[..], b"hello");
        assert_eq!(received[0].interface, right.index("wire1"));
        assert_eq!(received[0].to, group.ip());
        assert_eq!(received[0].hop_limit, Some(255));
        assert!(!received[0].truncated);
        assert_eq!(received[0].from.port(), 5353);
        if group.is_ipv4() {
            assert_eq!(received[0].from.ip(), source.parse::<IpAddr>().unwrap());
        } else if let SocketAddr::V6(from) = received[0].from {
            assert!(from.ip().is_unicast_link_local());
            assert_eq!(from.scope_id(), right.index("wire1"));
        }
    }
}

fn only_the_interface_that_was_chosen_carries_it() {
    let (left, right) = two_cables();
    for group in GROUPS {
        let (mut sender, mut receiver) = (left.bind(group), right.bind(group));
        for device in ["wire0", "wire1"] {
            receiver.join(right.index(device)).unwrap();
        }
        for device in ["wire1", "wire0", "wire1"] {
            sender.send(device.as_bytes(), &to_group(&left, device, group)).unwrap();
        }
        for received in right.receive(&mut receiver, 3) {
            let device = std::str::from_utf8(&received.buf).unwrap();
            assert_eq!(received.interface, right.index(device));
        }
        right.hears_nothing(&mut receiver);
    }
}

fn nothing_comes_by_an_interface_that_was_left() {
    let (left, right) = two_cables();
    for group in GROUPS {
        let (mut sender, mut receiver) = (left.bind(group), right.bind(group));
        for device in ["wire0", "wire1", "wire1"] {
            receiver.join(right.index(device)).unwrap();
        }
        receiver.leave(right.index("wire0")).unwrap();
        receiver.leave(right.index("wire0")).unwrap();
        receiver.leave(9_999).unwrap();
        sender.send(b"left", &to_group(&left, "wire0", group)).unwrap();
        sender.send(b"joined", &to_group(&left, "wire1", group)).unwrap();
        assert_eq!(&right.receive(&mut receiver, 1)[0].buf[..], b"joined");
        right.hears_nothing(&mut receiver);
        assert!(receiver.join(9_999).is_err());
    }
}

fn the_source_is_the_address_that_was_chosen() {
    let (left, right) = two_cables();
    for (group, second) in GROUPS.into_iter().zip(["192.0.0.77", "2001:db8::77"]) {
        left.address("wire0", &format!("{second}/{}", if second.contains(':') { 64 } else { 24 }));
        let (mut sender, mut receiver) = (left.bind(group), right.bind(group));
        receiver.join(right.index("wire0")).unwrap();
        let source: IpAddr = second.parse().unwrap();
        let departure = Departure { source: Some(source), ..to_group(&left, "wire0", group) };
        sender.send(b"hello", &departure).unwrap();
        assert_eq!(right.receive(&mut receiver, 1)[0].from.ip(), source);

        let other_family = Departure {
            source: Some(if source.is_ipv4() { [0_u8; 16].into() } else { [0_u8; 4].into() }),
            ..departure
        };
        assert_eq!(sender.send(b"", &other_family).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}

fn every_program_on_the_port_hears_the_group() {
    let (left, right) = two_cables();
    for group in GROUPS {
        let mut listeners = [left.bind(group), left.bind(group)];
        let mut sender = right.bind(group);
        assert!(!listeners[0].shares_port() && listeners[1].shares_port());
        for listener in &listeners {
            listener.join(left.index("wire0")).unwrap();
        }
        sender.send(b"all", &to_group(&right, "wire0", group)).unwrap();
        for listener in &mut listeners {
            assert_eq!(&left.receive(listener, 1)[0].buf[..], b"all");
        }
        // What one program of a machine sends, the others hear too.
        let [first, second] = &mut listeners;
        first.send(b"loop", &to_group(&left, "wire0", group)).unwrap();
        assert_eq!(&left.receive(second, 1)[0].buf[..], b"loop");
    }
}

fn a_port_that_nobody_shares_is_an_error_and_one_that_is_shared_is_told() {
    let host = Host::new();
    for (group, any) in GROUPS.into_iter().zip(["0.0.0.0:5353", "[::]:5353"]) {
        let greedy = host.netns.run(|| UdpSocket::bind(any).unwrap()).unwrap();
        let group_address = group.parse().unwrap();
        let error = host.netns.run(|| MulticastSocket::bind(group_address)).unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let mut users = host.netns.run(|| PortUsers::open().unwrap()).unwrap();
        assert_eq!((users.udp(5353).unwrap(), users.udp(5354).unwrap()), (1, 0));
        drop(greedy);
        assert!(!host.bind(group).shares_port());
    }
}

fn what_does_not_fit_a_buffer_is_marked() {
    let (left, right) = two_cables();
    for group in GROUPS {
        let (mut sender, mut receiver) = (left.bind(group), right.bind(group));
        receiver.join(right.index("wire0")).unwrap();
        for len in [Class::SMALL_BYTES, Class::SMALL_BYTES + 1] {
            sender.send(&vec![7; len], &to_group(&left, "wire0", group)).unwrap();
        }
        let received = right.receive(&mut receiver, 2);
        assert_eq!(
            received.iter().map(|r| (r.buf.len(), r.truncated)).collect::<Vec<_>>(),
            [(Class::SMALL_BYTES, false), (Class::SMALL_BYTES, true)]
        );
    }
}

fn an_empty_pool_leaves_datagrams_in_the_kernel() {
    let (left, right) = two_cables();
    let group = GROUPS[0];
    let (mut sender, mut receiver) = (left.bind(group), right.bind(group));
    receiver.join(right.index("wire0")).unwrap();
    for _ in 0..2 {
        sender.send(b"hello", &to_group(&left, "wire0", group)).unwrap();
    }
    let small = Pool::new(PoolConfig { large: 0, small: 1 });
    let mut received = Vec::new();
    assert_eq!(receiver.recv(&small, &mut received).unwrap(), 1);
    assert_eq!(receiver.recv(&small, &mut received).unwrap_err().kind(), io::ErrorKind::OutOfMemory);
    received.clear();
    assert_eq!(receiver.recv(&small, &mut received).unwrap(), 1);
    assert_eq!(&received[0].buf[..], b"hello");
}
