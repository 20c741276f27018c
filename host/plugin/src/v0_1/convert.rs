//! Between the generated types and the host's.

use super::bindings::engraft::plugin::{config as c, types as t, weights as w};
use super::bindings::exports::engraft::plugin::architecture as a;
use crate::load::Identity;
use crate::session::Outline;
use crate::settings::{Fallback, Field, Kind, Setting, Value};
use engraft_ir::{Meaning, PlaceKind, Segment};
use engraft_weights::{Joint, Origin, Parameter, Part, Pile, Precision, Step};

pub(super) fn identity(identity: a::Identity) -> Identity {
    let a::Identity { name, version, accepts, dialects, doc } = identity;
    Identity { name, version, accepts, dialects, doc }
}

pub(super) fn outline(outline: a::Outline) -> Outline {
    let a::Outline { blocks, vocabulary, context } = outline;
    Outline { blocks, vocabulary, context }
}

pub(super) fn to_place(place: PlaceKind) -> a::Place {
    match place {
        PlaceKind::Embed => a::Place::Embed,
        PlaceKind::Block(i) => a::Place::Block(i),
        PlaceKind::Head => a::Place::Head,
    }
}

pub(super) fn field(field: c::Field) -> Field {
    let c::Field { path, kind, fallback, doc } = field;
    let kind = match kind {
        c::Kind::Flag => Kind::Flag,
        c::Kind::Integer => Kind::Integer,
        c::Kind::Number => Kind::Number,
        c::Kind::Text => Kind::Text,
        c::Kind::Integers => Kind::Integers,
        c::Kind::Numbers => Kind::Numbers,
        c::Kind::Texts => Kind::Texts,
    };
    let fallback = match fallback {
        c::Fallback::Required => Fallback::Required,
        c::Fallback::Absent => Fallback::Absent,
        c::Fallback::Value(v) => Fallback::Value(value(v)),
        c::Fallback::SameAs(other) => Fallback::SameAs(other),
    };
    Field { path, kind, fallback, doc }
}

fn value(value: c::Value) -> Value {
    match value {
        c::Value::Flag(v) => Value::Flag(v),
        c::Value::Integer(v) => Value::Integer(v),
        c::Value::Number(v) => Value::Number(v),
        c::Value::Text(v) => Value::Text(v),
        c::Value::Integers(v) => Value::Integers(v),
        c::Value::Numbers(v) => Value::Numbers(v),
        c::Value::Texts(v) => Value::Texts(v),
    }
}

fn to_value(value: &Value) -> c::Value {
    match value.clone() {
        Value::Flag(v) => c::Value::Flag(v),
        Value::Integer(v) => c::Value::Integer(v),
        Value::Number(v) => c::Value::Number(v),
        Value::Text(v) => c::Value::Text(v),
        Value::Integers(v) => c::Value::Integers(v),
        Value::Numbers(v) => c::Value::Numbers(v),
        Value::Texts(v) => c::Value::Texts(v),
    }
}

pub(super) fn setting(setting: c::Setting) -> Setting {
    Setting { path: setting.path, value: setting.value.map(value) }
}

pub(super) fn to_setting(setting: &Setting) -> c::Setting {
    c::Setting { path: setting.path.clone(), value: setting.value.as_ref().map(to_value) }
}

pub(super) fn parameter(parameter: w::Parameter) -> Parameter {
    let w::Parameter { name, origin, precision } = parameter;
    let origin = match origin {
        w::Origin::Tensor(p) => Origin::Tensor(part(p)),
        w::Origin::Concat(j) => Origin::Concat(joint(j)),
        w::Origin::Stack(pile) => Origin::Stack(Pile {
            meaning: meaning(pile.meaning),
            parts: pile.parts.into_iter().map(joint).collect(),
        }),
        w::Origin::Tied(name) => Origin::Tied(name),
    };
    let precision = match precision {
        w::Precision::Any => Precision::Any,
        w::Precision::Keep => Precision::Keep,
        w::Precision::Single => Precision::Single,
    };
    Parameter { name, origin, precision }
}

fn joint(joint: w::Joint) -> Joint {
    Joint { axis: joint.axis, parts: joint.parts.into_iter().map(part).collect() }
}

fn part(part: w::Part) -> Part {
    let w::Part { tensor, steps, axes } = part;
    let segment = |axis: t::Axis| Segment { size: axis.size, meaning: meaning(axis.meaning) };
    Part {
        tensor,
        steps: steps.into_iter().map(step).collect(),
        axes: axes.into_iter().map(segment).collect(),
    }
}

fn step(step: w::Step) -> Step {
    match step {
        w::Step::Reshape(shape) => Step::Reshape(shape),
        w::Step::Permute(order) => Step::Permute(order),
        w::Step::Slice(w::Range { axis, start, end }) => Step::Slice { axis, start, end },
        w::Step::Add(x) => Step::Add(x),
        w::Step::Scale(x) => Step::Scale(x),
        w::Step::UnitRows => Step::UnitRows,
        w::Step::Times(tensor) => Step::Times(tensor),
        w::Step::TimesTransposed(tensor) => Step::TimesTransposed(tensor),
    }
}

fn meaning(meaning: t::Meaning) -> Meaning {
    match meaning {
        t::Meaning::Plain => Meaning::Plain,
        t::Meaning::Vocabulary => Meaning::Vocabulary,
        t::Meaning::QueryHeads => Meaning::QueryHeads,
        t::Meaning::KeyHeads => Meaning::KeyHeads,
        t::Meaning::FeedForward => Meaning::FeedForward,
        t::Meaning::Experts => Meaning::Experts,
        t::Meaning::Recurrent => Meaning::Recurrent,
        t::Meaning::Latent => Meaning::Latent,
    }
}
