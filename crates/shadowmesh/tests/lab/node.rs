//! The daemon under test, and its control socket.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use handshake::StaticSecret;
use os::netns::die_with_parent;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use serde_json::{Value, json};

use super::{Host, SOON, Scratch, wait_for};

/// The private key number `number`.
pub(crate) fn secret(number: u64) -> StaticSecret {
    StaticSecret::generate(&mut ChaCha20Rng::seed_from_u64(number))
}

/// A configuration file to be.
#[derive(Clone)]
pub(crate) struct Spec {
    pub(crate) name: &'static str,
    pub(crate) key: u64,
    pub(crate) listen: &'static str,
    pub(crate) workers: usize,
    pub(crate) address: Vec<String>,
    pub(crate) mtu: Option<u16>,
    /// Whether there is a TUN device, and so allowed IPs.
    pub(crate) interface: bool,
    /// More sections, as they are.
    pub(crate) sections: String,
    pub(crate) peers: Vec<PeerSpec>,
}

/// One of its peers, known by the number of its key.
#[derive(Clone)]
pub(crate) struct PeerSpec {
    pub(crate) name: &'static str,
    pub(crate) key: u64,
    pub(crate) endpoint: Option<String>,
    pub(crate) allowed_ips: Vec<String>,
    /// What may carry its datagrams; none for the default.
    pub(crate) carriers: &'static [&'static str],
    pub(crate) protocol: &'static str,
    pub(crate) preshared_key: Option<String>,
    pub(crate) keepalive_s: u16,
}

impl Spec {
    /// `left` (number 1) or `right` (number 2) of a pair, with `10.77.0.n` and `fd77::n` on `shadow0`.
    pub(crate) fn of_pair(number: u64, endpoint: Option<&str>) -> Self {
        let names = if number == 1 { ["left", "right"] } else { ["right", "left"] };
        let other = 3 - number;
        Self {
            name: names[0],
            key: number,
            listen: "0.0.0.0:9443",
            workers: 1,
            address: vec![format!("10.77.0.{number}/24"), format!("fd77::{number}/64")],
            mtu: None,
            interface: true,
            sections: String::new(),
            peers: vec![PeerSpec {
                name: names[1],
                key: other,
                endpoint: endpoint.map(Into::into),
                allowed_ips: vec![format!("10.77.0.{other}/32"), format!("fd77::{other}/128")],
                carriers: &[],
                protocol: "shadowmesh",
                preshared_key: None,
                keepalive_s: 0,
            }],
        }
    }

    fn toml(&self) -> String {
        let Self { name, listen, workers, address, .. } = self;
        let key = secret(self.key).to_base64();
        let mut text = format!(
            "[node]\nname = \"{name}\"\nprivate_key = \"{}\"\nlisten = \"{listen}\"\nworkers = {workers}\n",
            key.as_str()
        );
        if self.interface {
            writeln!(text, "[tun]\nname = \"shadow0\"\naddress = {address:?}").unwrap();
        }
        if let Some(mtu) = self.mtu {
            writeln!(text, "mtu = {mtu}").unwrap();
        }
        for peer in &self.peers {
            let PeerSpec { name, allowed_ips, protocol, keepalive_s, .. } = peer;
            let key = secret(peer.key).public_key();
            write!(
                text,
                "[[peer]]\nname = \"{name}\"\npublic_key = \"{key}\"\n\
                 protocol = \"{protocol}\"\nkeepalive_s = {keepalive_s}\n"
            )
            .unwrap();
            if self.interface {
                writeln!(text, "allowed_ips = {allowed_ips:?}").unwrap();
            }
            if !peer.carriers.is_empty() {
                writeln!(text, "carriers = {:?}", peer.carriers).unwrap();
            }
            if let Some(endpoint) = &peer.endpoint {
                writeln!(text, "endpoint = \"{endpoint}\"").unwrap();
            }
            if let Some(key) = &peer.preshared_key {
                writeln!(text, "preshared_key = \"{key}\"").unwrap();
            }
        }
        text.push_str(&self.sections);
        text
    }
}

