//! Against double precision, and bit for bit in any division into steps.

use crate::testing::{bits, noise};
use crate::{Executor, Isa, Rows, Span, Step, convolution_state};

const CHANNELS: usize = 37;
const LENGTH: usize = 23;
const TAPS: usize = 4;
const SLOTS: usize = 3;

/// What runs: a convolution, or a recurrence (in place or apart).
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Convolve { taps: usize, bias: bool },
    Recur { in_place: bool },
}

/// Two requests of `LENGTH` tokens, side by side.
struct Case {
    kind: Kind,
    /// Of each request: input, input gate, recurrent gate.
    inputs: [Vec<f32>; 2],
    weights: Vec<f32>,
    bias: Vec<f32>,
}

impl Case {
    fn new(kind: Kind) -> Case {
        let inputs = [1, 2].map(|seed| noise(3 * LENGTH * CHANNELS, seed));
        let weights = match kind {
            Kind::Convolve { taps, .. } => noise(taps * CHANNELS, 3),
            Kind::Recur { .. } => noise(CHANNELS, 3).iter().map(|x| 4.0 * (x - 1.0)).collect(),
        };
        Case { kind, inputs, weights, bias: noise(CHANNELS, 4) }
    }

    fn input(&self, request: usize, which: usize, row: usize) -> &[f32] {
        &self.inputs[request][(which * LENGTH + row) * CHANNELS..][..CHANNELS]
    }

    fn state(&self) -> usize {
        match self.kind {
            Kind::Convolve { taps, .. } => convolution_state(CHANNELS, taps).unwrap(),
            Kind::Recur { .. } => CHANNELS,
        }
    }

    /// Runs steps, each of which takes so many tokens of each request (none is none), with the
    /// requests' states in these slots. The outputs of both requests.
    fn run(
        &self,
        isa: Isa,
        threads: usize,
        steps: &[[usize; 2]],
        slots: [u32; 2],
    ) -> [Vec<f32>; 2] {
        let mut executor = Executor::new(isa, threads).unwrap();
        let room = 2 * LENGTH * CHANNELS;
        // Whatever was there before does not matter.
        let mut arena = noise(4 * room + SLOTS * self.state(), 9);
        let states = Rows::dense(4 * room, SLOTS, self.state());
        let (mut done, mut outputs) = ([0, 0], [Vec::new(), Vec::new()]);
        for take in steps {
            let rows: usize = take.iter().sum();
            let [input, input_gate, recurrent_gate, apart] =
                [0, 1, 2, 3].map(|i| Rows::dense(i * room, rows, CHANNELS));
            let (mut spans, mut used, mut next) = (Vec::new(), Vec::new(), 0);
            for request in (0..2).filter(|&request| take[request] > 0) {
                let (rows, position) = (take[request], done[request]);
                for row in 0..rows {
                    for (which, start) in [0, room, 2 * room].into_iter().enumerate() {
                        let to = start + (next + row) * CHANNELS;
                        arena[to..to + CHANNELS].copy_from_slice(self.input(
                            request,
                            which,
                            position + row,
                        ));
                    }
                }
                spans.push(Span { first_row: next, rows, position, pages: &[], reach: 0 });
                used.push(slots[request]);
                next += rows;
            }
            let (spans, slots) = (spans.as_slice(), used.as_slice());
            let output = if self.kind == (Kind::Recur { in_place: true }) { input } else { apart };
            let step = match self.kind {
                Kind::Convolve { bias, .. } => {
                    let (weights, bias) = (&self.weights[..], bias.then_some(&self.bias[..]));
                    Step::Convolve { input, weights, bias, states, spans, slots, output }
                }
                Kind::Recur { .. } => {
                    let rates = &self.weights[..];
                    Step::Recur {
                        input,
                        input_gate,
                        recurrent_gate,
                        rates,
                        states,
                        spans,
                        slots,
                        output,
                    }
                }
            };
            executor.run(&mut arena, &mut [], &[step]);
            let mut from = output.start;
            for request in 0..2 {
                let n = take[request] * CHANNELS;
                outputs[request].extend_from_slice(&arena[from..from + n]);
                from += n;
                done[request] += take[request];
            }
        }
        outputs
    }

