//! System calls and options of TCP sockets.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::TcpConfig;
use crate::sys::{self, RawAddress, check, check_size, set_option};

/// Connections that wait to be accepted, at most.
const BACKLOG: i32 = 256;
/// How long the other end may leave what was sent without an answer, or its window closed, in milliseconds (RFC 5482).
const USER_TIMEOUT_MS: i32 = 10_000;
/// When nothing is sent the other end is asked after so many seconds whether it is there ...
const KEEPALIVE_IDLE_S: i32 = 5;
/// ... and again every so many. It is given up after the user timeout.
const KEEPALIVE_INTERVAL_S: i32 = 2;
/// Bytes that wait in the kernel because the window is full, at most: more would only be delay. The socket is
/// writable again when half of them have left.
const NOT_SENT_MAX: i32 = 128 << 10;

/// A listener and its address, the IPv6 wildcard for both families.
pub(super) fn listen(address: SocketAddr, config: &TcpConfig) -> io::Result<(TcpListener, SocketAddr)> {
    if !address.ip().is_unspecified() {
        return listen_exactly(address, config);
    }
    match listen_exactly((Ipv6Addr::UNSPECIFIED, address.port()).into(), config) {
        // EAFNOSUPPORT: the kernel has no IPv6. EADDRNOTAVAIL: it is disabled.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => {
            listen_exactly((Ipv4Addr::UNSPECIFIED, address.port()).into(), config)
        }
        result => result,
    }
}

fn listen_exactly(address: SocketAddr, config: &TcpConfig) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = open(address, config)?;
    let fd = socket.as_fd();
    // After a restart connections of the former process may still be closing. It does not let two listen on one port.
    set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if address.is_ipv6() {
        set_option(fd, libc::SOL_IPV6, libc::IPV6_V6ONLY, (!address.ip().is_unspecified()).into())?;
    }
    sys::bind(fd, &RawAddress::new(address))?;
    // SAFETY: no pointers.
    check(unsafe { libc::listen(fd.as_raw_fd(), BACKLOG) })?;
    let mut bound = address;
    bound.set_port(sys::local_address(fd)?.port());
    Ok((socket.into(), bound))
}

/// A socket with its buffers, which have to be known before the handshake: they decide the window scale.
fn open(address: SocketAddr, config: &TcpConfig) -> io::Result<OwnedFd> {
    let family = if address.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    let socket = sys::socket(family, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)?;
    let fd = socket.as_fd();
    if config.receive_buffer_bytes > 0 {
        sys::set_buffer(fd, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, config.receive_buffer_bytes)?;
    }
    if config.send_buffer_bytes > 0 {
        sys::set_buffer(fd, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, config.send_buffer_bytes)?;
    }
    Ok(socket)
}

/// Begins to connect, from the address that is listened on if it is of the same family.
///
/// With segments of `segment_size` bytes at most both ways, TCP's options included: the far end is told so.
pub(super) fn connect(
    to: SocketAddr,
    segment_size: Option<i32>,
    config: &TcpConfig,
) -> io::Result<TcpStream> {
    let socket = open(to, config)?;
    tune(socket.as_fd())?;
    if let Some(size) = segment_size {
        set_option(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_MAXSEG, size)?;
    }
    let own = config.listen.filter(|own| !own.ip().is_unspecified() && own.is_ipv4() == to.is_ipv4());
    if let Some(mut own) = own {
        own.set_port(0);
        sys::bind(socket.as_fd(), &RawAddress::new(own))?;
    }
    let address = RawAddress::new(to);
    // SAFETY: `address` is valid for `address.len()` bytes during the call.
    let result = check(unsafe { libc::connect(socket.as_raw_fd(), address.as_ptr().cast(), address.len()) });
    match result {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket.into()),
    }
}

/// Makes a socket that was accepted, or is to be connected, one that carries datagrams.
pub(super) fn tune(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, USER_TIMEOUT_MS)?;
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, NOT_SENT_MAX)?;
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, KEEPALIVE_IDLE_S)?;
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)?;
    set_option(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)
}

/// How often in a row the kernel has sent the same bytes again without an answer (`tcpi_retransmits` of `TCP_INFO`).
pub(super) fn resent(socket: &TcpStream) -> io::Result<u8> {
    // linux/tcp.h: tcpi_state, tcpi_ca_state, tcpi_retransmits, tcpi_probes; the kernel cuts the rest off.
    let bytes = sys::option(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_INFO)?.to_ne_bytes();
    Ok(bytes[2])
}

/// Makes the kernel forget everything about the connection when the socket is closed (`SO_LINGER` of no time).
pub(super) fn set_abort(socket: &TcpStream) -> io::Result<()> {
    // struct linger: on, for 0 seconds.
    let mut linger = [0; 8];
    linger[..4].copy_from_slice(&1_i32.to_ne_bytes());
    sys::set_option_bytes(socket.as_fd(), libc::SOL_SOCKET, libc::SO_LINGER, &linger)
}

/// Sends the concatenation of `slices`, or the beginning of it. Returns the bytes taken.
pub(super) fn send(socket: &TcpStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    // SAFETY: `msghdr` is a C structure of integers and pointers; all zero is a valid value of it.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    // An `IoSlice` is an `iovec`, by its documentation.
    message.msg_iov = slices.as_ptr().cast_mut().cast();
    message.msg_iovlen = slices.len() as _;
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    loop {
        // SAFETY: the header points at `slices`, which borrow what they point at; the kernel only reads.
        match check_size(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
