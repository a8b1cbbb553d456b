//! Files that hold keys, or say what a node that runs as root does: read once, wiped from memory, and refused when other users could
//! change them, or read a key in them.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::error::{ConfigError, Place};

/// No configuration or key file is larger, in bytes.
const FILE_LEN_MAX: u64 = 16 << 20;

/// The contents of a file that may hold a secret.
pub(super) struct Text {
    pub(super) contents: Zeroizing<String>,
    /// Others than the owner can read it.
    pub(super) open_to_others: bool,
    /// What every user can change: the file, or a directory in which they can put another in its place.
    changeable: Option<PathBuf>,
}

/// Reads a text file. Errors are reported for `blame`, the file that named it, at `place`.
///
/// What everybody may change is refused: what is in it decides what runs, and where packets go.
pub(super) fn read_text(path: &Path, blame: &Path, place: Option<Place>) -> Result<Text, ConfigError> {
    let text = read(path).map_err(|error| {
        let what = match error.kind() {
            io::ErrorKind::NotFound => "no such file".into(),
            io::ErrorKind::InvalidData => "it is not UTF-8 text".into(),
            io::ErrorKind::PermissionDenied => "permission denied".into(),
            io::ErrorKind::IsADirectory => "it is a directory".into(),
            io::ErrorKind::FileTooLarge => "it is too large".into(),
            _ => error.to_string(),
        };
        let message = if path == blame {
            format!("cannot read the configuration: {what}")
        } else {
            format!("cannot read `{}`: {what}", path.display())
        };
        let help = match error.kind() {
            io::ErrorKind::NotFound if path == blame => {
                "`shadowmesh --help` shows a configuration to start from".into()
            }
            io::ErrorKind::NotFound => {
                format!("create it: (umask 077; shadowmesh genkey > {})", path.display())
            }
            io::ErrorKind::PermissionDenied => "run as the file's owner, or as root".into(),
            _ => return ConfigError::new(blame, message).at(place),
        };
        ConfigError::new(blame, message).at(place).help(help)
    })?;
    match &text.changeable {
        None => Ok(text),
        Some(changeable) => {
            let message = format!("every user can change `{}`", changeable.display());
            let help = format!("chmod o-w {}", changeable.display());
            Err(ConfigError::new(blame, message).at(place).help(help))
        }
    }
}

/// How to keep a file with a key from others.
pub(super) fn chmod_help(path: &Path) -> String {
    format!("chmod 600 {}", path.display())
}

fn read(path: &Path) -> io::Result<Text> {
    let file = File::open(path)?;
    // Of the open file, not of the path: it cannot be exchanged in between.
    let metadata = file.metadata()?;
    // A pipe, or an anonymous file that has no name in any directory, is not there for others to open.
    let named = metadata.is_file() && metadata.nlink() > 0;
    let mut contents = Zeroizing::new(String::new());
    if file.take(FILE_LEN_MAX + 1).read_to_string(&mut contents)? as u64 > FILE_LEN_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let changeable = if named { changeable(path, metadata.mode()) } else { None };
    Ok(Text { contents, open_to_others: named && metadata.mode() & 0o077 != 0, changeable })
}

/// What every user can change of a file and the directories above it. In a sticky one, as `/tmp`, only owners exchange files.
fn changeable(path: &Path, mode: u32) -> Option<PathBuf> {
    const WRITABLE: u32 = 0o002;
    const STICKY: u32 = 0o1000;
    if mode & WRITABLE != 0 {
        return Some(path.to_owned());
    }
    let whole = path.canonicalize().ok()?;
    let open = |directory: &&Path| {
        directory.metadata().is_ok_and(|metadata| metadata.mode() & (WRITABLE | STICKY) == WRITABLE)
    };
    whole.ancestors().skip(1).find(open).map(Path::to_owned)
}
