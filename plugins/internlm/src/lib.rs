//! InternLM: Llama's block; the second has names of its own, and queries, keys and values in one
//! tensor: of each key head its queries, the key and the value.

use engraft_plugin_sdk::*;

struct InternLm {
    base: Base,
    rope: Rope,
    attention_bias: bool,
    second: bool,
}

impl Architecture for InternLm {
    type Model = InternLm;
    const NAME: &str = "internlm";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["InternLM2ForCausalLM", "InternLMForCausalLM"];
    const DIALECTS: &[&str] = &["hugging-face"];
    const DOC: &str = "InternLM 1 and 2.";
    const NAMES: &[(&str, &str)] = &[("attn_bias", "bias")];

    fn own() -> Vec<Field> {
        vec![flag("attn_bias", default(false), "Whether attention's layers have biases.")]
    }

    fn defaults() -> Vec<(&'static str, Fallback)> {
        vec![("tie_word_embeddings", default(false))]
    }

    fn says() -> Vec<(&'static str, SettingValue)> {
        vec![("mlp_bias", false.into())]
    }

    fn open(config: &Settings) -> Result<InternLm, Refusal> {
        let (base, rope) = (Base::open(config)?, Rope::open(config)?);
        let second = config.get::<String>("architecture")? == Self::ACCEPTS[0];
        Ok(InternLm { base, rope, attention_bias: config.get("attn_bias")?, second })
    }
}

impl InternLm {
    fn first(&self, at: Place, all: &mut Parameters) {
        let (base, bias) = (&self.base, self.attention_bias);
        let (hidden, q) = (base.width(), base.queries());
        match at {
            Place::Embed => {
                all.linear("vocab_embedding", "model.embed_tokens", base.table(), false)
            }
            Place::Head => all.head("lm_head", base, false).norm("ln_f", "model.norm", hidden),
            Place::Block(_) => all
                .norm("input_layernorm", "input_layernorm", hidden)
                .qkv(QKV, base, bias)
                .linear("attention.dense", "self_attn.o_proj", [hidden, q], bias)
                .norm("post_layernorm", "post_attention_layernorm", hidden)
                .gated(base, false),
        };
    }

    fn second(&self, at: Place, all: &mut Parameters) {
        let (base, bias) = (&self.base, self.attention_bias);
        let (hidden, q, inner) = (base.width(), base.queries(), base.inside());
        let table = base.table();
        match at {
            Place::Embed => all.linear("vocab_embedding", "model.tok_embeddings", table, false),
            Place::Head => all.head("output", base, false).norm("ln_f", "model.norm", hidden),
            Place::Block(_) => all
                .norm("input_layernorm", "attention_norm", hidden)
                .fused_qkv("attention.wqkv", base, base.key_heads, bias)
                .linear("attention.dense", "attention.wo", [hidden, q], bias)
                .norm("post_layernorm", "ffn_norm", hidden)
                .linear("mlp.fc", "feed_forward.w1", [inner, hidden], false)
                .linear("mlp.gate", "feed_forward.w3", [inner, hidden], false)
                .linear("mlp.proj", "feed_forward.w2", [hidden, inner], false),
        };
    }
}

impl Model for InternLm {
    fn base(&self) -> &Base {
        &self.base
    }

    fn parameters(&self, at: Place, dialect: &str) -> Vec<Parameter> {
        let mut all = Parameters::new(at, dialect);
        match self.second {
            true => self.second(at, &mut all),
            false => self.first(at, &mut all),
        }
        all.done()
    }

    fn write(&self, g: &Builder, at: Place, carry: Vec<Value>) -> Vec<Value> {
        let Base { head_width, rotated, epsilon, .. } = self.base;
        let x = carry[0];
        vec![match at {
            Place::Embed => g.embedding(x, g.parameter("vocab_embedding.weight")),
            Place::Head => g.dense(g.norm(x, "ln_f", epsilon), "lm_head", false),
            Place::Block(_) => {
                let h = g.norm(x, "input_layernorm", epsilon);
                let [q, k, v] = g.qkv(h, &self.base, self.attention_bias);
                let rotary = self.rope.rotary(head_width, rotated);
                let (q, k) = (g.rotate(q, &rotary), g.rotate(k, &rotary));
                let a = g.attend(q, k, v, &self.base.attention());
                let x = g.add(x, g.dense(a, "attention.dense", self.attention_bias));
                let h = g.norm(x, "post_layernorm", epsilon);
                g.add(x, g.gated(h, "mlp", &self.base.activation, false))
            }
        }]
    }
}

export!(InternLm);
