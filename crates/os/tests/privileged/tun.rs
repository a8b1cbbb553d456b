//! TUN devices.

use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use os::netns::Netns;
use os::poll::{Events, Interest, Poller, Waker};
use os::tun::{TunConfig, TunDevice, TunError, TunOffloads, TunQueue};
use os::udp::{UdpConfig, bind};
use packet::{Ecn, GsoType, Link, Transmit, Tun, VnetHeader};

crate::tests!(
    a_device_has_its_addresses_mtu_and_routes_and_is_gone_with_its_queues,
    the_offloads_of_this_kernel_pass_their_self_test,
    a_device_that_cannot_be_configured_is_gone,
    names_in_use_are_refused,
    a_pattern_takes_the_first_free_number,
    a_datagram_of_the_kernel_is_read_and_its_answer_arrives,
    malformed_packets_are_invalid_input_and_the_queue_stays_good,
    an_interface_that_is_down_neither_spins_nor_kills_the_queue,
    a_deleted_interface_is_a_broken_pipe,
    tcp_crosses_two_devices_in_super_packets_and_arrives_exact,
    tcp_crosses_two_devices_without_offloads,
    super_packets_stay_within_the_limit_asked_for,
    a_udp_train_arrives_as_one_super_packet,
    flows_spread_over_the_queues,
    an_address_is_ours_as_soon_as_the_device_is_created,
    what_a_full_queue_cannot_take_is_dropped_and_counted,
);

fn config() -> TunConfig {
    TunConfig {
        name: "shadow0".into(),
        queues: 1,
        mtu: 1420,
        addresses: vec!["10.77.0.1/24".parse().unwrap(), "fd77::1/64".parse().unwrap()],
        routes: Vec::new(),
        offload: true,
        gso_max_bytes: None,
    }
}

/// Creates a device in a namespace.
fn create(namespace: &Netns, config: &TunConfig) -> Result<(TunDevice, Vec<TunQueue>), TunError> {
    namespace.run(|| TunDevice::create(config)).unwrap()
}

/// A namespace with a device of one queue.
fn device(config: &TunConfig) -> (Netns, TunDevice, TunQueue) {
    let namespace = Netns::new().unwrap();
    let (device, mut queues) = create(&namespace, config).unwrap();
    (namespace, device, queues.remove(0))
}

/// Waits for a packet and reads it: header and packet.
fn read_packet(queue: &mut TunQueue) -> (VnetHeader, Vec<u8>) {
    let poller = Poller::new().unwrap();
    poller.add(&*queue, 0, Interest::READ).unwrap();
    let mut events = Events::with_capacity(1);
    assert_eq!(poller.wait(&mut events, Some(Duration::from_secs(10))).unwrap(), 1, "no packet came");
    let mut header = [0; VnetHeader::LEN];
    let mut packet = vec![0; packet::MAX_PACKET];
    let len = queue.recv(&mut [IoSliceMut::new(&mut header), IoSliceMut::new(&mut packet)]).unwrap();
    packet.truncate(len - VnetHeader::LEN);
    (VnetHeader::parse(&header).unwrap(), packet)
}

