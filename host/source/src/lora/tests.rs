//! Adapters against models, fitting and not.

use std::path::Path;

use engraft_diagnostic::Diagnostic;
use engraft_files::SafetensorsWriter;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::Source;

/// A tensor's name, extents and values.
type Tensor<'a> = (&'a str, &'a [u64], &'a [f32]);

fn safetensors(path: &Path, tensors: &[Tensor]) {
    let declared = tensors
        .iter()
        .map(|(name, shape, _)| ((*name).to_owned(), DType::F32, shape.to_vec()))
        .collect();
    let writer = SafetensorsWriter::create(path, BTreeMap::new(), declared, 1).unwrap();
    for (name, _, values) in tensors {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        writer.put(name, &bytes).unwrap();
    }
    writer.finish().unwrap();
}

/// A model with `m.q.weight` `[2, 3]`, `m.o.weight` `[2, 2]`, `m.o.bias` and an embedding.
fn model(config: &Value) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
    let tensors: [Tensor; 4] = [
        ("m.q.weight", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        ("m.o.weight", &[2, 2], &[1.0, 0.0, 0.0, 1.0]),
        ("m.o.bias", &[2], &[7.0, 8.0]),
        ("m.embed.weight", &[4, 2], &[0.0; 8]),
    ];
    safetensors(&directory.path().join("model.safetensors"), &tensors);
    directory
}

fn adapter(config: &Value, tensors: &[Tensor]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut all = json!({"peft_type": "LORA", "r": 1, "lora_alpha": 2});
    all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    std::fs::write(directory.path().join(CONFIG), all.to_string()).unwrap();
    safetensors(&directory.path().join(WEIGHTS), tensors);
    directory
}

fn merge(model_config: &Value, config: &Value, tensors: &[Tensor]) -> Result<Source, SourceError> {
    let (model, adapter) = (model(model_config), adapter(config, tensors));
    // Files stay readable once they are open.
    Source::open_with_lora(model.path(), adapter.path())
}

fn read(source: &Source, name: &str, rows: Range<u64>) -> Vec<f32> {
    let mut bytes = Vec::new();
    source.read(name, rows, &mut bytes).unwrap();
    floats(&bytes, source.tensors()[name].dtype)
}

const Q: [Tensor; 2] = [
    ("base_model.model.m.q.lora_A.weight", &[1, 3], &[1.0, 10.0, 100.0]),
    ("base_model.model.m.q.lora_B.weight", &[2, 1], &[0.5, 0.25]),
];

#[test]
fn a_product_is_added_row_by_row() {
    let source = merge(&json!({}), &json!({}), &Q).unwrap();
    let all = [2.0, 12.0, 103.0, 4.5, 10.0, 56.0];
    assert_eq!(read(&source, "m.q.weight", 0..2), all);
    assert_eq!(read(&source, "m.q.weight", 1..2), all[3..]);
    assert_eq!(read(&source, "m.o.bias", 0..2), [7.0, 8.0], "untouched");
    assert_eq!(source.merged().unwrap().to_string(), "1 module, rank 1, scale 2.0");
    let names = source.files().iter().filter_map(|path| path.file_name()?.to_str());
    assert!(names.collect::<Vec<_>>().ends_with(&[CONFIG, WEIGHTS]));
}

#[test]
fn patterns_and_roots_change_the_scale() {
    let two: [Tensor; 2] = [
        ("base_model.model.m.q.lora_A.default.weight", &[2, 3], &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]),
        ("base_model.model.m.q.lora_B.default.weight", &[2, 2], &[1.0, 0.0, 0.0, 1.0]),
    ];
    let config = json!({"rank_pattern": {"q": 2}, "alpha_pattern": {r"m\.q": 6}});
    let source = merge(&json!({}), &config, &two).unwrap();
    assert_eq!(read(&source, "m.q.weight", 0..2), [4.0, 2.0, 3.0, 4.0, 8.0, 6.0]);
    let config = json!({"r": 2, "use_rslora": true, "base_model_name_or_path": "org/base"});
    let source = merge(&json!({}), &config, &two).unwrap();
    assert_eq!(read(&source, "m.q.weight", 0..1)[0], 1.0 + 2.0f32.sqrt());
    assert!(source.merged().unwrap().to_string().ends_with("trained on org/base"));
}

