//! A golden's tensors as trees that JAX's models keep.

use engraft_ir::DType;
use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// An array.
#[derive(Clone)]
pub struct Array {
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

/// Arrays by their paths; levels are told apart by `|`.
pub struct Tree(pub BTreeMap<String, Array>);

impl Array {
    /// With axis `order[i]` as axis `i`.
    fn permuted(&self, order: &[usize]) -> Array {
        let (size, rank) = (self.dtype.size(), order.len());
        let mut strides = vec![1; rank];
        for axis in (1..rank).rev() {
            strides[axis - 1] = strides[axis] * self.shape[axis];
        }
        let shape: Vec<usize> = order.iter().map(|&axis| self.shape[axis]).collect();
        let mut bytes = Vec::with_capacity(self.bytes.len());
        let mut index = vec![0; rank];
        loop {
            let at: usize = order.iter().zip(&index).map(|(&axis, i)| strides[axis] * i).sum();
            bytes.extend(&self.bytes[at * size..(at + 1) * size]);
            let Some(axis) = (0..rank).rev().find(|&axis| index[axis] + 1 < shape[axis]) else {
                return Array { dtype: self.dtype, shape, bytes };
            };
            index[axis] += 1;
            index[axis + 1..].fill(0);
        }
    }

    fn reshaped(&self, shape: &[usize]) -> Array {
        assert_eq!(shape.iter().product::<usize>(), self.shape.iter().product::<usize>());
        Array { shape: shape.to_vec(), ..self.clone() }
    }
}

/// Arrays along a new outermost axis.
fn stacked(arrays: &[&Array]) -> Array {
    let shape = [&[arrays.len()], &arrays[0].shape[..]].concat();
    let bytes = arrays.iter().flat_map(|array| array.bytes.clone()).collect();
    Array { dtype: arrays[0].dtype, shape, bytes }
}

fn tensors(golden: &Path) -> BTreeMap<String, Array> {
    let bytes = fs::read(golden.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let all = file.tensors().into_iter().map(|(name, view)| {
        let dtype = DType::from_safetensors_name(&format!("{:?}", view.dtype())).unwrap();
        let (shape, bytes) = (view.shape().to_vec(), view.data().to_vec());
        (name, Array { dtype, shape, bytes })
    });
    all.collect()
}

impl Tree {
    /// As HuggingFace's Flax models keep it.
    pub fn flax(golden: &Path) -> Tree {
        let all = tensors(golden).into_iter().map(|(name, array)| {
            let (module, kind) = name.rsplit_once('.').unwrap();
            let own = module.rsplit('.').next().unwrap();
            let kind = match (kind, own) {
                ("weight", "wte" | "wpe" | "embed_tokens") => "embedding",
                ("weight", _) if own.starts_with("ln_") => "scale",
                ("weight", _) if array.shape.len() == 2 => "kernel",
                _ => kind,
            };
            let array = if kind == "kernel" { array.permuted(&[1, 0]) } else { array };
            (format!("{module}.{kind}").replace('.', "|"), array)
        });
        Tree(all.collect())
    }

    /// As DeepMind publishes Gemma: `transformer/layer_0/attn/q_einsum` is one level.
    pub fn deepmind(golden: &Path) -> Tree {
        let tensors = tensors(golden);
        let text = fs::read_to_string(golden.join("config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_str(&text).unwrap();
        let number = |key: &str| config[key].as_u64().unwrap() as usize;
        let (heads, keys) = (number("num_attention_heads"), number("num_key_value_heads"));
        let (width, wide) = (number("head_dim"), number("hidden_size"));
        // Gemma 2 and 3 norm around layers, and the larger ones keep gates transposed.
        let around = tensors.contains_key("model.layers.0.pre_feedforward_layernorm.weight");
        let third = tensors.contains_key("model.layers.0.self_attn.q_norm.weight");
        let mut all = BTreeMap::new();
        let mut add = |path: String, kind: &str, array: Array| {
            all.insert(format!("transformer/{path}|{kind}"), array);
        };
        // The table has rows that no token has.
        let table = &tensors["model.embed_tokens.weight"];
        let padding = vec![0; 3 * wide * table.dtype.size()];
        let bytes = [&table.bytes[..], &padding].concat();
        let shape = vec![table.shape[0] + 3, wide];
        add("embedder".into(), "input_embedding", Array { dtype: table.dtype, shape, bytes });
        add("final_norm".into(), "scale", tensors["model.norm.weight"].clone());
        for i in 0..number("num_hidden_layers") {
            let of = |name: &str| &tensors[&format!("model.layers.{i}.{name}.weight")];
            let mut add = |path: &str, kind: &str, array| {
                add(format!("layer_{i}/{path}"), kind, array);
            };
            let heads_of = |name: &str, heads: usize| {
                of(name).reshaped(&[heads, width, wide]).permuted(&[0, 2, 1])
            };
            let [q, k, v] = [("q", heads), ("k", keys), ("v", keys)]
                .map(|(name, heads)| heads_of(&format!("self_attn.{name}_proj"), heads));
            if heads == keys {
                add("attn/qkv_einsum", "w", stacked(&[&q, &k, &v]));
            } else {
                add("attn/q_einsum", "w", q);
                add("attn/kv_einsum", "w", stacked(&[&k, &v]));
            }
            let out = of("self_attn.o_proj").permuted(&[1, 0]).reshaped(&[heads, width, wide]);
            add("attn/attn_vec_einsum", "w", out);
            let gates = ["mlp.gate_proj", "mlp.up_proj"].map(|name| match around {
                true => of(name).clone(),
                false => of(name).permuted(&[1, 0]),
            });
            add("mlp/gating_einsum", "w", stacked(&[&gates[0], &gates[1]]));
            add("mlp/linear", "w", of("mlp.down_proj").permuted(&[1, 0]));
            add("pre_attention_norm", "scale", of("input_layernorm").clone());
            if around {
                add("post_attention_norm", "scale", of("post_attention_layernorm").clone());
                add("pre_ffw_norm", "scale", of("pre_feedforward_layernorm").clone());
                add("post_ffw_norm", "scale", of("post_feedforward_layernorm").clone());
            } else {
                add("pre_ffw_norm", "scale", of("post_attention_layernorm").clone());
            }
            if third {
                add("attn/_query_norm", "scale", of("self_attn.q_norm").clone());
                add("attn/_key_norm", "scale", of("self_attn.k_norm").clone());
            }
        }
        Tree(all)
    }

    /// The same below another level.
    pub fn below(self, level: &str) -> Tree {
        Tree(self.0.into_iter().map(|(path, array)| (format!("{level}|{path}"), array)).collect())
    }

    /// The same as `gemma`'s own code holds it: a level for each part of a path, and gates without
    /// a level of their own.
    pub fn nested(self) -> Tree {
        let all = self.0.into_iter().map(|(path, array)| {
            let path = path.replace('/', "|");
            let path = if path.contains("|mlp|") { path.replace("|w", "") } else { path };
            (path, array)
        });
        Tree(all.collect())
    }
}
