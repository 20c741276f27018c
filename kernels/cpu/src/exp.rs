//! The exponential function and what is made of it.

#![allow(unsafe_code, reason = "lanes")]

use crate::lanes::{Lanes, ROUNDER};

/// Below this, `e^x` is zero; above `HIGHEST` it is infinite.
const LOWEST: f32 = -104.0;
const HIGHEST: f32 = 89.0;

/// `ln 2` in two parts, the first with zeros at its end so that whole multiples are exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// `(e^r - 1 - r) / r²` for `|r| <= ln(2)/2`, by Remez' algorithm; relative to `e^r` the
/// greatest error is 3.1e-9.
const EXP: [f32; 5] = [0.499_999_94, 0.166_665_2, 0.041_668_396, 0.008_368_812, 0.001_381_440_2];

/// `e^(t²/2) · Q(t)`, `Q` the upper tail of the normal distribution, in `s = (t-3)/(t+3)` for
/// `0 <= t <= 15`, by Remez' algorithm; the greatest relative error is 1.1e-8.
const TAIL: [f32; 10] = [
    0.121_513_95,
    -0.206_402_61,
    0.123_225_056,
    -0.046_213_236,
    0.006_131_811,
    0.002_904_213_7,
    -9.828_224e-4,
    -3.385_459_4e-4,
    1.145_046e-4,
    5.267_643_4e-5,
];

/// Below this, `tanh` is a polynomial.
const TANH_BOUND: f32 = 0.625;

/// `(tanh x - x) / x³` in `x²` for `|x| <= 0.625`, by Remez' algorithm; relative to `tanh x` the
/// greatest error is 8.7e-9.
const TANH: [f32; 5] = [-0.333_332_8, 0.133_314_42, -0.053_739_715, 0.020_639_09, -0.005_704_988_7];

/// A polynomial, by Horner's rule.
#[inline(always)]
unsafe fn polynomial<L: Lanes, const N: usize>(x: L, coefficients: [f32; N]) -> L {
    // SAFETY: the machine has the instructions, says the caller.
    unsafe {
        let mut sum = L::splat(coefficients[N - 1]);
        for i in (0..N - 1).rev() {
            sum = sum.mul_add(x, L::splat(coefficients[i]));
        }
        sum
    }
}

/// `e^x`, within one unit in the last place; infinity, zero and NaN where they belong.
///
/// # Safety
/// The machine has the instructions of `L`; so for all here.
#[inline(always)]
pub(crate) unsafe fn exp<L: Lanes>(x: L) -> L {
    // SAFETY: as promised by the caller.
    unsafe {
        let x = L::splat(HIGHEST).min(L::splat(LOWEST).max(x));
        let power = x.mul_add(L::splat(std::f32::consts::LOG2_E), L::splat(ROUNDER));
        let n = power.sub(L::splat(ROUNDER));
        let r = n.mul_add(L::splat(-LN_2_HIGH), x);
        let r = n.mul_add(L::splat(-LN_2_LOW), r);
        let above_linear = polynomial(r, EXP);
        let less_one = r.mul(r).mul_add(above_linear, r);
        less_one.add(L::splat(1.0)).times_power(power)
    }
}

/// `x / (1 + e^-y)`: `x` times the logistic function of `y`.
#[inline(always)]
pub(crate) unsafe fn logistic<L: Lanes>(x: L, y: L) -> L {
    // SAFETY: as promised by the caller.
    unsafe { x.div(L::splat(1.0).add(exp(L::splat(0.0).sub(y)))) }
}

/// `1 / (1 + e^-x)`
#[inline(always)]
pub(crate) unsafe fn sigmoid<L: Lanes>(x: L) -> L {
    // SAFETY: as promised by the caller.
    unsafe { logistic(L::splat(1.0), x) }
}

/// `x · sigmoid(x)`
#[inline(always)]
pub(crate) unsafe fn silu<L: Lanes>(x: L) -> L {
    // SAFETY: as promised by the caller.
    unsafe { logistic(x, x) }
}

/// `x/2 · (1 + tanh(u))` with `u = √(2/π) · (x + 0.044715·x³)`, which is `x · sigmoid(2u)`.
#[inline(always)]
pub(crate) unsafe fn gelu_tanh<L: Lanes>(x: L) -> L {
    const TWICE: f32 = 1.595_769_2;
    const CUBE: f32 = 0.071_354_814;
    // SAFETY: as promised by the caller.
    unsafe {
        let u = x.mul(x).mul_add(L::splat(CUBE), L::splat(TWICE)).mul(x);
        logistic(x, u)
    }
}

