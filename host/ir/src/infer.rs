//! Types of an operation's results, from its operands: the one place that knows what fits.
//!
//! Plugins choose the operands, so nothing here trusts an index, a size or a number; what does
//! not fit is a [`TypeError`] that names the operation, its operands and both shapes.

use crate::attention::AttentionData;
use crate::entities::{Rotary, Value, Weight};
use crate::graph::Graph;
use crate::mixture::MixtureData;
use crate::op::{Op, Stretch};
use crate::operands::Operands;
use crate::options::{bound, finite, not_zero, positive};
use crate::rotary::RotaryData;
use crate::shape::{Dim, Type};
use crate::state::StateData;
use engraft_diagnostic::{Code, Diagnostic, Fault, escape};

/// Operands that do not fit their operation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation}: {message}")]
pub struct TypeError {
    /// The operation, by its word in the text form.
    pub operation: &'static str,
    /// What does not fit: operands, both shapes, what would.
    pub message: String,
}

impl Diagnostic for TypeError {
    fn code(&self) -> Code {
        Code(801)
    }

    fn fault(&self) -> Fault {
        Fault::Plugin
    }

    fn help(&self) -> Option<String> {
        Some(format!("compare the operands of `{}` with the model's config", self.operation))
    }
}

/// What the operation gives: one type a result, at least one.
///
/// # Errors
/// [`TypeError`] where operands do not exist or do not fit.
pub fn infer(graph: &Graph, op: &Op) -> Result<Vec<Type>, TypeError> {
    let results = Operands { graph }.infer(op);
    results.map_err(|message| TypeError { operation: op.name(), message })
}

