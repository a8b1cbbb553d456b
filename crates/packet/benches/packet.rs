//! The hot functions of the packet path, one at a time: `cargo bench -p packet`.

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use packet::{Class, CoalesceLimits, Ecn, Group, GsoType, Ip, Pool, PoolConfig, SuperPacket, VnetHeader};
use packet::{checksum, ip, segment};

fn main() {
    divan::main();
}

const GSO_SIZE: usize = 1_400;
const SEGMENTS: usize = 45;
const HEADER: usize = 52;

/// An IPv4/TCP super-packet of 45 segments of 1,400 bytes, with timestamps, as a kernel hands it over.
fn super_packet() -> (VnetHeader, Vec<u8>) {
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

/// The segments of that super-packet.
fn train(partial: bool) -> Vec<Vec<u8>> {
    let (vnet, packet) = super_packet();
    let plan = SuperPacket::parse(&vnet, &packet, packet.len()).expect("well-formed");
    (0..plan.segment_count())
        .map(|index| {
            let mut segment = packet[..plan.header_len()].to_vec();
            plan.patch_header(index, &mut segment);
            segment.extend(&packet[plan.payload_range(index)]);
            if !partial {
                plan.complete_checksum(&mut segment);
            }
            segment
        })
        .collect()
}

mod pool {
    use super::{Bencher, Class, Pool, PoolConfig, black_box};

    fn one(committed: usize) -> impl FnMut() {
        let pool = Pool::new(PoolConfig { large: 4, small: 4 });
        move || {
            let mut buf = pool.take(Class::Small).expect("one is free");
            buf.commit(0..black_box(committed));
            black_box(&buf);
        }
    }

    #[divan::bench]
    fn take_and_return(bencher: Bencher<'_, '_>) {
        bencher.bench_local(one(0));
    }

    #[divan::bench]
    fn take_and_return_1472_bytes_dirty(bencher: Bencher<'_, '_>) {
        bencher.bench_local(one(1_472));
    }

    #[divan::bench]
    fn clear_1472_bytes(bencher: Bencher<'_, '_>) {
        let mut storage = vec![0xff_u8; Class::SMALL_BYTES];
        bencher.bench_local(|| black_box(&mut storage)[..1_472].fill(0));
    }
}

mod sums {
    use super::{Bencher, BytesCount, black_box, checksum, segment, train};

    #[divan::bench(args = [20, 64, 128, 1_400, 65_535])]
    fn sum(bencher: Bencher<'_, '_>, len: usize) {
        let data = vec![0xa5; len];
        bencher
            .counter(BytesCount::new(len))
            .bench_local(|| checksum::fold(checksum::sum(black_box(&data), 0)));
    }

    #[divan::bench]
    fn finish_partial_1452_bytes(bencher: Bencher<'_, '_>) {
        let mut segment = train(true).remove(0);
        bencher
            .counter(BytesCount::new(segment.len()))
            .bench_local(|| segment::finish_partial(black_box(&mut segment)));
    }
}

mod headers {
    use super::{Bencher, Ecn, Ip, black_box, ip, train};

    #[divan::bench]
    fn parse_ipv4(bencher: Bencher<'_, '_>) {
        let packet = train(true).remove(0);
        bencher.bench_local(|| Ip::parse(black_box(&packet)));
    }

    #[divan::bench]
    fn destination(bencher: Bencher<'_, '_>) {
        let packet = train(true).remove(0);
        bencher.bench_local(|| ip::destination(black_box(&packet)));
    }

    #[divan::bench]
    fn flow_hash(bencher: Bencher<'_, '_>) {
        let packet = train(true).remove(0);
        bencher.bench_local(|| ip::flow_hash(black_box(&packet)));
    }

    #[divan::bench]
    fn decapsulate_ecn_ce(bencher: Bencher<'_, '_>) {
        let mut packet = train(true).remove(0);
        ip::set_ecn(&mut packet, Ecn::Ect0);
        bencher.bench_local(|| ip::decapsulate_ecn(black_box(Ecn::Ce), black_box(&mut packet)));
    }
}

mod trains {
    use super::{
        Bencher, CoalesceLimits, Group, HEADER, ItemsCount, SEGMENTS, SuperPacket, black_box, super_packet,
        train,
    };

    /// Plans the cut and writes all 45 headers; payloads stay where they are.
    #[divan::bench]
    fn segment_headers(bencher: Bencher<'_, '_>) {
        let (vnet, packet) = super_packet();
        let mut headers = [[0; HEADER]; SEGMENTS];
        bencher.counter(ItemsCount::new(SEGMENTS)).bench_local(|| {
            let plan =
                SuperPacket::parse(black_box(&vnet), black_box(&packet), packet.len()).expect("well-formed");
            for (index, header) in headers.iter_mut().enumerate() {
                header.copy_from_slice(&packet[..HEADER]);
                plan.patch_header(index, header);
            }
            black_box(&headers);
        });
    }

    /// Puts 45 segments together, without the checksum of the payload (partial) or with it.
    #[divan::bench(args = [true, false])]
    fn coalesce(bencher: Bencher<'_, '_>, partial: bool) {
        let segments = train(partial);
        bencher.counter(ItemsCount::new(SEGMENTS)).bench_local(|| {
            let (first, rest) = segments.split_first().expect("45 segments");
            let mut group =
                Group::start(black_box(first), partial, CoalesceLimits::ALL).expect("well-formed");
            let pushed = rest.iter().filter(|segment| group.try_push(black_box(segment), partial)).count();
            assert_eq!(pushed, SEGMENTS - 1);
            let (vnet, header) = group.finish();
            black_box((vnet, header.len()))
        });
    }

    /// A packet that nobody joins, as it ends a burst (PSH) or not.
    #[divan::bench(args = [true, false])]
    fn pass_alone(bencher: Bencher<'_, '_>, push: bool) {
        let mut packet = train(true).remove(0);
        packet[33] |= if push { 0x08 } else { 0 };
        bencher.bench_local(|| {
            let mut group = Group::start(black_box(&packet), true, CoalesceLimits::ALL).expect("well-formed");
            black_box(group.finish().0)
        });
    }
}
