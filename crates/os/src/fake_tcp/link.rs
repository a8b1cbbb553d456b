//! One worker's link.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use carrier::fake_tcp::{
    DATA_HEADER, HEADER_MAX, Header, InvalidSegment, Lane, Segment, SendError, Sending, TCP_CHECKSUM, Verdict,
};
use carrier::guard::MASK_LEN;
use packet::ip::{IPV4_HEADER, IPV6_HEADER};
use packet::{Ecn, GsoType, InvalidPacket, Link, MAX_PACKET, RecvSlot, Transmit, VnetHeader};

use super::packet_socket::{ETHERNET, PacketSocket, Received, SEGMENTS_MAX};
use super::{Common, Family, Path};
use crate::netlink::{Changes, Watch};

/// Calls that bring nothing to deliver, in a row, before others get a turn.
const FRUITLESS_MAX: usize = 4;
/// Calls that one family may have in a row while the other may have something, too.
const FAMILY_TURNS: u32 = 16;
/// Bytes before the payload of a frame that we send.
const FRAME_HEAD_MAX: usize = VnetHeader::LEN + ETHERNET + HEADER_MAX;
/// The way of a flow that has none is looked for this often.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// So often one round of acknowledgments leaves through the kernel, which otherwise would not hear that its neighbours are in use, and
/// forget them. The host's own address translation may send these astray, which costs nothing.
const CONFIRM_NEIGHBOUR: Duration = Duration::from_secs(1);
/// While segments arrive, the kernel's news is read this often: an address that is new is one to answer on.
const READ_NEWS: Duration = Duration::from_millis(100);

/// Carries datagrams in crafted TCP segments; used as a [`UdpLink`](crate::udp::UdpLink) is.
///
/// Addresses are those of the far ends of flows: what was [dialled](super::FakeTcpHandle::dial), and what has called us.
pub struct FakeTcpLink {
    common: Arc<Common>,
    number: u8,
    lane: Lane<Path>,
    v4: PacketSocket,
    v6: PacketSocket,
    heads: Box<[[u8; MASK_LEN]; SEGMENTS_MAX]>,
    /// The socket to receive from next: as long as one has something, the other is not asked every time.
    family: Family,
    in_a_row: u32,
    keeper: Option<Keeper>,
    /// When acknowledgments last left through the kernel.
    confirmed_at: Instant,
}

/// What one of the links does for all: timers, and following routes and neighbours.
#[derive(Debug)]
pub(super) struct Keeper {
    watch: Watch,
    looked_at: Instant,
    read_at: Instant,
    /// Read, and not acted upon yet.
    news: Changes,
}

impl Keeper {
    pub(super) fn new(watch: Watch, now: Instant) -> Self {
        Self { watch, looked_at: now, read_at: now, news: Changes::default() }
    }

    /// Reads the kernel's news. Returns whether addresses have changed since the last call.
    fn read(&mut self, now: Instant) -> bool {
        self.read_at = now;
        // A watch that fails has nothing to say.
        let changes = self.watch.drain().unwrap_or_default();
        self.news = self.news.and(changes);
        changes.addresses
    }
}

impl fmt::Debug for FakeTcpLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeTcpLink").field("lane", &self.lane).finish_non_exhaustive()
    }
}

impl FakeTcpLink {
    pub(super) fn new(common: Arc<Common>, number: u8, v4: PacketSocket, v6: PacketSocket) -> Self {
        let lane = common.engine.lane(number);
        let heads = Box::new([[0; MASK_LEN]; SEGMENTS_MAX]);
        Self {
            common,
            number,
            lane,
            v4,
            v6,
            heads,
            family: Family::V4,
            in_a_row: 0,
            keeper: None,
            confirmed_at: Instant::now(),
        }
    }

    pub(super) fn keep(&mut self, keeper: Keeper) {
        self.keeper = Some(keeper);
    }

