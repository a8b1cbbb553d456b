//! A stranger on the same network sends whatever it likes.

use std::net::UdpSocket;
use std::time::Duration;

use os::netns::Netns;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use crate::lab::{self, Capture, Host, Node, SOON, Scratch, Spec, Steady, WIRE, send_raw, wait_for};

const UDP: u8 = 17;
const STRANGER: [u8; 4] = [192, 0, 2, 66];
/// Packets of the stranger between two looks: few enough for the socket's buffer.
const BURST: usize = 200;

fn is_ipv4_of(protocol: u8, packet: &[u8]) -> bool {
    packet.len() > 28 && packet[0] == 0x45 && packet[9] == protocol
}

/// A datagram that is none of any protocol, or looks like one of ours for a few bytes.
fn nonsense(rng: &mut ChaCha20Rng) -> Vec<u8> {
    let mut bytes = vec![0; rng.next_u32() as usize % 1_450];
    rng.fill_bytes(&mut bytes);
    if let Some(first) = bytes.first_mut()
        && rng.next_u32().is_multiple_of(2)
    {
        // Types of WireGuard are from 1 to 4; ours are near 16.
        *first = (rng.next_u32() % 32) as u8;
    }
    if bytes.len() >= 4 && rng.next_u32().is_multiple_of(2) {
        bytes[1..4].fill(0);
    }
    bytes
}

pub(crate) fn garbage_is_dropped_counted_and_never_answered() {
    let (left, right, stranger) = (Host::new(), Host::new(), Host::new());
    let _hub = Netns::bridge(&[(&left.netns, WIRE), (&right.netns, WIRE), (&stranger.netns, WIRE)]).unwrap();
    for (host, number) in [(&left, 1), (&right, 2), (&stranger, STRANGER[3])] {
        host.add_address(WIRE, &format!("192.0.2.{number}/24"));
    }
    let scratch = Scratch::new();
    let right_node = Node::start(&Spec::of_pair(2, None), &right, &scratch);
    let overheard = Capture::start(&right.netns, |packet| {
        is_ipv4_of(UDP, packet) && packet[12..16] == [192, 0, 2, 1] && packet[16..20] == [192, 0, 2, 2]
    });
    let _left_node = Node::start(&Spec::of_pair(1, Some("192.0.2.2:9443")), &left, &scratch);
    let steady = Steady::start(&left.netns, &right.netns, "10.77.0.2", Duration::from_millis(2));
    steady.wait_for_answers(200, SOON);
    // The whole conversation so far, as left sent it: the handshake first.
    let overheard =
        wait_for("its packets", SOON, || Some(overheard.packets()).filter(|packets| packets.len() > BURST));

    let to_stranger = Capture::start(&right.netns, |packet| {
        packet.len() >= 20 && packet[0] == 0x45 && packet[16..20] == STRANGER
    });
    let memory = right_node.memory();
    let before = right_node.status();
    let mut rng = ChaCha20Rng::seed_from_u64(77);
    let socket = stranger.netns.run(|| UdpSocket::bind("192.0.2.66:9443").unwrap()).unwrap();
    let mut sent = 0;
    let mut burst = |what: &str, datagrams: Vec<Vec<u8>>| {
        for datagram in &datagrams {
            socket.send_to(datagram, "192.0.2.2:9443").unwrap();
        }
        sent += datagrams.len() as u64;
        wait_for(what, SOON, || (right_node.status().drops() - before.drops() >= sent).then_some(()));
    };
    for _ in 0..100 {
        burst("nonsense is counted", (0..BURST).map(|_| nonsense(&mut rng)).collect());
    }
    // Initiations that were not made for us: one byte of a good one is another, and so the first MAC is wrong.
    let initiation = &overheard[0][28..];
    let wrong = (4..4 + BURST).map(|place| {
        let mut message = initiation.to_vec();
        message[place] ^= 0x10;
        message
    });
    burst("wrong initiations are counted", wrong.collect());
    for _ in 0..10 {
        // Data packets of the session: cut short, with a bit turned over, or with another receiver.
        let pick =
            |rng: &mut ChaCha20Rng| overheard[rng.next_u32() as usize % overheard.len()][28..].to_vec();
        let bent = (0..BURST).map(|number| {
            let mut datagram = pick(&mut rng);
            let place = rng.next_u32() as usize % datagram.len();
            match number % 3 {
                0 => datagram.truncate(place),
                1 => datagram[place] ^= 1 << (rng.next_u32() % 8),
                _ => datagram.push(0),
            }
            datagram
        });
        let bent: Vec<_> = bent.collect();
        burst("bent packets are counted", bent);
        // The same as they were, from the stranger's own address.
        let replays = (0..BURST).map(|_| pick(&mut rng)).collect();
        burst("replays are counted", replays);
    }
    // And with the sender's address on them, as whoever taps the wire can send them. Their checksums were still to be
    // computed when they were overheard; 0 means none.
    let mut spoofed = overheard[..BURST].to_vec();
    for packet in &mut spoofed {
        packet[26..28].fill(0);
    }
    let (drops, replayed) = (right_node.status().drops(), right_node.status().dropped("replayed"));
    send_raw(&stranger.netns, "192.0.2.2", spoofed.iter().map(Vec::as_slice));
    let all = || (right_node.status().drops() >= drops + BURST as u64).then_some(());
    wait_for("replays from the right address are counted", SOON, all);
    assert!(right_node.status().dropped("replayed") > replayed);

    let status = right_node.status();
    assert!(status.dropped("handshake_mac") >= BURST as u64, "{status:?}");
    for reason in ["unknown_message", "unknown_session", "forged", "replayed"] {
        assert!(status.dropped(reason) > before.dropped(reason), "{reason}: {status:?}");
    }
    assert_eq!(status.endpoint().as_deref(), Some("192.0.2.1:9443"), "nobody else moved the path");
    assert_eq!(to_stranger.packets(), Vec::<Vec<u8>>::new(), "not a byte for a stranger");
    let grown = right_node.memory().saturating_sub(memory);
    assert!(grown < 16 << 20, "{grown} bytes more");
    let report = steady.finish();
    assert_eq!((report.lost(), report.twice), (0, 0), "{report:?}");
    lab::transfer(&left.netns, &right.netns, "10.77.0.2", 10_000_000);
    assert_eq!(status.buffers_in_use(), 0);
}
