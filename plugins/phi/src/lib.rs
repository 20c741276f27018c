//! Phi 1 and 2: one layer norm before attention and the feed-forward layer beside it, biases
//! everywhere, in the head too; a part of each head turns.

use engraft_plugin_sdk::*;

struct Phi {
    base: Base,
    rope: Rope,
}

impl Architecture for Phi {
    type Model = Phi;
    const NAME: &str = "phi";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["PhiForCausalLM"];
    const DIALECTS: &[&str] = &["hugging-face"];
    const DOC: &str = "Phi 1 and 2.";
    const NAMES: &[(&str, &str)] = &[("rms_norm_eps", "layer_norm_eps")];

    fn defaults() -> Vec<(&'static str, Fallback)> {
        vec![
            ("rms_norm_eps", default(1e-5)),
            ("hidden_act", default("gelu_new")),
            ("tie_word_embeddings", default(false)),
        ]
    }

    fn only() -> Vec<(&'static str, SettingValue)> {
        vec![("qk_layernorm", false.into())]
    }

    fn open(config: &Settings) -> Result<Phi, Refusal> {
        Ok(Phi { base: Base::open(config)?, rope: Rope::open(config)? })
    }
}

impl Model for Phi {
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
            Place::Head => {
                all.head("lm_head", base, true).ln("ln_f", "model.final_layernorm", hidden, true)
            }
            Place::Block(_) => all
                .ln("input_layernorm", "input_layernorm", hidden, true)
                .qkv(QKV, base, true)
                .linear("attention.dense", "self_attn.dense", [hidden, q], true)
                .feed_forward(["mlp.fc1", "mlp.fc2"], base, true),
        };
        all.done()
    }

    fn write(&self, g: &Builder, at: Place, carry: Vec<Value>) -> Vec<Value> {
        let Base { head_width, rotated, epsilon, .. } = self.base;
        let x = carry[0];
        vec![match at {
            Place::Embed => g.embedding(x, g.parameter("vocab_embedding.weight")),
            Place::Head => g.dense(g.ln(x, "ln_f", true, epsilon), "lm_head", true),
            Place::Block(_) => {
                let h = g.ln(x, "input_layernorm", true, epsilon);
                let [q, k, v] = g.qkv(h, &self.base, true);
                let rotary = self.rope.rotary(head_width, rotated);
                let (q, k) = (g.rotate(q, &rotary), g.rotate(k, &rotary));
                let a = g.attend(q, k, v, &self.base.attention());
                let x = g.add(x, g.dense(a, "attention.dense", true));
                g.add(x, g.feed_forward(h, "mlp", &self.base.activation, true))
            }
        }]
    }
}

export!(Phi);
