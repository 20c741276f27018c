//! A checkpoint's config.json, typed.

use crate::ConfigError;
use crate::parse;
use engraft_ir::DType;
use engraft_quant::Scheme;
use serde_json::{Map, Value, json};
use std::fmt;

/// How positions reach the model; [`fmt::Display`] is the config's spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names of TensorRT-LLM's config say all there is to say")]
pub enum PositionEmbedding {
    LearnedAbsolute,
    RopeGptJ,
    RopeGptNeox,
    LongRope,
    Alibi,
    AlibiWithScale,
    Relative,
    ChatGlm,
    Yarn,
    MRope,
}

pub(crate) const POSITIONS: [(PositionEmbedding, &str); 10] = [
    (PositionEmbedding::LearnedAbsolute, "learned_absolute"),
    (PositionEmbedding::RopeGptJ, "rope_gptj"),
    (PositionEmbedding::RopeGptNeox, "rope_gpt_neox"),
    (PositionEmbedding::LongRope, "long_rope"),
    (PositionEmbedding::Alibi, "alibi"),
    (PositionEmbedding::AlibiWithScale, "alibi_with_scale"),
    (PositionEmbedding::Relative, "relative"),
    (PositionEmbedding::ChatGlm, "chatglm"),
    (PositionEmbedding::Yarn, "yarn"),
    (PositionEmbedding::MRope, "mrope"),
];

impl PositionEmbedding {
    /// The inverse of the spelling.
    pub fn from_name(name: &str) -> Option<PositionEmbedding> {
        POSITIONS.iter().find(|(_, n)| *n == name).map(|(p, _)| *p)
    }

    /// All spellings, for an error's help.
    pub(crate) fn names() -> String {
        POSITIONS.map(|(_, name)| name).join(", ")
    }
}

impl fmt::Display for PositionEmbedding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(POSITIONS[*self as usize].1)
    }
}

/// How a model is split over ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// All ranks: the product of the three below.
    pub world_size: u64,
    /// Ranks that share each matrix.
    pub tp_size: u64,
    /// Ranks one behind the other.
    pub pp_size: u64,
    /// Ranks that share a context.
    pub cp_size: u64,
    /// GPUs of a machine; whoever builds overwrites it.
    pub gpus_per_node: u64,
    /// Ranks that share each expert's matrices.
    pub moe_tp_size: u64,
    /// Ranks that share the list of experts.
    pub moe_ep_size: u64,
}

impl Default for Mapping {
    fn default() -> Mapping {
        Mapping {
            world_size: 1,
            tp_size: 1,
            pp_size: 1,
            cp_size: 1,
            gpus_per_node: 8,
            moe_tp_size: 1,
            moe_ep_size: 1,
        }
    }
}

/// How a model is quantised.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantization {
    /// The weights' scheme by TensorRT-LLM's name, such as `W4A16_AWQ`.
    pub quant_algo: Option<String>,
    /// The cache's: `INT8` or `FP8`.
    pub kv_cache_quant_algo: Option<String>,
    /// Input channels that share a scale.
    pub group_size: u64,
    /// SmoothQuant's alpha, for the record.
    pub smoothquant_val: f64,
    /// Bounds of activations, of row-wise FP8 only.
    pub clamp_val: Option<[f64; 2]>,
    /// Of row-wise FP8 only.
    pub use_meta_recipe: bool,
    /// Whether there are zero points.
    pub has_zero_point: bool,
    /// Whether inputs are scaled before a product.
    pub pre_quant_scale: bool,
    /// Modules left alone; none is the scheme's default list.
    pub exclude_modules: Option<Vec<String>>,
}

impl Default for Quantization {
    fn default() -> Quantization {
        Quantization {
            quant_algo: None,
            kv_cache_quant_algo: None,
            group_size: 128,
            smoothquant_val: 0.5,
            clamp_val: None,
            use_meta_recipe: false,
            has_zero_point: false,
            pre_quant_scale: false,
            exclude_modules: None,
        }
    }
}

