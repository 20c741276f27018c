//! The graph while a plugin writes it: every call is checked, typed and counted as it is made.
//!
//! A guest holds bare indices. An index is taken only if it is a value of the place being
//! written or one that the place before handed on, or a weight that this place declares; so no
//! guest can reach into another place, and what is recorded needs no second look.

use crate::Limits;
use crate::budget::{Budget, Used, within};
use crate::error::{Exhausted, Problem, Rejection};
use cranelift_entity::EntityRef;
use engraft_diagnostic::escape;
use engraft_ir::{
    AttentionData, DType, Graph, Op, Place, PlaceKind, Rotary, RotaryData, Scaling, State,
    StateData, Type, Value, Weight, WeightData,
};
use engraft_weights::{Origin, Parameter, Precision, full_name};
use std::collections::{BTreeMap, BTreeSet};

/// A graph under construction.
#[derive(Debug)]
pub struct Recorder {
    graph: Graph,
    budget: Budget,
    /// The place being written; none before the first.
    place: Option<Place>,
    /// What it takes from the place before.
    carry: Vec<Value>,
    /// How many values there were when it began.
    first: usize,
    /// Its parameters by their names relative to it.
    parameters: BTreeMap<String, Weight>,
    /// Those of them that the guest has asked for.
    asked: BTreeSet<Weight>,
    /// The embedding's parameters: what others may be tied to.
    embedding: BTreeMap<String, Weight>,
}

impl Recorder {
    /// An empty graph.
    pub(crate) fn new(limits: &Limits) -> Recorder {
        Recorder {
            graph: Graph::new(),
            budget: Budget::new(limits),
            place: None,
            carry: Vec::new(),
            first: 0,
            parameters: BTreeMap::new(),
            asked: BTreeSet::new(),
            embedding: BTreeMap::new(),
        }
    }

    /// What was used of the budget so far.
    pub(crate) fn used(&self) -> Used {
        self.budget.used()
    }

    /// Opens the next place and declares its parameters. Returns the indices of what it takes.
    pub(crate) fn begin(
        &mut self,
        kind: PlaceKind,
        parameters: &[Parameter],
        kept: usize,
        dtype: &dyn Fn(&str, Precision) -> DType,
    ) -> Result<Vec<u32>, Problem> {
        self.budget.next_place(kept).map_err(Problem::Limit)?;
        let place = self.graph.make_place(kind);
        self.carry = match self.place {
            Some(before) => self.graph.places[before].carry.clone(),
            None => {
                let tokens = self.graph.append(place, Op::Tokens);
                vec![self.graph.result(tokens.map_err(|e| Problem::Rejected(e.to_string()))?)]
            }
        };
        self.place = Some(place);
        self.first = self.graph.values.len();
        self.parameters.clear();
        self.asked.clear();
        for parameter in parameters {
            let weight = self.declare(place, kind, parameter, dtype).map_err(|why| {
                Problem::Answer(format!("parameter `{}`: {why}", escape(&parameter.name)))
            })?;
            self.parameters.insert(parameter.name.clone(), weight);
        }
        if kind == PlaceKind::Embed {
            self.embedding = self.parameters.clone();
        }
        Ok(self.carry.iter().map(|value| value.as_u32()).collect())
    }

    fn declare(
        &mut self,
        place: Place,
        kind: PlaceKind,
        parameter: &Parameter,
        dtype: &dyn Fn(&str, Precision) -> DType,
    ) -> Result<Weight, String> {
        let name = full_name(kind, &parameter.name);
        let data = match &parameter.origin {
            Origin::Tied(to) => {
                let weight = *self.embedding.get(to).ok_or_else(|| {
                    format!("is tied to `{}`, and the embedding has none of that name", escape(to))
                })?;
                let shared = self.graph.weights[weight].clone();
                if shared.tied.is_some() {
                    return Err(format!("is tied to `{}`, which is tied itself", escape(to)));
                }
                WeightData { name, tied: Some(weight), ..shared }
            }
            origin => {
                let axes = origin.axes().map_err(|e| e.to_string())?.unwrap_or_default();
                WeightData::plain(name.clone(), dtype(&name, parameter.precision), axes)
            }
        };
        data.check()?;
        Ok(self.graph.make_weight(place, data))
    }

