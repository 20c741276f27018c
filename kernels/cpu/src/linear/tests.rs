//! Against double precision, and bit for bit against itself.

use crate::testing::{KINDS, Table, bits, noise, run};
use crate::{Isa, Rows, Step, WeightKind, convert};

/// A product laid out with gaps: input rows at a stride, output rows at a stride.
struct Product {
    m: usize,
    k: usize,
    n: usize,
    arena: Vec<f32>,
    table: Table,
    bias: Vec<f32>,
}

impl Product {
    fn new(kind: WeightKind, m: usize, k: usize, n: usize) -> Product {
        let arena = noise(3 + m * (k + 5) + m * (n + 7), 1);
        let table = Table::new(kind, &noise(n * k, 2));
        Product { m, k, n, arena, table, bias: noise(n, 3) }
    }

    fn input(&self) -> Rows {
        Rows { start: 3, rows: self.m, width: self.k, stride: self.k + 5 }
    }

    fn output(&self) -> Rows {
        let start = 3 + self.m * (self.k + 5);
        Rows { start, rows: self.m, width: self.n, stride: self.n + 7 }
    }

    /// Rows `first..first + rows` alone: the output rows one after the other.
    fn run(&self, isa: Isa, threads: usize, first: usize, rows: usize) -> Vec<f32> {
        let part = |all: Rows| Rows { start: all.start + first * all.stride, rows, ..all };
        let (input, output) = (part(self.input()), part(self.output()));
        let bias = Some(self.bias.as_slice());
        let step = Step::Linear { input, weights: self.table.weights(), bias, output };
        let arena = run(isa, threads, &self.arena, &mut [], &[step]);
        let written = |i: usize| {
            i >= output.start
                && (i - output.start) / output.stride < rows
                && (i - output.start) % output.stride < self.n
        };
        for (i, (before, after)) in self.arena.iter().zip(&arena).enumerate() {
            assert!(written(i) || before.to_bits() == after.to_bits(), "wrote beside: {i}");
        }
        let row = |r: usize| &arena[output.start + r * output.stride..][..self.n];
        (0..rows).flat_map(row).copied().collect()
    }

    fn exact(&self, row: usize, column: usize) -> (f64, f64) {
        let x = &self.arena[3 + row * (self.k + 5)..][..self.k];
        let w = convert::to_vec(self.table.weights().part(column * self.k..(column + 1) * self.k));
        let products = x.iter().zip(&w).map(|(&x, &w)| f64::from(x) * f64::from(w));
        let (mut sum, mut size) = (f64::from(self.bias[column]), 0.0);
        for product in products {
            sum += product;
            size += product.abs();
        }
        (sum, size)
    }
}

#[test]
fn products_are_near_exact_ones_on_every_instruction_set() {
    for kind in KINDS {
        for (m, k, n) in
            [(1, 16, 16), (1, 37, 19), (2, 1, 1), (5, 100, 33), (13, 70, 50), (20, 15, 7)]
        {
            let product = Product::new(kind, m, k, n);
            for isa in Isa::available() {
                let output = product.run(isa, 1, 0, m);
                for (i, &value) in output.iter().enumerate() {
                    let (exact, size) = product.exact(i / n, i % n);
                    let error = (f64::from(value) - exact).abs();
                    assert!(error <= (size + 1.0) * 2e-7, "{isa} {kind:?} {m}x{k}x{n}: {error}");
                }
            }
        }
    }
}

#[test]
fn a_row_alone_has_the_bits_it_has_in_any_batch_on_any_threads_and_instructions() {
    for kind in KINDS {
        for (k, n) in [(36, 43), (64, 64), (129, 20)] {
            let product = Product::new(kind, 27, k, n);
            let alone: Vec<u32> =
                (0..27).flat_map(|row| bits(&product.run(Isa::Plain, 1, row, 1))).collect();
            for isa in Isa::available() {
                for rows in 1..=27 {
                    let together = bits(&product.run(isa, 1, 27 - rows, rows));
                    assert_eq!(together, alone[(27 - rows) * n..], "{isa} {kind:?} {rows} rows");
                }
                for threads in [2, 3, 5] {
                    assert_eq!(bits(&product.run(isa, threads, 0, 27)), alone);
                    assert_eq!(bits(&product.run(isa, threads, 0, 1)), alone[..n]);
                }
            }
        }
    }
}

#[test]
fn several_panels_give_the_bits_of_one_row() {
    let (m, k, n) = (26, 3001, 150);
    let product = Product::new(WeightKind::BF16, m, k, n);
    for isa in Isa::available() {
        let together = bits(&product.run(isa, 1, 0, m));
        for row in [0, 6, 25] {
            assert_eq!(bits(&product.run(isa, 2, row, 1)), together[row * n..(row + 1) * n]);
        }
    }
}

#[test]
fn infinities_and_nan_come_through_and_stay_in_their_row() {
    let mut product = Product::new(WeightKind::F16, 3, 40, 16);
    product.arena[3 + 45 + 39] = f32::NAN;
    product.arena[3 + 90 + 2] = f32::INFINITY;
    for isa in Isa::available() {
        let output = product.run(isa, 1, 0, 3);
        assert!(output[..16].iter().all(|value| value.is_finite()));
        assert!(output[16..32].iter().all(|value| value.is_nan()));
        assert!(output[32..].iter().all(|value| value.is_infinite()));
    }
}
