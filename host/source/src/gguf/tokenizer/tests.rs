//! The files that are made, as the library that reads them understands them.

use std::str::FromStr;

use tokenizers::Tokenizer;

use super::super::build::Build;
use super::*;
use crate::{Source, SourceError};

fn texts(build: &Build) -> Result<TextFiles, GgufError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    std::fs::write(&path, build.bytes()).unwrap();
    match Source::open(&path) {
        Ok(source) => Ok(source.text_files().clone()),
        Err(SourceError::Gguf { fault, .. }) => Err(fault),
        Err(other) => panic!("{other:?}"),
    }
}

fn tokenizer(files: &TextFiles) -> Tokenizer {
    Tokenizer::from_str(std::str::from_utf8(&files["tokenizer.json"]).unwrap()).unwrap()
}

fn file(files: &TextFiles, name: &str) -> Json {
    serde_json::from_slice(&files[name]).unwrap()
}

fn pieces(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
    tokenizer.encode(text, true).unwrap().get_tokens().to_vec()
}

const BYTE_LEVEL: [&str; 14] =
    ["<end>", "<start>", "a", "b", "1", "2", "Ġ", "ab", "Ġab", "12", "122", "A", "aA", "<tool>"];

/// A byte-level tokenizer with the rule `pre`.
fn byte_level(pre: &str) -> Build {
    let mut types = [1; 14];
    (types[0], types[1], types[13]) = (3, 3, 4);
    Build::new()
        .number("llama.context_length", 512)
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", pre)
        .texts("tokenizer.ggml.tokens", &BYTE_LEVEL)
        .integers("tokenizer.ggml.token_type", &types)
        .texts("tokenizer.ggml.merges", &["a b", "Ġ ab", "1 2", "12 2"])
        .number("tokenizer.ggml.bos_token_id", 1)
        .number("tokenizer.ggml.eos_token_id", 0)
        .number("tokenizer.ggml.padding_token_id", 0)
}

#[test]
fn each_rule_splits_its_own_way() {
    let split = |pre: &str, text: &str| pieces(&tokenizer(&texts(&byte_level(pre)).unwrap()), text);
    for pre in ["gpt-2", "default"] {
        assert_eq!(split(pre, "ab ab122122"), ["ab", "Ġab", "122", "122"]);
        assert_eq!(split(pre, "12 12"), ["12", "Ġ", "12"]);
    }
    assert_eq!(split("smollm", "ab ab122"), ["ab", "Ġab", "1", "2", "2"]);
    // Numbers in threes at most; and a beginning where the file does not say.
    assert_eq!(split("llama-bpe", " ab1221"), ["<start>", "Ġab", "122", "1"]);
    assert_eq!(split("qwen2", " ab122"), ["Ġab", "1", "2", "2"]);
    assert_eq!(split("stablelm2", " ab122"), ["Ġab", "1", "2", "2"]);
    assert_eq!(split("dbrx", " ab1221"), ["Ġab", "122", "1"]);
    assert_eq!(split("falcon", "ab12212"), ["ab", "122", "12"]);
    assert_eq!(split("bloom", "ab ab122"), ["ab", "Ġab", "122"]);
}

#[test]
fn a_whole_piece_is_looked_up_before_merging_only_where_the_rule_says_so() {
    // No merge makes `aA`.
    let split = |pre: &str| pieces(&tokenizer(&texts(&byte_level(pre)).unwrap()), "aA");
    assert_eq!(split("llama-bpe"), ["<start>", "aA"]);
    assert_eq!(split("qwen2"), ["a", "A"]);
}

#[test]
fn added_tokens_are_found_whole_and_text_comes_back() {
    let tokenizer = tokenizer(&texts(&byte_level("smollm")).unwrap());
    let found = ["<start>", "ab", "<tool>", "Ġab", "<end>"];
    assert_eq!(pieces(&tokenizer, "<start>ab<tool> ab<end>"), found);
    let ids = tokenizer.encode("<start>ab<tool> ab<end>", true).unwrap().get_ids().to_vec();
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "ab<tool> ab");
}

