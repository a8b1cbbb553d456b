//! The layout of every message, and the cheap checks by which a datagram is recognised.
//!
//! The byte diagrams are in the [crate documentation](crate).

use crate::crypto::{self, MAC_LEN};
use crate::{HEADER_LEN, Protocol, Suite, TAG_LEN};

/// Bytes of an X25519 public key.
const KEY_LEN: usize = 32;
/// Bytes of an ML-KEM-768 encapsulation key (FIPS 203 table 3).
pub(crate) const KEM_KEY_LEN: usize = 1_184;
/// Bytes of an ML-KEM-768 ciphertext (FIPS 203 table 3).
pub(crate) const KEM_CIPHERTEXT_LEN: usize = 1_088;
/// Bytes of an ML-KEM-768 encapsulation key once sealed.
pub(crate) const SEALED_KEM_KEY_LEN: usize = KEM_KEY_LEN + TAG_LEN;

/// Where the fields of an initiation are. `kem` is the sealed ML-KEM key, or in part 1 of a split one its
/// digest.
pub(crate) mod initiation {
    use super::{KEY_LEN, MAC_LEN, SEALED_KEM_KEY_LEN, TAG_LEN};
    use crate::Timestamp;
    use std::ops::Range;

    pub(crate) const HEADER: Range<usize> = 0..8;
    pub(crate) const SENDER: Range<usize> = 4..8;
    pub(crate) const EPHEMERAL: Range<usize> = 8..8 + KEY_LEN;
    pub(crate) const STATIC: Range<usize> = EPHEMERAL.end..EPHEMERAL.end + KEY_LEN + TAG_LEN;
    pub(crate) const KEM: usize = STATIC.end;
    pub(crate) const TIMESTAMP_LEN: usize = Timestamp::LEN + TAG_LEN;
    pub(crate) const DIGEST_LEN: usize = 32;

    const fn len(kem_len: usize) -> usize {
        KEM + kem_len + TIMESTAMP_LEN + 2 * MAC_LEN
    }
    pub(crate) const WIREGUARD_LEN: usize = len(0);
    pub(crate) const WHOLE_LEN: usize = len(SEALED_KEM_KEY_LEN);
    pub(crate) const PART1_LEN: usize = len(DIGEST_LEN);
    /// Part 2 has no second MAC: see the crate documentation.
    pub(crate) const PART2_LEN: usize = HEADER.end + SEALED_KEM_KEY_LEN + MAC_LEN;
    pub(crate) const PART2_KEM: Range<usize> = HEADER.end..HEADER.end + SEALED_KEM_KEY_LEN;
}

/// Where the fields of a response are.
pub(crate) mod response {
    use super::{KEM_CIPHERTEXT_LEN, KEY_LEN, MAC_LEN, TAG_LEN};
    use std::ops::Range;

    pub(crate) const HEADER: Range<usize> = 0..12;
    pub(crate) const SENDER: Range<usize> = 4..8;
    pub(crate) const RECEIVER: Range<usize> = 8..12;
    pub(crate) const EPHEMERAL: Range<usize> = 12..12 + KEY_LEN;
    pub(crate) const KEM: Range<usize> = EPHEMERAL.end..EPHEMERAL.end + KEM_CIPHERTEXT_LEN + TAG_LEN;

    pub(crate) const WIREGUARD_LEN: usize = EPHEMERAL.end + TAG_LEN + 2 * MAC_LEN;
    pub(crate) const SHADOWMESH_LEN: usize = KEM.end + TAG_LEN + 2 * MAC_LEN;
}

/// Where the fields of a cookie reply are.
pub(crate) mod cookie_reply {
    use super::{MAC_LEN, TAG_LEN};
    use std::ops::Range;

    pub(crate) const RECEIVER: Range<usize> = 4..8;
    pub(crate) const NONCE: Range<usize> = 8..32;
    pub(crate) const COOKIE: Range<usize> = 32..32 + MAC_LEN + TAG_LEN;
    pub(crate) const LEN: usize = COOKIE.end;
}

// Nothing is answered with more than was received, or an attacker could have us flood a third party.
const _: () = assert!(response::SHADOWMESH_LEN <= initiation::PART2_LEN);
const _: () = assert!(response::WIREGUARD_LEN <= initiation::WIREGUARD_LEN);
const _: () = assert!(cookie_reply::LEN <= response::WIREGUARD_LEN);

