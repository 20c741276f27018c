//! docs/contract.md explains the whole contract: every interface, type, field, case and function of
//! the WIT package stands in it. And what it promises: an old component keeps working.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use engraft_compile::BuildOptions;
use engraft_convert::{Effort, Options, Pipeline};
use engraft_engine::Engine;
use engraft_files::OutputDir;
use engraft_runtime::{LoadOptions, evaluate};
use engraft_tests::{Golden, fixtures, golden, llama, load};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use wit_parser::{Resolve, Type, TypeDefKind, TypeId};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Every name that the package gives to something.
fn names() -> BTreeSet<String> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(root().join("wit/v0.1")).unwrap();
    let mut names = BTreeSet::new();
    for (name, world) in &resolve.packages[package].worlds {
        names.insert(name.clone());
        assert!(!resolve.worlds[*world].exports.is_empty());
    }
    for (name, interface) in &resolve.packages[package].interfaces {
        names.insert(name.clone());
        let interface = &resolve.interfaces[*interface];
        for (name, ty) in &interface.types {
            names.insert(name.clone());
            names.extend(parts(&resolve, *ty));
        }
        for function in interface.functions.values() {
            if !function.name.starts_with('[') {
                names.insert(function.name.clone());
                continue;
            }
            // `[method]builder.linear`, `[static]model.open`, `[constructor]rotary`
            let own = function.name.split_once(']').unwrap().1;
            names.insert(own.rsplit('.').next().unwrap().to_owned());
        }
    }
    names
}

/// Names of a type's fields or cases.
fn parts(resolve: &Resolve, ty: TypeId) -> Vec<String> {
    match &resolve.types[ty].kind {
        TypeDefKind::Record(record) => record.fields.iter().map(|f| f.name.clone()).collect(),
        TypeDefKind::Variant(variant) => variant.cases.iter().map(|c| c.name.clone()).collect(),
        TypeDefKind::Enum(all) => all.cases.iter().map(|c| c.name.clone()).collect(),
        TypeDefKind::Type(Type::Id(other)) => parts(resolve, *other),
        _ => Vec::new(),
    }
}

#[test]
fn every_item_of_the_contract_is_explained() {
    let text = fs::read_to_string(root().join("docs/contract.md")).unwrap();
    let explained: BTreeSet<&str> = text.split('`').skip(1).step_by(2).collect();
    let words = |name: &String| {
        // `constructor(head-width, …)` is one piece between backquotes.
        explained.contains(name.as_str())
            || explained.iter().any(|piece| piece.starts_with(&format!("{name}(")))
    };
    let names = names();
    assert!(names.len() > 100, "{names:?}");
    let missing: Vec<_> = names.iter().filter(|name| !words(name)).collect();
    assert!(missing.is_empty(), "docs/contract.md does not name {missing:?}");
}

/// All logits of a golden's prompts, by one plugin.
fn logits(golden: &Golden, plugin: &Path) -> Vec<Vec<f32>> {
    let plugin = Some(plugin.to_string_lossy().into_owned());
    let options = Options { model: golden.path.clone(), plugin, ..Options::default() };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("engine");
    let dir = OutputDir::create(&out, false).unwrap();
    let pipeline = Pipeline::open(&options).unwrap();
    pipeline.compile(BuildOptions::default(), dir.path(), &Effort::default(), None).unwrap();
    dir.commit().unwrap();
    let engine = Arc::new(Engine::open(&out).unwrap());
    evaluate::logits(&mut load(&engine, &LoadOptions::default()), &golden.prompts).unwrap()
}

#[test]
fn a_component_from_before_the_last_functions_gives_the_bits_of_todays() {
    let old = fixtures().join("plugins/llama-0.1.0.wasm");
    for name in ["llama-gqa", "llama-tied", "llama-rope3", "llama-yarn", "smollm3"] {
        let golden = golden(fixtures().join("golden").join(name));
        assert!(logits(&golden, &old) == logits(&golden, &llama()), "{name}: not the same bits");
    }
}
