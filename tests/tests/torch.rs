//! The goldens in the forms that PyTorch's users have them: `tests/tools/write_torch.py` makes them,
//! `cargo xtask test` runs it.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use engraft_engine::Engine;
use engraft_ir::DType;
use engraft_runtime::{LoadOptions, evaluate};
use engraft_tests::{Golden, copied, engine, fixtures, golden, load, pipeline, prepared};
use std::path::PathBuf;

/// Every model of some forms, with its golden.
fn models(forms: &[&str]) -> Vec<(String, PathBuf, Golden)> {
    let folder = prepared("ENGRAFT_GOLDEN_TORCH");
    let mut found: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name()?.to_str()?.to_owned();
            let (of, form) = name.split_once('.')?;
            let golden = || golden(fixtures().join("golden").join(of));
            forms.contains(&form).then(|| (name.clone(), path, golden()))
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(!found.is_empty(), "{forms:?}");
    found
}

/// Whether two engines have the same graph and the same bytes of every weight.
fn same(one: &Engine, other: &Engine) -> bool {
    let weight = |w| one.weight(w) == other.weight(w);
    one.graph_text() == other.graph_text() && one.graph().weights.keys().all(weight)
}

#[test]
fn files_that_pytorch_saved_give_the_engines_of_safetensors() {
    let mut last = None;
    for (name, path, golden) in models(&["zip", "old", "shards"]) {
        // All forms of a golden come one after the other.
        let (_, wanted) = match last.take() {
            Some((of, wanted)) if of == golden.path => last.insert((of, wanted)),
            _ => last.insert((golden.path.clone(), engine(&golden.path, None))),
        };
        assert!(same(&engine(&path, None), wanted), "{name}");
    }
}

#[test]
fn weights_of_a_training_run_are_put_together() {
    for (name, path, golden) in models(&["zero2", "zero3"]) {
        let dtype = Some(DType::F32);
        assert!(same(&engine(&path, dtype), &engine(&golden.path, dtype)), "{name}");
    }
}

/// What a form does not say of a model is no part of its graph.
fn agree(forms: &[&str]) {
    for (name, path, golden) in models(forms) {
        let (ours, theirs) = (engine(&path, None), engine(&golden.path, None));
        assert!(same(&ours, &theirs), "{name}");
        let logits = |engine| {
            let mut model = load(engine, &LoadOptions::default());
            evaluate::logits(&mut model, &golden.prompts).unwrap()
        };
        assert!(logits(&ours) == logits(&theirs), "{name}: not the same bits");
        let pipeline = pipeline(&path, None);
        assert!(pipeline.unread().is_empty(), "{name}: {:?}", pipeline.unread());
    }
}

#[test]
fn what_meta_publishes_gives_the_engines_of_safetensors_in_one_file_and_in_two() {
    agree(&["meta1", "meta2", "meta2rows"]);
}

#[test]
fn what_nemo_writes_gives_the_engines_of_safetensors_unpacked_and_not() {
    agree(&["nemo", "nemoold", "nemo.tar", "nemoold.tar"]);
}

#[test]
fn a_model_that_wants_to_run_code_is_refused_by_its_name() {
    let (_, path, _) = models(&["zip"]).remove(0);
    let folder = copied(&path);
    let file = folder.path().join("pytorch_model.bin");
    let mut bytes = std::fs::read(&file).unwrap();
    let (plain, wild) =
        (b"ctorch._utils\n_rebuild_tensor_v2\n", b"cbuiltins\n__import__________v2\n");
    let at = bytes.windows(plain.len()).position(|window| window == plain).unwrap();
    let wild = [wild.as_slice(), &vec![b'N'; plain.len() - wild.len()]].concat();
    bytes[at..at + plain.len()].copy_from_slice(&wild);
    std::fs::write(&file, bytes).unwrap();
    let error = engraft_source::Source::open(folder.path()).map(drop).unwrap_err().to_string();
    assert!(error.contains("names `builtins.__import__________v2`"), "{error}");
}
