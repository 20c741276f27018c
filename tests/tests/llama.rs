//! What the `llama` plugin reads of a config, and what it turns down.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use engraft_ir::{Activation, PlaceKind};
use engraft_plugin::{Limits, Plugin, Refusal, Session, Setting, Value, nest, resolve, unread};
use engraft_tests::llama;
use engraft_weights::{Origin, Parameter, Step};
use serde_json::{Value as Json, json};
use std::sync::OnceLock;

fn plugin() -> &'static Plugin {
    static PLUGIN: OnceLock<Plugin> = OnceLock::new();
    PLUGIN.get_or_init(|| Plugin::load(&llama(), &Limits::default()).expect("loads"))
}

fn session() -> Session {
    plugin().session().expect("starts")
}

/// A small config with changes.
fn config(changes: Json) -> Json {
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 160,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": 256, "max_position_embeddings": 256, "tie_word_embeddings": false,
    });
    let all = config.as_object_mut().expect("an object");
    all.extend(changes.as_object().expect("an object").clone());
    config
}

fn gguf(changes: Json) -> Json {
    let mut config = json!({
        "llama.block_count": 2, "llama.embedding_length": 64, "llama.feed_forward_length": 160,
        "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2,
        "llama.vocab_size": 256, "llama.context_length": 256,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
    });
    let all = config.as_object_mut().expect("an object");
    all.extend(changes.as_object().expect("an object").clone());
    config
}

fn configured(dialect: &str, source: &Json, tensors: &[&str]) -> Result<Vec<Setting>, Refusal> {
    let mut session = session();
    let fields = session.source_fields(dialect).expect("answers");
    let has = |name: &str| tensors.contains(&name);
    let (settings, read) = resolve(&fields, source, &has).expect("resolves");
    assert!(unread(source, &read, &[]).is_empty(), "{:?}", unread(source, &read, &[]));
    session.configure(dialect, &settings).expect("answers")
}

fn checkpoint(changes: Json) -> Json {
    let settings = configured("hugging-face", &config(changes), &["lm_head.weight"]);
    Json::Object(nest(&settings.expect("accepts")))
}

fn refused(changes: Json) -> String {
    configured("hugging-face", &config(changes), &["lm_head.weight"])
        .expect_err("turns it down")
        .to_string()
}

fn opened(settings: Vec<Setting>) -> Session {
    let mut session = session();
    let mut fields = session.fields().expect("answers");
    // What the plugin sets itself is all that it needs, beside the defaults of its own fields.
    fields.retain(|field| settings.iter().all(|setting| setting.path != field.path));
    let (rest, _) = resolve(&fields, &json!({}), &|_| false).expect("resolves");
    let all: Vec<Setting> = settings.into_iter().chain(rest).collect();
    session.open(&all).expect("answers").expect("accepts");
    session
}

