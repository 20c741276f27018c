//! BLOOM: slopes instead of positions, layer norms (one after the embedding), biases everywhere,
//! queries, keys and values of each head together in one tensor.

use engraft_plugin_sdk::*;

struct Bloom {
    base: Base,
    /// Whether the source's names lack their usual prefix, as the first checkpoints' do.
    bare: bool,
    /// Whether a layer's output is added to its normed input.
    normed: bool,
}

impl Architecture for Bloom {
    type Model = Bloom;
    const NAME: &str = "bloom";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["BloomForCausalLM"];
    const DIALECTS: &[&str] = &["hugging-face"];
    const DOC: &str = "BLOOM.";
    const NAMES: &[(&str, &str)] = &[
        ("num_hidden_layers", "n_layer"),
        ("num_attention_heads", "n_head"),
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
        vec![flag("slow_but_exact", ABSENT, "How training was split; it changes nothing.")]
    }

    fn defaults() -> Vec<(&'static str, Fallback)> {
        vec![
            ("intermediate_size", ABSENT),
            ("max_position_embeddings", default(2048)),
            ("rms_norm_eps", default(1e-5)),
            ("hidden_act", default("gelu_new")),
            ("tie_word_embeddings", default(true)),
        ]
    }

    fn open(config: &Settings) -> Result<Bloom, Refusal> {
        let normed = config.get("apply_residual_connection_post_layernorm")?;
        Ok(Bloom { base: Base::open(config)?, bare: config.get("bare_names")?, normed })
    }
}

impl Model for Bloom {
    fn base(&self) -> &Base {
        &self.base
    }

    fn parameters(&self, at: Place, dialect: &str) -> Vec<Parameter> {
        let base = &self.base;
        let (hidden, q) = (base.width(), base.queries());
        let [table, norm, last, blocks] = match self.bare {
            true => ["word_embeddings", "word_embeddings_layernorm", "ln_f", "h"],
            false => [
                "transformer.word_embeddings",
                "transformer.word_embeddings_layernorm",
                "transformer.ln_f",
                "transformer.h",
            ],
        };
        let mut all = Parameters::new(at, dialect).blocks(blocks);
        match at {
            Place::Embed => all
                .linear("vocab_embedding", table, base.table(), false)
                .ln("ln_embed", norm, hidden, true),
            Place::Head => all.head("lm_head", base, false).ln("ln_f", last, hidden, true),
            Place::Block(_) => all
                .ln("input_layernorm", "input_layernorm", hidden, true)
                .fused_qkv("self_attention.query_key_value", base, base.heads, true)
                .linear("attention.dense", "self_attention.dense", [hidden, q], true)
                .ln("post_layernorm", "post_attention_layernorm", hidden, true)
                .feed_forward(["mlp.dense_h_to_4h", "mlp.dense_4h_to_h"], base, true),
        };
        all.done()
    }

    fn write(&self, g: &Builder, at: Place, carry: Vec<Value>) -> Vec<Value> {
        let base = &self.base;
        let norm = |value, name| g.ln(value, name, true, base.epsilon);
        let residual = |input, normed| if self.normed { normed } else { input };
        let x = carry[0];
        vec![match at {
            Place::Embed => norm(g.embedding(x, g.parameter("vocab_embedding.weight")), "ln_embed"),
            Place::Head => g.dense(norm(x, "ln_f"), "lm_head", false),
            Place::Block(_) => {
                let h = norm(x, "input_layernorm");
                let [q, k, v] = g.qkv(h, base, true);
                let attention = base.attention();
                attention.alibi(&alibi_slopes(base.heads, 8.0));
                let a = g.dense(g.attend(q, k, v, &attention), "attention.dense", true);
                let x = g.add(residual(x, h), a);
                let h = norm(x, "post_layernorm");
                g.add(residual(x, h), g.feed_forward(h, "mlp", &base.activation, true))
            }
        }]
    }
}

export!(Bloom);
