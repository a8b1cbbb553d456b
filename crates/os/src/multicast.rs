//! A UDP socket of a multicast group that knows, for each datagram, which interface it came by.
//!
//! One socket serves all interfaces of one family: the kernel reports the interface, the destination and the hop limit of
//! each datagram that arrives (`IP_PKTINFO`, RFC 3542 §6), and is told the interface and the source of each that leaves.
//! Datagrams arrive in buffers of a [`Pool`], many in one system call.
//!
//! Several programs may have the port at once, as Avahi and systemd-resolved do with mDNS: each of them gets every
//! multicast datagram, and one of them, the kernel chooses, gets each unicast one.

mod batch;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use packet::{Buf, Pool};

use crate::cmsg::Control;
use crate::sys::{self, RawAddress, check_size, set_option, set_option_bytes};
use batch::Batch;

/// Hops of everything that leaves, multicast or not (RFC 6762 §11): a receiver can tell that no router passed it on.
const HOPS: i32 = 255;

/// Bytes of kernel buffer for receiving: a burst of answers on a large network, while the program is busy.
const RECEIVE_BUFFER_BYTES: i32 = 1 << 20;

// linux/in6.h; Linux 4.20.
const IPV6_MULTICAST_ALL: i32 = 29;

/// A datagram received from the group or by unicast.
#[derive(Debug)]
pub struct Received {
    /// What it says.
    pub buf: Buf,
    /// The interface it came by; 0 when the kernel did not tell, which none that we know of does.
    pub interface: u32,
    /// Who sent it; link-local IPv6 addresses with their scope.
    pub from: SocketAddr,
    /// Where it was sent to: the group, or an address of this machine.
    pub to: IpAddr,
    /// The hop limit it arrived with, when the kernel told it.
    pub hop_limit: Option<u8>,
    /// It was longer than its buffer: the end is missing.
    pub truncated: bool,
}

/// Where a datagram leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departure {
    /// By which interface.
    pub interface: u32,
    /// With which of the interface's addresses; the kernel's choice if `None`.
    pub source: Option<IpAddr>,
    /// To whom: the group, or a single host.
    pub to: SocketAddr,
}

/// A socket of one multicast group, non-blocking.
#[derive(Debug)]
pub struct MulticastSocket {
    socket: OwnedFd,
    group: IpAddr,
    shared: bool,
    batch: Box<Batch>,
}

impl MulticastSocket {
    /// Binds the port of `group` on all addresses of the group's family, in the network namespace of the calling thread.
    /// It receives nothing from the group before [`join`](Self::join).
    ///
    /// # Errors
    /// `AddrInUse` when a program has the port and shares it with nobody. `Unsupported`, as [`is_missing`] tells, when the
    /// kernel does not have the family.
    pub fn bind(group: SocketAddr) -> io::Result<Self> {
        let (family, any) = match group {
            SocketAddr::V4(_) => (libc::AF_INET, IpAddr::from(Ipv4Addr::UNSPECIFIED)),
            SocketAddr::V6(_) => (libc::AF_INET6, IpAddr::from(Ipv6Addr::UNSPECIFIED)),
        };
        let socket = sys::socket(family, libc::SOCK_DGRAM | libc::SOCK_NONBLOCK, 0)?;
        let fd = socket.as_fd();
        match group {
            SocketAddr::V4(_) => set_options_v4(fd)?,
            SocketAddr::V6(_) => set_options_v6(fd)?,
        }
        // A smaller buffer than asked for is no failure: what it cannot hold, the kernel counts.
        let _ = set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, RECEIVE_BUFFER_BYTES);
        let address = RawAddress::new(SocketAddr::new(any, group.port()));
        // Exclusively at first: only that tells whether somebody else is there.
        let alone = sys::bind(fd, &address);
        set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        let shared = match alone {
            Ok(()) => false,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                sys::bind(fd, &address)?;
                true
            }
            Err(error) => return Err(error),
        };
        Ok(Self { socket, group: group.ip(), shared, batch: Batch::new() })
    }

    /// Whether another program had the port when this socket was bound.
    pub fn shares_port(&self) -> bool {
        self.shared
    }

    /// The address the socket is bound to.
    ///
    /// # Errors
    /// None that a correct program meets.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        sys::local_address(self.as_fd())
    }

    /// How many datagrams the kernel has dropped because nobody took them out of the receive buffer in time. Wraps around.
    ///
    /// # Errors
    /// On kernels before Linux 4.12, which do not tell.
    pub fn receive_drops(&self) -> io::Result<u32> {
        sys::receive_drops(self.as_fd())
    }

    /// Receives from the group on an interface from now on. Nothing happens when it does already.
    ///
    /// # Errors
    /// `NotFound`-like (`ENODEV`) when there is no such interface, or it cannot do multicast. `ENOBUFS` beyond
    /// `net.ipv4.igmp_max_memberships`, which is 20 where nobody has changed it.
    pub fn join(&self, interface: u32) -> io::Result<()> {
        let result = match self.group {
            IpAddr::V4(group) => {
                self.membership(libc::SOL_IP, libc::IP_ADD_MEMBERSHIP, &mreqn(group, interface))
            }
            IpAddr::V6(group) => {
                self.membership(libc::SOL_IPV6, libc::IPV6_ADD_MEMBERSHIP, &mreq6(group, interface))
            }
        };
        match result {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(()),
            result => result,
        }
    }

    /// Receives no more from the group on an interface. Nothing happens when it does not, or when the interface is gone.
    ///
    /// # Errors
    /// None that a correct program meets.
    pub fn leave(&self, interface: u32) -> io::Result<()> {
        let result = match self.group {
            IpAddr::V4(group) => {
                self.membership(libc::SOL_IP, libc::IP_DROP_MEMBERSHIP, &mreqn(group, interface))
            }
            IpAddr::V6(group) => {
                self.membership(libc::SOL_IPV6, libc::IPV6_DROP_MEMBERSHIP, &mreq6(group, interface))
            }
        };
        match result {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => Ok(()),
            result => result,
        }
    }

    fn membership(&self, level: i32, name: i32, request: &[u8]) -> io::Result<()> {
        set_option_bytes(self.as_fd(), level, name, request)
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// `WouldBlock` when the socket is full: try again when it is writable. `OutOfMemory` when the kernel is out of buffers
    /// (`ENOBUFS`). `InvalidInput` for a destination of the other family. Others: it cannot leave by that interface, or
    /// with that source, now.
    pub fn send(&mut self, datagram: &[u8], departure: &Departure) -> io::Result<()> {
        if departure.to.is_ipv4() != self.group.is_ipv4() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let control = source_control(departure, self.group.is_ipv4())?;
        let header = self.batch.describe_outgoing(datagram, RawAddress::new(departure.to), control);
        loop {
            // SAFETY: `describe_outgoing` has pointed the header at address, control and bytes, which are borrowed until
            // the call returns. The kernel does not write through them.
            match check_size(unsafe { libc::sendmsg(self.socket.as_raw_fd(), header, libc::MSG_NOSIGNAL) }) {
                Ok(_) => return Ok(()),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::ENOBUFS) => return Err(io::ErrorKind::OutOfMemory.into()),
                    _ => return Err(error),
                },
            }
        }
    }

    /// Receives the datagrams that wait, up to 32 of them, in one system call, and appends them to `received`.
    ///
    /// Buffers come from the pool's [`Class::Small`](packet::Class::Small); the socket keeps up to 32 of them ready. No
    /// memory is allocated as long as `received` has room.
    ///
    /// # Errors
    /// `WouldBlock` when nothing waits. `OutOfMemory` when the pool is empty: what waits stays in the kernel.
    pub fn recv(&mut self, pool: &Pool, received: &mut Vec<Received>) -> io::Result<usize> {
        let before = received.len();
        self.batch.receive(self.socket.as_fd(), pool, received)?;
        Ok(received.len() - before)
    }
}

