//! A tiny model with random weights, for tests.

use crate::device::{Limits, Program};
use crate::error::RuntimeError;
use crate::model::{LoadOptions, Model};
use crate::ranks::Alone;
use engraft_engine::{BuildConfig, KvCacheType};
use engraft_ir::{
    Activation, AttentionData, Axis, DType, Graph, Meaning, Op, Place, PlaceKind, RotaryData,
    Scaling, StateData, Value, Weight, WeightData,
};
use std::sync::Arc;

pub(crate) const VOCABULARY: usize = 97;
const WIDTH: u64 = 32;
const INNER: u64 = 48;
const HEADS: u32 = 4;
const KEY_HEADS: u32 = 2;
const HEAD: u32 = 8;

struct Random {
    graph: Graph,
    words: Vec<Vec<u32>>,
}

impl Program for Random {
    fn graph(&self) -> &Graph {
        &self.graph
    }

    fn weight(&self, weight: Weight) -> &[u8] {
        let bytes = self.graph.weights[weight].bytes() as usize;
        &bytemuck::cast_slice(&self.words[weight.as_u32() as usize])[..bytes]
    }
}

/// Weights that depend on their number and nothing else.
fn random(graph: Graph) -> Random {
    let mut words = Vec::new();
    for (weight, data) in graph.weights.iter() {
        let mut state = u64::from(weight.as_u32()) * 7919 + 1;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let uniform = (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
            if data.axes.len() == 1 { 1.0 + uniform } else { uniform * 0.9 }
        };
        let count = data.shape().iter().product::<u64>() as usize;
        let floats: Vec<f32> = (0..count).map(|_| next()).collect();
        let halves: Vec<u16> = match data.dtype {
            DType::F16 => floats.iter().map(|&x| half::f16::from_f32(x).to_bits()).collect(),
            _ => floats.iter().map(|&x| half::bf16::from_f32(x).to_bits()).collect(),
        };
        words.push(match data.dtype {
            DType::F64 => vec![0; 2 * count],
            DType::F32 => floats.iter().map(|x| x.to_bits()).collect(),
            _ => halves
                .chunks(2)
                .map(|pair| u32::from(pair[0]) | u32::from(*pair.last().expect("one")) << 16)
                .collect(),
        });
    }
    Random { graph, words }
}

struct Writer {
    graph: Graph,
    dtype: DType,
    place: Place,
}

impl Writer {
    fn weight(&mut self, sizes: &[u64]) -> Weight {
        let axes = sizes.iter().map(|&n| Axis::new(n, Meaning::Plain)).collect();
        let name = format!("w{}", self.graph.weights.len());
        let data = WeightData::plain(name, self.dtype, axes);
        self.graph.make_weight(self.place, data)
    }

    fn op(&mut self, op: Op) -> Vec<Value> {
        let node = self.graph.append(self.place, op).expect("it fits");
        self.graph.nodes[node].results.clone()
    }

    fn hand_on(&mut self, value: Value, pending: Option<Value>) {
        self.graph.places[self.place].carry = [value].into_iter().chain(pending).collect();
    }

    fn linear(&mut self, input: Value, from: u64, to: u64) -> Value {
        let weight = self.weight(&[to, from]);
        let bias = self.weight(&[to]);
        self.op(Op::Linear { input, weight, bias: Some(bias) })[0]
    }
}

/// As passes leave it: fused norms, gates and rotations, and outputs gathered before the head.
pub(crate) fn graph(blocks: u32) -> Graph {
    graph_of(blocks, DType::F32)
}

/// With weights of another type.
pub(crate) fn graph_of(blocks: u32, dtype: DType) -> Graph {
    write(blocks, dtype, true)
}

/// The same model as a plugin writes it.
pub(crate) fn plain_graph(blocks: u32) -> Graph {
    write(blocks, DType::F32, false)
}

