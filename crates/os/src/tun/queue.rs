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
