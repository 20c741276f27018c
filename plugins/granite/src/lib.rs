//! Granite: Llama's block with four multipliers.

use engraft_plugin_sdk::*;

struct Granite {
    base: Base,
    rope: Rope,
    attention_bias: bool,
    mlp_bias: bool,
    embedding: f64,
    /// Beside one over the root of the head's width.
    attention: f64,
    /// Of what a layer adds.
    residual: f64,
    logits: f64,
}

impl Architecture for Granite {
    type Model = Granite;
    const NAME: &str = "granite";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["GraniteForCausalLM"];
    const DIALECTS: &[&str] = &["hugging-face"];
    const DOC: &str = "Granite 3.";
    const NAMES: &[(&str, &str)] =
        &[("attn_bias", "attention_bias"), ("output_multiplier_scale", "logits_scaling")];

    fn own() -> Vec<Field> {
        let factor = |path| number(path, default(1.0), "A multiplier.");
        vec![
            flag("attn_bias", default(false), "Whether attention's layers have biases."),
            flag("mlp_bias", default(false), "Whether feed-forward layers have biases."),
            factor("embedding_multiplier"),
            factor("attention_multiplier"),
            factor("residual_multiplier"),
            factor("output_multiplier_scale"),
        ]
    }

    /// A checkpoint's `attention_multiplier` stands beside the usual scale, a source's in its
    /// place; and a source divides logits.
    fn settle(source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        let attention: f64 = source.get("attention_multiplier")?;
        let attention = attention * f64::from(base.head_width).sqrt();
        let logits = 1.0 / source.get::<f64>("output_multiplier_scale")?;
        let mut all = source.carry(&Self::own());
        all.retain(|s| !["attention_multiplier", "output_multiplier_scale"].contains(&&*s.path));
        all.push(set("attention_multiplier", SettingValue::Number(attention)));
        all.push(set("output_multiplier_scale", SettingValue::Number(logits)));
        Ok(all)
    }

    fn open(config: &Settings) -> Result<Granite, Refusal> {
        Ok(Granite {
            base: Base::open(config)?,
            rope: Rope::open(config)?,
            attention_bias: config.get("attn_bias")?,
            mlp_bias: config.get("mlp_bias")?,
            embedding: config.get("embedding_multiplier")?,
            attention: config.get("attention_multiplier")?,
            residual: config.get("residual_multiplier")?,
            logits: config.get("output_multiplier_scale")?,
        })
    }
}

impl Model for Granite {
    fn base(&self) -> &Base {
        &self.base
    }

    fn parameters(&self, at: Place, dialect: &str) -> Vec<Parameter> {
        let (base, attention_bias) = (&self.base, self.attention_bias);
        let (hidden, q) = (base.width(), base.queries());
        let mut all = Parameters::new(at, dialect);
        match at {
            Place::Embed => {
                all.linear("vocab_embedding", "model.embed_tokens", base.table(), false)
            }
            Place::Head => all.head("lm_head", base, false).norm("ln_f", "model.norm", hidden),
            Place::Block(_) => all
                .norm("input_layernorm", "input_layernorm", hidden)
                .qkv(QKV, base, attention_bias)
                .linear("attention.dense", "self_attn.o_proj", [hidden, q], attention_bias)
                .norm("post_layernorm", "post_attention_layernorm", hidden)
                .gated(base, self.mlp_bias),
        };
        all.done()
    }

    fn write(&self, g: &Builder, at: Place, carry: Vec<Value>) -> Vec<Value> {
        let Base { head_width, rotated, epsilon, .. } = self.base;
        let x = carry[0];
        vec![match at {
            Place::Embed => {
                g.scale(g.embedding(x, g.parameter("vocab_embedding.weight")), self.embedding)
            }
            Place::Head => {
                g.scale(g.dense(g.norm(x, "ln_f", epsilon), "lm_head", false), self.logits)
            }
            Place::Block(_) => {
                let h = g.norm(x, "input_layernorm", epsilon);
                let [q, k, v] = g.qkv(h, &self.base, self.attention_bias);
                let rotary = self.rope.rotary(head_width, rotated);
                let attention = self.base.attention();
                attention.scale(self.attention / f64::from(head_width).sqrt());
                let a = g.attend(g.rotate(q, &rotary), g.rotate(k, &rotary), v, &attention);
                let a = g.dense(a, "attention.dense", self.attention_bias);
                let x = g.add(x, g.scale(a, self.residual));
                let h = g.norm(x, "post_layernorm", epsilon);
                let h = g.gated(h, "mlp", &self.base.activation, self.mlp_bias);
                g.add(x, g.scale(h, self.residual))
            }
        }]
    }
}

export!(Granite);
