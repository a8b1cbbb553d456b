//! Pings that wait for their last answer. (ping(8) of iputils, sending one a millisecond, at times does not.)

use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::Host;

/// How long the last answers may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Sends `count` ICMP echo requests (RFC 792, RFC 4443) with 56 bytes, one every millisecond; returns how many were
/// answered, each counted once.
#[track_caller]
pub(crate) fn ping(from: &Host, to: &str, count: u32) -> u32 {
    ping_with(from, to, count, 56)
}

/// As [`ping`], with `payload` bytes after the 8 of the ICMP header.
#[track_caller]
pub(crate) fn ping_with(from: &Host, to: &str, count: u32, payload: usize) -> u32 {
    static IDENTIFIER: AtomicU16 = AtomicU16::new(1);
    let identifier = IDENTIFIER.fetch_add(1, Relaxed);
    let to: IpAddr = to.parse().unwrap();
    let kind = Kind::of(to, payload);
    let socket =
        from.netns.run(|| Socket::new(kind.domain, Type::RAW, Some(kind.protocol)).unwrap()).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let seen = Mutex::new(vec![false; count as usize]);
    let answered = || seen.lock().unwrap().iter().filter(|&&seen| seen).count() as u32;
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut buf = [0; 2_048];
            while !ended.load(Relaxed) {
                let Ok(len) = (&socket).read(&mut buf) else { continue };
                if let Some(number) = kind.answer(&buf[..len], identifier)
                    && let Some(place) = seen.lock().unwrap().get_mut(usize::from(number))
                {
                    *place = true;
                }
            }
        });
        let start = Instant::now();
        for number in 0..count {
            // What our own kernel refuses counts as unanswered.
            let _ = socket.send_to(&kind.request(identifier, number as u16), &SocketAddr::new(to, 0).into());
            let next = start + Duration::from_millis(1) * (number + 1);
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        let deadline = Instant::now() + PATIENCE;
        while answered() < count && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        ended.store(true, Relaxed);
    });
    answered()
}

/// What differs between the two families.
struct Kind {
    domain: Domain,
    protocol: Protocol,
    request: u8,
    reply: u8,
    /// Of the IP header that a raw socket delivers.
    header_len: usize,
    payload: usize,
}

impl Kind {
    fn of(address: IpAddr, payload: usize) -> Self {
        if address.is_ipv4() {
            let (domain, protocol) = (Domain::IPV4, Protocol::ICMPV4);
            Self { domain, protocol, request: 8, reply: 0, header_len: 20, payload }
        } else {
            let (domain, protocol) = (Domain::IPV6, Protocol::ICMPV6);
            Self { domain, protocol, request: 128, reply: 129, header_len: 0, payload }
        }
    }

    /// `type code checksum identifier number payload`, all of two bytes but the first two and the last.
    fn request(&self, identifier: u16, number: u16) -> Vec<u8> {
        let mut message = vec![self.request, 0, 0, 0];
        message.extend(identifier.to_be_bytes());
        message.extend(number.to_be_bytes());
        message.extend((0..self.payload).map(|at| at as u8 ^ number as u8));
        // The kernel fills in the checksum of ICMPv6 only, whose pseudo-header it knows.
        if self.header_len > 0 {
            let words = message.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
            let sum: u32 = words.sum();
            let folded = (sum & 0xffff) + (sum >> 16);
            let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
            message[2..4].copy_from_slice(&checksum.to_be_bytes());
        }
        message
    }

    /// The number of the request that a packet answers, if it does.
    fn answer(&self, packet: &[u8], identifier: u16) -> Option<u16> {
        let message = packet.get(self.header_len..)?;
        let &[kind, 0, _, _, id_high, id_low, high, low, ref payload @ ..] = message else { return None };
        let ours = kind == self.reply && u16::from_be_bytes([id_high, id_low]) == identifier;
        let whole = payload.len() == self.payload
            && payload.iter().enumerate().all(|(at, &got)| got == at as u8 ^ low);
        (ours && whole).then(|| u16::from_be_bytes([high, low]))
    }
}
