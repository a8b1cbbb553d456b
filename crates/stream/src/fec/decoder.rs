//! Incoming datagrams.

use std::collections::VecDeque;

use super::code::Code;
use super::tuner::Tuner;
use super::{
    ADAPTIVE_DATA_MAX, ADAPTIVE_HEADER, ADAPTIVE_PARITY_MAX, DATAGRAM_MAX, FIXED_HEADER, FecConfig, FecError,
    SIZE_LEN, TYPE_ADAPTIVE_DATA, TYPE_ADAPTIVE_PARITY, TYPE_DATA, TYPE_PARITY,
};

/// Groups that are kept: the newest, whole or not.
const GROUPS_MAX: usize = 8;

/// So many groups' worth of datagrams that are where groups of the size in use have them, and none that is not, tell that it is the
/// other end's, however they are out of order.
const GROUPS_FITTING: usize = 8;

/// A group that is older by more than this is not a late one: numbers have begun again.
const OLDER_MAX: u32 = 4096;

/// What a decoder has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecoderStats {
    /// Data datagrams received.
    pub data: u64,
    /// Parities received.
    pub parities: u64,
    /// Data datagrams computed from the others.
    pub recovered: u64,
    /// Data datagrams that were neither received nor computed.
    pub lost: u64,
}

/// One group of shards.
#[derive(Debug, Default)]
struct Group {
    number: u32,
    adaptive: bool,
    /// Coded parts, empty where absent.
    data: Vec<Vec<u8>>,
    parities: Vec<Vec<u8>>,
    data_count: usize,
    parity_count: usize,
    /// How many data shards there are, once known.
    data_total: Option<usize>,
    /// Nothing is left to compute.
    done: bool,
}

impl Group {
    fn reset(&mut self, number: u32, adaptive: bool, data: usize, parity: usize) {
        (self.number, self.adaptive, self.done) = (number, adaptive, false);
        (self.data_count, self.parity_count) = (0, 0);
        self.data_total = (!adaptive).then_some(data);
        self.data.iter_mut().chain(&mut self.parities).for_each(Vec::clear);
        self.data.resize_with(data, Vec::new);
        self.parities.resize_with(parity, Vec::new);
    }

    /// Data datagrams that never came, as far as known.
    fn missing(&self) -> usize {
        if self.done { 0 } else { self.data_total.unwrap_or(self.data_count).saturating_sub(self.data_count) }
    }
}

/// Where a datagram belongs.
struct Place {
    group: u32,
    adaptive: bool,
    parity: bool,
    /// Unknown where groups are of a size that is not known.
    index: Option<usize>,
    /// Adaptive parities know how many data shards their group has.
    data_total: Option<usize>,
}

/// Takes headers off, and computes what is missing.
#[derive(Debug)]
pub struct Decoder {
    /// Data and parity shards of a group as kcp-go makes them.
    fixed: (usize, usize),
    /// Those are the other end's: it was seen, and nothing since has contradicted it. What is computed in groups of any other
    /// size is not what was sent, and yet looks like it: a header that all datagrams have in common comes out as it is.
    fixed_known: bool,
    /// The last number, if it was where groups of this size have it.
    last_fitting: Option<u32>,
    /// Whether data was seen to end, and parities to end, just where they do in groups of this size.
    edges: (bool, bool),
    /// Datagrams that were where groups of this size have them since the last one that was not.
    fitting: usize,
    fixed_code: Code,
    adaptive_code: Code,
    tuner: Tuner,
    /// The newest last.
    groups: VecDeque<Group>,
    recovered: VecDeque<Vec<u8>>,
    /// Buffers to use again.
    spare: Vec<Vec<u8>>,
    stats: DecoderStats,
}

