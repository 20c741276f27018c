//! GPT-J: one layer norm before attention and the feed-forward layer beside it; neighbours turn
//! together in a part of each head.

use engraft_plugin_sdk::*;

struct GptJ;

impl Architecture for GptJ {
    type Model = Decoder;
    const NAME: &str = "gptj";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["GPTJForCausalLM"];
    const DOC: &str = "GPT-J.";
    const NAMES: &[(&str, &str)] = GPT_NAMES;
    const POSITIONS: &str = "rope_gptj";

    fn checkpoint_own() -> Vec<Field> {
        vec![integer("rotary_dim", default(64), "Leading elements of a head that turn.")]
    }

    fn defaults() -> Vec<(&'static str, Fallback)> {
        [gpt_defaults("gelu_new", false), vec![("rotary_dim", default(64))]].concat()
    }

    fn only() -> Vec<(&'static str, SettingValue)> {
        vec![("scale_attn_weights", true.into()), ("rotary", true.into())]
    }

    fn settle(_source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        Ok(vec![set("rotary_dim", SettingValue::from(base.rotated))])
    }

    fn open(config: &Settings) -> Result<Decoder, Refusal> {
        Ok(Decoder {
            names: &[
                ("attention.dense", "attn.out_proj"),
                ("mlp.fc", "mlp.fc_in"),
                ("mlp.proj", "mlp.fc_out"),
            ],
            order: Order::Beside,
            bias: Biases { mlp: true, head: true, ..Biases::default() },
            masks: &["*.attn.bias", "*.attn.masked_bias"],
            rope: Some(Rope::open(config)?.interleaved()),
            ..Decoder::gpt(Base::open(config)?)
        })
    }
}

export!(GptJ);