#[test]
fn the_configs_name_the_special_tokens() {
    let build = byte_level("smollm")
        .truth("tokenizer.ggml.add_bos_token", false)
        .number("tokenizer.ggml.eot_token_id", 1)
        .text("tokenizer.chat_template", "{{ messages }}");
    let files = texts(&build).unwrap();
    let config = file(&files, "tokenizer_config.json");
    assert_eq!(config["bos_token"], "<start>");
    assert_eq!(config["eos_token"], "<end>");
    assert_eq!(config["pad_token"], "<end>");
    assert_eq!(config.get("unk_token"), None);
    assert_eq!(config["chat_template"], "{{ messages }}");
    assert_eq!(config["add_bos_token"], false);
    assert_eq!(config["model_max_length"], 512);
    assert_eq!(config["added_tokens_decoder"]["13"]["special"], false);
    let generation = file(&files, "generation_config.json");
    assert_eq!(
        generation.to_string(),
        r#"{"bos_token_id":1,"eos_token_id":[0,1],"pad_token_id":0}"#
    );
    assert_eq!(file(&files, "special_tokens_map.json")["eos_token"], "<end>");
}

#[test]
fn what_cannot_be_rebuilt_is_named() {
    let fault = |build: Build| texts(&build).unwrap_err();
    let rule = fault(byte_level("tekken"));
    assert_eq!(rule, GgufError::PreTokenizer("tekken".to_owned()));
    assert!(rule.to_string().contains("`tekken`"));
    let model = fault(Build::new().text("tokenizer.ggml.model", "t5"));
    assert_eq!(model, GgufError::TokenizerModel("t5".to_owned()));
    let empty = Build::new().text("tokenizer.ggml.model", "gpt2");
    assert_eq!(fault(empty), GgufError::MissingKey("tokenizer.ggml.tokens".to_owned()));
    assert!(texts(&Build::new().text("tokenizer.ggml.model", "none")).unwrap().is_empty());
}

#[test]
fn lists_that_do_not_fit_together_are_caught() {
    let base = || Build::new().text("tokenizer.ggml.model", "gpt2");
    let tokens = |build: Build, tokens: &[&str], types: &[i32]| {
        build.texts(TOKENS, tokens).integers(TYPES, types)
    };
    let key = |build: Build| match texts(&build).unwrap_err() {
        GgufError::Value { key, .. } => key,
        other => panic!("{other:?}"),
    };
    assert_eq!(key(tokens(base(), &["a", "b"], &[1])), TYPES);
    assert_eq!(key(tokens(base(), &["a"], &[9])), TYPES);
    let twice = texts(&tokens(base(), &["a", "a"], &[1, 1])).unwrap_err();
    assert_eq!(twice.to_string(), "token `a` is in the file twice");
    for merge in ["a", "a c", "a b"] {
        let build = tokens(base(), &["a", "b"], &[1, 1]).texts("tokenizer.ggml.merges", &[merge]);
        assert_eq!(key(build), "tokenizer.ggml.merges");
    }
    let far = tokens(base(), &["a"], &[1])
        .texts("tokenizer.ggml.merges", &[])
        .number("tokenizer.ggml.eos_token_id", 1);
    assert_eq!(key(far), "tokenizer.ggml.eos_token_id");
}

/// The tokens of a small SentencePiece model after its special ones and its bytes, best first.
const PIECES: [&str; 13] =
    ["▁a", "bc", "▁abc", "ca", "▁▁", "aa", "bcbc", "cab", "▁", "a", "b", "c", "!"];

