//! One queue of a TUN device.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use packet::{MAX_PACKET, Tun, VnetHeader};

/// One queue of a TUN device, non-blocking.
///
/// What the errors of its calls mean:
///
/// | kind | errno | meaning |
/// |---|---|---|
/// | `WouldBlock` | `EAGAIN` | nothing to read; also while the interface is down |
/// | `InvalidInput` | `EINVAL`, `EMSGSIZE` | this packet is malformed, or uses an offload that the kernel lacks |
/// | `NetworkDown` | `EIO` | a write while the interface is down: the packet is lost, the queue is still good |
/// | `BrokenPipe` | `EBADFD` | the interface was deleted: the queue is dead; `epoll` reports an error for ever |
/// | `OutOfMemory` | `ENOMEM`, `ENOBUFS` | the kernel is out of memory: the packet is lost |
#[derive(Debug)]
pub struct TunQueue {
    file: File,
    /// Where the driver knows no virtio-net header: room to take it off and put it on.
    emulated: Option<Box<[u8]>>,
}

impl TunQueue {
    pub(super) fn new(file: File, vnet: bool) -> Self {
        let emulated = (!vnet).then(|| vec![0; VnetHeader::LEN + MAX_PACKET].into_boxed_slice());
        Self { file, emulated }
    }

    fn recv_emulated(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let scratch = self.emulated.as_mut().ok_or(io::ErrorKind::Unsupported)?;
        scratch[..VnetHeader::LEN].fill(0);
        let len = VnetHeader::LEN + self.file.read(&mut scratch[VnetHeader::LEN..])?;
        let mut copied = 0;
        for buf in bufs {
            let part = buf.len().min(len - copied);
            buf[..part].copy_from_slice(&scratch[copied..copied + part]);
            copied += part;
        }
        Ok(copied)
    }

    fn send_emulated(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let scratch = self.emulated.as_mut().ok_or(io::ErrorKind::Unsupported)?;
        let mut len = 0;
        for buf in bufs {
            let space = scratch.get_mut(len..len + buf.len()).ok_or(io::ErrorKind::InvalidInput)?;
            space.copy_from_slice(buf);
            len += buf.len();
        }
        // A header that says anything asks for an offload, which is not there.
        if len <= VnetHeader::LEN || scratch[..VnetHeader::LEN] != [0; VnetHeader::LEN] {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.file.write(&scratch[VnetHeader::LEN..len])
    }
}

impl Tun for TunQueue {
    fn recv(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let result =
            if self.emulated.is_some() { self.recv_emulated(bufs) } else { self.file.read_vectored(bufs) };
        result.map_err(classify)
    }

    fn send(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<()> {
        let result =
            if self.emulated.is_some() { self.send_emulated(bufs) } else { self.file.write_vectored(bufs) };
        result.map(drop).map_err(classify)
    }
}

/// Gives an error the kind that the table of [`TunQueue`] promises. Allocates nothing.
fn classify(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EMSGSIZE | libc::E2BIG) => io::ErrorKind::InvalidInput.into(),
        Some(libc::EIO) => io::ErrorKind::NetworkDown.into(),
        Some(libc::EBADFD) => io::ErrorKind::BrokenPipe.into(),
        Some(libc::ENOBUFS) => io::ErrorKind::OutOfMemory.into(),
        // A signal: as if nothing had been there yet.
        Some(libc::EINTR) => io::ErrorKind::WouldBlock.into(),
        _ => error,
    }
}

impl AsFd for TunQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    /// A queue of a driver without virtio-net headers, and the driver's side of it.
    fn headerless() -> (TunQueue, UnixDatagram) {
        let (ours, drivers) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (TunQueue::new(File::from(OwnedFd::from(ours)), false), drivers)
    }

    #[test]
    fn a_driver_without_headers_seems_to_send_empty_ones() {
        let (mut queue, driver) = headerless();
        let (mut header, mut packet) = ([0xff; VnetHeader::LEN], [0xff; 100]);
        let mut bufs = [IoSliceMut::new(&mut header), IoSliceMut::new(&mut packet)];
        assert_eq!(queue.recv(&mut bufs).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        driver.send(b"a packet").unwrap();
        assert_eq!(queue.recv(&mut bufs).unwrap(), VnetHeader::LEN + 8);
        assert_eq!(header, [0; VnetHeader::LEN]);
        assert_eq!(&packet[..8], b"a packet");
    }

    #[test]
    fn a_driver_without_headers_is_given_none_and_no_offload() {
        let (mut queue, driver) = headerless();
        let plain = VnetHeader::default().to_bytes();
        queue.send(&[IoSlice::new(&plain), IoSlice::new(b"a pack"), IoSlice::new(b"et")]).unwrap();
        let mut buf = [0; 100];
        assert_eq!(driver.recv(&mut buf).unwrap(), 8);
        assert_eq!(&buf[..8], b"a packet");

        let partial = VnetHeader { needs_checksum: true, ..VnetHeader::default() }.to_bytes();
        for bufs in [[&partial[..], b"a packet"], [&plain[..], b""], [&plain[..], &[0; MAX_PACKET + 1]]] {
            let error = queue.send(&bufs.map(IoSlice::new)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn errors_have_the_kinds_that_the_table_promises() {
        let kind = |errno| classify(io::Error::from_raw_os_error(errno)).kind();
        assert_eq!(kind(libc::EAGAIN), io::ErrorKind::WouldBlock);
        assert_eq!(kind(libc::EINVAL), io::ErrorKind::InvalidInput);
        assert_eq!(kind(libc::EMSGSIZE), io::ErrorKind::InvalidInput);
        assert_eq!(kind(libc::EIO), io::ErrorKind::NetworkDown);
        assert_eq!(kind(libc::EBADFD), io::ErrorKind::BrokenPipe);
        assert_eq!(kind(libc::ENOBUFS), io::ErrorKind::OutOfMemory);
    }
}
