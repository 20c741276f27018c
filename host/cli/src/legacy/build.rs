//! `trtllm-build`.

use super::Form::{Integer, OneOf, Switch, SwitchOrText, Text, Texts};
use super::{Flag, Form, PLUGIN, TOGGLE, idle, obeyed, refused};

const TUNED: &str = "nothing is tuned for a shape: an engine takes any within its limits";
const TIMED: &str = "no kernel is timed while building";
const KERNELS: &str = "kernels are chosen when the engine is loaded";
const DECODER: &str = "the model has no encoder";
const LORA: &str = "adapters are not applied at run time";
const MERGE: &str = "merge it into the weights: `engraft convert --lora_dir DIR`";
const ADAPTERS: &str = "it only goes with --lora_dir";
const LOGITS: &str = "any engine gives them: `engraft evaluate logits`";
const FP8_PLUGIN: Form = OneOf(&["auto", "fp8", "disable"]);
const GEMM_PLUGIN: Form =
    OneOf(&["auto", "float16", "float32", "bfloat16", "int32", "fp8", "disable"]);

/// Older scripts have it as a switch, and the converters', too.
pub const PAGED_CACHE: Flag = refused(
    "paged_kv_cache",
    SwitchOrText,
    &["enable", ""],
    "the cache is always in pages",
    "take `enable`: the results are the same",
);

