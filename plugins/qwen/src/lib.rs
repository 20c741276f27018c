//! Qwen 2 and 3: Llama's block with biases on queries, keys and values (2) or norms of their heads
//! (3), and windows in the later blocks of some models.

use engraft_plugin_sdk::*;

struct Qwen;

impl Architecture for Qwen {
    type Model = Decoder;
    const NAME: &str = "qwen";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["Qwen2ForCausalLM", "Qwen3ForCausalLM"];
    const DIALECTS: &[&str] = &["hugging-face"];
    const DOC: &str = "Qwen 2 and 3.";

    fn own() -> Vec<Field> {
        let bias = "Whether queries, keys and values have biases.";
        [Windows::fields(), vec![flag("attn_bias", default(true), bias)]].concat()
    }

    fn source_own() -> Vec<Field> {
        vec![
            flag("use_sliding_window", default(false), "Whether any block has a window."),
            integer("max_window_layers", default(28), "The first block that has one."),
        ]
    }

    fn only() -> Vec<(&'static str, SettingValue)> {
        vec![("attention_bias", false.into())]
    }

    fn says() -> Vec<(&'static str, SettingValue)> {
        vec![("mlp_bias", false.into())]
    }

    fn settle(source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        base.qk_norm = source.architecture(Self::ACCEPTS)? == "Qwen3ForCausalLM";
        let first: i64 = source.get("max_window_layers")?;
        let windows = match source.get("use_sliding_window")? {
            true => Windows::configure(source, base, |i| i64::from(i) >= first)?,
            false => Vec::new(),
        };
        let bias = set("attn_bias", SettingValue::Flag(!base.qk_norm));
        Ok([windows, vec![bias]].concat())
    }

    fn open(config: &Settings) -> Result<Decoder, Refusal> {
        let base = Base::open_normed(config)?;
        Ok(Decoder {
            windows: Windows::open(config, &base)?,
            bias: Biases { qkv: config.get("attn_bias")?, ..Biases::default() },
            rope: Some(Rope::open(config)?),
            ..Decoder::new(base)
        })
    }
}

export!(Qwen);
