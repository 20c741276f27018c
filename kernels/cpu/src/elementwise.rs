//! Activations and arithmetic, element by element.

#![allow(unsafe_code, reason = "threads write disjoint rows of one arena")]

use crate::{
    Isa, Team, exp,
    isa::Kernel,
    lanes::{LANES, Lanes},
    rows::View,
};
use std::ops::Range;

/// An activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x · sigmoid(x)`
    Silu,
    /// `x · Φ(x)`, exact.
    Gelu,
    /// `x/2 · (1 + tanh(√(2/π) · (x + 0.044715·x³)))`
    GeluTanh,
    /// `max(x, 0)`; NaN stays.
    Relu,
    /// `max(x, 0)²`; NaN stays.
    SquaredRelu,
    /// `1 / (1 + e^-x)`
    Sigmoid,
}

/// What two halves of a layer become together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gating {
    /// `activation(gate) · up`
    Plain(Activation),
    /// `(up + 1) · gate · sigmoid(slope · gate)`, where `gate` is cut off above `bound` and `up`
    /// beyond `bound` on both sides.
    BoundedSwish {
        /// At least zero.
        bound: f32,
        /// How steep the sigmoid is.
        slope: f32,
    },
}

/// What is done to two operands, sixteen at a time; one operand is given twice.
trait Pair: Copy {
    unsafe fn apply<L: Lanes>(self, left: L, right: L) -> L;
}

/// Names a [`Pair`] and says what it does.
macro_rules! pair {
    ($name:ident, |$left:ident, $right:ident| $value:expr) => {
        #[derive(Clone, Copy)]
        struct $name;

        impl Pair for $name {
            #[inline(always)]
            unsafe fn apply<L: Lanes>(self, $left: L, $right: L) -> L {
                // SAFETY: the machine has the instructions, says the caller.
                unsafe { $value }
            }
        }
    };
}

pair!(Sum, |left, right| left.add(right));
pair!(Product, |left, right| left.mul(right));
pair!(SiluGate, |gate, up| exp::silu(gate).mul(up));
pair!(GeluGate, |gate, up| exp::gelu(gate).mul(up));
pair!(GeluTanhGate, |gate, up| exp::gelu_tanh(gate).mul(up));
pair!(ReluGate, |gate, up| exp::relu(gate).mul(up));
pair!(SquaredReluGate, |gate, up| exp::squared_relu(gate).mul(up));
pair!(SigmoidGate, |gate, up| exp::sigmoid(gate).mul(up));
pair!(Silu, |input, _same| exp::silu(input));
pair!(Gelu, |input, _same| exp::gelu(input));
pair!(GeluTanh, |input, _same| exp::gelu_tanh(input));
pair!(Relu, |input, _same| exp::relu(input));
pair!(SquaredRelu, |input, _same| exp::squared_relu(input));
pair!(Sigmoid, |input, _same| exp::sigmoid(input));

/// Makes a [`Pair`] of numbers and says what it does with them.
macro_rules! pair_of {
    ($name:ident($($number:ident),+), |$input:ident| $value:expr) => {
        #[derive(Clone, Copy)]
        struct $name {
            $($number: f32),+
        }

        impl Pair for $name {
            #[inline(always)]
            unsafe fn apply<L: Lanes>(self, $input: L, _same: L) -> L {
                let $name { $($number),+ } = self;
                // SAFETY: the machine has the instructions, says the caller.
                unsafe { $value }
            }
        }
    };
}

pair_of!(Scale(factor), |input| input.mul(L::splat(factor)));
pair_of!(Softcap(bound), |input| exp::softcap(input, bound));
pair_of!(Clamp(low, high), |input| L::splat(high).min(L::splat(low).max(input)));

/// `factor · input + sum`, rounded once.
#[derive(Clone, Copy)]
struct Accumulate {
    factor: f32,
}

impl Pair for Accumulate {
    #[inline(always)]
    unsafe fn apply<L: Lanes>(self, input: L, sum: L) -> L {
        // SAFETY: the machine has the instructions, says the caller.
        unsafe { input.mul_add(L::splat(self.factor), sum) }
    }
}

/// [`Gating::BoundedSwish`]; NaN stays.
#[derive(Clone, Copy)]
struct BoundedSwish {
    bound: f32,
    slope: f32,
}

