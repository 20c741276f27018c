//! One of the two that are compared.

use crate::commands::verify;
use crate::error::Usage;
use anyhow::Result;
use engraft_checkpoint::{Config, Joined, Reader};
use engraft_engine::{Engine, format::ENGINE_FILE};
use engraft_files::FileError;
use engraft_ir::{Mapping, Weight};
use engraft_weights::{Provider, Supply, WeightError};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Bytes of an engine's tensor that are handed out at a time.
const PIECE: usize = 2 << 20;

/// A checkpoint or an engine.
pub(super) enum Side {
    Checkpoint(Box<Reader>),
    Engine {
        /// Of each rank.
        ranks: Vec<Engine>,
        /// Whether it is one rank's file, looked at by itself.
        alone: bool,
    },
}

/// How a model is spread over ranks.
#[derive(Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) mapping: Mapping,
    /// Which axis of the embedding is cut.
    embedding: Option<u64>,
}

impl Side {
    pub(super) fn open(path: &Path) -> Result<Side> {
        if path.is_dir() && !path.join(ENGINE_FILE).exists() {
            return Ok(Side::Checkpoint(Box::new(Reader::open(path)?)));
        }
        let files = verify::engines(path)?;
        let ranks = files.iter().map(|file| Engine::open(file)).collect::<Result<_, _>>()?;
        Ok(Side::Engine { ranks, alone: !path.is_dir() })
    }

    /// `checkpoint`
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Side::Checkpoint(_) => "checkpoint",
            Side::Engine { .. } => "engine",
        }
    }

    pub(super) fn ranks(&self) -> usize {
        match self {
            Side::Checkpoint(reader) => reader.weight_files().count(),
            Side::Engine { ranks, .. } => ranks.len(),
        }
    }

    /// The model's config, with what is left out filled in; of an engine also how it was built.
    pub(super) fn config(&self) -> Result<Value> {
        match self {
            Side::Checkpoint(reader) => Ok(reader.config().to_json()),
            Side::Engine { ranks, .. } => {
                let Some(engine) = ranks.first() else { return Ok(Value::Null) };
                let mut config = typed(engine)?.to_json();
                config["build_config"] = json!(engine.config().build_config);
                Ok(config)
            }
        }
    }

    pub(super) fn spread(&self) -> Result<Spread> {
        let typed = match self {
            Side::Checkpoint(reader) => reader.config().clone(),
            Side::Engine { ranks, alone } => match ranks.first() {
                Some(engine) if !alone => typed(engine)?,
                _ => return Ok(Spread { mapping: Mapping::default(), embedding: None }),
            },
        };
        let mapping = typed.mapping.ir().map_err(engraft_checkpoint::CheckpointError::from)?;
        let shared = typed.use_parallel_embedding && mapping.is_split();
        Ok(Spread { mapping, embedding: shared.then_some(typed.embedding_sharding_dim) })
    }

    /// The graph's text of each rank; nothing of a checkpoint, which has none.
    pub(super) fn graphs(&self) -> Vec<&str> {
        match self {
            Side::Checkpoint(_) => Vec::new(),
            Side::Engine { ranks, .. } => ranks.iter().map(Engine::graph_text).collect(),
        }
    }

    /// The tensors of one rank.
    pub(super) fn provider(&self, rank: usize) -> Result<Box<dyn Provider + '_>> {
        let found: Option<Box<dyn Provider + '_>> = match self {
            Side::Checkpoint(reader) => reader.rank(rank).map(|tensors| Box::new(tensors) as _),
            Side::Engine { ranks, .. } => {
                ranks.get(rank).map(|engine| Box::new(Weights::new(engine)) as _)
            }
        };
        found.ok_or_else(|| {
            Usage::new(format!("there is no rank {rank}")).help("give two of as many ranks").into()
        })
    }

    /// The tokenizer's files and their like.
    pub(super) fn text_files(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        match self {
            Side::Checkpoint(reader) => Ok(reader.text_files().clone()),
            Side::Engine { ranks, .. } => {
                let mut files = BTreeMap::new();
                for name in ranks.first().into_iter().flat_map(Engine::text_files) {
                    if let Some(bytes) = ranks[0].text_file(name)? {
                        files.insert(name.to_owned(), bytes);
                    }
                }
                Ok(files)
            }
        }
    }
}

fn typed(engine: &Engine) -> Result<Config> {
    let config = Config::from_json(&engine.config().pretrained_config);
    Ok(config.map_err(engraft_checkpoint::CheckpointError::from)?)
}

/// The weights of one rank's engine; a tied one is there as well.
struct Weights<'a> {
    engine: &'a Engine,
    names: Vec<String>,
    supplies: BTreeMap<String, (Weight, Supply)>,
}

impl Weights<'_> {
    fn new(engine: &Engine) -> Weights<'_> {
        let weights = &engine.graph().weights;
        let names = weights.values().map(|weight| weight.name.clone()).collect();
        let supplies = weights
            .iter()
            .map(|(weight, data)| {
                let tied = data.tied.map(|to| weights[to].name.clone());
                let supply = Supply { dtype: data.dtype, axes: data.axes.clone(), tied };
                (data.name.clone(), (weight, supply))
            })
            .collect();
        Weights { engine, names, supplies }
    }
}

impl Provider for Weights<'_> {
    fn names(&self) -> &[String] {
        &self.names
    }

    fn get(&self, name: &str) -> Option<&Supply> {
        self.supplies.get(name).map(|(_, supply)| supply)
    }

    fn stream(
        &self,
        name: &str,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), FileError>,
    ) -> Result<(), WeightError> {
        let unknown = || WeightError::Unknown { parameter: name.to_owned() };
        let (weight, _) = self.supplies.get(name).ok_or_else(unknown)?;
        for piece in self.engine.weight(*weight).chunks(PIECE) {
            engraft_files::interrupt::check()?;
            sink(piece)?;
        }
        Ok(())
    }
}

/// The parameters of a checkpoint whose ranks are put together.
pub(super) struct Borrowed<'a>(pub(super) &'a Joined);

impl Provider for Borrowed<'_> {
    fn names(&self) -> &[String] {
        self.0.names()
    }

    fn get(&self, name: &str) -> Option<&Supply> {
        self.0.get(name)
    }

    fn stream(
        &self,
        name: &str,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), FileError>,
    ) -> Result<(), WeightError> {
        self.0.stream(name, sink)
    }
}