    /// By the definition.
    fn exact(&self, request: usize) -> Vec<f64> {
        let at = |which, row, i: usize| f64::from(self.input(request, which, row)[i]);
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let mut output = vec![0.0; LENGTH * CHANNELS];
        for i in 0..CHANNELS {
            let mut hidden = 0.0;
            for row in 0..LENGTH {
                output[row * CHANNELS + i] = match self.kind {
                    Kind::Convolve { taps, bias } => {
                        let tap = |back: usize| {
                            let weight = self.weights[(taps - 1 - back) * CHANNELS + i];
                            f64::from(weight) * at(0, row - back, i)
                        };
                        let bias = if bias { f64::from(self.bias[i]) } else { 0.0 };
                        (0..taps.min(row + 1)).map(tap).sum::<f64>() + bias
                    }
                    Kind::Recur { .. } => {
                        let a = (f64::from(self.weights[i]) * sigmoid(at(2, row, i))).exp();
                        let root = if row == 0 { 1.0 } else { (1.0 - a * a).sqrt() };
                        hidden = a * hidden + root * at(0, row, i) * sigmoid(at(1, row, i));
                        hidden
                    }
                };
            }
        }
        output
    }
}

const KINDS: [Kind; 5] = [
    Kind::Convolve { taps: TAPS, bias: true },
    Kind::Convolve { taps: TAPS, bias: false },
    Kind::Convolve { taps: 1, bias: false },
    Kind::Recur { in_place: false },
    Kind::Recur { in_place: true },
];

#[test]
fn outputs_are_near_the_definition_on_every_instruction_set() {
    for kind in KINDS {
        let case = Case::new(kind);
        for isa in Isa::available() {
            let outputs = case.run(isa, 1, &[[LENGTH, LENGTH]], [0, 1]);
            for (request, output) in outputs.iter().enumerate() {
                assert_eq!(output.len(), LENGTH * CHANNELS);
                for (found, exact) in output.iter().zip(case.exact(request)) {
                    assert!((f64::from(*found) - exact).abs() < 2e-6, "{found} is not {exact}");
                }
            }
        }
    }
}

#[test]
fn a_request_has_the_same_bits_in_any_steps_with_any_other_on_any_threads() {
    let one_by_one = vec![[1, 0]; LENGTH];
    let other: Vec<[usize; 2]> =
        [5, 1, 2, 1, 14].into_iter().zip([0, 3, 7, 12, 1]).map(|(a, b)| [a, b]).collect();
    for kind in KINDS {
        let case = Case::new(kind);
        let whole = case.run(Isa::Plain, 1, &[[LENGTH, LENGTH]], [0, 1]);
        for isa in Isa::available() {
            for threads in [1, 2, 3, 5] {
                let alone = case.run(isa, threads, &one_by_one, [2, 0]);
                assert_eq!(bits(&alone[0]), bits(&whole[0]), "{isa}, {threads} threads");
                let mixed = case.run(isa, threads, &other, [1, 2]);
                assert_eq!(bits(&mixed[0]), bits(&whole[0]));
                assert_eq!(bits(&mixed[1]), bits(&whole[1]));
            }
        }
    }
}

#[test]
fn a_recurrence_keeps_infinities_and_nan_in_their_channel() {
    let mut case = Case::new(Kind::Recur { in_place: false });
    case.inputs[0][2 * LENGTH * CHANNELS + 5 * CHANNELS + 7] = f32::NAN;
    for isa in Isa::available() {
        let output = case.run(isa, 2, &[[LENGTH, 0]], [0, 1]).into_iter().next().unwrap();
        for (i, value) in output.iter().enumerate() {
            let hit = i / CHANNELS >= 5 && i % CHANNELS == 7;
            assert_eq!(value.is_nan(), hit, "{i}: {value}");
        }
    }
}
