//! Weights as codes of few bits, with scales and zeros for groups of them.
//!
//! `weight[o, i] = (code[o, i] - zero) · scale`: the difference is exact, the product rounds once
//! to `f32`. That is what a weight *is* here, so every kernel gives the bits that it gives with
//! the same weights as floats; codes are only read at the speed of fewer bytes.

use crate::fp8;
use std::{fmt, ops::Range};

/// What a code is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CodeKind {
    /// -8 to 7 in two's complement. A byte has the codes of one input for two rows that follow
    /// each other: the even row's in its low half, the odd row's in its high half.
    Int4,
    /// -128 to 127 in two's complement.
    Int8,
    /// A float of eight bits, [E4M3](crate::fp8), with scales below 2¹²⁰.
    Fp8,
}

/// Which weights share a scale and a zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grouping<'a> {
    /// Whole rows: `[m]` scales, each for as many of the rows. One a row, one a matrix (of a
    /// mixture's) or one for all.
    Rows,
    /// So many inputs that follow each other: `[rows, columns / inputs]` scales.
    Inputs(usize),
    /// Any inputs: `[rows, groups]` scales.
    Listed {
        /// How many in each row.
        groups: usize,
        /// `[m, columns]`: the group of each input, each list for as many of the rows. One for
        /// all or one a matrix.
        lists: &'a [i32],
    },
}

/// Scales of [`CodeKind::Fp8`] are smaller: 2⁸ times one is a float, and so exact.
const FP8_SCALES: f32 = f32::from_bits((127 + 120) << 23);

/// What codes are made of, not yet checked. Matrices that follow each other (heads, experts) are
/// one of all their rows.
#[derive(Clone, Copy, Debug)]
pub struct Codes<'a> {
    /// What a code is.
    pub kind: CodeKind,
    /// `[rows / 2, columns]` of [`CodeKind::Int4`], else `[rows, columns]`.
    pub codes: &'a [u8],
    /// Inputs of a row.
    pub columns: usize,
    /// By the grouping.
    pub scales: &'a [f32],
    /// A zero for each scale; all zero if there are none. Floats have none.
    pub zeros: Option<&'a [i16]>,
    /// Which weights share a scale and a zero.
    pub grouping: Grouping<'a>,
}

/// Why codes are no weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit(String);

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Misfit {}

/// An error with a message unless something holds.
macro_rules! ensure {
    ($holds:expr, $($message:tt)+) => {
        if !$holds {
            return Err(Misfit(format!($($message)+)));
        }
    };
}

/// Weights as codes, or some rows of them. All lengths agree and all groups exist.
#[derive(Clone, Copy, Debug)]
pub struct Coded<'a> {
    /// Of the whole, of which these are rows.
    whole: Codes<'a>,
    /// Rows of the whole that share a scale ([`Grouping::Rows`]) or a list; all where groups are
    /// not listed.
    sharing: usize,
    /// Scales of a row.
    groups: usize,
    first: usize,
    rows: usize,
}

