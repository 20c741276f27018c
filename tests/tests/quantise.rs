//! Models quantised here: every golden in every format, by way of a checkpoint and straight.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use engraft_compile::BuildOptions;
use engraft_convert::{Calibration, Effort, Options, Pipeline, Quantise};
use engraft_engine::Engine;
use engraft_runtime::LoadOptions;
use engraft_tests::command::{fails, works};
use engraft_tests::weights::read;
use engraft_tests::{copied, distance, fixtures, golden, goldens, load, logits, plugin, prepared};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

/// Words that the tokenizer of these tests knows, `w0` to `w63`.
const WORDS: usize = 64;

/// A golden with a tokenizer, whose words are `w0`, `w1`, …, and a text of such words.
fn with_tokenizer(golden: &Path) -> (TempDir, TempDir) {
    let model = copied(golden);
    let vocabulary: serde_json::Map<String, serde_json::Value> =
        (0..WORDS).map(|i| (format!("w{i}"), json!(i))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null,
        "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "w0" },
    });
    std::fs::write(model.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let texts = tempfile::tempdir().unwrap();
    let words: Vec<String> = (0..600).map(|i| format!("w{}", i * i * 31 % 61)).collect();
    std::fs::write(texts.path().join("text.txt"), words.join(" ")).unwrap();
    (model, texts)
}

fn request(algorithm: &str, zeros: bool, per_token: bool, texts: Option<&Path>) -> Quantise {
    let calibration = texts.map(|texts| Calibration {
        dataset: Some(texts.to_owned()),
        size: 8,
        max_seq_length: 48,
        seed: None,
        alpha: None,
    });
    Quantise {
        algorithm: Some(algorithm.to_owned()),
        group_size: 16,
        zeros,
        per_token,
        exclude: None,
        calibration,
    }
}

/// Formats, each with how far from the float model's logits it may lead on average and at most:
/// a little more than what was measured.
fn formats(texts: &Path) -> Vec<(&'static str, Quantise, [f64; 2])> {
    let texts = Some(texts);
    vec![
        ("int8 by row", request("W8A16", false, false, None), [0.03, 0.2]),
        ("int4 by group", request("W4A16_AWQ", false, false, None), [0.35, 0.6]),
        ("fp8 by row", request("FP8_PER_CHANNEL_PER_TOKEN", false, false, texts), [0.15, 0.3]),
        ("AWQ", request("W4A16_AWQ", false, false, texts), [0.35, 0.7]),
        ("GPTQ", request("W4A16_GPTQ", true, false, texts), [0.35, 0.6]),
        ("SmoothQuant", request("W8A8_SQ_PER_CHANNEL", false, true, texts), [0.05, 0.1]),
        ("fp8", request("FP8", false, false, texts), [0.2, 0.45]),
    ]
}

#[test]
fn every_golden_runs_in_every_format() {
    let mut sums = [(0.0, 0.0f64, 0); 7];
    for golden in goldens() {
        let (model, texts) = with_tokenizer(&golden.path);
        for (at, (name, quantise, _)) in formats(texts.path()).into_iter().enumerate() {
            let options = Options {
                model: model.path().to_owned(),
                plugin: Some(plugin(&golden.path).to_string_lossy().into_owned()),
                quantise: Some(quantise),
                ..Options::default()
            };
            let what = format!("{} in {name}", golden.path.display());
            let pipeline = Pipeline::open(&options).unwrap_or_else(|e| panic!("{what}: {e}"));
            let out = tempfile::tempdir().unwrap();
            let calibrated =
                pipeline.calibrate(out.path(), &|_| {}).unwrap_or_else(|e| panic!("{what}: {e}"));
            pipeline
                .compile(
                    BuildOptions::default(),
                    out.path(),
                    &Effort::default(),
                    calibrated.as_ref(),
                )
                .unwrap_or_else(|e| panic!("{what}: {e}"));
            let engine = Arc::new(Engine::open(out.path()).unwrap());
            let got = logits(&mut load(&engine, &LoadOptions::default()), &golden.prompts[0]);
            let apart = distance(&got, &golden.logits[0]);
            assert!(apart.is_finite(), "{what}");
            let (sum, most, count) = &mut sums[at];
            (*sum, *most, *count) = (*sum + apart, most.max(apart), *count + 1);
        }
    }
    let means = sums.iter().map(|(sum, _, count)| sum / f64::from(*count));
    let found: Vec<(f64, f64)> = means.zip(sums.iter().map(|(_, most, _)| *most)).collect();
    let all = &found;
    for ((name, _, [mean, most]), found) in formats(Path::new("")).iter().zip(&found) {
        assert!(
            found.0 < *mean && found.1 < *most,
            "{name}: {found:?}, bounds {mean}, {most}; all: {all:?}"
        );
    }
}

