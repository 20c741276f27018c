//! One walk through a place of a model, for both of the host's questions about it.
//!
//! A plugin says each layer once: its name in the checkpoint, its shape, where the source has it.
//! Asked for parameters, the walk collects them and every value is a stand-in; asked for the
//! graph, it writes operations and finds each parameter by the same name. So what is declared and
//! what is used cannot differ.

use crate::{
    Axis, Builder, Decoder, Gain, Mlp, Origin, Parameter, ParameterExt, Part, PartExt, Place,
    Precision, Spelling, Value, Weight, concat, dotted, join, parameter, tensor, tied,
};
use std::cell::RefCell;

/// A place of a model while it is walked through.
pub struct Net<'a> {
    /// The model's choices.
    pub decoder: &'a Decoder,
    at: Place,
    pass: Pass<'a>,
}

enum Pass<'a> {
    /// Collects what the source's tensors become.
    Parameters { dialect: Dialect, all: RefCell<Vec<Parameter>> },
    /// Writes operations.
    Graph(&'a Builder),
}

/// Whose names and layouts the source has.
#[derive(Clone, Copy)]
pub(crate) enum Dialect {
    HuggingFace,
    Gguf,
    Spelled(&'static Spelling),
}

/// What stands for values and weights while parameters are collected.
const VALUE: Value = Value { index: u32::MAX };
const WEIGHT: Weight = Weight { index: u32::MAX };

impl<'a> Net<'a> {
    /// A walk that collects the parameters of a place.
    pub(crate) fn parameters(decoder: &'a Decoder, at: Place, dialect: Dialect) -> Net<'a> {
        let pass = Pass::Parameters { dialect, all: RefCell::default() };
        Net { decoder, at, pass }
    }

    /// A walk that writes a place.
    pub(crate) fn graph(decoder: &'a Decoder, at: Place, into: &'a Builder) -> Net<'a> {
        Net { decoder, at, pass: Pass::Graph(into) }
    }

    /// What was collected.
    pub(crate) fn collected(self) -> Vec<Parameter> {
        match self.pass {
            Pass::Parameters { all, .. } => all.into_inner(),
            Pass::Graph(_) => Vec::new(),
        }
    }

    /// What a value stands for while nothing is written.
    pub(crate) fn nothing() -> Value {
        VALUE
    }

    /// Writes operations of any kind, with one result.
    pub fn write(&self, op: impl FnOnce(&Builder) -> Value) -> Value {
        match self.pass {
            Pass::Parameters { .. } => VALUE,
            Pass::Graph(builder) => op(builder),
        }
    }

    /// A parameter of the place. `make` says what it is made of, when the host asks.
    pub fn weight(&self, name: &str, make: impl FnOnce() -> Parameter) -> Weight {
        match &self.pass {
            Pass::Graph(builder) => builder.parameter(name),
            Pass::Parameters { all, .. } => {
                let mut all = all.borrow_mut();
                if all.iter().all(|parameter| parameter.name != name) {
                    all.push(make());
                }
                WEIGHT
            }
        }
    }

    /// A parameter of any origin, which the host may quantise.
    pub fn any(&self, name: &str, origin: impl FnOnce() -> Origin) -> Weight {
        self.weight(name, || parameter(name, origin()))
    }

    /// A parameter of any origin, which the host must not quantise.
    pub fn kept(&self, name: &str, origin: impl FnOnce() -> Origin) -> Weight {
        self.weight(name, || parameter(name, origin()).keep())
    }

    /// A layer's tensor as a parameter of 32 bits, which the host must not quantise.
    pub fn single(&self, layer: &str, kind: &str, axes: &[Axis]) -> Weight {
        let name = dotted(layer, kind);
        let make = || Parameter {
            precision: Precision::Single,
            ..parameter(name.as_str(), self.part(layer, kind, axes))
        };
        self.weight(&name, make)
    }

