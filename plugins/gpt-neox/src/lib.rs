//! GPT-NeoX and Pythia: layer norms, biases, a part of each head turns; the feed-forward layer is
//! beside attention with a norm of its own, or after it.

use engraft_plugin_sdk::*;

struct GptNeoX {
    base: Base,
    rope: Rope,
    attention_bias: bool,
    parallel: bool,
}

impl Architecture for GptNeoX {
    type Model = GptNeoX;
    const NAME: &str = "gpt-neox";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["GPTNeoXForCausalLM"];
    const DIALECTS: &[&str] = &["hugging-face"];
    const DOC: &str = "GPT-NeoX and Pythia.";
    const NAMES: &[(&str, &str)] =
        &[("rms_norm_eps", "layer_norm_eps"), ("tensor:lm_head.weight", "tensor:embed_out.weight")];

    fn own() -> Vec<Field> {
        let parallel = "Whether the feed-forward layer is beside attention.";
        vec![
            flag("attention_bias", default(true), "Whether attention's layers have biases."),
            flag("use_parallel_residual", default(true), parallel),
        ]
    }

    fn source_own() -> Vec<Field> {
        vec![number("classifier_dropout", ABSENT, "Of another use of the model.")]
    }

    fn defaults() -> Vec<(&'static str, Fallback)> {
        vec![
            ("rms_norm_eps", default(1e-5)),
            ("hidden_act", default("gelu")),
            ("tie_word_embeddings", default(false)),
        ]
    }

    fn open(config: &Settings) -> Result<GptNeoX, Refusal> {
        Ok(GptNeoX {
            base: Base::open(config)?,
            rope: Rope::open(config)?,
            attention_bias: config.get("attention_bias")?,
            parallel: config.get("use_parallel_residual")?,
        })
    }
}

impl Model for GptNeoX {
    fn base(&self) -> &Base {
        &self.base
    }

    fn parameters(&self, at: Place, dialect: &str) -> Vec<Parameter> {
        let (base, bias) = (&self.base, self.attention_bias);
        let (hidden, q, table) = (base.width(), base.queries(), base.table());
        let layers = ["mlp.dense_h_to_4h", "mlp.dense_4h_to_h"];
        let last = "gpt_neox.final_layer_norm";
        let mut all = Parameters::new(at, dialect).blocks("gpt_neox.layers");
        match at {
            Place::Embed => all.linear("vocab_embedding", "gpt_neox.embed_in", table, false),
            Place::Head => all.head("embed_out", base, false).ln("ln_f", last, hidden, true),
            Place::Block(_) => all
                .ln("input_layernorm", "input_layernorm", hidden, true)
                .fused_qkv("attention.query_key_value", base, base.heads, bias)
                .linear("attention.dense", "attention.dense", [hidden, q], bias)
                .ln("post_attention_layernorm", "post_attention_layernorm", hidden, true)
                .feed_forward(layers, base, true),
        };
        all.done()
    }

    fn unused(&self, dialect: &str) -> Vec<(&'static str, &'static str)> {
        let masks =
            [("*.attention.bias", "it is a mask"), ("*.attention.masked_bias", "it is a mask")];
        [self.base.unused(dialect), masks.to_vec()].concat()
    }

    fn write(&self, g: &Builder, at: Place, carry: Vec<Value>) -> Vec<Value> {
        let Base { head_width, rotated, epsilon, .. } = self.base;
        let x = carry[0];
        vec![match at {
            Place::Embed => g.embedding(x, g.parameter("vocab_embedding.weight")),
            Place::Head => g.dense(g.ln(x, "ln_f", true, epsilon), "lm_head", false),
            Place::Block(_) => {
                let h = g.ln(x, "input_layernorm", true, epsilon);
                let [q, k, v] = g.qkv(h, &self.base, self.attention_bias);
                let rotary = self.rope.rotary(head_width, rotated);
                let (q, k) = (g.rotate(q, &rotary), g.rotate(k, &rotary));
                let a = g.attend(q, k, v, &self.base.attention());
                let attended = g.add(x, g.dense(a, "attention.dense", self.attention_bias));
                let input = if self.parallel { x } else { attended };
                let h = g.ln(input, "post_attention_layernorm", true, epsilon);
                g.add(attended, g.feed_forward(h, "mlp", &self.base.activation, true))
            }
        }]
    }
}

export!(GptNeoX);