#[test]
fn a_checkpoint_leads_to_the_same_engine_and_back_to_itself() {
    let golden = fixtures().join("golden/llama-gqa");
    let (model, texts) = with_tokenizer(&golden);
    let (model, texts) = (text(model.path()), text(texts.path()));
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| text(&folder.path().join(name));
    for format in ["int8_wo", "int4_wo", "fp8_pc_pt", "fp8", "int8_sq", "int4_awq", "int4_gptq"] {
        let run = |args: &[&str], out: &str| works(&[args, &["--output_dir", out]].concat());
        let group: &[&str] = match format {
            "int4_awq" | "int4_gptq" => &["--group_size", "8"],
            _ => &[],
        };
        let flags = [
            "--qformat",
            format,
            "--calib_dataset",
            &texts,
            "--calib_size",
            "4",
            "--calib_max_seq_length",
            "32",
        ];
        let outs = ["checkpoint", "compiled", "built", "two", "one"]
            .map(|what| at(&format!("{format} {what}")));
        let [checkpoint, compiled, built, two, one] = &outs;
        let report =
            run(&[&["convert", "--model_dir", &model], &flags[..], group].concat(), checkpoint);
        assert!(report.contains("quantised: 15 weights of "), "{report}");
        assert!(!Path::new(checkpoint).join("calibration").exists());
        run(&[&["compile", "--model_dir", &model], &flags[..], group].concat(), compiled);
        run(&["build", "--checkpoint_dir", checkpoint], built);
        let bytes = |folder: &str, file: &str| std::fs::read(Path::new(folder).join(file)).unwrap();
        assert!(bytes(built, "rank0.engine") == bytes(compiled, "rank0.engine"), "{format}");
        run(&["convert", "--checkpoint_dir", checkpoint, "--tp_size", "2"], two);
        run(&["convert", "--checkpoint_dir", two], one);
        let file = |folder: &str| read(&Path::new(folder).join("rank0.safetensors"));
        let (first, again) = (file(checkpoint), file(one));
        assert!(first.keys().eq(again.keys()), "{format}");
        let same = |(name, tensor): (&String, &engraft_tests::weights::Tensor)| {
            tensor.bytes == again[name].bytes
        };
        assert!(first.iter().all(same), "{format}");
    }
}

