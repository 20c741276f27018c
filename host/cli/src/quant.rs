//! Flags that say how a model is quantised, in TensorRT-LLM's words.

use crate::error::Usage;
use clap::Args;
use engraft_convert::{Calibration, Quantise};
use std::path::PathBuf;

/// What `--weight_only_precision` may say.
pub const PRECISIONS: [&str; 5] = ["int8", "int4", "int8_gptq", "int4_gptq", "int4_awq"];
/// What `--qformat` may say.
pub const FORMATS: [&str; 8] =
    ["full_prec", "fp8", "fp8_pc_pt", "int8_sq", "int4_awq", "int4_gptq", "int8_wo", "int4_wo"];

/// Flags of whatever quantises.
#[derive(Args)]
#[command(rename_all = "snake_case", next_help_heading = "Quantisation")]
pub struct QuantArgs {
    /// Keep the weights of matrices in few bits; activations stay as they are.
    #[arg(long)]
    use_weight_only: bool,
    /// With --use_weight_only: in how many bits, and by which method.
    #[arg(long, value_parser = PRECISIONS, default_value = "int8")]
    weight_only_precision: String,
    /// The scheme, by the names of quantize.py; full_prec makes floats of a source that is
    /// quantised.
    #[arg(long, value_parser = FORMATS, conflicts_with_all = ["use_weight_only", "smoothquant"])]
    qformat: Option<String>,
    /// The same as --qformat fp8.
    #[arg(long, alias = "enable_fp8", conflicts_with_all = ["use_weight_only", "qformat"])]
    use_fp8: bool,
    /// The same as --qformat fp8_pc_pt.
    #[arg(long, conflicts_with_all = ["use_weight_only", "qformat", "use_fp8"])]
    use_fp8_rowwise: bool,
    /// Eight bits for weights and activations; how much of the difficulty moves from these to
    /// those, 0 to 1 (0.5 is customary), or `auto`.
    #[arg(
        long,
        alias = "sq",
        value_name = "ALPHA",
        num_args = 0..=1,
        default_missing_value = "auto",
        conflicts_with = "use_weight_only"
    )]
    smoothquant: Option<String>,
    /// Inputs that share a scale, a power of two; without it int8 and int4 have a scale a row, all
    /// others 128. Where it does not divide the inputs of all matrices, the largest that does is
    /// taken.
    #[arg(long, value_name = "N", alias = "awq_block_size")]
    group_size: Option<u64>,
    /// Give each group a zero point: better for a fraction of a bit.
    #[arg(long)]
    zero_points: bool,
    /// With --smoothquant: give each token's activations a scale of their own.
    #[arg(long)]
    per_token: bool,
    /// Modules to leave alone, as patterns (`*.mlp.proj`), in place of the usual list: lm_head,
    /// routers and embeddings.
    #[arg(long, value_name = "PATTERN,…", value_delimiter = ',')]
    exclude_modules: Option<Vec<String>>,
    /// Texts to calibrate by: a text file, a folder of them, JSONL, parquet or a HuggingFace data
    /// set's directory; by default a text that is built in.
    #[arg(long, value_name = "PATH")]
    calib_dataset: Option<PathBuf>,
    /// Samples that are taken of them.
    #[arg(long, value_name = "N", default_value_t = 32)]
    calib_size: usize,
    /// Tokens of a sample, at most.
    #[arg(long, value_name = "N", default_value_t = 512)]
    calib_max_seq_length: usize,
    /// Draw texts in an order that this number decides, and not in their own.
    #[arg(long, value_name = "N")]
    calib_seed: Option<u64>,
}

/// A scheme by its flags: TensorRT-LLM's name, and whether the model is run over texts for it.
type Choice = (Option<&'static str>, bool);

impl QuantArgs {
    /// What is asked for; nothing where the model stays as it is.
    ///
    /// # Errors
    /// Flags that do not go together.
    pub fn request(&self) -> Result<Option<Quantise>, Usage> {
        let Some((algorithm, calibrated)) = self.choice()? else { return Ok(None) };
        if let Some(size) = self.group_size.filter(|size| !size.is_power_of_two() || *size < 8) {
            return Err(Usage::new(format!("--group_size {size} is no power of two from 8 on"))
                .help("take 32, 64 or 128"));
        }
        if self.calib_size == 0 || self.calib_max_seq_length == 0 {
            return Err(Usage::new("--calib_size and --calib_max_seq_length are at least 1")
                .help("leave them out: 32 samples of 512 tokens"));
        }
        let calibration = Calibration {
            dataset: self.calib_dataset.clone(),
            size: self.calib_size,
            max_seq_length: self.calib_max_seq_length,
            seed: self.calib_seed,
            alpha: self.alpha()?,
        };
        Ok(Some(Quantise {
            algorithm: algorithm.map(str::to_owned),
            group_size: self.group_size.unwrap_or(128),
            zeros: self.zero_points && algorithm.is_some_and(|name| name.ends_with("_GPTQ")),
            per_token: self.per_token && algorithm == Some("W8A8_SQ_PER_CHANNEL"),
            exclude: self.exclude_modules.clone(),
            calibration: calibrated.then_some(calibration),
        }))
    }

    fn choice(&self) -> Result<Option<Choice>, Usage> {
        let format = match (self.use_weight_only, self.smoothquant.is_some()) {
            (true, _) => match self.weight_only_precision.as_str() {
                "int8" => "int8_wo",
                "int4" => "int4_wo",
                other => other,
            },
            (_, true) => "int8_sq",
            _ if self.use_fp8 => "fp8",
            _ if self.use_fp8_rowwise => "fp8_pc_pt",
            _ => match &self.qformat {
                Some(format) => format.as_str(),
                None if self.group_size.is_some() || self.exclude_modules.is_some() => {
                    return Err(Usage::new(
                        "--group_size and --exclude_modules go with quantisation",
                    )
                    .help("pass --use_weight_only or --qformat as well"));
                }
                None => return Ok(None),
            },
        };
        let grouped = self.group_size.is_some() || self.zero_points;
        Ok(Some(match format {
            "full_prec" => (None, false),
            "int8_wo" if grouped => (Some("W8A16_GPTQ"), false),
            "int8_wo" => (Some("W8A16"), false),
            // ModelOpt's form has no zero points.
            "int4_wo" if self.zero_points => (Some("W4A16_GPTQ"), false),
            "int4_wo" if grouped => (Some("W4A16_AWQ"), false),
            "int4_wo" => (Some("W4A16"), false),
            "int4_awq" if self.zero_points => {
                return Err(Usage::new("--zero_points does not go with int4_awq")
                    .help("take int4_gptq, whose form has them"));
            }
            "int4_awq" => (Some("W4A16_AWQ"), true),
            "int4_gptq" => (Some("W4A16_GPTQ"), true),
            "int8_gptq" => (Some("W8A16_GPTQ"), true),
            "int8_sq" => (Some("W8A8_SQ_PER_CHANNEL"), true),
            "fp8" => (Some("FP8"), true),
            _ => (Some("FP8_PER_CHANNEL_PER_TOKEN"), true),
        }))
    }

    fn alpha(&self) -> Result<Option<f64>, Usage> {
        let Some(text) = self.smoothquant.as_deref().filter(|text| *text != "auto") else {
            return Ok(None);
        };
        match text.parse::<f64>() {
            Ok(alpha) if (0.0..=1.0).contains(&alpha) => Ok(Some(alpha)),
            _ => Err(Usage::new(format!("--smoothquant {text} is no number from 0 to 1"))
                .help("0.5 is customary; `auto` searches for each matrix")),
        }
    }
}
