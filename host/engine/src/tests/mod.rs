//! Engines of a toy model, whole and broken.

mod broken;
mod ranks;
mod whole;

use crate::{
    BuildConfig, Contents, Engine, EngineConfig, EngineError, KvCacheType, Written, format, write,
};
use engraft_files::SafetensorsWriter;
use engraft_ir::{DType, Graph, Weight, WeightData};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Two blocks of a Llama: width 8, two query heads and one key head of 4, tied head.
pub(crate) const BLOCKS: u32 = 2;

pub(crate) fn text() -> String {
    let mut text = String::from(
        "graph 1

r0 = rotary head_width=4 rotated=4 base=10000.0

place embed {
    w0 = weight \"transformer.vocab_embedding.weight\" f16 [32 vocabulary, 8]
    v0 = tokens
    v1 = embedding v0, w0
    return v1
}
",
    );
    let (mut w, mut v) = (1, 1);
    for block in 0..BLOCKS {
        let at = |n: u32| format!("v{}", v + n);
        text += &format!(
            "
place block {block} {{
    s{block} = cache key_heads=1 head_width=4
    w{} = weight \"transformer.layers.{block}.input_layernorm.weight\" f16 [8]
    w{} = weight \"transformer.layers.{block}.attention.qkv.weight\" f16 [8 query_heads + 4 key_heads + 4 key_heads, 8]
    w{} = weight \"transformer.layers.{block}.attention.dense.weight\" f16 [8, 8 query_heads]
    {} = rms_norm {}, w{w}, epsilon=1e-5
    {} = linear {}, w{}
    {}, {}, {} = split {}, [8, 4, 4]
    {} = attend {}, {}, {}, s{block}, query_heads=2 scale=0.5 rotary=r0
    {} = linear {}, w{}
    {} = add {}, {}
    return {}
}}
",
            w,
            w + 1,
            w + 2,
            at(1), at(0),
            at(2), at(1), w + 1,
            at(3), at(4), at(5), at(2),
            at(6), at(3), at(4), at(5),
            at(7), at(6), w + 2,
            at(8), at(0), at(7),
            at(8),
        );
        w += 3;
        v += 8;
    }
    text += &format!(
        "
place head {{
    w{w} = weight \"transformer.ln_f.weight\" f32 [8]
    w{} = weight \"lm_head.weight\" f16 [32 vocabulary, 8] tied w0
    v{} = outputs v{v}
    v{} = rms_norm v{}, w{w}, epsilon=1e-5
    v{} = linear v{}, w{}
    return v{}
}}
",
        w + 1,
        v + 1,
        v + 2,
        v + 1,
        v + 3,
        v + 2,
        w + 1,
        v + 3,
    );
    text
}

pub(crate) fn graph() -> Graph {
    engraft_ir::parse(&text()).unwrap()
}

pub(crate) fn config() -> EngineConfig {
    EngineConfig {
        version: "0.1.0".to_owned(),
        pretrained_config: json!({"architecture": "ToyForCausalLM", "norm_epsilon": 1e-5}),
        build_config: BuildConfig {
            target: "cpu".to_owned(),
            max_batch_size: 8,
            max_input_len: 64,
            max_seq_len: 64,
            max_num_tokens: 512,
            tokens_per_block: 32,
            kv_cache_type: KvCacheType::Paged,
        },
    }
}

pub(crate) fn provenance() -> Value {
    json!({"plugin": {"name": "toy", "version": "1.0.0"}})
}

pub(crate) fn text_files() -> BTreeMap<String, Vec<u8>> {
    [("tokenizer.json".to_owned(), b"{\"model\": {}}".to_vec())].into()
}

/// Bytes that differ from weight to weight.
pub(crate) fn bytes_of(weight: &WeightData) -> Vec<u8> {
    let seed = blake3::hash(weight.name.as_bytes());
    seed.as_bytes().iter().copied().cycle().take(weight.bytes() as usize).collect()
}

/// Writes the toy's engine into a directory.
pub(crate) fn write_toy(directory: &Path) -> Written {
    let (graph, config, provenance) = (graph(), config(), provenance());
    let text_files = text_files();
    let contents = Contents {
        graphs: &[&graph],
        config: &config,
        provenance: &provenance,
        text_files: &text_files,
        reopen: false,
    };
    write::<EngineError>(directory, &contents, |files| {
        for weight in graph.weights.values().filter(|weight| weight.tied.is_none()) {
            files[0].put(&weight.name, &bytes_of(weight))?;
        }
        Ok(())
    })
    .unwrap()
}

pub(crate) fn weight_named(graph: &Graph, name: &str) -> Weight {
    graph.weights.iter().find(|(_, data)| data.name == name).unwrap().0
}

/// What a forger may change before the file is written and its header signed.
pub(crate) struct Forgery {
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) tensors: Vec<(String, DType, Vec<u64>)>,
    pub(crate) align: usize,
}

/// Writes a file like an engine's, all zeros, changed by `change`, with a header digest that fits.
pub(crate) fn forge(path: &Path, change: impl FnOnce(&mut Forgery)) {
    let graph = graph();
    let own = graph.weights.values().filter(|w| w.tied.is_none());
    let mut forgery = Forgery {
        metadata: [
            (format::KEY_FORMAT, format::VERSION.to_owned()),
            (format::KEY_HEADER, "0".repeat(format::DIGEST_LEN)),
            (format::KEY_GRAPH, graph.to_string()),
            (format::KEY_CONFIG, serde_json::to_string(&config()).unwrap()),
            (format::KEY_PROVENANCE, "{}".to_owned()),
            (format::KEY_DIGESTS, "{}".to_owned()),
            (format::KEY_FILES, "{}".to_owned()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into(),
        tensors: own.map(|w| (w.name.clone(), w.dtype, w.shape())).collect(),
        align: format::ALIGNMENT,
    };
    change(&mut forgery);
    let Forgery { metadata, tensors, align } = forgery;
    let writer = SafetensorsWriter::create(path, metadata, tensors.clone(), align).unwrap();
    for (name, dtype, shape) in tensors {
        let bytes = shape.iter().product::<u64>() as usize * dtype.size();
        writer.put(&name, &vec![0; bytes]).unwrap();
    }
    writer.finish().unwrap();
    let mut bytes = fs::read(path).unwrap();
    let length = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    if let Some(position) = format::digest_position(&bytes[..length]) {
        let digest = format::header_digest(&bytes[..length], position);
        bytes[position..position + format::DIGEST_LEN].copy_from_slice(digest.as_bytes());
        fs::write(path, bytes).unwrap();
    }
}

/// What opening a forged file says.
pub(crate) fn refusal(change: impl FnOnce(&mut Forgery)) -> EngineError {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("forged.engine");
    forge(&path, change);
    Engine::open(&path).unwrap_err()
}
