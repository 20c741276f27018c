//! Operations that keep a state of each request: a convolution over time and a recurrence.
//!
//! A state is a row of floats in the arena, one for each request that runs at a time, and what
//! is in it when a request starts does not matter: at position 0 there is no past. Threads share
//! the channels, each for all rows, so a row's sums have one order however its request's tokens
//! are cut into steps.

#![allow(unsafe_code, reason = "threads write disjoint columns of one arena")]

use crate::isa::Kernel;
use crate::lanes::{LANES, Lanes};
use crate::{Isa, Span, Team, exp, rows::View};
use std::ops::Range;

/// Floats of a state of a convolution: past inputs, each at its position modulo their number.
pub fn convolution_state(channels: usize, taps: usize) -> Option<usize> {
    channels.checked_mul(past(taps))
}

/// Inputs that are kept. A convolution of one tap keeps one that it never reads.
fn past(taps: usize) -> usize {
    taps.saturating_sub(1).max(1)
}

/// Whose rows they are, and where each request's state is.
#[derive(Clone, Copy)]
pub(crate) struct Requests<'a> {
    pub(crate) spans: &'a [Span<'a>],
    /// A row of the states for each span.
    pub(crate) slots: &'a [u32],
    pub(crate) states: View,
}

impl Requests<'_> {
    /// Each span with its state.
    ///
    /// # Safety
    /// Slots are rows of the states.
    #[inline(always)]
    unsafe fn each(&self) -> impl Iterator<Item = (Span<'_>, *mut f32)> {
        let states = self.states;
        // SAFETY: as promised by the caller.
        let state = move |&slot: &u32| unsafe { states.row(slot as usize) };
        self.spans.iter().copied().zip(self.slots.iter().map(state))
    }
}

/// `output[p] = Σ weights[tap] · input[p - (taps - 1) + tap] + bias`, each channel by itself,
/// where `p` is a position; what is before position 0 is no part of the sum.
///
/// # Safety
/// Weights of `[taps, channels]`; states of [`convolution_state`] floats; shapes, spans and
/// slots as checked; the output is apart from the input.
pub(crate) unsafe fn convolve(
    isa: Isa,
    input: View,
    weights: &[f32],
    bias: Option<&[f32]>,
    requests: Requests<'_>,
    output: View,
    team: &Team<'_>,
) {
    let columns = team.part(input.width, LANES);
    // SAFETY: as promised by the caller.
    unsafe { isa.run(Convolve { input, weights, bias, requests, output, columns }) }
}

/// One thread's channels.
struct Convolve<'a> {
    input: View,
    weights: &'a [f32],
    bias: Option<&'a [f32]>,
    requests: Requests<'a>,
    output: View,
    columns: Range<usize>,
}

impl Kernel for Convolve<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Range { start, end } = self.columns;
        let channels = self.input.width;
        let taps = self.weights.len() / channels;
        let past = past(taps);
        // SAFETY: as promised to `convolve`; the columns of rows and states are this thread's.
        unsafe {
            for (span, state) in self.requests.each() {
                for row in 0..span.rows {
                    let position = span.position + row;
                    let output = self.output.row(span.first_row + row);
                    for i in (start..end).step_by(LANES) {
                        L::splat(0.0).store_part(output.add(i), (end - i).min(LANES));
                    }
                    for back in (0..taps.min(position.saturating_add(1))).rev() {
                        let weights = self.weights[(taps - 1 - back) * channels..].as_ptr();
                        let input = if back <= row {
                            self.input.row(span.first_row + row - back).cast_const()
                        } else {
                            state.add((position - back) % past * channels).cast_const()
                        };
                        for i in (start..end).step_by(LANES) {
                            let n = (end - i).min(LANES);
                            let sum = L::load_part(output.add(i), n);
                            let weight = L::load_part(weights.add(i), n);
                            let sum = L::load_part(input.add(i), n).mul_add(weight, sum);
                            sum.store_part(output.add(i), n);
                        }
                    }
                    if let Some(bias) = self.bias {
                        for i in (start..end).step_by(LANES) {
                            let n = (end - i).min(LANES);
                            let bias = L::load_part(bias.as_ptr().add(i), n);
                            L::load_part(output.add(i), n).add(bias).store_part(output.add(i), n);
                        }
                    }
                }
                for row in span.rows.saturating_sub(past)..span.rows {
                    let from = self.input.row(span.first_row + row).add(start);
                    let to = state.add((span.position + row) % past * channels + start);
                    std::ptr::copy_nonoverlapping(from, to, end - start);
                }
            }
        }
    }
}

/// What a recurrence reads, all `[rows, channels]`.
#[derive(Clone, Copy)]
pub(crate) struct Recurrence<'a> {
    pub(crate) input: View,
    pub(crate) input_gate: View,
    pub(crate) recurrent_gate: View,
    /// `[channels]`: the logarithm of what is kept where the gate is open.
    pub(crate) rates: &'a [f32],
}

/// `h[p] = a · h[p - 1] + √(1 - a²) · sigmoid(input_gate) · input` with
/// `a = exp(rate · sigmoid(recurrent_gate))`, each channel by itself; at position 0 the root is
/// 1 and there is no `h` before.
///
/// # Safety
/// Shapes, spans and slots as checked; the output is an operand or apart from all.
pub(crate) unsafe fn recur(
    isa: Isa,
    recurrence: Recurrence<'_>,
    requests: Requests<'_>,
    output: View,
    team: &Team<'_>,
) {
    let columns = team.part(output.width, LANES);
    // SAFETY: as promised by the caller.
    unsafe { isa.run(Recur { recurrence, requests, output, columns }) }
}

/// One thread's channels.
struct Recur<'a> {
    recurrence: Recurrence<'a>,
    requests: Requests<'a>,
    output: View,
    columns: Range<usize>,
}

impl Kernel for Recur<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Recurrence { input, input_gate, recurrent_gate, rates } = self.recurrence;
        let Range { start, end } = self.columns;
        // SAFETY: as promised to `recur`; the columns of rows and states are this thread's.
        unsafe {
            let (zero, one) = (L::splat(0.0), L::splat(1.0));
            for (span, state) in self.requests.each() {
                for i in (start..end).step_by(LANES) {
                    let n = (end - i).min(LANES);
                    let rate = L::load_part(rates.as_ptr().add(i), n);
                    let mut hidden = L::load_part(state.add(i), n);
                    for row in span.first_row..span.first_row + span.rows {
                        let input =
                            exp::logistic(read(input, row, i, n), read(input_gate, row, i, n));
                        if span.position == 0 && row == span.first_row {
                            hidden = input;
                        } else {
                            let log = exp::logistic(rate, read(recurrent_gate, row, i, n));
                            let square = exp::exp(log.add(log));
                            // In this order NaN stays.
                            let root = zero.max(one.sub(square)).sqrt();
                            hidden = hidden.mul_add(exp::exp(log), input.mul(root));
                        }
                        hidden.store_part(self.output.row(row).add(i), n);
                    }
                    hidden.store_part(state.add(i), n);
                }
            }
        }
    }
}

/// `n` elements of a row from `i` on.
#[inline(always)]
unsafe fn read<L: Lanes>(view: View, row: usize, i: usize, n: usize) -> L {
    // SAFETY: there are such, says the caller.
    unsafe { L::load_part(view.row(row).add(i), n) }
}

#[cfg(test)]
mod tests;
