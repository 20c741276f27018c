//! Gemma 1: Llama's block with gains stored less one, and a scaled embedding.

use engraft_plugin_sdk::*;

struct Gemma {
    base: Base,
    rope: Rope,
}

impl Architecture for Gemma {
    type Model = Gemma;
    const NAME: &str = "gemma";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["GemmaForCausalLM"];
    const DIALECTS: &[&str] = &["hugging-face"];
    const DOC: &str = "Gemma 1.";

    fn defaults() -> Vec<(&'static str, Fallback)> {
        // Older configs say `gelu` in `hidden_act`, and mean this.
        vec![
            ("hidden_activation", default("gelu_pytorch_tanh")),
            ("tie_word_embeddings", default(true)),
        ]
    }

    fn only() -> Vec<(&'static str, SettingValue)> {
        vec![("attention_bias", false.into())]
    }

    fn says() -> Vec<(&'static str, SettingValue)> {
        vec![("attn_bias", false.into()), ("mlp_bias", false.into())]
    }

    fn open(config: &Settings) -> Result<Gemma, Refusal> {
        Ok(Gemma { base: Base::open(config)?, rope: Rope::open(config)? })
    }
}

impl Model for Gemma {
    fn base(&self) -> &Base {
        &self.base
    }

    fn parameters(&self, at: Place, dialect: &str) -> Vec<Parameter> {
        let base = &self.base;
        let (hidden, q) = (base.width(), base.queries());
        let mut all = Parameters::new(at, dialect).shifted();
        match at {
            Place::Embed => {
                all.linear("vocab_embedding", "model.embed_tokens", base.table(), false)
            }
            Place::Head => all.head("lm_head", base, false).norm("ln_f", "model.norm", hidden),
            Place::Block(_) => all
                .norm("input_layernorm", "input_layernorm", hidden)
                .qkv(QKV, base, false)
                .linear("attention.dense", "self_attn.o_proj", [hidden, q], false)
                .norm("post_layernorm", "post_attention_layernorm", hidden)
                .gated(base, false),
        };
        all.done()
    }

    fn write(&self, g: &Builder, at: Place, carry: Vec<Value>) -> Vec<Value> {
        let Base { head_width, rotated, epsilon, .. } = self.base;
        let x = carry[0];
        vec![match at {
            Place::Embed => {
                let words = g.embedding(x, g.parameter("vocab_embedding.weight"));
                g.scale(words, f64::from(self.base.hidden).sqrt())
            }
            Place::Head => g.dense(g.norm(x, "ln_f", epsilon), "lm_head", false),
            Place::Block(_) => {
                let h = g.norm(x, "input_layernorm", epsilon);
                let [q, k, v] = g.qkv(h, &self.base, false);
                let rotary = self.rope.rotary(head_width, rotated);
                let (q, k) = (g.rotate(q, &rotary), g.rotate(k, &rotary));
                let a = g.attend(q, k, v, &self.base.attention());
                let x = g.add(x, g.dense(a, "attention.dense", false));
                let h = g.norm(x, "post_layernorm", epsilon);
                g.add(x, g.gated(h, "mlp", &self.base.activation, false))
            }
        }]
    }
}

export!(Gemma);
