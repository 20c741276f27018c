//! Nemotron: layer norms with gains stored less one, a part of each head turns, a plain
//! feed-forward layer that squares.

use engraft_plugin_sdk::*;

struct Nemotron;

impl Architecture for Nemotron {
    type Model = Decoder;
    const NAME: &str = "nemotron";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["NemotronForCausalLM"];
    const DOC: &str = "Nemotron and Minitron.";
    const NAMES: &[(&str, &str)] = &[("rms_norm_eps", "norm_eps")];
    const ROTARY_PART: bool = true;

    fn defaults() -> Vec<(&'static str, Fallback)> {
        let part = ("rope_parameters.partial_rotary_factor", default(0.5));
        [layer_norm_defaults("relu2", false), vec![part]].concat()
    }

    fn only() -> Vec<(&'static str, SettingValue)> {
        vec![("attention_bias", false.into()), ("mlp_bias", false.into())]
    }

    fn says() -> Vec<(&'static str, SettingValue)> {
        vec![("gpt_variant", "nemotron".into()), ("bias", false.into())]
    }

    fn settle(_source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        base.activates("relu2", "squared-relu")?;
        Ok(Vec::new())
    }

    fn open(config: &Settings) -> Result<Decoder, Refusal> {
        config.check_fixed(&[("hidden_act", "squared-relu".into())])?;
        let base = Base { activation: "relu2".into(), ..Base::open(config)? };
        Ok(Decoder {
            names: &[("mlp.fc", "mlp.up_proj")],
            norm: Norm::LAYER.less_one(),
            mlp: Mlp::Plain,
            rope: Some(Rope::open(config)?),
            ..Decoder::new(base)
        })
    }
}

export!(Nemotron);
