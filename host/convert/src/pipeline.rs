//! From a source to a checkpoint or an engine.

use crate::model::{Described, base_fields, describe};
use crate::quantise::{self, Quantise, Quantised, Way};
use crate::{Calibrated, ConvertError, Forecast, display_name, forecast, model, provenance, ranks};
use engraft_checkpoint::{CheckpointError, Config};
use engraft_compile::{BuildOptions, Built, Input, Part};
use engraft_files::FileError;
use engraft_ir::{DType, Graph, Mapping, PlaceKind};
use engraft_plugin::{
    Field, FindError, Limits, Plugin, Reading, Refusal, Session, Setting, Shelf, Used, nest,
    readings, resolve, unread,
};
use engraft_quant::{Blank, Recovered, Rounded, Views};
use engraft_source::{Source, View};
use engraft_weights::{Effort, Parameter, Plan, Precision, Provider, Share};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// What to convert, and how.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A HuggingFace directory or a GGUF file.
    pub model: PathBuf,
    /// A plugin's path or name; `None` finds one by the model's architecture.
    pub plugin: Option<String>,
    /// The weights' element type; `None` is the source's own.
    pub dtype: Option<DType>,
    /// The ranks that it is for.
    pub mapping: Mapping,
    /// The axis along which the embedding is spread over the ranks, if it is.
    pub parallel_embedding: Option<u8>,
    /// A PEFT LoRA adapter's directory, which is merged into the weights.
    pub lora: Option<PathBuf>,
    /// How weights are quantised; where nothing is said, as the source has them.
    pub quantise: Option<Quantise>,
}

/// A model, understood and planned; nothing is written yet.
pub struct Pipeline {
    source: Source,
    plugin: Plugin,
    config: Config,
    graph: Graph,
    /// What each rank has of the graph.
    parts: Vec<Part>,
    parameters: Vec<(PlaceKind, Parameter)>,
    /// What is quantised, if anything is.
    quantised: Option<Quantised>,
    left_out: Vec<(String, String)>,
    unread: Vec<String>,
    unused: Vec<(String, String)>,
    idle_renames: Vec<String>,
    cost: Cost,
}

/// What asking a plugin about a model took of its [`Limits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Instructions.
    pub fuel: u64,
    /// Bytes of its memory, at most.
    pub memory: usize,
    /// Of what we count ourselves.
    pub used: Used,
}

impl Pipeline {
    /// Reads headers, finds the plugin, settles the config, plans every weight.
    ///
    /// # Errors
    /// Whatever is wrong with the model, the plugin, or the two together.
    pub fn open(options: &Options) -> Result<Pipeline, ConvertError> {
        let source = match &options.lora {
            Some(adapter) => Source::open_with_lora(&options.model, adapter)?,
            None => Source::open(&options.model)?,
        };
        let plugin = find_plugin(
            options.plugin.as_deref(),
            &source.architectures(),
            &source.path().display().to_string(),
            Plugin::accepts,
        )?;
        Pipeline::of(source, plugin, options)
    }

    /// The same with a plugin that is loaded already.
    ///
    /// # Errors
    /// As [`Pipeline::open`].
    pub fn open_with(
        plugin: &Plugin,
        model: &Path,
        dtype: Option<DType>,
    ) -> Result<Pipeline, ConvertError> {
        let source = Source::open(model)?;
        let plugin = own(plugin.clone(), &source.architectures(), Plugin::accepts)?;
        Pipeline::of(source, plugin, &Options { dtype, ..Options::default() })
    }

