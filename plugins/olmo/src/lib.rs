//! OLMo 1: Llama's block with layer norms that have no parameters, and clamped queries, keys and
//! values.

use engraft_plugin_sdk::*;

struct Olmo;

impl Architecture for Olmo {
    type Model = Decoder;
    const NAME: &str = "olmo";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["OlmoForCausalLM"];
    const DOC: &str = "OLMo 1.";

    fn own() -> Vec<Field> {
        vec![number("clip_qkv", ABSENT, "What queries, keys and values are clamped to.")]
    }

    fn defaults() -> Vec<(&'static str, Fallback)> {
        vec![("rms_norm_eps", default(1e-5)), ("tie_word_embeddings", default(false))]
    }

    fn only() -> Vec<(&'static str, SettingValue)> {
        vec![("attention_bias", false.into())]
    }

    fn open(config: &Settings) -> Result<Decoder, Refusal> {
        Ok(Decoder {
            norm: Norm::LAYER.bare(),
            clip: config.positive("clip_qkv")?,
            rope: Some(Rope::open(config)?),
            ..Decoder::new(Base::open(config)?)
        })
    }
}

export!(Olmo);
