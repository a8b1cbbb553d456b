//! Nothing on the packet path allocates: counted while real packets move.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use os::alloc::{Counting, thread_allocations};
use os::poll::{Events, Interest, Poller};
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
