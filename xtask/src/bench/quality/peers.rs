//! What others reach on the same models and text, as it was measured once: constants.
//!
//! By one evaluator (transformers 4.57.6 in f32, weights de-quantised, activations quantised in
//! f32 where a format quantises them) on a machine with 2 cores of an AMD EPYC: NVIDIA ModelOpt
//! 0.29.0 on the CPU, its exported files read back but for those marked so; GGUF files of llama.cpp
//! (libllama 0.5.0, ggml 0.25.3; its `Q4_K_M` has 5.5 bits here, for 576 is no multiple of 256); and
//! plain implementations of the methods in torch, GPTQ over 32 × 512 tokens among them. ModelOpt
//! calibrated over as many sequences of 512 as its name says. Seconds are those of calibrating.

/// One format of another tool.
pub struct Peer {
    pub tool: &'static str,
    pub format: &'static str,
    /// Of a linear's weight, scales and zeros included.
    pub bits: f64,
    pub bytes: u64,
    pub perplexity: f64,
    pub kl: f64,
    /// In percent.
    pub top1: f64,
    pub seconds: Option<f64>,
}

const fn peer(
    tool: &'static str,
    format: &'static str,
    [bits, perplexity, kl, top1]: [f64; 4],
    bytes: u64,
    seconds: Option<f64>,
) -> Peer {
    Peer { tool, format, bits, bytes, perplexity, kl, top1, seconds }
}

/// On SmolLM2 as it is, by divergence. Its weights come from 4 bits (Q4_1), whose grid some formats
/// hold: they look better here than they are.
pub const BASE: &[Peer] = &[
    peer("torch", "q4_1-g32", [5.00, 18.78, 0.0000, 100.0], 123_048_576, None),
    peer("llama.cpp", "Q8_0", [8.50, 18.79, 0.0011, 97.8], 144_811_072, None),
    peer("torch", "rtn-int8-channel", [8.02, 18.80, 0.0029, 96.5], 163_172_736, None),
    peer("llama.cpp", "Q6_K", [8.02, 19.02, 0.0052, 95.8], 138_382_912, None),
    peer("torch", "fp8-weights-only", [8.00, 19.08, 0.0146, 92.0], 162_861_696, None),
    peer("ModelOpt", "fp8 (8x512)", [8.00, 19.49, 0.0305, 88.5], 219_544_320, Some(13.0)),
    peer("llama.cpp", "Q4_K_M", [5.53, 19.82, 0.0503, 87.0], 105_454_144, None),
    peer("llama.cpp", "Q5_K_M", [6.04, 20.41, 0.0730, 84.2], 112_103_488, None),
    peer("ModelOpt", "sq (8x512)", [8.02, 20.71, 0.1021, 82.7], 220_416_176, Some(14.0)),
    peer("ModelOpt", "awq-g64 (8x512)", [4.25, 23.73, 0.2417, 72.2], 173_327_536, Some(108.9)),
    peer("torch", "rtn-int4-asym-g32", [4.62, 22.85, 0.2600, 70.9], 118_071_936, None),
    peer("torch", "gptq-int4-sym-g64", [4.25, 24.14, 0.2658, 71.5], 113_095_296, None),
    peer("llama.cpp", "Q4_0", [4.50, 22.81, 0.2697, 69.8], 91_726_912, None),
    peer("torch", "rtn-int4-asym-g64", [4.31, 23.68, 0.2802, 69.6], 113_924_736, None),
    peer("torch", "rtn-int4-sym-g32", [4.50, 24.82, 0.3621, 65.4], 116_413_056, None),
    peer("torch", "rtn-int4-sym-g64", [4.25, 27.52, 0.4809, 61.5], 113_095_296, None),
    peer("torch", "rtn-int4-sym-g128", [4.14, 29.88, 0.5748, 59.0], 111_574_656, None),
    peer("torch", "trt-w4a16", [4.02, 36.77, 0.7877, 51.7], 110_088_576, None),
];

