//! Keeping the kernel's own TCP away from our ports, without a firewall.
//!
//! The kernel answers a segment for a port that nobody listens on with RST, which would tear every NAT entry down. So a
//! TCP socket of ours listens on the port, with a filter that takes nothing: the kernel finds an owner for each segment
//! and drops it there, before its state machine, without a word. Where a filter takes more rights than `CAP_NET_RAW` (Linux 6.18 wants
//! `CAP_NET_ADMIN`) the socket asks for a hop limit that nothing from beyond the link can have (RFC 5082), which has the same effect. `AF_PACKET` sockets have seen the segment by then. The port is
//! reserved at the same time, and when the process ends, however it ends, nothing is left behind.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::bpf;
use crate::sys::{self, RawAddress, check, set_option};

/// A port on which the kernel says nothing.
#[derive(Debug)]
pub(super) struct SilentPort {
    _socket: OwnedFd,
    /// The address, with its port; the IPv6 wildcard for both families.
    pub(super) address: SocketAddr,
}

impl SilentPort {
    /// Takes a port. The IPv4 or IPv6 wildcard is both families where the kernel has IPv6; port 0 is any free one.
    pub(super) fn take(listen: SocketAddr) -> io::Result<Self> {
        if !listen.ip().is_unspecified() {
            return Self::take_exactly(listen);
        }
        match Self::take_exactly((Ipv6Addr::UNSPECIFIED, listen.port()).into()) {
            // EAFNOSUPPORT: the kernel has no IPv6. EADDRNOTAVAIL: it is disabled.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => {
                Self::take_exactly((Ipv4Addr::UNSPECIFIED, listen.port()).into())
            }
            result => result,
        }
    }

    fn take_exactly(listen: SocketAddr) -> io::Result<Self> {
        let family = if listen.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
        let socket = sys::socket(family, libc::SOCK_STREAM, 0)?;
        let fd = socket.as_fd();
        if listen.is_ipv6() {
            set_option(fd, libc::SOL_IPV6, libc::IPV6_V6ONLY, (!listen.ip().is_unspecified()).into())?;
        }
        match bpf::attach(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &[bpf::end(0)]) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                demand_hop_limit(fd, listen.is_ipv6())?;
            }
            result => result?,
        }
        sys::bind(fd, &RawAddress::new(listen))?;
        // SAFETY: no pointers.
        check(unsafe { libc::listen(fd.as_raw_fd(), 1) })?;
        let address = sys::local_address(fd)?;
        Ok(Self { _socket: socket, address: SocketAddr::new(listen.ip(), address.port()) })
    }

    /// Whether segments to `address` are for this port.
    pub(super) fn covers(&self, address: IpAddr) -> bool {
        match self.address.ip() {
            IpAddr::V6(any) if any.is_unspecified() => true,
            IpAddr::V4(any) if any.is_unspecified() => address.is_ipv4(),
            own => own == address,
        }
    }
}

/// Takes no segment whose hop limit is below the highest there is. Ours, and those of nearly all systems, begin with 64 or 128.
fn demand_hop_limit(fd: BorrowedFd<'_>, v6: bool) -> io::Result<()> {
    if v6 {
        set_option(fd, libc::SOL_IPV6, libc::IPV6_MINHOPCOUNT, 255)?;
    }
    set_option(fd, libc::SOL_IP, libc::IP_MINTTL, 255)
}
