//! Key files, atomic writes, telling systemd that the daemon is ready, and process limits.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::sys::check;

/// Why a file with a secret was not read.
#[derive(Debug, Error)]
pub enum SecretFileError {
    /// The file cannot be opened or read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Other users have access to it.
    #[error("{} has mode {mode:04o}, so others have access to it: run `chmod 600 {}`", path.display(), path.display())]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not a file, or far too large to be a key.
    #[error("{} is no key file", path.display())]
    NotAKey {
        /// The file.
        path: PathBuf,
    },
}

/// The largest secret file that is read, in bytes.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// Reads a file with a secret, unless others than its owner have access to it. A pipe or a terminal (`/dev/stdin`)
/// has no such bits to check.
///
/// # Errors
/// [`SecretFileError`].
pub fn read_secret(path: &Path) -> Result<Vec<u8>, SecretFileError> {
    use std::io::Read;
    let failed = |source| SecretFileError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    // Of the opened file, not of the path: the path may name another file by now.
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(SecretFileError::NotAKey { path: path.to_owned() });
    }
    let mode = metadata.mode() & 0o7777;
    if metadata.is_file() && mode & 0o077 != 0 {
        return Err(SecretFileError::TooOpen { path: path.to_owned(), mode });
    }
    let mut secret = Vec::new();
    file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut secret).map_err(failed)?;
    if secret.len() as u64 > SECRET_BYTES_MAX {
        return Err(SecretFileError::NotAKey { path: path.to_owned() });
    }
    Ok(secret)
}

/// Replaces a file, or creates it, with mode 0600: whoever reads it, also after a power cut, sees the old content or
/// the new one, never a part.
///
/// # Errors
/// Those of the file system. The old file is then still there.
pub fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut temporary_name = std::ffi::OsString::from(".");
    temporary_name.push(name);
    temporary_name.push(format!(".{}.tmp", std::process::id()));
    let temporary = directory.join(temporary_name);
    // What a crash of an earlier process with our number has left.
    let _ = fs::remove_file(&temporary);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
        return written;
    }
    // The rename is durable once the directory is.
    File::open(directory)?.sync_all()
}

/// Tells the service manager how the daemon is, as `READY=1` (`sd_notify(3)`). Returns false when no service manager
/// asked for it (`$NOTIFY_SOCKET` is not set).
///
/// # Errors
/// When the socket named there cannot be written to.
pub fn sd_notify(state: &str) -> io::Result<bool> {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(socket) if !socket.is_empty() => notify(&socket, state).map(|()| true),
        _ => Ok(false),
    }
}

fn notify(socket: &std::ffi::OsStr, state: &str) -> io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::SocketAddr;
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

/// The effective user and group of the process, as its user namespace numbers them; 0 is root.
pub fn user_and_group() -> (u32, u32) {
    // SAFETY: takes nothing, cannot fail.
    let user = unsafe { libc::geteuid() };
    // SAFETY: takes nothing, cannot fail.
    let group = unsafe { libc::getegid() };
    (user, group)
}

/// Whether the process runs as root (of its user namespace).
pub fn is_root() -> bool {
    user_and_group().0 == 0
}

/// Raises the limit of open files as far as it goes without privileges, and returns it.
///
/// # Errors
/// None that a correct program meets.
pub fn raise_open_files() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one `rlimit`.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: the kernel reads one `rlimit`.
        check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    }
    Ok(limit.rlim_cur)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A directory of its own for a test, removed at its end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("shadowmesh-os-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_with_the_command_that_helps() {
        let scratch = Scratch::new("key");
        let path = scratch.0.join("left.key");
        write_atomically(&path, b"secret").unwrap();
        assert_eq!(read_secret(&path).unwrap(), b"secret");
        for mode in [0o640, 0o604, 0o660, 0o601] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let text = read_secret(&path).unwrap_err().to_string();
            assert!(text.contains(&format!("chmod 600 {}", path.display())), "{text}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        assert!(read_secret(&path).is_ok());
    }

    #[test]
    fn a_directory_a_missing_file_and_a_huge_one_are_no_keys() {
        let scratch = Scratch::new("nokey");
        assert!(matches!(read_secret(&scratch.0), Err(SecretFileError::NotAKey { .. })));
        let missing = scratch.0.join("missing");
        let text = read_secret(&missing).unwrap_err().to_string();
        assert!(text.contains("missing"), "{text}");
        let huge = scratch.0.join("huge");
        write_atomically(&huge, &vec![b'x'; 64 * 1024 + 1]).unwrap();
        assert!(matches!(read_secret(&huge), Err(SecretFileError::NotAKey { .. })));
    }

    #[test]
    fn a_replaced_file_is_private_and_leaves_no_temporary_one() {
        let scratch = Scratch::new("atomic");
        let path = scratch.0.join("state");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        write_atomically(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 1);
        assert!(write_atomically(&scratch.0.join("no/such/place"), b"").is_err());
    }

    #[test]
    fn readiness_reaches_a_path_socket_and_an_abstract_one() {
        use std::os::linux::net::SocketAddrExt;
        let scratch = Scratch::new("notify");
        let path = scratch.0.join("socket");
        let by_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("shadowmesh-os-{}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        let by_name = UnixDatagram::bind_addr(&address).unwrap();
        notify(path.as_os_str(), "READY=1").unwrap();
        notify(format!("@{name}").as_ref(), "READY=1").unwrap();
        for socket in [by_path, by_name] {
            let mut buf = [0; 32];
            let len = socket.recv(&mut buf).unwrap();
            assert_eq!(&buf[..len], b"READY=1");
        }
    }

    #[test]
    fn the_limit_of_open_files_is_as_high_as_it_may_be() {
        let raised = raise_open_files().unwrap();
        assert_eq!(raise_open_files().unwrap(), raised);
    }
}
