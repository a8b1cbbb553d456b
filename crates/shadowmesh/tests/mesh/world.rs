//! Two machines on one cable, and daemons to run on them.

use std::fs;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use os::netns::{Netns, veth_pair};
use serde_json::Value;

use crate::support::{Scratch, clean, run_with_input, stdout};

/// No step of a test takes longer, however busy the machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
}

use Side::{Left, Right};

impl Side {
    pub(crate) fn name(self) -> &'static str {
        if self == Left { "left" } else { "right" }
    }

    fn number(self) -> u8 {
        if self == Left { 1 } else { 2 }
    }

    pub(crate) fn other(self) -> Self {
        if self == Left { Right } else { Left }
    }

    pub(crate) fn inner_v4(self) -> IpAddr {
        [10, 77, 0, self.number()].into()
    }

    pub(crate) fn inner_v6(self) -> IpAddr {
        [0xfd77, 0, 0, 0, 0, 0, 0, u16::from(self.number())].into()
    }
}

/// Two namespaces joined by a cable with the addresses 192.0.2.1 and 192.0.2.2.
pub(crate) struct World {
    pub(crate) scratch: Scratch,
    left: Netns,
    right: Netns,
    keys: [(String, String); 2],
}

impl World {
    pub(crate) fn new() -> Self {
        let (left, right) = (Netns::new().unwrap(), Netns::new().unwrap());
        veth_pair(&left, "eth0", &right, "eth0").unwrap();
        for (side, namespace) in [(Left, &left), (Right, &right)] {
            let mut netlink = namespace.netlink().unwrap();
            let index = netlink.link_index("eth0").unwrap();
            let address: IpNet = format!("192.0.2.{}/24", side.number()).parse().unwrap();
            netlink.add_address(index, address).unwrap();
        }
        let key = || {
            let secret = stdout(&run_with_input(&["genkey"], b""));
            let public = stdout(&run_with_input(&["pubkey"], secret.as_bytes()));
            (secret.trim().to_owned(), public.trim().to_owned())
        };
        Self { scratch: Scratch::new(), left, right, keys: [key(), key()] }
    }

    pub(crate) fn namespace(&self, side: Side) -> &Netns {
        if side == Left { &self.left } else { &self.right }
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.scratch.path.join("run")
    }

    /// Writes the usual configuration of a side. `node` and `peer` are further lines of those sections.
    pub(crate) fn configure(&self, side: Side, node: &str, peer: &str) {
        let [left, right] = &self.keys;
        let (own, other) = if side == Left { (left, right) } else { (right, left) };
        let (number, other_number, other_name) = (side.number(), side.other().number(), side.other().name());
        let endpoint = if peer.contains("endpoint") {
            String::new()
        } else {
            format!("endpoint = \"192.0.2.{other_number}:9443\"\n")
        };
        let text = format!(
            "[node]\nprivate_key = \"{}\"\nlisten = \"0.0.0.0:9443\"\n{node}\n\
             [tun]\nname = \"shadow0\"\naddress = [\"10.77.0.{number}/24\", \"fd77::{number}/64\"]\n\
             [[peer]]\nname = \"{other_name}\"\npublic_key = \"{}\"\n{endpoint}\
             allowed_ips = [\"10.77.0.{other_number}/32\", \"fd77::{other_number}/128\"]\n{peer}\n",
            own.0, other.1
        );
        self.scratch.write(&format!("{}.toml", side.name()), &text);
    }

    /// A `shadowmesh` command in a side's namespace.
    fn command(&self, side: Side, args: &[&str]) -> std::process::Command {
        let mut command = clean(self.namespace(side).command(env!("CARGO_BIN_EXE_shadowmesh")));
        command.args(args);
        self.place(&mut command);
        command
    }

    fn place(&self, command: &mut std::process::Command) {
        command
            .current_dir(&self.scratch.path)
            .env("SHADOWMESH_RUN_DIR", self.run_dir())
            .env("SHADOWMESH_STATE_DIR", self.scratch.path.join("state"));
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, side: Side, args: &[&str]) -> Output {
        self.command(side, args).output().unwrap()
    }

    /// Starts a daemon and waits until it tells systemd that it is ready.
    pub(crate) fn start(&self, side: Side) -> Daemon {
        self.start_with(side, &[])
    }

    pub(crate) fn start_with(&self, side: Side, args: &[&str]) -> Daemon {
        self.start_in(side, side, args)
    }

    /// Starts the daemon of a side in the namespace of another.
    pub(crate) fn start_in(&self, place: Side, side: Side, args: &[&str]) -> Daemon {
        let up = ["up", "-v", "-c", &format!("{}.toml", side.name())];
        let mut command = self.command(place, &up);
        command.args(args);
        self.spawn(side, command)
    }

