//! StarCoder 2: layer norms, biases everywhere, a plain feed-forward layer, a window.

use engraft_plugin_sdk::*;

struct StarCoder2;

impl Architecture for StarCoder2 {
    type Model = Decoder;
    const NAME: &str = "starcoder2";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["Starcoder2ForCausalLM"];
    const DOC: &str = "StarCoder 2.";
    const GGUF: &[(&str, &str)] = &[("gguf:starcoder2", "Starcoder2ForCausalLM")];
    const GGUF_NAMES: &[(&str, &str)] = &[GGUF_LAYER_NORM, ("bias", "tensor:blk.0.attn_q.bias")];
    const NAMES: &[(&str, &str)] = &[("rms_norm_eps", "norm_epsilon"), ("bias", "use_bias")];

    fn own() -> Vec<Field> {
        let bias = flag("bias", default(true), "Whether linear layers have biases.");
        [Windows::fields(), vec![bias]].concat()
    }

    fn source_own() -> Vec<Field> {
        let unread = "Of the model before it; transformers does not read it.";
        vec![
            number("residual_dropout", ABSENT, "Of training."),
            number("layer_norm_epsilon", ABSENT, unread),
            text("activation_function", ABSENT, unread),
            flag("attention_softmax_in_fp32", ABSENT, unread),
            flag("scale_attention_softmax_in_fp32", ABSENT, unread),
        ]
    }

    fn defaults() -> Vec<(&'static str, Fallback)> {
        layer_norm_defaults("gelu_pytorch_tanh", true)
    }

    fn only() -> Vec<(&'static str, SettingValue)> {
        vec![
            ("mlp_type", "default".into()),
            ("norm_type", "layer_norm".into()),
            ("scale_attn_weights", true.into()),
        ]
    }

    fn says() -> Vec<(&'static str, SettingValue)> {
        vec![("gpt_variant", "starcoder2".into())]
    }

    fn settle(source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        let bias = set("bias", source.value("bias").cloned());
        Ok([Windows::configure(source, base, |_| true)?, vec![bias]].concat())
    }

    fn open(config: &Settings) -> Result<Decoder, Refusal> {
        let (base, bias) = (Base::open(config)?, config.get("bias")?);
        Ok(Decoder {
            names: &[("mlp.fc", "mlp.c_fc"), ("mlp.proj", "mlp.c_proj")],
            norm: Norm::LAYER,
            bias: Biases::new(bias, bias),
            mlp: Mlp::Plain,
            windows: Windows::open(config, &base)?,
            rope: Some(Rope::open(config)?),
            ..Decoder::new(base)
        })
    }
}

export!(StarCoder2);
