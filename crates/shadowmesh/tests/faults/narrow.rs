//! A path whose middle is narrower than both ends know.
//!
//! ```text
//!  left ─── 1,500 ─── west router ─── 1,280 ─── east router ─── 1,500 ─── right
//!  192.0.2.1                                                              198.51.100.2
//! ```

use std::time::Duration;

use os::netns::veth_pair;

use crate::lab::{self, Host, Node, SOON, Scratch, Spec, Steady, WIRE, output, wait_for};

const MIDDLE: &str = "middle0";
const NARROW: u32 = 1280;

struct Path {
    left: Host,
    right: Host,
    routers: [Host; 2],
}

impl Path {
    fn new() -> Self {
        let (left, right) = (Host::new(), Host::new());
        let [west, east] = [Host::new(), Host::new()];
        veth_pair(&left.netns, WIRE, &west.netns, WIRE).unwrap();
        veth_pair(&west.netns, MIDDLE, &east.netns, MIDDLE).unwrap();
        veth_pair(&east.netns, WIRE, &right.netns, WIRE).unwrap();
        for (host, device, address) in [
            (&left, WIRE, "192.0.2.1/24"),
            (&west, WIRE, "192.0.2.254/24"),
            (&west, MIDDLE, "203.0.113.1/24"),
            (&east, MIDDLE, "203.0.113.2/24"),
            (&east, WIRE, "198.51.100.254/24"),
            (&right, WIRE, "198.51.100.2/24"),
        ] {
            host.add_address(device, address);
        }
        for router in [&west, &east] {
            router.netns.sysctl("net.ipv4.ip_forward", "1").unwrap();
            router.set_mtu(MIDDLE, NARROW);
        }
        left.add_route("0.0.0.0/0", WIRE, "192.0.2.254");
        right.add_route("0.0.0.0/0", WIRE, "198.51.100.254");
        west.add_route("198.51.100.0/24", MIDDLE, "203.0.113.2");
        east.add_route("192.0.2.0/24", MIDDLE, "203.0.113.1");
        Self { left, right, routers: [west, east] }
    }
}

impl Path {
    /// Changes what the middle passes.
    fn set_middle(&self, mtu: u32) {
        for router in &self.routers {
            router.set_mtu(MIDDLE, mtu);
        }
    }
}

/// What fits 1,280 bytes outside, less the headers of IPv4, UDP, a sealed packet, its content byte and tag.
const FITS: u32 = NARROW - 20 - 8 - 16 - 1 - 16;

fn packet_max(node: &Node) -> u32 {
    node.status().count("packet_max") as u32
}

/// The handshake comes about although its first message is larger than the path; the device keeps its MTU, and
/// everything crosses all the same: streams cut to size, small packets of IPv6 in parts, and the rest once its sender has
/// been told. Later changes of the path are followed.
fn carries_everything(path: &Path) {
    let scratch = Scratch::new();
    let right = Node::start(&Spec::of_pair(2, None), &path.right, &scratch);
    let left = Node::start(&Spec::of_pair(1, Some("198.51.100.2:9443")), &path.left, &scratch);
    for node in [&left, &right] {
        wait_for("a session", SOON, || node.status().connected().then_some(()));
        assert_eq!(node.status().peer()["post_quantum"], true);
    }
    for (host, node) in [(&path.left, &left), (&path.right, &right)] {
        wait_for("the path's size", 4 * SOON, || (packet_max(node) == FITS).then_some(()));
        node.wait_for_log("the path is narrower than thought", SOON);
        assert!(host.mtu("shadow0") > 1_400, "the device is as wide as before");
    }
    for (from, to, addresses) in [
        (&path.left, &path.right, ["10.77.0.2", "fd77::2"]),
        (&path.right, &path.left, ["10.77.0.1", "fd77::1"]),
    ] {
        for address in addresses {
            lab::transfer(&from.netns, &to.netns, address, 10_000_000);
        }
    }
    for node in [&left, &right] {
        assert!(node.status().count("tx_recut") > 0);
        assert_eq!(node.status().dropped("too_big"), 0, "TCP is not told of anything");
    }
    assert_eq!(lab::ping_with(&path.left, "fd77::2", 100, 1_280 - 48), 100, "what every IPv6 link must pass");
    assert_eq!(left.status().dropped("too_big"), 0);
    for to in ["10.77.0.2", "fd77::2"] {
        // One is lost each way; from then on the kernels know, and cut into fragments themselves.
        assert!(lab::ping_with(&path.left, to, 50, 1_350) >= 40, "pings of 1,350 bytes to {to}");
        assert!(left.status().dropped("too_big") > 0);
    }

    // A new place may be on a better path: the search begins anew, and finds one.
    path.set_middle(1_500);
    path.left.add_address(WIRE, "192.0.2.3/24");
    path.left.del_address(WIRE, "192.0.2.1/24");
    let steady = Steady::start(&path.left.netns, &path.right.netns, "10.77.0.2", Duration::from_millis(10));
    wait_for("a larger size", 2 * SOON, || (packet_max(&right) > 1_400).then_some(()));

    // And a path that has been wide may become narrow while it is in use.
    path.set_middle(NARROW);
    wait_for("the smaller size", 2 * SOON, || (packet_max(&right) == FITS).then_some(()));
    assert!(steady.finish().answered > 0);
    lab::transfer(&path.right.netns, &path.left.netns, "10.77.0.1", 10_000_000);
}