fn sentencepiece() -> Build {
    let bytes: Vec<String> = (0..256).map(|byte| format!("<0x{byte:02X}>")).collect();
    let special = ["<unk>", "<s>", "</s>"].into_iter();
    let tokens: Vec<&str> = special.chain(bytes.iter().map(String::as_str)).chain(PIECES).collect();
    let mut types = vec![2, 3, 3];
    types.resize(259, 6);
    types.resize(tokens.len(), 1);
    let mut scores = vec![0.0; 259];
    scores.extend((0..PIECES.len()).map(|rank| -(rank as f32)));
    Build::new()
        .text("tokenizer.ggml.model", "llama")
        .texts("tokenizer.ggml.tokens", &tokens)
        .integers("tokenizer.ggml.token_type", &types)
        .floats("tokenizer.ggml.scores", &scores)
        .number("tokenizer.ggml.bos_token_id", 1)
        .number("tokenizer.ggml.eos_token_id", 2)
        .number("tokenizer.ggml.unknown_token_id", 0)
}

/// SentencePiece's own way: of all neighbours whose union is a token, the best, leftmost first.
fn by_score(text: &str) -> Vec<String> {
    let mut parts: Vec<String> =
        format!("▁{}", text.replace(' ', "▁")).chars().map(String::from).collect();
    let rank = |pair: &[String]| PIECES.iter().position(|piece| *piece == pair.concat());
    loop {
        let best =
            parts.windows(2).enumerate().filter_map(|(at, pair)| Some((rank(pair)?, at))).min();
        let Some((_, at)) = best else { return parts };
        let right = parts.remove(at + 1);
        parts[at].push_str(&right);
    }
}

#[test]
fn merges_made_of_scores_do_what_the_scores_say() {
    let build = sentencepiece().truth("tokenizer.ggml.add_bos_token", false);
    let tokenizer = tokenizer(&texts(&build).unwrap());
    let mut state = 1u32;
    for _ in 0..2000 {
        let mut text = String::new();
        for _ in 0..12 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            text.push(['a', 'b', 'c', ' ', 'a', 'c', 'b', '!'][(state >> 24) as usize % 8]);
        }
        assert_eq!(pieces(&tokenizer, &text), by_score(&text), "{text:?}");
    }
}

#[test]
fn a_beginning_is_added_bytes_stand_in_and_text_comes_back() {
    let files = texts(&sentencepiece()).unwrap();
    let tokenizer = tokenizer(&files);
    let expected = ["<s>", "▁abc", "<0xC3>", "<0xA9>", "!"];
    assert_eq!(pieces(&tokenizer, "abcé!"), expected);
    assert_eq!(file(&files, "tokenizer_config.json")["add_bos_token"], true);
    for text in ["abcé!", " ab c", "日本 a"] {
        let ids = tokenizer.encode(text, true).unwrap().get_ids().to_vec();
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
    }
    let both = sentencepiece().truth("tokenizer.ggml.add_eos_token", true);
    let both = self::tokenizer(&texts(&both).unwrap());
    assert_eq!(pieces(&both, "a"), ["<s>", "▁a", "</s>"]);
}

#[test]
fn without_a_space_prefix_text_begins_as_it_is() {
    let build = sentencepiece().truth("tokenizer.ggml.add_space_prefix", false);
    let tokenizer = tokenizer(&texts(&build).unwrap());
    assert_eq!(pieces(&tokenizer, "aa a"), ["<s>", "aa", "▁a"]);
    let ids = tokenizer.encode(" a", true).unwrap().get_ids().to_vec();
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), " a");
}

#[test]
fn scores_must_be_numbers_one_a_token() {
    let key = |scores: &[f32]| {
        let build = Build::new()
            .text("tokenizer.ggml.model", "llama")
            .texts("tokenizer.ggml.tokens", &["a", "b"])
            .integers("tokenizer.ggml.token_type", &[1, 1])
            .floats("tokenizer.ggml.scores", scores);
        texts(&build).unwrap_err().to_string()
    };
    assert_eq!(
        key(&[0.0]),
        "metadata `tokenizer.ggml.scores` should be as long as the list of tokens"
    );
    assert_eq!(
        key(&[0.0, f32::NAN]),
        "metadata `tokenizer.ggml.scores` should be a list of numbers"
    );
}
