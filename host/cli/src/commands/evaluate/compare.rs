//! `engraft evaluate compare`: what an engine gives beside what another, or the model itself in
//! f32, gives: divergence, agreement, perplexity, and the first place that departs.

use super::TEXT;
use crate::args::PluginArgs;
use crate::commands::run::text_of;
use crate::error::Usage;
use crate::load::{RunArgs, load};
use crate::ranks::World;
use crate::scratch::Scratch;
use crate::{output, progress};
use anyhow::Result;
use clap::Args;
use engraft_convert::{Effort, Options, Pipeline};
use engraft_engine::{Engine, format::ENGINE_FILE};
use engraft_ir::DType;
use engraft_runtime::evaluate::{self, Comparison, Departure, Taps};
use engraft_runtime::{LoadOptions, RuntimeError, Tokenizer};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Compares an engine with another, or with the model that it was made of.
///
/// A model (a HuggingFace directory or a GGUF file) is compiled in f32 into a temporary folder. Of
/// the reference's distribution of every next token, and the engine's, it computes the mean
/// Kullback-Leibler divergence KL(reference ‖ engine) in nats, how often the likeliest token is the
/// same, and both perplexities, over windows as `evaluate perplexity` cuts them. Then, over the
/// first window, the relative L2 error of what each block hands on.
#[derive(Args)]
#[command(rename_all = "snake_case")]
pub struct Compare {
    /// The engine's directory, and the reference's: an engine's or a model's.
    #[arg(
        value_names = ["ENGINE", "REFERENCE"],
        num_args = 2,
        required_unless_present_all = ["engine_dir", "reference"],
        conflicts_with_all = ["engine_dir", "reference"]
    )]
    both: Vec<PathBuf>,
    /// The first of the two, by name.
    #[arg(long, value_name = "DIR", requires = "reference")]
    engine_dir: Option<PathBuf>,
    /// The second of the two, by name.
    #[arg(long, value_name = "DIR|FILE.gguf", requires = "engine_dir")]
    reference: Option<PathBuf>,
    #[command(flatten)]
    plugin: PluginArgs,
    #[command(flatten)]
    run: RunArgs,
    /// A text file.
    #[arg(long, value_name = "FILE")]
    input_file: PathBuf,
    /// Tokens that the models see at a time.
    #[arg(long, value_name = "N", default_value_t = 512)]
    window: usize,
    /// Tokens between the beginnings of windows.
    #[arg(long, value_name = "N", default_value_t = 512)]
    stride: usize,
    /// Leave out this many tokens at the text's beginning.
    #[arg(long, value_name = "N", default_value_t = 0)]
    skip_tokens: usize,
    /// Take only this many tokens from there on.
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// A block departs where its relative L2 error is larger.
    #[arg(long, value_name = "X", default_value_t = 0.05, allow_negative_numbers = true)]
    threshold: f64,
    /// Report as JSON, with the error of every block.
    #[arg(long)]
    json: bool,
}

/// One of the two.
struct Side {
    engines: Vec<Arc<Engine>>,
    /// The folder of an engine that was compiled for this.
    _scratch: Option<Scratch>,
}

/// How far the places of the two are from each other.
struct Layers {
    tokens: usize,
    threshold: f64,
    places: Vec<Departure>,
}

impl Side {
    /// Whether no rank has all blocks.
    fn is_staged(&self) -> bool {
        self.engines[0].rank().mapping.pp_size > 1
    }
}