    /// Closes the place with what the guest returned, once its last call is over.
    pub(crate) fn finish(&mut self, returned: &[u32]) -> Result<(), Problem> {
        let Some(place) = self.place else {
            return Err(Problem::Misused("a place was closed that was never opened"));
        };
        self.budget.carry(returned.len()).map_err(Problem::Limit)?;
        let answer = |why: String| Problem::Answer(why);
        if returned.is_empty() {
            return Err(answer("`write` returned no value".into()));
        }
        let mut values = Vec::with_capacity(returned.len());
        for &index in returned {
            let value = self.value(index).map_err(|e| e.to_string());
            let usable = value.and_then(|value| self.check_value(value).map(|()| value));
            values.push(usable.map_err(|why| answer(format!("`write` returned a value: {why}")))?);
        }
        let unused = self.parameters.iter().find(|(_, weight)| !self.asked.contains(weight));
        if let Some((name, _)) = unused {
            return Err(answer(format!(
                "it declares the parameter `{}` and never asks the builder for it",
                escape(name)
            )));
        }
        if self.graph.places[place].kind == PlaceKind::Head && values.len() != 1 {
            return Err(answer(format!("the head returned {} values, not one", values.len())));
        }
        self.graph.places[place].carry = values;
        Ok(())
    }

    /// The whole graph, after the head. Its logits must have as many columns as the vocabulary.
    pub(crate) fn into_graph(self, vocabulary: u32) -> Result<Graph, Problem> {
        let logits = self.graph.output().map(|value| &self.graph.values[value].ty);
        match logits {
            Some(Type { width: Some(width), .. }) if *width == u64::from(vocabulary) => {}
            Some(ty) => {
                return Err(Problem::Answer(format!(
                    "the head returned {ty}, and the outline says {vocabulary} vocabulary entries"
                )));
            }
            None => return Err(Problem::Answer("there is no head".into())),
        }
        engraft_ir::verify(&self.graph).map_err(|errors| Problem::Answer(errors.to_string()))?;
        Ok(self.graph)
    }

    /// An operand of the next operation, by its index. Whether the place may use it is found out
    /// when that is appended, for an error names the operation.
    pub(crate) fn value(&self, index: u32) -> Result<Value, Rejection> {
        match index {
            u32::MAX => Err(Rejection::Call(format!("value v{index} is not defined"))),
            _ => Ok(Value::from_u32(index)),
        }
    }

    /// The same of a weight.
    pub(crate) fn weight(&self, index: u32) -> Result<Weight, Rejection> {
        match index {
            u32::MAX => Err(Rejection::Call(format!("weight w{index} is not declared"))),
            _ => Ok(Weight::from_u32(index)),
        }
    }

    /// Whether this place may use a value: one of its own, or one that it was handed.
    fn check_value(&self, value: Value) -> Result<(), String> {
        let own = self.first..self.graph.values.len();
        if own.contains(&value.index()) || self.carry.contains(&value) {
            return Ok(());
        }
        let handed: Vec<String> = self.carry.iter().map(|value| self.shown(*value)).collect();
        let handed = handed.join(", ");
        let Some(data) = self.graph.values.get(value) else {
            let own = match own.clone().last() {
                Some(last) => format!("and has defined v{} to v{last}", own.start),
                None => "and has defined none yet".into(),
            };
            return Err(format!(
                "value {value} is not defined; this place was handed {handed}, {own}"
            ));
        };
        let home = self.graph.places.values().find(|place| place.nodes.contains(&data.node));
        let home = home.map_or_else(String::new, |place| format!(" of {}", place.kind));
        let shown = self.shown(value);
        Err(format!("value {shown} is{home} and was not handed on; this place was handed {handed}"))
    }

    /// Whether this place may use a weight: it must declare it.
    fn check_weight(&self, weight: Weight) -> Result<(), String> {
        let Some(data) = self.graph.weights.get(weight) else {
            return Err(format!("weight {weight} is not declared"));
        };
        let home = self.graph.homes[weight];
        if home == self.place {
            return Ok(());
        }
        let home =
            home.map_or_else(String::new, |at| format!(" of {}", self.graph.places[at].kind));
        Err(format!(
            "weight {weight} `{}` {:?} is{home}: ask the builder for a parameter of this place",
            escape(&data.name),
            data.shape(),
        ))
    }

    /// A value with its type.
    fn shown(&self, value: Value) -> String {
        let ty = self.graph.values.get(value).map(|data| format!(" {}", data.ty));
        format!("{value}{}", ty.unwrap_or_default())
    }

    /// A parameter of this place, by name.
    pub(crate) fn parameter(&mut self, name: &str) -> Result<Weight, Rejection> {
        self.budget.operation()?;
        let weight = *self.parameters.get(name).ok_or_else(|| {
            let near = nearest(name, self.parameters.keys());
            let hint = match near {
                Some(near) => format!("; there is `{}`", escape(near)),
                None => format!("; it declares {}", self.parameters.len()),
            };
            let name = escape(name);
            Rejection::Call(format!("parameter: this place declares no `{name}`{hint}"))
        })?;
        self.asked.insert(weight);
        Ok(weight)
    }

