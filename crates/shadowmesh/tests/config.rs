//! Every mistake in a configuration, and the words a person gets for it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/mod.rs"]
mod support;

use std::fs;
use std::path::Path;

use support::{PRIVATE_KEY, PUBLIC_KEY, Scratch, run, set_mode, stderr, stdout};

const NODE: &str = "[node]\nprivate_key_file = \"node.key\"\n";
const TUN: &str = "[tun]\nname = \"shadow0\"\naddress = [\"10.77.0.1/24\"]\n";
const RIGHT_KEY: &str = "CcwLkc1L2k1SSjXNnRffX2Wd1e0G1H4S3s8C+fN2Akg=";
const OTHER_KEY: &str = "2f4YmhjVYIdZT+zqLrLODzV6nf9SZXVH4NWej55voyU=";

fn peer(name: &str, key: &str, rest: &str) -> String {
    format!("[[peer]]\nname = \"{name}\"\npublic_key = \"{key}\"\n{rest}\n")
}

fn right() -> String {
    peer("right", RIGHT_KEY, "allowed_ips = [\"10.77.0.2/32\"]")
}

fn scratch_with_key() -> Scratch {
    let scratch = Scratch::new();
    scratch.write("node.key", &format!("{PRIVATE_KEY}\n"));
    scratch
}

/// Checks a configuration called `left.toml` and returns the exit code and what went to stderr.
fn check(scratch: &Scratch, text: &str) -> (Option<i32>, String) {
    scratch.write("left.toml", text);
    let output = run(&scratch.path, &["check", "-c", "left.toml"]);
    (output.status.code(), stderr(&output))
}

/// Every mistake gives exit code 2 and this message, of which the first line always says where.
#[track_caller]
fn refused(text: &str, expected: &str) {
    let (code, message) = check(&scratch_with_key(), text);
    assert_eq!(message.trim_end(), expected);
    assert_eq!(code, Some(2));
}

#[track_caller]
fn refused_first_line(text: &str, expected: &str) {
    let (code, message) = check(&scratch_with_key(), text);
    assert_eq!(message.lines().next(), Some(expected), "{message}");
    assert_eq!(code, Some(2));
}

#[test]
fn a_valid_file_is_summed_up() {
    let scratch = scratch_with_key();
    scratch.write("left.toml", &format!("{NODE}{TUN}{}", right()));
    let output = run(&scratch.path, &["check", "-c", "left.toml"]);
    assert_eq!(stderr(&output), "");
    assert_eq!(
        stdout(&output),
        format!(
            "left.toml is valid.

  node        left
  public key  {PUBLIC_KEY}
  listen      UDP 0.0.0.0:9443
  workers     from the cores
  interface   shadow0, 10.77.0.1/24, MTU from the path
  peer        right
    key       {RIGHT_KEY}
    protocol  shadowmesh, post-quantum
    endpoint  it calls us
    addresses 10.77.0.2/32
  discovery   on the local network, by Multicast DNS, since a peer has no endpoint
"
        )
    );
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn the_example_is_valid_as_it_is_and_with_every_setting_uncommented() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shadowmesh.example.toml");
    let example = fs::read_to_string(example).unwrap();
    let scratch = scratch_with_key();
    scratch.write("right.psk", &format!("{PRIVATE_KEY}\n"));
    scratch.write("socks5.password", "s3cret\n");
    scratch.write("faketcp.secret", &format!("{PRIVATE_KEY}\n"));
    assert_eq!(check(&scratch, &example), (Some(0), String::new()));

    let is_setting = |rest: &str| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[');
    let settings = example.lines().filter(|line| line.strip_prefix('#').is_some_and(is_setting));
    assert_eq!(settings.count(), 41, "a setting that was added must be uncommented by this test too");
    let uncommented: Vec<_> = example
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if is_setting(rest) => rest,
            _ => line,
        })
        .collect();
    assert_eq!(check(&scratch, &uncommented.join("\n")), (Some(0), String::new()));
}

#[test]
fn carriers_are_summed_up_with_where_they_listen() {
    let scratch = scratch_with_key();
    let right = peer(
        "right",
        RIGHT_KEY,
        "allowed_ips = [\"10.77.0.2/32\"]\nendpoint = \"192.0.2.2:443\"\ncarriers = [\"udp\", \"faketcp\", \"tcp\"]",
    );
    scratch.write("left.toml", &format!("{NODE}{TUN}{right}[faketcp]\nlisten = \"0.0.0.0:443\"\n"));
    let output = run(&scratch.path, &["check", "-c", "left.toml"]);
    assert_eq!(stderr(&output), "");
    let text = stdout(&output);
    for line in [
        "  listen      UDP 0.0.0.0:9443, crafted TCP 0.0.0.0:443, TCP 0.0.0.0:9444",
        "    carriers  udp, faketcp, tcp (port 444)",
    ] {
        assert!(text.lines().any(|found| found == line), "{text}");
    }
}

