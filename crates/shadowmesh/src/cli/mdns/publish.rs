//! `mdns publish`: a service, until Ctrl-C.

use std::future::pending;
use std::path::PathBuf;

use beacon::{InstanceName, Service};

use super::Network;
use super::names::visible;
use crate::cli::output::print;
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
    let host = match &args.host {
        Some(host) => host.clone(),
        None => beacon.host_name().await?.to_string(),
    };
    let port = args.port;
    print(&format!("{} on port {port} of {host}\n", line(&publication.name(), &args.service_type)))?;
    while let Ok(name) = publication.renamed().await {
        print(&format!("{}, because somebody else has the old name\n", line(&name, &args.service_type)))?;
    }
    pending().await
}

fn line(name: &InstanceName, service_type: &str) -> String {
    format!("published {} as {}", visible(name.as_str()), service_type)
}
