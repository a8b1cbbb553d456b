//! The few system-call helpers that several modules share.

use std::io;
use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc::c_int;

/// Turns the −1 of a system call into the error that `errno` names.
pub(crate) fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// As [`check`], for calls that return a byte or message count.
pub(crate) fn check_size(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Takes ownership of the descriptor that a system call has just returned.
pub(crate) fn own(result: c_int) -> io::Result<OwnedFd> {
    let fd = check(result)?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A close-on-exec socket.
pub(crate) fn socket(family: c_int, kind: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    own(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) })
}

/// Gives a socket a local address.
pub(crate) fn bind(fd: BorrowedFd<'_>, address: &RawAddress) -> io::Result<()> {
    // SAFETY: `address` is valid for `address.len()` bytes during the call.
    check(unsafe { libc::bind(fd.as_raw_fd(), address.as_ptr().cast(), address.len()) }).map(drop)
}

/// The local address of an IPv4 or IPv6 socket.
pub(crate) fn local_address(fd: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    let mut address = RawAddress::EMPTY;
    let mut len = RawAddress::CAPACITY;
    // SAFETY: the kernel writes at most `len` bytes to `address`, which has that many.
    check(unsafe { libc::getsockname(fd.as_raw_fd(), address.as_mut_ptr().cast(), &raw mut len) })?;
    address.decode().ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))
}

/// Sets a socket option of type `int`.
pub(crate) fn set_option(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    set_option_bytes(fd, level, name, &value.to_ne_bytes())
}

/// Sets a socket option from its bytes; for options that contain no pointer.
pub(crate) fn set_option_bytes(
    fd: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    value: &[u8],
) -> io::Result<()> {
    // SAFETY: the kernel reads `value.len()` bytes from `value`.
    check(unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, name, value.as_ptr().cast(), value.len() as libc::socklen_t)
    })
    .map(drop)
}

/// Sets a buffer size: beyond `net.core.[rw]mem_max` with `CAP_NET_ADMIN`, up to it without.
pub(crate) fn set_buffer(fd: BorrowedFd<'_>, force: c_int, plain: c_int, bytes: usize) -> io::Result<()> {
    let bytes = i32::try_from(bytes).unwrap_or(i32::MAX / 2);
    set_option(fd, libc::SOL_SOCKET, force, bytes).or_else(|_| set_option(fd, libc::SOL_SOCKET, plain, bytes))
}

/// Reads a socket option of type `int`.
pub(crate) fn option(fd: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<c_int> {
    let mut value: c_int = 0;
    let mut len = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `value`, which has that many.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len) })?;
    Ok(value)
}

/// How many datagrams the kernel has dropped because a socket's receive buffer was full (`SO_MEMINFO`).
pub(crate) fn receive_drops(fd: BorrowedFd<'_>) -> io::Result<u32> {
    // linux/sock_diag.h: the array grows at its end with new kernels.
    const SK_MEMINFO_DROPS: usize = 8;
    let mut values = [0_u32; SK_MEMINFO_DROPS + 1];
    let mut len = size_of_val(&values) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `values`, which has that many.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            values.as_mut_ptr().cast(),
            &raw mut len,
        )
    })?;
    Ok(values[SK_MEMINFO_DROPS])
}

/// A `sockaddr_in` or `sockaddr_in6` as the kernel lays it out.
///
/// ```text
///           0..1          2..3       4..7                8..23      24..27
/// AF_INET   family (ne)   port (be)  address             zero
/// AF_INET6  family (ne)   port (be)  flow label (be)     address    scope (ne)
/// ```
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(crate) struct RawAddress {
    bytes: [u8; 28],
    len: u8,
}

impl RawAddress {
    pub(crate) const EMPTY: Self = Self { bytes: [0; 28], len: 28 };
    /// Room for an address, as the kernel wants to be told.
    pub(crate) const CAPACITY: libc::socklen_t = 28;
    const LEN_V4: u8 = 16;

    /// An address for a socket of its own family.
    pub(crate) fn new(address: SocketAddr) -> Self {
        let mut raw = Self::EMPTY;
        raw.bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        match address {
            SocketAddr::V4(address) => {
                raw.bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
                raw.bytes[4..8].copy_from_slice(&address.ip().octets());
                raw.len = Self::LEN_V4;
            }
            SocketAddr::V6(address) => {
                raw.bytes[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
                raw.bytes[4..8].copy_from_slice(&address.flowinfo().to_be_bytes());
                raw.bytes[8..24].copy_from_slice(&address.ip().octets());
                raw.bytes[24..28].copy_from_slice(&address.scope_id().to_ne_bytes());
            }
        }
        raw
    }

    /// An address for an IPv6 socket: IPv4 becomes IPv4-mapped (RFC 4291 §2.5.5.2).
    pub(crate) fn new_v6(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(v4) => {
                Self::new(SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into())
            }
            SocketAddr::V6(_) => Self::new(address),
        }
    }

    /// The address, IPv4-mapped ones as IPv4; `None` when it is of another family.
    pub(crate) fn decode(&self) -> Option<SocketAddr> {
        let port = u16::from_be_bytes([self.bytes[2], self.bytes[3]]);
        match c_int::from(u16::from_ne_bytes([self.bytes[0], self.bytes[1]])) {
            libc::AF_INET => {
                let octets: [u8; 4] = self.bytes[4..8].try_into().ok()?;
                Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(octets)), port))
            }
            libc::AF_INET6 => {
                let octets: [u8; 16] = self.bytes[8..24].try_into().ok()?;
                let ip = Ipv6Addr::from(octets);
                if let Some(v4) = ip.to_ipv4_mapped() {
                    return Some(SocketAddr::new(IpAddr::V4(v4), port));
                }
                let scope = u32::from_ne_bytes(self.bytes[24..28].try_into().ok()?);
                Some(SocketAddrV6::new(ip, port, 0, scope).into())
            }
            _ => None,
        }
    }

    pub(crate) fn len(&self) -> libc::socklen_t {
        libc::socklen_t::from(self.len)
    }

    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.bytes.as_ptr()
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.bytes.as_mut_ptr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernels_layout() {
        for text in ["192.0.2.1:9443", "[2001:db8::1]:9443", "[fe80::1%3]:53"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(RawAddress::new(address).decode(), Some(address));
            assert_eq!(RawAddress::new_v6(address).decode(), Some(address));
        }
    }

    #[test]
    fn an_ipv4_address_is_mapped_for_an_ipv6_socket() {
        let raw = RawAddress::new_v6("192.0.2.1:1".parse().unwrap());
        assert_eq!(raw.len(), 28);
        assert_eq!(raw.bytes[18..24], [0xff, 0xff, 192, 0, 2, 1]);
    }
}
