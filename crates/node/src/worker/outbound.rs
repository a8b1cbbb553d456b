//! From the TUN to the link.
//!
//! A packet or super-packet is read in one piece, and its segments are then placed where they are to be sealed, one
//! datagram behind the other:
//!
//! ```text
//!  read:    header │ payload 0 · payload 1 · payload 2
//!  train:   ▯ header · payload 0 ▯   ▯ header · payload 1 ▯   ▯ header · payload 2 ▯      ▯: data header, tag
//! ```
//!
//! Packets of one size follow each other in one train whether the kernel had them in one piece or not.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::IpAddr;
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use handshake::{HEADER_LEN, Protocol, Sealer, Session, TAG_LEN, limits};
use packet::segment::{HEADER_MAX, SuperPacket};
use packet::{Buf, Class, Ecn, Link, MAX_PACKET, Tun, VnetHeader, ip};

use super::Context;
use super::egress::{Egress, TRAIN_BYTES_MAX, TRAIN_SEGMENTS_MAX, Train};
use super::narrow::{self, Answers, Fit};
use crate::config::PeerId;
use crate::drops::DropReason;
use crate::event::Event;
use crate::framing::Framing;
use crate::inner::{Content, Part};

/// Packets read in one round: as many as one send can carry.
const READS_MAX: usize = TRAIN_SEGMENTS_MAX;
/// Bytes read in one round: what comes from the link must not wait long.
const READ_BYTES_MAX: usize = 4 * MAX_PACKET;
/// Bytes of the train buffer: a super-packet, sealed in many small segments, and more behind it.
const BUFFER_BYTES: usize = 2 * PART_ROOM;
/// Most bytes of it that one part of a packet takes.
const PART_ROOM: usize = MAX_PACKET + MAX_PACKET / 4;
/// Packets that may wait for one peer's handshake.
const WAITING_MAX: usize = 64;
/// How long a packet may wait for a handshake.
const WAITING_TIME: Duration = Duration::from_secs(5);
/// How often to remind the node that a session is needed.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// The train being put together: sealed, from `start` to [`Outbound::end`], each segment but the last of equal size.
#[derive(Clone, Copy, Debug)]
struct Assembly {
    peer: PeerId,
    ecn: Ecn,
    segment_size: usize,
    segments: usize,
    start: usize,
    overhead: usize,
    /// Its datagrams are the parts of one packet.
    in_parts: bool,
}

