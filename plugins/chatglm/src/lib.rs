//! ChatGLM 2 and 3, and GLM-4 with the code that came with it: neighbours of each head's first
//! half turn; queries, keys and values in one tensor, gate and input of the feed-forward layer in
//! another.

use engraft_plugin_sdk::*;

struct ChatGlm;

const VERSION_FIELD: &str = "chatglm_version";

impl Architecture for ChatGlm {
    type Model = Decoder;
    const NAME: &str = "chatglm";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["ChatGLMModel", "ChatGLMForConditionalGeneration"];
    const DOC: &str = "ChatGLM 2 and 3, and GLM-4 as its first checkpoints have it.";
    const NAMES: &[(&str, &str)] = &[
        ("num_hidden_layers", "num_layers"),
        ("intermediate_size", "ffn_hidden_size"),
        ("num_key_value_heads", "multi_query_group_num"),
        ("head_dim", "kv_channels"),
        ("vocab_size", "padded_vocab_size"),
        ("max_position_embeddings", "seq_length"),
        ("rms_norm_eps", "layernorm_epsilon"),
        ("tensor:lm_head.weight", "tensor:transformer.output_layer.weight"),
    ];
    const POSITIONS: &str = "rope_gptj";
    const ROTARY_PART: bool = true;

    fn own() -> Vec<Field> {
        vec![
            flag("add_bias_linear", default(false), "Whether layers but the first have biases."),
            flag("add_qkv_bias", default(true), "Whether queries, keys and values have biases."),
        ]
    }

    fn source_own() -> Vec<Field> {
        let inert = "It changes nothing here.";
        let flag = |path, fallback| flag(path, fallback, inert);
        vec![
            number("rope_ratio", default(1.0), "How many times further than 8192 positions."),
            text("_name_or_path", default(""), "Tells ChatGLM 2, which divides positions."),
            flag("multi_query_attention", default(true)),
            flag("apply_query_key_layer_scaling", ABSENT),
            flag("attention_softmax_in_fp32", ABSENT),
            flag("bias_dropout_fusion", ABSENT),
            flag("fp32_residual_connection", ABSENT),
            flag("original_rope", ABSENT),
            flag("prefix_projection", ABSENT),
        ]
    }

    fn checkpoint_own() -> Vec<Field> {
        vec![text(VERSION_FIELD, default("chatglm3"), "Which of the family it is.")]
    }

    fn defaults() -> Vec<(&'static str, Fallback)> {
        vec![("rms_norm_eps", default(1e-5)), ("tie_word_embeddings", default(false))]
    }

    fn only() -> Vec<(&'static str, SettingValue)> {
        vec![
            ("post_layer_norm", true.into()),
            ("apply_residual_connection_post_layernorm", false.into()),
            ("rmsnorm", true.into()),
            ("pre_seq_len", 0.into()),
            ("quantization_bit", 0.into()),
        ]
    }

    fn says() -> Vec<(&'static str, SettingValue)> {
        vec![("apply_residual_connection_post_layernorm", false.into()), ("rmsnorm", true.into())]
    }

    fn settle(source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        base.activates("silu", "swiglu")?;
        base.rotated = base.head_width / 2;
        if !source.get::<bool>("multi_query_attention")? {
            base.key_heads = base.heads;
        }
        let mut own = source.carry(&Self::own());
        let ratio: f64 = source.get("rope_ratio")?;
        let second = source.get::<String>("_name_or_path")?.contains("chatglm2");
        own.push(set(
            VERSION_FIELD,
            SettingValue::from(if second { "chatglm2" } else { "chatglm3" }),
        ));
        // The second stretches positions, the later ones slow the turning down.
        if second && ratio != 1.0 {
            own.push(set("rotary_scaling.type", SettingValue::from("linear")));
            own.push(set("rotary_scaling.factor", SettingValue::Number(ratio)));
        } else {
            own.push(set("rotary_base", SettingValue::Number(1e4 * ratio)));
        }
        Ok(own)
    }

    fn open(config: &Settings) -> Result<Decoder, Refusal> {
        config.check_fixed(&[("hidden_act", "swiglu".into())])?;
        let rest: bool = config.get("add_bias_linear")?;
        Ok(Decoder {
            prefix: "transformer.",
            names: &[
                ("vocab_embedding", "embedding.word_embeddings"),
                ("layers", "encoder.layers"),
                ("ln_f", "encoder.final_layernorm"),
                ("lm_head", "transformer.output_layer"),
                ("attention.qkv", "self_attention.query_key_value"),
                ("attention.dense", "self_attention.dense"),
                ("mlp.fc", "mlp.dense_h_to_4h"),
                ("mlp.proj", "mlp.dense_4h_to_h"),
            ],
            qkv: Qkv::Together { groups: 1 },
            bias: Biases { qkv: config.get("add_qkv_bias")?, ..Biases::new(rest, rest) },
            mlp: Mlp::GatedTogether,
            rope: Some(Rope::open(config)?.interleaved()),
            ..Decoder::new(Base::open(config)?)
        })
    }
}

export!(ChatGlm);