    /// Names a value.
    pub(crate) fn label(&mut self, value: u32, text: &str) -> Result<(), Rejection> {
        self.budget.operation()?;
        self.budget.label(text)?;
        let value = self.value(value)?;
        self.check_value(value).map_err(|why| Rejection::Call(format!("label: {why}")))?;
        self.graph.labels[value] = Some(escape(text));
        Ok(())
    }

    /// Counts bytes of operands that stay with us.
    pub(crate) fn keep(&mut self, bytes: usize) -> Result<(), Rejection> {
        Ok(self.budget.keep(bytes)?)
    }

    /// Appends an operation and returns its results.
    pub(crate) fn append(&mut self, op: Op) -> Result<&[Value], Rejection> {
        self.budget.operation()?;
        let Some(place) = self.place else {
            return Err(Rejection::Call("no place is being written".into()));
        };
        let values = op.values().into_iter().try_for_each(|value| self.check_value(value));
        let weights = || op.weights().into_iter().try_for_each(|weight| self.check_weight(weight));
        values
            .and_then(|()| weights())
            .map_err(|why| Rejection::Call(format!("{}: {why}", op.name())))?;
        let operands = op.values();
        match self.graph.append(place, op) {
            Ok(node) => Ok(&self.graph.nodes[node].results),
            Err(e) => Err(Rejection::Call(format!("{e}{}", self.definitions(&operands)))),
        }
    }

    /// What a place made its operands by, for who looks for the one that is wrong: a line each.
    fn definitions(&self, operands: &[Value]) -> String {
        let own = operands.iter().filter(|value| value.index() >= self.first);
        let lines: BTreeSet<String> =
            own.filter_map(|&value| self.graph.line(value.into())).collect();
        lines.into_iter().map(|line| format!("\n  {line}")).collect()
    }

    /// Appends an attention with a cache of its own.
    pub(crate) fn attend(
        &mut self,
        [query, key, value]: [Value; 3],
        options: AttentionData,
    ) -> Result<&[Value], Rejection> {
        let slopes = options.alibi.as_ref().map_or(0, Vec::len);
        self.budget.keep(slopes.saturating_mul(size_of::<f64>()))?;
        let cache = self.state(options.state());
        self.append(Op::Attend { query, key, value, cache, rotary: None, options })
    }

    /// Appends a convolution with a state of its own.
    pub(crate) fn convolve(
        &mut self,
        input: Value,
        weight: Weight,
        bias: Option<Weight>,
    ) -> Result<&[Value], Rejection> {
        // A weight of another rank, or one that is not there, is refused when the operation is.
        let (channels, taps) =
            match self.graph.weights.get(weight).map(WeightData::shape).as_deref() {
                Some(&[channels, taps]) => (channels, taps),
                _ => (0, 0),
            };
        let state = self.state(StateData::Convolution { channels, taps });
        self.append(Op::Convolve { input, weight, bias, state })
    }

    /// Appends a recurrence with a state of its own.
    pub(crate) fn recur(
        &mut self,
        [input, input_gate, recurrent_gate]: [Value; 3],
        decay: Weight,
    ) -> Result<&[Value], Rejection> {
        // What is no row of numbers, or not there, is refused when the operation is.
        let channels = self.graph.values.get(input).and_then(|data| data.ty.width).unwrap_or(0);
        let state = self.state(StateData::Recurrence { channels });
        self.append(Op::Recur { input, input_gate, recurrent_gate, decay, state })
    }

    fn state(&mut self, data: StateData) -> State {
        self.graph.states.push(data)
    }

    /// The rotary embedding with these options; equal ones are one.
    pub(crate) fn rotary(
        &mut self,
        options: RotaryData,
        limits: &Limits,
    ) -> Result<Rotary, Rejection> {
        if let Scaling::Long { short, long, .. } = &options.scaling {
            let factors = short.len().saturating_add(long.len());
            self.budget.keep(factors.saturating_mul(size_of::<f64>()))?;
        }
        let rotary = self.graph.make_rotary(options);
        within("different rotary embeddings", self.graph.rotaries.len(), limits.rotaries)?;
        Ok(rotary)
    }

    /// Whether the number of values of one operation is within what one place may have.
    pub(crate) fn check_count(
        &self,
        what: &'static str,
        count: usize,
        limits: &Limits,
    ) -> Result<(), Rejection> {
        let limit = limits.operations as usize;
        Ok(within(what, count, limit)?)
    }
}

/// The known name that is most like another, if one is like it at all.
pub(crate) fn nearest<'a>(
    name: &str,
    known: impl Iterator<Item = &'a String>,
) -> Option<&'a String> {
    known
        .map(|k| (strsim::jaro_winkler(name, k), k))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| k)
}

impl From<Exhausted> for Rejection {
    fn from(what: Exhausted) -> Rejection {
        Rejection::Exhausted(what)
    }
}
