//! `mdns monitor`: everything that is said, line by line, or as a capture file.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use beacon::Packet;
use mdns::wire::{Message, Section};

use super::Network;
use super::names::{InterfaceNames, visible};
use super::pcap;
use crate::cli::output::{Paint, print};
use crate::failure::Failure;

/// Options of `monitor`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "One line a question or record: the time in UTC, interface, sender, a sign, and the record as in a zone file.\n  ? \
                        asked   ! known to who asks   * wanted by who asks (a probe)   = answered   + added to an answer\nAfter a record: \
                        `flush` when it replaces all others of its name and type. It shows what this machine sends as well."
)]
pub(super) struct Args {
    /// Write every packet to this file, for Wireshark and tcpdump, and print nothing
    #[arg(short, long, value_name = "FILE.pcap")]
    write: Option<PathBuf>,
}

pub(super) async fn run(args: &Args, network: &Network) -> Result<(), Failure> {
    let mut file = args.write.as_deref().map(create).transpose()?;
    let beacon = network.searcher().await?;
    network.require_interfaces(&beacon).await?;
    let mut names = InterfaceNames::new()?;
    let paint = Paint::stdout();
    let mut packets = beacon.monitor();
    while let Some(packet) = packets.next().await {
        match &mut file {
            // After each packet, so that nothing is missing however the program ends.
            Some(file) => pcap::write(file, &packet)
                .and_then(|()| file.flush())
                .map_err(|error| cannot_write(&error))?,
            None => print(&lines(&packet, names.get(packet.interface), paint))?,
        }
    }
    Ok(())
}

fn create(path: &Path) -> Result<BufWriter<File>, Failure> {
    let failed = |error| Failure::Runtime(format!("cannot write {}: {error}", path.display()));
    let mut file = BufWriter::new(File::create(path).map_err(failed)?);
    pcap::write_header(&mut file).and_then(|()| file.flush()).map_err(failed)?;
    Ok(file)
}

fn cannot_write(error: &std::io::Error) -> Failure {
    Failure::Runtime(format!("cannot write the capture: {error}"))
}

/// A packet, one line a question or record.
fn lines(packet: &Packet, interface: &str, paint: Paint) -> String {
    let from = packet.from.ip();
    let unicast = if packet.to.is_multicast() { "" } else { " unicast" };
    let head = paint.dim(&format!("{} {interface:<8} {from}{unicast}", time_of_day(packet.time)));
    let mut out = String::new();
    let mut line = |sign: char, text: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{head} {sign} {}", visible(text));
    };
    let message = match Message::parse(&packet.contents) {
        Ok(message) => message,
        Err(error) => {
            line('#', &format!("malformed, {} bytes: {error}", packet.contents.len()));
            return out;
        }
    };
    let header = message.header();
    for question in message.questions() {
        line('?', &question.to_string());
    }
    for section in [Section::Answer, Section::Authority, Section::Additional] {
        let sign = match (section, header.response) {
            (Section::Answer, true) => '=',
            (Section::Answer, false) => '!',
            (Section::Authority, _) => '*',
            (Section::Additional, _) => '+',
        };
        for record in message.section(section) {
            line(sign, &format!("{record}{}", if record.cache_flush { " flush" } else { "" }));
        }
    }
    if header.truncated {
        line('#', "more follows in the next packet");
    }
    out
}

/// `12:34:56.789` in UTC.
fn time_of_day(time: SystemTime) -> String {
    let since: Duration = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let second = since.as_secs() % 86_400;
    format!("{:02}:{:02}:{:02}.{:03}", second / 3_600, second / 60 % 60, second % 60, since.subsec_millis())
}

#[cfg(test)]
mod tests {
    use mdns::wire::{Class, Header, Mode, NameBuf, Question, RData, Record, RecordType, Writer};

    use super::*;

    fn packet(contents: &[u8]) -> Packet {
        Packet {
            time: UNIX_EPOCH + Duration::from_millis(45_296_789),
            interface: 2,
            from: "192.0.2.1:5353".parse().unwrap(),
            to: "224.0.0.251".parse().unwrap(),
            hop_limit: Some(255),
            truncated: false,
            contents: contents.into(),
        }
    }

    #[test]
    fn questions_and_records_have_a_line_each() {
        let name: NameBuf = "nas.local".parse().unwrap();
        let mut buf = [0; 512];
        let mut writer = Writer::new(&mut buf, Mode::Mdns, Header::QUERY);
        assert!(writer.push_question(&Question {
            name: name.as_name(),
            record_type: RecordType::A,
            class: Class::IN,
            unicast_response: true,
        }));
        let record = Record {
            name: name.as_name(),
            class: Class::IN,
            cache_flush: true,
            ttl: 120,
            rdata: RData::A([192, 0, 2, 1].into()),
        };
        assert!(writer.push(Section::Authority, &record));
        let text = lines(&packet(writer.finish()), "eth0", Paint { on: false });
        assert_eq!(
            text,
            "12:34:56.789 eth0     192.0.2.1 ? nas.local IN A QU\n\
             12:34:56.789 eth0     192.0.2.1 * nas.local 120 IN A 192.0.2.1 flush\n"
        );
    }

    #[test]
    fn what_cannot_be_read_is_shown_as_that() {
        let text = lines(&packet(&[1, 2, 3]), "eth0", Paint { on: false });
        assert!(text.starts_with("12:34:56.789 eth0     192.0.2.1 # malformed, 3 bytes: "), "{text}");
    }
}
