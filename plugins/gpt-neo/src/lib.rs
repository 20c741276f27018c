//! GPT-Neo: learned positions, layer norms, scores that are not scaled, a window in some blocks.

use engraft_plugin_sdk::*;

struct GptNeo;

const LAYERS: &str = "attention_layers";

impl Architecture for GptNeo {
    type Model = Decoder;
    const NAME: &str = "gpt-neo";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["GPTNeoForCausalLM"];
    const DOC: &str = "GPT-Neo.";
    const NAMES: &[(&str, &str)] = &[
        ("num_hidden_layers", "num_layers"),
        ("num_attention_heads", "num_heads"),
        ("sliding_window", "window_size"),
        ("rms_norm_eps", "layer_norm_epsilon"),
        ("hidden_act", "activation_function"),
    ];
    const POSITIONS: &str = "learned_absolute";

    fn own() -> Vec<Field> {
        Windows::fields()
    }

    fn source_own() -> Vec<Field> {
        let dropouts = ["embed_dropout", "resid_dropout", "classifier_dropout"];
        let layers = texts(LAYERS, REQUIRED, "Blocks that are `global`, those that are `local`.");
        dropouts
            .map(|path| number(path, ABSENT, "Of training."))
            .into_iter()
            .chain([layers])
            .collect()
    }

    fn defaults() -> Vec<(&'static str, Fallback)> {
        [gpt_defaults("gelu_new", true), vec![("sliding_window", default(256))]].concat()
    }

    fn settle(source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        let kinds: Vec<String> = source.get(LAYERS)?;
        if kinds.len() != base.blocks as usize {
            return refuse(LAYERS, format!("{} of {}", kinds.len(), base.blocks));
        }
        if let Some(other) = kinds.iter().find(|kind| !["global", "local"].contains(&kind.as_str()))
        {
            return refuse(LAYERS, format!("`{other}` is not supported"));
        }
        Windows::configure(source, base, |i| kinds[i as usize] == "local")
    }

    fn open(config: &Settings) -> Result<Decoder, Refusal> {
        let base = Base::open(config)?;
        Ok(Decoder {
            names: &[
                ("attention.q", "attn.attention.q_proj"),
                ("attention.k", "attn.attention.k_proj"),
                ("attention.v", "attn.attention.v_proj"),
                ("attention.dense", "attn.attention.out_proj"),
            ],
            bias: Biases { dense: true, mlp: true, ..Biases::default() },
            learned: Some(0),
            masks: &["*.attn.attention.bias", "*.attn.attention.masked_bias"],
            windows: Windows::open(config, &base)?,
            scale: Some(1.0),
            ..Decoder::gpt(base)
        })
    }
}

export!(GptNeo);
