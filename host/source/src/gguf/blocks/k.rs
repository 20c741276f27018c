//! The K kinds: 256 weights a block, in runs of 16 or 32 that have scales of their own.
//!
//! `run` below is the index of 32 weights, `l` that of a weight among them, `half` which 128 of
//! the block they belong to, and `quarter` the index of the run in its half.

use super::scale;

/// `scales and minima: 16 × two nibbles, 256 × 2 bits, d: f16, dmin: f16`, a scale for every 16:
/// `(d·scale)·q − dmin·min`.
pub(super) fn q2(block: &[u8], out: &mut [f32]) {
    let (scales, rest) = block.split_at(16);
    let (d, dmin) = (scale(rest, 64), scale(rest, 66));
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let (half, quarter, first) = (group / 8, group % 8 / 2, group % 2 * 16);
        let dl = d * f32::from(scales[group] & 15);
        let ml = dmin * f32::from(scales[group] >> 4);
        for (out, byte) in out.iter_mut().zip(&rest[half * 32 + first..]) {
            *out = dl * f32::from((byte >> (2 * quarter)) & 3) - ml;
        }
    }
}

/// `third bits: 32 bytes, 256 × 2 bits, scales: 16 × 6 bits, d: f16`, a scale for every 16:
/// `(d·(scale − 32))·q`, where a weight whose third bit is not set is less by four.
pub(super) fn q3(block: &[u8], out: &mut [f32]) {
    let (high, rest) = block.split_at(32);
    let (low, rest) = rest.split_at(64);
    let d = scale(rest, 12);
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let (half, quarter, first) = (group / 8, group % 8 / 2, group % 2 * 16);
        // Four bits are a nibble of the first eight bytes, two are in the last four.
        let four = (rest[group % 8] >> (group / 8 * 4)) & 15;
        let two = (rest[8 + group % 4] >> (group / 4 * 2)) & 3;
        let dl = d * f32::from((four | two << 4) as i8 - 32);
        for (l, out) in out.iter_mut().enumerate() {
            let l = first + l;
            let q = (low[half * 32 + l] >> (2 * quarter)) & 3;
            let third = (high[l] >> (4 * half + quarter)) & 1;
            *out = dl * f32::from(q as i8 - 4 * (1 - third as i8));
        }
    }
}

/// The scale and the minimum of a run, of six bits each, out of the twelve bytes that hold
/// eight of both: those of the first four runs whole, those of the last four as nibbles with
/// their upper bits in what the first four leave free.
fn scale_and_min(scales: &[u8], run: usize) -> (f32, f32) {
    let (scale, min) = if run < 4 {
        (scales[run] & 63, scales[run + 4] & 63)
    } else {
        let nibbles = scales[run + 4];
        (nibbles & 15 | scales[run - 4] >> 6 << 4, nibbles >> 4 | scales[run] >> 6 << 4)
    };
    (f32::from(scale), f32::from(min))
}

/// `d: f16, dmin: f16, scales and minima: 12 bytes, nibbles`, a scale for every 32:
/// `(d·scale)·q − dmin·min`.
pub(super) fn q4(block: &[u8], out: &mut [f32]) {
    four_or_five(block, None, &block[16..], out);
}

/// As [`q4`], with fifth bits before the nibbles.
pub(super) fn q5(block: &[u8], out: &mut [f32]) {
    four_or_five(block, Some(&block[16..48]), &block[48..], out);
}

fn four_or_five(block: &[u8], fifths: Option<&[u8]>, low: &[u8], out: &mut [f32]) {
    let (d, dmin) = (scale(block, 0), scale(block, 2));
    for (run, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_and_min(&block[4..16], run);
        let (dl, ml) = (d * scale, dmin * min);
        // Two runs share bytes: the lower nibbles, then the upper ones.
        let low = &low[run / 2 * 32..][..32];
        for (l, out) in out.iter_mut().enumerate() {
            let four = (low[l] >> (run % 2 * 4)) & 15;
            let fifth = fifths.map_or(0, |fifths| (fifths[l] >> run) & 1);
            *out = dl * f32::from(four | fifth << 4) - ml;
        }
    }
}

/// `nibbles, 256 × 2 upper bits, scales: 16 × i8, d: f16`, a scale for every 16:
/// `(d·scale)·(q − 32)`.
pub(super) fn q6(block: &[u8], out: &mut [f32]) {
    let (low, rest) = block.split_at(128);
    let (high, rest) = rest.split_at(64);
    let d = scale(rest, 16);
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let (half, quarter, first) = (group / 8, group % 8 / 2, group % 2 * 16);
        let dl = d * f32::from(rest[group] as i8);
        for (l, out) in out.iter_mut().enumerate() {
            let l = first + l;
            let four = (low[half * 64 + quarter % 2 * 32 + l] >> (quarter / 2 * 4)) & 15;
            let two = (high[half * 32 + l] >> (2 * quarter)) & 3;
            *out = dl * f32::from((four | two << 4) as i8 - 32);
        }
    }
}
