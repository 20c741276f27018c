//! Falcon: layer norms, a feed-forward layer beside attention with a norm of its own or that of
//! attention, or after it; rotary positions or slopes.

use engraft_plugin_sdk::*;

struct Falcon;

const ALIBI: &str = "alibi_with_scale";
/// transformers' eager attention adds slopes to the scores, and again with the mask.
const TIMES: &str = "alibi_times";

impl Architecture for Falcon {
    type Model = Decoder;
    const NAME: &str = "falcon";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["FalconForCausalLM", "RWForCausalLM"];
    const DIALECTS: &[&str] = &["hugging-face"];
    const DOC: &str = "Falcon.";
    const NAMES: &[(&str, &str)] = &[
        ("num_key_value_heads", "num_kv_heads"),
        ("intermediate_size", "ffn_hidden_size"),
        ("hidden_act", "activation"),
        ("rms_norm_eps", "layer_norm_epsilon"),
        ("parallel_attention", "parallel_attn"),
    ];

    fn own() -> Vec<Field> {
        vec![
            flag("bias", default(false), "Whether linear layers have biases."),
            flag("parallel_attention", default(true), "Whether layers are beside each other."),
            flag("new_decoder_architecture", default(false), "Whether key heads are counted."),
            integer("num_ln_in_parallel_attn", ABSENT, "Norms of layers beside each other."),
            number(TIMES, default(1.0), "How often slopes are added."),
        ]
    }

    fn source_own() -> Vec<Field> {
        vec![
            flag("multi_query", default(true), "Whether there is one key head."),
            flag("alibi", default(false), "Whether slopes stand in for positions."),
        ]
    }

    fn defaults() -> Vec<(&'static str, Fallback)> {
        [gpt_defaults("gelu", true), vec![("max_position_embeddings", default(2048))]].concat()
    }

    fn settle(source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        if !source.get::<bool>("new_decoder_architecture")? {
            base.key_heads = if source.get("multi_query")? { 1 } else { base.heads };
        }
        let mut all = source.carry(&Self::own()[..4]);
        if source.get("alibi")? {
            all.push(set("position_embedding_type", SettingValue::from(ALIBI)));
            all.push(set(TIMES, SettingValue::Number(2.0)));
        }
        all.push(set("architecture", SettingValue::from(Self::ACCEPTS[0])));
        Ok(all)
    }

    fn open(config: &Settings) -> Result<Decoder, Refusal> {
        let base = Base::open(config)?;
        let norms: i64 = config.find("num_ln_in_parallel_attn")?.unwrap_or(2);
        let both_normed = config.get("new_decoder_architecture")? && norms == 2;
        let bias = config.get("bias")?;
        let mut decoder = Decoder {
            family: MEGATRON,
            names: match both_normed {
                true => &[("input_layernorm", "ln_attn"), ("mlp_layernorm", "ln_mlp")],
                false => &[],
            },
            order: match (config.get("parallel_attention")?, both_normed) {
                (true, true) => Order::BesideTwo("mlp_layernorm"),
                (true, false) => Order::Beside,
                (false, _) => Order::Before,
            },
            qkv: Qkv::Together { groups: base.key_heads },
            bias: Biases::new(bias, bias),
            ..Decoder::gpt(base)
        };
        let Base { heads, head_width, .. } = decoder.base;
        match config.get::<String>("position_embedding_type")? == ALIBI {
            true => {
                // Falcon scales scores after it added slopes.
                let scale = config.get::<f64>(TIMES)? / f64::from(head_width).sqrt();
                decoder.slopes = alibi_slopes(heads, 8.0).into_iter().map(|s| s * scale).collect();
            }
            false => decoder.rope = Some(Rope::open(config)?),
        }
        Ok(decoder)
    }
}

export!(Falcon);
