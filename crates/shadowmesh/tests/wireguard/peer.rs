//! wireguard-go on a host, and what `wg` says about it.

use std::fmt::Write as _;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use os::netns::{Netns, die_with_parent};

use crate::lab::{Host, SOON, output, secret, wait_for};

/// What its configuration adds to keys and addresses.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) endpoint: Option<String>,
    pub(crate) preshared_key: Option<String>,
    pub(crate) keepalive_s: u16,
}

/// A running wireguard-go with `10.77.0.2` and `fd77::2`, key number 2, and key number 1 as its peer. Killed when
/// this is dropped.
pub(crate) struct WireguardGo {
    child: Child,
    netns: Netns,
    interface: String,
}

impl WireguardGo {
    pub(crate) fn start(host: &Host, setup: &Setup) -> Self {
        // Its control socket is named after the interface and visible in every namespace.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let interface = format!("wg{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let mut command = host.netns.command("wireguard-go");
        command.args(["--foreground", &interface]).env("LOG_LEVEL", "error");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = die_with_parent(&mut command).spawn().unwrap();
        let mut it = Self { child, netns: host.netns.clone(), interface };
        // Not by asking `wg`: it takes a socket that nobody listens at yet for a stale one, and deletes it.
        wait_for("wireguard-go runs", SOON, || {
            assert_eq!(it.child.try_wait().unwrap(), None, "wireguard-go ended");
            UnixStream::connect(it.socket()).ok()
        });
        it.configure(setup);
        let mut netlink = it.netns.netlink().unwrap();
        let index = netlink.link_index(&it.interface).unwrap();
        for address in ["10.77.0.2/24", "fd77::2/64"] {
            netlink.add_address(index, address.parse().unwrap()).unwrap();
        }
        netlink.set_mtu(index, 1420).unwrap();
        netlink.set_up(index, true).unwrap();
        it
    }

    /// Kills it and starts another in its place.
    pub(crate) fn restart(self, host: &Host, setup: &Setup) -> Self {
        drop(self);
        Self::start(host, setup)
    }

    fn configure(&self, setup: &Setup) {
        let mut text = format!(
            "[Interface]\nPrivateKey = {}\nListenPort = 9443\n[Peer]\nPublicKey = {}\n\
             AllowedIPs = 10.77.0.1/32, fd77::1/128\nPersistentKeepalive = {}\n",
            secret(2).to_base64().as_str(),
            secret(1).public_key(),
            setup.keepalive_s,
        );
        if let Some(endpoint) = &setup.endpoint {
            writeln!(text, "Endpoint = {endpoint}").unwrap();
        }
        if let Some(key) = &setup.preshared_key {
            writeln!(text, "PresharedKey = {key}").unwrap();
        }
        let mut command = self.wg(&["setconf", &self.interface, "/dev/stdin"]);
        let mut wg = command.stdin(Stdio::piped()).spawn().unwrap();
        wg.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(wg.wait().unwrap().success());
    }

    fn socket(&self) -> PathBuf {
        PathBuf::from(format!("/var/run/wireguard/{}.sock", self.interface))
    }

    fn wg(&self, arguments: &[&str]) -> Command {
        let mut command = self.netns.command("wg");
        command.args(arguments);
        command
    }

    /// The fields of the only peer's line in `wg show INTERFACE what`, without its public key.
    fn show(&self, what: &str) -> Vec<String> {
        let text = output(&mut self.wg(&["show", &self.interface, what]));
        text.split_whitespace().skip(1).map(Into::into).collect()
    }

    /// Goes on from another UDP port.
    pub(crate) fn move_to_port(&self, port: u16) {
        output(&mut self.wg(&["set", &self.interface, "listen-port", &port.to_string()]));
    }

    /// Seconds since the Unix epoch; 0 before the first.
    pub(crate) fn latest_handshake(&self) -> u64 {
        self.show("latest-handshakes")[0].parse().unwrap()
    }

    pub(crate) fn handshake_age(&self) -> Duration {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        now.saturating_sub(Duration::from_secs(self.latest_handshake()))
    }

    /// Where it believes us to be.
    pub(crate) fn endpoint(&self) -> String {
        self.show("endpoints")[0].clone()
    }

    /// Bytes received from us, and sent to us, as datagrams.
    pub(crate) fn transfer(&self) -> (u64, u64) {
        let fields = self.show("transfer");
        (fields[0].parse().unwrap(), fields[1].parse().unwrap())
    }
}

impl Drop for WireguardGo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Killed, it leaves this behind.
        let _ = std::fs::remove_file(self.socket());
    }
}
