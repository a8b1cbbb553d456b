//! Daemons that find each other.

use std::net::UdpSocket;
use std::time::Duration;

use os::netns::veth_pair;

use crate::lab::{Capture, Host, Node, SOON, Scratch, Spec, Steady, WIRE, cable, ping, wait_for};
use crate::{FIND, ON, bare_cable, found, start_pair, wait_until_connected};

pub(crate) fn two_nodes_without_endpoints_find_each_other() {
    let ((left, right), scratch) = (cable(), Scratch::new());
    let nodes = start_pair([&left, &right], &scratch, |_| {});
    wait_until_connected(&[&nodes[0], &nodes[1]]);
    assert_eq!(ping(&left, "10.77.0.2", 20), 20);
    assert_eq!(ping(&right, "10.77.0.1", 20), 20);
    nodes[0].wait_for_log("right: found on the local network at 192.0.2.2:9443", SOON);
    let status = nodes[0].status().0;
    assert_eq!(status["discovery"]["enabled"], true);
    assert_eq!(found(&nodes[0]), [("right".into(), "192.0.2.2:9443".into())]);
    // A peer may have found it before it has told everybody.
    wait_for("its advertisement stands", SOON, || {
        (nodes[0].status().0["discovery"]["instances"] == 1).then_some(())
    });
}

pub(crate) fn nodes_with_link_local_addresses_alone_find_each_other() {
    let ((left, right), scratch) = (bare_cable(), Scratch::new());
    let nodes = start_pair([&left, &right], &scratch, |_| {});
    wait_until_connected(&[&nodes[0], &nodes[1]]);
    assert_eq!(ping(&left, "10.77.0.2", 20), 20);
    let at = wait_for("right is found", FIND, || found(&nodes[0]).pop()).1;
    assert!(at.starts_with("[fe80::"), "{at}");
}

pub(crate) fn peers_that_speak_wireguard_with_a_preshared_key_find_each_other() {
    let ((left, right), scratch) = (cable(), Scratch::new());
    let nodes = start_pair([&left, &right], &scratch, |spec| {
        spec.peers[0].protocol = "wireguard";
        spec.peers[0].preshared_key = Some("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".into());
    });
    wait_until_connected(&[&nodes[0], &nodes[1]]);
    assert_eq!(ping(&left, "10.77.0.2", 20), 20);
}

/// Two machines on a cable, which also reach each other through a router: `198.51.100.1` and `203.0.113.1` on `wan0`.
fn lan_and_wan() -> (Host, Host, Host) {
    let ((left, right), router) = (cable(), Host::new());
    for (host, side, net) in [(&left, "left0", "198.51.100"), (&right, "right0", "203.0.113")] {
        veth_pair(&host.netns, "wan0", &router.netns, side).unwrap();
        host.add_address("wan0", &format!("{net}.1/24"));
        router.add_address(side, &format!("{net}.254/24"));
        host.add_route("0.0.0.0/0", "wan0", &format!("{net}.254"));
    }
    router.netns.sysctl("net.ipv4.ip_forward", "1").unwrap();
    (left, right, router)
}

