//! GPT-NeoX and Pythia: layer norms, biases, a part of each head turns; the feed-forward layer is
//! beside attention with a norm of its own, or after it.

use engraft_plugin_sdk::*;

struct GptNeoX {
    decoder: Decoder,
    /// Whether the feed-forward layer is beside attention.
    parallel: bool,
}

impl Architecture for GptNeoX {
    type Model = GptNeoX;
    const NAME: &str = "gpt-neox";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["GPTNeoXForCausalLM"];
    const DOC: &str = "GPT-NeoX and Pythia.";
    const GGUF: &[(&str, &str)] = &[("gguf:gptneox", "GPTNeoXForCausalLM")];
    const GGUF_NAMES: &[(&str, &str)] = &[
        GGUF_LAYER_NORM,
        ("attention_bias", "tensor:blk.0.attn_qkv.bias"),
        ("use_parallel_residual", "use_parallel_residual"),
    ];
    const NAMES: &[(&str, &str)] =
        &[("rms_norm_eps", "layer_norm_eps"), ("tensor:lm_head.weight", "tensor:embed_out.weight")];
    const CHECKPOINT_NAMES: &[(&str, &str)] = &[("rotary_base", "rotary_emb_base")];
    const ROTARY_PART: bool = true;

    fn own() -> Vec<Field> {
        let parallel = "Whether the feed-forward layer is beside attention.";
        vec![
            flag("attention_bias", default(true), "Whether attention's layers have biases."),
            flag("use_parallel_residual", default(true), parallel),
        ]
    }

    fn source_own() -> Vec<Field> {
        let training = "Of training.";
        let dropouts =
            ["classifier_dropout", "attention_probs_dropout_prob", "hidden_dropout_prob"];
        dropouts.map(|path| number(path, ABSENT, training)).to_vec()
    }

    fn defaults() -> Vec<(&'static str, Fallback)> {
        let part = ("rope_parameters.partial_rotary_factor", default(0.25));
        [layer_norm_defaults("gelu", false), vec![part]].concat()
    }

    fn open(config: &Settings) -> Result<GptNeoX, Refusal> {
        let base = Base::open(config)?;
        let decoder = Decoder {
            prefix: "gpt_neox.",
            names: &[
                ("vocab_embedding", "embed_in"),
                ("ln_f", "final_layer_norm"),
                ("lm_head", "embed_out"),
                ("attention.qkv", "attention.query_key_value"),
                ("attention.dense", "attention.dense"),
                ("mlp.fc", "mlp.dense_h_to_4h"),
                ("mlp.proj", "mlp.dense_4h_to_h"),
            ],
            norm: Norm::LAYER,
            qkv: Qkv::Together { groups: base.heads },
            bias: Biases::new(config.get("attention_bias")?, true),
            mlp: Mlp::Plain,
            masks: &["*.attention.bias", "*.attention.masked_bias"],
            rope: Some(Rope::open(config)?),
            ..Decoder::new(base)
        };
        Ok(GptNeoX { decoder, parallel: config.get("use_parallel_residual")? })
    }
}

impl Model for GptNeoX {
    fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    fn block(&self, n: &Net, i: u32, x: Value) -> Value {
        let attended = n.add(x, self.attention(n, i, n.norm(x, "input_layernorm")));
        let h = n.norm(if self.parallel { x } else { attended }, "post_attention_layernorm");
        n.add(attended, self.feed_forward(n, i, h))
    }
}

export!(GptNeoX);
