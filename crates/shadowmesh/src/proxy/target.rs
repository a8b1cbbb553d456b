//! Where a connection or a datagram is to go, as people write it and as it is encoded.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use thiserror::Error;

/// The longest host name, in bytes of its textual form without the final dot (RFC 1035 §2.3.4).
const HOST_LEN_MAX: usize = 253;

const TYPE_IPV4: u8 = 1;
const TYPE_NAME: u8 = 3;
const TYPE_IPV6: u8 = 4;

/// An address, or a host name that the exit looks up.
///
/// Encoded as SOCKS5 does it (RFC 1928 §5), in network order, so that one codec serves SOCKS5 and the streams between
/// nodes:
///
/// ```text
///  0        1..                        then
///  type     1: IPv4 address, 4 bytes   port
///           3: length, name            2 bytes
///           4: IPv6 address, 16 bytes
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// An address.
    Address(SocketAddr),
    /// A host name.
    Name {
        /// The name: letters, digits, `-`, `_` and `.`; never the digits of an address.
        host: Box<str>,
        /// The port.
        port: u16,
    },
}

/// Why bytes or text are no target.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TargetError {
    /// Neither IPv4, IPv6 nor a name.
    #[error("address type {0} is unknown")]
    UnknownType(u8),
    /// Empty, too long, or with characters that no host name has.
    #[error("neither an address nor a host name")]
    InvalidName,
    /// The port is missing or not a number up to 65535.
    #[error("the port must follow after a colon, a number up to 65535")]
    InvalidPort,
}

impl Target {
    /// The longest encoding, in bytes.
    pub const ENCODED_LEN_MAX: usize = 1 + 1 + 255 + 2;

    /// No particular address: what a reply or a frame says when there is none to tell.
    pub const UNSPECIFIED: Self = Self::Address(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0));

    /// How many bytes the encoding at the front of `bytes` has, or `None` when that cannot be told yet. The port and the
    /// address need not have arrived.
    ///
    /// # Errors
    /// [`TargetError::UnknownType`].
    pub fn encoded_len(bytes: &[u8]) -> Result<Option<usize>, TargetError> {
        let address_len = match bytes {
            [] | [TYPE_NAME] => return Ok(None),
            [TYPE_IPV4, ..] => 4,
            [TYPE_IPV6, ..] => 16,
            [TYPE_NAME, len, ..] => 1 + usize::from(*len),
            [other, ..] => return Err(TargetError::UnknownType(*other)),
        };
        Ok(Some(1 + address_len + 2))
    }

    /// Decodes the target at the front of `bytes`, and says how many it took. `None` when more must arrive first.
    ///
    /// # Errors
    /// [`TargetError`]; more bytes would not help.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, TargetError> {
        let Some(len) = Self::encoded_len(bytes)? else { return Ok(None) };
        let Some((address, port)) = bytes.get(1..len).and_then(|rest| rest.split_last_chunk::<2>()) else {
            return Ok(None);
        };
        let port = u16::from_be_bytes(*port);
        let target = match (bytes[0], address) {
            (TYPE_IPV4, &[a, b, c, d]) => Self::Address((Ipv4Addr::new(a, b, c, d), port).into()),
            (TYPE_NAME, [_len, name @ ..]) => {
                Self::new(str::from_utf8(name).map_err(|_| TargetError::InvalidName)?, port)?
            }
            (kind, octets) => {
                let octets = <[u8; 16]>::try_from(octets).map_err(|_| TargetError::UnknownType(kind))?;
                Self::Address((Ipv6Addr::from(octets), port).into())
            }
        };
        Ok(Some((target, len)))
    }

    /// Appends the encoding.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Address(SocketAddr::V4(address)) => {
                out.push(TYPE_IPV4);
                out.extend_from_slice(&address.ip().octets());
            }
            Self::Address(SocketAddr::V6(address)) => {
                out.push(TYPE_IPV6);
                out.extend_from_slice(&address.ip().octets());
            }
            Self::Name { host, .. } => {
                out.push(TYPE_NAME);
                out.push(host.len() as u8);
                out.extend_from_slice(host.as_bytes());
            }
        }
        out.extend_from_slice(&self.port().to_be_bytes());
    }

    /// A host, which may be an address in digits, and a port.
    ///
    /// # Errors
    /// [`TargetError::InvalidName`].
    pub fn new(host: &str, port: u16) -> Result<Self, TargetError> {
        // An address that came as a name would otherwise need a name server, or meet a rule about names.
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(Self::Address((address, port).into()));
        }
        // As in a URL (RFC 3986 §3.2.2), from which many clients take it as it is.
        let literal = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if let Some(Ok(address)) = literal.map(str::parse::<Ipv6Addr>) {
            return Ok(Self::Address((address, port).into()));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        let bare = host.strip_suffix('.').unwrap_or(host);
        if bare.is_empty() || bare.len() > HOST_LEN_MAX || !host.chars().all(allowed) {
            return Err(TargetError::InvalidName);
        }
        Ok(Self::Name { host: host.into(), port })
    }

    /// The port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Address(address) => address.port(),
            Self::Name { port, .. } => *port,
        }
    }
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self::Address(address)
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self::Address(address));
        }
        let (host, port) = text.rsplit_once(':').ok_or(TargetError::InvalidPort)?;
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|_| digits).ok_or(TargetError::InvalidPort)?;
        // An IPv6 address stands in brackets; otherwise its last group would be taken for a port.
        if host.contains(':') {
            return Err(TargetError::InvalidName);
        }
        Self::new(host, port)
    }
}

