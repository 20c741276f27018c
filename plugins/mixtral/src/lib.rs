//! Mixtral: Mistral's block with a mixture of experts.

use engraft_plugin_sdk::*;

struct Mixtral {
    decoder: Decoder,
    experts: Experts,
}

const EXPERTS: [&str; 2] = ["num_local_experts", "num_experts_per_tok"];

impl Architecture for Mixtral {
    type Model = Mixtral;
    const NAME: &str = "mixtral";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["MixtralForCausalLM"];
    const DOC: &str = "Mixtral.";
    const ROPE_BASE: f64 = 1e6;

    fn own() -> Vec<Field> {
        Windows::fields()
    }

    fn source_own() -> Vec<Field> {
        vec![
            integer(EXPERTS[0], default(8), "Experts of each mixture."),
            integer(EXPERTS[1], default(2), "Experts that a token takes."),
        ]
    }

    fn checkpoint_own() -> Vec<Field> {
        Experts::fields()
    }

    fn defaults() -> Vec<(&'static str, Fallback)> {
        vec![("rms_norm_eps", default(1e-5))]
    }

    fn settle(source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        base.activates("silu", "swiglu")?;
        let experts = Experts::from_source(source, EXPERTS, base.inner)?;
        Ok([experts.settings(), Windows::configure(source, base, |_| true)?].concat())
    }

    fn open(config: &Settings) -> Result<Mixtral, Refusal> {
        let base = Base::open(config)?;
        let Some(experts) = Experts::open(config, base.inner)? else {
            return refuse("moe.num_experts", "a mixture has experts");
        };
        let decoder = Decoder {
            names: &[("mlp.router", "block_sparse_moe.gate")],
            windows: Windows::open(config, &base)?,
            rope: Some(Rope::open(config)?),
            ..Decoder::new(base)
        };
        Ok(Mixtral { decoder, experts })
    }
}

impl Model for Mixtral {
    fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    fn feed_forward(&self, n: &Net, _i: u32, x: Value) -> Value {
        let (source, names) = ("block_sparse_moe.experts", ["w1", "w3", "w2"]);
        n.experts(x, &self.experts, source, names)
    }
}

export!(Mixtral);
