//! A place in one arena for every value of a graph.
//!
//! - A split makes views into the rows of what it cuts.
//! - A value lives from the node that makes it to the last that reads it or a view of it; values
//!   that never live at the same time share memory, and where a node may write over an operand
//!   that nobody reads again, it does. What a node needs to work lives as long as it works.
//! - What is kept of each request from step to step lives for ever, apart from all of these.

use super::mixture;
use crate::device::Limits;
use cranelift_entity::SecondaryMap;
use engraft_ir::{Dim, Graph, Node, Op, State, StateData, Value};
use engraft_kernels_cpu::Rows;

/// Floats that every place is a multiple of: a cache line.
const ALIGN: usize = 16;

/// A value's place: a matrix whose number of rows is known step by step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    start: usize,
    pub(crate) width: usize,
    stride: usize,
    pub(crate) dim: Dim,
}

impl Slot {
    /// The place in a step of so many tokens and outputs.
    pub(crate) fn rows(self, tokens: usize, outputs: usize) -> Rows {
        let rows = if self.dim == Dim::Outputs { outputs } else { tokens };
        Rows { start: self.start, rows, width: self.width, stride: self.stride }
    }

    /// Whether rows follow each other without gaps.
    pub(crate) fn is_dense(self) -> bool {
        self.width == self.stride
    }
}

/// Where everything is.
#[derive(Debug)]
pub(crate) struct Memory {
    slots: SecondaryMap<Value, Option<Slot>>,
    work: SecondaryMap<Node, Option<Rows>>,
    states: SecondaryMap<State, Option<Rows>>,
    /// Floats of the arena.
    pub(crate) floats: usize,
}

/// Memory for one matrix of a time.
#[derive(Clone, Copy, Debug)]
struct Buffer {
    dim: Dim,
    width: usize,
    floats: usize,
    first: usize,
    last: usize,
}

/// Which buffer a value is in, and from which column on.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    buffer: usize,
    column: usize,
    width: usize,
}

impl Memory {
    /// Places for all that `nodes` make; `outputs` live to the end. `None` where a size cannot
    /// be counted.
    pub(crate) fn new(
        graph: &Graph,
        nodes: &[Node],
        outputs: &[Value],
        limits: &Limits,
    ) -> Option<Memory> {
        let last = last_reads(graph, nodes, outputs);
        let mut places: SecondaryMap<Value, Option<Place>> = SecondaryMap::new();
        let mut buffers: Vec<Buffer> = Vec::new();
        let mut workspaces: Vec<(Node, usize)> = Vec::new();
        for (time, &node) in nodes.iter().enumerate() {
            let data = &graph.nodes[node];
            if let Op::Split { input, .. } = &data.op {
                let mut column = 0;
                let whole = places[*input]?;
                for &part in &data.results {
                    let width = width(graph, part)?;
                    places[part] =
                        Some(Place { buffer: whole.buffer, column: whole.column + column, width });
                    column += width;
                }
                continue;
            }
            if let Some(floats) = workspace(graph, &data.op, limits) {
                workspaces.push((node, buffers.len()));
                let (dim, first, last) = (Dim::Tokens, time, time);
                buffers.push(Buffer { dim, width: floats?, floats: floats?, first, last });
            }
            let values = data.op.values();
            let operands: Vec<Place> = values.iter().filter_map(|&value| places[value]).collect();
            // One operand may be a part of another, which is then read to the end.
            let is_cut = |whole: Place| {
                operands.iter().any(|p| p.buffer == whole.buffer && p.width != whole.width)
            };
            let mut reusable = overwritable(&data.op);
            reusable.dedup();
            for &result in &data.results {
                let Some(width) = width(graph, result) else { continue };
                let dim = graph.values[result].ty.rows;
                let dead = reusable.iter().position(|&operand| {
                    places[operand].is_some_and(|place| {
                        let buffer = &buffers[place.buffer];
                        let fits = buffer.width == width && place.width == width;
                        buffer.last == time && fits && !is_cut(place)
                    })
                });
                let buffer = match dead.and_then(|at| places[reusable.swap_remove(at)]) {
                    Some(place) => {
                        buffers[place.buffer].last = last[result];
                        place.buffer
                    }
                    None => {
                        let floats = floats_of(dim, width, limits)?;
                        let (first, last) = (time, last[result]);
                        buffers.push(Buffer { dim, width, floats, first, last });
                        buffers.len() - 1
                    }
                };
                places[result] = Some(Place { buffer, column: 0, width });
            }
        }
        let (starts, floats) = arrange(&buffers)?;
        let mut slots = SecondaryMap::new();
        for value in graph.values.keys() {
            slots[value] = places[value].map(|Place { buffer, column, width }| {
                let Buffer { dim, width: stride, .. } = buffers[buffer];
                Slot { start: starts[buffer] + column, width, stride, dim }
            });
        }
        let mut work = SecondaryMap::new();
        for (node, buffer) in workspaces {
            work[node] = Some(Rows::dense(starts[buffer], 1, buffers[buffer].floats));
        }
        let mut memory = Memory { slots, work, states: SecondaryMap::new(), floats };
        for (state, data) in graph.states.iter() {
            if let Some(width) = kept(data) {
                let rows = limits.max_batch_size;
                let place = Rows::dense(memory.floats, rows, width?);
                let floats = rows.checked_mul(width?)?.checked_next_multiple_of(ALIGN)?;
                memory.floats = memory.floats.checked_add(floats)?;
                memory.states[state] = Some(place);
            }
        }
        Some(memory)
    }

