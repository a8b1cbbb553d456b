//! From the link to the TUN.

use std::fmt;
use std::io::{ErrorKind, IoSlice};
use std::sync::atomic::Ordering::Relaxed;

use handshake::{DataHeader, HEADER_LEN, OpenError, Opener, Protocol, TAG_LEN, limits};
use packet::coalesce::{CoalesceLimits, Group};
use packet::{
    Buf, Class, Ecn, Endpoint, Link, MAX_PACKET, RecvSlot, Transmit, Tun, Via, VnetHeader, ip, segment,
};

use super::parts::{Parts, Whole};
use super::streams::Streams;
use super::{Context, Place, REPORT_AGAIN, Told};
use crate::config::PeerId;
use crate::drops::DropReason;
use crate::event::Event;
use crate::inner::{CONTENT_LEN, Content, Control, Part, ProbeReply};
use crate::table::{PeerState, SessionRow};

/// Datagrams, or trains of them, received in one call.
const SLOTS: usize = 64;
/// Slots offered where datagrams come one or few at a time.
const SLOTS_MIN: usize = 4;
/// Room of a slot: the largest UDP payload, and a little more so that the slots' fronts do not all fall into the same
/// cache sets.
const SLOT_BYTES: usize = MAX_PACKET + 1 + 192;
/// Bytes received in one round, or a little more: what comes from the TUN must not wait long.
pub(super) const RECEIVE_BYTES_MAX: usize = 4 * MAX_PACKET;
/// What a call counts for at least, in bytes of that budget, however little it brings: calls that bring junk, or nothing, take time too.
pub(super) const CALL_BYTES_MIN: usize = 4_096;
/// Packets of one call that came in parts.
const JOINED_MAX: usize = 256;
/// Bytes of a probe on the wire.
const PROBE_BYTES: usize = HEADER_LEN + Control::LEN + TAG_LEN;

/// The inbound half of a worker.
pub(super) struct Inbound {
    slots: Vec<RecvSlot>,
    /// The packets of one call that were opened and may go to the TUN, in order.
    opened: Vec<Opened>,
    /// Those among them that came in parts.
    joined: Vec<Buf>,
    /// Packets whose last part has not come yet.
    pub(super) parts: Parts,
    pub(super) streams: Streams,
    limits: CoalesceLimits,
    /// The TUN takes packets whose transport checksum is partial.
    takes_partial: bool,
    /// Slots to offer to the next call: each costs a little, used or not.
    offer: usize,
    /// Indexed by peer.
    told: Vec<Told>,
}

/// Where an opened packet is.
#[derive(Clone, Copy, Debug)]
struct Opened {
    peer: PeerId,
    /// The place of its slot, or behind all slots, of its buffer among those that were joined.
    place: u16,
    start: u32,
    end: u32,
    partial: bool,
}

/// Datagrams of one session and lane in a row: its replay window is locked and its counters are written once.
struct Run<'a> {
    row: &'a SessionRow,
    state: &'a PeerState,
    opener: Opener<'a>,
    receiver: u32,
    lane: u8,
    datagrams: u64,
    bytes: u64,
    packets: u64,
    packet_bytes: u64,
}

impl<'a> Run<'a> {
    fn begin(cx: &Context<'a>, header: &DataHeader) -> Result<Self, DropReason> {
        let row = cx.table.session(header.receiver).ok_or(DropReason::UnknownSession)?;
        let session = &row.session;
        if session.protocol() != header.protocol {
            return Err(DropReason::UnknownSession);
        }
        if cx.now.saturating_duration_since(session.established()) >= limits::REJECT_AFTER_TIME {
            return Err(DropReason::SessionExpired);
        }
        let opener = session.opener(header.lane).map_err(reason)?;
        Ok(Self {
            row,
            state: &cx.table.peers[row.peer.0 as usize].state,
            opener,
            receiver: header.receiver,
            lane: header.lane,
            datagrams: 0,
            bytes: 0,
            packets: 0,
            packet_bytes: 0,
        })
    }

    fn continues(&self, header: &DataHeader) -> bool {
        self.receiver == header.receiver && self.lane == header.lane
    }