/// A checkpoint's config: [`crate::BASE`] as typed fields, which say what each is, and the rest.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each field's sentence stands in the table of base fields")]
pub struct Config {
    pub architecture: String,
    pub dtype: DType,
    pub logits_dtype: DType,
    pub vocab_size: Option<u64>,
    pub max_position_embeddings: Option<u64>,
    pub hidden_size: u64,
    pub num_hidden_layers: u64,
    pub num_attention_heads: u64,
    pub num_key_value_heads: u64,
    pub head_size: u64,
    pub qk_layernorm: bool,
    pub hidden_act: String,
    pub intermediate_size: u64,
    pub norm_epsilon: f64,
    pub position_embedding_type: PositionEmbedding,
    pub rotary_embedding_dim: u64,
    pub use_parallel_embedding: bool,
    pub embedding_sharding_dim: u64,
    pub share_embedding_table: bool,
    pub mapping: Mapping,
    pub quantization: Quantization,
    pub runtime_defaults: Option<Value>,
    /// Every other field, word for word: the architecture's own, and what a writer added.
    pub own: Map<String, Value>,
}

impl Config {
    /// Reads the value of a config.json. Absent and null fields get their fallbacks; unknown
    /// fields go to [`Config::own`], but in `mapping` and `quantization`, where TensorRT-LLM
    /// refuses them, they are errors.
    pub fn from_json(value: &Value) -> Result<Config, ConfigError> {
        parse::config(value)
    }

    /// The inverse: every base field in the table's order, then the own ones in theirs.
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        let mut put = |name: &str, value: Value| map.insert(name.to_owned(), value);
        put("architecture", json!(self.architecture));
        put("dtype", json!(self.dtype.config_name()));
        put("logits_dtype", json!(self.logits_dtype.config_name()));
        put("vocab_size", json!(self.vocab_size));
        put("max_position_embeddings", json!(self.max_position_embeddings));
        put("hidden_size", json!(self.hidden_size));
        put("num_hidden_layers", json!(self.num_hidden_layers));
        put("num_attention_heads", json!(self.num_attention_heads));
        put("num_key_value_heads", json!(self.num_key_value_heads));
        put("head_size", json!(self.head_size));
        put("qk_layernorm", json!(self.qk_layernorm));
        put("hidden_act", json!(self.hidden_act));
        put("intermediate_size", json!(self.intermediate_size));
        put("norm_epsilon", json!(self.norm_epsilon));
        put("position_embedding_type", json!(self.position_embedding_type.to_string()));
        put("rotary_embedding_dim", json!(self.rotary_embedding_dim));
        put("use_parallel_embedding", json!(self.use_parallel_embedding));
        put("embedding_sharding_dim", json!(self.embedding_sharding_dim));
        put("share_embedding_table", json!(self.share_embedding_table));
        put("mapping", self.mapping.to_json());
        put("quantization", self.quantization.to_json());
        put("runtime_defaults", json!(self.runtime_defaults));
        for (name, value) in &self.own {
            // A base field is said once, by its typed value.
            if !map.contains_key(name) {
                map.insert(name.clone(), value.clone());
            }
        }
        Value::Object(map)
    }

    /// The bytes of its file.
    pub fn to_text(&self) -> Vec<u8> {
        let mut text = format!("{:#}", self.to_json()).into_bytes();
        text.push(b'\n');
        text
    }

    /// Whether the head is the embedding: `tie_word_embeddings` among the own fields, or
    /// `share_embedding_table`, as older versions say it.
    pub fn is_tied(&self) -> bool {
        self.share_embedding_table
            || self.own.get("tie_word_embeddings") == Some(&Value::Bool(true))
    }

    /// Whether the config says that the head is a matrix of its own.
    pub(crate) fn is_untied(&self) -> bool {
        !self.is_tied() && self.own.get("tie_word_embeddings") == Some(&Value::Bool(false))
    }

    /// Turns down what this version cannot work with: schemes of quantisation that are not known,
    /// context parallelism, mappings that make no sense.
    ///
    /// # Errors
    /// What that is, and the key that says so.
    pub fn check_supported(&self) -> Result<(), ConfigError> {
        let scheme = |name: &Option<String>| name.clone().filter(|n| n != "NO_QUANT");
        let algorithm = scheme(&self.quantization.quant_algo);
        if let Some(algorithm) = algorithm.filter(|name| Scheme::from_name(name).is_err()) {
            return Err(ConfigError::Quantised { key: "quantization.quant_algo", algorithm });
        }
        if let Some(algorithm) = scheme(&self.quantization.kv_cache_quant_algo) {
            let key = "quantization.kv_cache_quant_algo";
            return Err(ConfigError::Quantised { key, algorithm });
        }
        if self.embedding_sharding_dim > 1 {
            let (key, found) = ("embedding_sharding_dim".to_owned(), self.embedding_sharding_dim);
            return Err(ConfigError::Type { key, expected: "0 or 1", found: found.to_string() });
        }
        self.mapping.ir().map(|_| ())
    }
}

