//! One worker's part of a TUN device: several queues, read in turn.
//!
//! The driver keeps one FIFO a queue and hides from a sender's TCP how full it is, so the whole window of a bulk flow stands
//! there, and whoever shares the queue waits behind it: milliseconds. With several queues the kernel spreads flows over
//! them, and taking a packet from each in turn gives every flow its share (round robin over hashed flows, as in stochastic
//! fairness queueing, McKenney 1990).
//!
//! The driver sends what answers a flow by the queue that the flow was last written to. So by choosing the queue of each
//! write, a port also sorts what it will read: TCP in one half of its queues, everything else in the other, and
//! no ping, call or look-up ever waits behind a download that it knows of.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};

use packet::{Tun, VnetHeader};

use super::TunQueue;

/// One worker's queues of a TUN device. It reads as one queue does, and keeps each flow in order.
#[derive(Debug)]
pub struct TunPort {
    queues: Vec<TunQueue>,
    /// A bit for each queue that may have packets.
    ready: u64,
    /// The queue to look at first, so that all get their turn.
    turn: usize,
}

impl TunPort {
    /// The most queues a port can have.
    pub const QUEUES_MAX: usize = u64::BITS as usize;

    /// A port of those queues; those beyond [`QUEUES_MAX`](Self::QUEUES_MAX) are closed. All are taken to be
    /// ready.
    pub fn new(mut queues: Vec<TunQueue>) -> Self {
        queues.truncate(Self::QUEUES_MAX);
        let ready = (0..queues.len()).fold(0, |bits, index| bits | 1 << index);
        Self { queues, ready, turn: 0 }
    }

    /// The queues, to watch them.
    pub fn queues(&self) -> &[TunQueue] {
        &self.queues
    }

    /// The queue of that index has become readable.
    pub fn set_ready(&mut self, index: usize) {
        self.ready |= 1 << (index % Self::QUEUES_MAX);
    }

    /// The first ready queue from the turn on, if any is ready.
    fn next(&self) -> Option<usize> {
        let later = self.ready & (u64::MAX << self.turn);
        let first = if later == 0 { self.ready } else { later };
        (first != 0).then_some(first.trailing_zeros() as usize)
    }
}

impl Tun for TunPort {
    fn recv(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        while let Some(index) = self.next() {
            self.turn = (index + 1) % self.queues.len();
            match self.queues[index].recv(bufs) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.ready &= !(1 << index),
                result => return result,
            }
        }
        Err(ErrorKind::WouldBlock.into())
    }

    fn send(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<()> {
        let packet: &[u8] = match bufs {
            [whole] => whole.get(VnetHeader::LEN..).unwrap_or_default(),
            [_, packet, ..] => packet,
            [] => &[],
        };
        let index = queue_of(packet, self.queues.len());
        // A port without queues is that of a node without an interface.
        self.queues.get_mut(index).ok_or(ErrorKind::NetworkDown)?.send(bufs)
    }
}

const TCP: u8 = 6;
const UDP: u8 = 17;

