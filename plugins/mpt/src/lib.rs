//! MPT: slopes instead of positions, layer norms without biases, clamped queries, keys and values.

use engraft_plugin_sdk::*;

struct Mpt {
    base: Base,
    slopes: Vec<f64>,
    clip: Option<f64>,
}

impl Architecture for Mpt {
    type Model = Mpt;
    const NAME: &str = "mpt";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["MPTForCausalLM", "MptForCausalLM"];
    const DIALECTS: &[&str] = &["hugging-face"];
    const DOC: &str = "MPT.";
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
        let number = |path| number(path, ABSENT, inert);
        vec![
            integer("expansion_ratio", ABSENT, "Not what it says: the inner width is four times."),
            number("attn_config.attn_pdrop"),
            number("emb_pdrop"),
            number("embedding_fraction"),
            number("verbose"),
            text("attn_config.attn_impl", ABSENT, inert),
            text("attn_config.model_type", ABSENT, inert),
            text("init_device", ABSENT, inert),
            flag("learned_pos_emb", ABSENT, inert),
        ]
    }

    fn defaults() -> Vec<(&'static str, Fallback)> {
        vec![
            ("intermediate_size", ABSENT),
            ("rms_norm_eps", default(1e-5)),
            ("hidden_act", default("gelu")),
            ("tie_word_embeddings", default(true)),
        ]
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

    /// transformers does not heed the config's `alibi_bias_max`; a checkpoint's counts.
    fn settle(source: &Settings, _base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        Ok(vec![
            set("architecture", SettingValue::from(Self::ACCEPTS[0])),
            set("clip_qkv", source.value("clip_qkv").cloned()),
            set("alibi_bias_max", SettingValue::Number(8.0)),
        ])
    }

    fn open(config: &Settings) -> Result<Mpt, Refusal> {
        let base = Base::open(config)?;
        let slopes = slopes(base.heads, config.get("alibi_bias_max")?);
        Ok(Mpt { base, slopes, clip: config.find("clip_qkv")? })
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

impl Model for Mpt {
    fn base(&self) -> &Base {
        &self.base
    }

    fn parameters(&self, at: Place, dialect: &str) -> Vec<Parameter> {
        let base = &self.base;
        let (hidden, q) = (base.width(), base.queries());
        let mut all = Parameters::new(at, dialect).blocks("transformer.blocks");
        match at {
            Place::Embed => all.linear("vocab_embedding", "transformer.wte", base.table(), false),
            Place::Head => {
                all.head("lm_head", base, false).norm("ln_f", "transformer.norm_f", hidden)
            }
            Place::Block(_) => all
                .norm("input_layernorm", "norm_1", hidden)
                .fused_qkv("attn.Wqkv", base, 1, false)
                .linear("attention.dense", "attn.out_proj", [hidden, q], false)
                .norm("post_layernorm", "norm_2", hidden)
                .feed_forward(["ffn.up_proj", "ffn.down_proj"], base, false),
        };
        all.done()
    }

    fn write(&self, g: &Builder, at: Place, carry: Vec<Value>) -> Vec<Value> {
        let base = &self.base;
        let norm = |value, name| g.ln(value, name, false, base.epsilon);
        let clip = |value| self.clip.map_or(value, |bound| g.clamp(value, -bound, bound));
        let x = carry[0];
        vec![match at {
            Place::Embed => g.embedding(x, g.parameter("vocab_embedding.weight")),
            Place::Head => g.dense(norm(x, "ln_f"), "lm_head", false),
            Place::Block(_) => {
                let [q, k, v] = g.qkv(norm(x, "input_layernorm"), base, false).map(clip);
                let attention = base.attention();
                attention.alibi(&self.slopes);
                let a = g.dense(g.attend(q, k, v, &attention), "attention.dense", false);
                let x = g.add(x, a);
                let h = norm(x, "post_layernorm");
                g.add(x, g.feed_forward(h, "mlp", &base.activation, false))
            }
        }]
    }
}

export!(Mpt);
