//! One packet as one line.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use carrier::fake_tcp::Segment;
use carrier::guard::{Direction, Guard, GuardKey, window_number};
use handshake::PublicKey;
use handshake::{MessageKind, Protocol, classify};
use os::capture::Captured;
use packet::Ip;
use packet::ip::UDP;

use crate::config::Config;

const UDP_HEADER: usize = 8;

/// Reads packets, and uncovers what is under the guards that it has keys for.
pub(super) struct Decoder {
    keys: Vec<Listener>,
    payload: Vec<u8>,
}

/// A node whose guard key we can compute: we ourselves, or a peer.
struct Listener {
    name: String,
    key: GuardKey,
    guard: Option<Guard>,
}

/// What a line tells.
#[derive(Debug)]
pub(super) struct Line {
    time: Duration,
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    transport: Transport,
    /// Datagrams, and the bytes of each but the last.
    datagrams: usize,
    segment_size: usize,
    payload_len: usize,
    /// Whose guard it is, and how many of the datagrams are valid under it.
    guard: Guarded,
    /// What the first datagram says it is.
    kind: Option<MessageKind>,
}

#[derive(Debug)]
enum Transport {
    Udp,
    Tcp(Segment),
}

#[derive(Debug, PartialEq, Eq)]
enum Guarded {
    /// Nothing to check, or no keys to check with.
    Unchecked,
    /// So many datagrams are valid on the way to or from that listener.
    Valid(usize, String),
    Invalid,
}

impl Decoder {
    pub(super) fn new(config: Option<&Config>) -> Self {
        let mut keys = Vec::new();
        if let Some(config) = config {
            let mut add = |name: &str, public_key: &PublicKey| {
                let key = match &config.carriers.fake_tcp {
                    Some(fake_tcp) => fake_tcp.guard_key(public_key),
                    None => GuardKey::derive(public_key.as_bytes(), None),
                };
                keys.push(Listener { name: name.into(), key, guard: None });
            };
            add(&config.name, &config.secret.public_key());
            for peer in &config.peers {
                add(&peer.name, &peer.public_key);
            }
        }
        Self { keys, payload: Vec::new() }
    }

    /// Reads a packet; `None` when it is neither TCP nor UDP.
    pub(super) fn decode(&mut self, captured: &Captured<'_>, time: Duration) -> Option<Line> {
        let packet = captured.packet;
        let (transport, from, to, payload) = if let Ok(segment) = Segment::parse(packet, packet.len()) {
            let payload = &packet[segment.header_len..][..segment.payload_len];
            (Transport::Tcp(segment), segment.from, segment.to, payload)
        } else {
            let ip = Ip::parse(packet).ok().filter(|ip| ip.protocol == UDP && !ip.fragment)?;
            let udp = packet.get(ip.header_len..ip.total_len)?;
            let port = |at: usize| Some(u16::from_be_bytes([*udp.get(at)?, *udp.get(at + 1)?]));
            let (from, to) = (SocketAddr::new(ip.src, port(0)?), SocketAddr::new(ip.dst, port(2)?));
            (Transport::Udp, from, to, udp.get(UDP_HEADER..)?)
        };
        let segment_size =
            captured.segment_size.map_or(payload.len(), usize::from).clamp(1, payload.len().max(1));
        self.payload.clear();
        self.payload.extend_from_slice(payload);
        let guard = match transport {
            Transport::Tcp(_) if !payload.is_empty() => self.uncover(time, segment_size),
            _ => Guarded::Unchecked,
        };
        let readable = matches!(transport, Transport::Udp) || matches!(guard, Guarded::Valid(..));
        let first = &self.payload[..segment_size.min(self.payload.len())];
        Some(Line {
            time,
            from,
            to,
            transport,
            datagrams: payload.len().div_ceil(segment_size),
            segment_size,
            payload_len: payload.len(),
            kind: if readable { classify(first) } else { None },
            guard,
        })
    }

    /// Tries all keys, in both directions.
    fn uncover(&mut self, time: Duration, segment_size: usize) -> Guarded {
        if self.keys.is_empty() {
            return Guarded::Unchecked;
        }
        let window = window_number(time);
        for Listener { name, key, guard } in &mut self.keys {
            if guard.as_ref().is_none_or(|guard| guard.number() != window) {
                *guard = Some(Guard::new(key, window));
            }
            let Some(guard) = guard else { continue };
            for direction in [Direction::ToListener, Direction::FromListener] {
                let valid = guard.unmask(direction, &mut self.payload, segment_size);
                if valid > 0 {
                    return Guarded::Valid(valid, name.clone());
                }
            }
        }
        Guarded::Invalid
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.time.as_secs() % 86_400;
        let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
        write!(f, "{hours:02}:{minutes:02}:{:02}.{:06} ", seconds % 60, self.time.subsec_micros())?;
        write!(f, "{} > {}: ", self.from, self.to)?;
        match &self.transport {
            Transport::Udp => f.write_str("UDP")?,
            Transport::Tcp(segment) => {
                write!(f, "TCP {} seq {}", segment.flags, segment.sequence)?;
                write!(f, " ack {} win {}", segment.acknowledgment, segment.window)?;
                if let Some((value, echo)) = segment.timestamps {
                    write!(f, " ts {value} {echo}")?;
                }
                if let Some(mss) = segment.mss {
                    write!(f, " mss {mss}")?;
                }
                if let Some(scale) = segment.window_scale {
                    write!(f, " scale {scale}")?;
                }
            }
        }
        match self.datagrams {
            0 => f.write_str(", no payload")?,
            1 => write!(f, ", {} bytes", self.payload_len)?,
            count => write!(f, ", {count} × {} bytes ({})", self.segment_size, self.payload_len)?,
        }
        match &self.guard {
            Guarded::Unchecked => {}
            Guarded::Valid(valid, name) if *valid == self.datagrams => write!(f, ", guard of {name} valid")?,
            Guarded::Valid(valid, name) => {
                write!(f, ", guard of {name} valid for {valid} of {}", self.datagrams)?;
            }
            Guarded::Invalid => f.write_str(", guard NOT valid")?,
        }
        self.kind.map_or(Ok(()), |kind| write!(f, ", {}", name(kind)))
    }
}