impl fmt::Display for Target {
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

    fn encoded(target: &Target) -> Vec<u8> {
        let mut bytes = Vec::new();
        target.encode(&mut bytes);
        bytes
    }

    #[test]
    fn the_encoding_is_that_of_rfc_1928() {
        let of = |text: &str| encoded(&text.parse().unwrap());
        assert_eq!(of("192.0.2.1:80"), [1, 192, 0, 2, 1, 0, 80]);
        assert_eq!(of("[2001:db8::1]:443")[..4], [4, 0x20, 1, 0x0d]);
        assert_eq!(of("a.example:256"), *b"\x03\x09a.example\x01\x00");
    }

    #[test]
    fn what_is_encoded_is_decoded_and_a_part_of_it_waits_for_the_rest() {
        for text in ["192.0.2.1:80", "[2001:db8::1]:443", "a.example:65535", "a.example.:1"] {
            let target: Target = text.parse().unwrap();
            let mut bytes = encoded(&target);
            for len in 0..bytes.len() {
                assert_eq!(Target::decode(&bytes[..len]), Ok(None), "{text} cut to {len} bytes");
            }
            let len = bytes.len();
            bytes.push(7);
            assert_eq!(Target::decode(&bytes), Ok(Some((target, len))));
        }
    }

    #[test]
    fn an_address_that_comes_as_a_name_is_an_address() {
        assert_eq!(
            Target::decode(b"\x03\x09127.0.0.1\x00\x50"),
            Ok(Some((Target::Address(([127, 0, 0, 1], 80).into()), 13)))
        );
        assert_eq!(Target::decode(b"\x03\x03::1\x00\x50").unwrap().unwrap().0.to_string(), "[::1]:80");
        assert_eq!(Target::decode(b"\x03\x05[::1]\x00\x50").unwrap().unwrap().0.to_string(), "[::1]:80");
        assert_eq!(Target::decode(b"\x03\x0b[127.0.0.1]\x00\x50"), Err(TargetError::InvalidName));
    }

    #[test]
    fn what_is_no_target_is_refused() {
        assert_eq!(Target::decode(&[2, 0]), Err(TargetError::UnknownType(2)));
        assert_eq!(Target::decode(b"\x03\x00\x00\x50"), Err(TargetError::InvalidName));
        assert_eq!(Target::decode(b"\x03\x03a\0b\x00\x50"), Err(TargetError::InvalidName));
        let long = [&[3, 254], [b'a'; 254].as_slice(), &[0, 80]].concat();
        assert_eq!(Target::decode(&long), Err(TargetError::InvalidName));
        let refused = |text: &str| text.parse::<Target>().unwrap_err();
        assert_eq!(refused("example.org"), TargetError::InvalidPort);
        assert_eq!(refused("example.org:+80"), TargetError::InvalidPort);
        assert_eq!(refused("example.org:65536"), TargetError::InvalidPort);
        assert_eq!(refused("2001:db8::1:80"), TargetError::InvalidName);
        assert_eq!(refused(":80"), TargetError::InvalidName);
        assert_eq!(refused("exa mple:80"), TargetError::InvalidName);
    }
}
