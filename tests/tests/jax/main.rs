//! Goldens in the forms that JAX's libraries write: the engines are those of the safetensors files.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod tree;
mod write;

use engraft_ir::DType;
use engraft_source::Source;
use engraft_tests::{compile, engine, fixtures, load, logits, pipeline};
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

/// The parts of an engine that are the model: its tensors, and its graph.
fn engine_of(model: &Path) -> (Vec<u8>, String) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("engine");
    compile(model, None, &out);
    let bytes = fs::read(out.join("rank0.engine")).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let metadata = &header["__metadata__"];
    let facts = ["engraft.graph", "engraft.config", "engraft.digests"];
    let facts = facts.map(|key| metadata[key].to_string()).join("\n");
    assert!(facts.len() > 1000, "{facts}");
    (bytes[(8 + length).next_multiple_of(4096)..].to_vec(), facts)
}

fn same_engine(model: &Path, golden: &Path, form: &str) {
    let (found, expected) = (engine_of(model), engine_of(golden));
    assert!(found.1 == expected.1, "{form} of {}: another graph", golden.display());
    assert!(found.0 == expected.0, "{form} of {}: other weights", golden.display());
}

const GOLDENS: [&str; 5] = ["llama-gqa", "llama-bias", "gpt2", "gemma", "gptj"];

#[test]
fn flax_files_give_the_engines_of_safetensors() {
    for name in GOLDENS {
        let golden = golden(name);
        let tree = Tree::flax(&golden);
        let single = with_config(&golden);
        fs::write(single.path().join("flax_model.msgpack"), write::msgpack(&tree, 1 << 30))
            .unwrap();
        same_engine(single.path(), &golden, "flax");
        // Large arrays are in pieces; here those of more than 1000 bytes.
        fs::write(single.path().join("flax_model.msgpack"), write::msgpack(&tree, 1000)).unwrap();
        same_engine(single.path(), &golden, "flax in pieces");
        let sharded = with_config(&golden);
        write::shards(&tree, sharded.path());
        same_engine(sharded.path(), &golden, "flax in shards");
    }
}

#[test]
fn orbax_checkpoints_give_the_engines_of_safetensors() {
    for name in GOLDENS {
        let golden = golden(name);
        let tree = Tree::flax(&golden).below("params");
        for form in [write::Form::Plain, write::Form::Chunks, write::Form::Packed] {
            let directory = with_config(&golden);
            write::zarr(&tree, directory.path(), form);
            same_engine(directory.path(), &golden, "zarr");
            let database = with_config(&golden);
            write::ocdbt(&tree, database.path(), form);
            same_engine(database.path(), &golden, "ocdbt");
        }
        let aggregate = with_config(&golden);
        fs::write(aggregate.path().join("checkpoint"), write::msgpack(&tree, 1 << 30)).unwrap();
        same_engine(aggregate.path(), &golden, "aggregate");
    }
}

#[test]
fn gemma_as_deepmind_publishes_it_gives_the_engines_of_safetensors() {
    for name in ["gemma", "gemma2", "gemma3"] {
        let golden = golden(name);
        let tree = Tree::deepmind(&golden);
        let database = with_config(&golden);
        write::ocdbt(&tree, database.path(), write::Form::Packed);
        assert_eq!(Source::open(database.path()).unwrap().dialect(), "jax");
        same_engine(database.path(), &golden, "deepmind's");
        let nested = with_config(&golden);
        write::zarr(&tree.nested(), nested.path(), write::Form::Plain);
        same_engine(nested.path(), &golden, "deepmind's, nested");
    }
}

#[test]
fn nothing_of_a_config_or_tree_is_left_unread() {
    let golden = golden("gemma");
    let database = with_config(&golden);
    write::ocdbt(&Tree::deepmind(&golden), database.path(), write::Form::Plain);
    assert!(pipeline(database.path(), None).unread().is_empty());
    let mut found = load(&engine(database.path(), Some(DType::F32)), &Default::default());
    let mut known = load(&engine(&golden, Some(DType::F32)), &Default::default());
    assert!(logits(&mut found, &[2, 7, 9]) == logits(&mut known, &[2, 7, 9]));
}