impl Operands<'_> {
    fn infer(&self, op: &Op) -> Result<Vec<Type>, String> {
        Ok(match *op {
            Op::Tokens => vec![Type::tokens()],
            Op::Embedding { tokens, table, stretch } => {
                let ids = self.value(tokens)?;
                if ids.width.is_some() || ids.dtype.is_float() {
                    return Err(format!("tokens {tokens} is {ids}: it must be token ids"));
                }
                vec![Type::real(ids.rows, self.table(table, stretch)?)]
            }
            Op::Positions { table, stretch } => {
                vec![Type::real(Dim::Tokens, self.table(table, stretch)?)]
            }
            Op::Linear { input, weight, bias } => {
                let (rows, width) = self.real("input", input)?;
                let [out, inner] = self.weight("weight", weight)?;
                if inner != width {
                    let weight = self.show(weight);
                    let ty = &self.graph.values[input].ty;
                    return Err(format!(
                        "weight {weight}, input {input} is {ty}: its width must be {inner}"
                    ));
                }
                if let Some(bias) = bias {
                    let [length] = self.weight("bias", bias)?;
                    if length != out {
                        let (weight, bias) = (self.show(weight), self.show(bias));
                        return Err(format!(
                            "weight {weight}, bias {bias}: its length must be {out}"
                        ));
                    }
                }
                vec![Type::real(rows, out)]
            }
            Op::LinearHeads { input, weight, bias, heads } => {
                vec![self.linear_heads(input, weight, bias, heads)?]
            }
            Op::Concat { ref inputs, heads } => vec![self.concat(inputs, heads)?],
            Op::Split { input, ref sizes } => {
                let (rows, width) = self.real("input", input)?;
                let sum = sizes.iter().try_fold(0u64, |sum, &size| sum.checked_add(size));
                if sum != Some(width) || sizes.contains(&0) {
                    return Err(format!(
                        "input {input} is {}, sizes are {}: they must be at least 1 and sum to \
                         {width}",
                        self.graph.values[input].ty,
                        escape(&format!("{sizes:?}")),
                    ));
                }
                sizes.iter().map(|&size| Type::real(rows, size)).collect()
            }
            Op::RmsNorm { input, weight, epsilon } => {
                vec![self.norm("input", input, weight, epsilon)?]
            }
            Op::LayerNorm { input, weight, bias, epsilon } => {
                let (rows, width) = self.real("input", input)?;
                for (role, vector) in [("weight", weight), ("bias", bias)] {
                    vector.map_or(Ok(()), |vector| self.vector(role, vector, "input", input))?;
                }
                positive("epsilon", epsilon)?;
                vec![Type::real(rows, width)]
            }
            Op::RmsNormHeads { input, weight, head_width, epsilon }
            | Op::LayerNormHeads { input, weight, head_width, epsilon } => {
                vec![self.norm_heads(input, weight, head_width, epsilon)?]
            }
            Op::Rotate { input, rotary } => {
                let (rows, width) = self.real("input", input)?;
                let RotaryData { head_width, .. } = *self.rotary(rotary)?;
                self.all_tokens("input", input)?;
                if width % u64::from(head_width) != 0 {
                    return Err(format!(
                        "input {input} is {}, {rotary} turns heads of {head_width}: its width \
                         must be a multiple of {head_width}",
                        self.graph.values[input].ty,
                    ));
                }
                vec![Type::real(rows, width)]
            }
            Op::Attend { query, key, value, cache, rotary, ref options } => {
                let rows = self.attend([query, key, value], options)?;
                self.keeps(cache, options.state())?;
                if let Some(rotary) = rotary {
                    self.turns_heads(rotary, options)?;
                }
                // Two u32 fit.
                let width = u64::from(options.query_heads) * u64::from(options.value_width());
                vec![Type::real(rows, width)]
            }
            Op::Mix { input, scores, up, down, ref options } => {
                vec![self.mix(input, scores, [up, down], options)?]
            }
            Op::Convolve { input, weight, bias, state } => {
                let (rows, width) = self.real("input", input)?;
                self.all_tokens("input", input)?;
                let [channels, taps] = self.weight("weight", weight)?;
                if channels != width {
                    return Err(format!(
                        "weight {}, input {input} is {}: its width must be {channels}",
                        self.show(weight),
                        self.graph.values[input].ty,
                    ));
                }
                bias.map_or(Ok(()), |bias| self.vector("bias", bias, "input", input))?;
                self.keeps(state, StateData::Convolution { channels, taps })?;
                vec![Type::real(rows, width)]
            }
            Op::Recur { input, input_gate, recurrent_gate, decay, state } => {
                self.same("input", input, "input_gate", input_gate)?;
                let ty = self.same("input", input, "recurrent_gate", recurrent_gate)?;
                self.all_tokens("input", input)?;
                self.vector("decay", decay, "input", input)?;
                let (_, channels) = self.real("input", input)?;
                self.keeps(state, StateData::Recurrence { channels })?;
                vec![ty]
            }
            Op::Activate { input, .. } => {
                let (rows, width) = self.real("input", input)?;
                vec![Type::real(rows, width)]
            }
            Op::Scale { input, factor } => {
                let (rows, width) = self.real("input", input)?;
                finite("factor", factor)?;
                vec![Type::real(rows, width)]
            }
            Op::Softcap { input, bound: most } => {
                let (rows, width) = self.real("input", input)?;
                bound("bound", most)?;
                vec![Type::real(rows, width)]
            }
            Op::Clamp { input, low, high } => {
                let (rows, width) = self.real("input", input)?;
                finite("low", low)?;
                finite("high", high)?;
                if low >= high {
                    return Err(format!("low is {low:?}: it must be less than high, {high:?}"));
                }
                vec![Type::real(rows, width)]
            }
            Op::Multiply { left, right } if self.value(right)?.width == Some(1) => {
                vec![self.each_column(left, right)?]
            }
            Op::Add { left, right } | Op::Multiply { left, right } => {
                vec![self.same("left", left, "right", right)?]
            }
            Op::Gate { gate, up, .. } => vec![self.same("gate", gate, "up", up)?],
            Op::Receive { ref widths } => {
                if widths.is_empty() || widths.contains(&0) {
                    return Err(format!("widths are {widths:?}: there must be one, and none is 0"));
                }
                widths.iter().map(|&width| Type::real(Dim::Tokens, width)).collect()
            }
            Op::AllReduce { input } => {
                let (rows, width) = self.real("input", input)?;
                vec![Type::real(rows, width)]
            }
            Op::AllGather { input } => {
                let (rows, width) = self.real("input", input)?;
                let ranks = self.graph.rank.mapping.tp_size;
                match width.checked_mul(u64::from(ranks)) {
                    Some(all) => vec![Type::real(rows, all)],
                    None => {
                        let ty = &self.graph.values[input].ty;
                        return Err(format!("input {input} is {ty}: {ranks} of it are too wide"));
                    }
                }
            }
            Op::Outputs { input } => {
                let (_, width) = self.real("input", input)?;
                self.all_tokens("input", input)?;
                vec![Type::real(Dim::Outputs, width)]
            }
            Op::RoundInputs { input, scales, grid } => {
                let (rows, width) = self.real("input", input)?;
                if let Some(scales) = scales {
                    self.vector("scales", scales, "input", input)?;
                }
                if let Some(scale) = grid.and_then(|grid| grid.scale) {
                    let [length] = self.weight("scale", scale)?;
                    if length != 1 {
                        return Err(format!("scale {}: it must be one number", self.show(scale)));
                    }
                }
                vec![Type::real(rows, width)]
            }
            Op::AddRmsNorm { left, right, weight, epsilon } => {
                let sum = self.same("left", left, "right", right)?;
                vec![sum, self.norm("left", left, weight, epsilon)?]
            }
        })
    }

    /// The width of a table's rows.
    fn table(&self, table: Weight, stretch: Option<Stretch>) -> Result<u64, String> {
        let [_, width] = self.weight("table", table)?;
        match stretch {
            Some(Stretch { first, of }) if first >= of => {
                Err(format!("first is {first}: it must be less than of, {of}"))
            }
            _ => Ok(width),
        }
    }

    /// `right` has one number for all columns of a row of `left`.
    fn each_column(&self, left: Value, right: Value) -> Result<Type, String> {
        let (rows, width) = self.real("left", left)?;
        let (others, _) = self.real("right", right)?;
        if rows != others {
            return Err(format!(
                "left {left} is {}, right {right} is {}: they must have the same rows",
                self.graph.values[left].ty, self.graph.values[right].ty,
            ));
        }
        Ok(Type::real(rows, width))
    }

    fn linear_heads(
        &self,
        input: Value,
        weight: Weight,
        bias: Option<Weight>,
        heads: u32,
    ) -> Result<Type, String> {
        let (rows, width) = self.real("input", input)?;
        not_zero("heads", heads)?;
        let [matrices, out, inner] = self.weight("weight", weight)?;
        if matrices != u64::from(heads) {
            let weight = self.show(weight);
            return Err(format!("weight {weight}, heads is {heads}: it must be {matrices}"));
        }
        // What a weight has elements of can be counted.
        let (expected, columns) = (matrices.saturating_mul(inner), matrices.saturating_mul(out));
        if width != expected {
            return Err(format!(
                "weight {}, input {input} is {}: its width must be {expected}",
                self.show(weight),
                self.graph.values[input].ty,
            ));
        }
        if let Some(bias) = bias {
            let [length] = self.weight("bias", bias)?;
            if length != columns {
                let (weight, bias) = (self.show(weight), self.show(bias));
                return Err(format!("weight {weight}, bias {bias}: its length must be {columns}"));
            }
        }
        Ok(Type::real(rows, columns))
    }

    fn concat(&self, inputs: &[Value], heads: u32) -> Result<Type, String> {
        not_zero("heads", heads)?;
        let Some(&first) = inputs.first() else { return Err("it has no inputs".to_string()) };
        let (rows, mut sum) = (self.real("input", first)?.0, 0u64);
        for &input in inputs {
            let (others, width) = self.real("input", input)?;
            let ty = &self.graph.values[input].ty;
            if others != rows {
                return Err(format!(
                    "input {input} is {ty}: its rows must be {rows}, as {first}'s"
                ));
            }
            if width % u64::from(heads) != 0 {
                return Err(format!(
                    "input {input} is {ty}: its width must be a multiple of heads, {heads}"
                ));
            }
            sum = match sum.checked_add(width) {
                Some(sum) => sum,
                None => return Err(format!("with input {input}, which is {ty}, it is too wide")),
            };
        }
        Ok(Type::real(rows, sum))
    }

    /// Operands and options of an attention; the rows of its result.
    fn attend(
        &self,
        [query, key, value]: [Value; 3],
        options: &AttentionData,
    ) -> Result<Dim, String> {
        options.check()?;
        let AttentionData { query_heads, key_heads, head_width, .. } = *options;
        self.heads("query", query, query_heads, head_width)?;
        self.heads("key", key, key_heads, head_width)?;
        self.heads("value", value, key_heads, head_width)?;
        if options.latent.is_some() && value != key {
            return Err(format!("value is {value}: where it is latent, it must be the key, {key}"));
        }
        if let Some(sinks) = options.sinks {
            let [length] = self.weight("sinks", sinks)?;
            if length != u64::from(query_heads) {
                return Err(format!(
                    "sinks {}: its length must be query_heads, {query_heads}",
                    self.show(sinks)
                ));
            }
        }
        Ok(self.real("query", query)?.0)
    }

    fn turns_heads(&self, rotary: Rotary, options: &AttentionData) -> Result<(), String> {
        let turned = self.rotary(rotary)?.head_width;
        let AttentionData { head_width, latent, .. } = *options;
        if turned != head_width {
            return Err(format!("{rotary} turns heads of {turned}: they must be of {head_width}"));
        }
        match latent {
            None => Ok(()),
            Some(_) => Err(format!("{rotary} turns keys: where it is latent, they are values too")),
        }
    }

    fn mix(
        &self,
        input: Value,
        scores: Value,
        [up, down]: [Weight; 2],
        options: &MixtureData,
    ) -> Result<Type, String> {
        let (rows, hidden) = self.real("input", input)?;
        let (others, experts) = self.real("scores", scores)?;
        if rows != others {
            return Err(format!(
                "input {input} is {}, scores {scores} is {}: they must have the same rows",
                self.graph.values[input].ty, self.graph.values[scores].ty,
            ));
        }
        options.check()?;
        options.check_experts(experts)?;
        let [here, both, _] = self.weight("up", up)?;
        if both % 2 != 0 {
            return Err(format!("up {}: its second length must be even", self.show(up)));
        }
        let here = match options.first {
            None => experts,
            Some(first) if u64::from(first).saturating_add(here) <= experts => here,
            Some(first) => {
                return Err(format!(
                    "first is {first}, up {}: there are {experts} experts",
                    self.show(up)
                ));
            }
        };
        self.experts("up", up, &[here, both, hidden], input, scores)?;
        self.experts("down", down, &[here, hidden, both / 2], input, scores)?;
        if let Some([up, down]) = options.biases {
            self.experts("up_bias", up, &[here, both], input, scores)?;
            self.experts("down_bias", down, &[here, hidden], input, scores)?;
        }
        if let Some(prefer) = options.prefer {
            self.experts("prefer", prefer, &[experts], input, scores)?;
        }
        Ok(Type::real(rows, hidden))
    }

    /// A weight of all experts.
    fn experts(
        &self,
        role: &str,
        weight: Weight,
        shape: &[u64],
        input: Value,
        scores: Value,
    ) -> Result<(), String> {
        let found = match shape.len() {
            1 => self.weight::<1>(role, weight)?.to_vec(),
            2 => self.weight::<2>(role, weight)?.to_vec(),
            _ => self.weight::<3>(role, weight)?.to_vec(),
        };
        if found == shape {
            return Ok(());
        }
        Err(format!(
            "{role} {}, input {input} is {}, scores {scores} is {}: it must be {}",
            self.show(weight),
            self.graph.values[input].ty,
            self.graph.values[scores].ty,
            escape(&format!("{shape:?}")),
        ))
    }

    fn heads(&self, role: &str, value: Value, heads: u32, head: u32) -> Result<(), String> {
        let (_, width) = self.real(role, value)?;
        self.all_tokens(role, value)?;
        // Two u32 fit.
        let expected = u64::from(heads) * u64::from(head);
        if width != expected {
            return Err(format!(
                "{role} {value} is {}, heads are {heads} of {head}: its width must be {expected}",
                self.graph.values[value].ty,
            ));
        }
        Ok(())
    }

    fn norm(&self, role: &str, input: Value, weight: Weight, epsilon: f64) -> Result<Type, String> {
        let (rows, width) = self.real(role, input)?;
        self.vector("weight", weight, role, input)?;
        positive("epsilon", epsilon)?;
        Ok(Type::real(rows, width))
    }

    /// A weight with an element for each of a value.
    fn vector(&self, name: &str, weight: Weight, role: &str, input: Value) -> Result<(), String> {
        let (_, width) = self.real(role, input)?;
        let [length] = self.weight(name, weight)?;
        if length != width {
            return Err(format!(
                "{name} {}, {role} {input} is {}: its width must be {length}",
                self.show(weight),
                self.graph.values[input].ty,
            ));
        }
        Ok(())
    }

    fn norm_heads(
        &self,
        input: Value,
        weight: Weight,
        head_width: u32,
        epsilon: f64,
    ) -> Result<Type, String> {
        let (rows, width) = self.real("input", input)?;
        not_zero("head_width", head_width)?;
        let head = u64::from(head_width);
        if width % head != 0 {
            return Err(format!(
                "input {input} is {}: its width must be a multiple of head_width, {head_width}",
                self.graph.values[input].ty,
            ));
        }
        let [length] = self.weight("weight", weight)?;
        if length != head && length != width {
            return Err(format!(
                "weight {}, input {input} is {}: its length must be head_width, {head_width}, or \
                 {width}",
                self.show(weight),
                self.graph.values[input].ty,
            ));
        }
        positive("epsilon", epsilon)?;
        Ok(Type::real(rows, width))
    }
}

