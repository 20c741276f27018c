//! Columns of an output, each with the weights that make it: what tiles of [`crate::linear`] and
//! rows of tables are read from, whatever form the weights have.

#![allow(unsafe_code, reason = "reads through pointers; the callers check them")]
#![allow(clippy::needless_range_loop, reason = "several arrays by one index, all unrolled")]

use crate::lanes::{Element, Lanes};

/// Weights, `k` for each column, read sixteen at a time as floats.
///
/// All methods need `C` columns from `column` on to be there, and of each the elements that are
/// asked for; [`Columns::load_part`] fills up with zeros. Several columns may only begin at one
/// that is the first of those that share bytes.
pub(crate) trait Columns: Copy {
    /// What all elements of a stretch have in common.
    type Held<L: Lanes, const C: usize>: Copy;

    /// Elements of a stretch: a multiple of sixteen.
    fn stretch(self) -> usize;

    /// What the elements of a stretch have in common.
    unsafe fn hold<L: Lanes, const C: usize>(
        self,
        column: usize,
        stretch: usize,
    ) -> Self::Held<L, C>;

    /// Sixteen elements of each column, from `i` on.
    unsafe fn load<L: Lanes, const C: usize>(
        self,
        held: &Self::Held<L, C>,
        column: usize,
        i: usize,
    ) -> [L; C];

    /// The last `n` elements of each column, from `i` on.
    unsafe fn load_part<L: Lanes, const C: usize>(
        self,
        held: &Self::Held<L, C>,
        column: usize,
        i: usize,
        n: usize,
    ) -> [L; C];
}

/// Floats as they lie in the engine.
#[derive(Clone, Copy)]
pub(crate) struct Floats<E> {
    pub(crate) first: *const E,
    pub(crate) k: usize,
}

impl<E: Element> Columns for Floats<E> {
    type Held<L: Lanes, const C: usize> = ();

    #[inline(always)]
    fn stretch(self) -> usize {
        usize::MAX
    }

    #[inline(always)]
    unsafe fn hold<L: Lanes, const C: usize>(self, _: usize, _: usize) {}

    #[inline(always)]
    unsafe fn load<L: Lanes, const C: usize>(self, (): &(), column: usize, i: usize) -> [L; C] {
        // SAFETY: as promised by the caller. The next tile is asked for on the way.
        unsafe {
            let mut weights = [L::splat(0.0); C];
            for c in 0..C {
                let at = self.first.add((column + c) * self.k + i);
                L::prefetch(at.wrapping_add(C * self.k).cast());
                weights[c] = E::load(at);
            }
            weights
        }
    }

    #[inline(always)]
    unsafe fn load_part<L: Lanes, const C: usize>(
        self,
        (): &(),
        column: usize,
        i: usize,
        n: usize,
    ) -> [L; C] {
        // SAFETY: as promised by the caller.
        unsafe {
            let mut weights = [L::splat(0.0); C];
            for c in 0..C {
                weights[c] = E::load_part(self.first.add((column + c) * self.k + i), n);
            }
            weights
        }
    }
}

/// Goes through the elements `$from..$to` of columns from `$column` on, sixteen at a time from a
/// sixteenth one on: the index of the first, how many they are, and themselves.
///
/// No function with a closure, which would be compiled for no instruction set.
macro_rules! walk {
    (
        <$lanes:ty, $count:tt>, $weights:expr, $column:expr, $from:expr, $to:expr,
        |$i:ident, $n:ident, $sixteen:ident| $each:block
    ) => {{
        let (weights, column, to) = ($weights, $column, $to);
        let stretch = weights.stretch();
        let mut $i: usize = $from;
        let mut number = $i / stretch;
        while $i < to {
            let held = weights.hold::<$lanes, $count>(column, number);
            number += 1;
            let end = to.min(number.saturating_mul(stretch));
            while $i + $crate::lanes::LANES <= end {
                let $n = $crate::lanes::LANES;
                let $sixteen: [$lanes; $count] = weights.load(&held, column, $i);
                $each
                $i += $n;
            }
            // Stretches are whole lanes: this is the end of all.
            if $i < end {
                let $n = end - $i;
                let $sixteen: [$lanes; $count] = weights.load_part(&held, column, $i, $n);
                $each
                $i = end;
            }
        }
    }};
}
pub(crate) use walk;

/// Runs an expression with the [`Columns`] that are in weights with rows of `k`.
macro_rules! with_columns {
    ($weights:expr, $k:expr, |$columns:ident| $run:expr) => {
        match $weights {
            $crate::Weights::F32(floats) => {
                let $columns = $crate::columns::Floats { first: floats.as_ptr(), k: $k };
                $run
            }
            $crate::Weights::F16(bits) => {
                let first = bits.as_ptr().cast::<half::f16>();
                let $columns = $crate::columns::Floats { first, k: $k };
                $run
            }
            $crate::Weights::BF16(bits) => {
                let first = bits.as_ptr().cast::<half::bf16>();
                let $columns = $crate::columns::Floats { first, k: $k };
                $run
            }
            $crate::Weights::Coded(coded) => match coded.form() {
                $crate::coded::columns::Form::Nibbles($columns) => $run,
                $crate::coded::columns::Form::Int8($columns) => $run,
                $crate::coded::columns::Form::Fp8($columns) => $run,
                $crate::coded::columns::Form::Mixed($columns) => $run,
            },
        }
    };
}
pub(crate) use with_columns;
