//! Columns read from codes.
//!
//! Where all of sixteen inputs have one scale, a column holds it for as long as it lasts; of four
//! bits, two columns share each byte that is read. Groups that change within sixteen inputs are
//! looked up lane by lane.

#![allow(unsafe_code, reason = "reads through pointers; a checked `Coded` is behind them")]
#![allow(clippy::needless_range_loop, reason = "several arrays by one index, all unrolled")]

use super::{CodeKind, Coded, Grouping};
use crate::columns::Columns;
use crate::lanes::{LANES, Lanes};
use std::ops::Range;

/// Lanes hold floats of eight bits so many times too small.
const FP8_FACTOR: f32 = 256.0;

/// Codes by how they are read.
pub(crate) enum Form<'a> {
    Nibbles(Nibbles<'a>),
    Int8(Octets<'a, false>),
    Fp8(Octets<'a, true>),
    Mixed(Mixed<'a>),
}

impl<'a> Coded<'a> {
    /// How the codes are read.
    pub(crate) fn form(self) -> Form<'a> {
        match (self.whole.grouping, self.whole.kind) {
            (Grouping::Listed { .. }, _) => Form::Mixed(Mixed(self)),
            (Grouping::Inputs(n), _) if !n.is_multiple_of(LANES) => Form::Mixed(Mixed(self)),
            (_, CodeKind::Int4) => Form::Nibbles(Nibbles(self)),
            (_, CodeKind::Int8) => Form::Int8(Octets(self)),
            (_, CodeKind::Fp8) => Form::Fp8(Octets(self)),
        }
    }

    /// Inputs for which all scales stay, if they are whole lanes.
    #[inline(always)]
    fn stretch(self) -> usize {
        match self.whole.grouping {
            Grouping::Inputs(inputs) => inputs,
            _ => usize::MAX,
        }
    }

    /// Where the scale of a group of a column is.
    #[inline(always)]
    fn at(self, column: usize, group: usize) -> usize {
        self.scale_of(self.first + column) + group
    }

    /// Scale and zero.
    ///
    /// # Safety
    /// They exist.
    #[inline(always)]
    unsafe fn meaning(self, at: usize) -> (f32, f32) {
        debug_assert!(at < self.whole.scales.len());
        // SAFETY: as promised by the caller; there are as many zeros as scales.
        unsafe {
            let scale = *self.whole.scales.get_unchecked(at);
            match self.whole.zeros {
                None => (scale, 0.0),
                Some(zeros) => (scale, f32::from(*zeros.get_unchecked(at))),
            }
        }
    }

    /// Asks for the scales of the next `C` columns, a cache line at a time.
    #[inline(always)]
    unsafe fn prefetch<L: Lanes, const C: usize>(self, column: usize, group: usize) {
        if self.groups > 1 && group.is_multiple_of(LANES) {
            for c in 0..C {
                let next = self.at(column + C + c, group);
                // SAFETY: a hint; any address will do.
                unsafe { L::prefetch(self.whole.scales.as_ptr().wrapping_add(next).cast()) }
            }
        }
    }

    /// The list with a row's groups.
    #[inline(always)]
    fn list_of(self, row: usize) -> usize {
        // Mostly there is one, and no need to divide.
        if row < self.sharing { 0 } else { row / self.sharing }
    }

    /// The groups of sixteen inputs, counted from one on, and how many are counted. Behind the
    /// last input they are that one.
    ///
    /// # Safety
    /// The list and the first input exist.
    #[inline(always)]
    unsafe fn groups_of(
        self,
        list: usize,
        first: usize,
        groups: &mut [i32; LANES],
    ) -> Range<usize> {
        let n = LANES.min(self.whole.columns - first);
        match self.whole.grouping {
            Grouping::Rows => 0..1,
            Grouping::Inputs(inputs) => {
                let from = first / inputs;
                let (mut group, mut left) = (0, inputs - first % inputs);
                for lane in 0..n {
                    if left == 0 {
                        (group, left) = (group + 1, inputs);
                    }
                    groups[lane] = group;
                    left -= 1;
                }
                from..from + group as usize + 1
            }
            Grouping::Listed { lists, .. } => {
                // SAFETY: as promised by the caller.
                let from = unsafe { lists.as_ptr().add(list * self.whole.columns + first) };
                for lane in 0..n {
                    // SAFETY: there are `n`.
                    groups[lane] = unsafe { *from.add(lane) };
                }
                0..self.groups
            }
        }
    }

    /// Where the codes of a column begin.
    #[inline(always)]
    fn codes(self, column: usize) -> *const u8 {
        let row = match self.whole.kind {
            CodeKind::Int4 => (self.first + column) / 2,
            _ => self.first + column,
        };
        self.whole.codes.as_ptr().wrapping_add(row * self.whole.columns)
    }
}

/// Codes of four bits.
#[derive(Clone, Copy)]
pub(crate) struct Nibbles<'a>(Coded<'a>);

impl Nibbles<'_> {
    /// Sixteen weights of each of `C` columns, from `i` on; of the last, `n`.
    #[inline(always)]
    unsafe fn weights<L: Lanes, const C: usize>(
        self,
        held: &[L::Nibbles; C],
        column: usize,
        i: usize,
        n: usize,
    ) -> [L; C] {
        let ahead = C.div_ceil(2) * self.0.columns();
        // SAFETY: as promised by the caller. The next tile is asked for on the way.
        unsafe {
            let mut weights = [L::splat(0.0); C];
            for c in (0..C).step_by(2) {
                let from = self.0.codes(column + c).add(i);
                L::prefetch(from.wrapping_add(ahead));
                let bytes = if n == LANES { L::bytes(from) } else { L::bytes_part(from, n) };
                if C > 1 {
                    weights[c] = L::low(bytes, held[c]);
                    weights[c + 1] = L::high(bytes, held[c + 1]);
                } else if self.0.splits_pair(column) {
                    weights[c] = L::high(bytes, held[c]);
                } else {
                    weights[c] = L::low(bytes, held[c]);
                }
            }
            if n < LANES {
                for c in 0..C {
                    weights[c] = weights[c].only(n);
                }
            }
            weights
        }
    }
}

