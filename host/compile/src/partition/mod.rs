//! From the graph of a whole model to what each rank of a mapping has of it.
//!
//! A plugin writes a graph for one device and says what each axis of a weight counts; that is all
//! there is to go by, so every architecture is split by the same rules. Nodes are visited in
//! order, and of each value it is known how it is [spread](spread::Spread) over the ranks of a
//! stage: all of it on each, cut into shares, or a summand on each:
//!
//! - a product whose weight's outer axis counts heads, inner width or vocabulary gives each rank
//!   its share of the result; one that takes shares cuts the inner axis, and gives summands;
//! - whatever works element by element, or head by head, works on shares;
//! - sums and multiples of summands are summands: only what needs all of a row has
//!   `all_reduce` before it, and `all_gather` where it was cut.
//!
//! ```text
//! v2 = linear v1, w1              v2 = linear v1, w1        ; w1 [2·i, h] → [i, h]
//! v3 = activate v2, silu          v3 = activate v2, silu
//! v4 = linear v3, w2, w3          v4 = linear v3, w2, w3    ; w2 [h, 2·i] → [h, i]; w3 on rank 0
//! v5 = add v1, v4                 v5 = all_reduce v4
//!                                 v6 = add v1, v5
//! ```
//! Stages cut between places: a later one begins with `receive`, and its blocks count from 0.
//! How heads, experts and vocabularies are shared out, padded and repeated is TensorRT-LLM's way,
//! so the shares of a checkpoint's tensors ([`Part::stored`]) are those of its rank files.

mod rules;
mod spread;

use crate::error::CompileError;
use cranelift_entity::SecondaryMap;
use engraft_diagnostic::escape;
use engraft_ir::{
    DType, Graph, Meaning, Node, Op, Place, PlaceKind, Rank, Rotary, TypeError, Value, Weight,
    WeightData, verify,
};
use engraft_weights::{Cut, Piece, Share, block_of, full_name};
use spread::{Run, Spread, Way, cut_axis, pieces};
use std::collections::{BTreeMap, BTreeSet};

/// What can be chosen about a partition, besides the mapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Which axis of the embedding tables the ranks of a stage share: 0 their rows, 1 their
    /// width. Not said, each rank has all of them.
    pub parallel_embedding: Option<u8>,
}

/// What one rank has of a model.
#[derive(Clone, Debug)]
pub struct Part {
    /// Which.
    pub rank: Rank,
    /// What it computes.
    pub graph: Graph,
    /// The weights of its graph.
    pub shares: Vec<Share>,
    /// The tensors of its file in a checkpoint. Also has what its graph does not use: a bias that
    /// is added once, by the first rank.
    pub stored: Vec<Share>,
}

impl Part {
    /// All of a model, for the one rank that there is.
    pub fn whole(graph: Graph) -> Part {
        let all = graph.weights.values();
        let stored: Vec<Share> = all.map(whole_share).collect();
        let own = graph.weights.values().filter(|weight| weight.tied.is_none());
        Part { rank: graph.rank, shares: own.map(whole_share).collect(), stored, graph }
    }
}

fn whole_share(weight: &WeightData) -> Share {
    let name = weight.name.clone();
    Share { source: name.clone(), name, cut: Cut::whole(&weight.shape()) }
}

/// Why a model cannot be split as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PartitionError {
    /// The mapping contradicts itself.
    #[error("{0}")]
    Mapping(String),
    /// There are more stages than blocks.
    #[error("pp_size is {pp_size}, and the model has {blocks} blocks: a stage has at least one")]
    Stages {
        /// Asked for.
        pp_size: u32,
        /// There are.
        blocks: u32,
    },
    /// What a weight counts does not come out even.
    #[error("{what}, {size}, cannot be shared by {ranks} ranks")]
    Uneven {
        /// What is to be shared, by its name in a config where it has one.
        what: &'static str,
        /// How many there are.
        size: u64,
        /// So many are to share it.
        ranks: u64,
        /// The weight or operation that it was found at.
        at: String,
        /// The flag that asks for it.
        flag: &'static str,
    },
    /// An operation that cannot be split.
    #[error("{reason}")]
    Operation {
        /// Why.
        reason: String,
        /// The operation as text.
        at: String,
    },
}

