//! A toy of two blocks, from the plugin's graph to an engine.

use super::*;
use engraft_engine::Engine;
use engraft_files::FileError;
use engraft_ir::{
    Activation, AttentionData, Axis, DType, Meaning, Op, Place, PlaceKind, RotaryData, Scaling,
    StateData, Value as Tensor, Weight, WeightData,
};
use engraft_weights::{Supply, WeightError};
use serde_json::json;
use std::fs;

fn weight(graph: &mut Graph, place: Place, name: &str, shape: &[u64]) -> Weight {
    let axes = shape.iter().map(|&n| Axis::new(n, Meaning::Plain)).collect();
    graph.make_weight(place, WeightData::plain(name.into(), DType::F16, axes))
}

fn append(graph: &mut Graph, place: Place, op: Op) -> Tensor {
    let node = graph.append(place, op).unwrap();
    graph.result(node)
}

/// A Llama of two blocks as a plugin writes it: width 8, two query heads and one key head of 4.
fn graph() -> Graph {
    let mut g = Graph::new();
    let r = g.make_rotary(RotaryData {
        head_width: 4,
        rotated: 4,
        base: 1e4,
        scaling: Scaling::None,
        interleaved: false,
    });
    let epsilon = 1e-5;
    let p = g.make_place(PlaceKind::Embed);
    let table = weight(&mut g, p, "transformer.vocab_embedding.weight", &[32, 8]);
    let tokens = append(&mut g, p, Op::Tokens);
    let mut x = append(&mut g, p, Op::Embedding { tokens, table, stretch: None });
    g.places[p].carry = vec![x];
    for block in 0..2 {
        let p = g.make_place(PlaceKind::Block(block));
        let cache =
            g.states.push(StateData::Cache { key_heads: 1, head_width: 4, keys_only: false });
        let own = |g: &mut Graph, name: &str, shape: &[u64]| {
            weight(g, p, &format!("transformer.layers.{block}.{name}.weight"), shape)
        };
        let before = own(&mut g, "input_layernorm", &[8]);
        let qkv = own(&mut g, "attention.qkv", &[16, 8]);
        let dense = own(&mut g, "attention.dense", &[8, 8]);
        let after = own(&mut g, "post_layernorm", &[8]);
        let fc = own(&mut g, "mlp.fc", &[16, 8]);
        let gate = own(&mut g, "mlp.gate", &[16, 8]);
        let proj = own(&mut g, "mlp.proj", &[8, 16]);
        let linear = |input, weight| Op::Linear { input, weight, bias: None };

        let n = append(&mut g, p, Op::RmsNorm { input: x, weight: before, epsilon });
        let all = append(&mut g, p, linear(n, qkv));
        let split = g.append(p, Op::Split { input: all, sizes: vec![8, 4, 4] }).unwrap();
        let [q, k, value] = g.nodes[split].results[..] else { panic!("three parts") };
        let query = append(&mut g, p, Op::Rotate { input: q, rotary: r });
        let key = append(&mut g, p, Op::Rotate { input: k, rotary: r });
        let options = AttentionData::new(2, 1, 4, 0.5);
        let attend = Op::Attend { query, key, value, cache, rotary: None, options };
        let a = append(&mut g, p, attend);
        let a = append(&mut g, p, linear(a, dense));
        let sum = append(&mut g, p, Op::Add { left: x, right: a });
        let n = append(&mut g, p, Op::RmsNorm { input: sum, weight: after, epsilon });
        let f = append(&mut g, p, linear(n, fc));
        let f = append(&mut g, p, Op::Activate { input: f, activation: Activation::Silu });
        let u = append(&mut g, p, linear(n, gate));
        let m = append(&mut g, p, Op::Multiply { left: f, right: u });
        let m = append(&mut g, p, linear(m, proj));
        x = append(&mut g, p, Op::Add { left: sum, right: m });
        g.places[p].carry = vec![x];
    }
    let p = g.make_place(PlaceKind::Head);
    let norm = weight(&mut g, p, "transformer.ln_f.weight", &[8]);
    let head = weight(&mut g, p, "lm_head.weight", &[32, 8]);
    g.weights[head].tied = Some(table);
    let n = append(&mut g, p, Op::RmsNorm { input: x, weight: norm, epsilon });
    let logits = append(&mut g, p, Op::Linear { input: n, weight: head, bias: None });
    g.places[p].carry = vec![logits];
    g
}

