//! OLMo 1: Llama's block with layer norms that have no parameters, and clamped queries, keys and
//! values.

use engraft_plugin_sdk::*;

struct Olmo {
    base: Base,
    rope: Rope,
    clip: Option<f64>,
}

impl Architecture for Olmo {
    type Model = Olmo;
    const NAME: &str = "olmo";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["OlmoForCausalLM"];
    const DIALECTS: &[&str] = &["hugging-face"];
    const DOC: &str = "OLMo 1.";

    fn own() -> Vec<Field> {
        vec![number("clip_qkv", ABSENT, "What queries, keys and values are clamped to.")]
    }

    fn defaults() -> Vec<(&'static str, Fallback)> {
        vec![("rms_norm_eps", default(1e-5)), ("tie_word_embeddings", default(false))]
    }

    fn only() -> Vec<(&'static str, SettingValue)> {
        vec![("attention_bias", false.into())]
    }

    fn open(config: &Settings) -> Result<Olmo, Refusal> {
        let (base, rope) = (Base::open(config)?, Rope::open(config)?);
        Ok(Olmo { base, rope, clip: config.find("clip_qkv")? })
    }
}

impl Model for Olmo {
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
            Place::Head => all.head("lm_head", base, false),
            Place::Block(_) => all
                .qkv(QKV, base, false)
                .linear("attention.dense", "self_attn.o_proj", [hidden, q], false)
                .gated(base, false),
        };
        all.done()
    }

    fn write(&self, g: &Builder, at: Place, carry: Vec<Value>) -> Vec<Value> {
        let Base { head_width, rotated, epsilon, .. } = self.base;
        let norm = |value| g.layer_norm(value, None, None, epsilon);
        let clip = |value| self.clip.map_or(value, |bound| g.clamp(value, -bound, bound));
        let x = carry[0];
        vec![match at {
            Place::Embed => g.embedding(x, g.parameter("vocab_embedding.weight")),
            Place::Head => g.dense(norm(x), "lm_head", false),
            Place::Block(_) => {
                let [q, k, v] = g.qkv(norm(x), &self.base, false).map(clip);
                let rotary = self.rope.rotary(head_width, rotated);
                let (q, k) = (g.rotate(q, &rotary), g.rotate(k, &rotary));
                let a = g.attend(q, k, v, &self.base.attention());
                let x = g.add(x, g.dense(a, "attention.dense", false));
                g.add(x, g.gated(norm(x), "mlp", &self.base.activation, false))
            }
        }]
    }
}

export!(Olmo);
