//! Qwen 2 and 3: Llama's block with biases on queries, keys and values (2) or norms of their heads
//! (3), windows in the later blocks of some models, and mixtures of experts in others.

use engraft_plugin_sdk::*;

struct Qwen {
    decoder: Decoder,
    experts: Option<Experts>,
    /// Blocks without experts.
    dense: Vec<i64>,
    /// Every how many blocks have experts.
    step: u32,
}

const SOURCE: [&str; 5] =
    ["num_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob", SHARED];
const SHARED: &str = "shared_expert_intermediate_size";

impl Architecture for Qwen {
    type Model = Qwen;
    const NAME: &str = "qwen";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] =
        &["Qwen2ForCausalLM", "Qwen3ForCausalLM", "Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM"];
    const DOC: &str = "Qwen 2 and 3, and their mixtures of experts.";
    const GGUF: &[(&str, &str)] =
        &[("gguf:qwen2", "Qwen2ForCausalLM"), ("gguf:qwen3", "Qwen3ForCausalLM")];
    const GGUF_NAMES: &[(&str, &str)] = &[("qkv_bias", "tensor:blk.0.attn_q.bias")];

    fn own() -> Vec<Field> {
        let own = vec![
            integers("mlp_only_layers", ABSENT, "Blocks without experts."),
            integer("decoder_sparse_step", default(1), "Every how many blocks have experts."),
        ];
        [Windows::fields(), own].concat()
    }

    fn source_own() -> Vec<Field> {
        vec![
            flag("use_sliding_window", default(false), "Whether any block has a window."),
            integer("max_window_layers", default(28), "The first block that has one."),
            flag("qkv_bias", default(true), "Whether queries, keys and values have biases."),
            integer(SOURCE[0], default(0), "Experts of each mixture."),
            integer(SOURCE[1], default(0), "Experts that a token takes."),
            integer(SOURCE[2], ABSENT, "Inner width of an expert."),
            integer(SHARED, default(0), "Inner width of the expert that every token takes."),
            flag(SOURCE[3], default(false), "Whether experts' weights are made to sum to one."),
        ]
    }

    fn checkpoint_own() -> Vec<Field> {
        let bias = flag("attn_bias", default(true), "Whether queries, keys, values have biases.");
        [vec![bias], Experts::fields()].concat()
    }

    fn only() -> Vec<(&'static str, SettingValue)> {
        vec![("attention_bias", false.into())]
    }

    fn says() -> Vec<(&'static str, SettingValue)> {
        vec![("mlp_bias", false.into())]
    }

    fn settle(source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        let architecture = source.architecture(Self::ACCEPTS)?;
        base.qk_norm = architecture.starts_with("Qwen3");
        let first: i64 = source.get("max_window_layers")?;
        let mut own = match source.get("use_sliding_window")? {
            true => Windows::configure(source, base, |i| i64::from(i) >= first)?,
            false => Vec::new(),
        };
        let bias = !base.qk_norm && source.get("qkv_bias")?;
        own.push(set("attn_bias", SettingValue::Flag(bias)));
        if architecture.ends_with("MoeForCausalLM") {
            let inner = source.get(SOURCE[2])?;
            let experts = Experts {
                shared: if base.qk_norm { 0 } else { source.get(SHARED)? },
                renormalize: source.get(SOURCE[3])?,
                ..Experts::from_source(source, [SOURCE[0], SOURCE[1]], inner)?
            };
            base.activates("silu", "swiglu")?;
            own.extend(experts.settings());
            own.extend(source.carry(&Self::own()[2..]));
        }
        Ok(own)
    }

    fn open(config: &Settings) -> Result<Qwen, Refusal> {
        let base = Base::open_normed(config)?;
        let experts = Experts::open(config, base.inner)?;
        let decoder = Decoder {
            names: &[
                ("mlp.router", "mlp.gate"),
                ("mlp.shared_expert_gate", "mlp.shared_expert_gate"),
                ("mlp.shared_expert.fc", "mlp.shared_expert.gate_proj"),
                ("mlp.shared_expert.gate", "mlp.shared_expert.up_proj"),
                ("mlp.shared_expert.proj", "mlp.shared_expert.down_proj"),
            ],
            windows: Windows::open(config, &base)?,
            bias: Biases { qkv: config.get("attn_bias")?, ..Biases::default() },
            mlp: if experts.is_some() { Mlp::GatedJoined } else { Mlp::Gated },
            rope: Some(Rope::open(config)?),
            ..Decoder::new(base)
        };
        let dense = config.find("mlp_only_layers")?.unwrap_or_default();
        Ok(Qwen { decoder, experts, dense, step: config.get("decoder_sparse_step")? })
    }
}

impl Model for Qwen {
    fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    fn feed_forward(&self, n: &Net, i: u32, x: Value) -> Value {
        let sparse = (i + 1).is_multiple_of(self.step) && !self.dense.contains(&i.into());
        let Some(experts) = self.experts.as_ref().filter(|_| sparse) else {
            return n.feed_forward(x);
        };
        let names = ["gate_proj", "up_proj", "down_proj"];
        let mixed = n.experts(x, experts, "mlp.experts", names);
        if experts.shared == 0 {
            return mixed;
        }
        let shared = n.feed_forward_of(x, "mlp.shared_expert", feed_forward(experts.shared));
        let width = [plain(1), self.decoder.base.width()];
        let gate = n.dense(x, "mlp.shared_expert_gate", width, false);
        let gate = n.write(|g| g.activate(gate, "sigmoid"));
        n.add(mixed, n.multiply(shared, gate))
    }
}

export!(Qwen);