/// Hands out weights made of their names.
struct Toy {
    names: Vec<String>,
    supplies: BTreeMap<String, Supply>,
}

impl Toy {
    fn new(graph: &Graph) -> Toy {
        let supply = |w: &WeightData| Supply {
            dtype: w.dtype,
            axes: w.axes.clone(),
            tied: w.tied.map(|to| graph.weights[to].name.clone()),
        };
        Toy {
            names: graph.weights.values().map(|w| w.name.clone()).collect(),
            supplies: graph.weights.values().map(|w| (w.name.clone(), supply(w))).collect(),
        }
    }
}

fn bytes_of(name: &str, length: u64) -> Vec<u8> {
    name.bytes().cycle().take(length as usize).collect()
}

impl Provider for Toy {
    fn names(&self) -> &[String] {
        &self.names
    }

    fn get(&self, name: &str) -> Option<&Supply> {
        self.supplies.get(name)
    }

    fn stream(
        &self,
        name: &str,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), FileError>,
    ) -> Result<(), WeightError> {
        for piece in bytes_of(name, self.supplies[name].bytes()).chunks(10) {
            sink(piece)?;
        }
        Ok(())
    }
}

fn config() -> Config {
    Config::from_json(&json!({
        "architecture": "ToyForCausalLM",
        "dtype": "float16",
        "vocab_size": 32,
        "max_position_embeddings": 64,
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "hidden_act": "silu",
        "intermediate_size": 16,
        "norm_epsilon": 1e-5,
        "position_embedding_type": "rope_gpt_neox",
    }))
    .unwrap()
}

fn build_toy(
    toy: &Toy,
    directory: &Path,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<Built, CompileError> {
    build(Input {
        parts: vec![Part::whole(graph())],
        provider: toy,
        config: &config(),
        build: BuildOptions::default(),
        provenance: &json!({"plugin": "toy"}),
        text_files: &[("tokenizer.json".to_owned(), b"{}".to_vec())].into(),
        directory,
        effort: Effort { progress, ..Effort::default() },
    })
}

#[test]
fn a_graph_and_its_weights_become_an_engine() {
    let directory = tempfile::tempdir().unwrap();
    let last = std::sync::Mutex::new((0, 0));
    let toy = Toy::new(&graph());
    let built = build_toy(&toy, directory.path(), &|done, total| {
        let mut last = last.lock().unwrap();
        assert!(done >= last.0 && done <= total);
        *last = (done, total);
    })
    .unwrap();
    let last = last.into_inner().unwrap();
    assert_eq!(last.0, last.1, "progress ends where it should");
    assert_eq!(built.weights, graph().weights.len() - 1, "the tied head is not stored");

    let engine = Engine::open(directory.path()).unwrap();
    engine.verify(&|_, _| {}).unwrap();
    assert_eq!(engine.bytes(), built.bytes);
    assert_eq!(engine.config().build_config, built.build_config);
    assert_eq!(engine.config().pretrained_config, config().to_json());
    for (weight, data) in engine.graph().weights.iter() {
        let stored = &engine.graph().weights[engine.graph().storage(weight)];
        assert_eq!(engine.weight(weight), bytes_of(&stored.name, data.bytes()), "{}", data.name);
    }
}

#[test]
fn all_passes_have_run() {
    let directory = tempfile::tempdir().unwrap();
    build_toy(&Toy::new(&graph()), directory.path(), &|_, _| {}).unwrap();
    let engine = Engine::open(directory.path()).unwrap();
    let graph = engine.graph();
    let count = |name| graph.schedule().filter(|(_, n)| graph.nodes[*n].op.name() == name).count();
    let counts = ["outputs", "add_rms_norm", "gate", "attend"].map(count);
    assert_eq!(counts, [1, 2, 2, 2]);
    assert_eq!(["rotate", "activate", "multiply"].map(count), [0, 0, 0]);
    assert_eq!(["rms_norm", "add"].map(count), [3, 2], "those at the borders of places stay");
}

#[test]
fn two_builds_give_the_same_bytes() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let toy = Toy::new(&graph());
    build_toy(&toy, one.path(), &|_, _| {}).unwrap();
    build_toy(&toy, two.path(), &|_, _| {}).unwrap();
    for name in ["rank0.engine", "config.json"] {
        let read = |directory: &tempfile::TempDir| fs::read(directory.path().join(name)).unwrap();
        assert_eq!(read(&one), read(&two), "{name}");
    }
}

