//! Gemma 1: Llama's block with gains stored less one, and a scaled embedding.

use engraft_plugin_sdk::*;

struct Gemma(Decoder);

impl Architecture for Gemma {
    type Model = Gemma;
    const NAME: &str = "gemma";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["GemmaForCausalLM"];
    const DIALECTS: &[&str] = &["hugging-face"];
    const DOC: &str = "Gemma 1.";

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

    fn open(config: &Settings) -> Result<Gemma, Refusal> {
        Ok(Gemma(Decoder {
            norm: Norm::RMS.less_one(),
            rope: Some(Rope::open(config)?),
            ..Decoder::new(Base::open(config)?)
        }))
    }
}

impl Model for Gemma {
    fn decoder(&self) -> &Decoder {
        &self.0
    }

    fn embed(&self, n: &Net, tokens: Value) -> Value {
        n.scale(n.embedding(tokens), f64::from(self.0.base.hidden).sqrt())
    }
}

export!(Gemma);
