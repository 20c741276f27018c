//! InternLM: Llama's block; the second has names of its own, and queries, keys and values in one
//! tensor: of each key head its queries, the key and the value.

use engraft_plugin_sdk::*;

struct InternLm;

const SECOND: &str = "InternLM2ForCausalLM";

impl Architecture for InternLm {
    type Model = Decoder;
    const NAME: &str = "internlm";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &[SECOND, "InternLMForCausalLM"];
    const DOC: &str = "InternLM 1 and 2.";
    const NAMES: &[(&str, &str)] = &[("attn_bias", "bias")];

    fn own() -> Vec<Field> {
        vec![flag("attn_bias", default(false), "Whether attention's layers have biases.")]
    }

    fn defaults() -> Vec<(&'static str, Fallback)> {
        vec![("tie_word_embeddings", default(false))]
    }

    fn says() -> Vec<(&'static str, SettingValue)> {
        vec![("mlp_bias", false.into())]
    }

    fn open(config: &Settings) -> Result<Decoder, Refusal> {
        let base = Base::open(config)?;
        let groups = base.key_heads;
        let first = Decoder {
            bias: Biases::new(config.get("attn_bias")?, false),
            rope: Some(Rope::open(config)?),
            ..Decoder::new(base)
        };
        if config.get::<String>("architecture")? != SECOND {
            return Ok(first);
        }
        Ok(Decoder {
            names: &[
                ("vocab_embedding", "tok_embeddings"),
                ("lm_head", "output"),
                ("input_layernorm", "attention_norm"),
                ("attention.qkv", "attention.wqkv"),
                ("attention.dense", "attention.wo"),
                ("post_layernorm", "ffn_norm"),
                ("mlp.fc", "feed_forward.w1"),
                ("mlp.gate", "feed_forward.w3"),
                ("mlp.proj", "feed_forward.w2"),
            ],
            qkv: Qkv::Together { groups },
            ..first
        })
    }
}

export!(InternLm);