    /// Another handle on the same link, to send with, for instance for the slow path of the node.
    ///
    /// # Errors
    /// `EMFILE`: out of descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self::new(Arc::clone(&self.common), self.number, self.v4.try_clone()?, self.v6.try_clone()?))
    }

    /// What to poll: readable when segments wait, writable when the kernel takes frames again.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.v4.as_fd(), self.v6.as_fd()]
    }

    /// Whether trains leave as super-segments. Switched off for good when the kernel refuses them.
    pub fn gso(&self) -> bool {
        self.common.gso.load(Relaxed)
    }

    /// Packets that the kernel has dropped because nobody took them in time. Wraps around.
    ///
    /// # Errors
    /// On kernels before Linux 4.12, which do not tell.
    pub fn receive_drops(&self) -> io::Result<u32> {
        Ok(self.v4.receive_drops()?.wrapping_add(self.v6.receive_drops()?))
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called next. A call of [`dial`](super::FakeTcpHandle::dial) makes it
    /// earlier: wake the first link's thread after it.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let keeper = self.keeper.as_ref().map(|_| (self.common.engine.poll_timeout(), "timers of fake TCP"));
        keeper.into_iter().chain(self.lane.poll_timeout()).min()
    }

    /// Does what is due: acknowledgments; on the first link also SYNs, keepalives, and following the kernel's routes.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.acknowledge(now);
        let Some(keeper) = &mut self.keeper else { return };
        if keeper.read(now) {
            self.common.read_own_addresses();
        }
        let changed = std::mem::take(&mut keeper.news).any();
        if changed || now.saturating_duration_since(keeper.looked_at) >= LOOK_AGAIN {
            keeper.looked_at = now;
            for flow in self.common.engine.flows() {
                if changed || flow.path.is_none() {
                    self.common.find_way(flow.remote, flow.local, flow.role, now);
                }
            }
        }
        self.common.run_timers(now);
    }

    fn take_turns(&mut self) {
        self.in_a_row = 0;
        self.family = match self.family {
            Family::V4 => Family::V6,
            Family::V6 => Family::V4,
        };
    }

    fn acknowledge(&mut self, now: Instant) {
        let through_kernel = now >= self.confirmed_at + CONFIRM_NEIGHBOUR;
        while let Some(ack) = self.lane.poll_ack(now) {
            if through_kernel {
                self.common.send_through_kernel(&ack);
                self.confirmed_at = now;
            } else {
                self.common.send_control(&ack);
            }
        }
    }

    /// Sends the next part of a train: as much as one super-segment carries. Returns the bytes taken.
    fn send_part(&mut self, now: Instant, transmit: &Transmit<'_>) -> io::Result<usize> {
        let headers = DATA_HEADER + if transmit.to.is_ipv4() { IPV4_HEADER } else { IPV6_HEADER };
        let segment_size = transmit.segment_size;
        if segment_size > MAX_PACKET - headers {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let segments = SEGMENTS_MAX.min((MAX_PACKET - headers) / segment_size).max(1);
        let part = &transmit.contents[..transmit.contents.len().min(segments * segment_size)];
        let sent = self.lane.send(now, transmit.to, part, segment_size, transmit.ecn, &mut *self.heads);
        let sending = match sent {
            Ok(sending) => sending,
            Err(SendError::Opening(held)) => {
                self.common.run_timers(now);
                return if held > 0 { Ok(held) } else { Err(io::ErrorKind::NotConnected.into()) };
            }
            Err(SendError::NoFlow) => return Err(io::ErrorKind::NotConnected.into()),
            Err(SendError::Shape) => return Err(io::ErrorKind::Unsupported.into()),
        };
        let too_large =
            sending.path.is_some_and(|path| segment_size.min(part.len()) + headers > usize::from(path.mtu));
        let result = if too_large {
            Err(io::ErrorKind::InvalidInput.into())
        } else {
            self.put(&sending, part, segment_size)
        };
        let taken = *result.as_ref().unwrap_or(&0);
        if taken < part.len() {
            sending.give_back(taken);
        }
        result
    }

    /// Puts a train with its numbers on the wire. Returns the bytes taken.
    fn put(&mut self, sending: &Sending<Path>, train: &[u8], segment_size: usize) -> io::Result<usize> {
        let Some((index, ethernet)) = sending.path.and_then(|path| path.frame) else {
            return self.common.raw.send_train(
                &sending.header,
                &self.heads[..sending.count],
                train,
                segment_size,
            );
        };
        if sending.count > 1 && !self.common.gso.load(Relaxed) {
            return self.put_singly(sending, index, &ethernet, train, segment_size);
        }
        match self.put_frame(&sending.header, index, &ethernet, 0, train, segment_size) {
            Err(error) if sending.count > 1 && error.raw_os_error() == Some(libc::EINVAL) => {
                // The same errno can mean that the interface is gone. Only if single ones pass was it GSO.
                let taken = self.put_singly(sending, index, &ethernet, train, segment_size)?;
                self.common.gso.store(false, Relaxed);
                Ok(taken)
            }
            result => result.map(|()| train.len()),
        }
    }

    fn put_singly(
        &mut self,
        sending: &Sending<Path>,
        index: u32,
        ethernet: &[u8; ETHERNET],
        train: &[u8],
        segment_size: usize,
    ) -> io::Result<usize> {
        let (mut header, mut taken) = (sending.header, 0);
        for (number, datagram) in train.chunks(segment_size).enumerate() {
            match self.put_frame(&header, index, ethernet, number, datagram, datagram.len()) {
                Ok(()) => taken += datagram.len(),
                Err(error) if taken == 0 => return Err(error),
                Err(_) => break,
            }
            header.sequence = header.sequence.wrapping_add(datagram.len() as u32);
            header.identification = header.identification.wrapping_add(1);
        }
        Ok(taken)
    }

    /// One frame: a segment, or a super-segment. Its masks begin at number `first`.
    fn put_frame(
        &mut self,
        header: &Header,
        index: u32,
        ethernet: &[u8; ETHERNET],
        first: usize,
        train: &[u8],
        segment_size: usize,
    ) -> io::Result<()> {
        let count = train.len().div_ceil(segment_size.max(1));
        let (socket, gso_type) = match Family::of(header.to.ip()) {
            Family::V4 => (&mut self.v4, GsoType::TcpV4),
            Family::V6 => (&mut self.v6, GsoType::TcpV6),
        };
        let mut head = [0; FRAME_HEAD_MAX];
        let (front, ip) = head.split_at_mut(VnetHeader::LEN + ETHERNET);
        let Some(ip) = ip.first_chunk_mut::<HEADER_MAX>() else { return Ok(()) };
        let header_len = header.write(train.len(), ip);
        let vnet = VnetHeader {
            needs_checksum: true,
            gso_type: if count > 1 { gso_type } else { GsoType::None },
            gso_ecn: false,
            hdr_len: (ETHERNET + header_len) as u16,
            gso_size: if count > 1 { segment_size as u16 } else { 0 },
            csum_start: (ETHERNET + header.ip_len()) as u16,
            csum_offset: TCP_CHECKSUM as u16,
        };
        front[..VnetHeader::LEN].copy_from_slice(&vnet.to_bytes());
        front[VnetHeader::LEN..].copy_from_slice(ethernet);
        let head = &head[..VnetHeader::LEN + ETHERNET + header_len];
        let masked = self.heads.get(first..first + count).unwrap_or_default();
        socket.send(index, head, masked, train, segment_size)
    }

    /// Receives from one socket into `slots`, and returns how many of them, from the front, have something to deliver.
    fn receive(&mut self, now: Instant, family: Family, slots: &mut [RecvSlot]) -> io::Result<usize> {
        let Self { common, lane, v4, v6, .. } = self;
        let socket = match family {
            Family::V4 => v4,
            Family::V6 => v6,
        };
        let received = socket.receive(slots)?;
        let mut delivered = 0;
        // Allocates only when something is in it: once a handshake.
        let mut opened = Vec::new();
        for at in 0..received {
            let slot = &mut slots[at];
            let Some((segment, segment_size)) = place(&socket.received(at), &mut slot.buf) else {
                common.engine.counters().malformed.fetch_add(1, Relaxed);
                continue;
            };
            let payload = &mut slot.buf[..segment.payload_len];
            match lane.receive(now, &segment, payload, segment_size) {
                Verdict::Deliver { fresh } => {
                    slot.len = segment.payload_len;
                    slot.segment_size = segment_size;
                    slot.from = segment.from;
                    slot.ecn = segment.ecn;
                    slots.swap(delivered, at);
                    delivered += 1;
                    if fresh && let Ok(reach) = common.reach(segment.to, segment.from) {
                        common.engine.set_path(segment.from, reach.path);
                    }
                }
                Verdict::Reply(control) => common.send_control(&control),
                Verdict::Opened(control) => {
                    common.send_control(&control);
                    opened.push((segment.to, segment.from));
                }
                Verdict::Nothing => {}
            }
        }
        for (local, remote) in opened {
            self.flow_opened(local, remote);
        }
        Ok(delivered)
    }

    /// Sends what has waited for a handshake. What the kernel does not take now is lost, as it would be on the way.
    #[cold]
    fn flow_opened(&mut self, local: SocketAddr, remote: SocketAddr) {
        if let Ok(reach) = self.common.reach(local, remote) {
            self.common.engine.set_path(remote, reach.path);
        }
        for datagram in self.lane.take_held(remote) {
            let segment_size = datagram.len();
            let _ = self.send(&Transmit { to: remote, ecn: Ecn::NotEct, segment_size, contents: &datagram });
        }
    }
}

