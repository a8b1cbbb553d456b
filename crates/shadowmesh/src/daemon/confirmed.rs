//! What must be remembered of peers across a restart: the newest initiation of each that has come to a session in use. Without it
//! a recorded one would be answered once more after each restart.
//!
//! One line a peer, `PUBLIC_KEY TIMESTAMP`, the timestamp as 24 hexadecimal digits. A peer whose own counter was set back and is
//! refused for it (a WireGuard peer without a clock, say) is let in again when its line, or the file, is removed before a start.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use handshake::{PublicKey, Timestamp};
use log::warn;

/// A larger file is none of ours.
const BYTES_MAX: u64 = 1 << 20;

/// Peers that are kept beside our own.
const OTHERS_MAX: usize = 1_024;

/// The file of one identity.
#[derive(Clone, Debug)]
pub(super) struct Confirmed {
    path: PathBuf,
    /// One writes at a time.
    writing: Arc<Mutex<()>>,
}

impl Confirmed {
    pub(super) fn of(state_dir: &Path, key: &PublicKey) -> Self {
        Self { path: super::epoch::path(state_dir, key, "confirmed"), writing: Arc::default() }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What was kept. Nothing, if the file is not there or damaged: then a recorded initiation may be answered once more, which
    /// gains nobody anything.
    pub(super) fn read(&self) -> BTreeMap<PublicKey, Timestamp> {
        match self.try_read() {
            Ok(confirmed) => confirmed,
            Err(error) => {
                warn!("{}: {error}; starting without what was kept of peers", self.path.display());
                BTreeMap::new()
            }
        }
    }

    fn try_read(&self) -> io::Result<BTreeMap<PublicKey, Timestamp>> {
        match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(error),
            Ok(metadata) if metadata.len() > BYTES_MAX => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "far too large"));
            }
            Ok(_) => {}
        }
        let text = fs::read_to_string(&self.path)?;
        let lines = text.lines().map(|line| {
            parse(line).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a line is damaged"))
        });
        lines.collect()
    }

    /// Keeps what has been confirmed by now, and what another program with the same key has kept. Nobody waits for the disk.
    pub(super) fn keep_soon(&self, confirmed: Vec<(PublicKey, Timestamp)>) {
        let this = self.clone();
        let keep = move || this.keep(&confirmed);
        if let Err(error) = thread::Builder::new().name("sm-state".into()).spawn(keep) {
            warn!("cannot keep what is known of peers: {error}");
        }
    }

    /// The same, at once.
    pub(super) fn keep(&self, confirmed: &[(PublicKey, Timestamp)]) {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let known: Vec<PublicKey> = confirmed.iter().map(|&(key, _)| key).collect();
        let mut all = self.try_read().unwrap_or_default();
        // Other programs have other peers. Those of old configurations are forgotten once there are many.
        if all.len() > known.len() + OTHERS_MAX {
            all.retain(|key, _| known.contains(key));
        }
        for &(key, timestamp) in confirmed {
            let kept = all.entry(key).or_default();
            *kept = timestamp.max(*kept);
        }
        let mut text = String::new();
        for (key, timestamp) in &all {
            let _ = write!(text, "{key} ");
            timestamp.0.iter().for_each(|byte| {
                let _ = write!(text, "{byte:02x}");
            });
            text.push('\n');
        }
        if let Err(error) = os::files::write_atomically(&self.path, text.as_bytes()) {
            warn!("cannot write {}: {error}", self.path.display());
        }
    }
}

fn parse(line: &str) -> Option<(PublicKey, Timestamp)> {
    let (key, hex) = line.split_once(' ')?;
    let number = u128::from_str_radix(hex, 16).ok().filter(|_| hex.len() == 2 * Timestamp::LEN)?;
    let mut timestamp = Timestamp::default();
    timestamp.0.copy_from_slice(&number.to_be_bytes()[16 - Timestamp::LEN..]);
    Some((key.parse().ok()?, timestamp))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> PublicKey {
        PublicKey::from_bytes([byte; 32])
    }

    #[test]
    fn what_was_confirmed_survives_a_restart_and_never_goes_back() {
        let directory = std::env::temp_dir().join(format!("shadowmesh-confirmed-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        let at = |number| Timestamp::from_epoch(1_767_225_600, number);
        let ours = Confirmed::of(&directory, &key(9));
        assert!(ours.read().is_empty(), "a first start");
        ours.keep(&[(key(1), at(5)), (key(2), at(6))]);
        ours.keep(&[(key(1), at(4)), (key(2), at(7))]);
        assert_eq!(ours.read(), BTreeMap::from([(key(1), at(5)), (key(2), at(7))]));
        assert!(Confirmed::of(&directory, &key(8)).read().is_empty(), "another identity");
        ours.keep(&[(key(2), at(7))]);
        assert_eq!(ours.read().len(), 2, "another program with this key may know the other peer");
        for damage in ["rubbish", &format!("{} 00\n", key(1)), &format!("{} {}\n", key(1), "0".repeat(26))] {
            fs::write(&ours.path, damage).unwrap();
            assert!(ours.read().is_empty(), "{damage}");
        }
        ours.keep(&[(key(1), at(8))]);
        assert_eq!(ours.read(), BTreeMap::from([(key(1), at(8))]), "written anew");
        fs::remove_dir_all(&directory).unwrap();
    }
}