impl PartitionError {
    /// Where it was found.
    pub(crate) fn location(&self) -> Option<String> {
        match self {
            PartitionError::Mapping(_) | PartitionError::Stages { .. } => None,
            PartitionError::Uneven { at, .. } | PartitionError::Operation { at, .. } => {
                Some(escape(at))
            }
        }
    }

    /// What to do.
    pub(crate) fn help(&self) -> String {
        match self {
            PartitionError::Mapping(_) => "give sizes that fit together".to_owned(),
            PartitionError::Stages { .. } => "give a smaller --pp_size".to_owned(),
            PartitionError::Uneven { size, flag, .. } => {
                let sizes = (1..=*size.min(&64)).filter(|n| size % n == 0);
                let sizes: Vec<String> = sizes.map(|n| n.to_string()).collect();
                format!("give a --{flag} that divides it: {}", sizes.join(", "))
            }
            PartitionError::Operation { .. } => "leave --tp_size out".to_owned(),
        }
    }
}

/// The part of one rank of a graph that verifies, as a plugin wrote it: no pass has run yet.
///
/// # Errors
/// [`CompileError::Partition`] where the model cannot be split so.
pub fn partition(from: &Graph, rank: Rank, options: &Options) -> Result<Part, CompileError> {
    rank.mapping.check().map_err(PartitionError::Mapping)?;
    if !rank.mapping.is_split() {
        return Ok(Part::whole(from.clone()));
    }
    let is_block = |kind: PlaceKind| matches!(kind, PlaceKind::Block(_));
    let blocks = from.places.values().filter(|place| is_block(place.kind)).count() as u32;
    let pp_size = rank.mapping.pp_size;
    if pp_size > blocks {
        return Err(PartitionError::Stages { pp_size, blocks }.into());
    }
    let mut partitioner = Partitioner::new(from, rank, *options);
    partitioner.stage(rank.blocks(blocks))?;
    let Partitioner { graph, shares, stored, .. } = partitioner;
    let graph = graph.renumber();
    verify(&graph).map_err(|errors| CompileError::Broken { name: "partition", errors })?;
    Ok(Part { rank, graph, shares, stored })
}

/// A value of the whole model as this rank has it.
#[derive(Clone, Debug)]
struct Held {
    value: Value,
    spread: Spread,
}

/// Heads of attentions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Heads {
    query: u64,
    /// None of latent attention, whose keys are of no head.
    key: Option<u64>,
}

/// The part so far.
struct Partitioner<'a> {
    from: &'a Graph,
    rank: Rank,
    options: Options,
    graph: Graph,
    place: Place,
    /// The first block of the stage.
    first: u32,
    /// Heads of the attentions of the place that is visited.
    heads: Option<Heads>,
    values: SecondaryMap<Value, Option<Held>>,
    weights: BTreeMap<Weight, (Weight, Cut)>,
    rotaries: SecondaryMap<Rotary, Option<Rotary>>,
    shares: Vec<Share>,
    stored: Vec<Share>,
    /// The weights that are stored already; two operations may use one.
    in_file: BTreeSet<Weight>,
}

type Result<T, E = CompileError> = std::result::Result<T, E>;

