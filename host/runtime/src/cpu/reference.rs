//! The device against the textbook: each operation from its definition, in `f64`, over a whole
//! prompt at a time, without cache, batches or passes.

mod experts;
mod latent;

use super::rope_tables::Frequencies;
use crate::device::Program;
use crate::evaluate::logits;
use crate::model::{LoadOptions, Model};
use crate::testing;
use engraft_ir::{Activation, AttentionData, Graph, Op, RotaryData, Value, Weight, parse, verify};
use std::collections::BTreeMap;

type Matrix = Vec<Vec<f64>>;

fn weight(program: &dyn Program, weight: Weight) -> Matrix {
    let floats: &[f32] = bytemuck::cast_slice(program.weight(weight));
    let shape = program.graph().weights[weight].shape();
    let width = *shape.last().expect("an axis") as usize;
    floats.chunks(width).map(|row| row.iter().map(|&x| f64::from(x)).collect()).collect()
}

/// What an operation without neighbours makes of each row.
fn each_row(input: &Matrix, row: impl Fn(&[f64]) -> Vec<f64>) -> Matrix {
    input.iter().map(|input| row(input)).collect()
}

fn each(input: &Matrix, f: impl Fn(f64) -> f64) -> Matrix {
    each_row(input, |row| row.iter().map(|&x| f(x)).collect())
}

fn both(left: &Matrix, right: &Matrix, f: impl Fn(f64, f64) -> f64) -> Matrix {
    let pairs = left.iter().zip(right);
    pairs.map(|(a, b)| a.iter().zip(b).map(|(&a, &b)| f(a, b)).collect()).collect()
}

fn mean(row: &[f64]) -> f64 {
    row.iter().sum::<f64>() / row.len() as f64
}

/// `gain` and `bias` repeat where the row is wider.
fn norm(row: &[f64], centre: f64, epsilon: f64, gain: &[f64], bias: &[f64]) -> Vec<f64> {
    let squares: Vec<f64> = row.iter().map(|x| (x - centre).powi(2)).collect();
    let root = (mean(&squares) + epsilon).sqrt();
    let scales = gain.iter().zip(bias);
    row.iter().zip(scales).map(|(x, (gain, bias))| (x - centre) / root * gain + bias).collect()
}

fn heads(
    row: &[f64],
    width: usize,
    gain: &[f64],
    f: impl Fn(&[f64], &[f64]) -> Vec<f64>,
) -> Vec<f64> {
    let gains = gain.chunks(width).cycle();
    row.chunks(width).zip(gains).flat_map(|(head, gain)| f(head, gain)).collect()
}

fn turn(row: &[f64], position: usize, tokens: usize, rotary: &RotaryData) -> Vec<f64> {
    let frequencies = Frequencies::new(rotary);
    let attention = f64::from(frequencies.attention);
    let frequencies = frequencies.of_reach(tokens);
    let half = frequencies.len();
    let mut row = row.to_vec();
    for head in row.chunks_mut(rotary.head_width as usize) {
        for (i, &frequency) in frequencies.iter().enumerate() {
            let (a, b) = if rotary.interleaved { (2 * i, 2 * i + 1) } else { (i, i + half) };
            let (sin, cos) = (position as f64 * f64::from(frequency)).sin_cos();
            let (sin, cos) = (sin * attention, cos * attention);
            (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[b] * cos + head[a] * sin);
        }
    }
    row
}

fn attend(
    query: &Matrix,
    key: &Matrix,
    value: &Matrix,
    sinks: Option<&[f64]>,
    options: &AttentionData,
) -> Matrix {
    let width = options.head_width as usize;
    let values = options.latent.unwrap_or(options.head_width) as usize;
    let group = (options.query_heads / options.key_heads) as usize;
    let window = options.window.map_or(usize::MAX, |window| window as usize);
    let attend = |(at, row): (usize, &Vec<f64>)| {
        let head = |(head, query): (usize, &[f64])| {
            let from = head / group * width;
            let seen = (at + 1).saturating_sub(window)..=at;
            let score = |to: usize| {
                let dot = query.iter().zip(&key[to][from..]).map(|(q, k)| q * k).sum::<f64>();
                let score = dot * options.scale;
                let score = options.softcap.map_or(score, |cap| cap * (score / cap).tanh());
                let slope = options.alibi.as_ref().map_or(0.0, |slopes| slopes[head]);
                score + slope * (to as f64 - at as f64)
            };
            let powers: Vec<f64> = seen.clone().map(|to| score(to).exp()).collect();
            let sum = powers.iter().sum::<f64>() + sinks.map_or(0.0, |sinks| sinks[head].exp());
            let mix = |i: usize| {
                let parts = seen.clone().zip(&powers).map(|(to, p)| p * value[to][from + i]);
                parts.sum::<f64>() / sum
            };
            (0..values).map(mix).collect::<Vec<f64>>()
        };
        row.chunks(width).enumerate().flat_map(head).collect()
    };
    query.iter().enumerate().map(attend).collect()
}

fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Relu => x.max(0.0),
        Activation::Relu2 => x.max(0.0).powi(2),
        Activation::GeluNew => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
        Activation::Gelu => unreachable!("kernels test it by themselves"),
    }
}

/// A row of a table, of which those from `first` on are here; the others are zeros.
fn row(table: &Matrix, first: u64, number: usize) -> Vec<f64> {
    let here = number.checked_sub(first as usize).and_then(|at| table.get(at));
    here.cloned().unwrap_or_else(|| vec![0.0; table[0].len()])
}

/// The logits of every position.
fn run(program: &dyn Program, tokens: &[u32]) -> Matrix {
    let graph = program.graph();
    let mut values: BTreeMap<Value, Matrix> = BTreeMap::new();
    for (_, node) in graph.schedule() {
        let data = &graph.nodes[node];
        let get = |value: Value| &values[&value];
        let load = |at: Weight| weight(program, at);
        let vector = |at: Option<Weight>, width: usize, other: f64| {
            at.map_or(vec![other; width], |at| load(at).remove(0))
        };
        let made = match &data.op {
            Op::Tokens => continue,
            Op::Embedding { table, stretch, .. } => {
                let (table, first) = (load(*table), stretch.map_or(0, |stretch| stretch.first));
                tokens.iter().map(|&token| row(&table, first, token as usize)).collect()
            }
            Op::Positions { table, stretch } => {
                let (table, first) = (load(*table), stretch.map_or(0, |stretch| stretch.first));
                (0..tokens.len()).map(|position| row(&table, first, position)).collect()
            }
            Op::Linear { input, weight, bias } => {
                let weight = load(*weight);
                let bias = vector(*bias, weight.len(), 0.0);
                let dot =
                    |row: &[f64], w: &[f64]| row.iter().zip(w).map(|(a, b)| a * b).sum::<f64>();
                let out = |row: &[f64]| {
                    weight.iter().zip(&bias).map(|(w, bias)| dot(row, w) + bias).collect()
                };
                each_row(get(*input), out)
            }
            Op::LinearHeads { input, weight, bias, heads } => {
                let weight = load(*weight);
                let bias = vector(*bias, weight.len(), 0.0);
                let (count, per) = (*heads as usize, weight.len() / *heads as usize);
                let out = |row: &[f64]| {
                    let width = row.len() / count;
                    let one = |(i, (w, bias)): (usize, (&Vec<f64>, &f64))| {
                        let head = &row[i / per * width..][..width];
                        head.iter().zip(w).map(|(a, b)| a * b).sum::<f64>() + bias
                    };
                    weight.iter().zip(&bias).enumerate().map(one).collect()
                };
                each_row(get(*input), out)
            }
            Op::Concat { inputs, heads } => (0..tokens.len())
                .map(|row| {
                    let part = |head: usize, input: &Value| {
                        let row = &get(*input)[row];
                        let width = row.len() / *heads as usize;
                        row[head * width..][..width].to_vec()
                    };
                    let parts = (0..*heads as usize)
                        .flat_map(|head| inputs.iter().map(move |input| (head, input)));
                    parts.flat_map(|(head, input)| part(head, input)).collect()
                })
                .collect(),
            Op::Split { input, sizes } => {
                let mut from = 0;
                for (&part, &size) in data.results.iter().zip(sizes) {
                    let to = from + size as usize;
                    let cut = each_row(&values[input], |row| row[from..to].to_vec());
                    values.insert(part, cut);
                    from = to;
                }
                continue;
            }
            Op::RmsNorm { input, weight, epsilon } => {
                let gain = load(*weight).remove(0);
                each_row(get(*input), |row| norm(row, 0.0, *epsilon, &gain, &vec![0.0; row.len()]))
            }
            Op::LayerNorm { input, weight, bias, epsilon } => each_row(get(*input), |row| {
                let (gain, bias) = (vector(*weight, row.len(), 1.0), vector(*bias, row.len(), 0.0));
                norm(row, mean(row), *epsilon, &gain, &bias)
            }),
            Op::RmsNormHeads { input, weight, head_width, epsilon }
            | Op::LayerNormHeads { input, weight, head_width, epsilon } => {
                let (gain, width) = (load(*weight).remove(0), *head_width as usize);
                let centred = matches!(data.op, Op::LayerNormHeads { .. });
                let one = |head: &[f64], gain: &[f64]| {
                    let centre = if centred { mean(head) } else { 0.0 };
                    norm(head, centre, *epsilon, gain, &vec![0.0; width])
                };
                each_row(get(*input), |row| heads(row, width, &gain, one))
            }
            Op::Rotate { input, rotary } => {
                let rows = get(*input).iter().enumerate();
                rows.map(|(at, row)| turn(row, at, tokens.len(), &graph.rotaries[*rotary]))
                    .collect()
            }
            Op::Attend { query, key, value, rotary: None, options, .. } => {
                let sinks = options.sinks.map(|sinks| load(sinks).remove(0));
                attend(get(*query), get(*key), get(*value), sinks.as_deref(), options)
            }
            Op::Activate { input, activation } => each(get(*input), |x| activate(*activation, x)),
            Op::Add { left, right } => both(get(*left), get(*right), |a, b| a + b),
            Op::Multiply { left, right } => {
                let (left, right) = (get(*left), get(*right));
                let width = left.first().map_or(0, Vec::len);
                let wide = |row: &[f64]| row.iter().copied().cycle().take(width).collect();
                both(left, &each_row(right, wide), |a, b| a * b)
            }
            Op::Mix { input, scores, up, down, options } => {
                let biases = options.biases.map(|[up, down]| [load(up), load(down)]);
                let prefer = options.prefer.map(|prefer| load(prefer).remove(0));
                let here = graph.weights[*up].shape()[0] as usize;
                let (up, down) = (load(*up), load(*down));
                let experts = experts::Experts { here, up, down, prefer, biases };
                experts::mix(get(*input), get(*scores), &experts, options)
            }
            Op::Convolve { input, weight, bias, .. } => {
                let weight = load(*weight);
                let bias = vector(*bias, weight.len(), 0.0);
                experts::convolve(get(*input), &weight, &bias)
            }
            Op::Recur { input, input_gate, recurrent_gate, decay, .. } => {
                let gates = [get(*input_gate), get(*recurrent_gate)];
                experts::recur(get(*input), gates, &load(*decay).remove(0))
            }
            Op::Scale { input, factor } => each(get(*input), |x| x * factor),
            Op::Softcap { input, bound } => each(get(*input), |x| bound * (x / bound).tanh()),
            Op::Clamp { input, low, high } => each(get(*input), |x| x.clamp(*low, *high)),
            other => unreachable!("a pass makes {}", other.name()),
        };
        values.insert(data.results[0], made);
    }
    values.remove(&graph.output().expect("logits")).expect("it was made")
}

