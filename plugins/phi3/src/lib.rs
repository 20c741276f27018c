//! Phi 3 and 4: Llama's block with queries, keys and values in one tensor, and the feed-forward
//! layer's gate and input in another. Those two stay one layer in the checkpoint, swapped.

use engraft_plugin_sdk::*;

struct Phi3;

impl Architecture for Phi3 {
    type Model = Decoder;
    const NAME: &str = "phi3";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["Phi3ForCausalLM"];
    const DOC: &str = "Phi 3 and 4.";
    const GGUF: &[(&str, &str)] = &[("gguf:phi3", "Phi3ForCausalLM")];

    fn own() -> Vec<Field> {
        Windows::fields()
    }

    fn settle(source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        base.activates("silu", "swiglu")?;
        Windows::configure(source, base, |_| true)
    }

    fn open(config: &Settings) -> Result<Decoder, Refusal> {
        config.check_fixed(&[("hidden_act", "swiglu".into())])?;
        let base = Base::open(config)?;
        Ok(Decoder {
            names: &[("mlp.fc", "mlp.gate_up_proj")],
            windows: Windows::open(config, &base)?,
            qkv: Qkv::Together { groups: 1 },
            mlp: Mlp::GatedTogether,
            rope: Some(Rope::open(config)?),
            ..Decoder::new(base)
        })
    }
}

export!(Phi3);
