//! Qwen 2 and 3: Llama's block with biases on queries, keys and values (2) or norms of their heads
//! (3), and windows in the later blocks of some models.

use engraft_plugin_sdk::*;

struct Qwen {
    base: Base,
    rope: Rope,
    windows: Windows,
    attention_bias: bool,
}

impl Architecture for Qwen {
    type Model = Qwen;
    const NAME: &str = "qwen";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["Qwen2ForCausalLM", "Qwen3ForCausalLM"];
    const DIALECTS: &[&str] = &["hugging-face"];
    const DOC: &str = "Qwen 2 and 3.";

    fn own() -> Vec<Field> {
        let bias = "Whether queries, keys and values have biases.";
        [Windows::fields(), vec![flag("attn_bias", default(true), bias)]].concat()
    }

    fn source_own() -> Vec<Field> {
        vec![
            flag("use_sliding_window", default(false), "Whether any block has a window."),
            integer("max_window_layers", default(28), "The first block that has one."),
        ]
    }

    fn only() -> Vec<(&'static str, SettingValue)> {
        vec![("attention_bias", false.into())]
    }

    fn says() -> Vec<(&'static str, SettingValue)> {
        vec![("mlp_bias", false.into())]
    }

    fn settle(source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        base.qk_norm = source.architecture(Self::ACCEPTS)? == "Qwen3ForCausalLM";
        let first: i64 = source.get("max_window_layers")?;
        let windows = match source.get("use_sliding_window")? {
            true => Windows::configure(source, base, |i| i64::from(i) >= first)?,
            false => Vec::new(),
        };
        let bias = set("attn_bias", SettingValue::Flag(!base.qk_norm));
        Ok([windows, vec![bias]].concat())
    }

    fn open(config: &Settings) -> Result<Qwen, Refusal> {
        let base = Base::open_normed(config)?;
        let (rope, windows) = (Rope::open(config)?, Windows::open(config, &base)?);
        Ok(Qwen { base, rope, windows, attention_bias: config.get("attn_bias")? })
    }
}

impl Model for Qwen {
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
                .head_norms(base)
                .qkv(QKV, base, self.attention_bias)
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
                let [q, k, v] = g.qkv(h, &self.base, self.attention_bias);
                let [q, k] = g.head_norms([q, k], &self.base);
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

export!(Qwen);
