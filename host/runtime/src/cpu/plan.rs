//! Graph → a list of kernel calls. Made at load.
//!
//! Matrices stay where the engine maps them. Only vectors (gains, biases and slopes) are widened
//! here: they are a thousandth of a model.

use super::collective::Collective;
use super::matrix::{Matrix, widened};
use super::memory::{Memory, Slot};
use super::mixture::{self, Mixture};
use crate::device::{Limits, Program};
use crate::error::RuntimeError;
use engraft_ir::{
    Activation, AnyEntity, CodeKind, Dim, Graph, Grid, Node, NodeData, Op, Rotary, StateData,
    Stretch, Value, Weight,
};
use engraft_kernels_cpu::{self as kernels, Norm, Rows};

/// One kernel call. A gain, a bias or slopes are an index into [`Plan::vectors`], and so are taps
/// and rates. A recurrence's gates are that of the input and that of what is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Call {
    Embedding { table: Matrix, first: Option<usize>, output: Slot },
    Gather { input: Slot, output: Slot },
    Linear { input: Slot, weight: Matrix, bias: Option<usize>, output: Slot },
    LinearHeads { input: Slot, weight: Matrix, bias: Option<usize>, heads: usize, output: Slot },
    PlaceHeads { input: Slot, heads: usize, first: usize, output: Slot },
    RmsNorm { input: Slot, gain: usize, epsilon: f32, output: Slot },
    LayerNorm { input: Slot, gain: Option<usize>, bias: Option<usize>, epsilon: f32, output: Slot },
    HeadNorm { input: Slot, norm: Norm, gain: usize, head: usize, epsilon: f32, output: Slot },
    Positions { table: Matrix, first: Option<usize>, output: Slot },
    AddRmsNorm { left: Slot, right: Slot, gain: usize, epsilon: f32, sum: Slot, output: Slot },
    Rotate { input: Slot, rotary: Rotary, output: Slot },
    Attend { query: Slot, key: Slot, value: Option<Slot>, attention: Attention, output: Slot },
    Activate { input: Slot, activation: Activation, output: Slot },
    Gate { gate: Slot, up: Slot, activation: Activation, output: Slot },
    Add { left: Slot, right: Slot, output: Slot },
    Multiply { left: Slot, right: Slot, output: Slot },
    Scale { input: Slot, factor: f32, output: Slot },
    RoundInputs { input: Slot, scales: Option<usize>, grid: Option<kernels::Grid>, output: Slot },
    Softcap { input: Slot, bound: f32, output: Slot },
    Clamp { input: Slot, low: f32, high: f32, output: Slot },
    Mix { input: Slot, scores: Slot, mixture: Mixture, output: Slot },
    Convolve { input: Slot, taps: usize, bias: Option<usize>, states: Rows, output: Slot },
    Recur { input: Slot, gates: [Slot; 2], rates: usize, states: Rows, output: Slot },
}

/// What an attention needs besides its operands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attention {
    /// Which of the caches.
    pub(crate) cache: usize,
    pub(crate) query_heads: usize,
    pub(crate) scale: f32,
    pub(crate) rotary: Option<Rotary>,
    pub(crate) window: Option<usize>,
    pub(crate) softcap: Option<f32>,
    pub(crate) alibi: Option<usize>,
    pub(crate) sinks: Option<usize>,
}

/// What is done in a step.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) calls: Vec<Call>,
    /// What ranks do together, each before the call of that number.
    pub(crate) meetings: Vec<(usize, Collective)>,
    pub(crate) vectors: Vec<Vec<f32>>,
    /// Floats of the arena.
    pub(crate) arena: usize,
    /// None where another stage has the head.
    pub(crate) logits: Option<Slot>,
    /// Positions below it are in every table of learned ones.
    pub(crate) positions: usize,
}

