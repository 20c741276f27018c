//! Phi 3 and 4: Llama's block with queries, keys and values in one tensor, and the feed-forward
//! layer's gate and input in another. Those two stay one layer in the checkpoint, swapped.

use engraft_plugin_sdk::*;

struct Phi3 {
    base: Base,
    rope: Rope,
    windows: Windows,
}

impl Architecture for Phi3 {
    type Model = Phi3;
    const NAME: &str = "phi3";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["Phi3ForCausalLM"];
    const DIALECTS: &[&str] = &["hugging-face"];
    const DOC: &str = "Phi 3 and 4, but those of a long context.";

    fn own() -> Vec<Field> {
        Windows::fields()
    }

    fn source_own() -> Vec<Field> {
        let doc = "Of a scaling, which is not supported here.";
        vec![integer("original_max_position_embeddings", ABSENT, doc)]
    }

    fn settle(source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        base.activates("silu", "swiglu")?;
        Windows::configure(source, base, |_| true)
    }

    fn open(config: &Settings) -> Result<Phi3, Refusal> {
        config.check_fixed(&[("hidden_act", "swiglu".into())])?;
        let base = Base::open(config)?;
        let (rope, windows) = (Rope::open(config)?, Windows::open(config, &base)?);
        Ok(Phi3 { base, rope, windows })
    }
}

impl Model for Phi3 {
    fn base(&self) -> &Base {
        &self.base
    }

    fn parameters(&self, at: Place, dialect: &str) -> Vec<Parameter> {
        let base = &self.base;
        let (hidden, q, inner) = (base.width(), base.queries(), base.inside());
        let swapped = [(inner.size, inner), (0, inner)];
        let mut all = Parameters::new(at, dialect);
        match at {
            Place::Embed => {
                all.linear("vocab_embedding", "model.embed_tokens", base.table(), false)
            }
            Place::Head => all.head("lm_head", base, false).norm("ln_f", "model.norm", hidden),
            Place::Block(_) => all
                .norm("input_layernorm", "input_layernorm", hidden)
                .fused_qkv("self_attn.qkv_proj", base, 1, false)
                .linear("attention.dense", "self_attn.o_proj", [hidden, q], false)
                .norm("post_layernorm", "post_attention_layernorm", hidden)
                .rows("mlp.fc", "mlp.gate_up_proj", &swapped, hidden, false)
                .linear("mlp.proj", "mlp.down_proj", [hidden, inner], false),
        };
        all.done()
    }

    fn write(&self, g: &Builder, at: Place, carry: Vec<Value>) -> Vec<Value> {
        let Base { head_width, rotated, inner, epsilon, .. } = self.base;
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
                let h = g.dense(g.norm(x, "post_layernorm", epsilon), "mlp.fc", false);
                let parts = g.split(h, &[inner.into(), inner.into()]);
                let h = g.multiply(g.activate(parts[1], "silu"), parts[0]);
                g.add(x, g.dense(h, "mlp.proj", false))
            }
        }]
    }
}

export!(Phi3);
