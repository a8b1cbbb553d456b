//! Links, addresses and routes through rtnetlink (`rtnetlink(7)`).
//!
//! One socket, one request at a time, each acknowledged by the kernel: when a call returns, the change is made. A
//! socket keeps talking to the network namespace in which it was opened.

mod message;
mod objects;
mod ports;
mod watch;

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use ipnet::IpNet;
use thiserror::Error;

use crate::sys::{self, set_option};
use message::{Message, Request, messages};
pub use objects::{Address, Link, Lookup, Neighbour, Route};
use objects::{IFADDR_LEN, IFINFO_LEN, IFLA_GSO_MAX_SIZE, RTMSG_LEN, family, ifaddr, ifinfo, ndmsg, rtmsg};
pub use ports::PortUsers;
pub use watch::{Changes, Watch};

/// A request that the kernel refused.
#[derive(Debug, Error)]
#[error("cannot {action}: {}", kernel.as_deref().map_or_else(|| errno.to_string(), |text| format!("{errno}: {text}")))]
pub struct NetlinkError {
    /// What was asked for, as "add address 10.0.0.1/24".
    pub action: String,
    /// What the kernel answered.
    pub errno: io::Error,
    /// The kernel's own explanation (extended ACK), where it gave one.
    pub kernel: Option<String>,
}

impl NetlinkError {
    /// The kind of the kernel's error: `AlreadyExists`, `PermissionDenied`, `NotFound` ….
    pub fn kind(&self) -> io::ErrorKind {
        match self.errno.raw_os_error() {
            Some(libc::ENODEV | libc::ESRCH) => io::ErrorKind::NotFound,
            _ => self.errno.kind(),
        }
    }
}

impl From<NetlinkError> for io::Error {
    fn from(error: NetlinkError) -> Self {
        Self::new(error.kind(), error)
    }
}

/// An rtnetlink socket.
#[derive(Debug)]
pub struct Netlink {
    socket: File,
    sequence: u32,
    buffer: Vec<u8>,
}

// linux/rtnetlink.h, Linux 4.19
const RTA_IP_PROTO: u16 = 27;
const RTA_SPORT: u16 = 28;
const RTA_DPORT: u16 = 29;
// linux/if_link.h
const IFLA_GSO_IPV4_MAX_SIZE: u16 = 63;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
const VETH_INFO_PEER: u16 = 1;

impl Netlink {
    /// Opens a socket to the network namespace of the calling thread.
    ///
    /// # Errors
    /// Out of descriptors, or a sandbox that forbids netlink.
    pub fn open() -> io::Result<Self> {
        Self::open_to(libc::NETLINK_ROUTE)
    }

    fn open_to(protocol: i32) -> io::Result<Self> {
        let socket = sys::socket(libc::AF_NETLINK, libc::SOCK_RAW, protocol)?;
        // Both are niceties: errors in words (Linux 4.12), and errors without the request repeated (4.3).
        let _ = set_option(socket.as_fd(), libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, 1);
        let _ = set_option(socket.as_fd(), libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, 1);
        // The kernel builds dumps in pieces of at most 32 KiB.
        Ok(Self { socket: socket.into(), sequence: 0, buffer: vec![0; 64 * 1024] })
    }

    // ---- links -----------------------------------------------------------------------------------------------

