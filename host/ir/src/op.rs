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
}

/// Every activation; its first name is the spelling in the text form, the rest are synonyms.
pub(crate) const ACTIVATIONS: [(Activation, &[&str]); 4] = [
    (Activation::Silu, &["silu", "swish"]),
    (Activation::Gelu, &["gelu"]),
    (Activation::GeluNew, &["gelu_new", "gelu_pytorch_tanh", "gelu_fast"]),
    (Activation::Relu, &["relu"]),
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

/// A rotary position embedding. Pairs are halves of the turned part: element `i` turns with
/// element `i + rotated/2`.
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
}

/// Heads of a causal self-attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionData {
    /// Query heads.
    pub query_heads: u32,
    /// Key and value heads; divides `query_heads`.
    pub key_heads: u32,
    /// Elements of one head.
    pub head_width: u32,
    /// What scores are multiplied by.
    pub scale: f64,
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
        /// Heads and scale.
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
            Op::Rotate { .. } => "rotate",
            Op::Attend { .. } => "attend",
            Op::Activate { .. } => "activate",
            Op::Add { .. } => "add",
            Op::Multiply { .. } => "multiply",
            Op::Outputs { .. } => "outputs",
            Op::AddRmsNorm { .. } => "add_rms_norm",
            Op::Gate { .. } => "gate",
        }
    }

    /// Calls `f` on each value operand, in their order in the text form; `f` may replace it.
    pub fn map_values(&mut self, mut f: impl FnMut(&mut Value)) {
        match self {
            Op::Tokens => {}
            Op::Embedding { tokens: input, .. }
            | Op::Linear { input, .. }
            | Op::Split { input, .. }
            | Op::RmsNorm { input, .. }
            | Op::Rotate { input, .. }
            | Op::Activate { input, .. }
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
            | Op::RmsNorm { weight, .. }
            | Op::AddRmsNorm { weight, .. } => f(weight),
            Op::Linear { weight, bias, .. } => {
                f(weight);
                bias.as_mut().map(f);
            }
            Op::Tokens
            | Op::Split { .. }
            | Op::Rotate { .. }
            | Op::Attend { .. }
            | Op::Activate { .. }
            | Op::Add { .. }
            | Op::Multiply { .. }
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