    /// Whether the source is a GGUF file.
    pub fn is_gguf(&self) -> bool {
        matches!(self.pass, Pass::Parameters { dialect: Dialect::Gguf, .. })
    }

    /// How the source spells names, where it is in a dialect of the plugin's.
    pub(crate) fn spelling(&self) -> Option<&'static Spelling> {
        match self.pass {
            Pass::Parameters { dialect: Dialect::Spelled(spelling), .. } => Some(spelling),
            _ => None,
        }
    }

    /// What the source calls a layer's tensor, `kind` being `weight` or `bias`.
    pub fn source(&self, layer: &str, kind: &str) -> String {
        let d = self.decoder;
        if let Some(spelling) = self.spelling() {
            let block = match self.at {
                Place::Block(i) => Some(i),
                _ => None,
            };
            return spelling.name(block, layer, kind);
        }
        let layer = if self.is_gguf() { d.gguf_name(layer) } else { d.name(layer) };
        self.source_of(&dotted(layer, kind))
    }

    /// What the source calls a tensor of this place, whose name within it is given.
    #[inline(never)]
    pub fn source_of(&self, tensor: &str) -> String {
        let d = self.decoder;
        match (self.at, self.is_gguf()) {
            (Place::Block(i), true) => join(&["blk.", &i.to_string(), ".", tensor]),
            (Place::Block(i), false) => {
                join(&[d.prefix, d.name("layers"), ".", &i.to_string(), ".", tensor])
            }
            (_, false) if !tensor.starts_with(d.name("lm_head")) => join(&[d.prefix, tensor]),
            _ => tensor.into(),
        }
    }

    /// A layer's tensor, with the axes of what it becomes.
    #[inline(never)]
    pub fn part(&self, layer: &str, kind: &str, axes: &[Axis]) -> Part {
        let (d, gguf, spelling) = (self.decoder, self.is_gguf(), self.spelling());
        let nameless = spelling.is_some_and(|spelling| spelling.names.is_empty());
        if let (true, Some(make)) = (nameless, d.spelled) {
            return make(d, self.at, layer, axes);
        }
        let mut part = tensor(self.source(layer, kind), axes);
        let is_ours = !gguf && spelling.is_none();
        if d.transposed && is_ours && axes.len() == 2 && matches!(self.at, Place::Block(_)) {
            part = part.permute([1, 0]);
        }
        if spelling.is_some_and(|spelling| spelling.gated) {
            let size = axes.first().map_or(0, |axis| axis.size);
            match layer {
                "mlp.fc" if d.mlp == Mlp::Gated => part = part.slice(0, 0, size),
                "mlp.gate" => part = part.slice(0, size, 2 * size),
                _ => {}
            }
        }
        let pairs = gguf && d.gguf_pairs || spelling.is_some_and(|spelling| spelling.pairs);
        match pairs && ["attention.q", "attention.k"].contains(&layer) {
            true => part.pairs_to_halves(d.base.head_width.into()),
            false => part,
        }
    }

    /// Rows of a layer's tensor, each stretch from where it starts, joined in the order given.
    pub fn rows(&self, layer: &str, kind: &str, stretches: &[(u64, Axis)], input: Axis) -> Origin {
        concat(
            0,
            stretches.iter().map(|&(start, out)| {
                let axes = linear_axes(kind, out, input);
                self.part(layer, kind, &axes).slice(0, start, start + out.size)
            }),
        )
    }

    /// A linear layer `[out, input]`: `NAME.weight` and, where it has one, `NAME.bias`.
    pub fn dense(&self, x: Value, name: &str, [out, input]: [Axis; 2], bias: bool) -> Value {
        self.dense_of(x, name, bias, |kind| {
            self.part(name, kind, &linear_axes(kind, out, input)).into()
        })
    }

