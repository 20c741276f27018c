//! Mistral: Llama's block, with a window in some models and no biases.

use engraft_plugin_sdk::*;

struct Mistral {
    base: Base,
    rope: Rope,
    windows: Windows,
}

impl Architecture for Mistral {
    type Model = Mistral;
    const NAME: &str = "mistral";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["MistralForCausalLM"];
    const DIALECTS: &[&str] = &["hugging-face"];
    const DOC: &str = "Mistral 7B and its like.";

    fn own() -> Vec<Field> {
        Windows::fields()
    }

    fn settle(source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        Windows::configure(source, base, |_| true)
    }

    fn open(config: &Settings) -> Result<Mistral, Refusal> {
        let base = Base::open(config)?;
        let (rope, windows) = (Rope::open(config)?, Windows::open(config, &base)?);
        Ok(Mistral { base, rope, windows })
    }
}

impl Model for Mistral {
    fn base(&self) -> &Base {
        &self.base
    }

    fn parameters(&self, at: Place, dialect: &str) -> Vec<Parameter> {
        let base = &self.base;
        let (hidden, q) = (base.width(), base.queries());
        let mut all = Parameters::new(at, dialect);
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
            Place::Embed => g.embedding(x, g.parameter("vocab_embedding.weight")),
            Place::Head => g.dense(g.norm(x, "ln_f", epsilon), "lm_head", false),
            Place::Block(i) => {
                let h = g.norm(x, "input_layernorm", epsilon);
                let [q, k, v] = g.qkv(h, &self.base, false);
                let rotary = self.rope.rotary(head_width, rotated);
                let attention = self.base.attention();
                self.windows.limit(&attention, i);
                let a = g.attend(g.rotate(q, &rotary), g.rotate(k, &rotary), v, &attention);
                let x = g.add(x, g.dense(a, "attention.dense", false));
                let h = g.norm(x, "post_layernorm", epsilon);
                g.add(x, g.gated(h, "mlp", &self.base.activation, false))
            }
        }]
    }
}

export!(Mistral);
