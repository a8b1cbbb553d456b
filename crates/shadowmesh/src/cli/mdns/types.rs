//! `mdns types`: which types of services there are.

use std::collections::HashSet;

use beacon::TypeEvent;
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use super::browse::QUIET;
use super::describe::json_line;
use super::names::InterfaceNames;
use super::{Network, found_nothing};
use crate::cli::output::print;
use crate::failure::Failure;

/// Options of `types`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It ends when nothing new has been found for a while. Exit code 1 when there are none."
)]
pub(super) struct Args {
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: &Args, network: &Network) -> Result<(), Failure> {
    let beacon = network.searcher().await?;
    network.require_interfaces(&beacon).await?;
    let mut names = InterfaceNames::new()?;
    let mut types = beacon.browse_types();
    let mut known = HashSet::new();
    while let Ok(Some(event)) = timeout_at(Instant::now() + QUIET, types.next()).await {
        let TypeEvent::Added(service_type, interface) = event else { continue };
        let interface = names.get(interface);
        if known.insert((service_type.clone(), interface.to_owned())) {
            let service_type = service_type.to_string();
            print(&if args.json {
                json_line(&TypeJson { service_type, interface })?
            } else {
                format!("{interface:<8} {service_type}\n")
            })?;
        }
    }
    if known.is_empty() { Err(found_nothing("no services were found", &beacon)) } else { Ok(()) }
}

/// A type as JSON; docs/mdns.md explains the keys.
#[derive(Debug, Serialize)]
struct TypeJson<'a> {
    #[serde(rename = "type")]
    service_type: String,
    interface: &'a str,
}