    /// Writes down what the run has counted.
    fn end(self, cx: &Context<'_>) {
        if self.datagrams == 0 {
            return;
        }
        self.state.rx_datagrams.fetch_add(self.datagrams, Relaxed);
        self.state.rx_datagram_bytes.fetch_add(self.bytes, Relaxed);
        self.state.last_received.set(cx.start, cx.now);
        if self.packets > 0 {
            self.state.rx_packets.fetch_add(self.packets, Relaxed);
            self.state.rx_bytes.fetch_add(self.packet_bytes, Relaxed);
            self.state.last_data_received.set(cx.start, cx.now);
        }
    }
}

/// How many slots to offer to the next call, when the last one filled `filled` of `offered` with `received` bytes: more
/// while they all get filled, but not much more than a round may take.
fn next_offer(offered: usize, filled: usize, received: usize) -> usize {
    let wanted = if filled == offered { filled * 2 } else { filled };
    let average = (received / filled.max(1)).max(1);
    wanted.min(RECEIVE_BYTES_MAX / average).clamp(SLOTS_MIN, SLOTS)
}

fn reason(error: OpenError) -> DropReason {
    match error {
        // Whatever is read as a header is long enough: this is for whoever changes that.
        OpenError::Truncated => DropReason::UnknownMessage,
        OpenError::UnknownLane => DropReason::UnknownLane,
        OpenError::TooOld => DropReason::TooOld,
        OpenError::Replayed => DropReason::Replayed,
        OpenError::Forged => DropReason::Forged,
        OpenError::Expired => DropReason::SessionExpired,
    }
}

/// What a plaintext turned out to be.
enum Inner {
    Packet {
        start: usize,
        partial: bool,
    },
    Part {
        counter: u64,
    },
    Probe {
        id: u64,
        trial: bool,
    },
    Reply(ProbeReply),
    /// Of a stream, behind the content type.
    Stream,
    Nothing,
}

