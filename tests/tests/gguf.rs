//! GGUF files of the goldens, as converters write them, of every family that plugins read there:
//! `tests/tools/write_ggufs.py` makes them, `cargo xtask test` runs it.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use engraft_ir::DType;
use engraft_runtime::{LoadOptions, evaluate};
use engraft_tests::{
    Golden, copied, distance, engine, fixtures, golden, greedy, load, pipeline, prepared,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What GGUF does not say of a golden: its config as far as a file of it goes.
fn unsaid(golden: &str) -> Option<Value> {
    Some(match golden {
        // No key for the divisor of scores; it goes by how large the model is.
        "gemma2" | "gemma3" => json!({"query_pre_attn_scalar": 16}),
        // Converters write no rotary base.
        "gpt-neox-sequential" => json!({"rope_theta": 1e4, "rotary_emb_base": 1e4}),
        // Nor windows of these two.
        "qwen2-swa" => json!({"use_sliding_window": false, "layer_types": null}),
        "starcoder2" => json!({"sliding_window": null}),
        _ => return None,
    })
}

/// Every file of a type, with its golden.
fn files(kind: &str) -> Vec<(String, PathBuf, Golden)> {
    let folder = prepared("ENGRAFT_GOLDEN_GGUFS");
    let mut found: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name()?.to_str()?.strip_suffix(&format!(".{kind}.gguf"))?;
            let golden = golden(fixtures().join("golden").join(name));
            Some((name.to_owned(), path.clone(), golden))
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// The golden's directory, with a config that says as much as a GGUF file of it.
fn as_far_as_said(name: &str, golden: &Path) -> tempfile::TempDir {
    let folder = copied(golden);
    if let Some(changes) = unsaid(name) {
        let path = folder.path().join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        std::fs::write(&path, config.to_string()).unwrap();
    }
    folder
}

fn logits(model: &Path, dtype: Option<DType>, prompts: &[Vec<u32>]) -> Vec<Vec<f32>> {
    let mut model = load(&engine(model, dtype), &LoadOptions::default());
    evaluate::logits(&mut model, prompts).unwrap()
}

#[test]
fn every_family_is_among_them() {
    let architecture = |path: &Path| pipeline(path, None).source().architectures().remove(0);
    let found: BTreeSet<String> = files("F32").iter().map(|(_, p, _)| architecture(p)).collect();
    let families = "bloom falcon gemma gemma2 gemma3 gpt2 gptneox llama mpt phi2 phi3 qwen2 qwen3 \
                    stablelm starcoder2";
    let wanted = families.split(' ').map(|family| format!("gguf:{family}")).collect();
    assert_eq!(found, wanted);
}

/// Goldens whose rotary frequencies a file stores in F32, where a config has a formula.
const STORED: [&str; 2] = ["llama-rope3", "phi3-longrope"];

#[test]
fn files_in_f32_give_the_bits_of_the_directories_that_they_are_made_of() {
    for (name, path, golden) in files("F32").into_iter().filter(|f| !STORED.contains(&&*f.0)) {
        let directory = as_far_as_said(&name, &golden.path);
        let from_gguf = logits(&path, Some(DType::F32), &golden.prompts);
        let from_hf = logits(directory.path(), Some(DType::F32), &golden.prompts);
        assert!(from_gguf == from_hf, "{name}: not the same bits");
    }
}

#[test]
fn files_in_f32_give_huggingfaces_logits_and_continuations() {
    for (name, path, golden) in files("F32").into_iter().filter(|f| unsaid(&f.0).is_none()) {
        let mut model = load(&engine(&path, Some(DType::F32)), &LoadOptions::default());
        let got = evaluate::logits(&mut model, &golden.prompts).unwrap();
        for (k, (got, want)) in got.iter().zip(&golden.logits).enumerate() {
            let apart = distance(got, want);
            assert!(apart <= 1e-4, "{name} prompt {k}: relative L2 {apart:.2e}");
        }
        assert!(greedy(&mut model, &golden.prompts, 16) == golden.greedy, "{name}");
    }
}

/// F16 loses nothing that matters of goldens in bfloat16 and F16. What it costs the others, and
/// what the eight bits of Q8_0 cost, is measured; the bound is that rounded up.
#[test]
fn rounded_files_cost_what_their_rounding_costs() {
    for (kind, bound) in [("F16", 2e-3), ("Q8_0", 5e-2)] {
        for (name, path, golden) in files(kind) {
            let directory = as_far_as_said(&name, &golden.path);
            let whole =
                kind == "F16" && pipeline(&golden.path, None).source().dtype() != DType::F32;
            let bound = if whole { 1e-4 } else { bound };
            let from_gguf = logits(&path, Some(DType::F32), &golden.prompts);
            let from_hf = logits(directory.path(), Some(DType::F32), &golden.prompts);
            for (k, (got, want)) in from_gguf.iter().zip(&from_hf).enumerate() {
                let apart = distance(got, want);
                println!("{name} {kind} prompt {k}: {apart:.2e}");
                assert!(apart <= bound, "{name} {kind} prompt {k}: relative L2 {apart:.2e}");
            }
        }
    }
}

#[test]
fn no_key_of_any_file_is_left_unread() {
    for (name, path, _) in files("F16") {
        let pipeline = pipeline(&path, None);
        assert!(pipeline.unread().is_empty(), "{name}: {:?}", pipeline.unread());
    }
}
