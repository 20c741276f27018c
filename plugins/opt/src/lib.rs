//! OPT and Galactica: learned positions, and norms before layers or after what they add. Where the
//! vocabulary has another width than the blocks, its projections are folded into the tables.

use engraft_plugin_sdk::*;

struct Opt {
    base: Base,
    bias: bool,
    before: bool,
    /// The width of the source's tables.
    words: u32,
}

impl Architecture for Opt {
    type Model = Opt;
    const NAME: &str = "opt";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["OPTForCausalLM"];
    const DIALECTS: &[&str] = &["hugging-face"];
    const DOC: &str = "OPT and Galactica.";
    const NAMES: &[(&str, &str)] = &[
        ("intermediate_size", "ffn_dim"),
        ("hidden_act", "activation_function"),
        ("bias", "enable_bias"),
    ];
    const POSITIONS: &str = "learned_absolute";

    fn own() -> Vec<Field> {
        vec![
            flag("bias", default(true), "Whether linear layers have biases."),
            flag("do_layer_norm_before", default(true), "Whether norms are before layers."),
            integer("word_embed_proj_dim", same_as("hidden_size"), "The vocabulary's width."),
        ]
    }

    fn defaults() -> Vec<(&'static str, Fallback)> {
        vec![
            ("rms_norm_eps", default(1e-5)),
            ("hidden_act", default("relu")),
            ("tie_word_embeddings", default(true)),
        ]
    }

    fn only() -> Vec<(&'static str, SettingValue)> {
        vec![
            ("layer_norm_elementwise_affine", true.into()),
            ("_remove_final_layer_norm", false.into()),
        ]
    }

    fn settle(source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        // Two projections of one table are two tables.
        base.tied &= source.get::<u32>("word_embed_proj_dim")? == base.hidden;
        Ok(source.carry(&Self::own()))
    }

    fn open(config: &Settings) -> Result<Opt, Refusal> {
        let (base, bias) = (Base::open(config)?, config.get("bias")?);
        let before = config.get("do_layer_norm_before")?;
        let words = config.find("word_embed_proj_dim")?.unwrap_or(base.hidden);
        Ok(Opt { base, bias, before, words })
    }
}

impl Opt {
    /// A table of the vocabulary, as wide as the blocks.
    fn table(&self, name: &str, step: Step) -> Parameter {
        let mut part = tensor("model.decoder.embed_tokens.weight", &self.base.table());
        if self.words != self.base.hidden {
            part.steps.push(step);
        }
        parameter(name, part)
    }
}

impl Model for Opt {
    fn base(&self) -> &Base {
        &self.base
    }

    fn parameters(&self, at: Place, dialect: &str) -> Vec<Parameter> {
        let (base, bias) = (&self.base, self.bias);
        let (hidden, q) = (base.width(), base.queries());
        let qkv = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
        let mut all = Parameters::new(at, dialect).blocks("model.decoder.layers");
        match at {
            // The first two positions are for padding.
            Place::Embed => all
                .push(self.table(
                    "vocab_embedding.weight",
                    Step::TimesTransposed("model.decoder.project_in.weight".into()),
                ))
                .rows(
                    "position_embedding",
                    "model.decoder.embed_positions",
                    &[(2, plain(base.context))],
                    hidden,
                    false,
                ),
            Place::Head => {
                match base.tied {
                    true => all.tied("lm_head", "vocab_embedding"),
                    false => all.push(self.table(
                        "lm_head.weight",
                        Step::Times("model.decoder.project_out.weight".into()),
                    )),
                };
                match self.before {
                    true => all.ln("ln_f", "model.decoder.final_layer_norm", hidden, true),
                    false => &mut all,
                }
            }
            Place::Block(_) => all
                .ln("input_layernorm", "self_attn_layer_norm", hidden, true)
                .qkv(qkv, base, bias)
                .linear("attention.dense", "self_attn.out_proj", [hidden, q], bias)
                .ln("post_layernorm", "final_layer_norm", hidden, true)
                .feed_forward(["fc1", "fc2"], base, bias),
        };
        all.done()
    }

    fn write(&self, g: &Builder, at: Place, carry: Vec<Value>) -> Vec<Value> {
        let (base, bias) = (&self.base, self.bias);
        let norm = |value, name| g.ln(value, name, true, base.epsilon);
        let before = |value, name| if self.before { norm(value, name) } else { value };
        let after = |value, name| if self.before { value } else { norm(value, name) };
        let x = carry[0];
        vec![match at {
            Place::Embed => {
                let words = g.embedding(x, g.parameter("vocab_embedding.weight"));
                g.add(words, g.positions(g.parameter("position_embedding.weight")))
            }
            Place::Head => g.dense(before(x, "ln_f"), "lm_head", false),
            Place::Block(_) => {
                let [q, k, v] = g.qkv(before(x, "input_layernorm"), base, bias);
                let a = g.dense(g.attend(q, k, v, &base.attention()), "attention.dense", bias);
                let x = after(g.add(x, a), "input_layernorm");
                let h = before(x, "post_layernorm");
                let h = g.feed_forward(h, "mlp", &base.activation, bias);
                after(g.add(x, h), "post_layernorm")
            }
        }]
    }
}

export!(Opt);
