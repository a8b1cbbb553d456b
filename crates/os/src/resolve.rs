//! Looking host names up, one address family at a time.
//!
//! The system's resolver, asked for both families at once, answers when it has both: a name server that drops questions for
//! IPv6 addresses, as some home routers do, then hides the IPv4 address for ten seconds and more. RFC 8305 §3 has both asked
//! at once, apart from each other.

use std::ffi::CString;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::ptr;

/// Which addresses are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The addresses of a host, with port 0 and, where they have one, their scope. Blocks for as long as the system's resolver does.
///
/// # Errors
/// The host has none of that family, or the resolver does not know.
pub fn resolve(host: &str, family: Family) -> io::Result<Vec<SocketAddr>> {
    let host = CString::new(host)?;
    // SAFETY: all zero is a valid `addrinfo`: numbers, and pointers that are null.
    let mut hints: libc::addrinfo = unsafe { std::mem::zeroed() };
    hints.ai_family = match family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    // One result for each address.
    hints.ai_socktype = libc::SOCK_STREAM;
    let mut first = ptr::null_mut();
    // SAFETY: the name ends in a zero byte, and both it and the hints live through the call.
    let code = unsafe { libc::getaddrinfo(host.as_ptr(), ptr::null(), &raw const hints, &raw mut first) };
    if code != 0 {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("getaddrinfo: error {code}")));
    }
    let mut addresses = Vec::new();
    let mut next = first;
    // SAFETY: the list is the call's result, not freed yet; it ends with a null pointer.
    while let Some(info) = unsafe { next.as_ref() } {
        addresses.extend(address(info));
        next = info.ai_next;
    }
    // SAFETY: this is what the call has given us, and nothing refers to it any more.
    unsafe { libc::freeaddrinfo(first) };
    Ok(addresses)
}

fn address(info: &libc::addrinfo) -> Option<SocketAddr> {
    let len = info.ai_addrlen as usize;
    match info.ai_family {
        libc::AF_INET if len >= size_of::<libc::sockaddr_in>() => {
            // SAFETY: the family and the length say that this is what the pointer leads to.
            let raw = unsafe { info.ai_addr.cast::<libc::sockaddr_in>().read_unaligned() };
            Some((Ipv4Addr::from(u32::from_be(raw.sin_addr.s_addr)), 0).into())
        }
        libc::AF_INET6 if len >= size_of::<libc::sockaddr_in6>() => {
            // SAFETY: as above.
            let raw = unsafe { info.ai_addr.cast::<libc::sockaddr_in6>().read_unaligned() };
            let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, 0, 0, raw.sin6_scope_id).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_gives_its_own_addresses() {
        assert_eq!(resolve("127.0.0.1", Family::V4).unwrap(), ["127.0.0.1:0".parse().unwrap()]);
        assert_eq!(resolve("::1", Family::V6).unwrap(), ["[::1]:0".parse().unwrap()]);
        assert!(resolve("127.0.0.1", Family::V6).is_err());
        assert!(resolve("a\0b", Family::V4).is_err());
    }
}
