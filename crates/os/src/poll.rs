//! Waiting for many descriptors at once (`epoll`), and waking up whoever waits (`eventfd`).

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use crate::sys::{check, own};

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Data, a connection or an end of file waits.
    pub read: bool,
    /// There is room to write.
    pub write: bool,
    /// Report each change once (`EPOLLET`), not for as long as the state lasts.
    pub edge: bool,
}

impl Interest {
    /// Readable, level-triggered.
    pub const READ: Self = Self { read: true, write: false, edge: false };
    /// Writable, level-triggered.
    pub const WRITE: Self = Self { read: false, write: true, edge: false };
    /// Readable or writable, level-triggered.
    pub const READ_WRITE: Self = Self { read: true, write: true, edge: false };

    fn bits(self) -> u32 {
        let mut bits = 0;
        if self.read {
            bits |= libc::EPOLLIN | libc::EPOLLRDHUP;
        }
        if self.write {
            bits |= libc::EPOLLOUT;
        }
        if self.edge {
            bits |= libc::EPOLLET;
        }
        bits as u32
    }
}

/// Something happened to a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The token that the descriptor was added with.
    pub token: u64,
    /// A read will not block. Also set on errors and hang-ups, so that the read reports them.
    pub readable: bool,
    /// A write will not block. Also set on errors.
    pub writable: bool,
    /// An error or a hang-up (`EPOLLERR`, `EPOLLHUP`), which is reported whatever the [`Interest`] and does not go
    /// away: a TUN queue whose interface was deleted, the far end of a pipe closed. Remove the descriptor when a
    /// read confirms it, or the loop spins.
    pub failed: bool,
}

/// Room for the events of one [`Poller::wait`].
pub struct Events {
    raw: Vec<libc::epoll_event>,
    filled: usize,
}

impl Events {
    /// Room for `capacity` events; more come with the next wait.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { raw: vec![libc::epoll_event { events: 0, u64: 0 }; capacity.max(1)], filled: 0 }
    }

    /// What the last wait reported.
    pub fn iter(&self) -> impl Iterator<Item = Event> {
        self.raw[..self.filled].iter().map(|raw| {
            let bits = raw.events as i32;
            let failed = bits & (libc::EPOLLERR | libc::EPOLLHUP) != 0;
            Event {
                token: raw.u64,
                readable: failed || bits & (libc::EPOLLIN | libc::EPOLLRDHUP) != 0,
                writable: failed || bits & libc::EPOLLOUT != 0,
                failed,
            }
        })
    }

    /// Whether the last wait ended without an event.
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// An epoll instance.
///
/// A descriptor leaves by [`remove`](Self::remove), or when it and all its duplicates are closed.
#[derive(Debug)]
pub struct Poller {
    epoll: OwnedFd,
    /// The kernel has `epoll_pwait2` (Linux 5.11), with time-outs in nanoseconds.
    precise: AtomicBool,
}

impl Poller {
    /// A new instance that watches nothing.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOMEM`: out of descriptors or memory.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers.
        let epoll = own(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        Ok(Self { epoll, precise: AtomicBool::new(true) })
    }