/// Bytes of a cookie reply, of either protocol.
pub const COOKIE_REPLY_LEN: usize = cookie_reply::LEN;

/// What a datagram claims to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageKind {
    /// The first message of a handshake, in one datagram: WireGuard type 1, ShadowMesh type 17.
    Initiation(Protocol),
    /// The answer to an initiation: type 2 or 18.
    Response(Protocol),
    /// A cookie, sent instead of a response by a responder under load: type 3 or 19.
    CookieReply(Protocol),
    /// A sealed packet: type 4 or 20.
    Data(Protocol),
    /// The first part of a split ShadowMesh initiation: type 21.
    InitiationPart1,
    /// The second part of a split ShadowMesh initiation: type 22.
    InitiationPart2,
}

impl MessageKind {
    /// Which of the two protocols the message belongs to.
    pub const fn protocol(self) -> Protocol {
        match self {
            Self::Initiation(protocol)
            | Self::Response(protocol)
            | Self::CookieReply(protocol)
            | Self::Data(protocol) => protocol,
            Self::InitiationPart1 | Self::InitiationPart2 => Protocol::ShadowMesh,
        }
    }

    pub(crate) const fn type_byte(self) -> u8 {
        match self {
            Self::Initiation(Protocol::WireGuard) => 1,
            Self::Response(Protocol::WireGuard) => 2,
            Self::CookieReply(Protocol::WireGuard) => 3,
            Self::Data(Protocol::WireGuard) => 4,
            Self::Initiation(Protocol::ShadowMesh) => 17,
            Self::Response(Protocol::ShadowMesh) => 18,
            Self::CookieReply(Protocol::ShadowMesh) => 19,
            Self::Data(Protocol::ShadowMesh) => 20,
            Self::InitiationPart1 => 21,
            Self::InitiationPart2 => 22,
        }
    }

    const fn from_type_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Initiation(Protocol::WireGuard),
            2 => Self::Response(Protocol::WireGuard),
            3 => Self::CookieReply(Protocol::WireGuard),
            4 => Self::Data(Protocol::WireGuard),
            17 => Self::Initiation(Protocol::ShadowMesh),
            18 => Self::Response(Protocol::ShadowMesh),
            19 => Self::CookieReply(Protocol::ShadowMesh),
            20 => Self::Data(Protocol::ShadowMesh),
            21 => Self::InitiationPart1,
            22 => Self::InitiationPart2,
            _ => return None,
        })
    }

    /// The length of every message of this kind; `None` for data, which varies.
    const fn exact_len(self) -> Option<usize> {
        Some(match self {
            Self::Initiation(Protocol::WireGuard) => initiation::WIREGUARD_LEN,
            Self::Initiation(Protocol::ShadowMesh) => initiation::WHOLE_LEN,
            Self::InitiationPart1 => initiation::PART1_LEN,
            Self::InitiationPart2 => initiation::PART2_LEN,
            Self::Response(Protocol::WireGuard) => response::WIREGUARD_LEN,
            Self::Response(Protocol::ShadowMesh) => response::SHADOWMESH_LEN,
            Self::CookieReply(_) => cookie_reply::LEN,
            Self::Data(_) => return None,
        })
    }

    /// How many MACs the message ends in.
    const fn macs(self) -> usize {
        match self {
            Self::Initiation(_) | Self::Response(_) | Self::InitiationPart1 => 2,
            Self::InitiationPart2 => 1,
            Self::CookieReply(_) | Self::Data(_) => 0,
        }
    }

    /// Whether the second byte of the header may be `byte`: the suite, the lane, or zero.
    const fn allows_second_byte(self, byte: u8) -> bool {
        match self {
            Self::Initiation(Protocol::ShadowMesh) | Self::InitiationPart1 => {
                Suite::from_wire(byte).is_some()
            }
            Self::Data(Protocol::ShadowMesh) => true,
            _ => byte == 0,
        }
    }
}

