//! Text to ids and back, as HuggingFace's fast tokenizers do it.

use crate::error::RuntimeError;
use engraft_engine::Engine;
use serde_json::Value;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

const TOKENIZER: &str = "tokenizer.json";
pub(crate) const CONFIG: &str = "tokenizer_config.json";

/// A text file beside the engine, if it is there.
pub(crate) fn text_beside(engine: &Engine, name: &str) -> Result<Option<Vec<u8>>, RuntimeError> {
    engine.text_file(name).map_err(|e| RuntimeError::Read {
        path: engine.directory().join(name),
        reason: e.to_string(),
    })
}

/// A JSON file beside the engine, if it is there.
pub(crate) fn json_beside(engine: &Engine, name: &str) -> Result<Option<Value>, RuntimeError> {
    let Some(bytes) = text_beside(engine, name)? else { return Ok(None) };
    json(name, &bytes).map(Some)
}

pub(crate) fn json(name: &str, bytes: &[u8]) -> Result<Value, RuntimeError> {
    serde_json::from_slice(bytes)
        .map_err(|e| RuntimeError::Malformed { file: name.into(), reason: e.to_string() })
}

/// A special token of `tokenizer_config.json`: a string, or an object with the string in it.
pub(crate) fn special_token<'a>(config: &'a Value, key: &str) -> Option<&'a str> {
    let token = config.get(key)?;
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// What the tokenizer answers. It panics on some files that parse and contradict themselves; that
/// is the file's fault and not ours.
fn bounded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, RuntimeError> {
    let failed = |reason: String| RuntimeError::Tokenizer { reason };
    // What panicked is not used again: the error ends the request.
    catch_unwind(AssertUnwindSafe(work))
        .map_err(|_| failed("tokenizer.json contradicts itself".into()))?
        .map_err(|e| failed(e.to_string()))
}

/// A tokenizer.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Put before every text that gets special tokens, where `tokenizer.json` does not see to it.
    bos: Option<u32>,
    eos: Option<u32>,
}

impl Tokenizer {
    /// The tokenizer beside an engine.
    ///
    /// # Errors
    /// Where there is none, or it is malformed.
    pub fn of(engine: &Engine) -> Result<Tokenizer, RuntimeError> {
        let Some(tokenizer) = text_beside(engine, TOKENIZER)? else {
            let directory: PathBuf = engine.directory().into();
            return Err(RuntimeError::NoTokenizer { directory });
        };
        let config = text_beside(engine, CONFIG)?;
        Tokenizer::from_bytes(&tokenizer, config.as_deref())
    }

    /// From the bytes of `tokenizer.json` and, where there is one, `tokenizer_config.json`.
    ///
    /// # Errors
    /// Where one of them is malformed.
    pub fn from_bytes(tokenizer: &[u8], config: Option<&[u8]>) -> Result<Tokenizer, RuntimeError> {
        let malformed = |reason: String| RuntimeError::Malformed { file: TOKENIZER.into(), reason };
        let mut inner =
            tokenizers::Tokenizer::from_bytes(tokenizer).map_err(|e| malformed(e.to_string()))?;
        // Cutting and padding may be stored with it, and mean nothing for one text.
        inner.with_truncation(None).map_err(|e| malformed(e.to_string()))?;
        inner.with_padding(None);
        let config = config.map(|bytes| json(CONFIG, bytes)).transpose()?.unwrap_or(Value::Null);
        let id = |key| inner.token_to_id(special_token(&config, key)?);
        let adds = inner.get_post_processor().is_none()
            && config.get("add_bos_token").and_then(Value::as_bool) == Some(true);
        let bos = if adds { id("bos_token") } else { None };
        let eos = id("eos_token");
        Ok(Tokenizer { inner, bos, eos })
    }

