//! Reading rows.

use engraft_diagnostic::{Diagnostic, Fault};

use super::encoding::CHUNK;
use super::*;
use crate::gguf::build::Build;

/// A block of `Q8_0` with the scale one and the weights `first`, `first + 1`, ….
fn block(first: u8) -> Vec<u8> {
    [vec![0x00, 0x3c], (first..first + 32).collect()].concat()
}

fn source(build: &Build) -> (tempfile::TempDir, Source) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    std::fs::write(&path, build.bytes()).unwrap();
    let source = Source::open(&path).unwrap();
    (directory, source)
}

fn floats(source: &Source, name: &str, rows: Range<u64>) -> Vec<f32> {
    let mut bytes = Vec::new();
    source.read(name, rows, &mut bytes).unwrap();
    bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
}

#[test]
fn rows_of_blocks_come_out_as_float32() {
    let bytes = [block(0), block(32), block(64)].concat();
    let (_kept, source) = source(&Build::new().tensor("w", &[32, 3], 8, &bytes));
    let info = &source.tensors()["w"];
    assert_eq!((info.dtype, info.stored.as_str()), (DType::F32, "Q8_0"));
    assert_eq!((info.shape.as_slice(), info.stored_bytes()), ([3, 32].as_slice(), 102));
    assert_eq!(source.dtype(), DType::BF16, "what blocks are best kept in");
    let expected: Vec<f32> = (32..96u8).map(f32::from).collect();
    assert_eq!(floats(&source, "w", 1..3), expected);
}

#[test]
fn a_tensor_of_one_axis_may_be_read_from_the_middle_of_a_block() {
    let bytes = [block(0), block(32)].concat();
    let (_kept, source) = source(&Build::new().tensor("w", &[64], 8, &bytes));
    for (start, end) in [(0, 64), (5, 7), (31, 33), (40, 64), (32, 32)] {
        let expected: Vec<f32> = (start..end).map(|i| i as f32).collect();
        assert_eq!(floats(&source, "w", start..end), expected);
    }
}

#[test]
fn more_blocks_than_a_chunk_holds_are_read_in_several() {
    let count = CHUNK / 34 + 3;
    let bytes: Vec<u8> = (0..count).flat_map(|i| block((i % 64) as u8)).collect();
    let (_kept, source) = source(&Build::new().tensor("w", &[32, count], 8, &bytes));
    let got = floats(&source, "w", 0..count);
    assert_eq!(got.len() as u64, count * 32);
    let right = |(i, x): (usize, &f32)| *x == ((i / 32 % 64) + i % 32) as f32;
    assert!(got.iter().enumerate().all(right));
}

#[test]
fn reading_appends_and_an_empty_or_scalar_tensor_is_no_special_case() {
    let build = Build::new()
        .tensor("scalar", &[], 24, &[7])
        .tensor("empty", &[0, 5], 0, &[])
        .tensor("narrow", &[5, 0], 0, &[]);
    let (_kept, source) = source(&build);
    let mut out = vec![1];
    source.read("scalar", 0..1, &mut out).unwrap();
    source.read("empty", 0..5, &mut out).unwrap();
    source.read("narrow", 0..0, &mut out).unwrap();
    assert_eq!(out, [1, 7]);
}

#[test]
#[allow(clippy::reversed_empty_ranges, reason = "that one is refused is what is tried")]
fn unknown_tensors_and_rows_are_our_own_mistake() {
    let (_kept, source) = source(&Build::new().tensor("w", &[1, 2], 24, &[1, 2]));
    for (name, rows) in [("v", 0..1), ("w", 0..3), ("w", 2..1), ("w", 3..3)] {
        let error = source.read(name, rows, &mut Vec::new()).unwrap_err();
        assert_eq!(error.fault(), Fault::Bug);
    }
}

#[test]
fn the_vocabulary_is_as_large_as_the_embedding_where_no_key_says_it() {
    let bytes = [block(0), block(32), block(64)].concat();
    let built = || Build::new().tensor("token_embd.weight", &[32, 3], 8, &bytes);
    let size = |source: &Source| source.config()["llama.vocab_size"].as_u64();
    let (_kept, silent) = source(&built());
    assert_eq!(size(&silent), Some(3));
    let (_kept, said) = source(&built().number("llama.vocab_size", 2));
    assert_eq!(size(&said), Some(2));
}

#[test]
fn divisors_of_rotary_frequencies_are_in_the_config() {
    let bytes: Vec<u8> = [1.0f32, 1.3, 8.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let build = Build::new().tensor("rope_freqs.weight", &[3], 0, &bytes);
    let (_kept, source) = source(&build);
    assert_eq!(source.config()["rope_freqs.weight"], serde_json::json!([1.0, 1.3, 8.0]));
    let infinite = [0, 0, 0x80, 0x7f];
    let build = Build::new().tensor("rope_freqs.weight", &[1], 0, &infinite);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    std::fs::write(&path, build.bytes()).unwrap();
    let error = Source::open(&path).map(drop).unwrap_err().to_string();
    assert!(error.contains("`rope_freqs.weight` should be a list of finite numbers"), "{error}");
}
