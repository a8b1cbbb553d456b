//! What loopback cannot show of UDP links: small MTUs, full queues.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use os::netlink::Route;
use os::netns::{Netns, veth_pair};
use os::udp::{UdpConfig, UdpLink, bind, path_mtu};
use packet::{Ecn, Link, Transmit};

crate::tests!(
    a_datagram_beyond_the_path_mtu_is_invalid_input_and_no_refusal_of_gso,
    a_router_with_a_smaller_mtu_is_heard_and_not_believed,
    a_full_socket_would_block,
    a_destination_without_a_route_is_unreachable,
    the_wildcard_works_where_ipv6_is_disabled,
);

/// A namespace whose only neighbour never answers.
fn lonely_host() -> (Netns, Netns) {
    let (here, there) = (Netns::new().unwrap(), Netns::new().unwrap());
    veth_pair(&here, "eth0", &there, "eth0").unwrap();
    let mut netlink = here.netlink().unwrap();
    let index = netlink.link_index("eth0").unwrap();
    netlink.add_address(index, "10.1.0.1/24".parse().unwrap()).unwrap();
    netlink.add_address(index, "fd01::1/64".parse().unwrap()).unwrap();
    (here, there)
}

fn link(namespace: &Netns, buffer_bytes: usize, offload: bool) -> UdpLink {
    let config = UdpConfig {
        listen: "0.0.0.0:0".parse().unwrap(),
        workers: 1,
        send_buffer_bytes: buffer_bytes,
        receive_buffer_bytes: buffer_bytes,
        offload,
    };
    namespace.run(|| bind(&config).unwrap().remove(0)).unwrap()
}

fn a_datagram_beyond_the_path_mtu_is_invalid_input_and_no_refusal_of_gso() {
    let (host, _far) = lonely_host();
    let mut link = link(&host, 4 << 20, true);
    let bytes = [0; 6000];
    for (to, headers) in [("10.1.0.2:9", 28), ("[fd01::2]:9", 48)] {
        let to = to.parse().unwrap();
        let mtu = host.run(|| path_mtu(to).unwrap()).unwrap() as usize;
        assert_eq!(mtu, 1500);
        let mut send = |segment_size, len| {
            link.send(&Transmit { to, ecn: Ecn::NotEct, segment_size, contents: &bytes[..len] })
        };
        assert_eq!(send(mtu - headers, mtu - headers).unwrap(), mtu - headers);
        assert_eq!(send(mtu - headers, 5000).unwrap(), 5000);
        for len in [mtu - headers + 1, 6000] {
            let error = send(mtu - headers + 1, len).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{to}, {len} bytes: {error}");
        }
        link.set_dont_fragment(false).unwrap();
        let transmit = Transmit { to, ecn: Ecn::NotEct, segment_size: 6000, contents: &bytes };
        assert_eq!(link.send(&transmit).unwrap(), 6000);
        link.set_dont_fragment(true).unwrap();
    }
    assert!(link.offloads().gso);
}

