//! Finds out how large the other end's groups are, when they are not as configured.

/// Watches an unbroken run of sequence numbers from one group's beginning to the next.
#[derive(Debug, Default)]
pub(super) struct Tuner {
    last: Option<(u32, bool)>,
    group_start: Option<u32>,
    parity_start: Option<u32>,
}

impl Tuner {
    /// Takes note of a datagram; answers with data and parity shards of a group when it has just seen a whole one.
    pub(super) fn sample(&mut self, sequence: u32, parity: bool) -> Option<(usize, usize)> {
        let last = self.last.replace((sequence, parity));
        let follows = last.filter(|(before, _)| before.wrapping_add(1) == sequence);
        let Some((_, was_parity)) = follows else {
            (self.group_start, self.parity_start) = (None, None);
            return None;
        };
        match (was_parity, parity) {
            (false, true) => self.parity_start = Some(sequence),
            (true, false) => {
                let (group, parity) = (self.group_start.replace(sequence), self.parity_start.take());
                let (group, parity) = (group?, parity?);
                let shards = sequence - group;
                if group.is_multiple_of(shards) {
                    return Some(((parity - group) as usize, (sequence - parity) as usize));
                }
            }
            _ => {}
        }
        None
    }
}