/// The queue, of `count`, for the flow of a packet of which at least the headers are there. What is no IP packet is for
/// the kernel to refuse.
#[inline]
fn queue_of(packet: &[u8], count: usize) -> usize {
    if count < 2 {
        return 0;
    }
    let (protocol, addresses, ports) = match packet.first().map(|byte| byte >> 4) {
        Some(4) => {
            let header_len = usize::from(packet[0] & 0x0f) * 4;
            // No ports in any but the first fragment, and then none in the first either: all take one way.
            let whole = packet.get(6..8).is_some_and(|field| field[0] & 0x3f == 0 && field[1] == 0);
            (packet.get(9), packet.get(12..20), if whole { header_len } else { usize::MAX - 4 })
        }
        Some(6) => (packet.get(6), packet.get(8..40), 40),
        _ => return 0,
    };
    let (Some(&protocol), Some(addresses)) = (protocol, addresses) else { return 0 };
    let ports = if matches!(protocol, TCP | UDP) { packet.get(ports..ports + 4) } else { None };
    let word = |bytes: &[u8]| bytes.iter().fold(0, |word: u32, &byte| word << 8 | u32::from(byte));
    let sum = addresses.chunks(4).chain(ports).fold(0, |sum: u32, bytes| sum.rotate_left(5) ^ word(bytes));
    // Fibonacci hashing: the high bits depend on all of the sum.
    let hash = (u64::from(sum).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as usize;
    let half = count / 2;
    if protocol == TCP { half + hash % (count - half) } else { hash % half }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    const COUNT: usize = 8;

    /// A port of queues whose driver knows no virtio-net header, and the driver's sides of them.
    fn port(count: usize) -> (TunPort, Vec<UnixDatagram>) {
        let queue = |_| {
            let (ours, drivers) = UnixDatagram::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            drivers.set_nonblocking(true).unwrap();
            (TunQueue::new(File::from(OwnedFd::from(ours)), false), drivers)
        };
        let (queues, drivers) = (0..count).map(queue).unzip();
        (TunPort::new(queues), drivers)
    }

    fn read(port: &mut TunPort) -> Option<u8> {
        let (mut header, mut packet) = ([0; VnetHeader::LEN], [0; 100]);
        match port.recv(&mut [IoSliceMut::new(&mut header), IoSliceMut::new(&mut packet)]) {
            Ok(_) => Some(packet[0]),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                None
            }
        }
    }

    /// An IPv4 packet from port `from` of 10.0.0.1 to port 80 of 10.0.0.2.
    fn packet(protocol: u8, from: u16) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        packet.extend(from.to_be_bytes());
        packet.extend([0, 80, 0, 8, 0, 0]);
        packet
    }

    #[test]
    fn a_full_queue_delays_the_others_by_one_packet() {
        let (mut port, drivers) = port(3);
        for _ in 0..5 {
            drivers[0].send(&[0]).unwrap();
        }
        assert_eq!(read(&mut port), Some(0));
        drivers[2].send(&[2]).unwrap();
        drivers[1].send(&[1]).unwrap();
        let order: Vec<_> = std::iter::from_fn(|| read(&mut port)).collect();
        assert_eq!(order, [1, 2, 0, 0, 0, 0]);
    }

    #[test]
    fn an_empty_queue_is_read_again_only_once_it_is_said_to_be_ready() {
        let (mut port, drivers) = port(2);
        assert_eq!(read(&mut port), None);
        drivers[1].send(&[1]).unwrap();
        assert_eq!(read(&mut port), None);
        port.set_ready(1);
        assert_eq!(read(&mut port), Some(1));
        assert_eq!(read(&mut port), None);
    }

    #[test]
    fn a_flow_is_written_to_one_queue_and_tcp_to_others_than_the_rest() {
        let (mut port, drivers) = port(COUNT);
        let mut used = [[false; COUNT]; 2];
        for from in 1_000..1_064 {
            for (kind, protocol) in [(0, UDP), (1, TCP)] {
                let packet = packet(protocol, from);
                let plain = VnetHeader::default().to_bytes();
                let mut whole = plain.to_vec();
                whole.extend(&packet);
                port.send(&[IoSlice::new(&plain), IoSlice::new(&packet)]).unwrap();
                port.send(&[IoSlice::new(&whole)]).unwrap();
                let mut buf = [0; 100];
                let written: Vec<usize> =
                    (0..COUNT).filter(|&index| drivers[index].recv(&mut buf).is_ok()).collect();
                let &[index] = &written[..] else { panic!("one flow went to queues {written:?}") };
                assert!(
                    drivers[index].recv(&mut buf).is_ok(),
                    "the second packet of the flow took another way"
                );
                used[kind][index] = true;
            }
        }
        let half = COUNT / 2;
        assert_eq!(used[0], std::array::from_fn(|index| index < half), "not TCP");
        assert_eq!(used[1], std::array::from_fn(|index| index >= half), "TCP");
    }

    #[test]
    fn all_fragments_of_a_packet_take_one_way() {
        let mut first = packet(UDP, 1_000);
        first[6] = 0x20;
        let mut last = packet(UDP, 999);
        last[7] = 1;
        assert_eq!(queue_of(&first, COUNT), queue_of(&last, COUNT));
    }

    #[test]
    fn what_is_no_packet_is_written_somewhere() {
        let long = packet(TCP, 1_000);
        for len in 0..long.len() {
            assert!(queue_of(&long[..len], COUNT) < COUNT);
        }
        for byte in 0..=u8::MAX {
            assert!(queue_of(&[byte; 60], COUNT) < COUNT);
            assert_eq!(queue_of(&[byte; 60], 1), 0);
        }
    }
}
