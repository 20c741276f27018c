//! Against double precision, and bit for bit against a row alone.

use crate::testing::{KINDS, Table, bits, noise, run};
use crate::{
    Activation, Experts, Gating, Isa, Routing, RoutingGroups, Rows, Step, WeightKind, convert,
    workspace,
};

struct Case {
    rows: usize,
    k: usize,
    inner: usize,
    n: usize,
    experts: usize,
    arena: Vec<f32>,
    up: Table,
    down: Table,
    up_bias: Vec<f32>,
    down_bias: Vec<f32>,
    prefer: Vec<f32>,
}

const PLAIN: Gating = Gating::Plain(Activation::Silu);

impl Case {
    fn new(
        kind: WeightKind,
        [rows, k, inner, n]: [usize; 4],
        experts: usize,
        chosen: usize,
    ) -> Case {
        let work = workspace(rows, chosen, inner).unwrap();
        let arena = noise(rows * (k + 5 + experts + n) + work, 1);
        Case {
            rows,
            k,
            inner,
            n,
            experts,
            arena,
            up: Table::new(kind, &noise(experts * 2 * inner * k, 2)),
            down: Table::new(kind, &noise(experts * n * inner, 3)),
            up_bias: noise(experts * 2 * inner, 4),
            down_bias: noise(experts * n, 5),
            prefer: noise(experts, 6),
        }
    }

    fn input(&self) -> Rows {
        Rows { start: 0, rows: self.rows, width: self.k, stride: self.k + 5 }
    }

    fn scores(&self) -> Rows {
        Rows::dense(self.rows * (self.k + 5), self.rows, self.experts)
    }

    fn experts(&self, gating: Gating, biases: bool) -> Experts<'_> {
        Experts {
            up: self.up.weights(),
            down: self.down.weights(),
            up_bias: biases.then_some(&self.up_bias),
            down_bias: biases.then_some(&self.down_bias),
            inner: self.inner,
            gating,
            stretch: None,
        }
    }

    /// Rows `first..first + rows` alone: their outputs one after the other.
    fn run(
        &self,
        isa: Isa,
        threads: usize,
        routing: Routing<'_>,
        experts: Experts<'_>,
        [first, rows]: [usize; 2],
    ) -> Vec<f32> {
        let part = |all: Rows| Rows { start: all.start + first * all.stride, rows, ..all };
        let scores = self.scores();
        let output = Rows::dense(scores.end().unwrap(), rows, self.n);
        let work = workspace(rows, routing.chosen, self.inner).unwrap();
        let work = Rows::dense(scores.end().unwrap() + self.rows * self.n, 1, work);
        let (input, scores) = (part(self.input()), part(scores));
        let step = Step::Mix { input, scores, routing, experts, work, output };
        let after = run(isa, threads, &self.arena, &mut [], &[step]);
        for (i, (before, after)) in self.arena.iter().zip(&after).enumerate() {
            let written = (output.start..output.end().unwrap()).contains(&i)
                || (work.start..work.end().unwrap()).contains(&i);
            assert!(written || before.to_bits() == after.to_bits(), "wrote beside: {i}");
        }
        after[output.start..output.end().unwrap()].to_vec()
    }

    /// The output of a row by the definition, of the softmax over all experts.
    fn exact(&self, row: usize, routing: Routing<'_>, experts: Experts<'_>) -> Vec<f64> {
        let input = &self.arena[row * (self.k + 5)..][..self.k];
        let logits = &self.arena[self.scores().start + row * self.experts..][..self.experts];
        let powers: Vec<f64> = logits.iter().map(|&x| f64::from(x).exp()).collect();
        let mut order: Vec<usize> = (0..self.experts).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        let (up, down) = (convert::to_vec(experts.up), convert::to_vec(experts.down));
        let dot =
            |a: &[f64], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, &b)| a * f64::from(b)).sum() };
        let input: Vec<f64> = input.iter().map(|&x| f64::from(x)).collect();
        let mut output = vec![0.0; self.n];
        for &expert in &order[..routing.chosen] {
            let half = |half: usize, i: usize| {
                let at = (2 * expert + half) * self.inner + i;
                let bias = experts.up_bias.map_or(0.0, |bias| f64::from(bias[at]));
                dot(&input, &up[at * self.k..][..self.k]) + bias
            };
            let gated = |i| match experts.gating {
                Gating::Plain(_) => half(1, i) / (1.0 + (-half(1, i)).exp()) * half(0, i),
                Gating::BoundedSwish { bound, slope } => {
                    let (bound, slope) = (f64::from(bound), f64::from(slope));
                    let (up, gate) = (half(0, i).clamp(-bound, bound), half(1, i).min(bound));
                    (up + 1.0) * gate / (1.0 + (-slope * gate).exp())
                }
            };
            let gated: Vec<f64> = (0..self.inner).map(gated).collect();
            let weight = powers[expert] / powers.iter().sum::<f64>();
            for (i, output) in output.iter_mut().enumerate() {
                let at = expert * self.n + i;
                let bias = experts.down_bias.map_or(0.0, |bias| f64::from(bias[at]));
                *output += weight * (dot(&gated, &down[at * self.inner..][..self.inner]) + bias);
            }
        }
        output
    }
}

fn routing(chosen: usize) -> Routing<'static> {
    Routing { chosen, sigmoid: false, prefer: None, groups: None, renormalize: false, scale: 1.0 }
}

