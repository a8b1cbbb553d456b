//! Datagrams in crafted TCP segments that pass the kernel's TCP by: the sockets under [`carrier::fake_tcp`].
//!
//! ```text
//!                    FakeTcpLink (one a worker)                    the kernel
//!  train ──► numbers, masks ──► AF_PACKET, one super-segment ────► device (TSO)
//!  train ◄── flows, guard  ◄─── AF_PACKET, filter, fanout ◄─────── GRO ──► TCP: SilentPort drops it, no RST
//!            handshake, ACK ──► raw IP: the kernel routes
//! ```
//!
//! [`bind`] gives a link a worker and a [`FakeTcpHandle`] to dial with. A link is used as a UDP link is, and besides wants
//! [`FakeTcpLink::handle_timeout`] to be called when [`FakeTcpLink::poll_timeout`] is due.
//!
//! Interface, source address and the next hop's hardware address are asked from the kernel and followed as they change; nobody configures
//! them. Where packets have no Ethernet header (PPP, TUN), or the neighbour is not known yet, trains leave through a raw IP socket.
//! Link-local IPv6 addresses cannot be dialled.

mod link;
mod packet_socket;
mod path;
mod raw;
mod silence;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use carrier::fake_tcp::{Config, Control, Counts, FakeTcp, FlagCycle, Role};
use carrier::guard::GuardKey;
use thiserror::Error;

pub use link::FakeTcpLink;
pub use path::{Path, Reach, reach};

use crate::netlink::{Netlink, Watch};
use link::Keeper;
use packet_socket::{Options, PacketSocket};
use raw::RawSockets;
use silence::SilentPort;

/// How to [`bind`].
#[derive(Debug)]
pub struct FakeTcpConfig {
    /// The local address and port to answer calls on; `None` to dial only. The wildcard is both families.
    pub listen: Option<SocketAddr>,
    /// Links to make; each is a lane.
    pub workers: usize,
    /// Bytes of kernel buffer for sending, as far as the system allows.
    pub send_buffer_bytes: usize,
    /// Bytes of kernel buffer for receiving, as far as the system allows.
    pub receive_buffer_bytes: usize,
    /// Send trains as super-segments where the kernel takes them.
    pub offload: bool,
    /// The guard of those who call us: derived from our public key.
    pub listen_key: GuardKey,
    /// Random bytes for sequence numbers, new with each start.
    pub secret: [u8; 32],
    /// Flags on flows that we dial, in turn.
    pub local_flags: FlagCycle,
    /// Flags on flows that call us, in turn.
    pub remote_flags: FlagCycle,
}

/// Why [`bind`] failed.
#[derive(Debug, Error)]
pub enum BindError {
    /// Somebody has the port, perhaps another instance of this program.
    #[error("TCP {0} is in use already, perhaps by another instance (see `ss -tlnp`)")]
    AddressInUse(SocketAddr),
    /// The address belongs to no interface of this machine.
    #[error("TCP {0} cannot be listened on: this machine has no such address (see `ip address`)")]
    AddressNotAvailable(SocketAddr),
    /// No right to packet sockets.
    #[error("fake TCP needs CAP_NET_RAW: run as root, or use the udp or tcp carrier")]
    PermissionDenied,
    /// Anything else.
    #[error("cannot open the sockets of fake TCP")]
    Other(#[from] io::Error),
}

/// Which IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn ether_type(self) -> u16 {
        match self {
            Self::V4 => libc::ETH_P_IP as u16,
            Self::V6 => libc::ETH_P_IPV6 as u16,
        }
    }
}

/// What the links of one [`bind`] have in common.
#[derive(Debug)]
struct Common {
    engine: FakeTcp<Path>,
    listen: Option<SilentPort>,
    dial: SilentPort,
    raw: RawSockets,
    netlink: Mutex<Netlink>,
    /// The kernel takes super-segments.
    gso: AtomicBool,
}

/// Dials, hangs up and tells, from any thread. Clones are handles on the same links.
#[derive(Clone, Debug)]
pub struct FakeTcpHandle(Arc<Common>);

