//! UDP links over loopback, with the kernel of this machine.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use os::poll::{Events, Interest, Poller};
use os::udp::{BindError, UdpConfig, UdpLink, bind, path_mtu};
use packet::{Ecn, Link, RecvSlot, Transmit};

fn config(listen: &str) -> UdpConfig {
    UdpConfig {
        listen: listen.parse().unwrap(),
        workers: 1,
        send_buffer_bytes: 4 << 20,
        receive_buffer_bytes: 4 << 20,
        offload: true,
    }
}

fn link(listen: &str) -> UdpLink {
    bind(&config(listen)).unwrap().remove(0)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}

/// One received datagram.
#[derive(Debug, PartialEq)]
struct Datagram {
    bytes: Vec<u8>,
    from: SocketAddr,
    ecn: Ecn,
}

/// Receives until `len` bytes have come. Also returns how many messages of the kernel they were.
fn receive(link: &mut UdpLink, len: usize) -> (Vec<Datagram>, usize) {
    let poller = Poller::new().unwrap();
    poller.add(&*link, 0, Interest::READ).unwrap();
    let mut events = Events::with_capacity(1);
    let mut slots: Vec<RecvSlot> = (0..16).map(|_| RecvSlot::new(65_535)).collect();
    let (mut datagrams, mut messages, mut total) = (Vec::new(), 0, 0);
    while total < len {
        assert!(
            poller.wait(&mut events, Some(Duration::from_secs(10))).unwrap() > 0,
            "only {total} bytes came"
        );
        let count = link.recv(&mut slots).unwrap();
        messages += count;
        for slot in &slots[..count] {
            total += slot.len;
            for bytes in slot.buf[..slot.len].chunks(slot.segment_size.max(1)) {
                datagrams.push(Datagram { bytes: bytes.to_vec(), from: slot.from, ecn: slot.ecn });
            }
        }
    }
    (datagrams, messages)
}

/// Sends a train from one link to another and returns what came, having checked each datagram.
fn pass_train(
    from: &mut UdpLink,
    to: &mut UdpLink,
    at: SocketAddr,
    segment_size: usize,
    len: usize,
    ecn: Ecn,
) -> usize {
    let contents = pattern(len);
    let transmit = Transmit { to: at, ecn, segment_size, contents: &contents };
    assert_eq!(from.send(&transmit).unwrap(), len);
    let (datagrams, messages) = receive(to, len);
    let expected: Vec<_> = contents.chunks(segment_size).map(<[u8]>::to_vec).collect();
    assert_eq!(datagrams.iter().map(|d| d.bytes.clone()).collect::<Vec<_>>(), expected);
    let port = from.local_addr().unwrap().port();
    for datagram in datagrams {
        assert_eq!((datagram.ecn, datagram.from.port()), (ecn, port));
        assert_eq!(datagram.from.is_ipv4(), at.is_ipv4());
    }
    messages
}

#[test]
fn a_train_leaves_and_arrives_in_one_call_each() {
    for (address, len) in
        [("127.0.0.1:0", 40 * 1200), ("127.0.0.1:0", 39 * 1200 + 77), ("[::1]:0", 39 * 1200 + 1)]
    {
        let (mut a, mut b) = (link(address), link(address));
        let at = b.local_addr().unwrap();
        let messages = pass_train(&mut a, &mut b, at, 1200, len, Ecn::NotEct);
        if a.offloads().gso && b.offloads().gro {
            assert_eq!(messages, 1);
        }
    }
}

#[test]
fn without_offloads_the_same_train_arrives_as_datagrams() {
    let plain = || bind(&UdpConfig { offload: false, ..config("127.0.0.1:0") }).unwrap().remove(0);
    let (mut a, mut b) = (plain(), plain());
    assert!(!a.offloads().gso && !b.offloads().gro);
    let at = b.local_addr().unwrap();
    // More datagrams than one batch holds.
    assert_eq!(pass_train(&mut a, &mut b, at, 500, 99 * 500 + 3, Ecn::Ect0), 100);
}

#[test]
fn a_train_of_more_segments_than_the_kernel_takes_is_sent_in_parts() {
    let (mut a, mut b) = (link("127.0.0.1:0"), link("127.0.0.1:0"));
    let at = b.local_addr().unwrap();
    pass_train(&mut a, &mut b, at, 100, 500 * 100 + 9, Ecn::NotEct);
    assert_eq!(a.offloads().gso, link("127.0.0.1:0").offloads().gso, "a long train is no refusal");
}

#[test]
fn the_largest_train_fits_one_send() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (mut a, mut b) = (link(address), link(address));
        let at = b.local_addr().unwrap();
        pass_train(&mut a, &mut b, at, 1400, packet::MAX_DATAGRAM, Ecn::NotEct);
    }
}

#[test]
fn ecn_survives_on_both_families_of_a_dual_stack_socket() {
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let mut dual = link(listen);
        let port = dual.local_addr().unwrap().port();
        for (source, at) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1")] {
            let at = SocketAddr::new(at.parse().unwrap(), port);
            let mut single = link(source);
            for ecn in [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce] {
                pass_train(&mut single, &mut dual, at, 1000, 2500, ecn);
                let back = single.local_addr().unwrap();
                pass_train(&mut dual, &mut single, back, 1000, 2500, ecn);
            }
        }
    }
}

