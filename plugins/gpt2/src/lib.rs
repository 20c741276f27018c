//! GPT-2: learned positions, layer norms, biases everywhere; weights are stored as `[in, out]`.

use engraft_plugin_sdk::*;

struct Gpt2 {
    decoder: Decoder,
    /// Whether the scores of block `i` are divided by `i + 1`.
    inverse: bool,
}

impl Architecture for Gpt2 {
    type Model = Gpt2;
    const NAME: &str = "gpt2";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["GPT2LMHeadModel"];
    const DOC: &str = "GPT-2.";
    const GGUF: &[(&str, &str)] = &[("gguf:gpt2", "GPT2LMHeadModel")];
    const GGUF_NAMES: &[(&str, &str)] = &[GGUF_LAYER_NORM];
    const NAMES: &[(&str, &str)] = GPT_NAMES;
    const POSITIONS: &str = "learned_absolute";
    const SPELLINGS: &[Spelling] = &[
        nemo(&[
            "nemo:learned_absolute-layernorm-gelu",
            "nemo:learned_absolute-layernorm-openai-gelu",
        ]),
        NEMO_OLD,
    ];

    fn spelled_fields(_dialect: &str) -> Vec<Field> {
        nemo_fields()
    }

    fn spelled_settings(_dialect: &str, source: &Settings) -> Result<Vec<Setting>, Refusal> {
        source.check_fixed(&[("bias", true.into())])?;
        nemo_settings(source, false)
    }

    fn own() -> Vec<Field> {
        let inverse = "Whether later blocks divide scores by their number.";
        vec![
            flag("bare_names", default(false), "Whether the source's names lack a prefix."),
            flag("scale_attn_by_inverse_layer_idx", default(false), inverse),
        ]
    }

    fn source_own() -> Vec<Field> {
        vec![flag("reorder_and_upcast_attn", ABSENT, "In which type training computed scores.")]
    }

    fn defaults() -> Vec<(&'static str, Fallback)> {
        gpt_defaults("gelu_new", true)
    }

    fn only() -> Vec<(&'static str, SettingValue)> {
        vec![("scale_attn_weights", true.into())]
    }

    fn says() -> Vec<(&'static str, SettingValue)> {
        vec![("gpt_variant", "gpt2".into()), ("bias", true.into())]
    }

    fn open(config: &Settings) -> Result<Gpt2, Refusal> {
        let decoder = Decoder {
            prefix: if config.get("bare_names")? { "" } else { "transformer." },
            transposed: true,
            qkv: Qkv::Together { groups: 1 },
            bias: Biases::BLOCK,
            learned: Some(0),
            masks: &["*h.*.attn.bias", "*.attn.masked_bias"],
            ..Decoder::gpt(Base::open(config)?)
        };
        Ok(Gpt2 { decoder, inverse: config.get("scale_attn_by_inverse_layer_idx")? })
    }
}

impl Model for Gpt2 {
    fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    fn scores(&self, i: u32) -> Scores<'_> {
        let root = f64::from(self.decoder.base.head_width).sqrt();
        let scale = self.inverse.then(|| 1.0 / root / f64::from(i + 1));
        Scores { scale, ..self.decoder.scores(i) }
    }
}

export!(Gpt2);
