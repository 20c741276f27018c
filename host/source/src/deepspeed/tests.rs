//! Runs of two devices, of either kind, and runs of which something is missing.

use engraft_diagnostic::{Code, Diagnostic};
use engraft_ir::DType;
use tempfile::TempDir;

use crate::torch::build::{Pickle, Tensor, archive};
use crate::{Source, SourceError};

/// A vector of numbers that count up.
fn vector(key: &str, numbers: std::ops::Range<u8>) -> Tensor {
    let bytes: Vec<u8> = numbers.clone().flat_map(|i| f32::from(i).to_le_bytes()).collect();
    Tensor::new(key, DType::F32, &[numbers.len() as u64], &bytes)
}

/// The optimizer's states of a device: its vectors under a key.
fn optimizer(key: &str, vectors: &[Tensor]) -> Vec<u8> {
    let pickle = Pickle::new().raw(b"}(").text("optimizer_state_dict").raw(b"}(");
    let pickle = pickle.text("loss_scaler");
    let pickle = pickle.global("deepspeed.runtime.fp16.loss_scaler", "DynamicLossScaler");
    let pickle = pickle.raw(b")\x81}b").text(key).raw(b"](");
    let pickle = vectors.iter().fold(pickle, Pickle::view).raw(b"euu.");
    archive(&pickle.0, vectors)
}

/// The model's states: shapes of parameters, one buffer, one parameter that is another.
fn model(groups: &[&[(&str, &[u64])]]) -> Vec<u8> {
    let buffer = Tensor::new("mask", DType::U8, &[2], &[1, 0]);
    let pickle = Pickle::new().raw(b"}(").text("module").raw(b"}(").text("mask").view(&buffer);
    let pickle = pickle.raw(b"u").text("buffer_names").raw(b"](").text("mask").raw(b"e");
    let pickle = pickle.text("shared_params").raw(b"}(").text("head").text("a").raw(b"u");
    let mut pickle = pickle.text("param_shapes").raw(b"](");
    for group in groups {
        pickle = pickle.global("collections", "OrderedDict").raw(b")R(");
        for (name, shape) in *group {
            pickle = pickle.text(name).global("torch", "Size").raw(b"(");
            pickle = shape.iter().fold(pickle, |pickle, extent| pickle.number(*extent));
            pickle = pickle.raw(b"t\x85R");
        }
        pickle = pickle.raw(b"u");
    }
    archive(&pickle.raw(b"eu.").0, &[buffer])
}

fn run(files: &[(&str, Vec<u8>)]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("config.json"), "{}").unwrap();
    std::fs::write(directory.path().join("latest"), "global_step7\n").unwrap();
    std::fs::create_dir(directory.path().join("global_step7")).unwrap();
    for (name, bytes) in files {
        std::fs::write(directory.path().join("global_step7").join(name), bytes).unwrap();
    }
    directory
}

const RANKS: [&str; 2] =
    ["zero_pp_rank_0_mp_rank_00_optim_states.pt", "zero_pp_rank_1_mp_rank_00_optim_states.pt"];
const MODELS: [&str; 2] =
    ["zero_pp_rank_0_mp_rank_00_model_states.pt", "zero_pp_rank_1_mp_rank_00_model_states.pt"];
const TOGETHER: &str = "single_partition_of_fp32_groups";
const ALONE: &str = "fp32_flat_groups";

/// Two groups: `a` and `b` in one vector of twelve with padding, `c` in another of four.
fn second_stage() -> Vec<(&'static str, Vec<u8>)> {
    let groups: [&[(&str, &[u64])]; 2] =
        [&[("module.a", &[2, 4]), ("module.b", &[3])], &[("module.c", &[4])]];
    vec![
        (RANKS[0], optimizer(TOGETHER, &[vector("0", 0..6), vector("1", 20..22)])),
        (RANKS[1], optimizer(TOGETHER, &[vector("0", 6..12), vector("1", 22..24)])),
        ("mp_rank_00_model_states.pt", model(&groups)),
    ]
}

/// `a` of five elements, of which each device has three, and `b` of four; in two vectors each.
fn third_stage() -> Vec<(&'static str, Vec<u8>)> {
    let groups: [&[(&str, &[u64])]; 1] = [&[("a", &[5]), ("b", &[2, 2])]];
    vec![
        (RANKS[0], optimizer(ALONE, &[vector("0", 0..3), vector("1", 10..12)])),
        (RANKS[1], optimizer(ALONE, &[vector("0", 3..6), vector("1", 12..14)])),
        (MODELS[0], model(&groups)),
        (MODELS[1], model(&groups)),
    ]
}

