//! `engraft evaluate compare`: an engine beside another and beside the model that it is of.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use engraft_tests::command::{command, fails, stderr, works};
use engraft_tests::{copied, fixtures, weights};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A folder with a golden under `model`, which gets a tokenizer of a word a token, and a text.
struct Case {
    folder: tempfile::TempDir,
    model: PathBuf,
}

impl Case {
    fn new(golden: &str) -> Case {
        let folder = copied(&fixtures().join("golden").join(golden));
        let model = folder.path().to_owned();
        fs::write(model.join("tokenizer.json"), tokenizer("t").to_string()).unwrap();
        let words = (0..200).map(|i| format!("t{}", (i * i + 7 * i) % 256)).collect::<Vec<_>>();
        fs::write(model.join("text.txt"), words.join(" ")).unwrap();
        Case { folder, model }
    }

    fn model(&self) -> String {
        text(&self.model)
    }

    fn text(&self) -> String {
        text(&self.model.join("text.txt"))
    }

    /// Compiles the model; gives the engine's folder.
    fn compiled(&self, name: &str, flags: &[&str]) -> String {
        let out = text(&self.folder.path().join(name));
        works(&[&["compile", "--model_dir", &self.model(), "--output_dir", &out], flags].concat());
        out
    }

    /// Compares over windows of 64 tokens.
    fn report(&self, engine: &str, reference: &str, flags: &[&str]) -> String {
        works(&self.arguments(engine, reference, flags))
    }

    fn json(&self, engine: &str, reference: &str, flags: &[&str]) -> Value {
        let flags = [flags, &["--json"]].concat();
        serde_json::from_str(&self.report(engine, reference, &flags)).unwrap()
    }

    fn arguments<'a>(
        &'a self,
        engine: &'a str,
        reference: &'a str,
        flags: &[&'a str],
    ) -> Vec<&'a str> {
        let file = self.text().leak();
        let both = ["evaluate", "compare", engine, reference, "--input_file", file];
        [&both[..], &["--window", "64", "--stride", "64"], flags].concat()
    }
}

/// Words that are this and a number, from 0 to 255.
fn tokenizer(word: &str) -> Value {
    let words = (0..256).map(|id| (format!("{word}{id}"), json!(id)));
    let vocabulary: Value = words.collect::<serde_json::Map<_, _>>().into();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": { "type": "WhitespaceSplit" },
        "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": format!("{word}0") },
    })
}

fn number(json: &Value, key: &str) -> f64 {
    json[key].as_f64().unwrap_or_else(|| panic!("no {key} in {json}"))
}

#[test]
fn an_engine_is_not_apart_from_itself_nor_from_its_model() {
    let case = Case::new("llama-gqa");
    let engine = case.compiled("f32", &["--dtype", "float32"]);
    for reference in [&engine, &case.model()] {
        let json = case.json(&engine, reference, &[]);
        assert_eq!((number(&json, "mean_kl"), number(&json, "max_kl")), (0.0, 0.0));
        assert_eq!((number(&json, "top1"), number(&json, "perplexity_change")), (1.0, 0.0));
        // 200 tokens are windows of 64, 64, 64 and 8, each without its first.
        assert_eq!((&json["scored"], &json["tokens"]), (&196.into(), &200.into()));
        assert_eq!(json["layers"]["first"], Value::Null);
        let places = json["layers"]["places"].as_array().unwrap();
        let names: Vec<_> = places.iter().map(|p| p["place"].as_str().unwrap()).collect();
        assert_eq!(names, ["embed", "block 0", "block 1", "block 2"]);
        assert!(places.iter().all(|place| number(place, "relative_l2") == 0.0));
    }
    let report = case.report(&engine, &engine, &["--skip_tokens", "10", "--max_tokens", "100"]);
    for words in
        ["mean KL divergence  0.000000", "100.00 %", "tokens 10 to 110, 98 scored", "none over"]
    {
        assert!(report.contains(words), "no `{words}` in {report}");
    }
    // What is measured is what a perplexity is.
    let file = case.text();
    let alone = works(&[
        "evaluate",
        "perplexity",
        "--engine_dir",
        &engine,
        "--input_file",
        &file,
        "--window",
        "64",
        "--stride",
        "64",
        "--json",
    ]);
    let alone: Value = serde_json::from_str(&alone).unwrap();
    let both = case.json(&engine, &engine, &[]);
    let apart = number(&both, "perplexity") / number(&alone, "perplexity") - 1.0;
    assert!(apart.abs() < 1e-12, "{both} and {alone}");
}

#[test]
fn rounded_weights_are_a_little_apart() {
    let case = Case::new("llama-tied");
    let engine = case.compiled("bf16", &["--dtype", "bfloat16"]);
    let json = case.json(&engine, &case.model(), &[]);
    let kl = number(&json, "mean_kl");
    assert!(kl > 1e-7 && kl < 1e-2, "{json}");
    assert!(number(&json, "max_kl") > kl && number(&json, "kl_standard_error") < kl);
    assert_eq!(json["layers"]["first"], Value::Null, "{json}");
    let strict = case.json(&engine, &case.model(), &["--threshold", "0.0001"]);
    assert_eq!(strict["layers"]["first"], "embed", "{strict}");
    let named = ["evaluate", "compare", "--engine_dir", &engine, "--reference", &case.model()]
        .map(str::to_owned);
    let more = ["--window", "64", "--stride", "64", "--json", "--input_file"].map(str::to_owned);
    let all: Vec<String> = [&named[..], &more, &[case.text()]].concat();
    let named: Value =
        serde_json::from_str(&works(&all.iter().map(String::as_str).collect::<Vec<_>>())).unwrap();
    assert_eq!(named, json);
}