/// What building says, and that it wrote nothing.
fn refusal(change: impl FnOnce(&mut Toy)) -> CompileError {
    let directory = tempfile::tempdir().unwrap();
    let mut toy = Toy::new(&graph());
    change(&mut toy);
    let error = build_toy(&toy, directory.path(), &|_, _| {}).unwrap_err();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    error
}

#[test]
fn weights_that_are_missing_different_or_unused_are_all_listed() {
    let error = refusal(|toy| {
        toy.supplies.remove("transformer.ln_f.weight");
        toy.names.push("transformer.extra.weight".to_owned());
        if let Some(supply) = toy.supplies.get_mut("transformer.layers.0.mlp.fc.weight") {
            supply.dtype = DType::F32;
        }
    });
    let text = error.to_string();
    assert!(text.contains("missing: transformer.ln_f.weight f16 [8]"), "{text}");
    assert!(text.contains("mlp.fc.weight is f32 [16, 8], but the graph declares f16"), "{text}");
    assert!(text.contains("used by nothing: transformer.extra.weight"), "{text}");
}

#[test]
fn a_tied_weight_needs_no_supply() {
    let directory = tempfile::tempdir().unwrap();
    let mut toy = Toy::new(&graph());
    toy.supplies.remove("lm_head.weight");
    toy.names.retain(|name| name != "lm_head.weight");
    build_toy(&toy, directory.path(), &|_, _| {}).unwrap();
}

#[test]
fn a_stream_of_the_wrong_length_is_our_mistake_and_names_the_weight() {
    struct Short(Toy);
    impl Provider for Short {
        fn names(&self) -> &[String] {
            self.0.names()
        }
        fn get(&self, name: &str) -> Option<&Supply> {
            self.0.get(name)
        }
        fn stream(
            &self,
            _: &str,
            sink: &mut dyn FnMut(&[u8]) -> Result<(), FileError>,
        ) -> Result<(), WeightError> {
            Ok(sink(&[0; 2])?)
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let error = build(Input {
        parts: vec![Part::whole(graph())],
        provider: &Short(Toy::new(&graph())),
        config: &config(),
        build: BuildOptions::default(),
        provenance: &json!({}),
        text_files: &BTreeMap::new(),
        directory: directory.path(),
        effort: Effort::default(),
    })
    .unwrap_err();
    assert_eq!(engraft_diagnostic::Diagnostic::code(&error).to_string(), "EG0020");
    assert!(error.to_string().contains("vocab_embedding"), "{error}");
}

#[test]
fn a_weight_without_a_kernel_is_named() {
    let mut graph = graph();
    for weight in graph.weights.values_mut() {
        weight.dtype = DType::F64;
    }
    let error = Target::Cpu.check(&graph).unwrap_err().to_string();
    assert!(
        error.contains("transformer.vocab_embedding.weight") && error.contains("f64"),
        "{error}"
    );
}
