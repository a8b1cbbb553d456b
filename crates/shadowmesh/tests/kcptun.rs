//! `shadowmesh kcptun` against Debian's kcptun, which nobody here wrote, in both roles, and against itself.
//!
//! Each test has a network namespace of its own, in which server, client and target talk over loopback. Where
//! namespaces cannot be made, or kcptun is missing, the tests are reported as ignored with the reason; with
//! `SHADOWMESH_REQUIRE_PRIVILEGED=1` they fail instead.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "lab/mod.rs"]
mod lab;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use lab::{Host, SOON, Scratch, Test, wait_for};

/// Where the client listens for TCP, the server for UDP, and the target for TCP.
const CLIENT: &str = "127.0.0.1:12948";
const SERVER: &str = "127.0.0.1:29900";
const TARGET: &str = "127.0.0.1:8000";

/// Bytes that a stream carries in each direction.
const BYTES: usize = 700_000;

fn main() -> ExitCode {
    let mut with_debian: Vec<Test> = Vec::new();
    for cipher in ["aes", "aes-128", "aes-192", "salsa20", "xor", "none"] {
        // Every cipher with every other option at least once, in both roles.
        let options: &[&str] = match cipher {
            "aes-128" | "none" => {
                &["--nocomp --datashard 0 --parityshard 0", "", "--nocomp --datashard 3 --parityshard 2"]
            }
            "aes" => &["--mode fast3", "--nocomp --mode normal --mtu 900"],
            _ => &["--mode fast2 --sndwnd 1024 --rcvwnd 1024"],
        };
        for (version, options) in
            [1, 2].into_iter().flat_map(|version| options.iter().map(move |options| (version, *options)))
        {
            let options = format!("--crypt {cipher} --smuxver {version} {options}");
            for (server, client) in [(End::Ours, End::Debians), (End::Debians, End::Ours)] {
                let name = format!(
                    "{server:?}_serves_{client:?}_with_{}",
                    options.trim().replace("--", "").replace(' ', "_")
                );
                let options = options.clone();
                with_debian.push((
                    name,
                    Box::new(move || Tunnel::start(server, client, &options).carries_everything()),
                ));
            }
        }
    }
    with_debian.extend(lab::tests![groups_of_another_size_are_understood]);
    let ours = lab::tests![
        our_own_two_ends_understand_each_other_without_encryption_too,
        half_a_connection_may_end_and_be_answered_afterwards,
        another_key_carries_nothing,
        a_json_file_counts_more_than_flags_and_the_key_may_come_from_the_environment,
        a_signal_ends_live_connections_within_a_second,
        a_restarted_server_serves_the_same_client_again,
        a_target_that_refuses_ends_the_connection,
        what_is_not_supported_is_refused_in_words,
        messages_go_to_the_log_file_and_what_does_nothing_is_said_once,
    ];
    lab::main(vec![(ours, &[]), (with_debian, &["kcptun-client", "kcptun-server"])], 4)
}

/// Whose program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Ours,
    Debians,
}

/// A server and a client, and a target that sends back what it gets.
struct Tunnel {
    host: Host,
    server: Child,
    client: Child,
    options: Vec<String>,
}

impl Tunnel {
    fn start(server: End, client: End, options: &str) -> Self {
        let options: Vec<String> = options.split_whitespace().map(str::to_owned).collect();
        let host = Host::new();
        serve_echo(&host);
        let server =
            spawn(command(&host, server, "server").args(["-l", SERVER, "-t", TARGET]).args(&options));
        let client =
            spawn(command(&host, client, "client").args(["-l", CLIENT, "-r", SERVER]).args(&options));
        Self { host, server, client, options }
    }

    fn connect(&self) -> TcpStream {
        let connect = || self.host.netns.run(|| TcpStream::connect(CLIENT).ok()).unwrap();
        let stream = wait_for("the client's port", SOON, connect);
        stream.set_read_timeout(Some(2 * SOON)).unwrap();
        stream
    }

    /// Three streams at once, each byte for byte, there and back.
    fn carries_everything(self) {
        let streams: Vec<TcpStream> = (0..3).map(|_| self.connect()).collect();
        let threads: Vec<_> = (0..)
            .zip(streams)
            .map(|(seed, stream)| thread::spawn(move || there_and_back(stream, seed)))
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        for child in [&mut self.server, &mut self.client] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn command(host: &Host, end: End, role: &str) -> Command {
    let mut command = match end {
        End::Ours => host.netns.command(env!("CARGO_BIN_EXE_shadowmesh")),
        End::Debians => host.netns.command(format!("kcptun-{role}")),
    };
    if end == End::Ours {
        command.args(["kcptun", role]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).env_remove("KCPTUN_KEY");
    command
}

fn spawn(command: &mut Command) -> Child {
    os::netns::die_with_parent(command).spawn().unwrap()
}

/// A target that sends back what it gets, until the end of it.
fn serve_echo(host: &Host) {
    let listener = host.netns.run(|| TcpListener::bind(TARGET).unwrap()).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let (mut reader, mut writer) = (stream.try_clone().unwrap(), stream);
                let _ = std::io::copy(&mut reader, &mut writer);
                let _ = writer.shutdown(Shutdown::Write);
            });
        }
    });
}

