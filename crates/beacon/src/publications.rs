//! What is published, under which name, and who wants to know that.

use std::collections::HashMap;
use std::io;
use std::time::Instant;

use mdns::{Engine, PublicationId, PublishedName, ServiceRegistration, Txt};
use tokio::sync::watch;

use crate::command::OwnName;
use crate::names::{Names, Wanted};

/// A service that is published.
struct Published {
    name: watch::Sender<Option<OwnName>>,
    wanted: Wanted,
}

/// The services that are published.
pub(crate) struct Publications {
    /// By the number that the handle has.
    by_handle: HashMap<u64, PublicationId>,
    /// By the engine's number.
    published: HashMap<PublicationId, Published>,
    names: Names,
    wanted_host: Wanted,
}

impl Publications {
    pub(crate) fn new(names: Names, wanted_host: Wanted) -> Self {
        Self { by_handle: HashMap::new(), published: HashMap::new(), names, wanted_host }
    }

    /// Publishes a service, under the name that it won last.
    pub(crate) fn begin(
        &mut self,
        engine: &mut Engine,
        id: u64,
        mut service: ServiceRegistration,
        name: watch::Sender<Option<OwnName>>,
        now: Instant,
    ) -> Result<(), mdns::Error> {
        let wanted = Wanted::service(&service);
        self.names.apply(&mut service);
        let publication = engine.publish(service, now)?;
        self.by_handle.insert(id, publication);
        self.published.insert(publication, Published { name, wanted });
        Ok(())
    }

    pub(crate) fn update_txt(
        &self,
        engine: &mut Engine,
        id: u64,
        txt: Txt,
        now: Instant,
    ) -> Result<(), mdns::Error> {
        let publication = self.by_handle.get(&id).ok_or(mdns::Error::NoSuchPublication)?;
        engine.update_txt(*publication, txt, now)
    }

    /// Takes a service back. Returns whether there was one.
    pub(crate) fn end(&mut self, engine: &mut Engine, id: u64, now: Instant) -> bool {
        let Some(publication) = self.by_handle.remove(&id) else { return false };
        self.published.remove(&publication);
        engine.unpublish(publication, now);
        true
    }

    /// A name is ours, or is to be probed for because the last one was lost.
    ///
    /// # Errors
    /// When a name that was won instead of the wanted one could not be kept.
    pub(crate) fn tell(&mut self, id: PublicationId, name: PublishedName, ours: bool) -> io::Result<()> {
        match name {
            PublishedName::Service(instance, _) => {
                let Some(published) = self.published.get(&id) else { return Ok(()) };
                let kept =
                    if ours { self.names.keep(&published.wanted, instance.as_str().into()) } else { Ok(()) };
                published.name.send_replace(Some(OwnName { instance, ours }));
                kept
            }
            PublishedName::Host(name) if ours => self.names.keep(&self.wanted_host, name.to_string()),
            PublishedName::Host(_) => Ok(()),
        }
    }
}
