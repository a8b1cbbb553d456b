//! What applications send through the tunnel, and the check that exactly that comes out.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use crate::inner::{self, Segment, TCP, TooBig, Tuple, UDP, flags};
use crate::world::NodeId;

/// Bytes of marker, flow and sequence number that start the payload of every UDP datagram.
pub const UDP_PAYLOAD_MIN: usize = 16;

/// One flow of an application: a 5-tuple from one node to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowId(pub(crate) usize);

/// How a flow has fared. Counts are packets after segmentation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowReport {
    /// Taken by the TUN device's queue.
    pub sent: u64,
    /// Refused by the TUN device's queue: full, or the device is down.
    pub refused: u64,
    /// Received, intact.
    pub received: u64,
    /// Received marked as having met congestion.
    pub marked: u64,
    /// The longest time without a packet between two received ones.
    pub gap: Duration,
    /// When the last packet was received, world time.
    pub last_at: Option<Duration>,
    /// The packet size that fits, as the sender was told last by ICMP.
    pub told_mtu: Option<u32>,
    /// How often it was told.
    pub told: u64,
}

impl FlowReport {
    /// Packets that were sent and have not arrived.
    pub fn missing(&self) -> u64 {
        self.sent - self.received
    }
}

/// Traffic that a flow sends by itself: see [`World::generate`](crate::World::generate).
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Payload bytes a tick.
    pub bytes: usize,
    /// Cut into segments of so many payload bytes by the segmentation offload; `None`: one packet a tick.
    pub segment_bytes: Option<u16>,
    /// Time between ticks.
    pub every: Duration,
    /// Ticks.
    pub ticks: u64,
}

#[derive(Debug)]
struct Flow {
    from: NodeId,
    to: NodeId,
    tuple: Tuple,
    protocol: u8,
    /// The next UDP sequence number, or the next TCP stream offset.
    next: u32,
    /// All that was sent, by sequence number or offset.
    sent: BTreeMap<u32, Sent>,
    last_received: Option<u32>,
    /// TCP: the ranges of bytes that have arrived, start and end.
    arrived: BTreeMap<u32, u32>,
    report: FlowReport,
}

#[derive(Debug)]
struct Sent {
    len: u16,
    flags: u8,
    /// Bytes received. TCP may arrive cut in other places than it was sent.
    received: u16,
}

impl Flow {
    /// Takes a datagram, which arrives as it was sent, once. Returns 1, for the piece received.
    fn take_datagram(&mut self, number: u32, segment: &Segment) -> Result<u64, String> {
        let sent = self.sent.get_mut(&number).ok_or("never sent")?;
        if usize::from(sent.len) != segment.payload.len() {
            return Err("the payload was changed: its length".into());
        }
        if std::mem::replace(&mut sent.received, sent.len) > 0 {
            return Err("received twice".into());
        }
        Ok(1)
    }

    /// Takes a segment of the stream, each byte of which arrives once, with a push where the sender pushed. Returns how
    /// many of the pieces that were sent are now complete.
    fn take_bytes(&mut self, start: u32, segment: &Segment) -> Result<u64, String> {
        let end = start + segment.payload.len() as u32;
        if self.arrived.range(..end).next_back().is_some_and(|(_, &arrived)| arrived > start) {
            return Err("received twice".into());
        }
        self.arrived.insert(start, end);
        let (mut completed, mut at, mut pushed) = (0, start, 0);
        while at < end {
            let (&first, sent) = self.sent.range_mut(..=at).next_back().ok_or("never sent")?;
            let piece_end = first + u32::from(sent.len);
            if piece_end <= at {
                return Err("never sent".into());
            }
            let until = piece_end.min(end);
            sent.received += (until - at) as u16;
            completed += u64::from(sent.received == sent.len);
            pushed = if until == piece_end { sent.flags & flags::PSH } else { 0 };
            at = until;
        }
        if segment.flags != flags::ACK | pushed {
            return Err(format!("flags {:02x}, not {:02x}", segment.flags, flags::ACK | pushed));
        }
        Ok(completed)
    }
}

/// Everything that was ever sent, and what has arrived of it.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// In every payload, so that plaintext can be recognised wherever it turns up.
    pub(crate) marker: [u8; 8],
    flows: Vec<Flow>,
    by_tuple: HashMap<(IpAddr, IpAddr, u16, u16, u8), usize>,
    /// Packets sent byte by byte, with how often they may still arrive.
    raw: HashMap<Vec<u8>, u64>,
}

/// An outgoing packet that is entered in the ledger once the TUN queue has taken it.
#[derive(Debug)]
pub(crate) struct Draft {
    flow: usize,
    pieces: Vec<(u32, Sent)>,
    next: u32,
    /// vnet header and packet.
    pub(crate) bytes: Vec<u8>,
}

impl Ledger {
    pub(crate) fn new(marker: [u8; 8]) -> Self {
        Self { marker, flows: Vec::new(), by_tuple: HashMap::new(), raw: HashMap::new() }
    }

