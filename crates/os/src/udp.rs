//! UDP sockets that send and receive trains.
//!
//! [`bind`] gives one socket a worker. All share one port; the kernel steers each datagram by the lane in its header, or, where
//! it refuses that, by addresses and ports.
//! A train leaves in one `sendmsg` with `UDP_SEGMENT` (GSO) and arrives as one message with `UDP_GRO`. Where the
//! kernel refuses GSO the train leaves by `sendmmsg`, datagram by datagram, and that is remembered.

mod link;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use packet::{Ecn, Transmit};
use thiserror::Error;

use crate::bpf;
use crate::sys::{self, RawAddress, set_option};
pub use link::UdpLink;
use link::refuses_gso;

/// How to [`bind`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpConfig {
    /// The local address. The IPv4 or IPv6 wildcard listens on both families where the kernel has IPv6. Port 0
    /// takes a free one.
    pub listen: SocketAddr,
    /// Sockets to make, all on the same port.
    pub workers: usize,
    /// Bytes of kernel buffer for sending, as far as the system allows.
    pub send_buffer_bytes: usize,
    /// Bytes of kernel buffer for receiving, as far as the system allows.
    pub receive_buffer_bytes: usize,
    /// Use GSO and GRO where the kernel has them.
    pub offload: bool,
}

/// Which UDP offloads a link uses now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpOffloads {
    /// A train leaves in one system call (`UDP_SEGMENT`, Linux 4.18).
    pub gso: bool,
    /// A train arrives in one message (`UDP_GRO`, Linux 5.0).
    pub gro: bool,
}

/// Why [`bind`] failed.
#[derive(Debug, Error)]
pub enum BindError {
    /// Somebody has the port, perhaps another instance of this program.
    #[error("UDP {0} is in use already, perhaps by another instance (see `ss -ulpn`)")]
    AddressInUse(SocketAddr),
    /// The address belongs to no interface of this machine.
    #[error("UDP {0} cannot be listened on: this machine has no such address (see `ip address`)")]
    AddressNotAvailable(SocketAddr),
    /// A port below 1024.
    #[error("UDP {0} may not be listened on: ports below 1024 need CAP_NET_BIND_SERVICE")]
    PermissionDenied(SocketAddr),
    /// Anything else.
    #[error("cannot listen on UDP {address}")]
    Other {
        /// What was asked for.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

impl BindError {
    fn new(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::AddressInUse(address),
            io::ErrorKind::AddrNotAvailable => Self::AddressNotAvailable(address),
            io::ErrorKind::PermissionDenied => Self::PermissionDenied(address),
            _ => Self::Other { address, source },
        }
    }
}

/// Message types whose second byte is a lane: plain data, and data with a partial checksum.
const LANED_TYPES: [u32; 2] = [4, 20];

/// Segments in one GSO send that every kernel with `UDP_SEGMENT` takes; since Linux 6.9 it is twice that.
const GSO_SEGMENTS: usize = 64;

/// Makes one socket a worker, all on the same port.
///
/// # Errors
/// [`BindError`]; in particular [`BindError::AddressInUse`] when another instance listens on the port, though all
/// sockets of one instance share it.
pub fn bind(config: &UdpConfig) -> Result<Vec<UdpLink>, BindError> {
    let failed = |error| BindError::new(config.listen, error);
    if !config.listen.ip().is_unspecified() {
        return bind_group(config, config.listen).map_err(failed);
    }
    let port = config.listen.port();
    match bind_group(config, (Ipv6Addr::UNSPECIFIED, port).into()) {
        // EAFNOSUPPORT: the kernel has no IPv6. EADDRNOTAVAIL: it is disabled.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => {
            bind_group(config, (Ipv4Addr::UNSPECIFIED, port).into()).map_err(failed)
        }
        result => result.map_err(failed),
    }
}

/// The hop limit that Linux, and so our first socket, starts with.
const HOP_LIMIT: usize = 64;

