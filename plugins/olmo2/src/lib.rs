//! OLMo 2: norms after attention and after the feed-forward layer, and of all queries and all keys.

use engraft_plugin_sdk::*;

struct Olmo2(Decoder);

impl Architecture for Olmo2 {
    type Model = Olmo2;
    const NAME: &str = "olmo2";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["Olmo2ForCausalLM"];
    const DOC: &str = "OLMo 2.";

    fn defaults() -> Vec<(&'static str, Fallback)> {
        vec![("rms_norm_eps", default(1e-5)), ("tie_word_embeddings", default(false))]
    }

    fn only() -> Vec<(&'static str, SettingValue)> {
        vec![("attention_bias", false.into())]
    }

    fn settle(_source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        base.qk_norm = true;
        Ok(Vec::new())
    }

    fn open(config: &Settings) -> Result<Olmo2, Refusal> {
        config.check_fixed(&[("qk_layernorm", true.into())])?;
        Ok(Olmo2(Decoder {
            order: Order::Behind,
            rope: Some(Rope::open(config)?),
            ..Decoder::new(Base::open_normed(config)?)
        }))
    }
}

impl Model for Olmo2 {
    fn decoder(&self) -> &Decoder {
        &self.0
    }

    fn attention(&self, n: &Net, i: u32, x: Value) -> Value {
        let (base, [q, k, v]) = (&self.0.base, n.qkv(x));
        let q = n.norm_of(q, "attention.q_layernorm", base.queries());
        let k = n.norm_of(k, "attention.k_layernorm", base.keys());
        n.attend([q, k, v], &self.scores(i))
    }
}

export!(Olmo2);