#[test]
fn two_carriers_cannot_listen_on_one_port() {
    let right =
        peer("right", RIGHT_KEY, "allowed_ips = [\"10.77.0.2/32\"]\ncarriers = [\"faketcp\", \"tcp\"]");
    let text = format!("{NODE}{TUN}{right}[tcp]\nlisten = \"0.0.0.0:9443\"\n");
    refused_first_line(&text, "left.toml:12:10: both [faketcp] and [tcp] listen on TCP 0.0.0.0:9443");
}

#[test]
fn a_setting_of_streams_that_means_nothing_is_refused() {
    refused_first_line(
        &format!("{NODE}{TUN}[streams]\nfec = \"lots\"\n"),
        "left.toml:7:7: `lots` is not \"off\", \"adaptive\" or DATA:PARITY, as \"10:3\"",
    );
    refused_first_line(
        &format!("{NODE}{TUN}[streams]\ncongestion = \"cubic\"\n"),
        "left.toml:7:14: unknown congestion `cubic`: \"bbr\", \"none\"",
    );
}

#[test]
fn peers_are_looked_for_on_the_local_network_where_one_has_no_endpoint() {
    let scratch = scratch_with_key();
    let listen = |address: &str| format!("{NODE}listen = \"{address}\"\n{TUN}");
    let everywhere = listen("0.0.0.0:9443");
    let known = right() + "endpoint = \"192.0.2.2:9443\"\n";
    let discovery = |text: String| {
        scratch.write("left.toml", &text);
        let output = stdout(&run(&scratch.path, &["check", "-c", "left.toml"]));
        let line = output.lines().find_map(|line| line.strip_prefix("  discovery   ")).map(str::to_owned);
        line.unwrap_or_else(|| panic!("{output}"))
    };
    let section = |mdns: bool| format!("[discovery]\nmdns = {mdns}\n");
    let by_default = "on the local network, by Multicast DNS, since a peer has no endpoint";
    let off = "off, since all peers have endpoints or none can reach this node";
    assert_eq!(discovery(format!("{everywhere}{}", right())), by_default);
    assert_eq!(discovery(format!("{everywhere}{known}")), off);
    assert_eq!(discovery(format!("{}{}", listen("127.0.0.1:9443"), right())), off);
    assert_eq!(discovery(format!("{everywhere}{}{}", right(), section(false))), "off");
    assert_eq!(
        discovery(format!("{everywhere}{known}{}", section(true))),
        "on the local network, by Multicast DNS"
    );
    refused_first_line(
        &format!("{everywhere}{known}[discovery]\nmdns = \"yes\"\n"),
        "left.toml:13:8: `mdns` must be true or false, not a string",
    );
    refused_first_line(
        &format!("{everywhere}{known}[discovery]\nmnds = true\n"),
        "left.toml:13:1: unknown key `mnds` in [discovery], did you mean `mdns`?",
    );
}

#[test]
fn a_node_without_an_interface_and_without_a_proxy_has_nothing_to_do() {
    refused_first_line(NODE, "left.toml: there is nothing to do: no [tun], and no proxy either");
}