fn is_empty(queue: &mut TunQueue) -> bool {
    let mut packet = vec![0; VnetHeader::LEN + packet::MAX_PACKET];
    queue.recv(&mut [IoSliceMut::new(&mut packet)]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

fn write_packet(queue: &mut TunQueue, header: VnetHeader, packet: &[u8]) -> std::io::Result<()> {
    queue.send(&[IoSlice::new(&header.to_bytes()), IoSlice::new(packet)])
}

fn a_device_has_its_addresses_mtu_and_routes_and_is_gone_with_its_queues() {
    let wanted = TunConfig {
        routes: ["10.77.0.2/32", "10.78.0.0/16", "fd77::2/128", "fd78::/48"]
            .map(|n| n.parse().unwrap())
            .to_vec(),
        ..config()
    };
    let (namespace, mut device, mut queue) = device(&wanted);
    let mut netlink = namespace.netlink().unwrap();
    let link = netlink.link("shadow0").unwrap();
    assert_eq!((link.index, link.mtu, link.up, link.queue_packets), (device.index(), 1420, true, 1000));
    assert_eq!(device.name(), "shadow0");
    assert_eq!(device.mtu().unwrap(), 1420);

    let addresses: Vec<_> =
        netlink.addresses().unwrap().into_iter().filter(|a| a.index == link.index).collect();
    let nets: Vec<_> = addresses.iter().map(|address| address.net).collect();
    assert_eq!(nets, wanted.addresses, "the given addresses and no link-local one");

    let routes: Vec<_> = netlink.routes().unwrap().into_iter().filter(|r| r.index == link.index).collect();
    let mut to: Vec<_> = routes.iter().map(|route| route.to.to_string()).collect();
    to.sort();
    assert_eq!(to, ["10.77.0.0/24", "10.78.0.0/16", "fd77::/64", "fd78::/48"]);
    assert!(is_empty(&mut queue), "a new device is silent: no router solicitation, no multicast report");

    device.set_mtu(1300).unwrap();
    assert_eq!(device.mtu().unwrap(), 1300);
    let more = "10.79.0.0/16".parse().unwrap();
    device.add_route(more).unwrap();
    device.add_route(more).unwrap();
    device.del_route(more).unwrap();
    device.del_route(more).unwrap();

    drop(queue);
    assert_eq!(netlink.link("shadow0").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(device.mtu().unwrap_err().kind(), ErrorKind::NotFound);
}

fn the_offloads_of_this_kernel_pass_their_self_test() {
    let (_namespace, device, _queue) = device(&config());
    let offloads = device.offloads();
    // IPv4 and IPv6 offloads, and checksums, are older than anything this program runs on.
    assert!(offloads.csum && offloads.tso4 && offloads.tso6, "{offloads:?}");
    assert_eq!(offloads.uso4, offloads.uso6);

    let (_namespace, device, _queue) = self::device(&TunConfig { offload: false, ..config() });
    assert_eq!(device.offloads(), TunOffloads::default());
}

fn a_device_that_cannot_be_configured_is_gone() {
    let namespace = Netns::new().unwrap();
    // IPv6 wants an MTU of 1,280 (RFC 8200 §5).
    let error = create(&namespace, &TunConfig { mtu: 1000, ..config() }).unwrap_err();
    assert!(matches!(&error, TunError::Configure { name, .. } if name == "shadow0"), "{error}");
    let unreachable =
        TunConfig { routes: vec!["10.78.0.0/16".parse().unwrap(); 2], addresses: vec![], ..config() };
    create(&namespace, &unreachable).map(drop).expect("the same route twice is one route");
    assert_eq!(namespace.netlink().unwrap().links().unwrap().len(), 1, "only loopback is left");
}

fn names_in_use_are_refused() {
    for queues in [1, 2] {
        let (namespace, _device, _queue) = device(&TunConfig { queues, ..config() });
        for queues in [1, 2] {
            let error = create(&namespace, &TunConfig { queues, addresses: vec![], ..config() }).unwrap_err();
            assert!(matches!(&error, TunError::NameInUse(name) if name == "shadow0"), "{error}");
        }
        let error = create(&namespace, &TunConfig { name: "lo".into(), ..config() }).unwrap_err();
        assert!(matches!(&error, TunError::NameInUse(name) if name == "lo"), "{error}");
    }
}

fn a_pattern_takes_the_first_free_number() {
    let namespace = Netns::new().unwrap();
    let pattern = TunConfig { name: "mesh%d".into(), addresses: vec![], ..config() };
    let (first, _queues) = create(&namespace, &pattern).unwrap();
    let (second, _more_queues) = create(&namespace, &TunConfig { queues: 3, ..pattern }).unwrap();
    assert_eq!((first.name(), second.name()), ("mesh0", "mesh1"));
}

fn a_datagram_of_the_kernel_is_read_and_its_answer_arrives() {
    for offload in [true, false] {
        let (namespace, _device, mut queue) = device(&TunConfig { offload, ..config() });
        for (local, far, addresses, len) in
            [("10.77.0.1:7", "10.77.0.2:7", 12, 4), ("[fd77::1]:7", "[fd77::2]:7", 8, 16)]
        {
            let socket = namespace.run(|| UdpSocket::bind(local).unwrap()).unwrap();
            socket.send_to(b"are you there?", far).unwrap();
            let (header, mut packet) = read_packet(&mut queue);
            assert_eq!(header.needs_checksum, offload);
            assert_eq!(header.gso_type, GsoType::None);
            assert!(packet.ends_with(b"are you there?"));

            // The far end's answer: source and destination change places, which no checksum notices.
            let (before, after) = packet.split_at_mut(addresses + len);
            before[addresses..].swap_with_slice(&mut after[..len]);
            write_packet(&mut queue, header, &packet).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let mut buf = [0; 64];
            let (len, from) = socket.recv_from(&mut buf).unwrap();
            assert_eq!((&buf[..len], from.to_string()), (&b"are you there?"[..], far.to_string()));
        }
    }
}

fn malformed_packets_are_invalid_input_and_the_queue_stays_good() {
    let (namespace, _device, mut queue) = device(&config());
    let plain = VnetHeader::default();
    let tso =
        VnetHeader { gso_type: GsoType::TcpV4, gso_size: 0, hdr_len: 40, needs_checksum: true, ..plain };
    let beyond = VnetHeader { needs_checksum: true, csum_start: 9000, csum_offset: 16, ..plain };
    for (header, packet) in
        [(plain, &[][..]), (plain, &[0x10; 40]), (tso, &[0x45; 60]), (beyond, &[0x45; 60])]
    {
        let error = write_packet(&mut queue, header, packet).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{header:?}: {error}");
    }
    namespace.run(|| UdpSocket::bind("10.77.0.1:0").unwrap().send_to(b"x", "10.77.0.2:7").unwrap()).unwrap();
    assert!(read_packet(&mut queue).1.ends_with(b"x"));
}

fn an_interface_that_is_down_neither_spins_nor_kills_the_queue() {
    let (namespace, mut device, mut queue) = device(&config());
    let mut netlink = namespace.netlink().unwrap();
    netlink.set_up(device.index(), false).unwrap();
    assert!(!device.is_up().unwrap());
    assert!(is_empty(&mut queue));
    let error = write_packet(&mut queue, VnetHeader::default(), &[0x45; 40]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NetworkDown);
    let poller = Poller::new().unwrap();
    poller.add(&queue, 0, Interest::READ).unwrap();
    let mut events = Events::with_capacity(1);
    assert_eq!(poller.wait(&mut events, Some(Duration::from_millis(1))).unwrap(), 0, "nothing to spin on");

    device.set_up().unwrap();
    namespace.run(|| UdpSocket::bind("10.77.0.1:0").unwrap().send_to(b"x", "10.77.0.2:7").unwrap()).unwrap();
    assert!(read_packet(&mut queue).1.ends_with(b"x"));
}

fn a_deleted_interface_is_a_broken_pipe() {
    let (namespace, device, mut queue) = device(&config());
    let poller = Poller::new().unwrap();
    poller.add(&queue, 0, Interest::READ).unwrap();
    namespace.netlink().unwrap().delete_link(device.index()).unwrap();
    let mut events = Events::with_capacity(1);
    assert_eq!(poller.wait(&mut events, Some(Duration::from_secs(10))).unwrap(), 1);
    assert!(events.iter().all(|event| event.failed && event.readable));
    let mut buf = [0; 2000];
    assert_eq!(queue.recv(&mut [IoSliceMut::new(&mut buf)]).unwrap_err().kind(), ErrorKind::BrokenPipe);
    let error = write_packet(&mut queue, VnetHeader::default(), &[0x45; 40]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
}

/// What went from one device to another.
#[derive(Debug, Default)]
struct Forwarded {
    packets: usize,
    super_packets: usize,
    largest: usize,
}

/// Copies packets, headers included, between two queues while `work` runs.
fn forward_while(mut queues: [TunQueue; 2], work: impl FnOnce()) -> Forwarded {
    let stop = AtomicBool::new(false);
    let waker = Waker::new().unwrap();
    std::thread::scope(|scope| {
        let forwarder = scope.spawn(|| {
            let poller = Poller::new().unwrap();
            poller.add(&waker, 2, Interest::READ).unwrap();
            for (token, queue) in queues.iter().enumerate() {
                poller.add(queue, token as u64, Interest::READ).unwrap();
            }
            let mut events = Events::with_capacity(4);
            let mut seen = Forwarded::default();
            let mut buf = vec![0; VnetHeader::LEN + packet::MAX_PACKET];
            while !stop.load(Relaxed) {
                poller.wait(&mut events, None).unwrap();
                for from in 0..2 {
                    while let Ok(len) = queues[from].recv(&mut [IoSliceMut::new(&mut buf)]) {
                        let header = VnetHeader::parse(buf[..VnetHeader::LEN].try_into().unwrap()).unwrap();
                        seen.packets += 1;
                        seen.super_packets += usize::from(header.gso_type != GsoType::None);
                        seen.largest = seen.largest.max(len - VnetHeader::LEN);
                        queues[1 - from].send(&[IoSlice::new(&buf[..len])]).unwrap();
                    }
                }
            }
            seen
        });
        work();
        stop.store(true, Relaxed);
        waker.wake();
        forwarder.join().unwrap()
    })
}

/// Sends `len` bytes by TCP from one namespace to another, whose devices are joined by [`forward_while`], and checks
/// each of them.
fn transfer(config: &TunConfig, v6: bool, len: usize) -> Forwarded {
    let (a, _device_a, queue_a) = device(config);
    let addresses = vec!["10.77.0.2/24".parse().unwrap(), "fd77::2/64".parse().unwrap()];
    let (b, _device_b, queue_b) = device(&TunConfig { addresses, ..config.clone() });
    let address = if v6 { "[fd77::2]:80" } else { "10.77.0.2:80" };
    let byte = |at: usize| (at * 31 + at / 65_521) as u8;
    forward_while([queue_a, queue_b], || {
        let listener = b.run(|| TcpListener::bind(address).unwrap()).unwrap();
        let mut client = a.run(|| TcpStream::connect(address).unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let bytes: Vec<u8> = (0..len).map(byte).collect();
                client.write_all(&bytes).unwrap();
            });
            let mut received = Vec::new();
            server.read_to_end(&mut received).unwrap();
            assert_eq!(received.len(), len);
            assert!(received.iter().enumerate().all(|(at, found)| *found == byte(at)), "bytes were changed");
        });
    })
}

fn tcp_crosses_two_devices_in_super_packets_and_arrives_exact() {
    for v6 in [false, true] {
        let seen = transfer(&config(), v6, 20_000_000);
        assert!(seen.super_packets > 0 && seen.largest > 20_000, "{seen:?}");
    }
}

fn tcp_crosses_two_devices_without_offloads() {
    let seen = transfer(&TunConfig { offload: false, ..config() }, false, 2_000_000);
    assert_eq!(seen.super_packets, 0);
    assert!(seen.largest <= 1420);
}

fn super_packets_stay_within_the_limit_asked_for() {
    let seen = transfer(&TunConfig { gso_max_bytes: Some(20_000), ..config() }, false, 5_000_000);
    assert!(seen.super_packets > 0 && seen.largest <= 20_000, "{seen:?}");
}

fn a_udp_train_arrives_as_one_super_packet() {
    let (namespace, device, mut queue) = device(&config());
    if !device.offloads().uso4 {
        return;
    }
    let udp = UdpConfig {
        listen: "0.0.0.0:0".parse().unwrap(),
        workers: 1,
        send_buffer_bytes: 1 << 20,
        receive_buffer_bytes: 1 << 20,
        offload: true,
    };
    let mut link = namespace.run(|| bind(&udp).unwrap().remove(0)).unwrap();
    for (to, headers) in [("10.77.0.2:9", 28), ("[fd77::2]:9", 48)] {
        let to = to.parse().unwrap();
        let transmit = Transmit { to, ecn: Ecn::Ect0, segment_size: 1000, contents: &[7; 5500] };
        assert_eq!(link.send(&transmit).unwrap(), 5500);
        let (header, packet) = read_packet(&mut queue);
        assert_eq!((header.gso_type, header.gso_size), (GsoType::UdpL4, 1000));
        assert_eq!(packet.len(), headers + 5500);
    }
}

fn flows_spread_over_the_queues() {
    let namespace = Netns::new().unwrap();
    let (device, mut queues) = create(&namespace, &TunConfig { queues: 2, ..config() }).unwrap();
    assert!(device.offloads().multi_queue);
    namespace
        .run(|| {
            for _ in 0..64 {
                UdpSocket::bind("10.77.0.1:0").unwrap().send_to(b"x", "10.77.0.2:7").unwrap();
            }
        })
        .unwrap();
    let mut buf = vec![0; 2000];
    let mut counts = [0; 2];
    for (queue, count) in queues.iter_mut().zip(&mut counts) {
        while queue.recv(&mut [IoSliceMut::new(&mut buf)]).is_ok() {
            *count += 1;
        }
    }
    assert_eq!(counts[0] + counts[1], 64);
    assert!(counts[0] > 0 && counts[1] > 0, "{counts:?}");
    drop(queues.remove(0));
    assert!(namespace.netlink().unwrap().link("shadow0").is_ok(), "one queue keeps the device");
    drop(queues);
    assert!(namespace.netlink().unwrap().link("shadow0").is_err());
}

fn what_a_full_queue_cannot_take_is_dropped_and_counted() {
    let (namespace, mut device, mut queue) = device(&config());
    namespace
        .run(|| {
            let socket = UdpSocket::bind("10.77.0.1:0").unwrap();
            for _ in 0..3000 {
                socket.send_to(b"x", "10.77.0.2:7").unwrap();
            }
        })
        .unwrap();
    let mut taken = 0;
    while !is_empty(&mut queue) {
        taken += 1;
    }
    assert_eq!(taken + device.kernel_drops().unwrap(), 3000);
    assert!(taken >= 1000, "{taken}");
}

/// A packet that came before the kernel knows the address as its own would be lost.
fn an_address_is_ours_as_soon_as_the_device_is_created() {
    for _ in 0..50 {
        let (namespace, _device, _queue) = device(&config());
        let mut netlink = namespace.netlink().unwrap();
        for address in config().addresses {
            assert!(netlink.lookup(address.addr()).is_ok_and(|found| found.local), "{address}");
        }
    }
}
