//! What the command does, as a person uses it.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use engraft_tests::command::{command, compiled, fails, works};
use engraft_tests::{fixtures, llama, prepared};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::Duration;

#[test]
fn dashes_and_underscores_are_the_same_and_plugins_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixtures().join("golden/llama-tied").to_string_lossy().into_owned();
    let one = folder.path().join("one").to_string_lossy().into_owned();
    let two = folder.path().join("two").to_string_lossy().into_owned();
    works(&["compile", "--model-dir", &model, "--output-dir", &one, "--plugin", "llama"]);
    works(&["compile", "--model_dir", &model, "--output_dir", &two]);
    let bytes = |dir: &str| fs::read(Path::new(dir).join("rank0.engine")).unwrap();
    assert!(bytes(&one) == bytes(&two));
    assert!(works(&["plugin", "list"]).contains("LlamaForCausalLM"));
    let listed: Value = serde_json::from_str(&works(&["plugin", "list", "--json"])).unwrap();
    assert!(listed.as_array().unwrap().iter().any(|plugin| plugin["name"] == "llama"));
}

#[test]
fn every_kind_of_path_is_inspected() {
    let (folder, engine) = compiled("llama-rope3");
    let model = fixtures().join("golden/llama-rope3").to_string_lossy().into_owned();
    let checkpoint = folder.path().join("checkpoint").to_string_lossy().into_owned();
    works(&["convert", "--model_dir", &model, "--output_dir", &checkpoint]);
    works(&["verify", &checkpoint]);
    let plugin = llama().to_string_lossy().into_owned();
    for (path, kind) in
        [(&engine, "engine"), (&model, "model"), (&checkpoint, "checkpoint"), (&plugin, "plugin")]
    {
        assert!(works(&["inspect", path]).contains(&format!("{kind}\n")));
        let json: Value = serde_json::from_str(&works(&["inspect", path, "--json"])).unwrap();
        assert_eq!(json["kind"], kind);
        if kind != "plugin" {
            let graph = works(&["inspect", path, "--graph"]);
            assert!(graph.starts_with("graph 1\n") && graph.contains("scaling=llama3"), "{graph}");
        }
    }
    let report = works(&["plugin", "check", "llama", "--model_dir", &model]);
    for word in ["determinism", "budgets", "graph", "parameters"] {
        assert!(report.contains(word), "{report}");
    }
}

#[test]
fn a_real_model_talks() {
    let folder = tempfile::tempdir().unwrap();
    let engine = folder.path().join("engine").to_string_lossy().into_owned();
    let model = prepared("ENGRAFT_SMOLLM2_GGUF").to_string_lossy().into_owned();
    works(&["compile", "--plugin", "llama.wasm", "--model_dir", &model, "--output_dir", &engine]);
    let run = |more: &[&str]| {
        let args = ["run", "--engine_dir", &engine, "--max_output_len", "24"];
        works(&[&args, more].concat())
    };
    let capital = ["--input_text", "The capital of France is"];
    assert!(run(&capital).starts_with(" Paris."));
    assert!(run(&[&capital[..], &["--stop", "Paris"]].concat()).trim().is_empty());
    let streamed = run(&[&capital[..], &["--streaming"]].concat());
    assert_eq!(streamed, run(&capital));
    let question = ["--chat", "--input_text", "What is the capital of France?"];
    assert!(run(&question).contains("Paris"));

    let prompts = folder.path().join("prompts.txt");
    fs::write(&prompts, "The capital of France is\n\nOnce upon a time\n").unwrap();
    let file = prompts.to_string_lossy().into_owned();
    let json: Value = serde_json::from_str(&run(&["--input_file", &file, "--json"])).unwrap();
    assert_eq!(json["answers"].as_array().unwrap().len(), 2);
    assert!(json["answers"][0]["text"].as_str().unwrap().starts_with(" Paris."));

    let warm = ["--temperature", "1.2", "--top_k", "50", "--top_p", "0.95", "--min_p", "0.01"];
    let warm = [&capital[..], &warm, &["--repetition_penalty", "1.1"]].concat();
    let seeded = |seed: &str| run(&[&warm[..], &["--seed", seed]].concat());
    assert_eq!(seeded("7"), seeded("7"));
    assert_ne!(seeded("7"), seeded("8"));

    let text = fixtures().join("alice.txt").to_string_lossy().into_owned();
    let report = works(&[
        "evaluate",
        "perplexity",
        "--engine_dir",
        &engine,
        "--input_file",
        &text,
        "--window",
        "512",
        "--stride",
        "256",
        "--max_tokens",
        "2048",
    ]);
    assert!(report.starts_with("perplexity 20.91"), "{report}");
    assert!(
        report.contains("window 512, stride 256") && report.contains("2047 scored"),
        "{report}"
    );
}

#[test]
fn logits_are_written_for_every_prompt() {
    let (folder, engine) = compiled("llama-gqa");
    let golden = fixtures().join("golden/llama-gqa/expected.safetensors");
    let bytes = fs::read(golden).unwrap();
    let all = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let prompts: Vec<_> = (0..3).map(|k| format!("prompt_{k}")).collect();
    let input = folder.path().join("prompts.safetensors");
    let views = prompts.iter().map(|name| (name, all.tensor(name).unwrap()));
    safetensors::serialize_to_file(views, None, &input).unwrap();
    let output = folder.path().join("logits.safetensors");
    let (input, out) = (input.to_string_lossy(), output.to_string_lossy());
    let args = ["evaluate", "logits", "--engine_dir", &engine, "--input", &input, "--output", &out];
    works(&args);
    fails(&args, 2, "EG0021", &["--force"]);
    let bytes = fs::read(&output).unwrap();
    let got = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for (k, name) in prompts.iter().enumerate() {
        let want = all.tensor(&format!("logits_{k}")).unwrap();
        let got = got.tensor(name).unwrap();
        assert_eq!(got.shape(), want.shape());
        let floats = |t: &safetensors::tensor::TensorView| engraft_tests::floats(t.data());
        assert!(engraft_tests::distance(&floats(&got), &floats(&want)) < 1e-4);
    }
}

/// The most memory that a command takes while it runs, in bytes.
fn peak(args: &[&str]) -> u64 {
    let mut child = command(args).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|l| l.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0) * 1024);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(child.wait().unwrap().success());
    peak
}

#[test]
fn compiling_smollm2_takes_no_more_memory_than_its_largest_tensor_twice_and_150_mib() {
    let folder = tempfile::tempdir().unwrap();
    let model = prepared("ENGRAFT_SMOLLM2_HF_F16").to_string_lossy().into_owned();
    let largest = 49152 * 576 * 2;
    for what in ["compile", "convert"] {
        let out = folder.path().join(what).to_string_lossy().into_owned();
        let peak = peak(&[what, "--model_dir", &model, "--output_dir", &out]);
        println!("{what}: {} MiB", peak >> 20);
        assert!(peak > 1 << 20, "it was measured");
        assert!(peak <= 2 * largest + (150 << 20), "{what} took {} MiB", peak >> 20);
    }
}
