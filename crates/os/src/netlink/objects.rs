//! What rtnetlink talks about: links, addresses, routes, and their forms on the wire.

use std::net::IpAddr;

use ipnet::IpNet;

use super::message::{Attributes, Message, Request, read_u16, read_u32};

pub(super) const IFINFO_LEN: usize = 16;
pub(super) const IFADDR_LEN: usize = 8;
pub(super) const RTMSG_LEN: usize = 12;
const NDMSG_LEN: usize = 12;

// linux/if_link.h
pub(super) const IFLA_GSO_MAX_SIZE: u16 = 41;
// linux/rtnetlink.h
const RTAX_MTU: u16 = 2;

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number in this namespace; never 0.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What kind of hardware it is (`ARPHRD_…` of `linux/if_arp.h`): 1 for Ethernet.
    pub hardware: u16,
    /// Bytes of IP packet.
    pub mtu: u32,
    /// Set up by the administrator (`IFF_UP`).
    pub up: bool,
    /// Able to pass packets: up, and with a carrier (`IFF_LOWER_UP`).
    pub running: bool,
    /// How often the carrier has come or gone: if it differs, the cable may be in another network now. Always 0 before Linux
    /// 3.15.
    pub carrier_changes: u32,
    /// The loopback interface.
    pub loopback: bool,
    /// Multicast works on it.
    pub multicast: bool,
    /// It leads to one other machine only (`IFF_POINTOPOINT`): PPP, TUN, WireGuard.
    pub point_to_point: bool,
    /// The Ethernet address; `None` for TUN and other links without one.
    pub mac: Option<[u8; 6]>,
    /// Packets that the interface queues.
    pub queue_packets: u32,
    /// Bytes of the largest super-packet given to the device.
    pub gso_max_bytes: u32,
    /// Packets that were to leave by the interface and were dropped by its driver.
    pub tx_dropped: u64,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The interface's number.
    pub index: u32,
    /// The address with its prefix length.
    pub net: IpNet,
    /// It is being checked for duplicates, or the check has found one (RFC 4862 §5.4): nothing can be sent from it.
    pub tentative: bool,
    /// Still valid, but no longer for anything new (RFC 4862 §5.5.4).
    pub deprecated: bool,
}

/// A route, to install or as found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub to: IpNet,
    /// Through which interface; 0 for none (a blackhole).
    pub index: u32,
    /// The next hop, unless the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The source address that the route prefers.
    pub source: Option<IpAddr>,
    /// The MTU of the route, when it has its own.
    pub mtu: Option<u32>,
}

/// What the kernel knows of the hardware address of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The interface's number.
    pub index: u32,
    /// The neighbour.
    pub address: IpAddr,
    /// Its Ethernet address, unless it is not known, or known to be wrong.
    pub mac: Option<[u8; 6]>,
}

/// What the kernel would do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// The interface it would leave by.
    pub index: u32,
    /// The source address it would have.
    pub source: Option<IpAddr>,
    /// The next hop, unless the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The path MTU, when the route or an ICMP message has set one; otherwise the interface's counts.
    pub mtu: Option<u32>,
    /// The destination is this machine itself.
    pub local: bool,
}

