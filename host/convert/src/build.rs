//! From a checkpoint to an engine: the second half of the pipeline, alone.

use crate::model::{self, Described, describe};
use crate::pipeline::find_plugin;
use crate::quantise::{self, Quantised, Way};
use crate::{ConvertError, Forecast, display_name, forecast, provenance, ranks};
use engraft_checkpoint::{CONFIG_FILE, Config, Joined, Reader};
use engraft_compile::{BuildOptions, Built, Input, Part};
use engraft_ir::{DType, Graph, Mapping};
use engraft_plugin::Plugin;
use engraft_quant::{Activations, Grouping, QuantError, Scheme, Stored, stored};
use engraft_weights::{Effort, Precision, Share};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A checkpoint with its plugin and graph; nothing is written yet.
pub struct Checkpoint {
    reader: Reader,
    plugin: Plugin,
    graph: Graph,
    /// The parameters whose precision the plugin holds.
    keep: BTreeSet<String>,
    /// What each rank has of the graph.
    parts: Vec<Part>,
    /// The weights of all ranks, put together.
    weights: Joined,
    /// Which of the weights are quantised, if any is.
    quantised: Option<Quantised>,
    directory: PathBuf,
}

impl Checkpoint {
    /// Opens a checkpoint, whoever wrote it, and asks the plugin of its architecture for the graph.
    ///
    /// # Errors
    /// Whatever is wrong with the checkpoint, the plugin, or the two together.
    pub fn open(directory: &Path, plugin: Option<&str>) -> Result<Checkpoint, ConvertError> {
        let reader = Reader::open(directory)?;
        let config = reader.config();
        let path = directory.join(CONFIG_FILE).display().to_string();
        let architectures = std::slice::from_ref(&config.architecture);
        let plugin = find_plugin(plugin, architectures, &path, Plugin::accepts_checkpoint)?;
        let mut session = plugin.session()?;
        let dialect = plugin.identity().dialects.first().cloned().unwrap_or_default();
        let is_quantised = |name: &str| {
            let found = reader.get(name).map(|supply| supply.dtype);
            name.ends_with(".weight")
                && matches!(found, Some(DType::I8 | DType::U8 | DType::F8E4M3))
        };
        let dtype = |name: &str, precision: Precision| match reader.get(name) {
            Some(supply) if !is_quantised(name) => supply.dtype,
            _ => precision.dtype(config.dtype),
        };
        let described =
            describe(&mut session, &display_name(&plugin), config, path, &dialect, &dtype)?;
        let Described { graph, parameters, .. } = described;
        let expected: Vec<_> =
            graph.weights.values().map(|w| (w.name.clone(), w.shape())).collect();
        let parts = ranks::parts(&graph, reader.config())?;
        let shares = ranks::stored(&parts);
        let keep = model::keep(&parameters);
        let model = quantise::Model { graph: &graph, parts: &parts, keep: &keep };
        let quantised = match quantise::by_builder(config, &model)? {
            Some(_) if expected.iter().any(|(name, _)| is_quantised(name)) => {
                let algorithm = config.quantization.quant_algo.clone().unwrap_or_default();
                return Err(QuantError::Preprocessed { algorithm }.into());
            }
            Some(quantised) => Some(quantised),
            None => in_files(&reader, &expected, &is_quantised)?,
        };
        let weights = match quantised.as_ref().and_then(Quantised::in_files) {
            None => reader.join(&shares, &expected)?,
            Some(stored) => {
                let shares = shares.iter().map(|shares| stored.shares(shares));
                let shares = shares.collect::<Result<Vec<_>, _>>()?;
                let weights = reader.join(&shares, &stored.tensors)?;
                stored.check(&weights)?;
                weights
            }
        };
        let directory = directory.to_owned();
        Ok(Checkpoint { reader, plugin, graph, keep, parts, weights, quantised, directory })
    }

    /// The whole parameters, as they are stored.
    pub fn weights(&self) -> &Joined {
        &self.weights
    }

