//! The closed set of operations, at the level of transformer primitives.
//!
//! A plugin writes the first group; the second is what passes make of them. A new operation
//! needs: a variant here, its line in `infer`, `write` and `parse`, and a kernel a device.

use crate::activation::Activation;
use crate::attention::AttentionData;
use crate::coding::CodeKind;
use crate::entities::{Rotary, State, Value, Weight};
use crate::mixture::MixtureData;

/// One operation with its operands. Shapes: `rows` is `tokens` or `outputs`.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// The token ids of the batch. `→ i32 [tokens]`
    Tokens,
    /// Rows of a table. `i32 [rows], [vocabulary, n] → [rows, n]`
    Embedding {
        /// Token ids.
        tokens: Value,
        /// The table.
        table: Weight,
        /// Made by passes: which rows of the model's table these are; all if not said. A row
        /// that another rank has is zeros here.
        stretch: Option<Stretch>,
    },
    /// Rows of a table: of each token's position in its request. `[positions, n] → [tokens, n]`
    Positions {
        /// The table.
        table: Weight,
        /// As of an embedding.
        stretch: Option<Stretch>,
    },
    /// `input · weightᵀ + bias`. `[rows, k], [n, k], [n] → [rows, n]`
    Linear {
        /// Left operand.
        input: Value,
        /// `[out, in]`
        weight: Weight,
        /// `[out]`
        bias: Option<Weight>,
    },
    /// A matrix for each head: head `h` of the result is head `h` of the input times matrix `h`,
    /// transposed. `[rows, heads·k], [heads, n, k], [heads·n] → [rows, heads·n]`
    LinearHeads {
        /// Heads side by side.
        input: Value,
        /// `[heads, out, in]`
        weight: Weight,
        /// `[heads·out]`
        bias: Option<Weight>,
        /// Heads.
        heads: u32,
    },
    /// Cuts rows into parts side by side. `[rows, a+b+…] → [rows, a], [rows, b], …`
    Split {
        /// What is cut.
        input: Value,
        /// Widths of the parts.
        sizes: Vec<u64>,
    },
    /// Puts heads side by side: head `h` of the result is head `h` of each input, one behind the
    /// other. `[rows, heads·a], [rows, heads·b], … → [rows, heads·(a+b+…)]`
    Concat {
        /// At least one, of the same rows.
        inputs: Vec<Value>,
        /// Heads of each; 1 puts whole rows side by side.
        heads: u32,
    },
    /// `input / sqrt(mean(input²) + epsilon) · weight`. `[rows, n], [n] → [rows, n]`
    RmsNorm {
        /// What is normalised.
        input: Value,
        /// The gain.
        weight: Weight,
        /// Keeps the root away from zero.
        epsilon: f64,
    },
    /// `(input - mean) / sqrt(variance + epsilon) · weight + bias`. `[rows, n], [n], [n] → [rows, n]`
    LayerNorm {
        /// What is normalised.
        input: Value,
        /// The gain.
        weight: Option<Weight>,
        /// The bias.
        bias: Option<Weight>,
        /// Keeps the root away from zero.
        epsilon: f64,
    },
    /// `rms_norm` of each head by itself. `[rows, heads·w], [w] or [heads·w] → [rows, heads·w]`
    RmsNormHeads {
        /// Heads side by side.
        input: Value,
        /// The gain: one for all heads, or all heads' side by side.
        weight: Weight,
        /// Elements of one head.
        head_width: u32,
        /// Keeps the root away from zero.
        epsilon: f64,
    },
    /// `layer_norm` of each head by itself, without a bias. Shapes as of `RmsNormHeads`.
    LayerNormHeads {
        /// Heads side by side.
        input: Value,
        /// The gain: one for all heads, or all heads' side by side.
        weight: Weight,
        /// Elements of one head.
        head_width: u32,
        /// Keeps the root away from zero.
        epsilon: f64,
    },
    /// Turns each head by its token's position. `[rows, heads·width] → same`
    Rotate {
        /// Heads side by side.
        input: Value,
        /// How.
        rotary: Rotary,
    },
    /// Causal self-attention; keys and values join `cache` first.
    /// `[rows, heads·w], [rows, key_heads·w] ×2 → [rows, heads·w]`. Where it is latent, `value`
    /// is `key`, and the result is `[rows, heads·latent]`.
    Attend {
        /// Queries.
        query: Value,
        /// Keys.
        key: Value,
        /// Values.
        value: Value,
        /// Where past keys and values are.
        cache: State,
        /// Turns queries and keys on the way, where a pass has folded that in.
        rotary: Option<Rotary>,
        /// Heads, and what happens to their scores.
        options: AttentionData,
    },
    /// A feed-forward layer of which each row takes a few experts.
    /// `[rows, hidden], [rows, experts], [experts, 2·inner, hidden], [experts, hidden, inner] →
    /// [rows, hidden]`
    Mix {
        /// What experts work on.
        input: Value,
        /// What the router gives: a logit for each expert.
        scores: Value,
        /// Of each expert, the rows of `up` and then those of `gate`.
        up: Weight,
        /// Of each expert, the way back.
        down: Weight,
        /// How experts are chosen and weighed, and what one does.
        options: MixtureData,
    },
    /// Each channel's last inputs weighed and summed over time; before a request's first token
    /// they are 0. `[tokens, channels], [channels, taps], [channels] → [tokens, channels]`
    Convolve {
        /// What is summed.
        input: Value,
        /// `[channels, taps]`; the last tap is the token itself.
        weight: Weight,
        /// `[channels]`
        bias: Option<Weight>,
        /// Where the `taps - 1` inputs before are.
        state: State,
    },
    /// Griffin's real-gated linear recurrence (De et al., 2024). With
    /// `a = exp(-8 · softplus(decay) · sigmoid(recurrent_gate))` it is
    /// `h = a · h_before + root · sigmoid(input_gate) · input`, where `root` is `sqrt(1 - a²)`,
    /// but 1 at position 0. `[tokens, channels] ×3, [channels] → [tokens, channels]`
    Recur {
        /// What is taken in.
        input: Value,
        /// How much of it, before the sigmoid.
        input_gate: Value,
        /// How much is forgotten, before the sigmoid.
        recurrent_gate: Value,
        /// How fast each channel forgets.
        decay: Weight,
        /// Where `h` is.
        state: State,
    },
    /// An activation, element by element.
    Activate {
        /// Its argument.
        input: Value,
        /// Which.
        activation: Activation,
    },
    /// `left + right`
    Add {
        /// A summand.
        left: Value,
        /// A summand.
        right: Value,
    },
    /// `left · right`, element by element.
    Multiply {
        /// A factor.
        left: Value,
        /// A factor; one of width 1 counts for every column.
        right: Value,
    },
    /// `factor · input`
    Scale {
        /// What is multiplied.
        input: Value,
        /// By what.
        factor: f64,
    },
    /// `bound · tanh(input / bound)`
    Softcap {
        /// What is bent.
        input: Value,
        /// No result is greater.
        bound: f64,
    },
    /// `min(max(input, low), high)`
    Clamp {
        /// What is cut off.
        input: Value,
        /// No result is less.
        low: f64,
        /// No result is greater.
        high: f64,
    },

    /// Made by passes: what the stage before returns, the first thing that a stage does.
    /// `→ [tokens, a], [tokens, b], …`
    Receive {
        /// The width of each value.
        widths: Vec<u64>,
    },
    /// Made by passes: the sum of what all ranks of the stage have. `[rows, n] → [rows, n]`
    AllReduce {
        /// A summand.
        input: Value,
    },
    /// Made by passes: what all ranks of the stage have, side by side in their order.
    /// `[rows, n] → [rows, tp_size·n]`
    AllGather {
        /// This rank's part.
        input: Value,
    },
    /// Made by passes: the rows whose logits are asked for. `[tokens, n] → [outputs, n]`
    Outputs {
        /// All rows.
        input: Value,
    },
    /// Made by passes: `sum = left + right` and `rms_norm(sum)`, both results in this order.
    AddRmsNorm {
        /// A summand.
        left: Value,
        /// A summand.
        right: Value,
        /// The gain.
        weight: Weight,
        /// Keeps the root away from zero.
        epsilon: f64,
    },
    /// Made by passes: what a product with codes takes. Each column is multiplied by its scale,
    /// and the result rounded to the nearest number of a grid. `[rows, n], [n] → [rows, n]`
    RoundInputs {
        /// What is rounded.
        input: Value,
        /// `[n]`; ones if there are none.
        scales: Option<Weight>,
        /// Nothing is rounded where there is none.
        grid: Option<Grid>,
    },
    /// Made by passes: `activation(gate) · up`.
    Gate {
        /// Goes through the activation.
        gate: Value,
        /// Does not.
        up: Value,
        /// Which.
        activation: Activation,
    },
}

