//! Raw IP sockets (`raw(7)`): the kernel routes, finds the neighbour and builds the frame. For handshakes and
//! acknowledgments, which also keeps the kernel's knowledge of the neighbour fresh, and for data where packets have no Ethernet header (PPP, TUN)
//! or the neighbour is not known yet. No offloads: one segment each, with its checksum.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use carrier::fake_tcp::{HEADER_MAX, Header, complete_checksum};
use carrier::guard::MASK_LEN;

use super::Family;
use super::packet_socket::{ETHERNET, link_address};
use crate::cmsg::Control;
use crate::sys::{self, RawAddress, check_size, set_option};

/// Raw sockets for both families, as far as the kernel has them.
#[derive(Debug)]
pub(super) struct RawSockets {
    /// For segments whose Ethernet header is known; receives nothing.
    frames: OwnedFd,
    v4: OwnedFd,
    v6: Option<OwnedFd>,
}

impl RawSockets {
    pub(super) fn open(send_buffer_bytes: usize) -> io::Result<Self> {
        let open = |family| {
            let socket = sys::socket(family, libc::SOCK_RAW | libc::SOCK_NONBLOCK, libc::IPPROTO_RAW)?;
            sys::set_buffer(socket.as_fd(), libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, send_buffer_bytes)?;
            // Protocol IPPROTO_RAW delivers nothing, but an incoming packet of that number would wait there for ever.
            crate::bpf::attach(
                socket.as_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                &[crate::bpf::end(0)],
            )?;
            Ok::<_, io::Error>(socket)
        };
        let v6 = match open(libc::AF_INET6) {
            Ok(socket) => {
                set_option(socket.as_fd(), libc::SOL_IPV6, libc::IPV6_HDRINCL, 1)?;
                Some(socket)
            }
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => None,
            Err(error) => return Err(error),
        };
        let frames = sys::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, 0)?;
        Ok(Self { frames, v4: open(libc::AF_INET)?, v6 })
    }

    /// Sends one segment without payload as a frame, past the host's own firewall and address translation, as trains leave: a
    /// handshake that was translated here would be for another flow than its data.
    pub(super) fn send_frame(
        &self,
        header: &Header,
        index: u32,
        ethernet: &[u8; ETHERNET],
    ) -> io::Result<()> {
        let mut bytes = [0; ETHERNET + HEADER_MAX];
        let (front, packet) = bytes.split_at_mut(ETHERNET);
        front.copy_from_slice(ethernet);
        let Some(packet) = packet.first_chunk_mut::<HEADER_MAX>() else { return Ok(()) };
        let len = header.write(0, packet);
        complete_checksum(&mut packet[..len], header.ip_len(), &[]);
        let address = link_address(Family::of(header.to.ip()), index);
        // SAFETY: the kernel reads the frame and a `sockaddr_ll`, both borrowed until the call returns.
        check_size(unsafe {
            libc::sendto(
                self.frames.as_raw_fd(),
                bytes.as_ptr().cast(),
                ETHERNET + len,
                libc::MSG_NOSIGNAL,
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        })?;
        Ok(())
    }

    /// Sends one segment: `mask` and `rest` are its payload. It goes the way that the kernel has for its source address.
    pub(super) fn send(&self, header: &Header, mask: &[u8], rest: &[u8]) -> io::Result<()> {
        let socket = match Family::of(header.to.ip()) {
            Family::V4 => &self.v4,
            Family::V6 => self.v6.as_ref().ok_or(io::ErrorKind::Unsupported)?,
        };
        let mut bytes = [0; HEADER_MAX];
        let len = header.write(mask.len() + rest.len(), &mut bytes);
        complete_checksum(&mut bytes[..len], header.ip_len(), &[mask, rest]);
        // The kernel takes the protocol of a raw IPv6 socket from the port; 0 leaves it alone.
        let mut address = RawAddress::new(SocketAddr::new(header.to.ip(), 0));
        let mut control = Control::EMPTY;
        control.push_source(header.from.is_ipv6(), header.from.ip());
        let vector =
            |bytes: &[u8]| libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let mut vectors = [vector(&bytes[..len]), vector(mask), vector(rest)];
        // SAFETY: `msghdr` is a C structure of integers and pointers; all zero is a valid value of it.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_name = address.as_mut_ptr().cast();
        message.msg_namelen = address.len();
        message.msg_iov = vectors.as_mut_ptr();
        message.msg_iovlen = vectors.len() as _;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = control.len() as _;
        // SAFETY: `message` points at an address, at control messages and at vectors of bytes that are borrowed until the call returns. The
        // kernel does not write through them.
        check_size(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) })?;
        Ok(())
    }

    /// Sends the datagrams of a train one by one, and returns the bytes taken.
    pub(super) fn send_train(
        &self,
        header: &Header,
        masked: &[[u8; MASK_LEN]],
        train: &[u8],
        segment_size: usize,
    ) -> io::Result<usize> {
        let mut header = *header;
        let mut taken = 0;
        for (mask, datagram) in masked.iter().zip(train.chunks(segment_size.max(1))) {
            match self.send(&header, mask, &datagram[MASK_LEN..]) {
                Ok(()) => taken += datagram.len(),
                Err(error) if taken == 0 => return Err(error),
                Err(_) => break,
            }
            header.sequence = header.sequence.wrapping_add(datagram.len() as u32);
            header.identification = header.identification.wrapping_add(1);
        }
        Ok(taken)
    }
}