/// The router says what fits (RFC 1191, RFC 8201) and the kernel remembers it as a hint. What is sent is sent all the same: the
/// message might be forged.
fn a_router_with_a_smaller_mtu_is_heard_and_not_believed() {
    let [left, router, right] = [(); 3].map(|()| Netns::new().unwrap());
    veth_pair(&left, "eth0", &router, "eth0").unwrap();
    veth_pair(&router, "eth1", &right, "eth0").unwrap();
    for (host, name, addresses) in [
        (&left, "eth0", ["10.1.0.1/24", "fd01::1/64"]),
        (&router, "eth0", ["10.1.0.254/24", "fd01::fe/64"]),
        (&router, "eth1", ["10.2.0.254/24", "fd02::fe/64"]),
        (&right, "eth0", ["10.2.0.1/24", "fd02::1/64"]),
    ] {
        let mut netlink = host.netlink().unwrap();
        let index = netlink.link_index(name).unwrap();
        for address in addresses {
            netlink.add_address(index, address.parse().unwrap()).unwrap();
        }
        if name == "eth1" {
            netlink.set_mtu(index, 1400).unwrap();
        }
    }
    for (host, network) in [(&left, 1), (&right, 2)] {
        let mut netlink = host.netlink().unwrap();
        let index = netlink.link_index("eth0").unwrap();
        for (to, gateway) in
            [("0.0.0.0/0", format!("10.{network}.0.254")), ("::/0", format!("fd0{network}::fe"))]
        {
            let gateway = Some(gateway.parse().unwrap());
            netlink
                .add_route(&Route { to: to.parse().unwrap(), index, gateway, source: None, mtu: None })
                .unwrap();
        }
    }
    router.sysctl("net.ipv4.ip_forward", "1").unwrap();
    router.sysctl("net.ipv6.conf.all.forwarding", "1").unwrap();

    let mut link = link(&left, 1 << 20, true);
    for (to, headers) in [("10.2.0.1:9", 28), ("[fd02::1]:9", 48)] {
        let to = to.parse().unwrap();
        let mtu = || left.run(|| path_mtu(to).unwrap()).unwrap() as usize;
        let mut send = |bytes: usize| {
            link.send(&Transmit { to, ecn: Ecn::NotEct, segment_size: bytes, contents: &vec![0; 3 * bytes] })
        };
        assert_eq!(mtu(), 1500);
        send(1500 - headers).unwrap();
        // The router's answer takes as long as ARP takes.
        let deadline = Instant::now() + Duration::from_secs(10);
        while mtu() != 1400 {
            assert!(Instant::now() < deadline, "no path MTU was learnt to {to}");
            std::thread::yield_now();
        }
        assert_eq!(send(1500 - headers).unwrap(), 3 * (1500 - headers));
        assert_eq!(
            send(1501 - headers).unwrap_err().kind(),
            ErrorKind::InvalidInput,
            "the interface is another matter"
        );
        assert_eq!(send(1400 - headers).unwrap(), 3 * (1400 - headers));
    }
    assert!(link.offloads().gso);
}

fn a_full_socket_would_block() {
    // Nobody answers ARP there, so what is sent waits for the neighbour's address and fills the send buffer.
    let (host, _far) = lonely_host();
    for offload in [true, false] {
        let mut link = link(&host, 16 * 1024, offload);
        let bytes = [0; 12_000];
        let to = "10.1.0.2:9".parse().unwrap();
        let transmit = Transmit { to, ecn: Ecn::NotEct, segment_size: 1000, contents: &bytes };
        let mut taken = 0;
        let error = loop {
            match link.send(&transmit) {
                Ok(bytes) => taken += bytes,
                Err(error) => break error,
            }
            assert!(taken < 1 << 20, "a buffer of 16 KiB cannot hold that");
        };
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        assert!(taken > 0 && taken % 1000 == 0, "{taken}");
    }
}

fn a_destination_without_a_route_is_unreachable() {
    let (host, _far) = lonely_host();
    let mut link = link(&host, 1 << 20, true);
    for to in ["8.8.8.8:9", "[2001:db8::1]:9"] {
        let to = to.parse().unwrap();
        let transmit = Transmit { to, ecn: Ecn::NotEct, segment_size: 100, contents: &[0; 300] };
        assert_eq!(link.send(&transmit).unwrap_err().kind(), ErrorKind::NetworkUnreachable);
        assert!(host.run(|| path_mtu(to).is_err()).unwrap());
    }
    assert!(link.offloads().gso);
}

fn the_wildcard_works_where_ipv6_is_disabled() {
    let host = Netns::new().unwrap();
    host.sysctl("net.ipv6.conf.all.disable_ipv6", "1").unwrap();
    let mut a = link(&host, 1 << 20, true);
    let port = a.local_addr().unwrap().port();
    let to = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    assert_eq!(a.send(&Transmit { to, ecn: Ecn::Ect0, segment_size: 3, contents: b"abc" }).unwrap(), 3);
}