impl Plan {
    /// A plan for a verified graph.
    ///
    /// # Errors
    /// Weights of a type that there are no kernels for or with the wrong number of bytes, sizes
    /// that cannot be counted, or a graph that does not end in logits where it is the last stage.
    pub(crate) fn new(program: &dyn Program, limits: &Limits) -> Result<Plan, RuntimeError> {
        let graph = program.graph();
        let nodes: Vec<Node> = graph.schedule().map(|(_, node)| node).collect();
        let outputs = match graph.rank.is_last() {
            true => graph.output().into_iter().collect(),
            false => graph.places.values().next_back().map_or(Vec::new(), |p| p.carry.clone()),
        };
        if outputs.is_empty() {
            return Err(unsupported("it has no output", AnyEntity::Graph));
        }
        let uncountable = || unsupported("its values are too large", AnyEntity::Graph);
        let mut memory = Memory::new(graph, &nodes, &outputs, limits).ok_or_else(uncountable)?;
        let mut builder = Builder { program, graph, memory: &memory, vectors: Vec::new() };
        let mut calls = Vec::with_capacity(nodes.len());
        let mut meetings = Vec::new();
        for &node in &nodes {
            if let Some(meeting) = builder.meeting(node)? {
                meetings.push((calls.len(), meeting));
                continue;
            }
            match &graph.nodes[node].op {
                Op::Concat { inputs, heads } => {
                    let output = builder.slot(graph.nodes[node].results[0])?;
                    builder.concat(inputs, *heads as usize, output, &mut calls)?;
                }
                _ => calls.extend(builder.call(node)?),
            }
        }
        let slots = outputs.iter().map(|&output| builder.slot(output)).collect::<Result<_, _>>();
        let (slots, vectors): (Vec<Slot>, _) = (slots?, builder.vectors);
        let logits = if !graph.rank.is_last() {
            meetings.push((calls.len(), Collective::Send { inputs: slots }));
            None
        } else if slots[0].dim == Dim::Outputs && slots[0].is_dense() {
            Some(slots[0])
        } else {
            let input = slots[0];
            let output = memory.extra(Dim::Outputs, input.width, limits);
            let output = output.ok_or_else(uncountable)?;
            calls.push(match input.dim {
                // A graph that no pass has seen gives logits for every token.
                Dim::Tokens => Call::Gather { input, output },
                // A padded vocabulary is cut.
                _ => Call::PlaceHeads { input, heads: 1, first: 0, output },
            });
            Some(output)
        };
        let positions = graph.positions().and_then(|rows| usize::try_from(rows).ok());
        let positions = positions.unwrap_or(usize::MAX);
        Ok(Plan { calls, meetings, vectors, arena: memory.floats, logits, positions })
    }
}

/// The first row of a part of a table.
fn first(stretch: Option<Stretch>) -> Result<Option<usize>, RuntimeError> {
    let number = |stretch: Stretch| usize::try_from(stretch.first);
    let uncountable = |_| unsupported("a table is too large", AnyEntity::Graph);
    stretch.map(number).transpose().map_err(uncountable)
}

pub(super) fn unsupported(reason: &str, place: impl Into<AnyEntity>) -> RuntimeError {
    RuntimeError::Unsupported { reason: reason.into(), place: place.into() }
}

struct Builder<'a> {
    program: &'a dyn Program,
    graph: &'a Graph,
    memory: &'a Memory,
    vectors: Vec<Vec<f32>>,
}

