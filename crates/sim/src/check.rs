//! The checkers that look at every datagram as it leaves a machine.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;

use memchr::memmem::Finder;

/// What an outer datagram is, by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The first message of a handshake, whole.
    Initiation,
    /// The first half of a split initiation.
    InitiationPart1,
    /// The second half of a split initiation.
    InitiationPart2,
    /// The second message of a handshake.
    Response,
    /// A cookie, for a handshake that met a node under load.
    CookieReply,
    /// Anything inside a session: packets, probes, keepalives.
    Data,
    /// None of ours.
    Other,
}

impl Kind {
    /// Reads the first byte.
    pub fn of(datagram: &[u8]) -> Self {
        match datagram.first() {
            Some(1 | 17) => Self::Initiation,
            Some(2 | 18) => Self::Response,
            Some(3 | 19) => Self::CookieReply,
            Some(4 | 20) => Self::Data,
            Some(21) => Self::InitiationPart1,
            Some(22) => Self::InitiationPart2,
            _ => Self::Other,
        }
    }

    /// Whether it belongs to a handshake.
    pub fn is_handshake(self) -> bool {
        !matches!(self, Self::Data | Self::Other)
    }

    /// The name in a trace.
    pub fn name(self) -> &'static str {
        match self {
            Self::Initiation => "initiation",
            Self::InitiationPart1 => "initiation, part 1",
            Self::InitiationPart2 => "initiation, part 2",
            Self::Response => "response",
            Self::CookieReply => "cookie reply",
            Self::Data => "data",
            Self::Other => "?",
        }
    }
}

/// Finds inner payload in outer bytes.
#[derive(Debug)]
pub(crate) struct PlaintextCheck(Finder<'static>);

impl PlaintextCheck {
    pub(crate) fn new(marker: &[u8]) -> Self {
        Self(Finder::new(marker).into_owned())
    }

    pub(crate) fn check(&self, datagram: &[u8]) -> Result<(), String> {
        match self.0.find(datagram) {
            Some(at) => Err(format!("plaintext on the wire: inner payload at byte {at} of a datagram")),
            None => Ok(()),
        }
    }
}

/// Remembers each (session, lane, counter) that was ever used to seal.
///
/// A session is told by who sends, to whom, and the receiver index; `sender` changes with every restart.
#[derive(Debug, Default)]
pub(crate) struct NonceCheck {
    used: HashMap<(u64, u64, u32, u8), HashSet<u64>>,
}

impl NonceCheck {
    pub(crate) fn check(&mut self, sender: u64, receiver: u64, datagram: &[u8]) -> Result<(), String> {
        if Kind::of(datagram) != Kind::Data {
            return Ok(());
        }
        let Some(header) = datagram.first_chunk::<16>() else {
            return Err("a data datagram shorter than its header".into());
        };
        let [_, lane, _, _, i0, i1, i2, i3, counter @ ..] = *header;
        let index = u32::from_le_bytes([i0, i1, i2, i3]);
        let counter = u64::from_le_bytes(counter);
        if self.used.entry((sender, receiver, index, lane)).or_default().insert(counter) {
            Ok(())
        } else {
            Err(format!("nonce reuse: session {index:08x}, lane {lane}, counter {counter} was used before"))
        }
    }
}

/// Compares what is sent to an address with what came from it, until that address has proved itself.
#[derive(Debug, Default)]
pub(crate) struct AmplificationCheck {
    addresses: BTreeMap<(u64, SocketAddr), Exchange>,
}

#[derive(Debug, Default)]
struct Exchange {
    trusted: bool,
    received: usize,
    sent: usize,
}

impl AmplificationCheck {
    /// `node` was told of `address`, or a genuine sealed datagram came from there.
    pub(crate) fn trust(&mut self, node: u64, address: SocketAddr) {
        self.addresses.entry((node, address)).or_default().trusted = true;
    }

    pub(crate) fn received(&mut self, node: u64, from: SocketAddr, bytes: usize) {
        self.addresses.entry((node, from)).or_default().received += bytes;
    }

    pub(crate) fn sent(&mut self, node: u64, to: SocketAddr, bytes: usize) -> Result<(), String> {
        let exchange = self.addresses.entry((node, to)).or_default();
        exchange.sent += bytes;
        if exchange.trusted || exchange.sent <= exchange.received {
            return Ok(());
        }
        Err(format!("amplification: {} bytes sent to {to}, which sent {}", exchange.sent, exchange.received))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plaintext_is_found_anywhere_in_a_datagram() {
        let check = PlaintextCheck::new(b"\x01marker\x02");
        assert!(check.check(b"sealed").is_ok());
        assert!(check.check(b"xxxxx\x01marker\x02").is_err());
    }

    #[test]
    fn a_counter_may_be_used_once_a_lane_session_and_sender() {
        let data = |lane: u8, index: u8, counter: u8| {
            [20, lane, 0, 0, index, 0, 0, 0, counter, 0, 0, 0, 0, 0, 0, 0, 99]
        };
        let mut check = NonceCheck::default();
        for (sender, datagram) in
            [(1, data(0, 0, 0)), (2, data(0, 0, 0)), (1, data(1, 0, 0)), (1, data(0, 1, 0))]
        {
            assert!(check.check(sender, 9, &datagram).is_ok());
        }
        assert!(check.check(1, 9, &data(0, 0, 1)).is_ok());
        assert!(check.check(1, 9, &data(0, 0, 0)).unwrap_err().contains("nonce reuse"));
    }

    #[test]
    fn a_stranger_gets_no_more_than_it_sent() {
        let stranger = "198.51.100.1:1".parse().unwrap();
        let mut check = AmplificationCheck::default();
        assert!(check.sent(0, stranger, 1).is_err());
        check.received(0, stranger, 100);
        assert!(check.sent(0, stranger, 99).is_ok());
        assert!(check.sent(0, stranger, 1).is_err());
        check.trust(0, stranger);
        assert!(check.sent(0, stranger, 10_000).is_ok());
    }
}