    pub(crate) fn open(&mut self, from: NodeId, to: NodeId, protocol: u8, mut tuple: Tuple) -> FlowId {
        let id = self.flows.len();
        tuple.src_port = 10_000 + id as u16;
        let key = (tuple.src, tuple.dst, tuple.src_port, tuple.dst_port, protocol);
        self.by_tuple.insert(key, id);
        self.flows.push(Flow {
            from,
            to,
            tuple,
            protocol,
            next: 0,
            sent: BTreeMap::new(),
            last_received: None,
            arrived: BTreeMap::new(),
            report: FlowReport::default(),
        });
        FlowId(id)
    }

    pub(crate) fn report(&self, flow: FlowId) -> FlowReport {
        self.flows[flow.0].report
    }

    pub(crate) fn sender(&self, flow: FlowId) -> NodeId {
        self.flows[flow.0].from
    }

    /// Writes the next packet of a flow: `bytes` of payload, cut into segments of `segment_bytes`.
    pub(crate) fn draft(&self, id: FlowId, bytes: usize, segment_bytes: Option<u16>) -> Draft {
        let flow = &self.flows[id.0];
        let segment = segment_bytes.map_or(bytes, usize::from).clamp(1, bytes.max(1));
        let mut payload = Vec::with_capacity(bytes);
        let mut pieces = Vec::new();
        let mut next = flow.next;
        while payload.len() < bytes {
            let len = segment.min(bytes - payload.len());
            self.fill(id.0, next, len, &mut payload);
            let last = payload.len() == bytes;
            let tcp_flags = flags::ACK | if last { flags::PSH } else { 0 };
            let flags = if flow.protocol == TCP { tcp_flags } else { 0 };
            pieces.push((next, Sent { len: len as u16, flags, received: 0 }));
            next += if flow.protocol == TCP { len as u32 } else { 1 };
        }
        let bytes = match (flow.protocol, segment_bytes) {
            (TCP, _) => inner::tcp(&flow.tuple, flow.next, flags::ACK | flags::PSH, &payload, segment as u16),
            (_, Some(size)) if pieces.len() > 1 => inner::udp_super(&flow.tuple, &payload, size),
            _ => inner::udp(&flow.tuple, &payload),
        };
        Draft { flow: id.0, pieces, next, bytes }
    }

    /// Enters a packet that the TUN queue has taken, or refused.
    pub(crate) fn enter(&mut self, draft: Draft, taken: bool) {
        let flow = &mut self.flows[draft.flow];
        let count = draft.pieces.len() as u64;
        if taken {
            flow.next = draft.next;
            flow.sent.extend(draft.pieces);
            flow.report.sent += count;
        } else {
            flow.report.refused += count;
        }
    }

    /// Allows a packet written by hand (without vnet header) to arrive.
    pub(crate) fn enter_raw(&mut self, packet: &[u8]) {
        *self.raw.entry(packet.to_vec()).or_default() += 1;
    }

    /// Whether the packet (without vnet header) was written by hand; it may then arrive once less.
    pub(crate) fn take_raw(&mut self, packet: &[u8]) -> bool {
        self.raw.get_mut(packet).is_some_and(|left| {
            let allowed = *left > 0;
            *left = left.saturating_sub(1);
            allowed
        })
    }

    /// Checks one segment that reached `node`, and returns who sent it.
    pub(crate) fn receive(
        &mut self,
        now: Duration,
        node: NodeId,
        segment: &Segment,
        may_reorder: impl Fn(NodeId, NodeId) -> bool,
    ) -> Result<NodeId, String> {
        let tuple = segment.tuple;
        let key = (tuple.src, tuple.dst, tuple.src_port, tuple.dst_port, segment.protocol);
        let id = *self.by_tuple.get(&key).ok_or_else(|| format!("{tuple:?} was sent by nobody"))?;
        let number = match segment.protocol {
            UDP => {
                let bytes = segment.payload.get(12..16).ok_or("payload shorter than its header")?;
                u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
            }
            _ => segment.seq,
        };
        let mut expected = Vec::new();
        self.fill(id, number, segment.payload.len(), &mut expected);
        let flow = &mut self.flows[id];
        if flow.to != node {
            return Err(format!("flow {id} is for {:?}, not for {node:?}", flow.to));
        }
        if expected != segment.payload {
            return Err(format!("flow {id}, number {number}: the payload was changed"));
        }
        let completed = match segment.protocol {
            TCP => flow.take_bytes(number, segment),
            _ => flow.take_datagram(number, segment),
        };
        let completed = completed.map_err(|why| format!("flow {id}, number {number}: {why}"))?;
        if flow.last_received.is_some_and(|last| last > number) && !may_reorder(flow.from, flow.to) {
            return Err(format!(
                "flow {id}: {number} after {:?} on a path that keeps order",
                flow.last_received
            ));
        }
        flow.last_received = flow.last_received.max(Some(number));
        let report = &mut flow.report;
        report.received += completed;
        report.marked += u64::from(tuple.ecn == packet::Ecn::Ce);
        report.gap = report.gap.max(now.saturating_sub(report.last_at.unwrap_or(now)));
        report.last_at = Some(now);
        Ok(flow.from)
    }

