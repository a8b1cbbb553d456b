//! Packets built by hand, and the checksum as RFC 1071 defines it: an oracle that shares no code with the crate.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use packet::{Group, SuperPacket, VnetHeader};
use proptest::test_runner::{Config, RngSeed};

/// The same cases in every run.
pub fn config(cases: u32) -> Config {
    Config { cases, rng_seed: RngSeed::Fixed(0x5eed), failure_persistence: None, ..Config::default() }
}

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;
pub const URG: u8 = 0x20;
pub const ECE: u8 = 0x40;
pub const CWR: u8 = 0x80;

/// A TCP or UDP packet, field by field.
#[derive(Clone, Debug)]
pub struct Sketch {
    pub v6: bool,
    pub tcp: bool,
    pub src: u8,
    pub dst: u8,
    pub src_port: u16,
    pub dst_port: u16,
    pub tos: u8,
    pub ttl: u8,
    pub id: u16,
    pub dont_fragment: bool,
    pub sequence: u32,
    pub acknowledgement: u32,
    pub flags: u8,
    pub window: u16,
    /// A multiple of 4 bytes, at most 40.
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Sketch {
    pub fn tcp() -> Self {
        Self {
            v6: false,
            tcp: true,
            src: 1,
            dst: 2,
            src_port: 40_000,
            dst_port: 443,
            tos: 0,
            ttl: 64,
            id: 7,
            dont_fragment: true,
            sequence: 1_000,
            acknowledgement: 77,
            flags: ACK,
            window: 512,
            options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
            payload: pattern(100),
        }
    }

    pub fn udp() -> Self {
        Self { tcp: false, options: Vec::new(), flags: 0, ..Self::tcp() }
    }

    pub fn v6(self) -> Self {
        Self { v6: true, ..self }
    }

    pub fn ip_len(&self) -> usize {
        if self.v6 { 40 } else { 20 }
    }

    pub fn header_len(&self) -> usize {
        self.ip_len() + if self.tcp { 20 + self.options.len() } else { 8 }
    }

    /// The packet with a full checksum.
    pub fn full(&self) -> Vec<u8> {
        let mut bytes = self.without_checksum();
        let at = self.ip_len() + self.checksum_offset();
        let sum = naive(&[self.pseudo_header(&bytes), bytes[self.ip_len()..].to_vec()].concat());
        let full = if sum == 0xffff { 0xffff } else { !sum };
        bytes[at..at + 2].copy_from_slice(&full.to_be_bytes());
        bytes
    }

    /// The packet as a kernel with checksum offload hands it over.
    pub fn partial(&self) -> Vec<u8> {
        let mut bytes = self.without_checksum();
        let at = self.ip_len() + self.checksum_offset();
        let sum = naive(&self.pseudo_header(&bytes));
        bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    /// The virtio-net header that goes with [`partial`](Self::partial) when it is cut into `gso_size`.
    pub fn vnet(&self, gso_size: u16) -> VnetHeader {
        use packet::GsoType::{TcpV4, TcpV6, UdpL4};
        VnetHeader {
            needs_checksum: true,
            gso_type: match (self.tcp, self.v6) {
                (true, false) => TcpV4,
                (true, true) => TcpV6,
                (false, _) => UdpL4,
            },
            gso_ecn: self.flags & CWR != 0,
            hdr_len: self.header_len() as u16,
            gso_size,
            csum_start: self.ip_len() as u16,
            csum_offset: self.checksum_offset() as u16,
        }
    }

    pub fn checksum_offset(&self) -> usize {
        if self.tcp { 16 } else { 6 }
    }

    fn pseudo_header(&self, bytes: &[u8]) -> Vec<u8> {
        let addresses = if self.v6 { &bytes[8..40] } else { &bytes[12..20] };
        let length = (bytes.len() - self.ip_len()) as u32;
        let protocol = if self.tcp { 6 } else { 17 };
        [addresses, &length.to_be_bytes(), &[0, 0, 0, protocol]].concat()
    }

    fn without_checksum(&self) -> Vec<u8> {
        let total = self.header_len() + self.payload.len();
        let mut bytes = Vec::with_capacity(total);
        let protocol = if self.tcp { 6 } else { 17 };
        if self.v6 {
            bytes.extend([0x60 | self.tos >> 4, self.tos << 4, 0xab, 0xcd]);
            bytes.extend(((total - 40) as u16).to_be_bytes());
            bytes.extend([protocol, self.ttl]);
            for last in [self.src, self.dst] {
                bytes.extend([0xfd, 0, 0x12, 0x34, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, last]);
            }
        } else {
            bytes.extend([0x45, self.tos]);
            bytes.extend((total as u16).to_be_bytes());
            bytes.extend(self.id.to_be_bytes());
            bytes.extend([if self.dont_fragment { 0x40 } else { 0 }, 0, self.ttl, protocol, 0, 0]);
            bytes.extend([10, 0, 0, self.src, 10, 0, 0, self.dst]);
            let checksum = !naive(&bytes);
            bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        bytes.extend(self.src_port.to_be_bytes());
        bytes.extend(self.dst_port.to_be_bytes());
        if self.tcp {
            bytes.extend(self.sequence.to_be_bytes());
            bytes.extend(self.acknowledgement.to_be_bytes());
            bytes.extend([(((20 + self.options.len()) / 4) << 4) as u8, self.flags]);
            bytes.extend(self.window.to_be_bytes());
            bytes.extend([0; 4]);
            bytes.extend(&self.options);
        } else {
            bytes.extend(((8 + self.payload.len()) as u16).to_be_bytes());
            bytes.extend([0; 2]);
        }
        bytes.extend(&self.payload);
        bytes
    }
}

/// Bytes that differ from one place to the next.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 251) as u8).collect()
}

/// The ones' complement sum, word by word, with an end-around carry after each.
pub fn naive(data: &[u8]) -> u16 {
    let mut sum = 0_u16;
    for pair in data.chunks(2) {
        let word = u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]);
        let (added, carry) = sum.overflowing_add(word);
        sum = added + u16::from(carry);
    }
    sum
}