#[test]
fn stored_the_other_way_round_the_product_is_turned() {
    // `[in 2, out 3]`, which no square hides.
    let turned: [Tensor; 4] = [
        ("base_model.model.m.q.lora_A.weight", &[1, 2], &[1.0, 10.0]),
        ("base_model.model.m.q.lora_B.weight", &[3, 1], &[1.0, 2.0, 3.0]),
        ("base_model.model.m.o.lora_A.weight", &[1, 2], &[1.0, 10.0]),
        ("base_model.model.m.o.lora_B.weight", &[2, 1], &[1.0, 2.0]),
    ];
    let source = merge(&json!({}), &json!({"lora_alpha": 1}), &turned).unwrap();
    assert_eq!(read(&source, "m.q.weight", 0..2), [2.0, 4.0, 6.0, 14.0, 25.0, 36.0]);
    // A square is as the others are, and by itself as the config says.
    let square = [2.0, 2.0, 10.0, 21.0];
    assert_eq!(read(&source, "m.o.weight", 0..2), square);
    let config = json!({"lora_alpha": 1, "fan_in_fan_out": true});
    assert_eq!(
        read(&merge(&json!({}), &config, &turned[2..]).unwrap(), "m.o.weight", 0..2),
        square
    );
    let straight = merge(&json!({}), &json!({"lora_alpha": 1}), &turned[2..]).unwrap();
    assert_eq!(read(&straight, "m.o.weight", 0..2), [2.0, 10.0, 2.0, 21.0]);
}

#[test]
fn an_embedding_takes_a_column_a_token() {
    let tensors: [Tensor; 2] = [
        ("base_model.model.m.embed.lora_embedding_A", &[1, 4], &[1.0, 2.0, 3.0, 4.0]),
        ("base_model.model.m.embed.lora_embedding_B", &[2, 1], &[1.0, -1.0]),
    ];
    let source = merge(&json!({"vocab_size": 5}), &json!({}), &tensors).unwrap();
    assert_eq!(read(&source, "m.embed.weight", 1..3), [4.0, -4.0, 6.0, -6.0]);
    for config in [json!({"vocab_size": 4}), json!({"vocab_size": 4, "tie_word_embeddings": true})]
    {
        let error = merge(&config, &json!({}), &tensors).map(drop).unwrap_err();
        assert!(error.to_string().contains("for its head as well"), "{error}");
    }
}

#[test]
fn whole_tensors_take_the_place_of_the_models() {
    let tensors: [Tensor; 4] = [
        ("base_model.model.m.o.modules_to_save.default.bias", &[2], &[1.0, 2.0]),
        ("base_model.model.outer.m.o.base_layer.weight", &[2, 2], &[3.0, 3.0, 3.0, 3.0]),
        ("base_model.model.outer.m.o.lora_A.weight", &[1, 2], &[1.0, 0.0]),
        ("base_model.model.outer.m.o.lora_B.weight", &[2, 1], &[1.0, 2.0]),
    ];
    let source = merge(&json!({}), &json!({}), &tensors).unwrap();
    assert_eq!(read(&source, "m.o.bias", 0..2), [1.0, 2.0]);
    assert_eq!(read(&source, "m.o.weight", 0..2), [5.0, 3.0, 7.0, 3.0]);
    let report = source.merged().unwrap().to_string();
    assert_eq!(report, "1 module, rank 1, scale 2.0, 2 tensors replaced");
}

