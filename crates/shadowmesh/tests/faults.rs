//! What goes wrong around two real daemons, and how soon they are well again: under load, with the time measured.
//!
//! `mesh.rs` has the plain cases. Here is what needs strangers, routers, captures or limits. Where namespaces cannot be
//! made, or a program is missing, the tests are reported as ignored with the reason; with
//! `SHADOWMESH_REQUIRE_PRIVILEGED=1` they fail instead.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "faults/flood.rs"]
mod flood;
#[path = "faults/icmp.rs"]
mod icmp;
#[path = "lab/mod.rs"]
mod lab;
#[path = "faults/narrow.rs"]
mod narrow;
#[path = "faults/odd_packets.rs"]
mod odd_packets;
#[path = "faults/pressure.rs"]
mod pressure;
#[path = "faults/recovery.rs"]
mod recovery;
#[path = "faults/sources.rs"]
mod sources;

use std::process::ExitCode;

use lab::{Host, Node, SOON, Scratch, Spec, Steady, cable, wait_for};

fn main() -> ExitCode {
    let plain = lab::tests![
        recovery::an_underlay_that_was_down_is_used_again_as_soon_as_it_is_up,
        recovery::an_address_that_changes_under_load_is_followed,
        recovery::a_peer_that_is_stopped_and_started_is_found_again,
        recovery::a_killed_peer_that_cannot_call_us_is_found_again,
        odd_packets::datagrams_of_every_size_arrive_whole,
        odd_packets::whatever_is_an_ip_packet_arrives_as_it_was,
        odd_packets::two_workers_share_the_flows,
        narrow::a_path_of_1280_bytes_that_says_so_carries_everything,
        narrow::ipv4_paths_of_576_and_1252_bytes_connect_and_carry_everything,
        icmp::forged_icmp_neither_stops_handshakes_nor_makes_packets_smaller,
        sources::answers_leave_with_the_address_that_was_called,
        flood::garbage_is_dropped_counted_and_never_answered,
    ];
    let with_limits = lab::tests![pressure::without_descriptors_the_data_plane_goes_on];
    let with_firewall = lab::tests![
        pressure::a_send_that_a_firewall_forbids_is_counted_and_later_sends_work,
        narrow::a_path_of_1280_bytes_that_says_nothing_carries_everything,
        narrow::connections_cross_paths_that_swallow_large_segments,
    ];
    let with_shaper = lab::tests![
        pressure::a_slow_underlay_pushes_back,
        pressure::a_tiny_underlay_queue_loses_packets_and_nothing_else,
    ];
    let with_tracer =
        lab::tests![pressure::a_kernel_out_of_buffers_delays_packets_and_they_go_on_by_themselves];
    lab::main(
        vec![
            (with_tracer, &["strace"]),
            (plain, &[]),
            (with_limits, &["prlimit"]),
            (with_firewall, &["nft"]),
            (with_shaper, &["tc"]),
        ],
        4,
    )
}

/// Two daemons on a cable, the left of which knows where the right one is.
struct Pair {
    left: Host,
    right: Host,
    specs: [Spec; 2],
    left_node: Node,
    right_node: Option<Node>,
    scratch: Scratch,
}

impl Pair {
    fn connected() -> Self {
        Self::connected_with(|_| {})
    }

    /// Starts both, after `change` has had its way with their configurations, and returns once there is a session.
    fn connected_with(change: impl Fn(&mut Spec)) -> Self {
        let (left, right) = cable();
        let mut specs = [Spec::of_pair(1, Some("192.0.2.2:9443")), Spec::of_pair(2, None)];
        specs.iter_mut().for_each(change);
        let scratch = Scratch::new();
        let right_node = Some(Node::start(&specs[1], &right, &scratch));
        let left_node = Node::start(&specs[0], &left, &scratch);
        let pair = Self { left, right, specs, left_node, right_node, scratch };
        pair.wait_until_connected();
        pair
    }

    fn wait_until_connected(&self) {
        for node in [&self.left_node, self.right_node()] {
            wait_for("a session", SOON, || node.status().connected().then_some(()));
        }
    }

    fn right_node(&self) -> &Node {
        self.right_node.as_ref().unwrap()
    }

    fn start_right(&mut self) {
        self.right_node = Some(Node::start(&self.specs[1], &self.right, &self.scratch));
    }

    /// Pings through the tunnel, one a millisecond, of which some have been answered already.
    fn steady(&self) -> Steady {
        let pace = std::time::Duration::from_millis(1);
        let steady = Steady::start(&self.left.netns, &self.right.netns, "10.77.0.2", pace);
        steady.wait_for_answers(20, SOON);
        steady
    }
}
