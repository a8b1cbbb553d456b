//! SOCKS5 as a server reads and writes it (RFC 1928, RFC 1929), without I/O.
//!
//! ```text
//!  client                                     server
//!  05 count methods…                  →
//!                                     ←       05 method
//!  01 length username length password →                        (method 2 only)
//!                                     ←       01 status
//!  05 command 00 target               →
//!                                     ←       05 reply 00 target
//! ```
//!
//! This parser is our own: of the crates that speak SOCKS5, `socks5-proto` and `socks5-impl` are under the GPL, and
//! `fast-socks5` reads field by field from a socket, with a system call for each, and can be neither fuzzed nor tested
//! without one.

use std::fmt;

use thiserror::Error;

use super::request::Refusal;
use super::target::{Target, TargetError};

/// The first byte of a SOCKS5 client.
pub const VERSION: u8 = 5;

/// The version of the username and password exchange (RFC 1929 §2).
const PASSWORD_VERSION: u8 = 1;

/// The longest message of a client, in bytes: the one with username and password.
pub const MESSAGE_LEN_MAX: usize = 1 + 1 + 255 + 1 + 255;

/// What comes before the target in a datagram: two zero bytes and the fragment number (RFC 1928 §7).
pub const DATAGRAM_PREFIX: [u8; 3] = [0, 0, 0];

/// Why a client is not understood.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Socks5Error {
    /// Another version of SOCKS, or no SOCKS at all.
    #[error("the version is not 5")]
    Version,
    /// Another version of the username and password exchange.
    #[error("the version of the authentication is not 1")]
    PasswordVersion,
    /// The target is none.
    #[error("the target is wrong")]
    Target(#[from] TargetError),
    /// A datagram that is not whole.
    #[error("the datagram is cut off")]
    Truncated,
    /// A datagram in fragments, which a server may decline (RFC 1928 §7).
    #[error("the datagram is a fragment")]
    Fragment,
}

/// The authentication methods that a client offers, as far as they are known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// None needed.
    pub no_authentication: bool,
    /// Username and password.
    pub password: bool,
}

/// What the server answers a greeting with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Method {
    /// Nothing more is needed.
    NoAuthentication = 0,
    /// The client must send username and password.
    Password = 2,
    /// None of what the client offers will do.
    NoneAcceptable = 0xff,
}

/// Username and password as the client sent them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Login<'a> {
    /// The username.
    pub username: &'a [u8],
    /// The password.
    pub password: &'a [u8],
}

impl fmt::Debug for Login<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("username", &self.username.escape_ascii().to_string())
            .finish_non_exhaustive()
    }
}

/// What the client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub command: Command,
    /// With whom.
    pub target: Target,
}

/// The commands of RFC 1928 §4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Connect to the target.
    Connect,
    /// Relay datagrams; the target is where the client will send them from, if it knows.
    UdpAssociate,
    /// Wait for a connection, which is not offered here, or a command that nobody knows.
    Unsupported(u8),
}

/// The replies of RFC 1928 §6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reply {
    /// Done.
    Succeeded = 0,
    /// It failed, without a better word.
    GeneralFailure = 1,
    /// Rules do not allow it.
    NotAllowed = 2,
    /// The network is unreachable.
    NetworkUnreachable = 3,
    /// The host is unreachable.
    HostUnreachable = 4,
    /// Nobody listens there.
    ConnectionRefused = 5,
    /// No answer in time: the nearest of the codes.
    TtlExpired = 6,
    /// A command that is not offered.
    CommandNotSupported = 7,
    /// An address type that is unknown.
    AddressTypeNotSupported = 8,
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotAllowed => Self::NotAllowed,
            Refusal::NameNotFound | Refusal::HostUnreachable => Self::HostUnreachable,
            Refusal::ConnectionRefused => Self::ConnectionRefused,
            Refusal::TimedOut => Self::TtlExpired,
            Refusal::NetworkUnreachable | Refusal::PeerUnreachable => Self::NetworkUnreachable,
            Refusal::TooMany | Refusal::NotUnderstood | Refusal::AddressInUse | Refusal::Failed => {
                Self::GeneralFailure
            }
        }
    }
}

/// Parses a client's greeting, and says how many bytes it took. `None` when more must arrive first.
///
/// # Errors
/// [`Socks5Error::Version`].
pub fn greeting(bytes: &[u8]) -> Result<Option<(Greeting, usize)>, Socks5Error> {
    match bytes {
        [] | [VERSION] => Ok(None),
        [VERSION, count, rest @ ..] => {
            let Some(methods) = rest.get(..usize::from(*count)) else { return Ok(None) };
            let offers = |method: Method| methods.contains(&(method as u8));
            let greeting = Greeting {
                no_authentication: offers(Method::NoAuthentication),
                password: offers(Method::Password),
            };
            Ok(Some((greeting, 2 + methods.len())))
        }
        _ => Err(Socks5Error::Version),
    }
}

/// Parses username and password (RFC 1929 §2), and says how many bytes they took. `None` when more must arrive first.
///
/// # Errors
/// [`Socks5Error::PasswordVersion`].
pub fn login(bytes: &[u8]) -> Result<Option<(Login<'_>, usize)>, Socks5Error> {
    let rest = match bytes {
        [] => return Ok(None),
        [PASSWORD_VERSION, rest @ ..] => rest,
        _ => return Err(Socks5Error::PasswordVersion),
    };
    let Some((username, rest)) = prefixed(rest) else { return Ok(None) };
    let Some((password, _)) = prefixed(rest) else { return Ok(None) };
    Ok(Some((Login { username, password }, 1 + 1 + username.len() + 1 + password.len())))
}

