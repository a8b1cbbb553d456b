//! What is searched for, and who wants to know what is found.

use std::collections::HashMap;
use std::time::Instant;

use mdns::{Engine, Event, QueryId};

use crate::command::{Outbox, Question};
use crate::event::{NameEvent, RecordEvent, ServiceEvent, TypeEvent};

/// The searches that go on.
#[derive(Default)]
pub(crate) struct Searches {
    /// By the number that the handle has.
    queries: HashMap<u64, QueryId>,
    /// By the engine's number, with that of the handle.
    outboxes: HashMap<QueryId, (u64, Outbox)>,
}

impl Searches {
    pub(crate) fn begin(
        &mut self,
        engine: &mut Engine,
        id: u64,
        question: Question,
        outbox: Outbox,
        now: Instant,
    ) -> Result<(), mdns::Error> {
        let query = match question {
            Question::Services(browse) => engine.browse(browse, now),
            Question::Types => engine.browse_types(now),
            Question::Host(name) => engine.resolve_host_named(name, now),
            Question::Service(instance, service_type) => {
                engine.resolve_service(&instance, &service_type, now)
            }
            Question::Records { name, record_type, lifetime } => {
                engine.query(&name, record_type, lifetime, now)
            }
        }?;
        self.queries.insert(id, query);
        self.outboxes.insert(query, (id, outbox));
        Ok(())
    }

    pub(crate) fn end(&mut self, engine: &mut Engine, id: u64) {
        if let Some(query) = self.queries.remove(&id) {
            self.outboxes.remove(&query);
            engine.cancel(query);
        }
    }

    /// Brings an event to whoever has asked.
    pub(crate) fn tell(&mut self, event: Event) {
        if let Event::Finished { id } = event {
            // The outbox goes, and its reader sees the end.
            if let Some((search, _)) = self.outboxes.remove(&id) {
                self.queries.remove(&search);
            }
            return;
        }
        let Some((_, outbox)) = event.query().and_then(|id| self.outboxes.get(&id)) else { return };
        match (event, outbox) {
            (Event::Service { change, .. }, Outbox::Services(outbox)) => {
                outbox.send_some(ServiceEvent::from_change(change));
            }
            (Event::Service { change, .. }, Outbox::Names(outbox)) => {
                outbox.send_some(NameEvent::from_change(change));
            }
            (Event::Host { addresses, .. }, Outbox::Addresses(outbox)) => outbox.send(addresses),
            (Event::Type { service_type, interface, present, .. }, Outbox::Types(outbox)) => {
                outbox.send(if present { TypeEvent::Added } else { TypeEvent::Removed }(
                    service_type,
                    interface,
                ));
            }
            (Event::Answer { answer, present, .. }, Outbox::Records(outbox)) => {
                outbox.send(if present { RecordEvent::Added } else { RecordEvent::Removed }(answer));
            }
            // No question has answers of another kind.
            _ => {}
        }
    }
}