/// Makes a link a worker, all on the same port, and a handle to dial with.
///
/// # Errors
/// [`BindError`]; in particular [`BindError::AddressInUse`] when another instance, or a TCP server, listens on the port.
pub fn bind(config: FakeTcpConfig) -> Result<(Vec<FakeTcpLink>, FakeTcpHandle), BindError> {
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let listen =
        config.listen.map(|address| SilentPort::take(address).map_err(|error| explain(address, error)));
    let listen = listen.transpose()?;
    let dial_from = config.listen.map_or(any, |address| SocketAddr::new(address.ip(), 0));
    let dial = SilentPort::take(dial_from).map_err(|error| explain(dial_from, error))?;

    let ports: Vec<u16> = listen.iter().chain([&dial]).map(|port| port.address.port()).collect();
    let options = Options {
        ports: &ports,
        send_buffer_bytes: config.send_buffer_bytes,
        receive_buffer_bytes: config.receive_buffer_bytes,
    };
    let open = |family| -> io::Result<Vec<PacketSocket>> {
        let sockets = (0..config.workers).map(|_| PacketSocket::open(family, &options));
        let sockets: Vec<PacketSocket> = sockets.collect::<io::Result<_>>()?;
        PacketSocket::share(&sockets.iter().collect::<Vec<_>>())?;
        Ok(sockets)
    };
    let opened = open(Family::V4)
        .and_then(|v4| Ok((v4, open(Family::V6)?, RawSockets::open(config.send_buffer_bytes)?)));
    let (v4, v6, raw) = opened.map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => BindError::PermissionDenied,
        _ => BindError::Other(error),
    })?;

    let now = Instant::now();
    let engine_config = Config {
        local_flags: config.local_flags,
        remote_flags: config.remote_flags,
        ..Config::new(config.listen_key, listen.as_ref().map_or(0, |port| port.address.port()), config.secret)
    };
    let common = Arc::new(Common {
        engine: FakeTcp::new(engine_config, now, unix_time()),
        listen,
        dial,
        raw,
        netlink: Mutex::new(Netlink::open()?),
        gso: AtomicBool::new(config.offload),
    });
    let mut links: Vec<FakeTcpLink> = v4
        .into_iter()
        .zip(v6)
        .enumerate()
        .map(|(lane, (v4, v6))| FakeTcpLink::new(Arc::clone(&common), lane as u8, v4, v6))
        .collect();
    if let Some(first) = links.first_mut() {
        first.keep(Keeper::new(Watch::open_with_neighbours()?, now));
    }
    // Only now that changes are watched for: none is missed.
    common.read_own_addresses();
    Ok((links, FakeTcpHandle(common)))
}

fn explain(address: SocketAddr, error: io::Error) -> BindError {
    match error.kind() {
        io::ErrorKind::AddrInUse => BindError::AddressInUse(address),
        io::ErrorKind::AddrNotAvailable => BindError::AddressNotAvailable(address),
        _ => BindError::Other(error),
    }
}

