//! An operation's operands, looked up and checked one by one.
//!
//! Nothing here trusts an index. Errors are messages that lack the operation's name.

use crate::entities::{Rotary, State, Value, Weight};
use crate::graph::{Graph, WeightData};
use crate::rotary::RotaryData;
use crate::shape::{Dim, Type};
use crate::state::StateData;
use crate::write::Quoted;
use engraft_diagnostic::escape;

/// The longest part of a weight's name that a message shows.
const SHOWN_NAME: usize = 80;

/// Looks operands up and checks them.
pub(crate) struct Operands<'a> {
    pub(crate) graph: &'a Graph,
}

impl<'a> Operands<'a> {
    pub(crate) fn value(&self, value: Value) -> Result<&'a Type, String> {
        match self.graph.values.get(value) {
            Some(data) => Ok(&data.ty),
            None => Err(format!("{value} does not exist")),
        }
    }

    /// Rows and width of real numbers.
    pub(crate) fn real(&self, role: &str, value: Value) -> Result<(Dim, u64), String> {
        let ty = self.value(value)?;
        match ty.width {
            Some(width) if ty.dtype.is_float() => Ok((ty.rows, width)),
            _ => Err(format!("{role} {value} is {ty}: it must be f32 with a width")),
        }
    }

    /// Positions belong to tokens, so what needs them needs all rows.
    pub(crate) fn all_tokens(&self, role: &str, value: Value) -> Result<(), String> {
        let ty = self.value(value)?;
        match ty.rows {
            Dim::Tokens => Ok(()),
            _ => Err(format!("{role} {value} is {ty}: its rows must be tokens")),
        }
    }

    pub(crate) fn same(
        &self,
        one: &str,
        left: Value,
        other: &str,
        right: Value,
    ) -> Result<Type, String> {
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

    /// An error unless a state keeps what its operation needs.
    pub(crate) fn keeps(&self, state: State, needed: StateData) -> Result<(), String> {
        match self.graph.states.get(state) {
            None => Err(format!("{state} does not exist")),
            Some(data) if *data == needed => Ok(()),
            Some(data) => Err(format!("{state} is {data}: it must be {needed}")),
        }
    }

    pub(crate) fn rotary(&self, rotary: Rotary) -> Result<&'a RotaryData, String> {
        let data = self.graph.rotaries.get(rotary);
        let data = data.ok_or_else(|| format!("{rotary} does not exist"))?;
        data.check().map_err(|message| format!("{rotary}: {message}"))?;
        Ok(data)
    }

    /// The lengths of a weight of `RANK` axes.
    pub(crate) fn weight<const RANK: usize>(
        &self,
        role: &str,
        weight: Weight,
    ) -> Result<[u64; RANK], String> {
        let Some(data) = self.graph.weights.get(weight) else {
            return Err(format!("{weight} does not exist"));
        };
        data.check().map_err(|message| format!("{role} {}: {message}", self.show(weight)))?;
        if RANK == 1 && data.coding.is_some() {
            return Err(format!("{role} {} has codes: a vector has none", self.show(weight)));
        }
        if data.coding.is_none() && !data.dtype.is_float() {
            let (weight, dtype) = (self.show(weight), data.dtype);
            return Err(format!("{role} {weight} of {dtype}: it must be of floating point"));
        }
        <[u64; RANK]>::try_from(data.shape()).map_err(|_| {
            let axes = if RANK == 1 { "axis" } else { "axes" };
            format!("{role} {}: it must have {RANK} {axes}", self.show(weight))
        })
    }

    /// What it is, in one line: `w3 "transformer.layers.0.mlp.fc.weight" is [1536, 576]`
    pub(crate) fn show(&self, weight: Weight) -> String {
        let WeightData { name, .. } = &self.graph.weights[weight];
        let cut = name.len().saturating_sub(SHOWN_NAME);
        let cut = (cut..=name.len()).find(|&i| name.is_char_boundary(i)).unwrap_or(0);
        let dots = if cut > 0 { "…" } else { "" };
        let shape = escape(&format!("{:?}", self.graph.weights[weight].shape()));
        format!("{weight} {dots}{} is {shape}", Quoted(&name[cut..]))
    }
}