/// The IPv4 header checksum and the full transport checksum are right.
pub fn checksums_are_valid(packet: &[u8]) -> bool {
    let v6 = packet[0] >> 4 == 6;
    let (ip_len, addresses, protocol) = if v6 {
        (40, &packet[8..40], packet[6])
    } else {
        (usize::from(packet[0] & 0xf) * 4, &packet[12..20], packet[9])
    };
    let length = (packet.len() - ip_len) as u32;
    let covered = [addresses, &length.to_be_bytes(), &[0, 0, 0, protocol], &packet[ip_len..]].concat();
    (v6 || naive(&packet[..ip_len]) == 0xffff) && naive(&covered) == 0xffff
}

/// Cuts a super-packet the way the forwarder does, checksums still partial.
pub fn cut(plan: &SuperPacket, packet: &[u8]) -> Vec<Vec<u8>> {
    let mut header = packet[..plan.header_len()].to_vec();
    (0..plan.segment_count())
        .map(|index| {
            // The header of one segment serves as the copy that the next is patched from.
            plan.patch_header(index, &mut header);
            [&header, &packet[plan.payload_range(index)]].concat()
        })
        .collect()
}

/// What is written to the TUN.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    pub vnet: VnetHeader,
    pub packet: Vec<u8>,
    pub count: usize,
}

/// Coalesces packets the way the forwarder does.
pub fn coalesce(packets: &[(Vec<u8>, bool)], limits: packet::CoalesceLimits) -> Vec<Written> {
    let mut written = Vec::new();
    let mut rest = packets.iter().peekable();
    while let Some((first, partial)) = rest.next() {
        let mut group = Group::start(first, *partial, limits).expect("a packet");
        let mut payload = group.payload(first).to_vec();
        while let Some((next, _)) = rest.next_if(|(next, partial)| group.try_push(next, *partial)) {
            payload.extend(group.payload(next));
        }
        let (count, total_len) = (group.count(), group.total_len());
        let (vnet, header) = group.finish();
        let packet = [header, &payload].concat();
        assert_eq!(packet.len(), total_len);
        written.push(Written { vnet, packet, count });
    }
    written
}