#[cfg(test)]
mod tests {
    //! What no text can say; the rest are filetests.
    use super::*;
    use crate::entities::State;
    use crate::parse;

    const TEXT: &str = r#"graph 1
place embed {
    s0 = cache key_heads=1 head_width=4
    w0 = weight "e" f32 [10 vocabulary, 4]
    v0 = tokens
    v1 = embedding v0, w0
    v2 = attend v1, v1, v1, s0, query_heads=1 scale=0.5
    return v2
}"#;

    fn refused(op: &Op, message: &str) {
        let graph = parse(TEXT).expect("it parses");
        let error = infer(&graph, op).expect_err("it does not fit");
        assert_eq!(error.to_string(), message);
    }

    #[test]
    fn indices_from_anywhere_are_looked_up() {
        let far = Value::from_u32(u32::MAX - 1);
        let op = Op::Add { left: far, right: far };
        refused(&op, "add: v4294967294 does not exist");
        let (input, weight) = (Value::from_u32(1), Weight::from_u32(u32::MAX));
        let op = Op::Linear { input, weight, bias: None };
        refused(&op, "linear: w4294967295 does not exist");
        let op = Op::Rotate { input, rotary: Rotary::from_u32(1 << 31) };
        refused(&op, "rotate: r2147483648 does not exist");
    }

