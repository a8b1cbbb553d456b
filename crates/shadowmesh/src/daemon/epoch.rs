//! A number that grows with every start of an identity, so that no handshake counter is ever used twice.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use handshake::PublicKey;
use log::{debug, warn};

/// The directory of state files when neither a flag nor the environment names one.
pub(crate) const STATE_DIR: &str = "/var/lib/shadowmesh";

/// A state file of an identity. Peers know a node by its key, whatever program it runs and whatever its configuration is called.
pub(super) fn path(state_dir: &Path, key: PublicKey, what: &str) -> PathBuf {
    let mut head = [0; 8];
    head.copy_from_slice(&key.as_bytes()[..8]);
    state_dir.join(format!("{:016x}.{what}", u64::from_be_bytes(head)))
}

/// The epoch of this start: one more than the last, and not less than the seconds since 1970, so that it also grows
/// when the state was lost. It is on disk before it is used. A clock that was once far ahead costs nothing: there are more
/// epochs than anybody can count.
///
/// Where it cannot be written the clock alone must do: two starts within one second, or a clock set back, then cost
/// the time until the peers' memory of the last handshake is passed.
pub(super) fn next(state_dir: &Path, key: PublicKey, unix_time: Duration) -> u64 {
    let path = path(state_dir, key, "epoch");
    // Two programs may start with one key at one moment.
    let lock = fs::create_dir_all(state_dir)
        .and_then(|()| fs::File::create(self::path(state_dir, key, "lock")))
        .and_then(|file| file.lock().map(|()| file));
    let seconds = unix_time.as_secs();
    let epoch = match read(&path) {
        Ok(last) => last.max(seconds.saturating_sub(1)) + 1,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                warn!("{}: {error}; starting from the clock", path.display());
            }
            seconds
        }
    };
    match lock.and_then(|_lock| write(&path, epoch)) {
        Ok(()) => debug!("epoch {epoch}, kept in {}", path.display()),
        Err(error) => warn!(
            "cannot write {}: {error}; peers may refuse this node after a restart with a clock set back \
             (--state-dir names another directory)",
            path.display()
        ),
    }
    epoch
}

fn read(path: &PathBuf) -> io::Result<u64> {
    let text = fs::read_to_string(path)?;
    let number: Option<u64> = text.trim().parse().ok();
    // Half of all numbers leave room for as many starts.
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "not a number that an epoch can have");
    number.filter(|&number| number <= u64::MAX / 2).ok_or_else(damaged)
}

fn write(path: &Path, epoch: u64) -> io::Result<()> {
    os::files::write_atomically(path, format!("{epoch}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: PublicKey = PublicKey::from_bytes([0xab; 32]);

    #[test]
    fn an_epoch_grows_whatever_the_clock_and_the_disk_do() {
        let directory = std::env::temp_dir().join(format!("shadowmesh-epoch-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        let _ = fs::remove_file(&directory);
        let at = Duration::from_secs;
        assert_eq!(next(&directory, KEY, at(1_000)), 1_000, "a first start takes the clock");
        assert_eq!(next(&directory, KEY, at(1_000)), 1_001, "twice in one second");
        assert_eq!(next(&directory, KEY, at(10)), 1_002, "the clock was set back");
        assert_eq!(next(&directory, PublicKey::from_bytes([1; 32]), at(7)), 7, "another identity");
        assert_eq!(next(&directory, KEY, at(5_000)), 5_000, "time has passed");
        fs::write(path(&directory, KEY, "epoch"), "rubbish").unwrap();
        assert_eq!(next(&directory, KEY, at(5_001)), 5_001, "the file is damaged");
        fs::write(path(&directory, KEY, "epoch"), u64::MAX.to_string()).unwrap();
        assert_eq!(next(&directory, KEY, at(5_002)), 5_002, "no number that a start can have written");
        fs::remove_dir_all(&directory).unwrap();

        fs::write(&directory, "a file where the directory should be").unwrap();
        assert_eq!(next(&directory, KEY, at(7)), 7, "nowhere to write");
        fs::remove_file(&directory).unwrap();
    }

    #[test]
    fn an_epoch_grows_on_after_a_clock_was_wrong_by_a_century() {
        let directory = std::env::temp_dir().join(format!("shadowmesh-century-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        let century = u64::from(u32::MAX) + 100;
        assert_eq!(next(&directory, KEY, Duration::from_secs(century)), century);
        assert_eq!(next(&directory, KEY, Duration::from_secs(1_767_225_601)), century + 1);
        assert_eq!(next(&directory, KEY, Duration::from_secs(1_767_225_601)), century + 2);
        fs::remove_dir_all(&directory).unwrap();
    }
}