/// What a datagram is, by its type byte, its reserved bytes and its length alone.
pub fn classify(datagram: &[u8]) -> Option<MessageKind> {
    let &[type_byte, second, 0, 0, ..] = datagram else { return None };
    let kind = MessageKind::from_type_byte(type_byte)?;
    let fits = match kind.exact_len() {
        Some(len) => datagram.len() == len,
        None => datagram.len() >= HEADER_LEN + TAG_LEN,
    };
    (fits && kind.allows_second_byte(second)).then_some(kind)
}

/// The index by which the receiver of a response, a cookie reply or a data packet finds its state.
pub fn receiver_index(datagram: &[u8]) -> Option<u32> {
    match classify(datagram)? {
        MessageKind::Response(_) => Some(read_u32(datagram, response::RECEIVER.start)),
        MessageKind::CookieReply(_) => Some(read_u32(datagram, cookie_reply::RECEIVER.start)),
        MessageKind::Data(_) => Some(read_u32(datagram, 4)),
        _ => None,
    }
}

/// The index the sender of an initiation, of either part of one, or of a response has chosen for itself.
pub fn sender_index(datagram: &[u8]) -> Option<u32> {
    match classify(datagram)? {
        MessageKind::CookieReply(_) | MessageKind::Data(_) => None,
        _ => Some(read_u32(datagram, initiation::SENDER.start)),
    }
}

/// A little-endian number in a message whose length has been checked.
pub(crate) fn read_u32(message: &[u8], offset: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&message[offset..offset + 4]);
    u32::from_le_bytes(bytes)
}

/// A field of 32 bytes in a message whose length has been checked.
pub(crate) fn read_key(message: &[u8], offset: usize) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(&message[offset..offset + 32]);
    bytes
}

/// A handshake message seen as what its MACs cover and the MACs themselves.
pub(crate) struct MacView<'a> {
    pub(crate) kind: MessageKind,
    /// What the first MAC covers.
    pub(crate) body: &'a [u8],
    pub(crate) mac1: &'a [u8],
    /// `None` for part 2 of a split initiation, which has no second MAC.
    pub(crate) mac2: Option<&'a [u8]>,
}

impl<'a> MacView<'a> {
    /// `None` if `message` is not a handshake message.
    pub(crate) fn parse(message: &'a [u8]) -> Option<Self> {
        let kind = classify(message)?;
        let macs = kind.macs();
        if macs == 0 {
            return None;
        }
        let (body, tail) = message.split_at(message.len() - macs * MAC_LEN);
        let (mac1, mac2) = tail.split_at(MAC_LEN);
        Some(Self { kind, body, mac1, mac2: (macs == 2).then_some(mac2) })
    }

    /// Whether the sender has that key of a first MAC.
    pub(crate) fn verify_mac1(&self, key: &[u8; 32]) -> bool {
        crypto::mac_eq(self.mac1, &crypto::mac(key, &[self.body]))
    }
}

/// The first MAC of a handshake message, to which a cookie reply to the message is bound; `None` of anything else.
pub fn first_mac(message: &[u8]) -> Option<[u8; 16]> {
    MacView::parse(message)?.mac1.try_into().ok()
}

/// The keys that whoever knows a node's public key can derive: what the first MAC of a message to the node is
/// made with, and what encrypts a cookie from it. One of each a protocol, so that nothing made for one is
/// valid in the other.
#[derive(Clone)]
pub(crate) struct MacKeys {
    mac1: [[u8; 32]; 2],
    cookie: [[u8; 32]; 2],
}

impl MacKeys {
    pub(crate) fn new(public: &[u8; 32]) -> Self {
        Self {
            mac1: [crypto::hash(&[b"mac1----", public]), crypto::hash(&[b"ShadowMesh v1 mac1", public])],
            cookie: [crypto::hash(&[b"cookie--", public]), crypto::hash(&[b"ShadowMesh v1 cookie", public])],
        }
    }

    pub(crate) fn mac1(&self, protocol: Protocol) -> &[u8; 32] {
        &self.mac1[protocol as usize]
    }

    pub(crate) fn cookie(&self, protocol: Protocol) -> &[u8; 32] {
        &self.cookie[protocol as usize]
    }
}