impl<'a> Partitioner<'a> {
    fn new(from: &'a Graph, rank: Rank, options: Options) -> Partitioner<'a> {
        let mut graph = Graph::new();
        graph.rank = rank;
        Partitioner {
            from,
            rank,
            options,
            graph,
            place: Place::from_u32(0),
            first: 0,
            heads: None,
            values: SecondaryMap::new(),
            weights: BTreeMap::new(),
            rotaries: SecondaryMap::new(),
            shares: Vec::new(),
            stored: Vec::new(),
            in_file: BTreeSet::new(),
        }
    }

    /// The places of the rank's stage, which has these blocks.
    fn stage(&mut self, blocks: std::ops::Range<u32>) -> Result<()> {
        self.first = blocks.start;
        let mut before: &[Value] = &[];
        for place in self.from.places.values() {
            let kind = match place.kind {
                PlaceKind::Embed => self.rank.is_first().then_some(PlaceKind::Embed),
                PlaceKind::Block(i) => {
                    blocks.contains(&i).then(|| PlaceKind::Block(i - blocks.start))
                }
                PlaceKind::Head => self.rank.is_last().then_some(PlaceKind::Head),
            };
            if let Some(kind) = kind {
                self.place = self.graph.make_place(kind);
                if self.graph.places.len() == 1 && !self.rank.is_first() {
                    self.receive(before)?;
                }
                self.heads(&place.nodes)?;
                for &node in &place.nodes {
                    self.node(node)?;
                }
                // A stage hands on whole values, so every place does.
                let carry = place.carry.iter().map(|&value| self.whole(value));
                let carry = carry.collect::<Result<Vec<Value>>>()?;
                self.graph.places[self.place].carry = carry;
            }
            before = &place.carry;
        }
        Ok(())
    }

    fn receive(&mut self, carry: &[Value]) -> Result<()> {
        let width = |value: &Value| self.from.values[*value].ty.width.unwrap_or_default();
        let widths = carry.iter().map(width).collect();
        let received = self.append(Op::Receive { widths })?;
        for (&value, received) in carry.iter().zip(received) {
            self.values[value] = Some(Held { value: received, spread: Spread::Whole });
        }
        Ok(())
    }

    /// How many heads the attentions of a place have: the same in each, as a weight's axis does
    /// not say whose it is.
    fn heads(&mut self, nodes: &[Node]) -> Result<()> {
        self.heads = None;
        for &node in nodes {
            let Op::Attend { options, .. } = &self.from.nodes[node].op else { continue };
            let key = options.latent.is_none().then_some(options.key_heads.into());
            let heads = Heads { query: options.query_heads.into(), key };
            if self.heads.replace(heads).is_some_and(|before| before != heads) {
                let reason = "attentions of one block have different numbers of heads";
                return Err(self.cannot(node, reason));
            }
        }
        Ok(())
    }

    fn cannot(&self, node: Node, reason: &str) -> CompileError {
        let at = self.from.line(node.into()).unwrap_or_default();
        PartitionError::Operation { reason: reason.to_owned(), at }.into()
    }

    fn tp(&self) -> (u64, u64) {
        (self.rank.tp().into(), self.rank.mapping.tp_size.into())
    }

    /// Runs an operation on this rank; its results.
    fn append(&mut self, op: Op) -> Result<Vec<Value>> {
        let node = self.graph.append(self.place, op).map_err(broken)?;
        Ok(self.graph.nodes[node].results.clone())
    }

    fn append_one(&mut self, op: Op) -> Result<Value> {
        Ok(self.append(op)?[0])
    }

    fn held(&self, value: Value) -> Result<Held> {
        self.values[value].clone().ok_or_else(|| {
            let at = self.from.line(value.into()).unwrap_or_default();
            PartitionError::Operation { reason: "a value comes from nowhere".to_owned(), at }.into()
        })
    }

    /// All of a value on this rank, and from here on.
    fn whole(&mut self, value: Value) -> Result<Value> {
        let Held { value: here, spread } = self.held(value)?;
        let whole = match spread {
            Spread::Whole => return Ok(here),
            Spread::Partial => self.append_one(Op::AllReduce { input: here })?,
            Spread::Cut(runs) => self.gather(here, &runs)?,
        };
        self.values[value] = Some(Held { value: whole, spread: Spread::Whole });
        Ok(whole)
    }

    /// All ranks' shares side by side, sorted into the order of the whole, without what is
    /// there twice and without padding.
    fn gather(&mut self, here: Value, runs: &[Run]) -> Result<Value> {
        let (_, ranks) = self.tp();
        let all = self.append_one(Op::AllGather { input: here })?;
        if let [run @ Run { size, way: Way::Even | Way::Padded }] = runs {
            // In order already, with all padding at the end.
            let padding = run.each(ranks) * ranks - size;
            return match padding {
                0 => Ok(all),
                _ => Ok(self.append(Op::Split { input: all, sizes: vec![*size, padding] })?[0]),
            };
        }
        // As the ranks' shares come, and where each belongs: (run, first element).
        let mut sizes = Vec::new();
        let mut places = Vec::new();
        for rank in 0..ranks {
            for (number, run) in runs.iter().enumerate() {
                let (kept, zeros) = run.share(rank, ranks);
                for (size, place) in
                    [(kept.end - kept.start, Some((number, kept.start))), (zeros, None)]
                {
                    if size > 0 {
                        sizes.push(size);
                        places.push(place);
                    }
                }
            }
        }
        let parts = self.append(Op::Split { input: all, sizes })?;
        let sorted: BTreeMap<(usize, u64), Value> =
            places.into_iter().zip(parts).rev().filter_map(|(at, v)| Some((at?, v))).collect();
        self.side_by_side(sorted.into_values().collect())
    }

    fn side_by_side(&mut self, inputs: Vec<Value>) -> Result<Value> {
        match inputs.as_slice() {
            [one] => Ok(*one),
            _ => self.append_one(Op::Concat { inputs, heads: 1 }),
        }
    }

    /// This rank's share of a value.
    fn share(&mut self, value: Value, runs: &[Run]) -> Result<Value> {
        let Held { value: here, spread } = self.held(value)?;
        if matches!(&spread, Spread::Cut(found) if found == runs) {
            return Ok(here);
        }
        let whole = self.whole(value)?;
        let (rank, ranks) = self.tp();
        let (mut sizes, mut mine) = (Vec::new(), Vec::new());
        for run in runs {
            let (kept, _) = run.share(rank, ranks);
            for (size, is_mine) in
                [(kept.start, false), (kept.end - kept.start, true), (run.size - kept.end, false)]
            {
                if size > 0 {
                    mine.extend(is_mine.then_some(sizes.len()));
                    sizes.push(size);
                }
            }
        }
        if sizes.len() == mine.len() {
            return Ok(whole);
        }
        let parts = self.append(Op::Split { input: whole, sizes })?;
        self.side_by_side(mine.into_iter().map(|at| parts[at]).collect())
    }

    /// Stretches of an axis that ranks share, by what it counts; `None` where it is not shared.
    fn runs(&self, weight: Weight, axis: usize) -> Result<Option<Vec<Run>>> {
        let data = &self.from.weights[weight];
        let (_, ranks) = self.tp();
        let segments = &data.axes[axis].segments;
        let plain = |meaning| matches!(meaning, Meaning::Plain | Meaning::Latent);
        if ranks == 1 || segments.iter().any(|segment| plain(segment.meaning)) {
            return Ok(None);
        }
        let mut runs = Vec::new();
        for segment in segments {
            let size = segment.size;
            let (count, what) = match segment.meaning {
                Meaning::Vocabulary => {
                    runs.push(Run { size, way: Way::Padded });
                    continue;
                }
                Meaning::KeyHeads => {
                    let heads = self.heads.and_then(|heads| heads.key).unwrap_or(size);
                    if heads < ranks && ranks.is_multiple_of(heads) && size.is_multiple_of(heads) {
                        runs.push(Run { size, way: Way::Groups(heads) });
                        continue;
                    }
                    (heads, "num_key_value_heads")
                }
                Meaning::QueryHeads => {
                    let heads = self.heads.map_or(size, |heads| heads.query);
                    (heads, "num_attention_heads")
                }
                Meaning::FeedForward => (size, "intermediate_size"),
                Meaning::Recurrent => (size, "the width of the recurrence"),
                _ => (size, "the number of experts"),
            };
            if !count.is_multiple_of(ranks) || !size.is_multiple_of(ranks) {
                return Err(self.uneven(what, count, weight, "tp_size", ranks));
            }
            runs.push(Run { size, way: Way::Even });
        }
        Ok(Some(runs))
    }

    fn uneven(
        &self,
        what: &'static str,
        size: u64,
        weight: Weight,
        flag: &'static str,
        ranks: u64,
    ) -> CompileError {
        let at = self.from.weights[weight].name.clone();
        PartitionError::Uneven { what, size, ranks, at, flag }.into()
    }

    /// A weight of the whole model as this rank has it: all of it, but for the axes that are
    /// given with what is kept of them.
    fn weight(&mut self, weight: Weight, cuts: &[(usize, Vec<Piece>)]) -> Weight {
        let cut = self.store(weight, cuts);
        self.declare(weight, cut)
    }

    /// The same of a weight that this rank's graph does not use.
    fn store(&mut self, weight: Weight, cuts: &[(usize, Vec<Piece>)]) -> Cut {
        let data = &self.from.weights[weight];
        let mut cut = Cut::whole(&data.shape());
        for (axis, pieces) in cuts {
            cut.axes[*axis].clone_from(pieces);
        }
        if self.in_file.insert(weight) {
            let share = self.named(data, cut.clone());
            self.stored.push(share);
        }
        cut
    }

    fn named(&self, data: &WeightData, cut: Cut) -> Share {
        Share { name: self.local_name(&data.name), source: data.name.clone(), cut }
    }

    /// The name in the rank's file: blocks count from the stage's first.
    fn local_name(&self, name: &str) -> String {
        let here = |(number, rest): (u32, _)| Some((number.checked_sub(self.first)?, rest));
        match block_of(name).and_then(here) {
            Some((number, rest)) => full_name(PlaceKind::Block(number), rest),
            None => name.to_owned(),
        }
    }

    /// Declares a weight of this rank's graph.
    fn declare(&mut self, weight: Weight, cut: Cut) -> Weight {
        if let Some((known, _)) = self.weights.get(&weight) {
            return *known;
        }
        let data = &self.from.weights[weight];
        // What is tied stays so where both are here, and cut alike.
        let tied = data.tied.and_then(|to| self.weights.get(&to));
        let tied = tied.filter(|(_, other)| *other == cut).map(|(to, _)| *to);
        let axes = data.axes.iter().zip(&cut.axes).map(|(axis, kept)| cut_axis(axis, kept));
        let (axes, dtype): (_, DType) = (axes.collect(), data.dtype);
        let name = self.local_name(&data.name);
        let data = WeightData { tied, ..WeightData::plain(name, dtype, axes) };
        let here = self.graph.make_weight(self.place, data);
        if tied.is_none() {
            let share = self.named(&self.from.weights[weight], cut.clone());
            self.shares.push(share);
        }
        self.weights.insert(weight, (here, cut));
        here
    }

    fn rotary(&mut self, rotary: Rotary) -> Rotary {
        if let Some(known) = self.rotaries[rotary] {
            return known;
        }
        let here = self.graph.make_rotary(self.from.rotaries[rotary].clone());
        self.rotaries[rotary] = Some(here);
        here
    }

    /// The pieces of this rank of an axis of these stretches.
    fn mine(&self, runs: &[Run]) -> Vec<Piece> {
        let (rank, ranks) = self.tp();
        pieces(runs, rank, ranks)
    }
}

/// A rule made what cannot be typed.
fn broken(source: TypeError) -> CompileError {
    CompileError::Pass { name: "partition", source }
}