    /// A linear layer whose `weight` and `bias` are made of something else than one tensor each.
    pub fn dense_of(
        &self,
        x: Value,
        name: &str,
        bias: bool,
        origin: impl Fn(&str) -> Origin,
    ) -> Value {
        let weight = self.any(&dotted(name, "weight"), || origin("weight"));
        let bias = bias.then(|| self.any(&dotted(name, "bias"), || origin("bias")));
        self.write(|g| g.linear(x, weight, bias))
    }

    /// A norm of the decoder's kind.
    pub fn norm(&self, x: Value, name: &str) -> Value {
        self.norm_of(x, name, self.decoder.base.width())
    }

    /// The same of another width.
    #[inline(never)]
    pub fn norm_of(&self, x: Value, name: &str, width: Axis) -> Value {
        let (norm, epsilon) = (self.decoder.norm, self.decoder.base.epsilon);
        let weight = (norm.gain != Gain::None).then(|| self.gain(name, width));
        let bias = norm
            .bias
            .then(|| self.kept(&dotted(name, "bias"), || self.part(name, "bias", &[width]).into()));
        self.write(|g| match weight {
            Some(weight) if !norm.centred => g.rms_norm(x, weight, epsilon),
            weight => g.layer_norm(x, weight, bias, epsilon),
        })
    }

    /// A root-mean-square norm, whatever the decoder's are.
    pub fn rms_norm(&self, x: Value, name: &str, width: Axis, epsilon: f64) -> Value {
        let weight = self.gain(name, width);
        self.write(|g| g.rms_norm(x, weight, epsilon))
    }

    /// A norm's gain, which some sources store less one.
    pub fn gain(&self, name: &str, width: Axis) -> Weight {
        self.kept(&dotted(name, "weight"), || {
            let part = self.part(name, "weight", &[width]);
            match self.decoder.norm.gain == Gain::LessOne && !self.is_gguf() {
                true => part.add(1.0).into(),
                false => part.into(),
            }
        })
    }

    /// The same bytes as a layer of the embedding.
    pub fn tied(&self, name: &str, to: &str) -> Weight {
        self.any(&dotted(name, "weight"), || tied(&dotted(to, "weight")))
    }

    /// Cuts the last axis.
    pub fn split<const N: usize>(&self, x: Value, sizes: [u64; N]) -> [Value; N] {
        match self.pass {
            Pass::Parameters { .. } => [VALUE; N],
            Pass::Graph(builder) => {
                let parts = builder.split(x, &sizes);
                std::array::from_fn(|i| parts[i])
            }
        }
    }

    /// `left + right`
    pub fn add(&self, left: Value, right: Value) -> Value {
        self.write(|g| g.add(left, right))
    }

    /// `left · right`
    pub fn multiply(&self, left: Value, right: Value) -> Value {
        self.write(|g| g.multiply(left, right))
    }

    /// `factor · x`, or `x` where the factor is one.
    pub fn scale(&self, x: Value, factor: f64) -> Value {
        if factor == 1.0 { x } else { self.write(|g| g.scale(x, factor)) }
    }

    /// `bound · tanh(x / bound)`, where there is a bound.
    pub fn softcap(&self, x: Value, bound: Option<f64>) -> Value {
        bound.map_or(x, |bound| self.write(|g| g.softcap(x, bound)))
    }

    /// `x` between `-bound` and `bound`, where there is a bound.
    pub fn clip(&self, x: Value, bound: Option<f64>) -> Value {
        bound.map_or(x, |bound| self.write(|g| g.clamp(x, -bound, bound)))
    }

    /// The decoder's activation.
    pub fn activate(&self, x: Value) -> Value {
        self.write(|g| g.activate(x, &self.decoder.base.activation))
    }
}

/// Axes of a linear layer's weight, or of its bias.
pub(crate) fn linear_axes(kind: &str, out: Axis, input: Axis) -> Vec<Axis> {
    if kind == "bias" { vec![out] } else { vec![out, input] }
}
