//! `engraft diff`: what is equal, and what differs, by name.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use engraft_tests::command::{engraft, fails, stderr, stdout, works};
use engraft_tests::{copied, fixtures};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

const NORM: &str = "transformer.layers.0.input_layernorm.weight";

fn golden(name: &str) -> PathBuf {
    fixtures().join("golden").join(name)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A checkpoint of a model, below `folder`.
fn converted(folder: &Path, model: &Path, name: &str, more: &[&str]) -> String {
    let out = text(&folder.join(name));
    let model = text(model);
    works(&[&["convert", "--model_dir", &model, "--output_dir", &out], more].concat());
    out
}

/// Runs the command on two that differ; gives the report.
fn differ(args: &[&str]) -> String {
    let output = engraft(&[&["diff"], args].concat());
    assert_eq!(output.status.code(), Some(1), "{args:?}: {} {}", stdout(&output), stderr(&output));
    stdout(&output)
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&differ(&[args, &["--json"]].concat())).unwrap()
}

/// Adds one to the last byte but `back` of a file.
fn touch(path: &Path, back: usize) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.len() - back;
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_checkpoint_is_equal_to_itself_and_to_itself_on_other_ranks() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["llama-gqa", "llama-tied", "mixtral", "opt-125m", "falcon-40b", "gptj"] {
        let at = folder.path().join(name);
        let one = converted(&at, &golden(name), "one", &[]);
        let same = works(&["diff", &one, &one]);
        assert!(same.starts_with("equal: the config and all "), "{same}");
        for (split, flags) in [
            ("tp2", &["--tp_size", "2"][..]),
            ("pp2", &["--pp_size", "2"]),
            ("both", &["--tp_size", "2", "--pp_size", "2", "--use_parallel_embedding"]),
        ] {
            let other = converted(&at, &golden(name), split, flags);
            let report = works(&["diff", &one, &other]);
            assert!(report.contains("spread, which is no difference"), "{report}");
            assert!(report.contains("equal: the config and all "), "{report}");
            assert!(works(&["verify", &other]).contains("every digest agrees"));
            // And what is spread from the ranks is what was spread from the model.
            let again = text(&at.join("again"));
            let back = ["convert", "--checkpoint_dir", &other, "--output_dir", &again, "--force"];
            works(&[&back[..], &["--tp_size", "2"]].concat());
            let straight = fs::read(Path::new(&again).join("rank1.safetensors")).unwrap();
            let direct = fs::read(at.join("tp2/rank1.safetensors")).unwrap();
            assert!(straight == direct, "{name}: {split} spread again");
        }
    }
}

#[test]
fn every_kind_of_difference_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let model = golden("llama-f16");
    let one = converted(folder.path(), &model, "one", &[]);
    let copy = copied(Path::new(&one));
    let two = text(copy.path());
    let config = copy.path().join("config.json");
    let mut said: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    let base = said["rotary_base"].clone();
    said["rotary_base"] = 12345.0.into();
    fs::write(&config, said.to_string()).unwrap();
    touch(&copy.path().join("rank0.safetensors"), 2);
    let report = differ(&[&one, &two]);
    assert!(report.contains(&format!("config:\n  rotary_base: {base} -> 12345.0\n")), "{report}");
    assert!(report.contains("tensors that differ:\n  lm_head.weight  max "), "{report}");
    assert!(report.contains(", 1 of "), "{report}");
    let found = json(&[&one, &two]);
    assert_eq!(found["equal"], false);
    assert_eq!(found["tensors"].as_array().unwrap().len(), 1);
    assert_eq!(found["tensors"][0]["different"], 1);

    let half = converted(folder.path(), &model, "half", &["--dtype", "bfloat16"]);
    let report = differ(&[&one, &half]);
    assert!(report.contains("dtype: \"float16\" -> \"bfloat16\""), "{report}");
    assert!(report.contains("f16 -> bf16"), "{report}");
    let rows = json(&[&one, &half])["tensors"].as_array().unwrap().clone();
    let relative = |row: &Value| row["relative_l2"].as_f64().unwrap();
    assert!(rows.windows(2).all(|pair| relative(&pair[0]) >= relative(&pair[1])));
    assert!(rows.iter().all(|row| relative(row) < 1e-2));

    let other = converted(folder.path(), &golden("llama-bias"), "bias", &[]);
    let report = differ(&[&one, &other, "--all"]);
    assert!(report.contains("tensors only in the second:"), "{report}");
    assert!(report.contains("transformer.layers.0.attention.qkv.bias"), "{report}");
}

