//! From the TUN to the link.
//!
//! A super-packet is read straight into the places where its segments will be sealed. That takes a guess, before the
//! read, of its header length and segment size: those of the last one, which a flow keeps. The read scatters
//!
//! ```text
//!  vnet │ header · payload 0 │ gap │ payload 1 │ gap │ payload 2 │ … │ overflow
//!         ╰─ segment 0 ─────╯   ╰─ tag 0 · data header 1 · content · room for header 1
//! ```
//!
//! and when the guess holds, only headers are copied before sealing. When it does not, the packet is put together in a
//! scratch buffer, scattered again, and the guess is better next time.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::IpAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use handshake::{HEADER_LEN, Protocol, Sealer, Session, TAG_LEN, limits};
use packet::segment::SuperPacket;
use packet::{Buf, Class, Ecn, Link, MAX_PACKET, Tun, VnetHeader, ip};

use super::Context;
use super::egress::{Egress, TRAIN_BYTES_MAX, TRAIN_SEGMENTS_MAX, Train};
use crate::config::PeerId;
use crate::drops::DropReason;
use crate::event::Event;
use crate::inner::{CONTENT_LEN, Content};

/// Packets read in one round: as many as one send can carry.
const READS_MAX: usize = TRAIN_SEGMENTS_MAX;
/// Bytes read in one round: what comes from the link must not wait long.
const READ_BYTES_MAX: usize = 4 * MAX_PACKET;
/// Room that one read may take: the largest packet, the rest of its last slice, and what stands between the slices.
const READ_ROOM: usize = MAX_PACKET + PLAIN_SLICE + SLICES * MAX_GAP;
const BUFFER_BYTES: usize = 2 * READ_ROOM;
/// Scatter-gather slices for segments; what is cut finer is rearranged.
const SLICES: usize = 64;
/// Room for the headers of any super-packet. The first slice is at least this long.
const HEADER_ROOM: usize = packet::segment::HEADER_MAX;
/// Header, tag, padding or content type, and inner header between two payloads.
const MAX_GAP: usize = HEADER_LEN + TAG_LEN + 16 + HEADER_ROOM;
/// Where no super-packet is expected: the longest packet that needs no rearranging.
const PLAIN_SLICE: usize = 9_216;
/// A guess is given up after this many reads without a super-packet.
const GUESS_LIFE: u32 = 256;
/// Packets that may wait for one peer's handshake.
const WAITING_MAX: usize = 64;
/// How long a packet may wait for a handshake.
const WAITING_TIME: Duration = Duration::from_secs(5);
/// How often to remind the node that a session is needed.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// How the packets of a protocol are wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Framing {
    /// Bytes before the inner packet.
    prefix: usize,
    protocol: Protocol,
}

impl Framing {
    const fn of(protocol: Protocol) -> Self {
        let prefix = match protocol {
            Protocol::WireGuard => HEADER_LEN,
            Protocol::ShadowMesh => HEADER_LEN + CONTENT_LEN,
        };
        Self { prefix, protocol }
    }

    /// Bytes on the wire of an inner packet of `len` bytes.
    const fn sealed_len(self, len: usize) -> usize {
        let padded = match self.protocol {
            // WireGuard pads to a multiple of 16 (whitepaper §5.4.6).
            Protocol::WireGuard => len.next_multiple_of(16),
            Protocol::ShadowMesh => len,
        };
        self.prefix + padded + TAG_LEN
    }
}

/// What the next super-packet is expected to look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Guess {
    header_len: usize,
    gso_size: usize,
}

impl Guess {
    fn first_slice(self) -> usize {
        self.header_len + self.gso_size
    }

    /// Worth guessing: few enough slices, and the first one holds any header.
    fn usable(self) -> bool {
        self.first_slice() >= HEADER_ROOM
            && self.gso_size <= PLAIN_SLICE
            && self.first_slice() + self.gso_size * (SLICES - 1) >= MAX_PACKET
    }
}

