//! GPT-J: one layer norm before attention and the feed-forward layer beside it; neighbours turn
//! together in a part of each head.

use engraft_plugin_sdk::*;

struct GptJ(Decoder);

impl Architecture for GptJ {
    type Model = GptJ;
    const NAME: &str = "gptj";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["GPTJForCausalLM"];
    const DIALECTS: &[&str] = &["hugging-face"];
    const DOC: &str = "GPT-J.";
    const NAMES: &[(&str, &str)] = GPT_NAMES;
    const POSITIONS: &str = "rope_gptj";

    fn checkpoint_own() -> Vec<Field> {
        vec![integer("rotary_dim", default(64), "Leading elements of a head that turn.")]
    }

    fn defaults() -> Vec<(&'static str, Fallback)> {
        vec![
            ("intermediate_size", ABSENT),
            ("rotary_dim", default(64)),
            ("rms_norm_eps", default(1e-5)),
            ("hidden_act", default("gelu_new")),
            ("tie_word_embeddings", default(false)),
        ]
    }

    fn only() -> Vec<(&'static str, SettingValue)> {
        vec![("scale_attn_weights", true.into()), ("rotary", true.into())]
    }

    fn settle(_source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        Ok(vec![set("rotary_dim", SettingValue::from(base.rotated))])
    }

    fn open(config: &Settings) -> Result<GptJ, Refusal> {
        Ok(GptJ(Decoder {
            prefix: "transformer.",
            names: &[
                ("vocab_embedding", "wte"),
                ("layers", "h"),
                ("ln_f", "ln_f"),
                ("input_layernorm", "ln_1"),
                ("attention.q", "attn.q_proj"),
                ("attention.k", "attn.k_proj"),
                ("attention.v", "attn.v_proj"),
                ("attention.dense", "attn.out_proj"),
                ("mlp.fc", "mlp.fc_in"),
                ("mlp.proj", "mlp.fc_out"),
            ],
            norm: Norm::LAYER,
            order: Order::Beside,
            bias: Biases { mlp: true, head: true, ..Biases::default() },
            mlp: Mlp::Plain,
            rope: Some(Rope::open(config)?.interleaved()),
            ..Decoder::new(Base::open(config)?)
        }))
    }
}

impl Model for GptJ {
    fn decoder(&self) -> &Decoder {
        &self.0
    }

    fn unused(&self, dialect: &str) -> Vec<(String, String)> {
        self.0.unused_masks(dialect, ["*.attn.bias", "*.attn.masked_bias"])
    }
}

export!(GptJ);
