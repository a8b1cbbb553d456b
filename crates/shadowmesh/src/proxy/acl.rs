//! What an exit connects to, and where it listens for others.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// All ports.
const ANY_PORT: RangeInclusive<u16> = 0..=u16::MAX;

/// A prefix of addresses, and ports: `10.0.0.0/8`, `192.0.2.7:22`, `[2001:db8::/32]:8000-8099`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The addresses.
    pub prefix: IpNet,
    /// The ports.
    pub ports: RangeInclusive<u16>,
}

impl Rule {
    fn matches(&self, address: SocketAddr) -> bool {
        self.prefix.contains(&address.ip()) && self.ports.contains(&address.port())
    }

    /// The more addresses and ports a rule leaves out, the more it says about those that it has.
    fn specificity(&self) -> (u8, u16) {
        (self.prefix.prefix_len(), u16::MAX - (self.ports.end() - self.ports.start()))
    }
}

impl From<IpNet> for Rule {
    fn from(prefix: IpNet) -> Self {
        Self { prefix, ports: ANY_PORT }
    }
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, ports) = if let Some(rest) = text.strip_prefix('[') {
            let (address, after) = rest.split_once(']').ok_or("the `]` is missing")?;
            let ports = after.strip_prefix(':').ok_or("ports follow after `]:`")?;
            (address, Some(ports))
        } else if text.matches(':').count() == 1 {
            let (address, ports) = text.split_once(':').unwrap_or((text, ""));
            (address, Some(ports))
        } else {
            (text, None)
        };
        let prefix = match address.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => address.parse::<IpNet>().map_err(|_| format!("`{address}` is not an IP prefix"))?,
        };
        if prefix.trunc() != prefix {
            return Err(format!("{prefix} has bits set after its prefix: write {}", prefix.trunc()));
        }
        let ports = ports.map_or(Ok(ANY_PORT), ports_from)?;
        Ok(Self { prefix, ports })
    }
}

fn ports_from(text: &str) -> Result<RangeInclusive<u16>, String> {
    let port = |text: &str| text.parse::<u16>().map_err(|_| format!("`{text}` is not a port"));
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    if first > last {
        return Err(format!("ports {first}-{last} are none: the first is after the last"));
    }
    Ok(first..=last)
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.ports.start(), self.ports.end());
        if self.ports == ANY_PORT {
            return self.prefix.fmt(f);
        }
        match self.prefix {
            IpNet::V4(prefix) => write!(f, "{prefix}:{first}")?,
            IpNet::V6(prefix) => write!(f, "[{prefix}]:{first}")?,
        }
        if first == last { Ok(()) } else { write!(f, "-{last}") }
    }
}

/// Which addresses an exit connects to.
///
/// Of all rules that match an address, the one with the longest prefix decides, then the one with the fewest ports; of
/// two that are equal in this, one of the configuration before one that is built in, and then one that denies. What no
/// rule matches is allowed. So `allow = ["10.1.0.0/16"]` opens a part of what is denied by default, `allow =
/// ["0.0.0.0/0"]` opens none of it, and `deny = ["0.0.0.0/0", "::/0"]` leaves what is explicitly allowed.
///
/// An address of this very host, public or not, is allowed only by a rule of the configuration that is not for everything.
#[derive(Clone, Debug)]
pub struct Acl {
    allow: Vec<Rule>,
    deny: Vec<Rule>,
    built_in: Vec<Rule>,
}

