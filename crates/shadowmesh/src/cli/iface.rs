//! `iface`: the interfaces of this machine, and what a carrier would use of them.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use os::fake_tcp::reach;
use os::netlink::{Address, Link, Netlink, Route};
use os::offloads::device_offloads;

use super::output::print;
use crate::failure::Failure;

/// Options of `iface`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Nothing of it has to be configured: a running node asks the kernel the same, and follows changes."
)]
pub(super) struct Args {
    /// Show what would be used to reach this address, instead of the Internet
    #[arg(long, value_name = "ADDRESS")]
    to: Option<IpAddr>,
}

/// Addresses of the Internet that nothing is sent to: the look-up of a route is the kernel's alone.
const INTERNET: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(1, 0, 0, 0)), IpAddr::V6(Ipv6Addr::new(0x2001, 0x4860, 0, 0, 0, 0, 0, 0))];

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let failed = |error: &dyn std::error::Error| Failure::Runtime(format!("cannot ask the kernel: {error}"));
    let mut netlink = Netlink::open().map_err(|error| failed(&error))?;
    let links = netlink.links().map_err(|error| failed(&error))?;
    let addresses = netlink.addresses().map_err(|error| failed(&error))?;
    let routes = netlink.routes().map_err(|error| failed(&error))?;
    let mut out = String::new();
    for link in &links {
        describe(&mut out, &mut netlink, link, &addresses, &routes);
    }
    let targets = args.to.map_or(INTERNET.to_vec(), |to| vec![to]);
    for to in targets {
        out.push_str(&way(&mut netlink, to, args.to.is_some()));
    }
    print(&out)
}

// Writing to a string cannot fail.
fn describe(out: &mut String, netlink: &mut Netlink, link: &Link, addresses: &[Address], routes: &[Route]) {
    let state = match (link.up, link.running) {
        (true, true) => "up",
        (true, false) => "up, no carrier",
        (false, _) => "down",
    };
    let _ = writeln!(out, "{}: {state}, MTU {}", link.name, link.mtu);
    let mut line = |key: &str, value: &str| {
        let _ = writeln!(out, "  {key:<10}{value}");
    };
    if let Some(mac) = link.mac {
        line("MAC", &hardware_address(mac));
    }
    for address in addresses.iter().filter(|address| address.index == link.index) {
        line("address", &address.net.to_string());
    }
    for route in routes.iter().filter(|route| route.index == link.index && route.to.prefix_len() == 0) {
        if let Some(gateway) = route.gateway {
            let known =
                netlink.neighbour(link.index, gateway).ok().flatten().and_then(|neighbour| neighbour.mac);
            let mac = known.map_or("MAC not known yet".into(), hardware_address);
            line("gateway", &format!("{gateway} ({mac})"));
        }
    }
    if let Ok(offloads) = device_offloads(&link.name) {
        let words = [
            (offloads.tx_checksum, "checksum"),
            (offloads.tso, "TSO"),
            (offloads.gso, "GSO"),
            (offloads.gro, "GRO"),
        ];
        let on: Vec<&str> = words.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect();
        line("offloads", &if on.is_empty() { "none".into() } else { on.join(" ") });
    }
    out.push('\n');
}

/// What the carriers would use towards an address.
fn way(netlink: &mut Netlink, to: IpAddr, asked: bool) -> String {
    let family = if to.is_ipv4() { "IPv4" } else { "IPv6" };
    let name = if asked { to.to_string() } else { format!("the Internet over {family}") };
    let any = SocketAddr::from(([0, 0, 0, 0], 0));
    let Ok(reach) = reach(netlink, any, SocketAddr::new(to, 0)) else {
        return format!("to {name}: no route\n");
    };
    let source = reach.source.map_or("any".into(), |source| source.to_string());
    let hop = match (reach.gateway, reach.next_hop_mac) {
        (Some(gateway), Some(mac)) => format!("gateway {gateway} ({})", hardware_address(mac)),
        (Some(gateway), None) => format!("gateway {gateway}"),
        (None, Some(mac)) => format!("directly ({})", hardware_address(mac)),
        (None, None) => "directly".into(),
    };
    let backend = match reach.path.map(|path| path.frame.is_some()) {
        Some(true) => "packet socket",
        Some(false) => "raw IP socket (packets have no Ethernet header there)",
        None => "packet socket, once the kernel knows the next hop's MAC",
    };
    format!("to {name}: {} from {source}, {hop}, MTU {}\n  fake TCP  {backend}\n", reach.interface, reach.mtu)
}

fn hardware_address(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
