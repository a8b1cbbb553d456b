//! `mdns`: services of the local network, for a person at a terminal and for scripts.

mod browse;
mod describe;
mod monitor;
mod names;
mod pcap;
mod publish;
mod query;
mod resolve;
mod types;

use std::future::Future;
use std::io;
use std::thread;

use beacon::{Beacon, Builder, Interfaces, StartError};
use clap::Subcommand;
use os::poll::{Events, Interest, Poller};
use os::signal::{Signal, Signals};
use tokio::sync::oneshot;

use super::usage;
use crate::failure::{Failure, with_causes};

/// Options of `mdns`.
#[derive(Debug, clap::Args)]
#[command(
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = "Examples:
  shadowmesh mdns browse                               # every service, as it comes and goes
  shadowmesh mdns browse _ipp._tcp --resolve --once    # the printers, and how to reach them
  shadowmesh mdns resolve nas.local
  shadowmesh mdns publish \"Scans\" _webdav._tcp 8080 path=/scans

It needs no privileges and no running node, and works beside Avahi and systemd-resolved. docs/mdns.md explains what --json prints."
)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,

    #[command(flatten)]
    network: Network,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Find services and follow them as they come and go
    Browse(browse::Args),
    /// Find the addresses of a host, or how to reach a service
    Resolve(resolve::Args),
    /// Ask for the records of a name
    Query(query::Args),
    /// Offer a service until Ctrl-C
    Publish(publish::Args),
    /// Show everything that is said on the network, or record it
    Monitor(monitor::Args),
    /// Find out which types of services there are
    Types(types::Args),
}

/// Which part of the network to use.
#[derive(Debug, clap::Args)]
struct Network {
    /// Use this interface only; repeat it for several, end it in * for all that begin so
    #[arg(short, long, value_name = "NAME", global = true, help_heading = "Network")]
    interface: Vec<String>,

    /// Use IPv4 only
    #[arg(short = '4', long, global = true, conflicts_with = "ipv6", help_heading = "Network")]
    ipv4: bool,

    /// Use IPv6 only
    #[arg(short = '6', long, global = true, help_heading = "Network")]
    ipv6: bool,
}

impl Network {
    fn builder(&self) -> Builder {
        let interfaces = if self.interface.is_empty() {
            Interfaces::suitable()
        } else {
            Interfaces::only(self.interface.iter().map(String::as_str))
        };
        Beacon::builder().interfaces(interfaces).ipv4(!self.ipv6).ipv6(!self.ipv4)
    }

    /// A Beacon that tells nobody about this host.
    async fn searcher(&self) -> Result<Beacon, Failure> {
        Ok(self.builder().search_only().start().await?)
    }

    /// Nobody waits at a terminal for a network that may never come.
    async fn require_interfaces(&self, beacon: &Beacon) -> Result<(), Failure> {
        if !beacon.statistics().await?.interfaces.is_empty() {
            return Ok(());
        }
        Err(Failure::Runtime(if self.interface.is_empty() {
            "no network interface is suitable: none is up with an address and multicast, but loopback, VPNs and those of \
             containers (see `ip address`; --interface takes any)"
                .into()
        } else {
            let names = self.interface.join(", ");
            format!("no interface called {names} is up with an address (see `ip address`)")
        }))
    }
}

/// That nothing was found, and why that may be: what cannot be sent is not answered.
fn found_nothing(what: &str, beacon: &Beacon) -> Failure {
    let unsent = beacon.conditions().now().unsent;
    let reasons: Vec<String> = unsent.iter().map(ToString::to_string).collect();
    Failure::Runtime(if reasons.is_empty() {
        what.into()
    } else {
        format!("{what} ({}; a firewall on this machine may drop UDP port 5353)", reasons.join("; "))
    })
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let network = &args.network;
    match &args.command {
        Command::Browse(args) => until_signal(browse::run(args, network)),
        Command::Resolve(args) => until_signal(resolve::run(args, network)),
        Command::Query(args) => until_signal(query::run(args, network)),
        Command::Publish(args) => until_signal(publish::run(args, network)),
        Command::Monitor(args) => until_signal(monitor::run(args, network)),
        Command::Types(args) => until_signal(types::run(args, network)),
    }
}

/// Runs a command until it ends, or SIGINT or SIGTERM ends it: then without a failure. Whatever it has published is taken back
/// when it is dropped.
fn until_signal(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::Runtime(format!("cannot watch signals: {error}"));
    // Before any other thread is started, so that all of them have the signals blocked.
    let signal = watch_signals().map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        tokio::select! {
            result = command => result,
            _ = signal => Ok(()),
        }
    })
}

/// Becomes ready when the program is to end.
fn watch_signals() -> io::Result<oneshot::Receiver<()>> {
    let signals = Signals::block()?;
    let poller = Poller::new()?;
    poller.add(&signals, 0, Interest::READ)?;
    let (ended, end) = oneshot::channel();
    let watch = move || {
        let mut events = Events::with_capacity(1);
        while poller.wait(&mut events, None).is_ok() {
            if let Ok(Some(Signal::Interrupt | Signal::Terminate | Signal::Hangup)) = signals.read() {
                break;
            }
        }
        // The command has ended by itself meanwhile.
        let _ = ended.send(());
    };
    thread::Builder::new().name("sm-signals".into()).spawn(watch)?;
    Ok(end)
}

impl From<beacon::Error> for Failure {
    fn from(error: beacon::Error) -> Self {
        match error {
            beacon::Error::Invalid { ref given, what: "service type", .. } if !given.contains('.') => {
                let name = given.trim_start_matches('_');
                usage(format!("{error}, for instance _{name}._tcp"))
            }
            beacon::Error::Invalid { .. } | beacon::Error::Refused(_) => usage(error.to_string()),
            error => Self::Runtime(error.to_string()),
        }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::HostName { .. } => usage(error.to_string()),
            error => Self::Runtime(with_causes(&error)),
        }
    }
}
