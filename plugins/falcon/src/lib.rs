//! Falcon: layer norms, a feed-forward layer beside attention with a norm of its own or that of
//! attention, or after it; rotary positions or slopes.

use engraft_plugin_sdk::*;

struct Falcon {
    base: Base,
    rope: Rope,
    bias: bool,
    parallel: bool,
    both_normed: bool,
    /// How often slopes are added, before the scale; none where heads turn.
    alibi: Option<f64>,
}

const ALIBI: &str = "alibi_with_scale";
const AFTER: &str = "post_attention_layernorm";
/// transformers' eager attention adds slopes to the scores, and again with the mask.
const TIMES: &str = "alibi_times";

impl Architecture for Falcon {
    type Model = Falcon;
    const NAME: &str = "falcon";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["FalconForCausalLM", "RWForCausalLM"];
    const DIALECTS: &[&str] = &["hugging-face"];
    const DOC: &str = "Falcon.";
    const NAMES: &[(&str, &str)] = &[
        ("num_key_value_heads", "num_kv_heads"),
        ("intermediate_size", "ffn_hidden_size"),
        ("hidden_act", "activation"),
        ("rms_norm_eps", "layer_norm_epsilon"),
        ("parallel_attention", "parallel_attn"),
    ];

    fn own() -> Vec<Field> {
        vec![
            flag("bias", default(false), "Whether linear layers have biases."),
            flag("parallel_attention", default(true), "Whether layers are beside each other."),
            flag("new_decoder_architecture", default(false), "Whether key heads are counted."),
            integer("num_ln_in_parallel_attn", ABSENT, "Norms of layers beside each other."),
            number(TIMES, default(1.0), "How often slopes are added."),
        ]
    }

    fn source_own() -> Vec<Field> {
        vec![
            flag("multi_query", default(true), "Whether there is one key head."),
            flag("alibi", default(false), "Whether slopes stand in for positions."),
        ]
    }

    fn defaults() -> Vec<(&'static str, Fallback)> {
        vec![
            ("intermediate_size", ABSENT),
            ("max_position_embeddings", default(2048)),
            ("rms_norm_eps", default(1e-5)),
            ("hidden_act", default("gelu")),
            ("tie_word_embeddings", default(true)),
        ]
    }

    fn settle(source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        if !source.get::<bool>("new_decoder_architecture")? {
            base.key_heads = if source.get("multi_query")? { 1 } else { base.heads };
        }
        let mut all = source.carry(&Self::own()[..4]);
        if source.get("alibi")? {
            all.push(set("position_embedding_type", SettingValue::from(ALIBI)));
            all.push(set(TIMES, SettingValue::Number(2.0)));
        }
        all.push(set("architecture", SettingValue::from(Self::ACCEPTS[0])));
        Ok(all)
    }

    fn open(config: &Settings) -> Result<Falcon, Refusal> {
        let positions: String = config.get("position_embedding_type")?;
        let norms: i64 = config.find("num_ln_in_parallel_attn")?.unwrap_or(2);
        Ok(Falcon {
            base: Base::open(config)?,
            rope: Rope::open(config)?,
            bias: config.get("bias")?,
            parallel: config.get("parallel_attention")?,
            both_normed: config.get("new_decoder_architecture")? && norms == 2,
            alibi: (positions == ALIBI).then_some(config.get(TIMES)?),
        })
    }
}

impl Model for Falcon {
    fn base(&self) -> &Base {
        &self.base
    }

    fn parameters(&self, at: Place, dialect: &str) -> Vec<Parameter> {
        let (base, bias) = (&self.base, self.bias);
        let (hidden, q) = (base.width(), base.queries());
        let (table, last) = ("transformer.word_embeddings", "transformer.ln_f");
        let first = if self.both_normed { "ln_attn" } else { "input_layernorm" };
        let mut all = Parameters::new(at, dialect).blocks("transformer.h");
        match at {
            Place::Embed => all.linear("vocab_embedding", table, base.table(), false),
            Place::Head => all.head("lm_head", base, false).ln("ln_f", last, hidden, true),
            Place::Block(_) => all
                .ln("input_layernorm", first, hidden, true)
                .fused_qkv("self_attention.query_key_value", base, base.key_heads, bias)
                .linear("attention.dense", "self_attention.dense", [hidden, q], bias)
                .feed_forward(["mlp.dense_h_to_4h", "mlp.dense_4h_to_h"], base, bias),
        };
        match (at, self.parallel, self.both_normed) {
            (Place::Block(_), true, true) => all.ln("mlp_layernorm", "ln_mlp", hidden, true),
            (Place::Block(_), false, _) => all.ln("post_layernorm", AFTER, hidden, true),
            _ => &mut all,
        };
        all.done()
    }

    fn write(&self, g: &Builder, at: Place, carry: Vec<Value>) -> Vec<Value> {
        let (base, bias) = (&self.base, self.bias);
        let norm = |value, name| g.ln(value, name, true, base.epsilon);
        let x = carry[0];
        vec![match at {
            Place::Embed => g.embedding(x, g.parameter("vocab_embedding.weight")),
            Place::Head => g.dense(norm(x, "ln_f"), "lm_head", false),
            Place::Block(_) => {
                let normed = norm(x, "input_layernorm");
                let [mut q, mut k, v] = g.qkv(normed, base, bias);
                let attention = base.attention();
                if let Some(times) = self.alibi {
                    let scale = times / f64::from(base.head_width).sqrt();
                    let slopes = alibi_slopes(base.heads, 8.0).into_iter().map(|s| s * scale);
                    attention.alibi(&slopes.collect::<Vec<f64>>());
                } else {
                    let rotary = self.rope.rotary(base.head_width, base.rotated);
                    (q, k) = (g.rotate(q, &rotary), g.rotate(k, &rotary));
                }
                let a = g.attend(q, k, v, &attention);
                let attended = g.add(x, g.dense(a, "attention.dense", bias));
                let h = match (self.parallel, self.both_normed) {
                    (true, true) => norm(x, "mlp_layernorm"),
                    (true, false) => normed,
                    (false, _) => norm(attended, "post_layernorm"),
                };
                g.add(attended, g.feed_forward(h, "mlp", &base.activation, bias))
            }
        }]
    }
}

export!(Falcon);
