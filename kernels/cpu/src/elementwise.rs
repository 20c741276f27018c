//! Activations and arithmetic, element by element.

#![allow(unsafe_code, reason = "threads write disjoint rows of one arena")]

use crate::{
    Isa, Team, exp,
    isa::Kernel,
    lanes::{LANES, Lanes},
    rows::View,
};

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
}

/// What is done to two operands, sixteen at a time.
trait Pair {
    unsafe fn apply<L: Lanes>(left: L, right: L) -> L;
}

/// Names a [`Pair`] and says what it does.
macro_rules! pair {
    ($name:ident, |$left:ident, $right:ident| $value:expr) => {
        struct $name;

        impl Pair for $name {
            #[inline(always)]
            unsafe fn apply<L: Lanes>($left: L, $right: L) -> L {
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
pair!(Silu, |input, _same| exp::silu(input));
pair!(Gelu, |input, _same| exp::gelu(input));
pair!(GeluTanh, |input, _same| exp::gelu_tanh(input));
pair!(Relu, |input, _same| exp::relu(input));

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
            Activation::Silu => apply::<Silu>(isa, operands, output, team),
            Activation::Gelu => apply::<Gelu>(isa, operands, output, team),
            Activation::GeluTanh => apply::<GeluTanh>(isa, operands, output, team),
            Activation::Relu => apply::<Relu>(isa, operands, output, team),
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
            Activation::Silu => apply::<SiluGate>(isa, operands, output, team),
            Activation::Gelu => apply::<GeluGate>(isa, operands, output, team),
            Activation::GeluTanh => apply::<GeluTanhGate>(isa, operands, output, team),
            Activation::Relu => apply::<ReluGate>(isa, operands, output, team),
        }
    }
}

/// `output = left + right`
pub(crate) unsafe fn add(isa: Isa, left: View, right: View, output: View, team: &Team<'_>) {
    // SAFETY: as promised by the caller.
    unsafe { apply::<Sum>(isa, [left, right], output, team) }
}

/// `output = left · right`
pub(crate) unsafe fn multiply(isa: Isa, left: View, right: View, output: View, team: &Team<'_>) {
    // SAFETY: as promised by the caller.
    unsafe { apply::<Product>(isa, [left, right], output, team) }
}

/// Threads share the rows; of a few rows, the columns too.
unsafe fn apply<P: Pair>(isa: Isa, operands: [View; 2], output: View, team: &Team<'_>) {
    let few = output.rows < 4 * team.threads();
    let (rows, columns) = if few {
        (0..output.rows, team.part(output.width, 4 * LANES))
    } else {
        (team.part(output.rows, 1), 0..output.width)
    };
    let n = columns.len();
    if n == 0 {
        return;
    }
    for row in rows {
        // SAFETY: as promised by the caller; this row's columns are this thread's.
        unsafe {
            let [left, right] = operands.map(|view| view.row(row).add(columns.start).cast_const());
            let output = output.row(row).add(columns.start);
            let pair = std::marker::PhantomData::<P>;
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
    pair: std::marker::PhantomData<P>,
}

impl<P: Pair> Kernel for Apply<P> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Apply { left, right, output, n, .. } = self;
        let whole = n - n % LANES;
        let mut i = 0;
        // SAFETY: all three have `n` elements.
        unsafe {
            while i < whole {
                P::apply(L::load(left.add(i)), L::load(right.add(i))).store(output.add(i));
                i += LANES;
            }
            let n = n - whole;
            if n > 0 {
                let (a, b) = (L::load_part(left.add(i), n), L::load_part(right.add(i), n));
                P::apply(a, b).store_part(output.add(i), n);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{bits, noise, run};
    use crate::{Activation, Isa, Rows, Step};

    const ALL: [Activation; 4] =
        [Activation::Silu, Activation::Gelu, Activation::GeluTanh, Activation::Relu];

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
}
