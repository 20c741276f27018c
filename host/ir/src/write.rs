//! The text form, outwards. [`parse`](crate::parse()) is its inverse; the two change together.
//!
//! One writer serves dumps, the engine file and error reports: a decorator may add lines after
//! each line that defines something. It prints any graph, also one that does not verify.

use crate::attention::AttentionData;
use crate::entities::{AnyEntity, Place, State, Weight};
use crate::graph::{Graph, NodeData, PlaceData, WeightData};
use crate::mapping::{Mapping, Rank};
use crate::mixture::{Bounded, Groups, MixtureData};
use crate::op::{Op, Stretch};
use crate::rotary::{RotaryData, Scaling};
use crate::shape::display_axes;
use crate::state::StateData;
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
            AnyEntity::Graph => Some(format!("graph {VERSION}{}", OfRank(self.rank))),
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
    writeln!(out, "graph {VERSION}{}", OfRank(graph.rank))?;
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

/// ` rank=3 tp=2 pp=2`, with the space before it; nothing where there is one rank. The experts'
/// sizes follow where they are shared out.
struct OfRank(Rank);

impl Display for OfRank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rank { mapping, number } = self.0;
        let Mapping { tp_size, pp_size, moe_tp_size, moe_ep_size } = mapping;
        if mapping == Mapping::default() {
            return Ok(());
        }
        write!(f, " rank={number} tp={tp_size} pp={pp_size}")?;
        match moe_ep_size {
            1 => Ok(()),
            _ => write!(f, " moe_tp={moe_tp_size} moe_ep={moe_ep_size}"),
        }
    }
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
            if let Some(state) = graph.nodes.get(node).and_then(|data| data.op.state())
                && graph.states.is_valid(state)
                && !std::mem::replace(&mut seen[state], true)
            {
                declared.states[place].push(state);
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
            Op::Positions { table, .. } => write!(f, " {table}")?,
            Op::Receive { widths } => write!(f, " {widths:?}")?,
            // Those among the options stand there.
            Op::Attend { .. } => {}
            Op::Mix { up, down, .. } => write!(f, ", {up}, {down}")?,
            Op::RoundInputs { scales, grid, .. } => {
                if let Some(scales) = scales {
                    write!(f, ", inputs={scales}")?;
                }
                if let Some(grid) = grid {
                    write!(f, ", grid={}", grid.kind)?;
                    grid.scale.map_or(Ok(()), |scale| write!(f, ", scale={scale}"))?;
                }
            }
            _ => op.weights().iter().try_for_each(|weight| write!(f, ", {weight}"))?,
        }
        match op {
            Op::Split { sizes, .. } => write!(f, ", {sizes:?}"),
            Op::LinearHeads { heads, .. } => write!(f, ", heads={heads}"),
            Op::Concat { heads, .. } => write!(f, ", heads={heads}"),
            Op::Mix { options, .. } => write!(f, ", {options}"),
            Op::Convolve { state, .. } | Op::Recur { state, .. } => write!(f, ", {state}"),
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
            Op::Positions { stretch, .. } | Op::Embedding { stretch, .. } => match stretch {
                Some(Stretch { first, of }) => write!(f, ", first={first} of={of}"),
                None => Ok(()),
            },
            Op::Tokens
            | Op::Receive { .. }
            | Op::AllReduce { .. }
            | Op::AllGather { .. }
            | Op::Linear { .. }
            | Op::Add { .. }
            | Op::Multiply { .. }
            | Op::RoundInputs { .. }
            | Op::Outputs { .. } => Ok(()),
        }
    }
}

impl Display for WeightData {
    /// Without the number that it has in a graph.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let axes = display_axes(&self.axes);
        write!(f, "weight {} {} {axes}", Quoted(&self.name), self.dtype)?;
        self.tied.map_or(Ok(()), |tied| write!(f, " tied {tied}"))?;
        self.coding.map_or(Ok(()), |coding| write!(f, " {coding}"))
    }
}

impl Display for StateData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StateData::Cache { key_heads, head_width, keys_only } => {
                write!(f, "cache key_heads={key_heads} head_width={head_width}")?;
                word(f, *keys_only, "keys_only")
            }
            StateData::Convolution { channels, taps } => {
                write!(f, "convolution channels={channels} taps={taps}")
            }
            StateData::Recurrence { channels } => write!(f, "recurrence channels={channels}"),
        }
    }
}

/// A word that stands where something is so.
fn word(f: &mut fmt::Formatter<'_>, is: bool, word: &str) -> fmt::Result {
    if is { write!(f, " {word}") } else { Ok(()) }
}

impl Display for AttentionData {
    /// Without what its state says.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AttentionData { query_heads, scale, window, softcap, alibi, sinks, latent, .. } = self;
        write!(f, "query_heads={query_heads} scale={scale:?}")?;
        window.map_or(Ok(()), |window| write!(f, " window={window}"))?;
        softcap.map_or(Ok(()), |softcap| write!(f, " softcap={softcap:?}"))?;
        alibi.iter().try_for_each(|slopes| write!(f, " alibi={slopes:?}"))?;
        sinks.map_or(Ok(()), |sinks| write!(f, " sinks={sinks}"))?;
        latent.map_or(Ok(()), |latent| write!(f, " latent={latent}"))
    }
}

impl Display for MixtureData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MixtureData { chosen, activation, sigmoid, renormalize, scale, .. } = self;
        write!(f, "chosen={chosen} activation={activation}")?;
        word(f, *sigmoid, "sigmoid")?;
        word(f, *renormalize, "renormalize")?;
        scale.map_or(Ok(()), |scale| write!(f, " scale={scale:?}"))?;
        self.prefer.map_or(Ok(()), |prefer| write!(f, " prefer={prefer}"))?;
        if let Some(Groups { groups, chosen, best }) = self.groups {
            write!(f, " groups={groups} chosen_groups={chosen} best={best}")?;
        }
        if let Some([up, down]) = self.biases {
            write!(f, " up_bias={up} down_bias={down}")?;
        }
        if let Some(Bounded { bound, slope }) = self.bounded {
            write!(f, " bound={bound:?} slope={slope:?}")?;
        }
        self.first.map_or(Ok(()), |first| write!(f, " first={first}"))
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
            Scaling::Yarn { factor, fast, slow, attention, context, untruncated } => {
                write!(f, " scaling=yarn factor={factor:?} fast={fast:?} slow={slow:?}")?;
                if let Some(attention) = attention {
                    write!(f, " attention={attention:?}")?;
                }
                write!(f, " context={context}")?;
                word(f, *untruncated, "untruncated")?;
            }
            Scaling::Long { short, long, attention, context } => {
                write!(f, " scaling=long short={short:?} long={long:?}")?;
                write!(f, " attention={attention:?} context={context}")?;
            }
        }
        word(f, *interleaved, "interleaved")
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
