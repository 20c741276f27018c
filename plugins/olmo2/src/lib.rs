//! OLMo 2: norms after attention and after the feed-forward layer, and of all queries and all keys.

use engraft_plugin_sdk::*;

struct Olmo2 {
    base: Base,
    rope: Rope,
}

impl Architecture for Olmo2 {
    type Model = Olmo2;
    const NAME: &str = "olmo2";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["Olmo2ForCausalLM"];
    const DIALECTS: &[&str] = &["hugging-face"];
    const DOC: &str = "OLMo 2.";

    fn only() -> Vec<(&'static str, SettingValue)> {
        vec![("attention_bias", false.into())]
    }

    fn settle(_source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        base.qk_norm = true;
        Ok(Vec::new())
    }

    fn open(config: &Settings) -> Result<Olmo2, Refusal> {
        config.check_fixed(&[("qk_layernorm", true.into())])?;
        Ok(Olmo2 { base: Base::open_normed(config)?, rope: Rope::open(config)? })
    }
}

impl Model for Olmo2 {
    fn base(&self) -> &Base {
        &self.base
    }

    fn parameters(&self, at: Place, dialect: &str) -> Vec<Parameter> {
        let base = &self.base;
        let (hidden, q, k) = (base.width(), base.queries(), base.keys());
        let mut all = Parameters::new(at, dialect);
        match at {
            Place::Embed => {
                all.linear("vocab_embedding", "model.embed_tokens", base.table(), false)
            }
            Place::Head => all.head("lm_head", base, false).norm("ln_f", "model.norm", hidden),
            Place::Block(_) => all
                .qkv(QKV, base, false)
                .norm("attention.q_layernorm", "self_attn.q_norm", q)
                .norm("attention.k_layernorm", "self_attn.k_norm", k)
                .linear("attention.dense", "self_attn.o_proj", [hidden, q], false)
                .norm("post_layernorm", "post_attention_layernorm", hidden)
                .gated(base, false)
                .norm("post_feedforward_layernorm", "post_feedforward_layernorm", hidden),
        };
        all.done()
    }

    fn write(&self, g: &Builder, at: Place, carry: Vec<Value>) -> Vec<Value> {
        let Base { head_width, rotated, epsilon, .. } = self.base;
        let x = carry[0];
        vec![match at {
            Place::Embed => g.embedding(x, g.parameter("vocab_embedding.weight")),
            Place::Head => g.dense(g.norm(x, "ln_f", epsilon), "lm_head", false),
            Place::Block(_) => {
                let [q, k, v] = g.qkv(x, &self.base, false);
                let q = g.norm(q, "attention.q_layernorm", epsilon);
                let k = g.norm(k, "attention.k_layernorm", epsilon);
                let rotary = self.rope.rotary(head_width, rotated);
                let (q, k) = (g.rotate(q, &rotary), g.rotate(k, &rotary));
                let a = g.attend(q, k, v, &self.base.attention());
                let a = g.dense(a, "attention.dense", false);
                let x = g.add(x, g.norm(a, "post_layernorm", epsilon));
                let h = g.gated(x, "mlp", &self.base.activation, false);
                g.add(x, g.norm(h, "post_feedforward_layernorm", epsilon))
            }
        }]
    }
}

export!(Olmo2);