    /// What the threads share while they work on a node, if it needs any.
    pub(crate) fn work(&self, node: Node) -> Option<Rows> {
        self.work[node]
    }

    /// What is kept from step to step: a row for each request that runs at a time. Caches are
    /// elsewhere.
    pub(crate) fn state(&self, state: State) -> Option<Rows> {
        self.states[state]
    }

    /// Where a value is; token ids are nowhere.
    pub(crate) fn slot(&self, value: Value) -> Option<Slot> {
        self.slots[value]
    }

    /// One more place, apart from all others.
    pub(crate) fn extra(&mut self, dim: Dim, width: usize, limits: &Limits) -> Option<Slot> {
        let start = self.floats;
        self.floats = start.checked_add(floats_of(dim, width, limits)?)?;
        Some(Slot { start, width, stride: width, dim })
    }
}

fn width(graph: &Graph, value: Value) -> Option<usize> {
    graph.values[value].ty.width.and_then(|width| usize::try_from(width).ok())
}

fn rows_of(dim: Dim, limits: &Limits) -> usize {
    if dim == Dim::Outputs { limits.max_outputs } else { limits.max_num_tokens }
}

/// Floats of a node's workspace; none inside where they cannot be counted.
fn workspace(graph: &Graph, op: &Op, limits: &Limits) -> Option<Option<usize>> {
    let Op::Mix { input, down, options, .. } = op else { return None };
    let rows = rows_of(graph.values[*input].ty.rows, limits);
    Some(mixture::sizes(graph, *down, options).and_then(|sizes| {
        engraft_kernels_cpu::workspace(rows, sizes.chosen, sizes.inner)?
            .checked_next_multiple_of(ALIGN)
    }))
}

/// Floats that are kept of each request; none inside where they cannot be counted.
fn kept(state: &StateData) -> Option<Option<usize>> {
    let number = |n: u64| usize::try_from(n).ok();
    match *state {
        StateData::Cache { .. } => None,
        StateData::Convolution { channels, taps } => {
            Some(number(channels).and_then(|channels| {
                engraft_kernels_cpu::convolution_state(channels, number(taps)?)
            }))
        }
        StateData::Recurrence { channels } => Some(number(channels)),
    }
}

fn floats_of(dim: Dim, width: usize, limits: &Limits) -> Option<usize> {
    let rows = rows_of(dim, limits);
    rows.checked_mul(width)?.checked_next_multiple_of(ALIGN)
}