impl fmt::Debug for Inbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbound")
            .field("slots", &self.slots.len())
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl Inbound {
    pub(super) fn new(peers: usize, limits: CoalesceLimits, streams: bool) -> Self {
        Self {
            slots: (0..SLOTS).map(|_| RecvSlot::new(SLOT_BYTES)).collect(),
            opened: Vec::with_capacity(SLOTS * 64),
            joined: Vec::with_capacity(JOINED_MAX),
            parts: Parts::new(),
            streams: Streams::new(streams),
            limits,
            takes_partial: true,
            offer: SLOTS_MIN,
            told: vec![Told::default(); peers],
        }
    }

    /// Receives what one call brings: the slots filled and the bytes in them. `None` when there is nothing.
    pub(super) fn receive<L: Link>(&mut self, link: &mut L) -> Option<(usize, usize)> {
        let filled = link.recv(&mut self.slots[..self.offer]).ok().filter(|&filled| filled > 0)?;
        let bytes = self.slots[..filled].iter().map(|slot| slot.len).sum();
        self.offer = next_offer(self.offer, filled, bytes);
        Some((filled, bytes))
    }

    /// Opens and delivers what was received.
    pub(super) fn forward<T: Tun, L: Link>(
        &mut self,
        cx: &mut Context<'_>,
        tun: &mut T,
        link: &mut L,
        filled: usize,
    ) {
        self.open(cx, link, filled);
        self.streams.finish();
        self.deliver(cx, tun);
        self.joined.clear();
    }

    /// Opens every datagram in the first `filled` slots.
    fn open<L: Link>(&mut self, cx: &mut Context<'_>, link: &mut L, filled: usize) {
        let Self { slots, opened, joined, parts, streams, told, takes_partial, .. } = self;
        opened.clear();
        let mut run: Option<Run<'_>> = None;
        let mut source = None;
        for (index, slot) in slots.iter_mut().take(filled).enumerate() {
            let remote = Endpoint { carrier: slot.carrier, address: slot.from };
            let (from, ecn) = (Place { remote, local: slot.to }, slot.ecn);
            let segment_size = slot.segment_size.max(1);
            let received = slot.len.min(slot.buf.len());
            if received == 0 {
                cx.drops.add(DropReason::UnknownMessage, 1);
            }
            let mut at = 0;
            for datagram in slot.buf[..received].chunks_mut(segment_size) {
                let start = at;
                at += datagram.len();
                let Some(header) = DataHeader::parse(datagram) else {
                    hand_to_node(cx, from, datagram);
                    continue;
                };
                if !run.as_ref().is_some_and(|run| run.continues(&header)) {
                    if let Some(done) = run.take() {
                        done.end(cx);
                    }
                    match Run::begin(cx, &header) {
                        Ok(new) => run = Some(new),
                        Err(reason) => {
                            cx.drops.add(reason, 1);
                            continue;
                        }
                    }
                }
                let Some(run) = &mut run else { continue };
                match open_one(cx, run, datagram, from, ecn, told, &mut source) {
                    Ok(Inner::Packet { start: offset, partial }) => {
                        let end = datagram.len() - TAG_LEN;
                        opened.push(Opened {
                            peer: run.row.peer,
                            place: index as u16,
                            start: (start + offset) as u32,
                            end: (start + end) as u32,
                            partial: partial && !completes(*takes_partial, &mut datagram[offset..end]),
                        });
                    }
                    Ok(Inner::Part { counter }) => {
                        let plaintext = &datagram[HEADER_LEN..datagram.len() - TAG_LEN];
                        match join(cx, parts, run, plaintext, counter, ecn, &mut source) {
                            Ok(Some((mut packet, partial))) if joined.len() < JOINED_MAX => {
                                opened.push(Opened {
                                    peer: run.row.peer,
                                    place: (SLOTS + joined.len()) as u16,
                                    start: 0,
                                    end: packet.len() as u32,
                                    partial: partial && !completes(*takes_partial, &mut packet),
                                });
                                joined.push(packet);
                            }
                            Ok(Some(_)) => run.state.drops.add(DropReason::PoolExhausted, 1),
                            Ok(None) => {}
                            Err(reason) => run.state.drops.add(reason, 1),
                        }
                    }
                    Ok(Inner::Probe { id, trial }) => answer(cx, run, link, id, trial, from),
                    Ok(Inner::Reply(reply)) => {
                        cx.events.push(cx.drops, Event::ProbeReply { peer: run.row.peer, at: cx.now, reply });
                    }
                    Ok(Inner::Stream) => {
                        let body = &datagram[HEADER_LEN + CONTENT_LEN..datagram.len() - TAG_LEN];
                        run.packets += 1;
                        run.packet_bytes += body.len() as u64;
                        if let Err(reason) = streams.push(cx, run.row.peer, body) {
                            run.state.drops.add(reason, 1);
                        }
                    }
                    Ok(Inner::Nothing) => {}
                    Err(reason) => run.state.drops.add(reason, 1),
                }
            }
        }
        if let Some(done) = run {
            done.end(cx);
        }
    }

    /// Writes the opened packets to the TUN, in order, those that belong together at once.
    fn deliver<T: Tun>(&mut self, cx: &Context<'_>, tun: &mut T) {
        let Self { slots, opened, joined, limits, takes_partial, .. } = self;
        let bytes = |packet: &Opened| {
            let place = usize::from(packet.place);
            let buf = if place < SLOTS { &slots[place].buf[..] } else { &joined[place - SLOTS][..] };
            &buf[packet.start as usize..packet.end as usize]
        };
        let mut rest = opened.as_slice();
        while let Some((first, others)) = rest.split_first() {
            let drops = &cx.table.peers[first.peer.0 as usize].state.drops;
            rest = others;
            let Ok(mut group) = Group::start(bytes(first), first.partial, *limits) else {
                drops.add(DropReason::InnerMalformed, 1);
                continue;
            };
            let mut parts = [IoSlice::new(&[]); Group::MAX_SEGMENTS + 2];
            parts[2] = IoSlice::new(group.payload(bytes(first)));
            while let Some((next, others)) = rest.split_first() {
                if next.peer != first.peer || !group.try_push(bytes(next), next.partial) {
                    break;
                }
                rest = others;
                parts[1 + group.count()] = IoSlice::new(group.payload(bytes(next)));
            }
            let count = group.count();
            let (vnet, header) = group.finish();
            let vnet = vnet.to_bytes();
            parts[0] = IoSlice::new(&vnet);
            parts[1] = IoSlice::new(header);
            match tun.send(&parts[..count + 2]) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::InvalidInput && (count > 1 || first.partial) => {
                    // The kernel does not take such packets after all: ask no more of it from now on.
                    if count > 1 {
                        *limits = CoalesceLimits::default();
                    } else {
                        *takes_partial = false;
                    }
                    let done = opened.len() - rest.len();
                    for packet in &opened[done - count..done] {
                        deliver_plain(cx, tun, bytes(packet), packet);
                    }
                }
                Err(_) => drops.add(DropReason::TunRefused, count as u64),
            }
        }
    }
}