impl Link {
    pub(super) fn parse(message: &Message) -> Option<Self> {
        let index = read_u32(message.body.get(4..8)?)?;
        let flags = read_u32(message.body.get(8..12)?)? as i32;
        let mut link = Self {
            index,
            name: String::new(),
            hardware: read_u16(message.body.get(2..4)?)?,
            mtu: 0,
            up: flags & libc::IFF_UP != 0,
            running: flags & libc::IFF_LOWER_UP != 0 && flags & libc::IFF_UP != 0,
            carrier_changes: 0,
            loopback: flags & libc::IFF_LOOPBACK != 0,
            multicast: flags & libc::IFF_MULTICAST != 0,
            point_to_point: flags & libc::IFF_POINTOPOINT != 0,
            mac: None,
            queue_packets: 0,
            gso_max_bytes: 0,
            tx_dropped: 0,
        };
        for (kind, data) in Attributes::new(message.body.get(IFINFO_LEN..)?) {
            match kind {
                libc::IFLA_IFNAME => {
                    link.name = String::from_utf8_lossy(data.strip_suffix(&[0]).unwrap_or(data)).into_owned();
                }
                libc::IFLA_MTU => link.mtu = read_u32(data)?,
                libc::IFLA_CARRIER_CHANGES => link.carrier_changes = read_u32(data)?,
                libc::IFLA_TXQLEN => link.queue_packets = read_u32(data)?,
                IFLA_GSO_MAX_SIZE => link.gso_max_bytes = read_u32(data)?,
                libc::IFLA_ADDRESS => link.mac = data.try_into().ok(),
                // struct rtnl_link_stats64: eight-byte counters, of which tx_dropped is the eighth.
                libc::IFLA_STATS64 => {
                    link.tx_dropped =
                        data.get(7 * 8..)?.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
                }
                _ => {}
            }
        }
        Some(link)
    }
}

impl Address {
    pub(super) fn parse(message: &Message) -> Option<Self> {
        let prefix = *message.body.get(1)?;
        let index = read_u32(message.body.get(4..8)?)?;
        let mut flags = u32::from(*message.body.get(2)?);
        let mut local = None;
        let mut address = None;
        for (kind, data) in Attributes::new(message.body.get(IFADDR_LEN..)?) {
            match kind {
                // On point-to-point links IFA_ADDRESS is the far end, IFA_LOCAL ours; IPv6 often has IFA_ADDRESS only.
                libc::IFA_LOCAL => local = ip(data),
                libc::IFA_ADDRESS => address = ip(data),
                // The same as in the header, and those that do not fit its eight bits.
                libc::IFA_FLAGS => flags = read_u32(data)?,
                _ => {}
            }
        }
        let unusable = libc::IFA_F_TENTATIVE | libc::IFA_F_DADFAILED;
        Some(Self {
            index,
            net: IpNet::new(local.or(address)?, prefix).ok()?,
            tentative: flags & unusable != 0 && flags & libc::IFA_F_OPTIMISTIC == 0,
            deprecated: flags & libc::IFA_F_DEPRECATED != 0,
        })
    }
}

impl Route {
    pub(super) fn parse(message: &Message) -> Option<Self> {
        let family = i32::from(*message.body.first()?);
        let prefix = *message.body.get(1)?;
        if *message.body.get(4)? != libc::RT_TABLE_MAIN || *message.body.get(7)? != libc::RTN_UNICAST {
            return None;
        }
        let any: IpAddr = if family == libc::AF_INET { [0u8; 4].into() } else { [0u8; 16].into() };
        let found = route_fields(message)?;
        Some(Self {
            to: IpNet::new(found.to.unwrap_or(any), prefix).ok()?,
            index: found.index,
            gateway: found.gateway,
            source: found.source,
            mtu: found.mtu,
        })
    }

    /// Adds everything but the fixed part, which is [`rtmsg`].
    pub(super) fn describe(&self, request: &mut Request) {
        request.address(libc::RTA_DST, self.to.network());
        request.attribute(libc::RTA_OIF, &self.index.to_ne_bytes());
        if let Some(gateway) = self.gateway {
            request.address(libc::RTA_GATEWAY, gateway);
        }
        if let Some(source) = self.source {
            request.address(libc::RTA_PREFSRC, source);
        }
        if let Some(mtu) = self.mtu {
            request.nested(libc::RTA_METRICS, |metrics| metrics.attribute(RTAX_MTU, &mtu.to_ne_bytes()));
        }
    }
}

impl Lookup {
    pub(super) fn parse(message: &Message) -> Option<Self> {
        let local = *message.body.get(7)? == libc::RTN_LOCAL;
        let found = route_fields(message)?;
        Some(Self { index: found.index, source: found.source, gateway: found.gateway, mtu: found.mtu, local })
    }
}