    /// Starts a daemon that may have no more than so many descriptors.
    pub(crate) fn start_with_descriptors(&self, side: Side, descriptors_max: u32) -> Daemon {
        let script = format!("ulimit -n {descriptors_max}; exec \"$@\"");
        let program = env!("CARGO_BIN_EXE_shadowmesh");
        let mut command = clean(self.namespace(side).command("sh"));
        command.args(["-c", &script, "sh", program, "up", "-v", "-c", &format!("{}.toml", side.name())]);
        self.place(&mut command);
        self.spawn(side, command)
    }

    fn spawn(&self, side: Side, mut command: std::process::Command) -> Daemon {
        let notify = self.scratch.path.join(format!("{}.notify", side.name()));
        let _ = fs::remove_file(&notify);
        let ready = UnixDatagram::bind(&notify).unwrap();
        ready.set_read_timeout(Some(PATIENCE)).unwrap();
        let log = self.scratch.path.join(format!("{}.log", side.name()));
        command.env("NOTIFY_SOCKET", &notify).stdout(Stdio::null());
        command.stderr(fs::File::create(&log).unwrap());
        let child = command.spawn().unwrap();
        let daemon = Daemon { child, log, notify: ready };
        assert_eq!(daemon.notified(), "READY=1", "{}", daemon.log());
        daemon
    }

    pub(crate) fn status(&self, side: Side) -> Value {
        let output = self.run(side, &["status", "--json", "--node", side.name()]);
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Probes the other side by `shadowmesh ping` until it answers.
    pub(crate) fn connect(&self, side: Side) {
        let deadline = Instant::now() + PATIENCE;
        let ping = ["ping", side.other().name(), "--node", side.name(), "-n", "1", "-W", "1"];
        loop {
            let output = self.run(side, &ping);
            if output.status.success() {
                return;
            }
            assert!(Instant::now() < deadline, "no answer: {}", stdout(&output));
        }
    }

    /// Sends numbered datagrams through the tunnel and returns how many came out at the other side unharmed.
    pub(crate) fn exchange(&self, from: Side, v6: bool, count: u32, len: usize) -> u32 {
        let inner = |side: Side| if v6 { side.inner_v6() } else { side.inner_v4() };
        let bind =
            |side| self.namespace(side).run(|| UdpSocket::bind((inner(side), 7_000)).unwrap()).unwrap();
        let (sender, receiver) = (bind(from), bind(from.other()));
        receiver.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let datagram = |number: u32| {
            let mut bytes: Vec<u8> = (0..len).map(|at| (at as u32 * 31 + number) as u8).collect();
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            bytes
        };
        let mut received = 0;
        let mut buffer = vec![0; 65_536];
        for number in 0..count {
            sender.send_to(&datagram(number), (inner(from.other()), 7_000)).unwrap();
            match receiver.recv(&mut buffer) {
                Ok(got) => received += u32::from(buffer[..got] == datagram(number)),
                Err(error) => assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)),
            }
        }
        received
    }

    /// Sends datagrams until one comes out at the other side.
    pub(crate) fn exchange_until_received(&self, from: Side) {
        let deadline = Instant::now() + PATIENCE;
        while self.exchange(from, false, 1, 100) == 0 {
            assert!(Instant::now() < deadline, "nothing gets through");
        }
    }

    /// Whether a side has an interface of that name.
    pub(crate) fn has_interface(&self, side: Side, name: &str) -> bool {
        self.namespace(side).netlink().unwrap().link(name).is_ok()
    }

    /// The files in the directory of control sockets.
    pub(crate) fn sockets(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.run_dir()) else { return Vec::new() };
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// A running `shadowmesh up`, killed at the end of the test whatever happens.
pub(crate) struct Daemon {
    pub(crate) child: Child,
    log: PathBuf,
    notify: UnixDatagram,
}

impl Daemon {
    /// What it told systemd last.
    pub(crate) fn notified(&self) -> String {
        let mut buffer = [0; 256];
        let len = self.notify.recv(&mut buffer).unwrap_or_else(|error| panic!("{error}: {}", self.log()));
        String::from_utf8(buffer[..len].to_vec()).unwrap()
    }

    pub(crate) fn log(&self) -> String {
        let mut text = String::new();
        fs::File::open(&self.log).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    /// Waits until the log holds `text`.
    pub(crate) fn logs(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.log().contains(text) {
            assert!(Instant::now() < deadline, "`{text}` was never logged:\n{}", self.log());
            std::thread::yield_now();
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let status = std::process::Command::new("kill")
            .args([format!("-{name}"), self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// Waits for its end: the exit code, and how long it took.
    pub(crate) fn wait(&mut self) -> (Option<i32>, Duration) {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status.code(), start.elapsed());
            }
            assert!(start.elapsed() < PATIENCE, "it does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