/// `x · Φ(x)`: with `t = |x|`, `Q(t)` from its table, and `Φ(x) = 1 - Q(x)`.
#[inline(always)]
pub(crate) unsafe fn gelu<L: Lanes>(x: L) -> L {
    // SAFETY: as promised by the caller.
    unsafe {
        // Beyond 15 the tail is below the least float, and the polynomial ends.
        let t = L::splat(15.0).min(x.abs());
        let s = t.sub(L::splat(3.0)).div(t.add(L::splat(3.0)));
        let bell = exp(t.mul(t).mul(L::splat(-0.5)));
        let tail = polynomial(s, TAIL).mul(bell);
        x.mul(x.if_not_negative(L::splat(1.0).sub(tail), tail))
    }
}

/// `max(x, 0)`; NaN stays.
#[inline(always)]
pub(crate) unsafe fn relu<L: Lanes>(x: L) -> L {
    // SAFETY: as promised by the caller.
    unsafe { L::splat(0.0).max(x) }
}

/// `max(x, 0)²`; NaN stays.
#[inline(always)]
pub(crate) unsafe fn squared_relu<L: Lanes>(x: L) -> L {
    // SAFETY: as promised by the caller.
    unsafe {
        let x = relu(x);
        x.mul(x)
    }
}

/// `tanh x`, within two units in the last place: near zero by its polynomial, elsewhere
/// `1 - 2 / (e^2|x| + 1)` with the sign of `x`.
#[inline(always)]
pub(crate) unsafe fn tanh<L: Lanes>(x: L) -> L {
    // SAFETY: as promised by the caller.
    unsafe {
        let (size, square) = (x.abs(), x.mul(x));
        let near = square.mul(polynomial(square, TANH)).mul_add(x, x);
        let above_one = exp(size.add(size)).add(L::splat(1.0));
        let far = L::splat(1.0).sub(L::splat(2.0).div(above_one));
        let far = x.if_not_negative(far, L::splat(0.0).sub(far));
        L::splat(TANH_BOUND).sub(size).if_not_negative(near, far)
    }
}

