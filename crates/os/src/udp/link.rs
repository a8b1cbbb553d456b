//! One UDP socket and its batched system calls.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use packet::{Ecn, Link, MAX_DATAGRAM, RecvSlot, Transmit, Via};

use super::{UdpOffloads, dont_fragment, dont_fragment_v4};
use crate::cmsg::{Control, integer};
use crate::sys::{self, RawAddress, check, check_size, set_option};

/// Bytes of a UDP datagram over IPv4 that no path should need to fragment: 576 outside (RFC 791 §3.1).
const PASSES_EVERYWHERE: usize = 576 - 20 - 8;
/// Messages in one `recvmmsg` or `sendmmsg`.
const BATCH: usize = 64;

/// One UDP socket, non-blocking, with the arrays that its batched system calls need.
#[derive(Debug)]
pub struct UdpLink {
    socket: OwnedFd,
    /// An IPv6 socket: IPv4 addresses are given to it IPv4-mapped.
    v6: bool,
    /// Segments a GSO send may have; 0 when GSO is off. Shared by all sockets of a [`bind`](super::bind) and their clones: what
    /// one learns from a refusal, all know.
    gso_segments: Arc<AtomicU32>,
    gro: bool,
    /// Datagrams reach this socket, one of several, by their lane.
    pub(super) steered: bool,
    batch: Box<Batch>,
}

/// Arguments of `sendmsg`, `sendmmsg` and `recvmmsg`, kept so that no call allocates.
struct Batch {
    messages: [libc::mmsghdr; BATCH],
    vectors: [libc::iovec; BATCH],
    addresses: [RawAddress; BATCH],
    controls: [Control; BATCH],
}

// SAFETY: the raw pointers in `messages` and `vectors` are written before each system call from borrows that outlive
// it, and never read afterwards. Between calls they are meaningless, so they may change threads.
unsafe impl Send for Batch {}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Batch")
    }
}

impl Batch {
    fn new() -> Box<Self> {
        // SAFETY: `mmsghdr` is a C structure of integers and pointers; all zero is a valid value of it.
        let message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        Box::new(Self {
            messages: [message; BATCH],
            vectors: [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH],
            addresses: [RawAddress::EMPTY; BATCH],
            controls: [Control::EMPTY; BATCH],
        })
    }

    /// Makes message `at` describe the bytes at `base`, with address and control `shared`.
    fn describe(&mut self, at: usize, shared: usize, base: *mut u8, len: usize) {
        self.vectors[at] = libc::iovec { iov_base: base.cast(), iov_len: len };
        let header = &mut self.messages[at].msg_hdr;
        header.msg_iov = &raw mut self.vectors[at];
        header.msg_iovlen = 1;
        header.msg_name = self.addresses[shared].as_mut_ptr().cast();
        header.msg_control = self.controls[shared].as_mut_ptr().cast();
    }

    /// As [`describe`](Self::describe), for sending: all messages go to address 0 with control 0.
    fn describe_outgoing(&mut self, at: usize, datagram: &[u8]) {
        self.describe(at, 0, datagram.as_ptr().cast_mut(), datagram.len());
        let header = &mut self.messages[at].msg_hdr;
        header.msg_namelen = self.addresses[0].len();
        header.msg_controllen = self.controls[0].len() as _;
        if self.controls[0].len() == 0 {
            header.msg_control = std::ptr::null_mut();
        }
    }

    /// As [`describe`](Self::describe), for receiving.
    fn describe_incoming(&mut self, at: usize, room: &mut [u8]) {
        self.describe(at, at, room.as_mut_ptr(), room.len());
        let header = &mut self.messages[at].msg_hdr;
        header.msg_namelen = RawAddress::CAPACITY;
        header.msg_controllen = Control::CAPACITY as _;
    }
}

