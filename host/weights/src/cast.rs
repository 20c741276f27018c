//! Element types into each other, rounding to the nearest, ties to even; and the search for what
//! is not finite.
//!
//! Every pair goes through `f32`, which holds `f16` and `bf16` exactly. From `f64` to one of
//! those, the way through `f32` would round twice; it rounds to odd on the way instead, which
//! the second rounding then makes exact.

use engraft_ir::DType;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

/// Elements that a task of the thread pool works on.
const TASK: usize = 1 << 16;
/// Elements that are converted at a time, in registers and first-level cache.
const BLOCK: usize = 1024;
/// Below this many bytes, threads cost more than they give.
const PARALLEL: usize = 1 << 20;

/// The number that one element of a floating-point type is.
pub(crate) fn value(bytes: &[u8], dtype: DType) -> f64 {
    match (dtype, bytes) {
        (DType::F64, &[a, b, c, d, e, f, g, h]) => f64::from_le_bytes([a, b, c, d, e, f, g, h]),
        (DType::F32, &[a, b, c, d]) => f64::from(f32::from_le_bytes([a, b, c, d])),
        (DType::F16, &[a, b]) => f16::from_le_bytes([a, b]).to_f64(),
        (DType::BF16, &[a, b]) => bf16::from_le_bytes([a, b]).to_f64(),
        _ => f64::NAN,
    }
}

/// The first element that is NaN or infinite. `bytes` are elements of a floating-point type.
pub(crate) fn first_not_finite(bytes: &[u8], dtype: DType) -> Option<usize> {
    let width = dtype.size();
    let search = |(task, chunk): (usize, &[u8])| {
        let found = match dtype {
            // One pass without a branch an element; the place is looked for only after a hit.
            DType::F64 => {
                exponent_is_full::<8>(chunk, |b| u64::from_le_bytes(b) >> 52 & 0x7ff == 0x7ff)
            }
            DType::F32 => {
                exponent_is_full::<4>(chunk, |b| u32::from_le_bytes(b) & 0x7f80_0000 == 0x7f80_0000)
            }
            DType::F16 => {
                exponent_is_full::<2>(chunk, |b| u16::from_le_bytes(b) & 0x7c00 == 0x7c00)
            }
            _ => exponent_is_full::<2>(chunk, |b| u16::from_le_bytes(b) & 0x7f80 == 0x7f80),
        };
        found.map(|i| task * TASK + i)
    };
    if bytes.len() < PARALLEL {
        bytes.chunks(TASK * width).enumerate().find_map(search)
    } else {
        bytes.par_chunks(TASK * width).enumerate().find_map_first(search)
    }
}

fn exponent_is_full<const W: usize>(chunk: &[u8], full: impl Fn([u8; W]) -> bool) -> Option<usize> {
    let (elements, _) = chunk.as_chunks::<W>();
    let any = elements.iter().fold(false, |any, &e| any | full(e));
    if any { elements.iter().position(|&e| full(e)) } else { None }
}

/// Converts all of `from` into `out`, which has room for as many elements. Every element is
/// finite; the first that becomes infinite is the error.
pub(crate) fn cast(from: &[u8], source: DType, target: DType, out: &mut [u8]) -> Result<(), usize> {
    let (read, write) = (TASK * source.size(), TASK * target.size());
    let convert = |(task, (from, out)): (usize, (&[u8], &mut [u8]))| {
        cast_task(from, source, target, out).map(|i| task * TASK + i)
    };
    let overflow = if from.len() < PARALLEL {
        from.chunks(read).zip(out.chunks_mut(write)).enumerate().find_map(convert)
    } else {
        from.par_chunks(read).zip(out.par_chunks_mut(write)).enumerate().find_map_first(convert)
    };
    overflow.map_or(Ok(()), Err)
}

fn cast_task(from: &[u8], source: DType, target: DType, out: &mut [u8]) -> Option<usize> {
    let mut block = [0.0f32; BLOCK];
    let pieces =
        from.chunks(BLOCK * source.size()).zip(out.chunks_mut(BLOCK * target.size())).enumerate();
    for (i, (from, out)) in pieces {
        let values = &mut block[..from.len() / source.size()];
        match (source, target) {
            (DType::F64, DType::F16 | DType::BF16) => {
                each::<8>(from, values, |b| round_to_odd(f64::from_le_bytes(b)));
            }
            _ => widen(from, source, values),
        }
        if let Some(at) = narrow(values, target, out) {
            return Some(i * BLOCK + at);
        }
    }
    None
}

fn each<const W: usize>(from: &[u8], values: &mut [f32], convert: impl Fn([u8; W]) -> f32) {
    let (elements, _) = from.as_chunks::<W>();
    for (value, &element) in values.iter_mut().zip(elements) {
        *value = convert(element);
    }
}

