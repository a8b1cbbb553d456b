//! Forward error correction: any datagrams for a decoder, and a link that the input rules between an encoder and a
//! decoder.
//!
//! ```text
//!  input:  settings 1 · (length 2 · datagram)…                      settings: bit 7 clear
//!          settings 1 · data 1 · parity 1 · (fate 1 · length 2)…    settings: bit 7 set, bit 0 adaptive
//! ```

use stream::fec::{DATAGRAM_MAX, Decoder, Encoder, FecConfig, is_protected, unprotected};

use crate::bytes::Bytes;

const DATAGRAMS_MAX: usize = 400;

/// # Panics
/// When a decoder makes up a datagram that was never sent, or parities exceed what a datagram may be.
pub fn run(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    if bytes.u8() & 0x80 == 0 { told_anything(&mut bytes) } else { lossy_link(input[0], &mut bytes) }
}

fn told_anything(bytes: &mut Bytes<'_>) {
    let mut decoder = Decoder::new(FecConfig::Off);
    let mut out = Vec::new();
    for _ in 0..DATAGRAMS_MAX {
        if bytes.is_empty() {
            break;
        }
        let datagram = bytes.prefixed();
        if let Ok(payload) = decoder.handle(datagram) {
            assert!(!is_protected(datagram) || payload == unprotected(datagram));
        }
        while decoder.poll_recovered(&mut out) {
            assert!(out.len() <= DATAGRAM_MAX);
        }
    }
}

fn lossy_link(settings: u8, bytes: &mut Bytes<'_>) {
    let (data, parity) = (1 + usize::from(bytes.u8() % 20), 1 + usize::from(bytes.u8() % 10));
    let config = if settings & 1 == 0 { FecConfig::Fixed { data, parity } } else { FecConfig::Adaptive };
    let mut encoder = Encoder::new(config).expect("it is not off");
    encoder.set_loss(0.1);
    let mut decoder = Decoder::new(config);
    let (mut sent, mut buf, mut out) = (Vec::new(), vec![0; DATAGRAM_MAX], Vec::new());
    for number in 0..DATAGRAMS_MAX {
        if bytes.is_empty() {
            break;
        }
        let (fate, len) = (bytes.u8(), usize::from(bytes.u16()) % (DATAGRAM_MAX - config.header_len()));
        let payload: Vec<u8> = (0..len).map(|at| (at * 7 + number * 13) as u8).collect();
        let mut datagram = [vec![0; config.header_len()], payload.clone()].concat();
        sent.push(payload);
        encoder.protect(&mut datagram);
        let mut leaving = vec![datagram];
        if fate & 2 != 0 {
            encoder.flush();
        }
        while let Some(len) = encoder.poll_parity(&mut buf) {
            assert!(len <= DATAGRAM_MAX);
            leaving.push(buf[..len].to_vec());
        }
        for (at, datagram) in leaving.iter().enumerate() {
            if fate >> (2 + at % 6) & 1 != 0 {
                continue;
            }
            let payload = decoder.handle(datagram).expect("it was encoded right");
            assert!(payload.is_none_or(|payload| sent.last().is_some_and(|last| last == payload)));
            while decoder.poll_recovered(&mut out) {
                assert!(sent.contains(&out), "a datagram that was never sent");
            }
        }
    }
}
