//! `--dry_run` says, to the byte, what would be written, and writes nothing.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use engraft_tests::command::{fails, works};
use engraft_tests::fixtures;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Files of a directory with their lengths.
fn lengths(directory: &str) -> BTreeMap<String, u64> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|e| (e.file_name().to_string_lossy().into_owned(), e.metadata().unwrap().len()))
        .collect()
}

/// What is said of the files that would be there.
fn foretold(line: &[&str]) -> (BTreeMap<String, u64>, Value) {
    let said: Value =
        serde_json::from_str(&works(&[line, &["--dry_run", "--json"]].concat())).unwrap();
    let files = said["files"].as_array().unwrap().iter();
    let files =
        files.map(|f| (f["name"].as_str().unwrap().to_owned(), f["bytes"].as_u64().unwrap()));
    (files.collect(), said)
}

/// The line with `--dry_run`, and then without: the same files of the same lengths.
fn holds(line: &[&str], out: &str) {
    let (files, said) = foretold(line);
    assert!(!Path::new(out).exists(), "{line:?} wrote");
    works(line);
    assert_eq!(files, lengths(out), "{line:?}");
    assert_eq!(said["bytes"], files.values().sum::<u64>(), "{line:?}");
    let tensors = said["ranks"].as_array().unwrap().iter().flat_map(|r| r.as_array().unwrap());
    let sum: u64 = tensors.map(|tensor| tensor["bytes"].as_u64().unwrap()).sum();
    let weights = files.iter().filter(|(name, _)| name.starts_with("rank"));
    assert!(sum > 0 && sum <= weights.map(|(_, bytes)| bytes).sum(), "{line:?}: {sum}");
}

#[test]
fn the_foretold_files_are_those_that_are_written() {
    let golden = fixtures().join("golden");
    for name in ["llama-gqa", "opt-125m", "falcon-7b", "mixtral", "gemma", "llama-sharded"] {
        let folder = tempfile::tempdir().unwrap();
        let model = golden.join(name).to_string_lossy().into_owned();
        let below = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        let [whole, halves, built, compiled, again] =
            ["whole", "halves", "built", "compiled", "again"].map(below);
        holds(&["convert", "--model_dir", &model, "--output_dir", &whole], &whole);
        let split = ["--tp_size", "2", "--dtype", "float32"];
        let line = ["convert", "--model_dir", &model, "--output_dir", &halves];
        holds(&[&line[..], &split].concat(), &halves);
        let limits = ["--max_batch_size", "3", "--workers", "1"];
        let line = ["build", "--checkpoint_dir", &halves, "--output_dir", &built];
        holds(&[&line[..], &limits].concat(), &built);
        holds(&["compile", "--model_dir", &model, "--output_dir", &compiled], &compiled);
        let line = ["convert", "--checkpoint_dir", &halves, "--output_dir", &again];
        holds(&[&line[..], &["--pp_size", "2"]].concat(), &again);
    }
}

#[test]
fn people_are_told_in_a_page_what_would_come_of_it() {
    let golden = fixtures().join("golden/llama-gqa").to_string_lossy().into_owned();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("not/there").to_string_lossy().into_owned();
    let line = ["convert", "--model_dir", &golden, "--output_dir", &out, "--tp_size", "2"];
    let said = works(&[&line[..], &["--dry_run"]].concat());
    for words in [
        "tp 2, pp 1",
        "ranks 0-1:",
        "transformer.layers.0-2: 7 tensors",
        "attention.qkv.weight",
        "no quantisation would touch: vectors, lm_head.weight, transformer.vocab_embedding.weight",
        "rank1.safetensors",
        "memory: about",
        " free",
        "nothing was written",
    ] {
        assert!(said.contains(words), "no `{words}` in: {said}");
    }
    assert!(!folder.path().join("not").exists());
    let (_, said) = foretold(&line);
    assert_eq!(said["ranks"].as_array().unwrap().len(), 2);
    assert!(said["disk_free"].as_u64().unwrap() > 0 && said["memory"].as_u64().unwrap() > 0);
}

#[test]
fn what_cannot_be_is_an_error_in_a_dry_run_too() {
    let golden = fixtures().join("golden/llama-gqa").to_string_lossy().into_owned();
    let line = ["convert", "--model_dir", &golden, "--dry_run"];
    fails(&[&line[..], &["--tp_size", "3"]].concat(), 2, "EG0708", &["3"]);
    fails(&[&line[..], &["--max_ram", "1MB"]].concat(), 5, "EG0313", &["--max_ram"]);
}
