//! Where a node keeps what it needs: system directories for root, the user's own for everybody else (XDG Base Directory
//! Specification 0.8).

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::control::socket::RUN_DIR;
use crate::daemon::STATE_DIR;

/// The directory of control sockets when no flag names one.
pub(super) fn run_dir() -> PathBuf {
    if let Some(directory) = named("SHADOWMESH_RUN_DIR") {
        return directory;
    }
    if is_root() {
        return RUN_DIR.into();
    }
    // Without a session there is no runtime directory, but there is a place that is ours alone.
    absolute("XDG_RUNTIME_DIR").map_or_else(|| state_home().join("run"), |home| home.join("shadowmesh"))
}

/// The directory of what must survive a restart when no flag names one.
pub(super) fn state_dir() -> PathBuf {
    let usual = || if is_root() { STATE_DIR.into() } else { state_home() };
    named("SHADOWMESH_STATE_DIR").unwrap_or_else(usual)
}

/// What the environment names.
fn named(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn state_home() -> PathBuf {
    let home = || Some(absolute("HOME")?.join(".local/state"));
    let home = absolute("XDG_STATE_HOME").or_else(home).unwrap_or_else(env::temp_dir);
    home.join("shadowmesh")
}

/// The specification says to ignore relative paths.
fn absolute(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// Whether this process belongs to root; also when nobody can tell.
fn is_root() -> bool {
    fs::metadata("/proc/self").map_or(true, |process| process.uid() == 0)
}
