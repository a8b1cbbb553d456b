//! Peers on a local network that find each other, with real daemons and real sockets, and what outsiders there see and can do.
//!
//! Where namespaces cannot be made, the tests are reported as ignored with the reason; with `SHADOWMESH_REQUIRE_PRIVILEGED=1` they
//! fail instead.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "discovery/daemons.rs"]
mod daemons;
#[path = "lab/mod.rs"]
mod lab;
#[path = "discovery/outsiders.rs"]
mod outsiders;

use std::process::ExitCode;
use std::time::Duration;

use lab::{Host, Node, Scratch, Spec, WIRE, wait_for};
use serde_json::Value;

fn main() -> ExitCode {
    let tests = lab::tests![
        daemons::two_nodes_without_endpoints_find_each_other,
        daemons::nodes_with_link_local_addresses_alone_find_each_other,
        daemons::peers_that_speak_wireguard_with_a_preshared_key_find_each_other,
        daemons::the_local_network_is_preferred_and_given_up_when_it_goes_down,
        daemons::a_node_that_stops_says_goodbye,
        daemons::without_the_port_the_node_goes_on_and_says_so_once,
        daemons::a_node_that_is_not_to_be_found_is_silent,
        outsiders::a_forged_advertisement_costs_a_handshake_attempt_and_moves_no_traffic,
        outsiders::two_days_have_nothing_in_common_and_no_key_is_told,
    ];
    lab::main(vec![(tests, &[])], 3)
}

/// Finding takes a second of probing for the name (RFC 6762 §8.1), and a moment.
const FIND: Duration = Duration::from_secs(20);

const ON: &str = "[discovery]\nmdns = true\n";

/// What is found by a node: names of peers, and where they are.
fn found(node: &Node) -> Vec<(String, String)> {
    let status = node.status().0;
    let found = status["discovery"]["found"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    found.iter().map(|found| (text(&found["peer"]), text(&found["address"]))).collect()
}

/// Starts left and right, without endpoints, on two machines.
fn start_pair(hosts: [&Host; 2], scratch: &Scratch, change: impl Fn(&mut Spec)) -> [Node; 2] {
    let start = |(number, host): (u64, &Host)| {
        let mut spec = Spec::of_pair(number, None);
        change(&mut spec);
        Node::start(&spec, host, scratch)
    };
    [(1, hosts[0]), (2, hosts[1])].map(start)
}

#[track_caller]
fn wait_until_connected(nodes: &[&Node]) {
    for node in nodes {
        wait_for("a session", FIND, || node.status().connected().then_some(()));
    }
}

/// Two machines without addresses of ours on [`WIRE`].
fn bare_cable() -> (Host, Host) {
    let (left, right) = (Host::new(), Host::new());
    os::netns::veth_pair(&left.netns, WIRE, &right.netns, WIRE).unwrap();
    (left, right)
}
