//! GPT-2: learned positions, layer norms, biases everywhere; weights are stored as `[in, out]`.

use engraft_plugin_sdk::*;

struct Gpt2 {
    base: Base,
    /// Whether the source's names lack their usual prefix, as the first checkpoints' do.
    bare: bool,
    /// Whether the scores of block `i` are divided by `i + 1`.
    inverse: bool,
}

impl Architecture for Gpt2 {
    type Model = Gpt2;
    const NAME: &str = "gpt2";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["GPT2LMHeadModel"];
    const DIALECTS: &[&str] = &["hugging-face"];
    const DOC: &str = "GPT-2.";
    const NAMES: &[(&str, &str)] = GPT_NAMES;
    const POSITIONS: &str = "learned_absolute";

    fn own() -> Vec<Field> {
        let inverse = "Whether later blocks divide scores by their number.";
        vec![
            flag("bare_names", default(false), "Whether the source's names lack a prefix."),
            flag("scale_attn_by_inverse_layer_idx", default(false), inverse),
        ]
    }

    fn source_own() -> Vec<Field> {
        vec![flag("reorder_and_upcast_attn", ABSENT, "In which type training computed scores.")]
    }

    fn defaults() -> Vec<(&'static str, Fallback)> {
        vec![
            ("intermediate_size", ABSENT),
            ("rms_norm_eps", default(1e-5)),
            ("hidden_act", default("gelu_new")),
            ("tie_word_embeddings", default(true)),
        ]
    }

    fn only() -> Vec<(&'static str, SettingValue)> {
        vec![("scale_attn_weights", true.into())]
    }

    fn says() -> Vec<(&'static str, SettingValue)> {
        vec![("gpt_variant", "gpt2".into()), ("bias", true.into())]
    }

    fn open(config: &Settings) -> Result<Gpt2, Refusal> {
        let inverse = config.get("scale_attn_by_inverse_layer_idx")?;
        Ok(Gpt2 { base: Base::open(config)?, bare: config.get("bare_names")?, inverse })
    }
}

impl Model for Gpt2 {
    fn base(&self) -> &Base {
        &self.base
    }

    fn parameters(&self, at: Place, dialect: &str) -> Vec<Parameter> {
        let base = &self.base;
        let (hidden, q) = (base.width(), base.queries());
        let [table, positions, norm, blocks] = match self.bare {
            true => ["wte", "wpe", "ln_f", "h"],
            false => ["transformer.wte", "transformer.wpe", "transformer.ln_f", "transformer.h"],
        };
        let places = [plain(base.context), hidden];
        let mut all = Parameters::new(at, dialect).blocks(blocks).transposed();
        match at {
            Place::Embed => all.linear("vocab_embedding", table, base.table(), false).linear(
                "position_embedding",
                positions,
                places,
                false,
            ),
            Place::Head => all.head("lm_head", base, false).ln("ln_f", norm, hidden, true),
            Place::Block(_) => all
                .ln("input_layernorm", "ln_1", hidden, true)
                .fused_qkv("attn.c_attn", base, 1, true)
                .linear("attention.dense", "attn.c_proj", [hidden, q], true)
                .ln("post_layernorm", "ln_2", hidden, true)
                .feed_forward(["mlp.c_fc", "mlp.c_proj"], base, true),
        };
        all.done()
    }

    fn unused(&self, dialect: &str) -> Vec<(&'static str, &'static str)> {
        let masks = [("*h.*.attn.bias", "it is a mask"), ("*.attn.masked_bias", "it is a mask")];
        [self.base.unused(dialect), masks.to_vec()].concat()
    }

    fn write(&self, g: &Builder, at: Place, carry: Vec<Value>) -> Vec<Value> {
        let Base { head_width, epsilon, .. } = self.base;
        let x = carry[0];
        vec![match at {
            Place::Embed => {
                let words = g.embedding(x, g.parameter("vocab_embedding.weight"));
                g.add(words, g.positions(g.parameter("position_embedding.weight")))
            }
            Place::Head => g.dense(g.ln(x, "ln_f", true, epsilon), "lm_head", false),
            Place::Block(i) => {
                let h = g.ln(x, "input_layernorm", true, epsilon);
                let [q, k, v] = g.qkv(h, &self.base, true);
                let attention = self.base.attention();
                if self.inverse {
                    attention.scale(1.0 / f64::from(head_width).sqrt() / f64::from(i + 1));
                }
                let a = g.attend(q, k, v, &attention);
                let x = g.add(x, g.dense(a, "attention.dense", true));
                let h = g.ln(x, "post_layernorm", true, epsilon);
                g.add(x, g.feed_forward(h, "mlp", &self.base.activation, true))
            }
        }]
    }
}

export!(Gpt2);