impl Columns for Nibbles<'_> {
    type Held<L: Lanes, const C: usize> = [L::Nibbles; C];

    #[inline(always)]
    fn stretch(self) -> usize {
        self.0.stretch()
    }

    #[inline(always)]
    unsafe fn hold<L: Lanes, const C: usize>(
        self,
        column: usize,
        stretch: usize,
    ) -> [L::Nibbles; C] {
        // SAFETY: as promised by the caller.
        unsafe {
            self.0.prefetch::<L, C>(column, stretch);
            let mut held = [L::nibbles(0.0, 0.0); C];
            for c in 0..C {
                let (scale, zero) = self.0.meaning(self.0.at(column + c, stretch));
                held[c] = L::nibbles(zero, scale);
            }
            held
        }
    }

    #[inline(always)]
    unsafe fn load<L: Lanes, const C: usize>(
        self,
        held: &[L::Nibbles; C],
        column: usize,
        i: usize,
    ) -> [L; C] {
        // SAFETY: as promised by the caller.
        unsafe { self.weights(held, column, i, LANES) }
    }

    #[inline(always)]
    unsafe fn load_part<L: Lanes, const C: usize>(
        self,
        held: &[L::Nibbles; C],
        column: usize,
        i: usize,
        n: usize,
    ) -> [L; C] {
        // SAFETY: as promised by the caller.
        unsafe { self.weights(held, column, i, n) }
    }
}

/// Codes of eight bits.
#[derive(Clone, Copy)]
pub(crate) struct Octets<'a, const FP8: bool>(Coded<'a>);

impl<const FP8: bool> Octets<'_, FP8> {
    /// The weights of sixteen codes.
    #[inline(always)]
    unsafe fn weights<L: Lanes>(bytes: L::Bytes, [zero, scale]: [L; 2]) -> L {
        // SAFETY: as promised by the caller.
        unsafe {
            match FP8 {
                true => L::from_fp8(bytes).mul(scale),
                false => L::from_i8(bytes).sub(zero).mul(scale),
            }
        }
    }
}

