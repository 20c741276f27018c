//! Goldens in the forms that JAX's libraries write: the engines are those of the safetensors files.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod tree;
mod write;

use engraft_compile::BuildOptions;
use engraft_convert::{Effort, Options, Pipeline};
use engraft_source::Source;
use engraft_tests::{fixtures, plugins};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tree::Tree;

fn golden(name: &str) -> PathBuf {
    fixtures().join("golden").join(name)
}

/// A directory with a golden's config and nothing else.
fn with_config(golden: &Path) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::copy(golden.join("config.json"), directory.path().join("config.json")).unwrap();
    directory
}

/// A model's pipeline with one plugin; of the others none need be looked at.
fn pipeline(model: &Path, plugin: &str) -> Pipeline {
    let plugin = plugins().join(format!("{plugin}.wasm")).to_string_lossy().into_owned();
    let options =
        Options { model: model.to_path_buf(), plugin: Some(plugin), ..Options::default() };
    Pipeline::open(&options).unwrap_or_else(|e| panic!("{}: {e}", model.display()))
}

/// The parts of an engine that are the model: its weights' digests, its graph, its config.
fn engine_of(model: &Path, plugin: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("engine");
    fs::create_dir(&out).unwrap();
    let pipeline = pipeline(model, plugin);
    assert!(pipeline.unread().is_empty(), "{:?}", pipeline.unread());
    pipeline.compile(BuildOptions::default(), &out, &Effort::default(), None).unwrap();
    let bytes = fs::read(out.join("rank0.engine")).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let metadata = &header["__metadata__"];
    let facts = ["engraft.graph", "engraft.config", "engraft.digests"];
    let facts = facts.map(|key| metadata[key].as_str().unwrap_or_else(|| panic!("{key}")));
    facts.join("\n")
}

/// What a golden's own directory gives.
struct Known {
    golden: PathBuf,
    plugin: &'static str,
    engine: String,
}

impl Known {
    fn of((name, plugin): (&str, &'static str)) -> Known {
        let golden = golden(name);
        let engine = engine_of(&golden, plugin);
        Known { golden, plugin, engine }
    }

    fn is_that_of(&self, model: &Path, form: &str) {
        let found = engine_of(model, self.plugin);
        assert!(found == self.engine, "{form} of {}: another engine", self.golden.display());
    }
}

/// With the plugins for them.
const GOLDENS: [(&str, &str); 4] =
    [("llama-gqa", "llama"), ("gpt2", "gpt2"), ("gemma", "gemma"), ("gptj", "gptj")];

#[test]
fn flax_files_give_the_engines_of_safetensors() {
    for of in GOLDENS {
        let known = Known::of(of);
        let golden = known.golden.clone();
        let tree = Tree::flax(&golden);
        let single = with_config(&golden);
        fs::write(single.path().join("flax_model.msgpack"), write::msgpack(&tree, 1 << 30))
            .unwrap();
        known.is_that_of(single.path(), "flax");
        // Large arrays are in pieces; here those of more than 1000 bytes.
        fs::write(single.path().join("flax_model.msgpack"), write::msgpack(&tree, 1000)).unwrap();
        known.is_that_of(single.path(), "flax in pieces");
        let sharded = with_config(&golden);
        write::shards(&tree, sharded.path());
        known.is_that_of(sharded.path(), "flax in shards");
    }
}

#[test]
fn orbax_checkpoints_give_the_engines_of_safetensors() {
    for of in GOLDENS {
        let known = Known::of(of);
        let golden = known.golden.clone();
        let tree = Tree::flax(&golden).below("params");
        for form in [write::Form::Plain, write::Form::Chunks, write::Form::Packed] {
            let directory = with_config(&golden);
            write::zarr(&tree, directory.path(), form);
            known.is_that_of(directory.path(), "zarr");
            let database = with_config(&golden);
            write::ocdbt(&tree, database.path(), form);
            known.is_that_of(database.path(), "ocdbt");
        }
        let aggregate = with_config(&golden);
        fs::write(aggregate.path().join("checkpoint"), write::msgpack(&tree, 1 << 30)).unwrap();
        known.is_that_of(aggregate.path(), "aggregate");
    }
}

#[test]
fn gemma_as_deepmind_publishes_it_gives_the_engines_of_safetensors() {
    for of in [("gemma", "gemma"), ("gemma2", "gemma2"), ("gemma3", "gemma2")] {
        let known = Known::of(of);
        let golden = known.golden.clone();
        let tree = Tree::deepmind(&golden);
        let database = with_config(&golden);
        write::ocdbt(&tree, database.path(), write::Form::Packed);
        assert_eq!(Source::open(database.path()).unwrap().dialect(), "jax");
        known.is_that_of(database.path(), "deepmind's");
        let nested = with_config(&golden);
        write::zarr(&tree.nested(), nested.path(), write::Form::Plain);
        known.is_that_of(nested.path(), "deepmind's, nested");
    }
}