impl Decoder {
    /// A decoder for what an [`Encoder`](super::Encoder) with `config` makes. It adapts to other groups.
    pub fn new(config: FecConfig) -> Self {
        let (data, parity) = match config {
            FecConfig::Fixed { data, parity } => (data, parity),
            FecConfig::Off | FecConfig::Adaptive => (1, 1),
        };
        Self {
            fixed: (data, parity),
            fixed_known: false,
            last_fitting: None,
            edges: (false, false),
            fitting: 0,
            fixed_code: Code::vandermonde(data, parity),
            adaptive_code: Code::cauchy(ADAPTIVE_DATA_MAX, ADAPTIVE_PARITY_MAX),
            tuner: Tuner::default(),
            groups: VecDeque::new(),
            recovered: VecDeque::new(),
            spare: Vec::new(),
            stats: DecoderStats::default(),
        }
    }

    /// Takes a datagram for which [`is_protected`](super::is_protected) holds, and returns the KCP datagram in it; a
    /// parity has none.
    ///
    /// # Errors
    /// [`FecError`]: it is none that an encoder makes.
    pub fn handle<'a>(&mut self, datagram: &'a [u8]) -> Result<Option<&'a [u8]>, FecError> {
        if datagram.len() > DATAGRAM_MAX {
            return Err(FecError::TooLong);
        }
        let header_len = match datagram.get(4) {
            Some(&(TYPE_DATA | TYPE_PARITY)) => FIXED_HEADER,
            _ => ADAPTIVE_HEADER,
        };
        let coded = datagram.get(header_len..).filter(|coded| coded.len() >= SIZE_LEN);
        let coded = coded.ok_or(FecError::Truncated)?;
        let place = self.place(datagram)?;
        if place.parity {
            self.stats.parities += 1;
        } else {
            self.stats.data += 1;
        }
        self.spare.extend(self.recovered.drain(..));
        let payload = (!place.parity).then(|| &coded[SIZE_LEN..]);
        self.store(&place, coded);
        Ok(payload)
    }

    /// A KCP datagram that the last datagram made computable. Drain it before the next one is handled.
    pub fn poll_recovered(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(shard) = self.recovered.pop_front() else { return false };
        let size =
            shard.first_chunk().map_or(0, |size: &[u8; SIZE_LEN]| usize::from(u16::from_le_bytes(*size)));
        out.clear();
        out.extend_from_slice(shard.get(SIZE_LEN..size).unwrap_or(&[]));
        self.spare.push(shard);
        true
    }

    /// What it has seen.
    pub fn stats(&self) -> DecoderStats {
        self.stats
    }

    /// Data and parity shards of the groups as kcp-go makes them: as configured, or as seen last.
    pub fn fixed_shards(&self) -> (usize, usize) {
        self.fixed
    }

    fn place(&mut self, datagram: &[u8]) -> Result<Place, FecError> {
        let [n0, n1, n2, n3, kind, index] = *datagram.first_chunk().ok_or(FecError::Truncated)?;
        let number = u32::from_le_bytes([n0, n1, n2, n3]);
        let index = usize::from(index);
        match kind {
            TYPE_DATA | TYPE_PARITY => {
                let parity = kind == TYPE_PARITY;
                self.tune(number, parity);
                let (data, parities) = self.fixed;
                let at = number as usize % (data + parities);
                self.compare(number, at, parity);
                let index = self.fixed_known.then(|| if parity { at - data } else { at });
                let group = number / (data + parities) as u32;
                Ok(Place { group, adaptive: false, parity, index, data_total: None })
            }
            TYPE_ADAPTIVE_DATA if index < ADAPTIVE_DATA_MAX => Ok(Place {
                group: number,
                adaptive: true,
                parity: false,
                index: Some(index),
                data_total: None,
            }),
            TYPE_ADAPTIVE_PARITY if index < ADAPTIVE_PARITY_MAX => {
                let data = usize::from(*datagram.get(6).ok_or(FecError::Truncated)?);
                if data == 0 || data > ADAPTIVE_DATA_MAX {
                    return Err(FecError::OutOfRange);
                }
                Ok(Place {
                    group: number,
                    adaptive: true,
                    parity: true,
                    index: Some(index),
                    data_total: Some(data),
                })
            }
            _ => Err(FecError::OutOfRange),
        }
    }

    /// Notices when the other end's groups are not as configured.
    fn tune(&mut self, sequence: u32, parity: bool) {
        let seen = self.tuner.sample(sequence, parity);
        let Some((data, parities)) = seen else { return };
        if (data, parities) == self.fixed {
            self.fixed_known = true;
        } else if data + parities <= super::SHARDS_MAX {
            self.fixed = (data, parities);
            self.fixed_known = true;
            self.fixed_code = Code::vandermonde(data, parities);
            self.groups.clear();
        }
    }

    /// Compares a datagram, at place `at` of its group, with what it would be if groups were of the size in use.
    fn compare(&mut self, number: u32, at: usize, parity: bool) {
        let (data, parities) = self.fixed;
        if parity != (at >= data) {
            (self.fixed_known, self.last_fitting, self.edges, self.fitting) =
                (false, None, (false, false), 0);
            return;
        }
        let follows = self.last_fitting.replace(number) == Some(number.wrapping_sub(1));
        self.edges.0 |= follows && at == data;
        self.edges.1 |= follows && at == 0;
        self.fitting = self.fitting.saturating_add(1);
        self.fixed_known |= self.edges == (true, true) || self.fitting >= GROUPS_FITTING * (data + parities);
    }

    /// Keeps a shard, and computes the missing ones of its group when it was the one that made it possible.
    fn store(&mut self, place: &Place, coded: &[u8]) {
        let Some(index) = place.index else { return };
        let Some(at) = self.group(place) else { return };
        let group = &mut self.groups[at];
        if group.done {
            return;
        }
        let shards = if place.parity { &mut group.parities } else { &mut group.data };
        let Some(shard) = shards.get_mut(index).filter(|shard| shard.is_empty()) else { return };
        if shard.capacity() == 0 {
            *shard = self.spare.pop().unwrap_or_default();
            shard.clear();
        }
        shard.extend_from_slice(coded);
        group.data_count += usize::from(!place.parity);
        group.parity_count += usize::from(place.parity);
        group.data_total = group.data_total.or(place.data_total);
        let Some(total) = group.data_total else { return };
        if group.data_count < total && group.data_count + group.parity_count < total {
            return;
        }
        group.done = true;
        let missing: Vec<usize> = (0..total).filter(|index| group.data[*index].is_empty()).collect();
        let code = if group.adaptive { &self.adaptive_code } else { &self.fixed_code };
        if code.reconstruct(&mut group.data[..total], &group.parities) {
            self.stats.recovered += missing.len() as u64;
            self.recovered.extend(missing.iter().map(|index| std::mem::take(&mut group.data[*index])));
        }
    }

    /// Where a group is, or is to be from now on; `None` when it is older than those kept.
    fn group(&mut self, place: &Place) -> Option<usize> {
        let is_it = |group: &Group| group.adaptive == place.adaptive && group.number == place.group;
        if let Some(at) = self.groups.iter().rposition(is_it) {
            return Some(at);
        }
        let mut group = Group::default();
        if self.groups.len() == GROUPS_MAX {
            let older = self.groups[0].number.wrapping_sub(place.group);
            if self.groups[0].adaptive == place.adaptive && (1..OLDER_MAX).contains(&older) {
                return None;
            }
            group = self.groups.pop_front()?;
            self.stats.lost += group.missing() as u64;
        }
        let (data, parity) =
            if place.adaptive { (ADAPTIVE_DATA_MAX, ADAPTIVE_PARITY_MAX) } else { self.fixed };
        group.reset(place.group, place.adaptive, data, parity);
        self.groups.push_back(group);
        Some(self.groups.len() - 1)
    }
}
