//! What passes between the workers, the node and the program.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use handshake::{MessageKind, PublicKey, Suite, Timestamp, classify};
use packet::{Buf, Endpoint};

use crate::config::PeerId;
pub use crate::inner::ProbeReply;

/// What a worker has to tell the node. Bounded: a worker holds few of them, and counts what it cannot hold.
#[derive(Debug)]
pub enum Event {
    /// A message that is not data.
    Handshake {
        /// Who sent it, unverified.
        from: Endpoint,
        /// Which of our addresses it was sent to, if that is known.
        local: Option<IpAddr>,
        /// The message.
        message: Buf,
    },
    /// There is traffic for a peer that has no usable session.
    NeedSession {
        /// The peer.
        peer: PeerId,
    },
    /// A session was used by the peer for the first time.
    SessionConfirmed {
        /// The peer.
        peer: PeerId,
        /// Our index of the session.
        local_index: u32,
        /// Where the packet came from.
        endpoint: Endpoint,
        /// Which of our addresses the peer has used, if that is known.
        local: Option<IpAddr>,
    },
    /// An authenticated, newest packet came from an address that is not the peer's endpoint, or to another one of ours.
    Roamed {
        /// The peer.
        peer: PeerId,
        /// Where it is now.
        endpoint: Endpoint,
        /// Which of our addresses it uses, if that is known.
        local: Option<IpAddr>,
    },
    /// The answer to a probe.
    ProbeReply {
        /// Who answered.
        peer: PeerId,
        /// When it arrived.
        at: Instant,
        /// The answer.
        reply: ProbeReply,
    },
    /// The link refused a datagram as too large for the path.
    PathTooSmall {
        /// The peer that it was for.
        peer: PeerId,
    },
}

/// A datagram that the node sends itself.
#[derive(Debug)]
pub struct Datagram {
    /// Where to.
    pub to: Endpoint,
    /// From which of our addresses; `None` for whichever the operating system chooses.
    pub source: Option<IpAddr>,
    /// The bytes.
    pub contents: Vec<u8>,
}

impl Datagram {
    /// Whether it is a handshake message. Nothing is known of the path that it goes by: let routers fragment it where they can.
    pub fn is_handshake(&self) -> bool {
        !matches!(classify(&self.contents), Some(MessageKind::Data(_)))
    }
}

/// What the node wants the program to do.
#[derive(Debug)]
pub enum Action {
    /// The peer is silent: look its endpoint's host name up again, if it has one, and call
    /// [`Node::set_endpoints`](crate::Node::set_endpoints).
    Resolve(PeerId),
    /// Tell by [`Node::set_path_mtu`](crate::Node::set_path_mtu) how large an IP packet the operating system sends there.
    AskPathMtu {
        /// Whose path it is.
        peer: PeerId,
        /// Where the peer is.
        endpoint: Endpoint,
    },
    /// The endpoint, of a carrier with connections or flows, is about to be sent to: open one if there is none. What is sent
    /// there before it is open may be lost.
    Dial {
        /// Whose endpoint it is.
        peer: PeerId,
        /// Where to.
        endpoint: Endpoint,
    },
    /// The endpoint, of a carrier with connections or flows, does not answer: what it has may be dead, or not pass packets of the size
    /// that it chose. Open another one if that may be so. It is said again while there is no answer.
    Redial {
        /// Where to.
        endpoint: Endpoint,
    },
    /// The endpoint is not one of the peer's any more.
    HangUp(Endpoint),
    /// A ping was answered, or was given up.
    Pong(Pong),
    /// The newest initiation of each peer that has come to a session in use: keep it for
    /// [`PeerConfig::confirmed`](crate::PeerConfig::confirmed) at the next start. Comes at most every half minute; at the end
    /// [`Node::confirmed`](crate::Node::confirmed) has the last of it.
    KeepConfirmed(Vec<(PublicKey, Timestamp)>),
    /// Something happened that a person may want to read.
    Notice(Notice),
}

/// How one [`Node::ping`](crate::Node::ping) ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pong {
    /// The number that `ping` returned.
    pub id: u64,
    /// Whom it went to.
    pub peer: PeerId,
    /// The round-trip time; `None` when no answer came within the timeout.
    pub rtt: Option<Duration>,
}

/// Something worth a log line. Never one a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// A first session with a peer stands (first since start, or since it was lost).
    Connected {
        /// The peer.
        peer: PeerId,
        /// Where it is.
        endpoint: Endpoint,
        /// How long the handshake took; `None` on the answering side.
        handshake: Option<Duration>,
        /// Whether it is safe against a quantum computer.
        post_quantum: bool,
    },
    /// A session was replaced by a fresh one.
    Rekeyed {
        /// The peer.
        peer: PeerId,
    },
    /// A peer moved.
    Roamed {
        /// The peer.
        peer: PeerId,
        /// Where it is now.
        endpoint: Endpoint,
    },
    /// A handshake was given up.
    HandshakeFailed {
        /// The peer.
        peer: PeerId,
    },
    /// A peer without a session sent an initiation that is not newer than one already confirmed: a recorded one, or the peer's clock
    /// was set back.
    StaleInitiation {
        /// The peer.
        peer: PeerId,
    },
    /// An initiation asked for another cipher than the only one that is used here ([`Config::suite_only`](crate::Config)).
    CipherRefused {
        /// The peer.
        peer: PeerId,
        /// What it asked for.
        suite: Suite,
    },
    /// The peer's last session ended without a new one.
    Disconnected {
        /// The peer.
        peer: PeerId,
    },
    /// The path to a peer carries less than was assumed.
    PathMtuLowered {
        /// The peer.
        peer: PeerId,
        /// The largest inner packet that it carries whole.
        mtu: u16,
    },
}
