//! Names that were won in conflicts, kept for the next start (RFC 6762 §9).
//!
//! ```text
//! wanted \t won \n          one line for each name that had to be changed
//! ```
//!
//! A wanted name is written as in a zone file, that of a service with its port: two programs of one host may offer services of one
//! name on two ports, and each is to have its own name again. No name has control characters.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use mdns::{HostName, InstanceName, ServiceRegistration};

/// Names in a file; older ones stay, new ones beyond are not kept.
const NAMES_MAX: usize = 4_096;

/// The most of a file that is read: as many of the longest names as are kept.
const BYTES_MAX: u64 = 4 << 20;

/// What somebody wanted to be called.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// As it stands in the file.
    key: String,
    /// As it is written when it is won.
    name: String,
}

impl Wanted {
    pub(crate) fn host(name: &HostName) -> Self {
        Self { key: name.to_name().to_string(), name: name.to_string() }
    }

    pub(crate) fn service(service: &ServiceRegistration) -> Self {
        let name = service.service_type.instance_name(&service.instance);
        Self { key: format!("{name} {}", service.port), name: service.instance.to_string() }
    }
}

/// The names that were won, and the file in which they are kept, if any.
#[derive(Debug, Default)]
pub(crate) struct Names {
    file: Option<PathBuf>,
    won: BTreeMap<String, String>,
}

impl Names {
    /// The names that a file has; none if it cannot be read, as before the first conflict.
    pub(crate) fn load(file: Option<PathBuf>) -> Self {
        let won = file.as_deref().and_then(|path| read(&mut File::open(path).ok()?).ok()).unwrap_or_default();
        Self { file, won }
    }

    /// The name that a host won last; the one that it wants if it never lost that.
    pub(crate) fn of_host(&self, wanted: HostName) -> HostName {
        self.won.get(&Wanted::host(&wanted).key).and_then(|won| won.parse().ok()).unwrap_or(wanted)
    }

    /// Asks for the name that a service won last.
    pub(crate) fn apply(&self, service: &mut ServiceRegistration) {
        let won: Option<InstanceName> =
            self.won.get(&Wanted::service(service).key).and_then(|won| won.parse().ok());
        if let Some(won) = won {
            service.instance = won;
        }
    }

    /// A name has been won: the wanted one, which is only worth keeping when it was lost before, or another.
    ///
    /// # Errors
    /// When the file cannot be written. The name is known even so, until the program ends.
    pub(crate) fn keep(&mut self, wanted: &Wanted, won: String) -> io::Result<()> {
        let Some(path) = self.file.clone() else { return Ok(()) };
        if *self.won.get(&wanted.key).unwrap_or(&wanted.name) == won {
            return Ok(());
        }
        if self.won.len() < NAMES_MAX || self.won.contains_key(&wanted.key) {
            self.won.insert(wanted.key.clone(), won.clone());
        }
        save(&path, &wanted.key, won)
    }
}

fn read(file: &mut File) -> io::Result<BTreeMap<String, String>> {
    let mut text = String::new();
    file.take(BYTES_MAX).read_to_string(&mut text)?;
    let names = text.lines().filter_map(|line| line.split_once('\t'));
    Ok(names.take(NAMES_MAX).map(|(wanted, won)| (wanted.into(), won.into())).collect())
}

/// Adds a name to a file that other programs may have changed meanwhile, and may be about to.
fn save(path: &Path, wanted: &str, won: String) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    file.lock()?;
    let mut names = read(&mut file)?;
    if names.len() < NAMES_MAX || names.contains_key(wanted) {
        names.insert(wanted.into(), won);
    }
    let text: String =
        names.iter().flat_map(|(wanted, won)| [wanted.as_str(), "\t", won.as_str(), "\n"]).collect();
    file.rewind()?;
    file.set_len(0)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, port: u16) -> ServiceRegistration {
        ServiceRegistration::new(name.parse().unwrap(), "_ipp._tcp".parse().unwrap(), port)
    }

    fn asked_for(names: &Names, name: &str, port: u16) -> String {
        let mut service = service(name, port);
        names.apply(&mut service);
        service.instance.to_string()
    }

    #[test]
    fn names_that_were_won_are_asked_for_by_the_next_program_and_no_others() {
        let directory = std::env::temp_dir().join(format!("beacon-names-{}", std::process::id()));
        let path = directory.join("state/names");
        let printer = "Dr. Müller's printer";
        let mut names = Names::load(Some(path.clone()));
        assert_eq!(asked_for(&names, printer, 631), printer);
        names.keep(&Wanted::service(&service(printer, 631)), format!("{printer} (2)")).unwrap();
        // Another program has begun before, and knows nothing of that.
        let mut other = Names { file: Some(path.clone()), ..Names::default() };
        let nas: HostName = "nas".parse().unwrap();
        other.keep(&Wanted::host(&nas), "nas-7.local".into()).unwrap();
        names.keep(&Wanted::service(&service(printer, 631)), format!("{printer} (3)")).unwrap();

        let next = Names::load(Some(path.clone()));
        assert_eq!(asked_for(&next, printer, 631), format!("{printer} (3)"));
        assert_eq!(asked_for(&next, printer, 632), printer, "another service");
        assert_eq!(asked_for(&next, "Fax", 631), "Fax");
        assert_eq!(next.of_host(nas).to_string(), "nas-7.local");
        assert_eq!(next.of_host("pc".parse().unwrap()).to_string(), "pc.local");

        // Whatever else is in the file is no reason not to start.
        fs::write(&path, "nas.local\t\nno name\n\t\t\npc.local\tpc.example.org\n").unwrap();
        let spoilt = Names::load(Some(path));
        assert_eq!(spoilt.of_host("nas".parse().unwrap()).to_string(), "nas.local");
        assert_eq!(spoilt.of_host("pc".parse().unwrap()).to_string(), "pc.local");
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn without_a_file_nothing_is_kept() {
        let mut names = Names::load(None);
        names.keep(&Wanted::service(&service("Fax", 1)), "Fax (2)".into()).unwrap();
        assert_eq!(asked_for(&names, "Fax", 1), "Fax");
    }
}
