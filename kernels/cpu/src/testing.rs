//! What the kernels' tests share.

use crate::{Executor, Isa, KvCache, Step, WeightKind, Weights};
use half::{bf16, f16};

/// Numbers between -1 and 1 that depend on `seed` alone.
pub(crate) fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Elements that [`Weights`] borrow from.
pub(crate) enum Table {
    F32(Vec<f32>),
    F16(Vec<u16>),
    BF16(Vec<u16>),
}

impl Table {
    pub(crate) fn new(kind: WeightKind, floats: &[f32]) -> Table {
        let floats = floats.iter();
        match kind {
            WeightKind::F32 => Table::F32(floats.copied().collect()),
            WeightKind::F16 => Table::F16(floats.map(|&x| f16::from_f32(x).to_bits()).collect()),
            WeightKind::BF16 => Table::BF16(floats.map(|&x| bf16::from_f32(x).to_bits()).collect()),
        }
    }

    pub(crate) fn weights(&self) -> Weights<'_> {
        match self {
            Table::F32(elements) => Weights::F32(elements),
            Table::F16(elements) => Weights::F16(elements),
            Table::BF16(elements) => Weights::BF16(elements),
        }
    }
}

pub(crate) const KINDS: [WeightKind; 3] = [WeightKind::F32, WeightKind::F16, WeightKind::BF16];

/// Runs steps over a copy of an arena.
pub(crate) fn run(
    isa: Isa,
    threads: usize,
    arena: &[f32],
    caches: &mut [KvCache],
    steps: &[Step<'_>],
) -> Vec<f32> {
    let mut arena = arena.to_vec();
    Executor::new(isa, threads).unwrap().run(&mut arena, caches, steps);
    arena
}

/// The bits of floats, to compare what must be the same.
pub(crate) fn bits(floats: &[f32]) -> Vec<u32> {
    floats.iter().map(|float| float.to_bits()).collect()
}
