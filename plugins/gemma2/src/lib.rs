//! Gemma 2 and 3: norms before and after each layer with gains stored less one, a scaled embedding,
//! windows in most blocks; the second bends scores and logits, the third norms heads and turns
//! them by another base where there is a window.

use engraft_plugin_sdk::*;

struct Gemma2 {
    base: Base,
    rope: Rope,
    local: Rope,
    windows: Windows,
    scalar: f64,
    scores: Option<f64>,
    logits: Option<f64>,
}

const THIRD: &str = "Gemma3ForCausalLM";
const LOCAL: [&str; 2] = ["rope_local_base_freq", "rope_parameters.sliding_attention.rope_theta"];

impl Architecture for Gemma2 {
    type Model = Gemma2;
    const NAME: &str = "gemma2";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["Gemma2ForCausalLM", THIRD];
    const DIALECTS: &[&str] = &["hugging-face"];
    const DOC: &str = "Gemma 2 and 3, without images.";

    fn own() -> Vec<Field> {
        let own = vec![
            number("query_pre_attn_scalar", default(256.0), "Scores are divided by its root."),
            number("attn_logit_softcapping", ABSENT, "What scores are bent to."),
            number("final_logit_softcapping", ABSENT, "What logits are bent to."),
            number(LOCAL[0], ABSENT, "Rotary base where there is a window."),
        ];
        [own, Windows::fields()].concat()
    }

    fn source_own() -> Vec<Field> {
        vec![
            number(LOCAL[1], ABSENT, "Rotary base where there is a window."),
            integer("sliding_window_pattern", default(6), "Every how many have no window."),
            integer("_sliding_window_pattern", ABSENT, "The same."),
        ]
    }

    fn defaults() -> Vec<(&'static str, Fallback)> {
        vec![
            ("hidden_activation", default("gelu_pytorch_tanh")),
            ("tie_word_embeddings", default(true)),
        ]
    }

    fn only() -> Vec<(&'static str, SettingValue)> {
        vec![
            ("attention_bias", false.into()),
            ("use_bidirectional_attention", false.into()),
            ("rope_parameters.sliding_attention.rope_type", "default".into()),
        ]
    }

    fn says() -> Vec<(&'static str, SettingValue)> {
        let flags = [("attn_bias", false), ("mlp_bias", false), ("inter_layernorms", true)];
        flags.map(|(path, value)| (path, value.into())).to_vec()
    }

    fn settle(source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        let third = source.architecture(Self::ACCEPTS)? == THIRD;
        base.qk_norm = third;
        let every: u32 = if third { source.get("sliding_window_pattern")? } else { 2 };
        let local = source.first::<f64>(&LOCAL)?.or(third.then_some(1e4));
        let mut all = source.carry(&Self::own()[..3]);
        all.push(set(LOCAL[0], local.map(SettingValue::Number)));
        all.extend(Windows::configure(source, base, |i| !(i + 1).is_multiple_of(every))?);
        Ok(all)
    }

    fn open(config: &Settings) -> Result<Gemma2, Refusal> {
        let (base, rope) = (Base::open_normed(config)?, Rope::open(config)?);
        let local = config.find(LOCAL[0])?.map_or(rope.clone(), Rope::unscaled);
        let windows = Windows::open(config, &base)?;
        let scalar = config.get("query_pre_attn_scalar")?;
        let scores = config.find("attn_logit_softcapping")?;
        let logits = config.find("final_logit_softcapping")?;
        Ok(Gemma2 { base, rope, local, windows, scalar, scores, logits })
    }
}

impl Model for Gemma2 {
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
            Place::Head => all.head("lm_head", base, false).norm("ln_f", "model.norm", hidden),
            Place::Block(_) => all
                .norm("input_layernorm", "input_layernorm", hidden)
                .head_norms(base)
                .qkv(QKV, base, false)
                .linear("attention.dense", "self_attn.o_proj", [hidden, q], false)
                .norm("post_layernorm", "post_attention_layernorm", hidden)
                .norm("pre_feedforward_layernorm", "pre_feedforward_layernorm", hidden)
                .gated(base, false)
                .norm("post_feedforward_layernorm", "post_feedforward_layernorm", hidden),
        };
        all.done()
    }

    fn write(&self, g: &Builder, at: Place, carry: Vec<Value>) -> Vec<Value> {
        let Base { head_width, rotated, epsilon, .. } = self.base;
        let x = carry[0];
        vec![match at {
            Place::Embed => {
                let words = g.embedding(x, g.parameter("vocab_embedding.weight"));
                g.scale(words, f64::from(self.base.hidden).sqrt())
            }
            Place::Head => {
                let logits = g.dense(g.norm(x, "ln_f", epsilon), "lm_head", false);
                self.logits.map_or(logits, |bound| g.softcap(logits, bound))
            }
            Place::Block(i) => {
                let h = g.norm(x, "input_layernorm", epsilon);
                let [q, k, v] = g.qkv(h, &self.base, false);
                let [q, k] = g.head_norms([q, k], &self.base);
                let rope = if self.windows.slides(i) { &self.local } else { &self.rope };
                let rotary = rope.rotary(head_width, rotated);
                let attention = self.base.attention();
                attention.scale(1.0 / self.scalar.sqrt());
                self.windows.limit(&attention, i);
                self.scores.iter().for_each(|&bound| attention.softcap(bound));
                let a = g.attend(g.rotate(q, &rotary), g.rotate(k, &rotary), v, &attention);
                let a = g.dense(a, "attention.dense", false);
                let x = g.add(x, g.norm(a, "post_layernorm", epsilon));
                let h = g.norm(x, "pre_feedforward_layernorm", epsilon);
                let h = g.gated(h, "mlp", &self.base.activation, false);
                g.add(x, g.norm(h, "post_feedforward_layernorm", epsilon))
            }
        }]
    }
}

export!(Gemma2);
