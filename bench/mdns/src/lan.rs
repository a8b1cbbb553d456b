//! Hosts that are network namespaces, and programs in them.

use std::io::{self, Read, Write};
use std::process::{Child, Command, Stdio};

use os::multicast::{Departure, MulticastSocket};
use os::netns::{Netns, die_with_parent};

/// The group and port of Multicast DNS over IPv4.
pub const GROUP: &str = "224.0.0.251:5353";

/// The interface that every host has.
pub const DEVICE: &str = "wire0";

/// Hosts on one bridge, with the addresses 192.0.2.1, .2, …
pub struct Lan {
    /// In order of their addresses.
    pub hosts: Vec<Netns>,
    _hub: Netns,
}

impl Lan {
    /// A network of so many hosts.
    ///
    /// # Errors
    /// Without the rights to make namespaces.
    pub fn new(hosts: usize) -> io::Result<Self> {
        let hosts: Vec<Netns> = (0..hosts).map(|_| Netns::new()).collect::<Result<_, _>>()?;
        for host in &hosts {
            // Addresses are usable at once.
            host.sysctl("net.ipv6.conf.all.accept_dad", "0")?;
            host.sysctl("net.ipv6.conf.default.accept_dad", "0")?;
        }
        let ends: Vec<(&Netns, &str)> = hosts.iter().map(|host| (host, DEVICE)).collect();
        let hub = Netns::bridge(&ends)?;
        let lan = Self { hosts, _hub: hub };
        for number in 0..lan.hosts.len() {
            lan.add_address(number, &format!("192.0.2.{}/24", number + 1))?;
        }
        Ok(lan)
    }

    /// Gives a host one more address.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn add_address(&self, host: usize, net: &str) -> io::Result<()> {
        let index = self.index(host)?;
        Ok(self.hosts[host].netlink()?.add_address(index, net.parse().map_err(io::Error::other)?)?)
    }

    fn index(&self, host: usize) -> io::Result<u32> {
        Ok(self.hosts[host].netlink()?.link_index(DEVICE)?)
    }

    /// A socket of a host that speaks Multicast DNS, and where its packets go.
    ///
    /// # Errors
    /// When it cannot be bound.
    pub fn speaker(&self, host: usize) -> io::Result<(MulticastSocket, Departure)> {
        let to = GROUP.parse().map_err(io::Error::other)?;
        let socket = self.hosts[host].run(|| MulticastSocket::bind(to))??;
        let interface = self.index(host)?;
        socket.join(interface)?;
        Ok((socket, Departure { interface, source: None, to }))
    }
}

/// A program on a host, with which one talks line by line. It is killed when this is dropped.
pub struct Program {
    child: Child,
}

impl Program {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(host: &Netns, program: &std::path::Path, arguments: &[&str]) -> io::Result<Self> {
        let mut command: Command = host.command(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        Ok(Self { child: die_with_parent(&mut command).spawn()? })
    }

    /// Tells it to go on.
    ///
    /// # Errors
    /// When it has ended.
    pub fn go_on(&mut self) -> io::Result<()> {
        self.child.stdin.as_mut().ok_or(io::ErrorKind::BrokenPipe)?.write_all(b"\n")
    }

    /// The numbers in the next line that it prints.
    ///
    /// # Errors
    /// When it has ended.
    #[expect(clippy::unbuffered_bytes, reason = "a buffer would keep the line after it")]
    pub fn numbers(&mut self) -> io::Result<Vec<f64>> {
        let stdout = self.child.stdout.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        let bytes = stdout.bytes().map_while(Result::ok);
        let line: Vec<u8> = bytes.take_while(|byte| *byte != b'\n').collect();
        if line.is_empty() {
            return Err(io::Error::other("the program has ended"));
        }
        Ok(String::from_utf8_lossy(&line).split_whitespace().filter_map(|word| word.parse().ok()).collect())
    }

    /// Processor time that it has used, in seconds (`proc_pid_stat(5)`).
    ///
    /// # Errors
    /// When it has ended.
    pub fn cpu_seconds(&self) -> io::Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<_> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
        Ok((ticks(11) + ticks(12)) / 100.0)
    }

    /// The most memory that it has had resident, in MB.
    ///
    /// # Errors
    /// When it has ended.
    pub fn resident_mb_max(&self) -> io::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default();
        let kib: f64 = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0.0);
        Ok(kib * 1_024.0 / 1e6)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