/// Every operation and option; 97 tokens of vocabulary, as the test weights have.
const TEXT: &str = r#"graph 1
r0 = rotary head_width=8 rotated=4 base=10000.0 interleaved
r1 = rotary head_width=8 rotated=6 base=10000.0
place embed {
    w0 = weight "t" f32 [97 vocabulary, 32]
    w1 = weight "p" f32 [200, 32]
    v0 = tokens
    v1 = embedding v0, w0
    v2 = scale v1, factor=1.5
    v3 = positions w1
    v4 = add v2, v3
    return v4
}
place block 0 {
    s0 = cache key_heads=2 head_width=8
    w2 = weight "g" f32 [32]
    w3 = weight "b" f32 [32]
    w4 = weight "qkv" f32 [64, 32]
    w5 = weight "h" f32 [8]
    w6 = weight "k" f32 [16]
    w7 = weight "o" f32 [32, 32]
    v5 = layer_norm v4, w2, w3, epsilon=1e-5
    v6 = linear v5, w4
    v7 = clamp v6, low=-1.5 high=2.0
    v8, v9, v10 = split v7, [32, 16, 16]
    v11 = rms_norm_heads v8, w5, head_width=8 epsilon=1e-6
    v12 = layer_norm_heads v9, w6, head_width=8 epsilon=1e-6
    v13 = rotate v11, r0
    v14 = rotate v12, r0
    v15 = attend v13, v14, v10, s0, query_heads=4 scale=0.35 window=11 softcap=2.0 alibi=[0.5, 0.25, 0.125, -0.0625]
    v16 = linear v15, w7
    v17 = add v4, v16
    return v17
}
place block 1 {
    s1 = cache key_heads=4 head_width=8
    w8 = weight "c" f32 [32]
    w9 = weight "up" f32 [32, 32]
    v18 = layer_norm v17, _, w8, epsilon=1e-5
    v19 = rotate v18, r1
    v20 = attend v19, v19, v18, s1, query_heads=4 scale=0.35
    v21 = layer_norm v20, _, _, epsilon=1e-5
    v22 = linear v21, w9
    v23 = activate v22, relu2
    v24 = multiply v23, v21
    v25 = add v17, v24
    return v25
}
place head {
    w10 = weight "n" f32 [32]
    w11 = weight "lm" f32 [97 vocabulary, 32]
    v26 = rms_norm v25, w10, epsilon=1e-5
    v27 = linear v26, w11
    v28 = softcap v27, bound=9.0
    return v28
}
"#;

