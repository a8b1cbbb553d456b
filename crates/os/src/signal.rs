//! Signals as something to read, in the same event loop as everything else (`signalfd(2)`).

use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};

use crate::sys::own;

/// What the operator, or the terminal, wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// `SIGINT`, from Ctrl-C: stop.
    Interrupt,
    /// `SIGTERM`: stop.
    Terminate,
    /// `SIGHUP`: read the configuration again.
    Hangup,
    /// `SIGUSR1`: say how things are.
    User1,
}

impl Signal {
    const ALL: [(libc::c_int, Self); 4] = [
        (libc::SIGINT, Self::Interrupt),
        (libc::SIGTERM, Self::Terminate),
        (libc::SIGHUP, Self::Hangup),
        (libc::SIGUSR1, Self::User1),
    ];
}

/// The signals of [`Signal`], blocked and queued to be read.
#[derive(Debug)]
pub struct Signals {
    file: File,
    mask: libc::sigset_t,
}

impl Signals {
    /// Blocks the signals in the calling thread and in all threads that it starts from now on: so call this first
    /// thing in `main`. A thread that existed before would still be killed by them.
    ///
    /// A `SIGHUP` that the process was started to ignore, as by `nohup(1)`, stays ignored.
    ///
    /// Child processes inherit the blocking: give a [`Command`](std::process::Command) to
    /// [`unblock_in`](Self::unblock_in) before it is spawned.
    ///
    /// # Errors
    /// `EMFILE`: out of descriptors.
    pub fn block() -> io::Result<Self> {
        let mut mask = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: the set is made empty, and thereby initialised.
        unsafe { libc::sigemptyset(mask.as_mut_ptr()) };
        // SAFETY: initialised by the line before.
        let mut mask = unsafe { mask.assume_init() };
        for (number, signal) in Signal::ALL {
            if signal == Signal::Hangup && is_ignored(number) {
                continue;
            }
            // SAFETY: an initialised set and a valid signal number.
            unsafe { libc::sigaddset(&raw mut mask, number) };
        }
        change_mask(libc::SIG_BLOCK, &mask)?;
        // SAFETY: an initialised set.
        let fd = own(unsafe { libc::signalfd(-1, &raw const mask, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) })?;
        Ok(Self { file: fd.into(), mask })
    }

    /// The next signal, if one came.
    ///
    /// # Errors
    /// None that a correct program meets.
    pub fn read(&self) -> io::Result<Option<Signal>> {
        // struct signalfd_siginfo: 128 bytes, of which the first four are the signal's number.
        let mut info = [0; 128];
        loop {
            match (&self.file).read(&mut info) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
            let number = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
            if let Some((_, signal)) = Signal::ALL.iter().find(|(known, _)| *known == number) {
                return Ok(Some(*signal));
            }
        }
    }

    /// Makes a child process start with the signals unblocked, as it expects.
    pub fn unblock_in<'a>(&self, command: &'a mut std::process::Command) -> &'a mut std::process::Command {
        use std::os::unix::process::CommandExt;
        let mask = self.mask;
        // SAFETY: between fork and exec the closure makes one async-signal-safe call and allocates nothing.
        unsafe { command.pre_exec(move || change_mask(libc::SIG_UNBLOCK, &mask)) }
    }
}

/// Whether the process ignores a signal. Once blocked it would be queued all the same.
fn is_ignored(number: libc::c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: asks only; the kernel writes one `sigaction`.
    let asked = unsafe { libc::sigaction(number, std::ptr::null(), action.as_mut_ptr()) };
    // SAFETY: written by the kernel, as the call has succeeded.
    asked == 0 && unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}

fn change_mask(how: libc::c_int, mask: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: an initialised set; the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(how, mask, std::ptr::null_mut()) } {
        0 => Ok(()),
        // This call returns its error instead of setting errno.
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_is_read_and_does_not_kill() {
        // On a thread of its own, so that the test harness keeps its signals.
        std::thread::spawn(|| {
            let signals = Signals::block().unwrap();
            assert_eq!(signals.read().unwrap(), None);
            // SAFETY: raises a signal in this thread, which has blocked it.
            assert_eq!(unsafe { libc::raise(libc::SIGUSR1) }, 0);
            assert_eq!(signals.read().unwrap(), Some(Signal::User1));
            assert_eq!(signals.read().unwrap(), None);
        })
        .join()
        .unwrap();
    }
}
