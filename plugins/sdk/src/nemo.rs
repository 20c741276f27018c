//! NeMo's dialect: names and configs of Megatron's GPT, of which other families are variants.
//!
//! What a family is shows in three words of the config: how it knows positions, its norm, its
//! activation. The host says them as `nemo:rope-rmsnorm-fast-swiglu`, and a plugin accepts those
//! that are its own. Names are of two ages.

use crate::{
    ABSENT, Field, REQUIRED, Refusal, Setting, SettingValue, Settings, Spelling, default, dotted,
    fixed, flag, integer, number, set, text,
};

/// Names of today, which have norms within the layers behind them.
pub const fn nemo(accepts: &'static [&'static str]) -> Spelling {
    Spelling {
        dialect: "nemo",
        accepts,
        blocks: "model.decoder.layers.",
        names: &[
            ("vocab_embedding", "model.embedding.word_embeddings"),
            ("position_embedding", "model.embedding.position_embeddings"),
            ("ln_f", "model.decoder.final_layernorm"),
            ("lm_head", "model.output_layer"),
            ("input_layernorm.weight", "self_attention.linear_qkv.layer_norm_weight"),
            ("input_layernorm.bias", "self_attention.linear_qkv.layer_norm_bias"),
            ("attention.qkv", "self_attention.linear_qkv"),
            ("attention.dense", "self_attention.linear_proj"),
            ("post_layernorm.weight", "mlp.linear_fc1.layer_norm_weight"),
            ("post_layernorm.bias", "mlp.linear_fc1.layer_norm_bias"),
            ("mlp.fc", "mlp.linear_fc1"),
            ("mlp.gate", "mlp.linear_fc1"),
            ("mlp.proj", "mlp.linear_fc2"),
        ],
        pairs: false,
        grouped: true,
        gated: true,
        unused: UNUSED,
    }
}

/// The names before.
pub const NEMO_OLD: Spelling = Spelling {
    dialect: "nemo-old",
    accepts: &[],
    blocks: "model.language_model.encoder.layers.",
    names: &[
        ("vocab_embedding", "model.language_model.embedding.word_embeddings"),
        ("position_embedding", "model.language_model.embedding.position_embeddings"),
        ("ln_f", "model.language_model.encoder.final_layernorm"),
        ("lm_head", "model.language_model.output_layer"),
        ("attention.qkv", "self_attention.query_key_value"),
        ("attention.dense", "self_attention.dense"),
        ("post_layernorm", "post_attention_layernorm"),
        ("mlp.fc", "mlp.dense_h_to_4h"),
        ("mlp.gate", "mlp.dense_h_to_4h"),
        ("mlp.proj", "mlp.dense_4h_to_h"),
    ],
    pairs: false,
    grouped: true,
    gated: true,
    unused: UNUSED,
};

const UNUSED: &[(&str, &str)] = &[
    ("*_extra_state", "it is about eight-bit training"),
    ("*.inv_freq", "it is computed from the config"),
];

/// What a config may say in one way only.
fn only() -> Vec<(&'static str, SettingValue)> {
    vec![
        ("transformer_block_type", "pre_ln".into()),
        ("qk_layernorm", false.into()),
        ("headscale", false.into()),
        ("rotary_interleaved", false.into()),
        ("attention_type", "multihead".into()),
        ("num_moe_experts", 0.into()),
    ]
}

