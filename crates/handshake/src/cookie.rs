//! Cookies: how a responder under load makes initiators prove that they receive at the address they send
//! from, without keeping anything about them (whitepaper §5.4.7).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use rand_core::CryptoRng;
use zeroize::Zeroizing;

use crate::crypto::{self, MAC_LEN, Secret, mac, mac_eq};
use crate::message::{MacKeys, MacView, MessageKind, classify, cookie_reply, read_u32};
use crate::{COOKIE_REPLY_LEN, HandshakeError, Identity, PeerKeys, Protocol, TAG_LEN, limits};

/// Proof that whoever holds it has received at the address it was made for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Cookie([u8; MAC_LEN]);

impl Cookie {
    pub(crate) fn as_bytes(&self) -> &[u8; MAC_LEN] {
        &self.0
    }
}

impl fmt::Debug for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cookie(redacted)")
    }
}

/// A secret that cookies are made with.
#[derive(Clone)]
struct CookieSecret {
    key: Secret,
    /// When the first cookie was made with it.
    first_use: Option<Instant>,
}

impl CookieSecret {
    fn new(rng: &mut impl CryptoRng) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        rng.fill_bytes(key.as_mut_slice());
        Self { key, first_use: None }
    }

    /// Address and port in one form for both families, so that `::ffff:192.0.2.1` and `192.0.2.1` are the
    /// same place.
    fn cookie_for(&self, from: SocketAddr) -> Cookie {
        let address = match from.ip() {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        Cookie(mac(self.key.as_slice(), &[&address.octets(), &from.port().to_be_bytes()]))
    }
}

/// The responder's side of cookies: checks both MACs of handshake messages and makes cookie replies.
///
/// A secret makes cookies for [`limits::COOKIE_REFRESH_TIME`] and is accepted for as long again, so every
/// cookie is good for at least that long.
pub struct CookieChecker {
    keys: MacKeys,
    current: CookieSecret,
    previous: Option<CookieSecret>,
}

impl CookieChecker {
    /// A checker for messages to `identity`.
    pub fn new(identity: &Identity, rng: &mut impl CryptoRng) -> Self {
        Self { keys: identity.mac_keys.clone(), current: CookieSecret::new(rng), previous: None }
    }

    /// Whether `message` is a handshake message from someone who knows our public key. To anyone else nothing
    /// is answered. Not for native responses, whose first MAC takes the keys of one peer:
    /// [`verify_response_mac1`](Self::verify_response_mac1) checks those.
    pub fn verify_mac1(&self, message: &[u8]) -> bool {
        MacView::parse(message).is_some_and(|view| {
            view.kind != MessageKind::Response(Protocol::ShadowMesh)
                && view.verify_mac1(self.keys.mac1(view.kind.protocol()))
        })
    }

    /// Whether `message` is a response in the protocol of `peer`, from someone who can have made it: in the native protocol the
    /// peer alone, in WireGuard anyone who knows our public key.
    pub fn verify_response_mac1(&self, peer: &PeerKeys, message: &[u8]) -> bool {
        MacView::parse(message).is_some_and(|view| {
            view.kind == MessageKind::Response(peer.protocol())
                && view.verify_mac1(peer.response_mac1(&self.keys))
        })
    }

    /// Whether `message` proves, by a cookie of ours, that its sender receives at `from`, address and port.
    ///
    /// The second part of a split initiation carries no such proof and needs none: it is checked by one hash
    /// against the first part, which does. Here it proves nothing.
    pub fn verify_mac2(&mut self, now: Instant, message: &[u8], from: SocketAddr) -> bool {
        let Some(view) = MacView::parse(message) else { return false };
        // Most messages bear no cookie, and need not be hashed twice more to find that out.
        let Some(mac2) = view.mac2.filter(|mac2| mac2.iter().any(|&byte| byte != 0)) else { return false };
        let valid_for = 2 * limits::COOKIE_REFRESH_TIME;
        [Some(&self.current), self.previous.as_ref()].into_iter().flatten().any(|secret| {
            let fresh =
                secret.first_use.is_some_and(|first| now.saturating_duration_since(first) < valid_for);
            fresh && mac_eq(mac2, &mac(secret.cookie_for(from).as_bytes(), &[view.body, view.mac1]))
        })
    }

    /// The reply that gives the sender of `message`, an initiation, a cookie for `from`.
    ///
    /// `message` must have passed [`verify_mac1`](Self::verify_mac1). It is longer than the reply, then, and
    /// knows what the reply is bound to; the reply to anything else is one that nobody accepts.
    pub fn reply(
        &mut self,
        now: Instant,
        message: &[u8],
        from: SocketAddr,
        rng: &mut impl CryptoRng,
    ) -> [u8; COOKIE_REPLY_LEN] {
        let protocol = classify(message).map_or(Protocol::ShadowMesh, MessageKind::protocol);
        let key = Zeroizing::new(*self.keys.cookie(protocol));
        self.reply_with(now, message, from, &key, rng)
    }

    /// The same for a response of `peer`'s that has passed [`verify_response_mac1`](Self::verify_response_mac1).
    pub fn reply_to_response(
        &mut self,
        now: Instant,
        peer: &PeerKeys,
        message: &[u8],
        from: SocketAddr,
        rng: &mut impl CryptoRng,
    ) -> [u8; COOKIE_REPLY_LEN] {
        let key = Zeroizing::new(*peer.response_cookie(&self.keys));
        self.reply_with(now, message, from, &key, rng)
    }