#[test]
fn an_unknown_key_is_named_with_its_place_and_what_was_meant() {
    refused(
        &format!("{NODE}[tun]\n  adress = [\"10.77.0.1/24\"]\n"),
        "left.toml:4:3: unknown key `adress` in [tun], did you mean `address`?
 4 |   adress = [\"10.77.0.1/24\"]
   |   ^^^^^^",
    );
    refused(
        &format!("{NODE}{TUN}listen = \"0.0.0.0:1\"\n"),
        "left.toml:6:1: unknown key `listen` in [tun]
 6 | listen = \"0.0.0.0:1\"
   | ^^^^^^
 help: `listen` belongs in [node]",
    );
    refused(
        &format!("{NODE}{TUN}colour = 1\n"),
        "left.toml:6:1: unknown key `colour` in [tun]
 6 | colour = 1
   | ^^^^^^
 help: known keys: name, address, mtu",
    );
    refused_first_line(
        &format!("{NODE}{TUN}[[peers]]\nname = \"x\"\n"),
        "left.toml:6:3: unknown key `peers`, did you mean `peer`?",
    );
}

#[test]
fn columns_count_characters_and_not_bytes() {
    refused_first_line(
        &format!("{NODE}[tun]\naddress = [\"ä\", \"10.0.0.0/40\"]\n"),
        "left.toml:4:12: `ä` is not an IP prefix: write ADDRESS/LENGTH, for example 10.77.0.0/24",
    );
    refused_first_line(
        &format!("{NODE}[tun]\nname = \"é\"\nmtu = 1\naddress = \"10.0.0.1\"\n"),
        "left.toml:4:8: interface name `é`: no spaces, `/` or `:`",
    );
}

#[test]
fn an_allowed_ip_of_two_peers_is_an_error_that_names_both_and_their_lines() {
    let third = peer("third", OTHER_KEY, "allowed_ips = [\"10.0.0.0/8\", \"10.77.0.2\"]");
    refused(
        &format!("{NODE}{TUN}{}{third}", right()),
        "left.toml:13:30: allowed IP 10.77.0.2/32 is given to both peer `right` (line 9) and peer `third` (line 13)
 13 | allowed_ips = [\"10.0.0.0/8\", \"10.77.0.2\"]
    |                              ^^^^^^^^^^^
 help: an address can belong to one peer only; a longer prefix inside a shorter one is fine",
    );
    let twice = peer("right", RIGHT_KEY, "allowed_ips = [\"10.77.0.2/32\", \"10.77.0.2\"]");
    refused_first_line(
        &format!("{NODE}{TUN}{twice}"),
        "left.toml:9:32: allowed IP 10.77.0.2/32 is given to peer `right` twice (first in line 9)",
    );
    let own = peer("right", RIGHT_KEY, "allowed_ips = [\"10.77.0.1/32\"]");
    refused_first_line(
        &format!("{NODE}{TUN}{own}"),
        "left.toml:9:16: allowed IP 10.77.0.1/32 of peer `right` is this node's own address",
    );
    let host_bits = peer("right", RIGHT_KEY, "allowed_ips = [\"10.77.0.2/24\"]");
    refused(
        &format!("{NODE}{TUN}{host_bits}"),
        "left.toml:9:16: allowed IP 10.77.0.2/24 has bits set after its prefix
 9 | allowed_ips = [\"10.77.0.2/24\"]
   |                ^^^^^^^^^^^^^^
 help: write 10.77.0.0/24 for the network or 10.77.0.2/32 for the one address",
    );
}

#[test]
fn keys_that_are_none_are_refused_and_secret_ones_are_never_shown() {
    refused_first_line(
        &format!("{NODE}{TUN}{}", peer("right", "abc", "allowed_ips = []")),
        "left.toml:8:14: public key of peer `right`: a key has 44 base64 characters, this has 3",
    );
    let wrong = "!".repeat(43) + "=";
    let (code, message) =
        check(&scratch_with_key(), &format!("{NODE}{TUN}{}", peer("right", &wrong, "allowed_ips = []")));
    assert!(
        message.starts_with("left.toml:8:14: public key of peer `right`: not the base64 of a key"),
        "{message}"
    );
    assert_eq!(code, Some(2));
    refused(
        &format!("[node]\nprivate_key = \"hunter2\"\n{TUN}"),
        "left.toml:2:15: `private_key`: a key has 44 base64 characters, this has 7",
    );
    let (_, message) = check(&scratch_with_key(), &format!("[node]\nprivate_key = \"{PRIVATE_KEY}\n{TUN}"));
    assert!(message.starts_with("left.toml:2:"), "{message}");
    assert!(!message.contains(&PRIVATE_KEY[..8]), "{message}");
}

#[test]
fn a_public_key_that_keeps_nothing_secret_is_refused() {
    let zeros = "A".repeat(43) + "=";
    let (code, message) =
        check(&scratch_with_key(), &format!("{NODE}{TUN}{}", peer("right", &zeros, "allowed_ips = []")));
    let expected = "left.toml:8:14: public key of peer `right`: the public key is of low order";
    assert!(message.starts_with(expected), "{message}");
    assert_eq!(code, Some(2));
}

#[test]
fn two_peers_are_two() {
    let same_key = peer("third", RIGHT_KEY, "allowed_ips = []");
    refused_first_line(
        &format!("{NODE}{TUN}{}{same_key}", right()),
        "left.toml:12:14: peers `right` (line 8) and `third` have the same public key",
    );
    let same_name = peer("right", OTHER_KEY, "allowed_ips = []");
    refused_first_line(
        &format!("{NODE}{TUN}{}{same_name}", right()),
        "left.toml:11:8: two peers are called `right`; the first is in line 7",
    );
    let own_key = peer("right", PUBLIC_KEY, "allowed_ips = []");
    refused_first_line(
        &format!("{NODE}{TUN}{own_key}"),
        "left.toml:8:14: peer `right` has this node's own public key",
    );
}

#[test]
fn values_of_the_wrong_kind_or_out_of_range_are_refused() {
    let node = |line: &str| format!("{NODE}{line}\n{TUN}");
    let tun = |line: &str| format!("{NODE}[tun]\n{line}\n");
    let with = |line: &str| format!("{NODE}{TUN}{}{line}\n", right());
    for (text, expected) in [
        (node("workers = \"2\""), "3:11: `workers` must be a whole number, not a string"),
        (node("workers = 99"), "3:11: `workers` must be from 1 to 16, not 99"),
        (node("offload = 1"), "3:11: `offload` must be true or false, not a number"),
        (node("listen = \"9443\""), "3:10: `9443` is not an address with a port"),
        (
            node("name = \"a/b\""),
            "3:8: node name `a/b`: letters, digits, `-`, `_` and `.` only, and a letter or digit first",
        ),
        (
            tun("name = \"a-very-long-name-indeed\""),
            "4:8: interface name `a-very-long-name-indeed` has 23 bytes: from 1 to 15 are possible",
        ),
        (
            tun("address = \"10.77.0.1/33\""),
            "4:11: `10.77.0.1/33` is not an IP prefix: the prefix length of an IPv4 address is from 0 to 32",
        ),
        (
            tun("address = [\"fd77::1/129\"]"),
            "4:12: `fd77::1/129` is not an IP prefix: the prefix length of an IPv6 address is from 0 to 128",
        ),
        (tun("address = [7]"), "4:12: `address` must be a list of strings, not a number"),
        (tun("mtu = 1420"), "3:1: [tun] has no `address`"),
        (tun("address = \"10.0.0.1\"\nmtu = 1279"), "5:7: `mtu` must be from 1280 to 9000, not 1279"),
        (
            with("protocol = \"openvpn\""),
            "10:12: unknown protocol `openvpn`: \"shadowmesh\" or \"wireguard\"",
        ),
        (with("keepalive_s = -1"), "10:15: `keepalive_s` must be from 0 to 65535, not -1"),
        (
            with("endpoint = \"192.0.2.1\""),
            "10:12: endpoint of peer `right`: the port is missing: write \"192.0.2.1:9443\"",
        ),
        (peer_without_addresses(), "6:1: [[peer]] has no `allowed_ips`"),
        (
            with("carriers = [\"icmp\"]"),
            "10:13: there is no carrier `icmp`: udp, faketcp and tcp are possible",
        ),
        (with("carriers = [\"udp\", \"udp\"]"), "10:20: carrier `udp` is there twice"),
        (with("carriers = []"), "10:12: `carriers` is empty: nothing could reach this peer"),
        (
            with("carriers = [\"faketcp\"]\nprotocol = \"wireguard\""),
            "10:13: WireGuard knows no carrier but udp",
        ),
        (with("tcp_port = 443"), "10:12: `tcp_port` without `tcp` among the `carriers`"),
        (with("[faketcp]\nlisten = \"0.0.0.0:443\""), "10:1: no peer has `faketcp` among its `carriers`"),
        (
            with("carriers = [\"faketcp\"]\n[faketcp]\nlocal_flags = [\"XY\"]"),
            "12:15: `X` is no TCP flag: P, A, U, E and C are possible",
        ),
    ] {
        refused_first_line(&text, &format!("left.toml:{expected}"));
    }
}

/// A configuration with that listening address, that endpoint and those allowed IPs.
fn towards(listen: &str, endpoint: &str, allowed_ips: &str) -> String {
    let right =
        peer("right", RIGHT_KEY, &format!("endpoint = \"{endpoint}\"\nallowed_ips = [{allowed_ips}]"));
    format!("{NODE}listen = \"{listen}\"\n{TUN}{right}")
}

#[test]
fn a_route_that_covers_an_endpoint_is_refused_with_what_to_write() {
    refused(
        &towards("0.0.0.0:9443", "192.0.2.2:9443", "\"192.0.2.0/30\""),
        "left.toml:11:15: allowed IP 192.0.2.0/30 of peer `right` covers 192.0.2.2, the endpoint of peer `right`: the tunnel \
         would carry its own datagrams
 help: name only the networks behind the peer; for all of 192.0.2.0/30 but 192.0.2.2, put in place of \"192.0.2.0/30\": \
         \"192.0.2.0/31\", \"192.0.2.3/32\"",
    );
    for (endpoint, allowed, covered) in [
        ("192.0.2.2:9443", "0.0.0.0/0", "192.0.2.2"),
        ("[::ffff:192.0.2.2]:9443", "0.0.0.0/0", "192.0.2.2"),
        ("[2001:db8::2]:9443", "::/0", "2001:db8::2"),
        ("[2001:db8::2]:9443", "2001:db8::2/128", "2001:db8::2"),
    ] {
        refused_first_line(
            &towards("0.0.0.0:9443", endpoint, &format!("\"{allowed}\"")),
            &format!(
                "left.toml:11:15: allowed IP {allowed} of peer `right` covers {covered}, the endpoint of peer `right`: the tunnel \
                 would carry its own datagrams"
            ),
        );
    }
    refused_first_line(
        &towards("0.0.0.0:9443", "10.77.0.9:9443", "\"10.77.0.2\""),
        "left.toml:6:11: the network 10.77.0.0/24 of the interface's address covers 10.77.0.9, the endpoint of peer `right`: \
         the tunnel would carry its own datagrams",
    );
    for (endpoint, allowed) in [
        ("192.0.2.2:9443", "::/0"),
        ("127.0.0.1:9443", "0.0.0.0/0"),
        ("[::1]:9443", "::/0"),
        ("vpn.example.org:9443", "10.0.0.0/8"),
    ] {
        let text = towards("0.0.0.0:9443", endpoint, &format!("\"{allowed}\""));
        assert_eq!(check(&scratch_with_key(), &text), (Some(0), String::new()), "{endpoint} {allowed}");
    }
}

#[test]
fn what_is_said_to_write_instead_of_a_route_is_accepted() {
    for (endpoint, allowed) in [("192.0.2.2:9443", "0.0.0.0/0"), ("[2001:db8::2]:9443", "::/0")] {
        let (_, message) =
            check(&scratch_with_key(), &towards("0.0.0.0:9443", endpoint, &format!("\"{allowed}\"")));
        let (_, instead) = message.trim_end().rsplit_once(&format!("in place of \"{allowed}\": ")).unwrap();
        let text = towards("0.0.0.0:9443", endpoint, instead);
        assert_eq!(check(&scratch_with_key(), &text), (Some(0), String::new()));
    }
}

#[test]
fn a_socket_that_no_datagram_to_the_peer_can_leave_is_refused() {
    for (listen, endpoint, why, help) in [
        (
            "192.0.2.1:9443",
            "[2001:db8::2]:9443",
            "`listen` is 192.0.2.1:9443, an IPv4 address, and the endpoint is IPv6",
            "[::]:9443\", which is every address of both",
        ),
        (
            "[2001:db8::1]:9443",
            "192.0.2.2:9443",
            "`listen` is [2001:db8::1]:9443, an IPv6 address, and the endpoint is IPv4",
            "[::]:9443\", which is every address of both",
        ),
        (
            "127.0.0.1:9443",
            "192.0.2.2:9443",
            "`listen` is 127.0.0.1:9443, from which only this host can be reached",
            "0.0.0.0:9443\"",
        ),
        (
            "[::1]:9443",
            "[2001:db8::2]:9443",
            "`listen` is [::1]:9443, from which only this host can be reached",
            "[::]:9443\"",
        ),
    ] {
        refused(
            &towards(listen, endpoint, "\"10.77.0.2\""),
            &format!(
                "left.toml:10:12: endpoint {endpoint} of peer `right` cannot be reached over udp: {why}\n help: write listen = \
                 \"{help}"
            ),
        );
    }
    for (listen, endpoint) in [
        ("0.0.0.0:9443", "[2001:db8::2]:9443"),
        ("[::]:9443", "192.0.2.2:9443"),
        ("127.0.0.1:9443", "127.0.0.1:9444"),
        ("192.0.2.1:9443", "[::ffff:192.0.2.2]:9443"),
    ] {
        let text = towards(listen, endpoint, "\"10.77.0.2\"");
        assert_eq!(check(&scratch_with_key(), &text), (Some(0), String::new()), "{listen} {endpoint}");
    }
}

#[test]
fn an_address_that_belongs_to_nobody_is_no_endpoint() {
    for (endpoint, why) in [
        ("224.0.0.251:9443", "224.0.0.251 is a multicast address: a peer has one of its own"),
        ("[ff02::fb]:9443", "ff02::fb is a multicast address: a peer has one of its own"),
        ("255.255.255.255:9443", "255.255.255.255 is the broadcast address: a peer has one of its own"),
        ("192.0.2.300:9443", "`192.0.2.300` is not an IPv4 address, and no host name ends in a number"),
        ("[2001:db8::1]", "the port is missing: write \"[2001:db8::1]:9443\""),
    ] {
        let text = towards("0.0.0.0:9443", endpoint, "\"10.77.0.2\"");
        refused_first_line(&text, &format!("left.toml:10:12: endpoint of peer `right`: {why}"));
        // The same words for a peer on the command line.
        let flag = format!("{RIGHT_KEY}@{endpoint}");
        let output = run(&scratch_with_key().path, &["proxy", "--key", "node.key", "--peer", &flag]);
        assert!(stderr(&output).contains(why), "{}", stderr(&output));
        assert_eq!(output.status.code(), Some(2));
    }
}

#[test]
fn an_address_that_no_interface_can_have_is_refused() {
    let tun = |address: &str| format!("{NODE}[tun]\naddress = \"{address}\"\n");
    for (address, why, help) in [
        (
            "10.77.0.0/24",
            "10.77.0.0/24 is the network's own address (all bits after the prefix are 0)",
            "write an address in that network, as \"10.77.0.1/24\"",
        ),
        (
            "10.77.0.255/24",
            "10.77.0.255/24 is its network's broadcast address",
            "write an address in that network, as \"10.77.0.1/24\"",
        ),
        (
            "fd77::/64",
            "fd77::/64 is every router's address in its network (all bits after the prefix are 0)",
            "write an address in that network, as \"fd77::1/64\"",
        ),
        (
            "224.0.0.1",
            "224.0.0.1 is no address that an interface can have",
            "write an address of this node in the tunnel, as \"10.77.0.1/24\"",
        ),
    ] {
        let (code, message) = check(&scratch_with_key(), &tun(address));
        assert!(message.starts_with(&format!("left.toml:4:11: {why}\n")), "{message}");
        assert!(message.trim_end().ends_with(help), "{message}");
        assert_eq!(code, Some(2));
    }
    for address in ["10.77.0.0/31", "10.77.0.255/31", "10.77.0.0/32", "fd77::/127", "fd77::/128"] {
        assert_eq!(check(&scratch_with_key(), &tun(address)), (Some(0), String::new()), "{address}");
    }
}

fn peer_without_addresses() -> String {
    format!("{NODE}{TUN}{}", peer("right", RIGHT_KEY, ""))
}

#[test]
fn what_is_not_toml_gets_a_place_and_a_hint() {
    refused(
        &format!("{NODE}listen = 0.0.0.0:9443\n{TUN}"),
        "left.toml:3:13: not TOML: invalid float, expected nothing
 3 | listen = 0.0.0.0:9443
   |             ^^^^^^^^^
 help: lines are `key = value`; text stands in double quotes, lists in [ ]; the rest is at https://toml.io",
    );
    refused(
        &format!("{NODE}{TUN}mtu = 1400\nmtu = 1400\n"),
        "left.toml:7:1: not TOML: duplicate key
 7 | mtu = 1400
   | ^^^
 help: a key may be there once in its section",
    );
    refused_first_line("", "left.toml: there is no [node] section");
    refused_first_line(
        &format!("{NODE}{TUN}[peer]\nname = \"x\"\n"),
        "left.toml:6:1: `peer` is written as sections [[peer]], in double brackets, any number of them",
    );
}

#[test]
fn a_default_route_beside_an_endpoint_by_name_is_refused() {
    for allowed in ["\"0.0.0.0/0\"", "\"0.0.0.0/1\", \"128.0.0.0/1\"", "\"::/0\""] {
        let peer = format!(
            "[[peer]]\nname = \"right\"\npublic_key = \"{OTHER_KEY}\"\nendpoint = \"vpn.example.org:9443\"\nallowed_ips = [{allowed}]\n"
        );
        let (code, message) = check(&scratch_with_key(), &format!("{NODE}{TUN}{peer}"));
        assert_eq!(code, Some(2), "{allowed}");
        assert!(message.contains("whatever the endpoint of peer `right` resolves to"), "{message}");
    }
}

#[test]
fn a_key_file_that_others_can_read_is_refused_with_the_command_that_helps() {
    let scratch = scratch_with_key();
    set_mode(&scratch.path.join("node.key"), 0o644);
    let (code, message) = check(&scratch, &format!("{NODE}{TUN}"));
    assert_eq!(
        message,
        "left.toml:2:20: key file `node.key` can be read by other users\n help: chmod 600 node.key\n"
    );
    assert_eq!(code, Some(2));

    scratch.write("left.toml", &format!("[node]\nprivate_key = \"{PRIVATE_KEY}\"\n{TUN}"));
    set_mode(&scratch.path.join("left.toml"), 0o640);
    let output = run(&scratch.path, &["check", "-c", "left.toml"]);
    assert_eq!(
        stderr(&output),
        "left.toml:2:15: the configuration holds a key, and other users can read it\n help: chmod 600 left.toml\n"
    );
}

#[test]
fn a_missing_key_or_file_is_named_with_how_to_make_it() {
    refused(
        &format!("[node]\n{TUN}"),
        "left.toml:1:1: [node] has no key
 1 | [node]
   | ^^^^^^
 help: make one with (umask 077; shadowmesh genkey > node.key) and set private_key_file = \"node.key\"",
    );
    refused(
        &format!("[node]\nprivate_key_file = \"other.key\"\n{TUN}"),
        "left.toml:2:20: cannot read `other.key`: no such file
 help: create it: (umask 077; shadowmesh genkey > other.key)",
    );
    refused(
        &format!("[node]\nprivate_key = \"{PRIVATE_KEY}\"\nprivate_key_file = \"node.key\"\n{TUN}"),
        "left.toml:2:15: there is both a key and a key file
 help: remove one of them: the key, or the key file in line 3",
    );
    let scratch = Scratch::new();
    let output = run(&scratch.path, &["check", "-c", "nowhere.toml"]);
    assert!(stderr(&output).starts_with("nowhere.toml: cannot read the configuration: no such file\n"));
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn flags_beat_the_environment_which_beats_the_file() {
    let scratch = scratch_with_key();
    scratch.write("left.toml", &format!("{NODE}{TUN}"));
    // Each of them is refused with the value it was given, which shows whose value it was.
    let up = |mtu_env: Option<&str>, args: &[&str]| {
        let mut command = support::program();
        command.current_dir(&scratch.path).args(["up", "-c", "left.toml"]).args(args);
        if let Some(mtu) = mtu_env {
            command.env("SHADOWMESH_MTU", mtu);
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        stderr(&output)
    };
    let from = "from the command line or the environment";
    assert_eq!(up(Some("100"), &[]), format!("left.toml: tun.mtu {from}: 100 is not from 1280 to 9000\n"));
    assert_eq!(
        up(Some("100"), &["--mtu", "200"]),
        format!("left.toml: tun.mtu {from}: 200 is not from 1280 to 9000\n")
    );
    assert_eq!(
        up(None, &["--workers", "99"]),
        format!("left.toml: node.workers {from}: 99 is not from 1 to 16\n")
    );
    let name = "a-very-long-name-indeed";
    assert_eq!(
        up(None, &["--tun-name", name]),
        format!(
            "left.toml: tun.name {from}: interface name `{name}` has 23 bytes: from 1 to 15 are possible\n"
        )
    );
}

/// A configuration with one peer and these sections.
fn with_peer(sections: &str) -> String {
    format!("{NODE}{TUN}{}{sections}\n", right())
}

#[test]
fn proxies_are_summed_up() {
    let scratch = scratch_with_key();
    scratch.write("password", "s3cret\n");
    let proxies = "[[socks5]]
listen = \"127.0.0.1:1080\"
via = \"right\"
[[socks5]]
listen = \"0.0.0.0:1081\"
via = \"right\"
username = \"alice\"
password_file = \"password\"
[[forward]]
listen = \"127.0.0.1:5353\"
target = \"dns.example:53\"
protocol = \"udp\"
via = \"right\"
[[forward]]
listen = \"127.0.0.1:5353\"
target = \"[::1]:22\"
via = \"right\"
direction = \"remote\"
[exit]
allow = [\"10.1.0.0/16\", \"10.2.0.1:22\"]
listen = \"127.0.0.1:8000-8099\"";
    scratch.write("left.toml", &with_peer(proxies));
    let output = run(&scratch.path, &["check", "-c", "left.toml"]);
    assert_eq!(stderr(&output), "");
    let summary = stdout(&output);
    assert_eq!(
        &summary[summary.find("  socks5").unwrap()..],
        "  socks5      127.0.0.1:1080 via right, for everyone on this host
  socks5      0.0.0.0:1081 via right, for alice with a password
  forward     UDP 127.0.0.1:5353 to dns.example:53, from right
  forward     TCP 127.0.0.1:5353 at right to [::1]:22, from here
  exit        for all peers, to the Internet; by rule to the networks of this host
    allow     10.1.0.0/16, 10.2.0.1/32:22
    listen    127.0.0.1/32:8000-8099
"
    );
}

#[test]
fn a_peer_may_have_an_exit_of_its_own_or_none() {
    let scratch = scratch_with_key();
    let lines = |exit: &str| format!("allowed_ips = []\nexit = {exit}");
    let checked = |exit: &str, more: &str| {
        scratch.write("left.toml", &format!("{NODE}{TUN}{}{more}", peer("right", RIGHT_KEY, &lines(exit))));
        run(&scratch.path, &["check", "-c", "left.toml"])
    };
    let shown = |exit: &str, more: &str| {
        let output = checked(exit, more);
        assert_eq!(stderr(&output), "");
        stdout(&output)
    };
    let only = shown("{ allow = [\"10.1.0.0/16\"] }", "");
    assert!(only.contains("exit        for right, to the Internet"), "{only}");
    assert!(only.contains("allow     10.1.0.0/16") && !only.contains("all peers"), "{only}");
    let all_but = shown("false", "[exit]\n");
    assert!(all_but.contains("for all peers") && all_but.contains("exit        not for right"), "{all_but}");
    for (exit, expected) in [
        ("true", "`exit` of a peer is false, or the rules for this peer"),
        ("{ refuse = [] }", "unknown key `refuse` in `exit` of a [[peer]]"),
        ("{ allow = [\"10.0.0.1/8\"] }", "`10.0.0.1/8` is no rule"),
    ] {
        let output = checked(exit, "");
        assert_eq!(output.status.code(), Some(2), "{exit}");
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    }
}

#[test]
fn a_proxy_that_others_can_reach_needs_a_password() {
    refused(
        &with_peer("[[socks5]]\nlisten = \"0.0.0.0:1080\"\nvia = \"right\""),
        "left.toml:11:10: others can reach 0.0.0.0:1080: a proxy there needs `username` and `password_file`
 11 | listen = \"0.0.0.0:1080\"
    |          ^^^^^^^^^^^^^^
 help: or let it listen where only this host reaches it: \"127.0.0.1:1080\"",
    );
    let socks5 =
        |lines: &str| with_peer(&format!("[[socks5]]\nlisten = \"[::1]:1\"\nvia = \"right\"\n{lines}"));
    for (lines, expected) in [
        ("username = \"alice\"", "13:12: a `username` needs a `password_file`"),
        ("password_file = \"p\"", "13:17: a `password_file` needs a `username`"),
        ("username = \"a:b\"\npassword_file = \"p\"", "13:12: a username has 1 to 255 bytes and no colon"),
        ("username = \"alice\"\npassword_file = \"p\"", "14:17: cannot read `p`: no such file"),
    ] {
        refused_first_line(&socks5(lines), &format!("left.toml:{expected}"));
    }
}

#[test]
fn a_password_file_is_a_secret_of_one_line() {
    let scratch = scratch_with_key();
    let text = with_peer(
        "[[socks5]]\nlisten = \"127.0.0.1:1\"\nvia = \"right\"\nusername = \"alice\"\npassword_file = \"p\"",
    );
    for (contents, right) in [("s3cret", true), ("s3cret\r\n", true), ("\n", false), ("two\nlines\n", false)]
    {
        scratch.write("p", contents);
        let (code, message) = check(&scratch, &text);
        assert_eq!(code, Some(if right { 0 } else { 2 }), "{contents:?}: {message}");
        assert!(right || message.contains("a password is one line of 1 to 255 bytes"), "{message}");
        assert!(!message.contains("lines"), "what is in the file is not shown: {message}");
    }
    set_mode(&scratch.path.join("p"), 0o640);
    let (_, message) = check(&scratch, &text);
    assert!(
        message.starts_with("left.toml:14:17: password file `p` can be read by other users"),
        "{message}"
    );
}

#[test]
fn mistakes_in_proxies_are_named_with_their_place() {
    let forward = |lines: &str| with_peer(&format!("[[forward]]\nvia = \"right\"\n{lines}"));
    let to = "target = \"192.0.2.1:80\"";
    let exit = |line: &str| with_peer(&format!("[exit]\n{line}"));
    let twice =
        format!("listen = \"[::]:80\"\n{to}\n[[forward]]\nvia = \"right\"\n{to}\nlisten = \"[::]:80\"");
    for (text, expected) in [
        (forward(to), "10:1: [[forward]] has no `listen`"),
        (forward("listen = \"127.0.0.1:80\""), "10:1: [[forward]] has no `target`"),
        (forward(&format!("listen = \"127.0.0.1:0\"\n{to}")), "12:10: port 0 is any port: say which"),
        (forward(&twice), "17:10: [::]:80 is listened on twice; the first is in line 12"),
        (
            forward("listen = \"127.0.0.1:80\"\ntarget = \"nowhere\""),
            "13:10: `nowhere` is no target: the port must follow after a colon, a number up to 65535",
        ),
        (forward("listen = \"[::1]:1\"\ntarget = \"a:0\""), "13:10: port 0 cannot be reached"),
        (forward("protocol = \"sctp\""), "12:12: unknown protocol `sctp`: \"tcp\" or \"udp\""),
        (
            forward("direction = \"back\""),
            "12:13: unknown direction `back`: \"local\", where this node listens, or \"remote\", where the peer does",
        ),
        (with_peer("[[socks5]]\nlisten = \"[::1]:1\""), "10:1: [[socks5]] has no `via`"),
        (with_peer("[[socks5]]\nlisten = \"[::1]:1\"\nvia = \"left\""), "12:7: there is no peer `left`"),
        (
            with_peer("[socks5]\nlisten = \"[::1]:1\""),
            "10:1: `socks5` is written as sections [[socks5]], in double brackets, any number of them",
        ),
        (
            exit("allow = [\"10.0.0.1/8\"]"),
            "11:10: `10.0.0.1/8` is no rule: 10.0.0.1/8 has bits set after its prefix: write 10.0.0.0/8",
        ),
        (
            exit("listen = [\"0.0.0.0/0:80\"]"),
            "11:11: peers may have us listen on an address, not on all of 0.0.0.0/0",
        ),
        (exit("refuse = []"), "11:1: unknown key `refuse` in [exit]"),
    ] {
        refused_first_line(&text, &format!("left.toml:{expected}"));
    }
    let wireguard = peer("right", RIGHT_KEY, "allowed_ips = []\nprotocol = \"wireguard\"");
    refused_first_line(
        &format!("{NODE}{TUN}{wireguard}[[socks5]]\nlisten = \"[::1]:1\"\nvia = \"right\"\n"),
        "left.toml:13:7: peer `right` speaks the protocol of WireGuard, which carries no streams",
    );
}