/// Every flag, in the order of the docs.
pub const FLAGS: &[Flag] = &[
    obeyed("checkpoint_dir", Text, "the checkpoint; of `convert`: one to be split differently"),
    obeyed("output_dir", Text, "where to write; `engine_outputs` where it is left out"),
    obeyed(
        "build_config",
        Text,
        "limits are taken out of this file, unless the command line gives them; what else it asks \
         for goes the way of the flags",
    ),
    refused(
        "model_config",
        Text,
        &[],
        "an engine of random weights is not built",
        "convert a model and give its --checkpoint_dir",
    ),
    refused(
        "model_cls_file",
        Text,
        &[],
        "Python code is not run",
        "write a plugin: `engraft plugin new NAME`",
    ),
    refused(
        "model_cls_name",
        Text,
        &[],
        "Python code is not run",
        "write a plugin: `engraft plugin new NAME`",
    ),
    // Limits.
    obeyed("max_batch_size", Integer, "requests that run at a time; 8 where it is left out"),
    obeyed("max_input_len", Integer, "tokens of one prompt; max_seq_len where it is left out"),
    obeyed(
        "max_seq_len",
        Integer,
        "tokens of one request; the model's positions where it is left out",
    )
    .alias(&["max_decoder_seq_len"]),
    obeyed("max_num_tokens", Integer, "tokens of a step; 512 where it is left out"),
    obeyed("tokens_per_block", Integer, "tokens of a page of the cache; 32 where it is left out"),
    idle("opt_num_tokens", Integer, TUNED),
    refused(
        "max_beam_width",
        Integer,
        &["1"],
        "there is no beam search",
        "take --max_beam_width 1; `run` samples, or takes the likeliest",
    ),
    idle("max_encoder_input_len", Integer, DECODER),
    refused(
        "max_prompt_embedding_table_size",
        Integer,
        &["0"],
        "prompts are tokens, not embeddings",
        "leave it out",
    )
    .alias(&["max_multimodal_len"]),
    refused(
        "kv_cache_type",
        OneOf(&["paged", "continuous", "disabled"]),
        &["paged"],
        "the cache is always in pages",
        "take `paged`: the results are the same",
    ),
    PAGED_CACHE,
    refused(
        "logits_dtype",
        OneOf(&["float32", "float16", "bfloat16"]),
        &["float32"],
        "logits are float32",
        "take float32, or leave it out",
    ),
    // The building itself.
    obeyed("workers", Integer, "parameters that are worked on at a time, for all ranks"),
    obeyed(
        "log_level",
        OneOf(&["internal_error", "error", "warning", "info", "verbose", "debug", "trace"]),
        "`error` and `internal_error` silence notes and warnings; nothing is said beyond `warning`",
    ),
    idle(
        "profiling_verbosity",
        OneOf(&["layer_names_only", "detailed", "none"]),
        "`engraft inspect DIR --graph` shows every step of an engine",
    ),
    idle("input_timing_cache", Text, TIMED),
    idle("output_timing_cache", Text, TIMED),
    refused(
        "strip_plan",
        Switch,
        &[],
        "an engine without its weights is not built",
        "leave it out",
    ),
    idle("weight_sparsity", Switch, "there are no sparse kernels, and the results are the same"),
    idle("weight_streaming", Switch, "weights are mapped from the file, not loaded"),
    idle("fast_build", Switch, "there is no slow one"),
    obeyed("dry_run", Switch, "says what would be written, with exact sizes, and writes nothing"),
    refused(
        "enable_debug_output",
        Switch,
        &[],
        "values between the steps are not handed out",
        "leave it out; `engraft inspect DIR --graph` shows the steps",
    ),
    idle("monitor_memory", Switch, "memory is bounded: --max_ram; `--dry_run` says how much"),
    idle("visualize_network", SwitchOrText, "`engraft inspect DIR --graph` shows the graph"),
    idle("gather_context_logits", Switch, LOGITS),
    idle("gather_generation_logits", Switch, LOGITS),
    idle("gather_all_token_logits", Switch, LOGITS),
    // What an engine could do besides.
    refused("lora_dir", Texts, &[], LORA, MERGE),
    idle("lora_ckpt_source", OneOf(&["hf", "nemo"]), ADAPTERS),
    idle("lora_target_modules", Texts, ADAPTERS),
    idle("max_lora_rank", Integer, ADAPTERS),
    refused("lora_plugin", PLUGIN, &["disable"], LORA, MERGE),
    refused("dora_plugin", TOGGLE, &["disable"], LORA, MERGE),
    refused(
        "speculative_decoding_mode",
        OneOf(&[
            "none",
            "draft_tokens_external",
            "lookahead_decoding",
            "medusa",
            "explicit_draft_tokens",
            "eagle",
        ]),
        &["none"],
        "tokens are not drafted",
        "leave it out",
    ),
    refused("max_draft_len", Integer, &["0"], "tokens are not drafted", "leave it out"),
    refused(
        "auto_parallel",
        Integer,
        &["1"],
        "a split is asked for, not searched",
        "give --tp_size and --pp_size to `engraft convert`",
    ),
    idle("gpus_per_node", Integer, "ranks are placed by whoever starts them"),
    idle("cluster_key", Text, "ranks are placed by whoever starts them"),
    refused(
        "streamingllm",
        TOGGLE,
        &["disable"],
        "a cache that forgets the middle of a text would change the results",
        "leave it out",
    ),
    // Plugins and their like: how, and not what, is computed.
    idle("gpt_attention_plugin", PLUGIN, KERNELS),
    idle("bert_attention_plugin", PLUGIN, KERNELS),
    idle("gemm_plugin", GEMM_PLUGIN, KERNELS),
    idle("gemm_swiglu_plugin", FP8_PLUGIN, KERNELS),
    idle("fp8_rowwise_gemm_plugin", PLUGIN, KERNELS),
    idle("low_latency_gemm_plugin", FP8_PLUGIN, KERNELS),
    idle("low_latency_gemm_swiglu_plugin", FP8_PLUGIN, KERNELS),
    idle("gemm_allreduce_plugin", PLUGIN, KERNELS),
    idle("moe_plugin", PLUGIN, KERNELS),
    idle("mamba_conv1d_plugin", PLUGIN, KERNELS),
    idle("nccl_plugin", PLUGIN, "how ranks talk is chosen when they start"),
    idle("context_fmha", TOGGLE, KERNELS),
    idle("bert_context_fmha_fp32_acc", TOGGLE, "attention adds up in float32 anyway"),
    idle("remove_input_padding", TOGGLE, "tokens are packed, never padded"),
    idle("use_paged_context_fmha", TOGGLE, "the cache is always in pages, for prompts too"),
    idle("use_fp8_context_fmha", TOGGLE, "attention is computed in float32"),
    idle("use_fused_mlp", SwitchOrText, "what can be fused is fused"),
    idle("reduce_fusion", TOGGLE, "what can be fused is fused"),
    idle("norm_quant_fusion", TOGGLE, "what can be fused is fused"),
    idle("fuse_fp4_quant", TOGGLE, "what can be fused is fused"),
    idle("user_buffer", TOGGLE, "memory is planned when the engine is loaded"),
    idle("multiple_profiles", TOGGLE, TUNED),
    idle("paged_state", TOGGLE, "where states are kept is planned when the engine is loaded"),
    idle("pp_reduce_scatter", TOGGLE, "how ranks talk is chosen when they start"),
];
