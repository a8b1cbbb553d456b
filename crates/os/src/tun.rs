//! TUN devices: IP packets of the kernel, read and written as files (Linux `Documentation/networking/tuntap.rst`).
//!
//! A device is created down, its offloads are tried, and only then does it get its MTU, addresses and routes and is
//! set up. It is not persistent: it goes when its last queue is closed, `kill -9` included, and with it its addresses
//! and routes.

mod port;
mod queue;
mod selftest;

use std::fs::{File, OpenOptions};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use thiserror::Error;

use crate::netlink::{Netlink, NetlinkError, Route, Watch};
use crate::poll::{Events, Interest, Poller};
use crate::sys::check;
pub use port::TunPort;
pub use queue::TunQueue;

/// How to create a TUN device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunConfig {
    /// Its name, at most 15 bytes; or a pattern with one `%d`, as `shadow%d`, for the first free number.
    pub name: String,
    /// Queues, at most 256. The kernel spreads flows over them.
    pub queues: usize,
    /// The largest packet in bytes, without offloads. At least 1,280 when there is an IPv6 address.
    pub mtu: u16,
    /// Its addresses with their prefixes.
    pub addresses: Vec<IpNet>,
    /// Prefixes to route to it. Those inside the prefix of an address need no route and get none.
    pub routes: Vec<IpNet>,
    /// Use checksum and segmentation offloads where the kernel has them.
    pub offload: bool,
    /// The largest super-packet in bytes; `None` for the kernel's 65,536.
    pub gso_max_bytes: Option<u32>,
}

/// Which super-packets the kernel hands over, and takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunOffloads {
    /// Packets may have a partial checksum.
    pub csum: bool,
    /// TCP super-packets over IPv4.
    pub tso4: bool,
    /// TCP super-packets over IPv6.
    pub tso6: bool,
    /// UDP super-packets over IPv4 (Linux 6.2).
    pub uso4: bool,
    /// UDP super-packets over IPv6 (Linux 6.2).
    pub uso6: bool,
    /// The device has several queues.
    pub multi_queue: bool,
}

