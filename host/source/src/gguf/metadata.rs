//! The metadata of a GGUF file, and the config that it amounts to.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value as Json};

use super::GgufError;

/// The most elements of a list that is part of the config.
pub(crate) const LONGEST: usize = 4096;

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Unsigned(u64),
    Signed(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    Text(String),
    /// A list of text.
    Texts(Vec<String>),
    /// A list of scalars.
    List(Vec<Value>),
}

/// All values by their dotted keys.
#[derive(Debug, Default)]
pub(crate) struct Metadata(BTreeMap<String, Value>);

impl Metadata {
    pub(crate) fn insert(&mut self, key: String, value: Value) -> Option<Value> {
        self.0.insert(key, value)
    }

    /// The text of a key that must be there.
    pub(crate) fn text(&self, key: &str) -> Result<&str, GgufError> {
        self.find_text(key)?.ok_or_else(|| GgufError::MissingKey(key.to_owned()))
    }

    /// The text of a key that may be there.
    pub(crate) fn find_text(&self, key: &str) -> Result<Option<&str>, GgufError> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(wrong(key, "text")),
        }
    }

    /// The whole number, not negative, of a key that may be there.
    pub(crate) fn number(&self, key: &str) -> Result<Option<u64>, GgufError> {
        let expected = || wrong(key, "a whole number");
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::Unsigned(number)) => Ok(Some(*number)),
            Some(Value::Signed(number)) => u64::try_from(*number).map(Some).map_err(|_| expected()),
            Some(_) => Err(expected()),
        }
    }

    /// The truth of a key that may be there.
    pub(crate) fn truth(&self, key: &str) -> Result<Option<bool>, GgufError> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::Bool(truth)) => Ok(Some(*truth)),
            Some(_) => Err(wrong(key, "true or false")),
        }
    }

    /// The list of text of a key that must be there.
    pub(crate) fn texts(&self, key: &str) -> Result<&[String], GgufError> {
        match self.0.get(key) {
            None => Err(GgufError::MissingKey(key.to_owned())),
            Some(Value::Texts(texts)) => Ok(texts),
            Some(_) => Err(wrong(key, "a list of text")),
        }
    }

    /// The list of whole numbers of a key that must be there.
    pub(crate) fn integers(&self, key: &str) -> Result<Vec<i64>, GgufError> {
        self.list(key, "a list of whole numbers", |value| match value {
            Value::Signed(number) => Some(*number),
            Value::Unsigned(number) => i64::try_from(*number).ok(),
            _ => None,
        })
    }

    /// The list of `f32` of a key that must be there.
    pub(crate) fn floats(&self, key: &str) -> Result<Vec<f32>, GgufError> {
        self.list(key, "a list of float32", |value| match value {
            Value::F32(number) => Some(*number),
            _ => None,
        })
    }

    fn list<T>(
        &self,
        key: &str,
        expected: &'static str,
        of: impl Fn(&Value) -> Option<T>,
    ) -> Result<Vec<T>, GgufError> {
        match self.0.get(key) {
            None => Err(GgufError::MissingKey(key.to_owned())),
            Some(Value::List(list)) => {
                list.iter().map(|value| of(value).ok_or_else(|| wrong(key, expected))).collect()
            }
            Some(_) => Err(wrong(key, expected)),
        }
    }
}

/// The error of a value that is not what it should be.
pub(crate) fn wrong(key: &str, expected: &'static str) -> GgufError {
    GgufError::Value { key: key.to_owned(), expected }
}

/// The metadata as one flat JSON object; without the lists of the tokenizer and without lists
/// that are too long to be settings.
pub(crate) fn config(metadata: &Metadata) -> Result<Json, GgufError> {
    let mut config = Map::new();
    for (key, value) in &metadata.0 {
        let is_list = matches!(value, Value::Texts(_) | Value::List(_));
        let length = match value {
            Value::Texts(list) => list.len(),
            Value::List(list) => list.len(),
            _ => 0,
        };
        if length > LONGEST || is_list && key.starts_with("tokenizer.") {
            continue;
        }
        let json = json(value).ok_or_else(|| wrong(key, "a finite number"))?;
        config.insert(key.clone(), json);
    }
    Ok(Json::Object(config))
}

/// The little-endian `f32` of a tensor that is a setting, as a list.
pub(crate) fn numbers(name: &str, bytes: &[u8]) -> Result<Json, GgufError> {
    let all = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let list: Option<Vec<Json>> = all.map(|number| json(&Value::F32(number))).collect();
    list.map(Json::Array).ok_or_else(|| wrong(name, "a list of finite numbers"))
}

/// A value as JSON, unless it is a number that JSON does not have.
fn json(value: &Value) -> Option<Json> {
    Some(match value {
        Value::Unsigned(number) => Json::from(*number),
        Value::Signed(number) => Json::from(*number),
        Value::F32(number) => Json::Number(Number::from_f64(widen(*number))?),
        Value::F64(number) => Json::Number(Number::from_f64(*number)?),
        Value::Bool(truth) => Json::from(*truth),
        Value::Text(text) => Json::from(text.as_str()),
        Value::Texts(texts) => Json::from(texts.as_slice()),
        Value::List(list) => Json::Array(list.iter().map(json).collect::<Option<_>>()?),
    })
}

/// The `f64` of the shortest decimal that is this `f32`: who wrote 1e-5 meant 1e-5, and not the
/// 9.99999974e-6 that it became.
fn widen(number: f32) -> f64 {
    number.to_string().parse().unwrap_or(f64::from(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_config_is_flat_and_its_numbers_are_what_was_meant() {
        let mut metadata = Metadata::default();
        for (key, value) in [
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
            ("llama.rope.freq_base", Value::F32(100_000.0)),
            ("llama.block_count", Value::Unsigned(30)),
            ("exact", Value::F64(0.1)),
            ("pattern", Value::List(vec![Value::Bool(true), Value::Signed(-1)])),
            ("tokenizer.ggml.tokens", Value::Texts(vec!["a".to_owned()])),
            ("tokenizer.ggml.model", Value::Text("gpt2".to_owned())),
            ("long", Value::List(vec![Value::Unsigned(1); LONGEST + 1])),
        ] {
            metadata.insert(key.to_owned(), value);
        }
        let expected = r#"{"exact":0.1,"llama.attention.layer_norm_rms_epsilon":0.00001,"llama.block_count":30,"llama.rope.freq_base":100000.0,"pattern":[true,-1],"tokenizer.ggml.model":"gpt2"}"#;
        assert_eq!(config(&metadata).unwrap().to_string(), expected);
        metadata.insert("bad".to_owned(), Value::F32(f32::NAN));
        let error = config(&metadata).unwrap_err();
        assert_eq!(error.to_string(), "metadata `bad` should be a finite number");
    }

    #[test]
    fn a_missing_or_mistyped_key_is_named() {
        let mut metadata = Metadata::default();
        metadata.insert("n".to_owned(), Value::Signed(-1));
        assert_eq!(metadata.text("x").unwrap_err().to_string(), "metadata `x` is missing");
        let error = metadata.number("n").unwrap_err().to_string();
        assert_eq!(error, "metadata `n` should be a whole number");
        assert_eq!(metadata.text("n").unwrap_err(), wrong("n", "text"));
    }
}
