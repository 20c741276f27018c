//! Gemma's tensors as DeepMind publishes them for JAX: one array for the tensors that an einsum
//! multiplies by at once, a head's own matrix `[in, out]` in each of its rows.

use crate::{Axis, Decoder, Order, Part, PartExt, Place, Spelling, join, tensor};

/// The dialect. Its config is HuggingFace's.
pub const JAX: Spelling = Spelling {
    dialect: "jax",
    accepts: &[],
    blocks: "",
    names: &[],
    pairs: false,
    grouped: false,
    gated: false,
    unused: &[],
};

/// Blocks of the one model with norms around its layers that keeps gates as those without do.
const OTHERWISE: u32 = 26;

/// A layer's tensor, for [`Decoder::spelled`].
pub fn jax_part(d: &Decoder, at: Place, layer: &str, axes: &[Axis]) -> Part {
    let base = &d.base;
    let [heads, keys, width, hidden] = [base.heads, base.key_heads, base.head_width, base.hidden];
    let inner = base.inside().size;
    let around = d.order == Order::Around;
    let (name, index) = match layer {
        "vocab_embedding" => ("embedder.input_embedding", 0),
        "ln_f" => ("final_norm.scale", 0),
        "input_layernorm" => ("pre_attention_norm.scale", 0),
        "post_layernorm" if around => ("post_attention_norm.scale", 0),
        "post_layernorm" | "pre_feedforward_layernorm" => ("pre_ffw_norm.scale", 0),
        "post_feedforward_layernorm" => ("post_ffw_norm.scale", 0),
        "attention.q_layernorm" => ("attn._query_norm.scale", 0),
        "attention.k_layernorm" => ("attn._key_norm.scale", 0),
        "attention.q" if heads == keys => ("attn.qkv_einsum", 0),
        "attention.k" if heads == keys => ("attn.qkv_einsum", 1),
        "attention.v" if heads == keys => ("attn.qkv_einsum", 2),
        "attention.q" => ("attn.q_einsum", 0),
        "attention.k" => ("attn.kv_einsum", 0),
        "attention.v" => ("attn.kv_einsum", 1),
        "attention.dense" => ("attn.attn_vec_einsum", 0),
        "mlp.fc" => ("mlp.gating_einsum", 0),
        "mlp.gate" => ("mlp.gating_einsum", 1),
        "mlp.proj" => ("mlp.linear", 0),
        other => (other, 0),
    };
    let name = match at {
        Place::Block(i) => join(&["layer_", &i.to_string(), ".", name]),
        _ => name.into(),
    };
    let part = tensor(name, axes);
    let heads_of = |part: Part, heads: u32| {
        let [heads, width, hidden] = [heads, width, hidden].map(u64::from);
        part.reshape([heads, hidden, width]).permute([0, 2, 1]).reshape([heads * width, hidden])
    };
    let one = |part: Part| part.slice(0, index, index + 1);
    let hidden = u64::from(hidden);
    match layer {
        // It may have rows that no token has.
        "vocab_embedding" => part.slice(0, 0, axes.first().map_or(0, |axis| axis.size)),
        "attention.q" if heads == keys => heads_of(one(part), heads),
        "attention.q" => heads_of(part, heads),
        "attention.k" | "attention.v" => heads_of(one(part), keys),
        "attention.dense" => {
            part.reshape([u64::from(heads) * u64::from(width), hidden]).permute([1, 0])
        }
        "mlp.fc" | "mlp.gate" if base.qk_norm || around && base.blocks != OTHERWISE => {
            one(part).reshape([inner, hidden])
        }
        "mlp.fc" | "mlp.gate" => one(part).reshape([hidden, inner]).permute([1, 0]),
        "mlp.proj" => part.permute([1, 0]),
        _ => part,
    }
}
