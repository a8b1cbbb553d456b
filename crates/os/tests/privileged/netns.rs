//! Namespaces and netlink.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use os::netlink::{Changes, Netlink, Route, Watch};
use os::netns::{Netns, enter_user_namespace, privileged, veth_pair};

crate::tests!(
    a_new_namespace_has_loopback_only_and_the_caller_stays_where_it_was,
    a_cable_joins_two_namespaces,
    a_bridge_joins_three_namespaces,
    a_command_and_a_sysctl_run_inside,
    a_panic_inside_goes_on_outside,
    addresses_and_routes_come_and_go,
    refusals_say_what_was_tried,
    route_lookups_tell_interface_source_gateway_and_mtu,
    changes_of_links_addresses_and_routes_are_reported,
    an_ordinary_user_gets_by_with_a_user_namespace,
);

fn names(netlink: &mut Netlink) -> Vec<String> {
    netlink.links().unwrap().into_iter().map(|link| link.name).collect()
}

/// A namespace with one interface of that address, and the far end of its cable.
fn host(address: &str) -> (Netns, Netns) {
    let (here, there) = (Netns::new().unwrap(), Netns::new().unwrap());
    veth_pair(&here, "eth0", &there, "eth0").unwrap();
    give_address(&here, "eth0", address);
    (here, there)
}

fn give_address(namespace: &Netns, name: &str, address: &str) {
    let mut netlink = namespace.netlink().unwrap();
    let index = netlink.link_index(name).unwrap();
    netlink.add_address(index, address.parse().unwrap()).unwrap();
}

fn a_new_namespace_has_loopback_only_and_the_caller_stays_where_it_was() {
    let before = names(&mut Netlink::open().unwrap());
    let namespace = Netns::new().unwrap();
    let links = namespace.netlink().unwrap().links().unwrap();
    assert_eq!(links.len(), 1);
    assert!(links[0].loopback && links[0].up && links[0].running);
    namespace.run(|| assert!(UdpSocket::bind("127.0.0.1:0").is_ok())).unwrap();
    assert_eq!(names(&mut Netlink::open().unwrap()), before);
}

fn a_cable_joins_two_namespaces() {
    let (a, b) = host("10.1.0.1/24");
    give_address(&b, "eth0", "10.1.0.2/24");
    let links = a.netlink().unwrap().links().unwrap();
    let cable = links.iter().find(|link| link.name == "eth0").unwrap();
    assert!(cable.up && cable.mac.is_some() && cable.mtu == 1500 && !cable.loopback);

    let listener = b.run(|| TcpListener::bind("10.1.0.2:80").unwrap()).unwrap();
    let mut client = a.run(|| TcpStream::connect("10.1.0.2:80").unwrap()).unwrap();
    let (mut server, peer) = listener.accept().unwrap();
    assert_eq!(peer.ip(), IpAddr::from([10, 1, 0, 1]));
    client.write_all(b"hello").unwrap();
    let mut buf = [0; 5];
    server.read_exact(&mut buf).unwrap();
    assert_eq!(&buf, b"hello");
}

fn a_bridge_joins_three_namespaces() {
    let hosts: Vec<Netns> = (0..3).map(|_| Netns::new().unwrap()).collect();
    let _hub = Netns::bridge(&[(&hosts[0], "eth0"), (&hosts[1], "eth0"), (&hosts[2], "lan0")]).unwrap();
    for (number, (host, name)) in hosts.iter().zip(["eth0", "eth0", "lan0"]).enumerate() {
        give_address(host, name, &format!("10.1.0.{}/24", number + 1));
    }
    let sockets: Vec<UdpSocket> =
        hosts.iter().map(|host| host.run(|| UdpSocket::bind("0.0.0.0:7").unwrap()).unwrap()).collect();
    for (from, to) in [(0, 1), (0, 2), (1, 2), (2, 0)] {
        sockets[from].send_to(&[from as u8], format!("10.1.0.{}:7", to + 1)).unwrap();
        let mut buf = [0; 8];
        sockets[to].set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        let (len, peer) = sockets[to].recv_from(&mut buf).unwrap();
        assert_eq!((&buf[..len], peer.ip()), (&[from as u8][..], IpAddr::from([10, 1, 0, from as u8 + 1])));
    }
}

fn a_command_and_a_sysctl_run_inside() {
    let (a, _b) = host("10.1.0.1/24");
    let output = a.command("cat").arg("/proc/self/net/dev").output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("eth0:"));
    a.sysctl("net.ipv4.conf.eth0.forwarding", "1").unwrap();
    let output = a.command("cat").arg("/proc/sys/net/ipv4/conf/eth0/forwarding").output().unwrap();
    assert_eq!(output.stdout, b"1\n");
    assert_eq!(a.sysctl("net.ipv4.no_such_thing", "1").unwrap_err().kind(), ErrorKind::NotFound);
}

fn a_panic_inside_goes_on_outside() {
    let namespace = Netns::new().unwrap();
    // A panic that prints nothing.
    let work = || std::panic::resume_unwind(Box::new(7_u8));
    let result = std::panic::catch_unwind(|| namespace.run(work));
    assert_eq!(*result.unwrap_err().downcast::<u8>().unwrap(), 7);
}