impl Builder<'_> {
    fn slot(&self, value: Value) -> Result<Slot, RuntimeError> {
        self.memory.slot(value).ok_or_else(|| unsupported("it is no matrix", value))
    }

    /// A value with a row a token: positions are known for no others.
    fn token_rows(&self, value: Value) -> Result<Slot, RuntimeError> {
        let slot = self.slot(value)?;
        match slot.dim {
            Dim::Tokens => Ok(slot),
            _ => Err(unsupported("its rows have no positions", value)),
        }
    }

    fn matrix(&mut self, weight: Weight) -> Result<Matrix, RuntimeError> {
        Matrix::new(self.program, weight, &mut self.vectors)
    }

    fn widened(&self, weight: Weight) -> Result<Vec<f32>, RuntimeError> {
        widened(self.program, weight)
    }

    fn vector(&mut self, weight: Weight) -> Result<usize, RuntimeError> {
        let floats = self.widened(weight)?;
        Ok(self.keep(floats))
    }

    fn maybe_vector(&mut self, weight: Option<Weight>) -> Result<Option<usize>, RuntimeError> {
        weight.map(|weight| self.vector(weight)).transpose()
    }

    fn keep(&mut self, vector: Vec<f32>) -> usize {
        self.vectors.push(vector);
        self.vectors.len() - 1
    }

    /// What a node does together with other ranks, if it does.
    fn meeting(&self, node: Node) -> Result<Option<Collective>, RuntimeError> {
        let NodeData { op, results, .. } = &self.graph.nodes[node];
        let slots: Result<Vec<Slot>, _> = results.iter().map(|&made| self.slot(made)).collect();
        Ok(match *op {
            Op::Receive { .. } => Some(Collective::Receive { outputs: slots? }),
            Op::AllReduce { input } => {
                Some(Collective::AllReduce { input: self.slot(input)?, output: slots?[0] })
            }
            Op::AllGather { input } => {
                Some(Collective::AllGather { input: self.slot(input)?, output: slots?[0] })
            }
            _ => None,
        })
    }

    /// The call for a node; token ids, splits and meetings need none.
    fn call(&mut self, id: Node) -> Result<Option<Call>, RuntimeError> {
        let node: &NodeData = &self.graph.nodes[id];
        let result = |at: usize| -> Result<Slot, RuntimeError> {
            let value = node.results.get(at).copied();
            self.slot(value.ok_or_else(|| unsupported("a result is missing", AnyEntity::Graph))?)
        };
        Ok(Some(match node.op {
            Op::Tokens | Op::Split { .. } | Op::Concat { .. } => return Ok(None),
            Op::Receive { .. } | Op::AllReduce { .. } | Op::AllGather { .. } => return Ok(None),
            Op::Embedding { tokens, table, stretch } => {
                let made = self.graph.values[tokens].node;
                if !matches!(self.graph.nodes[made].op, Op::Tokens) {
                    return Err(unsupported("its rows are not the batch's tokens", tokens));
                }
                let output = result(0)?;
                Call::Embedding { table: self.matrix(table)?, first: first(stretch)?, output }
            }
            Op::Outputs { input } => Call::Gather { input: self.slot(input)?, output: result(0)? },
            Op::Linear { input, weight, bias } => {
                let (input, output) = (self.slot(input)?, result(0)?);
                let weight = self.matrix(weight)?;
                let bias = self.maybe_vector(bias)?;
                Call::Linear { input, weight, bias, output }
            }
            Op::Positions { table, stretch } => {
                let output = result(0)?;
                let table = self.matrix(table)?;
                Call::Positions { table, first: first(stretch)?, output }
            }
            Op::LayerNorm { input, weight, bias, epsilon } => {
                let (input, output) = (self.slot(input)?, result(0)?);
                let (gain, bias) = (self.maybe_vector(weight)?, self.maybe_vector(bias)?);
                Call::LayerNorm { input, gain, bias, epsilon: epsilon as f32, output }
            }
            Op::RmsNormHeads { input, weight, head_width, epsilon } => {
                let output = result(0)?;
                self.head_norm(Norm::Rms, input, weight, head_width, epsilon, output)?
            }
            Op::LayerNormHeads { input, weight, head_width, epsilon } => {
                let output = result(0)?;
                self.head_norm(Norm::Layer, input, weight, head_width, epsilon, output)?
            }
            Op::RmsNorm { input, weight, epsilon } => {
                let (input, output) = (self.slot(input)?, result(0)?);
                let gain = self.vector(weight)?;
                Call::RmsNorm { input, gain, epsilon: epsilon as f32, output }
            }
            Op::AddRmsNorm { left, right, weight, epsilon } => {
                let (left, right) = (self.slot(left)?, self.slot(right)?);
                let (sum, output) = (result(0)?, result(1)?);
                let gain = self.vector(weight)?;
                Call::AddRmsNorm { left, right, gain, epsilon: epsilon as f32, sum, output }
            }
            Op::Rotate { input, rotary } => {
                Call::Rotate { input: self.token_rows(input)?, rotary, output: result(0)? }
            }
            Op::LinearHeads { input, weight, bias, heads } => {
                let (input, output) = (self.slot(input)?, result(0)?);
                let weight = self.matrix(weight)?;
                let (bias, heads) = (self.maybe_vector(bias)?, heads as usize);
                Call::LinearHeads { input, weight, bias, heads, output }
            }
            Op::Mix { input, scores, up, down, ref options } => {
                let (input, scores, output) = (self.slot(input)?, self.slot(scores)?, result(0)?);
                let place = || mixture::homeless(node.results[0]);
                let work = self.memory.work(id).ok_or_else(place)?;
                let sizes = mixture::sizes(self.graph, down, options).ok_or_else(place)?;
                let matrices = [self.matrix(up)?, self.matrix(down)?];
                let vector = |weight| self.vector(weight);
                let mixture = Mixture::new(options, matrices, sizes, work, vector)?;
                Call::Mix { input, scores, mixture, output }
            }
            Op::Convolve { input, weight, bias, state } => {
                let (input, output) = (self.token_rows(input)?, result(0)?);
                let states = self.memory.state(state);
                let states = states.ok_or_else(|| mixture::homeless(node.results[0]))?;
                let weights = self.widened(weight)?;
                let taps = self.keep(mixture::by_tap(&weights, input.width));
                let bias = self.maybe_vector(bias)?;
                Call::Convolve { input, taps, bias, states, output }
            }
            Op::Recur { input, input_gate, recurrent_gate, decay, state } => {
                let (input, output) = (self.token_rows(input)?, result(0)?);
                let gates = [self.slot(input_gate)?, self.slot(recurrent_gate)?];
                let states = self.memory.state(state);
                let states = states.ok_or_else(|| mixture::homeless(node.results[0]))?;
                let rates = mixture::rates(&self.widened(decay)?);
                let rates = self.keep(rates);
                Call::Recur { input, gates, rates, states, output }
            }
            Op::Attend { query, key, value, cache, rotary, ref options } => {
                let output = result(0)?;
                let narrow = |slopes: &Vec<f64>| slopes.iter().map(|&slope| slope as f32).collect();
                let alibi = options.alibi.as_ref().map(narrow);
                let before = self.graph.states.iter().take_while(|&(state, _)| state != cache);
                let is_cache = |state: &StateData| matches!(state, StateData::Cache { .. });
                let attention = Attention {
                    cache: before.filter(|&(_, state)| is_cache(state)).count(),
                    query_heads: options.query_heads as usize,
                    scale: options.scale as f32,
                    rotary,
                    window: options.window.map(|tokens| tokens as usize),
                    softcap: options.softcap.map(|bound| bound as f32),
                    alibi: alibi.map(|slopes| self.keep(slopes)),
                    sinks: self.maybe_vector(options.sinks)?,
                };
                // Where it is latent, values are a part of keys.
                let value = options.latent.is_none().then_some(value);
                Call::Attend {
                    query: self.token_rows(query)?,
                    key: self.token_rows(key)?,
                    value: value.map(|value| self.token_rows(value)).transpose()?,
                    attention,
                    output,
                }
            }
            Op::Activate { input, activation } => {
                Call::Activate { input: self.slot(input)?, activation, output: result(0)? }
            }
            Op::Gate { gate, up, activation } => {
                let (gate, up, output) = (self.slot(gate)?, self.slot(up)?, result(0)?);
                Call::Gate { gate, up, activation, output }
            }
            Op::Add { left, right } => {
                let (left, right, output) = (self.slot(left)?, self.slot(right)?, result(0)?);
                Call::Add { left, right, output }
            }
            Op::Multiply { left, right } => {
                let (left, right, output) = (self.slot(left)?, self.slot(right)?, result(0)?);
                Call::Multiply { left, right, output }
            }
            Op::Scale { input, factor } => {
                Call::Scale { input: self.slot(input)?, factor: factor as f32, output: result(0)? }
            }
            Op::RoundInputs { input, scales, grid } => {
                let (input, output) = (self.slot(input)?, result(0)?);
                let scales = self.maybe_vector(scales)?;
                let grid = grid.map(|grid| self.grid(grid)).transpose()?;
                Call::RoundInputs { input, scales, grid, output }
            }
            Op::Softcap { input, bound } => {
                Call::Softcap { input: self.slot(input)?, bound: bound as f32, output: result(0)? }
            }
            Op::Clamp { input, low, high } => {
                let (low, high) = (low as f32, high as f32);
                Call::Clamp { input: self.slot(input)?, low, high, output: result(0)? }
            }
        }))
    }

    fn grid(&self, grid: Grid) -> Result<kernels::Grid, RuntimeError> {
        let scale = grid.scale.map(|scale| self.widened(scale)).transpose()?;
        let scale = scale.and_then(|scale| scale.first().copied());
        Ok(match grid.kind {
            CodeKind::Fp8 => kernels::Grid::Fp8 { scale },
            CodeKind::Int4 | CodeKind::Int8 => kernels::Grid::Int8 { scale },
        })
    }

    /// The calls that put heads side by side.
    fn concat(
        &self,
        inputs: &[Value],
        heads: usize,
        output: Slot,
        calls: &mut Vec<Call>,
    ) -> Result<(), RuntimeError> {
        let mut first = 0;
        for &input in inputs {
            let input = self.slot(input)?;
            calls.push(Call::PlaceHeads { input, heads, first, output });
            first += input.width / heads;
        }
        Ok(())
    }

    fn head_norm(
        &mut self,
        norm: Norm,
        input: Value,
        weight: Weight,
        head_width: u32,
        epsilon: f64,
        output: Slot,
    ) -> Result<Call, RuntimeError> {
        let (input, gain) = (self.slot(input)?, self.vector(weight)?);
        let (head, epsilon) = (head_width as usize, epsilon as f32);
        Ok(Call::HeadNorm { input, norm, gain, head, epsilon, output })
    }
}
