//! The text form, outwards. [`parse`](crate::parse()) is its inverse; the two change together.
//!
//! One writer serves dumps, the engine file and error reports: a decorator may add lines after
//! each line that defines something. It prints any graph, also one that does not verify.

use crate::entities::{AnyEntity, Place, State, Weight};
use crate::graph::{Graph, NodeData, PlaceData, StateData, WeightData};
use crate::op::{AttentionData, Op, RotaryData, Scaling};
use crate::shape::display_axes;
use cranelift_entity::SecondaryMap;
use std::fmt::{self, Display, Write};

/// The version that the first line of a text says.
pub(crate) const VERSION: u32 = 1;

/// Where comments begin, if the line leaves room.
const COMMENT_COLUMN: usize = 64;

/// Called after the line that defines an entity; may write whole lines.
pub(crate) type Decorator<'a> = dyn FnMut(&mut dyn Write, AnyEntity) -> fmt::Result + 'a;

impl Display for Graph {
    /// The text form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_graph(f, self, &mut |_, _| Ok(()))
    }
}

impl Graph {
    /// The line that defines an entity, if it has one.
    pub fn line(&self, entity: AnyEntity) -> Option<String> {
        match entity {
            AnyEntity::Graph => Some(format!("graph {VERSION}")),
            AnyEntity::Value(value) => self.line(self.values.get(value)?.node.into()),
            AnyEntity::Node(node) => Some(NodeLine(self.nodes.get(node)?).to_string()),
            AnyEntity::Weight(weight) => Some(format!("{weight} = {}", self.weights.get(weight)?)),
            AnyEntity::State(state) => Some(format!("{state} = {}", self.states.get(state)?)),
            AnyEntity::Rotary(rotary) => Some(format!("{rotary} = {}", self.rotaries.get(rotary)?)),
            AnyEntity::Place(place) => Some(format!("place {} {{", self.places.get(place)?.kind)),
        }
    }
}

/// Writes a graph with what `after` adds.
pub(crate) fn write_graph(
    out: &mut dyn Write,
    graph: &Graph,
    after: &mut Decorator<'_>,
) -> fmt::Result {
    writeln!(out, "graph {VERSION}")?;
    after(out, AnyEntity::Graph)?;
    if !graph.rotaries.is_empty() {
        writeln!(out)?;
    }
    for (rotary, data) in graph.rotaries.iter() {
        writeln!(out, "{rotary} = {data}")?;
        after(out, rotary.into())?;
    }
    let declared = Declared::of(graph);
    for (place, data) in graph.places.iter() {
        writeln!(out, "\nplace {} {{", data.kind)?;
        after(out, place.into())?;
        for &state in &declared.states[place] {
            writeln!(out, "    {state} = {}", graph.states[state])?;
            after(out, state.into())?;
        }
        for &weight in &declared.weights[place] {
            writeln!(out, "    {weight} = {}", graph.weights[weight])?;
            after(out, weight.into())?;
        }
        write_nodes(out, graph, data, after)?;
        writeln!(out, "}}")?;
    }
    Ok(())
}

fn write_nodes(
    out: &mut dyn Write,
    graph: &Graph,
    place: &PlaceData,
    after: &mut Decorator<'_>,
) -> fmt::Result {
    for &node in &place.nodes {
        let Some(data) = graph.nodes.get(node) else {
            writeln!(out, "    ; {node} does not exist")?;
            continue;
        };
        let line = format!("    {}", NodeLine(data));
        write!(out, "{line:COMMENT_COLUMN$} ;")?;
        for (i, &result) in data.results.iter().enumerate() {
            out.write_str(if i > 0 { ", " } else { " " })?;
            match graph.values.get(result) {
                Some(value) => write!(out, "{}", value.ty)?,
                None => write!(out, "{result} does not exist")?,
            }
            if let Some(Some(label)) = graph.labels.get(result) {
                write!(out, " {}", Quoted(label))?;
            }
        }
        writeln!(out)?;
        after(out, node.into())?;
    }
    writeln!(out, "    return{}", Operands(&place.carry))
}

/// What each place declares. A weight has its home; a state stands where it is first used.
struct Declared {
    states: SecondaryMap<Place, Vec<State>>,
    weights: SecondaryMap<Place, Vec<Weight>>,
}

impl Declared {
    fn of(graph: &Graph) -> Declared {
        let mut declared = Declared { states: SecondaryMap::new(), weights: SecondaryMap::new() };
        for weight in graph.weights.keys() {
            if let Some(place) = graph.homes[weight].filter(|&place| graph.places.is_valid(place)) {
                declared.weights[place].push(weight);
            }
        }
        let mut seen: SecondaryMap<State, bool> = SecondaryMap::with_capacity(graph.states.len());
        for (place, node) in graph.schedule() {
            if let Some(NodeData { op: Op::Attend { cache, .. }, .. }) = graph.nodes.get(node)
                && graph.states.is_valid(*cache)
                && !std::mem::replace(&mut seen[*cache], true)
            {
                declared.states[place].push(*cache);
            }
        }
        declared.states.values_mut().for_each(|states| states.sort());
        declared
    }
}

