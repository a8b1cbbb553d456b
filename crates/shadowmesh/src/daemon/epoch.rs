//! A number that grows with every start of a node, so that no handshake counter is ever used twice.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::{debug, warn};

/// The directory of state files when neither a flag nor the environment names one.
pub(crate) const STATE_DIR: &str = "/var/lib/shadowmesh";

/// The epoch of this start: one more than the last, and not less than the seconds since 1970, so that it also grows
/// when the state was lost. It is on disk before it is used.
///
/// Where it cannot be written the clock alone must do: two starts within one second, or a clock set back, then cost
/// the time until the peers' memory of the last handshake is passed.
pub(super) fn next(state_dir: &Path, node: &str, unix_time: Duration) -> u32 {
    let path = state_dir.join(format!("{node}.epoch"));
    let seconds = u32::try_from(unix_time.as_secs()).unwrap_or(u32::MAX);
    let epoch = match read(&path) {
        Ok(last) => last.saturating_add(1).max(seconds),
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                warn!("{}: {error}; starting from the clock", path.display());
            }
            seconds
        }
    };
    match write(&path, epoch) {
        Ok(()) => debug!("epoch {epoch}, kept in {}", path.display()),
        Err(error) => warn!(
            "cannot write {}: {error}; peers may refuse this node after a restart with a clock set back \
             (--state-dir names another directory)",
            path.display()
        ),
    }
    epoch
}

fn read(path: &PathBuf) -> io::Result<u32> {
    let text = fs::read_to_string(path)?;
    text.trim().parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not a number"))
}

fn write(path: &Path, epoch: u32) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    os::files::write_atomically(path, format!("{epoch}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_grows_whatever_the_clock_and_the_disk_do() {
        let directory = std::env::temp_dir().join(format!("shadowmesh-epoch-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        let at = Duration::from_secs;
        assert_eq!(next(&directory, "left", at(1_000)), 1_000, "a first start takes the clock");
        assert_eq!(next(&directory, "left", at(1_000)), 1_001, "twice in one second");
        assert_eq!(next(&directory, "left", at(10)), 1_002, "the clock was set back");
        assert_eq!(next(&directory, "left", at(5_000)), 5_000, "time has passed");
        fs::write(directory.join("left.epoch"), "rubbish").unwrap();
        assert_eq!(next(&directory, "left", at(5_001)), 5_001, "the file is damaged");
        fs::remove_dir_all(&directory).unwrap();

        fs::write(&directory, "a file where the directory should be").unwrap();
        assert_eq!(next(&directory, "left", at(7)), 7, "nowhere to write");
        fs::remove_file(&directory).unwrap();
    }
}
