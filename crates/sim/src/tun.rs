//! A TUN queue without a kernel.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};

use packet::{GsoType, Tun, VnetHeader};

use crate::inner::{is_too_big, segment_count};

/// Packets that wait in a TUN queue before the kernel drops them: Linux' default `txqueuelen`.
const QUEUE_LEN: usize = 500;

/// One queue of a simulated TUN device.
#[derive(Debug)]
pub(crate) struct SimTun {
    waiting: VecDeque<Vec<u8>>,
    written: Vec<Vec<u8>>,
    /// Whether writes may use GSO. (Partial checksums are taken on any device that has vnet headers: Linux does the same.)
    pub(crate) offloads: bool,
    /// Whether the device is up.
    pub(crate) up: bool,
    /// Packets that the node has read, super-packets counted by their segments.
    pub(crate) packets_read: u64,
    /// Packets that the node has written and the device has taken, counted alike; without what it has to say itself.
    pub(crate) packets_written: u64,
    /// Packets the queue had no room for: never seen by the node.
    pub(crate) overflowed: u64,
}

impl SimTun {
    pub(crate) fn new(offloads: bool) -> Self {
        Self {
            waiting: VecDeque::new(),
            written: Vec::new(),
            offloads,
            up: true,
            packets_read: 0,
            packets_written: 0,
            overflowed: 0,
        }
    }

    /// An application sends: vnet header and packet. Returns whether there was room.
    pub(crate) fn push(&mut self, packet: Vec<u8>) -> bool {
        if self.waiting.len() >= QUEUE_LEN || !self.up {
            self.overflowed += segment_count(&packet);
            return false;
        }
        self.waiting.push_back(packet);
        true
    }

    /// What was written since the last call.
    pub(crate) fn take_written(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.written)
    }

    /// Packets (or super-packets) that wait to be read.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn check_up(&self) -> io::Result<()> {
        // EIO is what Linux answers on a TUN queue whose device is down.
        if self.up { Ok(()) } else { Err(io::Error::from_raw_os_error(5)) }
    }
}

impl Tun for SimTun {
    fn recv(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.check_up()?;
        let packet = self.waiting.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        self.packets_read += segment_count(&packet);
        let mut rest = &packet[..];
        for buf in bufs {
            let len = rest.len().min(buf.len());
            buf[..len].copy_from_slice(&rest[..len]);
            rest = &rest[len..];
        }
        // Like the kernel, which truncates what does not fit.
        Ok(packet.len() - rest.len())
    }

    fn send(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<()> {
        self.check_up()?;
        let packet: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
        let header = packet.first_chunk().ok_or(io::ErrorKind::InvalidInput)?;
        let vnet = VnetHeader::parse(header).map_err(|_| io::ErrorKind::InvalidInput)?;
        if !self.offloads && vnet.gso_type != GsoType::None {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let own = is_too_big(&packet[VnetHeader::LEN..]);
        self.packets_written += if own { 0 } else { segment_count(&packet) };
        self.written.push(packet);
        Ok(())
    }
}