/// Elements of a floating-point type as `f32`: exact but for `f64`, which is rounded.
pub(crate) fn widen(from: &[u8], source: DType, values: &mut [f32]) {
    match source {
        DType::F64 => each::<8>(from, values, |b| f64::from_le_bytes(b) as f32),
        DType::F32 => each::<4>(from, values, f32::from_le_bytes),
        DType::F16 => {
            let mut halves = [f16::ZERO; BLOCK];
            let (elements, _) = from.as_chunks::<2>();
            for (elements, values) in elements.chunks(BLOCK).zip(values.chunks_mut(BLOCK)) {
                for (half, &element) in halves.iter_mut().zip(elements) {
                    *half = f16::from_le_bytes(element);
                }
                halves[..elements.len()].convert_to_f32_slice(values);
            }
        }
        _ => each::<2>(from, values, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)),
    }
}

/// At most [`BLOCK`] numbers as elements of a type; the first that does not fit.
fn narrow(values: &[f32], target: DType, out: &mut [u8]) -> Option<usize> {
    match target {
        DType::F64 => {
            let (elements, _) = out.as_chunks_mut::<8>();
            for (element, &value) in elements.iter_mut().zip(values) {
                *element = f64::from(value).to_le_bytes();
            }
        }
        DType::F32 => {
            let (elements, _) = out.as_chunks_mut::<4>();
            for (element, &value) in elements.iter_mut().zip(values) {
                *element = value.to_le_bytes();
            }
        }
        DType::F16 => {
            let mut halves = [f16::ZERO; BLOCK];
            halves[..values.len()].convert_from_f32_slice(values);
            let (elements, _) = out.as_chunks_mut::<2>();
            for (element, half) in elements.iter_mut().zip(halves) {
                *element = half.to_le_bytes();
            }
        }
        _ => {
            let mut halves = [bf16::ZERO; BLOCK];
            halves[..values.len()].convert_from_f32_slice(values);
            let (elements, _) = out.as_chunks_mut::<2>();
            for (element, half) in elements.iter_mut().zip(halves) {
                *element = half.to_le_bytes();
            }
        }
    }
    first_not_finite(out, target)
}