    fn reply_with(
        &mut self,
        now: Instant,
        message: &[u8],
        from: SocketAddr,
        key: &[u8; 32],
        rng: &mut impl CryptoRng,
    ) -> [u8; COOKIE_REPLY_LEN] {
        self.rotate(now, rng);
        let (protocol, sender, mac1) = match MacView::parse(message) {
            Some(view) => (view.kind.protocol(), read_u32(message, 4), view.mac1),
            None => (Protocol::ShadowMesh, 0, &[0; MAC_LEN][..]),
        };
        let mut reply = [0; COOKIE_REPLY_LEN];
        reply[0] = MessageKind::CookieReply(protocol).type_byte();
        reply[cookie_reply::RECEIVER].copy_from_slice(&sender.to_le_bytes());
        let mut nonce = [0; 24];
        rng.fill_bytes(&mut nonce);
        reply[cookie_reply::NONCE].copy_from_slice(&nonce);
        let cookie = self.current.cookie_for(from);
        reply[cookie_reply::COOKIE.start..][..MAC_LEN].copy_from_slice(cookie.as_bytes());
        crypto::xseal(key, &nonce, mac1, &mut reply[cookie_reply::COOKIE]);
        reply
    }

    fn rotate(&mut self, now: Instant, rng: &mut impl CryptoRng) {
        let first = *self.current.first_use.get_or_insert(now);
        if now.saturating_duration_since(first) >= limits::COOKIE_REFRESH_TIME {
            let fresh = CookieSecret { first_use: Some(now), ..CookieSecret::new(rng) };
            self.previous = Some(std::mem::replace(&mut self.current, fresh));
        }
    }
}

impl fmt::Debug for CookieChecker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CookieChecker").finish_non_exhaustive()
    }
}

/// The initiator's side of cookies: keeps the latest one a peer has given us.
pub struct CookieJar {
    /// What opens a reply to an initiation of ours.
    keys: MacKeys,
    /// What opens a reply to a response of ours.
    response: Secret,
    cookie: Option<(Cookie, Instant)>,
}

impl CookieJar {
    /// An empty jar for cookies from `peer`.
    pub fn new(peer: &PeerKeys) -> Self {
        let response = Zeroizing::new(*peer.response_cookie(&peer.mac_keys));
        Self { keys: peer.mac_keys.clone(), response, cookie: None }
    }

    /// Takes the cookie out of a reply to an initiation of ours.
    ///
    /// `last_mac1` is the first MAC of the initiation we sent last
    /// ([`Initiation::last_mac1`](crate::Initiation::last_mac1)): only whoever saw that message, and knows
    /// the peer's public key, can have made the reply.
    ///
    /// # Errors
    ///
    /// [`HandshakeError::Malformed`] or [`HandshakeError::Unauthentic`]; the cookie already there stays.
    pub fn consume(
        &mut self,
        now: Instant,
        reply: &[u8],
        last_mac1: &[u8; 16],
    ) -> Result<(), HandshakeError> {
        let Some(MessageKind::CookieReply(protocol)) = classify(reply) else {
            return Err(HandshakeError::Malformed);
        };
        let key = Zeroizing::new(*self.keys.cookie(protocol));
        self.open(now, reply, last_mac1, &key)
    }

    /// Takes the cookie out of a reply to a response of ours, of which `mac1` is the [first MAC](crate::first_mac).
    ///
    /// # Errors
    ///
    /// As [`consume`](Self::consume).
    pub fn consume_for_response(
        &mut self,
        now: Instant,
        reply: &[u8],
        mac1: &[u8; 16],
    ) -> Result<(), HandshakeError> {
        if !matches!(classify(reply), Some(MessageKind::CookieReply(_))) {
            return Err(HandshakeError::Malformed);
        }
        let key = self.response.clone();
        self.open(now, reply, mac1, &key)
    }

    fn open(
        &mut self,
        now: Instant,
        reply: &[u8],
        mac1: &[u8; 16],
        key: &[u8; 32],
    ) -> Result<(), HandshakeError> {
        let mut nonce = [0; 24];
        nonce.copy_from_slice(&reply[cookie_reply::NONCE]);
        let mut sealed = [0; MAC_LEN + TAG_LEN];
        sealed.copy_from_slice(&reply[cookie_reply::COOKIE]);
        crypto::xopen(key, &nonce, mac1, &mut sealed)?;
        let mut cookie = Cookie([0; MAC_LEN]);
        cookie.0.copy_from_slice(&sealed[..MAC_LEN]);
        self.cookie = Some((cookie, now));
        Ok(())
    }

    /// The cookie to put into what is sent to the peer now, if it is younger than
    /// [`limits::COOKIE_REFRESH_TIME`].
    pub fn current(&self, now: Instant) -> Option<&Cookie> {
        let (cookie, since) = self.cookie.as_ref()?;
        (now.saturating_duration_since(*since) < limits::COOKIE_REFRESH_TIME).then_some(cookie)
    }
}

impl fmt::Debug for CookieJar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CookieJar").field("full", &self.cookie.is_some()).finish_non_exhaustive()
    }
}
