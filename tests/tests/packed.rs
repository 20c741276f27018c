//! AWQ and GPTQ checkpoints of HuggingFace: a golden, quantised here, against the floats that its
//! codes stand for.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use engraft_ir::DType;
use engraft_runtime::LoadOptions;
use engraft_tests::command::{fails, works};
use engraft_tests::weights::{Tensor, Tensors, noise, read, write};
use engraft_tests::{distance, engine, fixtures, golden, load, logits};
use half::f16;
use serde_json::{Value, json};
use std::path::Path;
use tempfile::TempDir;

/// How a test packs.
#[derive(Clone, Copy)]
struct Packing {
    awq: bool,
    bits: u32,
    group: usize,
    symmetric: bool,
    /// Groups are of inputs here and there.
    scattered: bool,
    /// GPTQ's second format, of zero points as they are.
    v2: bool,
}

const AWQ: Packing =
    Packing { awq: true, bits: 4, group: 32, symmetric: false, scattered: false, v2: false };
const GPTQ: Packing = Packing { awq: false, symmetric: true, ..AWQ };

impl Packing {
    fn config(self) -> Value {
        let Packing { bits, group, symmetric, scattered, .. } = self;
        if self.awq {
            return json!({
                "quant_method": "awq", "bits": bits, "group_size": group, "zero_point": true,
                "version": "gemm", "modules_to_not_convert": null,
            });
        }
        let format = if self.v2 { "gptq_v2" } else { "gptq" };
        json!({
            "quant_method": "gptq", "bits": bits, "group_size": group, "sym": symmetric,
            "desc_act": scattered, "checkpoint_format": format, "damp_percent": 0.01,
        })
    }

    /// The group of each input.
    fn order(self, inputs: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..inputs).map(|i| (i / self.group) as u32).collect();
        if self.scattered {
            let keys = noise(inputs as u64, inputs);
            let mut by_key: Vec<usize> = (0..inputs).collect();
            by_key.sort_by(|a, b| keys[*a].total_cmp(&keys[*b]));
            for (place, input) in by_key.into_iter().enumerate() {
                order[input] = (place / self.group) as u32;
            }
        }
        order
    }

    /// Codes `[in, out]`, zero points and scales `[groups, out]` of a weight `[out, in]`, to the
    /// nearest; and what they stand for.
    fn quantised(self, weight: &Tensor) -> Quantised {
        let (outputs, inputs) = (weight.shape[0], weight.shape[1]);
        let order = self.order(inputs);
        let groups = inputs.div_ceil(self.group);
        let values = weight.values();
        let top = ((1u32 << self.bits) - 1) as f32;
        let mut all = Quantised {
            codes: vec![0; inputs * outputs],
            zeros: vec![0; groups * outputs],
            scales: vec![0.0; groups * outputs],
            floats: vec![0.0; inputs * outputs],
            order,
        };
        for o in 0..outputs {
            for g in 0..groups {
                let of = |i: &usize| all.order[*i] as usize == g;
                let members: Vec<usize> = (0..inputs).filter(of).collect();
                let value = |i: &usize| values[o * inputs + i];
                let (low, high) = members
                    .iter()
                    .map(value)
                    .fold((0.0f32, 0.0f32), |(l, h), x| (l.min(x), h.max(x)));
                let reach = high.max(-low).max(1e-6);
                let scale =
                    if self.symmetric { 2.0 * reach / top } else { (high - low).max(1e-6) / top };
                let scale = f16::from_f32(scale).to_f32();
                let zero = if self.symmetric {
                    (top + 1.0) / 2.0
                } else {
                    (-low / scale).round().clamp(1.0, top)
                };
                all.scales[g * outputs + o] = scale;
                all.zeros[g * outputs + o] = zero as u32;
                for i in members {
                    let code = (values[o * inputs + i] / scale + zero).round().clamp(0.0, top);
                    all.codes[i * outputs + o] = code as u32;
                    all.floats[o * inputs + i] = scale * (code - zero);
                }
            }
        }
        all
    }

    /// Fields of `[rows, columns]` in words along the columns, as far apart as `place` says.
    fn along_columns(self, fields: &[u32], columns: usize, less: u32, place: &[u32]) -> Vec<u32> {
        let per = (32 / self.bits) as usize;
        let mask = u32::MAX >> (32 - self.bits);
        let word = |fields: &[u32]| {
            let shifted =
                |(i, field): (usize, &u32)| ((field - less) & mask) << (place[i] * self.bits);
            fields.iter().enumerate().map(shifted).fold(0, |a, b| a | b)
        };
        fields.chunks(columns).flat_map(|row| row.chunks(per)).map(word).collect()
    }

    /// The tensors that stand for a layer.
    fn tensors(self, layer: &str, shape: &[usize], of: &Quantised) -> Tensors {
        let (outputs, inputs) = (shape[0], shape[1]);
        let per = (32 / self.bits) as usize;
        let groups = inputs.div_ceil(self.group);
        let straight: Vec<u32> = (0..per as u32).collect();
        let (place, less) = match self.awq {
            true => (vec![0, 4, 1, 5, 2, 6, 3, 7], 0),
            false => (straight.clone(), u32::from(!self.v2)),
        };
        let zeros = self.along_columns(&of.zeros, outputs, less, &place);
        let (codes, code_shape) = if self.awq {
            (self.along_columns(&of.codes, outputs, 0, &place), [inputs, outputs / per])
        } else {
            let turned: Vec<u32> = (0..outputs)
                .flat_map(|o| (0..inputs).map(move |i| of.codes[i * outputs + o]))
                .collect();
            let words = self.along_columns(&turned, inputs, 0, &straight);
            let rows = inputs / per;
            let back = (0..rows).flat_map(|r| (0..outputs).map(move |o| (o, r)));
            (back.map(|(o, r)| words[o * rows + r]).collect(), [rows, outputs])
        };
        let mut tensors = Tensors::from([
            (format!("{layer}.qweight"), Tensor::integers(&code_shape, &codes)),
            (format!("{layer}.qzeros"), Tensor::integers(&[groups, outputs / per], &zeros)),
            (format!("{layer}.scales"), Tensor::halves(&[groups, outputs], &of.scales)),
        ]);
        if !self.awq {
            tensors.insert(format!("{layer}.g_idx"), Tensor::integers(&[inputs], &of.order));
        }
        tensors
    }
}

