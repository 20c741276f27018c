//! `--build_config FILE`: the limits of a build as TensorRT-LLM writes them.
//!
//! A file is `{"max_batch_size": 8, …, "plugin_config": {"gemm_plugin": "float16", …}}`, with the
//! names of trtllm-build's flags; an engine's `config.json`, which holds such a file under
//! `build_config`, is one too. Limits are taken. What we would have to disobey is refused as the
//! flag is; what has no meaning is counted in one line, and what nobody knows is named.

use super::{Build, Does, Flag, Form, Script, given};
use crate::error::Usage;
use anyhow::Result;
use engraft_compile::BuildOptions;
use engraft_diagnostic::escape;
use serde_json::{Map, Value};
use std::path::Path;

/// Keys of the file that no flag has, and that change nothing here.
const FILE_ONLY: [&str; 13] = [
    "auto_parallel_config",
    "dtype",
    "force_num_profiles",
    "manage_weights",
    "opt_batch_size",
    "quantize_per_token_plugin",
    "quantize_tensor_plugin",
    "rmsnorm_quantization_plugin",
    "layernorm_quantization_plugin",
    "strongly_typed",
    "target",
    "use_mrope",
    "use_refit",
];

/// Keys that are spelled otherwise than their flags.
const RENAMED: [(&str, &str); 2] =
    [("use_strip_plan", "strip_plan"), ("weights_streaming", "weight_streaming")];

/// `given`, with the limits of the file where it has none.
///
/// # Errors
/// A file that cannot be read or is no such config; what we would have to disobey.
pub fn fill(mut given: BuildOptions, path: &Path) -> Result<BuildOptions> {
    let at = path.display();
    let bytes = engraft_files::read::whole(path, engraft_files::read::TEXT_LIMIT)?;
    let wrong = |what: String| {
        Usage::new(format!("--build_config {at}: {what}"))
            .help("give a build_config as TensorRT-LLM writes it, or an engine's config.json")
    };
    let file: Value =
        serde_json::from_slice(&bytes).map_err(|e| wrong(format!("it does not parse: {e}")))?;
    let inner = file.get("build_config").unwrap_or(&file);
    let Value::Object(inner) = inner else {
        return Err(wrong("it is no JSON object".to_owned()).into());
    };
    let found = entries(inner);
    for (name, limit) in [
        ("max_batch_size", &mut given.max_batch_size),
        ("max_input_len", &mut given.max_input_len),
        ("max_seq_len", &mut given.max_seq_len),
        ("max_num_tokens", &mut given.max_num_tokens),
        ("tokens_per_block", &mut given.tokens_per_block),
    ] {
        let Some((_, value)) = found.iter().find(|(key, _)| *key == name) else { continue };
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        let number =
            number.ok_or_else(|| wrong(format!("{name} is {}", escape(&value.to_string()))))?;
        limit.get_or_insert(number);
    }
    let flags = Build::flags();
    let mut asked = Vec::new();
    let mut idle = 0;
    for (key, value) in found {
        let Some(flag) = flags.iter().find(|flag| flag.name == key || flag.aliases.contains(&key))
        else {
            if !FILE_ONLY.contains(&key) {
                let key = escape(key);
                given::say(&format!("warning: --build_config: key `{key}` is read by nobody"));
            }
            continue;
        };
        match (flag.does, spelled(flag, value)) {
            (Does::Refused { .. }, Some(value)) => asked.push((*flag, value)),
            (Does::Idle(_), Some(_)) => idle += 1,
            _ => {}
        }
    }
    given::check(&format!("{at}: "), &asked)?;
    if idle > 0 {
        given::say(&format!(
            "note: --build_config: {idle} settings have no meaning here; docs/trtllm-flags.md says \
             why"
        ));
    }
    Ok(given)
}