/// A running daemon, killed when this is dropped. When the test is failing then, its log and
/// its status are shown.
pub(crate) struct Node {
    name: &'static str,
    child: Child,
    socket: PathBuf,
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Node {
    /// Starts a daemon on a host and returns once it answers.
    ///
    /// Call it on the test's own thread: the daemon dies with the thread.
    #[track_caller]
    pub(crate) fn start(spec: &Spec, host: &Host, scratch: &Scratch) -> Self {
        let node = Self::spawn(spec, host, scratch);
        wait_for("the daemon answers", SOON, || node.request("GET", "/v1/status", None).ok());
        node
    }

    fn spawn(spec: &Spec, host: &Host, scratch: &Scratch) -> Self {
        let path = |extension: &str| scratch.path.join(format!("{}.{extension}", spec.name));
        let (config, socket) = (path("toml"), path("sock"));
        fs::write(&config, spec.toml()).unwrap();
        fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
        let mut command = host.netns.command(env!("CARGO_BIN_EXE_shadowmesh"));
        command.args(["up", "-v", "--config"]).arg(&config);
        // Each node is on a machine of its own, as far as it knows.
        command.arg("--socket").arg(&socket).arg("--state-dir").arg(path("state"));
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = die_with_parent(&mut command).spawn().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (stderr, sink) = (child.stderr.take().unwrap(), Arc::clone(&lines));
        let reader = thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                sink.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Self { name: spec.name, child, socket, lines, reader: Some(reader) }
    }

    /// Starts a daemon that ends by itself; returns how, and its log.
    pub(crate) fn fail_to_start(spec: &Spec, host: &Host, scratch: &Scratch) -> (ExitStatus, String) {
        let mut node = Self::spawn(spec, host, scratch);
        let status = node.wait();
        (status, node.log().join("\n"))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    #[track_caller]
    pub(crate) fn wait_for_log(&self, text: &str, limit: Duration) -> String {
        wait_for(&format!("a log line with `{text}`"), limit, || {
            self.log().into_iter().find(|line| line.contains(text))
        })
    }

    #[track_caller]
    pub(crate) fn status(&self) -> Status {
        Status(self.request("GET", "/v1/status", None).unwrap())
    }

    /// Begins a fresh handshake with the first peer, and returns once its session is in use.
    #[track_caller]
    pub(crate) fn rekey(&self, peer: &str) {
        let before = self.status().handshake_age();
        self.request("POST", "/v1/rekey", Some(&json!({ "peer": peer }))).unwrap();
        wait_for("fresh keys", SOON, || (self.status().handshake_age()? < before?).then_some(()));
    }

    /// A request to the control socket, which is a file and so reachable from every namespace.
    pub(crate) fn request(&self, method: &str, path: &str, body: Option<&Value>) -> io::Result<Value> {
        request(&self.socket, method, path, body)
    }

    /// Kills it as `kill -9` does.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops it as `systemctl stop` does.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        os::netns::terminate(&mut self.child).unwrap();
        assert!(self.wait().success());
    }

    /// Waits until it has ended by itself; its log is complete then.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let status = wait_for("the daemon ends", SOON, || self.child.try_wait().unwrap());
        let _ = self.reader.take().map(JoinHandle::join);
        status
    }

    /// Resident memory in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let pages = fs::read_to_string(format!("/proc/{}/statm", self.pid())).unwrap();
        pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    }

    /// Processor time used so far, by all threads together.
    pub(crate) fn cpu_time(&self) -> Duration {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // proc_pid_stat(5): utime and stime are the 12th and 13th fields after the name, in ticks of 10 ms.
        let fields = text.rsplit(')').next().unwrap().split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
        Duration::from_millis(10 * ticks)
    }
}

#[expect(clippy::print_stderr, reason = "it belongs to the report of a failed test")]
impl Drop for Node {
    fn drop(&mut self) {
        let status = if thread::panicking() { self.request("GET", "/v1/status", None).ok() } else { None };
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.reader.take().map(JoinHandle::join);
        if thread::panicking() {
            for line in self.log() {
                eprintln!("{:>8} │ {line}", self.name);
            }
            if let Some(status) = status {
                eprintln!("{:>8} │ {status}", self.name);
            }
        }
    }
}

fn request(socket: &Path, method: &str, path: &str, body: Option<&Value>) -> io::Result<Value> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(SOON))?;
    let body = body.map_or(String::new(), Value::to_string);
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(io::Error::other(answer));
    }
    serde_json::from_str(body).map_err(io::Error::other)
}

/// What `status --json` prints.
#[derive(Debug)]
pub(crate) struct Status(pub(crate) Value);

impl Status {
    /// The first peer.
    pub(crate) fn peer(&self) -> &Value {
        &self.0["peers"][0]
    }

    pub(crate) fn connected(&self) -> bool {
        self.peer()["connected"] == true
    }

    pub(crate) fn endpoint(&self) -> Option<String> {
        self.peer()["endpoint"].as_str().map(Into::into)
    }

    /// What carries the datagrams of the first peer.
    pub(crate) fn carrier(&self) -> &str {
        self.peer()["carrier"].as_str().unwrap()
    }

    pub(crate) fn handshake_age(&self) -> Option<f64> {
        self.peer()["latest_handshake_s"].as_f64()
    }

    /// A counter of the first peer.
    pub(crate) fn count(&self, name: &str) -> u64 {
        self.peer()[name].as_u64().unwrap()
    }

    /// Packets dropped for a reason, of the first peer and of nobody in particular.
    pub(crate) fn dropped(&self, reason: &str) -> u64 {
        [&self.0["drops"], &self.peer()["drops"]].iter().filter_map(|drops| drops[reason].as_u64()).sum()
    }

    /// All drops.
    pub(crate) fn drops(&self) -> u64 {
        let maps = [&self.0["drops"], &self.peer()["drops"]];
        maps.iter().filter_map(|map| map.as_object()).flatten().filter_map(|(_, count)| count.as_u64()).sum()
    }

    /// Buffers of the pool in use, of both classes.
    pub(crate) fn buffers_in_use(&self) -> u64 {
        ["large", "small"].iter().map(|class| self.0["pool"][class]["in_use"].as_u64().unwrap()).sum()
    }

    /// A number of each worker.
    pub(crate) fn workers(&self, name: &str) -> Vec<u64> {
        let workers = self.0["workers"].as_array().unwrap();
        workers.iter().map(|worker| worker[name].as_u64().unwrap()).collect()
    }
}
