//! Activations and their names.

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
    /// `1 / (1 + exp(-x))`
    Sigmoid,
}

/// Every activation; its first name is the spelling in the text form, the rest are synonyms.
pub(crate) const ACTIVATIONS: [(Activation, &[&str]); 6] = [
    (Activation::Silu, &["silu", "swish"]),
    (Activation::Gelu, &["gelu"]),
    (Activation::GeluNew, &["gelu_new", "gelu_pytorch_tanh", "gelu_fast"]),
    (Activation::Relu, &["relu"]),
    (Activation::Relu2, &["relu2", "squared_relu"]),
    (Activation::Sigmoid, &["sigmoid"]),
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
