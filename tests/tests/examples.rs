//! The plugins in C and in Python pass the same check as those in Rust, against a golden.
//!
//! `cargo xtask examples` builds them, by tools that not every machine can install; where they are
//! not built, these tests say so and look at nothing.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use engraft_tests::command::{command, stderr};
use engraft_tests::fixtures;
use serde_json::Value;
use std::path::PathBuf;

/// What an interpreter in a component is allowed beyond the defaults.
const LIMITS: &str = include_str!("../../plugins/examples/python/limits");

fn example(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("ENGRAFT_EXAMPLES").map(PathBuf::from);
    let path = folder.map(|folder| folder.join(name)).filter(|path| path.exists());
    if path.is_none() {
        eprintln!("{name} is not built, and not tested: `cargo xtask examples`");
    }
    path
}

/// The conformance run of a plugin with a golden and its reference.
fn check(plugin: &str, golden: &str, limits: &str) {
    let Some(plugin) = example(plugin) else { return };
    let golden = fixtures().join("golden").join(golden);
    let reference = golden.join("expected.safetensors");
    let [plugin, golden, reference] =
        [plugin, golden, reference].map(|path| path.to_string_lossy().into_owned());
    let model = ["--model_dir", &golden, "--reference", &reference, "--json"];
    let mut command = command(&[&["plugin", "check", &plugin], &model[..]].concat());
    command.env("ENGRAFT_PLUGIN_LIMITS", limits);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let prompts = report["parity"]["prompts"].as_array().unwrap();
    assert_eq!(prompts.len(), 3, "{report}");
    assert_eq!(
        (&report["passed"], &report["parity"]["passed"]),
        (&Value::Bool(true), &Value::Bool(true))
    );
}

#[test]
fn the_plugin_in_c_gives_the_goldens_logits() {
    check("gpt2-c.wasm", "gpt2", "");
}

#[test]
fn the_plugin_in_python_gives_the_goldens_logits() {
    check("llama-python.wasm", "llama-gqa", LIMITS.trim());
    check("llama-python.wasm", "llama-tied", LIMITS.trim());
}
