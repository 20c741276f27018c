//! GGUF's words for the fields of decoders.
//!
//! The keys of a GGUF file begin with the name of its architecture, as in `llama.block_count`. A
//! plugin may know several: then all keys are asked for, and those of the file's own count. What
//! GGUF has no key for is the architecture's own business, or shows in which tensors there are.

use crate::settings::{Names, renamed};
use crate::{
    Fallback, Field, REQUIRED, Refusal, Setting, SettingValue, Settings, refuse, set, text,
};

/// The dialect's name.
pub(crate) const GGUF: &str = "gguf";

/// What a layer norm's epsilon is called; what is usual is a root-mean-square norm's.
pub const GGUF_LAYER_NORM: (&str, &str) = ("rms_norm_eps", "attention.layer_norm_epsilon");

/// Where a file says what it is.
const ARCHITECTURE: &str = "general.architecture";

/// Fields that GGUF says otherwise: whether there is a tensor for the head, how many elements of
/// a head turn.
const OTHERWISE: [&str; 4] = [
    "tie_word_embeddings",
    "partial_rotary_factor",
    "rotary_pct",
    "rope_parameters.partial_rotary_factor",
];

/// What GGUF calls fields, by the plugin's names for them.
const NAMES: [(&str, &str); 24] = [
    ("num_hidden_layers", "block_count"),
    ("hidden_size", "embedding_length"),
    ("intermediate_size", "feed_forward_length"),
    ("num_attention_heads", "attention.head_count"),
    ("num_key_value_heads", "attention.head_count_kv"),
    ("head_dim", "attention.key_length"),
    ("v_head_dim", "attention.value_length"),
    ("rotary_dim", "rope.dimension_count"),
    ("vocab_size", "vocab_size"),
    ("max_position_embeddings", "context_length"),
    ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
    ("sliding_window", "attention.sliding_window"),
    ("rope_theta", "rope.freq_base"),
    ("rope_scaling.type", "rope.scaling.type"),
    ("rope_scaling.factor", "rope.scaling.factor"),
    ("rope_scaling.original_max_position_embeddings", "rope.scaling.original_context_length"),
    ("rope_scaling.beta_fast", "rope.scaling.yarn_beta_fast"),
    ("rope_scaling.beta_slow", "rope.scaling.yarn_beta_slow"),
    ("rope_scaling.attn_factor", "rope.scaling.attn_factor"),
    ("rope_scaling.ext_factor", "rope.scaling.yarn_ext_factor"),
    ("tensor:lm_head.weight", "tensor:output.weight"),
    ("rope_freqs.weight", "rope_freqs.weight"),
    ("rope_factors_short.weight", "rope_factors_short.weight"),
    ("rope_factors_long.weight", "rope_factors_long.weight"),
];

/// What a GGUF file calls the architecture that is `gguf:NAME` elsewhere. Plugins spell the whole, so
/// that a component's bytes tell it.
fn bare(architecture: &str) -> &str {
    architecture.strip_prefix("gguf:").unwrap_or(architecture)
}

/// What an architecture of GGUF calls fields. `own` are a plugin's, and come first.
#[inline(never)]
fn names(architecture: &str, own: &[(&'static str, &str)]) -> Names {
    let architecture = bare(architecture);
    // What names a tensor is whole.
    let is_tensor = |name: &str| name.starts_with("tensor:") || name.ends_with(".weight");
    let spelled = |&(ours, name): &(&'static str, &str)| match is_tensor(name) {
        true => (ours, name.to_owned()),
        false => (ours, format!("{architecture}.{name}")),
    };
    own.iter().chain(&NAMES).map(spelled).collect()
}

/// The fields of a HuggingFace config as GGUF files of several architectures have them.
#[inline(never)]
pub(crate) fn fields(
    mut fields: Vec<Field>,
    architectures: &[(&str, &str)],
    own: &[(&'static str, &str)],
) -> Vec<Field> {
    fields.retain(|field| !OTHERWISE.contains(&field.path.as_str()));
    let [_, _, ..] = architectures else {
        let names = architectures.iter().flat_map(|(name, _)| names(name, own)).collect();
        return renamed(fields, &names);
    };
    let mut all = vec![text(ARCHITECTURE, REQUIRED, "Which architecture it is.")];
    for (name, _) in architectures {
        for mut field in renamed(fields.clone(), &names(name, own)) {
            // A file of one architecture has no keys of the others.
            if matches!(field.fallback, Fallback::Required) {
                field.fallback = Fallback::Absent;
            }
            if all.iter().all(|other| other.path != field.path) {
                all.push(field);
            }
        }
    }
    all
}

/// What a GGUF file says, by the plugin's names; `architectures` as HuggingFace calls it.
#[inline(never)]
pub(crate) fn settings(
    mut settings: Vec<Setting>,
    architectures: &[(&str, &str)],
    own: &[(&'static str, &str)],
) -> Result<Settings, Refusal> {
    let said = settings.iter().find(|setting| setting.path == ARCHITECTURE);
    let found = match said.and_then(|setting| setting.value.as_ref()) {
        Some(SettingValue::Text(said)) => architectures.iter().find(|(name, _)| bare(name) == said),
        _ => architectures.first(),
    };
    let Some((name, architecture)) = found else {
        return refuse(ARCHITECTURE, "is none that the plugin knows");
    };
    settings.push(set("architectures", SettingValue::Texts(vec![(*architecture).into()])));
    Ok(Settings::new(settings).of_gguf(names(name, own)))
}
