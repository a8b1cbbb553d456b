//! Being told of changes to links, addresses and routes.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use super::message::messages;
use crate::sys::{self, check};

/// What has changed in a network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// An interface came, went, or changed: up, down, carrier, MTU.
    pub links: bool,
    /// An address came or went.
    pub addresses: bool,
    /// A route came or went.
    pub routes: bool,
    /// A neighbour's hardware address was learnt, changed, or is in doubt; only with
    /// [`open_with_neighbours`](Watch::open_with_neighbours).
    pub neighbours: bool,
}

impl Changes {
    /// These and others.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            links: self.links || other.links,
            addresses: self.addresses || other.addresses,
            routes: self.routes || other.routes,
            neighbours: self.neighbours || other.neighbours,
        }
    }

    /// Whether anything has.
    pub fn any(self) -> bool {
        self.links || self.addresses || self.routes || self.neighbours
    }
}

/// Becomes readable when links, addresses or routes change. It says what kind of thing has changed, not how: look
/// with [`Netlink`](super::Netlink), so that nothing depends on having seen every message.
#[derive(Debug)]
pub struct Watch {
    socket: File,
    buffer: Vec<u8>,
}

impl Watch {
    /// Watches the network namespace of the calling thread.
    ///
    /// # Errors
    /// Out of descriptors, or a sandbox that forbids netlink.
    pub fn open() -> io::Result<Self> {
        Self::open_groups(0)
    }

    /// As [`open`](Self::open), and watches neighbours, which change far more often.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with_neighbours() -> io::Result<Self> {
        Self::open_groups(libc::RTMGRP_NEIGH)
    }

    fn open_groups(more: i32) -> io::Result<Self> {
        let socket =
            sys::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_NONBLOCK, libc::NETLINK_ROUTE)?;
        let groups = more
            | libc::RTMGRP_LINK
            | libc::RTMGRP_IPV4_IFADDR
            | libc::RTMGRP_IPV6_IFADDR
            | libc::RTMGRP_IPV4_ROUTE
            | libc::RTMGRP_IPV6_ROUTE;
        // struct sockaddr_nl: family 2, padding 2, port 4 (0: the kernel chooses), groups 4.
        let mut address = [0; 12];
        address[..2].copy_from_slice(&(libc::AF_NETLINK as u16).to_ne_bytes());
        address[8..].copy_from_slice(&groups.to_ne_bytes());
        // SAFETY: the kernel reads 12 bytes from `address`, wherever they are aligned.
        check(unsafe { libc::bind(socket.as_raw_fd(), address.as_ptr().cast(), address.len() as _) })?;
        Ok(Self { socket: socket.into(), buffer: vec![0; 32 * 1024] })
    }

    /// What has changed since the last call.
    ///
    /// # Errors
    /// None that a correct program meets.
    pub fn drain(&mut self) -> io::Result<Changes> {
        let mut changes = Changes::default();
        loop {
            match self.socket.read(&mut self.buffer) {
                Ok(len) => {
                    for message in messages(&self.buffer[..len]) {
                        match message.kind {
                            libc::RTM_NEWLINK | libc::RTM_DELLINK => changes.links = true,
                            libc::RTM_NEWADDR | libc::RTM_DELADDR => changes.addresses = true,
                            libc::RTM_NEWROUTE | libc::RTM_DELROUTE => changes.routes = true,
                            libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => changes.neighbours = true,
                            _ => {}
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(changes),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // More happened than the socket could queue: anything may have changed.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    changes = Changes { links: true, addresses: true, routes: true, neighbours: true };
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
