//! Gemma 2 and 3: norms before and after each layer with gains stored less one, a scaled embedding,
//! windows in most blocks; the second bends scores and logits, the third norms heads and turns
//! them by another base where there is a window.

use engraft_plugin_sdk::*;

struct Gemma2 {
    decoder: Decoder,
    local: Rope,
    logits: Option<f64>,
}

const THIRD: &str = "Gemma3ForCausalLM";
/// Blocks of the models whose scores are divided by the root of the width that heads share, not of
/// a head's own: GGUF does not say it.
const LARGEST: [u32; 2] = [46, 62];
const CAPS: [&str; 2] = ["attn_logit_softcapping", "final_logit_softcapping"];
const LOCAL: [&str; 2] = ["rope_local_base_freq", "rope_parameters.sliding_attention.rope_theta"];

impl Architecture for Gemma2 {
    type Model = Gemma2;
    const NAME: &str = "gemma2";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["Gemma2ForCausalLM", THIRD];
    const DOC: &str = "Gemma 2 and 3, without images.";
    const GGUF: &[(&str, &str)] = &[("gguf:gemma2", "Gemma2ForCausalLM"), ("gguf:gemma3", THIRD)];
    const SPELLINGS: &[Spelling] = &[JAX];
    const GGUF_NAMES: &[(&str, &str)] = &[
        (CAPS[0], CAPS[0]),
        (CAPS[1], CAPS[1]),
        ("sliding_window_pattern", "attention.sliding_window_pattern"),
        (LOCAL[0], "rope.freq_base_swa"),
    ];

    fn own() -> Vec<Field> {
        let own = vec![
            number("query_pre_attn_scalar", default(256.0), "Scores are divided by its root."),
            number(CAPS[0], ABSENT, "What scores are bent to."),
            number(CAPS[1], ABSENT, "What logits are bent to."),
            number(LOCAL[0], ABSENT, "Rotary base where there is a window."),
        ];
        [own, Windows::fields()].concat()
    }

    fn source_own() -> Vec<Field> {
        vec![
            number(LOCAL[1], ABSENT, "Rotary base where there is a window."),
            integer("sliding_window_pattern", default(6), "Every how many have no window."),
            integer("_sliding_window_pattern", ABSENT, "The same."),
        ]
    }

    fn defaults() -> Vec<(&'static str, Fallback)> {
        vec![
            ("hidden_activation", default("gelu_pytorch_tanh")),
            ("tie_word_embeddings", default(true)),
        ]
    }

    fn only() -> Vec<(&'static str, SettingValue)> {
        vec![
            ("attention_bias", false.into()),
            ("use_bidirectional_attention", false.into()),
            ("rope_parameters.sliding_attention.rope_type", "default".into()),
        ]
    }

    fn says() -> Vec<(&'static str, SettingValue)> {
        let flags = [("attn_bias", false), ("mlp_bias", false), ("inter_layernorms", true)];
        flags.map(|(path, value)| (path, value.into())).to_vec()
    }

    fn settle(source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        let third = source.architecture(Self::ACCEPTS)? == THIRD;
        base.qk_norm = third;
        if source.is_gguf() && !third {
            // Older files lack them, and the model has them.
            CAPS.iter().try_for_each(|cap| source.get::<f64>(cap).map(drop))?;
        }
        let every: u32 = if third { source.get("sliding_window_pattern")? } else { 2 };
        let local = source.first::<f64>(&LOCAL)?.or(third.then_some(1e4));
        let mut all = source.carry(&Self::own()[1..3]);
        let divisor = match (source.is_gguf(), LARGEST.contains(&base.blocks)) {
            (false, _) => source.get("query_pre_attn_scalar")?,
            (true, true) => f64::from(base.hidden) / f64::from(base.heads),
            (true, false) => base.head_width.into(),
        };
        all.push(set("query_pre_attn_scalar", SettingValue::Number(divisor)));
        all.push(set(LOCAL[0], local.map(SettingValue::Number)));
        all.extend(Windows::configure(source, base, |i| !(i + 1).is_multiple_of(every))?);
        Ok(all)
    }

    fn open(config: &Settings) -> Result<Gemma2, Refusal> {
        let (base, rope) = (Base::open_normed(config)?, Rope::open(config)?);
        let local = config.find(LOCAL[0])?.map_or(rope.clone(), Rope::unscaled);
        let decoder = Decoder {
            norm: Norm::RMS.less_one(),
            order: Order::Around,
            gguf: &[("post_layernorm", "post_attention_norm")],
            spelled: Some(jax_part),
            embedding: f64::from(base.hidden).sqrt(),
            windows: Windows::open(config, &base)?,
            rope: Some(rope),
            scale: Some(1.0 / config.get::<f64>("query_pre_attn_scalar")?.sqrt()),
            softcap: config.find(CAPS[0])?,
            ..Decoder::new(base)
        };
        Ok(Gemma2 { decoder, local, logits: config.find(CAPS[1])? })
    }
}

impl Model for Gemma2 {
    fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    fn scores(&self, i: u32) -> Scores<'_> {
        let scores = self.decoder.scores(i);
        match scores.window {
            Some(_) => Scores { rope: Some(&self.local), ..scores },
            None => scores,
        }
    }

    fn head(&self, n: &Net, x: Value) -> Value {
        n.softcap(n.logits(n.norm(x, "ln_f")), self.logits)
    }
}

export!(Gemma2);
