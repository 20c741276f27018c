//! Llama 1 to 3, and SmolLM3, which is Llama with some blocks that do not rotate.

use engraft_plugin_sdk::*;

mod meta;

struct Llama {
    decoder: Decoder,
    /// A zero for each block that does not rotate; empty where all do.
    rotates: Vec<i64>,
}

impl Architecture for Llama {
    type Model = Llama;
    const NAME: &str = "llama";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["LlamaForCausalLM", "SmolLM3ForCausalLM"];
    const DOC: &str = "Llama 1 to 3 and SmolLM3.";
    const GGUF: &[(&str, &str)] = &[("gguf:llama", "LlamaForCausalLM")];
    const GGUF_NAMES: &[(&str, &str)] = &[
        ("attention_bias", "tensor:blk.0.attn_q.bias"),
        ("mlp_bias", "tensor:blk.0.ffn_gate.bias"),
        ("num_local_experts", "expert_count"),
    ];

    const SPELLINGS: &[Spelling] = &[
        meta::SPELLING,
        nemo(&["nemo:rope-rmsnorm-fast-swiglu", "nemo:rope-rmsnorm-swiglu"]),
        NEMO_OLD,
    ];

    fn spelled_fields(dialect: &str) -> Vec<Field> {
        if dialect == meta::SPELLING.dialect { meta::fields() } else { nemo_fields() }
    }

    fn spelled_settings(dialect: &str, source: &Settings) -> Result<Vec<Setting>, Refusal> {
        match dialect == meta::SPELLING.dialect {
            true => meta::settings(source),
            false => nemo_settings(source, false),
        }
    }

    fn own() -> Vec<Field> {
        vec![
            flag("mlp_bias", default(false), "Whether feed-forward layers have biases."),
            integers("no_rope_layers", ABSENT, "A zero for each block that does not rotate."),
        ]
    }

    fn source_own() -> Vec<Field> {
        vec![
            flag("attention_bias", default(false), "Whether attention's layers have biases."),
            integer("no_rope_layer_interval", default(4), "SmolLM3: every how many one does not."),
        ]
    }

    fn checkpoint_own() -> Vec<Field> {
        vec![flag("attn_bias", default(false), "Whether attention's layers have biases.")]
    }

    fn only() -> Vec<(&'static str, SettingValue)> {
        vec![
            ("use_sliding_window", false.into()),
            ("layer_types", vec!["full_attention".to_string()].into()),
            ("num_local_experts", 0.into()),
        ]
    }

    fn says() -> Vec<(&'static str, SettingValue)> {
        vec![("residual_mlp", false.into()), ("moe.num_experts", 0.into())]
    }

    fn settle(source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        if base.rotated != base.head_width {
            return source.refuse("partial_rotary_factor", "is not supported: whole heads turn");
        }
        let mut rotates: Option<Vec<i64>> = source.find("no_rope_layers")?;
        let mut own = vec![
            set("attn_bias", source.value("attention_bias").cloned()),
            set("mlp_bias", source.value("mlp_bias").cloned()),
        ];
        if source.architecture(Self::ACCEPTS)? == "SmolLM3ForCausalLM" {
            let interval: u32 = source.get("no_rope_layer_interval")?;
            let rule = || (1..=base.blocks).map(|n| (n % interval != 0).into()).collect();
            rotates = Some(rotates.unwrap_or_else(rule));
            let turns = Rope::base(source)?.unwrap_or(2e6);
            own.push(set("rotary_base", SettingValue::Number(turns)));
        }
        own.push(set("no_rope_layers", rotates.map(SettingValue::Integers)));
        Ok(own)
    }

    fn open(config: &Settings) -> Result<Llama, Refusal> {
        let base = Base::open(config)?;
        let rotates: Vec<i64> = config.find("no_rope_layers")?.unwrap_or_default();
        if !rotates.is_empty() && rotates.len() != base.blocks as usize {
            return refuse("no_rope_layers", format!("{} of {}", rotates.len(), base.blocks));
        }
        let decoder = Decoder {
            gguf_pairs: true,
            bias: Biases::new(config.get("attn_bias")?, config.get("mlp_bias")?),
            rope: Some(Rope::open(config)?),
            ..Decoder::new(base)
        };
        Ok(Llama { decoder, rotates })
    }
}

impl Model for Llama {
    fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    fn scores(&self, i: u32) -> Scores<'_> {
        let mut scores = self.decoder.scores(i);
        if self.rotates.get(i as usize) == Some(&0) {
            scores.rope = None;
        }
        scores
    }
}

export!(Llama);