fn graph(of: &str) -> Graph {
    let graph = parse(of).expect("it parses");
    assert_eq!(verify(&graph), Ok(()));
    graph
}

fn model(of: &str, options: LoadOptions) -> Model {
    testing::load(graph(of), &options).expect("a model")
}

fn text(tokens: usize) -> Vec<u32> {
    (0..tokens).map(|t| ((t * t * 5 + 3 * t + 1) % testing::VOCABULARY) as u32).collect()
}

/// A graph's logits are those of its definition.
fn check_logits(of: &str) {
    let mut model = model(of, testing::options());
    let tokens = text(40);
    let expected = run(model.program(), &tokens);
    let found = logits(&mut model, &[tokens]).expect("runs").remove(0);
    let expected: Vec<f64> = expected.concat();
    assert_eq!(found.len(), expected.len());
    let spread = expected.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    assert!(spread > 3.0, "the logits differ from each other: {spread}");
    for (at, (&a, b)) in found.iter().zip(&expected).enumerate() {
        assert!((f64::from(a) - b).abs() < 1e-4 * spread, "{at}: {a} is not {b}");
    }
}

/// A graph's logits have the same bits however prompts are cut and packed.
fn check_bits(of: &str) {
    let prompts = [text(70), text(23), text(90)[9..].to_vec()];
    let whole = logits(&mut model(of, testing::options()), &prompts).expect("runs");
    for (chunk, threads, tokens_per_block) in [(5, 1, 16), (64, 3, 32), (33, 2, 48)] {
        let options = LoadOptions {
            max_num_tokens: Some(chunk),
            threads: Some(threads),
            tokens_per_block: Some(tokens_per_block),
            ..testing::options()
        };
        let mut model = model(of, options);
        let found = logits(&mut model, &prompts).expect("runs");
        assert!(found == whole, "chunks of {chunk} on {threads} threads");
        let alone = logits(&mut model, &prompts[1..2]).expect("runs");
        assert!(alone[0] == whole[1], "alone, in chunks of {chunk}");
    }
}

#[test]
fn every_operation_does_what_its_definition_says() {
    check_logits(TEXT);
}

#[test]
fn every_operation_gives_the_same_bits_in_any_chunk_batch_and_number_of_threads() {
    check_bits(TEXT);
}

#[test]
fn a_request_is_no_longer_than_a_table_of_positions() {
    let options = LoadOptions { max_seq_len: Some(201), ..testing::options() };
    let error = testing::load(graph(TEXT), &options).err().expect("refused").to_string();
    assert_eq!(error, "--max_seq_len is 201: the model's table of positions is shorter");
}
