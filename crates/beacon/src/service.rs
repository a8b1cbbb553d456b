//! Offering a service.

use std::fmt;

use mdns::{InstanceName, ServiceRegistration, ServiceType, Txt};
use tokio::sync::{oneshot, watch};

use crate::command::{Command, Commands, OwnName};
use crate::error::{Error, parse};

/// A service to [`publish`](crate::Beacon::publish). What is wrong with it, publishing tells.
#[derive(Clone, Debug)]
#[must_use = "a service is offered by `Beacon::publish`"]
pub struct Service {
    name: String,
    kind: String,
    port: u16,
    subtypes: Vec<String>,
    host: Option<String>,
    txt: Vec<(String, Option<Vec<u8>>)>,
}

impl Service {
    /// A service of this host.
    ///
    /// The name is for people: any text of at most 63 bytes. The type is registered with IANA, or made up by the same rules,
    /// as `_http._tcp` (RFC 6763 §7).
    pub fn new(name: impl Into<String>, service_type: impl Into<String>, port: u16) -> Self {
        Self {
            name: name.into(),
            kind: service_type.into(),
            port,
            subtypes: Vec::new(),
            host: None,
            txt: Vec::new(),
        }
    }

    /// Adds an attribute: a key of printable ASCII characters without `=`, and at most 255 bytes with its value.
    pub fn txt(mut self, key: impl Into<String>, value: impl AsRef<[u8]>) -> Self {
        self.txt.push((key.into(), Some(value.as_ref().to_vec())));
        self
    }

    /// Adds an attribute that only is there, or is not (RFC 6763 §6.4).
    pub fn flag(mut self, key: impl Into<String>) -> Self {
        self.txt.push((key.into(), None));
        self
    }

    /// Lets the service be found under a subtype too, as `_printer` (RFC 6763 §7.1).
    pub fn subtype(mut self, subtype: impl Into<String>) -> Self {
        self.subtypes.push(subtype.into());
        self
    }

    /// The service runs on another host, whose addresses somebody else publishes.
    pub fn on_host(mut self, host: impl Into<String>) -> Self {
        self.host = Some(host.into());
        self
    }

    /// Whether it can be published as it is.
    ///
    /// # Errors
    /// [`Error::Invalid`] with what is wrong.
    pub fn check(&self) -> Result<(), Error> {
        self.registration().map(drop)
    }

    pub(crate) fn registration(&self) -> Result<ServiceRegistration, Error> {
        let instance = parse("service name", &self.name)?;
        let service_type: ServiceType = parse("service type", &self.kind)?;
        service_type.check().map_err(|reason| Error::Invalid {
            what: "service type",
            given: self.kind.clone(),
            reason,
        })?;
        let mut registration = ServiceRegistration::new(instance, service_type, self.port);
        for subtype in &self.subtypes {
            registration.subtypes.push(parse("subtype", subtype)?);
        }
        registration.host = self.host.as_deref().map(|host| parse("host name", host)).transpose()?;
        registration.txt = txt(self.txt.iter().map(|(key, value)| (key.as_str(), value.as_deref())))?;
        Ok(registration)
    }
}

/// Attributes, with the one that is wrong named.
pub(crate) fn txt<'a>(pairs: impl IntoIterator<Item = (&'a str, Option<&'a [u8]>)>) -> Result<Txt, Error> {
    pairs.into_iter().try_fold(Txt::default(), |txt, (key, value)| {
        txt.with(key, value).map_err(|reason| Error::Invalid {
            what: "attribute",
            given: match value {
                Some(value) => format!("{key}={}", String::from_utf8_lossy(value)),
                None => key.into(),
            },
            reason,
        })
    })
}

/// A service that is offered for as long as this is held. Dropping it takes the service back: everybody is told at once.
#[must_use = "dropping the publication takes the service back"]
pub struct Publication {
    pub(crate) id: u64,
    pub(crate) commands: Commands,
    pub(crate) name: watch::Receiver<Option<OwnName>>,
    /// What it was asked to be called.
    pub(crate) wanted: InstanceName,
}

impl Publication {
    /// The name that the service has. It differs from the one that was asked for when somebody else on the network had that
    /// one: keep it, and ask for it next time (RFC 6762 §9), or have [`Builder::names_file`](crate::Builder::names_file) do
    /// so.
    pub fn name(&self) -> InstanceName {
        self.name.borrow().as_ref().map_or_else(|| self.wanted.clone(), |name| name.instance.clone())
    }

    /// Returns the new name when the service had to be renamed, because somebody else claims the old one.
    ///
    /// # Errors
    /// [`Error::Closed`] when the [`Beacon`](crate::Beacon) has been shut down.
    pub async fn renamed(&mut self) -> Result<InstanceName, Error> {
        let old = self.name();
        loop {
            self.name.changed().await.map_err(|_| Error::Closed)?;
            let name = self.name.borrow_and_update().clone();
            if let Some(name) = name.filter(|name| name.ours && name.instance != old) {
                return Ok(name.instance);
            }
        }
    }

    /// Gives the service other attributes, and tells everybody. Changes in quick succession are told together.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an attribute that cannot be; [`Error::Closed`].
    pub async fn update_txt<'a>(
        &self,
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<(), Error> {
        let txt = txt(pairs.into_iter().map(|(key, value)| (key, Some(value.as_bytes()))))?;
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::UpdateTxt { id: self.id, txt, reply }).map_err(|_| Error::Closed)?;
        Ok(answer.await.map_err(|_| Error::Closed)??)
    }

    /// Takes the service back, and returns when the goodbye is on its way.
    pub async fn withdraw(self) {
        let (done, waiting) = oneshot::channel();
        if self.commands.send(Command::Withdraw { id: self.id, done: Some(done) }).is_ok() {
            // If the driver ends before it answers, it has said goodbye for everything.
            let _ = waiting.await;
        }
    }

    /// Returns when the name is ours.
    pub(crate) async fn established(&mut self) -> Result<(), Error> {
        self.name
            .wait_for(|name| name.as_ref().is_some_and(|name| name.ours))
            .await
            .map(drop)
            .map_err(|_| Error::Closed)
    }
}

impl Drop for Publication {
    fn drop(&mut self) {
        // If the driver has ended, it has said goodbye for everything.
        let _ = self.commands.send(Command::Withdraw { id: self.id, done: None });
    }
}

impl fmt::Debug for Publication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publication").field("name", &self.name()).finish_non_exhaustive()
    }
}
