//! What each operation makes of shares and summands.

use super::spread::{Run, Spread, Way};
use super::{Held, Partitioner, Result};
use engraft_ir::{
    AttentionData, Meaning, MixtureData, Node, Op, Rotary, State, StateData, Stretch, Value, Weight,
};
use engraft_weights::{Cut, Piece};

impl Partitioner<'_> {
    /// Visits a node of the whole model.
    pub(super) fn node(&mut self, node: Node) -> Result<()> {
        let from = self.from;
        let data = &from.nodes[node];
        let held: Vec<Held> = match &data.op {
            Op::Tokens => vec![self.whole_op(Op::Tokens)?],
            Op::Embedding { tokens, table, .. } => {
                let tokens = self.held(*tokens)?.value;
                vec![self.table(*table, |table, stretch| Op::Embedding {
                    tokens,
                    table,
                    stretch,
                })?]
            }
            Op::Positions { table, .. } => {
                vec![self.table(*table, |table, stretch| Op::Positions { table, stretch })?]
            }
            Op::Linear { input, weight, bias } => vec![self.linear(*input, *weight, *bias)?],
            Op::LinearHeads { input, weight, bias, heads } => {
                vec![self.linear_heads(*input, *weight, *bias, *heads)?]
            }
            Op::Split { input, sizes } => self.split(*input, sizes)?,
            Op::Concat { inputs, heads } => vec![self.concat(inputs, *heads)?],
            Op::RmsNormHeads { input, weight, head_width, epsilon } => {
                let (head_width, epsilon) = (*head_width, *epsilon);
                vec![self.norm_heads(*input, *weight, head_width, |input, weight| {
                    Op::RmsNormHeads { input, weight, head_width, epsilon }
                })?]
            }
            Op::LayerNormHeads { input, weight, head_width, epsilon } => {
                let (head_width, epsilon) = (*head_width, *epsilon);
                vec![self.norm_heads(*input, *weight, head_width, |input, weight| {
                    Op::LayerNormHeads { input, weight, head_width, epsilon }
                })?]
            }
            Op::Rotate { input, rotary } => vec![self.rotate(*input, *rotary)?],
            Op::Attend { query, key, value, options, rotary, .. } => {
                let rotary = rotary.map(|rotary| self.rotary(rotary));
                vec![self.attend(node, [*query, *key, *value], options, rotary)?]
            }
            Op::Mix { input, scores, up, down, options } => {
                vec![self.mix(node, [*input, *scores], [*up, *down], options)?]
            }
            Op::Convolve { input, weight, bias, state } => {
                vec![self.convolve(*input, *weight, *bias, *state)?]
            }
            Op::Recur { input, input_gate, recurrent_gate, decay, .. } => {
                vec![self.recur([*input, *input_gate, *recurrent_gate], *decay)?]
            }
            Op::Add { left, right } => vec![self.add(*left, *right)?],
            Op::Multiply { left, right } => vec![self.multiply(*left, *right)?],
            Op::Scale { input, .. } => vec![self.each(*input, &data.op, true)?],
            Op::Activate { input, .. } | Op::Softcap { input, .. } | Op::Clamp { input, .. } => {
                vec![self.each(*input, &data.op, false)?]
            }
            Op::RmsNorm { .. } | Op::LayerNorm { .. } => vec![self.on_wholes(&data.op)?],
            Op::Receive { .. }
            | Op::AllReduce { .. }
            | Op::AllGather { .. }
            | Op::Outputs { .. }
            | Op::AddRmsNorm { .. }
            | Op::RoundInputs { .. }
            | Op::Gate { .. } => {
                return Err(self.cannot(node, "a graph is split before any pass has run over it"));
            }
        };
        for (&result, held) in data.results.iter().zip(held) {
            self.graph.labels[held.value].clone_from(&from.labels[result]);
            self.values[result] = Some(held);
        }
        Ok(())
    }

    fn hold(&mut self, op: Op, spread: Spread) -> Result<Held> {
        Ok(Held { value: self.append_one(op)?, spread })
    }

    fn whole_op(&mut self, op: Op) -> Result<Held> {
        self.hold(op, Spread::Whole)
    }

    /// An operation that takes whole rows and whole weights.
    fn on_wholes(&mut self, op: &Op) -> Result<Held> {
        let mut op = op.clone();
        for value in op.values() {
            self.whole(value)?;
        }
        op.map_values(|value| {
            *value = self.values[*value].as_ref().map_or(*value, |held| held.value);
        });
        op.map_weights(|weight| *weight = self.weight(*weight, &[]));
        self.whole_op(op)
    }

    /// An operation on each element by itself; `linear` if a sum goes through it.
    fn each(&mut self, input: Value, op: &Op, linear: bool) -> Result<Held> {
        if !linear && self.held(input)?.spread == Spread::Partial {
            self.whole(input)?;
        }
        let Held { value, spread } = self.held(input)?;
        let mut op = op.clone();
        op.map_values(|input| *input = value);
        self.hold(op, spread)
    }

    /// A table of embeddings, shared by rows or by width.
    fn table(
        &mut self,
        table: Weight,
        op: impl FnOnce(Weight, Option<Stretch>) -> Op,
    ) -> Result<Held> {
        let shape = self.from.weights[table].shape();
        let (rank, ranks) = self.tp();
        match self.options.parallel_embedding.filter(|_| ranks > 1) {
            None => {
                let here = self.weight(table, &[]);
                self.whole_op(op(here, None))
            }
            Some(0) => {
                let rows = Run { size: shape[0], way: Way::Padded };
                let here = self.weight(table, &[(0, self.mine(&[rows]))]);
                let first = rank * rows.each(ranks);
                // A share of padding alone stands for the last row, which nobody takes from it.
                let first = first.min(shape[0] - 1);
                let stretch = Some(Stretch { first, of: shape[0] });
                self.hold(op(here, stretch), Spread::Partial)
            }
            Some(_) => {
                if !shape[1].is_multiple_of(ranks) {
                    return Err(self.uneven("hidden_size", shape[1], table, "tp_size", ranks));
                }
                let runs = vec![Run { size: shape[1], way: Way::Even }];
                let here = self.weight(table, &[(1, self.mine(&runs))]);
                self.hold(op(here, None), Spread::Cut(runs))
            }
        }
    }

    fn linear(&mut self, input: Value, weight: Weight, bias: Option<Weight>) -> Result<Held> {
        if let Some(runs) = self.runs(weight, 0)? {
            // Each rank computes its share of the columns.
            let input = self.whole(input)?;
            let mine = self.mine(&runs);
            let bias = bias.map(|bias| self.weight(bias, &[(0, mine.clone())]));
            let weight = self.weight(weight, &[(0, mine)]);
            return self.hold(Op::Linear { input, weight, bias }, Spread::Cut(runs));
        }
        let Held { value, spread } = self.held(input)?;
        let even = |runs: &[Run]| runs.iter().all(|run| run.way == Way::Even);
        match spread {
            Spread::Cut(runs) if even(&runs) => {
                // Each rank computes a summand of all columns; the first adds the bias.
                let weight = self.weight(weight, &[(1, self.mine(&runs))]);
                let bias = match self.rank.tp() {
                    0 => bias.map(|bias| self.weight(bias, &[])),
                    _ => {
                        bias.map(|bias| self.store(bias, &[]));
                        None
                    }
                };
                self.hold(Op::Linear { input: value, weight, bias }, Spread::Partial)
            }
            _ => {
                let input = self.whole(input)?;
                let bias = bias.map(|bias| self.weight(bias, &[]));
                let weight = self.weight(weight, &[]);
                self.whole_op(Op::Linear { input, weight, bias })
            }
        }
    }

    fn linear_heads(
        &mut self,
        input: Value,
        weight: Weight,
        bias: Option<Weight>,
        heads: u32,
    ) -> Result<Held> {
        let Some(matrices) = self.runs(weight, 0)? else {
            return self.on_wholes(&Op::LinearHeads { input, weight, bias, heads });
        };
        let shape = self.from.weights[weight].shape();
        let (_, ranks) = self.tp();
        let runs = |width: u64| vec![Run { size: shape[0] * width, way: Way::Even }];
        let input = self.share(input, &runs(shape[2]))?;
        let bias = bias.map(|bias| self.weight(bias, &[(0, self.mine(&runs(shape[1])))]));
        let weight = self.weight(weight, &[(0, self.mine(&matrices))]);
        let heads = heads / ranks as u32;
        let spread = Spread::Cut(runs(shape[1]));
        self.hold(Op::LinearHeads { input, weight, bias, heads }, spread)
    }

    fn split(&mut self, input: Value, sizes: &[u64]) -> Result<Vec<Held>> {
        let (_, ranks) = self.tp();
        let mut spreads = Vec::new();
        let mut here = sizes.to_vec();
        if let Spread::Cut(runs) = self.held(input)?.spread {
            match parts_of(&runs, sizes) {
                Some(parts) => {
                    let each = |part: &Vec<Run>| part.iter().map(|run| run.each(ranks)).sum();
                    here = parts.iter().map(each).collect();
                    spreads = parts.into_iter().map(Spread::Cut).collect();
                }
                None => {
                    self.whole(input)?;
                }
            }
        }
        let Held { value, spread } = self.held(input)?;
        let values = self.append(Op::Split { input: value, sizes: here })?;
        if spreads.is_empty() {
            spreads = vec![spread; sizes.len()];
        }
        let held = values.into_iter().zip(spreads);
        Ok(held.map(|(value, spread)| Held { value, spread }).collect())
    }

    fn concat(&mut self, inputs: &[Value], heads: u32) -> Result<Held> {
        let held = inputs.iter().map(|&input| self.held(input)).collect::<Result<Vec<_>>>()?;
        let (_, ranks) = self.tp();
        let cut = |held: &Held| match &held.spread {
            Spread::Cut(runs) => Some(runs.clone()),
            _ => None,
        };
        let cuts: Option<Vec<Vec<Run>>> = held.iter().map(cut).collect();
        let inputs_here = || held.iter().map(|held| held.value).collect();
        match cuts {
            Some(cuts) if heads == 1 => {
                let spread = Spread::Cut(cuts.concat());
                self.hold(Op::Concat { inputs: inputs_here(), heads }, spread)
            }
            Some(cuts) if cuts.iter().all(|runs| is_even(runs)) && divides(heads, ranks) => {
                let size = cuts.iter().flatten().map(|run| run.size).sum();
                let spread = Spread::Cut(vec![Run { size, way: Way::Even }]);
                let heads = heads / ranks as u32;
                self.hold(Op::Concat { inputs: inputs_here(), heads }, spread)
            }
            _ => self.on_wholes(&Op::Concat { inputs: inputs.to_vec(), heads }),
        }
    }

    fn norm_heads(
        &mut self,
        input: Value,
        weight: Weight,
        head_width: u32,
        op: impl FnOnce(Value, Weight) -> Op,
    ) -> Result<Held> {
        let (_, ranks) = self.tp();
        let length = self.from.weights[weight].shape()[0];
        let width = self.from.values[input].ty.width.unwrap_or_default();
        let head = u64::from(head_width);
        let heads_stay = |runs: &[Run]| runs.iter().all(|run| run.each(ranks) % head == 0);
        match self.held(input)? {
            Held { value, spread: Spread::Cut(runs) } if heads_stay(&runs) => {
                // One gain for all heads, or one for each.
                let weight = match length == width && length != head {
                    true => self.weight(weight, &[(0, self.mine(&runs))]),
                    false => self.weight(weight, &[]),
                };
                self.hold(op(value, weight), Spread::Cut(runs))
            }
            _ => {
                let input = self.whole(input)?;
                let weight = self.weight(weight, &[]);
                self.whole_op(op(input, weight))
            }
        }
    }

    fn rotate(&mut self, input: Value, rotary: Rotary) -> Result<Held> {
        let (_, ranks) = self.tp();
        let head = u64::from(self.from.rotaries[rotary].head_width);
        let rotary = self.rotary(rotary);
        match self.held(input)? {
            Held { value, spread: Spread::Cut(runs) }
                if runs.iter().all(|run| run.each(ranks) % head == 0) =>
            {
                self.hold(Op::Rotate { input: value, rotary }, Spread::Cut(runs))
            }
            _ => {
                let input = self.whole(input)?;
                self.whole_op(Op::Rotate { input, rotary })
            }
        }
    }

    fn attend(
        &mut self,
        node: Node,
        [query, key, value]: [Value; 3],
        options: &AttentionData,
        rotary: Option<Rotary>,
    ) -> Result<Held> {
        let (rank, ranks) = self.tp();
        let mut here = options.clone();
        let heads = u64::from(options.query_heads);
        let key_heads = u64::from(options.key_heads);
        if ranks > 1 {
            if !heads.is_multiple_of(ranks) {
                let what = "num_attention_heads";
                let at = self.from.line(node.into()).unwrap_or_default();
                return Err(super::PartitionError::Uneven {
                    what,
                    size: heads,
                    ranks,
                    at,
                    flag: "tp_size",
                }
                .into());
            }
            here.query_heads = (heads / ranks) as u32;
            here.key_heads = (key_heads / ranks).max(1) as u32;
        }
        let even = |width: u32| [Run { size: heads * u64::from(width), way: Way::Even }];
        let keys = Run {
            size: key_heads * u64::from(options.head_width),
            way: if key_heads < ranks { Way::Groups(key_heads) } else { Way::Even },
        };
        let (query, key, value) = match ranks {
            1 => (self.whole(query)?, self.whole(key)?, self.whole(value)?),
            _ => {
                let query = self.share(query, &even(options.head_width))?;
                let key_here = self.share(key, &[keys])?;
                let same = value == key;
                let value = if same { key_here } else { self.share(value, &[keys])? };
                (query, key_here, value)
            }
        };
        let own = |slopes: &Vec<f64>| {
            let each = slopes.len() / ranks as usize;
            slopes[rank as usize * each..][..each].to_vec()
        };
        here.alibi = options.alibi.as_ref().map(own);
        let all_heads = [Run { size: heads, way: Way::Even }];
        here.sinks = options.sinks.map(|sinks| self.weight(sinks, &[(0, self.mine(&all_heads))]));
        let cache = self.graph.states.push(here.state());
        let spread = match ranks {
            1 => Spread::Whole,
            _ => Spread::Cut(even(options.value_width()).to_vec()),
        };
        self.hold(Op::Attend { query, key, value, cache, rotary, options: here }, spread)
    }

    fn mix(
        &mut self,
        node: Node,
        [input, scores]: [Value; 2],
        [up, down]: [Weight; 2],
        options: &MixtureData,
    ) -> Result<Held> {
        let input = self.whole(input)?;
        let scores = self.whole(scores)?;
        let mapping = self.rank.mapping;
        let (tp, ep) = (u64::from(mapping.moe_tp_size), u64::from(mapping.moe_ep_size));
        let shape = self.from.weights[up].shape();
        if !shape[0].is_multiple_of(ep) {
            return Err(self.uneven("the number of experts", shape[0], up, "moe_ep_size", ep));
        }
        let even = |size| Run { size, way: Way::Even };
        let keep = |runs: &[Run], rank: u32, ranks| super::pieces(runs, rank.into(), ranks);
        let experts = keep(&[even(shape[0])], self.rank.moe_ep(), ep);
        let inner = self.from.weights[up].axes[1].segments.clone();
        if tp > 1 && inner.iter().any(|segment| segment.meaning != Meaning::FeedForward) {
            return Err(self.cannot(node, "the inner width of experts is not named so"));
        }
        if let Some(odd) = inner.iter().find(|segment| !segment.size.is_multiple_of(tp)) {
            return Err(self.uneven("intermediate_size", odd.size, up, "moe_tp_size", tp));
        }
        let runs: Vec<Run> = inner.iter().map(|segment| even(segment.size)).collect();
        let inner = keep(&runs, self.rank.moe_tp(), tp);
        let back = keep(&[even(shape[1] / 2)], self.rank.moe_tp(), tp);

        let mut here = options.clone();
        if ep > 1 {
            here.first = Some((u64::from(self.rank.moe_ep()) * (shape[0] / ep)) as u32);
        }
        let up = self.weight(up, &[(0, experts.clone()), (1, inner.clone())]);
        let down = self.weight(down, &[(0, experts.clone()), (2, back)]);
        here.biases = options.biases.map(|[up, down]| {
            let up = self.weight(up, &[(0, experts.clone()), (1, inner)]);
            // Those who share an expert add up what they have of it: one of them has its bias.
            let mut cut = self.store(down, &[(0, experts)]);
            if self.rank.moe_tp() > 0 {
                cut = Cut { axes: cut.shape().iter().map(|&n| vec![Piece::Zeros(n)]).collect() };
            }
            [up, self.declare(down, cut)]
        });
        here.prefer = options.prefer.map(|prefer| self.weight(prefer, &[]));
        let spread = if mapping.tp_size > 1 { Spread::Partial } else { Spread::Whole };
        self.hold(Op::Mix { input, scores, up, down, options: here }, spread)
    }

    fn convolve(
        &mut self,
        input: Value,
        weight: Weight,
        bias: Option<Weight>,
        state: State,
    ) -> Result<Held> {
        let Some(runs) = self.runs(weight, 0)? else {
            let state = self.graph.states.push(self.from.states[state]);
            return self.on_wholes(&Op::Convolve { input, weight, bias, state });
        };
        let [channels, taps] = [0, 1].map(|axis| self.from.weights[weight].shape()[axis]);
        let (_, ranks) = self.tp();
        let input = self.share(input, &runs)?;
        let mine = self.mine(&runs);
        let bias = bias.map(|bias| self.weight(bias, &[(0, mine.clone())]));
        let weight = self.weight(weight, &[(0, mine)]);
        let channels = channels / ranks;
        let state = self.graph.states.push(StateData::Convolution { channels, taps });
        self.hold(Op::Convolve { input, weight, bias, state }, Spread::Cut(runs))
    }

    fn recur(&mut self, inputs: [Value; 3], decay: Weight) -> Result<Held> {
        let (_, ranks) = self.tp();
        let channels = self.from.weights[decay].shape()[0];
        let runs = self.runs(decay, 0)?;
        let mut here = inputs;
        for value in &mut here {
            *value = match &runs {
                Some(runs) => self.share(*value, runs)?,
                None => self.whole(*value)?,
            };
        }
        let [input, input_gate, recurrent_gate] = here;
        let (decay, channels, spread) = match runs {
            Some(runs) => {
                let decay = self.weight(decay, &[(0, self.mine(&runs))]);
                (decay, channels / ranks, Spread::Cut(runs))
            }
            None => (self.weight(decay, &[]), channels, Spread::Whole),
        };
        let state = self.graph.states.push(StateData::Recurrence { channels });
        self.hold(Op::Recur { input, input_gate, recurrent_gate, decay, state }, spread)
    }

    fn add(&mut self, left: Value, right: Value) -> Result<Held> {
        let (a, b) = (self.held(left)?, self.held(right)?);
        if a.spread == b.spread {
            return self.hold(Op::Add { left: a.value, right: b.value }, a.spread);
        }
        let (left, right) = (self.whole(left)?, self.whole(right)?);
        self.whole_op(Op::Add { left, right })
    }

    fn multiply(&mut self, left: Value, right: Value) -> Result<Held> {
        let (a, b) = (self.held(left)?, self.held(right)?);
        let for_all_columns = self.from.values[right].ty.width == Some(1);
        let spread = match (&a.spread, &b.spread) {
            (Spread::Partial, Spread::Whole) | (Spread::Whole, Spread::Partial) => Spread::Partial,
            (Spread::Cut(_), Spread::Whole) if for_all_columns => a.spread.clone(),
            (left, right) if left == right && *left != Spread::Partial => a.spread.clone(),
            _ => {
                let (left, right) = (self.whole(left)?, self.whole(right)?);
                return self.whole_op(Op::Multiply { left, right });
            }
        };
        self.hold(Op::Multiply { left: a.value, right: b.value }, spread)
    }
}

/// The stretches of each part of a row that is split into parts of these sizes; `None` where a
/// part ends within a stretch.
fn parts_of(runs: &[Run], sizes: &[u64]) -> Option<Vec<Vec<Run>>> {
    let mut runs = runs.iter();
    let part = |&size: &u64| {
        let (mut part, mut sum) = (Vec::new(), 0);
        while sum < size {
            let run = runs.next()?;
            sum += run.size;
            part.push(*run);
        }
        (sum == size).then_some(part)
    };
    sizes.iter().map(part).collect()
}

fn is_even(runs: &[Run]) -> bool {
    matches!(runs, [Run { way: Way::Even, .. }])
}

fn divides(heads: u32, ranks: u64) -> bool {
    u64::from(heads).is_multiple_of(ranks)
}