pub(crate) fn the_local_network_is_preferred_and_given_up_when_it_goes_down() {
    let ((left, right, _router), scratch) = (lan_and_wan(), Scratch::new());
    left.set_up(WIRE, false);
    let wan = ["203.0.113.1:9443", "198.51.100.1:9443"];
    let start = |number: u64, host: &Host| {
        let mut spec = Spec::of_pair(number, Some(wan[number as usize - 1]));
        spec.sections = ON.into();
        Node::start(&spec, host, &scratch)
    };
    let nodes = [start(1, &left), start(2, &right)];
    wait_until_connected(&[&nodes[0], &nodes[1]]);
    let endpoint_is = |node: &Node, wanted: &dyn Fn(&str) -> bool, what: &str| {
        wait_for(what, FIND, || node.status().endpoint().filter(|endpoint| wanted(endpoint)));
    };
    let both = |wanted: &dyn Fn(&str) -> bool, what: &str| {
        for node in &nodes {
            endpoint_is(node, wanted, what);
        }
    };
    both(&|endpoint| wan.contains(&endpoint), "there is only the WAN");
    let steady = Steady::start(&left.netns, &right.netns, "10.77.0.2", Duration::from_millis(2));
    steady.wait_for_answers(20, SOON);

    left.set_up(WIRE, true);
    left.add_address(WIRE, "192.0.2.11/24");
    both(&|endpoint| !wan.contains(&endpoint), "the LAN is preferred");
    steady.wait_for_answers(50, SOON);

    left.set_up(WIRE, false);
    both(&|endpoint| wan.contains(&endpoint), "back to the WAN");
    steady.wait_for_answers(50, SOON);

    left.set_up(WIRE, true);
    both(&|endpoint| !wan.contains(&endpoint), "the LAN is there again");
    steady.wait_for_answers(50, SOON);
    assert_eq!(steady.finish().twice, 0);
}

pub(crate) fn a_node_that_stops_says_goodbye() {
    let ((left, right), scratch) = (cable(), Scratch::new());
    let [left_node, right_node] = start_pair([&left, &right], &scratch, |_| {});
    wait_for("right is found", FIND, || (!found(&left_node).is_empty()).then_some(()));
    right_node.stop();
    // A goodbye is obeyed after one second (RFC 6762 §10.1), a record that is not renewed after two minutes.
    wait_for("right is gone", SOON, || found(&left_node).is_empty().then_some(()));
    left_node.wait_for_log("right: no longer on the local network at 192.0.2.2:9443", SOON);
}

pub(crate) fn without_the_port_the_node_goes_on_and_says_so_once() {
    let ((left, right), scratch) = (cable(), Scratch::new());
    // A program that shares the port with nobody.
    let _taken = left.netns.run(|| UdpSocket::bind("0.0.0.0:5353").unwrap()).unwrap();
    let mut spec = Spec::of_pair(1, Some("192.0.2.2:9443"));
    spec.sections = ON.into();
    let right_node = Node::start(&Spec::of_pair(2, None), &right, &scratch);
    let left_node = Node::start(&spec, &left, &scratch);
    wait_until_connected(&[&left_node, &right_node]);
    let warning = "peers on the local network are not found: UDP port 5353 is in use";
    left_node.wait_for_log(warning, SOON);
    let error = left_node.status().0["discovery"]["error"].as_str().unwrap().to_owned();
    assert!(error.starts_with("UDP port 5353 is in use"), "{error}");
    assert_eq!(ping(&left, "10.77.0.2", 20), 20);
    assert_eq!(left_node.log().iter().filter(|line| line.contains(warning)).count(), 1);
}

pub(crate) fn a_node_that_is_not_to_be_found_is_silent() {
    let ((left, right), scratch) = (cable(), Scratch::new());
    let capture = Capture::start(&right.netns, is_mdns);
    // One that has an endpoint for everybody, and one that was told.
    let with_endpoint = Spec::of_pair(1, Some("192.0.2.2:9443"));
    let mut told = Spec::of_pair(2, None);
    told.sections = "[discovery]\nmdns = false\n".into();
    let nodes = [Node::start(&told, &right, &scratch), Node::start(&with_endpoint, &left, &scratch)];
    wait_until_connected(&[&nodes[0], &nodes[1]]);
    assert_eq!(ping(&left, "10.77.0.2", 100), 100);
    assert_eq!(nodes[0].status().0["discovery"]["enabled"], false);
    assert_eq!(nodes[1].status().0["discovery"]["enabled"], false);
    assert!(capture.packets().is_empty());
}

/// Whether an IP packet is one of Multicast DNS.
pub(crate) fn is_mdns(packet: &[u8]) -> bool {
    packet::Ip::parse(packet).is_ok_and(|ip| {
        let ports = packet.get(ip.header_len..ip.header_len + 4);
        ip.protocol == 17 && ports.is_some_and(|ports| ports[2..] == 5353_u16.to_be_bytes())
    })
}
