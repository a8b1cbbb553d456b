//! What an entry asks of an exit, at the front of every stream between the two.
//!
//! ```text
//!  0        1       2..
//!  version  kind    body
//!  1        1       target                     connect there, then carry bytes
//!           2       (nothing)                  carry datagrams, as frames
//!           3       listener (4), target       listen for connections on that address
//!           4       listener (4), target       listen for datagrams on that address
//!           5       listener (4)               something came to that listener: the answer to 3 and 4,
//!                                              on a stream of its own, from the side that listens
//! ```
//!
//! Numbers are big-endian; a target is encoded as [`Target`] says. The answer is one byte, a [`Refusal`]'s code or 0; to
//! kinds 3 and 4, the address that is listened on follows a 0. After a 0, the stream carries bytes (kinds 1 and 5),
//! frames (kinds 2 and 5) or nothing (kinds 3 and 4: the listener lives as long as its stream).

use std::net::SocketAddr;

use thiserror::Error;

use super::target::{Target, TargetError};

/// The version of this format.
const VERSION: u8 = 1;

const CONNECT: u8 = 1;
const DATAGRAMS: u8 = 2;
const LISTEN_TCP: u8 = 3;
const LISTEN_UDP: u8 = 4;
const INCOMING: u8 = 5;

/// The answer that all is well.
pub(super) const ACCEPTED: u8 = 0;

/// TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

/// Which of a peer's listeners at the other side: a number that the side that asks for it chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerId(pub u32);

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Connect to a target and carry bytes.
    Connect(Target),
    /// Carry datagrams, each with its own target.
    Datagrams,
    /// Listen, and open a stream with [`Request::Incoming`] for each connection, or each sender of datagrams.
    Listen {
        /// How that stream will name this listener.
        listener: ListenerId,
        /// For connections or for datagrams.
        transport: Transport,
        /// Where to listen.
        address: SocketAddr,
    },
    /// Something came to a listener.
    Incoming(ListenerId),
}

/// Why the front of a stream is no request.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RequestError {
    /// A version that is not ours.
    #[error("version {0} of the request is unknown")]
    UnknownVersion(u8),
    /// A kind that is not ours.
    #[error("kind {0} of the request is unknown")]
    UnknownKind(u8),
    /// The target is none.
    #[error("the target of the request is wrong")]
    Target(#[from] TargetError),
    /// A name is no place to listen on.
    #[error("a listener needs an address, not a name")]
    ListenOnName,
}

impl Request {
    /// The longest request, in bytes.
    pub const LEN_MAX: usize = 2 + 4 + Target::ENCODED_LEN_MAX;

    /// Decodes the request at the front of `bytes`, and says how many it took. `None` when more must arrive first.
    ///
    /// # Errors
    /// [`RequestError`]; more bytes would not help.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, RequestError> {
        let kind = match bytes {
            [] | [VERSION] => return Ok(None),
            [VERSION, kind, ..] => *kind,
            [version, ..] => return Err(RequestError::UnknownVersion(*version)),
        };
        match kind {
            CONNECT => {
                let decoded = Target::decode(&bytes[2..])?;
                Ok(decoded.map(|(target, len)| (Self::Connect(target), 2 + len)))
            }
            DATAGRAMS => Ok(Some((Self::Datagrams, 2))),
            LISTEN_TCP | LISTEN_UDP => {
                let Some((listener, rest)) = listener_id(bytes) else { return Ok(None) };
                let Some((target, len)) = Target::decode(rest)? else { return Ok(None) };
                let Target::Address(address) = target else { return Err(RequestError::ListenOnName) };
                let transport = if kind == LISTEN_TCP { Transport::Tcp } else { Transport::Udp };
                Ok(Some((Self::Listen { listener, transport, address }, 6 + len)))
            }
            INCOMING => Ok(listener_id(bytes).map(|(listener, _)| (Self::Incoming(listener), 6))),
            kind => Err(RequestError::UnknownKind(kind)),
        }
    }

    /// Appends the encoding.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        match self {
            Self::Connect(target) => {
                out.push(CONNECT);
                target.encode(out);
            }
            Self::Datagrams => out.push(DATAGRAMS),
            Self::Listen { listener, transport, address } => {
                out.push(if *transport == Transport::Tcp { LISTEN_TCP } else { LISTEN_UDP });
                out.extend_from_slice(&listener.0.to_be_bytes());
                Target::Address(*address).encode(out);
            }
            Self::Incoming(listener) => {
                out.push(INCOMING);
                out.extend_from_slice(&listener.0.to_be_bytes());
            }
        }
    }
}