impl Link for FakeTcpLink {
    fn send(&mut self, transmit: &Transmit<'_>) -> io::Result<usize> {
        let total = transmit.contents.len();
        if transmit.segment_size == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let now = Instant::now();
        let mut taken = 0;
        while taken < total {
            let rest = Transmit { contents: &transmit.contents[taken..], ..*transmit };
            match self.send_part(now, &rest) {
                Ok(0) => break,
                Ok(bytes) => taken += bytes,
                Err(_) if taken > 0 => break,
                Err(error) => return Err(classify(error)),
            }
        }
        Ok(taken)
    }

    /// After many segments with nothing to deliver, a flood perhaps, one empty slot is returned, so that the caller knows that
    /// there may be more and does something else in between.
    fn recv(&mut self, slots: &mut [RecvSlot]) -> io::Result<usize> {
        if slots.is_empty() {
            return Ok(0);
        }
        let now = Instant::now();
        if let Some(keeper) = &mut self.keeper
            && now >= keeper.read_at + READ_NEWS
            && keeper.read(now)
        {
            self.common.read_own_addresses();
        }
        let (mut empty, mut fruitless) = (0, 0);
        let result = loop {
            match self.receive(now, self.family, slots) {
                Ok(0) if fruitless == FRUITLESS_MAX => {
                    slots[0].len = 0;
                    slots[0].segment_size = 0;
                    break Ok(1);
                }
                Ok(0) => (empty, fruitless) = (0, fruitless + 1),
                Ok(count) => {
                    self.in_a_row += 1;
                    if self.in_a_row >= FAMILY_TURNS {
                        self.take_turns();
                    }
                    break Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && empty == 0 => {
                    self.take_turns();
                    empty = 1;
                }
                // Reported once when an interface goes down; the socket lives on.
                Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => {}
                Err(error) => break Err(error),
            }
        };
        self.acknowledge(now);
        result
    }
}

/// Gives an error the kind that [`Link`] documents. No allocation: an errno that has the right kind is kept.
fn classify(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::ENOBUFS) => io::ErrorKind::OutOfMemory.into(),
        Some(libc::EMSGSIZE) => io::ErrorKind::InvalidInput.into(),
        _ => error,
    }
}