#[test]
fn dora_gives_each_row_its_learned_length() {
    let length: Tensor = ("base_model.model.m.o.lora_magnitude_vector", &[2], &[10.0, 2.0]);
    let tensors: [Tensor; 3] = [
        ("base_model.model.m.o.lora_A.weight", &[1, 2], &[0.0, 1.0]),
        ("base_model.model.m.o.lora_B.weight", &[2, 1], &[4.0 / 6.0, 0.0]),
        length,
    ];
    let config = json!({"use_dora": true});
    let source = merge(&json!({}), &config, &tensors).unwrap();
    // The sum is [[1, 4/3], [0, 1]], whose rows are 5/3 and 1 long.
    let got = read(&source, "m.o.weight", 0..2);
    for (got, expected) in got.iter().zip([6.0, 8.0, 0.0, 2.0]) {
        assert!((got - expected).abs() < 1e-5, "{got} {expected}");
    }
    for (config, tensors, words) in [
        (json!({}), &tensors[..], "`use_dora` is not set"),
        (config.clone(), &tensors[..2], "has no lengths"),
        (json!({"use_dora": true, "fan_in_fan_out": true}), &tensors[..], "stored transposed"),
    ] {
        let error = merge(&json!({}), &config, tensors).map(drop).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn all_that_does_not_fit_is_told_at_once() {
    let tensors: [Tensor; 9] = [
        ("base_model.model.m.q.lora_A.weight", &[1, 4], &[0.0; 4]),
        ("base_model.model.m.q.lora_B.weight", &[2, 1], &[0.0; 2]),
        ("base_model.model.m.v.lora_A.weight", &[1, 3], &[0.0; 3]),
        ("base_model.model.m.v.lora_B.weight", &[2, 1], &[0.0; 2]),
        ("base_model.model.m.o.lora_A.weight", &[2, 2], &[0.0; 4]),
        ("base_model.model.m.o.lora_B.weight", &[2, 2], &[0.0; 4]),
        ("base_model.model.m.x.lora_A.weight", &[1, 3], &[0.0; 3]),
        ("base_model.model.m.o.bias", &[3], &[0.0; 3]),
        ("base_model.model.m.embed.token_adapter.delta", &[1], &[0.0]),
    ];
    let error = merge(&json!({}), &json!({}), &tensors).map(drop).unwrap_err();
    assert_eq!(error.code().0, 172);
    assert!(error.help().is_some() && error.location().is_some());
    let text = error.to_string();
    for words in [
        "6 of its tensors",
        "`m.q`: B·A is [2, 4], and the model's weight is [2, 3] F32",
        "the model has no `m.v.weight`",
        "A is [2, 2] and B [2, 2], and the rank is 1",
        "`m.x` has not one A and one B",
        "`base_model.model.m.o.bias` is [3], and the model's is [2]",
        "the model has no `m.embed.token_adapter.delta`",
    ] {
        assert!(text.contains(words), "no `{words}` in: {text}");
    }
}

#[test]
fn configs_that_mean_something_else_are_turned_down_by_their_key() {
    for (config, code, words) in [
        (json!({"peft_type": "IA3"}), 171, "IA3"),
        (json!({"lora_bias": true}), 171, "`lora_bias`"),
        (json!({"target_parameters": ["experts.w"]}), 171, "`target_parameters`"),
        (json!({"alora_invocation_tokens": [1]}), 171, "`alora_invocation_tokens`"),
        (json!({"rank_pattern": {"(q|k)": 4}}), 171, "regular expression"),
        (json!({"r": 0}), 105, "`r`"),
        (json!({"r": -1}), 105, "`r`"),
        (json!({"lora_alpha": "x"}), 105, "`lora_alpha`"),
        (json!({"alpha_pattern": [1]}), 105, "`alpha_pattern`"),
        (json!({"use_rslora": 1}), 105, "`use_rslora`"),
        (json!({"peft_type": null}), 105, "`peft_type`"),
    ] {
        let error = merge(&json!({}), &config, &Q).map(drop).unwrap_err();
        assert_eq!(error.code().0, code, "{config}: {error}");
        assert!(error.to_string().contains(words), "{config}: {error}");
    }
}

#[test]
fn what_is_no_adapter_says_what_is_missing() {
    let model = model(&json!({}));
    let folder = tempfile::tempdir().unwrap();
    let refused = |code: u16| {
        let error = Source::open_with_lora(model.path(), folder.path()).map(drop).unwrap_err();
        assert_eq!(error.code().0, code, "{error}");
        assert!(error.help().is_some());
    };
    refused(170);
    std::fs::write(folder.path().join(CONFIG), "{").unwrap();
    refused(170);
    std::fs::write(folder.path().join(WEIGHTS), "").unwrap();
    refused(104);
    std::fs::write(folder.path().join(CONFIG), r#"{"peft_type":"LORA","r":1,"lora_alpha":1}"#)
        .unwrap();
    refused(30);

    let nan: [Tensor; 2] =
        [Q[0], ("base_model.model.m.q.lora_B.weight", &[2, 1], &[0.5, f32::NAN])];
    let source = merge(&json!({}), &json!({}), &nan).unwrap();
    let error = source.read("m.q.weight", 0..2, &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("m.q.lora_B.weight` holds NaN"), "{error}");
}

#[test]
fn a_pickled_adapter_is_read_as_well() {
    let (model, adapter) = (model(&json!({})), adapter(&json!({}), &Q));
    std::fs::remove_file(adapter.path().join(WEIGHTS)).unwrap();
    let pickled = Q.map(|(name, shape, values)| {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        crate::torch::build::Tensor::new(name, DType::F32, shape, &bytes)
    });
    std::fs::write(adapter.path().join(PICKLED), crate::torch::build::model(&pickled)).unwrap();
    let source = Source::open_with_lora(model.path(), adapter.path()).unwrap();
    assert_eq!(read(&source, "m.q.weight", 0..2), [2.0, 12.0, 103.0, 4.5, 10.0, 56.0]);
    assert!(source.files().last().unwrap().ends_with(PICKLED));
}
