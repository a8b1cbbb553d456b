//! All packets of Multicast DNS that pass a host: written by tcpdump, judged by tshark, and read here.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use mdns::wire::Message;
use packet::Ip;

use crate::lan::{Host, SOON};
use crate::program::{Program, Scratch};

pub(crate) struct Capture {
    tcpdump: Program,
    file: PathBuf,
    /// Where the file is.
    _scratch: Scratch,
}

/// One packet.
pub(crate) struct Captured {
    /// Since the epoch.
    pub(crate) time: Duration,
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    contents: Vec<u8>,
}

impl Captured {
    pub(crate) fn message(&self) -> Message<'_> {
        Message::parse(&self.contents).expect("every packet is a message")
    }
}

impl Capture {
    /// Captures what passes the interface `wire0` of a host.
    pub(crate) fn start(host: &Host) -> Self {
        let scratch = Scratch::new();
        let file = scratch.path("all.pcap");
        let mut command = host.netns.command("tcpdump");
        command.args(["-i", "wire0", "-n", "-p", "-U", "--immediate-mode", "-Z", "root", "-w"]).arg(&file);
        let mut tcpdump = Program::start(command.args(["udp", "port", "5353"]));
        tcpdump.wait("tcpdump", |line| line.contains("listening on").then_some(()));
        Self { tcpdump, file, _scratch: scratch }
    }

    /// What has passed so far.
    pub(crate) fn packets(&self) -> Vec<Captured> {
        let bytes = std::fs::read(&self.file).unwrap();
        let mut packets = Vec::new();
        // A header of 24 bytes, then for each packet: seconds, microseconds, length, original length, bytes.
        let mut rest = bytes.get(24..).unwrap_or_default();
        while let Some((head, after)) = rest.split_first_chunk::<16>() {
            let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
            // The last one may not be written completely.
            let Some((frame, after)) = after.split_at_checked(number(8) as usize) else { break };
            rest = after;
            let bytes = &frame[14..];
            let ip = Ip::parse(bytes).expect("tcpdump was told to capture UDP");
            packets.push(Captured {
                time: Duration::new(number(0).into(), number(4) * 1_000),
                from: ip.src,
                to: ip.dst,
                contents: bytes[ip.header_len + 8..ip.total_len].to_vec(),
            });
        }
        packets
    }

    /// Waits until there is something to see in what has passed.
    #[track_caller]
    pub(crate) fn wait<T>(&self, what: &str, mut look: impl FnMut(&[Captured]) -> Option<T>) -> T {
        let deadline = Instant::now() + SOON;
        loop {
            let packets = self.packets();
            if let Some(found) = look(&packets) {
                return found;
            }
            assert!(Instant::now() < deadline, "waited in vain for {what} in {} packets", packets.len());
            sleep(Duration::from_millis(20));
        }
    }

    /// Ends the capture. tshark must find nothing wrong in any packet of it.
    #[track_caller]
    pub(crate) fn finish(self) {
        let Self { tcpdump, file, _scratch } = self;
        tcpdump.terminate();
        let tshark = |filter: &str| {
            let mut command = Command::new("tshark");
            command.args(["-n", "-r"]).arg(&file).args(["-Y", filter]);
            let output = command.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        assert_eq!(
            tshark("_ws.malformed || _ws.expert.severity >= \"Error\" || !mdns"),
            "",
            "packets that are wrong"
        );
        assert_ne!(tshark("mdns"), "", "no packets at all");
    }
}
