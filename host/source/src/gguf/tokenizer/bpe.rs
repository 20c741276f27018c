//! Byte-level BPE, as GPT-2 has it: bytes are written as printable characters, text is split
//! by a rule, and within what was split the merges apply in the order of their list.

use serde_json::{Value as Json, json};

use super::{Parts, Vocabulary};
use crate::gguf::GgufError;
use crate::gguf::metadata::{Metadata, wrong};

const MERGES: &str = "tokenizer.ggml.merges";
const RULE: &str = "tokenizer.ggml.pre";

/// Llama 3's split: like GPT-2's, but numbers in threes, and line ends stay with what they follow.
const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2's: as Llama 3's, with every digit alone.
const QWEN_2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// BLOOM's: at spaces, and around marks that end or part sentences.
const BLOOM: &str = r" ?[^(\s|[.,!?…。，、।۔،])]+";

/// The split that comes with byte-level tokenizers, or none but the writing of the bytes.
fn byte_level(splits: bool) -> Json {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": splits})
}

/// First what `step` does, then the bytes; `splits` as [`byte_level`] has it.
fn sequence(step: Json, splits: bool) -> Json {
    json!({"type": "Sequence", "pretokenizers": [step, byte_level(splits)]})
}

fn isolated(pattern: &str) -> Json {
    json!({
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": false,
    })
}

fn split(pattern: &str) -> Json {
    sequence(isolated(pattern), false)
}

/// Falcon's split: runs of punctuation, then as GPT-2, then digits, in threes.
fn falcon() -> Json {
    let steps = [
        json!({"type": "Punctuation", "behavior": "Contiguous"}),
        byte_level(true),
        json!({"type": "Digits", "individual_digits": false}),
        isolated("[0-9][0-9][0-9]"),
    ];
    json!({"type": "Sequence", "pretokenizers": steps})
}

/// What differs between byte-level tokenizers.
struct Rule {
    normalizer: Json,
    pre_tokenizer: Json,
    /// Whether a piece that is a token already is not merged at all.
    whole_first: bool,
    adds_bos: bool,
}

/// The rule that goes by a name.
fn rule(name: &str) -> Result<Rule, GgufError> {
    let plain = |pre_tokenizer| Rule {
        normalizer: Json::Null,
        pre_tokenizer,
        whole_first: false,
        adds_bos: false,
    };
    Ok(match name {
        "gpt-2" | "default" | "phi-2" | "mpt" | "olmo" => plain(byte_level(true)),
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" => {
            plain(sequence(json!({"type": "Digits", "individual_digits": true}), true))
        }
        "llama-bpe" | "llama-v3" | "llama3" | "falcon3" => {
            Rule { whole_first: true, adds_bos: true, ..plain(split(LLAMA_3)) }
        }
        "dbrx" | "smaug-bpe" => plain(split(LLAMA_3)),
        "stablelm2" => plain(split(QWEN_2)),
        "bloom" | "poro-chat" | "gpt3-finnish" => plain(split(BLOOM)),
        "falcon" => plain(falcon()),
        "qwen2" | "deepseek-r1-qwen" => {
            Rule { normalizer: json!({"type": "NFC"}), ..plain(split(QWEN_2)) }
        }
        _ => return Err(GgufError::PreTokenizer(name.to_owned())),
    })
}

/// The parts of a `tokenizer.json`.
pub(super) fn parts(metadata: &Metadata, vocabulary: &Vocabulary<'_>) -> Result<Parts, GgufError> {
    // Files from before the key was introduced have GPT-2's rule.
    let rule = rule(metadata.find_text(RULE)?.unwrap_or("default"))?;
    let known = |piece: &str| vocabulary.ids.contains_key(piece);
    let mut merges = Vec::new();
    for merge in metadata.texts(MERGES)? {
        let pair = merge.split_once(' ').filter(|(left, right)| {
            known(left) && known(right) && known(&format!("{left}{right}"))
        });
        let (left, right) = pair.ok_or_else(|| wrong(MERGES, "made of pairs of known tokens"))?;
        merges.push(json!([left, right]));
    }
    Ok(Parts {
        normalizer: rule.normalizer,
        pre_tokenizer: rule.pre_tokenizer,
        decoder: json!({
            "type": "ByteLevel",
            "add_prefix_space": true,
            "trim_offsets": true,
            "use_regex": true,
        }),
        model: json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": rule.whole_first,
            "vocab": vocabulary.json(),
            "merges": merges,
        }),
        adds_bos: rule.adds_bos,
    })
}
