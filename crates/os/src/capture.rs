//! Seeing what passes: TCP segments and UDP datagrams on all interfaces, in both directions.
//!
//! Super-packets, which the kernel cuts or has put together, are shown whole, with the size of their segments.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use libc::sock_filter;
use packet::{GsoType, MAX_PACKET, VnetHeader};

use crate::bpf;
use crate::sys::{self, check, check_size, set_option};

/// Room for the largest frame: virtio-net and Ethernet header, and a packet.
const FRAME_MAX: usize = VnetHeader::LEN + ETHERNET + MAX_PACKET;
const ETHERNET: usize = 14;
const BUFFER_BYTES: usize = 16 << 20;

/// A socket that sees packets pass.
#[derive(Debug)]
pub struct Capture {
    socket: OwnedFd,
    frame: Box<[u8]>,
}

/// One packet that has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Captured<'a> {
    /// IP header and all that follows it.
    pub packet: &'a [u8],
    /// Payload bytes of each segment of a super-packet.
    pub segment_size: Option<u16>,
    /// The interface's number.
    pub interface: u32,
    /// It leaves this machine.
    pub outgoing: bool,
}

impl Capture {
    /// Sees whatever comes from or goes to `port`, or to any port.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_NET_RAW`.
    pub fn open(port: Option<u16>) -> io::Result<Self> {
        let socket = sys::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, 0)?;
        let fd = socket.as_fd();
        bpf::attach(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter(port))?;
        set_option(fd, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
        sys::set_buffer(fd, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, BUFFER_BYTES)?;
        // SAFETY: a C structure of integers; all zero is a valid value of it.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: the kernel reads a `sockaddr_ll` from `address`.
        check(unsafe {
            libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as _)
        })?;
        Ok(Self { socket, frame: vec![0; FRAME_MAX].into_boxed_slice() })
    }

    /// The next packet; `None` for a frame that is of no use.
    ///
    /// # Errors
    /// `WouldBlock` when none waits.
    pub fn recv(&mut self) -> io::Result<Option<Captured<'_>>> {
        // SAFETY: a C structure of integers; all zero is a valid value of it.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        let mut address_len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the kernel writes at most as many bytes to the frame and to the address as they have.
        let len = check_size(unsafe {
            libc::recvfrom(
                self.socket.as_raw_fd(),
                self.frame.as_mut_ptr().cast(),
                self.frame.len(),
                0,
                (&raw mut address).cast(),
                &raw mut address_len,
            )
        })?;
        let link_len = match address.sll_hatype {
            libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => ETHERNET,
            _ => 0,
        };
        let frame = &self.frame[..len];
        let vnet = frame.first_chunk().and_then(|bytes| VnetHeader::parse(bytes).ok()).unwrap_or_default();
        let packet = frame.get(VnetHeader::LEN + link_len..);
        Ok(packet.map(|packet| Captured {
            packet,
            segment_size: (vnet.gso_type != GsoType::None).then_some(vnet.gso_size),
            interface: address.sll_ifindex as u32,
            outgoing: address.sll_pkttype == libc::PACKET_OUTGOING,
        }))
    }

    /// Packets that were missed because nobody took them in time.
    ///
    /// # Errors
    /// On kernels before Linux 4.12, which do not tell.
    pub fn missed(&self) -> io::Result<u32> {
        sys::receive_drops(self.as_fd())
    }
}

impl AsFd for Capture {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Passes TCP and UDP over IPv4 and IPv6, whole packets, with that port at either end.
fn filter(port: Option<u16>) -> Vec<sock_filter> {
    use bpf::{
        NETWORK, a_to_x, and, end, if_any_bit, if_equal, jump, load_byte, load_half, load_half_at_x, load_x,
        shift_left, shift_right,
    };
    const TCP: u32 = libc::IPPROTO_TCP as u32;
    const UDP: u32 = libc::IPPROTO_UDP as u32;
    const FRAGMENT: u32 = 0x3fff;
    let ports = match port {
        Some(port) => vec![
            load_half_at_x(NETWORK),
            if_equal(port.into(), 2, 0),
            load_half_at_x(NETWORK + 2),
            if_equal(port.into(), 0, 1),
            end(u32::MAX),
            end(0),
        ],
        None => vec![end(u32::MAX)],
    };
    let v6 = [load_byte(NETWORK + 6), if_equal(TCP, 2, 0), if_equal(UDP, 1, 0), end(0), load_x(40)];
    let v4 = [
        load_half(NETWORK + 6),
        if_any_bit(FRAGMENT, 0, 1),
        end(0),
        load_byte(NETWORK + 9),
        if_equal(TCP, 2, 0),
        if_equal(UDP, 1, 0),
        end(0),
        load_byte(NETWORK),
        and(0xf),
        shift_left(2),
        a_to_x(),
        jump(v6.len() as u32),
    ];
    let version =
        [load_byte(NETWORK), shift_right(4), if_equal(4, 2, 0), if_equal(6, 1 + v4.len() as u8, 0), end(0)];
    version.into_iter().chain(v4).chain(v6).chain(ports).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_jumps_stay_inside_it() {
        for port in [None, Some(9443)] {
            let program = filter(port);
            for (at, op) in program.iter().enumerate() {
                let jumps = u32::from(op.code) & 0x07 == libc::BPF_JMP;
                let furthest = match u32::from(op.code) {
                    code if code == libc::BPF_JMP | libc::BPF_JA => op.k as usize,
                    _ => usize::from(op.jt.max(op.jf)),
                };
                assert!(!jumps || at + 1 + furthest < program.len(), "instruction {at} of {port:?}");
            }
        }
    }
}
