//! From a checkpoint to an engine: the second half of the pipeline, alone.

use crate::model::{Described, describe};
use crate::pipeline::find_plugin;
use crate::{ConvertError, display_name, provenance, ranks};
use engraft_checkpoint::{CONFIG_FILE, Config, Joined, Reader};
use engraft_compile::{BuildOptions, Built, Part};
use engraft_ir::{Graph, Mapping};
use engraft_plugin::Plugin;
use engraft_weights::{Effort, Precision, Provider};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A checkpoint with its plugin and graph; nothing is written yet.
pub struct Checkpoint {
    reader: Reader,
    plugin: Plugin,
    graph: Graph,
    /// What each rank has of the graph.
    parts: Vec<Part>,
    /// The weights of several ranks, put together.
    joined: Option<Joined>,
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
        let expected: Vec<_> =
            graph.weights.values().map(|w| (w.name.clone(), w.shape())).collect();
        let parts = ranks::parts(&graph, reader.config())?;
        let joined = match parts.len() {
            1 => reader.expect(&expected).map(|()| None)?,
            _ => Some(reader.join(&ranks::stored(&parts), &expected)?),
        };
        let directory = directory.to_owned();
        Ok(Checkpoint { reader, plugin, graph, parts, joined, directory })
    }

    /// The whole parameters.
    fn provider(&self) -> &dyn Provider {
        match &self.joined {
            Some(joined) => joined,
            None => &self.reader,
        }
    }

    /// What is odd about it and harms nobody, a sentence each.
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        let joined = self.joined.iter().flat_map(Joined::warnings);
        self.reader.warnings().iter().chain(joined).map(String::as_str)
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
        effort: &Effort<'_>,
    ) -> Result<Built, ConvertError> {
        Ok(engraft_compile::build(engraft_compile::Input {
            parts: self.parts.clone(),
            provider: self.provider(),
            config: self.reader.config(),
            build,
            provenance: &self.provenance()?,
            text_files: self.reader.text_files(),
            directory,
            effort: effort.of(&provenance::stamps(&self.files())?),
        })?)
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
        let mut config = self.config().clone();
        ranks::set(&mut config, mapping, parallel_embedding);
        Ok(engraft_checkpoint::write(
            directory,
            &config,
            self.provider(),
            &ranks::stored(&ranks::parts(&self.graph, &config)?),
            self.reader.text_files(),
            &self.provenance()?,
            &effort.of(&provenance::stamps(&self.files())?),
        )?)
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files = vec![self.directory.join(CONFIG_FILE)];
        files.extend(self.reader.weight_files().map(Path::to_path_buf));
        files
    }

    /// What the checkpoint says of where it comes from; the plugin that wrote the graph is named
    /// beside it where it is another. A checkpoint that says nothing is itself the source.
    fn provenance(&self) -> Result<Value, ConvertError> {
        let Some(known) = self.reader.provenance() else {
            let options = json!({ "dtype": self.config().dtype.config_name() });
            let files = self.files();
            return provenance::of_source(&self.plugin, "checkpoint", &files, None, options);
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
