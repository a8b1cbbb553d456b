//! What an operator does to a running program, and what the program says of it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/mod.rs"]
mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

use support::{PRIVATE_KEY, PUBLIC_KEY, Scratch, program, run, set_mode, stderr};

const PEER_KEY: &str = "CcwLkc1L2k1SSjXNnRffX2Wd1e0G1H4S3s8C+fN2Akg=";
const LISTENS: &str = "SOCKS5 and HTTP CONNECT on";

/// A program that runs until the test ends, and what it has written since.
struct Running {
    child: Child,
    log: BufReader<ChildStderr>,
}

impl Running {
    /// Starts the program and waits for a line of its log.
    fn start(command: &mut Command, until: &str) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut running = Self { child, log };
        running.read_until(until);
        running
    }

    fn read_until(&mut self, wanted: &str) -> String {
        let mut before = String::new();
        loop {
            let mut line = String::new();
            assert_ne!(self.log.read_line(&mut line).unwrap(), 0, "it ended before `{wanted}`:\n{before}");
            if line.contains(wanted) {
                return line;
            }
            before += &line;
        }
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    /// Waits for the end: whether it was a good one, and the rest of the log.
    fn end(mut self) -> (bool, String) {
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().success(), rest)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn with_key() -> Scratch {
    let scratch = Scratch::new();
    scratch.write("my.key", PRIVATE_KEY);
    scratch
}

/// A one-liner with the one key, whose directories are in `scratch`. Its peer answers nobody.
fn one_liner(scratch: &Scratch, args: &[&str]) -> Command {
    let mut command = program();
    in_directories(&mut command, &scratch.path).args(args);
    command.args(["--key", "my.key", "--peer", &format!("{PEER_KEY}@127.0.0.1:9")]);
    command
}

fn in_directories<'a>(command: &'a mut Command, path: &Path) -> &'a mut Command {
    command
        .current_dir(path)
        .env("SHADOWMESH_STATE_DIR", path.join("state"))
        .env("SHADOWMESH_RUN_DIR", path.join("run"))
}

fn proxy(scratch: &Scratch) -> Command {
    one_liner(scratch, &["proxy", "--socks5", "127.0.0.1:0"])
}

fn streams_only() -> String {
    format!(
        "[node]\nprivate_key_file = \"my.key\"\nlisten = \"127.0.0.1:0\"\n[[peer]]\nname = \"right\"\npublic_key = \
         \"{PEER_KEY}\"\nendpoint = \"127.0.0.1:9\"\n[exit]\n"
    )
}

#[test]
fn a_second_program_with_the_same_key_is_refused_with_who_has_it() {
    let scratch = with_key();
    let first = Running::start(&mut proxy(&scratch), LISTENS);
    scratch.write("left.toml", &streams_only());
    let mut up = program();
    in_directories(&mut up, &scratch.path).args(["up", "-c", "left.toml"]);
    let remote = one_liner(&scratch, &["forward", "-R", "127.0.0.1:8080=127.0.0.1:80"]);
    for mut second in [proxy(&scratch), remote, up] {
        let output = second.output().unwrap();
        let message = stderr(&output);
        let who = format!("process {} (`", first.child.id());
        assert!(message.contains(&who) && message.contains(" proxy --socks5 127.0.0.1:0"), "{message}");
        assert!(message.contains("two programs with one key") && message.contains("Stop"), "{message}");
        assert_eq!(output.status.code(), Some(1));
    }
    // However it ends, the key is free again.
    first.signal("KILL");
    assert!(!first.end().0);
    Running::start(&mut proxy(&scratch), LISTENS);
}

#[test]
fn forward_goes_through_a_proxy_with_the_same_key_and_takes_over_when_that_ends() {
    let scratch = with_key();
    // A port that is free now: what joins must know it.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let first = Running::start(&mut one_liner(&scratch, &["proxy", "--socks5", &port.to_string()]), LISTENS);
    let mut forward = one_liner(&scratch, &["forward", "-L", "127.0.0.1:0=127.0.0.1:80"]);
    let mut forward = Running::start(&mut forward, "forwarding 127.0.0.1:0 to 127.0.0.1:80, through process");
    first.signal("TERM");
    assert!(first.end().0);
    forward.read_until("the program with the same key has ended: connecting now");
    forward.read_until("listening on UDP");
    forward.signal("TERM");
    assert!(forward.end().0);
}