impl Compare {
    pub fn run(self, world: &World) -> Result<ExitCode> {
        if world.size() > 1 {
            return Err(Usage::new(format!(
                "`engraft evaluate compare` is one process, and {} were started",
                world.size()
            ))
            .help("run it without mpirun, and with --ranks_in_process for engines of several ranks")
            .into());
        }
        if !(self.threshold >= 0.0 && self.threshold.is_finite()) {
            return Err(Usage::new(format!("--threshold {} is below 0", self.threshold))
                .help("take a small number, as 0.05")
                .into());
        }
        let options = self.run.options()?;
        let text = text_of(&self.input_file, TEXT)?;
        let (left, right) = match &self.both[..] {
            [left, right] => (left.as_path(), right.as_path()),
            // One form or the other is given, and whole.
            _ => (given(&self.engine_dir), given(&self.reference)),
        };
        let model = self.open(left, "engine")?;
        let reference = self.open(right, "reference")?;
        // What needs no run comes first.
        if !(model.is_staged() || reference.is_staged()) {
            evaluate::same_places(&model.engines[0], &reference.engines[0])?;
        }
        let ids = self.ids(&text, &model, &reference)?;
        let found = self.logits(&model, &reference, &ids, &options)?;
        let layers = self.layers(&model, &reference, &ids, &options)?;
        let report = Report { command: &self, left, right, found: &found, layers: &layers };
        match self.json {
            true => output::json(&report.json()?)?,
            false => output::text(&report.text())?,
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Opens an engine, or makes one of a model.
    fn open(&self, path: &Path, what: &'static str) -> Result<Side> {
        let is_engine = path.extension().is_some_and(|e| e == "engine");
        if is_engine || path.join(ENGINE_FILE).exists() {
            return Ok(Side { engines: self.run.open(path)?, _scratch: None });
        }
        if path.join(engraft_checkpoint::WEIGHTS_FILE).exists() {
            return Err(Usage::new(format!("{} is a checkpoint", path.display()))
                .help(format!(
                    "make an engine of it: `engraft build --checkpoint_dir {}`",
                    output::word(path)
                ))
                .into());
        }
        let pipeline = Pipeline::open(&Options {
            model: path.to_owned(),
            plugin: self.plugin.plugin.clone(),
            dtype: Some(DType::F32),
            ..Options::default()
        })?;
        let bar = progress::Bytes::new(what);
        let effort = Effort { progress: &|done, total| bar.set(done, total), ..Effort::default() };
        let scratch = Scratch::compile(&pipeline, what, &effort)?;
        let engines = vec![Arc::new(Engine::open(scratch.path())?)];
        Ok(Side { engines, _scratch: Some(scratch) })
    }

    /// The tokens that are looked at. Both tokenizers have to make the same of the text; one is
    /// enough where the other engine has none.
    fn ids(&self, text: &str, model: &Side, reference: &Side) -> Result<Vec<u32>> {
        let encode = |side: &Side| -> Result<Option<Vec<u32>>, RuntimeError> {
            match Tokenizer::of(&side.engines[0]) {
                Err(RuntimeError::NoTokenizer { .. }) => Ok(None),
                tokenizer => Ok(Some(tokenizer?.encode(text, false)?)),
            }
        };
        let ids = match (encode(model)?, encode(reference)?) {
            (Some(ids), Some(others)) if ids != others => {
                let same = ids.iter().zip(&others).take_while(|(a, b)| a == b).count();
                return Err(RuntimeError::Incomparable {
                    reason: format!(
                        "their tokenizers make different tokens of {}, from token {same} on",
                        self.input_file.display()
                    ),
                }
                .into());
            }
            (Some(ids), _) | (None, Some(ids)) => ids,
            (None, None) => {
                let directory = model.engines[0].directory().to_owned();
                return Err(RuntimeError::NoTokenizer { directory }.into());
            }
        };
        let Some(rest) = ids.get(self.skip_tokens..) else {
            return Err(Usage::new(format!(
                "--skip_tokens {}: {} has {} tokens",
                self.skip_tokens,
                self.input_file.display(),
                ids.len()
            ))
            .help("skip fewer, or give a longer text")
            .into());
        };
        Ok(rest[..rest.len().min(self.max_tokens.unwrap_or(usize::MAX))].to_vec())
    }

    fn logits(
        &self,
        model: &Side,
        reference: &Side,
        ids: &[u32],
        options: &LoadOptions,
    ) -> Result<Comparison> {
        let mut model = load(&model.engines, options)?;
        let mut reference = load(&reference.engines, options)?;
        let bar = progress::Count::new("comparing", "tokens");
        let (window, stride) = (self.window, self.stride);
        let found =
            evaluate::compare(&mut model, &mut reference, ids, window, stride, |done, all| {
                bar.set(done as u64, all as u64)
            });
        Ok(found?)
    }

    /// The same of what places hand on, over the first window; nothing where ranks do not have all
    /// places.
    fn layers(
        &self,
        model: &Side,
        reference: &Side,
        ids: &[u32],
        options: &LoadOptions,
    ) -> Result<Option<Layers>> {
        if model.is_staged() || reference.is_staged() {
            return Ok(None);
        }
        let prompt = &ids[..ids.len().min(self.window)];
        let tokens = prompt.len();
        let mut model = Taps::load(&model.engines, tokens, options)?;
        let mut reference = Taps::load(&reference.engines, tokens, options)?;
        let places = evaluate::departures(&mut model, &mut reference, prompt)?;
        Ok(Some(Layers { tokens, threshold: self.threshold, places }))
    }
}

fn given(path: &Option<PathBuf>) -> &Path {
    path.as_deref().unwrap_or(Path::new(""))
}

impl Layers {
    /// The first place that departs; what is not a number does.
    fn first(&self) -> Option<&Departure> {
        let near = |place: &Departure| place.relative_l2 <= self.threshold;
        self.places.iter().find(|place| !near(place))
    }

    /// The places that are furthest away, worst first.
    fn worst(&self, count: usize) -> Vec<&Departure> {
        let mut places: Vec<&Departure> = self.places.iter().collect();
        places.sort_by(|a, b| b.relative_l2.total_cmp(&a.relative_l2));
        places.truncate(count);
        places
    }

    fn text(&self) -> String {
        let (tokens, threshold) = (self.tokens, self.threshold);
        let first = match self.first() {
            Some(Departure { place, relative_l2 }) => {
                format!("first over {threshold}: {place}, {relative_l2:.2e}")
            }
            None => format!("none over {threshold}"),
        };
        let row = |d: &Departure| (format!("  {}", d.place), format!("{:.2e}", d.relative_l2));
        let worst: Vec<_> = self.worst(5).into_iter().map(row).collect();
        format!(
            "\nwhat blocks hand on, relative L2 error over the first {tokens} tokens\n  {first}\n  \
             largest\n{}",
            output::table(&worst)
        )
    }

    fn json(&self) -> Value {
        let place =
            |d: &Departure| json!({ "place": d.place.to_string(), "relative_l2": d.relative_l2 });
        json!({
            "tokens": self.tokens,
            "threshold": self.threshold,
            "first": self.first().map(|d| d.place.to_string()),
            "places": self.places.iter().map(place).collect::<Value>(),
        })
    }
}

/// All that was found.
struct Report<'a> {
    command: &'a Compare,
    left: &'a Path,
    right: &'a Path,
    found: &'a Comparison,
    layers: &'a Option<Layers>,
}

impl Report<'_> {
    /// The token of the whole text that follows where the divergence is largest.
    fn max_kl_at(&self) -> usize {
        self.command.skip_tokens + self.found.max_kl_at
    }

