//! What is done head by head: each head by its own matrix, and heads side by side.

#![allow(unsafe_code, reason = "threads write disjoint columns of one arena")]

use crate::lanes::LANES;
use crate::{Isa, Team, Weights, linear, rows::View};

/// Columns of one head.
///
/// # Safety
/// There are so many columns.
unsafe fn columns(view: View, first: usize, width: usize) -> View {
    // SAFETY: as promised by the caller.
    View { data: unsafe { view.data.add(first) }, width, ..view }
}

/// `output = input · weightsᵀ + bias` within each head; threads share the columns of all.
///
/// # Safety
/// Shapes as checked; the output is apart from the input; `scratch` as [`linear::scratch`] says
/// for one head.
#[expect(clippy::too_many_arguments, reason = "operands of one kernel")]
pub(crate) unsafe fn linear(
    isa: Isa,
    input: View,
    weights: Weights<'_>,
    bias: Option<&[f32]>,
    heads: usize,
    output: View,
    scratch: &mut [f32],
    team: &Team<'_>,
) {
    let (k, n) = (input.width / heads, output.width / heads);
    let all = team.part(output.width, LANES);
    for head in all.start / n..all.end.div_ceil(n) {
        let first = head * n;
        let part = all.start.max(first) - first..all.end.min(first + n) - first;
        let weights = weights.part(first * k..(first + n) * k);
        let bias = bias.map(|bias| &bias[first..first + n]);
        // SAFETY: as promised by the caller; the head is in the rows.
        unsafe {
            let (input, output) = (columns(input, head * k, k), columns(output, first, n));
            linear::columns(isa, input, weights, bias, output, part, scratch);
        }
    }
}

/// Each head of the output, from element `first` on, is that head of the input; threads share
/// the rows.
///
/// # Safety
/// Shapes as checked; the output is apart from the input.
pub(crate) unsafe fn place(input: View, heads: usize, first: usize, output: View, team: &Team<'_>) {
    let (from, to) = (input.width / heads, output.width / heads);
    for row in team.part(input.rows, 1) {
        for head in 0..heads {
            // SAFETY: heads fill the rows, and the output's have room from `first` on.
            unsafe {
                let head_in = input.row(row).add(head * from).cast_const();
                let head_out = output.row(row).add(head * to + first);
                std::ptr::copy_nonoverlapping(head_in, head_out, from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{KINDS, Table, bits, noise, run};
    use crate::{Isa, Rows, Step};

    #[test]
    fn each_head_goes_through_its_own_matrix_as_if_alone() {
        for (rows, heads, k, n) in [(1, 3, 20, 7), (5, 2, 33, 24), (30, 4, 48, 19), (2, 1, 16, 16)]
        {
            for kind in KINDS {
                let table = Table::new(kind, &noise(heads * n * k, 2));
                let biases = noise(heads * n, 3);
                let mut arena = noise(rows * (heads * k + 3), 1);
                let start = arena.len();
                arena.resize(start + rows * (heads * n + 5), 0.5);
                let input = Rows { start: 0, rows, width: heads * k, stride: heads * k + 3 };
                let output = Rows { start, rows, width: heads * n, stride: heads * n + 5 };
                for bias in [None, Some(biases.as_slice())] {
                    let weights = table.weights();
                    let alone: Vec<Step<'_>> = (0..heads)
                        .map(|head| Step::Linear {
                            input: input.columns(head * k, k),
                            weights: weights.part(head * n * k..(head + 1) * n * k),
                            bias: bias.map(|bias| &bias[head * n..(head + 1) * n]),
                            output: output.columns(head * n, n),
                        })
                        .collect();
                    let expected = bits(&run(Isa::Plain, 1, &arena, &mut [], &alone));
                    let step = Step::LinearHeads { input, weights, bias, heads, output };
                    for isa in Isa::available() {
                        for threads in [1, 2, 3, 7] {
                            let found = bits(&run(isa, threads, &arena, &mut [], &[step]));
                            assert_eq!(found, expected, "{isa} {kind:?} {rows} rows {heads} heads");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn heads_of_several_matrices_come_side_by_side() {
        let (rows, heads) = (3, 2);
        let arena: Vec<f32> = (0..100).map(|i| i as f32).collect();
        let left = Rows { start: 0, rows, width: 6, stride: 7 };
        let right = Rows::dense(30, rows, 4);
        let output = Rows { start: 50, rows, width: 10, stride: 11 };
        let steps = [
            Step::PlaceHeads { input: left, heads, first: 0, output },
            Step::PlaceHeads { input: right, heads, first: 3, output },
        ];
        for threads in [1, 2] {
            let after = run(Isa::detect(), threads, &arena, &mut [], &steps);
            for row in 0..rows {
                let (l, r) = (&arena[row * 7..][..6], &arena[30 + row * 4..][..4]);
                let expected = [&l[..3], &r[..2], &l[3..], &r[2..]].concat();
                assert_eq!(after[50 + row * 11..][..10], expected);
                assert_eq!(after[60 + row * 11], arena[60 + row * 11]);
            }
        }
    }
}