#[test]
fn a_one_liner_ends_with_its_terminal_and_leaves_no_file_a_run() {
    let scratch = with_key();
    for _ in 0..3 {
        let running = Running::start(&mut proxy(&scratch), LISTENS);
        running.signal("HUP");
        let (good, log) = running.end();
        assert!(good && log.contains("stopping, as the terminal has gone"), "{log}");
    }
    let mut names: Vec<_> = fs::read_dir(scratch.path.join("state"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let stem = PUBLIC_KEY.trim_end_matches('=').replace('+', "-").replace('/', "_");
    assert_eq!(names, ["confirmed", "epoch", "lock"].map(|what| format!("{stem}.{what}")));
}

#[test]
fn a_one_liner_under_nohup_outlives_its_terminal() {
    let scratch = with_key();
    let inner = proxy(&scratch);
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]).arg(inner.get_program()).args(inner.get_args());
    in_directories(&mut command, &scratch.path).env_remove("JOURNAL_STREAM");
    let running = Running::start(&mut command, LISTENS);
    running.signal("HUP");
    running.signal("TERM");
    let (good, log) = running.end();
    assert!(good && !log.contains("terminal"), "{log}");
}

#[test]
fn kcptun_ends_with_its_terminal() {
    let scratch = with_key();
    let mut command = program();
    command.args(["kcptun", "client", "--localaddr", "127.0.0.1:0", "--remoteaddr", "127.0.0.1:9"]);
    let running = Running::start(command.current_dir(&scratch.path), "127.0.0.1");
    running.signal("HUP");
    assert!(running.end().0);
}

#[test]
fn sigusr1_asks_a_node_how_it_is() {
    let scratch = with_key();
    scratch.write("left.toml", &streams_only());
    let mut command = program();
    in_directories(&mut command, &scratch.path).args(["up", "-c", "left.toml"]);
    let mut running = Running::start(&mut command, "listening on UDP");
    running.signal("USR1");
    running.read_until("0 of 1 peers connected");
    running.read_until("right: not connected at 127.0.0.1:9 over udp");
    running.signal("TERM");
    assert!(running.end().0);
}

#[test]
fn an_inherited_journal_stream_does_not_take_the_times_from_a_log() {
    let scratch = with_key();
    let mut command = proxy(&scratch);
    let mut running = Running::start(command.env("JOURNAL_STREAM", "1:2"), "public key");
    let line = running.read_until(LISTENS);
    assert!(line.starts_with("20") && line.contains("Z info "), "{line}");
}

#[test]
fn check_and_dump_see_the_node_that_would_run() {
    let scratch = with_key();
    scratch.write(
        "left.toml",
        &streams_only()
            .replace("127.0.0.1:9\"", "192.0.2.2:9\"")
            .replace("127.0.0.1:0\"\n[[peer", "0.0.0.0:0\"\n[[peer"),
    );
    let plain = run(&scratch.path, &["check", "-c", "left.toml"]);
    assert_eq!(plain.status.code(), Some(0), "{}", stderr(&plain));
    for command in ["check", "dump"] {
        let flag = run(&scratch.path, &[command, "-c", "left.toml", "--listen", "127.0.0.1:1"]);
        let mut by_environment = program();
        by_environment.current_dir(&scratch.path).args([command, "-c", "left.toml"]);
        let variable = by_environment.env("SHADOWMESH_LISTEN", "127.0.0.1:1").output().unwrap();
        for output in [flag, variable] {
            assert!(stderr(&output).contains("`listen` is 127.0.0.1:1"), "{command}: {}", stderr(&output));
            assert_eq!(output.status.code(), Some(2));
        }
    }
}

#[test]
fn what_every_user_can_change_is_no_configuration_and_no_key() {
    let scratch = with_key();
    scratch.write("left.toml", &streams_only());
    let refused = |expected: &str| {
        let output = run(&scratch.path, &["check", "-c", "left.toml"]);
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
        assert_eq!(output.status.code(), Some(2));
    };
    set_mode(&scratch.path.join("left.toml"), 0o666);
    refused(
        "left.toml: every user can change `left.toml`, and with it what this node does\n help: chmod o-w left.toml",
    );
    set_mode(&scratch.path.join("left.toml"), 0o644);
    set_mode(&scratch.path, 0o777);
    refused("left.toml: every user can change the directory of `left.toml`");
    set_mode(&scratch.path, 0o755);
    let keys = scratch.path.join("keys");
    fs::create_dir(&keys).unwrap();
    fs::rename(scratch.path.join("my.key"), keys.join("my.key")).unwrap();
    scratch.write("left.toml", &streams_only().replace("my.key", "keys/my.key"));
    set_mode(&keys, 0o777);
    refused("left.toml:2:20: every user can change the directory of `keys/my.key`");
    // As /tmp: nobody replaces the files of another there.
    set_mode(&keys, 0o1777);
    assert_eq!(run(&scratch.path, &["check", "-c", "left.toml"]).status.code(), Some(0));
}

#[test]
fn the_unit_starts_again_unless_the_configuration_is_wrong() {
    let unit = include_str!("../../../dist/shadowmesh@.service");
    for line in ["RestartPreventExitStatus=2", "StartLimitIntervalSec=0"] {
        assert!(unit.lines().any(|found| found == line), "{line}");
    }
}