fn addresses_and_routes_come_and_go() {
    let (a, _b) = host("10.1.0.1/24");
    let mut netlink = a.netlink().unwrap();
    let index = netlink.link_index("eth0").unwrap();
    let has = |netlink: &mut Netlink, net: &str| {
        let net = net.parse().unwrap();
        netlink.addresses().unwrap().iter().any(|address| address.index == index && address.net == net)
    };
    assert!(has(&mut netlink, "10.1.0.1/24"));
    netlink.add_address(index, "fd01::1/64".parse().unwrap()).unwrap();
    assert!(has(&mut netlink, "fd01::1/64"));
    // Can be bound at once, without waiting for duplicate address detection.
    a.run(|| assert!(UdpSocket::bind("[fd01::1]:0").is_ok())).unwrap();

    for (to, gateway) in [
        ("10.2.0.0/16", None),
        ("10.3.0.0/16", Some("10.1.0.9")),
        ("fd02::/48", Some("fd01::9")),
        ("0.0.0.0/0", None),
    ] {
        let gateway = gateway.map(|gateway| gateway.parse().unwrap());
        let mtu = Some(1400);
        let route = Route { to: to.parse().unwrap(), index, gateway, source: None, mtu };
        netlink.add_route(&route).unwrap();
        assert!(netlink.routes().unwrap().contains(&route), "{to}");
        assert_eq!(netlink.add_route(&route).unwrap_err().kind(), ErrorKind::AlreadyExists);
        netlink.del_route(&route).unwrap();
        assert!(!netlink.routes().unwrap().iter().any(|found| found.to == route.to), "{to}");
        assert_eq!(netlink.del_route(&route).unwrap_err().kind(), ErrorKind::NotFound);
    }

    netlink.del_address(index, "10.1.0.1/24".parse().unwrap()).unwrap();
    assert!(!has(&mut netlink, "10.1.0.1/24"));
    netlink.delete_link(index).unwrap();
    assert_eq!(netlink.link("eth0").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(netlink.link_by_index(index).unwrap_err().kind(), ErrorKind::NotFound);
}

fn refusals_say_what_was_tried() {
    let (a, _b) = host("10.1.0.1/24");
    let mut netlink = a.netlink().unwrap();
    let index = netlink.link_index("eth0").unwrap();
    let error = netlink.add_address(index, "10.1.0.1/24".parse().unwrap()).unwrap_err();
    assert!(error.to_string().starts_with("cannot add address 10.1.0.1/24 to link number"), "{error}");
    // The kernel's own words, which say more than EINVAL.
    let error = netlink.set_mtu(index, 10).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.kernel.as_deref().is_some_and(|text| text.contains("mtu")), "{error}");
    // The conversation goes on after a refusal.
    assert_eq!(netlink.link_by_index(index).unwrap().mtu, 1500);
}

fn route_lookups_tell_interface_source_gateway_and_mtu() {
    let (a, _b) = host("10.1.0.1/24");
    let mut netlink = a.netlink().unwrap();
    let index = netlink.link_index("eth0").unwrap();
    let gateway = IpAddr::from([10, 1, 0, 9]);
    let route = Route {
        to: "10.2.0.0/16".parse().unwrap(),
        index,
        gateway: Some(gateway),
        source: None,
        mtu: Some(1300),
    };
    netlink.add_route(&route).unwrap();

    let found = netlink.lookup(IpAddr::from([10, 2, 0, 7])).unwrap();
    assert_eq!(
        (found.index, found.gateway, found.mtu, found.local),
        (index, Some(gateway), Some(1300), false)
    );
    assert_eq!(found.source, Some(IpAddr::from([10, 1, 0, 1])));
    assert!(netlink.lookup(IpAddr::from([10, 1, 0, 1])).unwrap().local);
    assert_eq!(netlink.lookup(IpAddr::from([8, 8, 8, 8])).unwrap_err().kind(), ErrorKind::NetworkUnreachable);
    let mtu = a.run(|| os::udp::path_mtu("10.2.0.7:9".parse().unwrap()).unwrap()).unwrap();
    assert_eq!(mtu, 1300);
}

fn changes_of_links_addresses_and_routes_are_reported() {
    let (a, _b) = host("10.1.0.1/24");
    let mut watch = a.run(|| Watch::open().unwrap()).unwrap();
    let mut netlink = a.netlink().unwrap();
    let index = netlink.link_index("eth0").unwrap();
    assert!(!watch.drain().unwrap().any());

    netlink.set_mtu(index, 1400).unwrap();
    assert!(watch.drain().unwrap().links);
    let route = Route { to: "10.2.0.0/16".parse().unwrap(), index, gateway: None, source: None, mtu: None };
    netlink.add_route(&route).unwrap();
    assert_eq!(watch.drain().unwrap(), Changes { routes: true, ..Changes::default() });
    netlink.del_address(index, "10.1.0.1/24".parse().unwrap()).unwrap();
    assert!(watch.drain().unwrap().addresses);
    assert!(!watch.drain().unwrap().any());
}

const CHILD: &str = "OS_TEST_UNPRIVILEGED_CHILD";

/// What the test below runs as an ordinary user, in a process of its own.
pub(crate) fn unprivileged_child() -> Option<ExitCode> {
    std::env::var_os(CHILD)?;
    let result = enter_user_namespace().map_err(|error| error.to_string()).and_then(|()| privileged());
    let ok = result.is_ok();
    let _ = writeln!(std::io::stdout(), "{}", result.err().unwrap_or_default());
    Some(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn an_ordinary_user_gets_by_with_a_user_namespace() {
    // The open file is executed, so the directories above it need not be open to that user.
    let mut command = Command::new("/proc/self/exe");
    command.env(CHILD, "1").stdout(Stdio::piped()).uid(65_534).gid(65_534);
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    // Where the system forbids it, the error says how to allow it.
    assert!(output.status.success() || text.contains("run as root"), "{text}");
}
