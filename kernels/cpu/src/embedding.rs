//! Rows picked out of tables and matrices.

#![allow(unsafe_code, reason = "threads write disjoint rows of one arena")]

use crate::{
    Isa, Span, Team, Weights,
    cache::RowWalk,
    columns::{Columns, walk, with_columns},
    isa::Kernel,
    lanes::Lanes,
    rows::View,
};

/// A table, or the rows of a larger one from `first` on.
#[derive(Clone, Copy)]
pub(crate) struct Table<'a> {
    pub(crate) weights: Weights<'a>,
    pub(crate) first: Option<usize>,
}

/// `output[r] = table[tokens[r]]`; threads share the rows.
///
/// # Safety
/// Tokens are rows of the table, as checked, unless it is a part of one.
pub(crate) unsafe fn embedding(
    isa: Isa,
    tokens: &[u32],
    table: Table<'_>,
    output: View,
    team: &Team<'_>,
) {
    for row in team.part(tokens.len(), 1) {
        // SAFETY: there is a row for each token; this one is this thread's.
        unsafe { widen(isa, table, tokens[row] as usize, output.row(row), output.width) };
    }
}

/// `output[r] = table[position of r]`; threads share the rows.
///
/// # Safety
/// Positions are rows of the table, as checked, unless it is a part of one; the spans cover the
/// output.
pub(crate) unsafe fn positions(
    isa: Isa,
    table: Table<'_>,
    spans: &[Span<'_>],
    output: View,
    team: &Team<'_>,
) {
    let mut rows = RowWalk::new(spans, team);
    while let Some((_, row, position)) = rows.next() {
        // SAFETY: as promised by the caller; the row is this thread's.
        unsafe { widen(isa, table, position, output.row(row), output.width) };
    }
}

/// One row of a table, `n` wide; zeros where another part of the table has it.
///
/// # Safety
/// `to` has room for `n` numbers that nobody else touches.
unsafe fn widen(isa: Isa, table: Table<'_>, row: usize, to: *mut f32, n: usize) {
    let Table { weights, first } = table;
    let row = match first {
        None => row,
        Some(first) if (first..first + weights.len() / n).contains(&row) => row - first,
        Some(_) => {
            // SAFETY: the row of the output is `n` long.
            unsafe { std::slice::from_raw_parts_mut(to, n) }.fill(0.0);
            return;
        }
    };
    // SAFETY: the row is `n` long, and so is that of the output.
    unsafe { with_columns!(weights, n, |table| isa.run(Widen { table, row, to, n })) }
}

/// `output[r] = input[rows[r]]`; threads share the rows.
///
/// # Safety
/// Rows are rows of the input, as checked, and the output is apart from it.
pub(crate) unsafe fn gather(input: View, rows: &[u32], output: View, team: &Team<'_>) {
    for row in team.part(rows.len(), 1) {
        // SAFETY: as promised by the caller.
        unsafe {
            let from = input.row(rows[row] as usize);
            std::ptr::copy_nonoverlapping(from, output.row(row), output.width);
        }
    }
}

/// Widens a row.
struct Widen<W> {
    table: W,
    row: usize,
    to: *mut f32,
    n: usize,
}

impl<W: Columns> Kernel for Widen<W> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Widen { table, row, to, n } = self;
        // SAFETY: both have `n` elements.
        unsafe {
            walk!(<L, 1>, table, row, 0, n, |i, part, w| {
                w[0].store_part(to.add(i), part);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{KINDS, Table, noise, run};
    use crate::{Isa, Rows, Span, Step, convert};

    #[test]
    fn rows_of_tables_are_widened_and_rows_of_matrices_copied() {
        let width = 37;
        for kind in KINDS {
            let table = Table::new(kind, &noise(11 * width, 4));
            let floats = convert::to_vec(table.weights());
            let tokens = [3, 10, 0, 3, 7];
            let output = Rows { start: 2, rows: 5, width, stride: 40 };
            let gathered = Rows::dense(202, 2, width);
            let steps = [
                Step::Embedding { tokens: &tokens, table: table.weights(), first: None, output },
                Step::Gather { input: output, rows: &[4, 1], output: gathered },
            ];
            for isa in Isa::available() {
                for threads in [1, 3] {
                    let after = run(isa, threads, &[0.25; 300], &mut [], &steps);
                    let row = |token: usize| &floats[token * width..][..width];
                    for (r, &token) in tokens.iter().enumerate() {
                        assert_eq!(&after[2 + r * 40..][..width], row(token as usize));
                        assert!(r == 4 || after[2 + r * 40 + width..][..3] == [0.25; 3]);
                    }
                    assert_eq!(after[202..][..2 * width], [row(7), row(10)].concat());
                }
            }
        }
    }

    #[test]
    fn positions_pick_the_rows_of_a_learned_table() {
        let width = 37;
        let span =
            |first_row, rows, position| Span { first_row, rows, position, ..Span::default() };
        let spans = [span(0, 2, 9), span(2, 1, 0), span(3, 2, 5)];
        for kind in KINDS {
            let table = Table::new(kind, &noise(11 * width, 4));
            let floats = convert::to_vec(table.weights());
            let output = Rows::dense(3, 5, width);
            let table = table.weights();
            let step = Step::Positions { table, first: None, spans: &spans, output };
            for isa in Isa::available() {
                for threads in [1, 3] {
                    let after = run(isa, threads, &[0.25; 200], &mut [], &[step]);
                    for (row, position) in [9, 10, 0, 5, 6].into_iter().enumerate() {
                        let expected = &floats[position * width..][..width];
                        assert_eq!(&after[3 + row * width..][..width], expected);
                    }
                }
            }
        }
    }

    #[test]
    fn rows_that_another_part_of_the_table_has_are_zeros() {
        let width = 37;
        let tokens = [3, 10, 0, 14, 4];
        let span = Span { first_row: 0, rows: 5, position: 8, ..Span::default() };
        for kind in KINDS {
            let table = Table::new(kind, &noise(7 * width, 4));
            let floats = convert::to_vec(table.weights());
            let (output, second) = (Rows::dense(0, 5, width), Rows::dense(200, 5, width));
            let (table, first) = (table.weights(), Some(4));
            let steps = [
                Step::Embedding { tokens: &tokens, table, first, output },
                Step::Positions { table, first, spans: &[span], output: second },
            ];
            let row = |number: usize| match number {
                4..=10 => floats[(number - 4) * width..][..width].to_vec(),
                _ => vec![0.0; width],
            };
            for isa in Isa::available() {
                let after = run(isa, 2, &[0.25; 400], &mut [], &steps);
                assert_eq!(&after[..5 * width], [3, 10, 0, 14, 4].map(row).concat());
                assert_eq!(&after[200..][..5 * width], [8, 9, 10, 11, 12].map(row).concat());
            }
        }
    }
}
