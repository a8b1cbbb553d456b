//! Nothing on the packet path allocates: counted while real packets move.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use os::alloc::{Counting, thread_allocations};
use os::poll::{Events, Interest, Poller};
use os::tcp::{TcpConfig, TcpLink};
use os::udp::{UdpConfig, UdpLink, bind};
use packet::{Ecn, Link, RecvSlot, Transmit};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn link(offload: bool) -> UdpLink {
    let listen = "127.0.0.1:0".parse().unwrap();
    bind(&UdpConfig {
        listen,
        workers: 1,
        send_buffer_bytes: 4 << 20,
        receive_buffer_bytes: 4 << 20,
        offload,
    })
    .unwrap()
    .remove(0)
}

#[test]
fn sending_waiting_receiving_and_being_told_to_wait_allocate_nothing() {
    for offload in [true, false] {
        let (mut a, mut b) = (link(offload), link(offload));
        let to = b.local_addr().unwrap();
        let contents = vec![7; 40 * 1200 + 5];
        let mut slots: Vec<RecvSlot> = (0..64).map(|_| RecvSlot::new(65_535)).collect();
        let poller = Poller::new().unwrap();
        poller.add(&b, 0, Interest::READ).unwrap();
        let mut events = Events::with_capacity(4);

        let before = thread_allocations();
        let mut received = 0;
        for _ in 0..100 {
            let transmit = Transmit { to, ecn: Ecn::Ect0, segment_size: 1200, contents: &contents };
            assert_eq!(a.send(&transmit).unwrap(), contents.len());
            while received < contents.len() {
                poller.wait(&mut events, None).unwrap();
                while let Ok(count) = b.recv(&mut slots) {
                    received += slots[..count].iter().map(|slot| slot.len).sum::<usize>();
                }
            }
            assert_eq!(received, contents.len());
            received = 0;
        }
        assert_eq!(thread_allocations() - before, 0);

        let boxed = thread_allocations();
        drop(std::hint::black_box(Box::new(1)));
        assert_eq!(thread_allocations() - boxed, 1, "the counter counts");
    }
}

#[test]
fn a_tcp_connection_allocates_nothing_once_it_has_carried_something() {
    let listen = Some("127.0.0.1:0".parse().unwrap());
    let tcp = |listen| {
        let config =
            TcpConfig { listen, workers: 1, send_buffer_bytes: 64 << 10, receive_buffer_bytes: 1 << 20 };
        let (mut links, handle) = os::tcp::bind(config).unwrap();
        (links.remove(0), handle)
    };
    let (mut a, handle) = tcp(None);
    let (mut b, there) = tcp(listen);
    let to = there.listen_address().unwrap();
    handle.dial(to).unwrap();
    let poller = Poller::new().unwrap();
    for fd in a.descriptors().chain(b.descriptors()) {
        poller.add(fd, 0, Interest { edge: true, ..Interest::READ_WRITE }).unwrap();
    }
    let mut events = Events::with_capacity(4);
    let mut slots: Vec<RecvSlot> = (0..4).map(|_| RecvSlot::new(65_729)).collect();
    // More than the socket takes at once, so that frames are cut and links are told to wait.
    let contents = vec![7; 400 * 1400];
    let mut pass = |a: &mut TcpLink, b: &mut TcpLink| {
        let (mut sent, mut received, mut refusals) = (0, 0, 0);
        while received < contents.len() {
            if sent < contents.len() {
                let rest = Transmit { to, ecn: Ecn::NotEct, segment_size: 1400, contents: &contents[sent..] };
                sent += a.send(&rest).unwrap_or(0);
                refusals += u64::from(sent < contents.len());
            }
            poller.wait(&mut events, Some(std::time::Duration::from_millis(1))).unwrap();
            while let Ok(count) = b.recv(&mut slots) {
                received += slots[..count].iter().map(|slot| slot.len).sum::<usize>();
            }
            while a.recv(&mut slots).is_ok() {}
            a.handle_timeout(std::time::Instant::now());
        }
        refusals
    };
    for _ in 0..20 {
        pass(&mut a, &mut b);
    }
    let before = thread_allocations();
    let refusals: u64 = (0..100).map(|_| pass(&mut a, &mut b)).sum();
    assert_eq!(thread_allocations() - before, 0);
    assert!(refusals >= 100, "{refusals}");
}