    /// The ids of a text. Special tokens in the text are recognised; with `add_special`, those
    /// that begin or end a text are added, as `AutoTokenizer` does unless told otherwise.
    ///
    /// # Errors
    /// Where the tokenizer fails on the text.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, RuntimeError> {
        let encoding = bounded(|| self.inner.encode_fast(text, add_special))?;
        let bos = self.bos.filter(|_| add_special);
        Ok(bos.into_iter().chain(encoding.get_ids().iter().copied()).collect())
    }

    /// The text of some ids, with or without special tokens. Spaces are left as they are.
    ///
    /// # Errors
    /// Where the tokenizer fails on them.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, RuntimeError> {
        bounded(|| self.inner.decode(ids, skip_special))
    }

    /// The id of a token, by its exact spelling in the vocabulary.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The spelling of an id in the vocabulary.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id that ends a text, if `tokenizer_config.json` names it.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    /// Bytes as tokens: `a` is 97, and so on; 256 begins and 257 ends a text.
    pub(crate) fn bytes_tokenizer(config: Value) -> Tokenizer {
        // The spelling of bytes in byte-level vocabularies: printable ones are themselves.
        let mut vocabulary = serde_json::Map::new();
        let mut others = 256u32;
        for byte in 0..=255u32 {
            let itself = matches!(byte, 33..=126 | 161..=172 | 174..=255);
            let code = if itself { byte } else { others };
            others += u32::from(!itself);
            let spelling = char::from_u32(code).expect("a character").to_string();
            vocabulary.insert(spelling, byte.into());
        }
        let added: Vec<Value> = [(256, "<s>"), (257, "</s>")]
            .iter()
            .map(|(id, content)| {
                json!({"id": id, "content": content, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": true})
            })
            .collect();
        let tokenizer = json!({
            "version": "1.0", "truncation": {"direction": "Right", "max_length": 3,
                "strategy": "LongestFirst", "stride": 0},
            "padding": null, "added_tokens": added, "normalizer": null,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                "use_regex": false},
            "post_processor": null, "decoder": {"type": "ByteLevel", "add_prefix_space": true,
                "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "dropout": null, "unk_token": null,
                "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
                "byte_fallback": false, "vocab": vocabulary, "merges": []}
        });
        let config = config.to_string();
        Tokenizer::from_bytes(tokenizer.to_string().as_bytes(), Some(config.as_bytes()))
            .expect("a tokenizer")
    }

    #[test]
    fn text_comes_back_and_is_not_cut_at_the_stored_length() {
        let tokenizer = bytes_tokenizer(json!({"eos_token": {"content": "</s>"}}));
        let ids = tokenizer.encode("a long é</s>", true).expect("ids");
        assert_eq!(ids, [97, 32, 108, 111, 110, 103, 32, 0xc3, 0xa9, 257]);
        assert_eq!(tokenizer.decode(&ids, false).expect("text"), "a long é</s>");
        assert_eq!(tokenizer.decode(&ids, true).expect("text"), "a long é");
        assert_eq!(tokenizer.eos(), Some(257));
    }

    #[test]
    fn the_config_adds_a_beginning_where_tokenizer_json_has_no_post_processor() {
        let tokenizer = bytes_tokenizer(json!({"add_bos_token": true, "bos_token": "<s>"}));
        assert_eq!(tokenizer.encode("a", true).expect("ids"), [256, 97]);
        assert_eq!(tokenizer.encode("a", false).expect("ids"), [97]);
        let tokenizer = bytes_tokenizer(json!({"add_bos_token": false, "bos_token": "<s>"}));
        assert_eq!(tokenizer.encode("a", true).expect("ids"), [97]);
    }

    #[test]
    fn garbage_is_an_error() {
        let error = Tokenizer::from_bytes(b"{\"model\": 3}", None).expect_err("no tokenizer");
        assert!(matches!(error, RuntimeError::Malformed { .. }), "{error}");
    }

    #[test]
    fn a_file_that_contradicts_itself_is_an_error_of_the_tokenizers() {
        let bytes = bytes_tokenizer(Value::Null).inner.to_string(false).expect("JSON");
        let mut file: Value = serde_json::from_str(&bytes).expect("JSON");
        file["normalizer"] =
            json!({"type": "Replace", "pattern": {"Regex": ""}, "content": "aaaa"});
        let broken = Tokenizer::from_bytes(file.to_string().as_bytes(), None).expect("parses");
        let error = broken.encode("abc", false).expect_err("refused");
        assert!(matches!(error, RuntimeError::Tokenizer { .. }), "{error}");
    }
}