/// On SmolLM2 with noise on its weights, by divergence.
pub const PERTURBED: &[Peer] = &[
    peer("llama.cpp", "Q8_0", [8.50, 24.99, 0.0013, 97.2], 144_811_072, None),
    peer("torch", "rtn-int8-channel", [8.02, 24.94, 0.0035, 95.5], 163_172_736, None),
    peer("torch", "trt-w8a16", [8.02, 25.05, 0.0036, 95.6], 163_172_736, None),
    peer("llama.cpp", "Q6_K", [8.02, 25.17, 0.0062, 94.4], 138_382_912, None),
    peer("torch", "smoothquant a0.5 per-token", [8.02, 25.09, 0.0134, 92.1], 163_172_736, None),
    peer("torch", "fp8-weights-only", [8.00, 25.35, 0.0171, 90.9], 162_861_696, None),
    peer("ModelOpt", "fp8 (32x512)", [8.00, 25.95, 0.0381, 86.3], 219_544_320, Some(51.4)),
    peer("llama.cpp", "Q5_K_M", [6.04, 26.05, 0.0469, 85.0], 112_103_488, None),
    peer("llama.cpp", "Q4_K_M", [5.53, 26.17, 0.0674, 82.9], 105_454_144, None),
    peer("ModelOpt", "sq (32x512)", [8.02, 27.06, 0.0731, 82.7], 220_416_176, Some(39.0)),
    peer("torch", "q4_1-g32", [5.00, 31.81, 0.2569, 67.7], 123_048_576, None),
    peer("torch", "gptq-int4-asym-g128", [4.17, 33.81, 0.2736, 67.9], 112_023_936, None),
    peer("ModelOpt", "awq-g64 (32x512)", [4.25, 32.86, 0.2801, 67.2], 173_327_536, Some(585.0)),
    peer("torch", "gptq-int4-sym-g64", [4.25, 32.71, 0.2817, 68.3], 113_095_296, Some(81.0)),
    peer("ModelOpt", "w4a8-g64 (8x512)", [4.25, 34.07, 0.3106, 65.0], 173_364_976, Some(105.8)),
    peer("torch", "rtn-int4-asym-g32", [4.62, 33.30, 0.3289, 64.0], 118_071_936, None),
    peer("torch", "gptq-int4-sym-g128", [4.14, 35.88, 0.3411, 65.0], 111_574_656, None),
    peer("torch", "smoothquant a0.5 per-tensor", [8.02, 35.18, 0.3453, 62.6], 163_172_736, None),
    peer(
        "ModelOpt",
        "awq-g128 (8x512, in memory)",
        [4.14, 36.57, 0.3522, 64.8],
        111_574_656,
        Some(108.2),
    ),
    peer("llama.cpp", "Q4_0", [4.50, 36.13, 0.3812, 63.2], 91_726_912, None),
    peer(
        "ModelOpt",
        "w4a8-g128 (8x512, in memory)",
        [4.14, 37.66, 0.3892, 62.1],
        111_574_656,
        Some(130.2),
    ),
    peer("torch", "rtn-int4-asym-g64", [4.31, 36.24, 0.3987, 61.0], 113_924_736, None),
    peer("torch", "rtn-int4-sym-g32", [4.50, 37.50, 0.4368, 59.9], 116_413_056, None),
    peer("torch", "rtn-int4-asym-g128", [4.17, 38.55, 0.4951, 58.1], 112_023_936, None),
    peer("torch", "rtn-int4-sym-g64", [4.25, 39.91, 0.5354, 57.7], 113_095_296, None),
    peer("torch", "rtn-int4-sym-g128", [4.14, 44.97, 0.6758, 53.6], 111_574_656, None),
    peer("torch", "trt-w4a16", [4.02, 61.38, 0.8938, 46.5], 110_088_576, None),
];