/// `bound · tanh(x / bound)`
#[inline(always)]
pub(crate) unsafe fn softcap<L: Lanes>(x: L, bound: f32) -> L {
    // SAFETY: as promised by the caller.
    unsafe {
        let bound = L::splat(bound);
        tanh(x.div(bound)).mul(bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::isa::Kernel;
    use crate::lanes::LANES;

    #[derive(Clone, Copy)]
    enum Function {
        Exp,
        Sigmoid,
        Silu,
        Gelu,
        GeluTanh,
        Relu,
        SquaredRelu,
        Tanh,
        Softcap,
    }

    struct Map<'a>(Function, &'a mut [f32]);

    impl Kernel for Map<'_> {
        type Output = ();

        #[inline(always)]
        unsafe fn run<L: Lanes>(self) {
            for part in self.1.chunks_mut(LANES) {
                // SAFETY: parts are read and written as long as they are.
                unsafe {
                    let x = L::load_part(part.as_ptr(), part.len());
                    let y = match self.0 {
                        Function::Exp => exp(x),
                        Function::Sigmoid => sigmoid(x),
                        Function::Silu => silu(x),
                        Function::Gelu => gelu(x),
                        Function::GeluTanh => gelu_tanh(x),
                        Function::Relu => relu(x),
                        Function::SquaredRelu => squared_relu(x),
                        Function::Tanh => tanh(x),
                        Function::Softcap => softcap(x, 30.0),
                    };
                    y.store_part(part.as_mut_ptr(), part.len());
                }
            }
        }
    }

    fn map(isa: Isa, function: Function, input: &[f32]) -> Vec<f32> {
        let mut output = input.to_vec();
        // SAFETY: tests ask for available instruction sets only.
        unsafe { isa.run(Map(function, &mut output)) };
        output
    }

    /// Every `step`-th float of either sign, the subnormal and the infinite ones too.
    fn sweep(step: usize) -> Vec<f32> {
        (0..=0x7F80_0000u32)
            .step_by(step)
            .flat_map(|bits| [f32::from_bits(bits), -f32::from_bits(bits)])
            .collect()
    }

    #[test]
    fn exp_is_within_one_unit_in_the_last_place_everywhere() {
        let inputs = sweep(997);
        for (&x, y) in inputs.iter().zip(map(Isa::detect(), Function::Exp, &inputs)) {
            let exact = f64::from(x).exp();
            let rounded = exact as f32;
            if rounded.is_infinite() || y.is_infinite() {
                assert_eq!(y, rounded, "exp({x})");
                continue;
            }
            let unit = f64::from(rounded.next_up()) - f64::from(rounded);
            assert!((f64::from(y) - exact).abs() <= unit, "exp({x}) = {y}, not {exact}");
        }
    }

    #[test]
    fn exp_of_the_extremes_is_what_it_should_be() {
        for isa in Isa::available() {
            let inputs = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, -150.0, 89.5, f32::NAN];
            let outputs = map(isa, Function::Exp, &inputs);
            assert_eq!(outputs[..6], [1.0, 1.0, f32::INFINITY, 0.0, 0.0, f32::INFINITY]);
            assert!(outputs[6].is_nan());
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        use Function::{Exp, Gelu, GeluTanh, Relu, Silu, Softcap, SquaredRelu, Tanh};
        let inputs = sweep(99_991);
        for function in [Exp, Silu, Gelu, GeluTanh, Relu, SquaredRelu, Tanh, Softcap] {
            let plain = map(Isa::Plain, function, &inputs);
            for isa in Isa::available() {
                for ((x, y), plain) in inputs.iter().zip(map(isa, function, &inputs)).zip(&plain) {
                    let same = y.to_bits() == plain.to_bits() || (y.is_nan() && plain.is_nan());
                    assert!(same, "{isa} at {x}: {y} is not {plain}");
                }
            }
        }
    }

    #[test]
    fn tanh_is_within_two_units_in_the_last_place_and_of_the_right_sign_everywhere() {
        let inputs = sweep(997);
        for (&x, y) in inputs.iter().zip(map(Isa::detect(), Function::Tanh, &inputs)) {
            let exact = f64::from(x).tanh();
            let rounded = (exact as f32).abs();
            let unit = f64::from(rounded.next_up()) - f64::from(rounded);
            assert!((f64::from(y) - exact).abs() <= 2.0 * unit, "tanh({x}) = {y}, not {exact}");
            assert!(y == 0.0 || (x < 0.0) == (y < 0.0), "tanh({x}) = {y}");
        }
        for isa in Isa::available() {
            let ends = map(isa, Function::Tanh, &[f32::INFINITY, f32::NEG_INFINITY, f32::NAN]);
            assert_eq!(ends[..2], [1.0, -1.0]);
            assert!(ends[2].is_nan());
            let ends = map(isa, Function::Softcap, &[f32::INFINITY, -1e30, f32::NAN]);
            assert_eq!(ends[..2], [30.0, -30.0]);
            assert!(ends[2].is_nan());
        }
    }

    /// `Φ(x)` by the series around zero, or the continued fraction of the tail.
    fn normal(x: f64) -> f64 {
        let density = (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt();
        if x.abs() < 3.0 {
            let (mut term, mut sum, mut n) = (x, x, 3.0);
            while term.abs() > 1e-20 {
                term *= x * x / n;
                sum += term;
                n += 2.0;
            }
            return 0.5 + density * sum;
        }
        let fraction = (1..200).rev().fold(0.0, |rest, n| f64::from(n) / (x.abs() + rest));
        let tail = density / (x.abs() + fraction);
        if x > 0.0 { 1.0 - tail } else { tail }
    }

    #[test]
    fn activations_are_near_their_definitions() {
        let inputs: Vec<f32> = (-160_000..=160_000).map(|i| i as f32 / 10_000.0).collect();
        let exact = |function, x: f64| match function {
            Function::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Function::Silu => x / (1.0 + (-x).exp()),
            Function::Gelu => x * normal(x),
            Function::GeluTanh => {
                let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                x * 0.5 * (1.0 + u.tanh())
            }
            Function::Relu => x.max(0.0),
            Function::SquaredRelu => x.max(0.0).powi(2),
            Function::Tanh => x.tanh(),
            Function::Softcap => 30.0 * (x / 30.0).tanh(),
            Function::Exp => x.exp(),
        };
        for (function, bound) in [
            (Function::Sigmoid, 2.5e-7),
            (Function::Silu, 2.5e-7),
            (Function::Gelu, 5e-7),
            (Function::GeluTanh, 5e-7),
            (Function::Relu, 0.0),
            (Function::SquaredRelu, 1.2e-7),
            (Function::Softcap, 4e-7),
        ] {
            for (&x, y) in inputs.iter().zip(map(Isa::detect(), function, &inputs)) {
                let exact = exact(function, f64::from(x));
                let error = (f64::from(y) - exact).abs();
                assert!(error <= bound * exact.abs().max(0.1), "at {x}: {y}, not {exact}");
            }
        }
    }

    #[test]
    fn activations_keep_nan_and_the_far_ends() {
        use Function::{Gelu, GeluTanh, Relu, Silu};
        for function in [Silu, Gelu, GeluTanh, Relu] {
            let ends = map(Isa::detect(), function, &[f32::NAN, 1e30, -1e30, 0.0, f32::INFINITY]);
            assert!(ends[0].is_nan());
            assert_eq!(ends[1..], [1e30, 0.0, 0.0, f32::INFINITY]);
        }
    }

    #[test]
    fn the_logistic_function_ends_in_zero_and_one() {
        for isa in Isa::available() {
            let ends = [f32::NAN, f32::NEG_INFINITY, -1e30, 0.0, 1e30, f32::INFINITY];
            let ends = map(isa, Function::Sigmoid, &ends);
            assert!(ends[0].is_nan());
            assert_eq!(ends[1..], [0.0, 0.0, 0.5, 1.0, 1.0]);
        }
    }
}
