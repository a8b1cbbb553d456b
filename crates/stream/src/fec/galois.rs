//! Arithmetic in GF(2⁸) modulo x⁸ + x⁴ + x³ + x² + 1 (0x11d), the field of most Reed–Solomon codes.

/// What x⁸ is.
const REDUCTION: u8 = 0x1d;

/// Powers of the generator 2, and logarithms to that base.
struct Tables {
    exp: [u8; 255],
    log: [u8; 256],
}

const TABLES: Tables = {
    let mut tables = Tables { exp: [0; 255], log: [0; 256] };
    let (mut power, mut element) = (0, 1_u8);
    while power < 255 {
        tables.exp[power] = element;
        tables.log[element as usize] = power as u8;
        element = double(element);
        power += 1;
    }
    tables
};

/// Multiplies by x.
const fn double(a: u8) -> u8 {
    (a << 1) ^ if a & 0x80 != 0 { REDUCTION } else { 0 }
}

pub(super) fn multiply(a: u8, b: u8) -> u8 {
    if a == 0 || b == 0 {
        return 0;
    }
    let sum = usize::from(TABLES.log[usize::from(a)]) + usize::from(TABLES.log[usize::from(b)]);
    TABLES.exp[sum % 255]
}

/// `a` must not be 0: 0 has no inverse, and 0 is what it gets.
pub(super) fn invert(a: u8) -> u8 {
    if a == 0 { 0 } else { TABLES.exp[(255 - usize::from(TABLES.log[usize::from(a)])) % 255] }
}

/// `a` to the power of `exponent`, where 0⁰ is 1.
pub(super) fn power(a: u8, exponent: usize) -> u8 {
    match (a, exponent) {
        (_, 0) => 1,
        (0, _) => 0,
        _ => TABLES.exp[usize::from(TABLES.log[usize::from(a)]) * exponent % 255],
    }
}

/// Bytes worked on at once: a few vector registers.
const BLOCK: usize = 64;

/// Adds `factors[i] · input` to `outputs[i]`, each of which is at least as long as `input`.
///
/// A product is a sum of doublings of the input. Those are computed once for all outputs, 64 bytes at a time, with
/// nothing but shifts, masks and exclusive-ors of bytes, which compilers turn into vector instructions; look-ups they
/// can not.
pub(super) fn multiply_add(outputs: &mut [Vec<u8>], factors: &[u8], input: &[u8]) {
    let (blocks, tail) = input.as_chunks::<BLOCK>();
    for (index, block) in blocks.iter().enumerate() {
        let doubled = doublings(block);
        for (output, factor) in outputs.iter_mut().zip(factors) {
            if let Some(output) = output[index * BLOCK..].first_chunk_mut::<BLOCK>() {
                add(output, &product(&doubled, *factor));
            }
        }
    }
    if !tail.is_empty() {
        let mut block = [0; BLOCK];
        block[..tail.len()].copy_from_slice(tail);
        let doubled = doublings(&block);
        for (output, factor) in outputs.iter_mut().zip(factors) {
            let output = &mut output[blocks.len() * BLOCK..input.len()];
            output.iter_mut().zip(&product(&doubled, *factor)).for_each(|(byte, product)| *byte ^= product);
        }
    }
}

/// A block, and what comes of doubling it again and again.
fn doublings(block: &[u8; BLOCK]) -> [[u8; BLOCK]; 8] {
    let mut doubled = [*block; 8];
    for bit in 1..8 {
        let (before, after) = doubled.split_at_mut(bit);
        for (double, byte) in after[0].iter_mut().zip(&before[bit - 1]) {
            *double = (byte << 1) ^ (((*byte as i8) >> 7) as u8 & REDUCTION);
        }
    }
    doubled
}

fn product(doubled: &[[u8; BLOCK]; 8], factor: u8) -> [u8; BLOCK] {
    let mut sum = [0; BLOCK];
    for (bit, doubled) in doubled.iter().enumerate() {
        if factor >> bit & 1 != 0 {
            add(&mut sum, doubled);
        }
    }
    sum
}

