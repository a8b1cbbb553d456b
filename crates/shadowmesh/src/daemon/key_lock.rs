//! One program for each key: two that use the same one take each other's sessions away, without end.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use handshake::PublicKey;
use log::warn;

/// No more of a lock's file is read, in bytes.
const ABOUT_LEN_MAX: u64 = 4_096;

/// Held as long as a program uses a key. The kernel frees it however the process ends.
#[derive(Debug)]
pub(crate) struct KeyLock {
    /// `None` where the state directory cannot be written to.
    _file: Option<File>,
}

/// The program that has the lock.
#[derive(Debug)]
pub(crate) struct Holder {
    path: PathBuf,
    pid: Option<u32>,
    command: String,
    /// Where it serves SOCKS5 to this host without a password.
    pub(crate) socks5: Option<SocketAddr>,
    /// The peer that it goes through.
    pub(crate) peer: Option<PublicKey>,
}

/// What a program says of itself to those that find the lock taken.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct About {
    pub(crate) socks5: Option<SocketAddr>,
    pub(crate) peer: Option<PublicKey>,
}

/// The name of a key's files: its base64 without what a file name cannot hold (RFC 4648 §5).
pub(crate) fn file_stem(key: &PublicKey) -> String {
    key.to_string().trim_end_matches('=').replace('+', "-").replace('/', "_")
}

impl KeyLock {
    /// Takes the lock of a key, or says who has it.
    pub(crate) fn take(state_dir: &Path, key: &PublicKey, about: About) -> Result<Self, Box<Holder>> {
        let path = state_dir.join(format!("{}.lock", file_stem(key)));
        let opened = fs::create_dir_all(state_dir).and_then(|()| open(&path));
        let unlocked = |error: io::Error| {
            warn!(
                "cannot lock {}: {error}; nothing keeps another program from using this key",
                path.display()
            );
            Self { _file: None }
        };
        let file = match opened {
            Ok(file) => file,
            Err(error) => return Ok(unlocked(error)),
        };
        match file.try_lock() {
            Ok(()) => {
                // Without it the others only say less.
                let _ = describe(&file, about);
                Ok(Self { _file: Some(file) })
            }
            Err(TryLockError::WouldBlock) => Err(Box::new(Holder::read(path, &file))),
            Err(TryLockError::Error(error)) => Ok(unlocked(error)),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    // Never removed: who waits for a removed file's lock would have it beside the next one's.
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Process, command line, SOCKS5 address and peer, a line each.
fn describe(mut file: &File, About { socks5, peer }: About) -> io::Result<()> {
    let command =
        std::env::args_os().map(|word| word.to_string_lossy().replace('\n', " ")).collect::<Vec<_>>();
    let (socks5, peer) = (socks5.map(|at| at.to_string()), peer.map(|peer| peer.to_string()));
    let (pid, command) = (std::process::id(), command.join(" "));
    file.set_len(0)?;
    file.rewind()?;
    write!(file, "{pid}\n{command}\n{}\n{}\n", socks5.unwrap_or_default(), peer.unwrap_or_default())
}

impl Holder {
    fn read(path: PathBuf, file: &File) -> Self {
        let mut text = Vec::new();
        let _ = file.take(ABOUT_LEN_MAX).read_to_end(&mut text);
        let text = String::from_utf8_lossy(&text);
        let mut lines = text.lines();
        let pid = lines.next().and_then(|line| line.parse().ok());
        let command = lines.next().unwrap_or_default().to_owned();
        let socks5 = lines.next().and_then(|line| line.parse().ok());
        let peer = lines.next().and_then(|line| line.parse().ok());
        Self { path, pid, command, socks5, peer }
    }

    /// Waits until the program has ended, or its lock is gone in some other way.
    pub(crate) fn wait_for_end(&self) -> io::Result<()> {
        open(&self.path)?.lock()
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "process {pid} (`{}`)", self.command),
            None => write!(f, "another process (see {})", self.path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_use_names_who_uses_it_and_is_free_again_with_its_end() {
        let directory = std::env::temp_dir().join(format!("shadowmesh-lock-{}", std::process::id()));
        let key = PublicKey::from_bytes([0xff; 32]);
        assert!(!file_stem(&key).contains(['/', '+', '=']));
        let about = About { socks5: Some(([127, 0, 0, 1], 1080).into()), peer: Some(key) };
        let lock = KeyLock::take(&directory, &key, about).unwrap();
        let holder = KeyLock::take(&directory, &key, About::default()).unwrap_err();
        assert!(holder.to_string().starts_with(&format!("process {} (`", std::process::id())), "{holder}");
        assert_eq!((holder.socks5, holder.peer), (about.socks5, about.peer));
        assert!(KeyLock::take(&directory, &PublicKey::from_bytes([1; 32]), about).is_ok(), "another key");
        drop(lock);
        holder.wait_for_end().unwrap();
        assert!(KeyLock::take(&directory, &key, about).is_ok());
        fs::remove_dir_all(&directory).unwrap();
    }
}
