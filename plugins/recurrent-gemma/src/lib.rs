//! RecurrentGemma: Griffin's blocks, two that remember by a gated recurrence for each one that
//! attends within a window; gains stored less one, a scaled embedding, bent logits.

use engraft_plugin_sdk::*;

struct RecurrentGemma {
    decoder: Decoder,
    recurrence: Recurrence,
    /// Kinds of blocks, over and over.
    kinds: Vec<String>,
    logits: Option<f64>,
}

const KINDS: &str = "layer_types";
const LOGITS: &str = "logits_soft_cap";
const WINDOW: &str = "sliding_window";

impl Architecture for RecurrentGemma {
    type Model = RecurrentGemma;
    const NAME: &str = "recurrent-gemma";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["RecurrentGemmaForCausalLM"];
    const DOC: &str = "RecurrentGemma.";
    const ROTARY_PART: bool = true;
    const NAMES: &[(&str, &str)] = &[
        (KINDS, "block_types"),
        (WINDOW, "attention_window_size"),
        ("rnn_hidden_size", "lru_width"),
        ("conv_kernel", "conv1d_width"),
        ("emb_scale_by_sqrt_dim", "embeddings_scale_by_sqrt_dim"),
    ];

    fn own() -> Vec<Field> {
        vec![
            texts(KINDS, default(kinds()), "Kinds of blocks, over and over."),
            integer(WINDOW, default(2048), "How many tokens back a token sees, with itself."),
            number(LOGITS, ABSENT, "What logits are bent to."),
        ]
        .into_iter()
        .chain(Recurrence::fields())
        .collect()
    }

    fn source_own() -> Vec<Field> {
        vec![
            flag("attention_bias", default(false), "Whether queries, keys, values have biases."),
            number("w_init_variance_scale", ABSENT, "Of training."),
            number("final_w_init_variance_scale", ABSENT, "Of training."),
        ]
    }

    fn checkpoint_own() -> Vec<Field> {
        vec![flag("attn_bias", default(false), "Whether queries, keys and values have biases.")]
    }

    fn defaults() -> Vec<(&'static str, Fallback)> {
        vec![
            ("max_position_embeddings", default(8192)),
            ("partial_rotary_factor", default(0.5)),
            ("hidden_activation", default("gelu_pytorch_tanh")),
            ("tie_word_embeddings", default(true)),
        ]
    }

    fn says() -> Vec<(&'static str, SettingValue)> {
        vec![("emb_scale_by_sqrt_dim", true.into()), ("state_size", 1.into())]
    }

    fn only() -> Vec<(&'static str, SettingValue)> {
        vec![("emb_scale_by_sqrt_dim", true.into())]
    }

    fn settle(source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        (base.inner, base.tied) = (base.inner / 2, false);
        let mut own = source.carry(&Self::own());
        own.push(set("attn_bias", source.value("attention_bias").cloned()));
        Ok(own)
    }

    fn open(config: &Settings) -> Result<RecurrentGemma, Refusal> {
        let base = Base::open(config)?;
        let kinds: Vec<String> = config.get(KINDS)?;
        if kinds.is_empty() || kinds.iter().any(|kind| !self::kinds().contains(kind)) {
            return refuse(
                KINDS,
                format!("{}: blocks are `recurrent` or `attention`", show(kinds)),
            );
        }
        let recurrence = Recurrence::open(config, base.heads)?;
        let decoder = Decoder {
            names: NAMES,
            norm: Norm::RMS.less_one(),
            bias: Biases { qkv: config.get("attn_bias")?, ..Biases::new(true, true) },
            rope: Some(Rope::open(config)?),
            windows: Windows::all(config.get(WINDOW)?),
            ..Decoder::new(base)
        };
        Ok(RecurrentGemma { decoder, recurrence, kinds, logits: config.find(LOGITS)? })
    }
}

fn kinds() -> Vec<String> {
    ["recurrent", "recurrent", "attention"].map(String::from).to_vec()
}

const NAMES: &[(&str, &str)] = &[
    ("ln_f", "final_norm"),
    ("input_layernorm", "temporal_pre_norm"),
    ("post_layernorm", "channel_pre_norm"),
    ("attention.q", "temporal_block.q_proj"),
    ("attention.k", "temporal_block.k_proj"),
    ("attention.v", "temporal_block.v_proj"),
    ("attention.dense", "temporal_block.o_proj"),
    ("mlp.fc", "mlp_block.gate_proj"),
    ("mlp.gate", "mlp_block.up_proj"),
    ("mlp.proj", "mlp_block.down_proj"),
];

impl Model for RecurrentGemma {
    fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// The table is stored multiplied, by as many digits as bfloat16 has, and the head's is not.
    fn embed(&self, n: &Net, tokens: Value) -> Value {
        let factor = bfloat16(f64::from(self.decoder.base.hidden).sqrt() as f32);
        let table = n.any("vocab_embedding.weight", || {
            n.part("vocab_embedding", "weight", &self.decoder.base.table()).scale(factor).into()
        });
        n.write(|g| g.embedding(tokens, table))
    }

    fn attention(&self, n: &Net, i: u32, x: Value) -> Value {
        match self.kinds[i as usize % self.kinds.len()].as_str() {
            "attention" => n.attention(x, &self.scores(i)),
            _ => self.recurrence.layer(n, "recurrent", "temporal_block", x),
        }
    }

    fn head(&self, n: &Net, x: Value) -> Value {
        let logits = n.dense_of(n.norm(x, "ln_f"), "lm_head", false, |kind| {
            n.part("vocab_embedding", kind, &self.decoder.base.table()).into()
        });
        n.softcap(logits, self.logits)
    }
}

export!(RecurrentGemma);
