//! Checkpoints of TensorRT-LLM's form whose weights are W4A16_AWQ, as ModelOpt exports them: one is
//! made here of a golden's, and held against the floats that it stands for.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use engraft_engine::Engine;
use engraft_runtime::{LoadOptions, Model};
use engraft_tests::command::{fails, works};
use engraft_tests::weights::{Tensor, Tensors, noise, read, write};
use engraft_tests::{distance, fixtures, golden, logits};
use half::f16;
use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

const GROUP: usize = 16;
const QUANTISED: [&str; 5] = ["qkv", "dense", "fc", "gate", "proj"];

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A golden's checkpoint for so many ranks, in F16.
fn checkpoint(at: &Path, ranks: usize) {
    let model = text(&fixtures().join("golden/llama-gqa"));
    let (at, ranks) = (text(at), ranks.to_string());
    let options = ["--dtype", "float16", "--tp_size", &ranks];
    works(&[&["convert", "--model_dir", &model, "--output_dir", &at], &options[..]].concat());
}

/// The tensors of a layer's weight in codes, and the weight that they stand for. Inputs of this
/// rank begin at `first`.
fn quantised(module: &str, weight: &Tensor, first: usize) -> (Tensors, Tensor) {
    let &[outputs, inputs] = weight.shape.as_slice() else { panic!("{:?}", weight.shape) };
    let values = weight.values();
    let factors: Vec<f32> = noise(module.len() as u64, first + inputs)[first..]
        .iter()
        .map(|x| f16::from_f32(1.0 + x / 2.0).to_f32())
        .collect();
    let mut codes = vec![0i8; outputs * inputs];
    let mut scales = Vec::new();
    let mut floats = Vec::new();
    for (row, values) in values.chunks(inputs).enumerate() {
        for (group, values) in values.chunks(GROUP).enumerate() {
            let factors = &factors[group * GROUP..];
            let scaled: Vec<f32> = values.iter().zip(factors).map(|(w, f)| w / f).collect();
            let scale = scaled.iter().fold(0.0f32, |top, w| top.max(w.abs())) / 7.0;
            scales.push(scale);
            for (i, value) in scaled.iter().enumerate() {
                let code = (value / scale).round_ties_even().clamp(-8.0, 7.0);
                codes[row * inputs + group * GROUP + i] = code as i8;
                // A zero of codes has no sign.
                floats.push(f32::from(code as i8) * scale * factors[i]);
            }
        }
    }
    let bytes = (0..outputs / 2 * inputs).map(|at| {
        let (pair, column) = (at / inputs, at % inputs);
        let code = |row: usize| (codes[row * inputs + column] & 15) as u8;
        code(2 * pair) | code(2 * pair + 1) << 4
    });
    let packed =
        Tensor { dtype: Dtype::I8, shape: vec![outputs / 2, inputs], bytes: bytes.collect() };
    let tensors = Tensors::from([
        (format!("{module}.weight"), packed),
        (
            format!("{module}.weights_scaling_factor"),
            Tensor::floats(&[outputs, inputs / GROUP], &scales),
        ),
        (format!("{module}.prequant_scaling_factor"), Tensor::halves(&[inputs], &factors)),
    ]);
    (tensors, Tensor::floats(&[outputs, inputs], &floats))
}

/// The checkpoint of so many ranks quantised, and the one of what that stands for.
fn both(folder: &Path, ranks: usize) -> (PathBuf, PathBuf) {
    let (codes, floats) =
        (folder.join(format!("codes{ranks}")), folder.join(format!("floats{ranks}")));
    for at in [&codes, &floats] {
        checkpoint(at, ranks);
        std::fs::remove_file(at.join("engraft.json")).unwrap();
    }
    for rank in 0..ranks {
        let name = format!("rank{rank}.safetensors");
        let all = read(&codes.join(&name));
        let (mut packed, mut plain) = (all.clone(), all.clone());
        for (name, weight) in &all {
            let Some(module) = name.strip_suffix(".weight") else { continue };
            if !QUANTISED.iter().any(|last| module.ends_with(&format!(".{last}"))) {
                continue;
            }
            // Of these two, ranks share the inputs.
            let cut = module.ends_with(".dense") || module.ends_with(".proj");
            let first = if cut { rank * weight.shape[1] } else { 0 };
            let (mut tensors, float) = quantised(module, weight, first);
            packed.append(&mut tensors);
            plain.insert(name.clone(), float);
        }
        write(&codes.join(&name), &packed);
        write(&floats.join(&name), &plain);
    }
    set(
        &codes,
        &json!({
            "quant_algo": "W4A16_AWQ", "kv_cache_quant_algo": null, "group_size": GROUP,
            "has_zero_point": false, "pre_quant_scale": true, "exclude_modules": ["lm_head"],
        }),
    );
    (codes, floats)
}