fn numbers(source: &Source, name: &str) -> Vec<f32> {
    let mut out = Vec::new();
    source.read(name, 0..source.tensors()[name].shape[0], &mut out).unwrap();
    out.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
}

fn counted(range: std::ops::Range<u8>) -> Vec<f32> {
    range.map(f32::from).collect()
}

#[test]
fn vectors_over_all_devices_are_cut_into_parameters() {
    let directory = run(&second_stage());
    for path in [directory.path().to_owned(), directory.path().join("global_step7")] {
        let source = Source::open(&path).unwrap();
        assert_eq!((source.dialect(), source.files().len()), ("hugging-face", 4));
        assert_eq!(source.tensors().keys().collect::<Vec<_>>(), ["a", "b", "c", "head", "mask"]);
        assert_eq!(source.tensors()["a"].shape, [2, 4]);
        assert_eq!(numbers(&source, "a"), counted(0..8));
        assert_eq!(numbers(&source, "b"), counted(8..11));
        assert_eq!(numbers(&source, "c"), counted(20..24));
        assert_eq!(numbers(&source, "head"), counted(0..8), "a by another name");
    }
}

#[test]
fn parameters_that_are_cut_by_themselves_are_joined() {
    let directory = run(&third_stage());
    let source = Source::open(directory.path()).unwrap();
    assert_eq!(numbers(&source, "a"), counted(0..5));
    assert_eq!(numbers(&source, "b"), counted(10..14));
    assert_eq!(source.files().len(), 5);
}

#[test]
fn safetensors_beside_a_run_come_first() {
    let directory = run(&second_stage());
    let writer = engraft_files::SafetensorsWriter::create(
        &directory.path().join("model.safetensors"),
        Default::default(),
        vec![("w".to_owned(), DType::U8, vec![1])],
        1,
    )
    .unwrap();
    writer.put("w", &[1]).unwrap();
    writer.finish().unwrap();
    let source = Source::open(directory.path()).unwrap();
    assert_eq!(source.tensors().keys().collect::<Vec<_>>(), ["w"]);
}

fn refused(files: &[(&str, Vec<u8>)]) -> SourceError {
    Source::open(run(files).path()).map(drop).unwrap_err()
}

#[test]
fn a_run_that_is_not_whole_is_refused() {
    let error = refused(&second_stage()[1..]).to_string();
    assert_eq!(error, format!("1 of 2 shards are missing: {}", RANKS[0]));
    let error = refused(&second_stage()[..2]).to_string();
    assert_eq!(error, "1 of 1 shards are missing: mp_rank_00_model_states.pt");
    let error = refused(&third_stage()[..3]);
    assert!(error.location().unwrap().ends_with(MODELS[1]), "{error:?}");
    let with = |at: usize, bytes: Vec<u8>| {
        let mut files = second_stage();
        files[at].1 = bytes;
        refused(&files)
    };
    let short = optimizer(TOGETHER, &[vector("0", 0..3), vector("1", 20..22)]);
    let long = optimizer(TOGETHER, &[vector("0", 0..60), vector("1", 20..22)]);
    let groups = optimizer(TOGETHER, &[vector("0", 0..6)]);
    let other = optimizer("other", &[vector("0", 0..6)]);
    let flat = Tensor::new("0", DType::F32, &[2, 3], &[0; 24]);
    let flat = optimizer(TOGETHER, &[flat, vector("1", 20..22)]);
    let shapes: [&[(&str, &[u64])]; 2] = [&[("a", &[u64::from(u32::MAX >> 1); 4])], &[]];
    for (error, what) in [
        (with(0, short), "has not all of the parameter `module.b`"),
        (with(0, long), "has 66 weights in a group of 11"),
        (with(1, groups), "has 2 groups of parameters and 1 of weights"),
        (with(0, other), "has no weights in float32"),
        (with(1, flat), "that is no vector in float32"),
        (with(2, model(&shapes)), "has not all of the parameter `a`"),
        (with(2, archive(b"}.", &[])), "says no shapes of parameters"),
    ] {
        let what = what.replace("module.", "");
        assert!(error.to_string().contains(&what), "{what}: {error}");
        assert_eq!(error.code(), Code(140));
    }
    let mut split = second_stage();
    split.push(("mp_rank_01_model_states.pt", Vec::new()));
    assert!(refused(&split).to_string().contains("as mp_rank_01_model_states.pt shows"));
}