/// Where a read puts its bytes.
#[derive(Clone, Copy, Debug)]
struct Layout {
    framing: Framing,
    guess: Option<Guess>,
}

impl Layout {
    /// Bytes from the front of a packet that are in one piece.
    fn first_slice(&self) -> usize {
        self.guess.map_or(PLAIN_SLICE, Guess::first_slice)
    }

    /// Bytes between two payloads.
    fn gap(&self, guess: Guess) -> usize {
        self.framing.sealed_len(guess.first_slice()) - guess.gso_size
    }

    /// Whether the segments of that plan, wrapped so, are where they belong.
    fn holds(&self, plan: &SuperPacket, framing: Framing) -> bool {
        self.framing == framing
            && if plan.segment_count() == 1 {
                plan.total_len() <= self.first_slice()
            } else {
                self.guess == Some(Guess { header_len: plan.header_len(), gso_size: plan.payload_len(0) })
            }
    }
}

/// The train being put together: sealed, from `start` to [`Outbound::end`], each segment but the last of equal size.
#[derive(Clone, Copy, Debug)]
struct Assembly {
    peer: PeerId,
    ecn: Ecn,
    segment_size: usize,
    segments: usize,
    start: usize,
    overhead: usize,
}

impl Assembly {
    /// Whether `new`, of `sealed` bytes, can go out in the same send as this train, which ends at `end`.
    fn takes(&self, new: &Self, end: usize, sealed: usize) -> bool {
        let len = end - self.start;
        self.peer == new.peer
            && self.ecn == new.ecn
            && self.overhead == new.overhead
            && len.is_multiple_of(self.segment_size)
            && (new.segment_size == self.segment_size
                || (new.segments == 1 && new.segment_size < self.segment_size))
            && self.segments + new.segments <= TRAIN_SEGMENTS_MAX
            && len + sealed <= TRAIN_BYTES_MAX
    }
}

/// A packet that waits for a handshake.
#[derive(Debug)]
struct Kept {
    /// A virtio-net header and the packet.
    buf: Buf,
    since: Instant,
    /// Segments: what it counts for when it is dropped.
    segments: u64,
}

/// A peer's packets that wait for a handshake.
#[derive(Debug, Default)]
struct Waiting {
    packets: VecDeque<Kept>,
    asked_at: Option<Instant>,
}

/// One way to send: what stands between a train and the wire.
pub(super) struct Exit<'a, L> {
    pub(super) link: &'a mut L,
    pub(super) egress: &'a mut Egress,
    pub(super) writable: &'a mut bool,
}

/// The outbound half of a worker.
pub(super) struct Outbound {
    buffer: Box<[u8]>,
    /// Where the train ends and the next packet will be read to.
    end: usize,
    train: Option<Assembly>,
    /// Where a packet is put together that the guess did not fit.
    scratch: Box<[u8]>,
    layout: Layout,
    reads_without_super_packet: u32,
    /// The last route looked up.
    route: Option<(IpAddr, PeerId)>,
    /// Indexed by peer.
    waiting: Vec<Waiting>,
    /// Peers for which packets wait.
    waiting_peers: Vec<PeerId>,
}

impl fmt::Debug for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbound")
            .field("train", &self.train)
            .field("layout", &self.layout)
            .field("waiting_peers", &self.waiting_peers)
            .finish_non_exhaustive()
    }
}

impl Outbound {
    pub(super) fn new(peers: usize) -> Self {
        Self {
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            end: 0,
            train: None,
            scratch: vec![0; MAX_PACKET + PLAIN_SLICE].into_boxed_slice(),
            layout: Layout { framing: Framing::of(Protocol::ShadowMesh), guess: None },
            reads_without_super_packet: 0,
            route: None,
            waiting: (0..peers).map(|_| Waiting::default()).collect(),
            waiting_peers: Vec::with_capacity(peers),
        }
    }

