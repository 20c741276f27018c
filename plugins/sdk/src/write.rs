//! Writing a graph in the words that models are described in.

use crate::{Builder, Value};

/// Layers that ask for their parameters themselves.
pub trait BuilderExt {
    /// A linear layer: `NAME.weight` and, where it has one, `NAME.bias`.
    fn dense(&self, input: Value, name: &str, bias: bool) -> Value;
    /// A gated feed-forward layer: `proj(activation(fc(input)) · gate(input))`.
    fn gated(&self, input: Value, name: &str, activation: &str, bias: bool) -> Value;
    /// A root-mean-square norm by `NAME.weight`.
    fn norm(&self, input: Value, name: &str, epsilon: f64) -> Value;
}

impl BuilderExt for Builder {
    fn dense(&self, input: Value, name: &str, bias: bool) -> Value {
        let weight = self.parameter(&format!("{name}.weight"));
        let bias = bias.then(|| self.parameter(&format!("{name}.bias")));
        self.linear(input, weight, bias)
    }

    fn gated(&self, input: Value, name: &str, activation: &str, bias: bool) -> Value {
        let layer = |input, part| self.dense(input, &format!("{name}.{part}"), bias);
        let gate = self.activate(layer(input, "fc"), activation);
        layer(self.multiply(gate, layer(input, "gate")), "proj")
    }

    fn norm(&self, input: Value, name: &str, epsilon: f64) -> Value {
        self.rms_norm(input, self.parameter(&format!("{name}.weight")), epsilon)
    }
}