impl UdpLink {
    pub(super) fn new(socket: OwnedFd, v6: bool, gso_segments: Arc<AtomicU32>, offload: bool) -> Self {
        let gro = offload && set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1).is_ok();
        Self { socket, v6, gso_segments, gro, steered: true, batch: Batch::new() }
    }

    /// Another handle on the same socket, for instance for the slow path of the node.
    ///
    /// # Errors
    /// `EMFILE`: out of descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            socket: self.socket.try_clone()?,
            v6: self.v6,
            gso_segments: Arc::clone(&self.gso_segments),
            gro: self.gro,
            steered: self.steered,
            batch: Batch::new(),
        })
    }

    /// The address the socket is bound to; the IPv6 wildcard for a dual-stack one.
    ///
    /// # Errors
    /// None that a correct program meets.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        sys::local_address(self.as_fd())
    }

    /// The offloads in use now. GSO is switched off for good when the kernel refuses it.
    pub fn offloads(&self) -> UdpOffloads {
        UdpOffloads { gso: self.gso_segments.load(Relaxed) > 0, gro: self.gro }
    }

    /// Whether datagrams reach each of several sockets by their lane. Where the kernel refuses that, it chooses a socket by
    /// addresses and ports: all of a peer's datagrams then reach one worker, in order, and workers may be busy unevenly.
    pub fn is_steered(&self) -> bool {
        self.steered
    }

    /// How many datagrams the kernel has dropped since [`bind`](super::bind) because nobody took them out of the
    /// receive buffer in time. Wraps around.
    ///
    /// # Errors
    /// On kernels before Linux 4.12, which do not tell.
    pub fn receive_drops(&self) -> io::Result<u32> {
        sys::receive_drops(self.as_fd())
    }

    /// Whether datagrams must not be fragmented (the default).
    ///
    /// # Errors
    /// None that a correct program meets.
    pub fn set_dont_fragment(&self, on: bool) -> io::Result<()> {
        dont_fragment(self.as_fd(), self.v6, on)
    }

    /// Sends one datagram that routers may fragment, if it goes over IPv4 and is longer than every path passes: what has to
    /// arrive on a path that nothing is known of. Over IPv6 routers never fragment (RFC 8200 §5).
    ///
    /// Linux knows the bit by socket and not by datagram. What another thread sends on the same socket in this very moment may be
    /// without it too, which costs that datagram nothing.
    ///
    /// # Errors
    /// As [`Link::send`].
    pub fn send_fragmentable(&mut self, via: Via, transmit: &Transmit<'_>) -> io::Result<usize> {
        let may = transmit.to.ip().to_canonical().is_ipv4() && transmit.contents.len() > PASSES_EVERYWHERE;
        if !may || dont_fragment_v4(self.as_fd(), false).is_err() {
            return self.send_via(via, transmit);
        }
        let result = self.send_via(via, transmit);
        dont_fragment_v4(self.as_fd(), true)?;
        result
    }

    /// Writes address 0 and control 0 of the batch.
    fn address_batch(&mut self, source: Option<IpAddr>, transmit: &Transmit<'_>, segment_size: Option<u16>) {
        let batch = &mut *self.batch;
        batch.addresses[0] =
            if self.v6 { RawAddress::new_v6(transmit.to) } else { RawAddress::new(transmit.to) };
        let control = &mut batch.controls[0];
        control.clear();
        if let Some(size) = segment_size {
            control.push(libc::SOL_UDP, libc::UDP_SEGMENT, &size.to_ne_bytes());
        }
        if transmit.ecn != Ecn::NotEct {
            let bits = (transmit.ecn as i32).to_ne_bytes();
            // An IPv4-mapped destination takes the IPv4 path of the kernel, with IPv4's options.
            match transmit.to.ip().to_canonical() {
                IpAddr::V4(_) => control.push(libc::SOL_IP, libc::IP_TOS, &bits),
                IpAddr::V6(_) => control.push(libc::SOL_IPV6, libc::IPV6_TCLASS, &bits),
            }
        }
        // An address of the other family cannot be meant: the kernel then chooses.
        match source.filter(|source| source.is_ipv4() == transmit.to.ip().to_canonical().is_ipv4()) {
            None => {}
            Some(source) => control.push_source(self.v6, source),
        }
    }

    /// One `sendmsg`: a single datagram, or a train that fits one GSO send.
    pub(super) fn send_gso(&mut self, source: Option<IpAddr>, transmit: &Transmit<'_>) -> io::Result<usize> {
        let train = transmit.contents.len() > transmit.segment_size;
        self.address_batch(source, transmit, train.then_some(transmit.segment_size as u16));
        self.batch.describe_outgoing(0, transmit.contents);
        let header = &raw const self.batch.messages[0].msg_hdr;
        retry_refused(|| {
            // SAFETY: `describe_outgoing` has pointed the header at address, control and bytes, which are borrowed
            // until the call returns. The kernel does not write through them.
            check_size(unsafe { libc::sendmsg(self.socket.as_raw_fd(), header, libc::MSG_NOSIGNAL) })
        })
    }

    /// `sendmmsg` of single datagrams, up to [`BATCH`] of them. Returns the bytes taken.
    fn send_singly(&mut self, source: Option<IpAddr>, transmit: &Transmit<'_>) -> io::Result<usize> {
        self.address_batch(source, transmit, None);
        let mut count = 0;
        for datagram in transmit.contents.chunks(transmit.segment_size).take(BATCH) {
            self.batch.describe_outgoing(count, datagram);
            count += 1;
        }
        let messages = self.batch.messages.as_mut_ptr();
        let sent = retry_refused(|| {
            // SAFETY: the first `count` headers point at address, control and bytes, which are borrowed until the
            // call returns. The kernel writes only `msg_len` of each header.
            check(unsafe {
                libc::sendmmsg(
                    self.socket.as_raw_fd(),
                    messages,
                    count as libc::c_uint,
                    libc::MSG_NOSIGNAL as _,
                )
            })
        })?;
        Ok(transmit.contents.len().min(sent as usize * transmit.segment_size))
    }

    /// Sends the next part of a train in one system call. Returns the bytes taken.
    fn send_part(&mut self, source: Option<IpAddr>, transmit: &Transmit<'_>) -> io::Result<usize> {
        let segments = self.gso_segments.load(Relaxed) as usize;
        let train = transmit.contents.len() > transmit.segment_size;
        if !train {
            return self.send_gso(source, transmit);
        }
        if segments == 0 {
            return self.send_singly(source, transmit);
        }
        // As many segments as the kernel takes, and as fit one datagram's length field.
        let segments = segments.min(MAX_DATAGRAM / transmit.segment_size).max(1);
        let part = transmit.contents.len().min(transmit.segment_size * segments);
        let part = Transmit { contents: &transmit.contents[..part], ..*transmit };
        match self.send_gso(source, &part) {
            Err(error) if refuses_gso(&error) => {
                // The same errno can mean that this datagram is wrong. Only if single ones pass was it GSO.
                let taken = self.send_singly(source, &part)?;
                self.gso_segments.store(0, Relaxed);
                Ok(taken)
            }
            result => result,
        }
    }
}

