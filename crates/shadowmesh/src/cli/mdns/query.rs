//! `mdns query`: records of a name, as they are.

use std::time::Duration;

use beacon::Answer;
use mdns::wire::RecordType;
use serde::Serialize;

use super::describe::{hex, json_line};
use super::names::{InterfaceNames, visible};
use super::{Network, found_nothing};
use crate::cli::output::print;
use crate::cli::usage;
use crate::failure::Failure;

/// Options of `query`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Records are printed as in a zone file, with the interface on which they were heard. Exit code 1 when there are \
                        none."
)]
pub(super) struct Args {
    /// A name as printer.local or _ipp._tcp.local; a dot within a label is written \.
    name: String,

    /// A type as A, AAAA, PTR, SRV, TXT, ANY, or TYPE and a number
    #[arg(value_name = "TYPE", value_parser = record_type)]
    record_type: RecordType,

    /// Seconds to listen for answers; less when the first one says that it is the only one
    #[arg(short, long, value_name = "SECONDS", default_value = "2.5", value_parser = seconds)]
    time: Duration,

    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

fn record_type(text: &str) -> Result<RecordType, String> {
    RecordType::from_name(text)
        .ok_or_else(|| format!("`{text}` is no type of record, as A, AAAA, PTR, SRV, TXT, ANY or TYPE65"))
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3_600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("from 0.1 to 3600 seconds are possible".into()),
    }
}

pub(super) async fn run(args: &Args, network: &Network) -> Result<(), Failure> {
    let beacon = network.searcher().await?;
    network.require_interfaces(&beacon).await?;
    let mut names = InterfaceNames::new()?;
    let name = args.name.strip_suffix('.').unwrap_or(&args.name);
    if name.is_empty() {
        return Err(usage("the name is empty"));
    }
    let answers = beacon.query_once(name, args.record_type, args.time).await?;
    if answers.is_empty() {
        let what = format!("nobody has {} records of `{}`", args.record_type, visible(name));
        return Err(found_nothing(&what, &beacon));
    }
    for answer in &answers {
        let interface = names.get(answer.interface);
        print(&if args.json {
            json_line(&RecordJson::new(answer, interface))?
        } else {
            text_line(answer, interface)
        })?;
    }
    Ok(())
}

fn text_line(answer: &Answer, interface: &str) -> String {
    let Answer { name, ttl, data, .. } = answer;
    visible(format!("{interface:<8} {name} {ttl} {} {data}", answer.record_type())) + "\n"
}

/// A record as JSON; docs/mdns.md explains the keys.
#[derive(Debug, Serialize)]
struct RecordJson<'a> {
    name: String,
    #[serde(rename = "type")]
    record_type: String,
    ttl: u32,
    unique: bool,
    interface: &'a str,
    data: String,
    rdata: String,
}

impl<'a> RecordJson<'a> {
    fn new(answer: &Answer, interface: &'a str) -> Self {
        Self {
            name: answer.name.to_string(),
            record_type: answer.record_type().to_string(),
            ttl: answer.ttl,
            unique: answer.unique,
            interface,
            data: answer.data.to_string(),
            rdata: hex(answer.data.as_bytes()),
        }
    }
}
