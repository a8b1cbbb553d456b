//! The way to an address, as netlink tells it.

use std::io;
use std::net::{IpAddr, SocketAddr};

use super::Family;
use super::packet_socket::ETHERNET;
use crate::netlink::Netlink;

/// How frames reach the other end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// The interface, and the Ethernet header for it; `None` where packets have none, so that the kernel has to send them.
    pub frame: Option<(u32, [u8; ETHERNET])>,
    /// Bytes of IP packet that the first link takes.
    pub mtu: u16,
}

/// What the kernel would do with a packet to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The interface's number.
    pub index: u32,
    /// Its name.
    pub interface: String,
    /// The source address.
    pub source: Option<IpAddr>,
    /// The router, unless the address is on the link.
    pub gateway: Option<IpAddr>,
    /// The Ethernet address of the router, or of the address itself.
    pub next_hop_mac: Option<[u8; 6]>,
    /// Bytes of IP packet that the first link takes.
    pub mtu: u16,
    /// The way; `None` while the next hop's Ethernet address is not known.
    pub path: Option<Path>,
}

impl Reach {
    /// The largest segment, in bytes of payload and options, that the link takes whole.
    pub(super) fn mss(&self, to: IpAddr) -> u16 {
        self.mtu.saturating_sub(if to.is_ipv4() { 40 } else { 60 })
    }
}

/// Finds the way of a flow from `local`, whose address may be unspecified, to `remote`.
///
/// # Errors
/// `NetworkUnreachable` without a route.
pub fn reach(netlink: &mut Netlink, local: SocketAddr, remote: SocketAddr) -> io::Result<Reach> {
    let lookup = netlink.lookup_tcp(local, remote)?;
    let to = remote.ip();
    let link = netlink.link_by_index(lookup.index)?;
    // Loopback has 65,536.
    let mtu = u16::try_from(lookup.mtu.unwrap_or(link.mtu)).unwrap_or(u16::MAX);
    let next_hop = lookup.gateway.unwrap_or(to);
    let (next_hop_mac, frame) = match link.hardware {
        libc::ARPHRD_LOOPBACK => (None, Some([0; 6])),
        libc::ARPHRD_ETHER => {
            let known = netlink.neighbour(link.index, next_hop).ok().flatten();
            let mac = known.and_then(|neighbour| neighbour.mac);
            (mac, mac)
        }
        _ => (None, None),
    };
    let ethernet = matches!(link.hardware, libc::ARPHRD_LOOPBACK | libc::ARPHRD_ETHER);
    let path = match frame {
        Some(to_mac) => {
            let mut header = [0; ETHERNET];
            header[..6].copy_from_slice(&to_mac);
            header[6..12].copy_from_slice(&link.mac.unwrap_or_default());
            header[12..].copy_from_slice(&Family::of(to).ether_type().to_be_bytes());
            Some(Path { frame: Some((link.index, header)), mtu })
        }
        None if ethernet => None,
        None => Some(Path { frame: None, mtu }),
    };
    Ok(Reach {
        index: link.index,
        interface: link.name,
        source: lookup.source,
        gateway: lookup.gateway,
        next_hop_mac,
        mtu,
        path,
    })
}
