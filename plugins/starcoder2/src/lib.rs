//! StarCoder 2: layer norms, biases everywhere, a plain feed-forward layer, a window.

use engraft_plugin_sdk::*;

struct StarCoder2 {
    base: Base,
    rope: Rope,
    windows: Windows,
    bias: bool,
}

impl Architecture for StarCoder2 {
    type Model = StarCoder2;
    const NAME: &str = "starcoder2";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["Starcoder2ForCausalLM"];
    const DIALECTS: &[&str] = &["hugging-face"];
    const DOC: &str = "StarCoder 2.";
    const NAMES: &[(&str, &str)] = &[("rms_norm_eps", "norm_epsilon"), ("bias", "use_bias")];

    fn own() -> Vec<Field> {
        let bias = flag("bias", default(true), "Whether linear layers have biases.");
        [Windows::fields(), vec![bias]].concat()
    }

    fn source_own() -> Vec<Field> {
        vec![number("residual_dropout", ABSENT, "Of training.")]
    }

    fn defaults() -> Vec<(&'static str, Fallback)> {
        vec![
            ("rms_norm_eps", default(1e-5)),
            ("hidden_act", default("gelu_pytorch_tanh")),
            ("tie_word_embeddings", default(true)),
        ]
    }

    fn says() -> Vec<(&'static str, SettingValue)> {
        vec![("gpt_variant", "starcoder2".into())]
    }

    fn settle(source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        let bias = set("bias", source.value("bias").cloned());
        Ok([Windows::configure(source, base, |_| true)?, vec![bias]].concat())
    }

    fn open(config: &Settings) -> Result<StarCoder2, Refusal> {
        let base = Base::open(config)?;
        let (rope, windows) = (Rope::open(config)?, Windows::open(config, &base)?);
        Ok(StarCoder2 { base, rope, windows, bias: config.get("bias")? })
    }
}

impl Model for StarCoder2 {
    fn base(&self) -> &Base {
        &self.base
    }

    fn parameters(&self, at: Place, dialect: &str) -> Vec<Parameter> {
        let (base, bias) = (&self.base, self.bias);
        let (hidden, q) = (base.width(), base.queries());
        let mut all = Parameters::new(at, dialect);
        match at {
            Place::Embed => {
                all.linear("vocab_embedding", "model.embed_tokens", base.table(), false)
            }
            Place::Head => all.head("lm_head", base, false).ln("ln_f", "model.norm", hidden, true),
            Place::Block(_) => all
                .ln("input_layernorm", "input_layernorm", hidden, true)
                .qkv(QKV, base, bias)
                .linear("attention.dense", "self_attn.o_proj", [hidden, q], bias)
                .ln("post_layernorm", "post_attention_layernorm", hidden, true)
                .feed_forward(["mlp.c_fc", "mlp.c_proj"], base, bias),
        };
        all.done()
    }

    fn write(&self, g: &Builder, at: Place, carry: Vec<Value>) -> Vec<Value> {
        let Base { head_width, rotated, epsilon, .. } = self.base;
        let x = carry[0];
        vec![match at {
            Place::Embed => g.embedding(x, g.parameter("vocab_embedding.weight")),
            Place::Head => g.dense(g.ln(x, "ln_f", true, epsilon), "lm_head", false),
            Place::Block(i) => {
                let h = g.ln(x, "input_layernorm", true, epsilon);
                let [q, k, v] = g.qkv(h, &self.base, self.bias);
                let rotary = self.rope.rotary(head_width, rotated);
                let attention = self.base.attention();
                self.windows.limit(&attention, i);
                let a = g.attend(g.rotate(q, &rotary), g.rotate(k, &rotary), v, &attention);
                let x = g.add(x, g.dense(a, "attention.dense", self.bias));
                let h = g.ln(x, "post_layernorm", true, epsilon);
                g.add(x, g.feed_forward(h, "mlp", &self.base.activation, self.bias))
            }
        }]
    }
}

export!(StarCoder2);