/// Why a TUN device could not be created, and what to do.
#[derive(Debug, Error)]
pub enum TunError {
    /// No `/dev/net/tun`.
    #[error(
        "/dev/net/tun is missing: run `modprobe tun`, or give the container the device (`--device /dev/net/tun`)"
    )]
    NoDriver,
    /// No right to create the device.
    #[error(
        "creating {0} needs CAP_NET_ADMIN: run as root, or `setcap cap_net_admin+ep` on the program, or in systemd \
         `AmbientCapabilities=CAP_NET_ADMIN`"
    )]
    PermissionDenied(String),
    /// An interface of that name exists.
    #[error("interface {0} exists already: choose another name, or stop who uses it (`ip -d link show {0}`)")]
    NameInUse(String),
    /// The name cannot be one.
    #[error("{0:?} cannot name an interface: 1 to 15 bytes, no `/`, `:` or white space, at most one `%d`")]
    BadName(String),
    /// The device was created but could not be given its MTU, an address or a route. It is gone again.
    #[error("interface {name}")]
    Configure {
        /// The device.
        name: String,
        /// What failed.
        source: NetlinkError,
    },
    /// Anything else.
    #[error("cannot create interface {name}")]
    Io {
        /// The device.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Controls a TUN device. Dropping it does nothing; dropping all [`TunQueue`]s removes the device.
#[derive(Debug)]
pub struct TunDevice {
    name: String,
    index: u32,
    offloads: TunOffloads,
    netlink: Netlink,
    /// What the kernel takes away when the MTU gets too small for IPv6.
    ipv6_addresses: Vec<IpNet>,
    ipv6_routes: Vec<IpNet>,
}

/// The smallest MTU that IPv6 works with, in bytes (RFC 8200 §5).
const IPV6_MTU_MIN: u16 = 1_280;

/// How long to wait for the kernel to take up an IPv6 address; seen: below 1 ms.
const ADDRESS_WAIT_MAX: Duration = Duration::from_secs(2);

/// Packets that the kernel keeps for a queue while we are busy. The kernel's default for TUN is 500, which one burst
/// of small packets fills; Ethernet devices have 1,000.
const QUEUE_PACKETS: u32 = 1_000;

impl TunDevice {
    /// Creates, configures and sets up a device in the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`TunError`]. Nothing is left behind.
    pub fn create(config: &TunConfig) -> Result<(Self, Vec<TunQueue>), TunError> {
        check_name(&config.name)?;
        let queue_count = config.queues.max(1);
        let (first, name, vnet) = open_first(&config.name, queue_count > 1)?;
        let failed = |source| TunError::Io { name: name.clone(), source };

        let mut files = vec![first];
        for _ in 1..queue_count {
            let file = open_driver(&name)?;
            attach(&file, &name, flags(true, vnet)).map_err(&failed)?;
            files.push(file);
        }
        let mut offloads = TunOffloads::default();
        if vnet {
            for file in &files {
                set_vnet_header_size(file).map_err(&failed)?;
            }
            offloads = negotiate(&files[0], config.offload);
        }
        offloads.multi_queue = queue_count > 1;

        let mut netlink = Netlink::open().map_err(&failed)?;
        let configure = |source| TunError::Configure { name: name.clone(), source };
        let index = netlink.link_index(&name).map_err(configure)?;
        let mut device = Self {
            name: name.clone(),
            index,
            offloads,
            netlink,
            ipv6_addresses: of_ipv6(config.addresses.clone()),
            ipv6_routes: of_ipv6(routes_needed(&config.routes, &config.addresses)),
        };
        let mut watch = Watch::open().map_err(&failed)?;
        device.configure(config).map_err(configure)?;
        device.await_addresses(&config.addresses, &mut watch).map_err(&failed)?;
        let queues = files.into_iter().map(|file| TunQueue::new(file, vnet)).collect();
        Ok((device, queues))
    }

    fn configure(&mut self, config: &TunConfig) -> Result<(), NetlinkError> {
        let Self { index, netlink, .. } = self;
        let index = *index;
        netlink.set_mtu(index, config.mtu.into())?;
        netlink.set_queue_packets(index, QUEUE_PACKETS)?;
        if let Some(bytes) = config.gso_max_bytes {
            netlink.set_gso_max_bytes(index, bytes)?;
        }
        // A kernel without IPv6 has nothing to turn off.
        let _ = netlink.set_no_ipv6_autoconfiguration(index);
        for address in &config.addresses {
            netlink.add_address(index, *address)?;
        }
        netlink.set_up(index, true)?;
        for route in routes_needed(&config.routes, &config.addresses) {
            netlink.add_route(&route_by(index, route))?;
        }
        Ok(())
    }

    /// Waits until the kernel treats the addresses as its own. For IPv6 it gets there a moment after it has
    /// acknowledged the address, in the background, also without duplicate address detection; what came before
    /// that would be lost.
    fn await_addresses(&mut self, addresses: &[IpNet], watch: &mut Watch) -> io::Result<()> {
        let poller = Poller::new()?;
        poller.add(&*watch, 0, Interest::READ)?;
        let mut events = Events::with_capacity(1);
        let deadline = Instant::now() + ADDRESS_WAIT_MAX;
        for address in addresses.iter().map(IpNet::addr).filter(IpAddr::is_ipv6) {
            while !self.netlink.lookup(address).is_ok_and(|found| found.local) {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    // It will come; no reason to fail.
                    return Ok(());
                }
                poller.wait(&mut events, Some(left))?;
                watch.drain()?;
            }
        }
        Ok(())
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The interface's number.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The offloads in use.
    pub fn offloads(&self) -> TunOffloads {
        self.offloads
    }

    /// The MTU now, in bytes; somebody else may have changed it.
    ///
    /// # Errors
    /// `NotFound` when the interface is gone.
    pub fn mtu(&mut self) -> Result<u16, NetlinkError> {
        let mtu = self.netlink.link_by_index(self.index)?.mtu;
        Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
    }

    /// Whether the interface is up.
    ///
    /// # Errors
    /// `NotFound` when the interface is gone.
    pub fn is_up(&mut self) -> Result<bool, NetlinkError> {
        Ok(self.netlink.link_by_index(self.index)?.up)
    }

    /// How many packets the kernel has dropped because a queue was full: the driver does not hold the sender back,
    /// it drops.
    ///
    /// # Errors
    /// `NotFound` when the interface is gone.
    pub fn kernel_drops(&mut self) -> Result<u64, NetlinkError> {
        Ok(self.netlink.link_by_index(self.index)?.tx_dropped)
    }

    /// Sets the MTU, in bytes. Below 1,280 the kernel removes the interface's IPv6 addresses and routes; they come back
    /// when the MTU is no longer below.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn set_mtu(&mut self, mtu: u16) -> Result<(), NetlinkError> {
        let before = self.mtu()?;
        self.netlink.set_mtu(self.index, mtu.into())?;
        if before < IPV6_MTU_MIN && mtu >= IPV6_MTU_MIN { self.restore_ipv6() } else { Ok(()) }
    }

    fn restore_ipv6(&mut self) -> Result<(), NetlinkError> {
        let Self { index, netlink, ipv6_addresses, ipv6_routes, .. } = self;
        // A kernel without IPv6 has nothing to turn off.
        let _ = netlink.set_no_ipv6_autoconfiguration(*index);
        for address in ipv6_addresses {
            unless_there(netlink.add_address(*index, *address))?;
        }
        for route in ipv6_routes {
            unless_there(netlink.add_route(&route_by(*index, *route)))?;
        }
        Ok(())
    }

    /// Sets the interface up, after somebody else has set it down. Routes that the kernel dropped with it stay
    /// dropped: [`add_route`](Self::add_route) them again.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn set_up(&mut self) -> Result<(), NetlinkError> {
        self.netlink.set_up(self.index, true)
    }

    /// Routes a prefix to the device. A route that is there already is left as it is.
    ///
    /// # Errors
    /// [`NetlinkError`]; `AlreadyExists` when another interface has the prefix.
    pub fn add_route(&mut self, to: IpNet) -> Result<(), NetlinkError> {
        match self.netlink.add_route(&route_by(self.index, to)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && self.has_route(to)? => Ok(()),
            result => result,
        }
    }

    /// Stops routing a prefix to the device. A route that is not there is no error.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn del_route(&mut self, to: IpNet) -> Result<(), NetlinkError> {
        match self.netlink.del_route(&route_by(self.index, to)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    fn has_route(&mut self, to: IpNet) -> Result<bool, NetlinkError> {
        let to = to.trunc();
        Ok(self.netlink.routes()?.iter().any(|route| route.to == to && route.index == self.index))
    }
}

