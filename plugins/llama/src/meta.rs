//! The form that Meta publishes: `params.json`, and names of its own. Mistral's is the same.

use engraft_plugin_sdk::*;

/// Names of tensors. Queries and keys turn in neighbouring pairs.
pub const SPELLING: Spelling = Spelling {
    dialect: "meta",
    accepts: &["meta:consolidated"],
    blocks: "layers.",
    names: &[
        ("vocab_embedding", "tok_embeddings"),
        ("ln_f", "norm"),
        ("lm_head", "output"),
        ("input_layernorm", "attention_norm"),
        ("attention.q", "attention.wq"),
        ("attention.k", "attention.wk"),
        ("attention.v", "attention.wv"),
        ("attention.dense", "attention.wo"),
        ("post_layernorm", "ffn_norm"),
        ("mlp.fc", "feed_forward.w1"),
        ("mlp.gate", "feed_forward.w3"),
        ("mlp.proj", "feed_forward.w2"),
    ],
    pairs: true,
    grouped: false,
    gated: false,
    unused: &[("*rope.freqs", "it is computed from the config")],
};

/// What is read of `params.json`.
pub fn fields() -> Vec<Field> {
    vec![
        integer("dim", REQUIRED, "Width between blocks."),
        integer("n_layers", REQUIRED, "Blocks."),
        integer("n_heads", REQUIRED, "Query heads."),
        integer("n_kv_heads", same_as("n_heads"), "Key and value heads."),
        integer("head_dim", ABSENT, "Width of a head; the heads share the width if not said."),
        integer("vocab_size", REQUIRED, "Entries of the vocabulary."),
        integer("hidden_dim", ABSENT, "Width inside feed-forward layers."),
        integer("multiple_of", default(256), "What that width is a multiple of, if not said."),
        number("ffn_dim_multiplier", ABSENT, "How much wider it is than usual."),
        number("norm_eps", default(1e-5), "What keeps norms from dividing by zero."),
        number("rope_theta", default(1e4), "Rotary base."),
        flag("use_scaled_rope", default(false), "Whether frequencies are scaled, as in 3.1."),
        number("rope_scaling_factor", ABSENT, "By how much they are."),
        flag("moe", ABSENT, "Supported with its usual value only."),
        flag("tensor:output.weight", ABSENT, "Whether the head has a tensor of its own."),
    ]
}

/// The same in HuggingFace's words.
pub fn settings(source: &Settings) -> Result<Vec<Setting>, Refusal> {
    source.check_fixed(&[("moe", false.into())])?;
    let [dim, multiple]: [u32; 2] = source.all(["dim", "multiple_of"])?;
    let inner = match source.find::<u32>("hidden_dim")? {
        Some(inner) => inner,
        None => inner(dim, multiple, source.positive("ffn_dim_multiplier")?)
            .map_or_else(|| source.refuse("multiple_of", "makes too wide a layer"), Ok)?,
    };
    let (base, epsilon): (f64, f64) = (source.get("rope_theta")?, source.get("norm_eps")?);
    let scaled: bool = source.get("use_scaled_rope")?;
    let own_head = source.find("tensor:output.weight")?.unwrap_or(false);
    let carried = [
        ("hidden_size", "dim"),
        ("num_hidden_layers", "n_layers"),
        ("num_attention_heads", "n_heads"),
        ("num_key_value_heads", "n_kv_heads"),
        ("head_dim", "head_dim"),
        ("vocab_size", "vocab_size"),
        ("rms_norm_eps", "norm_eps"),
        ("rope_theta", "rope_theta"),
    ];
    let mut all: Vec<Setting> =
        carried.iter().map(|(ours, theirs)| set(ours, source.value(theirs).cloned())).collect();
    all.push(set("intermediate_size", SettingValue::from(inner)));
    all.push(set("tensor:lm_head.weight", SettingValue::from(own_head)));
    all.push(set("max_position_embeddings", SettingValue::from(context(base, epsilon, scaled))));
    if scaled {
        let factor = source.positive("rope_scaling_factor")?.unwrap_or(usual_factor(dim));
        for (part, value) in [
            ("rope_type", SettingValue::from("llama3")),
            ("factor", factor.into()),
            ("low_freq_factor", 1.0.into()),
            ("high_freq_factor", 4.0.into()),
            ("original_max_position_embeddings", 8192.into()),
        ] {
            all.push(set(&dotted("rope_scaling", part), value));
        }
    }
    Ok(all)
}

/// The width inside feed-forward layers: two thirds of four times the width between blocks, by a
/// factor where there is one, rounded up.
fn inner(dim: u32, multiple: u32, factor: Option<f64>) -> Option<u32> {
    let usual = 2 * 4 * u64::from(dim) / 3;
    let wide = factor.map_or(usual, |factor| (factor * usual as f64) as u64);
    u32::try_from(wide.checked_next_multiple_of(u64::from(multiple))?).ok()
}

/// Positions that it was trained for, which the file does not say: by what does tell the
/// generations apart.
fn context(base: f64, epsilon: f64, scaled: bool) -> i64 {
    match (scaled, base) {
        (true, _) => 131_072,
        (_, 1e6) => 16_384,
        (_, 5e5) => 8192,
        _ if epsilon < 5e-6 => 2048,
        _ => 4096,
    }
}

/// What frequencies are scaled by where the file does not say it: 8 in 3.1 and 3.3, but 32 in the
/// small models of 3.2.
fn usual_factor(dim: u32) -> f64 {
    if dim <= 3072 { 32.0 } else { 8.0 }
}