/// Whether a GSO send failed in a way that single datagrams may not.
///
/// `EIO`: the route's device cannot checksum, or IPsec takes the packet. `EINVAL`: too many segments, or (on
/// older kernels) a segment larger than the path MTU. `EOPNOTSUPP`: no such control message.
pub(super) fn refuses_gso(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EOPNOTSUPP))
}

/// Whether a send may have failed because this machine no longer has the source address: `EINVAL`, or `ENETUNREACH` where
/// the only route went with it.
fn refuses_source(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EADDRNOTAVAIL | libc::ENETUNREACH))
}

/// Runs a system call again, once, when it only reports what an ICMP message said about an earlier datagram.
fn retry_refused<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    match call() {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ECONNREFUSED | libc::EINTR)) => call(),
        result => result,
    }
}

/// Gives an error the kind that [`Link`] documents. No allocation: an errno that has the right kind is kept.
fn classify(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::ENOBUFS) => io::ErrorKind::OutOfMemory.into(),
        Some(libc::EMSGSIZE) => io::ErrorKind::InvalidInput.into(),
        _ => error,
    }
}

impl Link for UdpLink {
    fn send(&mut self, transmit: &Transmit<'_>) -> io::Result<usize> {
        self.send_via(Via::default(), transmit)
    }

    fn send_via(&mut self, Via { mut source, .. }: Via, transmit: &Transmit<'_>) -> io::Result<usize> {
        let total = transmit.contents.len();
        if transmit.segment_size > MAX_DATAGRAM || (transmit.segment_size == 0 && total > 0) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut taken = 0;
        loop {
            let rest = Transmit { contents: &transmit.contents[taken..], ..*transmit };
            match self.send_part(source, &rest) {
                Ok(bytes) => taken += bytes,
                // The address went away: better from another one than not at all.
                Err(error) if source.is_some() && refuses_source(&error) => {
                    source = None;
                    continue;
                }
                Err(_) if taken > 0 => return Ok(taken),
                Err(error) => return Err(classify(error)),
            }
            if taken >= total {
                return Ok(taken);
            }
        }
    }

    fn recv(&mut self, slots: &mut [RecvSlot]) -> io::Result<usize> {
        let count = slots.len().min(BATCH);
        if count == 0 {
            return Ok(0);
        }
        for (at, slot) in slots[..count].iter_mut().enumerate() {
            self.batch.describe_incoming(at, &mut slot.buf);
        }
        let messages = self.batch.messages.as_mut_ptr();
        let received = retry_refused(|| {
            // SAFETY: the first `count` headers point at room for address, control and bytes, of the lengths they
            // state, all borrowed mutably until the call returns.
            check(unsafe {
                libc::recvmmsg(
                    self.socket.as_raw_fd(),
                    messages,
                    count as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                    std::ptr::null_mut(),
                )
            })
        })
        .map_err(classify)? as usize;
        for (at, slot) in slots[..received].iter_mut().enumerate() {
            self.fill(at, slot);
        }
        Ok(received)
    }
}

