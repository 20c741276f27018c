//! Gemma 1: Llama's block with gains stored less one, and a scaled embedding.

use engraft_plugin_sdk::*;

struct Gemma;

impl Architecture for Gemma {
    type Model = Decoder;
    const NAME: &str = "gemma";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["GemmaForCausalLM"];
    const DOC: &str = "Gemma 1.";
    const GGUF: &[(&str, &str)] = &[("gguf:gemma", "GemmaForCausalLM")];
    const SPELLINGS: &[Spelling] =
        &[JAX, nemo(&["nemo:rope-rmsnorm-fast-geglu", "nemo:rope-rmsnorm-geglu"]), NEMO_OLD];

    fn spelled_fields(dialect: &str) -> Vec<Field> {
        if dialect == JAX.dialect { Self::source_fields() } else { nemo_fields() }
    }

    fn spelled_settings(dialect: &str, source: &Settings) -> Result<Vec<Setting>, Refusal> {
        match dialect == JAX.dialect {
            true => Ok(source.carry(&Self::source_fields())),
            false => nemo_settings(source, true),
        }
    }

    fn defaults() -> Vec<(&'static str, Fallback)> {
        // Older configs say `gelu` in `hidden_act`, and mean this.
        vec![
            ("hidden_activation", default("gelu_pytorch_tanh")),
            ("tie_word_embeddings", default(true)),
        ]
    }

    fn only() -> Vec<(&'static str, SettingValue)> {
        vec![("attention_bias", false.into())]
    }

    fn says() -> Vec<(&'static str, SettingValue)> {
        vec![("attn_bias", false.into()), ("mlp_bias", false.into())]
    }

    fn open(config: &Settings) -> Result<Decoder, Refusal> {
        let base = Base::open(config)?;
        Ok(Decoder {
            norm: Norm::RMS.less_one(),
            embedding: f64::from(base.hidden).sqrt(),
            rope: Some(Rope::open(config)?),
            spelled: Some(jax_part),
            ..Decoder::new(base)
        })
    }
}

export!(Gemma);