#[test]
fn transformers_4_and_5_say_the_same() {
    let old = json!({"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "factor": 8.0,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}});
    let new = json!({"rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", "factor": 8.0,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}});
    let settings = checkpoint(old);
    assert_eq!(settings, checkpoint(new));
    assert_eq!(settings["rotary_base"], 5e5);
    assert_eq!(settings["rotary_scaling"]["high_freq_factor"], 4.0);
    let plain = checkpoint(json!({"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}}));
    assert_eq!(plain, checkpoint(json!({"rope_theta": 1e4, "rope_scaling": null})));
    assert_eq!(plain["rotary_scaling"], Json::Null);
}

#[test]
fn fields_that_are_absent_have_llamas_defaults() {
    let settings = checkpoint(json!({"num_key_value_heads": null}));
    assert_eq!(settings["num_key_value_heads"], 4);
    assert_eq!(settings["head_size"], 16);
    assert_eq!(settings["norm_epsilon"], 1e-6);
    assert_eq!(settings["hidden_act"], "silu");
    assert_eq!(settings["position_embedding_type"], "rope_gpt_neox");
}

#[test]
fn every_activation_of_the_graph_is_accepted() {
    for name in Activation::names() {
        assert_eq!(checkpoint(json!({"hidden_act": name}))["hidden_act"], name);
    }
}

#[test]
fn without_a_word_about_it_the_head_is_tied_where_it_has_no_tensor() {
    let source = config(json!({"tie_word_embeddings": null}));
    for (tensors, tied) in [(&["lm_head.weight"][..], false), (&[], true)] {
        let settings = configured("hugging-face", &source, tensors).expect("accepts");
        assert_eq!(nest(&settings)["tie_word_embeddings"], tied);
    }
}

#[test]
fn smollm3_rotates_in_three_blocks_of_four() {
    let smol = |changes: Json| {
        let mut all = changes;
        all["architectures"] = json!(["SmolLM3ForCausalLM"]);
        checkpoint(all)
    };
    assert_eq!(smol(json!({}))["no_rope_layers"], json!([1, 1, 1, 0]));
    assert_eq!(smol(json!({"no_rope_layer_interval": 2}))["no_rope_layers"], json!([1, 0, 1, 0]));
    let listed = smol(json!({"no_rope_layers": [0, 1, 1, 1], "layer_types": ["full_attention"]}));
    assert_eq!(listed["no_rope_layers"], json!([0, 1, 1, 1]));
    assert_eq!(listed["architecture"], "SmolLM3ForCausalLM");
    assert_eq!(checkpoint(json!({}))["no_rope_layers"], Json::Null);
}

#[test]
fn what_the_graph_does_not_have_is_turned_down_by_its_field() {
    let yarn = |key: &str, value: Json| {
        let mut scaling = json!({"rope_type": "yarn", "factor": 4.0});
        scaling[key] = value;
        json!({"rope_scaling": scaling})
    };
    for (changes, field) in [
        (json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}), "rope_scaling.type"),
        (json!({"rope_scaling": {"factor": 2.0}}), "rope_scaling.factor"),
        (yarn("attn_factor", json!(0.7)), "rope_scaling.attn_factor"),
        (json!({"use_sliding_window": true}), "use_sliding_window"),
        (json!({"layer_types": ["full_attention", "sliding_attention"]}), "layer_types"),
        (json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor"),
        (json!({"hidden_act": "mish"}), "hidden_act"),
        (json!({"num_key_value_heads": 3}), "num_key_value_heads"),
        (json!({"hidden_size": -1}), "hidden_size"),
        (json!({"head_dim": 15}), "head_dim"),
        (json!({"rms_norm_eps": 0.0}), "rms_norm_eps"),
    ] {
        let error = refused(changes);
        assert!(error.starts_with(&format!("{field}: ")), "{field}: {error}");
    }
}

#[test]
fn a_list_of_another_length_than_the_model_is_turned_down() {
    let settings =
        configured("hugging-face", &config(json!({"no_rope_layers": [1]})), &["lm_head.weight"]);
    let mut all = settings.expect("accepts");
    let fields = session().fields().expect("answers");
    let (rest, _) = resolve(&fields, &json!({}), &|_| false).expect("resolves");
    let lacking = rest.into_iter().filter(|s| all.iter().all(|known| known.path != s.path));
    all.extend(lacking.collect::<Vec<_>>());
    let refusal = session().open(&all).expect("answers").expect_err("turns it down");
    assert_eq!(refusal.subject, "no_rope_layers");
}

#[test]
fn gguf_says_the_same_in_its_own_words() {
    let settings = configured("gguf", &gguf(json!({})), &["output.weight"]).expect("accepts");
    let settings = nest(&settings);
    assert_eq!(settings["architecture"], "LlamaForCausalLM");
    assert_eq!(settings["tie_word_embeddings"], false);
    assert_eq!(settings["head_size"], 16);
    let scaled = gguf(json!({"llama.rope.freq_base": 5e5, "llama.rope.dimension_count": 16,
        "llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0,
        "llama.rope.scaling.original_context_length": 64}));
    let settings = nest(&configured("gguf", &scaled, &["blk.0.attn_q.bias"]).expect("accepts"));
    assert_eq!(settings["tie_word_embeddings"], true);
    assert_eq!(settings["attn_bias"], true);
    assert_eq!(settings["rotary_base"], 5e5);
    assert_eq!(settings["rotary_scaling"]["original_max_position_embeddings"], 64);
}

#[test]
fn gguf_that_this_graph_does_not_have_is_turned_down_in_its_own_words() {
    let error = |changes, tensors: &[&str]| {
        configured("gguf", &gguf(changes), tensors).expect_err("turns it down").to_string()
    };
    assert!(error(json!({"llama.expert_count": 8}), &[]).starts_with("llama.expert_count: 8"));
    let pairs = json!({"llama.rope.dimension_count": 7});
    assert!(error(pairs, &[]).starts_with("llama.rope.dimension_count: 7"));
    let both = json!({"rope_freqs.weight": [1.0, 2.0], "llama.rope.scaling.type": "yarn"});
    let error = error(both, &[]);
    assert!(error.contains("beside divisors of frequencies"), "{error}");
}

#[test]
fn gguf_has_divisors_where_a_config_has_a_formula() {
    let source = gguf(json!({"rope_freqs.weight": [1.0, 1.0, 1.0, 1.0, 2.0, 4.0, 8.0, 8.0]}));
    let settings = nest(&configured("gguf", &source, &[]).expect("accepts"));
    assert_eq!(settings["position_embedding_type"], "long_rope");
    assert_eq!(settings["longrope_scaling_long_factors"], source["rope_freqs.weight"]);
    assert_eq!(settings["longrope_scaling_short_factors"], source["rope_freqs.weight"]);
    assert_eq!(settings["longrope_attention_factor"], 1.0);
}

#[test]
fn gguf_keeps_the_rows_of_queries_and_keys_in_pairs() {
    let settings = configured("gguf", &gguf(json!({})), &["blk.0.attn_q.bias"]).expect("accepts");
    let mut session = opened(settings);
    let all = session.parameters(PlaceKind::Block(1), "gguf").expect("answers");
    let steps = |name: &str| -> Vec<(String, Vec<Step>)> {
        let found: Option<&Parameter> = all.iter().find(|p| p.name == name);
        match &found.expect(name).origin {
            Origin::Concat(joint) => {
                joint.parts.iter().map(|p| (p.tensor.clone(), p.steps.clone())).collect()
            }
            other => panic!("{other:?}"),
        }
    };
    // All of every axis is taken first: another shape is refused.
    let undone = |first: Vec<u64>, order: Vec<u32>, last: Vec<u64>| -> Vec<Step> {
        let all = |(axis, &end): (u32, &u64)| Step::Slice { axis, start: 0, end };
        let whole = (0..).zip(&last).map(all);
        let moved = [Step::Reshape(first), Step::Permute(order), Step::Reshape(last.clone())];
        whole.chain(moved).collect()
    };
    let weight = steps("attention.qkv.weight");
    assert_eq!(weight[0].0, "blk.1.attn_q.weight");
    assert_eq!(weight[0].1, undone(vec![4, 8, 2, 64], vec![0, 2, 1, 3], vec![64, 64]));
    assert_eq!(weight[1].1, undone(vec![2, 8, 2, 64], vec![0, 2, 1, 3], vec![32, 64]));
    assert_eq!(weight[2], ("blk.1.attn_v.weight".into(), vec![]));
    let bias = steps("attention.qkv.bias");
    assert_eq!(bias[0].1, undone(vec![4, 8, 2], vec![0, 2, 1], vec![64]));
}

#[test]
fn the_same_model_gives_the_same_answers_for_little() {
    let settings = configured("hugging-face", &config(json!({})), &["lm_head.weight"]);
    let settings = settings.expect("accepts");
    let mut session = opened(settings.clone());
    session.write(&|_, _| engraft_ir::DType::BF16).expect("writes");
    assert!(session.fuel_used() < 20_000_000, "{}", session.fuel_used());
    assert!(session.memory_peak() < 4 << 20, "{}", session.memory_peak());
    let fields = session.fields().expect("answers");
    let (rest, _) = resolve(&fields, &json!({}), &|_| false).expect("resolves");
    let rest = rest.into_iter().filter(|s| settings.iter().all(|known| known.path != s.path));
    let all: Vec<Setting> = settings.iter().cloned().chain(rest).collect();
    assert_eq!(plugin().check_determinism("hugging-face", &all), Ok(Ok(())));
    assert!(all.iter().any(|s| s.value == Some(Value::Flag(false))));
}
