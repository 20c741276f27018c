//! One step: the plan's calls with this batch's rows, handed to the threads in one go, or in as
//! many as meetings of ranks divide them into.

use super::plan::{Attention, Call, Plan};
use super::rope_tables::GrowingTable;
use crate::device::{Batch, Program};
use crate::error::RuntimeError;
use cranelift_entity::PrimaryMap;
use engraft_ir::{Activation, Rotary};
use engraft_kernels_cpu as kernels;
use engraft_kernels_cpu::{AttentionOptions, RopeTable, Span, Step};
use std::ops::Range;

/// All that a step reads.
pub(crate) struct Inputs<'a> {
    pub(crate) program: &'a dyn Program,
    pub(crate) plan: &'a Plan,
    pub(crate) tables: &'a PrimaryMap<Rotary, GrowingTable>,
    pub(crate) batch: &'a Batch,
    pub(crate) spans: &'a [Span<'a>],
    /// Of each span, which of the states that are kept is its request's.
    pub(crate) slots: &'a [u32],
}

impl<'a> Inputs<'a> {
    /// The kernels' steps for this batch, of some of the plan's calls.
    pub(crate) fn steps(&self, calls: Range<usize>) -> Result<Vec<Step<'a>>, RuntimeError> {
        self.plan.calls[calls].iter().map(|call| self.step(call)).collect()
    }

    fn table(&self, rotary: Rotary) -> &'a RopeTable {
        self.tables[rotary].table()
    }

    fn step(&self, call: &Call) -> Result<Step<'a>, RuntimeError> {
        let rows = |slot: super::memory::Slot| {
            slot.rows(self.batch.tokens.len(), self.batch.outputs.len())
        };
        let vector = |at: usize| self.plan.vectors[at].as_slice();
        Ok(match *call {
            Call::Embedding { table, first, output } => Step::Embedding {
                tokens: &self.batch.tokens,
                table: table.elements(self.program, &self.plan.vectors)?,
                first,
                output: rows(output),
            },
            Call::Gather { input, output } => {
                Step::Gather { input: rows(input), rows: &self.batch.outputs, output: rows(output) }
            }
            Call::Linear { input, weight, bias, output } => Step::Linear {
                input: rows(input),
                weights: weight.elements(self.program, &self.plan.vectors)?,
                bias: bias.map(vector),
                output: rows(output),
            },
            Call::LinearHeads { input, weight, bias, heads, output } => Step::LinearHeads {
                input: rows(input),
                weights: weight.elements(self.program, &self.plan.vectors)?,
                bias: bias.map(vector),
                heads,
                output: rows(output),
            },
            Call::PlaceHeads { input, heads, first, output } => {
                Step::PlaceHeads { input: rows(input), heads, first, output: rows(output) }
            }
            Call::RmsNorm { input, gain, epsilon, output } => Step::RmsNorm {
                input: rows(input),
                gain: vector(gain),
                epsilon,
                output: rows(output),
            },
            Call::LayerNorm { input, gain, bias, epsilon, output } => Step::LayerNorm {
                input: rows(input),
                gain: gain.map(vector),
                bias: bias.map(vector),
                epsilon,
                output: rows(output),
            },
            Call::HeadNorm { input, norm, gain, head, epsilon, output } => Step::HeadNorm {
                input: rows(input),
                norm,
                gain: vector(gain),
                head_width: head,
                epsilon,
                output: rows(output),
            },
            Call::Positions { table, first, output } => Step::Positions {
                table: table.elements(self.program, &self.plan.vectors)?,
                first,
                spans: self.spans,
                output: rows(output),
            },
            Call::AddRmsNorm { left, right, gain, epsilon, sum, output } => Step::AddRmsNorm {
                left: rows(left),
                right: rows(right),
                gain: vector(gain),
                epsilon,
                sum: rows(sum),
                output: rows(output),
            },
            Call::Rotate { input, rotary, output } => Step::Rotate {
                input: rows(input),
                table: self.table(rotary),
                spans: self.spans,
                output: rows(output),
            },
            Call::Attend { query, key, value, attention, output } => {
                let Attention { cache, query_heads, scale, rotary, .. } = attention;
                let Attention { window, softcap, alibi, sinks, .. } = attention;
                let (alibi, sinks) = (alibi.map(vector), sinks.map(vector));
                Step::Attend {
                    query: rows(query),
                    key: rows(key),
                    value: value.map(rows),
                    cache,
                    spans: self.spans,
                    query_heads,
                    scale,
                    rotary: rotary.map(|rotary| self.table(rotary)),
                    options: AttentionOptions { window, softcap, alibi, sinks },
                    output: rows(output),
                }
            }
            Call::Activate { input, activation, output } => Step::Activate {
                input: rows(input),
                activation: kernel(activation),
                output: rows(output),
            },
            Call::Gate { gate, up, activation, output } => Step::Gate {
                gate: rows(gate),
                up: rows(up),
                activation: kernel(activation),
                output: rows(output),
            },
            Call::Add { left, right, output } => {
                Step::Add { left: rows(left), right: rows(right), output: rows(output) }
            }
            Call::Multiply { left, right, output } => {
                Step::Multiply { left: rows(left), right: rows(right), output: rows(output) }
            }
            Call::Scale { input, factor, output } => {
                Step::Scale { input: rows(input), factor, output: rows(output) }
            }
            Call::RoundInputs { input, scales, grid, output } => Step::RoundInputs {
                input: rows(input),
                scales: scales.map(vector),
                grid,
                output: rows(output),
            },
            Call::Softcap { input, bound, output } => {
                Step::Softcap { input: rows(input), bound, output: rows(output) }
            }
            Call::Mix { input, scores, mixture, output } => Step::Mix {
                input: rows(input),
                scores: rows(scores),
                routing: mixture.routing(&self.plan.vectors),
                experts: mixture.experts(self.program, &self.plan.vectors)?,
                work: mixture.work,
                output: rows(output),
            },
            Call::Convolve { input, taps, bias, states, output } => Step::Convolve {
                input: rows(input),
                weights: vector(taps),
                bias: bias.map(vector),
                states,
                spans: self.spans,
                slots: self.slots,
                output: rows(output),
            },
            Call::Recur { input, gates: [input_gate, recurrent_gate], rates, states, output } => {
                Step::Recur {
                    input: rows(input),
                    input_gate: rows(input_gate),
                    recurrent_gate: rows(recurrent_gate),
                    rates: vector(rates),
                    states,
                    spans: self.spans,
                    slots: self.slots,
                    output: rows(output),
                }
            }
            Call::Clamp { input, low, high, output } => {
                Step::Clamp { input: rows(input), low, high, output: rows(output) }
            }
        })
    }
}

pub(super) fn kernel(activation: Activation) -> kernels::Activation {
    match activation {
        Activation::Silu => kernels::Activation::Silu,
        Activation::Gelu => kernels::Activation::Gelu,
        Activation::GeluNew => kernels::Activation::GeluTanh,
        Activation::Relu => kernels::Activation::Relu,
        Activation::Relu2 => kernels::Activation::SquaredRelu,
        Activation::Sigmoid => kernels::Activation::Sigmoid,
    }
}
