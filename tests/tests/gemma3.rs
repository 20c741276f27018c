//! A real model in blocks of four kinds: Gemma 3 270M from a GGUF file, against llama.cpp's numbers
//! with the same weights in F32.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use engraft_ir::DType;
use engraft_runtime::{LoadOptions, Tokenizer, evaluate};
use engraft_tests::{distance, engine, fixtures, greedy, load, pipeline, prepared};
use serde_json::Value;
use std::path::PathBuf;

fn gguf() -> PathBuf {
    prepared("ENGRAFT_GEMMA3_GGUF")
}

fn cases(list: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(fixtures().join("gemma3/cases.json")).unwrap();
    let mut cases: Value = serde_json::from_str(&text).unwrap();
    serde_json::from_value(cases[list].take()).unwrap()
}

fn ids(json: &Value) -> Vec<u32> {
    serde_json::from_value(json.clone()).unwrap()
}

/// `bound` is what was measured, rounded up: llama.cpp looks GELU up in a table of F16; bfloat16
/// rounds weights.
fn check(dtype: DType, bound: f64) {
    let engine = engine(&gguf(), Some(dtype));
    let mut model = load(&engine, &LoadOptions::default());
    let tokenizer = Tokenizer::of(&engine).unwrap();
    let cases = cases("generation");
    let prompts: Vec<Vec<u32>> = cases.iter().map(|case| ids(&case["prompt_ids"])).collect();
    let all = evaluate::logits(&mut model, &prompts).unwrap();
    let answers = greedy(&mut model, &prompts, 24);
    for (((case, prompt), logits), answer) in cases.iter().zip(&prompts).zip(&all).zip(&answers) {
        let text = case["prompt"].as_str().unwrap();
        assert_eq!(&tokenizer.encode(text, true).unwrap(), prompt, "{text}");
        let last = &logits[logits.len() - model.vocabulary()..];
        let got: Vec<f32> = ids(&case["top_ids"]).iter().map(|id| last[*id as usize]).collect();
        let want: Vec<f32> = serde_json::from_value(case["top_logits"].clone()).unwrap();
        let apart = distance(&got, &want);
        println!("{text}: largest logits {apart:.2e}");
        assert!(apart <= bound, "{text}: {apart:.2e}");
        let safe = case["safe_steps"].as_u64().unwrap() as usize;
        assert_eq!(answer[..safe], ids(&case["greedy_ids"])[..safe], "{text}");
    }
}

#[test]
fn logits_and_continuations_are_llama_cpps_in_f32() {
    check(DType::F32, 5e-4);
}

#[test]
fn logits_and_continuations_are_nearly_the_same_in_bf16() {
    check(DType::BF16, 1e-2);
}

#[test]
fn texts_become_the_tokens_that_llama_cpp_makes_of_them() {
    let engine = engine(&gguf(), None);
    let tokenizer = Tokenizer::of(&engine).unwrap();
    for case in cases("tokenizer") {
        let text = case["text"].as_str().unwrap();
        let got = tokenizer.encode(text, false).unwrap();
        assert_eq!(got, ids(&case["ids"]), "{text:?}");
        // A block stands for a space, in a text as in a token.
        assert_eq!(tokenizer.decode(&got, false).unwrap(), text.replace('▁', " "));
    }
}

#[test]
fn no_key_of_the_file_is_left_unread() {
    let pipeline = pipeline(&gguf(), None);
    assert!(pipeline.unread().is_empty(), "{:?}", pipeline.unread());
}