    /// Reads and sends until the TUN is empty, the egress queues push back, or it is others' turn. Returns whether the
    /// TUN may have more.
    pub(super) fn forward<T: Tun, L: Link>(
        &mut self,
        cx: &mut Context<'_>,
        tun: &mut T,
        exit: &mut Exit<'_, L>,
    ) -> bool {
        let mut more = true;
        let mut bytes = 0;
        for _ in 0..READS_MAX {
            if exit.egress.pushes_back() || bytes >= READ_BYTES_MAX {
                break;
            }
            self.make_room(cx, exit);
            let Ok((vnet, len)) = self.read(tun) else {
                // Empty, or the device is down or gone: the operating system tells when that changes.
                more = false;
                break;
            };
            bytes += len;
            self.accept(cx, &vnet, len, exit);
        }
        self.flush(cx, exit);
        self.route = None;
        more
    }

    /// Sends what has waited for a session that now exists, and gives up what has waited too long.
    pub(super) fn release<L: Link>(&mut self, cx: &mut Context<'_>, exit: &mut Exit<'_, L>) {
        let mut index = 0;
        while let Some(&peer) = self.waiting_peers.get(index) {
            self.release_peer(cx, peer, exit);
            if self.waiting[peer.0 as usize].packets.is_empty() {
                self.waiting[peer.0 as usize].asked_at = None;
                self.waiting_peers.swap_remove(index);
            } else {
                index += 1;
            }
        }
        self.flush(cx, exit);
    }

    fn release_peer<L: Link>(&mut self, cx: &mut Context<'_>, peer: PeerId, exit: &mut Exit<'_, L>) {
        let row = &cx.table.peers[peer.0 as usize];
        if let Some(session) = usable_session(cx, peer) {
            while let Some(Kept { buf, .. }) = self.waiting[peer.0 as usize].packets.pop_front() {
                let Some((vnet, packet)) = buf.split_first_chunk() else { continue };
                let plan =
                    VnetHeader::parse(vnet).ok().map(|vnet| SuperPacket::parse(&vnet, packet, packet.len()));
                let Some(Ok(plan)) = plan else { continue };
                self.scratch[..packet.len()].copy_from_slice(packet);
                self.seal_scratch(cx, peer, session, &plan, exit);
            }
            return;
        }
        let waiting = &mut self.waiting[peer.0 as usize];
        let reason =
            if row.endpoint.is_some() { DropReason::HandshakeTimeout } else { DropReason::NoEndpoint };
        while let Some(kept) = waiting.packets.pop_front_if(|kept| cx.now >= kept.since + WAITING_TIME) {
            row.state.drops.add(reason, kept.segments);
        }
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting_peers.is_empty()
    }

    /// Segments that wait for a handshake.
    pub(super) fn waiting(&self) -> usize {
        let kept = self.waiting_peers.iter().flat_map(|peer| &self.waiting[peer.0 as usize].packets);
        kept.map(|kept| kept.segments as usize).sum()
    }

    /// When the first of them is given up.
    pub(super) fn expires_at(&self) -> Option<Instant> {
        let oldest = |peer: &PeerId| self.waiting[peer.0 as usize].packets.front().map(|kept| kept.since);
        self.waiting_peers.iter().filter_map(oldest).min().map(|since| since + WAITING_TIME)
    }