/// When each value is read last, views of it included.
fn last_reads(graph: &Graph, nodes: &[Node], outputs: &[Value]) -> SecondaryMap<Value, usize> {
    let mut last: SecondaryMap<Value, usize> = SecondaryMap::new();
    for (time, &node) in nodes.iter().enumerate() {
        let data = &graph.nodes[node];
        data.results.iter().for_each(|&made| last[made] = time);
        data.op.values().into_iter().for_each(|read| last[read] = time);
    }
    outputs.iter().for_each(|&output| last[output] = nodes.len());
    for &node in nodes.iter().rev() {
        let data = &graph.nodes[node];
        if let Op::Split { input, .. } = data.op {
            for &part in &data.results {
                last[input] = last[input].max(last[part]);
            }
        }
    }
    last
}

/// Operands that the node's kernel may write over, one for each of its results.
fn overwritable(op: &Op) -> Vec<Value> {
    match op {
        Op::RmsNorm { .. }
        | Op::LayerNorm { .. }
        | Op::RmsNormHeads { .. }
        | Op::LayerNormHeads { .. }
        | Op::Scale { .. }
        | Op::RoundInputs { .. }
        | Op::Softcap { .. }
        | Op::Clamp { .. }
        | Op::AddRmsNorm { .. }
        | Op::Rotate { .. }
        | Op::Activate { .. }
        | Op::Gate { .. }
        | Op::Add { .. }
        | Op::Recur { .. }
        | Op::AllReduce { .. }
        | Op::Multiply { .. } => op.values(),
        _ => Vec::new(),
    }
}

/// Where buffers begin: each at the first gap between those that live at the same time; and
/// floats of them all.
fn arrange(buffers: &[Buffer]) -> Option<(Vec<usize>, usize)> {
    let mut starts = Vec::with_capacity(buffers.len());
    let mut total = 0;
    // Those that may still live, by where they begin.
    let mut living: Vec<(usize, usize, usize)> = Vec::new();
    for buffer in buffers {
        living.retain(|&(_, _, last)| last >= buffer.first);
        let size = buffer.floats;
        let mut start = 0usize;
        for &(from, to, _) in &living {
            if from.saturating_sub(start) >= size && from >= start {
                break;
            }
            start = start.max(to);
        }
        let end = start.checked_add(size)?;
        let at = living.partition_point(|&(from, _, _)| from < start);
        living.insert(at, (start, end, buffer.last));
        starts.push(start);
        total = total.max(end);
    }
    Some((starts, total))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn values_that_live_together_never_share_memory() {
        let graph = testing::graph(3);
        let nodes: Vec<Node> = graph.schedule().map(|(_, node)| node).collect();
        let output = graph.output().expect("logits");
        let limits = testing::limits();
        let memory = Memory::new(&graph, &nodes, &[output], &limits).expect("fits");
        let last = last_reads(&graph, &nodes, &[output]);
        let (tokens, outputs) = (limits.max_num_tokens, limits.max_outputs);
        let mut most = 0;
        for (time, &node) in nodes.iter().enumerate() {
            let data = &graph.nodes[node];
            // What is made now, and what is read later: all apart.
            let living: Vec<Value> = graph
                .values
                .keys()
                .filter(|&v| memory.slot(v).is_some() && last[v] > time)
                .filter(|&v| nodes[..=time].contains(&graph.values[v].node))
                .filter(|&v| !matches!(data.op, Op::Split { .. }) || data.results.contains(&v))
                .collect();
            let mut sum = 0;
            for (i, &a) in living.iter().enumerate() {
                let place = memory.slot(a).expect("a place").rows(tokens, outputs);
                assert!(place.end().expect("counted") <= memory.floats);
                sum += place.rows * place.width;
                for &b in &living[i + 1..] {
                    let is_view = |x: Value, y: Value| {
                        let made = &graph.nodes[graph.values[x].node];
                        matches!(made.op, Op::Split { input, .. } if input == y)
                    };
                    let other = memory.slot(b).expect("a place").rows(tokens, outputs);
                    assert!(is_view(a, b) || is_view(b, a) || place.apart(other), "{a} and {b}");
                }
            }
            most = most.max(sum);
        }
        let all: usize = graph.values.keys().filter_map(|v| memory.slot(v)).count();
        assert!(all > 20 && memory.floats < 4 * most, "{} floats for {most}", memory.floats);
    }
}
