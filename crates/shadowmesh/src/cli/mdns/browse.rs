//! `mdns browse`: services as they come and go.

use std::collections::HashSet;
use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use beacon::{
    Beacon, Error, Events, Instance, NameEvent, ResolvedService, ServiceEvent, ServiceType, TypeEvent,
};
use futures_core::Stream;
use tokio::time::{Instant, timeout_at};

use super::describe::{InstanceJson, details, instance_line, json_line};
use super::names::InterfaceNames;
use super::{Network, found_nothing};
use crate::cli::output::{Paint, print};
use crate::failure::Failure;

/// Options of `browse`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "+ is a service that appeared, ~ one that changed, - one that is gone. With --once the exit code is 1 when \
                        nothing was found."
)]
pub(super) struct Args {
    /// A type as _ipp._tcp, or a subtype as _printer._sub._ipp._tcp (default: every type)
    #[arg(value_name = "TYPE")]
    service_type: Option<String>,

    /// Find out host, port, attributes and addresses of each
    #[arg(short, long)]
    resolve: bool,

    /// Print one JSON object a line
    #[arg(long)]
    json: bool,

    /// End when nothing new has been found for a while
    #[arg(long)]
    once: bool,
}

/// With `--once`: how long nothing new must come. The second question is asked after a second (RFC 6762 §5.2).
pub(super) const QUIET: Duration = Duration::from_millis(1_600);

pub(super) async fn run(args: &Args, network: &Network) -> Result<(), Failure> {
    let beacon = network.searcher().await?;
    let mut search = Search::new(&beacon, args)?;
    network.require_interfaces(&beacon).await?;
    let mut printer = Printer { json: args.json, names: InterfaceNames::new()?, paint: Paint::stdout() };
    let mut found = false;
    loop {
        let event = if args.once {
            match timeout_at(Instant::now() + QUIET, search.next()).await {
                Ok(event) => event?,
                Err(_) if found => return Ok(()),
                Err(_) => return Err(found_nothing("no services were found", &beacon)),
            }
        } else {
            search.next().await?
        };
        found = true;
        printer.show(&event)?;
    }
}

/// What is shown, whichever way it was found.
enum Found {
    Added(Instance, Option<ResolvedService>),
    Changed(Instance, ResolvedService),
    Removed(Instance),
}

impl From<ServiceEvent> for Found {
    fn from(event: ServiceEvent) -> Self {
        match event {
            ServiceEvent::Added(service) => Self::Added(Instance::of(&service), Some(service)),
            ServiceEvent::Changed(service) => Self::Changed(Instance::of(&service), service),
            ServiceEvent::Removed(instance) => Self::Removed(instance),
        }
    }
}

impl From<NameEvent> for Found {
    fn from(event: NameEvent) -> Self {
        match event {
            NameEvent::Added(instance) => Self::Added(instance, None),
            NameEvent::Removed(instance) => Self::Removed(instance),
        }
    }
}

enum Services {
    Resolved(Events<ServiceEvent>),
    Names(Events<NameEvent>),
}

impl Services {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Found>> {
        match self {
            Self::Resolved(events) => Pin::new(events).poll_next(context).map(|event| event.map(Found::from)),
            Self::Names(events) => Pin::new(events).poll_next(context).map(|event| event.map(Found::from)),
        }
    }
}

/// One type, or all types and the services of each.
struct Search<'a> {
    beacon: &'a Beacon,
    resolve: bool,
    types: Option<Events<TypeEvent>>,
    known: HashSet<ServiceType>,
    services: Vec<Services>,
}

impl<'a> Search<'a> {
    fn new(beacon: &'a Beacon, args: &Args) -> Result<Self, Error> {
        let mut search =
            Self { beacon, resolve: args.resolve, types: None, known: HashSet::new(), services: Vec::new() };
        match &args.service_type {
            Some(service_type) => search.add(service_type)?,
            None => search.types = Some(beacon.browse_types()),
        }
        Ok(search)
    }

    fn add(&mut self, service_type: &str) -> Result<(), Error> {
        self.services.push(if self.resolve {
            Services::Resolved(self.beacon.browse(service_type)?)
        } else {
            Services::Names(self.beacon.browse_names(service_type)?)
        });
        Ok(())
    }

    async fn next(&mut self) -> Result<Found, Error> {
        loop {
            let input = poll_fn(|context| self.poll(context)).await;
            match input {
                Input::Found(found) => return Ok(found),
                Input::Type(service_type) => {
                    if self.known.insert(service_type.clone()) {
                        self.add(&service_type.to_string())?;
                    }
                }
                Input::End => return pending().await,
            }
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Input> {
        if let Some(types) = &mut self.types
            && let Poll::Ready(event) = Pin::new(types).poll_next(context)
        {
            return Poll::Ready(match event {
                // A type that is gone stays searched for: its services may come back.
                Some(TypeEvent::Added(service_type, _) | TypeEvent::Removed(service_type, _)) => {
                    Input::Type(service_type)
                }
                None => Input::End,
            });
        }
        for services in &mut self.services {
            if let Poll::Ready(found) = services.poll(context) {
                return Poll::Ready(found.map_or(Input::End, Input::Found));
            }
        }
        Poll::Pending
    }
}

enum Input {
    Found(Found),
    Type(ServiceType),
    End,
}

struct Printer {
    json: bool,
    names: InterfaceNames,
    paint: Paint,
}

impl Printer {
    fn show(&mut self, found: &Found) -> Result<(), Failure> {
        let (mark, word, instance, service) = match found {
            Found::Added(instance, service) => ('+', "added", instance, service.as_ref()),
            Found::Changed(instance, service) => ('~', "changed", instance, Some(service)),
            Found::Removed(instance) => ('-', "removed", instance, None),
        };
        if self.json {
            let object = InstanceJson::new(word, instance, service, &mut self.names);
            return print(&json_line(&object)?);
        }
        let mut text = instance_line(mark, instance, &mut self.names, self.paint);
        if let Some(service) = service {
            text += &details(service, &mut self.names, self.paint);
        }
        print(&text)
    }
}