/// Writes what a checkpoint's config says of quantisation.
fn set(checkpoint: &Path, quantization: &Value) {
    let path = checkpoint.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["quantization"] = quantization.clone();
    std::fs::write(&path, config.to_string()).unwrap();
}

fn same(one: &Path, other: &Path) {
    let (one, other) = (read(one), read(other));
    assert!(one.keys().eq(other.keys()), "{:?} {:?}", one.keys(), other.keys());
    for (name, tensor) in &one {
        let other = &other[name];
        assert_eq!((tensor.dtype, &tensor.shape), (other.dtype, &other.shape), "{name}");
        assert!(tensor.bytes == other.bytes, "{name}");
    }
}

#[test]
fn an_engine_of_codes_has_the_logits_of_what_they_stand_for() {
    let folder = tempfile::tempdir().unwrap();
    let golden = golden(fixtures().join("golden/llama-gqa"));
    let engines = [1, 2].map(|ranks| {
        let (codes, floats) = both(folder.path(), ranks);
        [codes, floats].map(|checkpoint| {
            let out = checkpoint.with_extension("engine");
            let args = ["--checkpoint_dir", &text(&checkpoint), "--output_dir", &text(&out)];
            let report = works(&[&["build"], &args[..]].concat());
            let says = report.contains("quantised: 15 weights of W4A16_AWQ, groups of 16\n");
            assert_eq!(says, text(&checkpoint).contains("codes"), "{report}");
            let engines = Engine::open_all(&out).unwrap().into_iter().map(Arc::new).collect();
            let mut model = Model::load_in_process(engines, &LoadOptions::default()).unwrap();
            logits(&mut model, &golden.prompts[0])
        })
    });
    // Inputs are multiplied by their scales first, and not weights: another rounding.
    for [codes, floats] in &engines {
        let apart = distance(codes, floats);
        assert!(apart > 0.0 && apart < 2e-6, "{apart}");
    }
    assert!(distance(&engines[0][0], &engines[1][0]) < 1e-5);
}

#[test]
fn codes_go_to_other_ranks_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let (one, _) = both(folder.path(), 1);
    let (two, _) = both(folder.path(), 2);
    for (from, to, ranks) in [(&one, &two, 2), (&two, &one, 1)] {
        let out = folder.path().join(format!("spread{ranks}"));
        let args = ["--checkpoint_dir", &text(from), "--output_dir", &text(&out)];
        works(&[&["convert", "--tp_size", &ranks.to_string()], &args[..]].concat());
        for rank in 0..ranks {
            let file = format!("rank{rank}.safetensors");
            same(&out.join(&file), &to.join(&file));
        }
        let config = std::fs::read_to_string(out.join("config.json")).unwrap();
        assert!(config.contains("W4A16_AWQ"));
    }
}

#[test]
fn codes_without_their_scales_are_turned_down() {
    let folder: TempDir = tempfile::tempdir().unwrap();
    let (codes, _) = both(folder.path(), 1);
    let out = text(&folder.path().join("engine"));
    let at = text(&codes);
    let build = ["build", "--checkpoint_dir", &at, "--output_dir", &out];
    let awq = |group: usize, zero: bool| {
        set(
            &codes,
            &json!({
                "quant_algo": "W4A16_AWQ", "group_size": group, "has_zero_point": zero,
                "pre_quant_scale": true,
            }),
        );
    };
    awq(GROUP, true);
    fails(&build, 3, "EG0411", &["transformer.layers.0.attention.qkv.weights_zero_point"]);
    awq(8, false);
    fails(&build, 3, "EG0856", &["groups of 16 inputs", "the config says 8"]);
    awq(GROUP, false);
    let file = codes.join("rank0.safetensors");
    let mut tensors = read(&file);
    tensors.remove("transformer.layers.0.mlp.fc.prequant_scaling_factor");
    write(&file, &tensors);
    fails(&build, 3, "EG0411", &["transformer.layers.0.mlp.fc.prequant_scaling_factor"]);
    assert!(!Path::new(&out).exists());
}