impl Pair for BoundedSwish {
    #[inline(always)]
    unsafe fn apply<L: Lanes>(self, gate: L, up: L) -> L {
        // SAFETY: the machine has the instructions, says the caller.
        unsafe {
            let bound = L::splat(self.bound);
            let gate = bound.min(gate);
            let up = bound.min(L::splat(-self.bound).max(up));
            let swish = exp::logistic(gate, gate.mul(L::splat(self.slope)));
            up.add(L::splat(1.0)).mul(swish)
        }
    }
}

/// `output = activation(input)`; threads share rows and columns.
///
/// # Safety
/// All have one shape; `output` is an operand or apart from it. So for all here.
pub(crate) unsafe fn activate(
    isa: Isa,
    activation: Activation,
    input: View,
    output: View,
    team: &Team<'_>,
) {
    let operands = [input, input];
    // SAFETY: as promised by the caller.
    unsafe {
        match activation {
            Activation::Silu => apply(isa, Silu, operands, output, team),
            Activation::Gelu => apply(isa, Gelu, operands, output, team),
            Activation::GeluTanh => apply(isa, GeluTanh, operands, output, team),
            Activation::Relu => apply(isa, Relu, operands, output, team),
            Activation::SquaredRelu => apply(isa, SquaredRelu, operands, output, team),
            Activation::Sigmoid => apply(isa, Sigmoid, operands, output, team),
        }
    }
}

/// `output = activation(gate) · up`
pub(crate) unsafe fn gate(
    isa: Isa,
    activation: Activation,
    operands: [View; 2],
    output: View,
    team: &Team<'_>,
) {
    // SAFETY: as promised by the caller.
    unsafe {
        match activation {
            Activation::Silu => apply(isa, SiluGate, operands, output, team),
            Activation::Gelu => apply(isa, GeluGate, operands, output, team),
            Activation::GeluTanh => apply(isa, GeluTanhGate, operands, output, team),
            Activation::Relu => apply(isa, ReluGate, operands, output, team),
            Activation::SquaredRelu => apply(isa, SquaredReluGate, operands, output, team),
            Activation::Sigmoid => apply(isa, SigmoidGate, operands, output, team),
        }
    }
}

/// `output = left + right`
pub(crate) unsafe fn add(isa: Isa, left: View, right: View, output: View, team: &Team<'_>) {
    // SAFETY: as promised by the caller.
    unsafe { apply(isa, Sum, [left, right], output, team) }
}

/// `output = left · right`; a right operand of one column counts for every column, and is then
/// apart from the output.
pub(crate) unsafe fn multiply(isa: Isa, left: View, right: View, output: View, team: &Team<'_>) {
    if right.width == output.width {
        // SAFETY: as promised by the caller.
        return unsafe { apply(isa, Product, [left, right], output, team) };
    }
    let (rows, columns) = share(output, team);
    for row in rows {
        // SAFETY: as promised by the caller; this row's columns are this thread's.
        unsafe {
            let factor = *right.row(row);
            let left = left.row(row).add(columns.start).cast_const();
            let output = output.row(row).add(columns.start);
            let (pair, n) = (Scale { factor }, columns.len());
            isa.run(Apply { left, right: left, output, n, pair });
        }
    }
}

/// One stretch of `n` elements: `output = gating(gate, up)`, on the calling thread.
///
/// # Safety
/// All three have `n` elements, and the output is an operand or apart from it.
pub(crate) unsafe fn gate_stretch(
    isa: Isa,
    gating: Gating,
    [left, right]: [*const f32; 2],
    output: *mut f32,
    n: usize,
) {
    /// Fills in the pair.
    macro_rules! run {
        ($pair:expr) => {
            isa.run(Apply { left, right, output, n, pair: $pair })
        };
    }
    // SAFETY: as promised by the caller.
    unsafe {
        match gating {
            Gating::Plain(Activation::Silu) => run!(SiluGate),
            Gating::Plain(Activation::Gelu) => run!(GeluGate),
            Gating::Plain(Activation::GeluTanh) => run!(GeluTanhGate),
            Gating::Plain(Activation::Relu) => run!(ReluGate),
            Gating::Plain(Activation::SquaredRelu) => run!(SquaredReluGate),
            Gating::Plain(Activation::Sigmoid) => run!(SigmoidGate),
            Gating::BoundedSwish { bound, slope } => run!(BoundedSwish { bound, slope }),
        }
    }
}

