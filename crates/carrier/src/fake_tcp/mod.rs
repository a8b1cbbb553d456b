//! Datagrams in crafted TCP segments: flows that look like TCP to whoever watches, and are none.
//!
//! ```text
//!  dialling end                                        listening end
//!    SYN, seq x, MSS, SACK, timestamps, scale ───────►   keeps nothing: y = H(secret, addresses, minute)
//!    ◄─────────────────────── SYN-ACK, seq y, ack x+1
//!    ACK, ack y+1  ──────────────────────────────────►   still nothing
//!    data, seq x+1, guard under the listener's key ──►   valid: a flow, and the datagram is delivered
//!    ◄───────────────────────────── data, seq y+1
//! ```
//!
//! One datagram is the payload of one segment, and a train is one super-segment, so the kernel's TSO and GRO carry it in one
//! piece. Sequence numbers advance by payload, acknowledgments tell the highest number seen, timestamps are echoed; nothing is
//! ever sent again, and windows limit nobody: reliability and pace are what runs *inside* the session.
//!
//! What a segment says is not authenticated and therefore decides little:
//!
//! - RST and FIN do nothing; they are counted.
//! - A SYN is answered from its own bytes and a secret. It costs no memory, and the answer is no larger than it.
//! - Only a payload that is valid under the [guard](crate::guard) makes a flow, or moves the numbers of one. Flows are bounded; when
//!   half of the room is taken, new ones must also have completed the handshake, and so live where they say.
//! - A SYN shows by its sequence number that its sender knows the listener's key, and is answered before those of strangers, whose
//!   number is limited. It is answered only where it is for an address of this machine.
//! - When nothing that was sent by the clock's guard is answered, the clocks may be apart: the next handshake's flow has a
//!   guard of its own (see [guard](crate::guard)), the one after that the clock's again, until one is answered.
//! - A listener that was restarted takes up the numbers of the first valid segment of an old flow: the other end and every
//!   NAT on the way notice nothing. An end that dialled and hears nothing for [`SILENCE`] shakes hands again.
//!
//! # Lanes
//!
//! All lanes of a node share the flows: their state is a few atomics. The low four bits of the timestamp are the lane, so a
//! receiver can steer segments to the worker of their lane, and its GRO does not join trains of different ones.
//!
//! # Calling contract
//!
//! [`FakeTcp::dial`] what is to be reached; [`Lane::receive`] what arrives, and send what it replies; ask [`Lane::send`] for the
//! headers of each train; send what [`FakeTcp::handle_timeout`] and [`Lane::poll_ack`] hand out. `P` is the driver's note of how
//! packets reach the other end, by interface and hardware address for instance.
//!
//! ```
//! use std::time::{Duration, Instant};
//! use carrier::fake_tcp::{Config, FakeTcp, Segment, Verdict, HEADER_MAX};
//! use carrier::guard::{GuardKey, MASK_LEN};
//! use packet::Ecn;
//!
//! # let (now, unix_time) = (Instant::now(), Duration::from_secs(1_700_000_000));
//! let key = GuardKey::derive(&[7; 32], None);
//! let config = |port| Config::new(key.clone(), port, [port as u8; 32]);
//! let client: FakeTcp<()> = FakeTcp::new(config(0), now, unix_time);
//! let server: FakeTcp<()> = FakeTcp::new(config(443), now, unix_time);
//! let (mut client_lane, mut server_lane) = (client.lane(0), server.lane(0));
//! let to = "192.0.2.2:443".parse()?;
//! client.dial(to, "192.0.2.1:40000".parse()?, key, 1460, (), now);
//!
//! // The handshake: three segments without payload.
//! # fn carry(header: &carrier::fake_tcp::Header) -> Segment {
//! #     let mut bytes = [0; HEADER_MAX];
//! #     let len = header.write(0, &mut bytes);
//! #     Segment::parse(&bytes[..len], len).expect("well-formed")
//! # }
//! let mut out = Vec::new();
//! client.handle_timeout(now, unix_time, &mut out);
//! let Verdict::Reply(syn_ack) = server_lane.receive(now, &carry(&out[0].header), &mut [], 0) else { panic!() };
//! let Verdict::Opened(_ack) = client_lane.receive(now, &carry(&syn_ack.header), &mut [], 0) else { panic!() };
//!
//! // A train of two datagrams: their first bytes are replaced by masked ones.
//! let mut train = [&[20, 0, 0, 0][..], &[9; 96]].concat().repeat(2);
//! let mut heads = [[0; MASK_LEN]; 64];
//! let sending = client_lane.send(now, to, &train, 100, Ecn::NotEct, &mut heads)?;
//! # let mut segment = { let mut bytes = [0; HEADER_MAX]; let len = sending.header.write(200, &mut bytes); Segment::parse(&bytes[..len], len + 200)? };
//! # for (datagram, head) in train.chunks_mut(100).zip(&heads) { datagram[..MASK_LEN].copy_from_slice(head); }
//! assert_ne!(heads[0][..4], [20, 0, 0, 0]);
//! assert_eq!(server_lane.receive(now, &segment, &mut train, 100), Verdict::Deliver { fresh: true });
//! assert_eq!(train[..4], [20, 0, 0, 0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod counters;
mod flags;
mod flow;
mod lane;
mod segment;
mod shared;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::Duration;