fn write(blocks: u32, dtype: DType, fused: bool) -> Graph {
    let mut graph = Graph::new();
    let rotary = graph.make_rotary(RotaryData {
        head_width: HEAD,
        rotated: HEAD,
        base: 10_000.0,
        scaling: Scaling::None,
        interleaved: false,
    });
    let place = graph.make_place(PlaceKind::Embed);
    let mut w = Writer { graph, dtype, place };
    let table = w.weight(&[VOCABULARY as u64, WIDTH]);
    let tokens = w.op(Op::Tokens)[0];
    let mut x = w.op(Op::Embedding { tokens, table, stretch: None })[0];
    // What is still to be added to `x`, where adding is a part of the next norm.
    let mut pending: Option<Value> = None;
    let norm = |w: &mut Writer, x: &mut Value, pending: &mut Option<Value>| {
        let weight = w.weight(&[WIDTH]);
        let epsilon = 1e-5;
        match pending.take() {
            Some(right) if fused => {
                let made = w.op(Op::AddRmsNorm { left: *x, right, weight, epsilon });
                *x = made[0];
                made[1]
            }
            Some(right) => {
                *x = w.op(Op::Add { left: *x, right })[0];
                w.op(Op::RmsNorm { input: *x, weight, epsilon })[0]
            }
            None => w.op(Op::RmsNorm { input: *x, weight, epsilon })[0],
        }
    };
    let (q_width, k_width) = (u64::from(HEADS * HEAD), u64::from(KEY_HEADS * HEAD));
    for block in 0..blocks {
        w.hand_on(x, pending);
        w.place = w.graph.make_place(PlaceKind::Block(block));
        let state = StateData::Cache { key_heads: KEY_HEADS, head_width: HEAD, keys_only: false };
        let cache = w.graph.states.push(state);
        let normed = norm(&mut w, &mut x, &mut pending);
        let joined = w.linear(normed, WIDTH, q_width + 2 * k_width);
        let parts = w.op(Op::Split { input: joined, sizes: vec![q_width, k_width, k_width] });
        let (mut query, mut key, value) = (parts[0], parts[1], parts[2]);
        if !fused {
            query = w.op(Op::Rotate { input: query, rotary })[0];
            key = w.op(Op::Rotate { input: key, rotary })[0];
        }
        let options = AttentionData::new(HEADS, KEY_HEADS, HEAD, 0.35);
        let rotary = fused.then_some(rotary);
        let heads = w.op(Op::Attend { query, key, value, cache, rotary, options })[0];
        pending = Some(w.linear(heads, q_width, WIDTH));
        let normed = norm(&mut w, &mut x, &mut pending);
        let gate = w.linear(normed, WIDTH, INNER);
        let up = w.linear(normed, WIDTH, INNER);
        let activation = Activation::Silu;
        let gated = if fused {
            w.op(Op::Gate { gate, up, activation })[0]
        } else {
            let left = w.op(Op::Activate { input: gate, activation })[0];
            w.op(Op::Multiply { left, right: up })[0]
        };
        pending = Some(w.linear(gated, INNER, WIDTH));
    }
    w.hand_on(x, pending);
    w.place = w.graph.make_place(PlaceKind::Head);
    if fused {
        x = w.op(Op::Outputs { input: x })[0];
        pending = pending.map(|input| w.op(Op::Outputs { input })[0]);
    }
    let normed = norm(&mut w, &mut x, &mut pending);
    let weight = w.weight(&[VOCABULARY as u64, WIDTH]);
    let logits = w.op(Op::Linear { input: normed, weight, bias: None })[0];
    let head = w.place;
    w.graph.places[head].carry.push(logits);
    w.graph
}

pub(crate) fn build() -> BuildConfig {
    BuildConfig {
        target: "cpu".into(),
        max_batch_size: 4,
        max_input_len: 128,
        max_seq_len: 160,
        max_num_tokens: 64,
        tokens_per_block: 16,
        kv_cache_type: KvCacheType::Paged,
    }
}

pub(crate) fn limits() -> Limits {
    Limits {
        max_batch_size: 4,
        max_num_tokens: 64,
        max_outputs: 16,
        max_input_len: 128,
        max_seq_len: 160,
        tokens_per_block: 16,
        blocks: 40,
    }
}

pub(crate) fn options() -> LoadOptions {
    LoadOptions { threads: Some(2), ..LoadOptions::default() }
}

/// Two fused blocks.
pub(crate) fn model(options: &LoadOptions) -> Model {
    model_of(graph(2), options)
}

pub(crate) fn model_of(graph: Graph, options: &LoadOptions) -> Model {
    load(graph, options).expect("a model")
}

pub(crate) fn program(graph: Graph) -> Arc<dyn Program> {
    Arc::new(random(graph))
}

pub(crate) fn load(graph: Graph, options: &LoadOptions) -> Result<Model, RuntimeError> {
    Model::prepare(program(graph), &build(), 0, Box::new(Alone), options)
}
