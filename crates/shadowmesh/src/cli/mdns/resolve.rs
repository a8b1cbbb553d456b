//! `mdns resolve`: where a host or a service is.

use serde::Serialize;

use super::Network;
use super::describe::{InstanceJson, address, details, instance_line, json_line};
use super::names::InterfaceNames;
use crate::cli::output::{Paint, print};
use crate::failure::Failure;

/// Options of `resolve`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code 1 when nobody answers for the name within four seconds.")]
pub(super) struct Args {
    /// A host as nas or nas.local, or a service as "My printer._ipp._tcp"
    name: String,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: &Args, network: &Network) -> Result<(), Failure> {
    let beacon = network.searcher().await?;
    network.require_interfaces(&beacon).await?;
    let mut names = InterfaceNames::new()?;
    if let Some((name, service_type)) = split_service(&args.name) {
        let service = beacon.resolve(&name, service_type).await?;
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
    let addresses = beacon.resolve_host(&args.name).await?;
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

/// Splits `My printer._ipp._tcp.local` before its type, and takes away the backslashes that avahi-browse and dns-sd write before
/// dots; `None` for what is no service.
fn split_service(text: &str) -> Option<(String, &str)> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let text = text.strip_suffix(".local").unwrap_or(text);
    if !(text.ends_with("._tcp") || text.ends_with("._udp")) {
        return None;
    }
    let (rest, _) = text.rsplit_once('.')?;
    let (name, _) = rest.rsplit_once("._")?;
    let service_type = &text[name.len() + 1..];
    Some((unescape(name), service_type))
}

fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        out.push(if character == '\\' { characters.next().unwrap_or('\\') } else { character });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_told_from_hosts_and_dots_in_names_are_kept() {
        let split = |text| split_service(text).map(|(name, kind)| (name, kind.to_owned()));
        let service = |name: &str, kind: &str| Some((name.to_owned(), kind.to_owned()));
        assert_eq!(split("nas.local"), None);
        assert_eq!(split("My printer._ipp._tcp"), service("My printer", "_ipp._tcp"));
        assert_eq!(split("Dr. No._http._udp.local."), service("Dr. No", "_http._udp"));
        assert_eq!(split(r"Dr\. No._http._tcp.local"), service("Dr. No", "_http._tcp"));
        assert_eq!(split("a._b._c._tcp"), service("a._b", "_c._tcp"));
        assert_eq!(split("_ipp._tcp"), None);
    }
}