/// What is read of a `model_config.yaml`.
#[inline(never)]
pub fn nemo_fields() -> Vec<Field> {
    let mut all = vec![
        integer("num_layers", REQUIRED, "Blocks."),
        integer("hidden_size", REQUIRED, "Width between blocks."),
        integer("ffn_hidden_size", REQUIRED, "Width inside feed-forward layers."),
        integer("num_attention_heads", REQUIRED, "Query heads."),
        integer("num_query_groups", ABSENT, "Key and value heads; as many as queries if not said."),
        integer("kv_channels", ABSENT, "Width of a head; the heads share the width if not said."),
        integer("vocab_size", REQUIRED, "Entries of the vocabulary, with padding."),
        integer("max_position_embeddings", REQUIRED, "Positions that it was trained for."),
        number("layernorm_epsilon", default(1e-5), "What keeps norms from dividing by zero."),
        flag("bias", default(true), "Whether layers have biases."),
        flag(
            "share_embeddings_and_output_weights",
            default(true),
            "Whether the head is the table.",
        ),
        number("rotary_base", default(1e4), "Rotary base."),
        number("rotary_percentage", default(1.0), "How much of a head turns."),
        number("seq_len_interpolation_factor", ABSENT, "By how much positions are shrunk."),
        flag("scale_positional_embedding", default(false), "Whether frequencies are Llama 3.1's."),
        flag("layernorm_zero_centered_gamma", default(false), "Whether gains are stored less one."),
        flag("bias_activation_fusion", default(true), "Whether training joined them in one step."),
        text("activation", default("gelu"), "Activation of feed-forward layers."),
        text("normalization", default("layernorm"), "Of which kind norms are."),
        text("position_embedding_type", default("learned_absolute"), "How positions are known."),
    ];
    all.append(&mut fixed(&only()));
    all
}

/// The same in HuggingFace's words, for an architecture whose gains are stored less one or not.
#[inline(never)]
pub fn nemo_settings(source: &Settings, less_one: bool) -> Result<Vec<Setting>, Refusal> {
    source.check_fixed(&only())?;
    source.check_fixed(&[("layernorm_zero_centered_gamma", less_one.into())])?;
    let tied: bool = source.get("share_embeddings_and_output_weights")?;
    let activation: String = source.get("activation")?;
    let activation = match activation.as_str() {
        "fast-swiglu" | "swiglu" => "silu",
        "fast-geglu" | "geglu" => "gelu_pytorch_tanh",
        "squared-relu" => "relu2",
        "openai-gelu" => "gelu_new",
        // In one step with the bias it is the approximation.
        "gelu" if source.get("bias_activation_fusion")? => "gelu_new",
        other => other,
    };
    let mut all = vec![
        set("hidden_act", SettingValue::from(activation)),
        set("hidden_activation", SettingValue::from(activation)),
        set("tie_word_embeddings", SettingValue::from(tied)),
        set("tensor:lm_head.weight", SettingValue::from(!tied)),
    ];
    for (ours, theirs) in [
        ("hidden_size", "hidden_size"),
        ("num_hidden_layers", "num_layers"),
        ("intermediate_size", "ffn_hidden_size"),
        ("num_attention_heads", "num_attention_heads"),
        ("num_key_value_heads", "num_query_groups"),
        ("head_dim", "kv_channels"),
        ("vocab_size", "vocab_size"),
        ("max_position_embeddings", "max_position_embeddings"),
        ("rms_norm_eps", "layernorm_epsilon"),
        ("rope_theta", "rotary_base"),
        ("attention_bias", "bias"),
        ("mlp_bias", "bias"),
    ] {
        all.push(set(ours, source.value(theirs).cloned()));
    }
    let part: f64 = source.get("rotary_percentage")?;
    if part != 1.0 {
        all.push(set("partial_rotary_factor", SettingValue::from(part)));
    }
    let mut scaling = |parts: &[(&str, SettingValue)]| {
        let parts = parts.iter();
        all.extend(parts.map(|(part, value)| set(&dotted("rope_scaling", part), value.clone())));
    };
    if let Some(factor) = source.positive("seq_len_interpolation_factor")? {
        scaling(&[("rope_type", "linear".into()), ("factor", factor.into())]);
    } else if source.get("scale_positional_embedding")? {
        scaling(&[
            ("rope_type", "llama3".into()),
            ("factor", 8.0.into()),
            ("low_freq_factor", 1.0.into()),
            ("high_freq_factor", 4.0.into()),
            ("original_max_position_embeddings", 8192.into()),
        ]);
    }
    Ok(all)
}
