//! What the program should tell its user: a name that was lost, and packets that do not leave.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use mdns::{Family, HostName};
use tokio::sync::watch;

use crate::error::Error;

/// How a [`Beacon`](crate::Beacon) is, as far as its user may have to do something about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Condition {
    /// The name that this host was to have; `None` when it is not published.
    pub wanted_host_name: Option<HostName>,
    /// The name that it has, once nobody has objected to it. It differs from the wanted one after a conflict, or after an earlier one
    /// that was [kept](crate::Builder::names_file).
    pub host_name: Option<HostName>,
    /// Where the kernel refuses to send. What was not sent is made up for when it does again.
    pub unsent: Vec<Unsent>,
    /// Whether there is an interface and a family where sending works.
    pub sends: bool,
}

/// The kernel refuses to send to the group on an interface: a local firewall may be in the way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Unsent {
    /// The interface.
    pub interface: String,
    /// Over which family.
    pub ipv6: bool,
    /// What the kernel says.
    pub error: String,
}

impl std::fmt::Display for Unsent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let family = if self.ipv6 { "IPv6" } else { "IPv4" };
        write!(f, "cannot send on {} over {family}: {}", self.interface, self.error)
    }
}

/// A [`Condition`] as it changes.
#[derive(Clone, Debug)]
pub struct Conditions {
    pub(crate) receiver: watch::Receiver<Condition>,
}

impl Conditions {
    /// How it is now.
    pub fn now(&mut self) -> Condition {
        self.receiver.borrow_and_update().clone()
    }

    /// Returns when it is different from what [`now`](Self::now) has told.
    ///
    /// # Errors
    /// [`Error::Closed`] when the [`Beacon`](crate::Beacon) has been shut down.
    pub async fn changed(&mut self) -> Result<(), Error> {
        self.receiver.changed().await.map_err(|_| Error::Closed)
    }
}

/// Which multicasts the kernel refuses, by interface and family.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    now: BTreeMap<(u32, Family), i32>,
    /// Interfaces on which something was refused since the last time that it was made up for.
    missed: BTreeSet<u32>,
}

impl Refusals {
    /// Takes note of a multicast. Returns whether that is news.
    pub(crate) fn note(&mut self, interface: u32, family: Family, result: Result<(), i32>) -> bool {
        match result {
            Ok(()) => self.now.remove(&(interface, family)).is_some(),
            Err(errno) => {
                self.missed.insert(interface);
                self.now.insert((interface, family), errno) != Some(errno)
            }
        }
    }

    /// The interface is used no more.
    pub(crate) fn forget(&mut self, interface: u32) {
        self.missed.remove(&interface);
        self.now.retain(|(of, _), _| *of != interface);
    }

    /// Why the last multicast of an interface and family was refused, if it was.
    pub(crate) fn error(&self, interface: u32, family: Family) -> Option<String> {
        let errno = self.now.get(&(interface, family))?;
        Some(io::Error::from_raw_os_error(*errno).to_string())
    }

    /// The interfaces on which something is to be said again.
    pub(crate) fn take_missed(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.missed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_news_once_and_so_is_its_end_and_what_was_missed_is_said_again_once() {
        let mut refusals = Refusals::default();
        let family = Family::V4;
        assert!(!refusals.note(1, family, Ok(())));
        assert!(refusals.note(1, family, Err(libc_eperm())));
        assert!(!refusals.note(1, family, Err(libc_eperm())));
        assert!(refusals.error(1, family).is_some_and(|error| error.contains("not permitted")));
        assert_eq!(refusals.error(1, Family::V6), None);
        assert!(refusals.note(1, family, Ok(())));
        assert_eq!(refusals.take_missed().into_iter().collect::<Vec<_>>(), [1]);
        assert!(refusals.take_missed().is_empty());
        refusals.note(2, family, Err(libc_eperm()));
        refusals.forget(2);
        assert!(refusals.take_missed().is_empty() && refusals.error(2, family).is_none());
    }

    /// EPERM: what netfilter makes of a packet that it drops on its way out.
    fn libc_eperm() -> i32 {
        1
    }
}