#[test]
fn outputs_are_near_the_definition_on_every_instruction_set() {
    let bounded = Gating::BoundedSwish { bound: 0.75, slope: 1.702 };
    for kind in KINDS {
        for (sizes, experts, chosen) in
            [([1, 37, 19, 21], 5, 2), ([7, 16, 16, 16], 3, 3), ([40, 20, 33, 50], 4, 1)]
        {
            let case = Case::new(kind, sizes, experts, chosen);
            for (gating, biases) in [(PLAIN, false), (bounded, true)] {
                let (routing, experts) = (routing(chosen), case.experts(gating, biases));
                let exact = |row| case.exact(row, routing, experts);
                let exact: Vec<f64> = (0..case.rows).flat_map(exact).collect();
                for isa in Isa::available() {
                    let found = case.run(isa, 2, routing, experts, [0, case.rows]);
                    for (found, exact) in found.iter().zip(&exact) {
                        let error = (f64::from(*found) - exact).abs();
                        assert!(error < 2e-5, "{isa} {kind:?} {sizes:?}: {found} is not {exact}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_alone_has_the_bits_it_has_in_any_batch_on_any_threads_and_instructions() {
    let case = Case::new(WeightKind::BF16, [61, 36, 43, 150], 8, 3);
    let groups = Some(RoutingGroups { count: 4, chosen: 2, best: 2 });
    let grouped = Routing {
        sigmoid: true,
        groups,
        prefer: Some(&case.prefer),
        renormalize: true,
        scale: 2.5,
        ..routing(3)
    };
    for (routing, experts) in
        [(routing(3), case.experts(PLAIN, false)), (grouped, case.experts(PLAIN, true))]
    {
        let alone = |row| case.run(Isa::Plain, 1, routing, experts, [row, 1]);
        let alone: Vec<u32> = (0..case.rows).flat_map(|row| bits(&alone(row))).collect();
        for isa in Isa::available() {
            for threads in [1, 2, 3, 7] {
                for rows in [1, 2, 5, 29, 61] {
                    let first = 61 - rows;
                    let together = case.run(isa, threads, routing, experts, [first, rows]);
                    assert_eq!(bits(&together), alone[first * case.n..], "{isa} {rows} rows");
                }
            }
        }
    }
}

#[test]
fn several_blocks_chunks_and_panels_give_the_bits_of_one_row() {
    let rows = super::BLOCK + 70;
    let case = Case::new(WeightKind::F32, [rows, 24, 2 * super::COLUMNS + 9, 300], 3, 2);
    let experts = case.experts(PLAIN, false);
    for isa in Isa::available() {
        let together = case.run(isa, 2, routing(2), experts, [0, rows]);
        for row in [0, 100, super::BLOCK - 1, super::BLOCK, rows - 1] {
            let alone = case.run(isa, 1, routing(2), experts, [row, 1]);
            assert_eq!(bits(&alone), bits(&together[row * case.n..(row + 1) * case.n]));
        }
    }
}

#[test]
fn experts_that_no_row_chose_are_not_read() {
    let mut case = Case::new(WeightKind::F32, [1, 16, 16, 16], 4, 1);
    let logits = case.scores().start;
    case.arena[logits..logits + 4].copy_from_slice(&[0.0, 5.0, 0.0, 0.0]);
    let poison = |table: &mut Table, each: usize| {
        let Table::F32(floats) = table else { unreachable!("single precision") };
        for (i, float) in floats.iter_mut().enumerate() {
            *float = if i / each == 1 { *float } else { f32::NAN };
        }
    };
    poison(&mut case.up, 2 * 16 * 16);
    poison(&mut case.down, 16 * 16);
    let output = case.run(Isa::detect(), 2, routing(1), case.experts(PLAIN, false), [0, 1]);
    assert!(output.iter().all(|value| value.is_finite()));
}

#[test]
fn no_rows_are_no_work() {
    let case = Case::new(WeightKind::F32, [2, 16, 16, 16], 4, 1);
    let output = case.run(Isa::detect(), 2, routing(1), case.experts(PLAIN, false), [1, 0]);
    assert!(output.is_empty());
}

#[test]
fn stretches_of_the_experts_add_up_to_all_of_them() {
    let (sizes, experts) = ([9, 20, 17, 30], 5);
    let [rows, k, inner, n] = sizes;
    for kind in KINDS {
        let case = Case::new(kind, sizes, experts, 2);
        let all = case.experts(PLAIN, true);
        let stretch = |first: usize, count: usize| Experts {
            up: all.up.part(first * 2 * inner * k..(first + count) * 2 * inner * k),
            down: all.down.part(first * n * inner..(first + count) * n * inner),
            up_bias: all.up_bias.map(|bias| &bias[first * 2 * inner..][..count * 2 * inner]),
            down_bias: all.down_bias.map(|bias| &bias[first * n..][..count * n]),
            stretch: Some([first, count]),
            ..all
        };
        for isa in Isa::available() {
            for threads in [1, 3] {
                let run = |experts| case.run(isa, threads, routing(2), experts, [0, rows]);
                let whole = run(all);
                assert_eq!(bits(&whole), bits(&run(stretch(0, experts))));
                let (left, right) = (run(stretch(0, 2)), run(stretch(2, 3)));
                for ((left, right), whole) in left.iter().zip(&right).zip(&whole) {
                    assert!((left + right - whole).abs() <= 1e-5 * whole.abs().max(1.0));
                }
                assert!(run(stretch(5, 0)).iter().all(|&x| x == 0.0));
            }
        }
    }
}