impl Neighbour {
    pub(super) fn parse(message: &Message) -> Option<Self> {
        const KNOWN: u16 = libc::NUD_REACHABLE
            | libc::NUD_STALE
            | libc::NUD_DELAY
            | libc::NUD_PROBE
            | libc::NUD_PERMANENT
            | libc::NUD_NOARP;
        let index = read_u32(message.body.get(4..8)?)?;
        let known = read_u16(message.body.get(8..10)?)? & KNOWN != 0;
        let (mut address, mut mac) = (None, None);
        for (kind, data) in Attributes::new(message.body.get(NDMSG_LEN..)?) {
            match kind {
                libc::NDA_DST => address = ip(data),
                libc::NDA_LLADDR if known => mac = data.try_into().ok(),
                _ => {}
            }
        }
        Some(Self { index, address: address?, mac })
    }
}

pub(super) fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

/// `struct ifinfomsg`: family 1, pad 1, type 2, index 4, flags 4, change mask 4.
pub(super) fn ifinfo(index: u32, flags: u32, change: u32) -> [u8; IFINFO_LEN] {
    let mut bytes = [0; IFINFO_LEN];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..].copy_from_slice(&change.to_ne_bytes());
    bytes
}

/// `struct ifaddrmsg`: family 1, prefix length 1, flags 1, scope 1, index 4.
pub(super) fn ifaddr(index: u32, net: IpNet, flags: u8) -> [u8; IFADDR_LEN] {
    let mut bytes = [family(net.addr()), net.prefix_len(), flags, libc::RT_SCOPE_UNIVERSE, 0, 0, 0, 0];
    bytes[4..].copy_from_slice(&index.to_ne_bytes());
    bytes
}

/// `struct ndmsg`: family 1, padding 3, index 4, state 2, flags 1, type 1.
pub(super) fn ndmsg(index: u32, address: IpAddr) -> [u8; NDMSG_LEN] {
    let mut bytes = [0; NDMSG_LEN];
    bytes[0] = family(address);
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes
}

/// `struct rtmsg`: family, destination length, source length, TOS, table, protocol, scope, type, flags 4.
pub(super) fn rtmsg(route: &Route) -> [u8; RTMSG_LEN] {
    let on_link = route.gateway.is_none() && route.to.addr().is_ipv4();
    let mut bytes = [0; RTMSG_LEN];
    bytes[0] = family(route.to.addr());
    bytes[1] = route.to.prefix_len();
    bytes[4] = libc::RT_TABLE_MAIN;
    bytes[5] = libc::RTPROT_STATIC;
    bytes[6] = if on_link { libc::RT_SCOPE_LINK } else { libc::RT_SCOPE_UNIVERSE };
    bytes[7] = libc::RTN_UNICAST;
    bytes
}

/// The attributes that routes and look-ups have in common.
#[derive(Default)]
struct RouteFields {
    to: Option<IpAddr>,
    index: u32,
    gateway: Option<IpAddr>,
    source: Option<IpAddr>,
    mtu: Option<u32>,
}

fn route_fields(message: &Message) -> Option<RouteFields> {
    let mut found = RouteFields::default();
    for (kind, data) in Attributes::new(message.body.get(RTMSG_LEN..)?) {
        match kind {
            libc::RTA_DST => found.to = ip(data),
            libc::RTA_OIF => found.index = read_u32(data)?,
            libc::RTA_GATEWAY => found.gateway = ip(data),
            libc::RTA_PREFSRC => found.source = ip(data),
            // An IPv4 route by an IPv6 next hop (RFC 5549): family 2, address.
            libc::RTA_VIA if read_u16(data)? == libc::AF_INET6 as u16 => found.gateway = ip(data.get(2..)?),
            libc::RTA_METRICS => {
                let metric = Attributes::new(data).find(|(kind, _)| *kind == RTAX_MTU);
                found.mtu = metric.and_then(|(_, data)| read_u32(data)).filter(|mtu| *mtu > 0);
            }
            _ => {}
        }
    }
    Some(found)
}

fn ip(data: &[u8]) -> Option<IpAddr> {
    match data.len() {
        4 => <[u8; 4]>::try_from(data).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(data).ok().map(IpAddr::from),
        _ => None,
    }
}
