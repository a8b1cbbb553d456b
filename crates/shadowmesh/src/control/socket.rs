//! Where a control socket is: a path, or an abstract name.

use std::convert::Infallible;
use std::fmt;
use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The directory of control sockets when neither a flag nor the environment names one.
pub(crate) const RUN_DIR: &str = "/run/shadowmesh";

/// The name of a control socket. `@NAME` is an abstract name, which belongs to a network namespace and needs no file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SocketName {
    /// A socket file.
    Path(PathBuf),
    /// An abstract name, without the `@`.
    Abstract(String),
}

impl FromStr for SocketName {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text.strip_prefix('@') {
            Some(name) => Self::Abstract(name.into()),
            None => Self::Path(text.into()),
        })
    }
}

impl fmt::Display for SocketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Abstract(name) => write!(f, "@{name}"),
        }
    }
}

impl SocketName {
    /// The socket file of a node.
    pub(crate) fn of_node(run_dir: &Path, node: &str) -> Self {
        Self::Path(run_dir.join(format!("{node}.sock")))
    }

    fn address(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Path(path) => SocketAddr::from_pathname(path),
            Self::Abstract(name) => SocketAddr::from_abstract_name(name),
        }
    }

    /// Connects to the daemon that listens there.
    pub(crate) fn connect(&self) -> io::Result<UnixStream> {
        UnixStream::connect_addr(&self.address()?)
    }
}

/// Why a daemon cannot have its control socket.
#[derive(Debug)]
pub(crate) enum BindError {
    /// A daemon answers there.
    AlreadyRunning,
    /// Something else is in the way, or the directory is not ours.
    Io(io::Error),
}

/// A bound control socket; its file goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Bound {
    listener: UnixListener,
    /// Held for what its end does.
    _file: Option<SocketFile>,
}

#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Only our own: somebody may have replaced it since.
        if fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Bound {
    /// Binds a control socket. A file that a killed daemon has left is replaced; a live daemon is not disturbed.
    pub(crate) fn bind(name: &SocketName) -> Result<Self, BindError> {
        match name {
            SocketName::Abstract(_) => {
                let listener = name.address().and_then(|address| UnixListener::bind_addr(&address));
                match listener {
                    Ok(listener) => Ok(Self { listener, _file: None }),
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(BindError::AlreadyRunning),
                    Err(error) => Err(BindError::Io(error)),
                }
            }
            SocketName::Path(path) => {
                if name.connect().is_ok() {
                    return Err(BindError::AlreadyRunning);
                }
                Self::bind_file(path).map_err(BindError::Io)
            }
        }
    }

    fn bind_file(path: &Path) -> io::Result<Self> {
        match fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.file_type().is_socket() => {
                let message = format!("{} exists and is not a socket", path.display());
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
            }
            _ => {}
        }
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            fs::DirBuilder::new().recursive(true).mode(0o750).create(directory)?;
        }
        // Bound under another name and moved into place with its mode set, so that at no moment another user can
        // connect, and a dead daemon's file is replaced in one step.
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}", std::process::id()));
        let temporary = PathBuf::from(temporary);
        let _ = fs::remove_file(&temporary);
        let listener = UnixListener::bind(&temporary)?;
        let moved = fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600))
            .and_then(|()| fs::symlink_metadata(&temporary))
            .and_then(|metadata| fs::rename(&temporary, path).map(|()| metadata.ino()));
        match moved {
            Ok(inode) => Ok(Self { listener, _file: Some(SocketFile { path: path.into(), inode }) }),
            Err(error) => {
                let _ = fs::remove_file(&temporary);
                Err(error)
            }
        }
    }

    /// Another handle on the listening socket.
    pub(crate) fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }
}

/// The nodes whose daemons listen in a directory of control sockets, by name: also those that would not let us in.
///
/// # Errors
/// When the directory is there but cannot be read.
pub(crate) fn running(run_dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(run_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let listens = |name: &String| match SocketName::of_node(run_dir, name).connect() {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
    };
    let mut names: Vec<String> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".sock")?.to_owned()))
        .filter(listens)
        .collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("shadowmesh-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn a_live_daemon_keeps_its_socket_and_a_dead_ones_is_replaced() {
        let directory = scratch("socket");
        let name = SocketName::of_node(&directory, "left");
        let first = Bound::bind(&name).unwrap();
        assert!(matches!(Bound::bind(&name), Err(BindError::AlreadyRunning)));
        assert_eq!(running(&directory).unwrap(), ["left"]);

        // What `kill -9` leaves: the file, and nobody who listens.
        let Bound { listener, _file: file } = first;
        std::mem::forget(file);
        drop(listener);
        assert!(directory.join("left.sock").exists());
        assert!(running(&directory).unwrap().is_empty());
        let second = Bound::bind(&name).unwrap();
        let mode = fs::metadata(directory.join("left.sock")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(second);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0, "nothing is left behind");
        fs::remove_dir(&directory).unwrap();
    }

    #[test]
    fn a_file_that_is_no_socket_is_never_replaced() {
        let directory = scratch("file");
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("left.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(Bound::bind(&SocketName::Path(path.clone())), Err(BindError::Io(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn an_abstract_name_needs_no_file_and_is_taken_once() {
        let name: SocketName = format!("@shadowmesh-test-{}", std::process::id()).parse().unwrap();
        let _bound = Bound::bind(&name).unwrap();
        assert!(matches!(Bound::bind(&name), Err(BindError::AlreadyRunning)));
    }
}
