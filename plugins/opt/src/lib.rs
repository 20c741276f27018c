//! OPT and Galactica: learned positions, and norms before layers or after what they add. Where the
//! vocabulary has another width than the blocks, its projections are folded into the tables.

use engraft_plugin_sdk::*;

struct Opt {
    decoder: Decoder,
    /// Whether the source's tables have another width than the blocks.
    projected: bool,
}

/// Positions before the first token's.
const PADDING: u64 = 2;
const BEFORE: &str = "do_layer_norm_before";

impl Architecture for Opt {
    type Model = Opt;
    const NAME: &str = "opt";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["OPTForCausalLM"];
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
            flag(BEFORE, default(false), "Whether norms are before layers."),
            integer("word_embed_proj_dim", same_as("hidden_size"), "The vocabulary's width."),
        ]
    }

    fn source_own() -> Vec<Field> {
        vec![number("activation_dropout", ABSENT, "Of training.")]
    }

    fn defaults() -> Vec<(&'static str, Fallback)> {
        [layer_norm_defaults("relu", true), vec![(BEFORE, default(true))]].concat()
    }

    fn only() -> Vec<(&'static str, SettingValue)> {
        vec![
            ("layer_norm_elementwise_affine", true.into()),
            ("_remove_final_layer_norm", false.into()),
            ("learned_embeddings", true.into()),
            ("scale_embeddings", false.into()),
        ]
    }

    fn settle(source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        if !base.tied {
            return source.refuse("tie_word_embeddings", "false is not supported");
        }
        // Two projections of one table are two tables.
        base.tied = source.get::<u32>("word_embed_proj_dim")? == base.hidden;
        Ok(source.carry(&Self::own()))
    }

    fn open(config: &Settings) -> Result<Opt, Refusal> {
        let base = Base::open(config)?;
        let projected = config.get::<u32>("word_embed_proj_dim")? != base.hidden;
        let bias = config.get("bias")?;
        let decoder = Decoder {
            prefix: "model.decoder.",
            names: &[
                ("position_embedding", "embed_positions"),
                ("ln_f", "final_layer_norm"),
                ("input_layernorm", "self_attn_layer_norm"),
                ("attention.dense", "self_attn.out_proj"),
                ("post_layernorm", "final_layer_norm"),
                ("mlp.fc", "fc1"),
                ("mlp.proj", "fc2"),
            ],
            norm: Norm::LAYER,
            order: if config.get(BEFORE)? { Order::Before } else { Order::After },
            bias: Biases::new(bias, bias),
            mlp: Mlp::Plain,
            learned: Some(PADDING),
            ..Decoder::new(base)
        };
        Ok(Opt { decoder, projected })
    }
}

impl Opt {
    /// The source's table, as wide as the blocks.
    fn table(&self, n: &Net, name: &str, step: fn(String) -> Step, by: &str) -> Weight {
        n.any(name, || {
            let mut part = n.part("vocab_embedding", "weight", &self.decoder.base.table());
            part.steps.push(step(n.source(by, "weight")));
            part.into()
        })
    }
}

impl Model for Opt {
    fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    fn embed(&self, n: &Net, tokens: Value) -> Value {
        if !self.projected {
            return n.embed(tokens);
        }
        let table = self.table(n, "vocab_embedding.weight", Step::TimesTransposed, "project_in");
        n.add(n.write(|g| g.embedding(tokens, table)), n.positions(PADDING))
    }

    fn head(&self, n: &Net, x: Value) -> Value {
        let after = self.decoder.order == Order::After;
        let x = if after { x } else { n.norm(x, "ln_f") };
        if !self.projected {
            return n.logits(x);
        }
        let table = self.table(n, "lm_head.weight", Step::Times, "project_out");
        n.write(|g| g.linear(x, table, None))
    }
}

export!(Opt);
