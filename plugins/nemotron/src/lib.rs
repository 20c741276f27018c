//! Nemotron: layer norms with gains stored less one, a part of each head turns, a plain
//! feed-forward layer that squares.

use engraft_plugin_sdk::*;

struct Nemotron {
    base: Base,
    rope: Rope,
}

impl Architecture for Nemotron {
    type Model = Nemotron;
    const NAME: &str = "nemotron";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["NemotronForCausalLM"];
    const DIALECTS: &[&str] = &["hugging-face"];
    const DOC: &str = "Nemotron and Minitron.";
    const NAMES: &[(&str, &str)] = &[("rms_norm_eps", "norm_eps")];

    fn defaults() -> Vec<(&'static str, Fallback)> {
        vec![
            ("rms_norm_eps", default(1e-5)),
            ("hidden_act", default("relu2")),
            ("tie_word_embeddings", default(false)),
        ]
    }

    fn only() -> Vec<(&'static str, SettingValue)> {
        vec![("attention_bias", false.into()), ("mlp_bias", false.into())]
    }

    fn says() -> Vec<(&'static str, SettingValue)> {
        vec![("gpt_variant", "nemotron".into()), ("bias", false.into())]
    }

    fn settle(_source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        base.activates("relu2", "squared-relu")?;
        Ok(Vec::new())
    }

    fn open(config: &Settings) -> Result<Nemotron, Refusal> {
        config.check_fixed(&[("hidden_act", "squared-relu".into())])?;
        Ok(Nemotron { base: Base::open(config)?, rope: Rope::open(config)? })
    }
}

impl Model for Nemotron {
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
            Place::Head => all.head("lm_head", base, false).ln("ln_f", "model.norm", hidden, true),
            Place::Block(_) => all
                .ln("input_layernorm", "input_layernorm", hidden, true)
                .qkv(QKV, base, false)
                .linear("attention.dense", "self_attn.o_proj", [hidden, q], false)
                .ln("post_layernorm", "post_attention_layernorm", hidden, true)
                .feed_forward(["mlp.up_proj", "mlp.down_proj"], base, false),
        };
        all.done()
    }

    fn write(&self, g: &Builder, at: Place, carry: Vec<Value>) -> Vec<Value> {
        let Base { head_width, rotated, epsilon, .. } = self.base;
        let x = carry[0];
        vec![match at {
            Place::Embed => g.embedding(x, g.parameter("vocab_embedding.weight")),
            Place::Head => g.dense(g.ln(x, "ln_f", true, epsilon), "lm_head", false),
            Place::Block(_) => {
                let h = g.ln(x, "input_layernorm", true, epsilon);
                let [q, k, v] = g.qkv(h, &self.base, false);
                let rotary = self.rope.rotary(head_width, rotated);
                let (q, k) = (g.rotate(q, &rotary), g.rotate(k, &rotary));
                let a = g.attend(q, k, v, &self.base.attention());
                let x = g.add(x, g.dense(a, "attention.dense", false));
                let h = g.ln(x, "post_layernorm", true, epsilon);
                g.add(x, g.feed_forward(h, "mlp", "relu2", false))
            }
        }]
    }
}

export!(Nemotron);