/// One stretch of `n` elements: `output = factor · input + output`, on the calling thread.
///
/// # Safety
/// Both have `n` elements and are apart.
pub(crate) unsafe fn accumulate(
    isa: Isa,
    factor: f32,
    input: *const f32,
    output: *mut f32,
    n: usize,
) {
    let pair = Accumulate { factor };
    // SAFETY: as promised by the caller.
    unsafe { isa.run(Apply { left: input, right: output, output, n, pair }) }
}

/// `output = factor · input`
pub(crate) unsafe fn scale(isa: Isa, factor: f32, input: View, output: View, team: &Team<'_>) {
    // SAFETY: as promised by the caller.
    unsafe { apply(isa, Scale { factor }, [input, input], output, team) }
}

/// `output = bound · tanh(input / bound)`
pub(crate) unsafe fn softcap(isa: Isa, bound: f32, input: View, output: View, team: &Team<'_>) {
    // SAFETY: as promised by the caller.
    unsafe { apply(isa, Softcap { bound }, [input, input], output, team) }
}

/// `output = min(max(input, low), high)`
pub(crate) unsafe fn clamp(
    isa: Isa,
    [low, high]: [f32; 2],
    input: View,
    output: View,
    team: &Team<'_>,
) {
    // SAFETY: as promised by the caller.
    unsafe { apply(isa, Clamp { low, high }, [input, input], output, team) }
}

/// A thread's rows and columns: threads share the rows; of a few rows, the columns.
fn share(output: View, team: &Team<'_>) -> (Range<usize>, Range<usize>) {
    if output.rows < 4 * team.threads() {
        (0..output.rows, team.part(output.width, 4 * LANES))
    } else {
        (team.part(output.rows, 1), 0..output.width)
    }
}

/// Each thread its share.
unsafe fn apply<P: Pair>(isa: Isa, pair: P, operands: [View; 2], output: View, team: &Team<'_>) {
    let (rows, columns) = share(output, team);
    let n = columns.len();
    if n == 0 {
        return;
    }
    for row in rows {
        // SAFETY: as promised by the caller; this row's columns are this thread's.
        unsafe {
            let [left, right] = operands.map(|view| view.row(row).add(columns.start).cast_const());
            let output = output.row(row).add(columns.start);
            isa.run(Apply { left, right, output, n, pair });
        }
    }
}

/// One stretch of elements.
struct Apply<P> {
    left: *const f32,
    right: *const f32,
    output: *mut f32,
    n: usize,
    pair: P,
}

