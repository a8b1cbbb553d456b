//! Starting, asking and stopping.

use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{stderr, stdout};
use crate::world::Side::{Left, Right};
use crate::world::World;

crate::tests![
    status_describes_the_node_for_people_and_for_programs,
    every_key_of_the_status_is_documented,
    a_stop_is_clean_and_takes_less_than_a_second,
    a_second_instance_is_refused_and_the_first_goes_on,
    an_address_in_use_is_an_error_with_its_line_and_leaves_nothing_behind,
    an_interface_name_in_use_is_an_error_with_its_line,
    a_hangup_is_survived,
    a_peer_that_should_be_connected_and_is_not_is_exit_code_4,
    an_unknown_peer_is_an_error_that_names_it,
    with_two_nodes_a_choice_is_asked_for,
    a_control_socket_can_be_abstract,
    nonsense_on_the_control_socket_is_answered_and_survived,
    a_rekey_gives_fresh_keys_at_once,
];

fn running_pair() -> (World, crate::world::Daemon, crate::world::Daemon) {
    let world = World::new();
    world.configure(Left, "", "");
    // Only one side calls, so that it is clear who made the handshake.
    world.configure(Right, "", "# no endpoint");
    let (right, left) = (world.start(Right), world.start(Left));
    world.connect(Left);
    (world, left, right)
}

fn status_describes_the_node_for_people_and_for_programs() {
    let (world, left, _right) = running_pair();
    left.logs("right: connected at 192.0.2.2:9443 (post-quantum handshake in ");
    let output = world.run(Left, &["status", "--node", "left"]);
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
    assert!(text.starts_with("left  up "), "{text}");
    assert!(text.contains("\n  listening   UDP [::]:9443"), "{text}");
    assert!(text.contains("\n  interface   shadow0, 10.77.0.1/24, fd77::1/64, MTU 1439"), "{text}");
    assert!(text.contains("\nright  connected  192.0.2.2:9443  "), "{text}");
    assert!(text.contains("post-quantum"), "{text}");
    assert!(!text.contains('\x1b'), "colours go to terminals only");

    let status = world.status(Left);
    assert_eq!(status["version"], json!(1));
    assert_eq!(status["name"], json!("left"));
    assert_eq!(
        status["tun"],
        json!({"name": "shadow0", "mtu": 1439, "address": ["10.77.0.1/24", "fd77::1/64"]})
    );
    assert_eq!(status["degraded"], json!([]));
    let peer = &status["peers"][0];
    for (key, value) in [
        ("name", json!("right")),
        ("protocol", json!("shadowmesh")),
        ("post_quantum", json!(true)),
        ("carrier", json!("udp")),
        ("endpoint", json!("192.0.2.2:9443")),
        ("connected", json!(true)),
        ("allowed_ips", json!(["10.77.0.2/32", "fd77::2/128"])),
    ] {
        assert_eq!(peer[key], value, "{key}");
    }
    for key in ["latest_handshake_s", "handshake_ms", "rtt_ms"] {
        assert!(
            peer[key].as_f64().is_some_and(|value| (0.0..60_000.0).contains(&value)),
            "{key}: {}",
            peer[key]
        );
    }
}

fn every_key_of_the_status_is_documented() {
    let (world, _left, _right) = running_pair();
    assert_documented(&world.status(Left), include_str!("../../../../docs/status.md"));
}

fn assert_documented(value: &Value, documentation: &str) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let forms = [format!("`{key}"), format!(".{key}`"), format!("….{key}")];
                let documented = forms.iter().any(|form| documentation.contains(form));
                assert!(documented, "`{key}` is not in docs/status.md");
                // Its keys are the reasons, which are documented beside the code.
                if key != "drops" {
                    assert_documented(value, documentation);
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| assert_documented(value, documentation)),
        _ => {}
    }
}

fn a_stop_is_clean_and_takes_less_than_a_second() {
    let (world, mut left, mut right) = running_pair();
    assert_eq!(world.sockets(), ["left.sock", "right.sock"]);
    for (side, daemon, signal) in [(Left, &mut left, "TERM"), (Right, &mut right, "INT")] {
        daemon.signal(signal);
        let (code, took) = daemon.wait();
        assert_eq!(code, Some(0), "{}", daemon.log());
        assert!(took < Duration::from_secs(1), "{took:?}");
        assert_eq!(daemon.notified(), "STOPPING=1");
        assert!(!world.has_interface(side, "shadow0"));
    }
    assert_eq!(world.sockets(), [""; 0]);
}

fn a_second_instance_is_refused_and_the_first_goes_on() {
    let (world, _left, _right) = running_pair();
    let output = world.run(Left, &["up", "-c", "left.toml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("node `left` is already running"), "{}", stderr(&output));
    assert_eq!(world.exchange(Left, false, 10, 100), 10);
}

fn an_address_in_use_is_an_error_with_its_line_and_leaves_nothing_behind() {
    let (world, _left, _right) = running_pair();
    let args =
        ["up", "-q", "-c", "left.toml", "--node", "second", "--tun-name", "second0", "--state-dir", "second"];
    let output = world.run(Left, &args);
    assert_eq!(output.status.code(), Some(1));
    let message = stderr(&output);
    assert!(message.starts_with("left.toml:3:10: UDP 0.0.0.0:9443 is in use already"), "{message}");
    assert!(message.contains("\n help: choose another address or port for `listen` in [node]"), "{message}");
    assert!(!world.has_interface(Left, "second0"));
    assert_eq!(world.sockets(), ["left.sock", "right.sock"]);
    assert_eq!(world.exchange(Left, false, 10, 100), 10);
}

fn an_interface_name_in_use_is_an_error_with_its_line() {
    let (world, _left, _right) = running_pair();
    let args = [
        "up",
        "-q",
        "-c",
        "left.toml",
        "--node",
        "second",
        "--listen",
        "0.0.0.0:9444",
        "--state-dir",
        "second",
    ];
    let output = world.run(Left, &args);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).starts_with("left.toml:6:8: interface shadow0 exists already"),
        "{}",
        stderr(&output)
    );
}