/// Fills in the MACs at the end of a message that is otherwise complete, and returns the first. Without a
/// cookie the second one is left zero.
pub(crate) fn write_macs(
    message: &mut [u8],
    macs: usize,
    mac1_key: &[u8; 32],
    cookie: Option<&[u8; 16]>,
) -> [u8; 16] {
    let (body, tail) = message.split_at_mut(message.len() - macs * MAC_LEN);
    let mac1 = crypto::mac(mac1_key, &[body]);
    tail[..MAC_LEN].copy_from_slice(&mac1);
    if let (Some(cookie), 2) = (cookie, macs) {
        tail[MAC_LEN..].copy_from_slice(&crypto::mac(cookie, &[body, &mac1]));
    }
    mac1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DataHeader;

    #[test]
    fn wireguard_lengths_are_those_of_the_whitepaper() {
        // Whitepaper §5.4: the sizes of the four messages.
        assert_eq!(initiation::WIREGUARD_LEN, 148);
        assert_eq!(response::WIREGUARD_LEN, 92);
        assert_eq!(cookie_reply::LEN, 64);
    }

    #[test]
    fn every_message_fits_the_paths_it_is_meant_for() {
        const IPV6_AND_UDP: usize = 40 + 8;
        assert_eq!(initiation::WHOLE_LEN, 1_348);
        assert_eq!(response::SHADOWMESH_LEN, 1_196);
        for len in [initiation::PART1_LEN, initiation::PART2_LEN, response::SHADOWMESH_LEN] {
            assert!(len <= 1_280 - IPV6_AND_UDP, "{len}");
        }
    }

    /// A datagram of this kind with nothing but a header.
    fn blank(kind: MessageKind) -> Vec<u8> {
        let mut datagram = vec![0; kind.exact_len().unwrap_or(32)];
        datagram[0] = kind.type_byte();
        datagram[1] = u8::from(matches!(
            kind,
            MessageKind::Initiation(Protocol::ShadowMesh) | MessageKind::InitiationPart1
        ));
        datagram[4..8].copy_from_slice(&[4, 3, 2, 1]);
        if datagram.len() >= 12 {
            datagram[8..12].copy_from_slice(&[8, 7, 6, 5]);
        }
        datagram
    }

    #[test]
    fn a_datagram_is_recognised_by_type_reserved_bytes_and_length() {
        for type_byte in 0..=u8::MAX {
            let Some(kind) = MessageKind::from_type_byte(type_byte) else {
                assert_eq!(classify(&[&[type_byte, 0, 0, 0][..], &[0; 1_400]].concat()), None);
                continue;
            };
            let datagram = blank(kind);
            assert_eq!(classify(&datagram), Some(kind));
            assert_eq!(DataHeader::parse(&datagram).is_some(), matches!(kind, MessageKind::Data(_)));
            for len in 0..datagram.len() {
                assert_eq!(classify(&datagram[..len]), None, "{kind:?} of {len} bytes");
            }
            let longer = [&datagram[..], &[0]].concat();
            assert_eq!(classify(&longer), matches!(kind, MessageKind::Data(_)).then_some(kind));
            for reserved in [2, 3] {
                let mut wrong = datagram.clone();
                wrong[reserved] = 1;
                assert_eq!(classify(&wrong), None, "{kind:?} with reserved byte {reserved}");
                assert_eq!(DataHeader::parse(&wrong), None, "{kind:?} with reserved byte {reserved}");
            }
            let mut wrong = datagram.clone();
            wrong[1] = 16;
            assert_eq!(classify(&wrong), (kind == MessageKind::Data(Protocol::ShadowMesh)).then_some(kind));
        }
    }

    #[test]
    fn indices_are_found_where_each_kind_has_them() {
        use MessageKind::{CookieReply, Data, Initiation, InitiationPart1, InitiationPart2, Response};
        let (first, second) = (Some(0x0102_0304), Some(0x0506_0708));
        for protocol in [Protocol::WireGuard, Protocol::ShadowMesh] {
            let indices = |kind| (sender_index(&blank(kind)), receiver_index(&blank(kind)));
            assert_eq!(indices(Initiation(protocol)), (first, None));
            assert_eq!(indices(InitiationPart1), (first, None));
            assert_eq!(indices(InitiationPart2), (first, None));
            assert_eq!(indices(Response(protocol)), (first, second));
            assert_eq!(indices(CookieReply(protocol)), (None, first));
            assert_eq!(indices(Data(protocol)), (None, first));
        }
    }
}
