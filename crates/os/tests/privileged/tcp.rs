//! TCP connections whose far end dies or is not there yet.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use os::netlink::Route;
use os::netns::{Netns, veth_pair};
use os::poll::{Events, Interest, Poller};
use os::tcp::{TcpConfig, TcpHandle, TcpLink, bind};
use packet::{Ecn, Link, RecvSlot, Transmit};

crate::tests!(
    tcp_a_far_end_that_died_is_found_and_met_again_when_it_lives,
    tcp_dialling_without_a_route_fails_at_once_and_works_when_there_is_one,
    tcp_an_address_of_its_own_is_dialled_from,
);

const PATIENCE: Duration = Duration::from_secs(40);

struct End {
    link: TcpLink,
    handle: TcpHandle,
    poller: Poller,
    got: Vec<(SocketAddr, Vec<u8>)>,
}

impl End {
    fn new(host: &Netns, listen: Option<&str>) -> Self {
        let config = TcpConfig {
            listen: listen.map(|address| address.parse().unwrap()),
            workers: 1,
            send_buffer_bytes: 0,
            receive_buffer_bytes: 0,
        };
        let (mut links, handle) = host.run(|| bind(config).unwrap()).unwrap();
        let (link, poller) = (links.remove(0), Poller::new().unwrap());
        for fd in link.descriptors() {
            poller.add(fd, 0, Interest { edge: true, ..Interest::READ_WRITE }).unwrap();
        }
        Self { link, handle, poller, got: Vec::new() }
    }

    /// Sockets belong to the namespace of the thread that makes them, as those of a daemon's threads do.
    fn send(&mut self, host: &Netns, to: SocketAddr, bytes: &[u8]) -> std::io::Result<usize> {
        let transmit = Transmit { to, ecn: Ecn::NotEct, segment_size: bytes.len(), contents: bytes };
        host.run(|| self.link.send(&transmit)).unwrap()
    }

    fn step(&mut self) {
        let mut events = Events::with_capacity(2);
        let mut slots = [RecvSlot::new(65_535), RecvSlot::new(65_535)];
        if self.poller.wait(&mut events, Some(Duration::from_millis(5))).unwrap() > 0 {
            while let Ok(count) = self.link.recv(&mut slots) {
                for slot in &slots[..count] {
                    self.got.push((slot.from, slot.buf[..slot.len].to_vec()));
                }
            }
        }
        if self.link.poll_timeout().is_some_and(|(at, _)| at <= Instant::now()) {
            self.link.handle_timeout(Instant::now());
        }
    }
}

fn until(ends: &mut [&mut End], what: &str, mut done: impl FnMut(&mut [&mut End]) -> bool) {
    let start = Instant::now();
    while !done(ends) {
        assert!(start.elapsed() < PATIENCE, "{what}");
        ends.iter_mut().for_each(|end| end.step());
    }
}

/// Two hosts and a cable: 10.1.0.1 and 10.1.0.2.
fn cable() -> (Netns, Netns) {
    let (a, b) = (Netns::new().unwrap(), Netns::new().unwrap());
    veth_pair(&a, "eth0", &b, "eth0").unwrap();
    address(&a, "10.1.0.1/24");
    address(&b, "10.1.0.2/24");
    (a, b)
}

fn address(host: &Netns, net: &str) {
    let mut netlink = host.netlink().unwrap();
    let index = netlink.link_index("eth0").unwrap();
    netlink.add_address(index, net.parse().unwrap()).unwrap();
}

fn set_up(host: &Netns, up: bool) {
    let mut netlink = host.netlink().unwrap();
    let index = netlink.link_index("eth0").unwrap();
    netlink.set_up(index, up).unwrap();
}

fn tcp_a_far_end_that_died_is_found_and_met_again_when_it_lives() {
    let (a, b) = cable();
    let (mut client, mut server) = (End::new(&a, None), End::new(&b, Some("0.0.0.0:9443")));
    let to = "10.1.0.2:9443".parse().unwrap();
    a.run(|| client.handle.dial(to).unwrap()).unwrap();
    client.send(&a, to, b"one").unwrap();
    until(&mut [&mut client, &mut server], "the first", |ends| ends[1].got.len() == 1);

    // One end has something to say and gets no answer; the other is quiet, and asks.
    set_up(&b, false);
    client.send(&a, to, b"lost").unwrap();
    until(&mut [&mut client, &mut server], "nobody has found the other dead", |ends| {
        ends.iter().all(|end| end.handle.connections().is_empty())
    });
    assert_eq!((client.handle.counts().closed, server.handle.counts().closed), (1, 1));

    set_up(&b, true);
    until(&mut [&mut client, &mut server], "they never met again", |ends| {
        let _ = ends[0].send(&a, to, b"two");
        ends[1].got.len() > 1
    });
    assert!(server.got[1].1.starts_with(b"two"));
}

fn tcp_dialling_without_a_route_fails_at_once_and_works_when_there_is_one() {
    let (a, b) = cable();
    address(&b, "10.2.0.2/32");
    let (mut client, mut server) = (End::new(&a, None), End::new(&b, Some("0.0.0.0:9443")));
    let to = "10.2.0.2:9443".parse().unwrap();
    let error = a.run(|| client.handle.dial(to).unwrap_err()).unwrap();
    assert_eq!(error.kind(), ErrorKind::NetworkUnreachable);
    assert_eq!(client.handle.counts().not_opened, 1);

    let mut netlink = a.netlink().unwrap();
    let index = netlink.link_index("eth0").unwrap();
    let gateway = Some("10.1.0.2".parse().unwrap());
    let net = "10.2.0.0/24".parse().unwrap();
    netlink.add_route(&Route { to: net, index, gateway, source: None, mtu: None }).unwrap();
    until(&mut [&mut client, &mut server], "never met", |ends| {
        let _ = ends[0].send(&a, to, b"hello");
        !ends[1].got.is_empty()
    });
}

fn tcp_an_address_of_its_own_is_dialled_from() {
    let (a, b) = cable();
    address(&a, "10.1.0.7/24");
    let mut client = End::new(&a, Some("10.1.0.7:9443"));
    let mut server = End::new(&b, Some("0.0.0.0:9443"));
    let to = "10.1.0.2:9443".parse().unwrap();
    a.run(|| client.handle.dial(to).unwrap()).unwrap();
    client.send(&a, to, b"hello").unwrap();
    until(&mut [&mut client, &mut server], "nothing came", |ends| !ends[1].got.is_empty());
    assert_eq!(server.got[0].0.ip().to_string(), "10.1.0.7");
}
