//! Types of an operation's results, from its operands: the one place that knows what fits.
//!
//! Plugins choose the operands, so nothing here trusts an index, a size or a number; what does
//! not fit is a [`TypeError`] that names the operation, its operands and both shapes.

use crate::entities::{Rotary, State, Value, Weight};
use crate::graph::{Graph, StateData, WeightData};
use crate::op::{AttentionData, Op, RotaryData};
use crate::options::{bound, finite, not_zero, positive};
use crate::shape::{Dim, Type};
use crate::write::Quoted;
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

/// The longest part of a weight's name that a message shows.
const SHOWN_NAME: usize = 80;

/// Looks operands up and checks them; errors are messages that lack the operation's name.
struct Operands<'a> {
    graph: &'a Graph,
}

impl<'a> Operands<'a> {
    fn infer(&self, op: &Op) -> Result<Vec<Type>, String> {
        Ok(match *op {
            Op::Tokens => vec![Type::tokens()],
            Op::Embedding { tokens, table } => {
                let ids = self.value(tokens)?;
                if ids.width.is_some() || ids.dtype.is_float() {
                    return Err(format!("tokens {tokens} is {ids}: it must be token ids"));
                }
                let [_, width] = self.weight("table", table)?;
                vec![Type::real(ids.rows, width)]
            }
            Op::Positions { table } => {
                let [_, width] = self.weight("table", table)?;
                vec![Type::real(Dim::Tokens, width)]
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
                options.check()?;
                let AttentionData { query_heads, key_heads, head_width, .. } = *options;
                self.heads("query", query, query_heads, head_width)?;
                self.heads("key", key, key_heads, head_width)?;
                self.heads("value", value, key_heads, head_width)?;
                let state = *self.state(cache)?;
                if state != (StateData { key_heads, head_width }) {
                    return Err(format!(
                        "{cache} keeps {} key_heads of {}: they must be {key_heads} of {head_width}",
                        state.key_heads, state.head_width,
                    ));
                }
                if let Some(rotary) = rotary {
                    let turned = self.rotary(rotary)?.head_width;
                    if turned != head_width {
                        return Err(format!(
                            "{rotary} turns heads of {turned}: they must be of {head_width}"
                        ));
                    }
                }
                vec![self.value(query)?.clone()]
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
            Op::Add { left, right } | Op::Multiply { left, right } => {
                vec![self.same("left", left, "right", right)?]
            }
            Op::Gate { gate, up, .. } => vec![self.same("gate", gate, "up", up)?],
            Op::Outputs { input } => {
                let (_, width) = self.real("input", input)?;
                self.all_tokens("input", input)?;
                vec![Type::real(Dim::Outputs, width)]
            }
            Op::AddRmsNorm { left, right, weight, epsilon } => {
                let sum = self.same("left", left, "right", right)?;
                vec![sum, self.norm("left", left, weight, epsilon)?]
            }
        })
    }

    fn value(&self, value: Value) -> Result<&'a Type, String> {
        match self.graph.values.get(value) {
            Some(data) => Ok(&data.ty),
            None => Err(format!("{value} does not exist")),
        }
    }

    /// Rows and width of real numbers.
    fn real(&self, role: &str, value: Value) -> Result<(Dim, u64), String> {
        let ty = self.value(value)?;
        match ty.width {
            Some(width) if ty.dtype.is_float() => Ok((ty.rows, width)),
            _ => Err(format!("{role} {value} is {ty}: it must be f32 with a width")),
        }
    }

    /// Positions belong to tokens, so what needs them needs all rows.
    fn all_tokens(&self, role: &str, value: Value) -> Result<(), String> {
        let ty = self.value(value)?;
        match ty.rows {
            Dim::Tokens => Ok(()),
            _ => Err(format!("{role} {value} is {ty}: its rows must be tokens")),
        }
    }

    fn same(&self, one: &str, left: Value, other: &str, right: Value) -> Result<Type, String> {
        self.real(one, left)?;
        self.real(other, right)?;
        let (a, b) = (self.value(left)?, self.value(right)?);
        if a != b {
            return Err(format!(
                "{one} {left} is {a}, {other} {right} is {b}: they must be the same"
            ));
        }
        Ok(a.clone())
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

    fn state(&self, state: State) -> Result<&'a StateData, String> {
        self.graph.states.get(state).ok_or_else(|| format!("{state} does not exist"))
    }

    fn rotary(&self, rotary: Rotary) -> Result<&'a RotaryData, String> {
        let data = self.graph.rotaries.get(rotary);
        let data = data.ok_or_else(|| format!("{rotary} does not exist"))?;
        data.check().map_err(|message| format!("{rotary}: {message}"))?;
        Ok(data)
    }

    /// The lengths of a weight of `RANK` axes.
    fn weight<const RANK: usize>(&self, role: &str, weight: Weight) -> Result<[u64; RANK], String> {
        let Some(data) = self.graph.weights.get(weight) else {
            return Err(format!("{weight} does not exist"));
        };
        data.check().map_err(|message| format!("{role} {}: {message}", self.show(weight)))?;
        if !data.dtype.is_float() {
            let (weight, dtype) = (self.show(weight), data.dtype);
            return Err(format!("{role} {weight} of {dtype}: it must be of floating point"));
        }
        <[u64; RANK]>::try_from(data.shape()).map_err(|_| {
            let axes = if RANK == 1 { "axis" } else { "axes" };
            format!("{role} {}: it must have {RANK} {axes}", self.show(weight))
        })
    }

    /// What it is, in one line: `w3 "transformer.layers.0.mlp.fc.weight" is [1536, 576]`
    fn show(&self, weight: Weight) -> String {
        let WeightData { name, .. } = &self.graph.weights[weight];
        let cut = name.len().saturating_sub(SHOWN_NAME);
        let cut = (cut..=name.len()).find(|&i| name.is_char_boundary(i)).unwrap_or(0);
        let dots = if cut > 0 { "…" } else { "" };
        let shape = escape(&format!("{:?}", self.graph.weights[weight].shape()));
        format!("{weight} {dots}{} is {shape}", Quoted(&name[cut..]))
    }
}

#[cfg(test)]
mod tests {
    //! What no text can say; the rest are filetests.
    use super::*;
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
        refused(&attend(0, 2, 2, 0.5), "attend: s0 keeps 1 key_heads of 4: they must be 2 of 2");
        refused(&attend(0, 1, 4, f64::NAN), "attend: scale is NaN: it must be finite");
        refused(
            &attend(0, u32::MAX, u32::MAX, 0.5),
            "attend: query v1 is f32 [tokens, 4], heads are 4294967295 of 4294967295: its width \
             must be 18446744065119617025",
        );
    }
}
