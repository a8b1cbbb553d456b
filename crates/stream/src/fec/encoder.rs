//! Outgoing datagrams.

use super::code::Code;
use super::galois::multiply_add;
use super::{
    ADAPTIVE_DATA_MAX, ADAPTIVE_HEADER, ADAPTIVE_PARITY_MAX, DATAGRAM_MAX, FIXED_HEADER, FecConfig, SIZE_LEN,
    TYPE_ADAPTIVE_DATA, TYPE_ADAPTIVE_PARITY, TYPE_DATA, TYPE_PARITY,
};

/// How often an adaptive group may be lost for good: one in so many needs a retransmission.
const RESIDUAL_LOSS: f64 = 0.003;
/// The same of a group of one: somebody waits for just this datagram, and one more costs little.
const RESIDUAL_LOSS_SINGLE: f64 = 0.000_3;
/// Loss below this is left to retransmission.
const LOSS_MIN: f64 = 0.003;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Fixed { data: usize, parity: usize },
    Adaptive,
}

/// Puts headers before datagrams and computes parities, as the datagrams pass: none is kept.
#[derive(Debug)]
pub struct Encoder {
    scheme: Scheme,
    code: Code,
    /// The next sequence number, or the group's.
    next: u32,
    /// Where sequence numbers begin again at 0: behind the last whole group.
    wrap: u32,
    /// Data datagrams of this group so far.
    count: usize,
    /// The longest coded part of this group.
    len_max: usize,
    /// The parities of this group so far.
    parities: Vec<Vec<u8>>,
    /// Parities to be sent: those from the first number up to the second.
    due: (usize, usize),
    /// Data datagrams of the group whose parities are due.
    due_data: usize,
    /// Parities that are computed for this group: what is wanted meanwhile counts from the next one on.
    rows: usize,
    /// Adaptive: parities for a group of so many data datagrams.
    wanted: [usize; ADAPTIVE_DATA_MAX + 1],
}

impl Encoder {
    /// An encoder; `None` with [`FecConfig::Off`].
    pub fn new(config: FecConfig) -> Option<Self> {
        let (scheme, code, parity, wrap) = match config {
            FecConfig::Off => return None,
            FecConfig::Fixed { data, parity } => {
                let shards = (data + parity) as u32;
                let scheme = Scheme::Fixed { data, parity };
                (scheme, Code::vandermonde(data, parity), parity, u32::MAX / shards * shards)
            }
            FecConfig::Adaptive => {
                let code = Code::cauchy(ADAPTIVE_DATA_MAX, ADAPTIVE_PARITY_MAX);
                (Scheme::Adaptive, code, ADAPTIVE_PARITY_MAX, u32::MAX)
            }
        };
        Some(Self {
            scheme,
            code,
            next: 0,
            wrap,
            count: 0,
            len_max: 0,
            parities: vec![vec![0; DATAGRAM_MAX]; parity],
            due: (0, 0),
            due_data: 0,
            rows: parity,
            wanted: [0; ADAPTIVE_DATA_MAX + 1],
        })
    }

    /// Tells an adaptive encoder what share of the datagrams gets lost, 0 to 1.
    pub fn set_loss(&mut self, loss: f64) {
        for (data, wanted) in self.wanted.iter_mut().enumerate().skip(1) {
            *wanted = parities_for(data, loss);
        }
    }

    /// Whether it has anything to do for a thin flow now: an adaptive encoder has not while nothing gets lost.
    pub fn is_active(&self) -> bool {
        self.scheme != Scheme::Adaptive || self.wanted[1] > 0
    }

    /// Fills in the header, the first [`FecConfig::header_len`] bytes of `datagram`, whose whole length is at most
    /// [`DATAGRAM_MAX`], and which nobody may change afterwards.
    pub fn protect(&mut self, datagram: &mut [u8]) {
        // What is due has been polled, or never will be.
        self.due = (0, 0);
        let coded = self.header(datagram);
        if self.scheme == Scheme::Adaptive && self.count == 0 {
            // Larger groups want no fewer parities than this one may, but for a group of one.
            self.rows = self.wanted[ADAPTIVE_DATA_MAX].max(self.wanted[1]);
        }
        let rows = self.rows;
        let coded = &datagram[coded..];
        multiply_add(&mut self.parities[..rows], &self.code.factors(self.count)[..rows], coded);
        self.len_max = self.len_max.max(coded.len());
        self.count += 1;
        match self.scheme {
            Scheme::Fixed { data, parity } if self.count == data => self.close(parity),
            Scheme::Adaptive if self.count == ADAPTIVE_DATA_MAX => self.flush(),
            _ => {}
        }
    }

