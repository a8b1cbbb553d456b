//! Writes the seeds of the fuzz corpora: `cargo run -p hostile --example seeds`, from anywhere in the repository.
//!
//! Files that a fuzzer found stay where they are; only the seeds, which have names that people can read, are written
//! again.

mod configs;
mod kcp_segments;
mod kcptun;
mod mdns_messages;
mod mdns_names;
mod mdns_steps;
mod messages;
mod packets;
mod proxies;
mod segments;

use std::fs;
use std::path::Path;

use packet::GsoType;
use packets::Draft;

type Seeds = Vec<(&'static str, Vec<u8>)>;

fn main() {
    write("super_packet", super_packets());
    write("coalescing", trains());
    write("handshake_messages", messages::handshakes());
    write("handshake_sequences", messages::sequences());
    write("data_packets", messages::data_packets());
    write("config", configs::all());
    write("socks5", proxies::socks5());
    write("http_connect", proxies::http());
    write("proxy_request", proxies::requests());
    write("fake_tcp", segments::packets());
    write("tcp_frame", segments::streams());
    write("kcp_segments", kcp_segments::all());
    write("smux_frames", kcptun::smux());
    write("fec_groups", kcptun::fec());
    write("kcptun_datagrams", kcptun::datagrams());
    write("mdns_message", mdns_messages::all());
    write("mdns_names", mdns_names::all());
    write("mdns_engine", mdns_steps::all());
}

fn write(target: &str, seeds: Seeds) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    fs::create_dir_all(&directory).expect("the corpus directory can be made");
    for (name, bytes) in seeds {
        fs::write(directory.join(name), &bytes).expect("a seed can be written");
        (hostile::target(target).expect("a target of that name").run)(&bytes);
    }
}

fn super_packets() -> Seeds {
    vec![
        ("tcp4-three-segments", Draft::tcp(4).payload(320).gso(GsoType::TcpV4, 128).with_vnet()),
        ("tcp4-fin-push-cwr", Draft::tcp(4).flags(0x99).payload(250).gso(GsoType::TcpV4, 100).with_vnet()),
        (
            "tcp4-may-fragment",
            Draft::tcp(4).may_fragment(0xfffe).payload(500).gso(GsoType::TcpV4, 99).with_vnet(),
        ),
        ("tcp4-options", Draft::tcp(4).tcp_options(20).payload(301).gso(GsoType::TcpV4, 100).with_vnet()),
        ("tcp6-odd-last", Draft::tcp(6).payload(333).gso(GsoType::TcpV6, 110).with_vnet()),
        ("udp4-uso", Draft::udp(4).payload(410).gso(GsoType::UdpL4, 100).with_vnet()),
        ("udp6-uso-one-byte-last", Draft::udp(6).payload(201).gso(GsoType::UdpL4, 100).with_vnet()),
        ("tcp4-partial-checksum", Draft::tcp(4).payload(60).with_vnet()),
        ("udp6-partial-checksum", Draft::udp(6).payload(60).with_vnet()),
        ("tcp4-headers-only", Draft::tcp(4).payload(0).gso(GsoType::TcpV4, 100).with_vnet()),
        ("whole-packet-no-offload", [vec![0; 10], Draft::udp(4).payload(30).full()].concat()),
        ("segment-size-one", Draft::tcp(4).payload(40).gso(GsoType::TcpV4, 1).with_vnet()),
    ]
}

/// The input of `coalescing`: packets with their lengths before them.
fn train(partial: bool, ecn: u8, packets: &[Vec<u8>]) -> Vec<u8> {
    let mut input = vec![u8::from(partial), ecn];
    for packet in packets {
        input.extend_from_slice(&(packet.len() as u16).to_be_bytes());
        input.extend_from_slice(packet);
    }
    input
}

fn trains() -> Seeds {
    let run = |draft: Draft, partial: bool| -> Vec<Vec<u8>> {
        (0..4)
            .map(|index| draft.clone().payload(96).nth(index, 96))
            .map(|d| if partial { d.partial() } else { d.full() })
            .collect()
    };
    let mut padded = run(Draft::tcp(4), true);
    for packet in &mut padded {
        packet.resize(packet.len().next_multiple_of(16), 0);
    }
    let mut corrupted = run(Draft::tcp(4), false);
    corrupted[1][60] ^= 1;
    let mut mixed = run(Draft::tcp(6), true);
    mixed.insert(2, Draft::udp(4).payload(20).partial());
    let mut reordered = run(Draft::tcp(4), true);
    reordered.swap(1, 2);
    let mut pushed = run(Draft::tcp(4), true);
    pushed[2] = Draft::tcp(4).flags(0x18).payload(96).nth(2, 96).partial();
    vec![
        ("tcp4-partial", train(true, 0, &run(Draft::tcp(4), true))),
        ("tcp4-full", train(false, 0, &run(Draft::tcp(4), false))),
        ("tcp6-partial", train(true, 2, &run(Draft::tcp(6), true))),
        ("udp4-full", train(false, 0, &run(Draft::udp(4), false))),
        ("udp6-partial", train(true, 1, &run(Draft::udp(6), true))),
        ("tcp4-congestion", train(true, 3, &run(Draft::tcp(4).ecn(2), true))),
        ("tcp4-congestion-not-capable", train(true, 3, &run(Draft::tcp(4), true))),
        ("padded", train(true, 0, &padded)),
        ("one-corrupted", train(false, 0, &corrupted)),
        ("two-flows", train(true, 0, &mixed)),
        ("reordered", train(true, 0, &reordered)),
        ("push-in-the-middle", train(true, 0, &pushed)),
        ("fragment", train(false, 0, &[Draft::udp(4).fragment().payload(80).full()])),
        ("keepalive-and-noise", train(true, 0, &[vec![], vec![0; 40], vec![0x45; 20], vec![0x60; 60]])),
    ]
}
