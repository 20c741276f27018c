//! Granite: Llama's block with four multipliers.

use engraft_plugin_sdk::*;

struct Granite;

const EMBEDDING: &str = "embedding_multiplier";
const ATTENTION: &str = "attention_multiplier";
const RESIDUAL: &str = "residual_multiplier";
const LOGITS: &str = "output_multiplier_scale";

impl Architecture for Granite {
    type Model = Decoder;
    const NAME: &str = "granite";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["GraniteForCausalLM"];
    const DOC: &str = "Granite 3.";
    const NAMES: &[(&str, &str)] = &[("attn_bias", "attention_bias"), (LOGITS, "logits_scaling")];

    fn own() -> Vec<Field> {
        let biases =
            [("attn_bias", "attention's"), ("mlp_bias", "feed-forward")].map(|(path, of)| {
                flag(path, default(false), &format!("Whether {of} layers have biases."))
            });
        let factors = [EMBEDDING, ATTENTION, RESIDUAL, LOGITS]
            .map(|path| number(path, default(1.0), "A multiplier."));
        biases.into_iter().chain(factors).collect()
    }

    /// A checkpoint's `attention_multiplier` stands beside the usual scale, a source's in its
    /// place; and a source divides logits.
    fn settle(source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        let root = f64::from(base.head_width).sqrt();
        let attention = source.get::<f64>(ATTENTION)? * root;
        let logits = 1.0 / source.positive(LOGITS)?.unwrap_or(1.0);
        let mut all = source.carry(&Self::own());
        for (path, value) in [(ATTENTION, attention), (LOGITS, logits)] {
            all.retain(|setting| setting.path != path);
            all.push(set(path, SettingValue::Number(value)));
        }
        Ok(all)
    }

    fn open(config: &Settings) -> Result<Decoder, Refusal> {
        let base = Base::open(config)?;
        let root = f64::from(base.head_width).sqrt();
        Ok(Decoder {
            bias: Biases::new(config.get("attn_bias")?, config.get("mlp_bias")?),
            rope: Some(Rope::open(config)?),
            scale: Some(config.get::<f64>(ATTENTION)? / root),
            residual: config.get(RESIDUAL)?,
            embedding: config.get(EMBEDDING)?,
            logits: config.get(LOGITS)?,
            ..Decoder::new(base)
        })
    }
}

export!(Granite);
