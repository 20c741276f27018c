//! Names that older versions gave to fields of `mapping` and `quantization`.
//!
//! Exporters of the first versions wrote the sizes of the mapping beside the base fields, as
//! `tensor_parallel` and so on; and they described quantisation by flags, where newer ones name a
//! scheme:
//!
//! | flags | `quant_algo` |
//! | --- | --- |
//! | `use_weight_only`, `weight_only_precision` int8, int4 | `W8A16`, `W4A16` |
//! | … int4_awq; int4_gptq, int8_gptq | `W4A16_AWQ`; `W4A16_GPTQ`, `W8A16_GPTQ` |
//! | `use_smooth_quant`, `per_channel` and `per_token` | `W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN` |
//! | … `per_channel` only | `W8A8_SQ_PER_CHANNEL_PER_TENSOR_PLUGIN` |
//! | … `per_token` only; neither | `W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN`; `W8A8_SQ_PER_TENSOR_PLUGIN` |
//! | … `sq_use_plugin` false | `W8A8_SQ_PER_CHANNEL` |
//! | `enable_fp8`; `enable_fp8_rowwise` | `FP8`; `FP8_PER_CHANNEL_PER_TOKEN` |
//! | `int8_kv_cache`; `fp8_kv_cache` | `kv_cache_quant_algo` `INT8`; `FP8` |

use crate::ConfigError;
use crate::config::Quantization;
use crate::parse::Section;

/// Old names of the sizes of a mapping, each with the new one. They stand beside the base fields.
pub(crate) const SIZES: [(&str, &str); 7] = [
    ("world_size", "world_size"),
    ("tensor_parallel", "tp_size"),
    ("tensor_parallel_size", "tp_size"),
    ("tp_size", "tp_size"),
    ("pipeline_parallel", "pp_size"),
    ("pipeline_parallel_size", "pp_size"),
    ("pp_size", "pp_size"),
];

/// The flags that describe a quantisation.
pub(crate) const FLAGS: [&str; 12] = [
    "use_weight_only",
    "weight_only_precision",
    "use_smooth_quant",
    "sq_use_plugin",
    "per_channel",
    "per_token",
    "per_group",
    "enable_fp8",
    "use_fp8_rowwise",
    "enable_fp8_rowwise",
    "int8_kv_cache",
    "fp8_kv_cache",
];

/// A size by an old name, and the name; `new` is that of `mapping`.
pub(crate) fn size(base: &Section<'_>, new: &str) -> Result<Option<(String, u64)>, ConfigError> {
    let mut found: Option<(String, u64)> = None;
    for (old, _) in SIZES.iter().filter(|(_, name)| *name == new) {
        let Some(size) = base.size(old)? else { continue };
        if found.is_none() {
            found = Some(((*old).to_owned(), size));
        }
    }
    Ok(found)
}

/// Puts what the flags of a section say into `quantization`.
///
/// # Errors
/// A flag that is none; flags that say something else than `quantization` does already.
pub(crate) fn quantization(
    section: &Section<'_>,
    quantization: &mut Quantization,
) -> Result<(), ConfigError> {
    if let Some((flag, scheme)) = scheme(section)? {
        settle(section, flag, scheme, "quantization.quant_algo", &mut quantization.quant_algo)?;
        let of = |name: &str| scheme.ends_with(name);
        quantization.pre_quant_scale |= of("_AWQ");
        quantization.has_zero_point |= of("_GPTQ");
    }
    let cache = [("int8_kv_cache", "INT8"), ("fp8_kv_cache", "FP8")];
    for (flag, scheme) in cache {
        if section.flag(flag)? {
            let key = "quantization.kv_cache_quant_algo";
            settle(section, flag, scheme, key, &mut quantization.kv_cache_quant_algo)?;
        }
    }
    Ok(())
}

/// The scheme that flags describe, and the flag that says so.
fn scheme(section: &Section<'_>) -> Result<Option<(&'static str, &'static str)>, ConfigError> {
    let flag = |name: &str| section.flag(name);
    let precision = section.text_or_null("weight_only_precision")?;
    let (channel, token) = (flag("per_channel")?, flag("per_token")?);
    let plugin = section.present("sq_use_plugin").is_none() || flag("sq_use_plugin")?;
    let group = flag("per_group")?;
    if flag("use_weight_only")? {
        let key = "weight_only_precision";
        let scheme = match precision.as_deref() {
            None | Some("int8") => "W8A16",
            // Groups without zero points are AWQ's.
            Some("int4") if group => "W4A16_AWQ",
            Some("int4") => "W4A16",
            Some("int4_awq") => "W4A16_AWQ",
            Some("int4_gptq") => "W4A16_GPTQ",
            Some("int8_gptq") => "W8A16_GPTQ",
            Some(other) => {
                let accepted = "int8, int4, int4_awq, int4_gptq, int8_gptq".to_owned();
                return Err(section.unknown_word(key, other, accepted));
            }
        };
        return Ok(Some(("use_weight_only", scheme)));
    }
    if flag("use_smooth_quant")? {
        let scheme = match (plugin, channel, token) {
            (false, ..) => "W8A8_SQ_PER_CHANNEL",
            (true, true, true) => "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN",
            (true, true, false) => "W8A8_SQ_PER_CHANNEL_PER_TENSOR_PLUGIN",
            (true, false, true) => "W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN",
            (true, false, false) => "W8A8_SQ_PER_TENSOR_PLUGIN",
        };
        return Ok(Some(("use_smooth_quant", scheme)));
    }
    for name in ["enable_fp8_rowwise", "use_fp8_rowwise"] {
        if flag(name)? {
            return Ok(Some((name, "FP8_PER_CHANNEL_PER_TOKEN")));
        }
    }
    Ok(flag("enable_fp8")?.then_some(("enable_fp8", "FP8")))
}

/// Sets what is not set yet; what is set must be the same.
fn settle(
    section: &Section<'_>,
    flag: &str,
    scheme: &str,
    new: &'static str,
    set: &mut Option<String>,
) -> Result<(), ConfigError> {
    match set {
        Some(found) if found != scheme => Err(ConfigError::OldName {
            old: section.key(flag),
            says: scheme.to_owned(),
            new,
            found: found.clone(),
        }),
        _ => {
            *set = Some(scheme.to_owned());
            Ok(())
        }
    }
}