/// All settings, those of the objects within too; what is null is not set.
fn entries(map: &Map<String, Value>) -> Vec<(&str, &Value)> {
    let mut all = Vec::new();
    for (key, value) in map {
        match (key.as_str(), value) {
            (_, Value::Null) => {}
            ("plugin_config" | "lora_config", Value::Object(inner)) => all.extend(entries(inner)),
            ("trtllm_modules_to_hf_modules", _) => {}
            (key, value) => {
                let flag = RENAMED.iter().find(|(name, _)| *name == key);
                all.push((flag.map_or(key, |(_, flag)| flag), value));
            }
        }
    }
    all
}

/// A setting as the flag's value; none where the flag would be left out.
fn spelled(flag: &Flag, value: &Value) -> Option<String> {
    match (flag.form, value) {
        (Form::Switch | Form::SwitchOrText, Value::Bool(on)) => on.then(String::new),
        (_, Value::Bool(on)) => Some(if *on { "enable" } else { "disable" }.to_owned()),
        (_, Value::Array(all)) if all.is_empty() => None,
        (_, Value::String(text)) if text.is_empty() => None,
        // Names of an enumeration may be in capitals, or numbers that begin at one: no mode.
        (Form::OneOf(names), Value::Number(one))
            if names.contains(&"none") && one.as_u64() == Some(1) =>
        {
            None
        }
        (Form::OneOf(_), Value::String(name)) => {
            let name = name.rsplit('.').next().unwrap_or(name);
            Some(name.to_ascii_lowercase())
        }
        (_, Value::String(text)) => Some(text.clone()),
        (_, value) => Some(value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str, given: BuildOptions) -> Result<BuildOptions, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("build.json");
        std::fs::write(&path, text).unwrap();
        fill(given, &path).map_err(|e| e.to_string())
    }

    #[test]
    fn limits_are_taken_and_the_command_line_goes_first() {
        let text = r#"{"max_input_len": 924, "max_seq_len": 1024, "opt_batch_size": 8,
            "max_batch_size": 16, "max_beam_width": 1, "max_num_tokens": 8192,
            "opt_num_tokens": null, "kv_cache_type": "PAGED", "strongly_typed": true,
            "speculative_decoding_mode": 1, "use_strip_plan": false, "weight_streaming": false,
            "lora_config": {"lora_dir": [], "max_lora_rank": 64},
            "plugin_config": {"gemm_plugin": "float16", "context_fmha": true, "lora_plugin": null,
                "streamingllm": false, "tokens_per_block": 64}}"#;
        let given = BuildOptions { max_batch_size: Some(4), ..BuildOptions::default() };
        let got = filled(text, given).unwrap();
        let wanted = BuildOptions {
            max_batch_size: Some(4),
            max_input_len: Some(924),
            max_seq_len: Some(1024),
            max_num_tokens: Some(8192),
            tokens_per_block: Some(64),
            ..BuildOptions::default()
        };
        assert_eq!(got, wanted);
        let engine = format!(r#"{{"version": "0.19.0", "build_config": {text}}}"#);
        let given = BuildOptions { max_batch_size: Some(4), ..BuildOptions::default() };
        assert_eq!(filled(&engine, given).unwrap(), wanted);
    }

    #[test]
    fn what_would_be_disobeyed_is_refused_by_name() {
        for (text, word) in [
            (r#"{"max_beam_width": 4}"#, "--max_beam_width 4"),
            (r#"{"kv_cache_type": "KVCacheType.CONTINUOUS"}"#, "--kv_cache_type continuous"),
            (r#"{"plugin_config": {"streamingllm": true}}"#, "--streamingllm enable"),
            (r#"{"use_strip_plan": true}"#, "--strip_plan"),
            (r#"{"speculative_decoding_mode": 8}"#, "--speculative_decoding_mode 8"),
            (r#"{"lora_config": {"lora_dir": ["a"]}}"#, "--lora_dir"),
            (r#"{"max_seq_len": -1}"#, "max_seq_len is -1"),
            ("[]", "no JSON object"),
            ("{", "does not parse"),
        ] {
            let what = filled(text, BuildOptions::default()).unwrap_err();
            assert!(what.contains(word), "{text}: {what}");
        }
    }
}