    /// Which of its weights are quantised, and how; nothing where none is.
    pub fn quantised(&self) -> Option<String> {
        Some(self.quantised.as_ref()?.summary(self.config()))
    }

    /// What is odd about it and harms nobody, a sentence each.
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        self.weights.warnings().iter().map(String::as_str)
    }

    /// The checkpoint's config.
    pub fn config(&self) -> &Config {
        self.reader.config()
    }

    /// The graph as the plugin wrote it, before any pass.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The ranks that it is for.
    pub fn mapping(&self) -> Mapping {
        self.parts.first().map_or(Mapping::default(), |part| part.rank.mapping)
    }

    /// `llama 0.1.0`
    pub fn plugin(&self) -> String {
        display_name(&self.plugin)
    }

    /// Streams the engine into a directory.
    ///
    /// # Errors
    /// Weights that cannot be read or hold NaN; files that cannot be written.
    pub fn build(
        &self,
        build: BuildOptions,
        directory: &Path,
        effort: &Effort<'_>,
    ) -> Result<Built, ConvertError> {
        self.as_engine(build, directory, effort, provenance::of_content, |input| {
            Ok(engraft_compile::build(input)?)
        })
    }

    /// What [`Checkpoint::build`] would write.
    ///
    /// # Errors
    /// Whatever can be wrong before the first byte is written.
    pub fn forecast_engine(
        &self,
        build: BuildOptions,
        effort: &Effort<'_>,
    ) -> Result<Forecast, ConvertError> {
        self.as_engine(build, Path::new(""), effort, provenance::blank, |input| {
            forecast::engine(input, &self.keep)
        })
    }

    fn as_engine<T>(
        &self,
        build: BuildOptions,
        directory: &Path,
        effort: &Effort<'_>,
        digest: provenance::Digest,
        then: impl FnOnce(Input<'_>) -> Result<T, ConvertError>,
    ) -> Result<T, ConvertError> {
        let (config, quantised) = (self.config(), self.quantised.as_ref());
        quantise::engine(&self.parts, quantised, &self.weights, config, |parts, provider| {
            then(Input {
                parts,
                provider,
                config,
                build,
                provenance: &self.provenance(digest)?,
                text_files: self.reader.text_files(),
                directory,
                effort: effort.of(&provenance::stamps(&self.files())?),
            })
        })
    }

    /// Streams the same weights into a checkpoint for other ranks. Returns its rank files' bytes.
    ///
    /// # Errors
    /// As [`Checkpoint::build`], and ranks that the model cannot be spread over.
    pub fn reshard(
        &self,
        mapping: Mapping,
        parallel_embedding: Option<u8>,
        directory: &Path,
        effort: &Effort<'_>,
    ) -> Result<u64, ConvertError> {
        let (config, shares) = self.spread(mapping, parallel_embedding)?;
        Ok(engraft_checkpoint::write(
            directory,
            &config,
            &self.weights,
            &shares,
            self.reader.text_files(),
            &self.provenance(provenance::of_content)?,
            &effort.of(&provenance::stamps(&self.files())?),
        )?)
    }

    /// What [`Checkpoint::reshard`] would write.
    ///
    /// # Errors
    /// Whatever can be wrong before the first byte is written.
    pub fn forecast_reshard(
        &self,
        mapping: Mapping,
        parallel_embedding: Option<u8>,
        effort: &Effort<'_>,
    ) -> Result<Forecast, ConvertError> {
        let (config, shares) = self.spread(mapping, parallel_embedding)?;
        let files = engraft_checkpoint::predict(
            &config,
            &self.weights,
            &shares,
            self.reader.text_files(),
            &self.provenance(provenance::blank)?,
        )?;
        forecast::checkpoint(files, &self.weights, &shares, &self.keep, effort)
    }

    /// The config of a checkpoint for other ranks, and what each of them keeps.
    fn spread(
        &self,
        mapping: Mapping,
        parallel_embedding: Option<u8>,
    ) -> Result<(Config, Vec<Vec<Share>>), ConvertError> {
        let mut config = self.config().clone();
        ranks::set(&mut config, mapping, parallel_embedding);
        let mut shares = ranks::stored(&ranks::parts(&self.graph, &config)?);
        if let Some(stored) = self.quantised.as_ref().and_then(Quantised::in_files) {
            // Codes and scales stay as they are.
            let all = shares.iter().map(|shares| stored.shares(shares));
            shares = all.collect::<Result<_, _>>()?;
        }
        Ok((config, shares))
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files = vec![self.directory.join(CONFIG_FILE)];
        files.extend(self.reader.weight_files().map(Path::to_path_buf));
        files
    }

    /// What the checkpoint says of where it comes from; the plugin that wrote the graph is named
    /// beside it where it is another. A checkpoint that says nothing is itself the source.
    pub(crate) fn provenance(&self, digest: provenance::Digest) -> Result<Value, ConvertError> {
        let Some(known) = self.reader.provenance() else {
            let options = json!({ "dtype": self.config().dtype.config_name() });
            let (files, of) = (self.files(), &self.plugin);
            return provenance::of_source(of, "checkpoint", &files, None, digest, options);
        };
        let mut known = known.clone();
        if !provenance::is_by(&known, &self.plugin)
            && let Some(map) = known.as_object_mut()
        {
            map.insert("graph_plugin".into(), provenance::of_plugin(&self.plugin));
        }
        Ok(known)
    }
}