impl<const FP8: bool> Columns for Octets<'_, FP8> {
    type Held<L: Lanes, const C: usize> = [[L; 2]; C];

    #[inline(always)]
    fn stretch(self) -> usize {
        self.0.stretch()
    }

    #[inline(always)]
    unsafe fn hold<L: Lanes, const C: usize>(self, column: usize, stretch: usize) -> [[L; 2]; C] {
        // SAFETY: as promised by the caller.
        unsafe {
            self.0.prefetch::<L, C>(column, stretch);
            let mut held = [[L::splat(0.0); 2]; C];
            for c in 0..C {
                let (scale, zero) = self.0.meaning(self.0.at(column + c, stretch));
                let scale = if FP8 { scale * FP8_FACTOR } else { scale };
                held[c] = [L::splat(zero), L::splat(scale)];
            }
            held
        }
    }

    #[inline(always)]
    unsafe fn load<L: Lanes, const C: usize>(
        self,
        held: &[[L; 2]; C],
        column: usize,
        i: usize,
    ) -> [L; C] {
        // SAFETY: as promised by the caller. The next tile is asked for on the way.
        unsafe {
            let mut weights = [L::splat(0.0); C];
            for c in 0..C {
                let from = self.0.codes(column + c).add(i);
                L::prefetch(from.wrapping_add(C * self.0.columns()));
                weights[c] = Self::weights(L::bytes(from), held[c]);
            }
            weights
        }
    }

    #[inline(always)]
    unsafe fn load_part<L: Lanes, const C: usize>(
        self,
        held: &[[L; 2]; C],
        column: usize,
        i: usize,
        n: usize,
    ) -> [L; C] {
        // SAFETY: as promised by the caller.
        unsafe {
            let mut weights = [L::splat(0.0); C];
            for c in 0..C {
                let bytes = L::bytes_part(self.0.codes(column + c).add(i), n);
                weights[c] = Self::weights(bytes, held[c]).only(n);
            }
            weights
        }
    }
}

/// Codes of any kind whose groups change from lane to lane.
#[derive(Clone, Copy)]
pub(crate) struct Mixed<'a>(Coded<'a>);

impl Mixed<'_> {
    /// The weights of sixteen inputs of a column, `n` of which are read.
    #[inline(always)]
    unsafe fn weights<L: Lanes>(self, [zero, scale]: [L; 2], column: usize, bytes: L::Bytes) -> L {
        // SAFETY: as promised by the caller.
        unsafe {
            let as_they_are = L::nibbles(0.0, 1.0);
            let codes: L = match self.0.kind() {
                CodeKind::Int4 if self.0.splits_pair(column) => L::high(bytes, as_they_are),
                CodeKind::Int4 => L::low(bytes, as_they_are),
                CodeKind::Int8 => L::from_i8(bytes),
                CodeKind::Fp8 => L::from_fp8(bytes),
            };
            codes.sub(zero).mul(scale)
        }
    }
}

impl Columns for Mixed<'_> {
    type Held<L: Lanes, const C: usize> = [[L; 2]; C];

    #[inline(always)]
    fn stretch(self) -> usize {
        LANES
    }

    #[inline(always)]
    unsafe fn hold<L: Lanes, const C: usize>(self, column: usize, stretch: usize) -> [[L; 2]; C] {
        let first = stretch * LANES;
        let factor = if self.0.kind() == CodeKind::Fp8 { FP8_FACTOR } else { 1.0 };
        let (mut list, mut groups, mut counted) = (usize::MAX, [0; LANES], 0..0);
        // SAFETY: as promised by the caller; groups exist, as checked when it was made.
        unsafe {
            let factor = L::splat(factor);
            let mut held = [[L::splat(0.0); 2]; C];
            for c in 0..C {
                let mine = self.0.list_of(self.0.first + column + c);
                if mine != list {
                    list = mine;
                    counted = self.0.groups_of(list, first, &mut groups);
                }
                let (at, n) = (self.0.at(column + c, counted.start), counted.len());
                let scales = self.0.whole.scales.as_ptr().add(at);
                held[c][1] = L::look_up(scales, n, groups.as_ptr()).mul(factor);
                if let Some(zeros) = self.0.whole.zeros {
                    held[c][0] = L::look_up_i16(zeros.as_ptr().add(at), n, groups.as_ptr());
                }
            }
            held
        }
    }

    #[inline(always)]
    unsafe fn load<L: Lanes, const C: usize>(
        self,
        held: &[[L; 2]; C],
        column: usize,
        i: usize,
    ) -> [L; C] {
        // SAFETY: as promised by the caller.
        unsafe {
            let mut weights = [L::splat(0.0); C];
            for c in 0..C {
                let bytes = L::bytes(self.0.codes(column + c).add(i));
                weights[c] = self.weights(held[c], column + c, bytes);
            }
            weights
        }
    }

    #[inline(always)]
    unsafe fn load_part<L: Lanes, const C: usize>(
        self,
        held: &[[L; 2]; C],
        column: usize,
        i: usize,
        n: usize,
    ) -> [L; C] {
        // SAFETY: as promised by the caller.
        unsafe {
            let mut weights = [L::splat(0.0); C];
            for c in 0..C {
                let bytes = L::bytes_part(self.0.codes(column + c).add(i), n);
                weights[c] = self.weights(held[c], column + c, bytes).only(n);
            }
            weights
        }
    }
}
