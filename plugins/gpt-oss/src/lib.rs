//! GPT-OSS: logits of no key in each head's softmax, windows in every other block, a mixture of
//! experts with biases and bounded gates.

use engraft_plugin_sdk::*;

struct GptOss {
    decoder: Decoder,
    experts: Experts,
    /// What experts' gates and inputs are cut off at.
    limit: f64,
}

const EXPERTS: [&str; 2] = ["num_local_experts", "num_experts_per_tok"];
const LIMIT: &str = "swiglu_limit";

impl Architecture for GptOss {
    type Model = GptOss;
    const NAME: &str = "gpt-oss";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["GptOssForCausalLM"];
    const DOC: &str = "GPT-OSS.";
    const ROPE_BASE: f64 = 150_000.0;

    fn own() -> Vec<Field> {
        let limit = number(LIMIT, default(7.0), "What experts' gates and inputs are cut off at.");
        [Windows::fields(), vec![limit]].concat()
    }

    fn source_own() -> Vec<Field> {
        vec![
            integer(EXPERTS[0], default(128), "Experts of each mixture."),
            integer(EXPERTS[1], default(4), "Experts that a token takes."),
            integer("experts_per_token", ABSENT, "The same."),
            integer("initial_context_length", ABSENT, "The rotary scaling's, once more."),
        ]
    }

    fn checkpoint_own() -> Vec<Field> {
        Experts::fields()
    }

    fn defaults() -> Vec<(&'static str, Fallback)> {
        vec![("rms_norm_eps", default(1e-5)), ("tie_word_embeddings", default(false))]
    }

    fn only() -> Vec<(&'static str, SettingValue)> {
        vec![("attention_bias", true.into()), ("swiglu_alpha", 1.702.into())]
    }

    fn says() -> Vec<(&'static str, SettingValue)> {
        vec![("attn_bias", true.into())]
    }

    fn settle(source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        base.activates("silu", "swiglu")?;
        let experts = Experts::from_source(source, EXPERTS, base.inner)?;
        let windows = Windows::configure(source, base, |i| i.is_multiple_of(2))?;
        Ok([experts.settings(), windows, source.carry(&Self::own()[2..])].concat())
    }

    fn open(config: &Settings) -> Result<GptOss, Refusal> {
        let base = Base::open(config)?;
        let Some(experts) = Experts::open(config, base.inner)? else {
            return refuse("moe.num_experts", "a mixture has experts");
        };
        let limit: f64 = config.get(LIMIT)?;
        if !(limit > 0.0 && limit.is_finite()) {
            return refuse(LIMIT, join(&[&show(limit), " is no bound"]));
        }
        let decoder = Decoder {
            windows: Windows::open(config, &base)?,
            bias: Biases::new(true, true),
            rope: Some(Rope::open(config)?),
            ..Decoder::new(base)
        };
        Ok(GptOss { decoder, experts, limit })
    }
}

impl Model for GptOss {
    fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    fn attention(&self, n: &Net, i: u32, x: Value) -> Value {
        let axes = [query_heads(self.decoder.base.heads, 1)];
        let sinks =
            n.kept("attention.sinks", || tensor(n.source_of("self_attn.sinks"), &axes).into());
        n.attend_with(n.qkv(x), &self.scores(i), |options| options.sinks(sinks))
    }

    /// The source stacks experts, stores their matrices as `[in, out]`, and has gate and input in
    /// every other column.
    fn feed_forward(&self, n: &Net, _i: u32, x: Value) -> Value {
        let e = &self.experts;
        let (all, hidden, inner) = (e.axis(), self.decoder.base.width(), e.inside());
        let name = |kind: &str| n.source_of(&format!("mlp.experts.{kind}"));
        // Gates come first in the source, and last here.
        let halves = |kind: &str, rest: &[Axis]| {
            let axes: Vec<Axis> = [all, inner].into_iter().chain(rest.iter().copied()).collect();
            let sizes: Vec<u64> = axes.iter().map(|axis| axis.size).collect();
            let half = |which: u64| {
                let mut part = tensor(name(kind), &axes);
                if !rest.is_empty() {
                    part = part.permute([0, 2, 1]);
                }
                let apart = [all.size, inner.size, 2].into_iter().chain(sizes[2..].to_vec());
                part.reshape(apart).slice(2, which, which + 1).reshape(sizes.clone())
            };
            concat(1, [half(1), half(0)])
        };
        let scores = n.route(x, e, true);
        let fc = n.any("mlp.fc.weight", || halves("gate_up_proj", &[hidden]));
        let fc_bias = n.kept("mlp.fc.bias", || halves("gate_up_proj_bias", &[]));
        let proj = n.any("mlp.proj.weight", || {
            tensor(name("down_proj"), &[all, hidden, inner]).permute([0, 2, 1]).into()
        });
        let proj_bias =
            n.kept("mlp.proj.bias", || tensor(name("down_proj_bias"), &[all, hidden]).into());
        n.write(|g| {
            let mixture = e.mixture();
            mixture.biases(fc_bias, proj_bias);
            mixture.bounded(self.limit, 1.702);
            g.mix(x, scores, fc, proj, &mixture)
        })
    }
}

export!(GptOss);