#[test]
fn the_block_that_was_damaged_is_named() {
    let case = Case::new("llama-gqa");
    let engine = case.compiled("right", &["--dtype", "float32"]);
    let file = case.model.join("model.safetensors");
    let mut tensors = weights::read(&file);
    let damaged = tensors.get_mut("model.layers.1.mlp.down_proj.weight").unwrap();
    damaged.bytes.fill(0);
    weights::write(&file, &tensors);
    let wrong = case.compiled("wrong", &["--dtype", "float32"]);
    let json = case.json(&wrong, &engine, &[]);
    assert_eq!(json["layers"]["first"], "block 1", "{json}");
    assert_eq!(number(&json["layers"]["places"][1], "relative_l2"), 0.0);
    assert!(number(&json, "mean_kl") > 1e-3, "{json}");
    let report = case.report(&wrong, &engine, &[]);
    assert!(report.contains("first over 0.05: block 1, "), "{report}");
}

#[test]
fn ranks_run_in_one_process_and_stages_have_no_blocks_to_compare() {
    let case = Case::new("llama-gqa");
    let model = case.model();
    let split = case.compiled("tp", &["--dtype", "float32", "--tp_size", "2"]);
    let json = case.json(&split, &model, &["--ranks_in_process"]);
    assert!(number(&json, "mean_kl") < 1e-9 && number(&json, "top1") == 1.0, "{json}");
    assert_eq!(json["layers"]["places"].as_array().unwrap().len(), 4);
    assert_eq!(json["layers"]["first"], Value::Null);
    let staged = case.compiled("pp", &["--dtype", "float32", "--pp_size", "2"]);
    let json = case.json(&staged, &model, &["--ranks_in_process"]);
    assert!(number(&json, "mean_kl") < 1e-9, "{json}");
    assert_eq!(json["layers"], Value::Null);
    let report = case.report(&staged, &model, &["--ranks_in_process"]);
    assert!(report.contains("blocks are not compared"), "{report}");
    fails(&case.arguments(&split, &model, &[]), 2, "EG0619", &["--ranks_in_process"]);
}

#[test]
fn two_that_have_nothing_in_common_are_told_apart() {
    let case = Case::new("llama-gqa");
    let engine = case.compiled("engine", &["--dtype", "float32"]);
    let other = Case::new("llama-mha");
    let refused = |model: &str, words: &[&str]| {
        fails(&case.arguments(&engine, model, &[]), 3, "EG0622", words);
    };
    refused(&other.model(), &["one has 3 blocks, the other 2"]);
    let other = Case::new("llama-gqa");
    fs::write(other.model.join("tokenizer.json"), tokenizer("u").to_string()).unwrap();
    refused(&other.model(), &["tokenizers make different tokens of", "from token 1 on"]);
    // One tokenizer is enough.
    fs::remove_file(other.model.join("tokenizer.json")).unwrap();
    assert_eq!(number(&case.json(&engine, &other.model(), &[]), "mean_kl"), 0.0);
    let small = Case::new("llama-tied");
    let engine_of_256 = small.compiled("engine", &[]);
    let config = fs::read_to_string(small.model.join("config.json")).unwrap();
    let config = config.replace("\"vocab_size\": 256", "\"vocab_size\": 250");
    fs::write(small.model.join("config.json"), config).unwrap();
    let file = small.model.join("model.safetensors");
    let mut tensors = weights::read(&file);
    let table = tensors.get_mut("model.embed_tokens.weight").unwrap();
    table.bytes.truncate(table.bytes.len() / 256 * 250);
    table.shape[0] = 250;
    weights::write(&file, &tensors);
    let words = ["one has 256 entries, of the other 250"];
    fails(&small.arguments(&engine_of_256, &small.model(), &[]), 3, "EG0622", &words);

    let model = case.model();
    let usage = |flags: &[&str], code: &str, words: &[&str]| {
        fails(&case.arguments(&engine, &model, flags), 2, code, words);
    };
    usage(&["--skip_tokens", "201"], "EG0090", &["has 200 tokens"]);
    usage(&["--skip_tokens", "199"], "EG0617", &["the text has 1 tokens"]);
    usage(&["--max_tokens", "1"], "EG0617", &["the text has 1 tokens"]);
    usage(&["--threshold", "-1"], "EG0090", &["below 0"]);
    let checkpoint = text(&case.folder.path().join("checkpoint"));
    works(&["convert", "--model_dir", &model, "--output_dir", &checkpoint]);
    let arguments = case.arguments(&engine, &checkpoint, &[]);
    fails(&arguments, 2, "EG0090", &["is a checkpoint", "engraft build"]);
}

#[test]
fn what_was_compiled_for_it_is_gone_afterwards() {
    let case = Case::new("llama-gqa");
    let engine = case.compiled("engine", &[]);
    let temporary = tempfile::tempdir().unwrap();
    for (flags, works) in [(&[][..], true), (&["--skip_tokens", "201"], false)] {
        let arguments = case.arguments(&engine, case.model().leak(), flags);
        let output = command(&arguments).env("TMPDIR", temporary.path()).output().unwrap();
        assert_eq!(output.status.success(), works, "{}", stderr(&output));
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
    }
}
