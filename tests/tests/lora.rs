//! LoRA adapters of PEFT, merged when a model is converted.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use engraft_convert::{Options, Pipeline};
use engraft_ir::DType;
use engraft_runtime::LoadOptions;
use engraft_tests::command::{fails, works};
use engraft_tests::weights::{Tensor, Tensors, noise, read, write};
use engraft_tests::{distance, engine, engine_of, fixtures, golden, load, logits, plugin};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const RANK: usize = 4;
const ALPHA: f64 = 12.0;

fn model(name: &str) -> PathBuf {
    fixtures().join("golden").join(name)
}

/// An adapter's directory; `tensors` have names without the outer modules.
fn adapter(config: &Value, tensors: &Tensors) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut all = json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA,
        "bias": "none", "fan_in_fan_out": false, "inference_mode": true, "lora_dropout": 0.1,
        "base_model_name_or_path": "someone/a-model", "rank_pattern": {}, "alpha_pattern": {},
        "target_modules": ["q_proj"], "use_dora": false, "use_rslora": false,
    });
    all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    std::fs::write(folder.path().join("adapter_config.json"), all.to_string()).unwrap();
    let named = tensors.iter().map(|(name, t)| (format!("base_model.model.{name}"), t.clone()));
    write(&folder.path().join("adapter_model.safetensors"), &named.collect());
    folder
}

/// A random adapter for some modules of a model, and the model with it merged in `f64`.
fn merged(golden: &Path, modules: &[&str], transposed: bool) -> (TempDir, TempDir) {
    let mut dense = read(&golden.join("model.safetensors"));
    let mut tensors = Tensors::new();
    for (seed, module) in modules.iter().enumerate() {
        let name = format!("{module}.weight");
        let weight = &dense[&name];
        let shape = weight.shape.clone();
        let (outer, inner) = if transposed { (shape[1], shape[0]) } else { (shape[0], shape[1]) };
        let a = noise(2 * seed as u64 + 1, RANK * inner);
        let b: Vec<f32> =
            noise(2 * seed as u64 + 2, outer * RANK).iter().map(|x| x / 16.0).collect();
        let mut values = weight.values();
        for (at, value) in values.iter_mut().enumerate() {
            let (row, column) = (at / shape[1], at % shape[1]);
            let (o, i) = if transposed { (column, row) } else { (row, column) };
            let product = |k: usize| f64::from(b[o * RANK + k]) * f64::from(a[k * inner + i]);
            let sum: f64 = (0..RANK).map(product).sum();
            *value = (f64::from(*value) + ALPHA / RANK as f64 * sum) as f32;
        }
        dense.insert(name, Tensor::floats(&shape, &values));
        tensors.insert(format!("{module}.lora_A.weight"), Tensor::floats(&[RANK, inner], &a));
        tensors.insert(format!("{module}.lora_B.weight"), Tensor::floats(&[outer, RANK], &b));
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(golden.join("config.json"), folder.path().join("config.json")).unwrap();
    write(&folder.path().join("model.safetensors"), &dense);
    (adapter(&json!({"fan_in_fan_out": transposed}), &tensors), folder)
}

fn open(model: &Path, adapter: &Path, dtype: Option<DType>) -> Pipeline {
    let plugin = Some(plugin(model).to_string_lossy().into_owned());
    let lora = Some(adapter.to_owned());
    let options = Options { model: model.to_owned(), plugin, dtype, lora, ..Options::default() };
    Pipeline::open(&options).unwrap()
}

#[test]
fn an_adapters_logits_are_those_of_the_dense_merge() {
    let llama: Vec<String> = (0..3)
        .flat_map(|layer| {
            let of = |name: &str| format!("model.layers.{layer}.{name}");
            ["self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"].map(of)
        })
        .chain(["lm_head".to_owned()])
        .collect();
    let gpt2: Vec<String> = (0..2)
        .flat_map(|layer| {
            let of = |name: &str| format!("transformer.h.{layer}.{name}");
            ["attn.c_attn", "attn.c_proj", "mlp.c_fc"].map(of)
        })
        .collect();
    for (name, modules, transposed) in [("llama-gqa", llama, false), ("gpt2", gpt2, true)] {
        let golden = golden(model(name));
        let modules: Vec<&str> = modules.iter().map(String::as_str).collect();
        let (adapter, dense) = merged(&golden.path, &modules, transposed);
        let pipeline = open(&golden.path, adapter.path(), Some(DType::F32));
        let mut ours = load(&engine_of(&pipeline), &LoadOptions::default());
        let mut theirs = load(&engine(dense.path(), Some(DType::F32)), &LoadOptions::default());
        for (prompt, unmerged) in golden.prompts.iter().zip(&golden.logits) {
            let (ours, theirs) = (logits(&mut ours, prompt), logits(&mut theirs, prompt));
            assert!(distance(&ours, &theirs) < 1e-6, "{name}: {}", distance(&ours, &theirs));
            assert!(distance(&ours, unmerged) > 1e-3, "{name}: the adapter does nothing");
        }
        // What `auto` means is still the model's own type.
        let own = engraft_source::Source::open(&golden.path).unwrap().dtype();
        assert_eq!(open(&golden.path, adapter.path(), None).config().dtype, own);
    }
}

#[test]
fn the_command_merges_and_says_so() {
    let golden = model("llama-gqa");
    let (adapter, _dense) = merged(&golden, &["model.layers.0.self_attn.q_proj", "lm_head"], false);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (golden, lora) = (golden.to_string_lossy(), adapter.path().to_string_lossy());
    let args = ["--model_dir", &golden, "--lora_dir", &lora];
    let report = works(&[&["convert", "--output_dir", &path("checkpoint")], &args[..]].concat());
    let line = "merged LoRA: 2 modules, rank 4, scale 3.0, trained on someone/a-model\n";
    assert!(report.contains(line), "{report}");
    works(&["build", "--checkpoint_dir", &path("checkpoint"), "--output_dir", &path("built")]);
    let json =
        works(&[&["compile", "--json", "--output_dir", &path("compiled")], &args[..]].concat());
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["lora"]["modules"], 2);
    let bytes = |name: &str| std::fs::read(folder.path().join(name).join("rank0.engine")).unwrap();
    assert!(bytes("built") == bytes("compiled"));
    let shown = works(&["inspect", &path("compiled"), "--json"]);
    assert!(shown.contains("adapter_model.safetensors"), "its provenance names the adapter");
}

#[test]
fn adapters_that_do_not_fit_leave_nothing_behind() {
    let gpt2 = model("gpt2");
    let other = model("llama-gqa");
    let (adapter, _dense) = merged(&other, &["model.layers.0.self_attn.q_proj"], false);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out").to_string_lossy().into_owned();
    let (model, lora) = (gpt2.to_string_lossy(), adapter.path().to_string_lossy());
    let args = ["convert", "--model_dir", &model, "--output_dir", &out, "--lora_dir", &lora];
    fails(&args, 3, "EG0172", &["the model has no `model.layers.0.self_attn.q_proj.weight`"]);
    let empty = folder.path().to_string_lossy().into_owned();
    let args = ["convert", "--model_dir", &model, "--output_dir", &out, "--lora_dir", &empty];
    fails(&args, 3, "EG0170", &["adapter_config.json"]);
    assert!(!Path::new(&out).exists());
}