    /// Reads one packet to where the layout says.
    fn read<T: Tun>(&mut self, tun: &mut T) -> io::Result<(io::Result<VnetHeader>, usize)> {
        let mut vnet = [0; VnetHeader::LEN];
        let room = &mut self.buffer[self.end + self.layout.framing.prefix..];
        let n = match self.layout.guess {
            Some(guess) => {
                let mut slices: [IoSliceMut<'_>; SLICES + 1] =
                    std::array::from_fn(|_| IoSliceMut::new(&mut []));
                let gap = self.layout.gap(guess);
                let (first, mut rest) = room.split_at_mut(guess.first_slice());
                let mut covered = first.len();
                slices[0] = IoSliceMut::new(&mut vnet);
                slices[1] = IoSliceMut::new(first);
                let mut used = 2;
                while covered < MAX_PACKET && used < slices.len() {
                    let (payload, after) = rest[gap..].split_at_mut(guess.gso_size);
                    slices[used] = IoSliceMut::new(payload);
                    rest = after;
                    covered += guess.gso_size;
                    used += 1;
                }
                tun.recv(&mut slices[..used])?
            }
            None => tun.recv(&mut [
                IoSliceMut::new(&mut vnet),
                IoSliceMut::new(&mut room[..PLAIN_SLICE]),
                IoSliceMut::new(&mut self.scratch[PLAIN_SLICE..]),
            ])?,
        };
        let vnet = VnetHeader::parse(&vnet).map_err(io::Error::other);
        Ok((vnet, n.saturating_sub(VnetHeader::LEN)))
    }

    /// Takes a packet just read into the train.
    fn accept<L: Link>(
        &mut self,
        cx: &mut Context<'_>,
        vnet: &io::Result<VnetHeader>,
        len: usize,
        exit: &mut Exit<'_, L>,
    ) {
        let first = self.end + self.layout.framing.prefix;
        let front = &self.buffer[first..first + len.min(self.layout.first_slice())];
        let Ok(vnet) = vnet else {
            cx.drops.add(DropReason::TunMalformed, 1);
            return;
        };
        let plan = match SuperPacket::parse(vnet, front, len) {
            Ok(plan) if plan.total_len() == len => plan,
            _ => {
                cx.drops.add(DropReason::TunMalformed, 1);
                return;
            }
        };
        let Some(peer) = route(cx, &mut self.route, front) else {
            cx.drops.add(DropReason::NoRoute, plan.segment_count() as u64);
            return;
        };
        let framing = Framing::of(cx.table.peers[peer.0 as usize].protocol);
        if let Some(session) = usable_session(cx, peer) {
            if self.layout.holds(&plan, framing) {
                let mut header = [0; HEADER_ROOM];
                let room = header.len().min(front.len());
                header[..room].copy_from_slice(&front[..room]);
                self.seal(cx, peer, session, &plan, 0..plan.segment_count(), &header, exit);
            } else {
                self.put_together(len);
                self.seal_scratch(cx, peer, session, &plan, exit);
            }
            self.learn(&plan, framing);
        } else {
            self.put_together(len);
            self.wait(cx, peer, vnet, len, plan.segment_count() as u64);
        }
    }

    /// The next read expects what this one brought.
    fn learn(&mut self, plan: &SuperPacket, framing: Framing) {
        self.layout.framing = framing;
        if plan.segment_count() > 1 {
            let guess = Guess { header_len: plan.header_len(), gso_size: plan.payload_len(0) };
            self.layout.guess = guess.usable().then_some(guess);
            self.reads_without_super_packet = 0;
        } else if self.layout.guess.is_some() {
            self.reads_without_super_packet += 1;
            if self.reads_without_super_packet > GUESS_LIFE {
                self.layout.guess = None;
            }
        }
    }

    /// Copies the packet just read, wherever its pieces are, to the front of the scratch buffer.
    fn put_together(&mut self, len: usize) {
        let mut from = self.end + self.layout.framing.prefix;
        let first = len.min(self.layout.first_slice());
        self.scratch[..first].copy_from_slice(&self.buffer[from..from + first]);
        let Some(guess) = self.layout.guess else { return }; // the rest was read to where it belongs
        let gap = self.layout.gap(guess);
        let mut done = first;
        from += first;
        while done < len {
            let piece = guess.gso_size.min(len - done);
            from += gap;
            self.scratch[done..done + piece].copy_from_slice(&self.buffer[from..from + piece]);
            from += piece;
            done += piece;
        }
    }

    /// Seals the packet in the scratch buffer, in as many parts as the buffer has room for.
    fn seal_scratch<L: Link>(
        &mut self,
        cx: &mut Context<'_>,
        peer: PeerId,
        session: &Session,
        plan: &SuperPacket,
        exit: &mut Exit<'_, L>,
    ) {
        let framing = Framing::of(cx.table.peers[peer.0 as usize].protocol);
        let stride = framing.sealed_len(plan.segment_len(0));
        let mut header = [0; HEADER_ROOM];
        header.copy_from_slice(&self.scratch[..HEADER_ROOM]);
        let mut next = 0;
        while next < plan.segment_count() {
            self.make_room(cx, exit);
            let part = next..(next + (READ_ROOM / stride).max(1)).min(plan.segment_count());
            next = part.end;
            let skip = if plan.segment_count() > 1 { plan.header_len() } else { 0 };
            for index in part.clone() {
                let from = if skip > 0 { plan.payload_range(index) } else { 0..plan.total_len() };
                let to = self.end + (index - part.start) * stride + framing.prefix + skip;
                self.buffer[to..to + from.len()].copy_from_slice(&self.scratch[from]);
            }
            self.seal(cx, peer, session, plan, part, &header, exit);
        }
    }

    /// Seals some of a packet's segments, whose payloads are in place, and takes them into the train.
    #[allow(clippy::too_many_arguments)] // one step of a pipeline: what to seal, how, and where it goes
    fn seal<L: Link>(
        &mut self,
        cx: &mut Context<'_>,
        peer: PeerId,
        session: &Session,
        plan: &SuperPacket,
        part: Range<usize>,
        header: &[u8; HEADER_ROOM],
        exit: &mut Exit<'_, L>,
    ) {
        let row = &cx.table.peers[peer.0 as usize];
        let framing = Framing::of(row.protocol);
        let lane = if row.protocol == Protocol::WireGuard { 0 } else { cx.lane };
        let sealer = session.sealer(lane);
        let Ok(counter) = sealer.reserve(part.len() as u64) else {
            row.state.drops.add(DropReason::SessionExhausted, part.len() as u64);
            cx.events.push(cx.drops, Event::NeedSession { peer });
            return;
        };
        let segments = part.len();
        let segment_size = framing.sealed_len(plan.segment_len(part.start));
        let room = &mut self.buffer[self.end..];
        let sealed = seal_segments(room, plan, part, header, framing, &sealer, counter);
        self.join(
            cx,
            exit,
            sealed,
            Assembly {
                peer,
                ecn: ip::ecn(header),
                segment_size,
                segments,
                start: self.end,
                overhead: framing.prefix + TAG_LEN,
            },
        );
    }

    /// Makes the `sealed` bytes behind the train its tail, or else the beginning of the next one.
    fn join<L: Link>(&mut self, cx: &mut Context<'_>, exit: &mut Exit<'_, L>, sealed: usize, new: Assembly) {
        let end = self.end;
        match &mut self.train {
            Some(train) if train.takes(&new, end, sealed) => train.segments += new.segments,
            _ => {
                self.send_train(cx, exit);
                self.train = Some(new);
            }
        }
        self.end = end + sealed;
    }

    /// Sends the train and begins again at the front of the buffer.
    fn flush<L: Link>(&mut self, cx: &mut Context<'_>, exit: &mut Exit<'_, L>) {
        self.send_train(cx, exit);
        self.end = 0;
    }

    fn make_room<L: Link>(&mut self, cx: &mut Context<'_>, exit: &mut Exit<'_, L>) {
        if self.buffer.len() - self.end < READ_ROOM {
            self.flush(cx, exit);
        }
    }

    fn send_train<L: Link>(&mut self, cx: &mut Context<'_>, exit: &mut Exit<'_, L>) {
        let Some(train) = self.train.take() else { return };
        // One super-packet may be more than one send can carry.
        let most = (TRAIN_BYTES_MAX / train.segment_size).clamp(1, TRAIN_SEGMENTS_MAX) * train.segment_size;
        for contents in self.buffer[train.start..self.end].chunks(most) {
            let Assembly { peer, ecn, overhead, .. } = train;
            let segment_size = train.segment_size.min(contents.len());
            let train = Train { peer, ecn, segment_size, contents, overhead };
            exit.egress.send(cx, exit.link, exit.writable, &train);
        }
    }

    /// Keeps the packet in the scratch buffer until there is a session.
    fn wait(&mut self, cx: &mut Context<'_>, peer: PeerId, vnet: &VnetHeader, len: usize, segments: u64) {
        let drops = &cx.table.peers[peer.0 as usize].state.drops;
        let waiting = &mut self.waiting[peer.0 as usize];
        if waiting.asked_at.is_none_or(|at| cx.now >= at + ASK_AGAIN) {
            waiting.asked_at = Some(cx.now);
            cx.events.push(cx.drops, Event::NeedSession { peer });
        }
        if waiting.packets.len() == WAITING_MAX
            && let Some(oldest) = waiting.packets.pop_front()
        {
            drops.add(DropReason::HandshakeQueueFull, oldest.segments);
        }
        let bytes = VnetHeader::LEN + len;
        let class = if bytes <= Class::SMALL_BYTES { Class::Small } else { Class::Large };
        let Some(mut buf) = cx.pool.take(class) else {
            drops.add(DropReason::PoolExhausted, segments);
            return;
        };
        let storage = buf.storage_mut();
        storage[..VnetHeader::LEN].copy_from_slice(&vnet.to_bytes());
        storage[VnetHeader::LEN..bytes].copy_from_slice(&self.scratch[..len]);
        buf.commit(0..bytes);
        if waiting.packets.is_empty() && !self.waiting_peers.contains(&peer) {
            self.waiting_peers.push(peer);
        }
        waiting.packets.push_back(Kept { buf, since: cx.now, segments });
    }
}

/// Wraps and seals the segments `part` of a packet, whose payloads are in place; returns the bytes they take.
fn seal_segments(
    buffer: &mut [u8],
    plan: &SuperPacket,
    part: Range<usize>,
    header: &[u8; HEADER_ROOM],
    framing: Framing,
    sealer: &Sealer<'_>,
    counter: u64,
) -> usize {
    let travels = framing.protocol == Protocol::ShadowMesh && plan.partial_travels();
    let content = if plan.is_partial() && travels { Content::IpPartial } else { Content::Ip };
    let stride = framing.sealed_len(plan.segment_len(part.start));
    let header = if plan.segment_count() > 1 { &header[..plan.header_len()] } else { &[] };
    let mut end = 0;
    for (place, index) in part.enumerate() {
        let at = place * stride;
        let len = plan.segment_len(index);
        end = at + framing.sealed_len(len);
        let datagram = &mut buffer[at..end];
        let segment = &mut datagram[framing.prefix..framing.prefix + len];
        if !header.is_empty() {
            segment[..header.len()].copy_from_slice(header);
            plan.patch_header(index, segment);
        }
        if plan.is_partial() && !travels {
            plan.complete_checksum(segment);
        }
        let padding = framing.prefix + len..datagram.len() - TAG_LEN;
        datagram[padding].fill(0);
        if framing.protocol == Protocol::ShadowMesh {
            datagram[HEADER_LEN] = content as u8;
        }
        sealer.seal(counter + place as u64, datagram);
    }
    end
}

/// The peer that owns the destination of a packet; flows come in bursts, so the last answer is tried first.
#[inline]
fn route(cx: &Context<'_>, last: &mut Option<(IpAddr, PeerId)>, packet: &[u8]) -> Option<PeerId> {
    let destination = ip::destination(packet)?;
    if let Some((address, peer)) = *last
        && address == destination
    {
        return Some(peer);
    }
    let peer = cx.table.routes.lookup(destination)?;
    *last = Some((destination, peer));
    Some(peer)
}

/// The session to send to a peer on, unless it is too old.
#[inline]
fn usable_session<'a>(cx: &Context<'a>, peer: PeerId) -> Option<&'a Session> {
    let session = cx.table.peers[peer.0 as usize].session.as_deref()?;
    let age = cx.now.saturating_duration_since(session.established());
    (age < limits::REJECT_AFTER_TIME).then_some(session)
}