/// Takes codes apart in numpy, with nothing of ours, and finds the errors that we report.
#[test]
fn numpy_finds_the_errors_that_are_reported() {
    let golden = fixtures().join("golden/llama-gqa");
    let (model, texts) = with_tokenizer(&golden);
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| text(&folder.path().join(name));
    let convert = |out: &str, flags: &[&str]| {
        let model = text(model.path());
        let args = ["convert", "--model_dir", &model, "--output_dir", out, "--dtype", "float32"];
        works(&[&args[..], flags].concat());
    };
    let plain = at("plain");
    convert(&plain, &[]);
    for flags in [
        &["--qformat", "int4_awq", "--group_size", "16"][..],
        &["--qformat", "int4_gptq", "--group_size", "16", "--zero_points"],
        &["--qformat", "fp8"],
        &["--qformat", "fp8_pc_pt"],
        &["--qformat", "int8_sq"],
    ] {
        let out = at(flags[1]);
        let texts = text(texts.path());
        convert(&out, &[flags, &["--calib_dataset", &texts, "--calib_size", "4"]].concat());
        let record = std::fs::read(Path::new(&out).join("engraft.json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        let said = &record["provenance"]["options"]["quantisation"]["weights"];
        let said = said.as_object().unwrap_or_else(|| panic!("{record}"));
        let script = fixtures().parent().unwrap().join("tools/dequantise.py");
        let python = std::process::Command::new(prepared("ENGRAFT_PYTHON"))
            .args([&text(&script), &out, &plain])
            .output()
            .unwrap();
        let found = serde_json::from_slice::<serde_json::Value>(&python.stdout);
        let found = found.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&python.stderr)));
        assert_eq!(found.as_object().unwrap().len(), 15);
        assert_eq!(said.len(), 15);
        for (weight, said) in said {
            for (what, near) in [("sqnr", 1e-3), ("max_error", 1e-5), ("cosine", 1e-6)] {
                let [said, found] =
                    [&said[what], &found[weight][what]].map(|number| number.as_f64().unwrap());
                assert!((said - found).abs() < near, "{flags:?} {weight} {what}: {said} {found}");
            }
        }
    }
}

#[test]
fn what_cannot_be_quantised_is_said() {
    let golden = fixtures().join("golden/llama-gqa");
    let folder = tempfile::tempdir().unwrap();
    let out = text(&folder.path().join("out"));
    let bare = text(&golden);
    let convert = |model: &str, flags: &[&str], exit, code: &str, words: &[&str]| {
        let args = [&["convert", "--model_dir", model, "--output_dir", &out], flags].concat();
        fails(&args, exit, code, words);
        assert!(!Path::new(&out).exists());
    };
    convert(&bare, &["--qformat", "int4_awq"], 3, "EG0756", &["tokenizer.json"]);
    convert(&bare, &["--group_size", "64"], 2, "EG0090", &["go with quantisation"]);
    convert(&bare, &["--qformat", "int4_wo", "--group_size", "7"], 2, "EG0090", &["power of two"]);
    let (model, texts) = with_tokenizer(&golden);
    let model = text(model.path());
    let empty = text(&texts.path().join("empty.txt"));
    std::fs::write(&empty, "").unwrap();
    convert(&model, &["--qformat", "fp8", "--calib_dataset", &empty], 3, "EG0950", &["empty.txt"]);
    let nowhere = text(&texts.path().join("nowhere"));
    convert(&model, &["--qformat", "fp8", "--calib_dataset", &nowhere], 3, "EG0011", &["nowhere"]);
    convert(&model, &["--smoothquant", "2"], 2, "EG0090", &["from 0 to 1"]);
}

#[test]
fn a_named_module_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let out = text(&folder.path().join("out"));
    let model = text(&golden(fixtures().join("golden/llama-gqa")).path);
    let report = works(&[
        "convert",
        "--model_dir",
        &model,
        "--output_dir",
        &out,
        "--qformat",
        "int4_wo",
        "--group_size",
        "16",
        "--exclude_modules",
        "lm_head,*.0.mlp.proj",
    ]);
    assert!(report.contains("quantised: 14 weights of W4A16_AWQ, groups of 16"), "{report}");
    let config = std::fs::read_to_string(Path::new(&out).join("config.json")).unwrap();
    assert!(config.contains("\"*.0.mlp.proj\""), "{config}");
    let tensors = read(&Path::new(&out).join("rank0.safetensors"));
    assert!(!tensors.contains_key("transformer.layers.0.mlp.proj.weights_scaling_factor"));
    assert!(tensors.contains_key("transformer.layers.1.mlp.proj.weights_scaling_factor"));
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
