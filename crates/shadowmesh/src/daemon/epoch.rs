//! A number that grows with every start of an identity, so that no handshake counter is ever used twice.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use handshake::PublicKey;
use log::{debug, warn};

use super::key_lock::file_stem;

/// The directory of state files when neither a flag nor the environment names one.
pub(crate) const STATE_DIR: &str = "/var/lib/shadowmesh";

/// A state file of an identity. Peers know a node by its key, whatever program it runs and whatever its configuration is called.
pub(super) fn path(state_dir: &Path, key: &PublicKey, what: &str) -> PathBuf {
    state_dir.join(format!("{}.{what}", file_stem(key)))
}

/// The epoch of this start: one more than the last, and not less than the seconds since 1970, so that it also grows
/// when the state was lost. It is on disk before it is used. A clock that was once far ahead costs nothing: there are more
/// epochs than anybody can count.
///
/// Where it cannot be written the clock alone must do: two starts within one second, or a clock set back, then cost
/// the time until the peers' memory of the last handshake is passed.
///
/// It belongs to the key, whose handshakes it orders, and not to the node's name: two programs of one key, one after the
/// other, must not use a counter twice. That there is one at a time the key's lock sees to.
pub(super) fn next(state_dir: &Path, key: &PublicKey, node: &str, unix_time: Duration) -> u64 {
    let path = path(state_dir, key, "epoch");
    adopt(state_dir, node, &path);
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

/// Earlier versions named the file by the node. Of `proxy` and `forward`, which had a new name each time, they left one a
/// run, of use to nobody.
fn adopt(state_dir: &Path, node: &str, path: &Path) {
    let of_node = state_dir.join(format!("{node}.epoch"));
    if of_node.exists() && !path.exists() && fs::rename(&of_node, path).is_ok() {
        debug!("{} is now {}", of_node.display(), path.display());
    }
    for entry in fs::read_dir(state_dir).into_iter().flatten().filter_map(Result::ok) {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix("tunnel-")?.strip_suffix(".epoch"));
        if pid.is_some_and(|pid| !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit())) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn read(path: &PathBuf) -> io::Result<u64> {
    let text = fs::read_to_string(path)?;
    let number: Option<u64> = text.trim().parse().ok();
    // Half of all numbers leave room for as many starts.
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "not a number that an epoch can have");
    number.filter(|&number| number <= u64::MAX / 2).ok_or_else(damaged)
}

fn write(path: &Path, epoch: u64) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
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
        assert_eq!(next(&directory, &KEY, "left", at(1_000)), 1_000, "a first start takes the clock");
        assert_eq!(next(&directory, &KEY, "left", at(1_000)), 1_001, "twice in one second");
        assert_eq!(next(&directory, &KEY, "left", at(10)), 1_002, "the clock was set back");
        assert_eq!(next(&directory, &PublicKey::from_bytes([1; 32]), "left", at(7)), 7, "another identity");
        assert_eq!(next(&directory, &KEY, "left", at(5_000)), 5_000, "time has passed");
        fs::write(path(&directory, &KEY, "epoch"), "rubbish").unwrap();
        assert_eq!(next(&directory, &KEY, "left", at(5_001)), 5_001, "the file is damaged");
        fs::write(path(&directory, &KEY, "epoch"), u64::MAX.to_string()).unwrap();
        assert_eq!(
            next(&directory, &KEY, "left", at(5_002)),
            5_002,
            "no number that a start can have written"
        );
        fs::remove_dir_all(&directory).unwrap();

        fs::write(&directory, "a file where the directory should be").unwrap();
        assert_eq!(next(&directory, &KEY, "left", at(7)), 7, "nowhere to write");
        fs::remove_file(&directory).unwrap();
    }

    #[test]
    fn an_epoch_grows_on_after_a_clock_was_wrong_by_a_century() {
        let directory = std::env::temp_dir().join(format!("shadowmesh-century-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        let century = u64::from(u32::MAX) + 100;
        assert_eq!(next(&directory, &KEY, "left", Duration::from_secs(century)), century);
        assert_eq!(next(&directory, &KEY, "left", Duration::from_secs(1_767_225_601)), century + 1);
        assert_eq!(next(&directory, &KEY, "left", Duration::from_secs(1_767_225_601)), century + 2);
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn an_epoch_belongs_to_the_key_and_no_run_leaves_a_file_of_its_own() {
        let directory = std::env::temp_dir().join(format!("shadowmesh-epoch-key-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        for (name, epoch) in [("left", 9_000), ("tunnel-1", 1), ("tunnel-22", 2), ("tunnel-x", 3)] {
            fs::write(directory.join(format!("{name}.epoch")), format!("{epoch}\n")).unwrap();
        }
        let at = Duration::from_secs(10);
        assert_eq!(next(&directory, &KEY, "left", at), 9_001, "the file by the node's name is taken over");
        assert_eq!(next(&directory, &KEY, "tunnel-3", at), 9_002, "another name, the same key");
        let mut names: Vec<_> = fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let mut expected = [format!("{}.epoch", file_stem(&KEY)), "tunnel-x.epoch".into()];
        expected.sort();
        assert_eq!(names, expected);
        fs::remove_dir_all(&directory).unwrap();
    }
}