impl AsFd for MulticastSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for MulticastSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Whether [`MulticastSocket::bind`] failed because the kernel does not have the family: IPv6 is often switched off.
pub fn is_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn set_options_v4(fd: BorrowedFd<'_>) -> io::Result<()> {
    let set = |name, value| set_option(fd, libc::SOL_IP, name, value);
    set(libc::IP_PKTINFO, 1)?;
    set(libc::IP_RECVTTL, 1)?;
    set(libc::IP_MULTICAST_TTL, HOPS)?;
    set(libc::IP_TTL, HOPS)?;
    // Other programs on this machine are members of the group as well.
    set(libc::IP_MULTICAST_LOOP, 1)?;
    // Otherwise it would get what *other* sockets have joined, on whatever interface.
    set(libc::IP_MULTICAST_ALL, 0)
}

fn set_options_v6(fd: BorrowedFd<'_>) -> io::Result<()> {
    let set = |name, value| set_option(fd, libc::SOL_IPV6, name, value);
    set(libc::IPV6_V6ONLY, 1)?;
    set(libc::IPV6_RECVPKTINFO, 1)?;
    set(libc::IPV6_RECVHOPLIMIT, 1)?;
    set(libc::IPV6_MULTICAST_HOPS, HOPS)?;
    set(libc::IPV6_UNICAST_HOPS, HOPS)?;
    set(libc::IPV6_MULTICAST_LOOP, 1)?;
    // As IP_MULTICAST_ALL; older kernels lack it, and deliver what others have joined too.
    let _ = set(IPV6_MULTICAST_ALL, 0);
    Ok(())
}

/// `struct ip_mreqn`: group 4, local address 4 (any), interface 4.
fn mreqn(group: Ipv4Addr, interface: u32) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&group.octets());
    bytes[8..].copy_from_slice(&interface.to_ne_bytes());
    bytes
}

/// `struct ipv6_mreq`: group 16, interface 4.
fn mreq6(group: Ipv6Addr, interface: u32) -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes[..16].copy_from_slice(&group.octets());
    bytes[16..].copy_from_slice(&interface.to_ne_bytes());
    bytes
}

/// The control message that chooses interface and source.
///
/// ```text
/// in_pktinfo    0..3 interface (ne)   4..7 source      8..11 unused
/// in6_pktinfo   0..15 source         16..19 interface (ne)
/// ```
fn source_control(departure: &Departure, v4: bool) -> io::Result<Control> {
    let mut control = Control::EMPTY;
    let interface = departure.interface.to_ne_bytes();
    let source = departure.source.unwrap_or(if v4 { [0_u8; 4].into() } else { [0_u8; 16].into() });
    match (v4, source) {
        (true, IpAddr::V4(source)) => {
            let mut info = [0; 12];
            info[..4].copy_from_slice(&interface);
            info[4..8].copy_from_slice(&source.octets());
            control.push(libc::SOL_IP, libc::IP_PKTINFO, &info);
        }
        (false, IpAddr::V6(source)) => {
            let mut info = [0; 20];
            info[..16].copy_from_slice(&source.octets());
            info[16..].copy_from_slice(&interface);
            control.push(libc::SOL_IPV6, libc::IPV6_PKTINFO, &info);
        }
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    }
    Ok(control)
}
