//! Configs as they are met, and as they should not be.

use crate::base::{BASE, Fallback, Kind};
use crate::{Config, ConfigError, Mapping, PositionEmbedding, Quantization};
use engraft_diagnostic::Diagnostic;
use engraft_ir::DType;
use serde_json::{Value, json};

/// A config as NVIDIA's tools write them: base fields in their order, more than we know, some
/// fields absent.
const REAL: &str = r#"{
    "producer": {"name": "modelopt", "version": "0.27.1"},
    "architecture": "LlamaForCausalLM",
    "dtype": "bfloat16",
    "logits_dtype": "float16",
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "norm_epsilon": 1e-05,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "hidden_act": "silu",
    "use_parallel_embedding": true,
    "embedding_sharding_dim": 0,
    "head_size": 128,
    "intermediate_size": 14336,
    "position_embedding_type": "rope_gpt_neox",
    "share_embedding_table": false,
    "residual_mlp": false,
    "bias": false,
    "rotary_pct": 1.0,
    "rank": 0,
    "decoder": "llama",
    "rmsnorm": true,
    "lm_head_bias": false,
    "mlp_bias": false,
    "attn_bias": false,
    "rotary_base": 500000.0,
    "rotary_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3"
    },
    "moe": {"num_experts": 0, "top_k": 0, "normalization_mode": 1},
    "runtime_defaults": null,
    "mapping": {"world_size": 1, "tp_size": 1, "pp_size": 1, "cp_size": 1, "moe_tp_size": -1,
        "moe_ep_size": -1, "gpus_per_node": 8, "auto_parallel": false},
    "quantization": {"quant_algo": null, "kv_cache_quant_algo": null, "group_size": 128,
        "smoothquant_val": 0.5, "clamp_val": null, "use_meta_recipe": false,
        "has_zero_point": false, "pre_quant_scale": false, "exclude_modules": ["lm_head"]}
}"#;

/// As little as a config can say.
fn least() -> Value {
    json!({
        "architecture": "LlamaForCausalLM", "dtype": "float16", "hidden_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4,
    })
}

fn with(key: &str, value: Value) -> Value {
    let mut config = least();
    config[key] = value;
    config
}

fn error(config: &Value) -> ConfigError {
    Config::from_json(config).unwrap_err()
}

#[test]
fn a_real_config_is_read_and_its_other_fields_are_kept_word_for_word() {
    let value: Value = serde_json::from_str(REAL).unwrap();
    let config = Config::from_json(&value).unwrap();
    assert_eq!(config.architecture, "LlamaForCausalLM");
    assert_eq!((config.dtype, config.logits_dtype), (DType::BF16, DType::F16));
    assert_eq!(config.num_key_value_heads, 8);
    assert_eq!(config.norm_epsilon, 1e-5);
    assert_eq!(config.position_embedding_type, PositionEmbedding::RopeGptNeox);
    assert_eq!(config.rotary_embedding_dim, 128);
    assert_eq!(config.mapping, Mapping::default());
    assert_eq!(config.quantization.exclude_modules, Some(vec!["lm_head".to_owned()]));
    assert!(config.check_supported().is_ok());
    let own: Vec<&str> = config.own.keys().map(String::as_str).collect();
    let expected = [
        "producer",
        "residual_mlp",
        "bias",
        "rotary_pct",
        "rank",
        "decoder",
        "rmsnorm",
        "lm_head_bias",
        "mlp_bias",
        "attn_bias",
        "rotary_base",
        "rotary_scaling",
        "moe",
    ];
    assert_eq!(own, expected);
    assert_eq!(config.own["rotary_scaling"], value["rotary_scaling"]);
    let scaling: Vec<&String> = config.own["rotary_scaling"].as_object().unwrap().keys().collect();
    assert_eq!(scaling[4], "rope_type");
}