impl Mapping {
    /// The same for the host.
    ///
    /// # Errors
    /// [`ConfigError::Split`]: a size of 0, more ranks than are believed, experts' sizes that do
    /// not multiply out, context parallelism.
    pub fn ir(&self) -> Result<engraft_ir::Mapping, ConfigError> {
        let split = |reason: String| ConfigError::Split { reason };
        if self.cp_size != 1 {
            let cp_size = self.cp_size;
            return Err(split(format!("cp_size is {cp_size}; only 1 is supported")));
        }
        let size = |name: &str, size: u64| {
            u32::try_from(size).map_err(|_| split(format!("{name} {size} is too large")))
        };
        let mapping = engraft_ir::Mapping {
            tp_size: size("tp_size", self.tp_size)?,
            pp_size: size("pp_size", self.pp_size)?,
            moe_tp_size: size("moe_tp_size", self.moe_tp_size)?,
            moe_ep_size: size("moe_ep_size", self.moe_ep_size)?,
        };
        mapping.check().map_err(split)?;
        Ok(mapping)
    }

    /// As little as says it: TensorRT-LLM's versions differ in which further keys they refuse.
    pub(crate) fn to_json(&self) -> Value {
        let mut map = Map::new();
        let mut put = |name: &str, size: u64, usual: Option<u64>| {
            if usual != Some(size) {
                map.insert(name.to_owned(), json!(size));
            }
        };
        put("world_size", self.world_size, None);
        put("tp_size", self.tp_size, None);
        put("pp_size", self.pp_size, None);
        put("cp_size", self.cp_size, Some(1));
        put("gpus_per_node", self.gpus_per_node, Some(8));
        // One follows from the other.
        if self.moe_ep_size != 1 || self.moe_tp_size != self.tp_size {
            put("moe_tp_size", self.moe_tp_size, None);
            put("moe_ep_size", self.moe_ep_size, None);
        }
        Value::Object(map)
    }
}

impl From<engraft_ir::Mapping> for Mapping {
    fn from(mapping: engraft_ir::Mapping) -> Mapping {
        let engraft_ir::Mapping { tp_size, pp_size, moe_tp_size, moe_ep_size } = mapping;
        Mapping {
            world_size: mapping.world_size().into(),
            tp_size: tp_size.into(),
            pp_size: pp_size.into(),
            moe_tp_size: moe_tp_size.into(),
            moe_ep_size: moe_ep_size.into(),
            ..Mapping::default()
        }
    }
}

impl Quantization {
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "quant_algo": self.quant_algo,
            "kv_cache_quant_algo": self.kv_cache_quant_algo,
            "group_size": self.group_size,
            "smoothquant_val": self.smoothquant_val,
            "clamp_val": self.clamp_val,
            "use_meta_recipe": self.use_meta_recipe,
            "has_zero_point": self.has_zero_point,
            "pre_quant_scale": self.pre_quant_scale,
            "exclude_modules": self.exclude_modules,
        })
    }
}
