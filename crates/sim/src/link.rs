//! A socket of any carrier without a kernel: a send buffer that drains at the uplink's rate, and a receive buffer.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use carrier::overhead;
use packet::{Carrier, Ecn, Link, RecvSlot, Transmit, Via};

use crate::network::{bytes_in, time_for};

/// Bytes a socket holds for a reader that is slow.
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;
/// The kernel puts at most so many datagrams into one GRO train.
const GRO_SEGMENTS: usize = 64;

/// A machine's own connection to the network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Uplink {
    /// Bits a second, outer headers included; `None` for no limit: then the send buffer never fills.
    pub rate_bps: Option<u64>,
    /// Bytes of send buffer a socket.
    pub send_buffer_bytes: usize,
    /// MTU of the interface: larger packets are refused with `EMSGSIZE`.
    pub mtu: usize,
    /// What the kernel believes that paths pass, if somebody has told it less than is true; it only tells, as sockets do that probe.
    pub believed_mtu: Option<u16>,
}

impl Default for Uplink {
    fn default() -> Self {
        Self { rate_bps: None, send_buffer_bytes: 256 * 1024, mtu: 1_500, believed_mtu: None }
    }
}

/// A datagram that has left a socket.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) leaves_at: Duration,
    pub(crate) carrier: Carrier,
    /// The address that was asked for, if it is one of the machine's.
    pub(crate) source: Option<IpAddr>,
    pub(crate) to: SocketAddr,
    pub(crate) ecn: Ecn,
    pub(crate) bytes: Vec<u8>,
}

/// Datagrams that the kernel would hand over in one go.
#[derive(Clone, Debug)]
pub(crate) struct Train {
    pub(crate) carrier: Carrier,
    pub(crate) from: SocketAddr,
    pub(crate) to: IpAddr,
    pub(crate) ecn: Ecn,
    pub(crate) segment_size: usize,
    pub(crate) bytes: Vec<u8>,
}

impl Train {
    pub(crate) fn new(from: SocketAddr, to: IpAddr, ecn: Ecn, bytes: Vec<u8>) -> Self {
        Self { carrier: Carrier::Udp, from, to, ecn, segment_size: bytes.len(), bytes }
    }

    /// As it came by another carrier.
    pub(crate) fn by(self, carrier: Carrier) -> Self {
        Self { carrier, ..self }
    }

    /// Appends a datagram as UDP GRO would: same sender and receiver, same ECN bits, as long as the first or, then last, shorter.
    pub(crate) fn try_append(&mut self, from: SocketAddr, to: IpAddr, ecn: Ecn, bytes: &[u8]) -> bool {
        let size = self.segment_size;
        let fits = from == self.from
            && to == self.to
            && ecn == self.ecn
            && size > 0
            && !bytes.is_empty()
            && bytes.len() <= size
            && self.bytes.len().is_multiple_of(size)
            && self.bytes.len() / size < GRO_SEGMENTS
            && self.bytes.len() + bytes.len() <= packet::MAX_DATAGRAM;
        if fits {
            self.bytes.extend_from_slice(bytes);
        }
        fits
    }
}

/// One simulated UDP socket.
#[derive(Debug)]
pub(crate) struct SimLink {
    /// World time, set before each step.
    pub(crate) now: Duration,
    pub(crate) uplink: Uplink,
    /// This machine's addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// So many sends to come fail with `ENOBUFS`.
    pub(crate) no_buffers: u32,
    /// Whether a send was refused since the socket was last reported writable.
    pub(crate) blocked: bool,
    busy_until: Duration,
    inbox: VecDeque<Train>,
    inbox_bytes: usize,
    outbox: Vec<Outgoing>,
}

impl SimLink {
    pub(crate) fn new(uplink: Uplink) -> Self {
        Self {
            now: Duration::ZERO,
            uplink,
            addresses: Vec::new(),
            no_buffers: 0,
            blocked: false,
            busy_until: Duration::ZERO,
            inbox: VecDeque::new(),
            inbox_bytes: 0,
            outbox: Vec::new(),
        }
    }

    /// The network delivers. Returns whether the receive buffer had room.
    pub(crate) fn push(&mut self, train: Train) -> bool {
        if self.inbox_bytes + train.bytes.len() > RECEIVE_BUFFER {
            return false;
        }
        self.inbox_bytes += train.bytes.len();
        self.inbox.push_back(train);
        true
    }

    /// Trains that wait to be received.
    pub(crate) fn waiting(&self) -> usize {
        self.inbox.len()
    }

    /// What was sent since the last call.
    pub(crate) fn take_sent(&mut self) -> Vec<Outgoing> {
        std::mem::take(&mut self.outbox)
    }

    /// When a full send buffer will be half empty again: the kernel reports the socket writable then.
    pub(crate) fn writable_at(&self) -> Duration {
        let rate = self.uplink.rate_bps.unwrap_or(u64::MAX);
        self.busy_until.saturating_sub(time_for(self.uplink.send_buffer_bytes / 2, rate))
    }