#[test]
fn what_is_written_reads_back_and_is_the_same_text_again() {
    for value in [serde_json::from_str(REAL).unwrap(), least()] {
        let config = Config::from_json(&value).unwrap();
        let written = config.to_json();
        let text = serde_json::to_string_pretty(&written).unwrap();
        let again = Config::from_json(&serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(again, config);
        assert_eq!(serde_json::to_string_pretty(&again.to_json()).unwrap(), text);
    }
}

#[test]
fn every_base_field_is_written_in_the_tables_order_before_the_own_ones() {
    let config = Config::from_json(&with("zebra", json!([1, 2]))).unwrap();
    let written = config.to_json();
    let keys: Vec<&str> = written.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected: Vec<&str> = BASE.iter().map(|field| field.name).collect();
    expected.push("zebra");
    assert_eq!(keys, expected);
    assert_eq!(written["mapping"].as_object().unwrap().len(), 3);
    assert_eq!(written["quantization"].as_object().unwrap().len(), 9);
}

#[test]
fn absent_and_null_fields_mean_what_the_table_says() {
    let absent = Config::from_json(&least()).unwrap().to_json();
    for field in BASE {
        let value = &absent[field.name];
        let expected = match field.fallback {
            Fallback::Required => continue,
            Fallback::Null => Value::Null,
            Fallback::Flag(flag) => json!(flag),
            Fallback::Integer(number) => json!(number),
            Fallback::Number(number) => json!(number),
            Fallback::Text(text) => json!(text),
            Fallback::SameAs(other) => absent[other].clone(),
            Fallback::Derived(_) => match field.name {
                "head_size" | "rotary_embedding_dim" => json!(16),
                "intermediate_size" => json!(256),
                "mapping" => Mapping::default().to_json(),
                _ => Quantization::default().to_json(),
            },
        };
        assert_eq!(*value, expected, "{}", field.name);
        let null = Config::from_json(&with(field.name, Value::Null)).unwrap().to_json();
        assert_eq!(null, absent, "{} as null", field.name);
    }
}

#[test]
fn the_rotary_width_comes_from_whatever_says_it() {
    let width = |key, value| Config::from_json(&with(key, value)).unwrap().rotary_embedding_dim;
    assert_eq!(width("rotary_dim", json!(8)), 8);
    assert_eq!(width("rotary_pct", json!(0.5)), 8);
    assert_eq!(width("rotary_embedding_dim", json!(4)), 4);
}

#[test]
fn every_required_field_is_missed_by_name() {
    for field in BASE.iter().filter(|f| f.fallback == Fallback::Required) {
        let mut config = least();
        config.as_object_mut().unwrap().remove(field.name);
        assert_eq!(error(&config), ConfigError::Missing { key: field.name.to_owned() });
    }
}

#[test]
fn a_field_of_the_wrong_type_is_named_with_what_it_is() {
    for field in BASE {
        let wrong = match field.kind {
            Kind::Object if field.name == "runtime_defaults" => continue,
            Kind::Object | Kind::Flag | Kind::Integer | Kind::Number => json!("seven"),
            Kind::Text => json!(7),
        };
        let error = error(&with(field.name, wrong));
        assert!(
            matches!(&error, ConfigError::Type { key, .. } if key == field.name),
            "{}: {error}",
            field.name
        );
    }
    for bad in [json!(0), json!(-1), json!(1.5), json!(1u64 << 50)] {
        let error = error(&with("hidden_size", bad));
        assert_eq!(error.location().unwrap(), "hidden_size");
    }
    assert!(matches!(error(&json!([1])), ConfigError::Type { .. }));
    let text = error(&with("qk_layernorm", json!("yes"))).to_string();
    assert_eq!(text, "the config's `qk_layernorm` is \"yes\", but must be true or false");
}

#[test]
fn unknown_words_are_answered_with_the_known_ones() {
    let unknown = error(&with("position_embedding_type", json!("spiral")));
    assert!(unknown.help().unwrap().contains("rope_gpt_neox"), "{unknown}");
    for dtype in ["float8", "int8"] {
        let unknown = error(&with("dtype", json!(dtype)));
        assert!(matches!(unknown, ConfigError::Word { .. }), "{unknown}");
    }
}

#[test]
fn unknown_keys_of_mapping_and_quantization_are_errors() {
    let unknown = error(&with("mapping", json!({"rank": 0})));
    assert_eq!(unknown, ConfigError::UnknownKey { key: "mapping.rank".to_owned() });
    let unknown = error(&with("quantization", json!({"colour": true})));
    assert_eq!(unknown, ConfigError::UnknownKey { key: "quantization.colour".to_owned() });
    let wrong = error(&with("quantization", json!({"clamp_val": [1]})));
    assert_eq!(wrong.location().unwrap(), "quantization.clamp_val");
    let wrong = error(&with("quantization", json!({"exclude_modules": [1]})));
    assert_eq!(wrong.location().unwrap(), "quantization.exclude_modules");
}

#[test]
fn a_mapping_that_does_not_multiply_out_is_an_error() {
    let wrong = error(&with("mapping", json!({"world_size": 4, "tp_size": 2})));
    assert!(matches!(wrong, ConfigError::WorldSize { world_size: 4, tp_size: 2, .. }));
}

#[test]
fn quantised_checkpoints_are_turned_down_by_name() {
    let check = |key, value| Config::from_json(&with(key, value)).unwrap().check_supported();
    let error = check("quantization", json!({"quant_algo": "W4A8_QSERVE"})).unwrap_err();
    assert!(error.to_string().contains("W4A8_QSERVE"), "{error}");
    assert!(check("quantization", json!({"quant_algo": "W4A16_AWQ"})).is_ok());
    let error = check("quantization", json!({"kv_cache_quant_algo": "FP8"})).unwrap_err();
    assert_eq!(error.location().unwrap(), "quantization.kv_cache_quant_algo");
    assert!(check("quantization", json!({"quant_algo": "NO_QUANT"})).is_ok());
}

#[test]
fn mappings_of_any_size_are_read_but_for_context_parallelism_and_nonsense() {
    let read = |value| Config::from_json(&with("mapping", value)).unwrap();
    let mapping = read(json!({"world_size": 8, "tp_size": 4, "pp_size": 2, "moe_ep_size": 2}));
    let ir =
        engraft_ir::Mapping { moe_tp_size: 2, moe_ep_size: 2, ..engraft_ir::Mapping::new(4, 2) };
    assert_eq!(mapping.mapping.ir(), Ok(ir));
    assert_eq!(Mapping::from(ir), mapping.mapping);
    assert_eq!(read(json!({"tp_size": 2})).mapping.world_size, 2);
    for (value, word) in [
        (json!({"world_size": 2, "cp_size": 2}), "cp_size is 2"),
        (json!({"world_size": 0, "tp_size": 0}), "tp_size is 0"),
        (json!({"tp_size": 2, "moe_tp_size": 2, "moe_ep_size": 2}), "moe_tp_size 2"),
        (json!({"tp_size": 1u64 << 33}), "too large"),
    ] {
        let error = read(value).check_supported().unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
        assert_eq!(error.location().unwrap(), "mapping");
    }
}

#[test]
fn a_mapping_is_written_with_as_little_as_says_it() {
    let written =
        |value| Config::from_json(&with("mapping", value)).unwrap().to_json()["mapping"].clone();
    assert_eq!(
        written(json!({"cp_size": 1, "gpus_per_node": 8, "moe_tp_size": -1})),
        json!({
            "world_size": 1, "tp_size": 1, "pp_size": 1,
        })
    );
    let experts = json!({
        "world_size": 2, "tp_size": 2, "pp_size": 1, "gpus_per_node": 4, "moe_tp_size": 1,
        "moe_ep_size": 2,
    });
    assert_eq!(written(experts.clone()), experts);
}

#[test]
fn old_names_of_the_mapping_stand_beside_the_base_fields() {
    let mut value = with("tensor_parallel", json!(2));
    value["pipeline_parallel"] = json!(3);
    value["world_size"] = json!(6);
    let config = Config::from_json(&value).unwrap();
    assert_eq!(config.mapping, Mapping::from(engraft_ir::Mapping::new(2, 3)));
    assert!(config.own.is_empty(), "{:?}", config.own);
    value["mapping"] = json!({"tp_size": 4});
    let error = error(&value);
    assert_eq!(
        error.to_string(),
        "the config's `tensor_parallel` says 2, but its `mapping.tp_size` says 4"
    );
}

#[test]
fn old_flags_of_quantisation_name_a_scheme() {
    let read = |flags: Value| {
        let quantization = Config::from_json(&with("quantization", flags)).unwrap().quantization;
        (quantization.quant_algo.unwrap_or_default(), quantization.kv_cache_quant_algo)
    };
    for (flags, scheme) in [
        (json!({"use_weight_only": true}), "W8A16"),
        (json!({"use_weight_only": true, "weight_only_precision": "int4"}), "W4A16"),
        (json!({"use_weight_only": true, "weight_only_precision": "int4_awq"}), "W4A16_AWQ"),
        (json!({"use_weight_only": true, "weight_only_precision": "int4_gptq"}), "W4A16_GPTQ"),
        (json!({"use_smooth_quant": true}), "W8A8_SQ_PER_TENSOR_PLUGIN"),
        (
            json!({"use_smooth_quant": true, "per_channel": true, "per_token": true}),
            "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN",
        ),
        (json!({"use_smooth_quant": true, "sq_use_plugin": false}), "W8A8_SQ_PER_CHANNEL"),
        (json!({"enable_fp8": true}), "FP8"),
        (json!({"enable_fp8_rowwise": true}), "FP8_PER_CHANNEL_PER_TOKEN"),
        (json!({"use_weight_only": false, "sq_use_plugin": true}), ""),
    ] {
        assert_eq!(read(flags.clone()), (scheme.to_owned(), None), "{flags}");
    }
    let cache = read(json!({"int8_kv_cache": true}));
    assert_eq!(cache, (String::new(), Some("INT8".to_owned())));
    let twice = error(&with("quantization", json!({"quant_algo": "FP8", "use_weight_only": true})));
    assert_eq!(twice.location().unwrap(), "quantization.use_weight_only");
    let top = Config::from_json(&with("use_weight_only", json!(true))).unwrap();
    assert_eq!(top.quantization.quant_algo.as_deref(), Some("W8A16"));
    let odd = json!({"use_weight_only": true, "weight_only_precision": "int3"});
    assert!(error(&with("quantization", odd)).help().unwrap().contains("int4_gptq"));
}

#[test]
fn an_own_field_never_overrides_a_base_field() {
    let mut config = Config::from_json(&least()).unwrap();
    config.own.insert("hidden_size".to_owned(), json!(1));
    assert_eq!(config.to_json()["hidden_size"], json!(64));
}

#[test]
fn every_position_embedding_reads_back() {
    for (position, name) in crate::config::POSITIONS {
        assert_eq!(position.to_string(), name);
        assert_eq!(PositionEmbedding::from_name(name), Some(position));
    }
}
