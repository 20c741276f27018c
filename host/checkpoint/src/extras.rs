//! Tensors that a checkpoint may hold without a model that needs them.

/// Tables that whoever runs a checkpoint computes by itself, by the last part of their names;
/// those with `_short_factors` or `_long_factors` in them are such too.
const COMPUTED: [&str; 6] = [
    "alibi_slopes",
    "embed_positions",
    "embed_positions_for_gpt_attention",
    "rotary_inv_freq",
    "short_inv_freq",
    "long_inv_freq",
];

/// Scales of a quantised cache, which a checkpoint may hold though its cache is not quantised, by
/// the last part of their names.
const CACHE_SCALES: [&str; 4] = [
    "kv_cache_scaling_factor",
    "k_cache_scaling_factor",
    "v_cache_scaling_factor",
    "kv_cache_rcp_scaling_factor",
];

/// Scales that exporters write of a head that stays in floating point.
const HEAD_SCALES: [&str; 4] = [
    "lm_head.activation_scaling_factor",
    "lm_head.weights_scaling_factor",
    "lm_head.weights_scaling_factor_2",
    "lm_head.prequant_scaling_factor",
];

/// Whether it says nothing that the config does not say.
pub(crate) fn is_computed(name: &str) -> bool {
    let last = last(name);
    let scaled = ["_short_factors", "_long_factors"].iter().any(|part| last.contains(part));
    scaled || COMPUTED.contains(&last)
}

/// Why a loader leaves a tensor alone that exporters are known to write; nothing for any other.
pub(crate) fn is_left_alone(name: &str) -> Option<&'static str> {
    if HEAD_SCALES.contains(&name) {
        Some("the head is not quantised")
    } else if CACHE_SCALES.contains(&last(name)) {
        Some("the cache is not quantised")
    } else {
        None
    }
}

fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}
