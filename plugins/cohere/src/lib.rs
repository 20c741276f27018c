//! Cohere's Command models: one layer norm without a bias before attention and the feed-forward
//! layer beside it, neighbours that turn together, scaled logits. Some norm each head with a gain
//! of its own. The second kind has windows, and blocks without one do not turn.

use engraft_plugin_sdk::*;

struct Cohere(Decoder);

const SECOND: &str = "Cohere2ForCausalLM";
const PATTERNS: [&str; 2] = ["sliding_window_pattern", "_sliding_window_pattern"];

impl Architecture for Cohere {
    type Model = Cohere;
    const NAME: &str = "cohere";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["CohereForCausalLM", SECOND];
    const DOC: &str = "Command R, R7B and A.";
    const NAMES: &[(&str, &str)] = &[
        ("rms_norm_eps", "layer_norm_eps"),
        ("attn_bias", "attention_bias"),
        ("output_multiplier_scale", "logit_scale"),
    ];
    const POSITIONS: &str = "rope_gptj";

    fn own() -> Vec<Field> {
        let own = vec![
            flag("attn_bias", default(false), "Whether attention's layers have biases."),
            number("output_multiplier_scale", default(0.0625), "What logits are multiplied by."),
        ];
        [own, Windows::fields()].concat()
    }

    fn source_own() -> Vec<Field> {
        vec![
            flag("use_qk_norm", default(false), "Whether queries and keys are normed."),
            integer(PATTERNS[0], default(4), "Every how many have no window."),
            integer(PATTERNS[1], ABSENT, "The same."),
            integer("layer_switch", ABSENT, "The same."),
            integer("model_max_length", ABSENT, "Positions that it was extended to."),
            flag("use_parallel_embedding", ABSENT, "How training was split."),
            text("cache_implementation", ABSENT, "How transformers runs it."),
        ]
    }

    fn defaults() -> Vec<(&'static str, Fallback)> {
        vec![("rms_norm_eps", default(1e-5)), ("tie_word_embeddings", default(true))]
    }

    fn only() -> Vec<(&'static str, SettingValue)> {
        vec![
            ("order_of_interleaved_layers", "local_attn_first".into()),
            ("position_embedding_type", "rope_gptj".into()),
            ("use_embedding_sharing", true.into()),
            ("use_gated_activation", true.into()),
            ("use_parallel_block", true.into()),
        ]
    }

    fn settle(source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        base.qk_norm = source.get("use_qk_norm")?;
        let mut all = source.carry(&Self::own()[..2]);
        if source.architecture(Self::ACCEPTS)? == SECOND {
            let (_, every) =
                (source.get::<u32>("sliding_window")?, source.get::<u32>(PATTERNS[0])?);
            all.extend(Windows::configure(source, base, |i| !(i + 1).is_multiple_of(every))?);
        }
        Ok(all)
    }

    fn open(config: &Settings) -> Result<Cohere, Refusal> {
        let base = Base::open_normed(config)?;
        Ok(Cohere(Decoder {
            norm: Norm::LAYER.unbiased(),
            order: Order::Beside,
            bias: Biases::new(config.get("attn_bias")?, false),
            rope: Some(Rope::open(config)?.interleaved()),
            windows: Windows::open(config, &base)?,
            logits: config.get("output_multiplier_scale")?,
            ..Decoder::new(base)
        }))
    }
}

impl Model for Cohere {
    fn decoder(&self) -> &Decoder {
        &self.0
    }

    fn attention(&self, n: &Net, i: u32, x: Value) -> Value {
        let base = &self.0.base;
        let norm = |x, name: &str, heads: Axis| {
            n.norm_each_head(x, name, || {
                n.part(name, "weight", &[heads]).reshape([heads.size]).into()
            })
        };
        let [mut q, mut k, v] = n.qkv(x);
        if base.qk_norm {
            q = norm(q, "attention.q_layernorm", base.queries());
            k = norm(k, "attention.k_layernorm", base.keys());
        }
        n.attend([q, k, v], &self.scores(i))
    }

    fn scores(&self, i: u32) -> Scores<'_> {
        let scores = self.0.scores(i);
        let full = scores.window.is_none() && self.0.windows != Windows::none();
        Scores { rope: scores.rope.filter(|_| !full), ..scores }
    }
}

export!(Cohere);
