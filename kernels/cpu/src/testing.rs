//! What the kernels' tests share.

use crate::{CodeKind, Coded, Codes, Executor, Grouping, Isa, KvCache, Step, WeightKind, Weights};
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

/// Codes that [`Weights`] borrow from.
#[derive(Debug)]
pub(crate) struct Codebook {
    kind: CodeKind,
    codes: Vec<u8>,
    columns: usize,
    scales: Vec<f32>,
    zeros: Option<Vec<i16>>,
    /// Inputs of a group, or lists of `groups`.
    inputs: Option<usize>,
    lists: Option<Vec<i32>>,
    groups: usize,
}

impl Codebook {
    pub(crate) fn weights(&self) -> Weights<'_> {
        let grouping = match (self.inputs, &self.lists) {
            (Some(inputs), _) => Grouping::Inputs(inputs),
            (None, Some(lists)) => Grouping::Listed { groups: self.groups, lists },
            (None, None) => Grouping::Rows,
        };
        let codes = Codes {
            kind: self.kind,
            codes: &self.codes,
            columns: self.columns,
            scales: &self.scales,
            zeros: self.zeros.as_deref(),
            grouping,
        };
        Weights::Coded(Coded::new(codes).unwrap())
    }
}

/// Codes of every kind, grouping and with or without zeros, for so many rows (an even number) of
/// `k`, which are several matrices.
pub(crate) fn codebooks(rows: usize, k: usize, matrices: usize) -> Vec<Codebook> {
    let mut all = Vec::new();
    let random = |n: usize, seed: u64| noise(n, seed).into_iter();
    let each = |inputs: usize| (k.is_multiple_of(inputs)).then_some((Some(inputs), None, 0));
    let lists = |lists: usize| {
        let groups = random(lists * k, 22).map(|x| (x * x * 4.99) as i32);
        Some((None, Some(groups.collect::<Vec<_>>()), 5 * rows))
    };
    for kind in [CodeKind::Int4, CodeKind::Int8, CodeKind::Fp8] {
        let by_rows = [1, matrices, rows].map(|scales| Some((None, None, scales)));
        let by_inputs = [1, 12, 16, 24, 32, 48].map(each);
        for form in by_rows.into_iter().chain(by_inputs).chain([lists(1), lists(matrices)]) {
            let Some((inputs, lists, scales)) = form else { continue };
            let scales = inputs.map_or(scales, |inputs| rows * k / inputs);
            for zeros in [false, true] {
                if zeros && kind == CodeKind::Fp8 {
                    continue;
                }
                let bytes = if kind == CodeKind::Int4 { rows / 2 * k } else { rows * k };
                let code = |x: f32| match (x * 128.0).floor() as i8 as u8 {
                    0x7f | 0xff if kind == CodeKind::Fp8 => 0,
                    byte => byte,
                };
                all.push(Codebook {
                    kind,
                    codes: random(bytes, 20).map(code).collect(),
                    columns: k,
                    scales: random(scales, 21).collect(),
                    zeros: zeros.then(|| random(scales, 23).map(|x| (x * 99.0) as i16).collect()),
                    inputs,
                    lists: lists.clone(),
                    groups: 5,
                });
            }
        }
    }
    all
}

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