/// The sockets of one family, and their steering.
fn bind_group(config: &UdpConfig, listen: SocketAddr) -> io::Result<Vec<UdpLink>> {
    let gso_segments = Arc::new(AtomicU32::new(if config.offload { probe_gso() } else { 0 }));
    let workers = config.workers.max(1);
    let mut links = Vec::with_capacity(workers);

    // The first socket binds without SO_REUSEPORT: exclusively. A second instance of the same user would otherwise
    // join the group in silence and take a share of the datagrams. Only then is the port opened for the others.
    let first = open(config, listen)?;
    sys::bind(first.as_fd(), &RawAddress::new(listen))?;
    let mut bound = listen;
    bound.set_port(sys::local_address(first.as_fd())?.port());
    if workers > 1 {
        set_option(first.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    }
    links.push(UdpLink::new(first, listen.is_ipv6(), Arc::clone(&gso_segments), config.offload));

    for lane in 1..workers {
        let socket = open(config, listen)?;
        keep_apart(socket.as_fd(), listen.is_ipv6(), lane)?;
        set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        sys::bind(socket.as_fd(), &RawAddress::new(bound))?;
        links.push(UdpLink::new(socket, listen.is_ipv6(), Arc::clone(&gso_segments), config.offload));
    }
    if workers > 1 {
        steer(&mut links);
    }
    Ok(links)
}

/// Steers datagrams to the sockets by lane, or remembers that the kernel refuses that, as some sandboxes do: everything
/// still arrives, see [`UdpLink::is_steered`].
fn steer(links: &mut [UdpLink]) {
    let steered = steer_by_lane(links[0].as_fd(), links.len() as u32).is_ok();
    for link in links {
        link.steered = steered;
    }
}

/// A socket with every option set, not bound yet.
fn open(config: &UdpConfig, listen: SocketAddr) -> io::Result<OwnedFd> {
    let v6 = listen.is_ipv6();
    let family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
    let socket = sys::socket(family, libc::SOCK_DGRAM | libc::SOCK_NONBLOCK, 0)?;
    let fd = socket.as_fd();
    if v6 {
        let only = !listen.ip().is_unspecified();
        set_option(fd, libc::SOL_IPV6, libc::IPV6_V6ONLY, only.into())?;
        set_option(fd, libc::SOL_IPV6, libc::IPV6_RECVTCLASS, 1)?;
    }
    // Also on IPv6 sockets: for the IPv4 half of a dual-stack one. Without it ECN is lost, no more.
    let _ = set_option(fd, libc::SOL_IP, libc::IP_RECVTOS, 1);
    if listen.ip().is_unspecified() {
        // Without it answers leave with the address that the kernel chooses, which may not be the one that was called.
        let _ = if v6 {
            set_option(fd, libc::SOL_IPV6, libc::IPV6_RECVPKTINFO, 1)
        } else {
            set_option(fd, libc::SOL_IP, libc::IP_PKTINFO, 1)
        };
    }
    dont_fragment(fd, v6, true)?;
    sys::set_buffer(fd, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, config.receive_buffer_bytes)?;
    sys::set_buffer(fd, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, config.send_buffer_bytes)?;
    Ok(socket)
}

/// Gives the datagrams of a socket a hop limit of their own.
///
/// All lanes share one pair of addresses and ports, so a receiver's GRO would join trains of different lanes and hand
/// them to the first one's socket, where they could overtake, or be overtaken by, the rest of their flow. GRO joins nothing of
/// different hop limits (`inet_gro_flush`, `ipv6_gro_flush` of the kernel), and nobody else minds one hop more.
fn keep_apart(fd: BorrowedFd<'_>, v6: bool, lane: usize) -> io::Result<()> {
    let hop_limit = (HOP_LIMIT + lane).min(255) as i32;
    if v6 {
        set_option(fd, libc::SOL_IPV6, libc::IPV6_UNICAST_HOPS, hop_limit)?;
    }
    set_option(fd, libc::SOL_IP, libc::IP_TTL, hop_limit)
}

/// With the bit: `IP_PMTUDISC_PROBE`. A datagram beyond the MTU of the interface is refused with `EMSGSIZE`; what ICMP
/// "fragmentation needed" has said of the path is not looked at, because anybody can send it who knows of the flow
/// (RFC 5927 §7). Probes of the caller's own tell what passes (RFC 8899).
///
/// Without it: `IP_PMTUDISC_OMIT`. Routers may fragment over IPv4, this machine does what its interface needs, and the message
/// is again not looked at. Older kernels than Linux 3.15 have `IP_PMTUDISC_DONT`.
fn dont_fragment(fd: BorrowedFd<'_>, v6: bool, on: bool) -> io::Result<()> {
    if v6 {
        if on {
            set_option(fd, libc::SOL_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
        } else {
            set_option(fd, libc::SOL_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_OMIT).or_else(
                |_| set_option(fd, libc::SOL_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT),
            )?;
        }
        set_option(fd, libc::SOL_IPV6, libc::IPV6_DONTFRAG, on.into())?;
    }
    dont_fragment_v4(fd, on)
}

/// As [`dont_fragment`], for what goes to IPv4 addresses alone.
fn dont_fragment_v4(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    if on {
        return set_option(fd, libc::SOL_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE);
    }
    set_option(fd, libc::SOL_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_OMIT)
        .or_else(|_| set_option(fd, libc::SOL_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT))
}

/// Delivers data packets to socket number `lane mod workers` of the group, everything else to the first.
///
/// A classic BPF program that sees the UDP payload from its first byte. A read beyond the payload's end ends the
/// program with 0, so an empty or one-byte datagram goes to the first socket as well.
fn steer_by_lane(fd: BorrowedFd<'_>, workers: u32) -> io::Result<()> {
    let program = [
        bpf::load_byte(0),                   // 0: the type
        bpf::if_equal(LANED_TYPES[0], 2, 0), // 1: data → 4
        bpf::if_equal(LANED_TYPES[1], 1, 0), // 2: data of the native protocol → 4
        bpf::end(0),                         // 3: the first socket
        bpf::load_byte(1),                   // 4: the lane
        bpf::modulo(workers),                // 5
        bpf::end_with_a(),                   // 6
    ];
    bpf::attach(fd, libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF, &program)
}

/// How many segments a GSO send may have on this kernel; 0 without `UDP_SEGMENT`.
///
/// Tried over loopback, from a socket to itself. Where there is no loopback, the option's existence is believed.
fn probe_gso() -> u32 {
    let Ok(socket) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).or_else(|_| UdpSocket::bind("[::1]:0")) else {
        return probe_gso_option();
    };
    let Ok(to) = socket.local_addr() else { return probe_gso_option() };
    if socket.set_nonblocking(true).is_err() {
        return probe_gso_option();
    }
    let mut link = UdpLink::new(socket.into(), to.is_ipv6(), Arc::new(AtomicU32::new(0)), false);
    for segments in [2 * GSO_SEGMENTS, GSO_SEGMENTS] {
        let bytes = [0; 2 * GSO_SEGMENTS];
        let transmit = Transmit { to, ecn: Ecn::NotEct, segment_size: 1, contents: &bytes[..segments] };
        match link.send_gso(None, &transmit) {
            Ok(_) => return segments as u32,
            Err(error) if refuses_gso(&error) => {}
            Err(_) => return probe_gso_option(),
        }
    }
    0
}

/// As [`probe_gso`], by the option alone.
fn probe_gso_option() -> u32 {
    let exists = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)
        .and_then(|socket| set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 1200))
        .is_ok();
    if exists { GSO_SEGMENTS as u32 } else { 0 }
}