struct Quantised {
    codes: Vec<u32>,
    zeros: Vec<u32>,
    scales: Vec<f32>,
    floats: Vec<f32>,
    order: Vec<u32>,
}

/// A golden with its layers packed, and the same with what they stand for.
fn packed(golden: &Path, packing: Packing) -> (TempDir, TempDir) {
    let mut packed = read(&golden.join("model.safetensors"));
    let mut floats = packed.clone();
    let layers: Vec<String> = packed
        .keys()
        .filter_map(|name| name.strip_suffix("_proj.weight").map(|stem| format!("{stem}_proj")))
        .collect();
    for layer in &layers {
        let weight = packed.remove(&format!("{layer}.weight")).unwrap();
        let quantised = packing.quantised(&weight);
        packed.append(&mut packing.tensors(layer, &weight.shape, &quantised));
        let float = Tensor::floats(&weight.shape, &quantised.floats);
        floats.insert(format!("{layer}.weight"), float);
    }
    let folder = |tensors: &Tensors, section: Option<Value>| {
        let folder = tempfile::tempdir().unwrap();
        let text = std::fs::read(golden.join("config.json")).unwrap();
        let mut config: Value = serde_json::from_slice(&text).unwrap();
        if let Some(section) = section {
            config["quantization_config"] = section;
        }
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        write(&folder.path().join("model.safetensors"), tensors);
        folder
    };
    (folder(&packed, Some(packing.config())), folder(&floats, None))
}

#[test]
fn every_packing_has_the_logits_of_what_it_stands_for() {
    let golden = golden(fixtures().join("golden/llama-gqa"));
    for (name, packing, near) in [
        ("awq", AWQ, 0.5),
        ("gptq", GPTQ, 0.5),
        ("gptq with zero points", Packing { symmetric: false, v2: true, ..GPTQ }, 0.5),
        ("gptq by activations", Packing { scattered: true, ..GPTQ }, 0.5),
        ("gptq of 8 bits", Packing { bits: 8, scattered: true, symmetric: false, ..GPTQ }, 0.05),
    ] {
        let (packed, floats) = packed(&golden.path, packing);
        let logits = |model: &Path| -> Vec<f32> {
            let engine = engine(model, Some(DType::F32));
            logits(&mut load(&engine, &LoadOptions::default()), &golden.prompts[0])
        };
        let got = logits(packed.path());
        assert!(got == logits(floats.path()), "{name}");
        let apart = distance(&got, &golden.logits[0]);
        assert!(apart > 0.0 && apart < near, "{name}: {apart} of the float model");
    }
}

