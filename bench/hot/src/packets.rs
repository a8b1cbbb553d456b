//! Packet arithmetic: what is done to a train besides encrypting it.

use std::hint::black_box;

use packet::{
    Class, CoalesceLimits, Group, GsoType, Pool, PoolConfig, SuperPacket, VnetHeader, checksum, ip,
};

use crate::{Batch, Hot, done};

pub(crate) const HOT: &[Hot] = &[
    Hot {
        name: "segment",
        unit: "segment",
        what: "a TCP super-packet of 45 segments planned, each header copied and patched",
        prepare: segment,
    },
    Hot {
        name: "complete-checksum",
        unit: "segment",
        what: "the partial checksum of a segment of 1,400 bytes completed",
        prepare: complete_checksum,
    },
    Hot {
        name: "coalesce-partial",
        unit: "segment",
        what: "45 TCP segments with partial checksums put together",
        prepare: |batch| coalesce(batch, true),
    },
    Hot {
        name: "coalesce-full",
        unit: "segment",
        what: "the same with full checksums, which are verified",
        prepare: |batch| coalesce(batch, false),
    },
    Hot { name: "flow-hash", unit: "packet", what: "the lane of a TCP packet", prepare: flow_hash },
    Hot {
        name: "pool",
        unit: "buffer",
        what: "a buffer taken, 1,472 bytes of it used, and returned",
        prepare: pool,
    },
];

const GSO_SIZE: usize = 1_400;
pub(crate) const SEGMENTS: usize = 45;
const HEADER: usize = 52;

/// An IPv4/TCP super-packet with timestamps, as a kernel hands it over.
pub(crate) fn super_packet() -> (VnetHeader, Vec<u8>) {
    let total = HEADER + SEGMENTS * GSO_SIZE;
    let mut packet = vec![0x5a; total];
    packet[..20].copy_from_slice(&[0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    packet[2..4].copy_from_slice(&(total as u16).to_be_bytes());
    packet[20..32].copy_from_slice(&[0x9c, 0x40, 1, 0xbb, 0, 0, 0, 1, 0, 0, 0, 1]);
    packet[32..36].copy_from_slice(&[0x80, 0x10, 2, 0]);
    packet[38..40].fill(0);
    let vnet = VnetHeader {
        needs_checksum: true,
        gso_type: GsoType::TcpV4,
        gso_ecn: false,
        hdr_len: HEADER as u16,
        gso_size: GSO_SIZE as u16,
        csum_start: 20,
        csum_offset: 16,
    };
    (vnet, packet)
}

/// An IPv4/UDP packet with 200 bytes of payload, without a checksum (RFC 768).
pub(crate) fn small_packet() -> Vec<u8> {
    let mut packet = vec![0x5a; 228];
    packet[..20].copy_from_slice(&[0x45, 0, 0, 228, 0, 1, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    packet[20..28].copy_from_slice(&[0x9c, 0x40, 0x14, 0x51, 0, 208, 0, 0]);
    packet
}

fn plan(vnet: &VnetHeader, packet: &[u8]) -> SuperPacket {
    SuperPacket::parse(vnet, packet, packet.len()).expect("well-formed")
}

/// The segments of that super-packet, one after the other.
fn train(partial: bool) -> Vec<u8> {
    let (vnet, packet) = super_packet();
    let plan = plan(&vnet, &packet);
    let mut train = Vec::new();
    for index in 0..plan.segment_count() {
        let at = train.len();
        train.extend_from_slice(&packet[..plan.header_len()]);
        plan.patch_header(index, &mut train[at..]);
        train.extend_from_slice(&packet[plan.payload_range(index)]);
        if !partial {
            plan.complete_checksum(&mut train[at..]);
        }
    }
    train
}

fn segment(batch: usize) -> Batch {
    let (vnet, packet) = super_packet();
    let mut header = [0; HEADER];
    Box::new(move || {
        let mut segments = 0;
        for _ in 0..batch {
            let plan = plan(black_box(&vnet), black_box(&packet));
            for index in 0..plan.segment_count() {
                header.copy_from_slice(&packet[..HEADER]);
                plan.patch_header(index, black_box(&mut header));
                segments += 1;
            }
        }
        assert_eq!(segments, (batch * SEGMENTS) as u64);
        done(segments, packet)
    })
}

fn complete_checksum(batch: usize) -> Batch {
    let (vnet, packet) = super_packet();
    let plan = plan(&vnet, &packet);
    let mut train = train(true);
    Box::new(move || {
        let stride = HEADER + GSO_SIZE;
        for repetition in 0..batch {
            let at = repetition % SEGMENTS * stride;
            plan.complete_checksum(black_box(&mut train[at..at + stride]));
        }
        assert_ne!(checksum::sum(&train[..stride], 0), 0);
        done(batch as u64, train)
    })
}

fn coalesce(batch: usize, partial: bool) -> Batch {
    let train = train(partial);
    Box::new(move || {
        let mut segments = 0;
        for _ in 0..batch {
            let mut packets = black_box(&train).chunks(HEADER + GSO_SIZE);
            let first = packets.next().expect("a train has segments");
            let mut group = Group::start(first, partial, CoalesceLimits::ALL).expect("a packet");
            for packet in packets {
                assert!(group.try_push(packet, partial), "one train is one group");
            }
            segments += group.count() as u64;
            black_box(group.finish());
        }
        done(segments, train)
    })
}

fn flow_hash(batch: usize) -> Batch {
    let (_, packet) = super_packet();
    Box::new(move || {
        for _ in 0..batch {
            assert_ne!(black_box(ip::flow_hash(black_box(&packet))), 0);
        }
        done(batch as u64, packet)
    })
}

fn pool(batch: usize) -> Batch {
    let pool = Pool::new(PoolConfig { large: 0, small: 4 });
    Box::new(move || {
        for _ in 0..batch {
            let mut buf = pool.take(Class::Small).expect("all buffers are home");
            buf.commit(0..1_472);
            black_box(&buf);
        }
        done(batch as u64, pool)
    })
}
