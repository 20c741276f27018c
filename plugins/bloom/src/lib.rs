//! BLOOM: slopes instead of positions, layer norms (one after the embedding), biases everywhere,
//! queries, keys and values of each head together in one tensor.

use engraft_plugin_sdk::*;

struct Bloom(Decoder);

impl Architecture for Bloom {
    type Model = Bloom;
    const NAME: &str = "bloom";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["BloomForCausalLM"];
    const DOC: &str = "BLOOM.";
    const GGUF: &[(&str, &str)] = &[("gguf:bloom", "BloomForCausalLM")];
    const GGUF_NAMES: &[(&str, &str)] = &[GGUF_LAYER_NORM];
    const NAMES: &[(&str, &str)] = &[
        ("num_hidden_layers", "n_layer"),
        ("intermediate_size", "n_inner"),
        ("max_position_embeddings", "seq_length"),
        ("rms_norm_eps", "layer_norm_epsilon"),
        ("bare_names", "tensor:word_embeddings.weight"),
    ];
    const POSITIONS: &str = "alibi";

    fn own() -> Vec<Field> {
        let normed = "Whether a layer's output is added to its normed input.";
        vec![
            flag("bare_names", default(false), "Whether the source's names lack a prefix."),
            flag("apply_residual_connection_post_layernorm", default(false), normed),
        ]
    }

    fn source_own() -> Vec<Field> {
        let training = "How training went; it changes nothing.";
        let flags = ["attention_softmax_in_fp32", "bias_dropout_fusion", "masked_softmax_fusion"];
        let more = ["skip_bias_add", "skip_bias_add_qkv", "slow_but_exact"];
        let ignored = flags.into_iter().chain(more).map(|path| flag(path, ABSENT, training));
        let read = [
            integer("n_embed", ABSENT, "What the first configs call `hidden_size`."),
            integer("n_head", ABSENT, "What later configs call `num_attention_heads`."),
            integer("offset_alibi", ABSENT, training),
        ];
        read.into_iter().chain(ignored).collect()
    }

    fn defaults() -> Vec<(&'static str, Fallback)> {
        let own = vec![
            ("hidden_size", same_as("n_embed")),
            ("num_attention_heads", same_as("n_head")),
            ("max_position_embeddings", default(2048)),
        ];
        [own, gpt_defaults("gelu_new", true)].concat()
    }

    fn open(config: &Settings) -> Result<Bloom, Refusal> {
        let base = Base::open(config)?;
        let normed = config.get("apply_residual_connection_post_layernorm")?;
        Ok(Bloom(Decoder {
            prefix: if config.get("bare_names")? { "" } else { "transformer." },
            family: MEGATRON,
            order: if normed { Order::Normed } else { Order::Before },
            qkv: Qkv::Together { groups: base.heads },
            bias: Biases::BLOCK,
            slopes: alibi_slopes(base.heads, 8.0),
            ..Decoder::gpt(base)
        }))
    }
}

impl Model for Bloom {
    fn decoder(&self) -> &Decoder {
        &self.0
    }

    fn embed(&self, n: &Net, tokens: Value) -> Value {
        n.norm(n.embedding(tokens), "ln_embed")
    }
}

export!(Bloom);