impl UdpLink {
    /// Reads what the kernel says about message `at`.
    ///
    /// A datagram larger than its slot arrives cut short: it will not authenticate, and is counted as that.
    fn fill(&self, at: usize, slot: &mut RecvSlot) {
        let message = &self.batch.messages[at];
        slot.len = (message.msg_len as usize).min(slot.buf.len());
        slot.segment_size = slot.len;
        slot.ecn = Ecn::NotEct;
        slot.to = None;
        if let Some(from) = self.batch.addresses[at].decode() {
            slot.from = from;
        }
        for (level, kind, data) in self.batch.controls[at].messages(message.msg_hdr.msg_controllen as _) {
            let Some(value) = integer(data) else { continue };
            match (level, kind) {
                (libc::SOL_IP, libc::IP_PKTINFO) | (libc::SOL_IPV6, libc::IPV6_PKTINFO) => {
                    slot.to = local_address(data);
                }
                (libc::SOL_UDP, libc::UDP_GRO) if value > 0 => {
                    slot.segment_size = (value as usize).min(slot.len);
                }
                (libc::SOL_IP, libc::IP_TOS) | (libc::SOL_IPV6, libc::IPV6_TCLASS) => {
                    slot.ecn = Ecn::from_bits(value as u8);
                }
                _ => {}
            }
        }
    }
}

/// Our own address in `in_pktinfo` (interface, address, destination) or `in6_pktinfo` (address, interface); `None` for
/// one that nobody can send from.
fn local_address(info: &[u8]) -> Option<IpAddr> {
    let address = match *info {
        [_, _, _, _, a, b, c, d, _, _, _, _] => IpAddr::from([a, b, c, d]),
        _ => IpAddr::from(*info.first_chunk::<16>()?).to_canonical(),
    };
    (!address.is_multicast() && !address.is_unspecified()).then_some(address)
}

impl AsFd for UdpLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::udp::{UdpConfig, bind};

    fn link() -> UdpLink {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = UdpConfig {
            listen,
            workers: 1,
            send_buffer_bytes: 1 << 20,
            receive_buffer_bytes: 1 << 20,
            offload: true,
        };
        bind(&config).unwrap().remove(0)
    }

    #[test]
    fn errors_have_the_kinds_that_link_promises() {
        let kind = |errno| classify(io::Error::from_raw_os_error(errno)).kind();
        assert_eq!(kind(libc::ENOBUFS), io::ErrorKind::OutOfMemory);
        assert_eq!(kind(libc::ENOMEM), io::ErrorKind::OutOfMemory);
        assert_eq!(kind(libc::EMSGSIZE), io::ErrorKind::InvalidInput);
        assert_eq!(kind(libc::EAGAIN), io::ErrorKind::WouldBlock);
        assert_eq!(kind(libc::ENETUNREACH), io::ErrorKind::NetworkUnreachable);
    }

    #[test]
    fn a_kernel_that_refuses_gso_gets_single_datagrams_from_then_on() {
        let (mut sender, mut receiver) = (link(), link());
        // Without checksums the kernel refuses to segment: EINVAL, or EIO on older ones.
        set_option(sender.as_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).unwrap();
        assert!(sender.offloads().gso);
        let bytes: Vec<u8> = (0..4000).map(|i| i as u8).collect();
        let to = receiver.local_addr().unwrap();
        let transmit = Transmit { to, ecn: Ecn::NotEct, segment_size: 1200, contents: &bytes };
        assert_eq!(sender.send(&transmit).unwrap(), 4000);
        assert!(!sender.offloads().gso);

        let mut slots: Vec<RecvSlot> = (0..8).map(|_| RecvSlot::new(65_535)).collect();
        let mut received = Vec::new();
        while received.len() < 4000 {
            let Ok(count) = receiver.recv(&mut slots) else { continue };
            for slot in &slots[..count] {
                received.extend_from_slice(&slot.buf[..slot.len]);
            }
        }
        assert_eq!(received, bytes);
    }

    #[test]
    fn a_report_about_an_earlier_datagram_is_swallowed_once() {
        let mut results = vec![Ok(7), Err(io::Error::from_raw_os_error(libc::ECONNREFUSED))];
        assert_eq!(retry_refused(|| results.pop().unwrap()).unwrap(), 7);
    }
}