fn of_ipv6(nets: Vec<IpNet>) -> Vec<IpNet> {
    nets.into_iter().filter(|net| net.addr().is_ipv6()).collect()
}

/// Adding what is there already is no failure.
fn unless_there(added: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    added.or_else(|error| if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })
}

fn route_by(index: u32, to: IpNet) -> Route {
    Route { to: to.trunc(), index, gateway: None, source: None, mtu: None }
}

/// The routes that no address brings with it, each once.
fn routes_needed(routes: &[IpNet], addresses: &[IpNet]) -> Vec<IpNet> {
    let mut needed: Vec<IpNet> = Vec::new();
    for route in routes.iter().map(IpNet::trunc) {
        let connected = addresses.iter().any(|address| address.trunc().contains(&route));
        if !connected && !needed.contains(&route) {
            needed.push(route);
        }
    }
    needed
}

/// The rules of the kernel's `dev_valid_name`, and of its patterns.
fn check_name(name: &str) -> Result<(), TunError> {
    let forbidden = |c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace();
    let pattern_ok = match name.matches('%').count() {
        0 => true,
        1 => name.contains("%d"),
        _ => false,
    };
    let ok = !name.is_empty()
        && name.len() < libc::IFNAMSIZ
        && name != "."
        && name != ".."
        && !name.contains(forbidden)
        && pattern_ok;
    if ok { Ok(()) } else { Err(TunError::BadName(name.to_owned())) }
}

fn open_driver(name: &str) -> Result<File, TunError> {
    let opened =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun");
    opened.map_err(|source| match source.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TunError::NoDriver,
        Some(libc::EPERM | libc::EACCES) => TunError::PermissionDenied(name.to_owned()),
        _ => TunError::Io { name: name.to_owned(), source },
    })
}

fn flags(multi_queue: bool, vnet: bool) -> i32 {
    let mut flags = libc::IFF_TUN | libc::IFF_NO_PI;
    if vnet {
        flags |= libc::IFF_VNET_HDR;
    }
    if multi_queue {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    flags
}

/// The first queue: creates the interface. Returns its name and whether its packets have a virtio-net header.
fn open_first(name: &str, multi_queue: bool) -> Result<(File, String, bool), TunError> {
    let file = open_driver(name)?;
    // Without IFF_TUN_EXCL the queue would join an existing multi-queue device of that name.
    let exclusive = |vnet| flags(multi_queue, vnet) | libc::IFF_TUN_EXCL;
    let attached = match attach(&file, name, exclusive(true)) {
        // EINVAL: a flag that the driver does not know.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            attach(&file, name, exclusive(false)).map(|name| (name, false))
        }
        result => result.map(|name| (name, true)),
    };
    match attached {
        Ok((name, vnet)) => Ok((file, name, vnet)),
        Err(source) => Err(match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => TunError::PermissionDenied(name.to_owned()),
            // EINVAL: an interface of that name which is no TUN device at all.
            Some(libc::EBUSY | libc::EEXIST | libc::EINVAL) => TunError::NameInUse(name.to_owned()),
            _ => TunError::Io { name: name.to_owned(), source },
        }),
    }
}