/// The listener's number after version and kind, and what follows it.
fn listener_id(bytes: &[u8]) -> Option<(ListenerId, &[u8])> {
    let (id, rest) = bytes.get(2..)?.split_first_chunk::<4>()?;
    Some((ListenerId(u32::from_be_bytes(*id)), rest))
}

/// Why something was not done for a client: what crosses the stream as one byte, and becomes a SOCKS5 reply, an HTTP
/// status or a log line at the entry.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Refusal {
    /// The exit's rules do not allow the target, or the peer is no exit at all.
    #[error("the exit does not allow this target")]
    NotAllowed = 1,
    /// The name has no address.
    #[error("the name was not found")]
    NameNotFound = 2,
    /// Nobody listens there.
    #[error("the target refused the connection")]
    ConnectionRefused = 3,
    /// The target, or the exit, did not answer in time.
    #[error("the target did not answer in time")]
    TimedOut = 4,
    /// The target's host cannot be reached.
    #[error("the target's host is unreachable")]
    HostUnreachable = 5,
    /// The target's network cannot be reached.
    #[error("the target's network is unreachable")]
    NetworkUnreachable = 6,
    /// A limit on connections is reached.
    #[error("too many connections")]
    TooMany = 7,
    /// The exit does not understand the request.
    #[error("the exit does not understand the request")]
    NotUnderstood = 8,
    /// Something else already listens there.
    #[error("the address to listen on is in use")]
    AddressInUse = 9,
    /// There is no session with the peer.
    #[error("the peer cannot be reached")]
    PeerUnreachable = 10,
    /// None of the above.
    #[error("it failed")]
    Failed = 255,
}

impl Refusal {
    /// The byte on the wire.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// What a byte other than 0 means; one that is not known yet means that it failed.
    pub fn from_code(code: u8) -> Self {
        match code {
            1 => Self::NotAllowed,
            2 => Self::NameNotFound,
            3 => Self::ConnectionRefused,
            4 => Self::TimedOut,
            5 => Self::HostUnreachable,
            6 => Self::NetworkUnreachable,
            7 => Self::TooMany,
            8 => Self::NotUnderstood,
            9 => Self::AddressInUse,
            10 => Self::PeerUnreachable,
            _ => Self::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(request: &Request) -> Vec<u8> {
        let mut bytes = Vec::new();
        request.encode(&mut bytes);
        bytes
    }

    #[test]
    fn requests_are_these_bytes() {
        let target: Target = "192.0.2.1:80".parse().unwrap();
        assert_eq!(encoded(&Request::Connect(target)), [1, 1, 1, 192, 0, 2, 1, 0, 80]);
        assert_eq!(encoded(&Request::Datagrams), [1, 2]);
        let address = ([0, 0, 0, 0], 8080).into();
        let listen = Request::Listen { listener: ListenerId(258), transport: Transport::Udp, address };
        assert_eq!(encoded(&listen), [1, 4, 0, 0, 1, 2, 1, 0, 0, 0, 0, 0x1f, 0x90]);
        assert_eq!(encoded(&Request::Incoming(ListenerId(1))), [1, 5, 0, 0, 0, 1]);
    }

    #[test]
    fn what_is_encoded_is_decoded_and_a_part_of_it_waits_for_the_rest() {
        let address = "[2001:db8::1]:53".parse().unwrap();
        for request in [
            Request::Connect("a.example:443".parse().unwrap()),
            Request::Datagrams,
            Request::Listen { listener: ListenerId(7), transport: Transport::Tcp, address },
            Request::Incoming(ListenerId(u32::MAX)),
        ] {
            let bytes = encoded(&request);
            assert!(bytes.len() <= Request::LEN_MAX);
            for len in 0..bytes.len() {
                assert_eq!(Request::decode(&bytes[..len]), Ok(None), "{request:?} cut to {len} bytes");
            }
            assert_eq!(Request::decode(&bytes), Ok(Some((request, bytes.len()))));
        }
    }

    #[test]
    fn what_is_no_request_is_refused_with_the_reason() {
        assert_eq!(Request::decode(&[2]), Err(RequestError::UnknownVersion(2)));
        assert_eq!(Request::decode(&[1, 9]), Err(RequestError::UnknownKind(9)));
        assert_eq!(Request::decode(&[1, 1, 7]), Err(RequestError::Target(TargetError::UnknownType(7))));
        assert_eq!(Request::decode(b"\x01\x03\0\0\0\x01\x03\x01a\0\x50"), Err(RequestError::ListenOnName));
    }

    #[test]
    fn every_refusal_survives_its_byte_and_an_unknown_one_is_a_failure() {
        for code in 1..=255 {
            let refusal = Refusal::from_code(code);
            assert!(refusal.code() == code || refusal == Refusal::Failed, "{code}");
        }
        assert_eq!(Refusal::from_code(11), Refusal::Failed);
    }
}
