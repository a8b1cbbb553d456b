//! Setting a [`Beacon`] up.

use std::path::PathBuf;
use std::time::Duration;

use mdns::{Config, Engine, HostName};
use tokio::sync::{mpsc, watch};

use crate::Beacon;
use crate::condition::{Condition, Conditions};
use crate::driver::Driver;
use crate::error::StartError;
use crate::interfaces::{InterfaceWatch, Interfaces};
use crate::names::{Names, Wanted};
use crate::publications::Publications;
use crate::sockets::{Families, Sockets};
use crate::suspension::{Clock, Suspension};

/// How a [`Beacon`] is to be; [`Beacon::builder`] makes it.
#[derive(Clone, Debug)]
#[must_use = "nothing happens before `start`"]
pub struct Builder {
    interfaces: Interfaces,
    families: Families,
    host_name: Option<String>,
    publish_host: bool,
    names_file: Option<PathBuf>,
    suspension_clock: Clock,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            interfaces: Interfaces::suitable(),
            families: Families { ipv4: true, ipv6: true },
            host_name: None,
            publish_host: true,
            names_file: None,
            suspension_clock: os::clock::suspended,
        }
    }

    /// Which interfaces to use; [`Interfaces::suitable`] if not said.
    pub fn interfaces(mut self, interfaces: Interfaces) -> Self {
        self.interfaces = interfaces;
        self
    }

    /// Whether to use IPv4. By default, yes.
    pub fn ipv4(mut self, yes: bool) -> Self {
        self.families.ipv4 = yes;
        self
    }

    /// Whether to use IPv6. By default, yes.
    pub fn ipv6(mut self, yes: bool) -> Self {
        self.families.ipv6 = yes;
        self
    }

    /// The name of this host, as `nas` or `nas.local`; the system's name with `-beacon` if not said. Where somebody else has it,
    /// another one is taken: [`Beacon::host_name`] tells.
    ///
    /// The system's name itself belongs to the system's own responder, Avahi or systemd-resolved, even where that is started
    /// later: of two programs that publish one name with different addresses (Avahi leaves out link-local ones) one takes the
    /// other for a stranger, and the host is renamed. Give that name only where there is no other responder.
    pub fn host_name(mut self, name: impl Into<String>) -> Self {
        self.host_name = Some(name.into());
        self
    }

    /// Only searches, and is silent about this host: neither its name nor its addresses are told to anybody. Services can
    /// then be published for other hosts only.
    pub fn search_only(mut self) -> Self {
        self.publish_host = false;
        self
    }

    /// Keeps the names that this host and its services have won after a conflict in that file, and asks for them first the next time
    /// (RFC 6762 §9), so that a printer that became `My printer (2)` is called so for good. The file and its directory are
    /// made when there is something to keep; several programs may share one. A service is known by its name, type and
    /// port. What cannot be kept is counted ([`Statistics::unsaved_names`](crate::Statistics::unsaved_names)).
    pub fn names_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.names_file = Some(path.into());
        self
    }

    /// For tests: tells for how long the machine has been suspended in all since it was started.
    #[doc(hidden)]
    pub fn suspension_clock(mut self, clock: fn() -> Duration) -> Self {
        self.suspension_clock = clock;
        self
    }

    /// Opens the sockets, in the network namespace of the calling thread, and starts. Needs no privileges.
    ///
    /// It also starts where there is no network at all, and uses each interface as soon as it is there.
    ///
    /// # Errors
    /// [`StartError`]; in particular [`StartError::PortInUse`].
    ///
    /// # Panics
    /// Outside a Tokio runtime, or in one without I/O and time.
    #[expect(clippy::unused_async, reason = "so that it can only be called where there is a runtime")]
    pub async fn start(self) -> Result<Beacon, StartError> {
        let wanted = self.chosen_host_name()?;
        let names = Names::load(self.names_file);
        let mut config = Config::new(names.of_host(wanted.clone()));
        let sockets = Sockets::bind(self.families)?;
        config.publish_host = self.publish_host;
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| StartError::Random(error.to_string()))?;
        let engine = Engine::new(config, seed, std::time::Instant::now());
        let watch = InterfaceWatch::new(self.interfaces).map_err(StartError::Interfaces)?;
        let (commands, inbox) = mpsc::unbounded_channel();
        let publications = Publications::new(names, Wanted::host(&wanted));
        let suspension = Suspension::new(self.suspension_clock);
        let wanted_host_name = self.publish_host.then_some(wanted);
        let (condition, receiver) = watch::channel(Condition { wanted_host_name, ..Condition::default() });
        let mut driver = Driver::new(engine, sockets, watch, inbox, publications, suspension, condition);
        driver.begin().map_err(StartError::Interfaces)?;
        tokio::spawn(driver.run());
        Ok(Beacon::new(commands, self.publish_host, Conditions { receiver }))
    }

    fn chosen_host_name(&self) -> Result<HostName, StartError> {
        if let Some(given) = &self.host_name {
            return given.parse().map_err(|reason| StartError::HostName { given: given.clone(), reason });
        }
        let system = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name = own_name(&system);
        name.parse().map_err(|reason| StartError::HostName { given: name, reason })
    }
}

/// Bytes of a label (RFC 1035 §2.3.4).
const LABEL_BYTES_MAX: usize = 63;

/// A name that the system's own responder does not use: the first label of what the system is called, and a suffix.
fn own_name(system: &str) -> String {
    const SUFFIX: &str = "-beacon";
    let label = system.trim().split('.').next().unwrap_or_default();
    // A system may be called anything.
    let label: String = label.chars().filter(|character| !character.is_control()).collect();
    let end = label.floor_char_boundary(LABEL_BYTES_MAX - SUFFIX.len());
    format!("{}{SUFFIX}", if end == 0 { "host" } else { &label[..end] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_made_of_whatever_the_system_is_called() {
        assert_eq!(own_name("nas\n"), "nas-beacon");
        assert_eq!(own_name("nas.example.org\n"), "nas-beacon");
        assert_eq!(own_name(""), "host-beacon");
        assert_eq!(own_name("\u{1}\n"), "host-beacon");
        let long = own_name(&"ü".repeat(40));
        assert_eq!(long, format!("{}-beacon", "ü".repeat(28)));
        assert!(long.parse::<HostName>().is_ok());
    }
}
