//! `convert_checkpoint.py` of the reference's four models, and the flags of `quantize.py` that go
//! the same way here.

use super::Form::{Integer, Number, OneOf, Switch, Text};
use super::build::PAGED_CACHE;
use super::{Flag, idle, obeyed, refused};
use crate::quant::{FORMATS, PRECISIONS};

const CACHE: &str = "the cache keeps floats";
const CALIBRATION: &str = "it only goes with a scheme that is calibrated";
const SHAPE: &str =
    "the model's own files say it; TensorRT-LLM, too, takes it for random weights only";
const STREAMED: &str = "weights are streamed, never loaded whole";

/// Flags that describe a model which is not there.
pub const SHAPES: &[&str] = &[
    "vocab_size",
    "n_positions",
    "n_layer",
    "n_head",
    "n_kv_head",
    "n_embd",
    "inter_size",
    "multiple_of",
    "ffn_dim_multiplier",
    "rms_norm_eps",
    "norm_eps",
    "hidden_act",
    "rotary_base",
    "rotary_dim",
    "moe_num_experts",
    "moe_top_k",
    "moe_renorm_mode",
];

/// Every flag, in the order of the docs.
pub const FLAGS: &[Flag] = &[
    obeyed("model_dir", Text, "the model: a HuggingFace directory or a GGUF file"),
    obeyed("meta_ckpt_dir", Text, "the same as --model_dir"),
    obeyed("lora_dir", Text, "a LoRA adapter as PEFT writes it, merged into the weights"),
    obeyed("output_dir", Text, "where to write; `tllm_checkpoint` where it is left out"),
    obeyed(
        "dtype",
        OneOf(&["auto", "float32", "float16", "bfloat16"]),
        "type of the weights; `auto`, the default for every model, is the model's own",
    ),
    obeyed("tp_size", Integer, "ranks that share each matrix"),
    obeyed("pp_size", Integer, "stages, each with a stretch of the layers"),
    refused(
        "cp_size",
        Integer,
        &["1"],
        "a sequence is not spread over ranks",
        "spread the matrices: --tp_size, or the layers: --pp_size",
    ),
    obeyed("moe_tp_size", Integer, "ranks that share each expert; -1 follows from the others"),
    obeyed("moe_ep_size", Integer, "ranks that share the experts out; -1 follows from the others"),
    obeyed("use_parallel_embedding", Switch, "the embedding is spread over ranks too"),
    obeyed(
        "embedding_sharding_dim",
        OneOf(&["0", "1"]),
        "along the vocabulary (0) or the hidden size (1)",
    ),
    idle("use_embedding_sharing", Switch, "tables that the model ties are stored once anyway"),
    obeyed("workers", Integer, "parameters that are worked on at a time, for all ranks"),
    obeyed(
        "log_level",
        OneOf(&["internal_error", "error", "warning", "info", "verbose", "debug", "trace"]),
        "`error` and `internal_error` silence notes and warnings; nothing is said beyond `warning`",
    ),
    idle("load_by_shard", Switch, STREAMED),
    idle("load_model_on_cpu", Switch, "no GPU takes part"),
    obeyed("save_config_only", Switch, "writes config.json and nothing else"),
    idle("remove_duplicated_kv_heads", Switch, "heads are kept as the model has them"),
    idle("model_type", Text, "the model's config.json says what it is"),
    PAGED_CACHE,
    // Quantisation.
    obeyed("use_weight_only", Switch, "weights of matrices in 8 bits, or in 4"),
    obeyed("weight_only_precision", OneOf(&PRECISIONS), "in how many bits; 8 where it is left out"),
    idle("disable_weight_only_quant_plugin", Switch, "there are no plugins of kernels to choose"),
    obeyed("smoothquant", Number, "eight bits for weights and activations").alias(&["sq"]),
    idle("per_channel", Switch, "rows of weights always have scales of their own"),
    obeyed("per_token", Switch, "with --smoothquant: each token has a scale of its own"),
    refused("int8_kv_cache", Switch, &[], CACHE, "leave it out"),
    refused("fp8_kv_cache", Switch, &[], CACHE, "leave it out"),
    refused("kv_cache_dtype", OneOf(&["none", "int8", "fp8"]), &["none"], CACHE, "leave it out"),
    refused(
        "quant_ckpt_path",
        Text,
        &[],
        "a model that is quantised already is a model like any other",
        "give it as --model_dir: its codes are taken over",
    ),
    obeyed("use_fp8", Switch, "the same as --qformat fp8").alias(&["enable_fp8"]),
    obeyed("use_fp8_rowwise", Switch, "the same as --qformat fp8_pc_pt"),
    idle("use_meta_fp8_rowwise_recipe", Switch, "it only goes with --use_fp8_rowwise"),
    refused(
        "use_qserve",
        Switch,
        &[],
        "QServe's weights are laid out for one kind of GPU",
        "leave it out, or convert for another scheme",
    ),
    idle("per_group", Switch, "it only goes with --use_qserve"),
    obeyed("group_size", Integer, "inputs that share a scale"),
    obeyed("qformat", OneOf(&FORMATS), "the scheme, by the names of quantize.py"),
    obeyed("awq_block_size", Integer, "the same as --group_size"),
    obeyed("calib_dataset", Text, "texts to calibrate by: a file, a folder, a data set"),
    obeyed("calib_size", Integer, "samples that are taken of them; 32 where it is left out"),
    obeyed("calib_max_seq_length", Integer, "tokens of a sample; 512 where it is left out"),
    idle("tokenizer_max_seq_length", Integer, CALIBRATION),
    idle("batch_size", Integer, CALIBRATION),
    // The model's shape.
    idle("vocab_size", Integer, SHAPE),
    idle("n_positions", Integer, SHAPE),
    idle("n_layer", Integer, SHAPE),
    idle("n_head", Integer, SHAPE),
    idle("n_kv_head", Integer, SHAPE),
    idle("n_embd", Integer, SHAPE),
    idle("inter_size", Integer, SHAPE),
    idle("multiple_of", Integer, SHAPE),
    idle("ffn_dim_multiplier", Number, SHAPE),
    idle("rms_norm_eps", Number, SHAPE),
    idle("norm_eps", Number, SHAPE),
    idle("hidden_act", Text, SHAPE),
    idle("rotary_base", Number, SHAPE),
    idle("rotary_dim", Integer, SHAPE),
    idle("moe_num_experts", Integer, SHAPE),
    idle("moe_top_k", Integer, SHAPE),
    idle("moe_renorm_mode", Integer, SHAPE),
];
