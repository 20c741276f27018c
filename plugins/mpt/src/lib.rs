//! MPT: slopes instead of positions, layer norms without biases, clamped queries, keys and values.

use engraft_plugin_sdk::*;

struct Mpt;

impl Architecture for Mpt {
    type Model = Decoder;
    const NAME: &str = "mpt";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["MPTForCausalLM", "MptForCausalLM"];
    const DOC: &str = "MPT.";
    const GGUF: &[(&str, &str)] = &[("gguf:mpt", "MPTForCausalLM")];
    const GGUF_NAMES: &[(&str, &str)] = &[
        GGUF_LAYER_NORM,
        ("clip_qkv", "attention.clamp_kqv"),
        ("alibi_bias_max", "attention.max_alibi_bias"),
    ];
    const NAMES: &[(&str, &str)] = &[
        ("num_hidden_layers", "n_layers"),
        ("hidden_size", "d_model"),
        ("num_attention_heads", "n_heads"),
        ("max_position_embeddings", "max_seq_len"),
        ("rms_norm_eps", "layer_norm_epsilon"),
        ("clip_qkv", "attn_config.clip_qkv"),
        ("alibi_bias_max", "attn_config.alibi_bias_max"),
    ];
    const POSITIONS: &str = "alibi";

    fn own() -> Vec<Field> {
        vec![
            number("clip_qkv", ABSENT, "What queries, keys and values are clamped to."),
            number("alibi_bias_max", default(8.0), "How small slopes become: two to minus this."),
        ]
    }

    fn source_own() -> Vec<Field> {
        let inert = "It changes nothing here.";
        let numbers = ["attn_config.attn_pdrop", "emb_pdrop", "embedding_fraction", "verbose"];
        let texts = ["attn_config.attn_impl", "attn_config.model_type", "init_device"];
        let others = [
            integer("expansion_ratio", ABSENT, "Not what it says: the inner width is four times."),
            flag("learned_pos_emb", ABSENT, inert),
            text("tokenizer_name", ABSENT, inert),
        ];
        let numbers = numbers.map(|path| number(path, ABSENT, inert));
        numbers
            .into_iter()
            .chain(texts.map(|path| text(path, ABSENT, inert)))
            .chain(others)
            .collect()
    }

    fn defaults() -> Vec<(&'static str, Fallback)> {
        gpt_defaults("gelu", true)
    }

    fn only() -> Vec<(&'static str, SettingValue)> {
        vec![
            ("attn_config.alibi", true.into()),
            ("attn_config.attn_type", "multihead_attention".into()),
            ("attn_config.attn_uses_sequence_id", false.into()),
            ("attn_config.prefix_lm", false.into()),
            ("attn_config.qk_ln", false.into()),
            ("no_bias", true.into()),
            ("norm_type", "low_precision_layernorm".into()),
        ]
    }

    fn says() -> Vec<(&'static str, SettingValue)> {
        vec![("bias", false.into())]
    }

    /// transformers does not heed the config's `alibi_bias_max`; GGUF's counts, and a checkpoint's.
    fn settle(source: &Settings, _base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        let said = source.positive("alibi_bias_max")?.filter(|_| source.is_gguf());
        Ok(vec![
            set("architecture", SettingValue::from(Self::ACCEPTS[0])),
            set("clip_qkv", source.value("clip_qkv").cloned()),
            set("alibi_bias_max", SettingValue::Number(said.unwrap_or(8.0))),
        ])
    }

    fn open(config: &Settings) -> Result<Decoder, Refusal> {
        let base = Base::open(config)?;
        Ok(Decoder {
            names: &[
                ("layers", "blocks"),
                ("ln_f", "norm_f"),
                ("input_layernorm", "norm_1"),
                ("attention.qkv", "attn.Wqkv"),
                ("attention.dense", "attn.out_proj"),
                ("post_layernorm", "norm_2"),
                ("mlp.fc", "ffn.up_proj"),
                ("mlp.proj", "ffn.down_proj"),
            ],
            norm: Norm::LAYER.unbiased(),
            qkv: Qkv::Together { groups: 1 },
            slopes: slopes(base.heads, config.get("alibi_bias_max")?),
            clip: config.positive("clip_qkv")?,
            ..Decoder::gpt(base)
        })
    }
}

/// Those of the power of two above; where there are more than heads, every other one first.
fn slopes(heads: u32, max: f64) -> Vec<f64> {
    let whole = heads.next_power_of_two();
    let all = alibi_slopes(whole, max);
    if whole == heads {
        return all;
    }
    let every_other = |from: usize| all.iter().skip(from).step_by(2).copied();
    every_other(1).chain(every_other(0)).take(heads as usize).collect()
}

export!(Mpt);
