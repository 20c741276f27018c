//! The closed set of operations, at the level of transformer primitives.
//!
//! A plugin writes the first group; the second is what passes make of them. A new operation
//! needs: a variant here, its line in `infer`, `write` and `parse`, and a kernel a device.

use crate::entities::{Rotary, State, Value, Weight};
use std::fmt;

/// An activation, by the name that model configs use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Activation {
    /// `x · sigmoid(x)`; configs also say `swish`.
    Silu,
    /// `x · Φ(x)`, exact.
    Gelu,
    /// The tanh approximation of it; configs also say `gelu_pytorch_tanh` and `gelu_fast`.
    GeluNew,
    /// `max(x, 0)`
    Relu,
    /// `max(x, 0)²`
    Relu2,
}

/// Every activation; its first name is the spelling in the text form, the rest are synonyms.
pub(crate) const ACTIVATIONS: [(Activation, &[&str]); 5] = [
    (Activation::Silu, &["silu", "swish"]),
    (Activation::Gelu, &["gelu"]),
    (Activation::GeluNew, &["gelu_new", "gelu_pytorch_tanh", "gelu_fast"]),
    (Activation::Relu, &["relu"]),
    (Activation::Relu2, &["relu2", "squared_relu"]),
];

impl Activation {
    /// By any of its names.
    pub fn from_name(name: &str) -> Option<Activation> {
        ACTIVATIONS.iter().find(|(_, names)| names.contains(&name)).map(|a| a.0)
    }

    /// All names that [`Activation::from_name`] knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        ACTIVATIONS.iter().flat_map(|(_, names)| names.iter().copied())
    }
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ACTIVATIONS[*self as usize].1[0])
    }
}

/// How rotary frequencies are changed to reach further than was trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scaling {
    /// Not at all.
    None,
    /// Positions divided by `factor`.
    Linear {
        /// How many times further.
        factor: f64,
    },
    /// Llama 3.1's: long waves stretched, short ones kept, a ramp between.
    Llama3 {
        /// How many times further.
        factor: f64,
        /// Waves longer than `context / low` are stretched by the whole factor.
        low: f64,
        /// Waves shorter than `context / high` are kept.
        high: f64,
        /// The context it was trained on.
        context: u32,
    },
    /// YaRN (Peng et al., 2023).
    Yarn {
        /// How many times further.
        factor: f64,
        /// Dimensions that turn more often than this over the context are kept.
        fast: f64,
        /// Dimensions that turn less often are stretched by the whole factor.
        slow: f64,
        /// What cosine and sine are multiplied by; `0.1 ln(factor) + 1` if not said.
        attention: Option<f64>,
        /// The context it was trained on.
        context: u32,
    },
}

/// A rotary position embedding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RotaryData {
    /// Elements of one head.
    pub head_width: u32,
    /// How many leading elements of a head turn; even.
    pub rotated: u32,
    /// θ: pair `i` turns by `base^(-2i/rotated)` a token.
    pub base: f64,
    /// For longer contexts.
    pub scaling: Scaling,
    /// Whether pairs are neighbours, elements `2i` and `2i + 1`. If not, they are halves of the
    /// turned part: `i` and `i + rotated/2`.
    pub interleaved: bool,
}

/// Heads of a causal self-attention, and what happens to their scores: they are multiplied by
/// `scale`, bent by `softcap`, tilted by `alibi`; then those outside of the `window` are dropped.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionData {
    /// Query heads.
    pub query_heads: u32,
    /// Key and value heads; divides `query_heads`.
    pub key_heads: u32,
    /// Elements of one head.
    pub head_width: u32,
    /// What scores are multiplied by.
    pub scale: f64,
    /// How many tokens each token sees, itself among them; all before it if not said.
    pub window: Option<u32>,
    /// A score becomes `softcap · tanh(score / softcap)`.
    pub softcap: Option<f64>,
    /// A slope for each query head: `slope · (key position - query position)` is added.
    pub alibi: Option<Vec<f64>>,
}

impl AttentionData {
    /// Without window, cap and slopes.
    pub fn new(query_heads: u32, key_heads: u32, head_width: u32, scale: f64) -> AttentionData {
        let (window, softcap, alibi) = (None, None, None);
        AttentionData { query_heads, key_heads, head_width, scale, window, softcap, alibi }
    }
}

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
    },
    /// Rows of a table: of each token's position in its request. `[positions, n] → [tokens, n]`
    Positions {
        /// The table.
        table: Weight,
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
    /// Cuts rows into parts side by side. `[rows, a+b+…] → [rows, a], [rows, b], …`
    Split {
        /// What is cut.
        input: Value,
        /// Widths of the parts.
        sizes: Vec<u64>,
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
    /// `[rows, heads·w], [rows, key_heads·w] ×2 → [rows, heads·w]`
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
        /// A factor.
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

impl Op {
    /// The word for it in the text form.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Tokens => "tokens",
            Op::Embedding { .. } => "embedding",
            Op::Linear { .. } => "linear",
            Op::Split { .. } => "split",
            Op::RmsNorm { .. } => "rms_norm",
            Op::Positions { .. } => "positions",
            Op::LayerNorm { .. } => "layer_norm",
            Op::RmsNormHeads { .. } => "rms_norm_heads",
            Op::LayerNormHeads { .. } => "layer_norm_heads",
            Op::Rotate { .. } => "rotate",
            Op::Attend { .. } => "attend",
            Op::Activate { .. } => "activate",
            Op::Add { .. } => "add",
            Op::Multiply { .. } => "multiply",
            Op::Scale { .. } => "scale",
            Op::Softcap { .. } => "softcap",
            Op::Clamp { .. } => "clamp",
            Op::Outputs { .. } => "outputs",
            Op::AddRmsNorm { .. } => "add_rms_norm",
            Op::Gate { .. } => "gate",
        }
    }

    /// Calls `f` on each value operand, in their order in the text form; `f` may replace it.
    pub fn map_values(&mut self, mut f: impl FnMut(&mut Value)) {
        match self {
            Op::Tokens | Op::Positions { .. } => {}
            Op::Embedding { tokens: input, .. }
            | Op::Linear { input, .. }
            | Op::Split { input, .. }
            | Op::RmsNorm { input, .. }
            | Op::LayerNorm { input, .. }
            | Op::RmsNormHeads { input, .. }
            | Op::LayerNormHeads { input, .. }
            | Op::Rotate { input, .. }
            | Op::Activate { input, .. }
            | Op::Scale { input, .. }
            | Op::Softcap { input, .. }
            | Op::Clamp { input, .. }
            | Op::Outputs { input } => f(input),
            Op::Attend { query, key, value, .. } => {
                f(query);
                f(key);
                f(value);
            }
            Op::Add { left, right }
            | Op::Multiply { left, right }
            | Op::AddRmsNorm { left, right, .. }
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
            | Op::Positions { table: weight }
            | Op::RmsNorm { weight, .. }
            | Op::RmsNormHeads { weight, .. }
            | Op::LayerNormHeads { weight, .. }
            | Op::AddRmsNorm { weight, .. } => f(weight),
            Op::Linear { weight, bias, .. } => {
                f(weight);
                bias.as_mut().map(f);
            }
            Op::LayerNorm { weight, bias, .. } => {
                [weight, bias].into_iter().flatten().for_each(f);
            }
            Op::Tokens
            | Op::Split { .. }
            | Op::Rotate { .. }
            | Op::Attend { .. }
            | Op::Activate { .. }
            | Op::Add { .. }
            | Op::Multiply { .. }
            | Op::Scale { .. }
            | Op::Softcap { .. }
            | Op::Clamp { .. }
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
}