    fn of(source: Source, plugin: Plugin, options: &Options) -> Result<Pipeline, ConvertError> {
        let name = display_name(&plugin);
        let dialect = source.dialect();
        if !plugin.identity().dialects.iter().any(|d| d == dialect) {
            let dialects = plugin.identity().dialects.join(", ");
            return Err(ConvertError::Dialect { plugin: name, dialects, dialect: dialect.into() });
        }
        let mut session = plugin.session()?;
        let dtype = options.dtype.unwrap_or_else(|| source.dtype());
        let (mut config, unread) = configure(&mut session, &plugin, &source, dtype)?;
        ranks::set(&mut config, options.mapping, options.parallel_embedding);
        let path = source.config_path().display().to_string();
        let stored = |_: &str, precision: Precision| precision.dtype(dtype);
        let described = describe(&mut session, &name, &config, path, dialect, &stored)?;
        let Described { parameters, left_out, graph } = described;
        let idle_renames = session.idle_renames(source.tensors().keys().map(String::as_str))?;
        let (fuel, memory) = (session.fuel_used(), session.memory_peak());
        let cost = Cost { fuel, memory, used: session.used() };
        let unused = Plan::new(&source, &parameters, dtype, &left_out)?.left_out().to_vec();
        let parts = ranks::parts(&graph, &config)?;
        let keep = model::keep(&parameters);
        let model = quantise::Model { graph: &graph, parts: &parts, keep: &keep };
        let quantised = match &options.quantise {
            None => model.taken_over(&source, &parameters, &mut config)?,
            Some(request) => match &request.algorithm {
                None => None,
                Some(algorithm) => Some(model.quantised(request, algorithm, &mut config)?),
            },
        };
        Ok(Pipeline {
            source,
            plugin,
            config,
            graph,
            parts,
            parameters,
            quantised,
            left_out,
            unread,
            unused,
            idle_renames,
            cost,
        })
    }

    /// What is converted.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// `llama 0.1.0`
    pub fn plugin(&self) -> String {
        display_name(&self.plugin)
    }

    /// Asks the plugin everything again, in fresh sessions and in another order.
    ///
    /// # Errors
    /// Where two answers differ.
    pub fn check_determinism(&self) -> Result<(), ConvertError> {
        let answer = self.plugin.check_determinism(self.source.dialect(), &self.settings()?)?;
        answer.map_err(|refusal| self.refused(refusal))
    }

    /// Compares what the plugin says of the model in each of its dialects.
    ///
    /// # Errors
    /// Where two dialects disagree about a parameter.
    pub fn check_dialects(&self) -> Result<(), ConvertError> {
        let answer = self.plugin.check_dialects(&self.settings()?)?;
        answer.map_err(|refusal| self.refused(refusal))
    }

    /// The dialects that the plugin knows.
    pub fn dialects(&self) -> &[String] {
        &self.plugin.identity().dialects
    }

    /// What the plugin's `open` takes.
    fn settings(&self) -> Result<Vec<Setting>, ConvertError> {
        let own = self.plugin.session()?.fields()?;
        model::settings(&self.config, &own)
    }

    fn refused(&self, refusal: Refusal) -> ConvertError {
        let config = self.source.config_path().display().to_string();
        ConvertError::Refused { refusal, config }
    }

    /// What asking the plugin took.
    pub fn cost(&self) -> Cost {
        self.cost
    }

    /// What the plugin may use up.
    pub fn limits(&self) -> &Limits {
        self.plugin.limits()
    }

    /// Every parameter and what it is made of, in the order of places.
    pub fn origins(&self) -> &[(PlaceKind, Parameter)] {
        &self.parameters
    }

    /// What the fields that the plugin reads of the source's config come to.
    ///
    /// # Errors
    /// As [`Pipeline::open`], which has read them already.
    pub fn readings(&self) -> Result<Vec<Reading>, ConvertError> {
        let declared = self.plugin.session()?.source_fields(self.source.dialect())?;
        let has_tensor = |name: &str| self.source.tensors().contains_key(name);
        Ok(readings(&declared, self.source.config(), &has_tensor)?)
    }

    /// Which of its weights are quantised, and how; nothing where none is.
    pub fn quantised(&self) -> Option<String> {
        Some(self.quantised.as_ref()?.summary(&self.config))
    }

