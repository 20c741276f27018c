//! SentencePiece's BPE, as Llama 1 and 2 have it: no split, spaces written as `▁`, and of all
//! neighbours the pair is merged first whose union has the best score; what has no token falls
//! back to bytes.
//!
//! Scores become a list of merges: every way to make a token out of two, best score first. Among
//! equal scores the longer left part comes first, then the longer right part, then the order of
//! the vocabulary, which is how HuggingFace's converter breaks ties.

use std::cmp::{Ordering, Reverse};

use serde_json::{Value as Json, json};

use super::{Parts, TokenType, Vocabulary};
use crate::gguf::GgufError;
use crate::gguf::metadata::{Metadata, wrong};

const SCORES: &str = "tokenizer.ggml.scores";
const SPACE: &str = "▁";

/// The parts of a `tokenizer.json`.
pub(super) fn parts(metadata: &Metadata, vocabulary: &Vocabulary<'_>) -> Result<Parts, GgufError> {
    let scores = metadata.floats(SCORES)?;
    if scores.len() != vocabulary.tokens.len() {
        return Err(wrong(SCORES, "as long as the list of tokens"));
    }
    if scores.iter().any(|score| score.is_nan()) {
        return Err(wrong(SCORES, "a list of numbers"));
    }
    let prefix = metadata.truth("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let unknown = vocabulary.types.iter().position(|kind| *kind == TokenType::Unknown);
    let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let mut normalizers = vec![replace(" ", SPACE)];
    let mut decoders =
        vec![replace(SPACE, " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
    if prefix {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": SPACE}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    Ok(Parts {
        normalizer: json!({"type": "Sequence", "normalizers": normalizers}),
        pre_tokenizer: Json::Null,
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        model: json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": unknown.map(|id| &vocabulary.tokens[id]),
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": true,
            "ignore_merges": false,
            "vocab": vocabulary.json(),
            "merges": merges(vocabulary, &scores),
        }),
        adds_bos: true,
    })
}

/// Every way to make a token out of two, best first.
fn merges<'a>(vocabulary: &Vocabulary<'a>, scores: &[f32]) -> Vec<[&'a str; 2]> {
    /// A merge with what decides its rank.
    struct Merge<'a> {
        score: f32,
        lengths: (usize, usize),
        parts: [&'a str; 2],
    }
    let mut merges = Vec::new();
    for (id, token) in vocabulary.tokens.iter().enumerate() {
        if !matches!(vocabulary.types[id], TokenType::Ordinary | TokenType::UserDefined) {
            continue;
        }
        let length = token.chars().count();
        let mut ways = Vec::new();
        for (before, (at, _)) in token.char_indices().enumerate().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(l), Some(r)) = (vocabulary.ids.get(left), vocabulary.ids.get(right)) {
                let lengths = (before, length - before);
                ways.push(((*l, *r), Merge { score: scores[id], lengths, parts: [left, right] }));
            }
        }
        ways.sort_by_key(|(ids, _)| *ids);
        merges.extend(ways.into_iter().map(|(_, merge)| merge));
    }
    // Stable: what is still equal stays in the order of the vocabulary.
    merges.sort_by(|a, b| {
        b.score
            .partial_cmp(&a.score)
            .unwrap_or(Ordering::Equal)
            .then(Reverse(a.lengths).cmp(&Reverse(b.lengths)))
    });
    merges.into_iter().map(|merge| merge.parts).collect()
}