/// The nearer neighbour towards zero, with its last bit set where anything was lost.
fn round_to_odd(x: f64) -> f32 {
    let nearest = x as f32;
    if f64::from(nearest) == x {
        return nearest;
    }
    let away = f64::from(nearest).abs() > x.abs();
    f32::from_bits((nearest.to_bits() - u32::from(away)) | 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOATS: [DType; 4] = [DType::F64, DType::F32, DType::F16, DType::BF16];

    fn bytes_of(values: &[f64], dtype: DType) -> Vec<u8> {
        let one = |x: &f64| match dtype {
            DType::F64 => x.to_le_bytes().to_vec(),
            DType::F32 => (*x as f32).to_le_bytes().to_vec(),
            DType::F16 => f16::from_f32(*x as f32).to_le_bytes().to_vec(),
            _ => bf16::from_f32(*x as f32).to_le_bytes().to_vec(),
        };
        values.iter().flat_map(one).collect()
    }

    fn run(from: &[u8], source: DType, target: DType) -> Result<Vec<u8>, usize> {
        let mut out = vec![0; from.len() / source.size() * target.size()];
        cast(from, source, target, &mut out)?;
        Ok(out)
    }

    /// Rounds by looking at both neighbours, in exact arithmetic on doubles.
    fn nearest_half(x: f64, to_f64: impl Fn(u16) -> f64) -> u16 {
        let sign = if x.is_sign_negative() { 0x8000 } else { 0 };
        let x = x.abs();
        let (mut low, mut high) = (0u16, 0x7fff);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            let v = to_f64(middle);
            if v.is_nan() || v > x { high = middle } else { low = middle }
        }
        let up = to_f64(low + 1);
        if up.is_nan() || up.is_infinite() {
            return sign | low;
        }
        let (below, above) = (x - to_f64(low), up - x);
        let rounded = match below.partial_cmp(&above) {
            Some(std::cmp::Ordering::Less) => low,
            Some(std::cmp::Ordering::Greater) => low + 1,
            _ => low + (low & 1),
        };
        sign | rounded
    }

    /// Numbers of many sizes, and those on and beside the middles between neighbours.
    fn hard_numbers() -> Vec<f64> {
        let mut numbers = vec![0.0, -0.0, 1.0, 65504.0, -65504.0, 6e-8, 2.9e-8, 3.1e-8, 1e-40];
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        for _ in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let half = f16::from_bits((state >> 40) as u16 & 0xfbff);
            if !half.is_finite() {
                continue;
            }
            let (a, b) = (half.to_f64(), f16::from_bits(half.to_bits() ^ 1).to_f64());
            let middle = (a + b) / 2.0;
            numbers.extend([a, middle]);
            for tiny in [1e-4, 1e-9, 1e-12, 1e-15] {
                numbers.extend([middle * (1.0 + tiny), middle * (1.0 - tiny)]);
            }
        }
        numbers
    }

    #[test]
    fn doubles_become_halves_with_one_rounding() {
        let numbers = hard_numbers();
        let from = bytes_of(&numbers, DType::F64);
        for (target, to_f64) in [
            (DType::F16, (|b| f16::from_bits(b).to_f64()) as fn(u16) -> f64),
            (DType::BF16, |b| bf16::from_bits(b).to_f64()),
        ] {
            let out = run(&from, DType::F64, target).unwrap();
            for (x, out) in numbers.iter().zip(out.chunks_exact(2)) {
                let got = u16::from_le_bytes([out[0], out[1]]);
                assert_eq!(got, nearest_half(*x, to_f64), "{x:e} to {target}");
            }
        }
    }

    #[test]
    fn singles_become_halves_rounding_ties_to_even() {
        let numbers: Vec<f64> = hard_numbers().iter().map(|&x| f64::from(x as f32)).collect();
        let from = bytes_of(&numbers, DType::F32);
        for (target, to_f64) in [
            (DType::F16, (|b| f16::from_bits(b).to_f64()) as fn(u16) -> f64),
            (DType::BF16, |b| bf16::from_bits(b).to_f64()),
        ] {
            let out = run(&from, DType::F32, target).unwrap();
            for (x, out) in numbers.iter().zip(out.chunks_exact(2)) {
                let got = u16::from_le_bytes([out[0], out[1]]);
                assert_eq!(got, nearest_half(*x, to_f64), "{x:e} to {target}");
            }
        }
    }

    #[test]
    fn every_half_survives_the_way_up_and_back() {
        for source in [DType::F16, DType::BF16] {
            let all: Vec<u8> = (0..=u16::MAX)
                .filter(|b| value(&b.to_le_bytes(), source).is_finite())
                .flat_map(u16::to_le_bytes)
                .collect();
            for wide in [DType::F32, DType::F64] {
                let up = run(&all, source, wide).unwrap();
                assert_eq!(run(&up, wide, source).unwrap(), all, "{source} through {wide}");
            }
        }
    }

    #[test]
    fn large_pieces_are_cast_as_small_ones_are() {
        let numbers: Vec<f64> = (0..600_000).map(|i| f64::from(i) * 0.37 - 60_000.0).collect();
        for source in FLOATS {
            let from = bytes_of(&numbers[..150_000], source);
            for target in FLOATS.into_iter().filter(|t| *t != source) {
                let whole = run(&from, source, target).unwrap();
                let parts: Vec<u8> = from
                    .chunks(1000 * source.size())
                    .flat_map(|chunk| run(chunk, source, target).unwrap())
                    .collect();
                assert!(whole == parts, "{source} to {target}");
            }
        }
    }

    #[test]
    fn the_first_number_that_does_not_fit_is_named() {
        let mut numbers = vec![1.0; 700_000];
        (numbers[300_000], numbers[600_000]) = (65_520.0, -1e6);
        for source in [DType::F32, DType::F64, DType::BF16] {
            let from = bytes_of(&numbers, source);
            assert_eq!(run(&from, source, DType::F16), Err(300_000), "{source}");
        }
        numbers[300_000] = 65_519.0;
        assert_eq!(run(&bytes_of(&numbers, DType::F32), DType::F32, DType::F16), Err(600_000));
        let large = bytes_of(&[1.0, 3.4e38, 1e39], DType::F64);
        assert_eq!(run(&large, DType::F64, DType::F32), Err(2));
        assert_eq!(run(&large, DType::F64, DType::BF16), Err(1));
        assert_eq!(
            run(&bytes_of(&[f64::from(f32::MAX)], DType::F32), DType::F32, DType::BF16),
            Err(0)
        );
    }

    #[test]
    fn what_is_not_finite_is_found_in_every_type() {
        for dtype in FLOATS {
            let count = 600_000;
            let clean = bytes_of(&vec![0.5; count], dtype);
            assert_eq!(first_not_finite(&clean, dtype), None);
            let width = dtype.size();
            for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                for at in [0, 1_000, count - 1] {
                    let mut bytes = clean.clone();
                    for i in [at, count - 1] {
                        let range = i * width..(i + 1) * width;
                        bytes[range.clone()].copy_from_slice(&bytes_of(&[bad], dtype));
                        assert!(!value(&bytes[range], dtype).is_finite());
                    }
                    assert_eq!(first_not_finite(&bytes, dtype), Some(at), "{dtype} {bad}");
                }
            }
        }
    }
}