    /// Weights that stay as they are though nothing excludes them, each with the reason.
    pub fn left(&self) -> impl Iterator<Item = (&str, &'static str)> {
        let left = self.quantised.iter().flat_map(|quantised| &quantised.left);
        left.map(|(name, reason)| (name.as_str(), *reason))
    }

    /// What is to be known of how it is quantised, a sentence each.
    pub fn quantisation_notes(&self) -> &[String] {
        self.quantised.as_ref().map_or(&[], |quantised| &quantised.notes)
    }

    /// Whether the model is run over texts before it is written.
    pub fn is_calibrated(&self) -> bool {
        matches!(self.quantised, Some(Quantised { way: Way::Calibration(_), .. }))
    }

    pub(crate) fn quantised_by(&self) -> Option<&Quantised> {
        self.quantised.as_ref()
    }

    /// Does something with the tensors of a checkpoint; those that are calibrated are known by
    /// their names and shapes alone where they are not given.
    fn with_files<T>(
        &self,
        calibrated: Option<&Calibrated>,
        then: impl FnOnce(&dyn Provider) -> Result<T, ConvertError>,
    ) -> Result<T, ConvertError> {
        let plan = self.plan()?;
        let Some(Quantised { stored, way, .. }) = &self.quantised else { return then(&plan) };
        match way {
            Way::Builder | Way::Files => then(&plan),
            Way::Rounding => then(&Rounded::new(&plan, stored, self.config.dtype)?),
            Way::Calibration(_) => match calibrated {
                None => then(&Blank::new(&plan, stored, self.config.dtype)?),
                Some(Calibrated { spill, .. }) => then(&engraft_calibrate::Calibrated::new(
                    &plan,
                    stored,
                    spill,
                    self.config.dtype,
                )?),
            },
            Way::Source => {
                let shown = |view: View| -> Result<Source, ConvertError> {
                    let mut source = Source::open(self.source.path())?;
                    source.show(view);
                    Ok(source)
                };
                let exact =
                    |source| Plan::new(source, &self.parameters, DType::F32, &self.left_out);
                let sources = [shown(View::Scales)?, shown(View::Zeros)?, shown(View::Groups)?];
                let [scales, zeros, groups] = &sources;
                let views = Views {
                    weights: &exact(&self.source)?,
                    scales: &exact(scales)?,
                    zeros: &exact(zeros)?,
                    groups: &exact(groups)?,
                };
                then(&Recovered::new(&plan, views, stored)?)
            }
        }
    }

    /// The tensors of each rank's file in a checkpoint.
    fn file_shares(&self) -> Result<Vec<Vec<Share>>, ConvertError> {
        let shares = ranks::stored(&self.parts);
        match self.quantised.as_ref().and_then(Quantised::in_files) {
            None => Ok(shares),
            Some(stored) => {
                let shares = shares.iter().map(|shares| stored.shares(shares));
                Ok(shares.collect::<Result<_, _>>()?)
            }
        }
    }

