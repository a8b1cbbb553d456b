//! Hosts that translate, route by policy, or forward.

use std::io::Read;
use std::net::{TcpListener, TcpStream};

use super::*;

/// A router between two hosts, without translation: 10.1.0.1 to .254, 10.2.0.254 to .1.
fn routed() -> [Netns; 3] {
    let [left, router, right] = [(); 3].map(|()| Netns::new().unwrap());
    veth_pair(&left, "eth0", &router, "in0").unwrap();
    veth_pair(&router, "out0", &right, "eth0").unwrap();
    address(&left, "eth0", "10.1.0.1/24");
    address(&router, "in0", "10.1.0.254/24");
    address(&router, "out0", "10.2.0.254/24");
    address(&right, "eth0", "10.2.0.1/24");
    route(&left, "eth0", "0.0.0.0/0", "10.1.0.254");
    route(&right, "eth0", "0.0.0.0/0", "10.2.0.254");
    router.sysctl("net.ipv4.ip_forward", "1").unwrap();
    [left, router, right]
}

pub(super) fn fake_tcp_works_behind_the_source_nat_of_its_own_host() {
    if is_missing("nft") {
        return;
    }
    let (a, b) = cable();
    let rules = "table inet own {
        chain post { type nat hook postrouting priority srcnat; oifname eth0 masquerade random; }
    }";
    run(&a, "nft", &[rules]);
    let (mut client, mut server) = (End::dialling(&a), End::listening(&b));
    for to in ["10.1.0.2:9443", "[fd01::2]:9443"] {
        exchange(&mut client, &mut server, to.parse().unwrap());
        let seen = server.from.unwrap().port();
        assert_eq!(seen, client.handle.dial_port(), "handshake and data are of one flow");
    }
}

pub(super) fn fake_tcp_answers_by_the_uplink_that_was_called() {
    if is_missing("ip") {
        return;
    }
    let [left, net, right] = [(); 3].map(|()| Netns::new().unwrap());
    veth_pair(&left, "eth0", &net, "left").unwrap();
    for (number, uplink) in [(2, "up0"), (3, "up1")] {
        veth_pair(&right, uplink, &net, uplink).unwrap();
        address(&right, uplink, &format!("10.{number}.0.1/24"));
        address(&net, uplink, &format!("10.{number}.0.254/24"));
    }
    address(&left, "eth0", "10.1.0.1/24");
    address(&net, "left", "10.1.0.254/24");
    route(&left, "eth0", "0.0.0.0/0", "10.1.0.254");
    route(&right, "up0", "0.0.0.0/0", "10.2.0.254");
    // Providers drop what comes from addresses that are not theirs.
    net.sysctl("net.ipv4.ip_forward", "1").unwrap();
    net.sysctl("net.ipv4.conf.all.rp_filter", "1").unwrap();
    run(&right, "ip", &["rule", "add", "from", "10.3.0.1", "table", "200"]);
    run(&right, "ip", &["route", "add", "default", "via", "10.3.0.254", "table", "200"]);
    let (mut client, mut server) = (End::dialling(&left), End::listening(&right));
    exchange(&mut client, &mut server, "10.3.0.1:9443".parse().unwrap());
}

pub(super) fn fake_tcp_on_a_router_leaves_other_peoples_connections_alone() {
    let [left, router, right] = routed();
    let mut end = End::listening(&router);
    // Somebody's server on the port that the router answers fake TCP on.
    let server: SocketAddr = "10.2.0.1:9443".parse().unwrap();
    let listener = right.run(move || TcpListener::bind(server).unwrap()).unwrap();
    let serving = std::thread::spawn(move || {
        std::io::Write::write_all(&mut listener.accept().unwrap().0, b"it is me").unwrap()
    });
    let connect = move |to: SocketAddr| TcpStream::connect_timeout(&to, Duration::from_secs(2));
    let ask = std::thread::spawn(move || {
        left.run(move || {
            let mut said = String::new();
            connect(server).unwrap().read_to_string(&mut said).unwrap();
            // Nobody has this address: nobody may answer for it.
            let nobody = connect("10.2.0.99:9443".parse().unwrap()).is_err();
            (said, nobody)
        })
        .unwrap()
    });
    until(&mut [&mut end], "the connection through the router", |_| ask.is_finished());
    assert_eq!(ask.join().unwrap(), ("it is me".to_owned(), true));
    serving.join().unwrap();
    let counts = end.handle.counts();
    assert_eq!(counts.syns_answered, 0, "{counts:?}");
    assert!(counts.elsewhere > 0, "{counts:?}");
}
