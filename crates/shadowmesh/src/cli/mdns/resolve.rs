//! `mdns resolve`: where a host or a service is.

use beacon::{Beacon, Error, ServiceName};
use serde::Serialize;

use super::describe::{InstanceJson, address, details, instance_line, json_line};
use super::names::{InterfaceNames, visible};
use super::{Network, found_nothing};
use crate::cli::output::{Paint, print};
use crate::cli::usage;
use crate::failure::Failure;

/// Options of `resolve`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code 1 when nobody answers for the name within four seconds.")]
pub(super) struct Args {
    /// A host as nas or nas.local, or a service as "My printer._ipp._tcp"; names as `browse` shows them are read
    name: String,

    /// The type of the service, if NAME has only its name
    #[arg(value_name = "TYPE")]
    service_type: Option<String>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Args {
    /// The service that is meant, if it is one.
    fn service(&self) -> Result<Option<ServiceName>, Failure> {
        let text = match &self.service_type {
            Some(service_type) => format!("{}.{service_type}", self.name),
            None if ServiceName::ends_like_one(&self.name) => self.name.clone(),
            None => return Ok(None),
        };
        text.parse().map(Some).map_err(|error| usage(format!("service `{}`: {error}", visible(&text))))
    }
}

fn unanswered(error: Error, beacon: &Beacon) -> Failure {
    match error {
        Error::NotFound(_) => found_nothing(&error.to_string(), beacon),
        error => error.into(),
    }
}

pub(super) async fn run(args: &Args, network: &Network) -> Result<(), Failure> {
    let beacon = network.searcher().await?;
    network.require_interfaces(&beacon).await?;
    let mut names = InterfaceNames::new()?;
    if let Some(name) = args.service()? {
        let service = beacon.resolve_service(name).await.map_err(|error| unanswered(error, &beacon))?;
        let instance = beacon::Instance::of(&service);
        if args.json {
            let object = InstanceJson::new("resolved", &instance, Some(&service), &mut names);
            return print(&json_line(&object)?);
        }
        let paint = Paint::stdout();
        return print(
            &(instance_line('=', &instance, &mut names, paint) + &details(&service, &mut names, paint)),
        );
    }
    let addresses = beacon.resolve_host(&args.name).await.map_err(|error| unanswered(error, &beacon))?;
    if args.json {
        let addresses = addresses.iter().map(|known| AddressJson {
            address: address(*known, &mut names),
            interface: names.get(known.interface).into(),
        });
        let object = HostJson { name: &args.name, addresses: addresses.collect() };
        return print(&json_line(&object)?);
    }
    let lines = addresses.iter().map(|known| {
        let text = address(*known, &mut names);
        format!("{text:<40} {}\n", names.get(known.interface))
    });
    print(&lines.collect::<String>())
}

/// A host as JSON; docs/mdns.md explains the keys.
#[derive(Debug, Serialize)]
struct HostJson<'a> {
    name: &'a str,
    addresses: Vec<AddressJson>,
}

#[derive(Debug, Serialize)]
struct AddressJson {
    address: String,
    interface: String,
}
