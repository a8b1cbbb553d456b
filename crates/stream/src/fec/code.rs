//! Which parities belong to which data: the coefficients of the two codes, and how missing data is solved for.

use super::galois::{Matrix, invert, multiply, multiply_add, power};

/// A systematic code: data shards travel as they are, and parity `i` is the sum of `coefficient(i, j) · data j`.
#[derive(Clone, Debug)]
pub(super) struct Code {
    parities: usize,
    /// `parities` coefficients for each data shard.
    coefficients: Vec<u8>,
}

impl Code {
    /// That of klauspost/reedsolomon, and so of kcp-go: a Vandermonde matrix multiplied by the inverse of its upper
    /// square, which makes that square the identity.
    pub(super) fn vandermonde(data: usize, parities: usize) -> Self {
        let top = Matrix::new(data, |row, column| power(row as u8, column));
        // Its rows are powers of different elements: it has an inverse.
        let inverse =
            top.inverse().unwrap_or_else(|| Matrix::new(data, |row, column| u8::from(row == column)));
        let coefficient = |parity: usize, column: usize| {
            let element = (data + parity) as u8;
            (0..data).fold(0, |sum, at| sum ^ multiply(power(element, at), inverse.row(at)[column]))
        };
        Self::from_coefficients(data, parities, coefficient)
    }

    /// A Cauchy matrix: coefficients do not depend on how many data shards there will be.
    pub(super) fn cauchy(data_max: usize, parities: usize) -> Self {
        Self::from_coefficients(data_max, parities, |parity, data| invert((255 - parity) as u8 ^ data as u8))
    }

    fn from_coefficients(data: usize, parities: usize, cell: impl Fn(usize, usize) -> u8) -> Self {
        let coefficients = (0..data * parities).map(|at| cell(at % parities, at / parities)).collect();
        Self { parities, coefficients }
    }

    /// What data shard `data` is multiplied by for each parity.
    pub(super) fn factors(&self, data: usize) -> &[u8] {
        &self.coefficients[data * self.parities..(data + 1) * self.parities]
    }

    /// Computes the missing ones of `data` (the empty ones) from as many of `parities` (the ones that are not empty).
    /// False when there are too few.
    pub(super) fn reconstruct(&self, data: &mut [Vec<u8>], parities: &[Vec<u8>]) -> bool {
        let missing: Vec<usize> = (0..data.len()).filter(|at| data[*at].is_empty()).collect();
        let present = (0..parities.len()).filter(|at| !parities[*at].is_empty());
        let rows: Vec<usize> = present.take(missing.len()).collect();
        if missing.is_empty() || rows.len() < missing.len() {
            return missing.is_empty();
        }
        // What the missing ones contribute to the chosen parities: the parities without what the others contribute.
        let len = parities.iter().chain(&*data).map(Vec::len).max().unwrap_or(0);
        let mut contributions: Vec<Vec<u8>> = rows.iter().map(|row| parities[*row].clone()).collect();
        for contribution in &mut contributions {
            contribution.resize(len, 0);
        }
        for (at, shard) in data.iter().enumerate() {
            let factors: Vec<u8> = rows.iter().map(|row| self.factors(at)[*row]).collect();
            multiply_add(&mut contributions, &factors, shard);
        }
        let square = Matrix::new(missing.len(), |row, column| self.factors(missing[column])[rows[row]]);
        let Some(inverse) = square.inverse() else { return false };
        let mut solved = vec![vec![0; len]; missing.len()];
        for (at, contribution) in contributions.iter().enumerate() {
            let factors: Vec<u8> = (0..missing.len()).map(|row| inverse.row(row)[at]).collect();
            multiply_add(&mut solved, &factors, contribution);
        }
        missing.iter().zip(solved).for_each(|(at, shard)| data[*at] = shard);
        true
    }
}