/// Rows of a table that stand for some of the rows of a larger one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The number of the first of them in the larger table.
    pub first: u64,
    /// How many rows the larger table has. The stretch may go beyond them; nobody asks for those.
    pub of: u64,
}

/// The numbers that activations are rounded to: multiples of a scale by whole numbers from -128 to
/// 127, or by floating-point numbers of eight bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// What they are multiples by.
    pub kind: CodeKind,
    /// `[1]`; where there is none, each row has the scale that makes its largest number the
    /// largest of the grid.
    pub scale: Option<Weight>,
}

impl Op {
    /// The word for it in the text form.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Tokens => "tokens",
            Op::Embedding { .. } => "embedding",
            Op::Linear { .. } => "linear",
            Op::LinearHeads { .. } => "linear_heads",
            Op::Split { .. } => "split",
            Op::Concat { .. } => "concat",
            Op::RmsNorm { .. } => "rms_norm",
            Op::Positions { .. } => "positions",
            Op::LayerNorm { .. } => "layer_norm",
            Op::RmsNormHeads { .. } => "rms_norm_heads",
            Op::LayerNormHeads { .. } => "layer_norm_heads",
            Op::Rotate { .. } => "rotate",
            Op::Attend { .. } => "attend",
            Op::Mix { .. } => "mix",
            Op::Convolve { .. } => "convolve",
            Op::Recur { .. } => "recur",
            Op::Activate { .. } => "activate",
            Op::Add { .. } => "add",
            Op::Multiply { .. } => "multiply",
            Op::Scale { .. } => "scale",
            Op::Softcap { .. } => "softcap",
            Op::Clamp { .. } => "clamp",
            Op::Receive { .. } => "receive",
            Op::AllReduce { .. } => "all_reduce",
            Op::AllGather { .. } => "all_gather",
            Op::Outputs { .. } => "outputs",
            Op::AddRmsNorm { .. } => "add_rms_norm",
            Op::Gate { .. } => "gate",
            Op::RoundInputs { .. } => "round_inputs",
        }
    }

    /// Calls `f` on each value operand, in their order in the text form; `f` may replace it.
    pub fn map_values(&mut self, mut f: impl FnMut(&mut Value)) {
        match self {
            Op::Tokens | Op::Positions { .. } | Op::Receive { .. } => {}
            Op::Embedding { tokens: input, .. }
            | Op::Linear { input, .. }
            | Op::LinearHeads { input, .. }
            | Op::Split { input, .. }
            | Op::RmsNorm { input, .. }
            | Op::LayerNorm { input, .. }
            | Op::RmsNormHeads { input, .. }
            | Op::LayerNormHeads { input, .. }
            | Op::Rotate { input, .. }
            | Op::Convolve { input, .. }
            | Op::Activate { input, .. }
            | Op::Scale { input, .. }
            | Op::Softcap { input, .. }
            | Op::Clamp { input, .. }
            | Op::AllReduce { input }
            | Op::AllGather { input }
            | Op::RoundInputs { input, .. }
            | Op::Outputs { input } => f(input),
            Op::Concat { inputs, .. } => inputs.iter_mut().for_each(f),
            Op::Attend { query: a, key: b, value: c, .. }
            | Op::Recur { input: a, input_gate: b, recurrent_gate: c, .. } => {
                f(a);
                f(b);
                f(c);
            }
            Op::Add { left, right }
            | Op::Multiply { left, right }
            | Op::AddRmsNorm { left, right, .. }
            | Op::Mix { input: left, scores: right, .. }
            | Op::Gate { gate: left, up: right, .. } => {
                f(left);
                f(right);
            }
        }
    }

    /// Its value operands, in their order in the text form.
    pub fn values(&self) -> Vec<Value> {
        let mut values = Vec::new();
        self.clone().map_values(|v| values.push(*v));
        values
    }

    /// Calls `f` on each weight operand, in their order in the text form; `f` may replace it.
    pub fn map_weights(&mut self, mut f: impl FnMut(&mut Weight)) {
        match self {
            Op::Embedding { table: weight, .. }
            | Op::Positions { table: weight, .. }
            | Op::RmsNorm { weight, .. }
            | Op::RmsNormHeads { weight, .. }
            | Op::LayerNormHeads { weight, .. }
            | Op::Recur { decay: weight, .. }
            | Op::AddRmsNorm { weight, .. } => f(weight),
            Op::Linear { weight, bias, .. }
            | Op::LinearHeads { weight, bias, .. }
            | Op::Convolve { weight, bias, .. } => {
                f(weight);
                bias.as_mut().map(f);
            }
            Op::LayerNorm { weight, bias, .. } => {
                [weight, bias].into_iter().flatten().for_each(f);
            }
            Op::Attend { options, .. } => {
                options.sinks.as_mut().map(f);
            }
            Op::RoundInputs { scales, grid, .. } => {
                let scale = grid.as_mut().and_then(|grid| grid.scale.as_mut());
                [scales.as_mut(), scale].into_iter().flatten().for_each(f);
            }
            Op::Mix { up, down, options, .. } => {
                f(up);
                f(down);
                options.map_weights(f);
            }
            Op::Tokens
            | Op::Split { .. }
            | Op::Concat { .. }
            | Op::Rotate { .. }
            | Op::Activate { .. }
            | Op::Add { .. }
            | Op::Multiply { .. }
            | Op::Scale { .. }
            | Op::Softcap { .. }
            | Op::Clamp { .. }
            | Op::Receive { .. }
            | Op::AllReduce { .. }
            | Op::AllGather { .. }
            | Op::Outputs { .. }
            | Op::Gate { .. } => {}
        }
    }

    /// Its weight operands, in their order in the text form.
    pub fn weights(&self) -> Vec<Weight> {
        let mut weights = Vec::new();
        self.clone().map_weights(|w| weights.push(*w));
        weights
    }

    /// The rotary embedding that it turns by.
    pub fn rotary(&self) -> Option<Rotary> {
        self.clone().rotary_mut().copied()
    }

    /// The same, to replace it.
    pub fn rotary_mut(&mut self) -> Option<&mut Rotary> {
        match self {
            Op::Rotate { rotary, .. } => Some(rotary),
            Op::Attend { rotary, .. } => rotary.as_mut(),
            _ => None,
        }
    }

    /// The state that it keeps.
    pub fn state(&self) -> Option<State> {
        match self {
            Op::Attend { cache: state, .. }
            | Op::Convolve { state, .. }
            | Op::Recur { state, .. } => Some(*state),
            _ => None,
        }
    }

    /// The same, to replace it.
    pub fn state_mut(&mut self) -> Option<&mut State> {
        match self {
            Op::Attend { cache: state, .. }
            | Op::Convolve { state, .. }
            | Op::Recur { state, .. } => Some(state),
            _ => None,
        }
    }
}