/// Reads a packet's headers and moves its payload to the front of `buf`, where it is already if the headers are as long as
/// those of our flows. Returns them, and the bytes a datagram. `None` when it is no whole segment, or nobody knows where its datagrams end.
fn place(received: &Received<'_>, buf: &mut [u8]) -> Option<(Segment, usize)> {
    let (vnet, frame) = received.head.split_first_chunk::<{ VnetHeader::LEN }>()?;
    let vnet = VnetHeader::parse(vnet).ok()?;
    let prefix = frame.get(received.link_len..)?;
    let rest_len = received.rest_len.min(buf.len());
    let packet_len = prefix.len() + rest_len;
    let segment = match Segment::parse(prefix, packet_len) {
        Err(InvalidSegment::HeaderTruncated | InvalidSegment::Ip(InvalidPacket::HeaderTruncated)) => {
            parse_long_header(prefix, &buf[..rest_len], packet_len)?
        }
        parsed => parsed.ok()?,
    };
    if segment.header_len <= prefix.len() {
        let early = &prefix[segment.header_len..];
        if !early.is_empty() && segment.payload_len > 0 {
            if early.len() + rest_len > buf.len() {
                return None;
            }
            buf.copy_within(..rest_len, early.len());
            buf[..early.len()].copy_from_slice(early);
        }
    } else {
        buf.copy_within(segment.header_len - prefix.len()..rest_len, 0);
    }
    let segment_size = match vnet.gso_type {
        GsoType::None => segment.payload_len,
        GsoType::TcpV4 | GsoType::TcpV6 if vnet.gso_size > 0 => usize::from(vnet.gso_size),
        _ => return None,
    };
    Some((segment, segment_size.min(segment.payload_len)))
}

/// As [`Segment::parse`], for headers with more options than those of our flows: a stranger's.
#[cold]
fn parse_long_header(prefix: &[u8], rest: &[u8], packet_len: usize) -> Option<Segment> {
    // IPv4 with all options, TCP with all options.
    let mut whole = [0; 60 + 60];
    let len = whole.len().min(packet_len);
    let (front, back) = whole[..len].split_at_mut(prefix.len().min(len));
    front.copy_from_slice(&prefix[..front.len()]);
    let back_len = back.len().min(rest.len());
    back[..back_len].copy_from_slice(&rest[..back_len]);
    Segment::parse(&whole[..len], packet_len).ok()
}