impl Assembly {
    /// Whether `new`, of `sealed` bytes, can go out in the same send as this train, which ends at `end`.
    fn takes(&self, new: &Self, end: usize, sealed: usize) -> bool {
        let len = end - self.start;
        self.peer == new.peer
            && !self.in_parts
            && !new.in_parts
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
    packet: Buf,
    plan: SuperPacket,
    since: Instant,
}

impl Kept {
    /// What it counts for.
    fn segments(&self) -> u64 {
        self.plan.segment_count() as u64
    }
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
    /// Where a packet is read to.
    packet: Box<[u8]>,
    /// The last route looked up.
    route: Option<(IpAddr, PeerId)>,
    /// Indexed by peer.
    waiting: Vec<Waiting>,
    /// Peers for which packets wait.
    waiting_peers: Vec<PeerId>,
    answers: Answers,
}

impl fmt::Debug for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbound")
            .field("train", &self.train)
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
            packet: vec![0; MAX_PACKET].into_boxed_slice(),
            route: None,
            waiting: (0..peers).map(|_| Waiting::default()).collect(),
            waiting_peers: Vec::with_capacity(peers),
            answers: Answers::new(peers),
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
            let Ok((vnet, len)) = self.read(tun) else {
                // Empty, or the device is down or gone: the operating system tells when that changes.
                more = false;
                break;
            };
            bytes += len;
            self.accept(cx, tun, &vnet, len, exit);
        }
        self.flush(cx, exit);
        self.route = None;
        more
    }

    /// Sends what has waited for a session that now exists, and gives up what has waited too long.
    pub(super) fn release<T: Tun, L: Link>(
        &mut self,
        cx: &mut Context<'_>,
        tun: &mut T,
        exit: &mut Exit<'_, L>,
    ) {
        let mut index = 0;
        while let Some(&peer) = self.waiting_peers.get(index) {
            self.release_peer(cx, tun, peer, exit);
            if self.waiting[peer.0 as usize].packets.is_empty() {
                self.waiting[peer.0 as usize].asked_at = None;
                self.waiting_peers.swap_remove(index);
            } else {
                index += 1;
            }
        }
        self.flush(cx, exit);
    }

    fn release_peer<T: Tun, L: Link>(
        &mut self,
        cx: &mut Context<'_>,
        tun: &mut T,
        peer: PeerId,
        exit: &mut Exit<'_, L>,
    ) {
        let row = &cx.table.peers[peer.0 as usize];
        if let Some(session) = usable_session(cx, peer) {
            while let Some(Kept { packet, plan, .. }) = self.waiting[peer.0 as usize].packets.pop_front() {
                self.packet[..packet.len()].copy_from_slice(&packet);
                self.send(cx, tun, peer, session, &plan, exit);
            }
            return;
        }
        let waiting = &mut self.waiting[peer.0 as usize];
        let reason =
            if row.endpoint.is_some() { DropReason::HandshakeTimeout } else { DropReason::NoEndpoint };
        while let Some(kept) = waiting.packets.pop_front_if(|kept| cx.now >= kept.since + WAITING_TIME) {
            row.state.drops.add(reason, kept.segments());
        }
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting_peers.is_empty()
    }

    /// Segments that wait for a handshake.
    pub(super) fn waiting(&self) -> usize {
        let kept = self.waiting_peers.iter().flat_map(|peer| &self.waiting[peer.0 as usize].packets);
        kept.map(|kept| kept.plan.segment_count()).sum()
    }

    /// When the first of them is given up.
    pub(super) fn expires_at(&self) -> Option<Instant> {
        let oldest = |peer: &PeerId| self.waiting[peer.0 as usize].packets.front().map(|kept| kept.since);
        self.waiting_peers.iter().filter_map(oldest).min().map(|since| since + WAITING_TIME)
    }

    fn read<T: Tun>(&mut self, tun: &mut T) -> io::Result<([u8; VnetHeader::LEN], usize)> {
        let mut vnet = [0; VnetHeader::LEN];
        let n = tun.recv(&mut [IoSliceMut::new(&mut vnet), IoSliceMut::new(&mut self.packet)])?;
        Ok((vnet, n.saturating_sub(VnetHeader::LEN)))
    }

    /// Takes a packet just read into the train.
    fn accept<T: Tun, L: Link>(
        &mut self,
        cx: &mut Context<'_>,
        tun: &mut T,
        vnet: &[u8; VnetHeader::LEN],
        len: usize,
        exit: &mut Exit<'_, L>,
    ) {
        let packet = &self.packet[..len];
        let plan = VnetHeader::parse(vnet).ok().and_then(|vnet| SuperPacket::parse(&vnet, packet, len).ok());
        let Some(plan) = plan.filter(|plan| plan.total_len() == len) else {
            cx.drops.add(DropReason::TunMalformed, 1);
            return;
        };
        let Some(peer) = route(cx, &mut self.route, packet) else {
            cx.drops.add(DropReason::NoRoute, plan.segment_count() as u64);
            return;
        };
        match usable_session(cx, peer) {
            Some(session) => self.send(cx, tun, peer, session, &plan, exit),
            None => self.wait(cx, peer, plan),
        }
    }

    /// Takes the packet into the train, in the way that the peer's path allows.
    fn send<T: Tun, L: Link>(
        &mut self,
        cx: &mut Context<'_>,
        tun: &mut T,
        peer: PeerId,
        session: &Session,
        plan: &SuperPacket,
        exit: &mut Exit<'_, L>,
    ) {
        let row = &cx.table.peers[peer.0 as usize];
        if plan.segment_len(0) <= row.packet_max {
            return self.seal(cx, peer, session, plan, exit);
        }
        match narrow::fit(row, &self.packet, plan) {
            Fit::Whole(narrower) => {
                let more = narrower.segment_count().saturating_sub(plan.segment_count());
                row.state.tx_recut.fetch_add(more as u64, Relaxed);
                self.seal(cx, peer, session, &narrower, exit);
            }
            Fit::Parts => self.seal_in_parts(cx, peer, session, plan, exit),
            Fit::TooBig => {
                row.state.drops.add(DropReason::TooBig, plan.segment_count() as u64);
                self.answers.tell(cx, tun, peer, &mut self.packet, plan);
            }
        }
    }

    /// Seals each segment of the packet in parts.
    #[cold]
    fn seal_in_parts<L: Link>(
        &mut self,
        cx: &mut Context<'_>,
        peer: PeerId,
        session: &Session,
        plan: &SuperPacket,
        exit: &mut Exit<'_, L>,
    ) {
        let mut header = [0; HEADER_MAX];
        // That of an ordinary packet may be longer, and is not needed.
        let header_len = if plan.segment_count() > 1 { plan.header_len() } else { 0 };
        header[..header_len].copy_from_slice(&self.packet[..header_len]);
        for index in 0..plan.segment_count() {
            let segment = narrow::lay_out(plan, index, &header[..header_len], &mut self.packet);
            self.seal_parts_of(cx, peer, session, segment, plan.partial_travels(), exit);
        }
    }

    /// Seals one packet, at `place` of what was read, in a train of parts.
    fn seal_parts_of<L: Link>(
        &mut self,
        cx: &mut Context<'_>,
        peer: PeerId,
        session: &Session,
        place: Range<usize>,
        partial: bool,
        exit: &mut Exit<'_, L>,
    ) {
        let row = &cx.table.peers[peer.0 as usize];
        let overhead = HEADER_LEN + Part::HEADER_LEN + TAG_LEN;
        let (packet, total) = (&self.packet[place.clone()], place.len() as u16);
        let Some(count) = Part::count(packet.len(), narrow::part_room(row)) else {
            row.state.drops.add(DropReason::TooBig, 1);
            return;
        };
        let sealer = session.sealer(cx.lane);
        let Ok(counter) = sealer.reserve(count.into()) else {
            row.state.drops.add(DropReason::SessionExhausted, 1);
            cx.events.push(cx.drops, Event::NeedSession { peer });
            return;
        };
        let segment_size = overhead + Part { partial, index: 0, count, total }.range().len();
        let sealed = packet.len() + usize::from(count) * overhead;
        if self.buffer.len() - self.end < sealed {
            self.flush(cx, exit);
        }
        let packet = &self.packet[place];
        let mut room = &mut self.buffer[self.end..][..sealed];
        for index in 0..count {
            let part = Part { partial, index, count, total };
            let bytes = &packet[part.range()];
            let (datagram, rest) = room.split_at_mut(overhead + bytes.len());
            datagram[HEADER_LEN..][..Part::HEADER_LEN].copy_from_slice(&part.to_bytes());
            datagram[HEADER_LEN + Part::HEADER_LEN..][..bytes.len()].copy_from_slice(bytes);
            sealer.seal(counter + u64::from(index), datagram);
            room = rest;
        }
        let (ecn, segments, start) = (ip::ecn(packet), count.into(), self.end);
        let train = Assembly { peer, ecn, segment_size, segments, start, overhead, in_parts: true };
        self.join(cx, exit, sealed, train);
    }

    /// Seals the packet into the train, in as many parts as the buffer has room for.
    fn seal<L: Link>(
        &mut self,
        cx: &mut Context<'_>,
        peer: PeerId,
        session: &Session,
        plan: &SuperPacket,
        exit: &mut Exit<'_, L>,
    ) {
        let framing = Framing::of(cx.table.peers[peer.0 as usize].protocol);
        let stride = framing.sealed_len(plan.segment_len(0));
        let mut next = 0;
        while next < plan.segment_count() {
            if self.buffer.len() - self.end < PART_ROOM.max(stride) {
                self.flush(cx, exit);
            }
            let part = next..(next + (PART_ROOM / stride).max(1)).min(plan.segment_count());
            next = part.end;
            self.seal_part(cx, peer, session, plan, part, exit);
        }
    }

    fn seal_part<L: Link>(
        &mut self,
        cx: &mut Context<'_>,
        peer: PeerId,
        session: &Session,
        plan: &SuperPacket,
        part: Range<usize>,
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
        let sealed = seal_segments(room, &self.packet, plan, part, framing, &sealer, counter);
        self.join(
            cx,
            exit,
            sealed,
            Assembly {
                peer,
                ecn: ip::ecn(&self.packet),
                segment_size,
                segments,
                start: self.end,
                overhead: framing.prefix + TAG_LEN,
                in_parts: false,
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

    fn send_train<L: Link>(&mut self, cx: &mut Context<'_>, exit: &mut Exit<'_, L>) {
        let Some(train) = self.train.take() else { return };
        // One super-packet may be more than one send can carry.
        let most = (TRAIN_BYTES_MAX / train.segment_size).clamp(1, TRAIN_SEGMENTS_MAX) * train.segment_size;
        for contents in self.buffer[train.start..self.end].chunks(most) {
            let Assembly { peer, ecn, overhead, in_parts, .. } = train;
            let segment_size = train.segment_size.min(contents.len());
            let train = Train { peer, ecn, segment_size, contents, overhead, in_parts };
            exit.egress.send(cx, exit.link, exit.writable, &train);
        }
    }

    /// Keeps the packet just read until there is a session.
    fn wait(&mut self, cx: &mut Context<'_>, peer: PeerId, plan: SuperPacket) {
        let drops = &cx.table.peers[peer.0 as usize].state.drops;
        let waiting = &mut self.waiting[peer.0 as usize];
        if waiting.asked_at.is_none_or(|at| cx.now >= at + ASK_AGAIN) {
            waiting.asked_at = Some(cx.now);
            cx.events.push(cx.drops, Event::NeedSession { peer });
        }
        if waiting.packets.len() == WAITING_MAX
            && let Some(oldest) = waiting.packets.pop_front()
        {
            drops.add(DropReason::HandshakeQueueFull, oldest.segments());
        }
        let len = plan.total_len();
        let class = if len <= Class::SMALL_BYTES { Class::Small } else { Class::Large };
        let Some(mut packet) = cx.pool.take(class) else {
            drops.add(DropReason::PoolExhausted, plan.segment_count() as u64);
            return;
        };
        packet.storage_mut()[..len].copy_from_slice(&self.packet[..len]);
        packet.commit(0..len);
        if waiting.packets.is_empty() && !self.waiting_peers.contains(&peer) {
            self.waiting_peers.push(peer);
        }
        waiting.packets.push_back(Kept { packet, plan, since: cx.now });
    }
}

/// Wraps and seals the segments `part` of a packet; returns the bytes they take.
fn seal_segments(
    buffer: &mut [u8],
    packet: &[u8],
    plan: &SuperPacket,
    part: Range<usize>,
    framing: Framing,
    sealer: &Sealer<'_>,
    counter: u64,
) -> usize {
    let travels = framing.protocol == Protocol::ShadowMesh && plan.partial_travels();
    let content = if plan.is_partial() && travels { Content::IpPartial } else { Content::Ip };
    let header = &packet[..plan.header_len()];
    let mut at = 0;
    for (place, index) in part.enumerate() {
        let len = plan.segment_len(index);
        let datagram = &mut buffer[at..at + framing.sealed_len(len)];
        at += datagram.len();
        let (segment, padding) = datagram[framing.prefix..].split_at_mut(len);
        let (segment_header, payload) = segment.split_at_mut(header.len());
        segment_header.copy_from_slice(header);
        payload.copy_from_slice(&packet[plan.payload_range(index)]);
        if plan.segment_count() > 1 {
            plan.patch_header(index, segment_header);
        }
        if plan.is_partial() && !travels {
            plan.complete_checksum(segment);
        }
        let tag = padding.len() - TAG_LEN;
        padding[..tag].fill(0);
        if framing.protocol == Protocol::ShadowMesh {
            datagram[HEADER_LEN] = content as u8;
        }
        sealer.seal(counter + place as u64, datagram);
    }
    at
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