/// ` v1, v2`, with the space before it; nothing where there are none.
struct Operands<'a, T>(&'a [T]);

impl<T: Display> Display for Operands<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, operand) in self.0.iter().enumerate() {
            write!(f, "{}{operand}", if i > 0 { ", " } else { " " })?;
        }
        Ok(())
    }
}

/// `v3 = linear v1, w2`
struct NodeLine<'a>(&'a NodeData);

impl Display for NodeLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NodeLine(NodeData { op, results }) = self;
        for (i, result) in results.iter().enumerate() {
            write!(f, "{}{result}", if i > 0 { ", " } else { "" })?;
        }
        write!(f, " = {}{}", op.name(), Operands(&op.values()))?;
        match op {
            // Both have a place, so that a missing one is seen.
            Op::LayerNorm { weight, bias, .. } => {
                for vector in [weight, bias] {
                    match vector {
                        Some(weight) => write!(f, ", {weight}")?,
                        None => f.write_str(", _")?,
                    }
                }
            }
            // No value is before it.
            Op::Positions { table } => write!(f, " {table}")?,
            _ => op.weights().iter().try_for_each(|weight| write!(f, ", {weight}"))?,
        }
        match op {
            Op::Split { sizes, .. } => write!(f, ", {sizes:?}"),
            Op::RmsNorm { epsilon, .. }
            | Op::AddRmsNorm { epsilon, .. }
            | Op::LayerNorm { epsilon, .. } => write!(f, ", epsilon={epsilon:?}"),
            Op::RmsNormHeads { head_width, epsilon, .. }
            | Op::LayerNormHeads { head_width, epsilon, .. } => {
                write!(f, ", head_width={head_width} epsilon={epsilon:?}")
            }
            Op::Scale { factor, .. } => write!(f, ", factor={factor:?}"),
            Op::Softcap { bound, .. } => write!(f, ", bound={bound:?}"),
            Op::Clamp { low, high, .. } => write!(f, ", low={low:?} high={high:?}"),
            Op::Rotate { rotary, .. } => write!(f, ", {rotary}"),
            Op::Attend { cache, rotary, options, .. } => {
                write!(f, ", {cache}, {options}")?;
                rotary.map_or(Ok(()), |rotary| write!(f, " rotary={rotary}"))
            }
            Op::Activate { activation, .. } | Op::Gate { activation, .. } => {
                write!(f, ", {activation}")
            }
            Op::Tokens
            | Op::Positions { .. }
            | Op::Embedding { .. }
            | Op::Linear { .. }
            | Op::Add { .. }
            | Op::Multiply { .. }
            | Op::Outputs { .. } => Ok(()),
        }
    }
}

impl Display for WeightData {
    /// Without the number that it has in a graph.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let axes = display_axes(&self.axes);
        write!(f, "weight {} {} {axes}", Quoted(&self.name), self.dtype)?;
        self.tied.map_or(Ok(()), |tied| write!(f, " tied {tied}"))
    }
}

impl Display for StateData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cache key_heads={} head_width={}", self.key_heads, self.head_width)
    }
}

impl Display for AttentionData {
    /// Without what its state says.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AttentionData { query_heads, scale, window, softcap, alibi, .. } = self;
        write!(f, "query_heads={query_heads} scale={scale:?}")?;
        window.map_or(Ok(()), |window| write!(f, " window={window}"))?;
        softcap.map_or(Ok(()), |softcap| write!(f, " softcap={softcap:?}"))?;
        alibi.iter().try_for_each(|slopes| write!(f, " alibi={slopes:?}"))
    }
}

impl Display for RotaryData {
    /// Without the number that it has in a graph.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RotaryData { head_width, rotated, base, scaling, interleaved } = self;
        write!(f, "rotary head_width={head_width} rotated={rotated} base={base:?}")?;
        match scaling {
            Scaling::None => {}
            Scaling::Linear { factor } => write!(f, " scaling=linear factor={factor:?}")?,
            Scaling::Llama3 { factor, low, high, context } => write!(
                f,
                " scaling=llama3 factor={factor:?} low={low:?} high={high:?} context={context}"
            )?,
            Scaling::Yarn { factor, fast, slow, attention, context } => {
                write!(f, " scaling=yarn factor={factor:?} fast={fast:?} slow={slow:?}")?;
                if let Some(attention) = attention {
                    write!(f, " attention={attention:?}")?;
                }
                write!(f, " context={context}")?;
            }
        }
        if *interleaved { f.write_str(" interleaved") } else { Ok(()) }
    }
}

/// A string in quotes, as the parser reads it: `\"`, `\\` and `\u{…}` for control characters.
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                c if c.is_control() => write!(f, "{}", c.escape_unicode())?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}