    /// All interfaces of the namespace.
    ///
    /// # Errors
    /// None that a correct program meets.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let request = Request::dump(libc::RTM_GETLINK, &[0; IFINFO_LEN]);
        let replies = self.ask(request, || "list links".into())?;
        Ok(replies.iter().filter(|reply| reply.kind == libc::RTM_NEWLINK).filter_map(Link::parse).collect())
    }

    /// One interface, by its name.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn link(&mut self, name: &str) -> Result<Link, NetlinkError> {
        let mut request = Request::get(libc::RTM_GETLINK, &[0; IFINFO_LEN]);
        request.string(libc::IFLA_IFNAME, name);
        self.one_link(request, || format!("find link {name}"))
    }

    /// One interface, by its number.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn link_by_index(&mut self, index: u32) -> Result<Link, NetlinkError> {
        let request = Request::get(libc::RTM_GETLINK, &ifinfo(index, 0, 0));
        self.one_link(request, || format!("find link number {index}"))
    }

    fn one_link(&mut self, request: Request, action: impl Fn() -> String) -> Result<Link, NetlinkError> {
        let replies = self.ask(request, &action)?;
        replies.iter().find_map(Link::parse).ok_or_else(|| NetlinkError {
            action: action(),
            errno: io::ErrorKind::NotFound.into(),
            kernel: None,
        })
    }

    /// The number of an interface.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn link_index(&mut self, name: &str) -> Result<u32, NetlinkError> {
        Ok(self.link(name)?.index)
    }

    /// Sets an interface up or down.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_NET_ADMIN`; `NotFound`.
    pub fn set_up(&mut self, index: u32, up: bool) -> Result<(), NetlinkError> {
        let flags = if up { libc::IFF_UP as u32 } else { 0 };
        let request = Request::change(libc::RTM_NEWLINK, 0, &ifinfo(index, flags, libc::IFF_UP as u32));
        self.tell(request, || format!("set link number {index} {}", if up { "up" } else { "down" }))
    }

    /// Sets the MTU, in bytes of IP packet.
    ///
    /// # Errors
    /// As [`set_up`](Self::set_up); `InvalidInput` when the device cannot have that MTU.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        self.set_link(index, "the MTU", libc::IFLA_MTU, mtu)
    }

    /// Sets how many packets the interface queues. A TUN device resizes its rings at once.
    ///
    /// # Errors
    /// As [`set_up`](Self::set_up).
    pub fn set_queue_packets(&mut self, index: u32, packets: u32) -> Result<(), NetlinkError> {
        self.set_link(index, "the transmit queue length", libc::IFLA_TXQLEN, packets)
    }

    /// Sets the largest super-packet, in bytes, that the stack gives to the device.
    ///
    /// # Errors
    /// As [`set_up`](Self::set_up); `InvalidInput` when the device cannot take that.
    pub fn set_gso_max_bytes(&mut self, index: u32, bytes: u32) -> Result<(), NetlinkError> {
        self.set_link(index, "gso_max_size", IFLA_GSO_MAX_SIZE, bytes)?;
        // Since Linux 6.3 IPv4 has a limit of its own; older kernels ignore the attribute or refuse it.
        let _ = self.set_link(index, "gso_ipv4_max_size", IFLA_GSO_IPV4_MAX_SIZE, bytes);
        Ok(())
    }

    /// Makes the interface a port of a bridge.
    ///
    /// # Errors
    /// As [`set_up`](Self::set_up).
    pub fn set_master(&mut self, index: u32, bridge: u32) -> Result<(), NetlinkError> {
        self.set_link(index, "the bridge", libc::IFLA_MASTER, bridge)
    }

    fn set_link(&mut self, index: u32, what: &str, kind: u16, value: u32) -> Result<(), NetlinkError> {
        let mut request = Request::change(libc::RTM_NEWLINK, 0, &ifinfo(index, 0, 0));
        request.attribute(kind, &value.to_ne_bytes());
        self.tell(request, || format!("set {what} of link number {index} to {value}"))
    }

    /// Keeps the kernel from giving the interface an IPv6 link-local address of its own, and with it from sending
    /// router solicitations and multicast reports.
    ///
    /// # Errors
    /// As [`set_up`](Self::set_up); `Unsupported` on a kernel without IPv6.
    pub fn set_no_ipv6_autoconfiguration(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut request = Request::change(libc::RTM_NEWLINK, 0, &ifinfo(index, 0, 0));
        request.nested(libc::IFLA_AF_SPEC, |families| {
            families.nested(libc::AF_INET6 as u16, |inet6| {
                inet6.attribute(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
            });
        });
        self.tell(request, || format!("turn off IPv6 autoconfiguration of link number {index}"))
    }

    /// Deletes an interface.
    ///
    /// # Errors
    /// As [`set_up`](Self::set_up).
    pub fn delete_link(&mut self, index: u32) -> Result<(), NetlinkError> {
        let request = Request::change(libc::RTM_DELLINK, 0, &ifinfo(index, 0, 0));
        self.tell(request, || format!("delete link number {index}"))
    }

    /// Creates a bridge without ports.
    ///
    /// # Errors
    /// As [`set_up`](Self::set_up); `AlreadyExists`; `Unsupported` when the kernel has no bridges.
    pub fn create_bridge(&mut self, name: &str) -> Result<(), NetlinkError> {
        let mut request = Request::create(libc::RTM_NEWLINK, &[0; IFINFO_LEN]);
        request.string(libc::IFLA_IFNAME, name);
        request.nested(libc::IFLA_LINKINFO, |info| info.string(libc::IFLA_INFO_KIND, "bridge"));
        self.tell(request, || format!("create bridge {name}"))
    }

    /// Creates a pair of Ethernet interfaces joined by a cable: one here, its peer in the namespace `there`.
    ///
    /// # Errors
    /// As [`create_bridge`](Self::create_bridge).
    pub fn create_veth(
        &mut self,
        name: &str,
        peer_name: &str,
        there: BorrowedFd<'_>,
    ) -> Result<(), NetlinkError> {
        use std::os::fd::AsRawFd;
        let mut request = Request::create(libc::RTM_NEWLINK, &[0; IFINFO_LEN]);
        request.string(libc::IFLA_IFNAME, name);
        request.nested(libc::IFLA_LINKINFO, |info| {
            info.string(libc::IFLA_INFO_KIND, "veth");
            info.nested(libc::IFLA_INFO_DATA, |data| {
                data.nested(VETH_INFO_PEER, |peer| {
                    peer.bytes(&[0; IFINFO_LEN]);
                    peer.string(libc::IFLA_IFNAME, peer_name);
                    peer.attribute(libc::IFLA_NET_NS_FD, &there.as_raw_fd().to_ne_bytes());
                });
            });
        });
        self.tell(request, || format!("create veth pair {name} and {peer_name}"))
    }

    // ---- addresses -------------------------------------------------------------------------------------------

    /// All addresses of the namespace.
    ///
    /// # Errors
    /// None that a correct program meets.
    pub fn addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        let request = Request::dump(libc::RTM_GETADDR, &[0; IFADDR_LEN]);
        let replies = self.ask(request, || "list addresses".into())?;
        Ok(replies
            .iter()
            .filter(|reply| reply.kind == libc::RTM_NEWADDR)
            .filter_map(Address::parse)
            .collect())
    }

    /// Gives an interface an address, and with it the route to its prefix. IPv6 addresses skip duplicate address
    /// detection: they can be bound at once, and receive a moment later.
    ///
    /// # Errors
    /// As [`set_up`](Self::set_up); `AlreadyExists`; `PermissionDenied` also where IPv6 is disabled by sysctl.
    pub fn add_address(&mut self, index: u32, net: IpNet) -> Result<(), NetlinkError> {
        let flags = if net.addr().is_ipv6() { libc::IFA_F_NODAD as u8 } else { 0 };
        let mut request = Request::create(libc::RTM_NEWADDR, &ifaddr(index, net, flags));
        request.address(libc::IFA_LOCAL, net.addr());
        request.address(libc::IFA_ADDRESS, net.addr());
        self.tell(request, || format!("add address {net} to link number {index}"))
    }

    /// Takes an address from an interface.
    ///
    /// # Errors
    /// As [`set_up`](Self::set_up); `AddrNotAvailable` when it does not have it.
    pub fn del_address(&mut self, index: u32, net: IpNet) -> Result<(), NetlinkError> {
        let mut request = Request::change(libc::RTM_DELADDR, 0, &ifaddr(index, net, 0));
        request.address(libc::IFA_LOCAL, net.addr());
        request.address(libc::IFA_ADDRESS, net.addr());
        self.tell(request, || format!("delete address {net} of link number {index}"))
    }

    // ---- routes ----------------------------------------------------------------------------------------------

    /// Installs a route in the main table.
    ///
    /// # Errors
    /// As [`set_up`](Self::set_up); `AlreadyExists` when there is a route to the same prefix.
    pub fn add_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        let mut request = Request::create(libc::RTM_NEWROUTE, &rtmsg(route));
        route.describe(&mut request);
        self.tell(request, || format!("add route {} by link number {}", route.to, route.index))
    }

    /// Removes a route from the main table.
    ///
    /// # Errors
    /// As [`set_up`](Self::set_up); `NotFound`.
    pub fn del_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        let mut request = Request::change(libc::RTM_DELROUTE, 0, &rtmsg(route));
        route.describe(&mut request);
        self.tell(request, || format!("delete route {} by link number {}", route.to, route.index))
    }

    /// The unicast routes of the main table, both families.
    ///
    /// # Errors
    /// None that a correct program meets.
    pub fn routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        let mut all = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut header = [0; RTMSG_LEN];
            header[0] = family as u8;
            let request = Request::dump(libc::RTM_GETROUTE, &header);
            let replies = self.ask(request, || "list routes".into())?;
            all.extend(replies.iter().filter(|r| r.kind == libc::RTM_NEWROUTE).filter_map(Route::parse));
        }
        Ok(all)
    }

    /// What the kernel would do with a packet to `to`.
    ///
    /// # Errors
    /// `NetworkUnreachable` without a route.
    pub fn lookup(&mut self, to: IpAddr) -> Result<Lookup, NetlinkError> {
        self.ask_route(to, None, |_| {})
    }

    /// What the kernel would do with a segment of TCP from one end to another: as policy rules and multipath routes have it for this
    /// flow. With the unspecified address as its source it says which one the kernel would choose.
    ///
    /// # Errors
    /// `NetworkUnreachable` without a route; `InvalidInput` when the source is not an address of this machine.
    pub fn lookup_tcp(&mut self, from: SocketAddr, to: SocketAddr) -> Result<Lookup, NetlinkError> {
        let source = Some(from.ip()).filter(|source| !source.is_unspecified());
        self.ask_route(to.ip(), source, |request| {
            request.attribute(RTA_IP_PROTO, &[libc::IPPROTO_TCP as u8]);
            request.attribute(RTA_SPORT, &from.port().to_be_bytes());
            request.attribute(RTA_DPORT, &to.port().to_be_bytes());
        })
    }

    fn ask_route(
        &mut self,
        to: IpAddr,
        source: Option<IpAddr>,
        more: impl Fn(&mut Request),
    ) -> Result<Lookup, NetlinkError> {
        let bits = if to.is_ipv4() { 32 } else { 128 };
        let mut header = [0; RTMSG_LEN];
        (header[0], header[1], header[2]) = (family(to), bits, source.map_or(0, |_| bits));
        let mut request = Request::get(libc::RTM_GETROUTE, &header);
        request.address(libc::RTA_DST, to);
        if let Some(source) = source {
            request.address(libc::RTA_SRC, source);
        }
        more(&mut request);
        let action = || format!("find the route to {to}");
        let replies = self.ask(request, action)?;
        let reply = replies.iter().find(|reply| reply.kind == libc::RTM_NEWROUTE);
        reply.and_then(Lookup::parse).ok_or_else(|| NetlinkError {
            action: action(),
            errno: io::ErrorKind::NetworkUnreachable.into(),
            kernel: None,
        })
    }

    // ---- neighbours ------------------------------------------------------------------------------------------

    /// What the kernel knows of a neighbour on an interface; `None` when it has not looked for it lately. Needs Linux 5.0.
    ///
    /// # Errors
    /// `Unsupported` on older kernels.
    pub fn neighbour(&mut self, index: u32, address: IpAddr) -> Result<Option<Neighbour>, NetlinkError> {
        let mut request = Request::get(libc::RTM_GETNEIGH, &ndmsg(index, address));
        request.address(libc::NDA_DST, address);
        match self.ask(request, || format!("find neighbour {address} of link number {index}")) {
            Ok(replies) => Ok(replies.iter().find_map(Neighbour::parse)),
            // ENOENT, where others have ESRCH.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    // ---- the conversation ------------------------------------------------------------------------------------

    fn tell(&mut self, request: Request, action: impl Fn() -> String) -> Result<(), NetlinkError> {
        self.ask(request, action).map(drop)
    }

    /// Sends a request and collects the replies up to the acknowledgement.
    fn ask(&mut self, request: Request, action: impl Fn() -> String) -> Result<Vec<Message>, NetlinkError> {
        let failed = |errno, kernel| NetlinkError { action: action(), errno, kernel };
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = request.finish(self.sequence);
        self.socket.write_all(&bytes).map_err(|error| failed(error, None))?;
        let mut replies = Vec::new();
        loop {
            let len = match self.socket.read(&mut self.buffer) {
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(error, None)),
            };
            for reply in messages(&self.buffer[..len]) {
                // What is left of an earlier conversation that failed half-way.
                if reply.sequence != self.sequence {
                    continue;
                }
                match i32::from(reply.kind) {
                    libc::NLMSG_DONE => return Ok(replies),
                    libc::NLMSG_ERROR => {
                        return match reply.error() {
                            None => Ok(replies),
                            Some((errno, kernel)) => Err(failed(errno, kernel)),
                        };
                    }
                    _ => replies.push(reply),
                }
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
