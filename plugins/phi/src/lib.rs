//! Phi 1 and 2: one layer norm before attention and the feed-forward layer beside it, biases
//! everywhere, in the head too; a part of each head turns.

use engraft_plugin_sdk::*;

struct Phi;

impl Architecture for Phi {
    type Model = Decoder;
    const NAME: &str = "phi";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["PhiForCausalLM"];
    const DOC: &str = "Phi 1 and 2.";
    const GGUF: &[(&str, &str)] = &[("gguf:phi2", "PhiForCausalLM")];
    const GGUF_NAMES: &[(&str, &str)] = &[GGUF_LAYER_NORM];
    const NAMES: &[(&str, &str)] = &[("rms_norm_eps", "layer_norm_eps")];
    const ROTARY_PART: bool = true;

    fn defaults() -> Vec<(&'static str, Fallback)> {
        let part = ("rope_parameters.partial_rotary_factor", default(0.5));
        [layer_norm_defaults("gelu_new", false), vec![part]].concat()
    }

    fn only() -> Vec<(&'static str, SettingValue)> {
        vec![("qk_layernorm", false.into())]
    }

    fn open(config: &Settings) -> Result<Decoder, Refusal> {
        Ok(Decoder {
            names: &[
                ("ln_f", "final_layernorm"),
                ("attention.dense", "self_attn.dense"),
                ("mlp.fc", "mlp.fc1"),
                ("mlp.proj", "mlp.fc2"),
            ],
            norm: Norm::LAYER,
            order: Order::Beside,
            bias: Biases { head: true, ..Biases::BLOCK },
            mlp: Mlp::Plain,
            rope: Some(Rope::open(config)?),
            ..Decoder::new(Base::open(config)?)
        })
    }
}

export!(Phi);