    /// Ends an adaptive group early: no datagram will follow for a while.
    pub fn flush(&mut self) {
        if self.scheme == Scheme::Adaptive && self.count > 0 {
            self.close(self.wanted[self.count].min(self.rows));
        }
    }

    /// Writes a parity that is due into `out` and returns its length, at most [`DATAGRAM_MAX`].
    pub fn poll_parity(&mut self, out: &mut [u8]) -> Option<usize> {
        let (index, end) = self.due;
        if index == end {
            return None;
        }
        self.due.0 += 1;
        let header_len = match self.scheme {
            Scheme::Fixed { .. } => {
                out[..4].copy_from_slice(&self.next.to_le_bytes());
                out[4..6].copy_from_slice(&[TYPE_PARITY, 0]);
                self.next = (self.next + 1) % self.wrap;
                FIXED_HEADER
            }
            Scheme::Adaptive => {
                out[..4].copy_from_slice(&self.next.wrapping_sub(1).to_le_bytes());
                out[4..8].copy_from_slice(&[TYPE_ADAPTIVE_PARITY, index as u8, self.due_data as u8, 0]);
                ADAPTIVE_HEADER
            }
        };
        let parity = &mut self.parities[index][..self.len_max];
        let len = header_len + parity.len();
        out[header_len..len].copy_from_slice(parity);
        parity.fill(0);
        if self.due.0 == end {
            self.begin();
        }
        Some(len)
    }

    /// Writes the header and returns where the coded part begins.
    fn header(&mut self, datagram: &mut [u8]) -> usize {
        let header_len = match self.scheme {
            Scheme::Fixed { .. } => {
                datagram[..4].copy_from_slice(&self.next.to_le_bytes());
                datagram[4..6].copy_from_slice(&[TYPE_DATA, 0]);
                self.next += 1;
                FIXED_HEADER
            }
            Scheme::Adaptive => {
                datagram[..4].copy_from_slice(&self.next.to_le_bytes());
                datagram[4..8].copy_from_slice(&[TYPE_ADAPTIVE_DATA, self.count as u8, 0, 0]);
                ADAPTIVE_HEADER
            }
        };
        let size = (datagram.len() - header_len) as u16;
        datagram[header_len..header_len + SIZE_LEN].copy_from_slice(&size.to_le_bytes());
        header_len
    }

    /// Ends a group, of which `parity` parities are due.
    fn close(&mut self, parity: usize) {
        (self.due, self.due_data) = ((0, parity), self.count);
        if self.scheme == Scheme::Adaptive {
            self.next = self.next.wrapping_add(1);
        }
        self.count = 0;
        if parity == 0 {
            self.begin();
        }
    }

    /// Clears what is left of the group before.
    fn begin(&mut self) {
        for parity in &mut self.parities {
            parity[..self.len_max].fill(0);
        }
        self.len_max = 0;
    }
}

/// The fewest parities with which a group of `data` is computable but for [`RESIDUAL_LOSS`] of the cases, or
/// [`RESIDUAL_LOSS_SINGLE`].
fn parities_for(data: usize, loss: f64) -> usize {
    if loss < LOSS_MIN {
        return 0;
    }
    let residual = |parity: usize| {
        let shards = data + parity;
        // More than `parity` of the shards lost: one minus the binomial distribution up to it.
        let mut probability = (1.0 - loss).powi(shards as i32);
        let mut at_most = probability;
        for lost in 0..parity {
            probability *= (shards - lost) as f64 / (lost + 1) as f64 * loss / (1.0 - loss);
            at_most += probability;
        }
        1.0 - at_most
    };
    let loss_is_sane = loss < 0.5;
    let allowed = if data == 1 { RESIDUAL_LOSS_SINGLE } else { RESIDUAL_LOSS };
    (1..ADAPTIVE_PARITY_MAX)
        .find(|parity| loss_is_sane && residual(*parity) <= allowed)
        .unwrap_or(ADAPTIVE_PARITY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parities_follow_the_loss() {
        assert_eq!(parities_for(1, 0.0), 0);
        assert_eq!(parities_for(1, 0.01), 1);
        assert_eq!(parities_for(1, 0.05), 2, "0.05² is a quarter of a percent");
        assert_eq!(parities_for(1, 0.10), 3);
        assert_eq!(parities_for(2, 0.05), 2);
        assert_eq!(parities_for(16, 0.05), 4);
        assert_eq!(parities_for(4, 0.9), ADAPTIVE_PARITY_MAX);
        for data in 2..ADAPTIVE_DATA_MAX {
            assert!(parities_for(data, 0.07) <= parities_for(data + 1, 0.07));
        }
    }
}