pub use counters::{Counters, Counts};
pub use flags::{FlagCycle, Flags, InvalidFlags};
pub use lane::{Lane, SendError, Sending, Verdict};
pub use segment::{
    DATA_HEADER, HEADER_MAX, Header, InvalidSegment, Segment, SynOptions, TCP_CHECKSUM, complete_checksum,
};
pub use shared::{FakeTcp, FlowStatus};

use crate::guard::{Direction, GuardKey};

/// An end that dialled, sends, and hears nothing for this long shakes hands again.
pub const SILENCE: Duration = Duration::from_secs(2);
/// An end that dialled and has nothing to send probes this often, as TCP keepalives do, so that no NAT forgets the flow.
pub const KEEPALIVE: Duration = Duration::from_secs(25);
/// A flow that called us is forgotten after this long without a valid segment.
pub const IDLE: Duration = Duration::from_mins(15);
/// Bytes received that are acknowledged at once.
pub(crate) const ACK_BYTES: u32 = 128 * 1024;
/// What is received is acknowledged after this time, if nothing is sent before (RFC 9293 §3.8.6.3 allows 500 ms).
pub(crate) const ACK_DELAY: Duration = Duration::from_millis(40);
/// Between SYNs (RFC 6298 §2); twice as long each time, up to four times.
pub(crate) const SYN_RETRY: Duration = Duration::from_secs(1);
/// Numbers further apart than this are not of one window: a flow has begun anew.
pub(crate) const SEQUENCE_WINDOW: u32 = (WINDOW_FIELD as u32) << WINDOW_SCALE;
/// The window that Linux opens with; with the scale it covers 65 MB.
pub(crate) const WINDOW_FIELD: u16 = 64_240;
pub(crate) const WINDOW_SCALE: u8 = 10;
/// Datagrams that wait for a handshake, per flow, and the bytes of all of them.
pub(crate) const HELD_MAX: usize = 8;
pub(crate) const HELD_BYTES_MAX: usize = 16 * 1024;
/// The low bits of a timestamp that name the lane.
pub const LANE_BITS: u32 = 4;

/// How an engine is made.
#[derive(Debug)]
pub struct Config {
    /// The guard of those who call us.
    pub listen_key: GuardKey,
    /// The port on which calls are answered; 0 for none.
    pub listen_port: u16,
    /// What the initial sequence numbers are made from: random, and new with each start.
    pub secret: [u8; 32],
    /// Flags of the segments on flows that we dialled, in turn.
    pub local_flags: FlagCycle,
    /// Flags of the segments on flows that called us, in turn.
    pub remote_flags: FlagCycle,
    /// Flows in all.
    pub flows_max: usize,
}

impl Config {
    /// Room for 4,096 flows whose segments have PSH and ACK.
    pub fn new(listen_key: GuardKey, listen_port: u16, secret: [u8; 32]) -> Self {
        let flags = FlagCycle::default();
        Self {
            listen_key,
            listen_port,
            secret,
            local_flags: flags.clone(),
            remote_flags: flags,
            flows_max: 4_096,
        }
    }
}

/// Who began a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We did.
    Dialled,
    /// The other end did.
    Accepted,
}

impl Role {
    /// Which way the segments go that we send.
    pub fn outgoing(self) -> Direction {
        match self {
            Self::Dialled => Direction::ToListener,
            Self::Accepted => Direction::FromListener,
        }
    }

    /// Which way the segments go that we receive.
    pub fn incoming(self) -> Direction {
        match self {
            Self::Dialled => Direction::FromListener,
            Self::Accepted => Direction::ToListener,
        }
    }
}

/// A segment without payload that is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control<P> {
    /// Its headers.
    pub header: Header,
    /// The way there; `None` when the driver has not told of one.
    pub path: Option<P>,
}

/// The ends of a segment, as numbers are made from: ours, theirs.
pub(crate) type Ends = (SocketAddr, SocketAddr);
