//! Sealed packets that arrive whole, changed, cut, twice, late, or made up, against a model of what must come of them.
//!
//! ```text
//!  input:  kind 1 · lane 1 · (operation 1 · its operands)…
//!
//!  operation   operands
//!  0 seal      length 2 · fill 1          a packet that may be delivered later
//!  1 deliver   which 1                    as it was sealed
//!  2 change    which 1 · where 2 · xor 1  deliver a changed copy
//!  3 cut       which 1 · length 2         deliver the front of a copy
//!  4 make up   length 2 · bytes           deliver something else
//!  5 skip      count 2                    counters that are lost on the way
//! ```

use std::collections::HashSet;

use handshake::{DataHeader, HEADER_LEN, OpenError, ReplayWindow, Session, TAG_LEN};

use crate::bytes::Bytes;
use crate::pair::{Pair, shake_hands};

/// Enough to fill a window several times with skips between.
const OPERATIONS_MAX: usize = 64;
/// Bytes of the largest packet to seal.
const PLAINTEXT_MAX: usize = 1_500;

/// What one end has sealed and the other must make of it.
struct Exchange<'a> {
    sealing: &'a Session,
    opening: &'a Session,
    lane: u8,
    /// Datagrams as sealed, with their counters and plaintexts.
    sealed: Vec<(u64, Vec<u8>, Vec<u8>)>,
    delivered: HashSet<u64>,
    highest: Option<u64>,
}

/// # Panics
/// When a packet that was not sealed by the peer is accepted, one is accepted twice or too late, one that should be
/// accepted is not, or its contents change.
pub fn run(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    let kind = bytes.u8();
    let (pair, suite) = Pair::chosen_by(kind);
    let (left, right) = shake_hands(pair, suite, kind & 4 != 0);
    let lane = if right.post_quantum() { bytes.u8() % handshake::LANES as u8 } else { 0 };
    let mut exchange = Exchange {
        sealing: &left,
        opening: &right,
        lane,
        sealed: Vec::new(),
        delivered: HashSet::new(),
        highest: None,
    };
    for _ in 0..OPERATIONS_MAX {
        if bytes.is_empty() {
            break;
        }
        exchange.step(&mut bytes);
    }
}

impl Exchange<'_> {
    fn step(&mut self, bytes: &mut Bytes<'_>) {
        match bytes.u8() % 6 {
            0 => {
                let len = usize::from(bytes.u16()) % (PLAINTEXT_MAX + 1);
                self.seal(vec![bytes.u8(); len]);
            }
            1 => {
                if let Some((counter, datagram, plaintext)) = self.pick(bytes.u8()) {
                    self.deliver(counter, datagram, &plaintext);
                }
            }
            2 => {
                if let Some((_, mut datagram, _)) = self.pick(bytes.u8()) {
                    let at = usize::from(bytes.u16()) % datagram.len();
                    datagram[at] ^= bytes.u8().max(1);
                    self.refuse(datagram);
                }
            }
            3 => {
                if let Some((_, mut datagram, _)) = self.pick(bytes.u8()) {
                    let len = usize::from(bytes.u16()) % datagram.len();
                    datagram.truncate(len);
                    self.refuse(datagram);
                }
            }
            4 => {
                let datagram = bytes.prefixed().to_vec();
                if self.sealed.iter().all(|(_, sealed, _)| *sealed != datagram) {
                    self.refuse(datagram);
                }
            }
            _ => {
                let _ = self.sealing.sealer(self.lane).reserve(u64::from(bytes.u16()));
            }
        }
    }

    fn pick(&self, which: u8) -> Option<(u64, Vec<u8>, Vec<u8>)> {
        let count = self.sealed.len().max(1);
        self.sealed.get(usize::from(which) % count).cloned()
    }

    fn seal(&mut self, plaintext: Vec<u8>) {
        let sealer = self.sealing.sealer(self.lane);
        let Ok(counter) = sealer.reserve(1) else { return };
        let mut datagram = vec![0; HEADER_LEN + plaintext.len() + TAG_LEN];
        datagram[HEADER_LEN..][..plaintext.len()].copy_from_slice(&plaintext);
        sealer.seal(counter, &mut datagram);
        let header = DataHeader::parse(&datagram).expect("a sealed packet has a header");
        assert_eq!((header.counter, header.lane), (counter, self.lane));
        assert_eq!(header.receiver, self.opening.local_index());
        self.sealed.push((counter, datagram, plaintext));
    }

    fn deliver(&mut self, counter: u64, mut datagram: Vec<u8>, plaintext: &[u8]) {
        let expected = match self.highest {
            Some(highest) if highest >= counter + ReplayWindow::SIZE => Err(OpenError::TooOld),
            _ if self.delivered.contains(&counter) => Err(OpenError::Replayed),
            highest => Ok(highest.is_none_or(|highest| counter > highest)),
        };
        let mut opener = self.opening.opener(self.lane).expect("the lane exists");
        let opened = opener.open(&mut datagram);
        assert_eq!(opened.map(|opened| opened.newest), expected, "packet {counter}");
        if let Ok(opened) = opened {
            assert_eq!(opened.counter, counter);
            assert_eq!(&datagram[HEADER_LEN..datagram.len() - TAG_LEN], plaintext);
            self.delivered.insert(counter);
            self.highest = self.highest.max(Some(counter));
        }
    }

    fn refuse(&self, mut datagram: Vec<u8>) {
        let lane = DataHeader::parse(&datagram).map_or(self.lane, |header| header.lane);
        if let Ok(mut opener) = self.opening.opener(lane) {
            assert!(opener.open(&mut datagram).is_err(), "a packet nobody sealed was opened");
        }
    }
}
