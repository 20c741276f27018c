//! The tokenizer in a GGUF file's metadata, as the files that a HuggingFace model has.
//!
//! Everybody downstream then knows one form only. What the metadata does not spell out, above all
//! how text is split before merging, goes by a name that stands for a rule; a name that is not
//! known is an error, since another rule would give other tokens and nobody would notice.

mod bpe;
mod sentencepiece;

use std::collections::BTreeMap;

use engraft_diagnostic::escape;
use serde_json::{Map, Value as Json, json};

use super::metadata::{Metadata, wrong};
use super::{GgufError, TextFiles};

const MODEL: &str = "tokenizer.ggml.model";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";

/// What a token is, as the file numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TokenType {
    /// Made by merging.
    Ordinary,
    /// Stands for what has no token.
    Unknown,
    /// Steers; no text makes it but its own spelling.
    Control,
    /// Found whole in a text, before anything is split.
    UserDefined,
    /// One byte, for what has no token.
    Byte,
}

/// The vocabulary: what every kind of tokenizer has.
struct Vocabulary<'a> {
    tokens: &'a [String],
    types: Vec<TokenType>,
    ids: BTreeMap<&'a str, usize>,
}

impl<'a> Vocabulary<'a> {
    fn read(metadata: &'a Metadata) -> Result<Vocabulary<'a>, GgufError> {
        let tokens = metadata.texts(TOKENS)?;
        let types = metadata.integers(TYPES)?.into_iter().map(|number| match number {
            // 5 is a token that is there and never used.
            1 | 5 => Ok(TokenType::Ordinary),
            2 => Ok(TokenType::Unknown),
            3 => Ok(TokenType::Control),
            4 => Ok(TokenType::UserDefined),
            6 => Ok(TokenType::Byte),
            _ => Err(wrong(TYPES, "a list of numbers from 1 to 6")),
        });
        let types = types.collect::<Result<Vec<_>, _>>()?;
        if types.len() != tokens.len() {
            return Err(wrong(TYPES, "as long as the list of tokens"));
        }
        let mut ids = BTreeMap::new();
        for (id, token) in tokens.iter().enumerate() {
            if ids.insert(token.as_str(), id).is_some() {
                return Err(GgufError::Twice(format!("token `{}`", escape(token))));
            }
        }
        Ok(Vocabulary { tokens, types, ids })
    }

    /// The object of tokens to ids, in the order of the ids.
    fn json(&self) -> Json {
        let pairs = self.tokens.iter().enumerate();
        Json::Object(pairs.map(|(id, token)| (token.clone(), Json::from(id))).collect())
    }

    /// The tokens that are found whole, before anything is split.
    fn added(&self) -> impl Iterator<Item = (usize, Json)> {
        self.types.iter().enumerate().filter_map(|(id, kind)| {
            let special = match kind {
                TokenType::Unknown | TokenType::Control => true,
                TokenType::UserDefined => false,
                TokenType::Ordinary | TokenType::Byte => return None,
            };
            let token = json!({
                "content": self.tokens[id],
                "single_word": false,
                "lstrip": false,
                "rstrip": false,
                "normalized": false,
                "special": special,
            });
            Some((id, token))
        })
    }
}

/// The tokens with a role, and what is added to every text.
struct Roles<'a> {
    bos: Option<(usize, &'a str)>,
    eos: Option<(usize, &'a str)>,
    unknown: Option<(usize, &'a str)>,
    padding: Option<(usize, &'a str)>,
    /// What ends a turn of a conversation, where that is another token than `eos`.
    end_of_turn: Option<(usize, &'a str)>,
    adds_bos: bool,
    adds_eos: bool,
}

impl<'a> Roles<'a> {
    fn read(
        metadata: &Metadata,
        tokens: &'a [String],
        adds_bos: bool,
    ) -> Result<Roles<'a>, GgufError> {
        let role = |name: &str| {
            let key = format!("tokenizer.ggml.{name}_token_id");
            let Some(id) = metadata.number(&key)? else { return Ok(None) };
            let token = usize::try_from(id).ok().and_then(|id| Some((id, tokens.get(id)?)));
            let (id, token) = token.ok_or_else(|| wrong(&key, "the number of a token"))?;
            Ok(Some((id, token.as_str())))
        };
        let adds = |name: &str| metadata.truth(&format!("tokenizer.ggml.add_{name}_token"));
        Ok(Roles {
            bos: role("bos")?,
            eos: role("eos")?,
            unknown: role("unknown")?,
            padding: role("padding")?,
            end_of_turn: role("eot")?,
            adds_bos: adds("bos")?.unwrap_or(adds_bos),
            adds_eos: adds("eos")?.unwrap_or(false),
        })
    }

    /// The step that adds `bos` and `eos` to a text, or `null`.
    fn post_processor(&self) -> Json {
        let bos = self.bos.filter(|_| self.adds_bos);
        let eos = self.eos.filter(|_| self.adds_eos);
        if bos.is_none() && eos.is_none() {
            return Json::Null;
        }
        let piece = |token: Option<(usize, &str)>, part: usize| {
            token.map(|(_, text)| json!({"SpecialToken": {"id": text, "type_id": part}}))
        };
        let text = |name: &str, part: usize| {
            let sequence = json!({"Sequence": {"id": name, "type_id": part}});
            [piece(bos, part), Some(sequence), piece(eos, part)].into_iter().flatten()
        };
        let mut special_tokens = Map::new();
        for (id, token) in [bos, eos].into_iter().flatten() {
            let entry = json!({"id": token, "ids": [id], "tokens": [token]});
            special_tokens.insert(token.to_owned(), entry);
        }
        json!({
            "type": "TemplateProcessing",
            "single": text("A", 0).collect::<Vec<_>>(),
            "pair": text("A", 0).chain(text("B", 1)).collect::<Vec<_>>(),
            "special_tokens": special_tokens,
        })
    }

    /// The special tokens by the names that HuggingFace gives their roles.
    fn named(&self) -> Map<String, Json> {
        [
            ("bos_token", self.bos),
            ("eos_token", self.eos),
            ("unk_token", self.unknown),
            ("pad_token", self.padding),
        ]
        .into_iter()
        .filter_map(|(name, token)| Some((name.to_owned(), Json::from(token?.1))))
        .collect()
    }
}

/// The parts of a `tokenizer.json` in which kinds of tokenizers differ.
struct Parts {
    normalizer: Json,
    pre_tokenizer: Json,
    decoder: Json,
    model: Json,
    /// Whether `bos` is added where the file does not say.
    adds_bos: bool,
}

/// The files that the metadata amounts to; none where it has no tokenizer.
pub(crate) fn files(metadata: &Metadata) -> Result<TextFiles, GgufError> {
    let mut files = TextFiles::new();
    let kind = match metadata.find_text(MODEL)? {
        None | Some("none" | "no_vocab") => return Ok(files),
        Some(kind) => kind,
    };
    // The kind first: to know it is worth more than to know which of its lists is missing.
    let parts = match kind {
        "gpt2" => bpe::parts,
        "llama" => sentencepiece::parts,
        _ => return Err(GgufError::TokenizerModel(kind.to_owned())),
    };
    let vocabulary = Vocabulary::read(metadata)?;
    let parts = parts(metadata, &vocabulary)?;
    let roles = Roles::read(metadata, vocabulary.tokens, parts.adds_bos)?;
    let added = vocabulary.added().map(|(id, mut token)| {
        token["id"] = Json::from(id);
        token
    });
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": parts.normalizer,
        "pre_tokenizer": parts.pre_tokenizer,
        "post_processor": roles.post_processor(),
        "decoder": parts.decoder,
        "model": parts.model,
    });
    files.insert("tokenizer.json".to_owned(), text(&tokenizer));
    let config = tokenizer_config(metadata, &vocabulary, &roles)?;
    files.insert("tokenizer_config.json".to_owned(), text(&config));
    let special = Json::Object(roles.named());
    files.insert("special_tokens_map.json".to_owned(), text(&special));
    files.insert("generation_config.json".to_owned(), text(&generation_config(&roles)));
    Ok(files)
}

fn tokenizer_config(
    metadata: &Metadata,
    vocabulary: &Vocabulary<'_>,
    roles: &Roles<'_>,
) -> Result<Json, GgufError> {
    let mut config = roles.named();
    let mut set = |key: &str, value: Json| drop(config.insert(key.to_owned(), value));
    let decoder = vocabulary.added().map(|(id, token)| (id.to_string(), token));
    set("added_tokens_decoder", Json::Object(decoder.collect()));
    set("add_bos_token", Json::from(roles.adds_bos));
    set("add_eos_token", Json::from(roles.adds_eos));
    set("clean_up_tokenization_spaces", Json::from(false));
    let architecture = metadata.text("general.architecture")?;
    if let Some(length) = metadata.number(&format!("{architecture}.context_length"))? {
        set("model_max_length", Json::from(length));
    }
    set("tokenizer_class", Json::from("PreTrainedTokenizerFast"));
    if let Some(template) = metadata.find_text("tokenizer.chat_template")? {
        set("chat_template", Json::from(template));
    }
    Ok(Json::Object(config))
}

fn generation_config(roles: &Roles<'_>) -> Json {
    let mut config = Map::new();
    let mut set = |key: &str, value: Json| drop(config.insert(key.to_owned(), value));
    if let Some((id, _)) = roles.bos {
        set("bos_token_id", Json::from(id));
    }
    let mut ends: Vec<usize> =
        roles.eos.iter().chain(&roles.end_of_turn).map(|end| end.0).collect();
    ends.dedup();
    match ends.as_slice() {
        [] => {}
        [end] => set("eos_token_id", Json::from(*end)),
        _ => set("eos_token_id", Json::from(ends)),
    }
    if let Some((id, _)) = roles.padding {
        set("pad_token_id", Json::from(id));
    }
    Json::Object(config)
}

fn text(json: &Json) -> Vec<u8> {
    format!("{json:#}\n").into_bytes()
}

#[cfg(test)]
mod tests;
