//! Two machines in one: network namespaces, the cable between them, and a real daemon in each.
//!
//! ```text
//!  namespace "left"                                   namespace "right"
//!  10.77.0.1 on shadow0 ── daemon ──┐             ┌── daemon ── 10.77.0.2 on shadow0
//!                           192.0.2.1 on wire0 ═══ 192.0.2.2 on wire0
//! ```
//!
//! Nothing has a name outside this process or touches a file: the namespaces are held by descriptors, the
//! daemons read their configuration from a pipe, listen for control on abstract sockets and die with us.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use handshake::StaticSecret;
use ipnet::{IpNet, Ipv4Net};
use os::netns::{self, Netns};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::failure::{Context, Failure, Outcome};
use crate::control::{Client, SocketName, Status};

/// The cable's ends (RFC 5737 documentation addresses).
const LEFT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const RIGHT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// Where the left node moves to.
pub(super) const LEFT_MOVED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);
const UNDERLAY_PREFIX: u8 = 24;
pub(super) const WIRE: &str = "wire0";
const TUN: &str = "shadow0";
const PORT: u16 = 9443;
/// How long a daemon may take to answer on its control socket.
const START_MAX: Duration = Duration::from_secs(10);
/// How long it may take to stop.
const STOP_MAX: Duration = Duration::from_secs(1);
/// How often something that is waited for is looked at.
const POLL: Duration = Duration::from_millis(5);
/// Lines of a daemon's log that are kept, for when something goes wrong.
const LOG_LINES: usize = 40;

/// Both machines.
pub(super) struct World {
    pub(super) left: Host,
    pub(super) right: Host,
}

/// One machine.
pub(super) struct Host {
    pub(super) name: &'static str,
    pub(super) netns: Netns,
    /// Where the other machine reaches its daemon.
    pub(super) underlay: Ipv4Addr,
    /// Its address inside the mesh.
    pub(super) overlay: Ipv4Addr,
    secret: StaticSecret,
    daemon: Option<Daemon>,
    log: Log,
}

impl World {
    /// Two machines and a cable; no daemon yet.
    pub(super) fn new() -> Outcome<Self> {
        let left = Host::new("left", LEFT, Ipv4Addr::new(10, 77, 0, 1))?;
        let right = Host::new("right", RIGHT, Ipv4Addr::new(10, 77, 0, 2))?;
        netns::veth_pair(&left.netns, WIRE, &right.netns, WIRE)
            .context("cannot join the namespaces (if the kernel has no veth: sudo modprobe veth)")?;
        left.add_address(LEFT)?;
        right.add_address(RIGHT)?;
        Ok(Self { left, right })
    }

    /// Starts both daemons and returns once they answer. Only the left one is told where the other is; it
    /// knocks as soon as it runs, so the right one has to be there first.
    ///
    /// Call it on a thread that lasts as long as they should: they die with it.
    pub(super) fn start_daemons(&mut self, workers: usize) -> Outcome<()> {
        let right = self.right.own_config(workers) + &self.left.as_peer(None);
        self.right.start(&right)?;
        self.await_start(|world| &world.right)?;
        let left = self.left.own_config(workers) + &self.right.as_peer(Some(self.right.underlay));
        self.left.start(&left)?;
        self.await_start(|world| &world.left)
    }

    fn await_start(&mut self, host: impl Fn(&Self) -> &Host) -> Outcome<()> {
        let deadline = Instant::now() + START_MAX;
        loop {
            let Err(failure) = host(self).status() else { return Ok(()) };
            self.check_alive()?;
            if Instant::now() > deadline {
                return Err(failure);
            }
            thread::sleep(POLL);
        }
    }

    /// Fails when a daemon has ended by itself.
    pub(super) fn check_alive(&mut self) -> Outcome<()> {
        for host in [&mut self.left, &mut self.right] {
            let Some(daemon) = &mut host.daemon else { continue };
            if let Some(status) = daemon.child.try_wait().context("cannot look after a daemon")? {
                return Err(Failure::new(format!("the daemon of {} ended with {status}", host.name)));
            }
        }
        Ok(())
    }