fn pattern(seed: usize) -> Vec<u8> {
    // Half of it can be compressed.
    (0..BYTES)
        .map(|at| if at / 4096 % 2 == 0 { seed as u8 } else { (at * 31 + at / 253 + seed * 7) as u8 })
        .collect()
}

fn there_and_back(stream: TcpStream, seed: usize) {
    let (mut reader, mut writer) = (stream.try_clone().unwrap(), stream);
    let sender = thread::spawn(move || writer.write_all(&pattern(seed)).map(|()| writer).unwrap());
    let mut received = vec![0; BYTES];
    reader.read_exact(&mut received).unwrap();
    assert!(received == pattern(seed), "other bytes came back");
    sender.join().unwrap();
}

fn groups_of_another_size_are_understood() {
    let host = Host::new();
    serve_echo(&host);
    let theirs = ["--datashard", "5", "--parityshard", "2"];
    let server =
        spawn(command(&host, End::Debians, "server").args(["-l", SERVER, "-t", TARGET]).args(theirs));
    let client = spawn(
        command(&host, End::Ours, "client").args(["-l", CLIENT, "-r", SERVER, "--ds", "0", "--ps", "0"]),
    );
    Tunnel { host, server, client, options: Vec::new() }.carries_everything();
}

fn our_own_two_ends_understand_each_other_without_encryption_too() {
    // The last as Go's flags may be written.
    let one_dash = "-crypt xor -smuxver 2 -nocomp -congestion bbr";
    for options in ["--crypt null --nocomp", "--crypt null --smuxver 2", one_dash] {
        Tunnel::start(End::Ours, End::Ours, options).carries_everything();
    }
}

fn half_a_connection_may_end_and_be_answered_afterwards() {
    for version in ["1", "2"] {
        let tunnel = Tunnel::start(End::Ours, End::Ours, &format!("--smuxver {version} --nocomp"));
        let mut stream = tunnel.connect();
        stream.write_all(&pattern(1)).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        assert!(received == pattern(1), "version {version}: {} of {BYTES} bytes", received.len());
    }
}

fn another_key_carries_nothing() {
    let host = Host::new();
    serve_echo(&host);
    let server =
        spawn(command(&host, End::Ours, "server").args(["-l", SERVER, "-t", TARGET, "--key", "one"]));
    let client = spawn(command(&host, End::Ours, "client").args([
        "-l",
        CLIENT,
        "-r",
        SERVER,
        "--key",
        "another",
        "--keepalive",
        "1",
    ]));
    let tunnel = Tunnel { host, server, client, options: Vec::new() };
    let mut stream = tunnel.connect();
    stream.write_all(b"anybody?").unwrap();
    let began = Instant::now();
    let answer = stream.read(&mut [0; 8]);
    assert!(answer.is_err(), "the connection is reset, not ended: {answer:?}");
    assert!(began.elapsed() < SOON, "within three keepalives");
}

fn a_json_file_counts_more_than_flags_and_the_key_may_come_from_the_environment() {
    let (host, scratch) = (Host::new(), Scratch::new());
    serve_echo(&host);
    let path = scratch.path.join("kcptun.json");
    let json = format!(
        r#"{{"listen": "{SERVER}", "target": "{TARGET}", "localaddr": "{CLIENT}", "remoteaddr": "{SERVER}",
            "crypt": "salsa20", "mode": "fast3", "nocomp": true, "datashard": 0, "parityshard": 0, "smuxver": 2, "comment": 1}}"#
    );
    fs::write(&path, json).unwrap();
    let start = |role, other| {
        let mut command = command(&host, End::Ours, role);
        spawn(
            command
                .arg("-c")
                .arg(&path)
                .args(["--crypt", other, "--mode", "normal"])
                .env("KCPTUN_KEY", "of both"),
        )
    };
    let (server, client) = (start("server", "aes"), start("client", "xor"));
    Tunnel { host, server, client, options: Vec::new() }.carries_everything();
}

fn a_signal_ends_live_connections_within_a_second() {
    let mut tunnel = Tunnel::start(End::Ours, End::Ours, "--nocomp");
    let mut streams: Vec<TcpStream> = (0..50).map(|_| tunnel.connect()).collect();
    for stream in &mut streams {
        stream.write_all(b"alive").unwrap();
        stream.read_exact(&mut [0; 5]).unwrap();
    }
    let began = Instant::now();
    os::netns::terminate(&mut tunnel.server).unwrap();
    let status = tunnel.server.wait().unwrap();
    assert!(
        status.success() && began.elapsed() < Duration::from_secs(1),
        "{status} after {:?}",
        began.elapsed()
    );
    for stream in &mut streams {
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let ended = stream.read(&mut [0; 8]).map_err(|error| error.kind());
        assert_eq!(ended, Err(ErrorKind::ConnectionReset), "the client's side learns that it was cut off");
    }
}

