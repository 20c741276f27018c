//! StableLM: layer norms, a part of each head turns, a gated feed-forward layer; in some models
//! beside attention, with norms of queries' and keys' heads.

use engraft_plugin_sdk::*;

struct StableLm(Decoder);

impl Architecture for StableLm {
    type Model = StableLm;
    const NAME: &str = "stablelm";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["StableLmForCausalLM"];
    const DIALECTS: &[&str] = &["hugging-face"];
    const DOC: &str = "StableLM.";
    const NAMES: &[(&str, &str)] = &[("rms_norm_eps", "layer_norm_eps")];

    fn own() -> Vec<Field> {
        let parallel = "Whether the feed-forward layer is beside attention.";
        vec![
            flag("use_qkv_bias", default(false), "Whether queries, keys and values have biases."),
            flag("use_parallel_residual", default(false), parallel),
        ]
    }

    fn source_own() -> Vec<Field> {
        vec![flag("qk_layernorm", default(false), "Whether heads are normed.")]
    }

    fn defaults() -> Vec<(&'static str, Fallback)> {
        vec![
            ("rope_parameters.partial_rotary_factor", default(0.25)),
            ("rms_norm_eps", default(1e-5)),
            ("tie_word_embeddings", default(false)),
        ]
    }

    fn settle(source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        base.qk_norm = source.get("qk_layernorm")?;
        Ok(source.carry(&Self::own()))
    }

    fn open(config: &Settings) -> Result<StableLm, Refusal> {
        let parallel = config.get("use_parallel_residual")?;
        Ok(StableLm(Decoder {
            norm: Norm::LAYER,
            order: if parallel { Order::Beside } else { Order::Before },
            bias: Biases { qkv: config.get("use_qkv_bias")?, ..Biases::default() },
            rope: Some(Rope::open(config)?),
            ..Decoder::new(Base::open_normed(config)?)
        }))
    }
}

/// A layer norm of each head by itself, with a gain of its own.
fn norm_heads(n: &Net, x: Value, part: &str, heads: Axis) -> Value {
    let (width, epsilon) = (n.decoder.base.head_width, n.decoder.base.epsilon);
    let gain = n.kept(&format!("attention.{part}.weight"), || {
        let one = Axis { size: width.into(), ..heads };
        let layer = |i| format!("self_attn.{part}.norms.{i}");
        concat(0, (0..heads.size / one.size).map(|i| n.part(&layer(i), "weight", &[one])))
    });
    n.write(|g| g.layer_norm_heads(x, gain, width, epsilon))
}

impl Model for StableLm {
    fn decoder(&self) -> &Decoder {
        &self.0
    }

    fn attention(&self, n: &Net, i: u32, x: Value) -> Value {
        let (base, [mut q, mut k, v]) = (&self.0.base, n.qkv(x));
        if base.qk_norm {
            q = norm_heads(n, q, "q_layernorm", base.queries());
            k = norm_heads(n, k, "k_layernorm", base.keys());
        }
        n.attend([q, k, v], &self.scores(i))
    }
}

export!(StableLm);