/// What the kernel believes of the path MTU to an address, in bytes of IP packet: the MTU of the interface, of the
/// route, or what an ICMP message has said lately, which anybody may have sent. A hint, to be confirmed by probes. Sends nothing.
///
/// # Errors
/// When there is no route.
pub fn path_mtu(to: SocketAddr) -> io::Result<u16> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    let mtu = match to {
        SocketAddr::V4(_) => sys::option(socket.as_fd(), libc::SOL_IP, libc::IP_MTU)?,
        SocketAddr::V6(_) => sys::option(socket.as_fd(), libc::SOL_IPV6, libc::IPV6_MTU)?,
    };
    // Loopback has 65,536.
    Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
}

#[cfg(test)]
mod tests {
    use packet::{Link, RecvSlot};

    use super::*;

    #[test]
    fn without_steering_all_datagrams_of_a_sender_reach_one_socket() {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = UdpConfig {
            listen,
            workers: 3,
            send_buffer_bytes: 1 << 20,
            receive_buffer_bytes: 1 << 20,
            offload: false,
        };
        let mut links = bind(&config).unwrap();
        assert!(links.iter().all(UdpLink::is_steered));
        // A kernel that refuses the program: none is there, and none may be attached any more.
        set_option(links[0].as_fd(), libc::SOL_SOCKET, libc::SO_DETACH_REUSEPORT_BPF, 0).unwrap();
        set_option(links[0].as_fd(), libc::SOL_SOCKET, libc::SO_LOCK_FILTER, 1).unwrap();
        steer(&mut links);
        assert!(!links.iter().any(UdpLink::is_steered));

        let to = links[0].local_addr().unwrap();
        for _ in 0..8 {
            let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
            let lanes = 0..16_u8;
            for lane in lanes.clone() {
                sender.send_to(&[20, lane, 0, 0], to).unwrap();
            }
            let mut slots: Vec<RecvSlot> = lanes.map(|_| RecvSlot::new(64)).collect();
            let mut received = links.iter_mut().filter_map(|link| link.recv(&mut slots).ok());
            assert_eq!((received.next(), received.next()), (Some(16), None));
        }
    }
}
