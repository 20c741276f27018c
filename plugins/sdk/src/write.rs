//! Writing a graph in the words that models are described in.

use crate::{Base, Builder, Value};

/// Layers that ask for their parameters themselves.
pub trait BuilderExt {
    /// A linear layer: `NAME.weight` and, where it has one, `NAME.bias`.
    fn dense(&self, input: Value, name: &str, bias: bool) -> Value;
    /// Queries, keys and values by the linear layer `attention.qkv`.
    fn qkv(&self, input: Value, base: &Base, bias: bool) -> [Value; 3];
    /// A gated feed-forward layer: `proj(activation(fc(input)) · gate(input))`.
    fn gated(&self, input: Value, name: &str, activation: &str, bias: bool) -> Value;
    /// A plain one: `proj(activation(fc(input)))`.
    fn feed_forward(&self, input: Value, name: &str, activation: &str, bias: bool) -> Value;
    /// A root-mean-square norm by `NAME.weight`.
    fn norm(&self, input: Value, name: &str, epsilon: f64) -> Value;
    /// A layer norm by `NAME.weight` and, where it has one, `NAME.bias`.
    fn ln(&self, input: Value, name: &str, bias: bool, epsilon: f64) -> Value;
    /// Root-mean-square norms of each head of queries and keys, where they are normed.
    fn head_norms(&self, inputs: [Value; 2], base: &Base) -> [Value; 2];
}

impl BuilderExt for Builder {
    fn dense(&self, input: Value, name: &str, bias: bool) -> Value {
        let weight = self.parameter(&format!("{name}.weight"));
        let bias = bias.then(|| self.parameter(&format!("{name}.bias")));
        self.linear(input, weight, bias)
    }

    fn qkv(&self, input: Value, base: &Base, bias: bool) -> [Value; 3] {
        let widths = [base.queries(), base.keys(), base.keys()].map(|axis| axis.size);
        let parts = self.split(self.dense(input, "attention.qkv", bias), &widths);
        [parts[0], parts[1], parts[2]]
    }

    fn gated(&self, input: Value, name: &str, activation: &str, bias: bool) -> Value {
        let layer = |input, part| self.dense(input, &format!("{name}.{part}"), bias);
        let gate = self.activate(layer(input, "fc"), activation);
        layer(self.multiply(gate, layer(input, "gate")), "proj")
    }

    fn feed_forward(&self, input: Value, name: &str, activation: &str, bias: bool) -> Value {
        let inner = self.dense(input, &format!("{name}.fc"), bias);
        self.dense(self.activate(inner, activation), &format!("{name}.proj"), bias)
    }

    fn norm(&self, input: Value, name: &str, epsilon: f64) -> Value {
        self.rms_norm(input, self.parameter(&format!("{name}.weight")), epsilon)
    }

    fn ln(&self, input: Value, name: &str, bias: bool, epsilon: f64) -> Value {
        let weight = self.parameter(&format!("{name}.weight"));
        let bias = bias.then(|| self.parameter(&format!("{name}.bias")));
        self.layer_norm(input, Some(weight), bias, epsilon)
    }

    fn head_norms(&self, [q, k]: [Value; 2], base: &Base) -> [Value; 2] {
        if !base.qk_norm {
            return [q, k];
        }
        [(q, "attention.q_layernorm.weight"), (k, "attention.k_layernorm.weight")].map(
            |(input, name)| {
                let weight = self.parameter(name);
                self.rms_norm_heads(input, weight, base.head_width, base.epsilon)
            },
        )
    }
}
