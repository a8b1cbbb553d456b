//! `dump`: what the carriers put on the wire, decoded.

mod decode;
mod pcap;

use std::fs::File;
use std::io::{self, BufWriter};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use log::warn;
use os::capture::Capture;
use os::netlink::Netlink;
use os::poll::{Events, Interest, Poller};

use self::decode::{Decoder, Line};
use self::pcap::Pcap;
use super::output::print;
use super::overrides::OverrideArgs;
use super::usage;
use crate::config::{Config, DEFAULT_PORT};
use crate::failure::Failure;

/// Options of `dump`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Needs root. Super-packets, which the kernel cuts or has put together, are one line and one record: `45 × 1400`. \
                        With a configuration the guard of crafted TCP segments is checked, and the message under it named; the \
                        contents of messages stay sealed."
)]
pub(super) struct Args {
    /// Only packets from or to this address
    #[arg(long, value_name = "ADDRESS")]
    peer: Option<IpAddr>,

    /// Only packets with this port at either end; 0 for any [default: that of the configuration, or 9443]
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,

    /// Also write the packets to a pcap file, for Wireshark
    #[arg(short, long, value_name = "FILE")]
    write: Option<PathBuf>,

    /// Check guards with the keys of this configuration
    #[arg(short, long, value_name = "FILE", env = "SHADOWMESH_CONFIG", hide_env = true)]
    config: Option<PathBuf>,

    #[command(flatten)]
    overrides: OverrideArgs,

    /// Stop after so many packets
    #[arg(short = 'n', long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let overrides = args.overrides.clone().into();
    let config = args.config.as_ref().map(|path| Config::load(path, &overrides)).transpose()?;
    let configured = config.as_ref().map_or(DEFAULT_PORT, |config| config.listen.port());
    let port = args.port.unwrap_or(configured);
    let failed = |what: &str, error: &io::Error| Failure::Runtime(format!("cannot {what}: {error}"));
    let mut capture =
        Capture::open(Some(port).filter(|&port| port != 0)).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => usage("dump needs CAP_NET_RAW: run it as root"),
            _ => failed("capture packets", &error),
        })?;
    let mut file = match &args.write {
        Some(path) => {
            let file =
                File::create(path).map_err(|error| failed(&format!("write {}", path.display()), &error))?;
            Some(Pcap::new(BufWriter::new(file)).map_err(|error| failed("write the pcap file", &error))?)
        }
        None => None,
    };
    let mut decoder = Decoder::new(config.as_ref());
    let mut interfaces = Interfaces::open().map_err(|error| failed("list interfaces", &error))?;
    let poller = Poller::new().map_err(|error| failed("wait", &error))?;
    poller.add(&capture, 0, Interest::READ).map_err(|error| failed("wait", &error))?;
    let mut events = Events::with_capacity(1);
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        match capture.recv() {
            Ok(Some(captured)) => {
                let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let Some(line) = decoder.decode(&captured, time) else { continue };
                if args.peer.is_some_and(|peer| line.from.ip() != peer && line.to.ip() != peer) {
                    continue;
                }
                left -= 1;
                print(&show(&line, interfaces.name(captured.interface), captured.outgoing))?;
                if let Some(file) = &mut file {
                    file.record(time, captured.packet)
                        .map_err(|error| failed("write the pcap file", &error))?;
                }
            }
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // Whoever ends us by a signal finds all packets in the file.
                if let Some(file) = &mut file {
                    file.flush().map_err(|error| failed("write the pcap file", &error))?;
                }
                poller.wait(&mut events, None).map_err(|error| failed("wait", &error))?;
            }
            Err(error) if error.raw_os_error() == Some(NETWORK_DOWN) => {}
            Err(error) => return Err(failed("capture packets", &error)),
        }
    }
    if let Some(mut file) = file {
        file.flush().map_err(|error| failed("write the pcap file", &error))?;
    }
    if let Ok(missed @ 1..) = capture.missed() {
        warn!("{missed} packets were missed: they came faster than they could be written");
    }
    Ok(())
}

/// `ENETDOWN`: reported once when an interface goes down.
const NETWORK_DOWN: i32 = 100;

fn show(line: &Line, interface: &str, outgoing: bool) -> String {
    let way = if outgoing { "out" } else { "in" };
    format!("{line} ({interface} {way})\n")
}

/// Names of interfaces.
struct Interfaces {
    netlink: Netlink,
    names: std::collections::BTreeMap<u32, String>,
}

impl Interfaces {
    fn open() -> io::Result<Self> {
        Ok(Self { netlink: Netlink::open()?, names: std::collections::BTreeMap::new() })
    }

    fn name(&mut self, index: u32) -> &str {
        let Self { netlink, names } = self;
        names.entry(index).or_insert_with(|| {
            netlink.link_by_index(index).map_or_else(|_| format!("if{index}"), |link| link.name)
        })
    }
}
