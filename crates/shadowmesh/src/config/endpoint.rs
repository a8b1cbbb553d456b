//! Where a peer is: an address, or a name to look up.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::DEFAULT_PORT;

/// A peer's endpoint as configured.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// An address.
    Address(SocketAddr),
    /// A host name, looked up at start and again whenever the peer is silent.
    Name {
        /// The host; or a link-local address with the name of its interface (`fe80::1%eth0`), whose number is looked up in the same way, since
        /// it changes when the interface is made anew.
        host: String,
        /// The UDP port.
        port: u16,
    },
}

impl Endpoint {
    /// The UDP port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Address(address) => address.port(),
            Self::Name { port, .. } => *port,
        }
    }
}

/// The longest host name (RFC 1035 §2.3.4), in its textual form.
const HOST_LEN_MAX: usize = 253;

/// The address that is meant: one in IPv6 notation that stands for an IPv4 one (RFC 4291 §2.5.5.2) is that.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::new(v4.into(), address.port()),
        // The scope stays as it is.
        IpAddr::V6(_) => address,
    }
}

/// The longest name of an interface (`IFNAMSIZ` less its zero).
const INTERFACE_LEN_MAX: usize = 15;

/// `ADDRESS%INTERFACE` (RFC 4007 §11), if it is that.
fn scoped(host: &str) -> Option<(Ipv6Addr, &str)> {
    let (address, interface) = host.split_once('%')?;
    let named = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '/' | '%' | ':' | '[' | ']');
    let sound = (1..=INTERFACE_LEN_MAX).contains(&interface.len()) && interface.chars().all(named);
    Some((address.parse().ok().filter(|_| sound)?, interface))
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<SocketAddr>().map(canonical) {
            if address.port() == 0 {
                return Err("port 0 cannot be reached".into());
            }
            if let Some(why) = why_nobody(address.ip().to_canonical()) {
                return Err(format!("{} is {why}", address.ip()));
            }
            if let SocketAddr::V6(v6) = address
                && v6.ip().is_unicast_link_local()
                && v6.scope_id() == 0
            {
                let (ip, port) = (v6.ip(), v6.port());
                return Err(format!(
                    "{ip} is on every link: say by which interface, as in \"[{ip}%eth0]:{port}\""
                ));
            }
            return Ok(Self::Address(address));
        }
        if let Some(right) = with_brackets(text) {
            let what = if text.contains(']') || text.parse::<IpAddr>().is_ok() {
                "the port is missing"
            } else {
                "an IPv6 address stands in brackets before its port"
            };
            return Err(format!("{what}: write {right}"));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(format!("the port is missing: write \"{text}:9443\""));
        };
        let port = port.parse().ok().filter(|&port| port != 0);
        let port = port.ok_or("the port must be a number from 1 to 65535")?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if let Some((address, interface)) = bracketed.and_then(scoped) {
            if !address.is_unicast_link_local() {
                return Err(format!("{address} needs no interface: write \"[{address}]:{port}\""));
            }
            return Ok(Self::Name { host: format!("{address}%{interface}"), port });
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if host.is_empty() || host.len() > HOST_LEN_MAX || !host.chars().all(allowed) {
            return Err(format!("`{host}` is neither an address nor a host name"));
        }
        if ends_in_a_number(host) {
            return Err(format!("`{host}` is not an IPv4 address, and no host name ends in a number"));
        }
        Ok(Self::Name { host: host.into(), port })
    }
}

/// Why no peer can be at an address.
fn why_nobody(address: IpAddr) -> Option<&'static str> {
    match address {
        address if address.is_unspecified() => Some("every address, not one that can be reached"),
        address if address.is_multicast() => Some("a multicast address: a peer has one of its own"),
        IpAddr::V4(address) if address.is_broadcast() => {
            Some("the broadcast address: a peer has one of its own")
        }
        // RFC 1122 §3.2.1.3: a source while a host learns its address, never a destination.
        IpAddr::V4(address) if address.octets()[0] == 0 => Some("in 0.0.0.0/8, where nobody can be reached"),
        _ => None,
    }
}

