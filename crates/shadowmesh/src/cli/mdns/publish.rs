//! `mdns publish`: a service, until Ctrl-C.

use std::path::PathBuf;
use std::time::Duration;

use beacon::{Condition, HostName, InstanceName, Service, ShownInstance};
use tokio::time::sleep;

use super::Network;
use super::names::visible;
use crate::cli::output::{print, warn};
use crate::cli::places;
use crate::failure::Failure;

/// Options of `publish`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It announces the service and answers for it until Ctrl-C or SIGTERM, and then says goodbye."
)]
pub(super) struct Args {
    /// What people will read, as "My printer"
    name: String,

    /// The type, as _ipp._tcp
    #[arg(value_name = "TYPE")]
    service_type: String,

    /// The port that the service listens on
    port: u16,

    /// Attributes, as rp=ipp/print, or a key alone
    #[arg(value_name = "KEY=VALUE")]
    txt: Vec<String>,

    /// Let it be found under this subtype too, as _printer; repeat it for several
    #[arg(long, value_name = "SUBTYPE")]
    subtype: Vec<String>,

    /// The service runs on this host instead, whose addresses somebody else publishes
    #[arg(long, value_name = "NAME")]
    host: Option<String>,

    /// Keep the name that was won when somebody else had this one, and ask for it first next time
    #[arg(long, value_name = "FILE", default_value_os_t = places::state_dir().join("mdns-names"), hide_default_value = true)]
    names: PathBuf,
}

impl Args {
    fn service(&self) -> Service {
        let mut service = Service::new(&self.name, &self.service_type, self.port);
        for attribute in &self.txt {
            service = match attribute.split_once('=') {
                Some((key, value)) => service.txt(key, value),
                None => service.flag(attribute),
            };
        }
        for subtype in &self.subtype {
            service = service.subtype(subtype);
        }
        match &self.host {
            Some(host) => service.on_host(host),
            None => service,
        }
    }
}

pub(super) async fn run(args: &Args, network: &Network) -> Result<(), Failure> {
    let service = args.service();
    service.check()?;
    let beacon = network.builder().names_file(&args.names).start().await?;
    network.require_interfaces(&beacon).await?;
    let mut publication = beacon.publish(service).await?;
    let mut conditions = beacon.conditions();
    let mut teller = Teller { args, told: None, condition: Condition::default() };
    loop {
        // What the network has not heard is not published.
        let condition = conditions.now();
        teller.tell(&publication.name(), condition)?;
        tokio::select! {
            name = publication.renamed() => drop(name?),
            changed = conditions.changed() => {
                changed?;
                // A link that comes up refuses some packets before it takes all.
                sleep(SETTLING).await;
            }
        }
    }
}

/// How long a change may take to be told, so that what passes is not.
const SETTLING: Duration = Duration::from_millis(300);

/// Tells the user what became of the service, each thing once.
struct Teller<'a> {
    args: &'a Args,
    /// The names of service and host that were told last.
    told: Option<(InstanceName, Option<HostName>)>,
    condition: Condition,
}

impl Teller<'_> {
    fn tell(&mut self, name: &InstanceName, condition: Condition) -> Result<(), Failure> {
        let before = std::mem::replace(&mut self.condition, condition);
        for unsent in self.condition.unsent.iter().filter(|unsent| !before.unsent.contains(unsent)) {
            let firewall = if unsent.error.contains("not permitted") {
                "; a firewall on this machine drops it (UDP port 5353)"
            } else {
                ""
            };
            warn(&format!("{unsent}{firewall}. The service is not found there until this is mended"));
        }
        for unsent in before.unsent.iter().filter(|unsent| !self.condition.unsent.contains(unsent)) {
            let family = if unsent.ipv6 { "IPv6" } else { "IPv4" };
            print(&format!("sending on {} over {family} works now\n", visible(&unsent.interface)))?;
        }
        if self.condition.sends { self.tell_names(name) } else { Ok(()) }
    }

    fn tell_names(&mut self, name: &InstanceName) -> Result<(), Failure> {
        let Args { service_type, port, host: elsewhere, .. } = self.args;
        let host = if elsewhere.is_some() { None } else { self.condition.host_name.clone() };
        if elsewhere.is_none() && host.is_none() {
            // Its own name is not settled yet.
            return Ok(());
        }
        let line = format!("published {} as {}", ShownInstance(name), visible(service_type));
        match &self.told {
            None => {
                let of = elsewhere.clone().or(host.as_ref().map(HostName::to_string)).unwrap_or_default();
                print(&format!("{line} on port {port} of {}\n", visible(of)))?;
                if name.as_str() != self.args.name {
                    print(&format!("somebody else has, or had, the name {}\n", visible(&self.args.name)))?;
                }
                if let (Some(host), Some(wanted)) = (&host, &self.condition.wanted_host_name)
                    && host != wanted
                {
                    let (host, wanted) = (host.to_string(), wanted.to_string());
                    print(&format!(
                        "this host is called {} here, because another has, or had, the name {}\n",
                        visible(host),
                        visible(wanted)
                    ))?;
                }
            }
            Some((before, before_host)) => {
                if before != name {
                    print(&format!("{line}, because somebody else has the old name\n"))?;
                }
                if let Some(host) = host.as_ref().filter(|_| *before_host != host) {
                    let host = host.to_string();
                    print(&format!(
                        "this host is called {} now, because another has the old name\n",
                        visible(host)
                    ))?;
                }
            }
        }
        self.told = Some((name.clone(), host));
        Ok(())
    }
}