/// A text with its length in the byte before it, and what follows it.
fn prefixed(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*len))
}

/// Parses a request, and says how many bytes it took. `None` when more must arrive first.
///
/// # Errors
/// [`Socks5Error::Version`] and [`Socks5Error::Target`].
pub fn request(bytes: &[u8]) -> Result<Option<(Request, usize)>, Socks5Error> {
    match bytes {
        [VERSION, command, _reserved, target @ ..] => {
            let Some((target, len)) = Target::decode(target)? else { return Ok(None) };
            let command = match command {
                1 => Command::Connect,
                3 => Command::UdpAssociate,
                other => Command::Unsupported(*other),
            };
            Ok(Some((Request { command, target }, 3 + len)))
        }
        [] | [VERSION, ..] => Ok(None),
        _ => Err(Socks5Error::Version),
    }
}

/// Splits a datagram of a client into its target, still encoded, and its data.
///
/// # Errors
/// [`Socks5Error`].
pub fn datagram(bytes: &[u8]) -> Result<(&[u8], &[u8]), Socks5Error> {
    let (prefix, rest) = bytes.split_first_chunk::<3>().ok_or(Socks5Error::Truncated)?;
    if prefix[2] != 0 {
        return Err(Socks5Error::Fragment);
    }
    let len = Target::encoded_len(rest)?.ok_or(Socks5Error::Truncated)?;
    rest.split_at_checked(len).ok_or(Socks5Error::Truncated)
}

/// The answer to a request. `bound` is our end of what was asked for.
pub fn reply(reply: Reply, bound: &Target) -> Vec<u8> {
    let mut bytes = vec![VERSION, reply as u8, 0];
    bound.encode(&mut bytes);
    bytes
}

/// The answer to a greeting.
pub fn method(method: Method) -> [u8; 2] {
    [VERSION, method as u8]
}

/// The answer to username and password.
pub fn login_reply(right: bool) -> [u8; 2] {
    [PASSWORD_VERSION, u8::from(!right)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_offers_methods() {
        let parsed =
            |no_authentication, password, len| Ok(Some((Greeting { no_authentication, password }, len)));
        assert_eq!(greeting(&[5, 1, 0]), parsed(true, false, 3));
        assert_eq!(greeting(&[5, 3, 1, 2, 0, 5]), parsed(true, true, 5));
        assert_eq!(greeting(&[5, 0]), parsed(false, false, 2));
        assert_eq!(greeting(&[5, 2, 0]), Ok(None));
        assert_eq!(greeting(&[4, 1]), Err(Socks5Error::Version));
    }

    #[test]
    fn a_login_is_two_texts_of_any_length() {
        let bytes = b"\x01\x05alice\x03pw!rest";
        let (parsed, len) = login(bytes).unwrap().unwrap();
        assert_eq!((parsed.username, parsed.password, len), (&b"alice"[..], &b"pw!"[..], 11));
        for len in 0..11 {
            assert_eq!(login(&bytes[..len]), Ok(None));
        }
        assert_eq!(login(&[1, 0, 0]).unwrap().unwrap().1, 3);
        assert_eq!(login(&[5, 0, 0]), Err(Socks5Error::PasswordVersion));
        assert!(!format!("{parsed:?}").contains("pw!"), "a password is not for logs");
    }

    #[test]
    fn a_request_has_a_command_and_a_target() {
        let parsed = |command, target: &str, len| {
            Ok(Some((Request { command, target: target.parse().unwrap() }, len)))
        };
        assert_eq!(
            request(b"\x05\x01\0\x03\x09a.example\x01\xbbmore"),
            parsed(Command::Connect, "a.example:443", 16)
        );
        assert_eq!(request(&[5, 3, 0, 1, 0, 0, 0, 0, 0, 0]), parsed(Command::UdpAssociate, "0.0.0.0:0", 10));
        assert_eq!(
            request(&[5, 2, 0, 1, 9, 9, 9, 9, 0, 1]),
            parsed(Command::Unsupported(2), "9.9.9.9:1", 10)
        );
        assert_eq!(request(&[5, 1]), Ok(None));
        assert_eq!(request(&[5, 1, 0, 1, 9, 9]), Ok(None));
        assert_eq!(request(&[5, 1, 0, 9]), Err(Socks5Error::Target(TargetError::UnknownType(9))));
        assert_eq!(request(&[1]), Err(Socks5Error::Version));
    }

    #[test]
    fn a_datagram_is_a_target_and_data() {
        let bytes = [0, 0, 0, 1, 192, 0, 2, 1, 0, 53, b'q'];
        assert_eq!(datagram(&bytes), Ok((&bytes[3..10], &b"q"[..])));
        assert_eq!(datagram(&bytes[..10]), Ok((&bytes[3..10], &b""[..])), "no data is data");
        assert_eq!(datagram(&bytes[..9]), Err(Socks5Error::Truncated));
        assert_eq!(datagram(&[0, 0, 1, 1]), Err(Socks5Error::Fragment));
        assert_eq!(datagram(&[0, 0, 0, 2]), Err(Socks5Error::Target(TargetError::UnknownType(2))));
    }
}