    #[test]
    fn numbers_are_finite() {
        let (input, weight) = (Value::from_u32(1), Weight::from_u32(0));
        let op = Op::RmsNorm { input, weight, epsilon: f64::NAN };
        refused(&op, "rms_norm: weight w0 \"e\" is [10, 4]: it must have 1 axis");
        let mut graph = parse(TEXT).expect("it parses");
        graph.weights[weight].axes.remove(0);
        for epsilon in [f64::NAN, f64::INFINITY] {
            let error = infer(&graph, &Op::RmsNorm { input, weight, epsilon });
            let error = error.expect_err("it is not finite").to_string();
            assert!(error.ends_with("it must be finite and greater than 0"), "{error}");
        }
    }

    #[test]
    fn a_state_keeps_what_its_attention_makes() {
        let value = Value::from_u32(1);
        let attend = |cache, key_heads, head_width, scale| {
            let options = AttentionData::new(key_heads, key_heads, head_width, scale);
            let cache = State::from_u32(cache);
            Op::Attend { query: value, key: value, value, cache, rotary: None, options }
        };
        refused(&attend(9, 1, 4, 0.5), "attend: s9 does not exist");
        refused(
            &attend(0, 2, 2, 0.5),
            "attend: s0 is cache key_heads=1 head_width=4: it must be cache key_heads=2 head_width=2",
        );
        refused(&attend(0, 1, 4, f64::NAN), "attend: scale is NaN: it must be finite");
        refused(
            &attend(0, u32::MAX, u32::MAX, 0.5),
            "attend: query v1 is f32 [tokens, 4], heads are 4294967295 of 4294967295: its width \
             must be 18446744065119617025",
        );
    }
}
