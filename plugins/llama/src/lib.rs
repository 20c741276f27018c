//! Llama 1 to 3, and SmolLM3, which is Llama with some blocks that do not rotate.

use engraft_plugin_sdk::*;

struct Llama {
    /// Sizes, activation, whether the head is the embedding.
    base: Base,
    rope: Rope,
    attention_bias: bool,
    mlp_bias: bool,
    /// A zero for each block that does not rotate; empty where all do.
    rotates: Vec<i64>,
}

/// What a source (the first three) or a checkpoint may ask for and the graph below does not have.
fn only() -> [(&'static str, SettingValue); 7] {
    [
        ("use_sliding_window", false.into()),
        ("layer_types", vec!["full_attention".to_string()].into()),
        ("num_local_experts", 0.into()),
        ("partial_rotary_factor", 1.0.into()),
        ("rope_parameters.partial_rotary_factor", 1.0.into()),
        ("residual_mlp", false.into()),
        ("moe.num_experts", 0.into()),
    ]
}

impl Architecture for Llama {
    type Model = Llama;
    const NAME: &str = "llama";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["LlamaForCausalLM", "SmolLM3ForCausalLM", "gguf:llama"];
    const DIALECTS: &[&str] = &["hugging-face", "gguf"];
    const DOC: &str = "Llama 1 to 3 and SmolLM3.";
    const GGUF_PREFIX: &str = "llama";
    const GGUF: &[(&str, &str)] = &[
        ("attention_bias", "tensor:blk.0.attn_q.bias"),
        ("mlp_bias", "tensor:blk.0.ffn_gate.bias"),
        ("num_local_experts", "llama.expert_count"),
    ];

    fn source_fields() -> Vec<Field> {
        let own = vec![
            flag("attention_bias", default(false), "Whether attention's layers have biases."),
            flag("mlp_bias", default(false), "Whether feed-forward layers have biases."),
            integers("no_rope_layers", ABSENT, "A zero for each block that does not rotate."),
            integer("no_rope_layer_interval", default(4), "SmolLM3: every how many one does not."),
        ];
        [own, Base::source_fields(), Rope::source_fields(), fixed(&only()[..3])].concat()
    }

    fn fields() -> Vec<Field> {
        let own = vec![
            flag("attn_bias", default(false), "Whether attention's layers have biases."),
            flag("mlp_bias", default(false), "Whether feed-forward layers have biases."),
            integers("no_rope_layers", ABSENT, "A zero for each block that does not rotate."),
        ];
        [own, Base::fields(), Rope::fields(), usual(&only()[5..])].concat()
    }

    fn configure(source: &Settings) -> Result<Vec<Setting>, Refusal> {
        source.check_fixed(&only())?;
        let base = Base::from_source(source)?;
        let architecture = source.architecture(&Self::ACCEPTS[..2])?;
        let smollm3 = architecture == "SmolLM3ForCausalLM";
        let mut rotates: Option<Vec<i64>> = source.find("no_rope_layers")?;
        if smollm3 && rotates.is_none() {
            let interval: u32 = source.get("no_rope_layer_interval")?;
            rotates = Some((1..=base.blocks).map(|n| (n % interval != 0).into()).collect());
        }
        let mut settings = base.settings(architecture, "rope_gpt_neox");
        settings.extend(Rope::configure(source, if smollm3 { 2e6 } else { 1e4 }, base.context)?);
        settings.extend([
            set("attn_bias", source.value("attention_bias").cloned()),
            set("mlp_bias", source.value("mlp_bias").cloned()),
            set("no_rope_layers", rotates.map(SettingValue::Integers)),
        ]);
        Ok(settings)
    }

    fn open(config: &Settings) -> Result<Llama, Refusal> {
        config.check_fixed(&only())?;
        let (base, rope) = (Base::open(config)?, Rope::open(config)?);
        let rotates: Vec<i64> = config.find("no_rope_layers")?.unwrap_or_default();
        if !rotates.is_empty() && rotates.len() != base.blocks as usize {
            return refuse("no_rope_layers", format!("{} of {}", rotates.len(), base.blocks));
        }
        let (attention_bias, mlp_bias) = (config.get("attn_bias")?, config.get("mlp_bias")?);
        Ok(Llama { base, rope, attention_bias, mlp_bias, rotates })
    }
}

impl Model for Llama {
    fn base(&self) -> &Base {
        &self.base
    }

    fn parameters(&self, at: Place, dialect: &str) -> Vec<Parameter> {
        let (base, attention_bias) = (&self.base, self.attention_bias);
        let (hidden, q) = (base.width(), base.queries());
        let mut all = Parameters::new(at, dialect).gguf_pairs(base.head_width);
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
            Place::Embed => g.embedding(x, g.parameter("vocab_embedding.weight")),
            Place::Head => g.dense(g.norm(x, "ln_f", epsilon), "lm_head", false),
            Place::Block(i) => {
                let h = g.norm(x, "input_layernorm", epsilon);
                let [mut q, mut k, v] = g.qkv(h, &self.base, self.attention_bias);
                if self.rotates.get(i as usize) != Some(&0) {
                    let rotary = self.rope.rotary(head_width, rotated);
                    (q, k) = (g.rotate(q, &rotary), g.rotate(k, &rotary));
                }
                let a = g.attend(q, k, v, &self.base.attention());
                let x = g.add(x, g.dense(a, "attention.dense", self.attention_bias));
                let h = g.norm(x, "post_layernorm", epsilon);
                g.add(x, g.gated(h, "mlp", &self.base.activation, self.mlp_bias))
            }
        }]
    }
}

export!(Llama);