    /// How every weight comes out of the source.
    pub(crate) fn plan(&self) -> Result<Plan<'_>, ConvertError> {
        Ok(Plan::new(&self.source, &self.parameters, self.config.dtype, &self.left_out)?)
    }

    /// What it comes from.
    pub(crate) fn provenance(
        &self,
        digest: provenance::Digest,
        calibrated: Option<&Calibrated>,
    ) -> Result<Value, ConvertError> {
        let mut options = json!({ "dtype": self.config.dtype.config_name() });
        if let Some(calibrated) = calibrated {
            options["quantisation"] = calibrated.to_json();
        }
        let (files, start) = (self.source.files(), self.source.data_start());
        let dialect = self.source.dialect();
        provenance::of_source(&self.plugin, dialect, files, start, digest, options)
    }

    /// The checkpoint's config.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The graph as the plugin wrote it, before any pass.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The ranks that it is for.
    pub fn mapping(&self) -> Mapping {
        self.parts.first().map_or(Mapping::default(), |part| part.rank.mapping)
    }

    /// What each rank has of it, in the order of ranks.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Config keys that nobody read and that may matter.
    pub fn unread(&self) -> &[String] {
        &self.unread
    }

    /// Source tensors that are left out, each with the plugin's reason.
    pub fn unused_tensors(&self) -> &[(String, String)] {
        &self.unused
    }

    /// Source tensors that are used and hold nothing but zeros.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn zero_tensors(&self) -> Result<Vec<String>, ConvertError> {
        Ok(self.plan()?.zeros()?)
    }

    /// Renames of a manifest that are about no tensor of this model.
    pub fn idle_renames(&self) -> &[String] {
        &self.idle_renames
    }

    /// How many numbers the model has; tied ones count once.
    pub fn parameters(&self) -> u64 {
        let own = self.graph.weights.values().filter(|w| w.tied.is_none());
        own.map(|w| w.shape().iter().product::<u64>()).sum()
    }

    /// Streams the checkpoint into a directory; what [`Pipeline::calibrate`] gave goes with it.
    /// Returns its rank file's bytes.
    ///
    /// # Errors
    /// Weights that cannot be read, hold NaN or do not fit the type; files that cannot be written.
    pub fn write_checkpoint(
        &self,
        directory: &Path,
        effort: &Effort<'_>,
        calibrated: Option<&Calibrated>,
    ) -> Result<u64, ConvertError> {
        self.with_files(calibrated, |provider| {
            Ok(engraft_checkpoint::write(
                directory,
                &self.config,
                provider,
                &self.file_shares()?,
                self.source.text_files(),
                &self.provenance(provenance::of_content, calibrated)?,
                &effort.of(&provenance::stamps(self.source.files())?),
            )?)
        })
    }

    /// Writes the checkpoint's config.json alone. Returns its bytes.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write_config(&self, directory: &Path) -> Result<u64, ConvertError> {
        let path = directory.join(engraft_checkpoint::CONFIG_FILE);
        let text = self.config.to_text();
        std::fs::write(&path, &text).map_err(FileError::io("write", &path))?;
        Ok(text.len() as u64)
    }

    /// Streams the engine into a directory, with no checkpoint on disk; what
    /// [`Pipeline::calibrate`] gave goes with it.
    ///
    /// # Errors
    /// As [`Pipeline::write_checkpoint`].
    pub fn compile(
        &self,
        build: BuildOptions,
        directory: &Path,
        effort: &Effort<'_>,
        calibrated: Option<&Calibrated>,
    ) -> Result<Built, ConvertError> {
        let digest = provenance::of_content;
        self.as_engine(build, directory, effort, digest, calibrated, |input| {
            Ok(engraft_compile::build(input)?)
        })
    }

    /// What [`Pipeline::compile`] would write.
    ///
    /// # Errors
    /// Whatever can be wrong before the first byte is written.
    pub fn forecast_engine(
        &self,
        build: BuildOptions,
        effort: &Effort<'_>,
    ) -> Result<Forecast, ConvertError> {
        self.as_engine(build, Path::new(""), effort, provenance::blank, None, |input| {
            forecast::engine(input, &model::keep(&self.parameters))
        })
    }

    /// What [`Pipeline::write_checkpoint`] would write.
    ///
    /// # Errors
    /// Whatever can be wrong before the first byte is written.
    pub fn forecast_checkpoint(&self, effort: &Effort<'_>) -> Result<Forecast, ConvertError> {
        let shares = self.file_shares()?;
        self.with_files(None, |provider| {
            let files = engraft_checkpoint::predict(
                &self.config,
                provider,
                &shares,
                self.source.text_files(),
                &self.provenance(provenance::blank, None)?,
            )?;
            forecast::checkpoint(files, provider, &shares, &model::keep(&self.parameters), effort)
        })
    }

    fn as_engine<T>(
        &self,
        build: BuildOptions,
        directory: &Path,
        effort: &Effort<'_>,
        digest: provenance::Digest,
        calibrated: Option<&Calibrated>,
        then: impl FnOnce(Input<'_>) -> Result<T, ConvertError>,
    ) -> Result<T, ConvertError> {
        self.with_files(calibrated, |files| {
            quantise::engine(
                &self.parts,
                self.quantised.as_ref(),
                files,
                &self.config,
                |parts, provider| {
                    then(Input {
                        parts,
                        provider,
                        config: &self.config,
                        build,
                        provenance: &self.provenance(digest, calibrated)?,
                        text_files: self.source.text_files(),
                        directory,
                        effort: effort.of(&provenance::stamps(self.source.files())?),
                    })
                },
            )
        })
    }
}

