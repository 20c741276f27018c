//! A real model: SmolLM2-135M-Instruct, from a GGUF file and from HuggingFace directories made
//! of it, against HuggingFace's numbers.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use engraft_engine::Engine;
use engraft_ir::DType;
use engraft_runtime::{ChatTemplate, LoadOptions, Message, Tokenizer, evaluate};
use engraft_tests::{
    Compiled, distance, engine, fixtures, floats, greedy, load, logits, pipeline, prepared,
};
use safetensors::SafeTensors;
use serde_json::Value;
use std::path::PathBuf;

fn fixture(name: &str) -> Value {
    let text = std::fs::read_to_string(fixtures().join("smollm2").join(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn hf(variant: &str) -> PathBuf {
    prepared(match variant {
        "f32" => "ENGRAFT_SMOLLM2_HF_F32",
        _ => "ENGRAFT_SMOLLM2_HF_BF16",
    })
}

fn gguf() -> PathBuf {
    prepared("ENGRAFT_SMOLLM2_GGUF")
}

fn ids(json: &Value) -> Vec<u32> {
    json.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// The text that perplexity is computed over, in tokens.
fn alice(engine: &Engine) -> Vec<u32> {
    let text = std::fs::read_to_string(fixtures().join("alice.txt")).unwrap();
    Tokenizer::of(engine).unwrap().encode(&text, false).unwrap()
}

/// As many bytes of that text are its first tokens, and no others: what `cargo xtask bench quality`
/// calibrates on, and leaves out where it measures.
const CALIBRATION: (usize, usize) = (62_403, 16_384);

/// The engine of a variant, compiled to keep the variant's own numbers.
fn variant(name: &str) -> Compiled {
    engine(&hf(name), None)
}

fn check_generation(name: &str) {
    let engine = variant(name);
    let mut model = load(&engine, &LoadOptions::default());
    let expected = fixture("generation.json");
    let bytes = std::fs::read(fixtures().join("smollm2/logits_last.safetensors")).unwrap();
    let last = SafeTensors::deserialize(&bytes).unwrap();
    let cases = expected["variants"][name].as_array().unwrap();
    let prompts: Vec<Vec<u32>> = cases.iter().map(|case| ids(&case["prompt_ids"])).collect();
    let answers = greedy(&mut model, &prompts, 48);
    for ((case, prompt), answer) in cases.iter().zip(&prompts).zip(&answers) {
        let title = case["name"].as_str().unwrap();
        let safe = case["safe_steps"].as_u64().unwrap() as usize;
        assert!(safe > 0, "{title}");
        let want = ids(&case["greedy_ids"]);
        assert_eq!(answer[..safe], want[..safe], "{name} {title}");

        let all = logits(&mut model, prompt);
        let got = &all[all.len() - model.vocabulary()..];
        let want = floats(last.tensor(&format!("{name}.{title}")).unwrap().data());
        let apart = distance(got, &want);
        println!("{name} {title}: last logits {apart:.2e}, {safe} safe steps agree");
        assert!(apart <= 1e-4, "{name} {title}: {apart:.2e}");
    }
}

#[test]
fn greedy_continuations_and_logits_are_huggingfaces_in_f32() {
    check_generation("f32");
}

#[test]
fn greedy_continuations_and_logits_are_huggingfaces_with_bf16_weights() {
    check_generation("bf16");
}

fn check_perplexity(variant_name: &str, part: &str) {
    let engine = variant(variant_name);
    let mut model = load(&engine, &LoadOptions::default());
    let expected = &fixture("perplexity.json")["variants"][variant_name][part];
    let number = |key: &str| expected[key].as_u64().unwrap() as usize;
    let mut text = alice(&engine);
    text.truncate(number("tokens"));
    let got =
        evaluate::perplexity(&mut model, &text, number("window"), number("stride"), |_, _| {})
            .unwrap();
    assert_eq!(got.scored, number("scored"));
    let want = expected["perplexity"].as_f64().unwrap();
    println!("{variant_name} {part}: {} against {want}", got.perplexity);
    let apart = (got.perplexity / want - 1.0).abs();
    assert!(apart < 5e-5, "{variant_name} {part}: {} against {want}", got.perplexity);
}

#[test]
fn perplexity_is_huggingfaces_to_four_digits_in_f32() {
    check_perplexity("f32", "quick");
}

#[test]
fn perplexity_is_huggingfaces_to_four_digits_with_bf16_weights() {
    check_perplexity("bf16", "quick");
}

#[test]
fn perplexity_of_the_whole_text_is_huggingfaces() {
    check_perplexity("bf16", "full");
}

#[test]
fn a_gguf_file_gives_the_logits_of_the_directory_made_of_it() {
    let prompt = ids(&fixture("generation.json")["variants"]["f32"][0]["prompt_ids"]);
    for dtype in [None, Some(DType::F32), Some(DType::F16)] {
        let directory = match dtype {
            Some(DType::F32) => hf("f32"),
            Some(_) => prepared("ENGRAFT_SMOLLM2_HF_F16"),
            None => hf("bf16"),
        };
        let from_gguf =
            logits(&mut load(&engine(&gguf(), dtype), &LoadOptions::default()), &prompt);
        let from_hf =
            logits(&mut load(&engine(&directory, None), &LoadOptions::default()), &prompt);
        assert!(from_gguf == from_hf, "{dtype:?}: not the same bits");
    }
}

#[test]
fn a_gguf_file_has_no_key_that_nobody_reads() {
    let pipeline = pipeline(&gguf(), None);
    assert!(pipeline.unread().is_empty(), "{:?}", pipeline.unread());
}

#[test]
fn tokenizer_and_chat_template_are_exact_from_both_sources() {
    let (tokens, chats) = (fixture("tokenizer_cases.json"), fixture("chat_cases.json"));
    for source in [gguf(), hf("bf16")] {
        let engine = engine(&source, None);
        let tokenizer = Tokenizer::of(&engine).unwrap();
        for case in tokens["cases"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let got = tokenizer.encode(text, false).unwrap();
            assert_eq!(got, ids(&case["ids"]), "{}: {text:?}", source.display());
            let decoded = tokenizer.decode(&got, false).unwrap();
            assert_eq!(decoded, case["decoded"].as_str().unwrap());
            let decoded = tokenizer.decode(&got, true).unwrap();
            assert_eq!(decoded, case["decoded_skip"].as_str().unwrap());
        }
        let template = ChatTemplate::of(&engine).unwrap();
        for case in chats["cases"].as_array().unwrap() {
            let messages: Vec<Message> = case["messages"]
                .as_array()
                .unwrap()
                .iter()
                .map(|m| Message {
                    role: m["role"].as_str().unwrap().into(),
                    content: m["content"].as_str().unwrap().into(),
                })
                .collect();
            let prompt = case["add_generation_prompt"].as_bool().unwrap();
            let text = template.render(&messages, prompt).unwrap();
            assert_eq!(text, case["text"].as_str().unwrap(), "{}", source.display());
            assert_eq!(tokenizer.encode(&text, false).unwrap(), ids(&case["ids"]));
        }
    }
}

#[test]
fn a_batch_of_a_real_model_gives_what_each_prompt_gives_alone() {
    let engine = variant("bf16");
    let cases = fixture("generation.json");
    let prompts: Vec<Vec<u32>> = cases["variants"]["bf16"]
        .as_array()
        .unwrap()
        .iter()
        .map(|case| ids(&case["prompt_ids"]))
        .collect();
    let two = LoadOptions { threads: Some(2), max_batch_size: Some(8), ..LoadOptions::default() };
    let together = evaluate::logits(&mut load(&engine, &two), &prompts).unwrap();
    let one = LoadOptions { threads: Some(1), ..LoadOptions::default() };
    let mut alone = load(&engine, &one);
    for (prompt, together) in prompts.iter().zip(&together) {
        assert!(logits(&mut alone, prompt) == *together, "not the same bits");
    }
}

#[test]
fn the_text_for_calibration_ends_with_a_token() {
    let read = |name: &str| std::fs::read(hf("f32").join(name)).unwrap();
    let (tokenizer, config) = (read("tokenizer.json"), read("tokenizer_config.json"));
    let tokenizer = Tokenizer::from_bytes(&tokenizer, Some(&config)).unwrap();
    let text = std::fs::read_to_string(fixtures().join("alice.txt")).unwrap();
    let all = tokenizer.encode(&text, false).unwrap();
    let (bytes, tokens) = CALIBRATION;
    assert_eq!(tokenizer.encode(&text[..bytes], false).unwrap(), all[..tokens]);
}