/// `TUNSETIFF`: creates the interface, or joins it with one more queue. Returns the name that it got.
fn attach(file: &File, name: &str, flags: i32) -> io::Result<String> {
    // struct ifreq: name 16 bytes, flags 2 bytes, the rest of a union; 40 bytes at most.
    #[repr(C, align(8))]
    struct InterfaceRequest([u8; 40]);
    let mut request = InterfaceRequest([0; 40]);
    request.0[..name.len()].copy_from_slice(name.as_bytes());
    request.0[libc::IFNAMSIZ..libc::IFNAMSIZ + 2].copy_from_slice(&(flags as u16).to_ne_bytes());
    // SAFETY: the kernel reads and writes one `struct ifreq`, for which there is room.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, request.0.as_mut_ptr()) })?;
    let end = request.0[..libc::IFNAMSIZ].iter().position(|byte| *byte == 0).unwrap_or(libc::IFNAMSIZ);
    Ok(String::from_utf8_lossy(&request.0[..end]).into_owned())
}

fn set_vnet_header_size(file: &File) -> io::Result<()> {
    let size = packet::VnetHeader::LEN as libc::c_int;
    // SAFETY: the kernel reads one int.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const size) }).map(drop)
}

/// Announces what we can take (`TUNSETOFFLOAD`, which counts for the whole device).
fn announce(file: &File, offloads: TunOffloads) -> io::Result<()> {
    let mut bits = 0;
    let wanted = [
        (offloads.csum, libc::TUN_F_CSUM),
        (offloads.tso4, libc::TUN_F_TSO4),
        (offloads.tso6, libc::TUN_F_TSO6),
        (offloads.tso4 || offloads.tso6, libc::TUN_F_TSO_ECN),
        (offloads.uso4, libc::TUN_F_USO4),
        (offloads.uso6, libc::TUN_F_USO6),
    ];
    for (on, bit) in wanted {
        if on {
            bits |= bit;
        }
    }
    // SAFETY: the argument is a number.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(bits)) }).map(drop)
}

/// Finds the most offloads that the kernel announces and takes. The device must be down.
fn negotiate(file: &File, wanted: bool) -> TunOffloads {
    let none = TunOffloads::default();
    let csum = TunOffloads { csum: true, ..none };
    let tso = TunOffloads { tso4: true, tso6: true, ..csum };
    let all = TunOffloads { uso4: true, uso6: true, ..tso };
    let candidates: &[TunOffloads] = if wanted { &[all, tso, csum, none] } else { &[none] };
    let Some(announced) = candidates.iter().find(|offloads| announce(file, **offloads).is_ok()) else {
        return none;
    };
    if *announced == none {
        return none;
    }
    let mut works = selftest::run(file, *announced);
    // The driver knows the two USO flags only together.
    if !(works.uso4 && works.uso6) {
        (works.uso4, works.uso6) = (false, false);
    }
    if works != *announced && announce(file, works).is_err() {
        works = none;
        // Nothing announced is what every driver takes.
        let _ = announce(file, none);
    }
    works
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_route_inside_a_connected_prefix_is_not_added_again() {
        let addresses = nets(&["10.77.0.1/24", "fd77::1/64"]);
        let routes = nets(&[
            "10.77.0.2/32",
            "10.77.0.0/24",
            "10.78.0.9/16",
            "10.78.0.0/16",
            "fd77::2/128",
            "fd78::/64",
        ]);
        assert_eq!(routes_needed(&routes, &addresses), nets(&["10.78.0.0/16", "fd78::/64"]));
    }

    #[test]
    fn a_prefix_wider_than_the_connected_one_is_routed() {
        let routes = nets(&["10.0.0.0/8"]);
        assert_eq!(routes_needed(&routes, &nets(&["10.77.0.1/24"])), routes);
    }

    #[test]
    fn names_the_kernel_would_refuse_are_refused_in_words() {
        for name in ["", ".", "..", "a/b", "a b", "a:b", "exactly16bytes__", "a%d%d", "a%s"] {
            assert!(matches!(check_name(name), Err(TunError::BadName(_))), "{name}");
        }
        for name in ["shadow0", "shadow%d", "exactly15bytes_"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
    }
}