impl<'a> Coded<'a> {
    /// Checks codes. Reads the lists of groups through, and the scales of floats.
    ///
    /// # Errors
    /// If a length does not fit, a group does not exist, or a scale of floats is too great or
    /// not a number.
    pub fn new(whole: Codes<'a>) -> Result<Coded<'a>, Misfit> {
        let Codes { kind, codes, columns, scales, zeros, grouping } = whole;
        ensure!(columns > 0, "rows of codes for no inputs");
        let rows = codes.len() / columns;
        let whole_rows = codes.len().is_multiple_of(columns);
        ensure!(whole_rows, "{} bytes of codes are no rows of {columns}", codes.len());
        // Slices are at most `isize::MAX` long: twice a length is no overflow.
        let rows = if kind == CodeKind::Int4 { 2 * rows } else { rows };
        let shared = |what: &str, by: usize| {
            ensure!(by > 0 || rows == 0, "no {what} for {rows} rows");
            ensure!(by == 0 || rows.is_multiple_of(by), "{by} {what} for {rows} rows");
            Ok(rows.checked_div(by).unwrap_or(1).max(1))
        };
        let (sharing, groups) = match grouping {
            Grouping::Rows => (shared("scales", scales.len())?, 1),
            Grouping::Inputs(inputs) => {
                let divides = inputs > 0 && columns.is_multiple_of(inputs);
                ensure!(divides, "groups of {inputs} inputs do not divide {columns}");
                ensure!(i32::try_from(columns).is_ok(), "{columns} inputs");
                (usize::MAX, columns / inputs)
            }
            Grouping::Listed { groups, lists } => {
                ensure!(i32::try_from(groups).is_ok(), "{groups} groups");
                let whole_lists = lists.len().is_multiple_of(columns);
                ensure!(whole_lists, "{} groups listed for {columns} inputs", lists.len());
                let sharing = shared("lists", lists.len() / columns)?;
                let exists = |group: i32| usize::try_from(group).is_ok_and(|g| g < groups);
                for &group in lists {
                    ensure!(exists(group), "group {group} of {groups}");
                }
                (sharing, groups)
            }
        };
        if grouping != Grouping::Rows {
            let expected = rows.checked_mul(groups);
            ensure!(
                expected == Some(scales.len()),
                "{} scales for {rows} rows of {groups} groups",
                scales.len()
            );
        }
        if let Some(zeros) = zeros {
            let fits = zeros.len() == scales.len();
            ensure!(fits, "{} zeros for {} scales", zeros.len(), scales.len());
            ensure!(kind != CodeKind::Fp8, "codes that are floats have no zeros");
        }
        if kind == CodeKind::Fp8 {
            for &scale in scales {
                let fits = scale.abs() < FP8_SCALES;
                ensure!(fits, "a scale of {scale} for floats");
            }
        }
        Ok(Coded { whole, sharing, groups, first: 0, rows })
    }

    /// What a code is.
    pub fn kind(self) -> CodeKind {
        self.whole.kind
    }

    /// Inputs of a row.
    pub fn columns(self) -> usize {
        self.whole.columns
    }

    /// How many rows.
    pub fn rows(self) -> usize {
        self.rows
    }

    /// Some of the rows.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn part(self, rows: Range<usize>) -> Coded<'a> {
        let fits = rows.start <= rows.end && rows.end <= self.rows;
        assert!(fits, "rows {rows:?} of {}", self.rows);
        Coded { first: self.first + rows.start, rows: rows.len(), ..self }
    }

    /// One weight.
    ///
    /// # Panics
    /// If it does not exist.
    pub fn weight(self, row: usize, input: usize) -> f32 {
        let k = self.columns();
        assert!(row < self.rows && input < k, "weight [{row}, {input}] of [{}, {k}]", self.rows);
        let row = self.first + row;
        let group = match self.whole.grouping {
            Grouping::Rows => 0,
            Grouping::Inputs(inputs) => input / inputs,
            Grouping::Listed { lists, .. } => lists[row / self.sharing * k + input] as usize,
        };
        let at = self.scale_of(row) + group;
        let code = match self.whole.kind {
            CodeKind::Int4 => {
                let pair = self.whole.codes[row / 2 * k + input];
                let low = if row.is_multiple_of(2) { pair << 4 } else { pair };
                f32::from(low as i8 >> 4)
            }
            CodeKind::Int8 => f32::from(self.whole.codes[row * k + input] as i8),
            CodeKind::Fp8 => fp8::decode(self.whole.codes[row * k + input]),
        };
        let zero = self.whole.zeros.map_or(0, |zeros| zeros[at]);
        (code - f32::from(zero)) * self.whole.scales[at]
    }

    /// Where the scales of a row of the whole begin.
    #[inline(always)]
    fn scale_of(self, row: usize) -> usize {
        match self.whole.grouping {
            Grouping::Rows => row / self.sharing,
            _ => row * self.groups,
        }
    }

    /// Whether `row` is the second of two that share their bytes.
    pub(crate) fn splits_pair(self, row: usize) -> bool {
        self.whole.kind == CodeKind::Int4 && !(self.first + row).is_multiple_of(2)
    }
}

pub(crate) mod columns;

#[cfg(test)]
mod tests;