    /// Stops both daemons and returns how long that took.
    pub(super) fn stop_daemons(&mut self) -> Outcome<Duration> {
        let start = Instant::now();
        let mut daemons: Vec<_> = [&mut self.left, &mut self.right]
            .into_iter()
            .filter_map(|host| Some((host.name, host.daemon.take()?)))
            .collect();
        for (name, daemon) in &mut daemons {
            netns::terminate(&mut daemon.child).context(format_args!("cannot stop {name}"))?;
        }
        for (name, daemon) in &mut daemons {
            daemon.await_exit(name, start + STOP_MAX)?;
        }
        Ok(start.elapsed())
    }

    /// Checks that the daemons took their TUN devices with them.
    pub(super) fn check_nothing_left(&self) -> Outcome<()> {
        for host in [&self.left, &self.right] {
            let links = host.netns.netlink().context("no netlink")?.links().context("no list of links")?;
            if let Some(left) = links.iter().find(|link| link.name == TUN) {
                return Err(Failure::new(format!("{} left its interface {} behind", host.name, left.name)));
            }
        }
        Ok(())
    }

    /// Ends the daemons, if they still run, and returns the last lines that they logged, each after the name
    /// of its node.
    pub(super) fn into_logs(mut self) -> Vec<String> {
        (self.left.daemon, self.right.daemon) = (None, None);
        let lines = |host: &Host| {
            host.log.lines().into_iter().map(|line| format!("{:>5} │ {line}", host.name)).collect::<Vec<_>>()
        };
        [lines(&self.left), lines(&self.right)].concat()
    }
}

impl Host {
    /// A machine without a network, and with a key of its own; no daemon yet.
    pub(super) fn new(name: &'static str, underlay: Ipv4Addr, overlay: Ipv4Addr) -> Outcome<Self> {
        let mut seed = <ChaCha20Rng as SeedableRng>::Seed::default();
        getrandom::fill(&mut seed).context("no randomness for keys")?;
        let secret = StaticSecret::generate(&mut ChaCha20Rng::from_seed(seed));
        let netns = Netns::new().context("cannot make a network namespace")?;
        Ok(Self { name, netns, underlay, overlay, secret, daemon: None, log: Log::default() })
    }

    /// Asks the daemon how it is.
    pub(super) fn status(&self) -> Outcome<Status> {
        self.ask(Client::status)
    }

    /// Makes the daemon replace its session with the other.
    pub(super) fn rekey(&self) -> Outcome<()> {
        self.ask(|client| client.rekey(self.peer_name()))
    }

    /// Gives the machine another address in place of the one it has.
    pub(super) fn move_to(&self, address: Ipv4Addr) -> Outcome<()> {
        // Otherwise the kernel takes the new, secondary address away with the old one.
        let sysctl = format!("net/ipv4/conf/{WIRE}/promote_secondaries");
        self.netns.sysctl(&sysctl, "1").context(format_args!("cannot set {sysctl}"))?;
        self.add_address(address)?;
        let mut netlink = self.netns.netlink().context("no netlink")?;
        let wire = netlink.link_index(WIRE).context("no wire")?;
        netlink.del_address(wire, network(self.underlay)).context("cannot take an address away")
    }

    pub(super) fn add_address(&self, address: Ipv4Addr) -> Outcome<()> {
        let mut netlink = self.netns.netlink().context("no netlink")?;
        let wire = netlink.link_index(WIRE).context("no wire")?;
        netlink.add_address(wire, network(address)).context("cannot give an address")
    }

    fn ask<T: Send>(
        &self,
        question: impl FnOnce(&Client) -> Result<T, crate::control::ClientError> + Send,
    ) -> Outcome<T> {
        let client = Client::new(SocketName::Abstract(self.control_name()));
        // An abstract socket belongs to its network namespace.
        let answer = self.netns.run(|| question(&client)).context("cannot enter a namespace")?;
        answer.context(format_args!("{} does not answer", self.name))
    }

