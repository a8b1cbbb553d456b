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
    /// Makes the middle as wide as the rest.
    fn widen(&self) {
        for router in &self.routers {
            router.set_mtu(MIDDLE, 1500);
        }
    }
}

/// The handshake comes about although its first message is larger than the path, the MTU is lowered, and streams
/// arrive whole in both directions.
fn carries_everything(path: &Path) {
    let scratch = Scratch::new();
    let has_ipv6 = || {
        let addresses = path.right.netns.netlink().unwrap().addresses().unwrap();
        addresses.iter().any(|address| address.net.to_string() == "fd77::2/64")
    };
    let right = Node::start(&Spec::of_pair(2, None), &path.right, &scratch);
    let left = Node::start(&Spec::of_pair(1, Some("198.51.100.2:9443")), &path.left, &scratch);
    for node in [&left, &right] {
        wait_for("a session", SOON, || node.status().connected().then_some(()));
        assert_eq!(node.status().peer()["post_quantum"], true);
    }
    // What fits 1,280 bytes outside, less the headers of IPv4, UDP, a sealed packet, its content byte and tag.
    let fits = NARROW - 20 - 8 - 16 - 1 - 16;
    for (host, node) in [(&path.left, &left), (&path.right, &right)] {
        let lowered = || (host.mtu("shadow0") <= fits).then_some(());
        wait_for("a smaller MTU", 4 * SOON, lowered);
        assert!(host.mtu("shadow0") > fits - 40, "not smaller than needed");
        node.wait_for_log("the path is narrower than thought", SOON);
    }
    for (from, to, address) in
        [(&path.left, &path.right, "10.77.0.2"), (&path.right, &path.left, "10.77.0.1")]
    {
        lab::transfer(&from.netns, &to.netns, address, 10_000_000);
    }
    assert!(!has_ipv6());

    // A new place may be on a better path: the search begins anew, and finds one.
    path.widen();
    let mtu = path.right.mtu("shadow0");
    path.left.add_address(WIRE, "192.0.2.3/24");
    path.left.del_address(WIRE, "192.0.2.1/24");
    let steady = Steady::start(&path.left.netns, &path.right.netns, "10.77.0.2", Duration::from_millis(10));
    wait_for("a larger MTU", 2 * SOON, || (path.right.mtu("shadow0") > mtu + 100).then_some(()));
    wait_for("IPv6", SOON, || has_ipv6().then_some(()));
    assert!(steady.finish().answered > 0);
}

pub(crate) fn a_path_of_1280_bytes_that_says_so_carries_everything() {
    carries_everything(&Path::new());
}

/// A black hole for path MTU discovery (RFC 2923): too large packets vanish without a word.
pub(crate) fn a_path_of_1280_bytes_that_says_nothing_carries_everything() {
    let path = Path::new();
    for router in &path.routers {
        let rules = "add table ip quiet; add chain ip quiet out { type filter hook output priority 0; }; \
                     add rule ip quiet out icmp type destination-unreachable drop";
        output(router.netns.command("nft").arg(rules));
    }
    carries_everything(&path);
}
