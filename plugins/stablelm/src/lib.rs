//! StableLM: layer norms, a part of each head turns, a gated feed-forward layer; in some models
//! beside attention, with norms of queries' and keys' heads.

use engraft_plugin_sdk::*;

struct StableLm(Decoder);

/// GGUF may say `use_parallel_residual` of models that have it not; a norm shows it.
const SECOND: &str = "tensor:blk.0.ffn_norm.weight";

impl Architecture for StableLm {
    type Model = StableLm;
    const NAME: &str = "stablelm";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["StableLmForCausalLM"];
    const DOC: &str = "StableLM.";
    const GGUF: &[(&str, &str)] = &[("gguf:stablelm", "StableLmForCausalLM")];
    const GGUF_NAMES: &[(&str, &str)] = &[
        GGUF_LAYER_NORM,
        ("use_qkv_bias", "tensor:blk.0.attn_q.bias"),
        ("qk_layernorm", "tensor:blk.0.attn_q_norm.weight"),
        ("use_parallel_residual", "use_parallel_residual"),
        (SECOND, SECOND),
    ];
    const NAMES: &[(&str, &str)] = &[("rms_norm_eps", "layer_norm_eps")];

    fn own() -> Vec<Field> {
        let parallel = "Whether the feed-forward layer is beside attention.";
        vec![
            flag("use_qkv_bias", default(false), "Whether queries, keys and values have biases."),
            flag("use_parallel_residual", default(false), parallel),
        ]
    }

    fn source_own() -> Vec<Field> {
        vec![
            flag("qk_layernorm", default(false), "Whether heads are normed."),
            flag(SECOND, ABSENT, "Whether the feed-forward layer has a norm of its own, in GGUF."),
        ]
    }

    fn defaults() -> Vec<(&'static str, Fallback)> {
        let part = ("rope_parameters.partial_rotary_factor", default(0.25));
        [layer_norm_defaults("silu", false), vec![part]].concat()
    }

    fn settle(source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        base.qk_norm = source.get("qk_layernorm")?;
        let parallel: bool = source.get("use_parallel_residual")?;
        let parallel = SettingValue::Flag(parallel && !source.get::<bool>(SECOND)?);
        Ok([source.carry(&Self::own()[..1]), vec![set("use_parallel_residual", parallel)]].concat())
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

impl Model for StableLm {
    fn decoder(&self) -> &Decoder {
        &self.0
    }

    fn attention(&self, n: &Net, i: u32, x: Value) -> Value {
        let (base, [mut q, mut k, v]) = (&self.0.base, n.qkv(x));
        if base.qk_norm {
            let norm = |x, name: &str, heads: Axis| {
                let one = Axis { size: base.head_width.into(), ..heads };
                let layer = |head| format!("self_attn.{name}.norms.{head}");
                let gain = |head| match n.is_gguf() {
                    // All heads' are rows of one tensor there.
                    true => n
                        .part(&format!("attention.{name}"), "weight", &[one])
                        .slice(0, head, head + 1)
                        .reshape([one.size]),
                    false => n.part(&layer(head), "weight", &[one]),
                };
                let gains = || concat(0, (0..heads.size / one.size).map(gain));
                n.norm_each_head(x, &format!("attention.{name}"), gains)
            };
            q = norm(q, "q_layernorm", base.queries());
            k = norm(k, "k_layernorm", base.keys());
        }
        n.attend([q, k, v], &self.scores(i))
    }
}

export!(StableLm);
