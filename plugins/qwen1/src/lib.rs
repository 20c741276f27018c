//! Qwen 1: Llama's block with biases on queries, keys and values, which are one tensor.

use engraft_plugin_sdk::*;

struct Qwen1;

/// What changes the arithmetic of longer sequences than the model was trained for.
const STRETCHES: [&str; 2] = ["use_dynamic_ntk", "use_logn_attn"];

impl Architecture for Qwen1 {
    type Model = Decoder;
    const NAME: &str = "qwen1";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["QWenLMHeadModel"];
    const DOC: &str = "Qwen 1.";
    const NAMES: &[(&str, &str)] =
        &[("rms_norm_eps", "layer_norm_epsilon"), ("head_dim", "kv_channels")];

    fn source_own() -> Vec<Field> {
        let flags = ["bf16", "fp16", "fp32", "softmax_in_fp32", "use_cache_kernel"];
        let mut all = flags.map(|path| flag(path, ABSENT, "How it is run.")).to_vec();
        all.extend(STRETCHES.map(|path| {
            flag(path, default(true), "Whether longer sequences are computed otherwise.")
        }));
        all.push(integer("seq_length", REQUIRED, "Positions that it was trained for."));
        all.push(text("tokenizer_type", ABSENT, "Of another file."));
        for path in ["attn_dropout_prob", "emb_dropout_prob"] {
            all.push(number(path, ABSENT, "Of training."));
        }
        all
    }

    fn defaults() -> Vec<(&'static str, Fallback)> {
        vec![("tie_word_embeddings", default(false))]
    }

    fn only() -> Vec<(&'static str, SettingValue)> {
        vec![
            ("no_bias", true.into()),
            ("scale_attn_weights", true.into()),
            ("use_cache_quantization", false.into()),
        ]
    }

    fn says() -> Vec<(&'static str, SettingValue)> {
        vec![("qwen_type", "qwen".into()), ("attn_bias", true.into()), ("mlp_bias", false.into())]
    }

    fn settle(source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        let trained: u32 = source.get("seq_length")?;
        for path in STRETCHES {
            if source.get(path)? {
                base.context = base.context.min(trained);
            }
        }
        Ok(Vec::new())
    }

    fn open(config: &Settings) -> Result<Decoder, Refusal> {
        let mut base = Base::open(config)?;
        if !base.inner.is_multiple_of(2) {
            return refuse("intermediate_size", format!("{} is odd", base.inner));
        }
        // Configs count both layers that go in.
        base.inner /= 2;
        Ok(Decoder {
            names: &[("mlp.fc", "mlp.w2"), ("mlp.gate", "mlp.w1")],
            norm: Norm::RMS,
            mlp: Mlp::Gated,
            qkv: Qkv::Together { groups: 1 },
            bias: Biases { qkv: true, ..Biases::default() },
            rope: Some(Rope::open(config)?),
            ..Decoder::gpt(base)
        })
    }
}

export!(Qwen1);
