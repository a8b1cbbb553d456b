//! Where a peer is: an address, or a name to look up.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// A peer's endpoint as configured.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// An address.
    Address(SocketAddr),
    /// A host name, looked up at start and again whenever the peer is silent.
    Name {
        /// The host.
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

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            if address.port() == 0 {
                return Err("port 0 cannot be reached".into());
            }
            if address.ip().is_unspecified() {
                return Err(format!("{} is every address, not one that can be reached", address.ip()));
            }
            return Ok(Self::Address(address));
        }
        match text.parse::<IpAddr>() {
            Ok(IpAddr::V4(address)) => return Err(format!("the port is missing: write \"{address}:9443\"")),
            Ok(IpAddr::V6(address)) => {
                return Err(format!("the port is missing: write \"[{address}]:9443\""));
            }
            Err(_) => {}
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(format!("the port is missing: write \"{text}:9443\""));
        };
        let port = port.parse().ok().filter(|&port| port != 0);
        let port = port.ok_or("the port must be a number from 1 to 65535")?;
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if host.is_empty() || host.len() > HOST_LEN_MAX || !host.chars().all(allowed) {
            return Err(format!("`{host}` is neither an address nor a host name"));
        }
        Ok(Self::Name { host: host.into(), port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
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
    fn what_cannot_be_reached_is_refused_with_the_reason() {
        let refused = |text: &str| text.parse::<Endpoint>().unwrap_err();
        assert_eq!(refused("192.0.2.2"), "the port is missing: write \"192.0.2.2:9443\"");
        assert_eq!(refused("2001:db8::1"), "the port is missing: write \"[2001:db8::1]:9443\"");
        assert_eq!(refused("example.org"), "the port is missing: write \"example.org:9443\"");
        assert_eq!(refused("example.org:0"), "the port must be a number from 1 to 65535");
        assert_eq!(refused("0.0.0.0:9443"), "0.0.0.0 is every address, not one that can be reached");
        assert_eq!(refused("exa mple:1"), "`exa mple` is neither an address nor a host name");
        assert_eq!(refused(":1"), "`` is neither an address nor a host name");
    }
}
