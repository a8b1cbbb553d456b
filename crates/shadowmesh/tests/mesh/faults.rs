//! What goes wrong, and how it recovers.

use std::time::{Duration, Instant};

use crate::world::Side::{Left, Right};
use crate::world::World;

crate::tests![
    a_killed_node_leaves_nothing_in_the_way_and_its_peer_finds_it_again,
    a_deleted_interface_ends_the_node_with_an_error,
    an_interface_that_goes_down_and_up_carries_packets_again,
    a_cable_that_is_pulled_and_plugged_in_carries_packets_again,
    a_peer_that_moves_to_another_address_is_followed,
    a_name_that_cannot_be_looked_up_does_not_keep_a_node_from_starting_or_stopping,
];

fn running_pair() -> (World, crate::world::Daemon, crate::world::Daemon) {
    let world = World::new();
    world.configure(Left, "", "");
    world.configure(Right, "", "");
    let (left, right) = (world.start(Left), world.start(Right));
    world.connect(Left);
    (world, left, right)
}

fn a_killed_node_leaves_nothing_in_the_way_and_its_peer_finds_it_again() {
    let (world, _left, mut right) = running_pair();
    assert_eq!(world.exchange(Left, false, 5, 100), 5);
    right.child.kill().unwrap();
    right.wait();
    assert!(!world.has_interface(Right, "shadow0"), "the kernel removes it with the process");
    assert_eq!(world.sockets(), ["left.sock", "right.sock"], "the file stays");
    let _again = world.start(Right);
    world.connect(Right);
    assert_eq!(world.exchange(Left, false, 5, 100), 5);
    assert_eq!(world.exchange(Right, false, 5, 100), 5);
}

fn a_deleted_interface_ends_the_node_with_an_error() {
    let (world, mut left, _right) = running_pair();
    let mut netlink = world.namespace(Left).netlink().unwrap();
    let index = netlink.link_index("shadow0").unwrap();
    netlink.delete_link(index).unwrap();
    let (code, took) = left.wait();
    assert_eq!(code, Some(1), "so that systemd starts it again");
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(left.log().ends_with("sm-worker-0: the TUN device is gone\n"), "{}", left.log());
    assert_eq!(world.sockets(), ["right.sock"]);
}

fn an_interface_that_goes_down_and_up_carries_packets_again() {
    let (world, _left, _right) = running_pair();
    let mut netlink = world.namespace(Left).netlink().unwrap();
    let index = netlink.link_index("shadow0").unwrap();
    netlink.set_up(index, false).unwrap();
    netlink.set_up(index, true).unwrap();
    assert_eq!(world.exchange(Left, false, 10, 100), 10);
    assert_eq!(world.exchange(Right, false, 10, 100), 10);
}

fn a_cable_that_is_pulled_and_plugged_in_carries_packets_again() {
    let (world, _left, _right) = running_pair();
    let mut netlink = world.namespace(Left).netlink().unwrap();
    let index = netlink.link_index("eth0").unwrap();
    netlink.set_up(index, false).unwrap();
    let output = world.run(Left, &["ping", "right", "--node", "left", "-n", "1", "-W", "0.2"]);
    assert_eq!(output.status.code(), Some(1));
    netlink.set_up(index, true).unwrap();
    world.connect(Left);
    assert_eq!(world.exchange(Left, false, 10, 100), 10);
}

fn a_peer_that_moves_to_another_address_is_followed() {
    let (world, left, _right) = running_pair();
    let mut netlink = world.namespace(Right).netlink().unwrap();
    let index = netlink.link_index("eth0").unwrap();
    netlink.del_address(index, "192.0.2.2/24".parse().unwrap()).unwrap();
    netlink.add_address(index, "192.0.2.77/24".parse().unwrap()).unwrap();
    world.connect(Right);
    left.logs("right: moved to 192.0.2.77:9443");
    assert_eq!(world.exchange(Left, false, 10, 100), 10);
}

fn a_name_that_cannot_be_looked_up_does_not_keep_a_node_from_starting_or_stopping() {
    let world = World::new();
    world.configure(Left, "", "endpoint = \"nowhere.invalid:9443\"");
    let start = Instant::now();
    let mut left = world.start(Left);
    assert!(start.elapsed() < Duration::from_secs(5));
    left.signal("TERM");
    let (code, took) = left.wait();
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(1), "{took:?}");
}
