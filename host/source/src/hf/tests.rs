//! Directories, sound and not.

use engraft_diagnostic::{Code, Diagnostic};
use engraft_files::{HeaderError, SafetensorsWriter};
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::Source;
use crate::torch::build::{Tensor, model};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A directory with these files.
fn directory(files: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    directory
}

/// Puts a safetensors file with tensors of eight bytes into a directory.
fn shard(directory: &TempDir, name: &str, tensors: &[(&str, DType)]) {
    let path = directory.path().join(name);
    let shape = |dtype: DType| vec![8 / dtype.size() as u64];
    let declared =
        tensors.iter().map(|(name, dtype)| ((*name).to_owned(), *dtype, shape(*dtype))).collect();
    let writer = SafetensorsWriter::create(&path, BTreeMap::new(), declared, 1).unwrap();
    for (name, _) in tensors {
        writer.put(name, &[1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
    }
    writer.finish().unwrap();
}

fn refused(directory: &TempDir) -> SourceError {
    let error = Source::open(directory.path()).map(|_| ()).unwrap_err();
    assert!(error.help().is_some() && error.location().is_some(), "{error:?}");
    error
}

const CONFIG_TEXT: &str = r#"{"architectures": ["LlamaForCausalLM"], "hidden_size": 8}"#;

fn index(map: &serde_json::Value) -> String {
    json!({"metadata": {"total_size": 8}, "weight_map": map}).to_string()
}

#[test]
fn a_directory_with_one_file_opens() {
    let files = [(CONFIG, CONFIG_TEXT), ("tokenizer.json", "{}"), ("README.md", "")];
    let directory = directory(&files);
    shard(&directory, SINGLE, &[("a", DType::BF16), ("ids", DType::I64)]);
    let source = Source::open(directory.path()).unwrap();
    assert_eq!(source.dialect(), "hugging-face");
    assert_eq!(source.architectures(), ["LlamaForCausalLM"]);
    assert_eq!(source.config()["hidden_size"], 8);
    assert_eq!(source.config_path(), directory.path().join(CONFIG));
    assert_eq!(source.ignorable_keys(), ["architectures"]);
    assert_eq!(source.text_files().keys().collect::<Vec<_>>(), ["tokenizer.json"]);
    assert_eq!(source.files().len(), 3);
    assert_eq!(source.tensors()["ids"].stored, "I64", "listed, whoever can use it");
    let mut bytes = Vec::new();
    source.read("a", 1..3, &mut bytes).unwrap();
    assert_eq!(bytes, [3, 4, 5, 6]);
}

#[test]
fn the_type_is_what_the_config_says_or_that_of_most_bytes() {
    for (config, expected) in [
        (r#"{"torch_dtype": "float16"}"#, DType::F16),
        (r#"{"dtype": "bfloat16"}"#, DType::BF16),
        (r#"{"torch_dtype": "torch.float32"}"#, DType::F32),
        (r#"{"torch_dtype": "auto"}"#, DType::BF16),
        ("{}", DType::BF16),
    ] {
        let directory = directory(&[(CONFIG, config)]);
        let tensors = [("a", DType::BF16), ("b", DType::BF16), ("c", DType::F32)];
        shard(&directory, SINGLE, &tensors);
        assert_eq!(Source::open(directory.path()).unwrap().dtype(), expected, "{config}");
    }
}

#[test]
fn shards_with_an_index_open_and_files_that_it_does_not_name_are_left_alone() {
    let map = json!({"a": "x-1.safetensors", "b": "x-2.safetensors"});
    let directory = directory(&[(CONFIG, CONFIG_TEXT), (INDEX, &index(&map))]);
    shard(&directory, "x-1.safetensors", &[("a", DType::F32)]);
    shard(&directory, "x-2.safetensors", &[("b", DType::F32)]);
    shard(&directory, "consolidated.safetensors", &[("a", DType::F32)]);
    let source = Source::open(directory.path()).unwrap();
    assert_eq!(source.tensors().keys().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(source.files().len(), 4);
}

#[test]
fn missing_shards_are_named_with_an_index_and_without() {
    let map = json!({"a": "x-1.safetensors", "b": "x-2.safetensors", "c": "x-3.safetensors"});
    let by_index = directory(&[(CONFIG, CONFIG_TEXT), (INDEX, &index(&map))]);
    shard(&by_index, "x-2.safetensors", &[("b", DType::F32)]);
    let error = refused(&by_index);
    let expected = "2 of 3 shards are missing: x-1.safetensors, x-3.safetensors";
    assert_eq!(error.to_string(), expected);
    assert_eq!(error.code(), Code(108));
    let by_name = directory(&[(CONFIG, CONFIG_TEXT)]);
    shard(&by_name, "model-00002-of-00002.safetensors", &[("b", DType::F32)]);
    let error = refused(&by_name).to_string();
    assert_eq!(error, "1 of 2 shards are missing: model-00001-of-00002.safetensors");
    shard(&by_name, "model-00001-of-00002.safetensors", &[("a", DType::F32)]);
    assert_eq!(Source::open(by_name.path()).unwrap().tensors().len(), 2);
}

#[test]
fn a_tensor_in_two_shards_or_in_another_than_the_index_says_is_an_error() {
    let twice = directory(&[(CONFIG, CONFIG_TEXT)]);
    shard(&twice, "1.safetensors", &[("a", DType::F32)]);
    shard(&twice, "2.safetensors", &[("a", DType::F32)]);
    let error = refused(&twice).to_string();
    assert_eq!(error, "tensor `a` is in 1.safetensors and in 2.safetensors");
    let map = json!({"a": "1.safetensors", "b": "1.safetensors"});
    let elsewhere = directory(&[(CONFIG, CONFIG_TEXT), (INDEX, &index(&map))]);
    shard(&elsewhere, "1.safetensors", &[("a", DType::F32)]);
    let error = refused(&elsewhere).to_string();
    assert_eq!(error, "tensor `b` is not in 1.safetensors, where the index puts it");
}

#[test]
fn an_index_cannot_lead_out_of_the_directory() {
    for name in ["../secret.safetensors", "/etc/passwd", "..", "", "x/y.safetensors"] {
        let text = index(&json!({ "a": name }));
        let directory = directory(&[(CONFIG, CONFIG_TEXT), (INDEX, &text)]);
        let error = refused(&directory);
        assert!(
            matches!(error, SourceError::Kind { ref key, .. } if key == "weight_map.a"),
            "{name}"
        );
    }
    for text in ["{}", r#"{"weight_map": {}}"#, r#"{"weight_map": 1}"#] {
        let directory = directory(&[(CONFIG, CONFIG_TEXT), (INDEX, text)]);
        assert_eq!(refused(&directory).code(), Code(105), "{text}");
    }
}

#[test]
fn a_malformed_config_is_told_with_line_and_column() {
    let broken = directory(&[(CONFIG, "{\n  \"a\": 1,\n  \"b\": oops\n}")]);
    let error = refused(&broken);
    assert_eq!(error.to_string(), "config.json does not parse: expected value");
    assert!(error.location().unwrap().ends_with("config.json:3:8"), "{:?}", error.location());
    assert_eq!(error.code(), Code(104));
    assert!(matches!(refused(&directory(&[(CONFIG, "[1]")])), SourceError::Json { .. }));
    assert!(matches!(refused(&directory(&[(CONFIG, "")])), SourceError::Json { .. }));
    for config in [r#"{"architectures": "Llama"}"#, r#"{"architectures": [1]}"#] {
        let error = refused(&directory(&[(CONFIG, config)]));
        assert_eq!(error.to_string(), "`architectures` should be a list of names");
        assert!(error.location().unwrap().ends_with("config.json, key `architectures`"));
    }
}

#[test]
fn what_is_missing_is_told_apart() {
    let missing = Source::open(Path::new("/no/such/model")).map(|_| ()).unwrap_err();
    assert_eq!(missing.code(), Code(101));
    assert_eq!(missing.to_string(), "there is no model at /no/such/model");
    assert!(matches!(refused(&directory(&[])), SourceError::NoConfig { gguf: None, .. }));
    let error = refused(&directory(&[("tiny.gguf", "GGUF")]));
    assert_eq!(error.help().unwrap(), "give the file tiny.gguf itself");
    let error = refused(&directory(&[(CONFIG, CONFIG_TEXT)]));
    assert!(matches!(error, SourceError::NoWeights { .. }));
    let error = refused(&directory(&[(CONFIG, CONFIG_TEXT), ("model.pt", "")]));
    assert!(error.to_string().ends_with("only as pickled files, such as model.pt"));
    assert_eq!(error.code(), Code(107));
}

#[test]
fn a_broken_weight_file_is_told_by_its_name() {
    let directory = directory(&[(CONFIG, CONFIG_TEXT)]);
    shard(&directory, SINGLE, &[("a", DType::F32)]);
    let path = directory.path().join(SINGLE);
    let sound = std::fs::read(&path).unwrap();
    std::fs::write(&path, &sound[..sound.len() - 1]).unwrap();
    let error = refused(&directory);
    assert_eq!(error.code(), Code(36));
    assert!(error.location().unwrap().ends_with("model.safetensors"));
    assert!(error.to_string().starts_with("tensor `a` ends at byte 8"), "{error}");
    let mut lies = sound;
    lies[6] = 1;
    std::fs::write(&path, lies).unwrap();
    let error = refused(&directory);
    assert!(matches!(error, SourceError::Header(HeaderError::LengthLies { .. })), "{error:?}");
}

#[test]
fn files_of_pytorch_are_read_where_there_are_no_safetensors() {
    let tensor = |name: &str| Tensor::new(name, DType::U8, &[2], &[1, 2]);
    let put = |directory: &TempDir, name: &str, tensors: &[Tensor]| {
        std::fs::write(directory.path().join(name), model(tensors)).unwrap();
    };
    let map =
        json!({"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"});
    let directory =
        directory(&[(CONFIG, CONFIG_TEXT), ("pytorch_model.bin.index.json", &index(&map))]);
    put(&directory, "pytorch_model-00001-of-00002.bin", &[tensor("a")]);
    put(&directory, "training_args.bin", &[tensor("c")]);
    assert_eq!(refused(&directory).code(), Code(108));
    put(&directory, "pytorch_model-00002-of-00002.bin", &[tensor("b")]);
    let names = |directory: &TempDir| -> Vec<String> {
        Source::open(directory.path()).unwrap().tensors().keys().cloned().collect()
    };
    assert_eq!(names(&directory), ["a", "b"]);
    std::fs::remove_file(directory.path().join("pytorch_model.bin.index.json")).unwrap();
    assert_eq!(names(&directory), ["a", "b"], "without an index as well");
    shard(&directory, SINGLE, &[("safe", DType::F32)]);
    assert_eq!(names(&directory), ["safe"], "safetensors come first");
}