    fn json(&self) -> Result<Value> {
        let mut json = serde_json::to_value(self.found)?;
        json["max_kl_at"] = json!(self.max_kl_at());
        json["engine_dir"] = json!(self.left);
        json["reference"] = json!(self.right);
        json["input_file"] = json!(self.command.input_file);
        json["skip_tokens"] = json!(self.command.skip_tokens);
        json["layers"] = self.layers.as_ref().map_or(Value::Null, Layers::json);
        Ok(json)
    }

    fn text(&self) -> String {
        let (found, skipped) = (self.found, self.command.skip_tokens);
        let rows = [
            (
                "mean KL divergence",
                format!("{:.6} ± {:.6} nats", found.mean_kl, found.kl_standard_error),
            ),
            (
                "largest",
                format!("{:.4} nats, where token {} follows", found.max_kl, self.max_kl_at()),
            ),
            ("same top token", format!("{:.2} %", 100.0 * found.top1)),
            (
                "perplexity",
                format!(
                    "{:.4}, the reference's {:.4}: {:+.2} %",
                    found.perplexity, found.reference_perplexity, found.perplexity_change
                ),
            ),
        ];
        let head = format!("{} beside {}\n", self.left.display(), self.right.display());
        let rows: Vec<_> = rows.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let about = format!(
            "of {}: tokens {skipped} to {}, {} scored, window {}, stride {}, no special tokens\n",
            self.command.input_file.display(),
            skipped + found.tokens,
            found.scored,
            found.window,
            found.stride,
        );
        let layers = match self.layers {
            Some(layers) => layers.text(),
            None => "\nblocks are not compared: no rank of a pipeline has all of them\n".to_owned(),
        };
        head + &output::table(&rows) + &about + &layers
    }
}
