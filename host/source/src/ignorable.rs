//! Config keys that say nothing about the arithmetic, so that nobody needs to read them.
//!
//! They are about the library that wrote the file, about training, about how text is generated
//! (which `generation_config.json` says again), or about the tokenizer, which has files of its
//! own. A key that is not here and that no plugin reads is reported.

/// Keys of a HuggingFace `config.json`, sorted.
const HUGGING_FACE: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_from_model_config",
    "_name_or_path",
    "add_bos_token",
    "add_cross_attention",
    "add_eos_token",
    "architectures",
    "attention_dropout",
    "attention_types",
    "attn_implementation",
    "attn_pdrop",
    "auto_map",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size_feed_forward",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dropout",
    "dtype",
    "early_stopping",
    "embd_pdrop",
    "embedding_dropout",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "ffn_dropout",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "hidden_dropout",
    "id2label",
    "init_std",
    "initializer_range",
    "is_decoder",
    "is_encoder_decoder",
    "keys_to_ignore_at_inference",
    "label2id",
    "layerdrop",
    "length_penalty",
    "max_length",
    "min_length",
    "model_type",
    "n_ctx",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "output_scores",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "pruned_heads",
    "remove_invalid_values",
    "repetition_penalty",
    "resid_pdrop",
    "return_dict",
    "return_dict_in_generate",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "sep_token_id",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "use_bfloat16",
    "use_cache",
    "use_flash_attn",
];

/// Keys of a NeMo `model_config.yaml`, sorted: how training was run.
const NEMO: &[&str] = &[
    "_target_",
    "activation_offload",
    "activations_checkpoint_granularity",
    "activations_checkpoint_layers_per_pipeline",
    "activations_checkpoint_method",
    "activations_checkpoint_num_layers",
    "activations_checkpoint_recompute",
    "apply_query_key_layer_scaling",
    "async_grad_allreduce",
    "attention_dropout",
    "attention_softmax_in_fp32",
    "barrier_with_L1_time",
    "batch_p2p_comm",
    "bias_dropout_add_fusion",
    "context_parallel_size",
    "cpu_offloading",
    "data",
    "defer_embedding_wgrad_compute",
    "deterministic_mode",
    "dist_ckpt_format",
    "dist_ckpt_load_on_device",
    "dist_ckpt_parallel_save",
    "do_layer_norm_weight_decay",
    "embedding_dropout",
    "enable_megatron_timers",
    "encoder_seq_length",
    "expert_model_parallel_size",
    "ffn_dropout",
    "fp16_enabled",
    "fp16_lm_cross_entropy",
    "fp32_residual_connection",
    "fp8",
    "fp8_amax_compute_algo",
    "fp8_amax_history_len",
    "fp8_e4m3",
    "fp8_hybrid",
    "fp8_interval",
    "fp8_margin",
    "fp8_params",
    "gc_interval",
    "global_batch_size",
    "grad_allreduce_chunk_size_mb",
    "grad_div_ar_fusion",
    "gradient_accumulation_fusion",
    "gradient_as_bucket_view",
    "hidden_dropout",
    "hysteresis",
    "inference",
    "init_method_std",
    "layer_type",
    "make_vocab_size_divisible_by",
    "masked_softmax_fusion",
    "mcore_customization_config",
    "mcore_gpt",
    "megatron_amp_O2",
    "megatron_lm_compatible",
    "micro_batch_size",
    "name",
    "native_amp_growth_interval",
    "native_amp_init_scale",
    "nemo_version",
    "normalize_attention_scores",
    "nsys_profile",
    "num_micro_batches_with_partial_activation_checkpoints",
    "onnx_safe",
    "optim",
    "optimizer",
    "overlap_p2p_comm",
    "peft",
    "persist_layer_norm",
    "persistent_layer_norm",
    "pipeline_model_parallel_size",
    "pipeline_model_parallel_split_rank",
    "post_process",
    "pre_process",
    "precision",
    "rampup_batch_size",
    "reduce_amax",
    "reset_attention_mask",
    "reset_position_ids",
    "resume_from_checkpoint",
    "seed",
    "sequence_parallel",
    "skip_train",
    "sync_batch_comm",
    "target",
    "tensor_model_parallel_size",
    "tensor_model_parallel_split",
    "tokenizer",
    "tp_comm_overlap",
    "transformer_engine",
    "ub_tp_comm_overlap",
    "use_cpu_initialization",
    "use_emha",
    "use_flash_attention",
    "virtual_pipeline_model_parallel_size",
];

/// Whether a top-level key of a `config.json` is about something else than arithmetic.
pub(crate) fn hugging_face(key: &str) -> bool {
    HUGGING_FACE.binary_search(&key).is_ok()
}

/// Whether a key of a GGUF file is about something else than arithmetic: who made it and how it
/// is laid out, and the tokenizer.
pub(crate) fn gguf(key: &str) -> bool {
    ["general.", "tokenizer.", "quantize.", "GGUF."].iter().any(|prefix| key.starts_with(prefix))
}

/// Whether a key of Meta's `params.json` is about something else than arithmetic: how much its
/// program makes room for.
pub(crate) fn meta(key: &str) -> bool {
    ["max_batch_size", "max_seq_len", "model_parallel_size"].contains(&key)
}

/// Whether a key of NeMo's `model_config.yaml` is about something else than arithmetic.
pub(crate) fn nemo(key: &str) -> bool {
    NEMO.binary_search(&key).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_and_without_repeats() {
        assert!(HUGGING_FACE.is_sorted_by(|a, b| a < b));
        assert!(NEMO.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn what_the_arithmetic_needs_is_not_ignorable() {
        for key in ["hidden_size", "rope_theta", "tie_word_embeddings", "sliding_window"] {
            assert!(!hugging_face(key), "{key}");
        }
        assert!(gguf("general.quantization_version") && !gguf("llama.block_count"));
    }
}
