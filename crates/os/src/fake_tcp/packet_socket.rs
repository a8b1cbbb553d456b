//! `AF_PACKET` sockets (`packet(7)`): whole frames, each with a virtio-net header (`PACKET_VNET_HDR`), so that a super-segment
//! goes out, and one that GRO has put together comes in, in one piece.
//!
//! ```text
//!  out:  virtio-net header 10 · Ethernet 14 · IP · TCP      head of datagram 0 · rest · head of datagram 1 · rest …
//!  in:   virtio-net header 10 · Ethernet 14 · IP · TCP      payload: straight to where it is wanted
//! ```

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use carrier::fake_tcp::LANE_BITS;
use carrier::guard::MASK_LEN;
use packet::{RecvSlot, VnetHeader};

use super::Family;
use crate::bpf;
use crate::sys::{self, check, check_size, set_option};

/// Messages in one `recvmmsg`.
pub(super) const BATCH: usize = 64;
/// Datagrams in one super-segment.
pub(super) const SEGMENTS_MAX: usize = 128;
/// Bytes of Ethernet header.
pub(super) const ETHERNET: usize = 14;
/// Room for the headers of a received packet, as far as they are what our flows have.
const HEAD_MAX: usize = VnetHeader::LEN + ETHERNET + 40 + 32;

/// A bound socket that sees the TCP segments for our ports in one family, and nothing else.
#[derive(Debug)]
pub(super) struct PacketSocket {
    socket: OwnedFd,
    family: Family,
    arguments: Box<Arguments>,
}

/// Arguments of the system calls, kept so that no call allocates.
struct Arguments {
    messages: [libc::mmsghdr; BATCH],
    vectors: [libc::iovec; 2 * BATCH],
    heads: [[u8; HEAD_MAX]; BATCH],
    addresses: [libc::sockaddr_ll; BATCH],
    outgoing: [libc::iovec; 1 + 2 * SEGMENTS_MAX],
}

// SAFETY: the raw pointers in `messages`, `vectors` and `outgoing` are written before each system call from borrows that
// outlive it, and never read afterwards. Between calls they are meaningless, so they may change threads.
unsafe impl Send for Arguments {}

impl std::fmt::Debug for Arguments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Arguments")
    }
}

impl Arguments {
    fn new() -> Box<Self> {
        let nothing = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Box::new(Self {
            // SAFETY: `mmsghdr` is a C structure of integers and pointers; all zero is a valid value of it.
            messages: [unsafe { std::mem::zeroed() }; BATCH],
            vectors: [nothing; 2 * BATCH],
            heads: [[0; HEAD_MAX]; BATCH],
            // SAFETY: `sockaddr_ll` is a C structure of integers; all zero is a valid value of it.
            addresses: [unsafe { std::mem::zeroed() }; BATCH],
            outgoing: [nothing; 1 + 2 * SEGMENTS_MAX],
        })
    }
}

/// What was received beside the payload.
#[derive(Debug)]
pub(super) struct Received<'a> {
    /// The first bytes: virtio-net, link, IP and TCP header. Where those are shorter, payload follows; where they are
    /// longer, or fewer bytes came, they go on in the payload's place.
    pub(super) head: &'a [u8],
    /// Bytes behind the head.
    pub(super) rest_len: usize,
    /// Bytes of link header.
    pub(super) link_len: usize,
}

/// How a socket is opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options<'a> {
    /// The local ports of our flows.
    pub(super) ports: &'a [u16],
    pub(super) send_buffer_bytes: usize,
    pub(super) receive_buffer_bytes: usize,
}