/// Loopback, private, link-local, shared, benchmarking, multicast and reserved IPv4 addresses (RFC 6890).
const DENIED_V4: &[(Ipv4Addr, u8)] = &[
    (Ipv4Addr::UNSPECIFIED, 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// Unspecified, loopback and all else below `::1:0:0:0:0`; local NAT64, discard-only, unique local, link-local,
/// site-local and multicast IPv6 addresses.
const DENIED_V6: &[(Ipv6Addr, u8)] = &[
    (Ipv6Addr::UNSPECIFIED, 64),
    (Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48),
    (Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 64),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
];

impl Acl {
    /// The rules of `[exit]`, and `overlay`: the addresses of this node and of others in the overlay, where they offer what is
    /// for their peers alone. A peer that is carried there would come in the name of this node, past their allowed IPs.
    pub fn new(allow: Vec<Rule>, deny: Vec<Rule>, overlay: &[IpNet]) -> Self {
        let net_v4 = |&(address, len): &(Ipv4Addr, u8)| IpNet::from(Ipv4Net::new_assert(address, len));
        let net_v6 = |&(address, len): &(Ipv6Addr, u8)| IpNet::from(Ipv6Net::new_assert(address, len));
        let built_in = DENIED_V4.iter().map(net_v4).chain(DENIED_V6.iter().map(net_v6));
        let overlay = overlay.iter().map(IpNet::trunc);
        Self { allow, deny, built_in: built_in.chain(overlay).map(Rule::from).collect() }
    }

    /// Whether to connect, or send, to that address.
    pub fn verdict(&self, address: SocketAddr) -> Verdict {
        let port = address.port();
        if port == 0 {
            return Verdict::Denied;
        }
        // An IPv4 address inside an IPv6 one leads to the same host: both spellings must pass.
        let inner = embedded(address.ip()).map(|inner| self.verdict_of_one(SocketAddr::new(inner, port)));
        match (self.verdict_of_one(SocketAddr::new(address.ip().to_canonical(), port)), inner) {
            (Verdict::Denied, _) | (_, Some(Verdict::Denied)) => Verdict::Denied,
            (outer, _) => outer,
        }
    }

    fn verdict_of_one(&self, address: SocketAddr) -> Verdict {
        let kinds = [(&self.built_in, 0, false), (&self.allow, 1, true), (&self.deny, 2, false)];
        let matching = kinds.iter().flat_map(|(rules, rank, allows)| {
            let matching = rules.iter().filter(|rule| rule.matches(address));
            matching.map(move |rule| (rule.specificity(), *rank, *allows))
        });
        match matching.max() {
            Some((_, _, false)) => Verdict::Denied,
            Some(((1.., _), _, true)) => Verdict::Allowed,
            Some(_) | None => Verdict::AllowedIfForeign,
        }
    }
}

/// What the rules say of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A rule denies it.
    Denied,
    /// A rule allows it.
    Allowed,
    /// Only the rule for everything, or none, allows it: not if it is an address of this host, where a service may be that
    /// a firewall keeps from others.
    AllowedIfForeign,
}

/// The IPv4 address to which NAT64 (RFC 6052 §2.1) or 6to4 (RFC 3056 §2) would carry packets for that address.
fn embedded(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(address) = address else { return None };
    match address.octets() {
        [0x00, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d] | [0x20, 0x02, a, b, c, d, ..] => {
            Some(Ipv4Addr::new(a, b, c, d).into())
        }
        _ => None,
    }
}

/// Whether `[exit] listen` lets a peer have us listen there: the address is exactly that of a rule.
pub fn may_listen(rules: &[Rule], address: SocketAddr) -> bool {
    rules.iter().any(|rule| rule.prefix.addr() == address.ip() && rule.ports.contains(&address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(texts: &[&str]) -> Vec<Rule> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn acl(allow: &[&str], deny: &[&str]) -> Acl {
        Acl::new(
            rules(allow),
            rules(deny),
            &["203.0.113.77/32".parse().unwrap(), "2001:db8::77/128".parse().unwrap()],
        )
    }

    #[track_caller]
    fn verdicts(acl: &Acl, allowed: &[&str], denied: &[&str]) {
        for text in allowed {
            assert_ne!(acl.verdict(text.parse().unwrap()), Verdict::Denied, "{text} must be allowed");
        }
        for text in denied {
            assert_eq!(acl.verdict(text.parse().unwrap()), Verdict::Denied, "{text} must be denied");
        }
    }

    #[test]
    fn by_default_the_internet_is_allowed_and_nothing_of_the_exit_and_its_networks() {
        let allowed = ["192.0.2.1:80", "8.8.8.8:53", "[2001:db8::1]:443", "[64:ff9b::808:808]:53"];
        let denied = [
            "127.0.0.1:80",
            "127.255.255.254:80",
            "0.0.0.0:80",
            "10.1.2.3:80",
            "172.31.255.255:80",
            "192.168.0.1:80",
            "100.100.100.200:80",
            "169.254.169.254:80",
            "224.0.0.251:5353",
            "255.255.255.255:67",
            "203.0.113.77:80",
            "8.8.8.8:0",
            "[::]:80",
            "[::1]:80",
            "[fe80::1]:80",
            "[fd77::1]:80",
            "[ff02::fb]:5353",
            "[2001:db8::77]:80",
        ];
        verdicts(&acl(&[], &[]), &allowed, &denied);
    }

    #[test]
    fn an_ipv4_address_is_denied_in_any_of_its_ipv6_spellings() {
        let denied = [
            "[::ffff:127.0.0.1]:80",
            "[::127.0.0.1]:80",
            "[64:ff9b::127.0.0.1]:80",
            "[64:ff9b::a9fe:a9fe]:80",
            "[2002:7f00:1::]:80",
            "[2002:a9fe:a9fe::1]:80",
        ];
        verdicts(&acl(&[], &[]), &["[::ffff:8.8.8.8]:80", "[2002:808:808::1]:80"], &denied);
    }

    #[test]
    fn the_most_specific_rule_decides() {
        let some =
            acl(&["10.1.0.0/16", "127.0.0.1:8080", "0.0.0.0/0"], &["10.1.2.0/24", "10.1.3.3:22", "8.8.8.8"]);
        verdicts(
            &some,
            &["10.1.0.1:80", "127.0.0.1:8080", "10.1.3.3:23", "9.9.9.9:53"],
            &["10.2.0.1:80", "10.1.2.1:80", "127.0.0.1:8081", "10.1.3.3:22", "8.8.8.8:53", "192.168.1.1:80"],
        );
        verdicts(&acl(&["10.0.0.0/8"], &[]), &["10.0.0.1:80"], &["127.0.0.1:80"]);
        verdicts(&acl(&["10.0.0.0/8"], &["10.0.0.0/8"]), &[], &["10.0.0.1:80"]);
        let only = acl(&["192.0.2.0/24"], &["0.0.0.0/0", "::/0"]);
        verdicts(&only, &["192.0.2.1:80"], &["198.51.100.1:80", "[2001:db8::1]:80", "10.0.0.1:80"]);
    }

    #[test]
    fn an_address_of_this_host_needs_a_rule_of_its_own() {
        let some = acl(&["0.0.0.0/0", "198.51.100.0/24"], &[]);
        let verdict = |text: &str| some.verdict(text.parse().unwrap());
        assert_eq!(verdict("198.51.100.1:80"), Verdict::Allowed);
        assert_eq!(
            verdict("192.0.2.1:80"),
            Verdict::AllowedIfForeign,
            "the rule for everything is none for this"
        );
        assert_eq!(verdict("[2001:db8::1]:80"), Verdict::AllowedIfForeign);
    }

    #[test]
    fn no_address_of_the_overlay_is_reached_but_by_a_rule_of_its_own() {
        let overlay = ["203.0.113.1/32", "203.0.113.0/24", "2001:db8:7::/48"].map(|net| net.parse().unwrap());
        let with = |allow: &[&str]| Acl::new(rules(allow), Vec::new(), &overlay);
        let of_peers = ["203.0.113.77:80", "[2001:db8:7::9]:80", "203.0.113.1:80"];
        verdicts(&with(&[]), &["203.0.112.1:80"], &of_peers);
        verdicts(&with(&["0.0.0.0/0", "203.0.0.0/16", "::/0"]), &["203.0.112.1:80"], &of_peers);
        verdicts(&with(&["203.0.113.0/24"]), &of_peers[..1], &of_peers[1..]);
    }

    #[test]
    fn rules_are_written_with_and_without_ports() {
        for text in ["10.0.0.0/8", "192.0.2.7/32:22", "[2001:db8::/32]:8000-8099", "::/0"] {
            assert_eq!(text.parse::<Rule>().unwrap().to_string(), text);
        }
        assert_eq!("192.0.2.7".parse::<Rule>().unwrap().to_string(), "192.0.2.7/32");
        assert_eq!("[::1]:1".parse::<Rule>().unwrap().to_string(), "[::1/128]:1");
        let refused = |text: &str| text.parse::<Rule>().unwrap_err();
        assert_eq!(refused("10.0.0.1/8"), "10.0.0.1/8 has bits set after its prefix: write 10.0.0.0/8");
        assert_eq!(refused("example.org"), "`example.org` is not an IP prefix");
        assert_eq!(refused("10.0.0.0/8:"), "`` is not a port");
        assert_eq!(refused("10.0.0.0/8:9-1"), "ports 9-1 are none: the first is after the last");
        assert_eq!(refused("[::1"), "the `]` is missing");
    }

    #[test]
    fn where_peers_may_listen_is_the_very_address_of_a_rule() {
        let rules = rules(&["127.0.0.1:8000-8001", "0.0.0.0:80"]);
        let may = |text: &str| may_listen(&rules, text.parse().unwrap());
        assert!(may("127.0.0.1:8000") && may("127.0.0.1:8001") && may("0.0.0.0:80"));
        assert!(!may("127.0.0.1:80") && !may("127.0.0.1:8002") && !may("0.0.0.0:8000"));
    }
}