/// The wall-clock time since the Unix epoch.
fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl FakeTcpHandle {
    /// Opens a flow to the listener at `to`, whose guard key is `key`. What is sent there waits for the handshake, within
    /// bounds. Dialling again what is dialled does nothing.
    ///
    /// # Errors
    /// `NetworkUnreachable` without a route, `Unsupported` for a link-local IPv6 address.
    pub fn dial(&self, to: SocketAddr, key: GuardKey) -> io::Result<()> {
        if matches!(to.ip(), IpAddr::V6(address) if address.is_unicast_link_local()) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let common = &*self.0;
        let reach = common.reach(common.dial.address, to)?;
        let Some(source) = reach.source.filter(|&source| common.dial.covers(source)) else {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        };
        let local = SocketAddr::new(source, common.dial.address.port());
        common.engine.dial(to, local, key, reach.mss(to.ip()), reach.path, Instant::now());
        common.run_timers(Instant::now());
        Ok(())
    }

    /// Closes the flow to or from `remote`.
    pub fn hang_up(&self, remote: SocketAddr) {
        if let Some(fin) = self.0.engine.hang_up(remote, Instant::now()) {
            self.0.send_control(&fin);
        }
    }

    /// A session was proved on the flow to or from `remote`.
    pub fn validate(&self, remote: SocketAddr) {
        self.0.engine.validate(remote);
    }

    /// Whether there is an open flow to or from `remote`.
    pub fn is_open(&self, remote: SocketAddr) -> bool {
        self.0.engine.flows().iter().any(|flow| flow.remote == remote && flow.open)
    }

    /// All flows.
    pub fn flows(&self) -> Vec<carrier::fake_tcp::FlowStatus<Path>> {
        self.0.engine.flows()
    }

    /// What happened to segments so far.
    pub fn counts(&self) -> Counts {
        self.0.engine.counters().read()
    }

    /// Where calls are answered; the IPv6 wildcard for both families.
    pub fn listen_address(&self) -> Option<SocketAddr> {
        self.0.listen.as_ref().map(|port| port.address)
    }

    /// The local port from which is dialled.
    pub fn dial_port(&self) -> u16 {
        self.0.dial.address.port()
    }
}

impl Drop for Common {
    /// Tells the NATs on the way that the flows that we dialled are over. Those that called us may find us again after a restart,
    /// and after `kill -9` a NAT finds out by itself.
    fn drop(&mut self) {
        for flow in self.engine.flows() {
            if flow.role == Role::Dialled
                && let Some(fin) = self.engine.hang_up(flow.remote, Instant::now())
            {
                self.send_control(&fin);
            }
        }
    }
}

impl Common {
    /// Sends a segment without payload, as trains leave. One that is lost is like one lost on the way.
    fn send_control(&self, control: &Control<Path>) {
        let _ = match control.path.and_then(|path| path.frame) {
            Some((index, ethernet)) => self.raw.send_frame(&control.header, index, &ethernet),
            None => self.raw.send(&control.header, &[], &[]),
        };
    }

    /// As [`send_control`](Self::send_control), through the kernel's own routing, which confirms that the neighbour is still there.
    fn send_through_kernel(&self, control: &Control<Path>) {
        let _ = self.raw.send(&control.header, &[], &[]);
    }

    fn run_timers(&self, now: Instant) {
        let mut out = Vec::new();
        self.engine.handle_timeout(now, unix_time(), &mut out);
        for control in &out {
            self.send_control(control);
        }
    }

    fn reach(&self, local: SocketAddr, remote: SocketAddr) -> io::Result<Reach> {
        reach(&mut self.netlink.lock().unwrap_or_else(PoisonError::into_inner), local, remote)
    }

    /// Tells the engine on which addresses calls are taken: a packet socket sees what this machine forwards, too, and the ports of
    /// addresses that other programs listen on.
    fn read_own_addresses(&self) {
        let Some(listen) = &self.listen else { return };
        if !listen.address.ip().is_unspecified() {
            self.engine.set_own_addresses([listen.address.ip()]);
            return;
        }
        let mut netlink = self.netlink.lock().unwrap_or_else(PoisonError::into_inner);
        // What cannot be read now stays as it was.
        if let Ok(addresses) = netlink.addresses() {
            self.engine.set_own_addresses(addresses.iter().map(|address| address.net.addr()));
        }
    }

    /// Finds the way of a flow again, and its source address if we dialled it.
    fn find_way(&self, remote: SocketAddr, local: SocketAddr, role: Role, now: Instant) {
        // Whom we have called may be called from a better address now; who has called us knows us by this one.
        if role == Role::Dialled
            && let Ok(Reach { source: Some(source), .. }) =
                self.reach(SocketAddr::new(self.dial.address.ip(), local.port()), remote)
            && source != local.ip()
            && self.dial.covers(source)
        {
            self.engine.move_to(remote, SocketAddr::new(source, local.port()), now);
            return;
        }
        let path = self.reach(local, remote).ok().and_then(|reach| reach.path);
        self.engine.set_path(remote, path);
    }
}
