//! The arguments of `recvmmsg` and `sendmsg`, kept so that no call allocates.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

use packet::{Buf, Class, Pool};

use super::Received;
use crate::cmsg::{Control, integer};
use crate::sys::{RawAddress, check};

/// Messages in one `recvmmsg`.
const BATCH: usize = 32;

pub(super) struct Batch {
    messages: [libc::mmsghdr; BATCH],
    vectors: [libc::iovec; BATCH],
    addresses: [RawAddress; BATCH],
    controls: [Control; BATCH],
    /// Buffers for the next datagrams, in the order of `messages`; those not filled wait here for the next call.
    buffers: [Option<Buf>; BATCH],
}

// SAFETY: the raw pointers in `messages` and `vectors` are written before each system call from borrows that outlive
// it, and never read afterwards. Between calls they are meaningless, so they may change threads.
unsafe impl Send for Batch {}

// SAFETY: a shared borrow gives access to nothing: every method takes `&mut self`.
unsafe impl Sync for Batch {}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Batch")
    }
}

impl Batch {
    pub(super) fn new() -> Box<Self> {
        // SAFETY: `mmsghdr` is a C structure of integers and pointers; all zero is a valid value of it.
        let message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        Box::new(Self {
            messages: [message; BATCH],
            vectors: [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH],
            addresses: [RawAddress::EMPTY; BATCH],
            controls: [Control::EMPTY; BATCH],
            buffers: [const { None }; BATCH],
        })
    }

    /// Makes message 0 describe a datagram to send; valid as long as `datagram` is, and until the next call.
    pub(super) fn describe_outgoing(
        &mut self,
        datagram: &[u8],
        to: RawAddress,
        control: Control,
    ) -> *const libc::msghdr {
        self.addresses[0] = to;
        self.controls[0] = control;
        self.describe(0, datagram.as_ptr().cast_mut(), datagram.len());
        let header = &mut self.messages[0].msg_hdr;
        header.msg_namelen = self.addresses[0].len();
        header.msg_controllen = self.controls[0].len() as _;
        &raw const *header
    }

    fn describe(&mut self, at: usize, base: *mut u8, len: usize) {
        self.vectors[at] = libc::iovec { iov_base: base.cast(), iov_len: len };
        let header = &mut self.messages[at].msg_hdr;
        header.msg_iov = &raw mut self.vectors[at];
        header.msg_iovlen = 1;
        header.msg_name = self.addresses[at].as_mut_ptr().cast();
        header.msg_control = self.controls[at].as_mut_ptr().cast();
        header.msg_flags = 0;
    }

    /// One `recvmmsg`, into buffers of the pool.
    pub(super) fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        pool: &Pool,
        received: &mut Vec<Received>,
    ) -> io::Result<()> {
        let mut count = 0;
        while count < BATCH {
            let Some(mut buf) = self.buffers[count].take().or_else(|| pool.take(Class::Small)) else { break };
            let room = buf.storage_mut();
            // The storage is on the heap: moving the guard into the array does not move it.
            let (base, len) = (room.as_mut_ptr(), room.len());
            self.describe(count, base, len);
            let header = &mut self.messages[count].msg_hdr;
            header.msg_namelen = RawAddress::CAPACITY;
            header.msg_controllen = Control::CAPACITY as _;
            self.buffers[count] = Some(buf);
            count += 1;
        }
        if count == 0 {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let messages = self.messages.as_mut_ptr();
        let filled = loop {
            // SAFETY: the first `count` headers point at room for address, control and bytes, of the lengths they state,
            // all owned by this batch, which is borrowed mutably until the call returns.
            let result = check(unsafe {
                libc::recvmmsg(
                    socket.as_raw_fd(),
                    messages,
                    count as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                    std::ptr::null_mut(),
                )
            });
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result? as usize,
            }
        };
        received.extend((0..filled).filter_map(|at| self.take(at)));
        Ok(())
    }

    /// Message `at` as the kernel has filled it; `None` has no buffer and is impossible after a receive.
    fn take(&mut self, at: usize) -> Option<Received> {
        let mut buf = self.buffers[at].take()?;
        let message = &self.messages[at];
        buf.commit(0..(message.msg_len as usize).min(buf.capacity()));
        let (mut arrival, mut hop_limit) = (None, None);
        for (level, kind, data) in self.controls[at].messages(message.msg_hdr.msg_controllen as _) {
            match (level, kind) {
                (libc::SOL_IP, libc::IP_PKTINFO) => arrival = packet_info_v4(data),
                (libc::SOL_IPV6, libc::IPV6_PKTINFO) => arrival = packet_info_v6(data),
                (libc::SOL_IP, libc::IP_TTL) | (libc::SOL_IPV6, libc::IPV6_HOPLIMIT) => {
                    hop_limit = integer(data).and_then(|hops| u8::try_from(hops).ok());
                }
                _ => {}
            }
        }
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let (interface, to) = arrival.unwrap_or((0, nowhere.ip()));
        Some(Received {
            buf,
            interface,
            from: self.addresses[at].decode().unwrap_or(nowhere),
            to,
            hop_limit,
            truncated: message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
        })
    }
}

/// `struct in_pktinfo`: interface 4, local address 4, destination of the header 4.
fn packet_info_v4(data: &[u8]) -> Option<(u32, IpAddr)> {
    let interface = u32::from_ne_bytes(*data.first_chunk()?);
    let to: [u8; 4] = *data.get(8..)?.first_chunk()?;
    Some((interface, Ipv4Addr::from(to).into()))
}

/// `struct in6_pktinfo`: destination 16, interface 4.
fn packet_info_v6(data: &[u8]) -> Option<(u32, IpAddr)> {
    let to: [u8; 16] = *data.first_chunk()?;
    let interface = u32::from_ne_bytes(*data.get(16..)?.first_chunk()?);
    Some((interface, Ipv6Addr::from(to).into()))
}
