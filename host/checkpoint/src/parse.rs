//! From the value of a config.json to the typed config, naming the key at fault.

use crate::ConfigError;
use crate::base::{BASE, Fallback};
use crate::config::{Config, Mapping, PositionEmbedding, Quantization};
use crate::old;
use engraft_ir::DType;
use serde_json::{Map, Value};

/// The largest count or width that a config may state; all real ones are far below.
const LARGEST: u64 = 1 << 40;

/// Keys of `mapping` that newer versions write and that say nothing of who has which weights.
const NEWER_MAPPING: [&str; 6] = [
    "moe_cluster_size",
    "attn_tp_size",
    "attn_cp_size",
    "cp_config",
    "enable_attention_dp",
    "auto_parallel",
];

pub(crate) fn config(value: &Value) -> Result<Config, ConfigError> {
    let Value::Object(map) = value else {
        return Err(ConfigError::Type {
            key: String::new(),
            expected: "an object",
            found: describe(value),
        });
    };
    let base = Section { map, prefix: "" };
    let own: Map<String, Value> = map
        .iter()
        .filter(|(name, _)| BASE.iter().all(|field| field.name != *name) && !is_old(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();

    let hidden_size = base.count("hidden_size")?;
    let num_attention_heads = base.count("num_attention_heads")?;
    let head_size = base.size("head_size")?.unwrap_or(hidden_size / num_attention_heads.max(1));
    let position = base.text("position_embedding_type")?;
    let position_embedding_type = PositionEmbedding::from_name(&position).ok_or_else(|| {
        let accepted = PositionEmbedding::names();
        base.unknown_word("position_embedding_type", &position, accepted)
    })?;
    Ok(Config {
        architecture: base.text("architecture")?,
        dtype: base.dtype("dtype")?,
        logits_dtype: base.dtype("logits_dtype")?,
        vocab_size: base.size("vocab_size")?,
        max_position_embeddings: base.size("max_position_embeddings")?,
        hidden_size,
        num_hidden_layers: base.count("num_hidden_layers")?,
        num_attention_heads,
        num_key_value_heads: base.size("num_key_value_heads")?.unwrap_or(num_attention_heads),
        head_size,
        qk_layernorm: base.flag("qk_layernorm")?,
        hidden_act: base.text("hidden_act")?,
        intermediate_size: base.size("intermediate_size")?.unwrap_or(hidden_size.saturating_mul(4)),
        norm_epsilon: base.number("norm_epsilon")?,
        position_embedding_type,
        rotary_embedding_dim: rotary_width(&base, head_size)?,
        use_parallel_embedding: base.flag("use_parallel_embedding")?,
        embedding_sharding_dim: base.integer("embedding_sharding_dim", 0)?,
        share_embedding_table: base.flag("share_embedding_table")?,
        mapping: mapping(&base)?,
        quantization: quantization(&base)?,
        runtime_defaults: base.present("runtime_defaults").cloned(),
        own,
    })
}

/// The field itself, else GPT-J's `rotary_dim`, else the share `rotary_pct` of a head.
fn rotary_width(base: &Section<'_>, head_size: u64) -> Result<u64, ConfigError> {
    for name in ["rotary_embedding_dim", "rotary_dim"] {
        if base.present(name).is_some() {
            return base.integer(name, 0);
        }
    }
    let share = base.number_or("rotary_pct", 1.0)?;
    Ok((head_size as f64 * share) as u64)
}

/// Whether it is an old name of a field of `mapping` or `quantization`, which say it from now on.
fn is_old(name: &str) -> bool {
    old::SIZES.iter().any(|(old, _)| *old == name) || old::FLAGS.contains(&name)
}

fn mapping(base: &Section<'_>) -> Result<Mapping, ConfigError> {
    let none = Map::new();
    let given = base.section("mapping")?;
    let section = match &given {
        Some(section) => Section { map: section.map, prefix: section.prefix },
        None => Section { map: &none, prefix: "mapping." },
    };
    let own = [
        "world_size",
        "tp_size",
        "pp_size",
        "cp_size",
        "gpus_per_node",
        "moe_tp_size",
        "moe_ep_size",
    ];
    section.only(|name| own.contains(&name) || NEWER_MAPPING.contains(&name))?;
    // A size may stand under an old name beside the base fields, and must then be the same.
    let or = |name: &'static str, key: &'static str, fallback: u64| {
        let older = old::size(base, name)?;
        let size = section.integer(name, older.as_ref().map_or(fallback, |(_, size)| *size))?;
        match older {
            Some((old, says)) if says != size => Err(ConfigError::OldName {
                old,
                says: says.to_string(),
                new: key,
                found: size.to_string(),
            }),
            _ => Ok(size),
        }
    };
    let tp_size = or("tp_size", "mapping.tp_size", 1)?;
    let pp_size = or("pp_size", "mapping.pp_size", 1)?;
    let cp_size = section.integer("cp_size", 1)?;
    // What it must be, where nothing says it.
    let product = tp_size.checked_mul(pp_size).and_then(|n| n.checked_mul(cp_size));
    // -1 is how a mapping says "whatever follows from the rest".
    let auto = |name: &str, fallback: u64| match section.present(name).and_then(Value::as_i64) {
        Some(-1) => Ok(fallback),
        _ => section.integer(name, fallback),
    };
    let moe_ep_size = auto("moe_ep_size", 1)?;
    let mapping = Mapping {
        world_size: or("world_size", "mapping.world_size", product.unwrap_or(0))?,
        tp_size,
        pp_size,
        cp_size,
        gpus_per_node: section.integer("gpus_per_node", 8)?,
        moe_tp_size: auto("moe_tp_size", tp_size / moe_ep_size.max(1))?,
        moe_ep_size,
    };
    if product != Some(mapping.world_size) {
        return Err(ConfigError::WorldSize {
            world_size: mapping.world_size,
            tp_size: mapping.tp_size,
            pp_size: mapping.pp_size,
            cp_size: mapping.cp_size,
        });
    }
    Ok(mapping)
}

fn quantization(base: &Section<'_>) -> Result<Quantization, ConfigError> {
    let mut quantization = Quantization::default();
    if let Some(section) = base.section("quantization")? {
        let own = [
            "quant_algo",
            "kv_cache_quant_algo",
            "group_size",
            "smoothquant_val",
            "clamp_val",
            "use_meta_recipe",
            "has_zero_point",
            "pre_quant_scale",
            "exclude_modules",
        ];
        section.only(|name| own.contains(&name) || old::FLAGS.contains(&name))?;
        quantization = Quantization {
            quant_algo: section.text_or_null("quant_algo")?,
            kv_cache_quant_algo: section.text_or_null("kv_cache_quant_algo")?,
            group_size: section.integer("group_size", 128)?,
            smoothquant_val: section.number_or("smoothquant_val", 0.5)?,
            clamp_val: section.bounds("clamp_val")?,
            use_meta_recipe: section.flag("use_meta_recipe")?,
            has_zero_point: section.flag("has_zero_point")?,
            pre_quant_scale: section.flag("pre_quant_scale")?,
            exclude_modules: section.texts("exclude_modules")?,
        };
        old::quantization(&section, &mut quantization)?;
    }
    old::quantization(base, &mut quantization)?;
    Ok(quantization)
}

/// One object of the config.
pub(crate) struct Section<'a> {
    map: &'a Map<String, Value>,
    prefix: &'static str,
}

impl<'a> Section<'a> {
    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// A field that is there and not null.
    pub(crate) fn present(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    fn wrong(&self, name: &str, expected: &'static str, found: &Value) -> ConfigError {
        ConfigError::Type { key: self.key(name), expected, found: describe(found) }
    }

    pub(crate) fn unknown_word(&self, name: &str, found: &str, accepted: String) -> ConfigError {
        ConfigError::Word { key: self.key(name), found: found.to_owned(), accepted }
    }

    fn fallback(&self, name: &str) -> Option<Fallback> {
        BASE.iter().find(|f| self.prefix.is_empty() && f.name == name).map(|f| f.fallback)
    }

    fn missing(&self, name: &str) -> ConfigError {
        ConfigError::Missing { key: self.key(name) }
    }

    fn only(&self, known: impl Fn(&str) -> bool) -> Result<(), ConfigError> {
        match self.map.keys().find(|name| !known(name)) {
            Some(name) => Err(ConfigError::UnknownKey { key: self.key(name) }),
            None => Ok(()),
        }
    }

    fn section(&self, name: &'static str) -> Result<Option<Section<'a>>, ConfigError> {
        let prefix = match name {
            "mapping" => "mapping.",
            _ => "quantization.",
        };
        match self.present(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Section { map, prefix })),
            Some(other) => Err(self.wrong(name, "an object", other)),
        }
    }

    pub(crate) fn flag(&self, name: &str) -> Result<bool, ConfigError> {
        match self.present(name) {
            None => Ok(matches!(self.fallback(name), Some(Fallback::Flag(true)))),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.wrong(name, "true or false", other)),
        }
    }

    fn integer(&self, name: &str, fallback: u64) -> Result<u64, ConfigError> {
        match self.present(name) {
            None => Ok(fallback),
            Some(value) => value
                .as_u64()
                .filter(|&n| n <= LARGEST)
                .ok_or_else(|| self.wrong(name, "a whole number that is not negative", value)),
        }
    }

    /// An optional size: at least one where it is there.
    pub(crate) fn size(&self, name: &str) -> Result<Option<u64>, ConfigError> {
        match self.present(name) {
            None => Ok(None),
            Some(value) => match value.as_u64() {
                Some(n) if (1..=LARGEST).contains(&n) => Ok(Some(n)),
                _ => Err(self.wrong(name, "a whole number of at least 1", value)),
            },
        }
    }

    /// A size without which there is no checkpoint.
    fn count(&self, name: &str) -> Result<u64, ConfigError> {
        self.size(name)?.ok_or_else(|| self.missing(name))
    }

    fn number_or(&self, name: &str, fallback: f64) -> Result<f64, ConfigError> {
        match self.present(name) {
            None => Ok(fallback),
            Some(value) => value.as_f64().ok_or_else(|| self.wrong(name, "a number", value)),
        }
    }

    fn number(&self, name: &str) -> Result<f64, ConfigError> {
        match (self.present(name), self.fallback(name)) {
            (None, Some(Fallback::Number(number))) => Ok(number),
            (None, _) => Err(self.missing(name)),
            (Some(_), _) => self.number_or(name, 0.0),
        }
    }

    pub(crate) fn text_or_null(&self, name: &str) -> Result<Option<String>, ConfigError> {
        match self.present(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(self.wrong(name, "a string", other)),
        }
    }

    fn text(&self, name: &str) -> Result<String, ConfigError> {
        match (self.text_or_null(name)?, self.fallback(name)) {
            (Some(text), _) => Ok(text),
            (None, Some(Fallback::Text(text))) => Ok(text.to_owned()),
            (None, _) => Err(self.missing(name)),
        }
    }

    fn dtype(&self, name: &str) -> Result<DType, ConfigError> {
        let text = self.text(name)?;
        DType::from_config_name(&text)
            .filter(|dtype| dtype.is_float())
            .ok_or_else(|| self.unknown_word(name, &text, "float32, float16, bfloat16".to_owned()))
    }

    fn texts(&self, name: &str) -> Result<Option<Vec<String>>, ConfigError> {
        let Some(value) = self.present(name) else {
            return Ok(None);
        };
        let texts = value.as_array().and_then(|items| {
            items.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        });
        texts.map(Some).ok_or_else(|| self.wrong(name, "a list of strings", value))
    }

    fn bounds(&self, name: &str) -> Result<Option<[f64; 2]>, ConfigError> {
        let Some(value) = self.present(name) else {
            return Ok(None);
        };
        match value.as_array().map(Vec::as_slice) {
            Some([low, high]) => match (low.as_f64(), high.as_f64()) {
                (Some(low), Some(high)) => Ok(Some([low, high])),
                _ => Err(self.wrong(name, "two numbers", value)),
            },
            _ => Err(self.wrong(name, "two numbers", value)),
        }
    }
}

/// A value as an error shows it, cut short.
fn describe(value: &Value) -> String {
    let text = match value {
        Value::Array(items) => return format!("a list of {}", items.len()),
        Value::Object(_) => return "an object".to_owned(),
        other => other.to_string(),
    };
    engraft_diagnostic::escape(&text)
}

#[cfg(test)]
mod tests;
