//! Falcon: layer norms, a feed-forward layer beside attention with a norm of its own or that of
//! attention, or after it; rotary positions or slopes.

use engraft_plugin_sdk::*;

struct Falcon;

const ALIBI: &str = "alibi_with_scale";
const COUNTED: &str = "new_decoder_architecture";
const NORMS: &str = "num_ln_in_parallel_attn";
/// What only the models with two norms beside one another have, in GGUF.
const TWO: &str = "tensor:blk.0.attn_norm_2.weight";
/// transformers' eager attention adds slopes to the scores, and again with the mask.
const TIMES: &str = "alibi_times";

impl Architecture for Falcon {
    type Model = Decoder;
    const NAME: &str = "falcon";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["FalconForCausalLM", "RWForCausalLM"];
    const DOC: &str = "Falcon.";
    const GGUF: &[(&str, &str)] = &[("gguf:falcon", "FalconForCausalLM")];
    const GGUF_NAMES: &[(&str, &str)] =
        &[GGUF_LAYER_NORM, (TWO, TWO), ("tensor_data_layout", "tensor_data_layout")];
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
            flag(COUNTED, default(false), "Whether key heads are counted."),
            integer(NORMS, ABSENT, "Norms of layers beside each other."),
            number(TIMES, default(1.0), "How often slopes are added."),
        ]
    }

    fn source_own() -> Vec<Field> {
        vec![
            flag("multi_query", default(true), "Whether there is one key head."),
            flag("alibi", default(false), "Whether slopes stand in for positions."),
            flag(TWO, ABSENT, "Whether there are two norms, in GGUF."),
            text("tensor_data_layout", ABSENT, "GGUF's order of queries, keys and values."),
        ]
    }

    fn defaults() -> Vec<(&'static str, Fallback)> {
        [gpt_defaults("gelu", true), vec![("max_position_embeddings", default(2048))]].concat()
    }

    fn settle(source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        let [counted, norms] = [COUNTED, NORMS].map(|path| source.value(path).cloned());
        let (counted, norms) = match source.is_gguf() {
            true => {
                source.check_fixed(&[("tensor_data_layout", "jploski".into())])?;
                let both_normed: bool = source.get(TWO)?;
                let norms = if both_normed { 2 } else { 1 };
                (Some((base.key_heads > 1).into()), Some(norms.into()))
            }
            false => (counted, norms),
        };
        if !source.is_gguf() && !source.get::<bool>(COUNTED)? {
            base.key_heads = if source.get("multi_query")? { 1 } else { base.heads };
        }
        let mut all = source.carry(&Self::own()[..2]);
        all.extend([set(COUNTED, counted), set(NORMS, norms)]);
        if source.get("alibi")? {
            all.push(set("position_embedding_type", SettingValue::from(ALIBI)));
            all.push(set(TIMES, SettingValue::Number(2.0)));
        }
        all.push(set("architecture", SettingValue::from(Self::ACCEPTS[0])));
        Ok(all)
    }

    fn open(config: &Settings) -> Result<Decoder, Refusal> {
        let base = Base::open(config)?;
        let norms: i64 = config.find(NORMS)?.unwrap_or(2);
        let both_normed = config.get(COUNTED)? && norms == 2;
        let bias = config.get("bias")?;
        let mut decoder = Decoder {
            family: MEGATRON,
            names: match both_normed {
                true => &[("input_layernorm", "ln_attn"), ("mlp_layernorm", "ln_mlp")],
                false => &[],
            },
            gguf: match both_normed {
                true => &[("input_layernorm", "attn_norm_2"), ("mlp_layernorm", "attn_norm")],
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
