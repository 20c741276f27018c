//! Mistral: Llama's block, with a window in some models and no biases.

use engraft_plugin_sdk::*;

struct Mistral;

impl Architecture for Mistral {
    type Model = Decoder;
    const NAME: &str = "mistral";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["MistralForCausalLM"];
    const DOC: &str = "Mistral 7B and its like.";

    fn own() -> Vec<Field> {
        Windows::fields()
    }

    fn settle(source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        Windows::configure(source, base, |_| true)
    }

    fn open(config: &Settings) -> Result<Decoder, Refusal> {
        let base = Base::open(config)?;
        let windows = Windows::open(config, &base)?;
        Ok(Decoder { windows, rope: Some(Rope::open(config)?), ..Decoder::new(base) })
    }
}

export!(Mistral);
