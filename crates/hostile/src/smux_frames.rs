//! A smux session whose other end says whatever the input says, and whose application does what it says.
//!
//! ```text
//!  input:  settings 1 · (operation 1 · what it needs)…        settings: bit 0 version 2, bit 1 server, bit 2 negotiated
//!                                                            half-close, bit 3 cut off when full
//! ```

use std::io::IoSlice;
use std::time::Duration;

use stream::smux::{HEADER_LEN, HalfClose, Header, Role, Smux, SmuxConfig, StreamId, WhenFull};

use crate::bytes::Bytes;
use crate::pair::NOW;

const OPERATIONS_MAX: usize = 2_000;
const RECEIVE_MAX: usize = 64 << 10;
const SEND_MAX: usize = 8 << 10;
const STREAMS_MAX: usize = 8;
/// What the session may hold: its buffers, what is kept for the next use, and a partly filled chunk for each stream.
const MEMORY_MAX: usize = RECEIVE_MAX + STREAMS_MAX * (SEND_MAX + 2 * 4096) + (2 << 20);

/// # Panics
/// When more is taken than was given, something else than whole frames comes out, memory is not bounded, or a
/// deadline is left in the past.
pub fn run(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    let settings = bytes.u8();
    let version = 1 + (settings & 1);
    let config = SmuxConfig {
        version,
        receive_bytes_max: RECEIVE_MAX,
        when_full: if settings & 8 == 0 { WhenFull::Wait } else { WhenFull::CutOff },
        stream_receive_bytes_max: 32 << 10,
        stream_send_bytes_max: SEND_MAX,
        streams_max: STREAMS_MAX,
        half_close: if settings & 4 == 0 { HalfClose::Always } else { HalfClose::Negotiated },
        ..SmuxConfig::default()
    };
    let role = if settings & 2 == 0 { Role::Client } else { Role::Server };
    let mut now = *NOW;
    let mut smux = Smux::new(role, config, now);
    let mut streams: Vec<StreamId> = Vec::new();
    for _ in 0..OPERATIONS_MAX {
        if bytes.is_empty() {
            break;
        }
        let operation = bytes.u8();
        let stream = streams.get(usize::from(operation >> 4)).copied();
        match (operation & 15, stream) {
            (0..=3, _) => {
                let piece = bytes.prefixed();
                match smux.handle_bytes(piece, now) {
                    Ok(taken) => assert!(taken <= piece.len()),
                    Err(_) => return,
                }
            }
            (4, _) => streams.extend(smux.open(now)),
            (5, Some(stream)) => {
                let piece = bytes.prefixed();
                assert!(
                    smux.write(stream, piece).is_ok_and(|taken| taken <= piece.len())
                        || smux.writable(stream) == 0
                        || piece.is_empty()
                );
            }
            (6, Some(stream)) => smux.finish(stream, now),
            (7, Some(stream)) => smux.close(stream, now),
            (8, Some(stream)) => smux.reset(stream, now),
            (9, Some(stream)) => {
                let mut slices = [IoSlice::new(&[]); 3];
                if let Ok(filled) = smux.peek(stream, &mut slices) {
                    let count: usize = slices[..filled].iter().map(|slice| slice.len()).sum();
                    smux.consume(stream, count.div_ceil(2));
                }
            }
            (10, Some(stream)) => drop(smux.read(stream, &mut [0; 700])),
            (11, _) => {
                now += Duration::from_millis(u64::from(bytes.u8()) * 20);
                smux.handle_timeout(now);
                assert!(
                    smux.is_dead() || smux.poll_timeout().is_none_or(|(at, _)| at > now),
                    "a deadline in the past"
                );
            }
            (12, _) => smux.close_all(now),
            _ => output(&mut smux, version, usize::from(bytes.u16())),
        }
        while let Some(event) = smux.poll_event() {
            if event.changes.opened && streams.len() < 16 {
                streams.push(event.stream);
            }
        }
        assert!(smux.streams() <= STREAMS_MAX);
        assert!(smux.memory() <= MEMORY_MAX, "{} bytes held", smux.memory());
    }
}

fn output(smux: &mut Smux, version: u8, room: usize) {
    let mut out = Vec::new();
    let written = smux.poll_output(room, |piece| out.extend_from_slice(piece));
    assert!(written == out.len() && written <= room);
    let mut rest = &out[..];
    while let Some((header, behind)) = rest.split_first_chunk::<HEADER_LEN>() {
        let header = Header::decode(*header, version).expect("it makes its own frames right");
        rest = behind.get(header.payload_len()..).expect("frames are whole");
    }
    assert!(rest.is_empty(), "frames are whole");
}