/// The plugin by name, or by the first architecture that one knows.
pub(crate) fn find_plugin(
    named: Option<&str>,
    architectures: &[String],
    model: &str,
    accepts: fn(&Plugin, &str) -> bool,
) -> Result<Plugin, ConvertError> {
    let shelf = Shelf::standard();
    let limits = Limits::standard().map_err(FindError::from)?;
    let Some(name) = named else {
        let Some(first) = architectures.first() else {
            return Err(ConvertError::NoArchitecture { path: model.into() });
        };
        return Ok(shelf.for_architecture(first, &limits)?);
    };
    own(Plugin::load(&shelf.find(name)?, &limits)?, architectures, accepts)
}

/// The plugin, if the model is its own.
fn own(
    plugin: Plugin,
    architectures: &[String],
    accepts: fn(&Plugin, &str) -> bool,
) -> Result<Plugin, ConvertError> {
    match architectures.first() {
        Some(first) if !accepts(&plugin, first) => Err(ConvertError::NotItsOwn {
            plugin: display_name(&plugin),
            architecture: engraft_diagnostic::escape(first),
            accepts: plugin.identity().accepts.join(", "),
        }),
        _ => Ok(plugin),
    }
}

/// The source's config as a checkpoint's, and the keys that nobody read.
fn configure(
    session: &mut Session,
    plugin: &Plugin,
    source: &Source,
    dtype: DType,
) -> Result<(Config, Vec<String>), ConvertError> {
    let dialect = source.dialect();
    let declared = session.source_fields(dialect)?;
    let has_tensor = |name: &str| source.tensors().contains_key(name);
    let (settings, read) = resolve(&declared, source.config(), &has_tensor)?;
    let unread = unread(source.config(), &read, &source.ignorable_keys());

    let own = session.fields()?;
    let configured = match session.configure(dialect, &settings)? {
        Ok(configured) => configured,
        Err(refusal) => {
            let config = source.config_path().display().to_string();
            return Err(ConvertError::Refused { refusal, config });
        }
    };
    let first = |path: &str| path.split('.').next().unwrap_or(path).to_string();
    let known: Vec<String> =
        base_fields().iter().chain(&own).map(|field| first(&field.path)).collect();
    if let Some(stray) = configured.iter().find(|s| !known.contains(&first(&s.path))) {
        return Err(ConvertError::Undeclared {
            plugin: display_name(plugin),
            field: engraft_diagnostic::escape(&stray.path),
        });
    }
    let mut json = nest(&configured);
    let said = source.architectures().into_iter().next();
    // A manifest's model is, from here on, one of the plugin's that it stands on.
    let known = plugin.manifest().map(|manifest| manifest.architecture().to_owned());
    if let Some(architecture) = known.or(said) {
        json.entry("architecture").or_insert_with(|| architecture.into());
    }
    json.insert("dtype".into(), dtype.config_name().into());
    fill(&mut json, &own)?;
    let config = Config::from_json(&Value::Object(json)).map_err(CheckpointError::from)?;
    Ok((config, unread))
}

/// Gives the plugin's own fields their declared defaults, so that the checkpoint says all.
fn fill(json: &mut Map<String, Value>, own: &[Field]) -> Result<(), ConvertError> {
    let (settings, _) = resolve(own, &Value::Object(json.clone()), &|_| false)?;
    for (key, value) in nest(&settings) {
        json.entry(key).or_insert(value);
    }
    Ok(())
}
