//! A KCP conversation: one end is told whatever the input says, two others talk over a link that the input rules.
//!
//! ```text
//!  input:  settings 1 · (operation 1 · what it needs)…
//! ```

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use stream::kcp::{Congestion, Kcp, KcpConfig, Mode};

use crate::bytes::Bytes;
use crate::pair::NOW;

const CONVERSATION: u32 = 0x0403_0201;
const MTU: usize = 200;
/// Enough for windows of 64 segments of that size on both sides, and the queues of their numbers.
const MEMORY_MAX: usize = 400_000;
const OPERATIONS_MAX: usize = 2_000;

/// # Panics
/// When a datagram is too large, a deadline is left in the past, memory is not bounded, or a byte that was read is not
/// the one that was written.
pub fn run(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    let settings = bytes.u8();
    let config = config(settings);
    if settings & 0x80 == 0 {
        told_anything(&mut bytes, config);
    } else {
        lossy_link(&mut bytes, &config);
    }
}

fn config(settings: u8) -> KcpConfig {
    let mode = match settings & 3 {
        0 => Mode::NORMAL,
        1 => Mode::FAST3,
        2 => Mode { no_congestion_window: false, ..Mode::FAST2 },
        _ => Mode { resend: 0, ..Mode::FAST2 },
    };
    let congestion = if settings & 4 == 0 { Congestion::None } else { Congestion::Bbr };
    KcpConfig {
        mode,
        congestion,
        mtu: MTU,
        send_window: 64,
        receive_window: 64,
        ack_no_delay: settings & 8 != 0,
        ..KcpConfig::default()
    }
}

/// Takes all datagrams that are to be sent now, and checks what is true afterwards.
fn drain(kcp: &mut Kcp, now: Instant, mut each: impl FnMut(&[u8])) {
    let mut buf = [0; 2 * MTU];
    let mut count = 0;
    while let Some(size) = kcp.poll_transmit(now, &mut buf) {
        assert!((1..=MTU).contains(&size), "a datagram of {size} bytes");
        count += 1;
        assert!(count < 1_000, "it never stops sending");
        each(&buf[..size]);
    }
    if let Some((at, reason)) = kcp.poll_timeout() {
        assert!(at > now, "the deadline '{reason}' is left in the past");
    }
    assert!(kcp.memory() < MEMORY_MAX, "{} bytes held", kcp.memory());
}

/// Datagrams of any bytes, and of segments with any fields.
fn told_anything(bytes: &mut Bytes<'_>, config: KcpConfig) {
    let mut now = *NOW;
    let mut kcp = Kcp::new(CONVERSATION, config, now);
    for _ in 0..OPERATIONS_MAX {
        if bytes.is_empty() {
            break;
        }
        match bytes.u8() % 8 {
            0 => {
                let _ = kcp.handle_datagram(bytes.prefixed(), now);
            }
            1..4 => {
                let _ = kcp.handle_datagram(&segments(bytes), now);
            }
            4 => {
                kcp.write(&[7; 1_000][..usize::from(bytes.u8()) * 3]);
            }
            5 => now += Duration::from_micros(u64::from(bytes.u16()) * 97),
            6 => {
                let size = usize::from(bytes.u16());
                kcp.consume(size);
            }
            _ => kcp.set_receive_window(u32::from(bytes.u8())),
        }
        kcp.handle_timeout(now);
        drain(&mut kcp, now, |_| {});
    }
}

/// One to four segments whose numbers are small, so that they mean something.
fn segments(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let mut datagram = Vec::new();
    for _ in 0..=bytes.u8() % 4 {
        let [command, fragment, window, timestamp, sequence, una, len] = bytes.array();
        let payload = bytes.take(usize::from(len));
        datagram.extend(CONVERSATION.to_le_bytes());
        datagram.extend([81 + command % 5, fragment, window, 0]);
        for number in [timestamp, sequence, una] {
            // Small numbers, and those just below zero.
            datagram.extend((i32::from(number) - 16).to_le_bytes());
        }
        datagram.extend((payload.len() as u32).to_le_bytes());
        datagram.extend(payload);
    }
    datagram
}

/// A stream in one direction: what is read is what was written.
fn lossy_link(bytes: &mut Bytes<'_>, config: &KcpConfig) {
    let mut now = *NOW;
    let mut ends = [(); 2].map(|()| Kcp::new(CONVERSATION, config.clone(), now));
    let mut links = [VecDeque::<Vec<u8>>::new(), VecDeque::new()];
    let (mut written, mut read) = (0_usize, 0_usize);
    for _ in 0..OPERATIONS_MAX {
        if bytes.is_empty() {
            break;
        }
        let operation = bytes.u8();
        let side = usize::from(operation & 1);
        match operation >> 1 & 7 {
            0 | 1 => {
                if let Some(datagram) = links[side].pop_front() {
                    ends[1 - side].handle_datagram(&datagram, now).expect("a datagram of our own is right");
                }
            }
            2 => drop(links[side].pop_front()),
            3 => {
                if let Some(datagram) = links[side].front().cloned() {
                    links[side].push_back(datagram);
                }
            }
            4 => {
                if let Some(datagram) = links[side].pop_back() {
                    links[side].push_front(datagram);
                }
            }
            5 => {
                let payload: Vec<u8> = (written..written + usize::from(bytes.u8())).map(byte_at).collect();
                written += ends[0].write(&payload);
            }
            6 => {
                let mut buf = vec![0; usize::from(bytes.u8())];
                let size = ends[1].read(&mut buf);
                assert!(buf[..size].iter().zip(read..).all(|(&byte, place)| byte == byte_at(place)));
                read += size;
            }
            _ => now += Duration::from_millis(u64::from(bytes.u8())),
        }
        for (end, link) in ends.iter_mut().zip(&mut links) {
            end.handle_timeout(now);
            drain(end, now, |datagram| link.push_back(datagram.to_vec()));
            link.truncate(500);
        }
    }
    assert!(read <= written);
}

fn byte_at(place: usize) -> u8 {
    (place.wrapping_mul(0x9e37_79b1) >> 16) as u8
}