impl<P: Pair> Kernel for Apply<P> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Apply { left, right, output, n, pair } = self;
        let whole = n - n % LANES;
        let mut i = 0;
        // SAFETY: all three have `n` elements.
        unsafe {
            while i < whole {
                pair.apply(L::load(left.add(i)), L::load(right.add(i))).store(output.add(i));
                i += LANES;
            }
            let n = n - whole;
            if n > 0 {
                let (a, b) = (L::load_part(left.add(i), n), L::load_part(right.add(i), n));
                pair.apply(a, b).store_part(output.add(i), n);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{bits, noise, run};
    use crate::{Activation, Isa, Rows, Step};

    const ALL: [Activation; 6] = [
        Activation::Silu,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::Relu,
        Activation::SquaredRelu,
        Activation::Sigmoid,
    ];

    #[test]
    fn gates_are_activations_times_the_other_operand_in_any_place() {
        for (rows, width) in [(1, 1), (1, 300), (3, 40), (40, 17)] {
            let arena = noise(rows * width * 4, 11);
            let wide = Rows::dense(0, rows, 2 * width);
            let (gate, up) = (wide.columns(0, width), wide.columns(width, width));
            let [a, b] = [2, 3].map(|i| Rows::dense(i * rows * width, rows, width));
            for activation in ALL {
                let steps = [
                    Step::Activate { input: gate, activation, output: a },
                    Step::Multiply { left: a, right: up, output: b },
                ];
                let two = run(Isa::Plain, 1, &arena, &mut [], &steps);
                let expected = bits(&two[b.start..]);
                for isa in Isa::available() {
                    for threads in [1, 2, 3] {
                        let step = Step::Gate { gate, up, activation, output: b };
                        let one = run(isa, threads, &arena, &mut [], &[step]);
                        assert_eq!(bits(&one[b.start..]), expected);
                    }
                    let step = Step::Gate { gate, up, activation, output: gate };
                    let one = run(isa, 2, &arena, &mut [], &[step]);
                    for row in 0..rows {
                        let in_place = &one[row * 2 * width..][..width];
                        assert_eq!(bits(in_place), expected[row * width..][..width]);
                    }
                }
            }
        }
    }

    #[test]
    fn sums_and_products_are_what_plain_arithmetic_says() {
        let (rows, width) = (6, 35);
        let arena = noise(rows * width * 4, 12);
        let place = |i: usize| Rows::dense(i * rows * width, rows, width);
        let (left, right) = (place(0), place(1));
        let steps = [
            Step::Add { left, right, output: place(2) },
            Step::Multiply { left, right, output: place(3) },
        ];
        for isa in Isa::available() {
            let after = run(isa, 2, &arena, &mut [], &steps);
            for i in 0..rows * width {
                let (a, b) = (arena[i], arena[rows * width + i]);
                assert_eq!(after[2 * rows * width + i].to_bits(), (a + b).to_bits());
                assert_eq!(after[3 * rows * width + i].to_bits(), (a * b).to_bits());
            }
        }
    }

    #[test]
    fn a_right_operand_of_one_column_counts_for_every_column() {
        for (rows, width) in [(1, 70), (3, 200), (40, 17)] {
            let arena = noise(2 * rows * (width + 1), 14);
            let wide = Rows::dense(0, rows, width + 1);
            let (left, right) = (wide.columns(0, width), wide.columns(width, 1));
            let output = Rows { start: rows * (width + 1), ..left };
            for isa in Isa::available() {
                for threads in [1, 2, 3] {
                    let step = Step::Multiply { left, right, output };
                    let after = run(isa, threads, &arena, &mut [], &[step]);
                    let step = Step::Multiply { left, right, output: left };
                    let in_place = run(isa, threads, &arena, &mut [], &[step]);
                    for row in 0..rows {
                        let input = &arena[row * (width + 1)..][..width + 1];
                        let product = |x: &f32| (x * input[width]).to_bits();
                        let expected: Vec<u32> = input[..width].iter().map(product).collect();
                        let at = |start: usize| start + row * (width + 1);
                        assert_eq!(bits(&after[at(output.start)..][..width]), expected);
                        assert_eq!(bits(&in_place[at(0)..][..width]), expected);
                    }
                }
            }
        }
    }

    #[test]
    fn scaling_capping_and_clamping_are_what_plain_arithmetic_says_in_any_place() {
        let (rows, width) = (6, 35);
        let n = rows * width;
        let mut arena = noise(4 * n, 13);
        arena[..n].iter_mut().for_each(|x| *x *= 9.0);
        arena[7] = f32::NAN;
        let place = |i: usize| Rows::dense(i * n, rows, width);
        let input = place(0);
        let (factor, bound, [low, high]) = (12.5, 3.0, [-2.0, 4.5]);
        let steps = |input, outputs: [Rows; 3]| {
            [
                Step::Scale { input, factor, output: outputs[0] },
                Step::Softcap { input, bound, output: outputs[1] },
                Step::Clamp { input, low, high, output: outputs[2] },
            ]
        };
        let plain = run(Isa::Plain, 1, &arena, &mut [], &steps(input, [1, 2, 3].map(place)));
        for isa in Isa::available() {
            for threads in [1, 2, 3] {
                let steps = steps(input, [1, 2, 3].map(place));
                let after = run(isa, threads, &arena, &mut [], &steps);
                for i in (0..n).filter(|&i| i != 7) {
                    let x = arena[i];
                    assert_eq!(after[n + i].to_bits(), (x * factor).to_bits());
                    assert!((after[2 * n + i] - bound * (x / bound).tanh()).abs() < 1e-6);
                    assert_eq!(after[2 * n + i].to_bits(), plain[2 * n + i].to_bits());
                    assert_eq!(after[3 * n + i], x.clamp(low, high));
                }
                assert!([1, 2, 3].iter().all(|i| after[i * n + 7].is_nan()));
            }
            for (i, step) in steps(input, [input; 3]).into_iter().enumerate() {
                let after = run(isa, 2, &arena, &mut [], &[step]);
                let apart = &plain[(i + 1) * n..][..n];
                assert_eq!(bits(&after[8..n]), bits(&apart[8..]));
            }
        }
    }
}
