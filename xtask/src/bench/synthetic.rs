//! Llamas that nobody trained: a HuggingFace directory of any size, the same each time.
//!
//! For timing only. Weights are bfloat16, spread evenly about zero, and ones in norms; sparse,
//! all are zeros that the file system stores as holes.

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

/// How large a file of weights becomes before the next is begun, in bytes.
const FILE: u64 = 5 << 30;

/// What a Llama's size is made of.
pub struct Shape {
    /// As on the command line.
    pub name: &'static str,
    hidden: u64,
    layers: u64,
    heads: u64,
    key_heads: u64,
    feed_forward: u64,
    vocabulary: u64,
    base: f64,
    context: u64,
}

/// The shapes that there are.
pub const SHAPES: [Shape; 3] = [
    Shape {
        name: "tiny",
        hidden: 256,
        layers: 4,
        heads: 8,
        key_heads: 2,
        feed_forward: 704,
        vocabulary: 4096,
        base: 1e4,
        context: 2048,
    },
    Shape {
        name: "tinyllama-1.1b",
        hidden: 2048,
        layers: 22,
        heads: 32,
        key_heads: 4,
        feed_forward: 5632,
        vocabulary: 32000,
        base: 1e4,
        context: 2048,
    },
    Shape {
        name: "llama3-8b",
        hidden: 4096,
        layers: 32,
        heads: 32,
        key_heads: 8,
        feed_forward: 14336,
        vocabulary: 128_256,
        base: 5e5,
        context: 8192,
    },
];

impl Shape {
    /// Names and shapes in the order of the files.
    fn tensors(&self) -> Vec<(String, Vec<u64>)> {
        let (hidden, inner) = (self.hidden, self.feed_forward);
        let keys = hidden / self.heads * self.key_heads;
        let mut tensors = vec![("model.embed_tokens".to_owned(), vec![self.vocabulary, hidden])];
        for layer in 0..self.layers {
            for (name, shape) in [
                ("input_layernorm", vec![hidden]),
                ("self_attn.q_proj", vec![hidden, hidden]),
                ("self_attn.k_proj", vec![keys, hidden]),
                ("self_attn.v_proj", vec![keys, hidden]),
                ("self_attn.o_proj", vec![hidden, hidden]),
                ("post_attention_layernorm", vec![hidden]),
                ("mlp.gate_proj", vec![inner, hidden]),
                ("mlp.up_proj", vec![inner, hidden]),
                ("mlp.down_proj", vec![hidden, inner]),
            ] {
                tensors.push((format!("model.layers.{layer}.{name}"), shape));
            }
        }
        tensors.push(("model.norm".to_owned(), vec![hidden]));
        tensors.push(("lm_head".to_owned(), vec![self.vocabulary, hidden]));
        tensors.into_iter().map(|(name, shape)| (name + ".weight", shape)).collect()
    }

    /// Bytes of all weights.
    pub fn bytes(&self) -> u64 {
        self.tensors().iter().map(|(_, shape)| bytes(shape)).sum()
    }

    /// Bytes of the largest weight that is not joined with others.
    pub fn largest(&self) -> u64 {
        self.tensors().iter().map(|(_, shape)| bytes(shape)).max().unwrap_or(0)
    }

    fn config(&self) -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.feed_forward,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_heads,
            "head_dim": self.hidden / self.heads,
            "vocab_size": self.vocabulary,
            "rms_norm_eps": 1e-5,
            "rope_theta": self.base,
            "max_position_embeddings": self.context,
            "hidden_act": "silu",
            "tie_word_embeddings": false,
            "torch_dtype": "bfloat16",
        })
    }
}

fn bytes(shape: &[u64]) -> u64 {
    2 * shape.iter().product::<u64>()
}

/// Makes the model in `directory`, if it is not there.
pub fn make(shape: &Shape, directory: &Path, sparse: bool) -> Result<()> {
    let config = directory.join("config.json");
    if config.exists() {
        return Ok(());
    }
    println!("making {} ({:.2} GB of weights)", directory.display(), shape.bytes() as f64 / 1e9);
    fs::create_dir_all(directory).context("cannot make the model's folder")?;
    let mut files: Vec<Vec<(String, Vec<u64>)>> = vec![Vec::new()];
    let mut size = 0;
    for (name, shape) in shape.tensors() {
        let own = bytes(&shape);
        if size > 0 && size + own > FILE {
            files.push(Vec::new());
            size = 0;
        }
        size += own;
        if let Some(file) = files.last_mut() {
            file.push((name, shape));
        }
    }
    let mut state = 1;
    let mut map = Map::new();
    for (i, tensors) in files.iter().enumerate() {
        let name = match files.len() {
            1 => "model.safetensors".to_owned(),
            count => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
        };
        map.extend(tensors.iter().map(|(tensor, _)| (tensor.clone(), json!(name))));
        let path = directory.join(&name);
        write(&path, tensors, sparse, &mut state)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if files.len() > 1 {
        let index = json!({ "metadata": { "total_size": shape.bytes() }, "weight_map": map });
        fs::write(directory.join("model.safetensors.index.json"), index.to_string())?;
    }
    // Last: the model is whole.
    fs::write(config, shape.config().to_string()).context("cannot write the model's config")
}

fn write(
    path: &Path,
    tensors: &[(String, Vec<u64>)],
    sparse: bool,
    state: &mut u64,
) -> std::io::Result<()> {
    let mut header = Map::new();
    let mut end = 0;
    for (name, shape) in tensors {
        let start = end;
        end += bytes(shape);
        let entry = json!({ "dtype": "BF16", "shape": shape, "data_offsets": [start, end] });
        header.insert(name.clone(), entry);
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    if !sparse {
        let mut row = Vec::new();
        for (_, shape) in tensors {
            let width = shape.last().copied().unwrap_or(1);
            for _ in 0..bytes(shape) / (2 * width) {
                row.clear();
                match shape.len() {
                    1 => row.extend((0..width).flat_map(|_| 0x3f80u16.to_le_bytes())),
                    _ => row.extend((0..width).flat_map(|_| random(state))),
                }
                file.write_all(&row)?;
            }
        }
    }
    let file = file.into_inner()?;
    file.set_len(8 + header.len() as u64 + end)?;
    file.sync_all()
}

/// A number between -0.035 and 0.035 as bfloat16.
fn random(state: &mut u64) -> [u8; 2] {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let even = (*state >> 40) as f32 / (1u32 << 24) as f32;
    let bits = ((even - 0.5) * 0.07).to_bits();
    ((bits >> 16) as u16).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_models_they_are_named_after() {
        let gigabytes = SHAPES.map(|shape| (shape.bytes() as f64 / 1e8).round() / 10.0);
        assert_eq!(gigabytes, [0.0, 2.2, 16.1]);
    }

    #[test]
    fn random_weights_are_small_and_finite() {
        let mut state = 1;
        let bits = (0..1000).map(|_| u16::from_le_bytes(random(&mut state)));
        let values = bits.map(|bits| f32::from_bits(u32::from(bits) << 16));
        assert!(values.into_iter().all(|value| value.abs() < 0.036));
    }
}