    /// Starts to watch a descriptor; its events carry `token`.
    ///
    /// # Errors
    /// `AlreadyExists` when it is watched already; `PermissionDenied` when it cannot be watched (a regular file).
    pub fn add(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd.as_fd(), token, interest.bits())
    }

    /// Changes what a descriptor is watched for.
    ///
    /// # Errors
    /// `NotFound` when it is not watched.
    pub fn modify(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd.as_fd(), token, interest.bits())
    }

    /// Stops watching a descriptor.
    ///
    /// # Errors
    /// `NotFound` when it is not watched.
    pub fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd.as_fd(), 0, 0)
    }

    fn control(&self, operation: i32, fd: BorrowedFd<'_>, token: u64, bits: u32) -> io::Result<()> {
        let mut event = libc::epoll_event { events: bits, u64: token };
        // SAFETY: `event` is valid during the call.
        check(unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd.as_raw_fd(), &raw mut event) })
            .map(drop)
    }

    /// Waits until something happens or `timeout` is over (`None`: for ever), and returns the number of events.
    ///
    /// A signal ends the wait with no events: callers recompute their deadline and wait again. Where the kernel
    /// only knows milliseconds the time-out is rounded up, so that no caller wakes before its deadline and spins.
    ///
    /// # Errors
    /// None that a correct program meets.
    pub fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<usize> {
        events.filled = 0;
        let result = if self.precise.load(Relaxed) {
            match self.wait_precise(events, timeout) {
                // EPERM: what old container seccomp filters answer to calls they do not know.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
                    self.precise.store(false, Relaxed);
                    self.wait_millis(events, timeout)
                }
                result => result,
            }
        } else {
            self.wait_millis(events, timeout)
        };
        match result {
            Ok(count) => events.filled = count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(events.filled)
    }

    fn wait_precise(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<usize> {
        let spec = timeout.map(|timeout| KernelTimespec {
            seconds: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            nanos: i64::from(timeout.subsec_nanos()),
        });
        // SAFETY: the arguments are those of epoll_pwait2(2): room for `raw.len()` events, a time-out or null, no
        // signal mask.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.epoll.as_raw_fd(),
                events.raw.as_mut_ptr(),
                events.raw.len() as libc::c_int,
                spec.as_ref().map_or(ptr::null(), ptr::from_ref),
                ptr::null::<libc::sigset_t>(),
                0usize,
            )
        };
        check(count as i32).map(|count| count as usize)
    }

    fn wait_millis(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<usize> {
        let millis = timeout
            .map_or(-1, |timeout| i32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX));
        // SAFETY: there is room for `raw.len()` events.
        check(unsafe {
            libc::epoll_wait(
                self.epoll.as_raw_fd(),
                events.raw.as_mut_ptr(),
                events.raw.len() as libc::c_int,
                millis,
            )
        })
        .map(|count| count as usize)
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// `struct __kernel_timespec`: 64 bits each, on every architecture.
#[repr(C)]
struct KernelTimespec {
    seconds: i64,
    nanos: i64,
}

/// Wakes up a thread that waits in a [`Poller`]: add it with [`Interest::READ`], then [`wake`](Self::wake) it from
/// anywhere. Wakes that come before the [`drain`](Self::drain) count as one.
#[derive(Debug)]
pub struct Waker {
    event: File,
}

impl Waker {
    /// A waker that nobody has woken.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOMEM`: out of descriptors or memory.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers.
        let event = own(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        Ok(Self { event: event.into() })
    }

    /// Makes the waker readable.
    pub fn wake(&self) {
        // The only failure is a counter about to overflow: then it is readable already.
        let _ = (&self.event).write(&1u64.to_ne_bytes());
    }

    /// Makes it unreadable again, and says whether it was woken.
    pub fn drain(&self) -> bool {
        (&self.event).read(&mut [0; 8]).is_ok()
    }

    /// Another handle on the same waker.
    ///
    /// # Errors
    /// `EMFILE`: out of descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { event: self.event.try_clone()? })
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_wake_from_another_thread_ends_the_wait() {
        let poller = Poller::new().unwrap();
        let waker = Waker::new().unwrap();
        poller.add(&waker, 7, Interest::READ).unwrap();
        let mut events = Events::with_capacity(8);
        std::thread::scope(|scope| {
            scope.spawn(|| waker.wake());
            assert_eq!(poller.wait(&mut events, None).unwrap(), 1);
        });
        let event = events.iter().next().unwrap();
        assert_eq!(event, Event { token: 7, readable: true, writable: false, failed: false });
        assert!(waker.drain());
        assert!(!waker.drain());
        assert_eq!(poller.wait(&mut events, Some(Duration::ZERO)).unwrap(), 0);
    }

    #[test]
    fn a_wait_never_ends_before_its_timeout_and_knows_microseconds() {
        let poller = Poller::new().unwrap();
        let mut events = Events::with_capacity(1);
        for precise in [true, false] {
            poller.precise.store(precise, Relaxed);
            let start = Instant::now();
            poller.wait(&mut events, Some(Duration::from_micros(300))).unwrap();
            assert!(start.elapsed() >= Duration::from_micros(300));
        }
    }

    #[test]
    fn an_edge_is_reported_once_and_a_removed_descriptor_never() {
        let poller = Poller::new().unwrap();
        let waker = Waker::new().unwrap();
        poller.add(&waker, 1, Interest { edge: true, ..Interest::READ }).unwrap();
        let mut events = Events::with_capacity(8);
        waker.wake();
        assert_eq!(poller.wait(&mut events, Some(Duration::ZERO)).unwrap(), 1);
        assert_eq!(poller.wait(&mut events, Some(Duration::ZERO)).unwrap(), 0);
        waker.wake();
        assert_eq!(poller.wait(&mut events, Some(Duration::ZERO)).unwrap(), 1);
        poller.modify(&waker, 2, Interest::READ).unwrap();
        assert_eq!(poller.wait(&mut events, None).unwrap(), 1);
        assert_eq!(events.iter().next().unwrap().token, 2);
        poller.remove(&waker).unwrap();
        assert_eq!(poller.wait(&mut events, Some(Duration::ZERO)).unwrap(), 0);
        assert_eq!(poller.remove(&waker).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
