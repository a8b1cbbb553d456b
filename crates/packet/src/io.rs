//! The two traits between the packet path and the outside: a TUN queue and a datagram link.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};

use crate::carrier::Carrier;

/// One queue of a TUN device.
///
/// Every packet is preceded by [`VnetHeader::LEN`](crate::VnetHeader::LEN) bytes of virtio-net header, in both
/// directions, also where offloads are off (the header is then all zero).
pub trait Tun {
    /// Reads one packet or super-packet into `bufs`, filling them in order, and returns the bytes read.
    ///
    /// # Errors
    /// `WouldBlock` when no packet waits. Any other error means that the queue is gone or its device is down.
    fn recv(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize>;

    /// Writes one packet or super-packet, the concatenation of `bufs`.
    ///
    /// # Errors
    /// `InvalidInput` when the kernel refuses the packet (it is malformed, or uses an offload the kernel lacks);
    /// any other error means that the queue is gone or its device is down.
    fn send(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<()>;
}

/// The two ECN bits of an IP header (RFC 3168 §5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Ecn {
    /// Not ECN-capable.
    #[default]
    NotEct = 0b00,
    /// ECN-capable transport, ECT(1).
    Ect1 = 0b01,
    /// ECN-capable transport, ECT(0).
    Ect0 = 0b10,
    /// Congestion experienced.
    Ce = 0b11,
}

impl Ecn {
    /// The lowest two bits of `bits`: a TOS byte or a traffic class will do.
    pub fn from_bits(bits: u8) -> Self {
        match bits & 0b11 {
            0b00 => Self::NotEct,
            0b01 => Self::Ect1,
            0b10 => Self::Ect0,
            _ => Self::Ce,
        }
    }
}

/// One train to send: `contents` is cut into datagrams of `segment_size` bytes, the last of which may be shorter.
#[derive(Clone, Copy, Debug)]
pub struct Transmit<'a> {
    /// Where to.
    pub to: SocketAddr,
    /// The ECN bits of the outer IP header.
    pub ecn: Ecn,
    /// Bytes a datagram. A single datagram has `segment_size == contents.len()`.
    pub segment_size: usize,
    /// All datagrams, one after the other; at most [`MAX_DATAGRAM`](crate::MAX_DATAGRAM) bytes.
    pub contents: &'a [u8],
}

/// How a train leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Via {
    /// What it travels in.
    pub carrier: Carrier,
    /// From which address of this machine; `None` for whichever the operating system chooses.
    pub source: Option<IpAddr>,
}

/// Room for one received datagram, or for one train of datagrams that the kernel has put together (UDP GRO).
#[derive(Debug)]
pub struct RecvSlot {
    /// Where the bytes go. [`Link::recv`] fills it from the front.
    pub buf: Box<[u8]>,
    /// Bytes received.
    pub len: usize,
    /// Bytes a datagram in a train; `len` for a single datagram. Never 0 when `len` is not.
    pub segment_size: usize,
    /// What it came in; a link of one carrier takes no notice.
    pub carrier: Carrier,
    /// Who sent it. IPv4 addresses arrive as IPv4, never as IPv4-mapped IPv6.
    pub from: SocketAddr,
    /// Which of our addresses it was sent to, where the link has several and knows.
    pub to: Option<IpAddr>,
    /// The ECN bits of the outer IP header.
    pub ecn: Ecn,
}

impl RecvSlot {
    /// An empty slot with room for `capacity` bytes.
    pub fn new(capacity: usize) -> Self {
        Self {
            buf: vec![0; capacity].into_boxed_slice(),
            len: 0,
            segment_size: 0,
            carrier: Carrier::Udp,
            from: SocketAddr::from(([0, 0, 0, 0], 0)),
            to: None,
            ecn: Ecn::NotEct,
        }
    }
}

/// Something that carries datagrams: a batched UDP socket, or a simulated one.
pub trait Link {
    /// Sends a train and returns how many of its bytes were taken: all of them, or a multiple of the segment size; why no
    /// more were, an attempt to send the rest tells.
    ///
    /// # Errors
    /// `WouldBlock` when the link is full and nothing was taken: try again when it is writable. `OutOfMemory` when
    /// the kernel is out of buffers (`ENOBUFS`): try again a little later, no event will tell when.
    /// `InvalidInput` when a datagram is larger than the path allows (`EMSGSIZE`). Others: the destination cannot
    /// be reached now.
    fn send(&mut self, transmit: &Transmit<'_>) -> io::Result<usize>;

    /// As [`send`](Self::send), by the carrier and from the address that `via` names, as far as the link can choose.
    ///
    /// # Errors
    /// As [`send`](Self::send); `Unsupported` for a carrier that the link has not.
    fn send_via(&mut self, via: Via, transmit: &Transmit<'_>) -> io::Result<usize> {
        let _ = via;
        self.send(transmit)
    }

    /// Receives into as many of `slots` as datagrams wait and returns how many were filled.
    ///
    /// # Errors
    /// `WouldBlock` when nothing waits.
    fn recv(&mut self, slots: &mut [RecvSlot]) -> io::Result<usize>;
}
