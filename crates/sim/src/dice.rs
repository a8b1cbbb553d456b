//! All chance in a world comes from here, and all of it from the world's seed.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

/// A stream of random choices that a seed determines.
#[derive(Clone, Debug)]
pub struct Dice(ChaCha8Rng);

impl Dice {
    /// The stream that `seed` stands for.
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Another stream, determined by this one, so that its consumer does not disturb ours.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self::new(self.0.next_u64())
    }

    /// True with `probability`, 0 to 1. A probability of 0 draws nothing, so that turning one fault off does not
    /// change what the others do.
    pub fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && (self.0.next_u64() >> 11) as f64 / ((1_u64 << 53) as f64) < probability
    }

    /// A number from 0 to `limit` − 1; 0 when `limit` is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        if limit == 0 { 0 } else { self.0.next_u64() % limit }
    }

    /// A time from zero to `limit`, in whole microseconds.
    pub fn up_to(&mut self, limit: Duration) -> Duration {
        if limit.is_zero() { limit } else { Duration::from_micros(self.below(limit.as_micros() as u64 + 1)) }
    }

    /// Random bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    /// The generator itself, for code that wants a `CryptoRng`.
    pub fn rng(&mut self) -> &mut ChaCha8Rng {
        &mut self.0
    }
}
