//! Which network interfaces there are, which of them to use, and when that changes.

use std::collections::BTreeMap;
use std::io;

use ipnet::IpNet;
use os::netlink::{Address, Link, Netlink, Watch};
use tokio::io::unix::AsyncFd;

use crate::ready::watched;

/// Which network interfaces a [`Beacon`](crate::Beacon) uses.
///
/// [`suitable`](Self::suitable), the default, takes every interface that is up, does multicast, and has an address; but not
/// loopback, not links to one other machine only (PPP, TUN, VPNs such as WireGuard), and not what container engines, virtual
/// machines and overlay networks add, of which this is what is known by its name: `docker*`, `br-` with twelve hexadecimal
/// digits, `veth*`, `podman*`, `cni*`, `flannel*`, `cali*`, `virbr*`, `vnet*`, `lxcbr*`, `lxdbr*`, `tun*`, `tap*`, `wg*`,
/// `tailscale*`, `zt*`, `shadow*`.
///
/// ```
/// use beacon::Interfaces;
///
/// let wired = Interfaces::only(["eth0", "en*"]);
/// let all_but_guests = Interfaces::suitable().except(["wlan1"]);
/// let this_machine_too = Interfaces::suitable().loopback(true);
/// # let _ = (wired, all_but_guests, this_machine_too);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interfaces {
    only: Option<Vec<String>>,
    except: Vec<String>,
    loopback: bool,
    point_to_point: bool,
    virtual_networks: bool,
}

impl Interfaces {
    /// Every interface on which other machines can be expected.
    pub fn suitable() -> Self {
        Self::default()
    }

    /// The named interfaces, whatever they are, as soon as they are up and have an address. A name may end in `*`.
    pub fn only<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Self {
        Self { only: Some(names.into_iter().map(Into::into).collect()), ..Self::default() }
    }

    /// Not the named interfaces, whatever else holds. A name may end in `*`.
    #[must_use]
    pub fn except<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.except.extend(names.into_iter().map(Into::into));
        self
    }

    /// Loopback as well, to reach other programs on this machine without any network.
    #[must_use]
    pub fn loopback(mut self, yes: bool) -> Self {
        self.loopback = yes;
        self
    }

    /// Links to one other machine as well: PPP, TUN, VPNs. Multicast reaches the far end only where the link carries it.
    #[must_use]
    pub fn point_to_point(mut self, yes: bool) -> Self {
        self.point_to_point = yes;
        self
    }

    /// The networks of containers, virtual machines and overlays as well.
    #[must_use]
    pub fn virtual_networks(mut self, yes: bool) -> Self {
        self.virtual_networks = yes;
        self
    }

    fn takes(&self, link: &Link) -> bool {
        if !link.running || matches_any(&self.except, &link.name) {
            return false;
        }
        if let Some(only) = &self.only {
            return matches_any(only, &link.name);
        }
        if link.loopback {
            // Linux does not flag it as capable of multicast, though it is.
            return self.loopback;
        }
        let known = self.point_to_point || !link.point_to_point;
        link.multicast && known && (self.virtual_networks || !is_virtual(&link.name))
    }
}

fn matches_any(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => pattern == name,
    })
}

/// Names by which container engines, hypervisors and VPNs call their interfaces.
fn is_virtual(name: &str) -> bool {
    const PREFIXES: [&str; 16] = [
        "docker",
        "veth",
        "podman",
        "cni",
        "flannel",
        "cali",
        "virbr",
        "vnet",
        "lxcbr",
        "lxdbr",
        "tun",
        "tap",
        "wg",
        "tailscale",
        "zt",
        "shadow",
    ];
    // Docker's own networks: `br-` and the first digits of the network's identifier. A bridge that an administrator made may
    // be called `br-lan`.
    let docker_network = |id: &str| {
        id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase())
    };
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || name.strip_prefix("br-").is_some_and(docker_network)
}

/// An interface in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    /// If it differs, this may be another network than before.
    pub(crate) carrier_changes: u32,
    /// Sorted; at least one. Nothing can be sent from those not in here.
    pub(crate) addresses: Vec<IpNet>,
}

impl Interface {
    pub(crate) fn has_ipv4(&self) -> bool {
        self.addresses.iter().any(|net| net.addr().is_ipv4())
    }

    pub(crate) fn has_ipv6(&self) -> bool {
        self.addresses.iter().any(|net| net.addr().is_ipv6())
    }
}

