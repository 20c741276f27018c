//! GPT-J: one layer norm before attention and the feed-forward layer beside it; neighbours turn
//! together in a part of each head.

use engraft_plugin_sdk::*;

struct GptJ {
    base: Base,
    rope: Rope,
}

impl Architecture for GptJ {
    type Model = GptJ;
    const NAME: &str = "gptj";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["GPTJForCausalLM"];
    const DIALECTS: &[&str] = &["hugging-face"];
    const DOC: &str = "GPT-J.";
    const NAMES: &[(&str, &str)] = GPT_NAMES;
    const POSITIONS: &str = "rope_gptj";

    fn defaults() -> Vec<(&'static str, Fallback)> {
        vec![
            ("intermediate_size", ABSENT),
            ("rms_norm_eps", default(1e-5)),
            ("hidden_act", default("gelu_new")),
            ("tie_word_embeddings", default(false)),
        ]
    }

    fn only() -> Vec<(&'static str, SettingValue)> {
        vec![("scale_attn_weights", true.into())]
    }

    fn open(config: &Settings) -> Result<GptJ, Refusal> {
        Ok(GptJ { base: Base::open(config)?, rope: Rope::open(config)? })
    }
}

impl Model for GptJ {
    fn base(&self) -> &Base {
        &self.base
    }

    fn parameters(&self, at: Place, dialect: &str) -> Vec<Parameter> {
        let base = &self.base;
        let (hidden, q) = (base.width(), base.queries());
        let mut all = Parameters::new(at, dialect).blocks("transformer.h");
        match at {
            Place::Embed => all.linear("vocab_embedding", "transformer.wte", base.table(), false),
            Place::Head => {
                all.head("lm_head", base, true).ln("ln_f", "transformer.ln_f", hidden, true)
            }
            Place::Block(_) => all
                .ln("input_layernorm", "ln_1", hidden, true)
                .qkv(["attn.q_proj", "attn.k_proj", "attn.v_proj"], base, false)
                .linear("attention.dense", "attn.out_proj", [hidden, q], false)
                .feed_forward(["mlp.fc_in", "mlp.fc_out"], base, true),
        };
        all.done()
    }

    fn unused(&self, dialect: &str) -> Vec<(&'static str, &'static str)> {
        let masks = [("*.attn.bias", "it is a mask"), ("*.attn.masked_bias", "it is a mask")];
        [self.base.unused(dialect), masks.to_vec()].concat()
    }

    fn write(&self, g: &Builder, at: Place, carry: Vec<Value>) -> Vec<Value> {
        let Base { head_width, rotated, epsilon, .. } = self.base;
        let x = carry[0];
        vec![match at {
            Place::Embed => g.embedding(x, g.parameter("vocab_embedding.weight")),
            Place::Head => g.dense(g.ln(x, "ln_f", true, epsilon), "lm_head", true),
            Place::Block(_) => {
                let h = g.ln(x, "input_layernorm", true, epsilon);
                let [q, k, v] = g.qkv(h, &self.base, false);
                let rotary = self.rope.rotary(head_width, rotated);
                rotary.interleaved();
                let (q, k) = (g.rotate(q, &rotary), g.rotate(k, &rotary));
                let a = g.attend(q, k, v, &self.base.attention());
                let x = g.add(x, g.dense(a, "attention.dense", false));
                g.add(x, g.feed_forward(h, "mlp", &self.base.activation, true))
            }
        }]
    }
}

export!(GptJ);
