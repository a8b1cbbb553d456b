//! Deadlines of numbered things: one each, moved and cleared in logarithmic time.

use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_core::Rng;

/// A random time between so many milliseconds, both included.
pub(crate) fn jitter(rng: &mut ChaCha8Rng, from_ms: u32, to_ms: u32) -> Duration {
    let span_us = (to_ms - from_ms) * 1_000;
    Duration::from_micros(u64::from(from_ms * 1_000 + rng.next_u32() % (span_us + 1)))
}

const NOWHERE: u32 = u32::MAX;

/// A binary heap of deadlines that knows where each key stands.
///
/// Keys are small numbers such as slots of a slab. Moving a deadline allocates nothing, so that the refresh of a
/// known record does not, and leaves nothing stale behind that would wake the program for no reason.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    heap: Vec<(Instant, u32)>,
    /// By key: its place in `heap`, or [`NOWHERE`].
    places: Vec<u32>,
}

impl Schedule {
    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.first().map(|&(at, _)| at)
    }

    /// The deadline of `key`.
    pub(crate) fn at(&self, key: usize) -> Option<Instant> {
        let place = *self.places.get(key)?;
        self.heap.get(place as usize).map(|&(at, _)| at)
    }

    /// Gives `key` the deadline `at`, whatever it had.
    pub(crate) fn set(&mut self, key: usize, at: Instant) {
        if self.places.len() <= key {
            self.places.resize(key + 1, NOWHERE);
        }
        let place = self.places[key];
        let place = if place == NOWHERE {
            self.heap.push((at, key as u32));
            self.places[key] = (self.heap.len() - 1) as u32;
            self.heap.len() - 1
        } else {
            self.heap[place as usize].0 = at;
            place as usize
        };
        let place = self.rise(place);
        self.sink(place);
    }

    /// Gives `key` the deadline `at` unless it has an earlier one.
    pub(crate) fn set_earlier(&mut self, key: usize, at: Instant) {
        if self.at(key).is_none_or(|present| at < present) {
            self.set(key, at);
        }
    }

    /// Takes the deadline of `key` away.
    pub(crate) fn clear(&mut self, key: usize) {
        let Some(place) = self.places.get_mut(key).map(|place| std::mem::replace(place, NOWHERE)) else {
            return;
        };
        if place == NOWHERE {
            return;
        }
        let place = place as usize;
        self.heap.swap_remove(place);
        if let Some(&(_, moved)) = self.heap.get(place) {
            self.places[moved as usize] = place as u32;
            let place = self.rise(place);
            self.sink(place);
        }
    }

    /// Takes out a key whose deadline has come, the earliest first.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<usize> {
        self.next().filter(|at| *at <= now)?;
        self.pop()
    }

    /// Takes out the key with the earliest deadline, whether that has come or not.
    pub(crate) fn pop(&mut self) -> Option<usize> {
        let &(_, key) = self.heap.first()?;
        self.clear(key as usize);
        Some(key as usize)
    }

    fn rise(&mut self, mut place: usize) -> usize {
        while place > 0 {
            let parent = (place - 1) / 2;
            if self.heap[parent] <= self.heap[place] {
                break;
            }
            self.swap(place, parent);
            place = parent;
        }
        place
    }

    fn sink(&mut self, mut place: usize) {
        loop {
            let smaller = [2 * place + 1, 2 * place + 2]
                .into_iter()
                .filter(|&child| child < self.heap.len())
                .min_by_key(|&child| self.heap[child]);
            match smaller {
                Some(child) if self.heap[child] < self.heap[place] => {
                    self.swap(place, child);
                    place = child;
                }
                _ => break,
            }
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.places[self.heap[a].1 as usize] = a as u32;
        self.places[self.heap[b].1 as usize] = b as u32;
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // an origin for the clock that the tests move by hand
mod tests {
    use std::collections::BTreeMap;

    use rand_core::SeedableRng;

    use super::*;

    #[test]
    fn agrees_with_a_sorted_map_under_random_use() {
        let start = Instant::now();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut schedule = Schedule::default();
        let mut model: BTreeMap<usize, Instant> = BTreeMap::new();
        for _ in 0..20_000 {
            let key = rng.next_u32() as usize % 50;
            let at = start + Duration::from_millis(u64::from(rng.next_u32() % 1_000));
            match rng.next_u32() % 5 {
                0 | 1 => {
                    schedule.set(key, at);
                    model.insert(key, at);
                }
                2 => {
                    schedule.set_earlier(key, at);
                    model.entry(key).and_modify(|present| *present = at.min(*present)).or_insert(at);
                }
                3 => {
                    schedule.clear(key);
                    model.remove(&key);
                }
                _ => match schedule.pop_due(at) {
                    Some(key) => {
                        let due = model.remove(&key).expect("the model has it too");
                        assert!(due <= at && model.values().all(|other| due <= *other));
                    }
                    None => assert!(model.values().all(|due| *due > at)),
                },
            }
            assert_eq!(schedule.at(key), model.get(&key).copied());
            assert_eq!(schedule.next(), model.values().min().copied());
        }
    }
}
