//! Files that hold keys, or say what a node that runs as root does: read once, wiped from memory, and refused when other users could
//! change them, or read a key in them.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use zeroize::Zeroizing;

use super::error::{ConfigError, Place};

/// No configuration or key file is larger, in bytes.
const FILE_LEN_MAX: u64 = 16 << 20;

/// The contents of a file that may hold a secret.
pub(super) struct Text {
    pub(super) contents: Zeroizing<String>,
    /// Others than the owner can read it.
    pub(super) open_to_others: bool,
    changed_by_others: Option<Writable>,
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
    match &text.changed_by_others {
        None => Ok(text),
        Some(Writable { what, help }) => {
            let message = format!("every user can change {what}, and with it what this node does");
            Err(ConfigError::new(blame, message).at(place).help(help))
        }
    }
}

/// What others can write to, and how to end that.
struct Writable {
    what: String,
    help: String,
}

/// Whether every user can write to a file, or put another in its place: who can do that chooses keys, peers and routes. A
/// sticky directory, as /tmp, lets nobody replace the files of another.
fn changed_by_others(path: &Path, file: &Metadata) -> Option<Writable> {
    const OTHERS_WRITE: u32 = 0o002;
    const STICKY: u32 = 0o1000;
    if file.mode() & OTHERS_WRITE != 0 {
        let path = path.display();
        return Some(Writable { what: format!("`{path}`"), help: format!("chmod o-w {path}") });
    }
    // A link can be exchanged where it stands, the file where it is, and so can every directory on the way to it.
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let whole = fs::canonicalize(path).ok();
    let nearest =
        |directory: &Path| directory == parent || whole.as_deref().and_then(Path::parent) == Some(directory);
    let above = whole.iter().flat_map(|whole| whole.ancestors().skip(1));
    std::iter::once(parent).chain(above).find_map(|directory| {
        let mode = fs::metadata(directory).ok()?.mode();
        (mode & OTHERS_WRITE != 0 && mode & STICKY == 0).then(|| Writable {
            what: format!(
                "{} `{}`",
                if nearest(directory) { "the directory of" } else { "a directory above" },
                path.display()
            ),
            help: format!("chmod o-w {}", directory.display()),
        })
    })
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
    let changed_by_others = named.then(|| changed_by_others(path, &metadata)).flatten();
    Ok(Text { contents, open_to_others: named && metadata.mode() & 0o077 != 0, changed_by_others })
}