/// Writes one packet by itself and without asking for any offload. Copies it: this happens once, when an offload that
/// seemed to be there turns out not to be.
fn deliver_plain<T: Tun>(cx: &Context<'_>, tun: &mut T, bytes: &[u8], packet: &Opened) {
    let len = ip::Ip::parse(bytes).map_or(bytes.len(), |ip| ip.total_len);
    let mut whole = [&VnetHeader::default().to_bytes(), &bytes[..len]].concat();
    let complete = !packet.partial || segment::finish_partial(&mut whole[VnetHeader::LEN..]).is_ok();
    if !complete || tun.send(&[IoSlice::new(&whole)]).is_err() {
        cx.table.peers[packet.peer.0 as usize].state.drops.add(DropReason::TunRefused, 1);
    }
}

/// Authenticates one datagram and says what it holds.
fn open_one<'a>(
    cx: &mut Context<'a>,
    run: &mut Run<'a>,
    datagram: &mut [u8],
    from: Place,
    ecn: Ecn,
    told: &mut [Told],
    source: &mut Option<(std::net::IpAddr, PeerId)>,
) -> Result<Inner, DropReason> {
    let opened = run.opener.open(datagram).map_err(reason)?;
    let (len, end) = (datagram.len(), datagram.len() - TAG_LEN);
    let plaintext = &mut datagram[HEADER_LEN..end];
    if run.row.session.protocol() == Protocol::ShadowMesh && Control::is_trial(plaintext) {
        return match Control::parse(plaintext) {
            Some(Control::TrialRequest { id }) => Ok(Inner::Probe { id, trial: true }),
            Some(Control::TrialReply(reply)) => Ok(Inner::Reply(reply)),
            _ => Err(DropReason::InnerMalformed),
        };
    }
    run.datagrams += 1;
    run.bytes += len as u64;
    if opened.newest {
        report(cx, run.row, from, &mut told[run.row.peer.0 as usize]);
    }
    let (skip, partial) = match run.row.session.protocol() {
        Protocol::WireGuard if plaintext.is_empty() => return Ok(Inner::Nothing),
        Protocol::WireGuard => (0, false),
        Protocol::ShadowMesh => match plaintext.first().copied().and_then(Content::parse) {
            Some(Content::Padding) => return Ok(Inner::Nothing),
            Some(Content::Ip) => (CONTENT_LEN, false),
            Some(Content::IpPartial) => (CONTENT_LEN, true),
            Some(Content::Part) => return Ok(Inner::Part { counter: opened.counter }),
            Some(Content::Stream) => return Ok(Inner::Stream),
            Some(Content::Control) => {
                return match Control::parse(plaintext) {
                    Some(Control::ProbeRequest { id }) => Ok(Inner::Probe { id, trial: false }),
                    Some(Control::ProbeReply(reply)) => Ok(Inner::Reply(reply)),
                    _ => Err(DropReason::InnerMalformed),
                };
            }
            None => return Err(DropReason::InnerMalformed),
        },
    };
    admit(cx, run, &mut plaintext[skip..], ecn, source)?;
    Ok(Inner::Packet { start: HEADER_LEN + skip, partial })
}

/// Lets an authentic packet in if it comes from an address of its peer, and counts it.
#[inline]
fn admit<'a>(
    cx: &Context<'a>,
    run: &mut Run<'a>,
    packet: &mut [u8],
    ecn: Ecn,
    source: &mut Option<(std::net::IpAddr, PeerId)>,
) -> Result<(), DropReason> {
    let address = ip::source(packet).ok_or(DropReason::InnerMalformed)?;
    let owner = match *source {
        Some((last, owner)) if last == address => Some(owner),
        _ => cx.table.routes.lookup(address),
    };
    if owner != Some(run.row.peer) {
        return Err(DropReason::SourceNotAllowed);
    }
    *source = Some((address, run.row.peer));
    if ecn != Ecn::NotEct && !ip::decapsulate_ecn(ecn, packet) {
        return Err(DropReason::EcnMarked);
    }
    run.packets += 1;
    run.packet_bytes += packet.len() as u64;
    Ok(())
}

