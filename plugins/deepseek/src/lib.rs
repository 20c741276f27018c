//! DeepSeek V2 and V3: latent attention, and a mixture of experts beside a shared one.

use engraft_plugin_sdk::*;

struct DeepSeek {
    decoder: Decoder,
    experts: Option<Experts>,
    latent: Latent,
    /// Blocks before this one have no experts.
    first: u32,
}

const V3: &str = "DeepseekV3ForCausalLM";
const EXPERTS: [&str; 5] =
    ["n_routed_experts", "num_experts_per_tok", "n_group", "topk_group", "routed_scaling_factor"];

impl Architecture for DeepSeek {
    type Model = DeepSeek;
    const NAME: &str = "deepseek";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["DeepseekV2ForCausalLM", V3];
    const DOC: &str = "DeepSeek V2 and V3.";

    fn own() -> Vec<Field> {
        let mut all = Latent::fields();
        all.push(integer("first_k_dense_replace", default(0), "How many blocks have no experts."));
        all.push(flag("rope_interleave", default(true), "Whether neighbours turn together."));
        all
    }

    fn source_own() -> Vec<Field> {
        vec![
            integer(EXPERTS[0], ABSENT, "Experts of each mixture."),
            integer(EXPERTS[1], ABSENT, "Experts that a token takes."),
            integer(EXPERTS[2], default(1), "Groups of experts."),
            integer(EXPERTS[3], default(1), "Groups that a token takes experts from."),
            number(EXPERTS[4], default(1.0), "What experts' weights are multiplied by."),
            text("topk_method", ABSENT, "How experts are chosen from groups."),
            text("scoring_func", ABSENT, "What makes scores of logits."),
            integer("n_shared_experts", ABSENT, "Experts that every token takes."),
            integer("moe_intermediate_size", ABSENT, "Inner width of an expert."),
            flag("norm_topk_prob", default(false), "Whether weights are made to sum to one."),
            integer("num_nextn_predict_layers", ABSENT, "Blocks that guess further, left out."),
            integer("qk_head_dim", ABSENT, "Both parts of a head."),
            number("aux_loss_alpha", ABSENT, "Of training."),
            flag("seq_aux", ABSENT, "Of training."),
            integer("ep_size", ABSENT, "Of training."),
        ]
    }

    fn checkpoint_own() -> Vec<Field> {
        Experts::fields()
    }

    fn only() -> Vec<(&'static str, SettingValue)> {
        vec![
            ("attention_bias", false.into()),
            ("mlp_bias", false.into()),
            ("moe_layer_freq", 1.into()),
        ]
    }

    fn settle(source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        let (latent, v3) = (Latent::read(source)?, source.architecture(Self::ACCEPTS)? == V3);
        base.activates("silu", "swiglu")?;
        (base.head_width, base.rotated) = (latent.still + latent.turned, latent.turned);
        let mut own = source.carry(&Self::own());
        let scoring = if v3 { "sigmoid" } else { "softmax" };
        source.check_fixed(&[("scoring_func", scoring.into())])?;
        let method: Option<String> = source.find("topk_method")?;
        let limited = match method.as_deref() {
            None | Some("noaux_tc") if v3 => true,
            None | Some("greedy") if !v3 => false,
            Some("group_limited_greedy") if !v3 => true,
            Some(other) => {
                return source.refuse("topk_method", format!("`{other}` is not supported"));
            }
            None => return source.refuse("topk_method", "is missing"),
        };
        if source.value(EXPERTS[0]).is_some() {
            let inner: u32 = source.get("moe_intermediate_size")?;
            let shared: u32 = source.find("n_shared_experts")?.unwrap_or(0);
            let groups = [source.get(EXPERTS[2])?, source.get(EXPERTS[3])?];
            let renormalize = source.get("norm_topk_prob")?;
            let experts = Experts {
                shared: shared.saturating_mul(inner),
                renormalize,
                // V2 does one or the other.
                scale: if renormalize && !v3 { 1.0 } else { source.get(EXPERTS[4])? },
                groups: (limited && groups[0] > 1).then_some(groups),
                balanced: v3,
                ..Experts::from_source(source, [EXPERTS[0], EXPERTS[1]], inner)?
            };
            experts.check([EXPERTS[1], EXPERTS[2], EXPERTS[3], EXPERTS[4]])?;
            own.extend(experts.settings());
        }
        Ok(own)
    }

    fn open(config: &Settings) -> Result<DeepSeek, Refusal> {
        let (base, latent) = (Base::open(config)?, Latent::read(config)?);
        let rope = Rope::open(config)?;
        let rope = if config.get("rope_interleave")? { rope.interleaved() } else { rope };
        let experts = Experts::open(config, base.inner)?;
        let first: i64 = config.get("first_k_dense_replace")?;
        let first = u32::try_from(first).unwrap_or(u32::MAX);
        let decoder =
            Decoder { names: NAMES, mlp: Mlp::GatedJoined, rope: Some(rope), ..Decoder::new(base) };
        Ok(DeepSeek { decoder, experts, latent, first })
    }
}

const NAMES: &[(&str, &str)] = &[
    ("attention.q_a_layernorm", "self_attn.q_a_layernorm"),
    ("attention.kv_a_layernorm", "self_attn.kv_a_layernorm"),
    ("mlp.router", "mlp.gate"),
    ("mlp.shared_expert.fc", "mlp.shared_experts.gate_proj"),
    ("mlp.shared_expert.gate", "mlp.shared_experts.up_proj"),
    ("mlp.shared_expert.proj", "mlp.shared_experts.down_proj"),
];

impl Model for DeepSeek {
    fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    fn attention(&self, n: &Net, _i: u32, x: Value) -> Value {
        self.latent.attention(n, x)
    }

    fn feed_forward(&self, n: &Net, i: u32, x: Value) -> Value {
        let Some(experts) = self.experts.as_ref().filter(|_| i >= self.first) else {
            return n.feed_forward(x);
        };
        let names = ["gate_proj", "up_proj", "down_proj"];
        let mixed = n.experts(x, experts, "mlp.experts", names);
        match experts.shared {
            0 => mixed,
            inner => n.add(mixed, n.feed_forward_of(x, "mlp.shared_expert", feed_forward(inner))),
        }
    }

    fn unused(&self, dialect: &str) -> Vec<(String, String)> {
        let further = format!("model.layers.{}.*", self.decoder.base.blocks);
        let why = "it guesses further tokens, which nothing here asks for".into();
        [self.decoder.unused(dialect), vec![(further, why)]].concat()
    }
}

export!(DeepSeek);