fn name(kind: MessageKind) -> String {
    let what = match kind {
        MessageKind::Initiation(_) => "handshake initiation",
        MessageKind::InitiationPart1 => "handshake initiation, part 1",
        MessageKind::InitiationPart2 => "handshake initiation, part 2",
        MessageKind::Response(_) => "handshake response",
        MessageKind::CookieReply(_) => "cookie reply",
        MessageKind::Data(_) => "data",
    };
    match kind.protocol() {
        Protocol::ShadowMesh => what.into(),
        Protocol::WireGuard => format!("WireGuard {what}"),
    }
}

#[cfg(test)]
mod tests {
    use carrier::fake_tcp::{Flags, HEADER_MAX, Header, complete_checksum};
    use carrier::guard::MASK_LEN;
    use packet::Ecn;

    use super::*;

    const TIME: Duration = Duration::from_secs(1_700_000_000);

    fn decoder() -> Decoder {
        let key = GuardKey::derive(&[7; 32], None);
        Decoder { keys: vec![Listener { name: "right".into(), key, guard: None }], payload: Vec::new() }
    }

    /// A super-segment of three data packets.
    fn train(masked: bool) -> Vec<u8> {
        let mut train = [&[20, 0, 0, 0][..], &[0x5a; 96]].concat().repeat(3);
        train.truncate(250);
        if masked {
            let guard = Guard::new(&GuardKey::derive(&[7; 32], None), window_number(TIME));
            let mut heads = [[0; MASK_LEN]; 3];
            guard.mask(Direction::ToListener, &train, 100, &mut heads).unwrap();
            train
                .chunks_mut(100)
                .zip(&heads)
                .for_each(|(datagram, head)| datagram[..MASK_LEN].copy_from_slice(head));
        }
        let header = Header {
            from: "192.0.2.1:40000".parse().unwrap(),
            to: "192.0.2.2:9443".parse().unwrap(),
            sequence: 1_000,
            acknowledgment: 2_000,
            flags: Flags::PSH | Flags::ACK,
            window: 501,
            timestamps: Some((3, 4)),
            syn: None,
            ecn: Ecn::NotEct,
            identification: 1,
        };
        let mut bytes = [0; HEADER_MAX];
        let len = header.write(train.len(), &mut bytes);
        complete_checksum(&mut bytes[..len], header.ip_len(), &[&train]);
        [&bytes[..len], &train].concat()
    }

    fn line(packet: &[u8]) -> String {
        let captured = Captured { packet, segment_size: Some(100), interface: 1, outgoing: true };
        decoder().decode(&captured, TIME).unwrap().to_string()
    }

    #[test]
    fn a_train_is_one_line_with_its_tcp_fields_its_guard_and_its_type() {
        let expected = "22:13:20.000000 192.0.2.1:40000 > 192.0.2.2:9443: TCP PA seq 1000 ack 2000 win 501 ts 3 4, \
                        3 × 100 bytes (250), guard of right valid, data";
        assert_eq!(line(&train(true)), expected);
    }

    #[test]
    fn what_is_not_guarded_is_called_that_and_not_looked_into() {
        let text = line(&train(false));
        assert!(text.ends_with("3 × 100 bytes (250), guard NOT valid"), "{text}");
        let mut one_bad = train(true);
        one_bad[52 + 100] ^= 0x80;
        let text = line(&one_bad);
        assert!(text.ends_with("guard of right valid for 2 of 3, data"), "{text}");
    }

    #[test]
    fn datagrams_of_udp_are_named_too() {
        let mut packet = vec![0x45, 0, 0, 60, 0, 1, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
        packet.extend([0x24, 0xe3, 0x24, 0xe3, 0, 40, 0, 0, 4, 0, 0, 0]);
        packet.resize(60, 9);
        let captured = Captured { packet: &packet, segment_size: None, interface: 1, outgoing: false };
        let line = decoder().decode(&captured, TIME).unwrap().to_string();
        assert_eq!(line, "22:13:20.000000 192.0.2.1:9443 > 192.0.2.2:9443: UDP, 32 bytes, WireGuard data");
        packet[9] = 1;
        let captured = Captured { packet: &packet, segment_size: None, interface: 1, outgoing: false };
        assert!(decoder().decode(&captured, TIME).is_none(), "ICMP");
    }
}
