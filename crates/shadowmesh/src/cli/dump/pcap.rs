//! A capture file that Wireshark and tcpdump open (`pcap-savefile(5)`), with times in nanoseconds.
//!
//! ```text
//!  file:    magic 4 · version 2.4 · zero 8 · snapshot length 4 · link type 4
//!  record:  seconds 4 · nanoseconds 4 · bytes here 4 · bytes on the wire 4 · IP packet
//! ```

use std::io::{self, Write};
use std::time::Duration;

/// Times are seconds and nanoseconds, in the byte order of this word.
const MAGIC: u32 = 0xa1b2_3c4d;
const VERSION: [u16; 2] = [2, 4];
const SNAPSHOT_LENGTH: u32 = 262_144;
/// `LINKTYPE_RAW`: records begin with an IP header.
const RAW_IP: u32 = 101;

pub(super) struct Pcap<W> {
    out: W,
}

impl<W: Write> Pcap<W> {
    pub(super) fn new(mut out: W) -> io::Result<Self> {
        out.write_all(&MAGIC.to_ne_bytes())?;
        out.write_all(&VERSION.map(u16::to_ne_bytes).concat())?;
        out.write_all(&[0; 8])?;
        out.write_all(&SNAPSHOT_LENGTH.to_ne_bytes())?;
        out.write_all(&RAW_IP.to_ne_bytes())?;
        Ok(Self { out })
    }

    /// Appends a packet.
    pub(super) fn record(&mut self, time: Duration, packet: &[u8]) -> io::Result<()> {
        let len = packet.len() as u32;
        for word in [time.as_secs() as u32, time.subsec_nanos(), len, len] {
            self.out.write_all(&word.to_ne_bytes())?;
        }
        self.out.write_all(packet)
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_header_and_its_records() {
        let mut bytes = Vec::new();
        let mut pcap = Pcap::new(&mut bytes).unwrap();
        pcap.record(Duration::new(7, 9), &[0x45, 0, 0, 1]).unwrap();
        pcap.flush().unwrap();
        assert_eq!(bytes.len(), 24 + 16 + 4);
        assert_eq!(bytes[..4], 0xa1b2_3c4d_u32.to_ne_bytes());
        assert_eq!(bytes[20..24], 101_u32.to_ne_bytes());
        assert_eq!(bytes[24..28], 7_u32.to_ne_bytes());
        assert_eq!(bytes[28..32], 9_u32.to_ne_bytes());
        assert_eq!(bytes[36..], [&4_u32.to_ne_bytes()[..], &[0x45, 0, 0, 1]].concat());
    }
}
