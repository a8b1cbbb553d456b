//! What goes wrong, and how it recovers.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::world::Side::{Left, Right};
use crate::world::World;

crate::tests![
    a_killed_node_leaves_nothing_in_the_way_and_its_peer_finds_it_again,
    a_deleted_interface_ends_the_node_with_an_error,
    an_interface_that_goes_down_and_up_carries_packets_again,
    a_cable_that_is_pulled_and_plugged_in_carries_packets_again,
    a_peer_that_moves_to_another_address_is_followed,
    a_peer_is_found_by_its_host_name,
    a_node_without_descriptors_left_carries_packets_and_answers_again_later,
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
    let rounds = || world.status(Left)["workers"][0]["rounds"].as_u64().unwrap();
    let before = rounds();
    std::thread::sleep(Duration::from_millis(200));
    assert!(rounds() - before < 1_000, "a worker spins while its interface is down");
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

fn a_peer_is_found_by_its_host_name() {
    let world = World::new();
    // The one name that every machine knows without a name server is its own, so both nodes run on it.
    world.configure(Left, "", "endpoint = \"localhost:9444\"");
    world.configure(Right, "", "# no endpoint");
    let _right = world.start_in(Left, Right, &["--listen", "0.0.0.0:9444", "--tun-name", "shadow1"]);
    let _left = world.start(Left);
    world.connect(Left);
}

fn a_node_without_descriptors_left_carries_packets_and_answers_again_later() {
    let world = World::new();
    world.configure(Left, "", "");
    world.configure(Right, "", "");
    let left = world.start_with_descriptors(Left, 28);
    let _right = world.start(Right);
    world.connect(Left);
    let connect = || UnixStream::connect(world.run_dir().join("left.sock")).unwrap();
    let silent: Vec<_> = (0..40).map(|_| connect()).collect();
    left.logs("Too many open files");
    assert_eq!(world.exchange(Left, false, 10, 100), 10);
    drop(silent);
    world.connect(Left);
    assert_eq!(world.status(Left)["name"], "left");
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