/// Takes a part of a packet. Returns the packet, and whether its transport checksum is partial, if it is complete now.
#[cold]
fn join<'a>(
    cx: &Context<'a>,
    parts: &mut Parts,
    run: &mut Run<'a>,
    plaintext: &[u8],
    counter: u64,
    ecn: Ecn,
    source: &mut Option<(std::net::IpAddr, PeerId)>,
) -> Result<Option<(Buf, bool)>, DropReason> {
    let (part, bytes) = Part::parse(plaintext).ok_or(DropReason::InnerMalformed)?;
    let first = counter.checked_sub(part.index.into()).ok_or(DropReason::InnerMalformed)?;
    let whole = Whole { peer: run.row.peer, receiver: run.receiver, lane: run.lane, first };
    let Some((mut packet, ecn)) = parts.take(cx, whole, part, bytes, ecn)? else { return Ok(None) };
    admit(cx, run, &mut packet, ecn, source)?;
    Ok(Some((packet, part.partial)))
}

/// Makes a partial checksum a full one where the TUN device wants that. Returns whether it did.
#[inline]
fn completes(takes_partial: bool, packet: &mut [u8]) -> bool {
    !takes_partial && segment::finish_partial(packet).is_ok()
}

/// Tells the node of a session's first use and of a peer's new address, once each.
fn report(cx: &mut Context<'_>, row: &SessionRow, from: Place, told: &mut Told) {
    let peer = row.peer;
    let published = &cx.table.peers[peer.0 as usize];
    // Where the peer is comes first: whoever confirms a session is then known to be there.
    // Where nothing depends on our own address, the operating system chooses it; that is no news.
    let elsewhere = published.local.is_some() && from.local.is_some() && published.local != from.local;
    if published.endpoint != Some(from.remote) || elsewhere {
        let fresh = |at| cx.now < at + REPORT_AGAIN;
        if !told.endpoint.is_some_and(|(place, at)| place == from && fresh(at)) {
            told.endpoint = Some((from, cx.now));
            let Place { remote: endpoint, local } = from;
            cx.events.push(cx.drops, Event::Roamed { peer, endpoint, local });
        }
    }
    let local_index = row.session.local_index();
    let in_use = published.session.as_ref().is_some_and(|session| session.local_index() == local_index);
    let fresh = |at| cx.now < at + REPORT_AGAIN;
    if !in_use && !told.session.is_some_and(|(index, at)| index == local_index && fresh(at)) {
        told.session = Some((local_index, cx.now));
        let Place { remote: endpoint, local } = from;
        cx.events.push(cx.drops, Event::SessionConfirmed { peer, local_index, endpoint, local });
    }
}

/// Answers a probe on the spot: the round-trip time is then the path's, and not that of a queue in this process.
fn answer<L: Link>(cx: &mut Context<'_>, run: &Run<'_>, link: &mut L, id: u64, trial: bool, to: Place) {
    let sealer = run.row.session.sealer(cx.lane);
    let Ok(counter) = sealer.reserve(1) else { return };
    let reply = ProbeReply {
        id,
        datagrams: run.state.rx_datagrams.load(Relaxed) + run.datagrams,
        bytes: run.state.rx_datagram_bytes.load(Relaxed) + run.bytes,
        clock_us: cx.now.saturating_duration_since(cx.start).as_micros() as u64,
    };
    let mut datagram = [0; PROBE_BYTES];
    let reply = if trial { Control::TrialReply(reply) } else { Control::ProbeReply(reply) };
    datagram[HEADER_LEN..][..Control::LEN].copy_from_slice(&reply.to_bytes());
    sealer.seal(counter, &mut datagram);
    let Place { remote: Endpoint { carrier, address }, local: source } = to;
    let transmit =
        Transmit { to: address, ecn: Ecn::NotEct, segment_size: datagram.len(), contents: &datagram };
    // A full link loses the answer; the next probe gets its own.
    if link.send_via(Via { carrier, source }, &transmit).is_ok() {
        run.state.tx_datagrams.fetch_add(u64::from(!trial), Relaxed);
        run.state.last_sent.set(cx.start, cx.now);
    }
}

/// What is not data is the node's business.
fn hand_to_node(cx: &mut Context<'_>, from: Place, message: &[u8]) {
    if handshake::classify(message).is_none() || message.len() > Class::SMALL_BYTES {
        cx.drops.add(DropReason::UnknownMessage, 1);
        return;
    }
    let Some(mut buf) = cx.pool.take_spare(Class::Small) else {
        cx.drops.add(DropReason::HandshakeBacklog, 1);
        return;
    };
    buf.storage_mut()[..message.len()].copy_from_slice(message);
    buf.commit(0..message.len());
    let Place { remote: from, local } = from;
    cx.events.push(cx.drops, Event::Handshake { from, local, message: buf });
}