pub(crate) fn a_path_of_1280_bytes_that_says_so_carries_everything() {
    carries_everything(&Path::new());
}

/// A black hole for path MTU discovery (RFC 2923): too large packets vanish without a word.
pub(crate) fn a_path_of_1280_bytes_that_says_nothing_carries_everything() {
    let path = Path::new();
    path.make_silent();
    carries_everything(&path);
}

/// The kernel's TCP sends the same large segment again and again; nobody tells it that the path is narrow.
pub(crate) fn connections_cross_paths_that_swallow_large_segments() {
    for mtu in [NARROW, 576] {
        let path = Path::new();
        path.make_silent();
        path.set_middle(mtu);
        let scratch = Scratch::new();
        let mut specs = [Spec::of_pair(1, Some("198.51.100.2:9443")), Spec::of_pair(2, None)];
        for spec in &mut specs {
            spec.peers[0].carriers = &["tcp"];
        }
        let right = Node::start(&specs[1], &path.right, &scratch);
        let left = Node::start(&specs[0], &path.left, &scratch);
        for node in [&left, &right] {
            wait_for("a session", 2 * SOON, || node.status().connected().then_some(()));
        }
        // Both ways: who listens keeps to the size that the caller has announced.
        lab::transfer(&path.left.netns, &path.right.netns, "10.77.0.2", 1_000_000);
        lab::transfer(&path.right.netns, &path.left.netns, "10.77.0.1", 1_000_000);
    }
}

impl Path {
    /// Routers say nothing of what they drop.
    fn make_silent(&self) {
        for router in &self.routers {
            let rules = "add table ip quiet; add chain ip quiet out { type filter hook output priority 0; }; \
                     add rule ip quiet out icmp type destination-unreachable drop";
            output(router.netns.command("nft").arg(rules));
        }
    }
}

/// The handshake crosses in IP fragments, and data in parts: routers fragment what may be (RFC 791 §3.2).
pub(crate) fn ipv4_paths_of_576_and_1252_bytes_connect_and_carry_everything() {
    for mtu in [576, 1_252] {
        let path = Path::new();
        path.set_middle(mtu);
        let scratch = Scratch::new();
        let right = Node::start(&Spec::of_pair(2, None), &path.right, &scratch);
        let left = Node::start(&Spec::of_pair(1, Some("198.51.100.2:9443")), &path.left, &scratch);
        for node in [&left, &right] {
            wait_for("a session", SOON, || node.status().connected().then_some(()));
            wait_for("the path's size", 4 * SOON, || (packet_max(node) + 28 + 33 <= mtu).then_some(()));
        }
        lab::transfer(&path.left.netns, &path.right.netns, "10.77.0.2", 1_000_000);
        assert_eq!(lab::ping_with(&path.left, "fd77::2", 20, 1_280 - 48), 20, "IPv6 in parts");
    }
}