#[test]
fn codes_are_taken_over_as_they_are() {
    let golden = fixtures().join("golden/llama-gqa");
    let folder = tempfile::tempdir().unwrap();
    for (name, packing, scheme) in [
        ("awq", Packing { group: 8, ..AWQ }, "W4A16_GPTQ, groups of 8, with zero points"),
        ("gptq", Packing { group: 8, ..GPTQ }, "W4A16_AWQ, groups of 8"),
        (
            "by activations",
            Packing { scattered: true, group: 8, ..GPTQ },
            "W4A16_GPTQ, groups of 8, in the order of activations",
        ),
        (
            "8 bits",
            Packing { bits: 8, symmetric: false, group: 8, ..GPTQ },
            "W8A16_GPTQ, groups of 8, with",
        ),
    ] {
        let (packed, _floats) = packed(&golden, packing);
        let at = |what: &str| text(&folder.path().join(format!("{name} {what}")));
        let run = |args: &[&str], out: &str| works(&[args, &["--output_dir", out]].concat());
        let (model, checkpoint) = (text(packed.path()), at("checkpoint"));
        let report = run(&["convert", "--model_dir", &model], &checkpoint);
        assert!(report.contains(&format!("quantised: 15 weights of {scheme}")), "{report}");
        assert!(report.contains(", from 21 weights of "), "{report}");

        // The first matrix is three of the source's, one below the other.
        let tensors = read(&Path::new(&checkpoint).join("rank0.safetensors"));
        let source = read(&golden.join("model.safetensors"));
        let mut scales = Vec::new();
        let mut codes = Vec::new();
        for part in ["q", "k", "v"] {
            let weight = &source[&format!("model.layers.0.self_attn.{part}_proj.weight")];
            let quantised = packing.quantised(weight);
            let (outputs, inputs) = (weight.shape[0], weight.shape[1]);
            let half = if packing.bits == 4 { 8 } else { 128 };
            for o in 0..outputs {
                let code = |i: usize| quantised.codes[i * outputs + o] as i32 - half;
                codes.extend((0..inputs).map(code));
                let scale = |g: usize| quantised.scales[g * outputs + o];
                scales.extend((0..inputs / packing.group).map(scale));
            }
        }
        let qkv = |last: &str| &tensors[&format!("transformer.layers.0.attention.qkv.{last}")];
        assert_eq!(qkv("weights_scaling_factor").values(), scales, "{name}");
        let bytes = &qkv("weight").bytes;
        let inputs = qkv("weight").shape[1];
        let found = |at: usize| match packing.bits {
            4 => {
                let (row, column) = (at / inputs, at % inputs);
                let byte = bytes[row / 2 * inputs + column] as i8;
                i32::from(if row % 2 == 0 { byte << 4 >> 4 } else { byte >> 4 })
            }
            _ => i32::from(bytes[at] as i8),
        };
        assert!((0..codes.len()).all(|at| found(at) == codes[at]), "{name}");

        // Whether by way of a checkpoint, of other ranks and back, or not: the same engine.
        let (built, compiled) = (at("built"), at("compiled"));
        run(&["build", "--checkpoint_dir", &checkpoint], &built);
        run(&["compile", "--model_dir", &model], &compiled);
        let (two, one) = (at("two"), at("one"));
        run(&["convert", "--checkpoint_dir", &checkpoint, "--tp_size", "2"], &two);
        run(&["convert", "--checkpoint_dir", &two], &one);
        let bytes = |folder: &str, file: &str| std::fs::read(Path::new(folder).join(file)).unwrap();
        assert!(bytes(&built, "rank0.engine") == bytes(&compiled, "rank0.engine"), "{name}");
        let (first, again) = (
            read(&Path::new(&checkpoint).join("rank0.safetensors")),
            read(&Path::new(&one).join("rank0.safetensors")),
        );
        assert!(first.keys().eq(again.keys()));
        assert!(first.iter().all(|(name, tensor)| tensor.bytes == again[name].bytes), "{name}");
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[test]
fn the_command_says_what_it_unpacks() {
    let golden = fixtures().join("golden/llama-gqa");
    let (packed, _floats) = packed(&golden, Packing { scattered: true, ..GPTQ });
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out").to_string_lossy().into_owned();
    let model = packed.path().to_string_lossy().into_owned();
    let report = works(&["convert", "--model_dir", &model, "--output_dir", &out]);
    let before = "from 21 weights of GPTQ 4 bits, groups of 32\n";
    assert!(report.contains(before), "{report}");
    let floats = works(&[
        "convert",
        "--model_dir",
        &model,
        "--output_dir",
        &out,
        "--force",
        "--qformat",
        "full_prec",
    ]);
    assert!(floats.contains(&before.replace("from", "de-quantised:")), "{floats}");
    assert!(!report.contains("quantization_config"), "{report}");
    assert!(works(&["inspect", &model]).contains("GPTQ 4 bits, groups of 32"));

    // A weight that is lost is told before anything is written.
    let path = packed.path().join("model.safetensors");
    let mut tensors = read(&path);
    tensors.remove("model.layers.1.mlp.up_proj.scales");
    write(&path, &tensors);
    let args = ["convert", "--model_dir", &model, "--output_dir", &out, "--force"];
    fails(&args, 3, "EG0181", &["`model.layers.1.mlp.up_proj`: it has no scales"]);
}