/// The interfaces that `policy` takes, by number.
fn select(policy: &Interfaces, links: &[Link], addresses: &[Address]) -> BTreeMap<u32, Interface> {
    let mut selected: BTreeMap<u32, Interface> = links
        .iter()
        .filter(|link| policy.takes(link))
        .map(|link| {
            let (name, carrier_changes) = (link.name.clone(), link.carrier_changes);
            (link.index, Interface { name, carrier_changes, addresses: Vec::new() })
        })
        .collect();
    for address in addresses.iter().filter(|address| !address.tentative && !address.deprecated) {
        if let Some(interface) = selected.get_mut(&address.index) {
            interface.addresses.push(address.net);
        }
    }
    for interface in selected.values_mut() {
        interface.addresses.sort_unstable();
        interface.addresses.dedup();
    }
    selected.retain(|_, interface| !interface.addresses.is_empty());
    selected
}

/// Sees the interfaces of the network namespace in which it was made.
#[derive(Debug)]
pub(crate) struct InterfaceWatch {
    policy: Interfaces,
    netlink: Netlink,
    watch: AsyncFd<Watch>,
}

impl InterfaceWatch {
    pub(crate) fn new(policy: Interfaces) -> io::Result<Self> {
        // Before the first look, so that nothing is missed between the two.
        let watch = watched(Watch::open()?)?;
        Ok(Self { policy, netlink: Netlink::open()?, watch })
    }

    /// The interfaces to use now.
    pub(crate) fn scan(&mut self) -> io::Result<BTreeMap<u32, Interface>> {
        let links = self.netlink.links()?;
        let addresses = self.netlink.addresses()?;
        Ok(select(&self.policy, &links, &addresses))
    }

    /// Returns when a link or an address may have changed. Forgets nothing when it is dropped while it waits.
    pub(crate) async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut guard = self.watch.readable_mut().await?;
            let changes = guard.get_inner_mut().drain()?;
            guard.clear_ready();
            if changes.links || changes.addresses {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str) -> Link {
        Link { index, name: name.into(), up: true, running: true, multicast: true, ..Link::default() }
    }

    fn address(index: u32, net: &str) -> Address {
        Address { index, net: net.parse().unwrap(), tentative: false, deprecated: false }
    }

    fn names(policy: &Interfaces, links: &[Link]) -> Vec<String> {
        let addresses: Vec<_> = links.iter().map(|link| address(link.index, "192.0.2.1/24")).collect();
        select(policy, links, &addresses).into_values().map(|interface| interface.name).collect()
    }

    #[test]
    fn containers_vpns_loopback_and_point_to_point_links_are_left_out_unless_asked_for() {
        let links = [
            link(1, "eth0"),
            Link { loopback: true, multicast: false, ..link(2, "lo") },
            Link { point_to_point: true, ..link(3, "ppp0") },
            link(4, "docker0"),
            link(5, "br-0123456789ab"),
            link(6, "br-lan"),
            link(7, "veth12ab"),
            link(8, "wlan0"),
            Link { multicast: false, ..link(9, "ib0") },
            Link { running: false, ..link(10, "eth1") },
        ];
        let suitable = Interfaces::suitable();
        assert_eq!(names(&suitable, &links), ["eth0", "br-lan", "wlan0"]);
        assert_eq!(names(&suitable.clone().loopback(true), &links), ["eth0", "lo", "br-lan", "wlan0"]);
        assert_eq!(
            names(&suitable.clone().point_to_point(true), &links),
            ["eth0", "ppp0", "br-lan", "wlan0"]
        );
        assert_eq!(
            names(&suitable.clone().virtual_networks(true), &links),
            ["eth0", "docker0", "br-0123456789ab", "br-lan", "veth12ab", "wlan0"]
        );
        assert_eq!(names(&suitable.except(["wlan*"]), &links), ["eth0", "br-lan"]);
        assert_eq!(names(&Interfaces::only(["docker0", "l*", "eth1"]), &links), ["lo", "docker0"]);
    }

    #[test]
    fn only_addresses_that_can_be_sent_from_count() {
        let links = [link(1, "eth0"), link(2, "eth1"), link(3, "eth2")];
        let addresses = [
            address(1, "fe80::1/64"),
            address(1, "192.0.2.1/24"),
            Address { deprecated: true, ..address(1, "2001:db8::1/64") },
            Address { tentative: true, ..address(2, "fe80::2/64") },
        ];
        let selected = select(&Interfaces::suitable(), &links, &addresses);
        assert_eq!(selected.len(), 1);
        let nets: Vec<_> = selected[&1].addresses.iter().map(ToString::to_string).collect();
        assert_eq!(nets, ["192.0.2.1/24", "fe80::1/64"]);
        assert!(selected[&1].has_ipv4() && selected[&1].has_ipv6());
    }
}