fn a_hangup_is_survived() {
    let (world, left, _right) = running_pair();
    left.signal("HUP");
    left.logs("SIGHUP: reading the configuration again is not supported yet");
    assert_eq!(world.exchange(Left, false, 10, 100), 10);
}

fn a_peer_that_should_be_connected_and_is_not_is_exit_code_4() {
    let world = World::new();
    world.configure(Left, "", "keepalive_s = 5");
    let _left = world.start(Left);
    let output = world.run(Left, &["status", "--json"]);
    assert_eq!(output.status.code(), Some(4));
    assert_eq!(world.status(Left)["degraded"], json!(["right"]));
    let output = world.run(Left, &["status"]);
    assert!(stdout(&output).contains("right  unreachable"), "{}", stdout(&output));
    let output = world.run(Left, &["ping", "right", "-n", "1", "-W", "0.1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("right: 1 sent, 0 answered, 100 % lost"));

    world.configure(Right, "", "");
    let _right = world.start(Right);
    world.connect(Right);
    assert_eq!(world.run(Left, &["status", "--node", "left"]).status.code(), Some(0));
}

fn an_unknown_peer_is_an_error_that_names_it() {
    let (world, _left, _right) = running_pair();
    let output = world.run(Left, &["ping", "nobody", "--node", "left"]);
    assert_eq!((stderr(&output).as_str(), output.status.code()), ("no peer is called `nobody`\n", Some(1)));
}

fn with_two_nodes_a_choice_is_asked_for() {
    let (world, _left, mut right) = running_pair();
    let output = world.run(Left, &["status"]);
    assert_eq!(stderr(&output), "several nodes are running: choose one with --node: left, right\n");
    assert_eq!(output.status.code(), Some(2));
    right.signal("TERM");
    right.wait();
    let output = world.run(Left, &["status"]);
    assert!(stdout(&output).starts_with("left  up "), "the only one is meant");
}

fn a_control_socket_can_be_abstract() {
    let world = World::new();
    world.configure(Left, "", "");
    let _left = world.start_with(Left, &["--socket", "@control-test"]);
    assert_eq!(world.sockets(), [""; 0]);
    let output = world.run(Left, &["status", "--socket", "@control-test"]);
    assert!(stdout(&output).starts_with("left  up "), "{}", stderr(&output));
    let refused = world.run(Left, &["up", "-q", "-c", "left.toml", "--socket", "@control-test"]);
    assert!(stderr(&refused).starts_with("node `left` is already running"));
    // The name belongs to the namespace: elsewhere nobody has it.
    let address = SocketAddr::from_abstract_name("control-test").unwrap();
    assert!(UnixStream::connect_addr(&address).is_err());
}

fn nonsense_on_the_control_socket_is_answered_and_survived() {
    let (world, _left, _right) = running_pair();
    let request = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(world.run_dir().join("left.sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // It may hang up before it has read all.
        let _ = stream.write_all(bytes);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer.lines().next().unwrap_or_default().to_owned()
    };
    let post = |path: &str, body: &str| {
        let length = body.len();
        request(format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}").as_bytes())
    };
    assert_eq!(request(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"), "HTTP/1.1 404 Not Found");
    assert_eq!(post("/v1/status", ""), "HTTP/1.1 404 Not Found");
    assert_eq!(post("/v1/ping", "{"), "HTTP/1.1 400 Bad Request");
    assert_eq!(post("/v1/ping", "{\"peer\": \"right\", \"colour\": 1}"), "HTTP/1.1 400 Bad Request");
    assert_eq!(post("/v1/ping", "{\"peer\": \"right\", \"count\": 1000000}"), "HTTP/1.1 400 Bad Request");
    assert_eq!(post("/v1/rekey", "{\"peer\": \"nobody\"}"), "HTTP/1.1 404 Not Found");
    assert_eq!(post("/v1/ping", &" ".repeat(100_000)), "HTTP/1.1 400 Bad Request");
    assert_eq!(request(&[0xff; 100]), "HTTP/1.1 400 Bad Request");
    assert_eq!(post("/v1/ping", "{\"peer\": \"right\"}"), "HTTP/1.1 200 OK");

    // More silent connections than it serves at once do not keep it from stopping, nor for ever from answering.
    let silent: Vec<_> =
        (0..40).map(|_| UnixStream::connect(world.run_dir().join("left.sock")).unwrap()).collect();
    drop(silent);
    assert_eq!(post("/v1/ping", "{\"peer\": \"right\"}"), "HTTP/1.1 200 OK");
}

fn a_rekey_gives_fresh_keys_at_once() {
    let (world, _left, _right) = running_pair();
    let age = || world.status(Left)["peers"][0]["latest_handshake_s"].as_f64().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let before = age();
    assert!(before > 0.3);
    let mut stream = UnixStream::connect(world.run_dir().join("left.sock")).unwrap();
    let body = "{\"peer\": \"right\"}";
    write!(
        stream,
        "POST /v1/rekey HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("\r\n\r\n{}"), "{answer}");
    let deadline = Instant::now() + Duration::from_secs(10);
    while age() >= before {
        assert!(Instant::now() < deadline, "the keys are still the old ones");
    }
}