    fn check_destination(&self, to: IpAddr) -> io::Result<()> {
        let reachable = self.addresses.iter().any(|address| address.is_ipv4() == to.is_ipv4());
        if reachable { Ok(()) } else { Err(io::ErrorKind::NetworkUnreachable.into()) }
    }
}

impl Link for SimLink {
    fn send(&mut self, transmit: &Transmit<'_>) -> io::Result<usize> {
        self.send_via(Via::default(), transmit)
    }

    fn send_via(&mut self, via: Via, transmit: &Transmit<'_>) -> io::Result<usize> {
        let source = via.source.filter(|source| self.addresses.contains(source));
        self.check_destination(transmit.to.ip())?;
        let headers = usize::from(overhead(via.carrier, transmit.to.ip()));
        let size = transmit.segment_size;
        if size == 0 || size + headers > self.uplink.mtu || transmit.contents.len() > packet::MAX_DATAGRAM {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if self.no_buffers > 0 {
            self.no_buffers -= 1;
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let mut taken = 0;
        for bytes in transmit.contents.chunks(size) {
            let mut leaves_at = self.now;
            if let Some(rate) = self.uplink.rate_bps {
                let waiting = bytes_in(self.busy_until.saturating_sub(self.now), rate);
                if waiting + bytes.len() + headers > self.uplink.send_buffer_bytes {
                    self.blocked = true;
                    break;
                }
                leaves_at = self.busy_until.max(self.now) + time_for(bytes.len() + headers, rate);
                self.busy_until = leaves_at;
            }
            taken += bytes.len();
            self.outbox.push(Outgoing {
                leaves_at,
                carrier: via.carrier,
                source,
                to: transmit.to,
                ecn: transmit.ecn,
                bytes: bytes.to_vec(),
            });
        }
        if taken == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken) }
    }

    fn recv(&mut self, slots: &mut [RecvSlot]) -> io::Result<usize> {
        if self.inbox.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut filled = 0;
        for slot in slots {
            let Some(train) = self.inbox.pop_front() else { break };
            self.inbox_bytes -= train.bytes.len();
            // A train or datagram that does not fit is cut off, as the kernel does.
            slot.len = train.bytes.len().min(slot.buf.len());
            slot.buf[..slot.len].copy_from_slice(&train.bytes[..slot.len]);
            slot.segment_size = train.segment_size.min(slot.len);
            slot.carrier = train.carrier;
            slot.from = train.from;
            slot.to = Some(train.to);
            slot.ecn = train.ecn;
            filled += 1;
        }
        Ok(filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const TO: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2)), 1);

    fn send(link: &mut SimLink, len: usize, segment_size: usize) -> io::Result<usize> {
        link.send(&Transmit { to: TO, ecn: Ecn::NotEct, segment_size, contents: &vec![0; len] })
    }

    #[test]
    fn a_full_socket_takes_part_of_a_train_then_nothing_then_drains() {
        // 1,000 bytes on the wire at 8 Mbit/s: one millisecond each, four of them fit.
        let uplink = Uplink { rate_bps: Some(8_000_000), send_buffer_bytes: 4_000, ..Uplink::default() };
        let mut link = SimLink { addresses: vec![HERE], ..SimLink::new(uplink) };
        assert_eq!(send(&mut link, 6 * 972, 972).unwrap(), 4 * 972);
        assert!(link.blocked);
        assert_eq!(send(&mut link, 2 * 972, 972).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(link.writable_at(), Duration::from_millis(2));
        link.now = link.writable_at();
        assert_eq!(send(&mut link, 2 * 972, 972).unwrap(), 2 * 972);
        let leaves: Vec<u128> = link.take_sent().iter().map(|sent| sent.leaves_at.as_millis()).collect();
        assert_eq!(leaves, [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn errors_are_the_ones_a_socket_gives() {
        let mut link = SimLink { addresses: vec![HERE], ..SimLink::new(Uplink::default()) };
        assert_eq!(send(&mut link, 1_473, 1_473).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        link.no_buffers = 1;
        assert_eq!(send(&mut link, 100, 100).unwrap_err().kind(), io::ErrorKind::OutOfMemory);
        assert_eq!(send(&mut link, 100, 100).unwrap(), 100);
        link.addresses.clear();
        assert_eq!(send(&mut link, 100, 100).unwrap_err().kind(), io::ErrorKind::NetworkUnreachable);
    }

    #[test]
    fn gro_joins_equal_datagrams_and_one_shorter_tail() {
        let mut train = Train::new(TO, HERE, Ecn::NotEct, vec![0; 100]);
        assert!(train.try_append(TO, HERE, Ecn::NotEct, &[0; 100]));
        assert!(!train.try_append(TO, HERE, Ecn::Ce, &[0; 100]));
        assert!(!train.try_append(TO, HERE, Ecn::NotEct, &[0; 101]));
        assert!(train.try_append(TO, HERE, Ecn::NotEct, &[0; 99]));
        assert!(!train.try_append(TO, HERE, Ecn::NotEct, &[0; 99]), "nothing follows a short tail");
    }
}
