//! Who has which port, through `sock_diag(7)`.

use std::io;

use super::message::Request;
use super::{Netlink, NetlinkError};

// linux/sock_diag.h
const SOCK_DIAG_BY_FAMILY: u16 = 20;

/// A socket that tells which ports are in use.
#[derive(Debug)]
pub struct PortUsers {
    netlink: Netlink,
}

impl PortUsers {
    /// Looks at the network namespace of the calling thread.
    ///
    /// # Errors
    /// As [`Netlink::open`].
    pub fn open() -> io::Result<Self> {
        Ok(Self { netlink: Netlink::open_to(libc::NETLINK_SOCK_DIAG)? })
    }

    /// How many UDP sockets, of whatever program and of either family, are bound to a port. Needs no privileges.
    ///
    /// # Errors
    /// `NotFound` on a kernel without the module `udp_diag`.
    pub fn udp(&mut self, port: u16) -> Result<usize, NetlinkError> {
        let mut users = 0;
        for family in [libc::AF_INET, libc::AF_INET6] {
            let request = Request::dump(SOCK_DIAG_BY_FAMILY, &request(family as u8, port));
            let replies = self.netlink.ask(request, || format!("list the users of UDP port {port}"))?;
            users += replies.iter().filter(|reply| reply.kind == SOCK_DIAG_BY_FAMILY).count();
        }
        Ok(users)
    }
}

/// `struct inet_diag_req_v2`: family, protocol, extensions, padding, states 4, then the socket looked for, of which only the
/// local port (in network byte order) is set: ports 2 + 2, addresses 16 + 16, interface 4, cookie 8.
fn request(family: u8, port: u16) -> [u8; 56] {
    let mut bytes = [0; 56];
    bytes[0] = family;
    bytes[1] = libc::IPPROTO_UDP as u8;
    bytes[4..8].fill(0xff);
    bytes[8..10].copy_from_slice(&port.to_be_bytes());
    bytes
}
