//! ggml's blocks of quantised weights, turned into `f32` bit for bit as ggml itself does.
//!
//! A block holds 32 weights, or 256 in the K kinds, which have a scale (and maybe a minimum) for
//! every 16 or 32 of them besides the block's own. All scales are `f16` and widened first; then
//! products and sums are taken in `f32` in the order written here, which is ggml's order and
//! decides the last bit. Layouts and formulas: `ggml-common.h` and the reference functions of
//! `ggml-quants.c`.

mod k;

use half::f16;

/// A kind of block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "these are ggml's names, in messages too")]
pub(crate) enum BlockType {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
}

/// Every kind with its number in a file, its name, its weights and its bytes.
const KINDS: [(BlockType, u32, &str, usize, usize); 10] = [
    (BlockType::Q4_0, 2, "Q4_0", 32, 18),
    (BlockType::Q4_1, 3, "Q4_1", 32, 20),
    (BlockType::Q5_0, 6, "Q5_0", 32, 22),
    (BlockType::Q5_1, 7, "Q5_1", 32, 24),
    (BlockType::Q8_0, 8, "Q8_0", 32, 34),
    (BlockType::Q2_K, 10, "Q2_K", 256, 84),
    (BlockType::Q3_K, 11, "Q3_K", 256, 110),
    (BlockType::Q4_K, 12, "Q4_K", 256, 144),
    (BlockType::Q5_K, 13, "Q5_K", 256, 176),
    (BlockType::Q6_K, 14, "Q6_K", 256, 210),
];

impl BlockType {
    /// The kind that ggml numbers so.
    pub(crate) fn from_number(number: u32) -> Option<BlockType> {
        KINDS.iter().find(|kind| kind.1 == number).map(|kind| kind.0)
    }

    /// ggml's name for it.
    pub(crate) fn name(self) -> &'static str {
        KINDS[self as usize].2
    }

    /// The weights in one block.
    pub(crate) fn elements(self) -> usize {
        KINDS[self as usize].3
    }

    /// The bytes of one block.
    pub(crate) fn bytes(self) -> usize {
        KINDS[self as usize].4
    }

    /// The weights of one block. `block` has [`BlockType::bytes`] bytes, `out` as many elements
    /// as [`BlockType::elements`].
    pub(crate) fn dequantize(self, block: &[u8], out: &mut [f32]) {
        match self {
            BlockType::Q4_0 => q4_0(block, out),
            BlockType::Q4_1 => q4_1(block, out),
            BlockType::Q5_0 => q5_0(block, out),
            BlockType::Q5_1 => q5_1(block, out),
            BlockType::Q8_0 => q8_0(block, out),
            BlockType::Q2_K => k::q2(block, out),
            BlockType::Q3_K => k::q3(block, out),
            BlockType::Q4_K => k::q4(block, out),
            BlockType::Q5_K => k::q5(block, out),
            BlockType::Q6_K => k::q6(block, out),
        }
    }
}

/// The `f16` at byte `at`, widened.
fn scale(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// `out[i] = of(i, nibble i)`: sixteen low nibbles, then the high ones of the same bytes.
fn nibbles(bytes: &[u8], out: &mut [f32], of: impl Fn(usize, u8) -> f32) {
    for (i, byte) in bytes.iter().enumerate() {
        out[i] = of(i, byte & 15);
        out[i + 16] = of(i + 16, byte >> 4);
    }
}

/// `d: f16, nibbles`: `d·(q − 8)`.
fn q4_0(block: &[u8], out: &mut [f32]) {
    let d = scale(block, 0);
    nibbles(&block[2..], out, |_, q| d * f32::from(q as i8 - 8));
}

/// `d: f16, m: f16, nibbles`: `d·q + m`.
fn q4_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (scale(block, 0), scale(block, 2));
    nibbles(&block[4..], out, |_, q| d * f32::from(q) + m);
}

/// The fifth bits of 32 weights, at byte `at`, where a nibble wants its.
fn fifths(block: &[u8], at: usize) -> impl Fn(usize) -> u8 {
    let bits = u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    move |i| (((bits >> i) & 1) << 4) as u8
}

/// `d: f16, fifth bits, nibbles`: `d·(q − 16)`.
fn q5_0(block: &[u8], out: &mut [f32]) {
    let (d, high) = (scale(block, 0), fifths(block, 2));
    nibbles(&block[6..], out, |i, q| d * f32::from((q | high(i)) as i8 - 16));
}

/// `d: f16, m: f16, fifth bits, nibbles`: `d·q + m`.
fn q5_1(block: &[u8], out: &mut [f32]) {
    let (d, m, high) = (scale(block, 0), scale(block, 2), fifths(block, 4));
    nibbles(&block[8..], out, |i, q| d * f32::from(q | high(i)) + m);
}

/// `d: f16, 32 × i8`: `q·d`.
fn q8_0(block: &[u8], out: &mut [f32]) {
    let d = scale(block, 0);
    for (out, q) in out.iter_mut().zip(&block[2..]) {
        *out = f32::from(*q as i8) * d;
    }
}

#[cfg(test)]
mod tests;
