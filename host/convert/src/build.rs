//! From a checkpoint to an engine: the second half of the pipeline, alone.

use crate::model::{Described, describe};
use crate::pipeline::find_plugin;
use crate::{ConvertError, display_name, provenance};
use engraft_checkpoint::{CONFIG_FILE, CheckpointError, Config, Joined, Reader};
use engraft_compile::partition::Options;
use engraft_compile::{BuildOptions, Built, partition};
use engraft_ir::Graph;
use engraft_plugin::Plugin;
use engraft_weights::{Precision, Provider};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A checkpoint with its plugin and graph; nothing is written yet.
pub struct Checkpoint {
    reader: Reader,
    weights: Joined,
    plugin: Plugin,
    graph: Graph,
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
        let dtype = |name: &str, precision: Precision| {
            reader.get(name).map_or(precision.dtype(config.dtype), |supply| supply.dtype)
        };
        let described =
            describe(&mut session, &display_name(&plugin), config, path, &dialect, &dtype)?;
        let Described { graph, .. } = described;
        let weights = join(&reader, &graph)?;
        Ok(Checkpoint { reader, weights, plugin, graph, directory: directory.to_owned() })
    }

    /// Its parameters, whole, of however many ranks it is.
    pub fn weights(&self) -> &Joined {
        &self.weights
    }

    /// The checkpoint's config.
    pub fn config(&self) -> &Config {
        self.reader.config()
    }

    /// The graph as the plugin wrote it, before any pass.
    pub fn graph(&self) -> &Graph {
        &self.graph
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
        progress: &dyn Fn(u64, u64),
    ) -> Result<Built, ConvertError> {
        Ok(engraft_compile::build(engraft_compile::Input {
            graph: self.graph.clone(),
            provider: &self.weights,
            config: self.reader.config(),
            build,
            provenance: &self.provenance()?,
            text_files: self.reader.text_files(),
            directory,
            progress,
        })?)
    }

    /// What the checkpoint says of where it comes from; the plugin that wrote the graph is named
    /// beside it where it is another. A checkpoint that says nothing is itself the source, and is
    /// read whole.
    fn provenance(&self) -> Result<Value, ConvertError> {
        let Some(known) = self.reader.provenance() else {
            let mut files = vec![self.directory.join(CONFIG_FILE)];
            files.extend(self.reader.weight_files().map(Path::to_owned));
            let options = json!({ "dtype": self.config().dtype.config_name() });
            return provenance::of_source(&self.plugin, "checkpoint", &files, options);
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

/// Puts the parameters of all ranks together, as the partition of the graph says who has what.
fn join(reader: &Reader, graph: &Graph) -> Result<Joined, ConvertError> {
    let config = reader.config();
    let mapping = config.mapping.ir().map_err(CheckpointError::from)?;
    let parallel_embedding = match config.embedding_sharding_dim {
        0 => Some(0),
        _ => Some(1),
    };
    let options = Options {
        parallel_embedding: parallel_embedding.filter(|_| config.use_parallel_embedding),
    };
    let parts = mapping.ranks().map(|rank| Ok(partition(graph, rank, &options)?.stored));
    let shares = parts.collect::<Result<Vec<_>, ConvertError>>()?;
    let wholes: Vec<_> = graph.weights.values().map(|w| (w.name.clone(), w.shape())).collect();
    Ok(reader.join(&shares, &wholes)?)
}