#[test]
fn a_second_instance_on_the_same_port_is_refused() {
    for (listen, workers) in [("127.0.0.1:0", 1), ("127.0.0.1:0", 2), ("0.0.0.0:0", 2)] {
        let group = UdpConfig { workers, ..config(listen) };
        let first = bind(&group).unwrap();
        let mut again = group.clone();
        again.listen.set_port(first[0].local_addr().unwrap().port());
        for workers in [1, 2] {
            let error = bind(&UdpConfig { workers, ..again.clone() }).unwrap_err();
            assert!(matches!(error, BindError::AddressInUse(address) if address == again.listen), "{error}");
        }
        drop(first);
        bind(&again).expect("the port is free again at once");
    }
}

#[test]
fn an_address_of_somebody_else_is_named_in_the_error() {
    let error = bind(&config("192.0.2.1:9443")).unwrap_err();
    assert!(matches!(error, BindError::AddressNotAvailable(_)));
    assert!(error.to_string().contains("192.0.2.1:9443"));
}

#[test]
fn data_is_steered_by_lane_and_the_rest_goes_to_the_first_worker() {
    let mut links = bind(&UdpConfig { workers: 3, ..config("127.0.0.1:0") }).unwrap();
    let at = links[0].local_addr().unwrap();
    assert!(links.iter().all(|link| link.local_addr().unwrap() == at));
    for (datagram, worker) in [
        (&[4, 0, 9][..], 0),
        (&[4, 1, 9], 1),
        (&[4, 2, 9], 2),
        (&[4, 5, 9], 2),
        (&[20, 1, 9], 1),
        (&[20, 15, 9], 0),
        (&[1, 1, 9], 0),
        (&[2, 2, 9], 0),
        (&[4], 0),
    ] {
        // A new socket each time: a hash of the source port would not go where the lane does.
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(datagram, at).unwrap();
        let (received, _) = receive(&mut links[worker], datagram.len());
        assert_eq!(received[0].bytes, datagram);
        assert_eq!(received[0].from, sender.local_addr().unwrap());
    }
}

#[test]
fn a_clone_receives_from_the_same_socket() {
    let (mut a, mut b) = (link("127.0.0.1:0"), link("127.0.0.1:0"));
    let mut other = b.try_clone().unwrap();
    let at = b.local_addr().unwrap();
    pass_train(&mut a, &mut other, at, 1000, 1000, Ecn::NotEct);
    let mut slots = [RecvSlot::new(2000)];
    assert_eq!(b.recv(&mut slots).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn an_empty_datagram_is_delivered_empty() {
    let (mut a, mut b) = (link("127.0.0.1:0"), link("127.0.0.1:0"));
    let at = b.local_addr().unwrap();
    UdpSocket::bind("127.0.0.1:0").unwrap().send_to(&[], at).unwrap();
    let contents = [1, 2, 3];
    a.send(&Transmit { to: at, ecn: Ecn::NotEct, segment_size: 3, contents: &contents }).unwrap();
    let mut slots: Vec<RecvSlot> = (0..4).map(|_| RecvSlot::new(100)).collect();
    slots[0].len = 50;
    let mut lens = Vec::new();
    while lens.len() < 2 {
        if let Ok(count) = b.recv(&mut slots) {
            lens.extend(slots[..count].iter().map(|slot| (slot.len, slot.segment_size)));
        }
    }
    assert_eq!(lens, [(0, 0), (3, 3)]);
}

#[test]
fn a_segment_larger_than_any_datagram_is_invalid_input() {
    let mut a = link("127.0.0.1:0");
    let contents = pattern(70_000);
    for segment_size in [0, 70_000] {
        let to = a.local_addr().unwrap();
        let transmit = Transmit { to, ecn: Ecn::NotEct, segment_size, contents: &contents };
        assert_eq!(a.send(&transmit).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    }
    assert!(a.offloads().gso, "an oversized datagram is no refusal of GSO");
}

#[test]
fn the_path_mtu_of_loopback_is_known() {
    assert!(path_mtu("127.0.0.1:9".parse().unwrap()).unwrap() >= 16_384);
    assert!(path_mtu("[::1]:9".parse().unwrap()).unwrap() >= 16_384);
}

#[test]
fn what_a_full_receive_buffer_cannot_take_is_counted() {
    let mut small = bind(&UdpConfig {
        send_buffer_bytes: 16 * 1024,
        receive_buffer_bytes: 16 * 1024,
        ..config("127.0.0.1:0")
    })
    .unwrap()
    .remove(0);
    let to = small.local_addr().unwrap();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..1000 {
        sender.send_to(&[7; 500], to).unwrap();
    }
    let mut slots: Vec<RecvSlot> = (0..64).map(|_| RecvSlot::new(65_535)).collect();
    let mut received = 0;
    while received + small.receive_drops().unwrap() < 1000 {
        while let Ok(count) = small.recv(&mut slots) {
            received += count as u32;
        }
    }
    assert!(received > 0 && small.receive_drops().unwrap() > 0);
    assert_eq!(received + small.receive_drops().unwrap(), 1000);
}