fn a_restarted_server_serves_the_same_client_again() {
    let mut tunnel = Tunnel::start(End::Ours, End::Ours, "--nocomp --keepalive 1");
    there_and_back(tunnel.connect(), 1);
    tunnel.server.kill().unwrap();
    tunnel.server.wait().unwrap();
    let mut server = command(&tunnel.host, End::Ours, "server");
    tunnel.server = spawn(server.args(["-l", SERVER, "-t", TARGET]).args(&tunnel.options));
    let answers = || {
        let mut stream = tunnel.connect();
        stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        stream.write_all(b"again").unwrap();
        stream.read_exact(&mut [0; 5]).ok()
    };
    wait_for("an answer of the new server", SOON, answers);
    there_and_back(tunnel.connect(), 2);
}

fn a_target_that_refuses_ends_the_connection() {
    let host = Host::new();
    let server = spawn(command(&host, End::Ours, "server").args(["-l", SERVER, "-t", TARGET]));
    let client = spawn(command(&host, End::Ours, "client").args(["-l", CLIENT, "-r", SERVER]));
    let tunnel = Tunnel { host, server, client, options: Vec::new() };
    let mut stream = tunnel.connect();
    stream.write_all(b"anybody?").unwrap();
    assert!(matches!(stream.read(&mut [0; 8]), Ok(0) | Err(_)));
}

fn messages_go_to_the_log_file_and_what_does_nothing_is_said_once() {
    let (host, scratch) = (Host::new(), Scratch::new());
    let (log, stderr) = (scratch.path.join("kcptun.log"), scratch.path.join("stderr"));
    fs::write(&log, "of an earlier run\n").unwrap();
    // As kcptun's own configurations look: what is off has no effect anyway, and is not worth a word.
    let config = scratch.path.join("kcptun.json");
    fs::write(&config, r#"{"snmplog": "", "snmpperiod": 60, "pprof": false, "quiet": true}"#).unwrap();
    for (options, said) in [
        (
            &["--snmplog", "20060102.log", "--snmpperiod", "5", "--pprof"][..],
            "--snmplog, --snmpperiod, --pprof",
        ),
        (&["-c", config.to_str().unwrap()], ""),
    ] {
        let mut server = command(&host, End::Ours, "server");
        server.args(["-l", SERVER, "-t", TARGET, "--log"]).arg(&log).args(options);
        let mut server = spawn(server.stderr(fs::File::create(&stderr).unwrap()));
        let lines = || fs::read_to_string(&log).unwrap();
        let before = lines().matches("listening").count();
        wait_for("a message", SOON, || (lines().matches("listening").count() > before).then_some(()));
        os::netns::terminate(&mut server).unwrap();
        assert!(server.wait().unwrap().success());
        let text = lines();
        assert!(text.starts_with("of an earlier run\n"), "it is appended: {text}");
        let said_now: Vec<&str> =
            text.lines().filter_map(|line| line.split("without effect in this program: ").nth(1)).collect();
        assert_eq!(said_now, if said.is_empty() { Vec::new() } else { vec![said] }, "{text}");
        assert_eq!(fs::read_to_string(&stderr).unwrap(), "");
        fs::write(&log, "of an earlier run\n").unwrap();
    }

    let output = command(&host, End::Ours, "client")
        .args(["--log", "/nonexistent/log"])
        .stderr(Stdio::piped())
        .output();
    let output = output.unwrap();
    assert!(!output.status.success());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("--log: cannot write /nonexistent/log: No such file"), "{stderr}");
}

fn what_is_not_supported_is_refused_in_words() {
    for (options, words) in [
        (&["--tcp"][..], "--tcp: crafted TCP segments of kcptun are not supported"),
        (&["--crypt", "blowfish"], "the cipher `blowfish` is not supported; it can be aes,"),
        (&["--mode", "faster"], "there is no mode `faster`"),
        (&["--ds", "200", "--ps", "100"], "200 data and 100 parity shards are more than 255"),
        (&["-l", "29900"], "`29900` has no port"),
        (&["-l", ":3000-4000"], "is a range of ports"),
        (&["--keepalive", "0"], "--keepalive: 0 is not between 1 and 3600"),
        (&["-c", "/nonexistent/kcptun.json"], "cannot read /nonexistent/kcptun.json"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_shadowmesh"))
            .args(["kcptun", "server"])
            .args(options)
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{options:?}: {stderr}");
        assert!(stderr.contains(words), "{options:?}: {stderr}");
    }
}