    /// Notes that the sender of a packet was told it is too large.
    pub(crate) fn tell(&mut self, node: NodeId, told: &TooBig) -> Result<(), String> {
        let TooBig { mtu, tuple, protocol } = *told;
        let key = (tuple.src, tuple.dst, tuple.src_port, tuple.dst_port, protocol);
        // What was written by hand has no flow.
        let Some(&id) = self.by_tuple.get(&key) else { return Ok(()) };
        let flow = &mut self.flows[id];
        if flow.from != node {
            return Err(format!("flow {id} is sent by {:?}, not by {node:?}", flow.from));
        }
        flow.report.told_mtu = Some(mtu);
        flow.report.told += 1;
        Ok(())
    }

    /// Payload is a function of flow and number, and in every 24 bytes of it stands the marker once.
    fn fill(&self, flow: usize, number: u32, len: usize, out: &mut Vec<u8>) {
        let end = out.len() + len;
        let (mut block, skip, salt) = if self.flows[flow].protocol == TCP {
            (u64::from(number) / 16, number as usize % 16, 0)
        } else {
            (0, 0, u64::from(number))
        };
        let mut first = skip;
        while out.len() < end {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&self.marker);
            if self.flows[flow].protocol == UDP && block == 0 {
                bytes[8..12].copy_from_slice(&(flow as u32).to_be_bytes());
                bytes[12..].copy_from_slice(&number.to_be_bytes());
            } else {
                bytes[8..].copy_from_slice(&mix((flow as u64) << 32 ^ salt, block).to_be_bytes());
            }
            out.extend_from_slice(&bytes[first..]);
            first = 0;
            block += 1;
        }
        out.truncate(end);
    }
}

/// The finaliser of `SplitMix64`: every input bit moves every output bit.
fn mix(a: u64, b: u64) -> u64 {
    let mut z = a.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(b);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use packet::Ecn;

    const A: NodeId = NodeId(0);
    const B: NodeId = NodeId(1);

    fn ledger(protocol: u8) -> (Ledger, FlowId) {
        let mut ledger = Ledger::new(*b"\x91marker\x17");
        let tuple = Tuple {
            src: "10.0.0.1".parse().unwrap(),
            dst: "10.0.0.2".parse().unwrap(),
            src_port: 0,
            dst_port: 9,
            ecn: Ecn::NotEct,
        };
        let flow = ledger.open(A, B, protocol, tuple);
        (ledger, flow)
    }

    fn sent(ledger: &mut Ledger, flow: FlowId, bytes: usize, segment: Option<u16>) -> Vec<Segment> {
        let draft = ledger.draft(flow, bytes, segment);
        let segments = inner::parse(&draft.bytes).unwrap();
        ledger.enter(draft, true);
        segments
    }

    #[test]
    fn what_was_sent_is_accepted_once() {
        for (protocol, segment) in [(UDP, None), (UDP, Some(100)), (TCP, Some(100))] {
            let (mut ledger, flow) = ledger(protocol);
            for segment in sent(&mut ledger, flow, 250, segment) {
                assert_eq!(ledger.receive(Duration::ZERO, B, &segment, |_, _| false), Ok(A));
                let twice = ledger.receive(Duration::ZERO, B, &segment, |_, _| false).unwrap_err();
                assert!(twice.contains("twice"), "{twice}");
            }
            assert_eq!(ledger.report(flow).missing(), 0);
        }
    }

    #[test]
    fn what_was_not_sent_like_that_is_refused() {
        let (mut ledger, flow) = ledger(UDP);
        let first = sent(&mut ledger, flow, 100, None).remove(0);
        let second = sent(&mut ledger, flow, 100, None).remove(0);
        let check = |ledger: &mut Ledger, node, segment: &Segment| {
            ledger.receive(Duration::ZERO, node, segment, |_, _| false).unwrap_err()
        };
        assert!(check(&mut ledger, A, &first).contains("not for"));
        let mut changed = first.clone();
        changed.payload[99] ^= 1;
        assert!(check(&mut ledger, B, &changed).contains("changed"));
        let mut foreign = first.clone();
        foreign.tuple.src_port = 1;
        assert!(check(&mut ledger, B, &foreign).contains("nobody"));
        assert_eq!(ledger.receive(Duration::ZERO, B, &second, |_, _| false), Ok(A));
        assert!(check(&mut ledger, B, &first).contains("keeps order"));
    }

    #[test]
    fn the_marker_is_in_every_24_bytes_of_every_payload() {
        for protocol in [UDP, TCP] {
            let (mut ledger, flow) = ledger(protocol);
            sent(&mut ledger, flow, 37, Some(37));
            for segment in sent(&mut ledger, flow, 500, Some(100)) {
                let found = |window: &[u8]| window.windows(8).any(|bytes| bytes == ledger.marker);
                assert!(segment.payload.windows(24).all(found));
            }
        }
    }
}
