//! StableLM: layer norms, a part of each head turns, a gated feed-forward layer; in some models
//! beside attention, with norms of queries' and keys' heads.

use engraft_plugin_sdk::*;

struct StableLm {
    base: Base,
    rope: Rope,
    qkv_bias: bool,
    parallel: bool,
}

impl Architecture for StableLm {
    type Model = StableLm;
    const NAME: &str = "stablelm";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["StableLmForCausalLM"];
    const DIALECTS: &[&str] = &["hugging-face"];
    const DOC: &str = "StableLM.";
    const NAMES: &[(&str, &str)] = &[("rms_norm_eps", "layer_norm_eps")];

    fn own() -> Vec<Field> {
        let parallel = "Whether the feed-forward layer is beside attention.";
        vec![
            flag("use_qkv_bias", default(false), "Whether queries, keys and values have biases."),
            flag("use_parallel_residual", default(false), parallel),
        ]
    }

    fn source_own() -> Vec<Field> {
        vec![flag("qk_layernorm", default(false), "Whether heads are normed.")]
    }

    fn defaults() -> Vec<(&'static str, Fallback)> {
        vec![("rms_norm_eps", default(1e-5))]
    }

    fn settle(source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        base.qk_norm = source.get("qk_layernorm")?;
        Ok(source.carry(&Self::own()))
    }

    fn open(config: &Settings) -> Result<StableLm, Refusal> {
        Ok(StableLm {
            base: Base::open_normed(config)?,
            rope: Rope::open(config)?,
            qkv_bias: config.get("use_qkv_bias")?,
            parallel: config.get("use_parallel_residual")?,
        })
    }
}

impl Model for StableLm {
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
            Place::Head => all.head("lm_head", base, false).ln("ln_f", "model.norm", hidden, true),
            Place::Block(_) => all
                .ln("input_layernorm", "input_layernorm", hidden, true)
                .qkv(QKV, base, self.qkv_bias)
                .linear("attention.dense", "self_attn.o_proj", [hidden, q], false)
                .gated(base, false),
        };
        if let Place::Block(_) = at {
            if !self.parallel {
                all.ln("post_layernorm", "post_attention_layernorm", hidden, true);
            }
            if base.qk_norm {
                let (q, k) = ("attention.q_layernorm", "attention.k_layernorm");
                all.each_head(q, "self_attn.q_layernorm.norms", base.queries(), base.head_width)
                    .each_head(k, "self_attn.k_layernorm.norms", base.keys(), base.head_width);
            }
        }
        all.done()
    }

    fn write(&self, g: &Builder, at: Place, carry: Vec<Value>) -> Vec<Value> {
        let Base { head_width, rotated, epsilon, .. } = self.base;
        let norm = |value, name| g.layer_norm_heads(value, g.parameter(name), head_width, epsilon);
        let x = carry[0];
        vec![match at {
            Place::Embed => g.embedding(x, g.parameter("vocab_embedding.weight")),
            Place::Head => g.dense(g.ln(x, "ln_f", true, epsilon), "lm_head", false),
            Place::Block(_) => {
                let normed = g.ln(x, "input_layernorm", true, epsilon);
                let [mut q, mut k, v] = g.qkv(normed, &self.base, self.qkv_bias);
                if self.base.qk_norm {
                    q = norm(q, "attention.q_layernorm.weight");
                    k = norm(k, "attention.k_layernorm.weight");
                }
                let rotary = self.rope.rotary(head_width, rotated);
                let (q, k) = (g.rotate(q, &rotary), g.rotate(k, &rotary));
                let a = g.attend(q, k, v, &self.base.attention());
                let x = g.add(x, g.dense(a, "attention.dense", false));
                let h = match self.parallel {
                    true => normed,
                    false => g.ln(x, "post_layernorm", true, epsilon),
                };
                g.add(x, g.gated(h, "mlp", &self.base.activation, false))
            }
        }]
    }
}

export!(StableLm);