#[test]
fn engines_are_compared_with_engines_and_with_checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = converted(folder.path(), &golden("llama-tied"), "checkpoint", &[]);
    let built = |name: &str, more: &[&str]| {
        let out = text(&folder.path().join(name));
        let args = ["build", "--checkpoint_dir", &checkpoint, "--output_dir", &out];
        works(&[&args[..], more].concat());
        out
    };
    let engine = built("engine", &[]);
    let report = works(&["diff", &engine, &engine]);
    assert!(report.starts_with("equal: the config, the graph and all "), "{report}");
    works(&["diff", &engine, &checkpoint]);
    works(&["diff", &checkpoint, &engine]);
    let short = built("short", &["--max_batch_size", "3"]);
    let report = differ(&[&engine, &short]);
    assert!(report.contains("build_config.max_batch_size"), "{report}");

    let other = text(&folder.path().join("other"));
    let model = text(&golden("llama-gqa"));
    works(&["compile", "--model_dir", &model, "--output_dir", &other]);
    let report = differ(&[&engine, &other]);
    assert!(report.contains("\ngraph:\n  "), "{report}");
    assert!(report.contains("more: --all lists them"), "{report}");
}

#[test]
fn ranks_that_do_not_belong_together_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let model = golden("llama-gqa");
    let one = converted(folder.path(), &model, "one", &[]);
    let two = converted(folder.path(), &model, "two", &["--tp_size", "2"]);
    let copy = copied(Path::new(&two));
    let changed = text(copy.path());
    // The last tensor of rank 1 is its share of the head.
    touch(&copy.path().join("rank1.safetensors"), 2);
    let report = differ(&[&two, &changed]);
    assert!(report.contains("rank1: lm_head.weight"), "{report}");
    let report = differ(&[&one, &changed]);
    assert!(report.contains("\n  lm_head.weight "), "{report}");
    let verified = ["verify", &changed];
    fails(&verified, 1, "EG0413", &["rank1.safetensors: `lm_head.weight`"]);

    // What both ranks have is not the same in both any more.
    let copy = copied(Path::new(&two));
    let path = copy.path().join("rank1.safetensors");
    let bytes = fs::read(&path).unwrap();
    let at = position(&bytes, NORM);
    let mut bytes = bytes;
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    let changed = text(copy.path());
    let words = [NORM, "rank0.safetensors and rank1.safetensors", "from [0] on"];
    fails(&["diff", &one, &changed], 3, "EG0319", &words);
    let out = text(&folder.path().join("out"));
    fails(&["build", "--checkpoint_dir", &changed, "--output_dir", &out], 3, "EG0319", &words);
    assert!(!Path::new(&out).exists());
    fs::remove_file(copy.path().join("rank0.safetensors")).unwrap();
    fails(&["verify", &changed], 3, "EG0415", &["rank0.safetensors"]);
}

/// The first byte of a tensor's data in a safetensors file.
fn position(bytes: &[u8], name: &str) -> usize {
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    8 + length + header[name]["data_offsets"][0].as_u64().unwrap() as usize
}

#[test]
fn what_is_neither_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let one = converted(folder.path(), &golden("llama-gqa"), "one", &[]);
    let nothing = text(&folder.path().join("nothing"));
    let output = engraft(&["diff", &one, &nothing]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let model = text(&golden("llama-gqa"));
    let output = engraft(&["diff", &one, &model]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
}