fn add(sum: &mut [u8; BLOCK], more: &[u8; BLOCK]) {
    sum.iter_mut().zip(more).for_each(|(sum, more)| *sum ^= more);
}

/// A square matrix, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Matrix {
    pub(super) size: usize,
    pub(super) cells: Vec<u8>,
}

impl Matrix {
    pub(super) fn new(size: usize, cell: impl Fn(usize, usize) -> u8) -> Self {
        Self { size, cells: (0..size * size).map(|at| cell(at / size, at % size)).collect() }
    }

    pub(super) fn row(&self, row: usize) -> &[u8] {
        &self.cells[row * self.size..(row + 1) * self.size]
    }

    /// By Gauss and Jordan; `None` when it has no inverse.
    pub(super) fn inverse(mut self) -> Option<Self> {
        let size = self.size;
        let mut inverse = Self::new(size, |row, column| u8::from(row == column));
        for column in 0..size {
            let pivot = (column..size).find(|row| self.cells[row * size + column] != 0)?;
            self.swap_rows(column, pivot);
            inverse.swap_rows(column, pivot);
            let factor = invert(self.cells[column * size + column]);
            self.scale_row(column, factor);
            inverse.scale_row(column, factor);
            for row in (0..size).filter(|row| *row != column) {
                let factor = self.cells[row * size + column];
                self.add_row(row, column, factor);
                inverse.add_row(row, column, factor);
            }
        }
        Some(inverse)
    }

    fn swap_rows(&mut self, a: usize, b: usize) {
        for column in 0..self.size {
            self.cells.swap(a * self.size + column, b * self.size + column);
        }
    }

    fn scale_row(&mut self, row: usize, factor: u8) {
        let cells = &mut self.cells[row * self.size..(row + 1) * self.size];
        for cell in cells {
            *cell = multiply(*cell, factor);
        }
    }

    /// Adds `factor · from` to `to`.
    fn add_row(&mut self, to: usize, from: usize, factor: u8) {
        for column in 0..self.size {
            let product = multiply(self.cells[from * self.size + column], factor);
            self.cells[to * self.size + column] ^= product;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition: long multiplication, then reduction.
    fn by_hand(a: u8, b: u8) -> u8 {
        (0..8).filter(|bit| b >> bit & 1 != 0).fold(0, |sum, bit| sum ^ (0..bit).fold(a, |a, _| double(a)))
    }

    #[test]
    fn products_inverses_and_powers_are_those_of_the_field() {
        for a in 0..=255 {
            for b in 0..=255 {
                assert_eq!(multiply(a, b), by_hand(a, b));
            }
            assert_eq!(multiply(a, invert(a)), u8::from(a != 0));
            assert_eq!(power(a, 3), by_hand(by_hand(a, a), a));
            assert_eq!(power(a, 0), 1);
        }
    }

    #[test]
    fn whole_slices_are_multiplied_as_their_bytes_are() {
        let input: Vec<u8> = (0..1_387).map(|at| (at * 7 + at / 256) as u8).collect();
        let mut outputs = vec![vec![0x5a; 1_400]; 256];
        let factors: Vec<u8> = (0..=255).collect();
        multiply_add(&mut outputs, &factors, &input);
        for (factor, output) in factors.iter().zip(&outputs) {
            assert!(output.iter().zip(&input).all(|(out, byte)| *out == 0x5a ^ multiply(*factor, *byte)));
            assert_eq!(output[1_387..], [0x5a; 13], "nothing behind the input is touched");
        }
    }

    #[test]
    fn a_matrix_times_its_inverse_is_one() {
        let matrix = Matrix::new(9, |row, column| power(row as u8 + 1, column));
        let inverse = matrix.clone().inverse().unwrap();
        let product = Matrix::new(9, |row, column| {
            (0..9).fold(0, |sum, at| sum ^ multiply(matrix.row(row)[at], inverse.row(at)[column]))
        });
        assert_eq!(product, Matrix::new(9, |row, column| u8::from(row == column)));
        assert_eq!(Matrix::new(3, |_, column| column as u8).inverse(), None, "equal rows");
    }
}
