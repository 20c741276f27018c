//! RecurrentGemma: Griffin's blocks, two that remember by a gated recurrence for each one that
//! attends within a window; gains stored less one, a scaled embedding, bent logits.

use engraft_plugin_sdk::*;

struct RecurrentGemma {
    decoder: Decoder,
    /// Channels of the recurrence.
    channels: u32,
    /// How many tokens its convolution spans.
    taps: u32,
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
    const DIALECTS: &[&str] = &["hugging-face"];
    const DOC: &str = "RecurrentGemma.";
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
            integer("rnn_hidden_size", same_as("hidden_size"), "Channels of the recurrence."),
            integer("conv_kernel", default(4), "How many tokens its convolution spans."),
            number(LOGITS, ABSENT, "What logits are bent to."),
        ]
    }

    fn source_own() -> Vec<Field> {
        let training = |path| number(path, ABSENT, "Of training.");
        vec![
            flag("attention_bias", default(false), "Whether queries, keys, values have biases."),
            training("w_init_variance_scale"),
            training("final_w_init_variance_scale"),
        ]
    }

    fn checkpoint_own() -> Vec<Field> {
        vec![
            flag("attn_bias", default(false), "Whether queries, keys and values have biases."),
            number("rotary_pct", default(0.5), "How much of a head turns."),
        ]
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
        let part = f64::from(base.rotated) / f64::from(base.head_width);
        let mut own = source.carry(&Self::own());
        own.push(set("attn_bias", source.value("attention_bias").cloned()));
        own.push(set("rotary_pct", SettingValue::Number(part)));
        Ok(own)
    }

    fn open(config: &Settings) -> Result<RecurrentGemma, Refusal> {
        let mut base = Base::open(config)?;
        base.rotated = base.part(config.get("rotary_pct")?)?;
        let kinds: Vec<String> = config.get(KINDS)?;
        if kinds.is_empty() || kinds.iter().any(|kind| !self::kinds().contains(kind)) {
            return refuse(KINDS, format!("{kinds:?}: blocks are `recurrent` or `attention`"));
        }
        let (channels, taps): (u32, u32) =
            (config.get("rnn_hidden_size")?, config.get("conv_kernel")?);
        if !channels.is_multiple_of(base.heads) {
            let why = format!("{} heads do not divide {channels} channels", base.heads);
            return refuse("rnn_hidden_size", why);
        }
        let decoder = Decoder {
            names: NAMES,
            norm: Norm::RMS.less_one(),
            bias: Biases { qkv: config.get("attn_bias")?, ..Biases::new(true, true) },
            rope: Some(Rope::open(config)?),
            windows: Windows::all(config.get(WINDOW)?),
            ..Decoder::new(base)
        };
        Ok(RecurrentGemma { decoder, channels, taps, kinds, logits: config.find(LOGITS)? })
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
    ("recurrent.linear_x", "temporal_block.linear_x"),
    ("recurrent.linear_y", "temporal_block.linear_y"),
    ("recurrent.linear_out", "temporal_block.linear_out"),
    ("recurrent.conv1d", "temporal_block.conv_1d"),
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
            let mut part = n.part("vocab_embedding", "weight", &self.decoder.base.table());
            part.steps.push(Step::Scale(factor));
            part.into()
        });
        n.write(|g| g.embedding(tokens, table))
    }

    fn attention(&self, n: &Net, i: u32, x: Value) -> Value {
        match self.kinds[i as usize % self.kinds.len()].as_str() {
            "attention" => n.attention(x, &self.scores(i)),
            _ => self.recurrence(n, x),
        }
    }

    fn head(&self, n: &Net, x: Value) -> Value {
        let logits = n.dense_of(n.norm(x, "ln_f"), "lm_head", false, |kind| {
            n.part("vocab_embedding", kind, &self.decoder.base.table()).into()
        });
        n.softcap(logits, self.logits)
    }
}

impl RecurrentGemma {
    fn recurrence(&self, n: &Net, x: Value) -> Value {
        let (heads, hidden) = (self.decoder.base.heads, self.decoder.base.width());
        let channels = recurrent(self.channels);
        let width = self.channels / heads;
        let y = n.any("recurrent.linear_y.weight", || {
            n.part("recurrent.linear_y", "weight", &[channels, hidden]).into()
        });
        let y_bias =
            n.any("recurrent.y_bias", || n.part("recurrent.linear_y", "bias", &[channels]).into());
        let y = n.activate(n.write(|g| g.linear(x, y, Some(y_bias))));
        let x = n.dense(x, "recurrent.linear_x", [channels, hidden], true);

        let taps = n.kept("recurrent.conv1d.weight", || {
            let sizes = [self.channels, self.taps].map(u64::from);
            n.part("recurrent.conv1d", "weight", &[channels, plain(self.taps)])
                .reshape(sizes)
                .into()
        });
        let bias = n.kept("recurrent.conv1d.bias", || {
            n.part("recurrent.conv1d", "bias", &[channels]).into()
        });
        let x = n.write(|g| g.convolve(x, taps, Some(bias)));

        let lru = |name: &str| n.source_of(&format!("temporal_block.rg_lru.{name}"));
        let gate = |name: &str| {
            let axes = [recurrent(heads), plain(width), plain(width)];
            let weight = n.kept(&format!("recurrent.rg_lru.{name}_trans.weight"), || {
                tensor(lru(&format!("{name}_weight")), &axes).permute([0, 2, 1]).into()
            });
            let bias = n.kept(&format!("recurrent.rg_lru.{name}_trans.bias"), || {
                tensor(lru(&format!("{name}_bias")), &[channels]).reshape([channels.size]).into()
            });
            n.write(|g| g.linear_heads(x, weight, Some(bias), heads))
        };
        let (input, again) = (gate("input_gate"), gate("recurrent_gate"));
        let decay = n.kept("recurrent.rg_lru.recurrent_param", || {
            tensor(lru("recurrent_param"), &[channels]).into()
        });
        let x = n.write(|g| g.recur(x, input, again, decay));
        n.dense(n.multiply(x, y), "recurrent.linear_out", [hidden, channels], true)
    }
}

/// Channels of a recurrence.
fn recurrent(size: u32) -> Axis {
    Axis { size: size.into(), meaning: Meaning::Recurrent }
}

/// Rounded to bfloat16, to nearest even.
fn bfloat16(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
}

export!(RecurrentGemma);
