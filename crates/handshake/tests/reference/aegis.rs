//! AEGIS-256X4 with a tag of 128 bits, straight from draft-irtf-cfrg-aegis-aead: slow, and without a table.

/// The degree: so many states of AEGIS-256 run beside each other.
const DEGREE: usize = 4;
const RATE: usize = 16 * DEGREE;
const C0: Block = *b"\x00\x01\x01\x02\x03\x05\x08\x0d\x15\x22\x37\x59\x90\xe9\x79\x62";
const C1: Block = *b"\xdb\x3d\x18\x55\x6d\xc2\x2f\xf1\x20\x11\x31\x42\x73\xb5\x28\xdd";

type Block = [u8; 16];

fn xor(a: Block, b: Block) -> Block {
    std::array::from_fn(|i| a[i] ^ b[i])
}

/// Multiplication in the field of AES (FIPS 197 §4.2).
fn multiply(a: u8, b: u8) -> u8 {
    let mut product = 0;
    let mut a = a;
    for bit in 0..8 {
        product ^= if b >> bit & 1 == 1 { a } else { 0 };
        a = a << 1 ^ if a & 0x80 == 0 { 0 } else { 0x1b };
    }
    product
}

/// The S-box (FIPS 197 §5.1.1): the inverse, which is the 254th power, and an affine map.
fn substitute(byte: u8) -> u8 {
    let inverse = (0..254).fold(1, |power, _| multiply(power, byte));
    (0..5).fold(0x63, |sum, bits| sum ^ inverse.rotate_left(bits))
}

/// One round of AES (FIPS 197 §5.1) on columns of four bytes.
fn aes_round(input: Block, key: Block) -> Block {
    let substituted = input.map(substitute);
    let shifted: Block = std::array::from_fn(|i| substituted[(i + 4 * (i % 4)) % 16]);
    let mixed = std::array::from_fn(|i| {
        let at = |row: usize| shifted[i / 4 * 4 + (i + row) % 4];
        multiply(at(0), 2) ^ multiply(at(1), 3) ^ at(2) ^ at(3)
    });
    xor(mixed, key)
}

struct State([[Block; 6]; DEGREE]);

impl State {
    fn new(key: [u8; 32], nonce: [u8; 32]) -> Self {
        let half = |bytes: [u8; 32], half: usize| -> Block { std::array::from_fn(|i| bytes[16 * half + i]) };
        let (k0, k1, n0, n1) = (half(key, 0), half(key, 1), half(nonce, 0), half(nonce, 1));
        let mut state = Self([[xor(k0, n0), xor(k1, n1), C1, C0, xor(k0, C0), xor(k1, C1)]; DEGREE]);
        for message in [k0, k1, xor(k0, n0), xor(k1, n1)].repeat(4) {
            for (index, lane) in state.0.iter_mut().enumerate() {
                let mut context = [0; 16];
                context[..2].copy_from_slice(&[index as u8, DEGREE as u8 - 1]);
                lane[3] = xor(lane[3], context);
                lane[5] = xor(lane[5], context);
            }
            state.update(&[message; DEGREE]);
        }
        state
    }

    fn update(&mut self, message: &[Block; DEGREE]) {
        for (lane, &message) in self.0.iter_mut().zip(message) {
            let old = *lane;
            *lane = std::array::from_fn(|i| aes_round(old[(i + 5) % 6], old[i]));
            lane[0] = xor(lane[0], message);
        }
    }

    fn key_stream(&self) -> [Block; DEGREE] {
        self.0.map(|[_, v1, v2, v3, v4, v5]| {
            let both = std::array::from_fn(|i| v2[i] & v3[i]);
            xor(xor(v1, v4), xor(v5, both))
        })
    }

    fn tag(mut self, aad: usize, text: usize) -> Block {
        let mut lengths = [0; 16];
        lengths[..8].copy_from_slice(&(8 * aad as u64).to_le_bytes());
        lengths[8..].copy_from_slice(&(8 * text as u64).to_le_bytes());
        let message = self.0.map(|lane| xor(lane[3], lengths));
        for _ in 0..7 {
            self.update(&message);
        }
        self.0.into_iter().flatten().fold([0; 16], xor)
    }
}

/// The bytes as blocks, zeros behind them.
fn blocks(bytes: &[u8]) -> [Block; DEGREE] {
    std::array::from_fn(|lane| std::array::from_fn(|i| bytes.get(16 * lane + i).copied().unwrap_or(0)))
}

/// The ciphertext of `text`, and the tag behind it.
pub(crate) fn seal(key: [u8; 32], nonce: [u8; 32], aad: &[u8], text: &[u8]) -> Vec<u8> {
    let mut state = State::new(key, nonce);
    for chunk in aad.chunks(RATE) {
        state.update(&blocks(chunk));
    }
    let mut sealed = Vec::new();
    for chunk in text.chunks(RATE) {
        let stream = state.key_stream();
        sealed.extend(chunk.iter().zip(stream.as_flattened()).map(|(text, stream)| text ^ stream));
        state.update(&blocks(chunk));
    }
    sealed.extend(state.tag(aad.len(), text.len()));
    sealed
}