impl PacketSocket {
    /// Opens a socket. The filter is attached before it is bound, so nothing unasked-for ever waits in it.
    pub(super) fn open(family: Family, options: &Options<'_>) -> io::Result<Self> {
        // Protocol 0: nothing is received before `bind`.
        let socket = sys::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, 0)?;
        let fd = socket.as_fd();
        bpf::attach(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter(family, options.ports))?;
        set_option(fd, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
        // A socket of one protocol sees nothing outgoing anyway; old kernels do not know the option.
        let _ = set_option(fd, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1);
        sys::set_buffer(fd, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, options.receive_buffer_bytes)?;
        sys::set_buffer(fd, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, options.send_buffer_bytes)?;
        // All interfaces, one protocol: unlike ETH_P_ALL this sees a packet once, where it leaves the link layer, and not
        // again on the bridge port or the VLAN's parent that it came through.
        let address = link_address(family, 0);
        // SAFETY: the kernel reads a `sockaddr_ll` from `address`.
        check(unsafe {
            libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as _)
        })?;
        Ok(Self { socket, family, arguments: Arguments::new() })
    }

    /// Another handle on the same socket.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { socket: self.socket.try_clone()?, family: self.family, arguments: Arguments::new() })
    }

    /// Lets the sockets of several lanes share the segments: each gets those whose timestamps name a lane that is its
    /// place modulo their number, the first also what has none.
    pub(super) fn share(sockets: &[&Self]) -> io::Result<()> {
        let Some((first, others)) = sockets.split_first().filter(|(_, others)| !others.is_empty()) else {
            return Ok(());
        };
        let join = |socket: &Self, id: u32, flags: u32| {
            let value = id | (libc::PACKET_FANOUT_CBPF | flags) << 16;
            set_option(socket.as_fd(), libc::SOL_PACKET, libc::PACKET_FANOUT, value as i32)
        };
        join(first, 0, libc::PACKET_FANOUT_FLAG_UNIQUEID)?;
        let id = sys::option(first.as_fd(), libc::SOL_PACKET, libc::PACKET_FANOUT)? as u32 & 0xffff;
        for socket in others {
            join(socket, id, 0)?;
        }
        let program = steering(first.family, sockets.len() as u32);
        bpf::attach(first.as_fd(), libc::SOL_PACKET, libc::PACKET_FANOUT_DATA, &program)
    }

    /// Sends one frame: `head`, then for each datagram of `train` its masked first bytes and its rest.
    pub(super) fn send(
        &mut self,
        index: u32,
        head: &[u8],
        masked: &[[u8; MASK_LEN]],
        train: &[u8],
        segment_size: usize,
    ) -> io::Result<()> {
        let vector =
            |bytes: &[u8]| libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let vectors = &mut self.arguments.outgoing;
        vectors[0] = vector(head);
        let mut count = 1;
        for (mask, datagram) in masked.iter().zip(train.chunks(segment_size.max(1))).take(SEGMENTS_MAX) {
            vectors[count] = vector(mask);
            vectors[count + 1] = vector(&datagram[MASK_LEN..]);
            count += 2;
        }
        let mut address = link_address(self.family, index);
        // SAFETY: `msghdr` is a C structure of integers and pointers; all zero is a valid value of it.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_name = (&raw mut address).cast();
        message.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        message.msg_iov = vectors.as_mut_ptr();
        message.msg_iovlen = count as _;
        // SAFETY: `message` points at an address and at vectors of bytes that are borrowed until the call returns. The
        // kernel does not write through them.
        check_size(unsafe {
            libc::sendmsg(self.socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL)
        })?;
        Ok(())
    }

    /// Receives as many packets as wait and as there are slots, their payload into the slots, and returns how many came.
    pub(super) fn receive(&mut self, slots: &mut [RecvSlot]) -> io::Result<usize> {
        let count = slots.len().min(BATCH);
        let head_len = self.head_len();
        let Arguments { messages, vectors, heads, addresses, .. } = &mut *self.arguments;
        for (at, slot) in slots[..count].iter_mut().enumerate() {
            vectors[2 * at] = libc::iovec { iov_base: heads[at].as_mut_ptr().cast(), iov_len: head_len };
            vectors[2 * at + 1] =
                libc::iovec { iov_base: slot.buf.as_mut_ptr().cast(), iov_len: slot.buf.len() };
            let header = &mut messages[at].msg_hdr;
            header.msg_iov = &raw mut vectors[2 * at];
            header.msg_iovlen = 2;
            header.msg_name = (&raw mut addresses[at]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        }
        // SAFETY: the first `count` headers point at an address and at two pieces of memory of the lengths they state, all
        // borrowed mutably until the call returns.
        check(unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                messages.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        })
        .map(|received| received as usize)
    }

    /// What message `at` of the last [`receive`](Self::receive) had.
    pub(super) fn received(&self, at: usize) -> Received<'_> {
        let Arguments { messages, heads, addresses, .. } = &*self.arguments;
        let len = messages[at].msg_len as usize;
        let head_len = self.head_len().min(len);
        // TUN, PPP and the like hand over bare IP packets.
        let link_len = match addresses[at].sll_hatype {
            libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => ETHERNET,
            _ => 0,
        };
        Received { head: &heads[at][..head_len], rest_len: len - head_len, link_len }
    }

    /// Bytes before the payload in nearly all packets.
    fn head_len(&self) -> usize {
        HEAD_MAX - if self.family == Family::V4 { 20 } else { 0 }
    }

    /// Packets that the kernel has dropped because nobody took them out of the receive buffer in time.
    pub(super) fn receive_drops(&self) -> io::Result<u32> {
        sys::receive_drops(self.as_fd())
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

pub(super) fn link_address(family: Family, index: u32) -> libc::sockaddr_ll {
    // SAFETY: a C structure of integers; all zero is a valid value of it.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = family.ether_type().to_be();
    address.sll_ifindex = index as i32;
    address
}

/// Passes TCP segments for this machine to one of `ports`, whole ones only.
fn filter(family: Family, ports: &[u16]) -> Vec<libc::sock_filter> {
    use bpf::{
        NETWORK, a_to_x, and, end, if_any_bit, if_equal, load_byte, load_half, load_half_at_x, shift_left,
    };
    const TCP: u32 = libc::IPPROTO_TCP as u32;
    const FRAGMENT: u32 = 0x3fff; // more to come, or not the first
    const KEEP: u32 = u32::MAX;

    let to_here = [load_byte(bpf::PACKET_TYPE), if_equal(bpf::TO_HOST, 1, 0), end(0)];
    let protocol = match family {
        Family::V4 => vec![
            load_byte(NETWORK + 9),
            if_equal(TCP, 1, 0),
            end(0),
            load_half(NETWORK + 6),
            if_any_bit(FRAGMENT, 0, 1),
            end(0),
            load_byte(NETWORK),
            and(0xf),
            shift_left(2),
            a_to_x(),
            load_half_at_x(NETWORK + 2),
        ],
        Family::V6 => vec![load_byte(NETWORK + 6), if_equal(TCP, 1, 0), end(0), load_half(NETWORK + 42)],
    };
    let ports = ports.iter().flat_map(|&port| [if_equal(port.into(), 0, 1), end(KEEP)]);
    to_here.into_iter().chain(protocol).chain(ports).chain([end(0)]).collect()
}

/// The lane that a segment's timestamp names, modulo `lanes`; 0 where the options are not those of data.
fn steering(family: Family, lanes: u32) -> Vec<libc::sock_filter> {
    use bpf::{
        NETWORK, a_to_x, and, end, end_with_a, if_equal, load_byte, load_byte_at_x, load_word,
        load_word_at_x, modulo, shift_left,
    };
    const TIMESTAMPS: u32 = 0x0101_080a; // no-op, no-op, kind 8, length 10
    let number = [and((1 << LANE_BITS) - 1), modulo(lanes), end_with_a()];
    let find = match family {
        Family::V4 => vec![
            load_byte(NETWORK),
            and(0xf),
            shift_left(2),
            a_to_x(),
            load_word_at_x(NETWORK + 20),
            if_equal(TIMESTAMPS, 1, 0),
            end(0),
            load_byte_at_x(NETWORK + 27),
        ],
        Family::V6 => {
            vec![load_word(NETWORK + 60), if_equal(TIMESTAMPS, 1, 0), end(0), load_byte(NETWORK + 67)]
        }
    };
    find.into_iter().chain(number).collect()
}