    /// Starts the daemon; whether it comes to run, its [status](Self::status) tells.
    ///
    /// Call it on a thread that lasts as long as the daemon should: it dies with it.
    pub(super) fn start(&mut self, config: &str) -> Outcome<()> {
        let executable = std::env::current_exe().context("cannot find this program's own file")?;
        let mut command = self.netns.command(executable);
        command
            .args(["up", "--config", "/dev/stdin", "--socket", &format!("@{}", self.control_name())])
            // No directory, so that the daemon keeps no state.
            .args(["--state-dir", "/dev/null"])
            // What is set here for a node of the user is not meant for these.
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // So that Ctrl-C is ours to answer.
            .process_group(0);
        let mut child = netns::die_with_parent(&mut command)
            .spawn()
            .context(format_args!("cannot start the daemon of {}", self.name))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A daemon that does not read it has ended; whoever waits for its start will say so.
            let _ = stdin.write_all(config.as_bytes());
        }
        let log = self.log.clone();
        let reader =
            child.stderr.take().map(|stderr| thread::spawn(move || log.follow(BufReader::new(stderr))));
        self.daemon = Some(Daemon { child, reader });
        Ok(())
    }

    /// What stands in its own configuration, but for the peers.
    pub(super) fn own_config(&self, workers: usize) -> String {
        format!(
            r#"
            [node]
            name = "{name}"
            private_key = "{key}"
            listen = "0.0.0.0:{PORT}"
            workers = {workers}
            [tun]
            name = "{TUN}"
            address = ["{overlay}/24"]
            "#,
            name = self.name,
            key = self.secret.to_base64().as_str(),
            overlay = self.overlay,
        )
    }

    /// What stands in the configurations of its peers.
    pub(super) fn as_peer(&self, endpoint: Option<Ipv4Addr>) -> String {
        let endpoint = endpoint.map_or(String::new(), |address| format!("endpoint = \"{address}:{PORT}\""));
        format!(
            r#"
            [[peer]]
            name = "{name}"
            public_key = "{key}"
            allowed_ips = ["{overlay}/32"]
            {endpoint}
            "#,
            name = self.name,
            key = self.secret.public_key(),
            overlay = self.overlay,
        )
    }

    fn control_name(&self) -> String {
        format!("shadowmesh-demo-{}-{}", std::process::id(), self.name)
    }

    fn peer_name(&self) -> &'static str {
        if self.name == "left" { "right" } else { "left" }
    }
}

/// A running daemon, killed when this is dropped.
struct Daemon {
    child: Child,
    /// Of its log; ends with the daemon, which closes the pipe.
    reader: Option<JoinHandle<()>>,
}

impl Daemon {
    fn await_exit(&mut self, name: &str, deadline: Instant) -> Outcome<()> {
        loop {
            match self.child.try_wait().context("cannot wait for a daemon")? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(Failure::new(format!("{name} ended with {status}"))),
                None if Instant::now() > deadline => {
                    return Err(Failure::new(format!("{name} did not stop within {} s", STOP_MAX.as_secs())));
                }
                None => thread::sleep(POLL),
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone after this.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // After this the log is complete.
        let _ = self.reader.take().map(JoinHandle::join);
    }
}

/// The last lines of what a daemon says.
#[derive(Clone, Default)]
struct Log {
    lines: Arc<Mutex<VecDeque<String>>>,
}

impl Log {
    fn follow(&self, daemon: impl BufRead) {
        for line in daemon.lines().map_while(Result::ok) {
            let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            if lines.len() == LOG_LINES {
                lines.pop_front();
            }
            lines.push_back(line);
        }
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

fn network(address: Ipv4Addr) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(address, UNDERLAY_PREFIX))
}
