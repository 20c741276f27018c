//! GLM and GLM-4: neighbours of a part of each head turn, gate and input of the feed-forward layer
//! are in one tensor; the later ones have norms before and after each layer.

use engraft_plugin_sdk::*;

struct Glm;

const FOURTH: &str = "Glm4ForCausalLM";
const AROUND: &str = "inter_layernorms";

impl Architecture for Glm {
    type Model = Decoder;
    const NAME: &str = "glm";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["GlmForCausalLM", FOURTH];
    const DOC: &str = "GLM and GLM-4.";
    const POSITIONS: &str = "rope_gptj";

    fn source_own() -> Vec<Field> {
        vec![flag("attention_bias", default(false), "Whether queries, keys, values have biases.")]
    }

    fn checkpoint_own() -> Vec<Field> {
        vec![
            flag("attn_bias", default(false), "Whether queries, keys and values have biases."),
            flag(AROUND, default(false), "Whether there are norms after layers too."),
        ]
    }

    fn defaults() -> Vec<(&'static str, Fallback)> {
        vec![
            ("rms_norm_eps", default(1.5625e-7)),
            ("partial_rotary_factor", default(0.5)),
            ("tie_word_embeddings", default(false)),
        ]
    }

    fn settle(source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        base.activates("silu", "swiglu")?;
        let around = source.architecture(Self::ACCEPTS)? == FOURTH;
        Ok(vec![
            set("attn_bias", source.value("attention_bias").cloned()),
            set(AROUND, SettingValue::Flag(around)),
        ])
    }

    fn open(config: &Settings) -> Result<Decoder, Refusal> {
        config.check_fixed(&[("hidden_act", "swiglu".into())])?;
        let mut decoder = Decoder {
            names: &[("mlp.fc", "mlp.gate_up_proj")],
            bias: Biases { qkv: config.get("attn_bias")?, ..Biases::default() },
            mlp: Mlp::GatedTogether,
            rope: Some(Rope::open(config)?.interleaved()),
            ..Decoder::new(Base::open(config)?)
        };
        if config.get(AROUND)? {
            decoder.order = Order::Around;
            decoder.names = &[
                ("mlp.fc", "mlp.gate_up_proj"),
                ("post_layernorm", "post_self_attn_layernorm"),
                ("pre_feedforward_layernorm", "post_attention_layernorm"),
                ("post_feedforward_layernorm", "post_mlp_layernorm"),
            ];
        }
        Ok(decoder)
    }
}

export!(Glm);