/// Whether the last label is a number, in digits or as `0x…`. No top-level domain is one (RFC 1123 §2.1), but the
/// system's resolver would take `192.0.2` for 192.0.0.2.
fn ends_in_a_number(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let last = host.rsplit('.').next().unwrap_or(host);
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let hexadecimal = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    digits(last) || hexadecimal.is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// How to write an address with a port that lacks its port, or its brackets, or has brackets that it needs not. In
/// quotes; `None` where there is no address in it.
pub(super) fn with_brackets(text: &str) -> Option<String> {
    let join = |address: IpAddr, port: u16| format!("\"{}\"", SocketAddr::new(address, port));
    if let Some((inside, after)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let address = inside.parse().ok()?;
        return match after.strip_prefix(':') {
            None if after.is_empty() => Some(join(address, DEFAULT_PORT)),
            // In brackets is right for IPv6: then something else is wrong.
            Some(port) if address.is_ipv4() => Some(join(address, port.parse().ok()?)),
            _ => None,
        };
    }
    let last_is_port = || {
        let (address, port) = text.rsplit_once(':')?;
        let address: IpAddr = address.parse().ok()?;
        Some(join(address, port.parse().ok().filter(|&port| port != 0)?)).filter(|_| address.is_ipv6())
    };
    match text.parse::<IpAddr>() {
        Ok(address) => match last_is_port() {
            // As 2001:db8::1:9443, which is an address too. Four digits of a group are seldom a port unless meant.
            Some(other) => {
                Some(format!("{}, or {other} if its last part is the port", join(address, DEFAULT_PORT)))
            }
            None => Some(join(address, DEFAULT_PORT)),
        },
        Err(_) => last_is_port(),
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_are_told_apart() {
        let name = |host: &str, port| Ok(Endpoint::Name { host: host.into(), port });
        assert_eq!("192.0.2.2:1".parse(), Ok(Endpoint::Address(([192, 0, 2, 2], 1).into())));
        assert!(matches!("[2001:db8::1]:9443".parse(), Ok(Endpoint::Address(_))));
        assert_eq!("vpn.example.org:51820".parse(), name("vpn.example.org", 51820));
        assert_eq!("host:1".parse::<Endpoint>().unwrap().to_string(), "host:1");
    }

    #[test]
    fn a_link_local_address_goes_with_its_interface() {
        let endpoint: Endpoint = "[fe80::1%eth0.5]:9443".parse().unwrap();
        assert_eq!(endpoint, Endpoint::Name { host: "fe80::1%eth0.5".into(), port: 9443 });
        assert_eq!(endpoint.to_string(), "[fe80::1%eth0.5]:9443");
        assert!(matches!("[fe80::1%3]:9443".parse(), Ok(Endpoint::Address(_))), "by number");
        let refused = |text: &str| text.parse::<Endpoint>().unwrap_err();
        let hint = "fe80::1 is on every link: say by which interface, as in \"[fe80::1%eth0]:9443\"";
        assert_eq!(refused("[fe80::1]:9443"), hint);
        assert_eq!(
            refused("[2001:db8::1%eth0]:1"),
            "2001:db8::1 needs no interface: write \"[2001:db8::1]:1\""
        );
        for wrong in ["[fe80::1%]:1", "[fe80::1%a b]:1", "[fe80::1%abcdefghijklmnop]:1", "fe80::1%eth0:1"] {
            assert!(wrong.parse::<Endpoint>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_ipv4_address_in_ipv6_notation_is_the_ipv4_address() {
        assert_eq!("[::ffff:192.0.2.2]:1".parse(), Ok(Endpoint::Address(([192, 0, 2, 2], 1).into())));
        assert!("[::ffff:0.0.0.0]:1".parse::<Endpoint>().is_err());
    }

    #[test]
    fn what_cannot_be_reached_is_refused_with_the_reason() {
        let refused = |text: &str| text.parse::<Endpoint>().unwrap_err();
        assert_eq!(refused("192.0.2.2"), "the port is missing: write \"192.0.2.2:9443\"");
        assert_eq!(refused("2001:db8::1"), "the port is missing: write \"[2001:db8::1]:9443\"");
        assert_eq!(refused("example.org"), "the port is missing: write \"example.org:9443\"");
        assert_eq!(refused("example.org:0"), "the port must be a number from 1 to 65535");
        assert_eq!(refused("0.0.0.0:9443"), "0.0.0.0 is every address, not one that can be reached");
        assert_eq!(refused("exa mple:1"), "`exa mple` is neither an address nor a host name");
        assert_eq!(refused("224.0.0.251:1"), "224.0.0.251 is a multicast address: a peer has one of its own");
        assert_eq!(refused("[ff02::1]:1"), "ff02::1 is a multicast address: a peer has one of its own");
        assert_eq!(
            refused("255.255.255.255:1"),
            "255.255.255.255 is the broadcast address: a peer has one of its own"
        );
        assert_eq!(refused("0.1.2.3:1"), "0.1.2.3 is in 0.0.0.0/8, where nobody can be reached");
        assert_eq!(refused(":1"), "`` is neither an address nor a host name");
    }

    #[test]
    fn a_misspelt_ipv4_address_is_no_host_name() {
        for host in ["192.0.2.300", "192.0.2", "1", "192.0.2.1.1", "host.0x1f", "192.0.2.256.", "1.2.3.0x"] {
            let expected = format!("`{host}` is not an IPv4 address, and no host name ends in a number");
            assert_eq!(format!("{host}:9443").parse::<Endpoint>(), Err(expected));
        }
        for host in ["host1", "1.example", "0xample", "a.0xg", "192.0.2.300.example."] {
            assert!(format!("{host}:9443").parse::<Endpoint>().is_ok(), "{host}");
        }
    }

    #[test]
    fn hints_put_brackets_where_they_belong() {
        let hint = |text: &str| text.parse::<Endpoint>().unwrap_err();
        assert_eq!(hint("[2001:db8::1]"), "the port is missing: write \"[2001:db8::1]:9443\"");
        assert_eq!(
            hint("2001:db8::1:9443"),
            "the port is missing: write \"[2001:db8::1:9443]:9443\", or \"[2001:db8::1]:9443\" if its last part is the port"
        );
        let brackets = "an IPv6 address stands in brackets before its port: write";
        assert_eq!(hint("2001:db8::1:51820"), format!("{brackets} \"[2001:db8::1]:51820\""));
        assert_eq!(hint("1:2:3:4:5:6:7:8:443"), format!("{brackets} \"[1:2:3:4:5:6:7:8]:443\""));
        assert_eq!(with_brackets("[192.0.2.1]:443").as_deref(), Some("\"192.0.2.1:443\""));
        assert_eq!(with_brackets("example.org"), None);
    }
}