/// What stands for the weights of a checkpoint whose files have codes; none where they have floats.
fn in_files(
    reader: &Reader,
    weights: &[(String, Vec<u64>)],
    is_quantised: &dyn Fn(&str) -> bool,
) -> Result<Option<Quantised>, ConvertError> {
    let said = &reader.config().quantization;
    let scheme = match said.quant_algo.as_deref() {
        None | Some("NO_QUANT") => return Ok(None),
        Some(name) => Scheme::from_name(name)?,
    };
    let find = |name: &str, suffix: &str| {
        let module = name.strip_suffix(stored::WEIGHT)?;
        reader.get(&format!("{module}{suffix}"))
    };
    // An exporter that has none says that there are some.
    let scales_inputs = weights
        .iter()
        .any(|(name, _)| is_quantised(name) && find(name, stored::INPUT_SCALES).is_some());
    let of = |name: &str, shape: &[u64]| {
        if !is_quantised(name) {
            return None;
        }
        let group_index = find(name, stored::GROUP_INDEX).is_some();
        // A rank's part has whole groups, and all of them where they are no neighbours.
        let inputs = match group_index {
            true => shape.last().copied(),
            false => reader.get(name).and_then(|codes| codes.shape().last().copied()),
        };
        let groups = find(name, stored::SCALES).and_then(|scales| scales.shape().last().copied());
        let grouping = match (scheme.grouping, inputs, groups) {
            (Grouping::Group(_), Some(inputs), Some(groups)) if groups > 0 => {
                Grouping::Group((inputs / groups).max(1))
            }
            (grouping, ..) => grouping,
        };
        let zeros = said.has_zero_point || find(name, stored::ZEROS).is_some();
        // Where no scale is stored, each token has its own.
        let is_static = find(name, stored::ACTIVATION_SCALE).is_some();
        let activations = scheme.activations.map(|a| Activations { is_static, ..a });
        let input_scales = scales_inputs && shape.len() == 2;
        Some(Scheme { grouping, zeros, group_index, input_scales, activations, ..scheme })
    };
    let stored = Stored::new(weights, &of)?;
    for (weight, coded) in stored.weights() {
        let inputs = coded.shape.last().copied().unwrap_or_default();
        if let Grouping::Group(found) = coded.scheme.grouping
            && found != said.group_size
            && found != inputs
        {
            let (weight, said) = (weight.to_owned(), said.group_size);
            return Err(QuantError::GroupSize { weight, found, said }.into());
        }
    }
    Ok(Some(Quantised { stored, way: Way::Files, left: Vec::new(), notes: Vec::new() }))
}
